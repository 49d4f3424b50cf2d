"""Explores every interleaving, within bounds, of a few nodes that pass one ref around by the rules of ownership.

The nodes are real `Ownership` objects. Around them stand ordered channels, user code that holds, drops, gives, calls,
keeps arguments and hands them back, and crashes at any moment. What one node does on one event is looked up when it
has been seen before (their own states are few, their combinations many), so the real code runs once for each.

A run ends with a verdict and the trace that led to it: "unsafe" (somebody holds what its owner freed), "lost" (somebody
was told that the ref is gone while its owner lives), "leak" (all is quiet, nobody holds, a table is not empty), "noise"
(a call whose callee keeps nothing caused a message, or messages pile up), or "ok" if there is no such state.

`ACTORFW_MODEL=full` explores further (minutes).
"""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import pytest

from actorfw.core.ownership import Instruction, Ownership
from actorfw.values.ids import RefId

FULL = os.environ.get("ACTORFW_MODEL") == "full"
MOST_WAITING = 8  # messages in one channel

LIVES = [bytes([65 + index]) * 16 for index in range(4)]
OWNER = 0
REF: RefId = (LIVES[OWNER], 1)

Message: TypeAlias = tuple[object, ...]
Channels: TypeAlias = tuple[tuple[Message, ...], ...]
Posts: TypeAlias = tuple[tuple[int, Message], ...]
Event: TypeAlias = tuple[object, ...]


@dataclass(frozen=True)
class World:
    """The bounds of a run, and what is broken in it on purpose."""

    nodes: int = 3
    gives: int = 2
    crashes: int = 0
    owner_may_crash: bool = False
    grace: bool = True
    timeout_frees: bool = False
    machine: Callable[[bytes], Ownership] = Ownership


class State(NamedTuple):
    nodes: tuple[int, ...]  # indices of node states
    channels: Channels  # from a to b at a * nodes + b
    crashed: frozenset[int]
    news: frozenset[tuple[int, int]]  # (x, y): y has yet to hear that x is dead
    graces: frozenset[tuple[int, int]]  # (x, y): y still keeps what x held
    gives: int


class Facts(NamedTuple):
    """What the explorer wants to know of one node state."""

    local: bool
    live: bool
    lost: bool
    quiet: bool
    running: tuple[tuple[int, int], ...]
    waiting: tuple[int, ...]
    only_args: bool


class Verdict(NamedTuple):
    what: str
    states: int
    trace: list[str]


def quiet(machine: Ownership) -> bool:
    tables = machine.snapshot()[0]
    assert isinstance(tables, tuple)
    return not any(tables)


