"""`multiprocessing` as its documentation shows it: a `Pool` with a process per core, managers, shared memory.

What comes near an actor is an object that a manager's process serves, called through its proxy. Calls block, so that
there is no gathering them.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import platform
import time
from multiprocessing.managers import BaseManager
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
from side import BATCH, BYTES, CALLS, MIB, check, serve

_MANAGERS = 10


def increment(x: int) -> int:
    return x + 1


class Echo:
    def echo(self, x: int) -> int:
        return x


class EchoManager(BaseManager):
    """Each has a process of its own."""

    Echo: Any


EchoManager.register("Echo", Echo)


async def main() -> None:
    value = np.ones(BYTES // 8)
    with multiprocessing.Pool() as pool, EchoManager() as manager:
        actor = manager.Echo()

        async def actor_awaited() -> float:
            started = time.perf_counter()
            for x in range(CALLS):
                check(actor.echo(x), x)
            return CALLS / (time.perf_counter() - started)

        async def processes_created() -> float:
            managers = [EchoManager() for _ in range(_MANAGERS)]
            started = time.perf_counter()
            for x, each in enumerate(managers):
                each.start()
                check(each.Echo().echo(x), x)
            took = time.perf_counter() - started
            for each in managers:
                each.shutdown()
            return _MANAGERS / took

        async def tasks_awaited() -> float:
            started = time.perf_counter()
            for x in range(CALLS):
                check(pool.apply(increment, (x,)), x + 1)
            return CALLS / (time.perf_counter() - started)

        async def tasks_gathered() -> float:
            # Not `map`, which makes one task of many.
            started = time.perf_counter()
            results = [result.get() for result in [pool.apply_async(increment, (x,)) for x in range(BATCH)]]
            took = time.perf_counter() - started
            check(results, list(range(1, BATCH + 1)))
            return BATCH / took

        def shared() -> SharedMemory:
            memory = SharedMemory(create=True, size=BYTES)
            np.ndarray(value.shape, value.dtype, buffer=memory.buf)[:] = value
            return memory

        async def put() -> float:
            started = time.perf_counter()
            memory = shared()
            took = time.perf_counter() - started
            memory.close()
            memory.unlink()
            return BYTES / MIB / took

        async def awaited() -> float:
            memory = shared()
            started = time.perf_counter()
            again = SharedMemory(memory.name)
            found = np.ndarray(value.shape, value.dtype, buffer=again.buf)
            last = float(found[-1])
            took = time.perf_counter() - started
            check(last, 1.0)
            del found
            again.close()
            memory.close()
            memory.unlink()
            return took

        measurements = (actor_awaited, processes_created, tasks_awaited, tasks_gathered, put, awaited)
        await serve(platform.python_version(), {each.__name__: each for each in measurements})


if __name__ == "__main__":
    asyncio.run(main())
