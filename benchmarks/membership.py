"""How fast members learn of a death, what membership costs, and how often it errs: simulated, at 10 to 1,000 members.

    python -m benchmarks.membership [--quick] [--markdown FILE]

The machines are the real ones (`actorfw.core.membership`); network, kernels and clocks are simulated by
`actorfw.testing.memberworld`, so all follows from the seeds and no figure depends on this computer. Times are of the
profile `lan` on a network with 0.5 to 1 ms one way. Bytes are those of the packed messages, without the headers of
frames, TCP and IP.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TextIO

from actorfw.core import instructions as i
from actorfw.core.membership import Membership
from actorfw.core.records import Record
from actorfw.testing.memberworld import World
from actorfw.values.ids import Life
from actorfw.values.profiles import LAN, Profile

STALL_LIMIT = 30.0
MARKS = ("<!-- membership table -->", "<!-- end of membership table -->")


def share(values: Iterable[float], part: float) -> float:
    """A percentile: the smallest value that so many are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


# -- detecting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Detection:
    """What became of many faults of one kind.

    Attributes:
        first: seconds from each fault until the first member knew.
        all: until the last did.
        missed: faults of which not all learned.
        wrong: members held dead that were well.
    """

    members: int
    fault: str
    first: tuple[float, ...]
    all: tuple[float, ...]
    missed: int
    wrong: int


def detect(members: int, fault: str, times: int, *, worlds: int = 1, profile: Profile = LAN) -> Detection:
    """Let members die one after the other, in so many clusters."""
    first: list[float] = []
    last: list[float] = []
    missed = wrong = 0
    for number in range(worlds):
        rng = Random(f"0 {fault} {number}")
        world = World(members, profile, rng.randrange(1 << 30), stall_limit=STALL_LIMIT)
        world.run(5 + rng.random() * 5)
        for victim in rng.sample(list(world.members), times):
            knew = _strike(world, victim, fault)
            others = len(world.running()) - (fault == "cut off")
            if len(knew) < others:
                missed += 1
            else:
                first.append(min(knew.values()))
                last.append(max(knew.values()))
            wrong += len({c.what.life for c in world.deaths() if isinstance(c.what, i.Dead)} - {victim})
            _end(world, victim)
            world.run(2 + rng.random())
    return Detection(members, fault, tuple(first), tuple(last), missed, wrong)


def _strike(world: World, victim: Life, fault: str) -> dict[Life, float]:
    """One fault: after how long each of the others knew."""
    world.changes.clear()
    at = world.now
    if fault == "killed":
        world.kill(victim)
    elif fault == "cut off":
        world.cut([victim])
    else:
        world.freeze(victim)
    others = set(world.running()) - {victim}
    knew: dict[Life, float] = {}
    read = 0

    def all_know() -> bool:
        nonlocal read
        while read < len(world.changes):
            change = world.changes[read]
            read += 1
            if change.by in others and _about(change.what, victim, fault):
                knew.setdefault(change.by, change.at - at)
        return len(knew) == len(others)

    world.run(60.0, until=all_know)
    return knew


def _about(what: i.Instruction, victim: Life, fault: str) -> bool:
    if fault == "frozen":
        return isinstance(what, i.StateChanged) and what.record.life == victim and what.state == "stalled"
    return isinstance(what, i.Dead) and what.life == victim


def _end(world: World, victim: Life) -> None:
    """Make the victim a thing of the past, so that the next begins in quiet."""
    if world.members[victim].frozen:
        world.thaw(victim)
        world.run(1.0)
    if world.members[victim].alive:
        world.heal()
        world.kill(victim)
        world.run(1.0)


# -- quiet -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quiet:
    """What membership sends while nothing happens, per member and second."""

    members: int
    messages: float
    bytes: float
    links: float


def quiet(members: int, seconds: float) -> Quiet:
    world = World(members, LAN, 1, stall_limit=STALL_LIMIT)
    world.run(5.0)
    world.measuring = True
    world.run(seconds)
    spent = members * seconds
    links = sum(len(member.machine.neighbours) for member in world.members.values()) / members
    return Quiet(members, world.sent.total() / spent, world.sent_bytes.total() / spent, links)


# -- erring ------------------------------------------------------------------------------------------------------------


class Swim(Membership):
    """As SWIM was before Lifeguard, to compare with: one observer's silence is enough, and no one doubts itself."""

    def _grounds(self, record: Record, accusers: int) -> bool:
        return True

    def _hears(self, accused: Life, now: float) -> bool:
        return True

    def _lag(self, now: float) -> None:
        pass

    def _hear_verdict(self, known: Record, news: Record, now: float) -> None:
        self._accept(known.merge(news), news.dead or (), news.proof, now)


MEMBERLIST = replace(
    LAN, name="memberlist", probe_interval=1.0, probe_timeout=0.5, suspicion_mult=4, suspicion_max_mult=6
)

SWIM = Profile(
    name="swim",
    probe_interval=LAN.probe_interval,
    probe_timeout=LAN.probe_timeout,
    suspicion_mult=LAN.suspicion_mult,
    suspicion_max_mult=1,
    gossip_interval=LAN.gossip_interval,
    push_pull_interval=LAN.push_pull_interval,
    stall_after=LAN.stall_after,
    lag_limit=float("inf"),
    awareness_max=1,
    dial_timeout=LAN.dial_timeout,
)


@dataclass(frozen=True)
class Errors:
    """What slow members made others believe.

    Attributes:
        suspected: well members that anybody held suspect, each counted once per accuser and number.
        dead: well members that anybody held dead, each once.
        slow_dead: slow members that were held dead.
    """

    how: str
    slow: int
    suspected: float
    dead: float
    slow_dead: float


