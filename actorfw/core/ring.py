"""Whom a member keeps links to: all others while they are few, else its neighbours on a handful of hash rings.

Responsible for: the neighbours as a function of the view, and which of the other links is closed first.
Leaves to others: opening and closing them.

Up to `MESH` members each has a link to each. Above, every member has a place on each of `RINGS` rings, by hash, and is
linked to who comes before and after it on each: about ten links, whatever the size of the cluster. Two members agree on
whether they are neighbours when their views do. The union of several rings is close to a random graph of that degree,
so news cross it in a number of steps that grows with the logarithm of the members; one ring with ten neighbours would
take a hundred steps for a thousand members.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from hashlib import blake2b
from struct import Struct
from typing import Final

from actorfw.values.ids import Life

__all__ = ["MESH", "RECENT", "RINGS", "Recent", "neighbours"]

MESH: Final = 32
"""Up to so many members, each is everybody's neighbour: 31 links cost less than the detours."""

RINGS: Final = 5
"""Two neighbours on each. Ten witnesses of a broken link are plenty for a verdict that needs three, and ten probes go
to each member in as many intervals."""

RECENT: Final = 64
"""Links to members that are no neighbours, for calls: as many at most, those used longest ago are closed first."""

_PLACES: Final = Struct(f"<{RINGS}Q")


@lru_cache(maxsize=16_384)
def _places(life: Life) -> tuple[int, ...]:
    return _PLACES.unpack(blake2b(life, digest_size=_PLACES.size).digest())


def neighbours(me: Life, lives: Collection[Life]) -> set[Life]:
    """Whom `me` is linked to when these are the members (with or without `me`)."""
    if len(lives) <= MESH:
        return {life for life in lives if life != me}
    near: set[Life] = set()
    others = [(_places(life), life) for life in lives if life != me]
    for ring, mine in enumerate(_places(me)):
        after = min(others, key=lambda other: ((other[0][ring] - mine) % (1 << 64), other[1]))
        before = min(others, key=lambda other: ((mine - other[0][ring]) % (1 << 64), other[1]))
        near.update((after[1], before[1]))
    return near


class Recent:
    """Members that are no neighbours and that this node has links to, in the order in which they were last used."""

    def __init__(self, limit: int = RECENT) -> None:
        self.limit = limit
        self._used: dict[Life, None] = {}

    def __contains__(self, life: Life) -> bool:
        return life in self._used

    def __len__(self) -> int:
        return len(self._used)

    def used(self, life: Life) -> None:
        """There was traffic on this link."""
        self._used.pop(life, None)
        self._used[life] = None

    def forget(self, life: Life) -> None:
        """It is closed, or a neighbour's."""
        self._used.pop(life, None)

    def surplus(self, busy: Iterable[Life] = ()) -> list[Life]:
        """Those to close so that the limit holds, the one used longest ago first; none that is busy."""
        excess = len(self._used) - self.limit
        if excess <= 0:
            return []
        spared = set(busy)
        return [life for life in self._used if life not in spared][:excess]
