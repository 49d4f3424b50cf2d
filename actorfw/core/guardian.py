"""The life of one actor, as its guardian sees it: where it is to be, when it is started again, and when it is over.

Only this machine raises an actor's incarnation, places it, spends its restarts and makes its end final. Leaves to
others: choosing a host, sending, the name, and what callers hear.

    placing      needs a host                         starting   its host was told to make it
    up           its host has made it                 restarting its last incarnation is over, the next one is due
    ended        for good; nothing leads out of here

Rules:

1. An incarnation is created at one host. A host without room never made it, so the same one may go to another.
2. A crash that the host reports, or the host's death, ends the incarnation. The next one follows after a pause while
   restarts are left. A broken link or a host that stands still ends nothing.
3. Whoever wants the actor's end says so here first. From then on no incarnation follows, whatever happens to the host;
   "killed", "name_conflict" and "fenced" are the end at once, other words when the host has finished what it accepted.
4. A host that drains hands the actor back: the next incarnation follows at once and no restart is spent.
5. What a host says of any other incarnation than the one it is to have is void.
"""

from __future__ import annotations

import random
from typing import Any, Final, NamedTuple, TypeAlias

from actorfw.values.ids import Life
from actorfw.values.rare import Rare

__all__ = [
    "AT_ONCE",
    "ENDED",
    "PLACING",
    "RESTARTING",
    "STARTING",
    "UP",
    "Adopt",
    "Chosen",
    "Crashed",
    "Create",
    "Created",
    "Dead",
    "Due",
    "End",
    "Ended",
    "Event",
    "GaveUp",
    "Guardian",
    "Instruction",
    "Move",
    "MoveOff",
    "NoRoom",
    "Over",
    "Place",
    "Restarting",
    "Stop",
    "Up",
    "Wait",
]

PLACING: Final = "placing"
STARTING: Final = "starting"
UP: Final = "up"
RESTARTING: Final = "restarting"
ENDED: Final = "ended"

AT_ONCE: Final = frozenset(("killed", "name_conflict", "fenced"))
"""Ends that don't wait for what the actor has accepted."""

DRAIN: Final = "drain"

LONGEST: Final = 30.0
"""Seconds: the pause before a restart grows no further, and an incarnation that lived so long was no failed start."""

# -- events ------------------------------------------------------------------------------------------------------------


class Chosen(NamedTuple):
    """This host is to have it."""

    host: Life


class Created(NamedTuple):
    """The host has made it."""

    host: Life
    incarnation: int


class NoRoom(NamedTuple):
    """The host has no room and made nothing."""

    host: Life
    incarnation: int


class Crashed(NamedTuple):
    """Its process died there, or `__init__` or `on_start` raised."""

    host: Life
    incarnation: int


class Over(NamedTuple):
    """The host has ended it in an orderly way: as it was told, by `exit_actor`, or because it drains."""

    host: Life
    incarnation: int
    reason: str


class Dead(NamedTuple):
    """A node is dead, or has left."""

    life: Life


class End(NamedTuple):
    """Somebody wants its end."""

    how: str


class Move(NamedTuple):
    """Its host drains: it is to live elsewhere."""


class Due(NamedTuple):
    """The pause before the restart is over."""


class GaveUp(NamedTuple):
    """It can't be placed, or never be made."""

    reason: str


class Adopt(NamedTuple):
    """Another guardian was responsible until now. `host`, `incarnation`: the newest that a living node says it has."""

    host: Life | None
    incarnation: int


Event: TypeAlias = Chosen | Created | NoRoom | Crashed | Over | Dead | End | Move | Due | GaveUp | Adopt

# -- instructions ------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Choose a host, and say `Chosen`."""


class Create(NamedTuple):
    """Have the host make this incarnation."""

    host: Life
    incarnation: int


class Stop(NamedTuple):
    """Have the host end this incarnation."""

    host: Life
    incarnation: int
    how: str


class MoveOff(NamedTuple):
    """Have the host give this incarnation up."""

    host: Life
    incarnation: int


class Wait(NamedTuple):
    """Say `Due` after this many seconds."""

    seconds: float


class Up(NamedTuple):
    """It is up."""


class Restarting(NamedTuple):
    """This incarnation is over, another one follows."""

    incarnation: int
    reason: str


class Ended(NamedTuple):
    """It is over for good."""

    reason: str


Instruction: TypeAlias = Place | Create | Stop | MoveOff | Wait | Up | Restarting | Ended


