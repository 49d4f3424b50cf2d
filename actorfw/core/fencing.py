"""Which incarnation of each actor a host may have: never an older one than it has heard of.

Responsible for the verdict on a guardian's orders. Leaves to others: the actors themselves, and what is answered.
"""

from __future__ import annotations

from itertools import islice
from typing import Final, Literal

from actorfw.values.ids import RefId

__all__ = ["REMEMBERED", "Fence"]

REMEMBERED: Final = 100_000
"""Actors that a host remembers after their end; a guardian that was forgotten by so many later ones is long gone."""


class Fence:
    """The highest incarnation of each actor that one host has heard of."""

    __slots__ = ("_highest", "_limit")

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._highest: dict[RefId, int] = {}  # the longest unheard first; half the size of an OrderedDict
        self._limit = limit

    def highest(self, id: RefId) -> int:
        """0: none."""
        return self._highest.get(id, 0)

    def create(self, id: RefId, incarnation: int) -> Literal["make", "repeat", "refuse"]:
        """A guardian wants this one made: "repeat" if it was ordered before, "refuse" if a later one was."""
        highest = self._highest.get(id, 0)
        if incarnation > highest:
            return "make"
        return "repeat" if incarnation == highest else "refuse"

    def heard(self, id: RefId, incarnation: int) -> bool:
        """Note an order for this one; False if it is void, since a later one is known."""
        highest = self._highest.get(id, 0)
        if incarnation < highest:
            return False
        self._highest.pop(id, None)
        self._highest[id] = incarnation
        if len(self._highest) > self._limit:
            # Several at once: the first of a dict is found by passing all that was taken out in front of it.
            for old in list(islice(self._highest, max(1, self._limit // 16))):
                del self._highest[old]
        return True
