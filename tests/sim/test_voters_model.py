"""Leases by voters as a model: never two keepers of one shard at one time, whatever crashes, restarts and clocks do.

Nodes have clocks that run up to 8 % wrong, crash and come back with no memory, freeze, and are cut off from each other;
messages of one pair of lives arrive in order, often late. Who should keep a shard is not modelled: nodes want shards at
random, several at a time and with old tokens, which is worse than what hand-over and recovery do to them.
"""

from __future__ import annotations

import heapq
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack
import pytest

from actorfw.core.leases import Leases
from actorfw.core.voters import Voter

FULL = os.environ.get("ACTORFW_MODEL") == "full"
SEEDS = 800 if FULL else 40
MUTANT_SEEDS = 400

SHARDS = (0, 1)
CHAOS = 90.0
TICK = 0.25
QUESTIONS = ("prepare", "accept", "copy", "copied")


class Violation(AssertionError):
    """The model found a state that must not exist."""


@dataclass
class Weather:
    """What one seed draws."""

    voters: int
    others: int
    crashes: int
    together: bool  # all crashes at once
    partitions: int
    freezes: int
    slow: float  # share of messages that come up to 6 s late
    skew: float
    greed: float  # seconds between two nodes' wishes
    victim: bool = False  # only one voter crashes, again and again, and is back at once

    @classmethod
    def draw(cls, rng: random.Random) -> Weather:
        return cls(
            voters=rng.choice((3, 3, 5)),
            others=rng.choice((0, 1, 2)),
            crashes=rng.choice((0, 2, 6, 15)),
            together=rng.random() < 0.2,
            partitions=rng.choice((0, 1, 4)),
            freezes=rng.choice((0, 0, 3)),
            slow=rng.choice((0.0, 0.02, 0.2)),
            skew=rng.choice((0.0, 0.08)),
            greed=rng.choice((0.5, 3.0)),
            victim=rng.random() < 0.3,
        )


@dataclass
class Node:
    name: str
    life: bytes
    rate: float
    offset: float
    leases: Leases
    voter: Voter | None
    gone: bool = False
    frozen: float = 0.0
    wants: dict[int, int] = field(default_factory=dict[int, int])


