"""`/livez` and `/readyz`: what an orchestrator asks an application. They say nothing that a stranger may not know."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from actorfw.api.serving import Serving, lag

__all__ = ["add_routes"]

_UNCACHED: Final = {"Cache-Control": "no-store"}


def add_routes(app: web.Application, serving: Serving, livez: str | None, readyz: str | None) -> None:
    """Add the two where the application has no route of its own. As late as this, all that it adds is there."""
    if app.router.frozen:
        return  # a sub-application: orchestrators ask the one that is served

    async def alive(request: web.Request) -> web.Response:
        seconds, well = await lag()
        return web.json_response({"lag": round(seconds, 6)}, status=200 if well else 503, headers=_UNCACHED)

    async def ready(request: web.Request) -> web.Response:
        well = serving.ready
        return web.json_response({"ready": well}, status=200 if well else 503, headers=_UNCACHED)

    for path, handler in ((livez, alive), (readyz, ready)):
        if path is not None and not _has(app, path):
            app.router.add_get(path, handler)


def _has(app: web.Application, path: str) -> bool:
    there = (resource for resource in app.router.resources() if resource.canonical == path)
    return any(route.method in ("GET", "*") for resource in there for route in resource)
