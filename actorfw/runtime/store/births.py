"""When objects were made and read, to about a second, without a word about it on the way of any call.

Refs are numbered in the order in which they are made. So it is enough to look once a second how far the numbers are.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from actorfw.values.ids import WORKER_SHIFT

if TYPE_CHECKING:
    from actorfw.io.env import TimerHandle
    from actorfw.runtime.node import Node

__all__ = ["Births"]

_SECONDS: Final = 1.0
_MOST: Final = 4096  # marks kept of one sequence; the older they are, the fewer
_SEQUENCES: Final = 256  # the node's own, and those of as many workers


class _Marks:
    """How far one sequence of numbers had come, and when."""

    __slots__ = ("numbers", "times")

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.times: list[float] = []

    def add(self, number: int, now: float) -> None:
        if self.numbers and self.numbers[-1] >= number:
            return
        self.numbers.append(number)
        self.times.append(now)
        if len(self.numbers) > _MOST:
            half = _MOST // 2
            del self.numbers[:half:2], self.times[:half:2]

    def of(self, number: int) -> float | None:
        """The first time at which the sequence had come so far."""
        at = bisect_right(self.numbers, number - 1)
        return self.times[at] if at < len(self.times) else None

    def until(self, when: float) -> int:
        """The last number that was given by then; -1 if there is none."""
        at = bisect_right(self.times, when)
        return self.numbers[at - 1] if at else -1


class Births:
    """When the numbers of one node, and those of its workers, were given."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.latest: dict[int, int] = {}  # of each worker's sequence, the last number that the node has heard of
        self._marks: dict[int, _Marks] = {}
        self._timer: TimerHandle | None = None

    def start(self) -> None:
        self._mark()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def born(self, number: int) -> None:
        """A worker has made an object of this number."""
        self.latest[number >> WORKER_SHIFT] = number

    def look(self) -> None:
        """Note how far the numbers are now: before one asks `of` them."""
        self._look(self.node.env.wall_time())

    def until(self, when: float) -> dict[int, int]:
        """The last number of each sequence that was given by then."""
        return {sequence: marks.until(when) for sequence, marks in self._marks.items()}

    def of(self, number: int) -> float | None:
        """When the object of this number was made, in seconds since 1970; None of one that this node has not made."""
        marks = self._marks.get(number >> WORKER_SHIFT)
        return marks.of(number) if marks is not None else None

    def _mark(self) -> None:
        now = self.node.env.wall_time()
        self._look(now)
        if self.node.store.arena is not None:
            self.node.store.arena.now = now
        self._timer = self.node.env.call_later(_SECONDS, self._mark)

    def _look(self, now: float) -> None:
        if self.latest:
            for sequence, number in self.latest.items():
                self._of(sequence).add(number, now)
            self.latest.clear()
        following = repr(self.node.numbers)  # "count(7)": the only way to see it without taking it
        self._of(0).add(int(following[len("count(") : -1]) - 1, now)

    def _of(self, sequence: int) -> _Marks:
        marks = self._marks.get(sequence)
        if marks is None:
            if len(self._marks) >= _SEQUENCES:
                del self._marks[next(one for one in self._marks if one)]
            marks = self._marks[sequence] = _Marks()
        return marks
