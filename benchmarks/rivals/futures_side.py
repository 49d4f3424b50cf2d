"""`concurrent.futures` as its documentation shows it: a `ProcessPoolExecutor` with a process per core.

It has tasks only. Waiting blocks, which is its fastest way.
"""

from __future__ import annotations

import asyncio
import platform
import time
from concurrent.futures import ProcessPoolExecutor

from side import BATCH, CALLS, check, serve


def increment(x: int) -> int:
    return x + 1


async def main() -> None:
    with ProcessPoolExecutor() as executor:

        async def tasks_awaited() -> float:
            started = time.perf_counter()
            for x in range(CALLS):
                check(executor.submit(increment, x).result(), x + 1)
            return CALLS / (time.perf_counter() - started)

        async def tasks_gathered() -> float:
            # A chunk size would make one task of many, which is another program.
            started = time.perf_counter()
            results = list(executor.map(increment, range(BATCH)))
            took = time.perf_counter() - started
            check(results, list(range(1, BATCH + 1)))
            return BATCH / took

        measurements = (tasks_awaited, tasks_gathered)
        for each in measurements:
            await each()  # it starts its processes on first use
        await serve(platform.python_version(), {each.__name__: each for each in measurements})


if __name__ == "__main__":
    asyncio.run(main())