class Explorer:
    def __init__(self, world: World) -> None:
        self.world = world
        self.machines: list[Ownership] = []
        self.facts: list[Facts] = []
        self.index: dict[object, int] = {}
        self.known: dict[tuple[int, int, Event], tuple[int, Posts]] = {}

    # One node

    def intern(self, machine: Ownership) -> int:
        snapshot = (machine._life, machine.snapshot())
        number = self.index.get(snapshot)
        if number is None:
            number = self.index[snapshot] = len(self.machines)
            self.machines.append(machine)
            holding = machine.holders(REF)
            running = [
                (LIVES.index(peer), call)
                for peer, call in [*machine._answering, *machine._orphans]
                if isinstance(peer, bytes) and isinstance(call, int)
            ]
            self.facts.append(
                Facts(
                    local=holding is not None and holding.local,
                    live=machine.live(REF),
                    lost=holding is not None and holding.reg == "lost",
                    quiet=quiet(machine),
                    running=tuple(sorted(running)),
                    waiting=tuple(sorted(call for call in machine._calls if isinstance(call, int))),
                    only_args=holding is not None
                    and not (holding.local or holding.calls or holding.inside or holding.lent or holding.prot)
                    and holding.args == 1,
                )
            )
        return number

    def step(self, me: int, node: int, event: Event) -> tuple[int, Posts]:
        key = (me, node, event)
        found = self.known.get(key)
        if found is None:
            machine = copy.deepcopy(self.machines[node])
            posts = tuple(self.perform(machine, event))
            found = self.known[key] = (self.intern(machine), posts)
        return found

    def perform(self, machine: Ownership, event: Event) -> Iterator[tuple[int, Message]]:
        """What the runtime does with a machine: the order of calls that the module asks for."""

        def posts(instructions: list[Instruction]) -> Iterator[tuple[int, Message]]:
            for instruction in instructions:
                if instruction[0] == "send":
                    _, peer, verb, _, asof = instruction
                    assert isinstance(peer, bytes)
                    yield LIVES.index(peer), (verb, asof)

        match event:
            case ("hold",):
                yield from posts(machine.hold(REF))
            case ("drop",):
                yield from posts(machine.drop(REF))
            case ("give", int(to)):
                following = machine.gave(LIVES[to], [REF])
                yield to, ("give",)
                yield from posts(following)
            case ("call", int(to), int(call)):
                following = machine.call_sent(call, LIVES[to], [REF])
                yield to, ("call", call)
                yield from posts(following)
            case ("answer", int(to), int(call), bool(result)):
                following = machine.gave(LIVES[to], [REF]) if result else []
                kept, more = machine.call_answered(LIVES[to], call)
                yield to, ("answered", call, kept, result)
                yield from posts(following + more)
            case ("timeout", int(call)):
                yield from posts(machine.call_ended(call))
            case ("dead", int(peer)):
                yield from posts(machine.dead(LIVES[peer]))
            case ("grace over", int(peer)):
                yield from posts(machine.grace_over(LIVES[peer]))
            case ("from", int(peer), tuple(message)):
                yield from posts(self.receive(machine, LIVES[peer], message))
            case _:
                raise AssertionError(event)

    def receive(self, machine: Ownership, peer: bytes, message: Message) -> list[Instruction]:
        match message:
            case ("give",):
                token = machine.took(peer, [REF])
                return machine.hold(REF) + machine.settle(token)
            case ("call", int(call)):
                return machine.call_received(peer, call, [REF])
            case ("answered", int(call), tuple(kept), bool(result)):
                if not result:
                    return machine.call_ended(call, kept)
                token = machine.took(peer, [REF])
                following = machine.call_ended(call, kept)
                return following + machine.hold(REF) + machine.settle(token)
            case ("borrow", None):
                return machine.on_borrow(peer, REF)
            case ("grant", None):
                return machine.on_grant(peer, REF)
            case ("gone", None):
                return machine.on_gone(peer, REF)
            case ("return", int(asof)):
                return machine.on_return(peer, REF, asof)
            case _:
                raise AssertionError(message)

    # All of them

    def first(self) -> State:
        count = self.world.nodes
        nodes: list[int] = []
        for index in range(count):
            machine = self.world.machine(LIVES[index])
            if index == OWNER:
                machine.hold(REF)
            nodes.append(self.intern(machine))
        return State(tuple(nodes), ((),) * (count * count), frozenset(), frozenset(), frozenset(), self.world.gives)

    def apply(self, state: State, me: int, event: Event, gives: int = 0) -> State:
        node, posts = self.step(me, state.nodes[me], event)
        nodes = (*state.nodes[:me], node, *state.nodes[me + 1 :])
        channels = state.channels
        if posts:
            changed = list(channels)
            for to, message in posts:
                if to not in state.crashed:
                    changed[me * self.world.nodes + to] += (message,)
            channels = tuple(changed)
        return State(nodes, channels, state.crashed, state.news, state.graces, state.gives - gives)

    def successors(self, state: State) -> Iterator[tuple[str, State]]:
        count = self.world.nodes
        for x in range(count):
            if x in state.crashed:
                continue
            facts = self.facts[state.nodes[x]]
            if facts.local:
                yield f"{x} drops", self.apply(state, x, ("drop",))
            if (facts.local or facts.running) and state.gives and not facts.lost:
                for y in range(count):
                    # A node that knows of a death does not send there; one that doesn't may.
                    if y != x and (y not in state.crashed or (y, x) in state.news):
                        yield f"{x} gives to {y}", self.apply(state, x, ("give", y), 1)
                        yield f"{x} calls {y}", self.apply(state, x, ("call", y, state.gives), 1)
            for caller, call in facts.running:
                if not facts.local and not facts.lost:
                    yield f"{x} keeps its argument", self.apply(state, x, ("hold",))
                yield f"{x} answers {caller}", self.apply(state, x, ("answer", caller, call, False))
                if state.gives and not facts.lost:
                    yield f"{x} hands it back to {caller}", self.apply(state, x, ("answer", caller, call, True), 1)
            if self.world.timeout_frees:
                for call in facts.waiting:
                    yield f"{x} gives up call {call}", self.apply(state, x, ("timeout", call))
            if (x != OWNER or self.world.owner_may_crash) and len(state.crashed) < self.world.crashes:
                yield f"{x} crashes", self.crash(state, x)
        for x, y in state.news:
            channels = list(state.channels)
            channels[x * count + y] = ()
            heard = state._replace(channels=tuple(channels), news=state.news - {(x, y)})
            heard = self.apply(heard, y, ("dead", x))
            if self.world.grace:
                heard = heard._replace(graces=heard.graces | {(x, y)})
            else:
                heard = self.apply(heard, y, ("grace over", x))
            yield f"{y} hears that {x} is dead", heard
        if state.graces and not state.news and self.registered(state):
            for x, y in state.graces:
                over = state._replace(graces=state.graces - {(x, y)})
                yield f"{y} ends the grace of {x}", self.apply(over, y, ("grace over", x))
        for index, channel in enumerate(state.channels):
            x, y = divmod(index, count)
            if channel and y not in state.crashed:
                channels = list(state.channels)
                channels[index] = channel[1:]
                arrived = state._replace(channels=tuple(channels))
                yield f"{y} gets {channel[0]} from {x}", self.apply(arrived, y, ("from", x, channel[0]))

    def crash(self, state: State, x: int) -> State:
        count = self.world.nodes
        channels = tuple(() if index % count == x else channel for index, channel in enumerate(state.channels))
        others = {(x, y) for y in range(count) if y != x and y not in state.crashed}
        return state._replace(
            channels=channels,
            crashed=state.crashed | {x},
            news=frozenset(pair for pair in state.news if pair[1] != x) | others,
            graces=frozenset(pair for pair in state.graces if pair[1] != x),
        )

    def registered(self, state: State) -> bool:
        """What the grace is long enough for: whatever goes to and from the owner has arrived."""
        count = self.world.nodes
        return not any(
            channel
            for index, channel in enumerate(state.channels)
            if OWNER in divmod(index, count) and not state.crashed.intersection(divmod(index, count))
        )

    def judge(self, state: State) -> str | None:
        alive = [self.facts[node] for index, node in enumerate(state.nodes) if index not in state.crashed]
        if OWNER not in state.crashed:
            if any(facts.lost for facts in alive):
                return "lost"
            if not self.facts[state.nodes[OWNER]].live and any(facts.local or facts.running for facts in alive):
                return "unsafe"
        if any(len(channel) > MOST_WAITING for channel in state.channels):
            return "noise"
        if not any(state.channels) and not state.news and not state.graces:
            idle = not any(facts.local or facts.running for facts in alive)
            if idle and not all(facts.quiet for facts in alive):
                return "leak"
        return None

    def noisy(self, before: State, after: State, label: str) -> bool:
        """Rule 4: answering a call whose argument nothing else here holds sends the answer alone."""
        x, _, rest = label.partition(" ")
        if not rest.startswith("answers") or not self.facts[before.nodes[int(x)]].only_args:
            return False
        return sum(map(len, after.channels)) > sum(map(len, before.channels)) + 1

    def run(self, limit: int = 5_000_000) -> Verdict:
        start = self.first()
        came_from: dict[State, tuple[State, str] | None] = {start: None}
        waiting = deque([start])

        def verdict(what: str, state: State, last: str) -> Verdict:
            trace = [last] if last else []
            step = came_from[state]
            while step is not None:
                trace.append(step[1])
                step = came_from[step[0]]
            return Verdict(what, len(came_from), trace[::-1])

        while waiting:
            state = waiting.popleft()
            what = self.judge(state)
            if what is not None:
                return verdict(what, state, "")
            for label, after in self.successors(state):
                if self.noisy(state, after, label):
                    return verdict("noise", state, label)
                if after not in came_from:
                    came_from[after] = (state, label)
                    waiting.append(after)
            assert len(came_from) < limit, "the bounds of this world are too wide to explore"
        return Verdict("ok", len(came_from), [])


