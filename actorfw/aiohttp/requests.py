"""The middleware: a request's deadline and trace go on into what its handler calls, and what a full, late or leaving
cluster makes of these calls is answered with 503 or 504.

Whatever else a handler raises goes its way: web exceptions, mistakes, and what may have had an effect.
"""

from __future__ import annotations

import logging
from typing import Final, NoReturn

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from actorfw.api.serving import TIMEOUT_HEADER, Refusal, Serving, check_request, on_behalf, refusal, shorter, timeout_of
from actorfw.values.errors import ActorFwError
from actorfw.values.trace import Trace, trace_of

__all__ = ["SERVING", "middleware"]

logger = logging.getLogger("actorfw.requests")

SERVING: Final[web.AppKey[Serving]] = web.AppKey("actorfw.serving", Serving)

_TRACEPARENT: Final = "traceparent"
_TRACESTATE: Final = "tracestate"


def middleware(
    *, request_timeout: float | None = None, timeout_header: str | None = TIMEOUT_HEADER, trace: bool = True
) -> Middleware:
    """The middleware that `setup` adds; to be placed by hand after `setup(app, requests=False)`.

    Args:
        request_timeout: seconds that a request's calls may take in all. WebSockets have none: they stay open.
        timeout_header: by which a client may ask for less: seconds ("2.5"), or as gRPC writes them ("2500m").
        trace: whether `traceparent` and `tracestate` of a request go along with its calls.

    Raises:
        UsageError: an option is wrong.
    """
    check_request(request_timeout, timeout_header)

    @web.middleware
    async def requests(request: web.Request, handler: Handler) -> web.StreamResponse:
        headers = request.headers
        timeout = request_timeout
        if timeout_header is not None and (text := headers.get(timeout_header)) is not None:
            timeout = shorter(timeout, timeout_of(text))
        if timeout is not None and headers.get(hdrs.UPGRADE, "").lower() == "websocket":
            timeout = None
        traced = _trace(request) if trace and _TRACEPARENT in headers else None
        try:
            if timeout is None and traced is None:
                return await handler(request)
            with on_behalf(request.config_dict[SERVING].node.runtime, timeout, traced):
                return await handler(request)
        except (ActorFwError, ExceptionGroup) as error:
            serving = request.config_dict.get(SERVING)
            answer = refusal(error, serving is not None and serving.up)
            if answer is None or request.writer.output_size:  # a response that has begun can't be another one
                raise
            _refuse(request, answer, error)

    return requests


def _trace(request: web.Request) -> Trace | None:
    parents = request.headers.getall(_TRACEPARENT)
    return trace_of(parents[0], request.headers.getall(_TRACESTATE, [])) if len(parents) == 1 else None


def _refuse(request: web.Request, answer: Refusal, error: BaseException) -> NoReturn:
    logger.info("%s %s is answered with %d: %s", request.method, request.path, answer.status, error)
    kind = web.HTTPServiceUnavailable if answer.status == 503 else web.HTTPGatewayTimeout
    raise kind(headers=answer.headers, text=answer.text) from error
