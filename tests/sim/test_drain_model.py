"""Explores every interleaving, within bounds, of a node that leaves while others use, pass on and return what it owns.

The nodes are real: `Ownership`, with the `Estate` and `Bequest` of the leaver. Node 0 owns the one ref and leaves; it
asks the last node first, then the one before it. Around them stand ordered channels, user code, and crashes at any
moment. The world is that of `test_ownership_model`, whose verdicts hold here too:

"lost": somebody was told that the ref is gone, though the owner that it knew of lives or went in an orderly way.
"unsafe": somebody holds the ref, and the owner that it knows of lives and has freed it.
"orphan": all is quiet, the leaver went in an orderly way, and somebody holds a ref whose owner is the leaver still.
"stuck": all is quiet, nobody needs the leaver, and it does not go.
"leak": all is quiet, nobody holds, and a table is not empty.

`ACTORFW_MODEL=full` explores further (minutes).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from actorfw.core.inheritance import Bequest, Estate, Step
from actorfw.core.ownership import Instruction, Ownership
from tests.sim.test_ownership_model import LIVES, OWNER, REF, Event, Explorer, Message, State, World

FULL = os.environ.get("ACTORFW_MODEL") == "full"
MOST_WAITING = 10


class Party(Ownership):
    """A node of the model: its records, and what it does as a leaver or heir."""

    estate_class: type[Estate] = Estate
    bequest_class: type[Bequest] = Bequest

    def __init__(self, life: bytes) -> None:
        super().__init__(life)
        self.estate = self.estate_class(self)
        self.bequest: Bequest | None = None
        self.gone = False

    def snapshot(self) -> tuple[Any, ...]:
        bequest = self.bequest
        leaving = None if bequest is None else (bequest.heir, bequest.state, tuple(bequest._candidates))
        return *super().snapshot(), self.estate._handing, leaving, self.gone

    @property
    def closed(self) -> bool:
        """Nothing of its own may be given away any more: the heir has all that it gets."""
        return self.bequest is not None and self.bequest.state in ("moved", "alone") and self.owner(REF) == self._life


@dataclass(frozen=True)
class Leaving(World):
    machine: Callable[[bytes], Ownership] = Party


class DrainExplorer(Explorer):
    def party(self, state: State, index: int) -> Party:
        machine = self.machines[state.nodes[index]]
        assert isinstance(machine, Party)
        return machine

    # What the runtime does with one node

    def perform(self, machine: Ownership, event: Event) -> Iterator[tuple[int, Message]]:
        assert isinstance(machine, Party)
        match event:
            case ("leave",):
                others = [life for life in reversed(LIVES[: self.world.nodes]) if life != machine._life]
                machine.bequest = machine.bequest_class(machine.estate, others)
                yield from self.steps(machine, machine.bequest.start())
            case ("go",):
                machine.gone = True
                yield from ((index, ("left",)) for index in range(self.world.nodes) if LIVES[index] != machine._life)
            case ("dead", int(peer)) if machine.bequest is not None:
                yield from self.steps(machine, machine.bequest.dead(LIVES[peer]))
                yield from super().perform(machine, event)
            case ("from", int(peer), ("offer",)):
                yield peer, ("consented", machine.bequest is None)
            case ("from", int(peer), ("consented", bool(ok))):
                if machine.bequest is not None:
                    yield from self.steps(machine, machine.bequest.consented(LIVES[peer], ok))
            case ("from", int(peer), ("inherited",)):
                if machine.bequest is not None:
                    yield from self.steps(machine, machine.bequest.inherited(LIVES[peer]))
            case ("from", int(peer), ("inherit", tuple(ids))):
                following = machine.estate.inherit(LIVES[peer], ids)
                yield peer, ("inherited",)
                yield from posts(following)
            case _:
                yield from super().perform(machine, event)

    def steps(self, machine: Party, steps: list[Step]) -> Iterator[tuple[int, Message]]:
        for step in steps:
            match step:
                case ("offer", heir):
                    yield LIVES.index(heir), ("offer",)
                case ("inherit", heir, ids):
                    yield LIVES.index(heir), ("inherit", ids)
                case ("moved", heir):
                    for index in range(self.world.nodes):
                        if LIVES[index] != machine._life:
                            yield index, ("moved", heir)
                case ("do", instructions):
                    yield from posts(instructions)
                case _:
                    pass

    def receive(self, machine: Ownership, peer: bytes, message: Message) -> list[Instruction]:
        assert isinstance(machine, Party)
        match message:
            case ("moved", bytes(heir)):
                return machine.estate.moved(peer, heir)
            case ("left",):
                return machine.dead(peer)
            case _:
                return super().receive(machine, peer, message)

    # All of them

    def successors(self, state: State) -> Iterator[tuple[str, State]]:
        yield from self.users(state)
        yield from self.deaths(state)
        leaver = self.party(state, OWNER)
        if OWNER not in state.crashed:
            facts = self.facts[state.nodes[OWNER]]
            if leaver.bequest is None:
                yield "0 begins to leave", self.apply(state, OWNER, ("leave",))
            elif leaver.bequest.done and not facts.local and not facts.running:
                yield "0 goes", self.goes(state)
        count = self.world.nodes
        for index, channel in enumerate(state.channels):
            x, y = divmod(index, count)
            if channel and y not in state.crashed:
                channels = list(state.channels)
                channels[index] = channel[1:]
                arrived = state._replace(channels=tuple(channels))
                if channel[0] == ("left",):
                    arrived = arrived._replace(graces=arrived.graces | {(x, y)})
                yield f"{y} gets {channel[0]} from {x}", self.apply(arrived, y, ("from", x, channel[0]))

    def users(self, state: State) -> Iterator[tuple[str, State]]:
        count = self.world.nodes
        for x in range(count):
            if x in state.crashed:
                continue
            facts = self.facts[state.nodes[x]]
            may_give = state.gives and not facts.lost and not self.party(state, x).closed
            if facts.local:
                yield f"{x} drops", self.apply(state, x, ("drop",))
            if (facts.local or facts.running) and may_give:
                for y in range(count):
                    if y != x and LIVES[y] not in self.machines[state.nodes[x]]._dead:
                        yield f"{x} gives to {y}", self.apply(state, x, ("give", y), 1)
                        yield f"{x} calls {y}", self.apply(state, x, ("call", y, state.gives), 1)
            for caller, call in facts.running:
                if not facts.local and not facts.lost:
                    yield f"{x} keeps its argument", self.apply(state, x, ("hold",))
                yield f"{x} answers {caller}", self.apply(state, x, ("answer", caller, call, False))
                if may_give:
                    yield f"{x} hands it back to {caller}", self.apply(state, x, ("answer", caller, call, True), 1)

    def deaths(self, state: State) -> Iterator[tuple[str, State]]:
        count = self.world.nodes
        crashed = len(state.crashed) - self.party(state, OWNER).gone
        for x in range(count):
            if x not in state.crashed and crashed < self.world.crashes and (x != OWNER or self.world.owner_may_crash):
                yield f"{x} crashes", self.crash(state, x)
        for x, y in state.news:
            channels = list(state.channels)
            channels[x * count + y] = ()
            heard = state._replace(channels=tuple(channels), news=state.news - {(x, y)}, graces=state.graces | {(x, y)})
            yield f"{y} hears that {x} is dead", self.apply(heard, y, ("dead", x))
        if state.graces and not state.news and self.registered(state):
            for x, y in state.graces:
                over = state._replace(graces=state.graces - {(x, y)})
                yield f"{y} ends the grace of {x}", self.apply(over, y, ("grace over", x))

    def goes(self, state: State) -> State:
        after = self.apply(state, OWNER, ("go",))
        count = self.world.nodes
        return after._replace(
            channels=tuple(() if index % count == OWNER else one for index, one in enumerate(after.channels)),
            crashed=after.crashed | {OWNER},
            news=frozenset(pair for pair in after.news if pair[1] != OWNER),
            graces=frozenset(pair for pair in after.graces if pair[1] != OWNER),
        )

    def registered(self, state: State) -> bool:
        """What the grace is long enough for: whatever was on its way between the living has arrived."""
        count = self.world.nodes
        return not any(one and index % count not in state.crashed for index, one in enumerate(state.channels))

    def judge(self, state: State) -> str | None:
        alive = [index for index in range(self.world.nodes) if index not in state.crashed]
        leaver = self.party(state, OWNER)
        holding = []
        for index in alive:
            facts = self.facts[state.nodes[index]]
            owner = LIVES.index(self.party(state, index).owner(REF))
            orderly = owner not in state.crashed or (owner == OWNER and leaver.gone)
            if facts.lost:
                if orderly:
                    return "lost"
            elif facts.local or facts.running:
                holding.append(index)
                if owner in alive:
                    owner = LIVES.index(self.party(state, owner).owner(REF))  # it may have passed on in between
                if owner in alive and not self.facts[state.nodes[owner]].live:
                    return "unsafe"
        if any(len(one) > MOST_WAITING for one in state.channels):
            return "noise"
        if any(state.channels) or state.news or state.graces:
            return None
        if leaver.gone and any(self.party(state, index).owner(REF) == LIVES[OWNER] for index in holding):
            return "orphan"
        needed = any(self.facts[state.nodes[index]].running for index in alive) or OWNER in holding
        if OWNER in alive and leaver.bequest is not None and not leaver.bequest.done and not needed:
            return "stuck"
        if not holding and not all(self.facts[state.nodes[index]].quiet for index in alive):
            idle = not any(self.facts[state.nodes[i]].local or self.facts[state.nodes[i]].running for i in alive)
            return "leak" if idle else None
        return None


def posts(instructions: list[Instruction]) -> Iterator[tuple[int, Message]]:
    for instruction in instructions:
        if instruction[0] == "send":
            _, peer, verb, _, asof = instruction
            assert isinstance(peer, bytes)
            yield LIVES.index(peer), (verb, asof)


class Impatient(Bequest):
    """A mutant: goes as soon as the estate is on its way."""

    @property
    def done(self) -> bool:
        return self.state in ("handing", "moved", "alone")


class LetsGo(Estate):
    """A mutant: what is being handed over is not held until the heir has answered."""

    def bequeath(self, ids: Any) -> None:
        pass

    def inherited(self, heir: bytes) -> list[Instruction]:
        own = self._ownership
        self._handing = tuple(id for id in [REF] if id in own._records)
        for id in self._handing:
            own._records[id].inside += 1
        return super().inherited(heir)


class AsksOnce(Estate):
    """A mutant: whoever had asked the leaver to be listed waits for its answer."""

    def moved(self, life: bytes, heir: bytes) -> list[Instruction]:
        return [one for one in super().moved(life, heir) if one[0] != "send" or one[2] != "borrow"]


class ForgetsTheLeaver(Estate):
    """A mutant: the heir does not list the leaver."""

    def inherit(self, leaver: bytes, ids: Any) -> list[Instruction]:
        following = super().inherit(leaver, ids)
        for id in ids:
            self._ownership._records[id].lent.pop(leaver)  # type: ignore[union-attr]
        return following


class TellsTooEarly(Bequest):
    """A mutant: tells all others of the heir before that one has answered."""

    def _hand_over(self) -> list[Step]:
        assert self.heir is not None
        return [*super()._hand_over(), ("moved", self.heir)]


def with_mutant(estate: type[Estate] = Estate, bequest: type[Bequest] = Bequest) -> Callable[[bytes], Ownership]:
    class Mutant(Party):
        estate_class = estate
        bequest_class = bequest

    return Mutant


WORLDS = {
    "three nodes, two gives": Leaving(gives=2),
    "three nodes, one give, one crash of whomever": Leaving(gives=1, crashes=1, owner_may_crash=True),
    "four nodes, one give": Leaving(nodes=4, gives=1),
}
WIDE = {
    "three nodes, three gives": Leaving(gives=3),
    "three nodes, two gives, one crash of whomever": Leaving(gives=2, crashes=1, owner_may_crash=True),
    "four nodes, two gives": Leaving(nodes=4, gives=2),
}
MUTANTS = {
    "goes without waiting": (Leaving(gives=1, machine=with_mutant(bequest=Impatient)), {"orphan", "lost"}),
    "does not hold what it hands over": (
        Leaving(gives=2, machine=with_mutant(estate=LetsGo)),
        {"unsafe", "lost", "leak"},
    ),
    "does not ask again": (Leaving(gives=2, machine=with_mutant(estate=AsksOnce)), {"stuck", "leak", "orphan"}),
    "the heir does not list the leaver": (
        Leaving(gives=1, machine=with_mutant(estate=ForgetsTheLeaver)),
        {"unsafe", "lost"},
    ),
    "tells too early": (Leaving(gives=1, machine=with_mutant(bequest=TellsTooEarly)), {"unsafe", "lost"}),
}


@pytest.mark.parametrize("name", WORLDS)
def test_every_interleaving_is_safe_and_the_leaver_gets_away(name: str) -> None:
    result = DrainExplorer(WORLDS[name]).run()
    print(f"{name}: {result.what}, {result.states} states")
    assert result.what == "ok", "\n".join(result.trace)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not FULL, reason="takes minutes: set ACTORFW_MODEL=full")
@pytest.mark.parametrize("name", WIDE)
def test_wider_bounds(name: str) -> None:
    result = DrainExplorer(WIDE[name]).run()
    print(f"{name}: {result.what}, {result.states} states")
    assert result.what == "ok", "\n".join(result.trace)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_mistake_is_found(name: str) -> None:
    world, expected = MUTANTS[name]
    result = DrainExplorer(world).run()
    assert result.what in expected, f"{result.what} after {result.states} states"
    assert result.trace
