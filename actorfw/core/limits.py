"""Limits: how much of a thing there may be, how much there is and was, and how often it would have been too much.

Responsible for: the figures behind each limit, and the one place where all limits of a node are read. Leaves to others:
what the limits are (each stands where its thing is made) and what happens beyond (there, too).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Bucket", "Limit", "Limits", "Row"]

Row: TypeAlias = "dict[str, int | None]"
"""{"limit", "now", "most", "refused"}. `limit` is None where each thing has its own; `now` and `most` are where nothing
is counted that is within the limit."""


class Limit:
    """One limit and its figures.

    Args:
        limit: how much there may be; None where that differs from one thing to the next.
        reading: tells how much there is, for things that others count already; `most` is then the most that was read.
        measured: whether what is within the limit is counted at all; if not, only refusals are.

    Attributes:
        now: how much there is.
        most: how much there was at most.
        refused: how often something was refused, dropped or kept waiting because of this limit.
    """

    __slots__ = ("_measured", "_reading", "limit", "most", "now", "refused")

    def __init__(self, limit: int | None, *, reading: Callable[[], int] | None = None, measured: bool = True) -> None:
        self.limit = limit
        self.now = 0
        self.most = 0
        self.refused = 0
        self._reading = reading
        self._measured = measured

    def __repr__(self) -> str:
        return f"<Limit {self.now} of {self.limit}, {self.most} at most, {self.refused} refused>"

    @property
    def full(self) -> bool:
        """Whether one more would be too much."""
        return self.limit is not None and self.now >= self.limit

    def set(self, now: int) -> None:
        """So much there is now."""
        self.now = now
        if now > self.most:
            self.most = now

    def row(self) -> Row:
        """The figures, for `status`."""
        if not self._measured:
            return {"limit": self.limit, "now": None, "most": None, "refused": self.refused}
        if self._reading is not None:
            self.set(self._reading())
        return {"limit": self.limit, "now": self.now, "most": self.most, "refused": self.refused}


class Bucket:
    """So many a second, and a burst after quiet times.

    Args:
        rate: how many a second in the long run.
        burst: how many at once, after a while without any.

    Attributes:
        limit: its figures: `limit` is the rate, `now` what the last burst has taken and time has not brought back.
    """

    __slots__ = ("_at", "_level", "burst", "limit", "rate")

    def __init__(self, rate: float, burst: int) -> None:
        self.rate = rate
        self.burst = burst
        self.limit = Limit(int(rate), reading=self._taken)
        self._level = float(burst)
        self._at: float | None = None

    def take(self, now: float, much: float = 1.0) -> bool:
        """Take one, if there is one. What is refused is counted by whoever has to do without."""
        self._fill(now)
        if self._level < min(much, self.burst):
            return False
        self._level -= much
        taken = self.burst - int(self._level)
        if taken > self.limit.most:
            self.limit.most = taken
        return True

    def give_back(self, much: float = 1.0) -> None:
        """What was taken was not needed."""
        self._level = min(float(self.burst), self._level + much)

    def wait(self, now: float, much: float = 1.0) -> float:
        """Seconds until there is one."""
        self._fill(now)
        return max(0.0, (min(much, self.burst) - self._level) / self.rate)

    def _fill(self, now: float) -> None:
        if self._at is not None and now > self._at:
            self._level = min(float(self.burst), self._level + (now - self._at) * self.rate)
        self._at = now

    def _taken(self) -> int:
        return self.burst - int(self._level)


class Limits:
    """All limits of a node by name, for `status`."""

    def __init__(self) -> None:
        self._known: dict[str, Limit] = {}

    def __getitem__(self, name: str) -> Limit:
        return self._known[name]

    def add(self, name: str, limit: Limit) -> Limit:
        """Have it shown."""
        self._known[name] = limit
        return limit

    def rows(self) -> dict[str, Row]:
        """The figures of each, by name."""
        return {name: limit.row() for name, limit in sorted(self._known.items())}
