"""A host takes no older order than it has heard."""

from __future__ import annotations

from actorfw.core.fencing import Fence

ID = (b"guardian", 1)


def test_only_later_incarnations_are_made() -> None:
    fence = Fence()
    assert fence.create(ID, 2) == "make"
    assert fence.create(ID, 2) == "make"  # there was no room, so it was not noted
    assert fence.heard(ID, 2)
    assert fence.create(ID, 2) == "repeat"
    assert fence.create(ID, 1) == "refuse"
    assert fence.create(ID, 3) == "make"
    assert not fence.heard(ID, 1)
    assert fence.highest(ID) == 2


def test_the_oldest_are_forgotten() -> None:
    fence = Fence(limit=2)
    for number in range(3):
        fence.heard((b"guardian", number), 5)
    fence.heard((b"guardian", 1), 6)
    fence.heard((b"guardian", 3), 1)
    assert [fence.highest((b"guardian", number)) for number in range(4)] == [0, 6, 0, 1]
