"""Many membership machines in virtual time, without nodes, loops or sockets: a thousand members in one thread.

Responsible for: a network of machines that can be killed, frozen, cut off, made deaf, slowed; and a record of what each
decided and what it cost. Leaves to others: what counts as right (tests) and what is measured (benchmarks).

What is simulated of TCP: messages between two members arrive in order or not at all; a killed process's links break at
once and its address refuses; a frozen one's kernel goes on acknowledging and taking connections, and what is sent to it
is read when it goes on; a cut path swallows everything, and kernels get no acknowledgements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from random import Random
from typing import Final

import msgpack

from actorfw.core import instructions as i
from actorfw.core.membership import Evidence, Membership
from actorfw.core.records import Phase, Record
from actorfw.values.ids import LIFE_BYTES, NODE_ID_BYTES, Life
from actorfw.values.profiles import Profile

__all__ = ["Change", "Simulated", "World", "node"]

_HANDSHAKE: Final = 3.0  # one-way trips until a first message arrives on a new connection, besides its own


def node(life: Life) -> bytes:
    """The node that a life is of: faults are about nodes."""
    return life[:NODE_ID_BYTES]


@dataclass(slots=True)
class Simulated:
    """One member.

    Attributes:
        record: with which it began.
        machine: what is simulated.
        alive: whether this life goes on. A node whose life has ended may have a next one.
        ended: when it ended.
        next: the next life of the node.
        frozen: whether its process stands still. What comes meanwhile waits in `inbox`.
        linked: with whom it has a link.
    """

    record: Record
    machine: Membership
    alive: bool = True
    frozen: bool = False
    ended: float = float("inf")
    next: Life | None = None
    due: float = float("inf")
    inbox: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    linked: set[Life] = field(default_factory=set[Life])


@dataclass(frozen=True, slots=True)
class Change:
    """Something a machine decided: one of the instructions that is no message."""

    at: float
    by: Life
    what: i.Instruction


class World:
    """Members and the network between them.

    Args:
        count: members, all up and all known to each other.
        profile: their timing.
        seed: of all chance.
        latency: one way, in seconds; each message takes up to twice as long.
        kernel: whether kernels can be asked.
        stall_limit: of all members.
        make: what makes a machine: `Membership`, or a mutant of it.
        rebirth: whether who is told that it is dead begins a new life, as nodes do.
        wire: pack and unpack every message, as a real link does. Slower; without it packing is only measured.
    """

    def __init__(
        self,
        count: int,
        profile: Profile,
        seed: int,
        *,
        latency: float = 0.000_5,
        kernel: bool = True,
        stall_limit: float | None = 30.0,
        make: Callable[[Record, Profile, float | None, Random], Membership] = Membership,
        rebirth: bool = False,
        wire: bool = False,
    ) -> None:
        self.profile = profile
        self.rng = Random(seed)
        self.now = 0.0
        self.latency = latency
        self.kernel = kernel
        self.loss = 0.0
        self.changes: list[Change] = []
        self.sent: Counter[Life] = Counter()
        self.sent_bytes: Counter[Life] = Counter()
        self.blocked: set[tuple[bytes, bytes]] = set()
        self._half_open: list[tuple[Life, Life]] = []
        self.rejected: set[tuple[Life, Life]] = set()
        self.delays: dict[Life, float] = {}
        self.measuring = False
        self._wire = wire
        self._rebirth = rebirth
        self._make = make
        self._stall_limit = stall_limit
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.members: dict[Life, Simulated] = {}
        self._arrivals: dict[tuple[Life, Life], float] = {}
        for number in range(count):
            self.new_member(number)
        records = [member.record for member in self.members.values()]
        for life, member in self.members.items():
            member.machine.seed(records, 0.0)
            for near in member.machine.neighbours:
                self._link(life, near)
            self._carry_out(life, member.machine.start(0.0))

    # -- members -------------------------------------------------------------------------------------------------------

    def new_member(self, number: int, phase: Phase = Phase.UP) -> Simulated:
        """One more, without links and known to nobody."""
        life = self.rng.randbytes(16)
        record = Record(
            life,
            f"10.0.{number // 250}.{number % 250 + 1}:7400",
            f"node-{number}",
            totals=(("CPU", 80_000), ("memory", 640_000_000_000_000)),
            pid=1000 + number,
            phase=phase,
        )
        return self._add(record)

    def _add(self, record: Record) -> Simulated:
        machine = self._make(record, self.profile, self._stall_limit, Random(self.rng.random()))
        member = self.members[record.life] = Simulated(record, machine)
        return member

    def _reborn(self, life: Life, by: Life) -> None:
        """The node begins a new life, as a newcomer that meets the one who told it so."""
        member = self.members[life]
        if not member.alive or not self._rebirth:
            return
        record = replace(
            member.record,
            life=life[:NODE_ID_BYTES] + self.rng.randbytes(LIFE_BYTES - NODE_ID_BYTES),
            lived=member.record.lived + 1,
        )
        self.kill(life)
        member.next = record.life
        self._add(record)
        self.join(record.life, by)

    def join(self, newcomer: Life, by: Life) -> None:
        """A newcomer begins and meets a member."""
        self._carry_out(newcomer, self.members[newcomer].machine.start(self.now))
        self._meet(newcomer, by)

    def running(self) -> list[Life]:
        """Those whose process exists and runs."""
        return [life for life, member in self.members.items() if member.alive and not member.frozen]

    def _link(self, one: Life, two: Life) -> None:
        self.members[one].linked.add(two)
        self.members[two].linked.add(one)
        for a, b in ((one, two), (two, one)):
            self.members[a].machine.evidence(b, "linked", self.now)

    def _meet(self, one: Life, two: Life) -> None:
        self.members[one].linked.add(two)
        self.members[two].linked.add(one)
        for a, b in ((one, two), (two, one)):
            self._later(self.latency, a, partial(self._met, self.members[b].machine.me))

    def _met(self, record: Record, machine: Membership) -> list[i.Instruction]:
        return machine.met(record, self.now)

    def _seen(self, life: Life, kind: Evidence, machine: Membership) -> list[i.Instruction]:
        if kind == "linked" and not self.members[life].alive:
            return []  # it ended meanwhile
        return machine.evidence(life, kind, self.now)

    # -- faults --------------------------------------------------------------------------------------------------------

    def kill(self, life: Life) -> None:
        """The process ends, the machine goes on: links break at once, where packets get through."""
        member = self.members[life]
        member.alive = False
        member.ended = self.now
        for near in sorted(member.linked):
            self.members[near].linked.discard(life)
            if not self._open(life, near):
                self._half_open.append((near, life))
            else:
                self._later(self.latency, near, partial(self._seen, life, "eof"))
        member.linked.clear()

    def freeze(self, life: Life) -> None:
        """The process stands still."""
        self.members[life].frozen = True

    def thaw(self, life: Life) -> None:
        """It goes on: what came meanwhile is read in one go, before or after its timers run."""
        member = self.members[life]
        if not member.frozen:
            return
        member.frozen = False
        inbox, member.inbox = member.inbox, []
        first = self.rng.random() < 0.5
        if first:
            self._tick(life)
        for event in inbox:
            event()
        if not first:
            self._tick(life)

    def cut(self, some: Iterable[Life], others: Iterable[Life] | None = None, *, one_way: bool = False) -> None:
        """Nothing passes from the first to the second any more, nor back unless `one_way`."""
        ones = set(some)
        twos = set(self.members) - ones if others is None else set(others)
        for a in ones:
            for b in twos:
                self.blocked.add((node(a), node(b)))
                if not one_way:
                    self.blocked.add((node(b), node(a)))

    def reject(self, life: Life, other: Life) -> None:
        """Something on the way refuses connections from the first to the second, and breaks the link that there is."""
        self.rejected.add((node(life), node(other)))
        for a, b in ((life, other), (other, life)):
            self.members[a].linked.discard(b)
            self._later(self.latency, a, partial(self._seen, b, "eof"))

    def mend(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """These paths are open again."""
        self.blocked.difference_update(pairs)

    def heal(self) -> None:
        """All paths are open again, and links are where they are wanted."""
        self.blocked.clear()
        self.rejected.clear()
        for life, other in self._half_open:
            self._later(self.latency, life, partial(self._seen, other, "eof"))
        self._half_open.clear()
        for life in self.running():
            machine = self.members[life].machine
            for other in sorted({*machine.neighbours, *machine.tombstones}):
                self._dialled(life, other)

    def _open(self, frm: Life, to: Life) -> bool:
        return (node(frm), node(to)) not in self.blocked

    # -- the network ---------------------------------------------------------------------------------------------------

    def _at(self, at: float, event: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._events, (at, self._count, event))

    def at(self, at: float, event: Callable[[], None]) -> None:
        """Do this at that time."""
        self._at(at, event)

    def _later(self, after: float, life: Life, do: Callable[[Membership], list[i.Instruction]]) -> None:
        """Something reaches a member, which sees it when its process runs."""

        def arrive() -> None:
            member = self.members[life]
            if member.alive:
                if member.frozen:
                    member.inbox.append(arrive)
                else:
                    self._carry_out(life, do(member.machine))

        self._at(self.now + after, arrive)

    def _tick(self, life: Life) -> None:
        member = self.members[life]
        member.due = float("inf")
        if not member.alive:
            return
        if member.frozen:
            return
        if member.machine.next_at() <= self.now:
            self._carry_out(life, member.machine.tick(self.now))
        else:
            self._schedule(life)

    def _schedule(self, life: Life) -> None:
        member = self.members[life]
        at = max(member.machine.next_at(), self.now)
        if at < member.due:
            member.due = at

            def due() -> None:
                if member.due == at:
                    self._tick(life)

            self._at(at, due)

    def _carry_out(self, life: Life, instructions: list[i.Instruction]) -> None:
        for one in instructions:
            if isinstance(one, i.Send):
                self._send(life, one)
            elif isinstance(one, i.AskKernel):
                machine = self.members[life].machine
                self._carry_out(life, machine.kernel(one.life, self._ask(life, one.life), self.now))
            elif isinstance(one, i.Dial):
                self._dialled(life, one.life)
            elif isinstance(one, i.ToldDead):
                self.changes.append(Change(self.now, life, one))
                self._reborn(life, one.by)
                return
            else:
                if isinstance(one, i.Neighbours):
                    for near in one.added:
                        if near not in self.members[life].linked:
                            self._dialled(life, near)
                self.changes.append(Change(self.now, life, one))
        self._schedule(life)

    def _ask(self, life: Life, other: Life) -> bool | None:
        if not self.kernel:
            return None
        there = self.members[other]
        linked = other in self.members[life].linked
        return linked and there.alive and self._open(life, other) and self._open(other, life)

    def _dialled(self, life: Life, other: Life) -> None:
        there = self.members[other]
        here = self.members[life]
        way = 2 * self.latency
        answers = self._open(life, other) and self._open(other, life)
        if there.next is not None and answers:
            self._later(way, life, partial(self._seen, other, "another_life"))
            if here.alive:
                self._dialled(life, there.next)
        elif not answers or (there.alive and there.frozen):
            self._later(self.profile.dial_timeout, life, partial(self._seen, other, "unreachable"))
        elif not there.alive or (node(life), node(other)) in self.rejected:
            self._later(way, life, partial(self._seen, other, "refused"))
        elif life in there.machine.tombstones or other in here.machine.tombstones:
            if self._rebirth:
                self._contest(life, other)
        elif other in here.machine.view and life in there.machine.view:
            here.linked.add(other)
            there.linked.add(life)
            for a, b in ((life, other), (other, life)):
                self._later(way, a, partial(self._seen, b, "linked"))
        else:
            self._meet(life, other)

    def _contest(self, one: Life, two: Life) -> None:
        """Handshakes settle which of two is reborn when one has buried the other, or each has."""
        first, second = self.members[one].machine, self.members[two].machine
        if one in second.tombstones and two in first.tombstones:
            buried = min((len(first.view), one), (len(second.view), two))[1]
        else:
            buried = one if one in second.tombstones else two
        self._reborn(buried, two if buried == one else one)

    def _send(self, life: Life, send: i.Send) -> None:
        message = send.message
        if self.measuring:
            self.sent[life] += 1
            self.sent_bytes[life] += len(msgpack.packb(message))
        other = self.members.get(send.life)
        if other is None or not other.alive or not self._open(life, send.life):
            return
        linked = send.life in self.members[life].linked
        if not linked and (node(life), node(send.life)) in self.rejected:
            return
        if self.loss and self.rng.random() < self.loss:
            return
        if self._wire:
            message = msgpack.unpackb(msgpack.packb(message))
        ways = 1.0 + self.rng.random()
        if not linked:
            ways += _HANDSHAKE
        after = ways * self.latency + self.delays.get(life, 0.0) + self.delays.get(send.life, 0.0)
        # One stream: nothing overtakes.
        key = (life, send.life)
        arrives = max(self.now + after, self._arrivals.get(key, 0.0))
        self._arrivals[key] = arrives
        self._later(arrives - self.now, send.life, lambda m: m.message(life, message, self.now))

    # -- time ----------------------------------------------------------------------------------------------------------

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; stop early when the condition holds, and say whether it did."""
        end = self.now + seconds
        events = self._events
        while events and events[0][0] <= end:
            self.now, _, event = heappop(events)
            event()
            if until is not None and until():
                return True
        self.now = end
        return until is not None and until()

    # -- results -------------------------------------------------------------------------------------------------------

    def deaths(self, life: Life | None = None) -> list[Change]:
        """Who held whom (or this one) dead, and when."""
        return [c for c in self.changes if isinstance(c.what, i.Dead) and life in (None, c.what.life)]

    def agree(self, lives: Iterable[Life]) -> bool:
        """Whether the views of these members are the same."""
        return len({self.members[life].machine.fingerprint() for life in lives}) <= 1