class Model:
    """One run; the classes of its machines can be mutants."""

    def __init__(
        self,
        seed: int,
        voter: type[Voter] = Voter,
        leases: type[Leases] = Leases,
        weather: Weather | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.weather = replace(weather) if weather is not None else Weather.draw(self.rng)
        self.voter_class, self.leases_class = voter, leases
        self.now = 0.0
        self.heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.count = 0
        self.last: dict[tuple[bytes, bytes], float] = {}
        self.names = [f"v{i}" for i in range(self.weather.voters)]
        self.nodes: dict[str, Node] = {}
        self.lives: dict[bytes, Node] = {}
        self.cut: set[str] = set()
        self.held: list[tuple[str, str, bytes]] = []  # messages between the sides of a partition
        self.served = dict.fromkeys(SHARDS, (-1, b""))  # the latest version that was served, and by whom
        self.began = False
        self.forgot = False  # a majority of voters lost its memory at one time
        self.versions = 0
        self.leased = 0

    def at(self, time: float, do: Callable[..., None], *args: Any) -> None:
        self.count += 1
        heapq.heappush(self.heap, (time, self.count, do, args))

    def run(self, until: float) -> None:
        while self.heap and self.heap[0][0] <= until:
            self.now, _, do, args = heapq.heappop(self.heap)
            do(*args)
            self.check()
        self.now = until

    def clock(self, node: Node) -> float:
        return node.offset + self.now * node.rate

    def check(self) -> None:
        for shard in SHARDS:
            serving = [
                node
                for node in self.nodes.values()
                if not node.gone and shard in node.wants and node.leases.may_serve(shard, self.clock(node))
            ]
            if len(serving) > 1:
                raise Violation(f"shard {shard} is served by {[node.name for node in serving]} at {self.now:.3f}")
            if serving:
                version, life = serving[0].wants[shard], serving[0].life
                latest, by = self.served[shard]
                if version < latest and life != by and not self.forgot:
                    raise Violation(f"shard {shard} is served from version {version} after {latest}")
                self.served[shard] = (max(version, latest), life)
        voting = sum(node.voter is not None and not node.gone and node.voter.votes for node in self.nodes.values())
        self.began = self.began or voting == self.weather.voters
        self.forgot = self.forgot or (self.began and voting <= self.weather.voters // 2)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        rng = self.rng
        life = rng.randbytes(16)
        rate = 1.0 + rng.choice((-1.0, 0.0, 1.0)) * self.weather.skew
        offset = rng.uniform(0.0, 1000.0)
        born = self.now + rng.choice((0.0, 0.0, -20.0))  # a wall clock that was set back
        leases = self.leases_class(life, self.names, random.Random(rng.random()))
        node = Node(name, life, rate, offset, leases, None)
        if name in self.names:
            node.voter = self.voter_class(name, life, self.names, born, self.clock(node))
        self.nodes[name] = self.lives[life] = node
        self.at(self.now + rng.random() * TICK, self.tick, node)
        for other in self.nodes.values():
            self.at(self.now + rng.uniform(0.0, 0.05 if self.weather.victim else 1.0), self.learn, other)

    def learn(self, node: Node) -> None:
        """A node hears which lives the voters have."""
        if node.gone:
            return
        known = {name: other.life for name, other in self.nodes.items() if name in self.names and not other.gone}
        self.apply(node, node.leases.lives(known, self.clock(node)))
        if node.voter is not None:
            self.apply(node, node.voter.lives(known, self.clock(node)))

    def tick(self, node: Node) -> None:
        if node.gone:
            return
        if node.frozen <= self.now:
            self.apply(node, node.leases.tick(self.clock(node)))
            if node.voter is not None:
                self.apply(node, node.voter.tick(self.clock(node)))
        # After a freeze messages may come before timers.
        later = node.frozen + self.rng.uniform(0.0, 0.1) if node.frozen > self.now else 0.0
        self.at(max(self.now + TICK / node.rate, later), self.tick, node)

    def crash(self, name: str) -> None:
        node = self.nodes[name]
        if not node.gone:
            node.gone = True
            pause = 0.01 if self.weather.victim else self.rng.choice((0.01, 0.5, 3.0, 15.0))
            self.at(self.now + pause, self.start, name)

    def freeze(self, name: str) -> None:
        self.nodes[name].frozen = self.now + self.rng.choice((1.0, 5.0, 12.0))

    def partition(self, side: set[str]) -> None:
        self.cut = side
        self.at(self.now + self.rng.choice((2.0, 12.0, 25.0)), self.heal)

    def heal(self) -> None:
        self.cut = set()
        held, self.held = self.held, []
        for sender, to, packed in held:
            self.transmit(self.lives[bytes.fromhex(sender)], bytes.fromhex(to), packed)

    def wish(self) -> None:
        """Some node gets or loses a token, with a version that may be old."""
        rng = self.rng
        node = rng.choice([node for node in self.nodes.values() if not node.gone] or [next(iter(self.nodes.values()))])
        shard = rng.choice(SHARDS)
        if shard in node.wants:
            del node.wants[shard]
        else:
            self.versions += rng.choice((0, 1))
            node.wants[shard] = max(0, self.versions - rng.choice((0, 0, 0, 2)))
        if not node.gone:
            self.apply(node, node.leases.hold(dict(node.wants), self.clock(node)))
        self.at(self.now + rng.expovariate(1 / self.weather.greed), self.wish)

    # -- messages ------------------------------------------------------------------------------------------------------

    def apply(self, node: Node, instructions: list[tuple[Any, ...]]) -> None:
        for instruction in instructions:
            if instruction[0] == "send":
                self.transmit(node, instruction[1], msgpack.packb(instruction[2]))
            elif instruction[0] == "leased":
                self.leased += 1
            elif instruction[0] == "outdated" and instruction[1] in node.wants:
                del node.wants[instruction[1]]
                self.apply(node, node.leases.hold(dict(node.wants), self.clock(node)))

    def transmit(self, node: Node, to: bytes, packed: bytes) -> None:
        rng = self.rng
        if (node.name in self.cut) != (self.lives[to].name in self.cut) and self.cut:
            self.held.append((node.life.hex(), to.hex(), packed))
            return
        late = rng.random() < self.weather.slow
        delay = rng.uniform(0.5, 6.0) if late else rng.uniform(0.0005, 0.02)
        time = self.last[node.life, to] = max(self.last.get((node.life, to), 0.0), self.now + delay)
        self.at(time, self.deliver, node.life, to, packed)

    def deliver(self, sender: bytes, to: bytes, packed: bytes) -> None:
        node = self.lives[to]
        if node.gone:
            return
        if node.frozen > self.now:
            self.at(node.frozen, self.deliver, sender, to, packed)
            return
        message = msgpack.unpackb(packed)
        if message[0] in QUESTIONS:
            if node.voter is not None:
                self.apply(node, node.voter.message(sender, message, self.clock(node)))
        else:
            self.apply(node, node.leases.message(sender, message, self.clock(node)))

    # -- a run ---------------------------------------------------------------------------------------------------------

    def play(self) -> Model:
        rng, weather = self.rng, self.weather
        everybody = [*self.names, *(f"o{i}" for i in range(weather.others))]
        for name in everybody:
            self.start(name)
        shock = rng.uniform(20.0, 60.0)
        for _ in range(weather.crashes):
            when = shock + rng.random() * 0.2 if weather.together else rng.uniform(5.0, CHAOS)
            self.at(when, self.crash, "v0" if weather.victim else rng.choice(everybody))
        for _ in range(weather.partitions):
            side = set(rng.sample(everybody, rng.randint(1, len(everybody) - 1)))
            self.at(rng.uniform(12.0, CHAOS), self.partition, side)
        for _ in range(weather.freezes):
            self.at(rng.uniform(12.0, CHAOS), self.freeze, rng.choice(everybody))
        self.at(11.0, self.wish)
        self.run(CHAOS)
        self.settle()
        return self

    def settle(self) -> None:
        """Nothing happens any more, and one node alone wants all shards: it gets them."""
        self.heap = [event for event in self.heap if event[2] in (self.deliver, self.tick, self.start, self.learn)]
        heapq.heapify(self.heap)
        self.weather.slow = 0.0
        self.heal()
        self.run(self.now + 40.0)
        chosen = self.rng.choice(list(self.nodes.values()))
        for node in self.nodes.values():
            node.wants = dict.fromkeys(SHARDS, self.versions + 1000) if node is chosen else {}
            self.apply(node, node.leases.hold(dict(node.wants), self.clock(node)))
        self.run(self.now + 25.0)
        lost = [shard for shard in SHARDS if not chosen.leases.may_serve(shard, self.clock(chosen))]
        if lost:
            raise Violation(f"{chosen.name} has no lease for {lost} although nothing stands in its way")


@pytest.mark.parametrize("part", range(4))
def test_never_two_keepers_at_one_time(part: int) -> None:
    leased = 0
    for seed in range(part, SEEDS, 4):
        try:
            leased += Model(seed).play().leased
        except Exception as error:
            error.add_note(f"seed {seed}: Model({seed}).play()")
            raise
    assert leased > SEEDS  # the runs are no good if hardly anybody ever serves


# -- mutants: protocols that look right and are not --------------------------------------------------------------------
# Those whose fault needs a rarer order of events than some hundred seeds bring stand as tables in the unit tests: votes
# of former lives that count, clocks that were set back, leases counted from their receipt or used to the end.


class VotesAtOnce(Voter):
    """A voter that restarted does not copy what was decided without it."""

    def tick(self, now: float) -> list[Any]:
        self.votes = True
        return super().tick(now)


class CopiesFromOne(Voter):
    """A voter that restarted asks one other, not a majority of them."""

    def _has_copied_enough(self) -> bool:
        return super()._has_copied_enough() or any(rows is not None for rows in self._copied.values())


class DoesNotWait(Voter):
    """When too many restarted, they begin anew at once, although a lease of before may run."""

    def __init__(self, name: str, life: bytes, voters: list[str], born: float, now: float) -> None:
        super().__init__(name, life, voters, born, now)
        self._born = now - self.ttl


class PromisesToAnybody(Voter):
    """A lease that runs keeps nobody out."""

    def _is_held_against(self, register: Any, life: bytes) -> bool:
        return False


class ServesOldTokens(Leases):
    """What the register says does not matter once the lease has ended."""

    def _change(self, current: Any, shard: int, value: Any) -> Any:
        made = super()._change(current, shard, None if shard in current.shards else value)
        return made if made is None or value is None else (max(made[0], value[0]), *made[1:])


class OneIsEnough(Leases):
    """What one voter accepted is taken for decided."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._majority = 1


RESTARTS = Weather(
    *(3, 1), crashes=60, together=False, partitions=0, freezes=0, slow=0.0, skew=0.0, greed=0.15, victim=True
)
ALL_AT_ONCE = Weather(*(3, 2), crashes=12, together=True, partitions=0, freezes=0, slow=0.0, skew=0.0, greed=0.5)


@pytest.mark.parametrize(
    ("mutant", "weather"),
    [
        (VotesAtOnce, RESTARTS),
        (CopiesFromOne, RESTARTS),
        pytest.param(
            *(DoesNotWait, ALL_AT_ONCE),
            marks=pytest.mark.skipif(not FULL, reason="needs a hundred seeds; ACTORFW_MODEL=full runs it"),
        ),
        (PromisesToAnybody, None),
        (ServesOldTokens, None),
        (OneIsEnough, None),
    ],
)
def test_the_model_catches(mutant: Any, weather: Weather | None) -> None:
    for seed in range(MUTANT_SEEDS):
        try:
            if issubclass(mutant, Voter):
                Model(seed, voter=mutant, weather=weather).play()
            else:
                Model(seed, leases=mutant, weather=weather).play()
        except Violation:
            return
    pytest.fail(f"{mutant.__name__} passed {MUTANT_SEEDS} seeds")