def err(how: str, slow: int, runs: int, *, members: int = 100, seconds: float = 60.0) -> Errors:
    """Overload some members for a minute, and see who is blamed."""
    suspected = dead = slow_dead = 0
    for run in range(runs):
        rng = Random(f"{slow} {run}")
        make, profile = (Swim, SWIM) if how == "SWIM" else (Membership, LAN)
        world = World(
            members, profile, rng.randrange(1 << 30), stall_limit=STALL_LIMIT, kernel=how == "actorfw", make=make
        )
        world.run(5.0)
        ill = rng.sample(list(world.members), slow)
        for life in ill:
            _ail(world, life, rng, world.now + seconds)
        blamed: set[tuple[Life, Life, int]] = set()
        world.run(seconds)
        for life in ill:
            world.thaw(life)
        world.run(10.0)
        held: set[Life] = set()
        for change in world.changes:
            if isinstance(change.what, i.StateChanged) and change.what.state == "suspect":
                record = change.what.record
                blamed |= {(record.life, by, record.refutation) for by, _ in record.accusers}
            elif isinstance(change.what, i.Dead):
                held.add(change.what.life)
        suspected += sum(life not in ill for life, _, _ in blamed)
        dead += len(held - set(ill))
        slow_dead += len(held & set(ill))
    return Errors(how, slow, suspected / runs, dead / runs, slow_dead / runs)


def _ail(world: World, life: Life, rng: Random, end: float) -> None:
    """An overloaded machine: it stands still for a second or more, then crawls, and so on."""

    def crawl() -> None:
        world.thaw(life)
        world.delays[life] = rng.uniform(0.2, 2.0)  # of each message that it sends or reads

    at = world.now + rng.random() * 5
    while at < end:
        thaw = at + rng.uniform(1.0, 3.0)
        world.at(at, lambda: world.freeze(life))
        world.at(thaw, crawl)
        at = thaw + rng.uniform(1.0, 5.0)
    world.at(end, lambda: world.delays.update({life: 0.0}))


# -- the report --------------------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(quick: bool, tell: Callable[[str], None]) -> str:
    """All tables, as Markdown."""
    plan = [(10, 1, 200), (100, 10, 10), (1000, 8, 1)]
    if quick:
        plan = [(10, 1, 30), (100, 5, 1)]
    detections = []
    for fault in ("killed", "cut off", "frozen"):
        for members, times, worlds in plan:
            tell(f"{fault}, {members} members")
            detections.append(detect(members, fault, times, worlds=worlds))
    rows = [
        [
            f"{d.fault} ({'stalled' if d.fault == 'frozen' else 'dead'})",
            f"{d.members:,}",
            str(len(d.all)),
            " / ".join(f"{share(d.first, part):.2f}" for part in (0.5, 0.9, 0.99)),
            " / ".join(f"{share(d.all, part):.2f}" for part in (0.5, 0.9, 0.99)),
            str(d.missed + d.wrong),
        ]
        for d in detections
    ]
    parts = [
        "Seconds from the fault until the first and until the last member knows (50th / 90th / 99th percentile):\n",
        _table(["fault", "members", "faults", "first knows", "all know", "missed or wrong"], rows),
    ]
    worlds = 30 if quick else 200
    tell("cut off, 10 members, memberlist's parameters")
    other = detect(10, "cut off", 1, worlds=worlds, profile=MEMBERLIST)
    late = [sum(seconds > 7.0 for seconds in d.all) / len(d.all) for d in (other, detections[len(plan)])]
    parts.append(
        f"\nOf 10 members, not all knew of a cut-off one within 7 s in {late[1]:.1%} of the cases; with"
        f" memberlist's LAN parameters (1 s, 0.5 s, mult 4, max 6) in {late[0]:.1%}."
    )
    costs = []
    for members in (10, 100) if quick else (10, 100, 1000):
        tell(f"quiet, {members} members")
        costs.append(quiet(members, 60.0))
    parts += [
        "\nA quiet cluster, per member and second:\n",
        _table(
            ["members", "links", "messages", "bytes"],
            [[f"{q.members:,}", f"{q.links:.1f}", f"{q.messages:.2f}", f"{q.bytes:.1f}"] for q in costs],
        ),
    ]
    errors = []
    for how in ("SWIM", "without kernels", "actorfw"):
        for slow in (1, 8) if quick else (1, 2, 4, 8):
            tell(f"errors, {how}, {slow} slow")
            errors.append(err(how, slow, 1 if quick else 3))
    parts += [
        "\n100 members, of which some are overloaded for 60 s (means per run):\n",
        _table(
            ["how", "slow", "accusations of well members", "well members held dead", "slow members held dead"],
            [[e.how, str(e.slow), f"{e.suspected:.1f}", f"{e.dead:.1f}", f"{e.slow_dead:.1f}"] for e in errors],
        ),
    ]
    return "\n".join(parts) + "\n"


def tell(where: TextIO, line: str) -> None:
    where.write(f"{line}\n")
    where.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.membership", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10 and 100 members, few faults")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables between FILE's marks")
    arguments = parser.parse_args()
    text = report(arguments.quick, lambda line: tell(sys.stderr, line))
    tell(sys.stdout, text)
    if arguments.markdown is not None:
        page = arguments.markdown.read_text(encoding="utf-8")
        begin, end = MARKS
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        new, count = re.subn(pattern, lambda _: f"{begin}\n\n{text}\n{end}", page, flags=re.DOTALL)
        if count != 1:
            tell(sys.stderr, f"{arguments.markdown} has no {begin!r} and {end!r}")
            return 2
        arguments.markdown.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
