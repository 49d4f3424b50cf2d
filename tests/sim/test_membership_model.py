"""Verdicts under random faults: who answers is not buried, and views become one again when the faults are over.

Each seed draws a cluster of two to seven machines and some kinds of faults, and lets them happen for a while; then the
network is whole, the frozen run on, and a quiet minute passes. Checked:

* nobody is buried without an excuse: it was killed, or stood still for the stall limit, or was cut off, from everybody
  or so that no member remained that heard it and was itself well. Delay, loss, lag, short freezes, broken pairs, deaf
  observers and firewalls that refuse are no excuse;
* dead is final, at the one that judged;
* at the end all views are equal and hold exactly those that run, all of them up. Who was buried is reborn, as nodes
  are.

`ACTORFW_MODEL=full` runs more seeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from actorfw.core import suspicion
from actorfw.core.gossip import News
from actorfw.core.membership import Membership
from actorfw.core.records import Brief, Record
from actorfw.core.spreading import Spreading
from actorfw.testing.memberworld import World, node
from actorfw.values.ids import Life
from actorfw.values.profiles import LAN

SEEDS = 600 if os.environ.get("ACTORFW_MODEL") == "full" else 25
STALL_LIMIT = 8.0
FAULTY = 20.0
QUIET = 45.0
MEMORY = 16.0  # how long a fault may take to end in a verdict: the longest suspicion, and the probe before it
KINDS = ("loss", "delay", "short_freeze", "long_freeze", "isolate", "deafen", "pair", "reject", "split", "kill")


@dataclass
class Faults:
    """What is wrong, and until when it may have consequences."""

    bad: dict[frozenset[bytes], float] = field(default_factory=dict[frozenset[bytes], float])
    refusing: set[frozenset[bytes]] = field(default_factory=set[frozenset[bytes]])
    frozen: dict[bytes, float] = field(default_factory=dict[bytes, float])
    long_frozen: dict[bytes, float] = field(default_factory=dict[bytes, float])
    buried: set[tuple[Life, Life]] = field(default_factory=set[tuple[Life, Life]])
    slow: set[Life] = field(default_factory=set[Life])
    killed: set[Life] = field(default_factory=set[Life])

    def excuses(self, accused: Life, lives: list[Life], at: float) -> bool:
        """Whether the accused may be buried at this time."""

        def bad(one: Life, two: Life) -> bool:
            return self.bad.get(frozenset((node(one), node(two))), 0.0) > at

        if any(life == accused for _, life in self.buried):
            return True  # the verdict of another, which had one
        if accused in self.killed or self.long_frozen.get(node(accused), 0.0) > at:
            return True
        others = [life for life in lives if node(life) != node(accused)]
        cut = [other for other in others if bad(accused, other)]
        if not cut:
            return False
        well = [
            other
            for other in others
            if other not in self.killed and other not in self.slow and self.frozen.get(node(other), 0.0) <= at
        ]
        # One observer, while others could have said the same, and it had no reason to think that they could not.
        if len(cut) == 1 and any(
            other not in cut
            and frozenset((node(other), node(cut[0]))) not in self.refusing
            and (cut[0], other) not in self.buried
            for other in well
        ):
            return False
        # Who hears it, and is heard by all, would say so.
        return not any(other not in cut and not any(bad(other, third) for third in lives) for other in well)


def play(seed: int, make: Callable[..., Membership] = Membership) -> list[str]:
    """One seed: what was wrong."""
    rng = Random(seed)
    world = World(rng.randint(2, 7), LAN, seed, wire=True, stall_limit=STALL_LIMIT, make=make, rebirth=True)
    lives = list(world.members)
    faults = Faults()
    world.run(2.0)
    for _ in range(rng.randint(1, 5)):
        plan(world, faults, rng.choice(KINDS), lives, rng)
    problems: list[str] = []

    def look() -> None:
        for change in world.deaths():
            pair = (change.by, change.what.life)  # type: ignore[union-attr]
            if pair in faults.buried:
                problems.append("buried twice")
            lives = [life for life, member in world.members.items() if member.ended > change.at]
            if world.members[pair[1]].ended > change.at and not faults.excuses(pair[1], lives, change.at):
                text = change.what.verdict.text  # type: ignore[union-attr]
                problems.append(f"buried without an excuse at {change.at:.1f}: {text}")
            faults.buried.add(pair)
        world.changes.clear()

    end = world.now + FAULTY
    while world.now < end:
        world.run(0.5)
        look()
    world.heal()
    world.loss = 0.0
    world.delays.clear()
    for life in list(world.members):
        world.thaw(life)
    world.run(QUIET, until=lambda: bool(look()))
    runs = world.running()
    for life in runs:
        machine = world.members[life].machine
        if set(machine.view) & set(machine.tombstones):
            problems.append("both a member and dead")
        if set(machine.view) != set(runs):
            problems.append(f"{len(machine.view)} members in a view, of {len(runs)} that run")
        if any(machine.state(other) != "up" for other in machine.view):
            problems.append(f"states at the end: {[machine.state(other) for other in machine.view]}")
    if not world.agree(runs):
        problems.append("views differ")
    return problems


def plan(world: World, faults: Faults, kind: str, lives: list[Life], rng: Random) -> None:
    """Let a fault happen at some time."""
    at = world.now + rng.uniform(0.0, 10.0)
    lasts = rng.uniform(0.5, 12.0)
    life = rng.choice(lives)
    other = rng.choice([one for one in lives if one != life])
    until = min(at + lasts, world.now + FAULTY) + MEMORY

    def part(ones: list[Life], twos: list[Life], *, one_way: bool = False) -> None:
        for one in ones:
            for two in twos:
                faults.bad[frozenset((node(one), node(two)))] = until
        pairs = {(node(a), node(b)) for a in ones for b in twos}
        if not one_way:
            pairs |= {(b, a) for a, b in pairs}
        world.at(at, lambda: world.blocked.update(pairs))
        world.at(at + lasts, lambda: world.mend(pairs))

    if kind == "loss":
        world.loss = rng.uniform(0.0, 0.1)
    elif kind == "delay":
        faults.slow.add(life)
        world.at(at, lambda: world.delays.update({life: rng.uniform(0.05, 0.5)}))
        world.at(at + lasts, lambda: world.delays.pop(life, None) and None)
    elif kind in ("short_freeze", "long_freeze"):
        lasts = rng.uniform(0.3, STALL_LIMIT - 1.5) if kind == "short_freeze" else STALL_LIMIT + rng.uniform(-1.0, 4.0)
        faults.frozen[node(life)] = max(faults.frozen.get(node(life), 0.0), at + lasts + MEMORY)
        if kind == "long_freeze" or node(life) in faults.long_frozen:
            faults.long_frozen[node(life)] = at + lasts + MEMORY
        world.at(at, lambda: world.freeze(life))
        world.at(at + lasts, lambda: world.thaw(life))
    elif kind == "isolate":
        part([life], [one for one in lives if one != life])
    elif kind == "deafen":
        part([one for one in lives if one != life], [life], one_way=True)
    elif kind == "pair":
        part([life], [other], one_way=rng.random() < 0.5)
    elif kind == "split":
        some = rng.sample(lives, rng.randint(1, len(lives) - 1))
        part(some, [one for one in lives if one not in some])
    elif kind == "reject":
        faults.bad[frozenset((node(life), node(other)))] = until
        faults.refusing.add(frozenset((node(life), node(other))))
        world.at(at, lambda: world.members[life].alive and world.members[other].alive and world.reject(life, other))
    elif kind == "kill" and len(lives) - len(faults.killed) > 1:
        faults.killed.add(life)
        world.at(at, lambda: world.kill(life))


@pytest.mark.parametrize("part", range(5))
def test_who_answers_is_not_buried_and_views_become_one(part: int) -> None:
    for seed in range(part, SEEDS, 5):
        assert play(seed) == [], f"seed {seed}"


# -- planted bugs ------------------------------------------------------------------------------------------------------


def one_is_enough(patch: pytest.MonkeyPatch) -> None:
    """A member that nobody else misses is buried by one observer."""
    patch.setattr(Membership, "_grounds", lambda self, record, accusers: True)


def deaf_ones_count_nobody(patch: pytest.MonkeyPatch) -> None:
    """Whom this node does not hear can't object either: who is deaf needs nobody's word."""

    def could_see(me: Life, accused: Life, view: dict[Life, Record]) -> int:
        return min(2, sum(life not in (me, accused) and not record.accusers for life, record in view.items()))

    patch.setattr(suspicion, "_could_see", could_see)


def no_refutation(patch: pytest.MonkeyPatch) -> None:
    """Who is accused keeps silent."""
    about_me = Spreading._about_me

    def silent(self: Any, news: Record | Brief, frm: Life, now: float) -> None:
        if news.dead is not None:
            about_me(self, news, frm, now)

    patch.setattr(Spreading, "_about_me", silent)


def stalled_is_cut_off(patch: pytest.MonkeyPatch) -> None:
    """Kernels are not asked."""
    kernel = Membership.kernel
    patch.setattr(Membership, "kernel", lambda self, life, answer, now: kernel(self, life, None, now))


def refusal_of_one(patch: pytest.MonkeyPatch) -> None:
    """One refused connection is proof."""
    patch.setattr("actorfw.core.membership.refusals_wanted", lambda me, accused, view: 1)


def news_once(patch: pytest.MonkeyPatch) -> None:
    """News are passed on to one member only, and views are not compared."""
    take = News.take
    patch.setattr(News, "take", lambda self, find, limit, most: take(self, find, 1, most))
    patch.setattr(Spreading, "_on_sync", lambda self, frm, message, now: None)


def dead_is_not_final(patch: pytest.MonkeyPatch) -> None:
    """Who is said to live is a member again."""

    def back(self: Any, news: Record | Brief, frm: Life) -> None:
        if isinstance(news, Record) and not news.final:
            self._replace(None, news, "", 0.0)

    patch.setattr(Spreading, "_about_the_dead", back)


MUTANTS = [
    one_is_enough,
    deaf_ones_count_nobody,
    no_refutation,
    stalled_is_cut_off,
    refusal_of_one,
    news_once,
    dead_is_not_final,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_planted_bugs_are_found(monkeypatch: pytest.MonkeyPatch, mutant: Callable[[pytest.MonkeyPatch], None]) -> None:
    mutant(monkeypatch)
    assert any(play(seed) for seed in range(60))
