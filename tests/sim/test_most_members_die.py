"""Nearly all members of a large cluster die at once: those that are left find each other, and clear the others away."""

from __future__ import annotations

import pytest

from actorfw.testing.memberworld import World
from actorfw.values.profiles import LAN, WAN, Profile


@pytest.mark.parametrize(
    ("profile", "members", "left", "limit"),
    [(LAN, 40, 2, 180.0), (LAN, 100, 3, 180.0), (LAN, 200, 4, 180.0), (WAN, 40, 2, 1200.0)],
    ids=["40", "100", "200", "wan"],
)
def test_the_survivors_agree_on_who_is_left(profile: Profile, members: int, left: int, limit: float) -> None:
    for seed in range(3):
        world = World(members, profile, seed)
        world.run(2.0)
        lives = list(world.members)
        survivors = set(lives[:left])
        for life in lives[left:]:
            world.kill(life)
        views = [world.members[life].machine.view for life in lives[:left]]

        def agreed(views: list[dict[bytes, object]] = views, survivors: set[bytes] = survivors) -> bool:  # type: ignore[assignment]
            return all(view.keys() == survivors for view in views)

        done = world.run(limit, agreed)
        assert done, f"seed {seed}: after {limit:g} s they know {[len(view) for view in views]} members"
        print(f"measured: {left} of {members} left, seed {seed}: agreed after {world.now - 2:.1f} s")
