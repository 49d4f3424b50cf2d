"""`def` tasks in a worker process, against the process pools of the standard library with one worker each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import actorfw
from benchmarks.harness import PER_SECOND, Claim, Contestant, Workload, require_other_process
from benchmarks.machine import Cores, Placement
from benchmarks.raw import BATCH, EXECUTOR, EXECUTOR_AWAITED, POOL, executor, pool
from benchmarks.rivals.against import rivals
from benchmarks.subjects import increment, move_to_core

__all__ = ["WORKLOAD"]

_AWAITED = "await increment.remote(x)"
_GATHERED = "gather over increment.remote(x)"

_TASKS = 2_000


@asynccontextmanager
async def _tasks(cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    async with actorfw.init(num_cpus=1):
        require_other_process(await move_to_core.remote(cores.far), "the task")

        async def awaited() -> float:
            started = time.perf_counter()
            for x in range(_TASKS):
                await increment.remote(x)
            return _TASKS / (time.perf_counter() - started)

        async def gathered() -> float:
            started = time.perf_counter()
            await asyncio.gather(*[increment.remote(x) for x in range(BATCH)])
            return BATCH / (time.perf_counter() - started)

        yield [Contestant(_AWAITED, PER_SECOND, awaited), Contestant(_GATHERED, PER_SECOND, gathered)]


WORKLOAD = Workload(
    name="tasks",
    limits=(pool, executor),
    subject=(_tasks,),
    placements=(Placement.ONE_CORE, Placement.APART),
    claims=(
        Claim("def task in a worker, awaited one by one", _AWAITED, POOL, at_least=1.0),
        Claim(f"def task in a worker, {BATCH:,} gathered", _GATHERED, EXECUTOR, at_least=4.0),
        Claim("the same against an awaited executor", _GATHERED, EXECUTOR_AWAITED),
    ),
    rivals=rivals(
        {_AWAITED: (PER_SECOND, "tasks_awaited"), _GATHERED: (PER_SECOND, "tasks_gathered")},
        *("ray", "dask", "futures", "multiprocessing"),
    ),
)
