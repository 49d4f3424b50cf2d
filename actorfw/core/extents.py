"""`Extents`: which parts of an arena are taken, which are free, and which of the free ones are warm.

Warm is what has pages: the first touch of fresh shared memory costs many times the copy itself, so what was used before
is given out first. Adjacent free space is one *run*, whatever its temperature; within it, adjacent warm space is one
*piece*. An allocation takes the best fitting warm piece, else the best fitting run, warm or not.

Knows numbers only: whose they are, and the memory behind them, are the affair of `runtime.store`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import pairwise
from typing import Final

__all__ = ["GRAIN", "Extents", "rounded"]

GRAIN: Final = 4096
"""Offsets and sizes are multiples of this: a page, the least that can be given back to the system."""

_FINE: Final = 3  # classes per doubling, as a power of two


class Extents:
    """The space of one arena: `size` bytes from 0, all of it free and cold.

    Attributes:
        size: of all, a multiple of `GRAIN`.
        used: bytes that are taken.
        warm: bytes of free space that have pages.
    """

    __slots__ = ("_pieces", "_runs", "_taken", "size", "used", "warm")

    def __init__(self, size: int) -> None:
        self.size = size - size % GRAIN
        self.used = 0
        self.warm = 0
        self._taken: dict[int, int] = {}
        self._runs = _Spans()
        self._pieces = _Spans()
        if self.size:
            self._runs.add(0, self.size)

    def take(self, nbytes: int) -> int:
        """The offset of an extent of at least `nbytes`; -1 if there is no free run as long."""
        size = rounded(nbytes)
        start = self._pieces.best(size)
        if start < 0:
            start = self._runs.best(size)
            if start < 0:
                return -1
        self._take(start, size)
        return start

    def take_at(self, start: int, size: int) -> None:
        """Take exactly this; all of it must be free."""
        self._take(start, size)

    def _take(self, start: int, size: int) -> None:
        self._runs.cut(start, size)
        for at, length in self._pieces.within(start, size):
            low, high = max(at, start), min(at + length, start + size)
            self._pieces.cut(low, high - low)
            self.warm -= high - low
        self._taken[start] = size
        self.used += size

    def free(self, start: int, *, warm: bool = True) -> int:
        """Give an extent back; returns its size.

        Args:
            start: its offset.
            warm: whether it has its pages still.

        Raises:
            KeyError: no extent begins there.
        """
        size = self._taken.pop(start)
        self.used -= size
        self._runs.add(start, size)
        if warm:
            self._pieces.add(start, size)
            self.warm += size
        return size

    def size_at(self, start: int) -> int:
        """The size of the extent that begins there."""
        return self._taken[start]

    def populated(self, start: int, size: int) -> None:
        """This range has its pages now: what of it is free is warm."""
        for at, length in self._runs.within(start, size):
            low, high = max(at, start), min(at + length, start + size)
            for piece, piece_length in self._pieces.within(low, high - low):
                if low < piece:
                    self._heat(low, piece - low)
                low = piece + piece_length
            if low < high:
                self._heat(low, high - low)

    def _heat(self, start: int, size: int) -> None:
        self._pieces.add(start, size)
        self.warm += size

    def next_cold(self, nbytes: int) -> tuple[int, int]:
        """The cold space that would be taken next, at most `nbytes` of it: (start, size), size 0 if there is none.

        That is in the longest run, behind its first warm piece, so that the two become one.
        """
        start, size = self._runs.longest()
        end = start + size
        for piece, length in self._pieces.within(start, size):
            if piece > start:
                end = piece
                break
            start = piece + length
        return start, max(0, min(nbytes, end - start))

    def take_warm(self, nbytes: int) -> tuple[int, int] | None:
        """Take a warm piece of at most `nbytes`, the longest there is, from its end: to give its pages back."""
        start, size = self._pieces.longest()
        if not size:
            return None
        part = min(size, max(GRAIN, nbytes - nbytes % GRAIN))
        start += size - part
        self._take(start, part)
        return start, part

    def is_free(self, start: int, size: int) -> bool:
        """Whether nothing of this range is taken."""
        return any(at <= start and start + size <= at + length for at, length in self._runs.within(start, size))

    def free_runs(self) -> list[tuple[int, int]]:
        """All free runs as (start, size), by offset."""
        return self._runs.all()

    @property
    def longest(self) -> int:
        """The size of the longest free run."""
        return self._runs.longest()[1]

    def validate(self) -> None:
        """Check that all that is known agrees.

        Raises:
            AssertionError: it does not.
        """
        self._runs.validate()
        self._pieces.validate()
        spans = sorted([*self._runs.all(), *self._taken.items()])
        at = 0
        for start, size in spans:
            assert start == at, f"between {at} and {start}: neither free nor taken, or both"
            assert size > 0
            assert size % GRAIN == 0
            at = start + size
        assert at == self.size
        runs = self._runs.all()
        for (start, size), (follower, _) in pairwise(runs):
            assert start + size < follower, "two free runs touch"
        assert self.used == sum(self._taken.values())
        pieces = self._pieces.all()
        assert self.warm == sum(size for _, size in pieces)
        for start, size in pieces:
            assert any(low <= start and start + size <= low + length for low, length in runs), "warm, but not free"
        for (start, size), (follower, _) in pairwise(pieces):
            assert start + size < follower, "two warm pieces touch"


def rounded(nbytes: int) -> int:
    """The size of an extent for so many bytes."""
    return nbytes + -nbytes % GRAIN or GRAIN


class _Spans:
    """Disjoint spans of a line, joined where they touch; found by place and by size.

    By size they lie in classes, eight to a doubling, each sorted; a bit mask says which have any. By place they are in
    one sorted list. Finding takes O(log n) comparisons; a change moves as many words as the list has behind it.
    """

    __slots__ = ("_classes", "_ends", "_mask", "_sizes", "_starts")

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}  # by start
        self._ends: dict[int, int] = {}  # start, by end
        self._starts: list[int] = []
        self._classes: dict[int, list[tuple[int, int]]] = {}
        self._mask = 0

    def add(self, start: int, size: int) -> None:
        """A new span, which touches at most one at each side."""
        end = start + size
        before = self._ends.get(start)
        if before is not None:
            size += self._sizes[before]
            self._remove(before)
            start = before
        behind = self._sizes.get(end)
        if behind is not None:
            self._remove(end)
            size += behind
        self._enter(start, size)

    def cut(self, start: int, size: int) -> None:
        """Take this out of the span that it lies in."""
        at = self._starts[bisect_left(self._starts, start + 1) - 1]
        end = at + self._sizes[at]
        self._remove(at)
        if at < start:
            self._enter(at, start - at)
        if start + size < end:
            self._enter(start + size, end - start - size)

    def best(self, size: int) -> int:
        """The start of the smallest span of at least this size, the first of several; -1 if there is none."""
        number = _class_of(size)
        found = self._classes.get(number)
        if found:
            at = bisect_left(found, (size, -1))
            if at < len(found):
                return found[at][1]
        larger = self._mask >> (number + 1)
        if not larger:
            return -1
        return self._classes[number + (larger & -larger).bit_length()][0][1]

    def longest(self) -> tuple[int, int]:
        """The longest span, as (start, size); (0, 0) if there is none."""
        if not self._mask:
            return 0, 0
        size, start = self._classes[self._mask.bit_length() - 1][-1]
        return start, size

    def within(self, start: int, size: int) -> list[tuple[int, int]]:
        """The spans that share something with this range, by place."""
        starts = self._starts
        at = bisect_left(starts, start + 1) - 1
        if at < 0 or starts[at] + self._sizes[starts[at]] <= start:
            at += 1
        stop = bisect_left(starts, start + size)
        return [(one, self._sizes[one]) for one in starts[at:stop]]

    def all(self) -> list[tuple[int, int]]:
        return [(start, self._sizes[start]) for start in self._starts]

    def _enter(self, start: int, size: int) -> None:
        self._sizes[start] = size
        self._ends[start + size] = start
        insort(self._starts, start)
        number = _class_of(size)
        self._mask |= 1 << number
        insort(self._classes.setdefault(number, []), (size, start))

    def _remove(self, start: int) -> None:
        size = self._sizes.pop(start)
        del self._ends[start + size]
        del self._starts[bisect_left(self._starts, start)]
        number = _class_of(size)
        found = self._classes[number]
        del found[bisect_left(found, (size, start))]
        if not found:
            self._mask &= ~(1 << number)

    def validate(self) -> None:
        assert self._starts == sorted(self._sizes)
        assert self._ends == {start + size: start for start, size in self._sizes.items()}
        assert sorted((start, size) for found in self._classes.values() for size, start in found) == self.all()
        for number, found in self._classes.items():
            assert found == sorted(found)
            assert all(_class_of(size) == number for size, _ in found)
            assert bool(found) == bool(self._mask >> number & 1)


def _class_of(size: int) -> int:
    """Sizes of a higher class are larger, all of them."""
    units = size // GRAIN
    bits = units.bit_length()
    if bits <= _FINE:
        return units
    return (bits - _FINE << _FINE) + (units >> (bits - _FINE - 1))
