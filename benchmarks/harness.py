"""How a figure is made: contestants measured in turn, repeated, and judged by the median.

A *contestant* is one thing measured once per repetition: actorfw, the limit above it, or a competitor. A *workload*
names its contestants and the *claims* made about them. Leaves cores to `machine`, processes to `runner` and
presentation to `report`.
"""

from __future__ import annotations

import gc
import os
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field

from benchmarks.machine import Cores, Placement

__all__ = [
    "PER_SECOND",
    "BenchmarkError",
    "Claim",
    "Contestant",
    "Entry",
    "Judged",
    "Rival",
    "Series",
    "Spread",
    "Workload",
    "judge",
    "measure",
    "require_other_process",
]

PER_SECOND = "/s"


class BenchmarkError(Exception):
    """The set-up is not what the workload is meant to measure, so that its figure would mean something else."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One thing measured.

    Args:
        name: what the report calls it; unique in its workload.
        unit: "/s", "s", "MiB", "B" or a noun.
        once: measures it one time.
    """

    name: str
    unit: str
    once: Callable[[], Awaitable[float]]


# Sets contestants up on the given cores, and takes down what they needed.
Entry = Callable[[Cores], AbstractAsyncContextManager[Sequence[Contestant]]]


@dataclass(frozen=True, slots=True)
class Claim:
    """What is said of a contestant: its figure, or the ratio to that of `against`, lies within a bound.

    Without a bound it is reported and not judged.

    Args:
        judged_at: the placement at which it is. That of one core measures what things cost; who promises something for
            another one says so.
    """

    what: str
    of: str
    against: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    judged_at: Placement = Placement.ONE_CORE


@dataclass(frozen=True, slots=True)
class Rival:
    """Another library that does the same, with what is said of ours beside it, and what its program is asked for."""

    entry: Entry
    claims: tuple[Claim, ...]
    asked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """Contestants that are measured in turn within one fresh process, and the claims about them.

    Args:
        limits: contestants that need no actorfw.
        subject: those that are actorfw.
        placements: where it is measured; judged on one core unless a claim says otherwise, since that is the cost in
            CPU, while with one core each the wake-ups of the kernel are most of what is seen.
        rivals: by name, other libraries that do the same, in environments of their own; measured on request.
        most_repetitions: where one repetition takes minutes.
    """

    name: str
    limits: tuple[Entry, ...]
    subject: tuple[Entry, ...]
    claims: tuple[Claim, ...]
    placements: tuple[Placement, ...] = (Placement.ONE_CORE,)
    rivals: Mapping[str, Rival] = field(default_factory=dict[str, "Rival"])
    most_repetitions: int | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """What one contestant measured, in the order of the repetitions."""

    name: str
    unit: str
    samples: list[float]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of a series."""

    median: float
    low: float
    high: float

    @classmethod
    def over(cls, samples: Sequence[float]) -> Spread:
        return cls(statistics.median(samples), min(samples), max(samples))


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim with the figures that it is about; `met` is None where it is only reported."""

    claim: Claim
    placement: Placement
    unit: str
    figure: Spread
    limit: Spread | None
    ratio: Spread | None
    met: bool | None


async def measure(entries: Sequence[Entry], cores: Cores, repetitions: int) -> list[Series]:
    """Measures all contestants in turn, `repetitions` times after one round that is not counted.

    Each round begins with another contestant, so that none always runs in the wake of the same neighbour.
    """
    async with AsyncExitStack() as stack:
        contestants: list[Contestant] = []
        for entry in entries:
            contestants += await stack.enter_async_context(entry(cores))
        series = [Series(contestant.name, contestant.unit, []) for contestant in contestants]
        for round_number in range(repetitions + 1):
            for turn in range(len(contestants)):
                index = (round_number + turn) % len(contestants)
                gc.collect()  # nobody pays for what another one left behind
                figure = await contestants[index].once()
                if round_number:
                    series[index].samples.append(figure)
        return series


def judge(claims: Sequence[Claim], series: Sequence[Series], placement: Placement) -> list[Judged]:
    """Holds the claims against what was measured; those about a contestant that did not take part are left out."""
    by_name = {each.name: each for each in series}
    judged: list[Judged] = []
    for claim in claims:
        subject = by_name.get(claim.of)
        against = by_name.get(claim.against) if claim.against else None
        if subject is None or (claim.against and against is None):
            continue
        ratio = None
        if against is not None:
            # Per repetition, not of medians: a disturbance that lasts hits both sides of one repetition alike.
            pairs = zip(subject.samples, against.samples, strict=True)
            ratio = Spread.over([mine / theirs for mine, theirs in pairs])
        figure = Spread.over(subject.samples)
        judged.append(
            Judged(
                claim,
                placement,
                subject.unit,
                figure,
                Spread.over(against.samples) if against else None,
                ratio,
                _verdict(claim, (ratio or figure).median) if placement is claim.judged_at else None,
            )
        )
    return judged


def _verdict(claim: Claim, value: float) -> bool | None:
    if claim.at_least is not None:
        return value >= claim.at_least
    if claim.at_most is not None:
        return value <= claim.at_most
    return None


def require_other_process(pid: int, what: str) -> None:
    """A pair that shares one process would measure something else.

    Raises:
        BenchmarkError: `pid` is this process.
    """
    if pid == os.getpid():
        raise BenchmarkError(f"{what} runs in the measuring process itself; it was meant to run in another one")