class Guardian:
    """The machine of one actor.

    Args:
        restarts: how many are left; -1: without end.
        backoff: seconds of the pause before the first restart, at most; each further one doubles it.
    """

    __slots__ = ("_backoff", "_rare", "host", "incarnation", "left", "state")

    how: Rare[str] = Rare("")
    """The end that was asked for."""
    reason: Rare[str] = Rare("")
    """How it ended."""
    _failures: Rare[int] = Rare(0)
    """In a row."""
    _up_at: Rare[float] = Rare(0.0)

    def __init__(self, restarts: int = 0, backoff: float = 0.1) -> None:
        self._rare: dict[str, Any] | None = None
        self.state = PLACING
        self.incarnation = 1
        self.host: Life | None = None  # of this incarnation, once it is chosen
        self.left = restarts
        self._backoff = backoff

    @property
    def lasting(self) -> bool:
        """Whether another incarnation follows if this one is lost."""
        return self.left != 0 and not self.how and self.state != ENDED

    @property
    def hosted(self) -> bool:
        """Whether a host was told to have it."""
        return self.state in (STARTING, UP)

    def handle(self, event: Event, now: float, rng: random.Random) -> list[Instruction]:
        """What follows from an event."""
        if self.state == ENDED:
            return []
        if isinstance(event, Chosen):
            return self._chosen(event.host)
        if isinstance(event, (Created, NoRoom, Crashed, Over)):
            if not self.hosted or event.host != self.host or event.incarnation != self.incarnation:
                return []
            if isinstance(event, Created):
                return self._created(now)
            if isinstance(event, NoRoom):
                return self._no_room()
            if isinstance(event, Crashed):
                return self._lost("crashed", now, rng)
            return self._over(event.reason)
        if isinstance(event, Dead):
            return self._lost("node_died", now, rng) if self.hosted and event.life == self.host else []
        if isinstance(event, End):
            return self._end(event.how)
        if isinstance(event, Move):
            if self.host is None or not self.hosted or self.how:
                return []
            return [MoveOff(self.host, self.incarnation)]
        if isinstance(event, Due):
            if self.state != RESTARTING:
                return []
            self.state = PLACING
            return [Place()]
        if isinstance(event, GaveUp):
            return self._ended(event.reason)
        return self._adopt(event, now)

    def _chosen(self, host: Life) -> list[Instruction]:
        if self.state != PLACING:
            return []
        self.state = STARTING
        self.host = host
        return [Create(host, self.incarnation)]

    def _created(self, now: float) -> list[Instruction]:
        if self.state != STARTING:
            return []
        self.state = UP
        if self.left:  # a time that only a restart asks for: most actors have none, and need not keep it
            self._up_at = now
        return [Up()]

    def _no_room(self) -> list[Instruction]:
        if self.state != STARTING:
            return []
        self.host = None
        if self.how:
            return self._ended(self.how)
        self.state = PLACING
        return [Place()]

    def _over(self, reason: str) -> list[Instruction]:
        if reason != DRAIN or self.how:
            return self._ended(self.how if reason == DRAIN else reason)
        lost = self._next()
        self.state = PLACING
        return [Restarting(lost, reason), Place()]

    def _lost(self, reason: str, now: float, rng: random.Random) -> list[Instruction]:
        if not self.lasting:
            return self._ended(reason)
        if self.left > 0:
            self.left -= 1
        if self.state == UP and now - self._up_at >= LONGEST:
            self._failures = 0
        longest = min(LONGEST, self._backoff * 2 ** min(self._failures, 20))
        self._failures += 1
        lost = self._next()
        self.state = RESTARTING
        return [Restarting(lost, reason), Wait(longest * rng.uniform(0.5, 1.0))]

    def _next(self) -> int:
        lost = self.incarnation
        self.incarnation += 1
        self.host = None
        return lost

    def _end(self, how: str) -> list[Instruction]:
        if not self.hosted:
            return self._ended(how)
        assert self.host is not None
        stop = Stop(self.host, self.incarnation, how)
        if how in AT_ONCE:
            return [*self._ended(how), stop]
        if self.how:
            return []
        self.how = how
        return [stop]

    def _adopt(self, event: Adopt, now: float) -> list[Instruction]:
        if event.host is not None and event.incarnation >= self.incarnation:
            self.state = UP
            self.host = event.host
            self.incarnation = event.incarnation
            self._up_at = now
            return [Up()] if not self.how else [Up(), Stop(event.host, event.incarnation, self.how)]
        if self.how:
            return self._ended(self.how)
        # Where the former guardian had sent it is not known, so this must be another one.
        lost = self._next()
        self.state = PLACING
        return [Restarting(lost, "node_died"), Place()]

    def _ended(self, reason: str) -> list[Instruction]:
        self.state = ENDED
        self.reason = reason
        return [Ended(reason)]
