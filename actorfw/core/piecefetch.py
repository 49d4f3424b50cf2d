"""`PieceFetch`: which piece of a file is asked of whom, until all of it is here or nobody is left to ask.

Several nodes may have the file; one of them is asked at a time, for a few pieces ahead. When it has not got it, or is
gone, the next goes on where the one before had come to. Leaves to others: asking, writing the pieces down, and whether
the whole is what was wanted; if it is not, whoever had sent some of it is not asked again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from typing import Final, Generic, TypeVar

from actorfw.values.errors import ProtocolError

__all__ = ["AHEAD", "PIECE", "PieceFetch"]

S = TypeVar("S", bound=Hashable)

PIECE: Final = 256 * 1024 - 64
"""Bytes of a piece: with its envelope it fits in one frame."""

AHEAD: Final = 4
"""Pieces that are asked for at a time: about what a path of this kind holds (`core.pace`)."""


class PieceFetch(Generic[S]):
    """The way of one file to this node.

    Args:
        sources: who may have it, the likeliest first.
        limit: bytes that it may have.
    """

    def __init__(self, sources: Iterable[S], limit: int) -> None:
        self._sources = deque(dict.fromkeys(sources))
        self._limit = limit
        self._total: int | None = None
        self._missing: deque[int] = deque((0,))  # where pieces begin that are not here and were not asked for
        self._asked: set[int] = set()
        self._senders: set[S] = set()
        self._here = 0
        self.why: list[str] = []  # one sentence for each source that was of no use

    @property
    def source(self) -> S | None:
        """Who is asked now; None: nobody is left."""
        return self._sources[0] if self._sources else None

    @property
    def complete(self) -> bool:
        """Whether all of it came."""
        return self._total is not None and self._here == self._total

    def asks(self) -> list[int]:
        """Where the pieces begin that are to be asked of `source` now."""
        found: list[int] = []
        while self._missing and len(self._asked) < AHEAD and self._sources:
            at = self._missing.popleft()
            self._asked.add(at)
            found.append(at)
        return found

    def came(self, source: S, at: int, total: int, length: int) -> bool:
        """A piece came; whether it is to be kept. One that is asked of somebody else by now is not.

        Raises:
            ProtocolError: it can't be a piece of this file; `failed` has to follow.
        """
        if source != self.source or at not in self._asked:
            return False
        if not 0 < total <= self._limit:
            raise ProtocolError(f"it has {total} bytes, and {self._limit} is the limit here")
        if self._total is None:
            self._total = total
            self._missing.extend(range(PIECE, total, PIECE))
        if total != self._total or length != min(PIECE, total - at):
            raise ProtocolError(f"it has {total} bytes and a piece of {length} there, and another node says otherwise")
        self._asked.discard(at)
        self._senders.add(source)
        self._here += length
        return True

    def failed(self, source: S, why: str) -> None:
        """A source has not got it, or is gone: the next one is asked for what was asked of it."""
        if source != self.source:
            return
        self._sources.popleft()
        self.why.append(why)
        self._missing.extendleft(sorted(self._asked, reverse=True))
        self._asked.clear()

    def false(self, why: str) -> None:
        """What came is not what was wanted: begin again, without those who sent it."""
        self.why.append(why)
        self._sources = deque(source for source in self._sources if source not in self._senders)
        self._senders.clear()
        self._asked.clear()
        self._missing = deque((0,))
        self._total = None
        self._here = 0
