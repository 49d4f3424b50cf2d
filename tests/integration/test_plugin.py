"""The pytest plugin, as a user's test run meets it: a pytest of its own, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.real

pytest_plugins = ["pytester"]

COMMON = """
import asyncio
import pytest
import actorfw

@actorfw.remote
class Counter:
    def __init__(self):
        self.n = 0
    async def add(self, k):
        self.n += k
        return self.n

@actorfw.remote
async def double(x):
    return x + x

@actorfw.remote
def square(x):
    return x * x

def is_here(node):
    return node.runtime.loop is asyncio.get_running_loop()
"""

ASYNC = """
async def test_node(actorfw_node):
    assert is_here(actorfw_node)
    counter = Counter.remote()
    assert await asyncio.gather(counter.add(1), counter.add(2)) == [1, 3]
    assert await square.remote(7) == 49
    assert [row.name for row in await actorfw.nodes()] == [actorfw_node.name]

@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.actorfw(num_cpus=3)
async def test_on_a_loop_that_outlives_it(actorfw_node):
    assert is_here(actorfw_node)
    assert (await actorfw.cluster_resources())["CPU"] == 3
    assert await asyncio.to_thread(abs, -1) == 1  # the loop keeps its threads: they are no leak

@pytest.mark.actorfw(nodes=1)
async def test_cluster(actorfw_cluster):
    assert is_here(actorfw_cluster.node)
    rows = await actorfw.nodes()
    assert len(rows) == 2
    there = next(row.id for row in rows if not row.here)
    counter = Counter.options(scheduling=actorfw.NodeAffinity(there)).remote()
    assert await counter.add(2) == 2

async def test_a_server_beside_it(aiohttp_client, actorfw_node):
    # What answers the client's connections ends after the node, with the fixture that came before.
    from aiohttp import web

    async def answer(request):
        return web.json_response(await double.remote(4))

    app = web.Application()
    app.router.add_get("/", answer)
    client = await aiohttp_client(app)
    assert await (await client.get("/")).json() == 8

class TestMethods:
    async def test_in_a_class(self, actorfw_session_cluster, actorfw_node):
        assert len(await actorfw.nodes()) == 1  # the test's own goes first

async def test_cluster_of_the_session(actorfw_session_cluster):
    assert len(await actorfw.nodes()) == 2
    assert not is_here(actorfw_session_cluster.node)
    assert await double.remote(4) == 8
"""

PLAIN = """
import os

@pytest.fixture(scope="session")
def actorfw_options():
    return {"nodes": 1, "num_cpus": 2}

@pytest.fixture(scope="module")
def counter(actorfw_session_node):
    return Counter.remote()

def test_node(actorfw_node):
    assert actorfw.get(double.remote(3)) == 6
    assert actorfw.get(actorfw.cluster_resources())["CPU"] == 2

def test_session(counter):
    assert actorfw.get(counter.add(1)) == 1

def test_cluster_of_the_session(actorfw_session_cluster):
    assert len(actorfw.get(actorfw.nodes())) == 2

def test_session_again(counter, actorfw_session_node):
    assert actorfw.get(counter.add(1)) == 2
    assert len(actorfw.get(actorfw.nodes())) == 1
    assert actorfw.context().node_id == actorfw_session_node.id

def test_without():
    with actorfw.init(seeds=[], num_cpus=0, secret="of this test and no other") as node:
        assert actorfw.context().node_id == node.id

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_anyio(actorfw_node, anyio_backend):
    assert is_here(actorfw_node)
    assert await double.remote(3) == 6
"""

LEAKS = """
import os
import socket
import subprocess
import threading
import tracemalloc
import numpy

kept = []

@pytest.fixture
def noted():
    tracemalloc.start(10)  # not by PYTHONTRACEMALLOC: worker processes need not do it too

async def wait_long():
    await asyncio.Event().wait()

async def test_before_there_was_a_node():
    kept.append(socket.create_server(("127.0.0.1", 0)))

@pytest.mark.asyncio(loop_scope="module")
async def test_task_on_a_loop_that_stays(actorfw_node):
    kept.append(asyncio.create_task(wait_long(), name="forgotten there"))

async def test_all(actorfw_node, noted):
    kept.append(asyncio.create_task(wait_long(), name="forgotten"))
    kept.append(threading.Event())
    threading.Thread(target=kept[-1].wait, name="still there", daemon=True).start()
    kept.append(subprocess.Popen(["sleep", "60"]))
    kept.append(socket.create_connection(kept[0].getsockname()))
    kept.append(open(__file__))
    kept.append(await actorfw.put(numpy.ones(1 << 18)))

@pytest.mark.actorfw(leaks="tasks memory")
async def test_some_kinds(actorfw_node):
    tracemalloc.stop()
    kept.append(socket.socket())

@pytest.mark.actorfw(leaks=False)
async def test_none(actorfw_node):
    kept.append(asyncio.create_task(wait_long()))

async def test_fails_for_another_reason(actorfw_node):
    kept.append(socket.socket())
    assert not kept

def test_plain(actorfw_node):
    kept.append(open("/dev/zero"))

async def test_ends_what_it_began(actorfw_node):
    task = asyncio.create_task(wait_long())
    asyncio.get_running_loop().call_soon(task.cancel)

@pytest.mark.actorfw(nodes=3)
async def test_wrong_fixture(actorfw_node):
    pass

@pytest.mark.actorfw(num_cpu=3)
async def test_wrong_option(actorfw_node):
    pass

@pytest.mark.actorfw(leaks="sockets")
async def test_wrong_kind(actorfw_node):
    pass

async def test_two(actorfw_node, actorfw_cluster):
    pass

