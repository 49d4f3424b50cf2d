"""Real processes that are killed, stopped, or computing: who finds out, how soon, and what becomes of work."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import actorfw

pytestmark = pytest.mark.real

CONFIG = actorfw.Config(stall_limit=3)


@actorfw.remote
class Counter:
    def __init__(self) -> None:
        self.n = 0

    async def add(self) -> int:
        self.n += 1
        return self.n

    async def for_ever(self) -> None:
        await asyncio.Event().wait()

    async def block(self, seconds: float) -> int:
        time.sleep(seconds)  # noqa: ASYNC251  (that is the point)
        return await self.add()


@actorfw.remote(num_cpus=1)
def where() -> str:
    return actorfw.context().node_id


@actorfw.remote(num_cpus=1)
def held(at: str) -> str:
    """Where it runs, and for ever on one node."""
    if actorfw.context().node_id == at:
        signal.pause()
    return actorfw.context().node_id


@asynccontextmanager
async def cluster_of(nodes: int, config: actorfw.Config = CONFIG) -> AsyncIterator[actorfw.LocalCluster]:
    async with actorfw.LocalCluster(nodes=nodes, num_cpus=1, driver_cpus=0, config=config) as cluster:
        yield cluster


async def id_of(cluster: actorfw.LocalCluster, index: int) -> str:
    pid = cluster.pid(index)
    return next(row.id for row in await actorfw.nodes() if row.pid == pid)


async def state_of(node_id: str) -> str:
    return next((row.state for row in await actorfw.nodes() if row.id == node_id), "dead")


async def until(node_id: str, state: str, seconds: float) -> float:
    start = time.monotonic()
    while await state_of(node_id) != state:
        assert time.monotonic() - start < seconds, f"not {state} within {seconds} s"
        await asyncio.sleep(0.01)
    return time.monotonic() - start


def on(node_id: str, **more: Any) -> actorfw.NodeAffinity:
    return actorfw.NodeAffinity(node_id, **more)


async def test_a_killed_node_s_calls_fail_and_its_tasks_run_elsewhere_within_two_seconds() -> None:
    async with cluster_of(3) as cluster:
        victim = await id_of(cluster, 0)
        for index in (1, 2):  # their worker processes are there then
            await where.options(scheduling=on(await id_of(cluster, index))).remote()
        counter = Counter.options(scheduling=on(victim)).remote()
        await counter.add()
        call = counter.for_ever.remote()
        task = held.options(scheduling=on(victim, soft=True)).remote(victim)
        ready, _ = await actorfw.wait([task], timeout=0.5)
        assert not ready
        os.kill(cluster.pid(0), signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(actorfw.ActorDiedError) as raised:
            await call
        assert raised.value.ran is None
        assert time.monotonic() - start < 2
        assert await task != victim
        assert time.monotonic() - start < 2
        assert await state_of(victim) == "dead"


async def test_a_stopped_node_is_stalled_and_continues_as_if_nothing_had_been() -> None:
    async with cluster_of(2) as cluster:
        stopped, other = await id_of(cluster, 0), await id_of(cluster, 1)
        counter = Counter.options(scheduling=on(stopped)).remote()
        assert await counter.add() == 1
        pid = cluster.pid(0)
        os.kill(pid, signal.SIGSTOP)
        try:
            call = counter.add.remote()
            await until(stopped, "stalled", 3)
            assert {await where.remote() for _ in range(4)} == {other}
            assert not call.done()
        finally:
            os.kill(pid, signal.SIGCONT)
        assert await call == 2
        await until(stopped, "up", 2)
        assert await where.options(scheduling=on(stopped)).remote() == stopped


async def test_a_node_that_stays_stopped_is_dead_after_the_limit() -> None:
    async with cluster_of(2) as cluster:
        stopped = await id_of(cluster, 0)
        counter = Counter.options(scheduling=on(stopped)).remote()
        await counter.add()
        os.kill(cluster.pid(0), signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(actorfw.ActorDiedError):
            await counter.add()
        assert 3 <= time.monotonic() - start < 9
        assert await state_of(stopped) == "dead"


async def test_a_loop_that_is_blocked_for_ten_seconds_loses_nothing() -> None:
    async with cluster_of(2, actorfw.Config()) as cluster:
        busy = await id_of(cluster, 0)
        counter = Counter.options(scheduling=on(busy)).remote()
        mine = actorfw.put([1, 2, 3])
        assert await counter.add() == 1
        blocked = counter.block.remote(10)
        await until(busy, "stalled", 4)
        time.sleep(5)  # noqa: ASYNC251  and this node's own loop, at the same time
        assert await blocked == 2
        await until(busy, "up", 2)
        assert await counter.add() == 3
        assert await mine == [1, 2, 3]
        assert len(await actorfw.nodes()) == 3
