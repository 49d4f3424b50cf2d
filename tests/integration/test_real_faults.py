"""Real processes and real machines, nearly: stopped for too long, cut off, under a load that is too large."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import actorfw

pytestmark = pytest.mark.real

STALL_LIMIT = 3.0
CONFIG = actorfw.Config(stall_limit=STALL_LIMIT)
MIB = 1 << 20


@actorfw.remote
class Counter:
    def __init__(self) -> None:
        self.n = 0

    async def add(self) -> int:
        self.n += 1
        return self.n

    async def for_ever(self) -> None:
        await asyncio.Event().wait()

    async def size_of(self, value: list[Any]) -> int:
        return len(value)


@actorfw.remote(num_cpus=1)
def where() -> str:
    return actorfw.context().node_id


@actorfw.remote(num_cpus=1)
def count_of(value: list[Any]) -> int:
    return len(value)


@asynccontextmanager
async def cluster_of(nodes: int, config: actorfw.Config = CONFIG) -> AsyncIterator[actorfw.LocalCluster]:
    async with actorfw.LocalCluster(nodes=nodes, num_cpus=1, driver_cpus=0, config=config) as cluster:
        yield cluster


async def row_of(pid: int) -> Any:
    return next((row for row in await actorfw.nodes() if row.pid == pid), None)


async def until_state(pid: int, state: str, since: float, seconds: float) -> float:
    """Wait until a process's node is in a state ("gone": no member); how long that took."""
    while True:
        row = await row_of(pid)
        took = time.monotonic() - since
        if (row.state if row is not None else "gone") == state:
            return took
        assert took < seconds, f"not {state} within {seconds} s, but {row}"
        await asyncio.sleep(0.01)


def on(node_id: str) -> actorfw.NodeAffinity:
    return actorfw.NodeAffinity(node_id)


def print_seconds(what: str, took: float) -> None:
    print(f"measured: {what}: {took:.2f} s")


async def test_calls_of_a_killed_node_end_and_its_actors_come_back() -> None:
    async with cluster_of(3) as cluster:
        pid = cluster.pid(0)
        victim = (await row_of(pid)).id
        soft = actorfw.NodeAffinity(victim, soft=True)
        lost = [Counter.options(scheduling=on(victim)).remote() for _ in range(5)]
        back: Any = Counter.options(scheduling=soft, max_restarts=1).remote()
        again: Any = Counter.options(scheduling=soft, max_restarts=1, max_task_retries=1).remote()
        await asyncio.gather(*(counter.add() for counter in (*lost, back, again)))
        calls = [counter.for_ever.remote() for counter in (*lost, back)]
        os.kill(pid, signal.SIGKILL)
        start = time.monotonic()
        ends = await asyncio.gather(*calls, again.add(), return_exceptions=True)
        took = time.monotonic() - start
        print_seconds("calls of a killed node have ended, or run elsewhere", took)
        assert took < 2
        *dead, restarting, value = ends
        assert [type(end) for end in dead] == [actorfw.ActorDiedError] * 5
        assert isinstance(restarting, actorfw.ActorUnavailableError)
        assert {end.ran for end in (*dead, restarting)} == {None}  # type: ignore[union-attr]
        assert value in (1, 2)  # 2: it had run before the kill
        assert await back.add() == 1


async def test_a_node_that_was_stopped_for_too_long_comes_back_as_a_new_life() -> None:
    async with cluster_of(2) as cluster:
        pid = cluster.pid(0)
        row = await row_of(pid)
        fixed: Any = Counter.options(scheduling=on(row.id)).remote()
        moves: Any = Counter.options(scheduling=actorfw.NodeAffinity(row.id, soft=True), max_restarts=1).remote()
        assert [await fixed.add(), await moves.add()] == [1, 1]
        events = actorfw.events()
        os.kill(pid, signal.SIGSTOP)
        start = time.monotonic()
        try:
            stalled = await until_state(pid, "stalled", start, 3.0)
            dead = await until_state(pid, "gone", start, stalled + STALL_LIMIT + 4.0)
        finally:
            os.kill(pid, signal.SIGCONT)
        again = time.monotonic()
        print_seconds("stopped, until it is stalled", stalled)
        print_seconds("stalled, until it is dead", dead - stalled)
        assert dead - stalled > STALL_LIMIT - 0.5
        with pytest.raises(actorfw.ActorDiedError) as raised:
            await fixed.add()
        assert (raised.value.reason, raised.value.ran) == ("node_died", False)
        assert await moves.add() == 1  # another incarnation
        took = await until_state(pid, "up", again, 20.0)
        print_seconds("continued, until it is a member again", took)
        new = await row_of(pid)
        assert (new.id, new.name) == (row.id, row.name)  # the node, with another life
        assert await where.options(scheduling=on(new.id)).remote() == row.id
        assert await Counter.options(scheduling=on(new.id)).remote().add() == 1
        seen: list[str] = []
        async with asyncio.timeout(10):
            async for event in events:
                if getattr(event, "node_id", None) == row.id and type(event).__name__.startswith("Node"):
                    seen.append(type(event).__name__)
                    if seen[-1] == "NodeUp":
                        break
        assert seen[0] == "NodeStalled"
        assert [kind for kind in seen if kind != "NodeSuspected"] == ["NodeStalled", "NodeDied", "NodeJoined", "NodeUp"]


async def test_two_hundred_megabytes_of_dicts_as_an_argument() -> None:
    """Packing them blocks the loop for seconds, at both ends: nobody is taken for dead, and other work goes on."""
    part = {"name": "x" * 40, "values": list(range(20)), "more": {"a": 1.5, "b": None}}
    some = [dict(part, number=number, name=f"{number:0500}") for number in range(10)]
    size = len(pickle.dumps(some)) / len(some)
    value = [dict(part, number=number, name=f"{number:0500}") for number in range(int(200 * MIB / size))]
    async with cluster_of(2, actorfw.Config()) as cluster:
        rows = [await row_of(cluster.pid(index)) for index in (0, 1)]
        small: Any = Counter.options(scheduling=on(rows[1].id)).remote()
        large: Any = Counter.options(scheduling=on(rows[0].id)).remote()
        assert [await small.add(), await large.add()] == [1, 1]
        events = actorfw.events()
        start = time.monotonic()
        sent = large.size_of.remote(value)
        done = asyncio.ensure_future(asyncio.wait_for(asyncio.shield(sent), 120))
        turns = 1
        while not done.done():
            turns += 1
            assert await small.add() == turns
            await asyncio.sleep(0.05)
        assert await done == len(value)
        print_seconds("200 MiB of dicts to an actor on another node", time.monotonic() - start)
        start = time.monotonic()
        assert await asyncio.wait_for(count_of.options(scheduling=on(rows[1].id)).remote(value), 120) == len(value)
        print_seconds("200 MiB of dicts to a worker process on another node", time.monotonic() - start)
        assert turns > 1
        assert await small.add() == turns + 1
        assert await large.add() == 2
        assert {row.state for row in await actorfw.nodes()} <= {"up", "stalled"}
        await events.aclose()
        died = [event async for event in events if isinstance(event, actorfw.NodeDied | actorfw.Reborn)]
        assert died == []
