"""What the fixtures of the pytest plugin do: start a node or a cluster where the test can use it, and end it.

An async test that pytest-asyncio or anyio runs gets its node on its own loop: the fixture is theirs then, of the loop's
scope. All others (plain tests, other runners, whatever lives for the session) get a thread with a loop of its own.
What tests leave behind is looked for by `testing.leaks`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import pytest

import actorfw
from actorfw.runtime import current
from actorfw.testing.leaks import Leaks, Looking

if TYPE_CHECKING:
    from actorfw.runtime.home import Home

__all__ = ["for_session", "for_test"]

Kind = Literal["node", "cluster"]

SECRET: Final = "for tests on this machine only"
_SCOPES: Final = ("function", "class", "module", "package", "session")
_PYTEST_ASYNCIO: Final = ("asyncio", "pytest_asyncio", "pytest_asyncio.plugin")  # as it is found, or named by -p
_LOOPS: Final = "actorfw-loops"
_SESSION: Final = "actorfw-session"
_LEAKS: Final = "actorfw-leaks"


def for_test(request: pytest.FixtureRequest, kind: Kind, general: dict[str, Any]) -> Iterator[Any]:
    """A node or cluster of one test's own."""
    other = "actorfw_cluster" if kind == "node" else "actorfw_node"
    if other in request.fixturenames:
        _refuse("one test has actorfw_node or actorfw_cluster: the cluster's node is actorfw_cluster.node")
    marker = request.node.get_closest_marker("actorfw")
    options, kinds = _of_marker(request, kind, marker, general)
    leaks = _plugin(request, _LEAKS, Leaks)
    leaks.expect(request.node, kinds, beside_others=bool(_plugin(request, _SESSION, _SessionNodes).nodes))
    leaks.options[request.node] = options
    runner = _runner(request)
    if runner is not None:
        _plugin(request, _LOOPS, _loop_fixtures)
        yield request.getfixturevalue(f"_actorfw_{kind}_on_{runner}")
        return
    leaks.begin(request.node)
    with _on_thread(kind, options) as started, _entered(_node_of(started)):
        yield started


def for_session(request: pytest.FixtureRequest, kind: Kind, general: dict[str, Any]) -> Iterator[Any]:
    """A node or cluster that many tests use."""
    session = _plugin(request, _SESSION, _SessionNodes)
    look = Looking.now()
    with _on_thread(kind, _known(kind, general)) as it:
        session.nodes[f"actorfw_session_{kind}"] = _node_of(it)
        with _entered(_node_of(it)):
            yield it
        del session.nodes[f"actorfw_session_{kind}"]
    # Much else may rightly have come up in the meantime.
    look.check("the session", own=True)


def _of_marker(
    request: pytest.FixtureRequest, kind: Kind, marker: pytest.Mark | None, general: dict[str, Any]
) -> tuple[dict[str, Any], object]:
    """Options, and what of leaks is looked for."""
    if marker is not None and marker.args:
        _refuse(f"pytest.mark.actorfw takes options by name; it was given {marker.args}")
    own = dict(marker.kwargs) if marker is not None else {}
    kinds = own.pop("leaks", None)
    if kind == "node" and "nodes" in own:
        _refuse("pytest.mark.actorfw(nodes=...) is for the fixture actorfw_cluster")
    return {**_known(kind, general), **own}, request.config.getini("actorfw_leaks") if kinds is None else kinds


def _known(kind: Kind, general: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in general.items() if kind == "cluster" or name != "nodes"}


def _refuse(why: str) -> NoReturn:
    pytest.fail(why, pytrace=False)


def _runner(request: pytest.FixtureRequest) -> str | None:
    """Who runs this test, and on what loop: the end of the name of a fixture that runs there too."""
    function = getattr(request.node, "obj", None)
    tested = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    if not inspect.iscoroutinefunction(tested):
        return None
    marker = request.node.get_closest_marker("asyncio")
    if marker is not None and any(map(request.config.pluginmanager.has_plugin, _PYTEST_ASYNCIO)):
        scope = marker.kwargs.get("loop_scope") or marker.kwargs.get("scope")
        return f"{scope or request.config.getini('asyncio_default_test_loop_scope')}_loop"
    if "anyio_backend" in request.fixturenames:
        return "anyio" if request.getfixturevalue("anyio_backend_name") == "asyncio" else None
    return None