def test_end():
    for it in kept:
        if isinstance(it, subprocess.Popen):
            it.kill()
            it.wait()
        elif hasattr(it, "close"):
            it.close()
        elif isinstance(it, threading.Event):
            it.set()
    kept.clear()
"""


ASYNCIO = ("pytest_asyncio.plugin",)


@pytest.fixture(autouse=True)
def _only_the_plugins_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # others take a second to load


def _run(pytester: pytest.Pytester, tests: str, *options: str, plugins: tuple[str, ...] = ASYNCIO) -> pytest.RunResult:
    pytester.makepyfile(COMMON + tests)
    named = [word for plugin in ("actorfw.testing.plugin", *plugins) for word in ("-p", plugin)]
    return pytester.runpytest_subprocess("-q", "-W", "error", "-p", "no:cacheprovider", *named, *options)


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_fixtures_under_pytest_asyncio(pytester: pytest.Pytester, mode: str) -> None:
    # In both modes some of the tests share the module's loop, and in one run the fixtures of others the session's.
    pytester.makeini(
        f"[pytest]\nasyncio_default_fixture_loop_scope = {'session' if mode == 'strict' else 'function'}\n"
    )
    session = "@pytest.fixture(scope='session')\ndef actorfw_options():\n    return {'nodes': 1}\n"
    mark = "pytestmark = pytest.mark.asyncio\n" if mode == "strict" else ""
    # In the strict run the server's fixture would live on the session's loop, and not on the test's.
    tests = ASYNC if mode == "auto" else re.sub(r"async def test_a_server.*?\n\nclass", "class", ASYNC, flags=re.S)
    plugins = (*ASYNCIO, "pytest_aiohttp.plugin") if mode == "auto" else (*ASYNCIO, "anyio.pytest_plugin")
    result = _run(pytester, session + mark + tests, "--asyncio-mode", mode, plugins=plugins)
    result.assert_outcomes(passed=6 if mode == "auto" else 5)


def test_plain_tests_and_other_runners_in_several_processes(pytester: pytest.Pytester) -> None:
    result = _run(pytester, PLAIN, "-n", "1", plugins=("xdist.plugin", "anyio.pytest_plugin"))
    result.assert_outcomes(passed=6)


def test_all_on_the_loop_of_the_session(pytester: pytest.Pytester) -> None:
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nactorfw_leaks = tasks, threads\n"
        "asyncio_default_fixture_loop_scope = session\nasyncio_default_test_loop_scope = session\n"
    )
    tests = """
loops = set()

@pytest.fixture
async def counter(actorfw_node):
    return Counter.remote()

async def test_one(counter, actorfw_node):
    loops.add(asyncio.get_running_loop())
    assert is_here(actorfw_node) and await counter.add(1) == 1

async def test_another(counter, actorfw_node):
    loops.add(asyncio.get_running_loop())
    assert is_here(actorfw_node) and await counter.add(1) == 1
    assert len(loops) == 1
"""
    _run(pytester, tests).assert_outcomes(passed=2)


def test_what_a_test_leaves_behind_is_named(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    result = _run(pytester, LEAKS, "--tb=short")
    result.assert_outcomes(passed=8, failed=1, errors=7)
    said = dict(re.findall(r"^(test_\w+) left behind:\n(.*?)\nIf that", result.stdout.str(), re.M | re.S))
    assert sorted(said) == ["test_all", "test_plain", "test_task_on_a_loop_that_stays"]
    assert re.search(
        r"task 'forgotten there' of wait_long, waits at .*\.py:\d+", said["test_task_on_a_loop_that_stays"]
    )
    made = r".*, made at\n.*test_what_a_test_leaves_behind_is_named\.py:\d+"
    for what in (
        r"task 'forgotten' of wait_long, waits at",
        r"thread 'still there', runs Event\.wait \(.*\), is at .*threading\.py:\d+",
        r"child process \d+: sleep 60",
        r"descriptor \d+: TCP socket, 127\.0\.0\.1:\d+ to 127\.0\.0\.1:\d+",
        r"descriptor \d+: .*\.py",
    ):
        assert re.search(what + made, said["test_all"], re.S), (what, said["test_all"])
    assert "shared memory of 1 nodes is mapped" in said["test_all"]
    assert "that listens" not in said["test_all"]  # it was there before
    assert said["test_plain"].count("descriptor") == 1
    result.stdout.fnmatch_lines_random(
        [
            "*actorfw(nodes=...) is for the fixture actorfw_cluster",
            "*unexpected keyword argument 'num_cpu'*",
            "*actorfw's leaks are 'sockets'; they must be all, none, or some of tasks, threads, *",
            "*the cluster's node is actorfw_cluster.node",
        ]
    )


def test_a_run_that_uses_no_fixture_loads_nothing_of_actorfw(pytester: pytest.Pytester) -> None:
    tests = "import sys\ndef test(pytestconfig):\n    assert 'actorfw.testing.fixtures' not in sys.modules\n"
    tests += "    assert not pytestconfig.pluginmanager.has_plugin('actorfw-leaks')\n"
    pytester.makepyfile(tests)
    pytester.runpytest_inprocess("-q", "-p", "actorfw.testing.plugin").assert_outcomes(passed=1)


def test_loading_the_plugin_loads_no_simulation() -> None:
    code = (
        "import sys, actorfw; before = set(sys.modules); import pytest; between = set(sys.modules)\n"
        "import actorfw.testing.plugin\n"
        "new = set(sys.modules) - between\n"
        "assert new == {'actorfw.testing', 'actorfw.testing.plugin'}, new\n"
        "assert 'aiohttp' not in sys.modules and 'rich' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
