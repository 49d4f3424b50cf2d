"""A service for tests of its end: an aiohttp application whose handlers await actors here, on another node, and tasks.

`python loaded_service.py PORT CLUSTER` serves, and when it has ended prints the numbers of the requests whose handlers
had begun. Without a cluster the same handlers await nothing of actorfw's.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.typedefs import Handler

import actorfw
import actorfw.aiohttp


class Adder(actorfw.Actor):
    @actorfw.method
    async def add(self, a: int, b: int) -> int:
        await asyncio.sleep(0.002)
        return a + b


@actorfw.remote
def add(a: int, b: int) -> int:
    time.sleep(0.005)
    return a + b


NEAR = web.AppKey("near", Adder)
FAR = web.AppKey("far", Adder)
begun: list[int] = []


@web.middleware
async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
    begun.append(int(request.match_info["n"]))
    return await handler(request)


async def actors(app: web.Application) -> AsyncIterator[None]:
    app[NEAR] = Adder.remote()
    app[FAR] = await actorfw.get_actor("far", Adder)
    yield


async def answer(request: web.Request) -> web.Response:
    n = int(request.match_info["n"])
    if NEAR not in request.app:
        await asyncio.sleep(0.005)
        return web.Response(text=str(n + 1))
    if n % 3 == 0:
        found = await request.app[NEAR].add(n, 1)
    elif n % 3 == 1:
        found = await request.app[FAR].add(n, 1)
    else:
        found = await add.remote(n, 1)
    return web.Response(text=str(found))


def application(cluster: str) -> web.Application:
    app = web.Application(middlewares=[note])
    if cluster:
        actorfw.aiohttp.setup(app, seeds=f"local:{cluster}", num_cpus=1, livez=None, readyz=None)
        app.cleanup_ctx.append(actors)
    app.router.add_get("/{n:[0-9]+}", answer)
    return app


if __name__ == "__main__":
    port, cluster = int(sys.argv[1]), sys.argv[2]
    try:
        web.run_app(application(cluster), host="127.0.0.1", port=port, print=None, access_log=None)
    finally:
        print(json.dumps(begun))
