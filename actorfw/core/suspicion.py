"""A suspicion's clock and the grounds of a verdict, each as a function of what is known.

Responsible for: how long a suspicion waits, and whether there are grounds to bury a member.
Leaves to others: who suspects, spreading, and evidence.

A verdict of death is final and costs all that was shared with the dead, so one observer's word is not enough:

* by count: besides the first accuser at least `min(2, others)` more have each seen it themselves. "Others" are the
  members that could have seen it: up, neither this node nor the accused, and not accused by another than this node. So
  who is deaf accuses everybody, is confirmed by nobody, and buries nobody; and of two members each decides alone;
* by proof: a broken link and then a refused connection, seen by two, or by all that could have seen it; a newer life
  of the same node, or another life at its address.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from actorfw.core.records import Accusation, Phase, Record
from actorfw.values.ids import Life
from actorfw.values.profiles import Profile

__all__ = ["CONFIRMERS", "Suspicion", "accusers_wanted", "refusals_wanted"]

CONFIRMERS: Final = 2

_REARMS: Final = 4


class Suspicion:
    """What runs while a member is accused, about one refutation number of it.

    Attributes:
        since: when this node learned of the first accusation.
        suspected: when it learned that the member is more than stalled; None while it is not.
        armed: when the clock was last set.
        deadline: when a verdict is due.
        vouched: when another member last said that it hears the accused.
        answered: when this node last said so to the accusers.
        told: whether this node has reported that it alone does not reach it.
        rearms: how often the clock was set again because this node's own stood still.
    """

    __slots__ = ("answered", "armed", "deadline", "rearms", "since", "suspected", "told", "vouched")

    def __init__(self, now: float) -> None:
        self.since = now
        self.suspected: float | None = None
        self.armed = now
        self.deadline = float("inf")
        self.vouched = self.answered = float("-inf")
        self.told = False
        self.rearms = 0

    def set(self, record: Record, profile: Profile, members: int, stall_limit: float | None, now: float) -> None:
        """Set the clock after an accusation: while more members confirm, it only moves to an earlier time."""
        if record.stalled:
            if self.suspected is not None or self.deadline == float("inf"):
                self.suspected = None
                self.armed = now
                waits = stall_limit is None or record.hosts == "own"
                self.deadline = float("inf") if waits or stall_limit is None else max(now, self.since + stall_limit)
            return
        if self.suspected is None:
            self.suspected = self.armed = now
            self.deadline = float("inf")
        # A clock that was set again because it could not be trusted is not turned back by what more members say.
        if self.armed == self.suspected:
            confirmations = max(0, len(record.accusers) - 1)
            self.deadline = max(now, min(self.deadline, self.suspected + profile.suspicion(members, confirmations)))

    def rearm(self, span: float, now: float) -> None:
        self.armed = now
        self.deadline = now + span

    def distrusted(self, now: float, lagged_at: float, interval: float) -> bool:
        """Whether the clock has to start again because this node's own stood still while it ran."""
        late = now - self.deadline > interval or lagged_at > self.armed
        if not late or self.rearms >= _REARMS:
            return False
        self.rearms += 1
        return True


def _could_see(me: Life, accused: Life, view: Mapping[Life, Record]) -> int:
    """How many others could have seen what this node has seen; counted up to `CONFIRMERS`."""
    count = 0
    for life, record in view.items():
        if life in (me, accused) or record.phase is Phase.JOINING:
            continue
        if record.accusers:
            mine = record.of(me)
            # Silence may be this node's own deafness. A kernel that answered, if only to refuse, shows that it is not.
            if len(record.accusers) > (mine is not None) or mine in (Accusation.STALLED, Accusation.REFUSED):
                continue
        count += 1
        if count >= CONFIRMERS:
            break
    return count


def accusers_wanted(me: Life, accused: Life, view: Mapping[Life, Record]) -> int:
    """How many accusers a verdict by count needs, the first included."""
    return 1 + _could_see(me, accused, view)


def refusals_wanted(me: Life, accused: Life, view: Mapping[Life, Record]) -> int:
    """How many members must have been refused: two, or all that could be."""
    return min(2, 1 + _could_see(me, accused, view))
