"""`Chase` in worlds that stand still, and in worlds that go on while it asks."""

from __future__ import annotations

import random
from typing import Any

import pytest

from actorfw.core.deadlock import ROOT, Ask, CallKey, Chase, Found, Lost, Turn, Wait


def call(number: int) -> CallKey:
    return (b"life", number)


class World:
    """Actors with one turn each. A turn computes, or waits for calls; a call waits for its actor's turn.

    `turns`: by actor, (number of the turn, calls that it waits for); absent: idle or computing.
    `target`: the actor of each pending call.
    """

    def __init__(self) -> None:
        self.turns: dict[int, tuple[int, list[int]]] = {}
        self.target: dict[int, int] = {}

    def answer(self, ask: Ask) -> list[Turn] | None:
        actor = ask.wait.where
        number = ask.wait.call[1]
        if ask.wait.call != ROOT and self.target.get(number) != actor:
            return None
        found = self.turns.get(actor)
        if found is None or not found[1]:
            return None
        waits = tuple(Wait(call(one), self.target[one]) for one in sorted(found[1]))
        return [Turn(call(found[0]), f"actor {actor}", waits)]

    def stuck(self) -> set[int]:
        """The actors whose turns can never go on, by the definition: nothing that could go on is left out."""
        stuck = {actor for actor, (_, waits) in self.turns.items() if waits}
        while True:
            free = {actor for actor in stuck if any(self.target[one] not in stuck for one in self.turns[actor][1])}
            if not free:
                return stuck
            stuck -= free


def chase(world: World, actor: int, chance: random.Random | None = None) -> Found | Lost:
    machine = Chase(actor)
    waiting: list[Any] = machine.begin()
    while True:
        one = waiting.pop(chance.randrange(len(waiting)) if chance is not None else 0)
        if not isinstance(one, Ask):
            assert machine.over
            return one  # type: ignore[no-any-return]
        waiting += machine.heard(one.wait.call, world.answer(one))


def ring(size: int) -> World:
    world = World()
    for at in range(size):
        world.turns[at] = (1000 + at, [at])
        world.target[at] = (at + 1) % size
    return world


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_a_ring_is_found_from_everywhere_and_fails_in_the_same_place(size: int) -> None:
    world = ring(size)
    found = {chase(world, at) for at in range(size)}
    assert found == {Found(call(0), tuple(f"actor {at}" for at in range(size)))}


def test_who_only_waits_for_a_ring_is_not_part_of_it() -> None:
    world = ring(3)
    world.turns[7] = (1007, [-5])  # its call is the least of all
    world.target[-5] = 1
    assert chase(world, 7) == Found(call(0), ("actor 0", "actor 1", "actor 2"))


def test_a_turn_that_computes_is_no_deadlock() -> None:
    world = ring(3)
    world.turns[1] = (1001, [])
    assert all(chase(world, at) == Lost() for at in range(3))
    del world.turns[1]
    assert all(chase(world, at) == Lost() for at in range(3))


def test_one_of_several_calls_that_may_end_is_a_way_out() -> None:
    world = ring(2)
    world.turns[0] = (1000, [0, 5])
    world.target[5] = 9
    assert chase(world, 0) == Lost()
    world.turns[9] = (1009, [6])
    world.target[6] = 0  # now that one waits for the circle as well
    assert isinstance(chase(world, 0), Found)


def test_two_circles_behind_one_turn_each_lose_one_call() -> None:
    world = World()
    for at, other in ((1, 2), (2, 1), (3, 4), (4, 3)):
        world.turns[at] = (1000 + at, [at])
        world.target[at] = other
    world.turns[0] = (1000, [10, 11])
    world.target |= {10: 1, 11: 3}
    assert chase(world, 0) == Found(call(1), ("actor 1", "actor 2"))
    assert chase(world, 3) == Found(call(3), ("actor 3", "actor 4"))


def test_what_runs_is_not_made_to_fail() -> None:
    """Actor 0 calls 1, whose run calls 0: the call of 1 runs, the one of 0 waits."""
    world = World()
    world.turns = {0: (1000, [1]), 1: (1, [2])}
    world.target = {1: 1, 2: 0}
    assert chase(world, 0) == chase(world, 1) == Found(call(2), ("actor 1", "actor 0"))


def test_a_change_between_the_rounds_is_noticed() -> None:
    world = ring(2)
    machine = Chase(0)
    asked = 0
    waiting: list[Any] = machine.begin()
    while isinstance(waiting[0], Ask):
        ask = waiting.pop(0)
        asked += 1
        if asked == 4:  # the second round: actor 0 has gone on, and waits anew
            world.turns[0] = (1050, [50])
            world.target[50] = 1
        waiting += machine.heard(ask.wait.call, world.answer(ask))
    assert waiting == [Lost()]
    assert machine.heard(ROOT, None) == []


def test_a_chase_gives_up_on_endless_chains() -> None:
    world = World()
    for at in range(3000):
        world.turns[at] = (10_000 + at, [at])
        world.target[at] = at + 1
    assert chase(world, 0) == Lost()


