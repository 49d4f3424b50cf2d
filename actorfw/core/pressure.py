"""Memory pressure: whether a worker has to be stopped before the kernel picks a process of its own choice, and which.

Responsible for the judgement only: readings come from outside, and so does what each worker has and runs.

Rules:

1. Nothing is stopped below the threshold, and one at a time: the next not before the last is gone and `SETTLE` has
   passed, since the kernel takes a moment to give its memory back. The less memory there is, in bytes, the more often
   it is looked at, and the sooner something is done: in a small container what is left is full in a moment.
2. Tasks come before actors, which have a state to lose. Among tasks those that can run again come first, and among
   these the newest: it has the least to do again, and the oldest ends some time, so that the work goes on. Among actors
   those that can restart come first, and the newest of them.
3. A task that has little of what tasks have is spared: to stop it would cost an attempt and give nothing. Actors are
   taken when all tasks together have less than what is to be freed. If all that could be stopped has next to nothing of
   the memory in use, somebody else is to blame, and nothing is stopped.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

from actorfw.values.data import Data

__all__ = ["BACK_OFF_CAP", "BACK_OFF_FIRST", "RATE", "SETTLE", "SHORTEST", "Candidate", "Pressure", "back_off"]

SETTLE: Final = 0.5
"""Seconds after the end of one that was stopped, until the next may be."""

BACK_OFF_FIRST: Final = 1.0
BACK_OFF_CAP: Final = 60.0
"""Seconds that a task waits which was stopped for want of memory, at most: doubled from attempt to attempt."""

RATE: Final = 512 << 20
"""Bytes per second that tasks are taken to be able to fill: how soon one has to look again, and be through."""
SHORTEST: Final = 0.02
"""Seconds between two looks, at least: one takes some 50 us."""

_FAR: Final = 0.9  # of the threshold: below, there is time
_FAR_TIMES: Final = 4  # as many intervals
_NOTHING: Final = 0.01  # of the memory that there is
_LITTLE: Final = 1 / 8  # of what the largest of its kind has


class Candidate(Data):
    """A worker process that could be stopped.

    Attributes:
        key: for whoever asks.
        actor: whether an actor lives in it; else it runs a task.
        again: whether the task has attempts left, or the actor restarts.
        born: larger for what began later.
        own: bytes that would be free.
    """

    key: Hashable
    actor: bool
    again: bool
    born: int
    own: int


class Pressure:
    """Decides for one node.

    Args:
        threshold: the share of memory in use above which something is stopped.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._stopping: Hashable | None = None
        self._quiet_until = 0.0

    def too_much(self, used: int, limit: int, now: float) -> bool:
        """Whether something is to be stopped now."""
        return used > self.threshold * limit and self._stopping is None and now >= self._quiet_until

    def pause(self, used: int, limit: int, interval: float) -> float:
        """Seconds until the next look: `interval` or some of it, less where there is so little memory that it could be
        full by then.
        """
        line = self.threshold * limit
        longest = interval * (_FAR_TIMES if used <= line * _FAR else 1)
        return min(longest, max(SHORTEST, (line - used) / RATE))

    def urgent(self, used: int, limit: int, interval: float) -> bool:
        """Whether memory could be full before others have had the time to do something about it."""
        return limit - used < RATE * interval

    def choose(self, used: int, limit: int, candidates: Sequence[Candidate]) -> Candidate | None:
        """Which one, or None if that would not help. It counts as being stopped from here on."""
        floor = _NOTHING * limit
        over = used - self.threshold * limit
        tasks = _worth([one for one in candidates if not one.actor], floor)
        actors = _worth([one for one in candidates if one.actor], floor)
        pool = tasks if tasks and (not actors or sum(one.own for one in tasks) >= over) else actors or tasks
        if not pool:
            return None
        chosen = max(pool, key=lambda one: (one.again, one.born))
        self._stopping = chosen.key
        return chosen

    def ended(self, key: Hashable, now: float) -> None:
        """A worker process is gone."""
        if key == self._stopping:
            self._stopping = None
            self._quiet_until = now + SETTLE


def back_off(times: int) -> float:
    """Seconds at most until a task runs again that was stopped for want of memory for the `times`-th time."""
    return min(BACK_OFF_CAP, BACK_OFF_FIRST * 2.0 ** min(times - 1, 10))


def _worth(candidates: list[Candidate], floor: float) -> list[Candidate]:
    least = max(floor, _LITTLE * max((one.own for one in candidates), default=0))
    return [one for one in candidates if one.own >= least]
