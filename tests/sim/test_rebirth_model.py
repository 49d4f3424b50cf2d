"""Lives that have buried one another meet: random schedules of dials, crossing handshakes, gossip and crashes after a
split has healed, with the real decisions of `core.rebirth`. `ACTORFW_MODEL=full` runs many more schedules.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import pytest

from actorfw.core.rebirth import Contest, Side, View

FULL = os.environ.get("ACTORFW_MODEL") == "full"
SCHEDULES = 300 if FULL else 15


class Life(NamedTuple):
    """One life of a node; also what stands for its bytes, see `key`."""

    node: int
    number: int

    @property
    def key(self) -> bytes:
        return bytes((self.node, self.number))


@dataclass(frozen=True)
class Rules:
    """What the model does where the mutants differ."""

    contest: bool = True  # crossing handshakes are told apart
    forgets: bool = True  # a new life holds no tombstones
    one_sided: bool = True  # one tombstone is enough for a rebirth
    tie_break: bool = True  # of two equal views one is the lighter
    newcomers_inherit: bool = False  # gossip hands old tombstones to newcomers
    tells_lives_apart: bool = True  # of two lives of a node the newer is known by its number
    sided: bool = False  # each side decides for itself, by its figures of the moment


class Broken(AssertionError):
    """A promise does not hold."""


@dataclass
class Node:
    life: Life
    born: float
    view: dict[Life, float] = field(default_factory=dict)  # members and when they were born
    tombs: set[Life] = field(default_factory=set)
    over: set[Life] = field(default_factory=set)  # of these it has proof that they ended: they are not argued with
    contest: Contest = field(init=False)

    def __post_init__(self) -> None:
        self.contest = Contest(self.life.key)
        self.view[self.life] = self.born

    def has_newer(self, life: Life) -> bool:
        """Whether it knows that a life is over."""
        newer = (one for one in (*self.view, *self.tombs) if one.node == life.node and one.number > life.number)
        return life in self.over or any(newer)

    def side(self, other: Life) -> Side:
        buried = 1.0 if other in self.tombs else None
        return Side(self.life.key, View.of(self.view.values()), buried)


@dataclass(frozen=True)
class Message:
    kind: str  # "offer" | "answer"
    writer: Life
    reader: Life
    said: Side
    decision: str = ""


class World:
    """Nodes that meet. Burials stand in `buried` at the beginning; nothing buries a living node afterwards."""

    def __init__(self, rng: random.Random, sides: list[list[int]], rules: Rules) -> None:
        self.rng = rng
        self.rules = rules
        self.now = 0.0
        births = list(range(sum(map(len, sides))))
        rng.shuffle(births)
        self.nodes = {i: Node(Life(i, 0), float(births[i])) for side in sides for i in side}
        self.born = {node.life: node.born for node in self.nodes.values()}
        for side in sides:
            for a in side:
                for b in side:
                    self.nodes[a].view[self.nodes[b].life] = self.nodes[b].born
        self.flying: list[Message] = []
        self.crashed: set[int] = set()
        self.reborn: list[Life] = []
        self.because: set[tuple[Life, Life]] = set()  # (who was reborn, for whose sake)

    def bury(self, who: Iterable[int], whom: Iterable[int]) -> None:
        for a in who:
            for b in whom:
                life = self.nodes[b].life
                self.nodes[a].tombs.add(life)
                self.nodes[a].view.pop(life, None)

    # -- what happens ----------------------------------------------------------------------------------------------

    def alive(self, life: Life) -> Node | None:
        node = self.nodes[life.node]
        return node if node.life == life and life.node not in self.crashed else None

    def ended(self, node: Node, life: Life) -> None:
        """It has the proof that a life is over."""
        if life != node.life:
            node.view.pop(life, None)
            node.tombs.add(life)
            node.over.add(life)

    def rebirth(self, node: Node, by: Life) -> None:
        old = node.life
        if (by, old) in self.because:
            raise Broken(f"{old} and {by} were both reborn, each for the other's sake")
        self.because.add((old, by))
        self.reborn.append(old)
        self.now += 1
        tombs = set() if self.rules.forgets else node.tombs
        self.born[Life(old.node, old.number + 1)] = 100 + self.now
        made = Node(Life(old.node, old.number + 1), 100 + self.now, tombs=tombs)
        self.nodes[old.node] = made

    def dial(self, a: int, b: int) -> None:
        """A node dials an address; who answers there is proof that older lives of that node are over."""
        node, there = self.nodes[a], self.nodes[b].life
        for life in [life for life in node.view if life.node == b and life != there]:
            self.ended(node, life)
        if b in self.crashed:
            return
        if not node.contest.offering(there.key) and self.rules.contest:
            return
        self.flying.append(Message("offer", node.life, there, node.side(there)))

    def decide(self, node: Node, said: Side, own: Side) -> str:
        rules = self.rules
        if not rules.one_sided and (said.buried is None or own.buried is None):
            return "meet"
        both = said.buried is not None and own.buried is not None
        if not rules.tie_break and both and said.view.alive == own.view.alive:
            return "both"
        if not rules.contest:
            return Contest(own.life).accepted(said, own, self.now)
        return node.contest.accepted(said, own, self.now)

    def deliver(self, message: Message) -> None:
        node = self.alive(message.reader)
        if message.kind == "offer":
            self.offered(node, message)
        elif node is not None:
            self.answered(node, message)

    def offered(self, node: Node | None, message: Message) -> None:
        # The connection went with the life; or what a life has said is read when it is over.
        over = node is not None and (
            message.writer in node.over or (self.rules.tells_lives_apart and node.has_newer(message.writer))
        )
        if node is None or over:
            self.flying.append(Message("answer", message.reader, message.writer, message.said, "lost"))
            return
        own = node.side(message.writer)
        decision = self.decide(node, message.said, own)
        if decision == "meet" and message.writer not in node.tombs:
            self.met(node, message.writer)
        self.flying.append(Message("answer", node.life, message.writer, own, decision))
        if decision in ("acceptor", "both"):
            self.rebirth(node, message.writer)

    def answered(self, node: Node, message: Message) -> None:
        by = message.writer
        node.contest.answered(by.key)
        decision = message.decision
        if self.rules.sided and decision in ("acceptor", "dialler"):
            # Its own figures as they are now, and not what it said.
            now = Contest(node.life.key).accepted(node.side(by), message.said, self.now)
            decision = now if now != "meet" else decision
        if decision == "meet":
            if by not in node.tombs and not (node.has_newer(by) and self.rules.tells_lives_apart):
                self.met(node, by)
        elif decision == "acceptor":
            self.ended(node, by)
        elif decision in ("dialler", "both") and (not self.rules.contest or node.contest.obeys(by.key, self.now)):
            self.rebirth(node, by)

    def met(self, node: Node, life: Life) -> None:
        for older in [one for one in node.view if one.node == life.node and one != life]:
            self.ended(node, older)
        node.view[life] = self.born[life]

    def gossip(self, a: int, b: int) -> None:
        """A hears of B's members; it takes over those that it has not buried."""
        one, two = self.nodes[a], self.nodes[b]
        if two.life not in one.view or one.life not in two.view:
            return
        for life, born in list(two.view.items()):
            newest = max((known.number for known in [*one.view, *one.tombs] if known.node == life.node), default=-1)
            if life not in one.tombs and life.number >= newest:
                for older in [known for known in one.view if known.node == life.node and known != life]:
                    self.ended(one, older)
                one.view[life] = born
        if self.rules.newcomers_inherit and one.life.number:
            for life in two.tombs - {one.life}:
                one.tombs.add(life)
                one.view.pop(life, None)

    # -- running it ------------------------------------------------------------------------------------------------

    def step(self) -> None:
        rng = self.rng
        living = [i for i in self.nodes if i not in self.crashed]
        roll = rng.random()
        if self.flying and roll < 0.5:
            self.deliver(self.flying.pop(rng.randrange(len(self.flying))))
        elif roll < 0.75:
            a, b = rng.sample(list(self.nodes), 2)
            if a in living:
                self.dial(a, b)
        else:
            a, b = rng.sample(list(self.nodes), 2)
            if a in living and b in living:
                self.gossip(a, b)

    def crash(self, index: int) -> None:
        self.crashed.add(index)
        for node in self.nodes.values():
            life = self.nodes[index].life
            if life in node.view and node.life != life and self.rng.random() < 0.5:
                self.ended(node, life)

    def quiet(self) -> None:
        """Everybody dials everybody until nothing changes, whatever the order."""
        for _ in range(12):
            pairs = [(a, b) for a in self.nodes for b in self.nodes if a != b and a not in self.crashed]
            self.rng.shuffle(pairs)
            for a, b in pairs:
                if b in self.crashed:
                    for life in [one for one in self.nodes[a].view if one.node == b]:
                        self.ended(self.nodes[a], life)
                self.dial(a, b)
                while self.flying:
                    self.deliver(self.flying.pop(0))
                if b not in self.crashed:
                    self.gossip(a, b)

    def check(self) -> None:
        living = {node.life for i, node in self.nodes.items() if i not in self.crashed}
        for life in living:
            node = self.nodes[life.node]
            for other in living:
                if other in node.tombs:
                    raise Broken(f"{life} holds a tombstone of {other}, and both live")
            if set(node.view) != living:
                raise Broken(f"the view of {life} is {sorted(node.view)}, alive are {sorted(living)}")
        numbers = [life.node for life in self.reborn]
        if len(numbers) != len(set(numbers)):
            raise Broken(f"reborn more than once: {self.reborn}")


