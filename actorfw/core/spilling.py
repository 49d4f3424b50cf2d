"""Which objects go to disk, and when: least recently used first, as much as is needed, and who waits for the room.

Responsible for: the order in which sealed blocks were used, where each is (in memory, on its way, on disk), choosing
those to write so that the store comes below its low-water mark or somebody who waits gets room, and the queue of those
who wait. Leaves to `runtime.store.spilling`: memory, files, threads, and whether a block is in use, which it is asked.

Rules:

1. Above `high` of the limit, the least recently used that nobody has in use are written until `low` would be reached.
   What is being written counts as gone already, so that nothing is chosen twice.
2. Who needs room gets it in the order of asking: a large one would starve behind small ones that always fit. What is
   chosen for it is at least as much as is missing; if that was no help, since what became free lies in pieces, more.
3. What could not be written stays in memory, and is not chosen again before `TRY_AGAIN` has passed: a disk that is full
   or read-only would otherwise be tried without end.
4. A block that is used while it is being written stays, whether its file is complete or not; the file is kept as long
   as the block lives, so that it need not be written again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

__all__ = ["AWAY", "COMING", "GOING", "HERE", "HIGH_WATER", "LOW_WATER", "TRY_AGAIN", "Spilling"]

HIGH_WATER: Final = 0.8
LOW_WATER: Final = 0.7
TRY_AGAIN: Final = 5.0
"""Seconds until an object that could not be written is tried again."""

HERE: Final = "here"  # in memory
GOING: Final = "going"  # in memory, and being written
AWAY: Final = "away"  # on disk only
COMING: Final = "coming"  # on disk, and being read into memory


class Spilling:
    """The order and places of the sealed blocks of one store, and those who wait for room.

    Args:
        limit: bytes that the store may use.
        high: the part of it above which blocks are written.
        low: the part of it that is aimed at then.
    """

    def __init__(self, limit: int, high: float = HIGH_WATER, low: float = LOW_WATER) -> None:
        self.limit = limit
        self._high = int(limit * high)
        self._low = int(limit * low)
        self._here: OrderedDict[int, int] = OrderedDict()  # bytes by number, least recently used first
        self._going: dict[int, int] = {}
        self._away: dict[int, int] = {}
        self._coming: dict[int, int] = {}
        self._stuck: dict[int, float] = {}  # could not be written; when to try again
        self._waiting: OrderedDict[int, int] = OrderedDict()
        self.going = 0  # bytes that are being written
        self.away = 0  # bytes that are on disk only

    # -- what happens to blocks ----------------------------------------------------------------------------------------

    def entered(self, number: int, nbytes: int) -> None:
        """A block is complete, and nobody changes it any more."""
        self._here[number] = nbytes

    def used(self, number: int) -> None:
        """Somebody looks at it, or is given it."""
        if number in self._here:
            self._here.move_to_end(number)

    def left(self, number: int) -> None:
        """Nobody holds it any more."""
        self._stuck.pop(number, None)
        if self._here.pop(number, None) is None:
            if number in self._going:
                self.going -= self._going.pop(number)
            elif number in self._away:
                self.away -= self._away.pop(number)
            else:
                nbytes = self._coming.pop(number, 0)
                self.away -= nbytes

    def place(self, number: int) -> str | None:
        """Where a block is; None if it is not known."""
        if number in self._here:
            return HERE
        if number in self._going:
            return GOING
        if number in self._away:
            return AWAY
        return COMING if number in self._coming else None

    def written(self, number: int, *, unused: bool) -> bool:
        """Its file is complete; `unused`: nobody has begun to use it meanwhile. Returns whether its memory is free."""
        nbytes = self._going.pop(number, None)
        if nbytes is None:
            return False  # nobody holds it any more
        self.going -= nbytes
        if not unused:
            self._here[number] = nbytes
            return False
        self._away[number] = nbytes
        self.away += nbytes
        return True

    def unwritten(self, number: int, now: float) -> None:
        """It could not be written."""
        nbytes = self._going.pop(number, None)
        if nbytes is not None:
            self.going -= nbytes
            self._here[number] = nbytes
            self._here.move_to_end(number, last=False)
            self._stuck[number] = now + TRY_AGAIN

    def comes(self, number: int) -> bool:
        """It is being read into memory from now on; False if it is not only on disk."""
        nbytes = self._away.pop(number, None)
        if nbytes is None:
            return False
        self._coming[number] = nbytes
        return True

    def came(self, number: int) -> None:
        """It is in memory again."""
        nbytes = self._coming.pop(number, None)
        if nbytes is not None:
            self.away -= nbytes
            self._here[number] = nbytes

    def stays(self, number: int) -> None:
        """It could not be read into memory for want of room: it is on disk as before."""
        nbytes = self._coming.pop(number, None)
        if nbytes is not None:
            self._away[number] = nbytes

    # -- who waits -----------------------------------------------------------------------------------------------------

    def wait(self, key: int, nbytes: int) -> None:
        """Somebody needs room; `key`: nobody else's."""
        self._waiting[key] = nbytes

    def waits_no_more(self, key: int) -> None:
        """It has it, or gave up."""
        self._waiting.pop(key, None)

    @property
    def first(self) -> tuple[int, int] | None:
        """Whose turn it is, and how much that one needs."""
        return next(iter(self._waiting.items()), None)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    # -- choosing ------------------------------------------------------------------------------------------------------

    def choose(self, used: int, now: float, idle: Callable[[int], bool], *, missing: int = 0) -> list[int]:
        """Which blocks to write now: they are `GOING` from here on.

        Args:
            used: bytes of the store in use.
            now: on a clock that never goes back.
            idle: whether a block can be done without: asked of candidates in their order, no more than needed.
            missing: bytes to make free in any case, beside what is on its way already.
        """
        stays = used - self.going
        goal = max(missing, stays - self._low if stays > self._high else 0)
        if not missing and self._waiting:
            # What the first needs; those behind it get theirs when it has what it wants.
            goal = max(goal, next(iter(self._waiting.values())) - (self.limit - stays))
        if goal <= 0:
            return []
        chosen: list[int] = []
        for number, nbytes in self._here.items():
            again = self._stuck.get(number)
            if (again is not None and again > now) or not idle(number):
                continue
            chosen.append(number)
            goal -= nbytes
            if goal <= 0:
                break
        for number in chosen:
            nbytes = self._going[number] = self._here.pop(number)
            self.going += nbytes
            self._stuck.pop(number, None)
        return chosen

    def biggest(self, count: int) -> list[tuple[int, int]]:
        """(number, bytes) of the largest that are in memory, for an error that says who has it."""
        there: Iterable[tuple[int, int]] = (*self._here.items(), *self._going.items())
        return sorted(there, key=lambda row: -row[1])[:count]

    def validate(self) -> None:
        """Check that what is counted agrees; for tests.

        Raises:
            AssertionError: it does not.
        """
        places = [set(part) for part in (self._here, self._going, self._away, self._coming)]
        assert len(set().union(*places)) == sum(map(len, places)), "a block is in two places"
        assert self.going == sum(self._going.values())
        assert self.away == sum(self._away.values()) + sum(self._coming.values())
        assert set(self._stuck) <= places[0]
