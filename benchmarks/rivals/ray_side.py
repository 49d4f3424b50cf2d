"""Ray's half of the comparison: the same work as our workloads do, written as Ray's documentation advises.

Runs in an environment that has ray and numpy, and imports nothing of this repository. Reads the name of a measurement
from each line of stdin and writes the figure to stdout as JSON; ends when stdin closes.

Argument: how many CPUs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import ray

MIB = 1 << 20
BYTES = 128 * MIB
CALLS = 1_000
BATCH = 10_000
PUTS = 10_000
ACTORS = 10


@ray.remote
def increment(x: int) -> int:
    return x + 1


@ray.remote(num_cpus=0)
class Echo:
    async def echo(self, x: int) -> int:
        return x


_prepared: dict[int, Any] = {}


@ray.remote(num_cpus=0)
class Giver:
    """Returns what it has already: a task can't be sure to run in the worker that has it."""

    def __init__(self) -> None:
        self.value = np.ones(BYTES // 8)

    def give(self) -> Any:
        return self.value


@ray.remote
def length(value: Any) -> int:
    return int(value[-1]) + len(value)


class Measurements:
    def __init__(self) -> None:
        self.value = np.ones(BYTES // 8)
        self.actor = Echo.remote()
        self.giver = Giver.remote()
        ray.get([self.actor.echo.remote(1), self.giver.give.remote(), increment.remote(1), length.remote(np.ones(1))])

    async def actor_awaited(self) -> float:
        started = time.perf_counter()
        for x in range(CALLS):
            await self.actor.echo.remote(x)
        return CALLS / (time.perf_counter() - started)

    async def actor_gathered(self) -> float:
        started = time.perf_counter()
        await asyncio.gather(*[self.actor.echo.remote(x) for x in range(BATCH)])
        return BATCH / (time.perf_counter() - started)

    async def tasks_awaited(self) -> float:
        started = time.perf_counter()
        for x in range(CALLS):
            await increment.remote(x)
        return CALLS / (time.perf_counter() - started)

    async def tasks_gathered(self) -> float:
        # One `get` of all refs: what Ray's guide to its own pitfalls advises, and faster than awaiting them.
        started = time.perf_counter()
        ray.get([increment.remote(x) for x in range(BATCH)])
        return BATCH / (time.perf_counter() - started)

    async def processes_created(self) -> float:
        started = time.perf_counter()
        actors = []
        for x in range(ACTORS):
            actor = Echo.remote()
            assert await actor.echo.remote(x) == x
            actors.append(actor)
        return ACTORS / (time.perf_counter() - started)

    async def put(self) -> float:
        started = time.perf_counter()
        ref = ray.put(self.value)
        took = time.perf_counter() - started
        del ref
        return BYTES / MIB / took

    async def awaited(self) -> float:
        ref = ray.put(self.value)
        started = time.perf_counter()
        found = ray.get(ref)
        took = time.perf_counter() - started
        assert found[-1] == 1
        return took

    async def argument(self) -> float:
        ref = ray.put(self.value)
        started = time.perf_counter()
        found = await length.remote(ref)
        took = time.perf_counter() - started
        assert found == len(self.value) + 1
        return took

    async def result(self) -> float:
        started = time.perf_counter()
        found = await self.giver.give.remote()
        took = time.perf_counter() - started
        assert found[-1] == 1
        return BYTES / MIB / took

    async def small_puts(self) -> float:
        value = bytes(1024)
        started = time.perf_counter()
        refs = [ray.put(value) for _ in range(PUTS)]
        took = time.perf_counter() - started
        del refs
        return PUTS / took


def say(value: object) -> None:
    _stdout.write(json.dumps(value) + "\n")
    _stdout.flush()


async def main(cpus: int) -> None:
    ray.init(
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=2048 * MIB,
    )
    try:
        measurements = Measurements()
        say(ray.__version__)
        while name := (await asyncio.to_thread(sys.stdin.readline)).strip():
            say(await getattr(measurements, name)())
    finally:
        ray.shutdown()


if __name__ == "__main__":
    _stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is no figure
    asyncio.run(main(int(sys.argv[1])))
