"""How many bytes of large messages may be on their way to a peer: enough to keep the path busy, and no queue.

Responsible for: the size of that window, from the time that each piece takes until it is acknowledged. Leaves to
others: the pieces. Sans-IO.

Rules (those of LEDBAT, RFC 6817, with other numbers):

1. What a piece takes at least, on a quiet path, is the path's own time. What it takes beyond that, it has waited behind
   others, and a small message that is sent now waits as long.
2. While pieces wait less than `TARGET`, or a quarter of the path's own time, the window grows: twofold with each round
   at first, later by a piece.
3. Else it shrinks, by half with each round at most.

So the window is about what the path holds: `LEAST` on one host or in one room, more to the other end of a country,
where a fixed window would leave the path idle most of the time.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["LEAST", "MOST", "TARGET", "Pace"]

FIRST: Final = 1024 * 1024
LEAST: Final = FIRST
"""Four pieces, which are acknowledged by twos: two are on their way while the others are being acknowledged."""
MOST: Final = 4 * 1024 * 1024
"""Half of what a session keeps unacknowledged, so that it is never closed to small messages by large ones alone."""
TARGET: Final = 0.001
"""Seconds that a piece, and so a small message, may wait behind others."""

_REMEMBERED: Final = 10.0  # seconds after which the path may have become another one


class Pace:
    """The window of one direction of one session.

    Attributes:
        size: bytes that may be on their way.
        under_way: bytes that are.
    """

    __slots__ = ("_base", "_base_since", "_before", "_sent", "_starting", "size", "under_way")

    def __init__(self) -> None:
        self.size = FIRST
        self.under_way = 0
        self._sent: deque[tuple[float, int]] = deque()
        self._base = self._before = float("inf")  # the least in this period, and in the one before
        self._base_since = 0.0
        self._starting = True

    def sent(self, size: int, now: float) -> None:
        """A piece leaves."""
        self.under_way += size
        self._sent.append((now, size))

    def acked(self, size: int, now: float) -> None:
        """The other side has taken so many bytes of the oldest pieces."""
        full = self.under_way + size > self.size
        since = now
        left = size
        while left > 0 and self._sent:
            since, piece = self._sent.popleft()
            self.under_way -= piece
            left -= piece
        took = now - since
        if now - self._base_since > _REMEMBERED:
            self._before, self._base, self._base_since = self._base, took, now
        self._base = min(self._base, took)
        least = min(self._base, self._before)
        waited = took - least
        target = max(TARGET, least / 4)
        if waited > target:
            self._starting = False
            self.size = max(LEAST, self.size - int(size * min(0.5, (waited - target) / (2 * target))))
        elif full:
            self.size = min(MOST, self.size + (size if self._starting else size * size // self.size))
