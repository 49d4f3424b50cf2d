"""Dask's half of the comparison, written as the documentation of `distributed` advises for async code.

An asynchronous client of a local cluster with one worker process per core. Actors have `async def` methods, which its
documentation runs on the worker's loop.
"""

from __future__ import annotations

import asyncio
import time

import distributed
import numpy as np
from distributed import Client, LocalCluster
from side import BATCH, BYTES, CALLS, CPUS, CREATED, MIB, check, serve


def increment(x: int) -> int:
    return x + 1


class Echo:
    async def echo(self, x: int) -> int:
        return x


async def main() -> None:
    async with (
        LocalCluster(n_workers=CPUS, threads_per_worker=1, dashboard_address=None, asynchronous=True) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        actor = await client.submit(Echo, actor=True)
        value = np.ones(BYTES // 8)

        async def actor_awaited() -> float:
            started = time.perf_counter()
            for x in range(CALLS):
                check(await actor.echo(x), x)
            return CALLS / (time.perf_counter() - started)

        async def actor_gathered() -> float:
            started = time.perf_counter()
            answers = await asyncio.gather(*[actor.echo(x) for x in range(BATCH)])
            took = time.perf_counter() - started
            check(answers, list(range(BATCH)))
            return BATCH / took

        async def created() -> float:
            started = time.perf_counter()
            futures = [client.submit(Echo, actor=True) for _ in range(CREATED)]
            actors = await asyncio.gather(*futures)
            answers = await asyncio.gather(*[each.echo(x) for x, each in enumerate(actors)])
            took = time.perf_counter() - started
            check(answers, list(range(CREATED)))
            return CREATED / took

        async def tasks_awaited() -> float:
            started = time.perf_counter()
            for x in range(CALLS):
                # Not pure: else equal calls would be made once, and their result kept.
                check(await client.submit(increment, x, pure=False), x + 1)
            return CALLS / (time.perf_counter() - started)

        async def tasks_gathered() -> float:
            started = time.perf_counter()
            results = await client.gather(client.map(increment, range(BATCH), pure=False))
            took = time.perf_counter() - started
            check(list(results), list(range(1, BATCH + 1)))
            return BATCH / took

        async def put() -> float:
            started = time.perf_counter()
            await client.scatter(value, hash=False)
            return BYTES / MIB / (time.perf_counter() - started)

        async def awaited() -> float:
            future = await client.scatter(value, hash=False)
            started = time.perf_counter()
            found = await future
            took = time.perf_counter() - started
            check(float(found[-1]), 1.0)
            return took

        measurements = (actor_awaited, actor_gathered, created, tasks_awaited, tasks_gathered, put, awaited)
        await serve(distributed.__version__, {each.__name__: each for each in measurements})


if __name__ == "__main__":
    asyncio.run(main())
