"""Calls to a loop actor of the caller's own node, against asyncio tasks that do nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import actorfw
from benchmarks.harness import PER_SECOND, BenchmarkError, Claim, Contestant, Workload
from benchmarks.machine import Cores
from benchmarks.raw import BARE_TASKS, BATCH, bare_tasks
from benchmarks.rivals.against import rivals
from benchmarks.subjects import Echo

__all__ = ["WORKLOAD"]

_GATHERED = "gather over actor.echo.remote(x)"


@asynccontextmanager
async def _calls(_cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    async with actorfw.init(num_cpus=0):
        actor = Echo.remote()

        async def gathered() -> float:
            started = time.perf_counter()
            answers = await asyncio.gather(*[actor.echo.remote(x) for x in range(BATCH)])
            seconds = time.perf_counter() - started
            if answers != list(range(BATCH)):
                raise BenchmarkError("the actor's answers are not those to the calls made")
            return BATCH / seconds

        yield [Contestant(_GATHERED, PER_SECOND, gathered)]


WORKLOAD = Workload(
    name="local-calls",
    limits=(bare_tasks,),
    subject=(_calls,),
    claims=(Claim(f"loop actor of the same node, {BATCH:,} gathered", _GATHERED, BARE_TASKS, at_least=0.25),),
    rivals=rivals({_GATHERED: (PER_SECOND, "local_gathered")}, "xoscar"),
)
