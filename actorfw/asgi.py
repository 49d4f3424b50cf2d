"""actorfw inside an ASGI application (Starlette, FastAPI): its own process and loop become a peer.

`lifespan(...)` is the node's life, given to the application; `RequestMiddleware` is what a request brings along, its
deadline and its trace, and how a full, late or leaving cluster is answered. Needs no framework to be imported: what is
asked of the application is found out from it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Unpack, cast

from actorfw.api.life import Node
from actorfw.api.serving import (
    BLOCKED_AFTER,
    DRAIN_TIMEOUT,
    TIMEOUT_HEADER,
    Refusal,
    ServerOptions,
    Serving,
    check_path,
    check_request,
    lag,
    on_behalf,
    refusal,
    shorter,
    timeout_of,
)
from actorfw.runtime import current
from actorfw.values.errors import ActorFwError
from actorfw.values.trace import Trace, trace_of

if TYPE_CHECKING:
    from actorfw.runtime.node import Node as RuntimeNode

__all__ = ["Lifespan", "RequestMiddleware", "lifespan"]

logger = logging.getLogger("actorfw.requests")

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI application."""

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Any]]
"""What Starlette and FastAPI take as `lifespan=`."""


def lifespan(
    own: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None,
    *,
    livez: str | None = "/livez",
    readyz: str | None = "/readyz",
    drain_timeout: float = DRAIN_TIMEOUT,
    blocked_after: float | None = BLOCKED_AFTER,
    **init_options: Unpack[ServerOptions],
) -> Lifespan:
    """A lifespan that makes the application's process and loop a peer: `Starlette(lifespan=lifespan())`.

    The node is `app.state.actorfw` meanwhile. Servers run the lifespan of the application that they serve and of no
    other: that of a mounted sub-application is never run, so give it to the outermost.

    Args:
        own: your own lifespan, which runs within: it may use the node from its first line to its last.
        livez: path that answers 200 while the loop turns; None: none. A route of your own for this path wins.
        readyz: path that answers 200 while the node is a member and does not leave, else 503; None: none.
        drain_timeout: seconds at most for leaving when the server has answered all requests.
        blocked_after: seconds after which a loop that stands still is logged, with the line; None: never.
        **init_options: as for `actorfw.init`; `hosts` is "own" if not given.

    Raises:
        UsageError: an option is wrong.
    """
    for option, path in (("livez", livez), ("readyz", readyz)):
        check_path(option, path)

    def make() -> Serving:
        return Serving("lifespan", init_options, drain_timeout=drain_timeout, blocked_after=blocked_after)

    make()  # a wrong option is said here, not when the server starts

    @asynccontextmanager
    async def live(app: Any) -> AsyncGenerator[Any]:
        serving = make()  # an application may be started again, as tests do
        try:
            node = await serving.start()
            with _health(app, serving, livez, readyz), _state(app, node):
                if own is None:
                    yield None
                else:
                    async with own(app) as given:
                        yield given
        finally:
            await serving.stop()

    return live


@contextmanager
def _state(app: Any, node: Node) -> Generator[None]:
    """`app.state.actorfw`, where the application has a state."""
    state = getattr(app, "state", None)
    if state is None:
        yield
        return
    state.actorfw = node
    try:
        yield
    finally:
        del state.actorfw


# -- health ------------------------------------------------------------------------------------------------------------

_UNCACHED: Final = {"Cache-Control": "no-store"}


@contextmanager
def _health(app: Any, serving: Serving, livez: str | None, readyz: str | None) -> Generator[None]:
    """The two routes, in an application that has routes as Starlette's do, before all others: a catch-all would take
    them. They are gone again at the end."""
    routes = getattr(getattr(app, "router", None), "routes", None)
    wanted = [(path, handler) for path, handler in ((livez, _alive), (readyz, _ready(serving))) if path is not None]
    if not isinstance(routes, list) or not wanted:
        yield
        return
    from starlette.routing import Route  # an application with such routes has it

    all_routes: list[Any] = routes
    ours = [
        Route(path, handler, methods=["GET"], include_in_schema=False)
        for path, handler in wanted
        if not any(getattr(route, "path", None) == path for route in all_routes)
    ]
    all_routes[:0] = ours
    try:
        yield
    finally:
        for route in ours:
            all_routes.remove(route)


async def _alive(request: Any) -> Any:
    from starlette.responses import JSONResponse

    seconds, well = await lag()
    return JSONResponse({"lag": round(seconds, 6)}, status_code=200 if well else 503, headers=_UNCACHED)


def _ready(serving: Serving) -> Callable[[Any], Awaitable[Any]]:
    async def ready(request: Any) -> Any:
        from starlette.responses import JSONResponse

        well = serving.ready
        return JSONResponse({"ready": well}, status_code=200 if well else 503, headers=_UNCACHED)

    return ready


# -- requests ----------------------------------------------------------------------------------------------------------


class RequestMiddleware:
    """ASGI middleware: a request's deadline and trace go on into what is called on its behalf, and what a full, late or
    leaving cluster makes of these calls is answered with 503 or 504. What a handler of the application answers itself,
    it answers.

    `app.add_middleware(RequestMiddleware, request_timeout=5)`.

    Args:
        app: what it stands before.
        request_timeout: seconds that a request's calls may take in all. WebSockets have none: they stay open.
        timeout_header: by which a client may ask for less: seconds ("2.5"), or as gRPC writes them ("2500m").
        trace: whether `traceparent` and `tracestate` of a request go along with its calls.

    Raises:
        UsageError: an option is wrong.
    """

    def __init__(
        self,
        app: App,
        *,
        request_timeout: float | None = None,
        timeout_header: str | None = TIMEOUT_HEADER,
        trace: bool = True,
    ) -> None:
        check_request(request_timeout, timeout_header)
        self._app = app
        self._timeout = request_timeout
        self._by = None if timeout_header is None else timeout_header.lower().encode()
        self._trace = trace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, called as ASGI says."""
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        timeout, trace = self._brought(scope["headers"])
        if kind == "websocket":
            await self._run(scope, receive, send, None, trace)
            return
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._run(scope, receive, answer, timeout, trace)
        except (ActorFwError, ExceptionGroup) as error:
            found = refusal(error, current.bound_to(asyncio.get_running_loop()) is not None)
            if found is None or begun:  # a response that has begun can't be another one
                raise
            logger.info("%s %s is answered with %d: %s", scope["method"], scope["path"], found.status, error)
            await _refuse(found, send)

    def _brought(self, headers: Sequence[tuple[bytes, bytes]]) -> tuple[float | None, Trace | None]:
        timeout = self._timeout
        parents: list[str] = []
        states: list[str] = []
        for name, value in headers:
            if name == self._by:
                timeout = shorter(timeout, timeout_of(value.decode("latin-1")))
            elif name == b"traceparent":
                parents.append(value.decode("latin-1"))
            elif name == b"tracestate":
                states.append(value.decode("latin-1"))
        return timeout, trace_of(parents[0], states) if self._trace and len(parents) == 1 else None

    async def _run(
        self, scope: Scope, receive: Receive, send: Send, timeout: float | None, trace: Trace | None
    ) -> None:
        node = None if timeout is None and trace is None else current.bound_to(asyncio.get_running_loop())
        if node is None:
            await self._app(scope, receive, send)
        else:
            with on_behalf(cast("RuntimeNode", node), timeout, trace):
                await self._app(scope, receive, send)


async def _refuse(answer: Refusal, send: Send) -> None:
    body = answer.text.encode()
    headers = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body)), **answer.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