@pytest.mark.parametrize("seed", range(10))
def test_random_worlds_that_stand_still(seed: int) -> None:
    """What is found is stuck, and whoever is stuck is told of a circle."""
    chance = random.Random(seed)
    for _ in range(50):
        world = World()
        actors = chance.randint(1, 8)
        number = 0
        for actor in range(actors):
            if chance.random() < 0.8:
                waits = []
                for _ in range(chance.choice((0, 1, 1, 1, 1, 2, 3))):
                    world.target[number] = chance.randrange(actors)
                    waits.append(number)
                    number += 1
                world.turns[actor] = (1000 + actor, waits)
        stuck = world.stuck()
        victims: set[CallKey] = set()
        for actor in range(actors):
            found = chase(world, actor, chance)
            assert isinstance(found, Found) == (actor in stuck)
            if isinstance(found, Found):
                victims.add(found.victim)
                assert any(found.victim[1] in waits for a, (_, waits) in world.turns.items() if a in stuck)
        # Each victim is in a knot of its own: who waits for one does not depend on another.
        owners = {one: next(a for a, (_, w) in world.turns.items() if one[1] in w) for one in victims}
        assert len(set(owners.values())) == len(victims)


class Living(World):
    """Actors that call each other at random, one event at a time; whoever is not stuck may go on at any moment."""

    def __init__(self, chance: random.Random, actors: int) -> None:
        super().__init__()
        self.chance = chance
        self.actors = actors
        self.boxes: dict[int, list[int]] = {actor: [] for actor in range(actors)}
        self.running: dict[int, int] = {}
        self.numbers = 0

    def _call(self, to: int) -> int:
        self.numbers += 1
        self.target[self.numbers] = to
        self.boxes[to].append(self.numbers)
        return self.numbers

    def event(self) -> None:
        chance = self.chance
        if chance.random() < 0.15:
            self._call(chance.randrange(self.actors))  # from outside
        actor = chance.randrange(self.actors)
        turn = self.turns.get(actor)
        if turn is None:
            if self.boxes[actor]:
                one = self.boxes[actor].pop(0)
                self.running[actor] = one
                self.turns[actor] = (one, [])
            return
        number, waits = turn
        if not all(one in self.target for one in waits) or not waits:
            if chance.random() < 0.4:
                several = chance.choice((1, 1, 2))
                self.turns[actor] = (number, [self._call(chance.randrange(self.actors)) for _ in range(several)])
            else:
                del self.turns[actor], self.running[actor]
                self.target.pop(number, None)

    def fail(self, victim: int) -> None:
        """The call fails: whoever waits for it goes on, and its own run, if there is one, goes on unheard."""
        self.target.pop(victim, None)
        for box in self.boxes.values():
            if victim in box:
                box.remove(victim)

    def answer(self, ask: Ask) -> list[Turn] | None:
        found = self.turns.get(ask.wait.where)
        if found is not None and any(one not in self.target for one in found[1]):
            return None
        return super().answer(ask)

    def stuck(self) -> set[int]:
        stuck = {a for a, (_, w) in self.turns.items() if w and all(one in self.target for one in w)}
        while True:
            free = {actor for actor in stuck if any(self.target[one] not in stuck for one in self.turns[actor][1])}
            if not free:
                return stuck
            stuck -= free

    def in_circle(self) -> set[int]:
        """The stuck actors on whom everything depends that they depend on."""
        stuck = self.stuck()
        after = {actor: {self.target[one] for one in self.turns[actor][1]} for actor in stuck}
        for _ in after:
            after = {actor: some.union(*(after[one] for one in some)) for actor, some in after.items()}
        return {actor for actor in stuck if all(actor in after[other] for other in after[actor])}


def live(seed: int, machine_class: type[Chase]) -> str:
    """Chases beside each other, each answer of another moment. What goes wrong, or ""."""
    chance = random.Random(seed)
    world = Living(chance, 5)
    chases: list[tuple[Chase, list[Any]]] = []
    reports = 0
    for _ in range(2000):
        world.event()
        if chance.random() < 0.3:
            machine = machine_class(chance.randrange(5))
            chases.append((machine, machine.begin()))
        if not chases:
            continue
        at = chance.randrange(len(chases))
        machine, waiting = chases[at]
        one = waiting.pop(0)
        if isinstance(one, Ask):
            waiting += machine.heard(one.wait.call, world.answer(one))
            continue
        chases.pop(at)
        if isinstance(one, Found) and one.victim[1] in world.target:
            reports += 1
            (holder,) = (a for a, (_, w) in world.turns.items() if one.victim[1] in w)
            if holder not in world.stuck():
                return "a false report"
            if holder not in world.in_circle():
                return "a call fails that only waits for a circle"
            if one.victim[1] in world.running.values():
                return "a call fails that runs"
            world.fail(one.victim[1])
    for _ in range(20):
        for actor in range(5):
            found = chase(world, actor)
            if isinstance(found, Found):
                world.fail(found.victim[1])
    if world.stuck():
        return "a circle stays"
    return "" if reports else "nothing was found"


class GreedyChase(Chase):
    """The planted bug: any call that something waits for may be chosen, not only those of a circle."""

    __slots__ = ()

    def _choose(self) -> Found | Lost:
        victim = max(one for one in self._now if all(turn.key != one for turn in self._now[one]))
        return Found(victim, ())


class CredulousChase(Chase):
    """The planted bug: of several calls, one that is stuck is enough."""

    __slots__ = ()

    def heard(self, call: CallKey, turns: Any) -> list[Any]:
        return super().heard(call, [Turn(turn.key, turn.name, turn.waits[:1]) for turn in turns or ()])


@pytest.mark.parametrize("seed", range(12))
def test_random_worlds_that_go_on(seed: int) -> None:
    assert live(seed, Chase) == ""


@pytest.mark.parametrize(
    ("machine", "says"),
    [(GreedyChase, "only waits"), (CredulousChase, "a false report")],
)
def test_planted_bugs_are_found(machine: type[Chase], says: str) -> None:
    assert any(says in live(seed, machine) for seed in range(100))
