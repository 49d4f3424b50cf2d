"""What one more idle actor on a loop costs, its handle included, when there are 100,000 of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

from benchmarks import companion
from benchmarks.harness import Claim, Contestant, Workload
from benchmarks.machine import Cores

__all__ = ["WORKLOAD"]

_ACTORS = 100_000
_RESIDENT = "idle actor: growth of the resident set"
_TRACED = "idle actor: growth by tracemalloc"


def _growth(name: str, how: Literal["resident", "traced"]) -> Contestant:
    async def once() -> float:
        async with companion.started("idle_actors", how, str(_ACTORS)) as node:
            return float(node.said)

    return Contestant(name, "B", once)


@asynccontextmanager
async def _idle_actors(_cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    yield [_growth(_RESIDENT, "resident"), _growth(_TRACED, "traced")]


WORKLOAD = Workload(
    name="idle-actors",
    limits=(),
    subject=(_idle_actors,),
    claims=(
        Claim(f"each of {_ACTORS:,} idle loop actors, resident", _RESIDENT, at_most=2048),
        Claim("the same by tracemalloc", _TRACED, at_most=2048),
    ),
)