def run(seed: int, sides: list[list[int]], arrange: Callable[[World], None], rules: Rules = Rules()) -> World:
    world = World(random.Random(seed), sides, rules)
    arrange(world)
    for _ in range(world.rng.choice((0, 5, 20, 100))):
        world.step()
    world.quiet()
    world.check()
    return world


def both_ways(world: World, sides: list[list[int]]) -> None:
    for side in sides:
        for other in sides:
            if side is not other:
                world.bury(side, other)


def split(sizes: tuple[int, int], seed: int, rules: Rules = Rules()) -> None:
    """A split in two, each side of which has buried the other: the lighter side is reborn, and nobody else."""
    first = list(range(sizes[0]))
    second = list(range(sizes[0], sum(sizes)))
    sides = [first, second]
    world = run(seed, sides, lambda world: both_ways(world, sides), rules)
    gone = {life.node for life in world.reborn}
    lighter = [set(sorted(sides, key=len)[0])] if sizes[0] != sizes[1] else [set(first), set(second)]
    if gone not in lighter:
        raise Broken(f"reborn are {sorted(gone)}, of the sides {sides}")


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (4, 1)])
def test_of_a_split_the_lighter_side_is_reborn(sizes: tuple[int, int]) -> None:
    for seed in range(SCHEDULES):
        split(sizes, seed)


