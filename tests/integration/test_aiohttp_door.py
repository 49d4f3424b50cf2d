"""A node inside an aiohttp application: its life, health, refusals, deadlines, traces, cancelling."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

import actorfw
import actorfw.aiohttp
from actorfw.aiohttp import NODE

pytestmark = pytest.mark.real

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACED = {"traceparent": TRACEPARENT, "tracestate": "rojo=1"}

Client = TestClient[web.Request, web.Application]


class Work(actorfw.Actor):
    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.cancelled = asyncio.Event()

    @actorfw.method
    async def context(self) -> list[Any]:
        known = actorfw.context()
        return [known.traceparent, known.tracestate, known.deadline is not None]

    @actorfw.method(interleave=True)
    async def until_done(self) -> str:
        try:
            await self.done.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return "done"

    @actorfw.method(interleave=True)
    async def finish(self) -> None:
        self.done.set()

    @actorfw.method(interleave=True)
    async def was_cancelled(self) -> bool:
        async with asyncio.timeout(10):
            await self.cancelled.wait()
        return True


@actorfw.remote
def traceparent_in_a_process() -> str:
    return actorfw.context().traceparent


WORK = web.AppKey("work", Work)

ERRORS: dict[str, Exception] = {
    "overloaded": actorfw.OverloadedError("secret words"),
    "full": actorfw.MailboxFullError("secret words"),
    "late": actorfw.DeadlineExceededError("secret words"),
    "unreachable": actorfw.PeerUnreachableError("secret words"),
    "group": ExceptionGroup("calls", [actorfw.OverloadedError("secret words")]),
    "teapot": web.HTTPConflict(text="mine"),
    "lost": actorfw.PeerLostError("secret words"),
    "mistake": ValueError("secret words"),
}


async def fails(request: web.Request) -> web.Response:
    raise ERRORS[request.match_info["how"]]


async def begins_and_fails(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"begun")
    raise actorfw.OverloadedError("too late")


async def context(request: web.Request) -> web.Response:
    known = actorfw.context()
    here = [known.traceparent, known.tracestate, known.deadline is not None]
    return web.json_response([here, await request.config_dict[WORK].context()])


async def process(request: web.Request) -> web.Response:
    return web.json_response(await traceparent_in_a_process.remote())


async def waits(request: web.Request) -> web.Response:
    return web.json_response(await request.config_dict[WORK].until_done())


async def socket(request: web.Request) -> web.WebSocketResponse:
    answer = web.WebSocketResponse()
    await answer.prepare(request)
    known = actorfw.context()
    await answer.send_json([known.traceparent, known.deadline is not None])
    await answer.close()
    return answer


async def with_work(app: web.Application) -> AsyncIterator[None]:
    app[WORK] = Work.remote()
    yield
    if app[NODE].runtime.open:  # no test has drained it
        await app[WORK].finish()  # it can still be used


def application(**options: Any) -> web.Application:
    app = web.Application()
    actorfw.aiohttp.setup(app, **{"num_cpus": 0, **options})
    app.cleanup_ctx.append(with_work)
    app.router.add_get("/fails/{how}", fails)
    app.router.add_get("/begins", begins_and_fails)
    app.router.add_get("/context", context)
    app.router.add_get("/process", process)
    app.router.add_get("/waits", waits)
    app.router.add_get("/socket", socket)
    return app


@asynccontextmanager
async def serving(app: web.Application, **runner: Any) -> AsyncIterator[Client]:
    async with TestClient(TestServer(app, **runner)) as client:
        yield client


# -- its life ----------------------------------------------------------------------------------------------------------


async def test_the_node_lives_as_long_as_the_application() -> None:
    app = application()
    async with serving(app) as client:
        node = app[NODE]
        (row,) = await actorfw.nodes()  # the loop's node is this one
        assert (row.id, row.hosts) == (node.id, "own")
        for path, body in (("/livez", "lag"), ("/readyz", "ready")):
            async with client.get(path) as answer:
                assert answer.status == 200
                assert list(await answer.json()) == [body]
                assert answer.headers["Cache-Control"] == "no-store"
    with pytest.raises(actorfw.NotInitializedError):
        actorfw.put(1)


async def test_hosts_and_other_options_are_those_of_init() -> None:
    async with serving(application(hosts="all", name="shop", blocked_after=None)):
        (row,) = await actorfw.nodes()
        assert (row.name, row.hosts) == ("shop", "all")


async def test_a_start_that_fails_leaves_nothing_and_says_why() -> None:
    app = application(seeds=["127.0.0.1:1"], config=actorfw.Config(join_timeout=0.2))
    with pytest.raises(actorfw.PeerUnreachableError, match=r"127\.0\.0\.1:1"):
        await web.AppRunner(app).setup()
    assert NODE not in app


async def test_handlers_that_run_at_the_shutdown_may_call_and_are_answered() -> None:
    app = application()
    server = TestServer(app)
    async with aiohttp.ClientSession() as session:
        await server.start_server()
        waiting = asyncio.create_task(_text(session, server.make_url("/waits")))
        await _runs(app)
        closing = asyncio.create_task(server.close())

        async def ready() -> bool:
            return app[actorfw.aiohttp.requests.SERVING].ready

        async with asyncio.timeout(10):
            while await ready():
                await asyncio.sleep(0.001)
        assert not waiting.done()
        assert app[NODE].runtime.open
        await app[WORK].finish()
        assert await waiting == (200, '"done"')
        await closing
        assert not app[NODE].runtime.open


async def _runs(app: web.Application) -> None:
    async with asyncio.timeout(10):
        while not app[NODE].runtime.calls.open:
            await asyncio.sleep(0.001)


async def _text(session: aiohttp.ClientSession, url: Any) -> tuple[int, str]:
    async with session.get(url) as answer:
        return answer.status, await answer.text()


async def test_leaving_takes_no_longer_than_the_runner_gives() -> None:
    """Here, a call that never ends keeps the node."""
    app = application(drain_timeout=30)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    forever = Work.remote().until_done.remote()
    began = asyncio.get_running_loop().time()
    await runner.cleanup()
    assert asyncio.get_running_loop().time() - began < 5
    with pytest.raises(actorfw.NodeClosedError):
        await forever


# -- health ------------------------------------------------------------------------------------------------------------


async def test_paths_can_be_chosen_and_turned_off() -> None:
    async with serving(application(livez="/health/live", readyz=None)) as client:
        assert [(await client.get(path)).status for path in ("/health/live", "/livez", "/readyz")] == [200, 404, 404]


async def test_a_route_of_the_users_own_wins_wherever_it_was_added() -> None:
    async def mine(request: web.Request) -> web.Response:
        return web.Response(text="mine")

    app = web.Application()
    app.router.add_get("/livez", mine)
    actorfw.aiohttp.setup(app, num_cpus=0)
    app.router.add_get("/readyz", mine)
    app.router.add_get("/{anything}", mine)
    async with serving(app) as client:
        assert [await (await client.get(path)).text() for path in ("/livez", "/readyz", "/x")] == ["mine"] * 3
    caught_all = web.Application()
    caught_all.router.add_get("/{anything:.*}", mine)
    actorfw.aiohttp.setup(caught_all, num_cpus=0)
    async with serving(caught_all) as client:
        assert await (await client.get("/readyz")).json() == {"ready": True}


async def test_a_node_that_was_drained_by_others_is_not_ready_and_its_calls_are_refused() -> None:
    app = application()
    async with serving(app) as client:
        await app[NODE].drain(1)
        answers = [await client.get(path) for path in ("/livez", "/readyz", "/process", "/context")]
        assert [answer.status for answer in answers] == [200, 503, 503, 503]
        assert answers[2].headers["Retry-After"] == "1"


# -- requests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("overloaded", 503),
        ("full", 503),
        ("unreachable", 503),
        ("group", 503),
        ("late", 504),
        ("teapot", 409),
        ("lost", 500),
        ("mistake", 500),
    ],
)
async def test_failures_and_their_answers(how: str, status: int) -> None:
    async with serving(application()) as client, client.get(f"/fails/{how}") as answer:
        assert answer.status == status
        assert ("Retry-After" in answer.headers) is (status == 503)
        assert "secret" not in await answer.text()


async def test_without_the_middleware_they_are_aiohttps_affair() -> None:
    async with serving(application(requests=False)) as client:
        assert (await client.get("/fails/overloaded")).status == 500
        async with client.get("/context", headers=TRACED) as answer:
            assert await answer.json() == [["", "", False]] * 2


async def test_an_answer_that_has_begun_is_not_another_one() -> None:
    async with serving(application()) as client, client.get("/begins") as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


@pytest.mark.parametrize(
    ("headers", "seen"),
    [
        ({}, ["", "", False]),
        (TRACED, [TRACEPARENT, "rojo=1", False]),
        ({"traceparent": TRACEPARENT}, [TRACEPARENT, "", False]),
        ({"traceparent": "garbage", "tracestate": "rojo=1"}, ["", "", False]),
        ({"tracestate": "rojo=1"}, ["", "", False]),
        ({"X-Request-Timeout": "5"}, ["", "", True]),
        ({"x-request-timeout": "5000m", **TRACED}, [TRACEPARENT, "rojo=1", True]),
        ({"X-Request-Timeout": "soon"}, ["", "", False]),
    ],
)
async def test_what_a_request_brings_goes_on(headers: dict[str, str], seen: list[Any]) -> None:
    async with serving(application()) as client, client.get("/context", headers=headers) as answer:
        assert await answer.json() == [seen, seen]


async def test_two_traceparents_are_none() -> None:
    headers = [("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)]
    async with serving(application()) as client, client.get("/context", headers=headers) as answer:
        assert (await answer.json())[0] == ["", "", False]


async def test_it_reaches_worker_processes() -> None:
    async with serving(application(num_cpus=1)) as client, client.get("/process", headers=TRACED) as answer:
        assert await answer.json() == TRACEPARENT


async def test_a_request_that_takes_too_long_is_a_504() -> None:
    async with serving(application(request_timeout=0.1)) as client:
        assert (await client.get("/waits")).status == 504
        # The client may ask for less, not for more.
        began = asyncio.get_running_loop().time()
        assert (await client.get("/waits", headers={"X-Request-Timeout": "60"})).status == 504
        assert asyncio.get_running_loop().time() - began < 5
    async with serving(application(timeout_header="Patience", trace=False)) as client:
        assert (await client.get("/waits", headers={"Patience": "100m"})).status == 504
        async with client.get("/context", headers=TRACED) as answer:
            assert await answer.json() == [["", "", False]] * 2


async def test_a_web_socket_has_a_trace_and_no_deadline() -> None:
    async with (
        serving(application(request_timeout=0.1)) as client,
        client.ws_connect("/socket", headers=TRACED) as found,
    ):
        assert await found.receive_json() == [TRACEPARENT, False]


async def test_a_client_that_goes_away_cancels_what_its_handler_awaits() -> None:
    app = application()
    async with serving(app, handler_cancellation=True) as client:
        request = asyncio.create_task(client.get("/waits").__aenter__())  # type: ignore[arg-type]
        await _runs(app)
        request.cancel()
        assert await app[WORK].was_cancelled()


async def test_a_sub_application_has_its_parents_node_and_requests() -> None:
    sub = web.Application()
    sub.router.add_get("/context", context)
    sub.router.add_get("/fails/{how}", fails)
    app = application()
    app.add_subapp("/sub", sub)
    async with serving(app) as client:
        async with client.get("/sub/context", headers=TRACED) as answer:
            assert await answer.json() == [[TRACEPARENT, "rojo=1", False]] * 2
        assert (await client.get("/sub/fails/overloaded")).status == 503


async def test_setup_on_a_sub_application_gives_it_a_node_and_no_routes() -> None:
    sub = application()
    app = web.Application()
    app.add_subapp("/sub", sub)
    async with serving(app) as client:
        assert sub[NODE].runtime.open
        assert (await client.get("/sub/context")).status == 200
        assert (await client.get("/sub/livez")).status == 404


async def test_a_blocked_loop_is_logged_with_the_handlers_line(caplog: pytest.LogCaptureFixture) -> None:
    import time

    async def blocks(request: web.Request) -> web.Response:
        time.sleep(0.4)  # noqa: ASYNC251  (what this is about)
        return web.Response()

    caplog.set_level(logging.WARNING, "actorfw.loop")
    app = application(blocked_after=0.2)
    app.router.add_get("/blocks", blocks)
    async with serving(app) as client:
        await client.get("/blocks")
        async with asyncio.timeout(10):
            while len(caplog.messages) < 2:
                await asyncio.sleep(0.01)
    assert f"{__file__}:" in caplog.messages[0]
    assert "in blocks: time.sleep(0.4)" in caplog.messages[0]
    assert "turns again" in caplog.messages[1]
