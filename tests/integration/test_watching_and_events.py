"""`watch` and `events` on real nodes: from async code, from scripts and threads, from worker processes."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest

import actorfw

pytestmark = pytest.mark.real


@actorfw.remote(num_cpus=0)
class Subject(actorfw.Actor):
    async def ping(self) -> str:
        return "pong"


@actorfw.remote(num_cpus=0, executor="process")
class Watcher(actorfw.Actor):
    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def reason(self) -> str:
        return actorfw.get(actorfw.watch(self.handle)).reason

    def not_yet(self) -> str:
        watched = actorfw.watch(self.handle)
        try:
            return actorfw.get(watched, timeout=0.2).reason
        except actorfw.GetTimeoutError:
            watched.cancel()
            return "not yet"

    def told(self) -> list[str]:
        return [type(one).__name__ for one in actorfw.watch(self.handle, restarts=True)]

    def events(self) -> str:
        for event in actorfw.events():
            if isinstance(event, actorfw.ActorEnded):
                return event.reason
        return "none"


@actorfw.remote(num_cpus=0, executor="process")
class Awaiter(actorfw.Actor):
    async def awaits(self, handles: list[Any]) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(actorfw.watch(handles[0]), 0.1)
        ended = await actorfw.watch(handles[0])
        return ended.actor == handles[0] and ended.reason == "killed"


async def nothing_left(node: actorfw.Node) -> None:
    watching = node.runtime.watching
    async with asyncio.timeout(10):
        while watching._watched or watching._watchers.of or watching.node.readings._open:
            await asyncio.sleep(0.01)


async def under_way(node: actorfw.Node, *, watches: int, readings: int) -> None:
    """So many watches and readings of workers have reached their node."""
    desk = node.runtime.workercalls
    async with asyncio.timeout(10):
        while (len(desk._waits), len(node.runtime.readings._open)) != (watches, readings):
            await asyncio.sleep(0.01)


async def test_workers_watch_and_read() -> None:
    async with actorfw.init(num_cpus=2) as node:
        handle: Any = Subject.remote()
        await handle.ping()
        watchers: list[Any] = [Watcher.remote(handle) for _ in range(3)]
        awaiter: Any = Awaiter.remote()
        assert await watchers[0].not_yet() == "not yet"
        await nothing_left(node)
        waiting = [
            watchers[0].reason.remote(),
            watchers[1].told.remote(),
            awaiter.awaits.remote([handle]),
            watchers[2].events.remote(),
        ]
        await under_way(node, watches=2, readings=2)
        assert not any(ref.done() for ref in waiting)
        actorfw.kill(handle)
        async with asyncio.timeout(20):
            assert await asyncio.gather(*waiting) == ["killed", ["Terminated"], True, "killed"]
        assert await watchers[1].told() == ["Terminated"]
        await nothing_left(node)


async def test_a_worker_that_dies_watches_no_more() -> None:
    async with actorfw.init(num_cpus=2) as node:
        handle: Any = Subject.remote()
        await handle.ping()
        watchers: list[Any] = [Watcher.remote(handle) for _ in range(2)]
        waiting = [watchers[0].reason.remote(), watchers[1].told.remote()]
        await under_way(node, watches=1, readings=1)
        for watcher in watchers:
            actorfw.kill(watcher)
        await asyncio.gather(*waiting, return_exceptions=True)
        await nothing_left(node)


async def test_a_killed_node_ends_what_it_hosts() -> None:
    async with actorfw.LocalCluster(nodes=2, num_cpus=1) as cluster:
        row = next(row for row in await actorfw.nodes() if not row.here)
        there = actorfw.NodeAffinity(row.id)
        handle: Any = Subject.options(scheduling=there).remote()
        await handle.ping()
        events = actorfw.events()
        watched = actorfw.watch(handle)
        index = next(i for i, address in enumerate(cluster.addresses) if address == row.address)
        await cluster.kill(index)
        async with asyncio.timeout(20):
            assert (await watched).reason == "node_died"
            kinds: set[type[Any]] = set()
            while not kinds >= {actorfw.NodeDied, actorfw.ActorEnded}:
                kinds.add(type(await anext(events)))


def test_a_script_watches_and_reads() -> None:
    script = """
    import threading, actorfw

    class Subject(actorfw.Actor):
        async def ping(self) -> str:
            return "pong"

    with actorfw.init(num_cpus=0):
        events = actorfw.events()
        one, two = Subject.remote(), Subject.remote()
        actorfw.get([one.ping(), two.ping()])
        try:
            actorfw.get(actorfw.watch(one), timeout=0.1)
        except actorfw.GetTimeoutError:
            print("not yet")
        threading.Timer(0.2, actorfw.kill, [one]).start()
        print(actorfw.get(actorfw.watch(one)).reason)
        actorfw.get(actorfw.stop(two))
        for told in actorfw.watch(two, restarts=True):
            print(told.reason)
        for event in events:
            print(event.kind, event.reason)
            if event.reason == "stopped":
                break
        rest = actorfw.events()
        threading.Timer(0.2, lambda: actorfw.kill(Subject.remote())).start()
        print(next(iter(rest)).kind)
    print([event for event in rest])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=50, check=True
    )
    assert done.stderr == ""
    assert done.stdout.split("\n")[:-1] == [
        "not yet",
        "killed",
        "stopped",
        "ActorEnded killed",
        "ActorEnded stopped",
        "ActorEnded",
        "[]",
    ]


async def test_blocking_on_a_loop_is_refused() -> None:
    async with actorfw.init(num_cpus=0) as node:
        handle: Any = Subject.remote()
        for reading in (actorfw.events(), actorfw.watch(handle, restarts=True)):
            with pytest.raises(actorfw.BlockingCallError):
                next(iter(reading))
        # In a thread beside the node's loop it blocks.
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(actorfw.get(actorfw.watch(handle)).reason))
        thread.start()
        async with asyncio.timeout(10):
            while not node.runtime.watching._watched:
                await asyncio.sleep(0.005)
        actorfw.kill(handle)
        while thread.is_alive():
            await asyncio.sleep(0.01)
        assert found == ["killed"]


async def test_only_handles_are_watched() -> None:
    async with actorfw.init(num_cpus=0):
        wrong: list[Any] = [Subject, "name", None]
        for one in wrong:
            with pytest.raises(TypeError, match="watch takes the handle of an actor"):
                actorfw.watch(one)
