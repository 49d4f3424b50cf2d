"""Readings: what is told piece by piece to somebody who reads it as it comes, in this process or in a worker.

The node keeps a `Reader` for each; whoever reads asks for what comes next and says how much it has, so that nothing is
lost when a wait is cancelled. A reader that falls behind its bound loses its oldest pieces, and the reading side can
tell how many from their numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from actorfw.runtime.refs import Reply

if TYPE_CHECKING:
    from actorfw.runtime.node import Node

__all__ = ["Piece", "Reader", "Readings"]

AT_ONCE: Final = 256  # pieces in one answer

Piece: TypeAlias = tuple[int, list[Any], bool]
"""What an answer has: the number of its first piece, the pieces, and whether that was all."""


class Reader:
    """The node's end of one reading.

    Args:
        bound: how many pieces wait at most; the oldest are dropped then. 0: no bound.
        dropped: called once, when nobody reads any more.
    """

    __slots__ = ("_base", "_bound", "_dropped", "_end", "_queue", "_waiting")

    def __init__(self, bound: int, dropped: Callable[[], object]) -> None:
        self._bound = bound
        self._dropped = dropped
        self._queue: deque[Any] = deque()
        self._base = 0  # the number of the first in the queue
        self._waiting: tuple[Reply[Piece], int] | None = None
        self._end: Exception | bool = False  # True, or the error, when nothing more comes

    def put(self, piece: Any) -> None:
        """Something to tell."""
        if self._end:
            return
        if self._bound and len(self._queue) >= self._bound:
            self._queue.popleft()
            self._base += 1
        self._queue.append(piece)
        self._hand_out()

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes, after what is in the queue: an error, or just the end."""
        if not self._end:
            self._end = error or True
            self._hand_out()

    def take(self, reply: Reply[Piece], seen: int) -> None:
        """Settle the reply with what comes after the first `seen` pieces, as soon as there is something."""
        if self._waiting is not None and not self._waiting[0].done():
            reply._fail(RuntimeError("somebody reads this already: it is for one reader at a time"))
            return
        while self._queue and self._base < seen:
            self._queue.popleft()
            self._base += 1
        self._waiting = (reply, seen)
        self._hand_out()

    def close(self) -> None:
        """Nobody reads any more."""
        self.end()
        self._queue.clear()
        self._dropped()

    def _hand_out(self) -> None:
        if self._waiting is None:
            return
        reply, seen = self._waiting
        if self._queue:
            self._waiting = None
            given = [self._queue[i] for i in range(min(len(self._queue), AT_ONCE))]
            reply._settle((self._base, given, False))
        elif self._end:
            self._waiting = None
            if isinstance(self._end, Exception):
                reply._fail(self._end)
            else:
                reply._settle((seen, [], True))


class Readings:
    """The readings of one node, by number."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._open: dict[int, Reader] = {}

    def enter(self, reader: Reader) -> int:
        """A new one."""
        number = self.node.next_number()
        self._open[number] = reader
        return number

    def take(self, reply: Reply[Piece], number: int, seen: int) -> None:
        """What comes next in a reading."""
        reader = self._open.get(number)
        if reader is None:
            reply._settle((seen, [], True))
        else:
            reader.take(reply, seen)

    def drop(self, number: int) -> bool:
        """Nobody reads it any more; False if it is none."""
        reader = self._open.pop(number, None)
        if reader is None:
            return False
        reader.close()
        return True

    def close(self) -> None:
        for number in list(self._open):
            self.drop(number)
