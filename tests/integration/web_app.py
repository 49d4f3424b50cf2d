"""An application that real servers serve in tests: `app` and `factory` of aiohttp, `starlette_app` and `fastapi_app`.

The environment says which cluster it joins, and every process tells `/who` its own id, its node's and the members'.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

import actorfw
import actorfw.aiohttp
import actorfw.asgi

OPTIONS: dict[str, Any] = {"num_cpus": 1}
if "WEB_CLUSTER" in os.environ:
    OPTIONS["seeds"] = f"local:{os.environ['WEB_CLUSTER']}"


class Room(actorfw.Actor):
    def __init__(self) -> None:
        self.guests: list[int] = []

    @actorfw.method
    async def enter(self, pid: int) -> list[int]:
        self.guests.append(pid)
        return sorted(set(self.guests))

    @actorfw.method(interleave=True)
    async def traced(self, seconds: float) -> list[Any]:
        await asyncio.sleep(seconds)
        known = actorfw.context()
        return [known.traceparent, known.deadline is not None]


@actorfw.remote
def in_a_worker(seconds: float) -> int:
    import time

    time.sleep(seconds)
    return os.getpid()


async def enter() -> dict[str, Any]:
    room = Room.options(name="room", get_if_exists=True, detached=True).remote()
    rows = await actorfw.nodes()
    return {"pid": os.getpid(), "guests": await room.enter(os.getpid()), "members": sorted(row.pid for row in rows)}


async def call(seconds: float) -> list[Any]:
    return await Room.options(name="room", get_if_exists=True, detached=True).remote().traced(seconds)


# -- aiohttp -----------------------------------------------------------------------------------------------------------


async def who(request: web.Request) -> web.Response:
    return web.json_response(await enter())


async def slow(request: web.Request) -> web.Response:
    return web.json_response(await call(float(request.query["s"])))


async def working(request: web.Request) -> web.Response:
    return web.json_response(await in_a_worker.remote(float(request.query["s"])) != os.getpid())


def application() -> web.Application:
    made = web.Application()
    actorfw.aiohttp.setup(made, **OPTIONS)
    made.router.add_get("/who", who)
    made.router.add_get("/slow", slow)
    made.router.add_get("/working", working)
    return made


async def factory() -> web.Application:
    return application()


app = application()  # made before the server forks

# -- ASGI --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def own(app: Any) -> AsyncIterator[dict[str, Any]]:
    await actorfw.nodes()
    yield {"mine": 1}
    await actorfw.nodes()


async def starlette_slow(request: Any) -> JSONResponse:
    return JSONResponse([*await call(float(request.query_params["s"])), request.state.mine])


async def starlette_who(request: Any) -> JSONResponse:
    assert request.app.state.actorfw.runtime.open
    return JSONResponse(await enter())


async def mine(request: Any) -> JSONResponse:
    return JSONResponse("mine")


async def starlette_fails(request: Any) -> JSONResponse:
    raise actorfw.OverloadedError("secret words")


sub = Starlette(routes=[Route("/slow", starlette_slow)])
starlette_app = Starlette(
    routes=[
        Route("/who", starlette_who),
        Route("/slow", starlette_slow),
        Route("/fails", starlette_fails),
        Route("/readyz", mine),
        Mount("/sub", sub),
    ],
    lifespan=actorfw.asgi.lifespan(own, **OPTIONS),
)
starlette_app.add_middleware(actorfw.asgi.RequestMiddleware)

fastapi_app = FastAPI(lifespan=actorfw.asgi.lifespan(**OPTIONS))
fastapi_app.add_middleware(actorfw.asgi.RequestMiddleware, request_timeout=30)


@fastapi_app.get("/who")
async def fastapi_who() -> dict[str, Any]:
    return await enter()


@fastapi_app.get("/slow")
async def fastapi_slow(s: float) -> list[Any]:
    return await call(s)


@fastapi_app.get("/thread")
def fastapi_in_a_thread(request: Request) -> list[Any]:
    room = actorfw.get(actorfw.get_actor("room", Room))
    return actorfw.get(room.traced(0))
