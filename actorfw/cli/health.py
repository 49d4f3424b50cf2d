"""`actorfw start --health`: `/livez` and `/readyz` over HTTP, for orchestrators that ask a process how it is.

As those of `actorfw.aiohttp`. They say nothing that a stranger may not know, and take no secret.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiohttp import web

from actorfw.api.life import Node
from actorfw.api.serving import lag
from actorfw.io.tcp import join_address, split_address
from actorfw.values.errors import UsageError

__all__ = ["answering"]


@asynccontextmanager
async def answering(address: str, node: Node) -> AsyncGenerator[str]:
    """Answer at this address, "host:port", while in here; gives the one that is bound.

    Raises:
        UsageError: it can't be listened at.
    """
    host, port = split_address(address)

    async def alive(_: web.Request) -> web.Response:
        seconds, well = await lag()
        return web.json_response({"lag": round(seconds, 6)}, status=200 if well else 503)

    async def ready(_: web.Request) -> web.Response:
        well = node.ready
        return web.json_response({"ready": well}, status=200 if well else 503)

    app = web.Application()
    app.router.add_get("/livez", alive)
    app.router.add_get("/readyz", ready)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            why = error.strerror or str(error)
            raise UsageError(f"--health {address}: nothing can listen there: {why}") from error
        bound = runner.addresses[0]
        yield join_address(bound[0], bound[1])
    finally:
        await runner.cleanup()
