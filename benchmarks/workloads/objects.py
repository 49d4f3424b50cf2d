"""Large objects on one node: put, await, as the argument and as the result of a task, against copying memory."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import actorfw
from benchmarks.arrays import BYTES, MEMCPY, MIB_PER_SECOND, array, give, length, memcpy, prepare, rate
from benchmarks.harness import Claim, Contestant, Workload, require_other_process
from benchmarks.machine import Cores, Placement
from benchmarks.rivals.against import rivals
from benchmarks.subjects import move_to_core

__all__ = ["ARGUMENT", "AWAITED", "PUT", "RESULT", "WORKLOAD"]

PUT = "put of 128 MiB"
AWAITED = "await of 128 MiB, same process"
ARGUMENT = "128 MiB as the argument of a task in a worker"
RESULT = "128 MiB as the result of a task in a worker"


@asynccontextmanager
async def _objects(cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    async with actorfw.init(num_cpus=1):
        require_other_process(await move_to_core.remote(cores.far), "the task")
        require_other_process(await prepare.remote(BYTES), "the task")
        value = array()

        async def put() -> float:
            started = time.perf_counter()
            ref = actorfw.put(value)
            took = time.perf_counter() - started
            del ref
            return rate(took)

        async def awaited() -> float:
            ref = actorfw.put(value)
            started = time.perf_counter()
            found = await ref
            took = time.perf_counter() - started
            assert found[-1] == 1
            return took

        async def argument() -> float:
            ref = actorfw.put(value)
            started = time.perf_counter()
            found = await length.remote(ref)
            took = time.perf_counter() - started
            assert found == len(value) + 1
            return took

        async def result() -> float:
            started = time.perf_counter()
            found = await give.remote(BYTES)
            took = time.perf_counter() - started
            assert found[-1] == 1
            return rate(took)

        yield [
            Contestant(PUT, MIB_PER_SECOND, put),
            Contestant(AWAITED, "s", awaited),
            Contestant(ARGUMENT, "s", argument),
            Contestant(RESULT, MIB_PER_SECOND, result),
        ]


WORKLOAD = Workload(
    name="objects",
    limits=(memcpy,),
    subject=(_objects,),
    placements=(Placement.ONE_CORE, Placement.APART),
    claims=(
        Claim("put of a 128 MiB array, steady", PUT, MEMCPY, at_least=0.7),
        Claim("await of it in the same process", AWAITED, at_most=0.001),
        Claim("a task in a worker that reads it, the whole call", ARGUMENT, at_most=0.001),
        Claim("a task in a worker that returns it", RESULT, MEMCPY, at_least=0.6),
    ),
    rivals={
        **rivals(
            {
                PUT: (MIB_PER_SECOND, "put"),
                AWAITED: ("s", "awaited"),
                ARGUMENT: ("s", "argument"),
                RESULT: (MIB_PER_SECOND, "result"),
            },
            "ray",
        ),
        **rivals({PUT: (MIB_PER_SECOND, "put"), AWAITED: ("s", "awaited")}, "dask", "multiprocessing"),
    },
)
