"""xoscar's half of the comparison, written as its documentation advises: an actor pool, with a process per core.

It has actors only, no tasks and no objects. Where it runs within one process, the actor is in the caller's own.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
import os
import time

import uvloop
import xoscar as xo
from side import BATCH, CALLS, CPUS, CREATED, check, serve
from xoscar.backends.allocate_strategy import ProcessIndex


class Echo(xo.Actor):
    async def echo(self, x: int) -> int:
        return x

    async def process_id(self) -> int:
        return os.getpid()


async def main() -> None:
    pool = await xo.create_actor_pool("127.0.0.1:0", n_process=CPUS)
    numbers = itertools.count()

    async def create(process: int) -> xo.ActorRefType[Echo]:
        return await xo.create_actor(
            Echo,
            address=pool.external_address,
            uid=f"echo-{next(numbers)}",
            allocate_strategy=ProcessIndex(process),
        )

    async with pool:
        near, far = await create(0), await create(1)
        check(await near.process_id(), os.getpid())
        check(await far.process_id() == os.getpid(), False)

        async def actor_awaited() -> float:
            started = time.perf_counter()
            for x in range(CALLS):
                check(await far.echo(x), x)
            return CALLS / (time.perf_counter() - started)

        async def gathered(actor: xo.ActorRefType[Echo]) -> float:
            started = time.perf_counter()
            answers = await asyncio.gather(*[actor.echo(x) for x in range(BATCH)])
            took = time.perf_counter() - started
            check(answers, list(range(BATCH)))
            return BATCH / took

        async def actor_gathered() -> float:
            return await gathered(far)

        async def local_gathered() -> float:
            return await gathered(near)

        async def created() -> float:
            started = time.perf_counter()
            actors = await asyncio.gather(*[create(0) for _ in range(CREATED)])
            answers = await asyncio.gather(*[actor.echo(x) for x, actor in enumerate(actors)])
            took = time.perf_counter() - started
            check(answers, list(range(CREATED)))
            await asyncio.gather(*[xo.destroy_actor(actor) for actor in actors])
            return CREATED / took

        measurements = (actor_awaited, actor_gathered, local_gathered, created)
        await serve(importlib.metadata.version("xoscar"), {each.__name__: each for each in measurements})


if __name__ == "__main__":
    uvloop.run(main())
