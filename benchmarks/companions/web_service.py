"""An aiohttp service. Arguments: its core, and "bare" for one without a node or "node" for one with. Says its port, and
its node's address.

The path says what the handler awaits: nothing, an actor of its own node, or one on another node, which a request to
`/place/NODE` makes there.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web

import actorfw
import actorfw.aiohttp
from benchmarks.companion import released, say
from benchmarks.machine import pin
from benchmarks.subjects import Echo

_HERE = web.AppKey("here", Echo)
_THERE: web.AppKey[dict[str, Echo]] = web.AppKey("there", dict)


async def _nothing(request: web.Request) -> web.Response:
    return web.Response(text="1")


async def _local(request: web.Request) -> web.Response:
    return web.Response(text=str(await request.app[_HERE].echo(1)))


async def _remote(request: web.Request) -> web.Response:
    return web.Response(text=str(await request.app[_THERE]["echo"].echo(1)))


async def _place(request: web.Request) -> web.Response:
    actor = Echo.options(scheduling=actorfw.NodeAffinity(request.match_info["node"])).remote()
    request.app[_THERE]["echo"] = actor
    return web.Response(text=str(await actor.process_id()))


def _application(with_node: bool) -> web.Application:
    app = web.Application()
    app.router.add_get("/nothing", _nothing)
    if with_node:
        actorfw.aiohttp.setup(app, num_cpus=0)

        async def started(app: web.Application) -> None:
            app[_HERE] = Echo.remote()

        app[_THERE] = {}
        app.on_startup.append(started)
        app.router.add_get("/local", _local)
        app.router.add_get("/remote", _remote)
        app.router.add_get("/place/{node}", _place)
    return app


async def _main(with_node: bool) -> None:
    app = _application(with_node)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        say([runner.addresses[0][1], app[actorfw.aiohttp.NODE].address if with_node else ""])
        await released()
    finally:
        # The sockets of a load that has ended are still open to it.
        await asyncio.wait_for(runner.cleanup(), 10)


if __name__ == "__main__":
    pin(int(sys.argv[1]))
    uvloop.run(_main(sys.argv[2] == "node"))