class ReturnsWithoutAsof(Ownership):
    """A mutant: a return ends whatever was given, also what is on its way."""

    __slots__ = ()

    def on_return(self, peer: object, id: RefId, asof: int) -> list[Instruction]:
        return super().on_return(peer, id, 1 << 60)


class AnswersWithoutKept(Ownership):
    """A mutant: the callee forgets to say what it keeps."""

    __slots__ = ()

    def call_answered(self, peer: object, call: object) -> tuple[tuple[RefId, ...], list[Instruction]]:
        return (), super().call_answered(peer, call)[1]


class TrustsAnyCaller(Ownership):
    """A mutant: nothing is kept while any other call runs that brought the ref too. Callers may wait in a circle."""

    __slots__ = ()

    def call_answered(self, peer: object, call: object) -> tuple[tuple[RefId, ...], list[Instruction]]:
        record = self._records.get(REF)
        if record is None or not record.args or sum(record.args.values()) < 2:
            return super().call_answered(peer, call)
        self._answering.pop((peer, call))
        record.answered(peer)
        return (), []


WORLDS = {
    "three nodes, three gives": World(gives=3),
    "three nodes, two gives, a borrower crashes": World(gives=2, crashes=1),
    "three nodes, two gives, the owner or a borrower crashes": World(gives=2, crashes=1, owner_may_crash=True),
}
WIDE = {
    "three nodes, three gives, a borrower crashes": World(gives=3, crashes=1),
    "three nodes, two gives, two crashes, the owner's too": World(gives=2, crashes=2, owner_may_crash=True),
    "four nodes, two gives, a borrower crashes": World(nodes=4, gives=2, crashes=1),
}
MUTANTS = {
    "returns without asof": (World(gives=2, machine=ReturnsWithoutAsof), {"unsafe", "lost"}),
    "no grace": (World(gives=2, crashes=1, grace=False), {"unsafe", "lost"}),
    "a caller's timeout frees": (World(gives=1, timeout_frees=True), {"unsafe", "lost"}),
    "any caller will do": (World(gives=3, machine=TrustsAnyCaller), {"unsafe", "lost"}),
    "answers without kept": (World(gives=1, machine=AnswersWithoutKept), {"unsafe", "lost"}),
}


@pytest.mark.parametrize("name", WORLDS)
def test_every_interleaving_is_safe_and_ends_empty(name: str) -> None:
    result = Explorer(WORLDS[name]).run()
    print(f"{name}: {result.what}, {result.states} states")
    assert result.what == "ok", "\n".join(result.trace)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not FULL, reason="takes minutes: set ACTORFW_MODEL=full")
@pytest.mark.parametrize("name", WIDE)
def test_wider_bounds(name: str) -> None:
    result = Explorer(WIDE[name]).run()
    print(f"{name}: {result.what}, {result.states} states")
    assert result.what == "ok", "\n".join(result.trace)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_mistake_is_found(name: str) -> None:
    world, expected = MUTANTS[name]
    result = Explorer(world).run()
    assert result.what in expected, f"{result.what} after {result.states} states"
    assert result.trace