def _session_fixtures(names: list[str]) -> list[str]:
    return [name for name in ("actorfw_session_cluster", "actorfw_session_node") if name in names]


def _plugin(request: pytest.FixtureRequest, name: str, make: Callable[[], Any]) -> Any:
    """A plugin that runs without these fixtures have no need of: it is there from their first use on."""
    manager = request.config.pluginmanager
    if not manager.has_plugin(name):
        manager.register(make(), name)
    return manager.get_plugin(name)


def _start(kind: Kind, options: dict[str, Any]) -> contextlib.AbstractAsyncContextManager[Any]:
    # Never ACTORFW_SEEDS: a test joins nobody's cluster.
    given: dict[str, Any] = {"num_cpus": 1, "secret": SECRET, "log_to_driver": False, **options}
    if kind == "cluster":
        return actorfw.LocalCluster(given.pop("nodes", 2), **given)
    return actorfw.init(given.pop("seeds", []), **given)  # not ACTORFW_SEEDS: a test joins nobody's cluster


def _node_of(started: Any) -> Home:
    node: actorfw.Node = started.node if isinstance(started, actorfw.LocalCluster) else started
    return node.runtime


# -- on the test's own loop --------------------------------------------------------------------------------------------


def _loop_fixtures() -> ModuleType:
    """Fixtures that run where a test runs: one for each scope of pytest-asyncio's loops, and one for anyio."""

    found = ModuleType("actorfw.testing.loops")

    def add(kind: Kind, where: str, fixture: Callable[..., Any]) -> None:
        # pytest-asyncio notes the loop's scope at the function: each fixture has one of its own.
        async def started(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
            leaks = _plugin(request, _LEAKS, Leaks)
            leaks.begin(request.node, asyncio.get_running_loop(), own_loop=where == "function_loop")
            async with _start(kind, leaks.options[request.node]) as it:
                yield it
            leaks.ended(request.node)

        name = f"_actorfw_{kind}_on_{where}"
        setattr(found, name, fixture(name=name)(started))

    kinds: tuple[Kind, Kind] = ("node", "cluster")
    for kind in kinds:
        add(kind, "anyio", pytest.fixture)
        with contextlib.suppress(ImportError):
            import pytest_asyncio

            for scope in _SCOPES:
                add(kind, f"{scope}_loop", functools.partial(pytest_asyncio.fixture, loop_scope=scope))
    return found


# -- on a thread -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _on_thread(kind: Kind, options: dict[str, Any]) -> Generator[Any]:
    """A node or cluster on a loop of its own. Not `init()`'s thread: of those a process has one."""
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = Future()
    up: Future[tuple[Any, asyncio.Event]] = Future()
    ended: Future[None] = Future()

    async def live() -> None:
        task = asyncio.current_task()
        assert task is not None
        begun.set_result((asyncio.get_running_loop(), task))
        async with _start(kind, options) as it:
            halt = asyncio.Event()
            up.set_result((it, halt))
            await halt.wait()

    def main() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:  # whoever waits raises it
            (ended if up.done() else up).set_exception(error)
        finally:
            if not ended.done():
                ended.set_result(None)

    thread = threading.Thread(target=main, name="actorfw-tests", daemon=True)
    thread.start()
    loop, task = begun.result()
    try:
        it, halt = up.result()
    except BaseException:  # it did not start, or Ctrl-C meanwhile
        with contextlib.suppress(RuntimeError):  # its loop is closed already
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    try:
        yield it
    finally:
        loop.call_soon_threadsafe(halt.set)
        thread.join()
        ended.result()


@contextlib.contextmanager
def _entered(node: Home) -> Generator[None]:
    was = current.entered.get()
    current.entered.set(node)
    try:
        yield
    finally:
        current.entered.set(was)


class _SessionNodes:
    """Sees to it that a test means the session's node that it asked for, and no other test does.

    Attributes:
        nodes: those that are up, by fixture.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Home] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        asked = _session_fixtures(getattr(item, "fixturenames", []))
        node = next((self.nodes[name] for name in asked if name in self.nodes), None)
        was = current.entered.get()
        if node is None and was not in self.nodes.values():
            return (yield)  # it is none of the session's
        current.entered.set(node)
        try:
            return (yield)
        finally:
            current.entered.set(was)