@pytest.mark.parametrize("buried", [[0], [0, 1], [3, 4]])
def test_of_one_sided_burials_the_buried_are_reborn(buried: list[int]) -> None:
    """They were frozen and thaw: they have buried nobody, and their views are as they were."""
    for seed in range(SCHEDULES):
        rest = [i for i in range(5) if i not in buried]
        world = run(seed, [list(range(5))], lambda world, rest=rest: world.bury(rest, buried))  # type: ignore[misc]
        assert {life.node for life in world.reborn} == set(buried)


def test_any_burials_at_all_end_in_one_cluster() -> None:
    """Chains, circles, overlapping partitions, some nodes crash for good in the middle of it."""
    for seed in range(SCHEDULES * 4):
        rng = random.Random(seed)
        count = rng.choice((2, 3, 4, 5))

        def arrange(world: World, rng: random.Random = rng, count: int = count) -> None:
            for a in range(count):
                for b in range(count):
                    if a != b and rng.random() < 0.4:
                        world.bury([a], [b])
            for index in range(count):
                if rng.random() < 0.1 and len(world.crashed) < count - 1:
                    world.crash(index)

        run(seed, [list(range(count))], arrange)


def crossing(seed: int, rules: Rules = Rules()) -> None:
    """Two handshakes of the same two nodes cross while their views change: never are both reborn."""
    rng = random.Random(seed)
    world = World(rng, [[0, 1, 2], [3, 4, 5]], rules)
    both_ways(world, [[0, 1, 2], [3, 4, 5]])
    for _ in range(40):
        roll = rng.random()
        if roll < 0.25:
            world.dial(0, 3)
        elif roll < 0.5:
            world.dial(3, 0)
        elif roll < 0.6:
            # A member of one side ends, and only that side's contestant has noticed.
            node = world.nodes[rng.choice((0, 3))]
            others = [life for life in node.view if life != node.life]
            if others:
                node.view.pop(rng.choice(others))
        elif world.flying:
            world.deliver(world.flying.pop(rng.randrange(len(world.flying))))


def test_crossing_handshakes_do_not_have_both_reborn() -> None:
    for seed in range(SCHEDULES * 10):
        crossing(seed)


def caught(check: Callable[[int], object], seeds: int) -> bool:
    for seed in range(seeds):
        try:
            check(seed)
        except Broken:
            return True
    return False


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        pytest.param(
            {"forgets": False}, lambda seed, rules: split((3, 2), seed, rules), id="tombstones outlive a life"
        ),
        pytest.param({"one_sided": False}, lambda seed, rules: one_way(seed, rules), id="one tombstone is overlooked"),
        pytest.param({"tie_break": False}, lambda seed, rules: split((2, 2), seed, rules), id="equals are both reborn"),
        pytest.param(
            {"newcomers_inherit": True},
            lambda seed, rules: split((3, 2), seed, rules),
            id="newcomers take over burials",
        ),
        pytest.param(
            {"tells_lives_apart": False}, lambda seed, rules: split((2, 2), seed, rules), id="an old life's last words"
        ),
        pytest.param({"contest": False}, lambda seed, rules: crossing(seed, rules), id="crossing handshakes"),
        pytest.param({"sided": True}, lambda seed, rules: crossing(seed, rules), id="each side decides for itself"),
    ],
)
def test_the_model_catches(broken: dict[str, bool], check: Callable[[int, Rules], None]) -> None:
    rules = replace(Rules(), **broken)
    assert caught(lambda seed: check(seed, rules), 2000)


def one_way(seed: int, rules: Rules) -> None:
    run(seed, [[0, 1, 2]], lambda world: world.bury([1, 2], [0]), rules)
