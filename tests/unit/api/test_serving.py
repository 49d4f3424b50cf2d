"""What the doors of web servers share: timeouts in headers, which failures are refusals, and options that are wrong."""

from __future__ import annotations

from typing import Any

import pytest

import actorfw
import actorfw.aiohttp
import actorfw.asgi
from actorfw.api.serving import refusal, shorter, timeout_of


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("2", 2.0), ("2.5", 2.5), (" 3 ", 3.0), ("0", 0.0), ("1500m", 1.5), ("2S", 2.0), ("1M", 60.0), ("1H", 3600.0)],
)
def test_a_timeout_in_a_header(header: str, seconds: float) -> None:
    assert timeout_of(header) == seconds


@pytest.mark.parametrize("header", ["", "soon", "-1", "1e3", "inf", "nan", "1 s", "1ms", "999999999", "\u0663"])
def test_a_header_that_is_no_timeout_says_nothing(header: str) -> None:
    assert timeout_of(header) is None


def test_the_shorter_of_two_spans() -> None:
    assert shorter(None, None) is None
    assert shorter(1.0, None) == shorter(None, 1.0) == shorter(1.0, 2.0) == shorter(2.0, 1.0) == 1.0
    assert shorter(0.0, 1.0) == 0.0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (actorfw.OverloadedError("x"), 503),
        (actorfw.MailboxFullError("x"), 503),
        (actorfw.PeerUnreachableError("x"), 503),
        (actorfw.NoQuorumError("x"), 503),
        (actorfw.NodeClosedError("x"), 503),
        (actorfw.ActorUnavailableError("x"), 503),
        (actorfw.DeadlineExceededError("x"), 504),
        (actorfw.GetTimeoutError("x"), 504),
        (ExceptionGroup("two calls", [actorfw.OverloadedError("x"), actorfw.DeadlineExceededError("x")]), 503),
    ],
)
def test_what_is_nobodys_mistake_is_refused(error: Exception, status: int) -> None:
    found = refusal(error, True)
    assert found is not None
    assert found.status == status
    assert ("Retry-After" in found.headers) is (status == 503)


@pytest.mark.parametrize(
    "error",
    [
        actorfw.PeerLostError("the outcome is not known"),
        actorfw.ActorDiedError("x"),
        actorfw.TaskError("x"),
        actorfw.UsageError("x"),
        actorfw.NotInitializedError("x"),
        TimeoutError("the user's own"),
        ExceptionGroup("one mistake", [actorfw.OverloadedError("x"), ValueError("x")]),
    ],
)
def test_what_is_a_mistake_or_may_have_had_an_effect_is_not(error: Exception) -> None:
    assert refusal(error, True) is None


def test_no_node_is_a_refusal_where_there_was_one() -> None:
    found = refusal(actorfw.NotInitializedError("x"), False)
    assert found is not None
    assert found.status == 503


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sedes": ["h:1"]}, "sedes"),
        ({"thread": True}, "thread"),
        ({"drain_timeout": -1}, "drain_timeout"),
        ({"drain_timeout": True}, "drain_timeout"),
        ({"blocked_after": 0}, "blocked_after"),
        ({"livez": "livez"}, "livez"),
        ({"readyz": "/{ready}"}, "readyz"),
    ],
)
def test_a_wrong_option_is_named_before_anything_starts(options: dict[str, Any], named: str) -> None:
    from aiohttp import web

    with pytest.raises(actorfw.UsageError, match=named):
        actorfw.aiohttp.setup(web.Application(), **options)
    with pytest.raises(actorfw.UsageError, match=named):
        actorfw.asgi.lifespan(**options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"request_timeout": 0}, "request_timeout"),
        ({"request_timeout": "5"}, "request_timeout"),
        ({"timeout_header": ""}, "timeout_header"),
    ],
)
def test_so_is_one_of_the_middleware(options: dict[str, Any], named: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(actorfw.UsageError, match=named):
        actorfw.aiohttp.middleware(**options)
    with pytest.raises(actorfw.UsageError, match=named):
        actorfw.asgi.RequestMiddleware(app, **options)


def test_an_application_is_set_up_once() -> None:
    from aiohttp import web

    app = web.Application()
    actorfw.aiohttp.setup(app)
    with pytest.raises(actorfw.UsageError, match="once"):
        actorfw.aiohttp.setup(app)
    with pytest.raises(actorfw.UsageError, match="Application"):
        actorfw.aiohttp.setup(object())  # type: ignore[arg-type]
