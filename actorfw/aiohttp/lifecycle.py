"""The node's life inside an aiohttp application: it starts with the application, and leaves when it has answered all.

aiohttp ends in this order: it stops listening, sends `on_shutdown`, waits for handlers (`shutdown_timeout` at most),
and cleans up. So the node says at the first that it is not ready any more, can be used by the handlers that still run,
and leaves at the last.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from types import FrameType
from typing import Final, Unpack, cast

from aiohttp import web

from actorfw.aiohttp.health import add_routes
from actorfw.aiohttp.requests import SERVING, middleware
from actorfw.api.life import Node
from actorfw.api.serving import BLOCKED_AFTER, DRAIN_TIMEOUT, TIMEOUT_HEADER, ServerOptions, Serving, check_path
from actorfw.values.errors import UsageError

__all__ = ["NODE", "setup"]

NODE: Final[web.AppKey[Node]] = web.AppKey("actorfw.node", Node)
"""The application's node: `app[NODE]`; in a handler `request.config_dict[NODE]`, in sub-applications too."""


def setup(
    app: web.Application,
    *,
    livez: str | None = "/livez",
    readyz: str | None = "/readyz",
    requests: bool = True,
    request_timeout: float | None = None,
    timeout_header: str | None = TIMEOUT_HEADER,
    trace: bool = True,
    drain_timeout: float = DRAIN_TIMEOUT,
    blocked_after: float | None = BLOCKED_AFTER,
    **init_options: Unpack[ServerOptions],
) -> None:
    """Have an application's process and loop be a peer from its start to its end.

    Call it once, on the application that is served, before what uses the node: `cleanup_ctx` functions that are added
    later may call actors when they begin and when they end.

    Args:
        app: the application. Nothing starts before it does, so a server may import it and fork.
        livez: path that answers 200 while the loop turns; None: none. A route of your own for this path wins.
        readyz: path that answers 200 while the node is a member and does not leave, else 503; None: none.
        requests: whether to add `middleware`, which is given the next three.
        request_timeout: seconds that a request's calls may take in all.
        timeout_header: by which a client may ask for less.
        trace: whether `traceparent` and `tracestate` of a request go along with its calls.
        drain_timeout: seconds at most for leaving when all requests are answered. What is left of the server's own
            `shutdown_timeout` is a bound too.
        blocked_after: seconds after which a loop that stands still is logged, with the line; None: never.
        **init_options: as for `actorfw.init`; `hosts` is "own" if not given.

    Raises:
        UsageError: an option is wrong, or this application was set up before.
    """
    serving = Serving("setup", init_options, drain_timeout=drain_timeout, blocked_after=blocked_after)
    if not isinstance(cast("object", app), web.Application):
        raise UsageError(f"app is a {type(app).__name__}; it must be an aiohttp.web.Application")
    if SERVING in app:
        raise UsageError("this application has a node: actorfw.aiohttp.setup() is called once for each")
    for option, path in (("livez", livez), ("readyz", readyz)):
        check_path(option, path)
    if requests:
        app.middlewares.append(middleware(request_timeout=request_timeout, timeout_header=timeout_header, trace=trace))
    app[SERVING] = serving
    seconds: float | None = None

    async def live(app: web.Application) -> AsyncIterator[None]:
        nonlocal seconds
        seconds = _shutdown_timeout(sys._getframe())
        add_routes(app, serving, livez, readyz)
        try:
            app[NODE] = await serving.start()
            yield
        finally:
            await serving.stop()

    async def ending(app: web.Application) -> None:
        serving.ending(seconds)

    app.cleanup_ctx.append(live)
    app.on_shutdown.append(ending)


def _shutdown_timeout(frame: FrameType | None) -> float | None:
    """What the runner gives its handlers to end. An application is not told who runs it, but that one is on the stack
    when the application starts; if not, only `drain_timeout` counts."""
    while frame is not None:
        runner = frame.f_locals.get("self")
        if isinstance(runner, web.BaseRunner):
            return cast("float | None", getattr(runner, "_shutdown_timeout", None))
        frame = frame.f_back
    return None
