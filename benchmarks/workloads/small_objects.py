"""Many small objects, and what is left of them: 10,000 puts of 1 KiB, and a million puts and drops."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import psutil

import actorfw
from benchmarks.harness import PER_SECOND, Claim, Contestant, Workload
from benchmarks.machine import Cores, Placement
from benchmarks.rivals.against import rivals

__all__ = ["SMALL", "WORKLOAD"]

SMALL = "put of 1 KiB"
_GROWN = "private memory after a million puts and drops, of that before"
_LEFT = "bytes of the arena after them"

_PUTS = 10_000
_DROPS = 1_000_000
_EACH_LARGE = 1000  # one in so many goes to the arena
_LARGE = 128 * 1024


def _private() -> int:
    gc.collect()
    return int(psutil.Process(os.getpid()).memory_full_info().uss)


@asynccontextmanager
async def _small(_cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    async with actorfw.init(num_cpus=0) as node:
        value, large = bytes(1024), bytes(_LARGE)
        left: list[int] = []

        async def puts() -> float:
            started = time.perf_counter()
            refs = [actorfw.put(value) for _ in range(_PUTS)]
            took = time.perf_counter() - started
            del refs
            return _PUTS / took

        def churn(times: int) -> None:
            for number in range(times):
                actorfw.put(large if number % _EACH_LARGE == 0 else value)

        async def grown() -> float:
            churn(_DROPS // 100)
            before = _private()
            churn(_DROPS)
            after = _private()
            left[:] = [node.runtime.store.used]
            return after / before

        async def bytes_left() -> float:
            if not left:
                await grown()
            return float(left.pop())

        yield [
            Contestant(SMALL, PER_SECOND, puts),
            Contestant(_GROWN, "x", grown),
            Contestant(_LEFT, "B", bytes_left),
        ]


WORKLOAD = Workload(
    name="small-objects",
    limits=(),
    subject=(_small,),
    placements=(Placement.ONE_CORE,),
    claims=(
        Claim(f"{_PUTS:,} puts of 1 KiB", SMALL, at_least=50_000),
        Claim("a million puts and drops: private memory, after over before", _GROWN, at_most=1.05),
        Claim("a million puts and drops: bytes held in the arena", _LEFT, at_most=0),
    ),
    rivals=rivals({SMALL: (PER_SECOND, "small_puts")}, "ray"),
)
