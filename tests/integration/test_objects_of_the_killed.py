"""Shared memory is free again whoever held it, written it or read it when it was killed: real processes, kill -9."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

import actorfw
from actorfw.runtime import current
from actorfw.runtime.node import Node

pytestmark = pytest.mark.real

MIB = 1 << 20
GRACE = 1.0
FREE_SECONDS = 1.0
NOTICED_SECONDS = 5.0  # a killed process, by all members; this machine may be busy
CONFIG = actorfw.Config(borrow_grace=GRACE)


@actorfw.remote
class Keeper(actorfw.Actor):
    def __init__(self) -> None:
        self.kept: list[Any] = []

    @actorfw.method
    async def keep(self, refs: list[Any]) -> int:
        self.kept += refs
        return len(self.kept)

    @actorfw.method
    async def read(self) -> int:
        self.kept += [await ref for ref in self.kept if isinstance(ref, actorfw.ObjectRef)]
        return len(self.kept)

    @actorfw.method
    async def make(self, size: int) -> list[Any]:
        return [actorfw.put(np.ones(size, dtype=np.uint8))]


@actorfw.remote(executor="process")
class WorkerKeeper(actorfw.Actor):
    def __init__(self) -> None:
        self.kept: list[Any] = []

    @actorfw.method
    def keep(self, refs: list[Any]) -> int:
        self.kept += [*refs, *actorfw.get(refs)]
        return os.getpid()

    @actorfw.method
    def put(self, size: int) -> int:
        self.kept.append(actorfw.put(np.ones(size, dtype=np.uint8)))
        return os.getpid()


@actorfw.remote(max_retries=0)
def write_for_ever(size: int) -> None:
    while True:
        actorfw.put(np.ones(size, dtype=np.uint8))


@actorfw.remote
async def used_there() -> int:
    return home().store.used


@actorfw.remote
def worker_pid() -> int:
    return os.getpid()


def home() -> Node:
    node = current.home()
    assert isinstance(node, Node)
    return node


def records() -> int:
    objects = home().objects
    objects.sweep()
    return sum(map(len, objects.ownership.snapshot()[0]))  # type: ignore[arg-type, misc]


@asynccontextmanager
async def cluster_of(nodes: int) -> AsyncIterator[actorfw.LocalCluster]:
    async with actorfw.LocalCluster(
        nodes=nodes, num_cpus=1, driver_cpus=1, config=CONFIG, object_store_memory=256 * MIB
    ) as cluster:
        yield cluster
        assert not [name for name in os.listdir("/dev/shm") if "actorfw" in name]


async def on_node(cluster: actorfw.LocalCluster, index: int) -> actorfw.NodeAffinity:
    pid = cluster.pid(index)
    return actorfw.NodeAffinity(next(row.id for row in await actorfw.nodes() if row.pid == pid))


async def until(what: Callable[[], bool], seconds: float, said: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, said()
        await asyncio.sleep(0.01)


async def all_free(seconds: float) -> None:
    node = home()
    await until(
        lambda: not node.store.used and not records(), seconds, lambda: (node.store.stats(), node.objects.ownership)
    )
    assert await actorfw.objects() == []


async def test_a_node_that_held_refs_and_views_is_killed() -> None:
    async with cluster_of(2) as cluster:
        keepers = [Keeper.options(scheduling=await on_node(cluster, index)).remote() for index in (0, 1)]
        ref = actorfw.put(np.ones(4 * MIB, dtype=np.uint8))
        for keeper in keepers:
            await keeper.keep([ref])
            await keeper.read()
        del ref, keeper
        assert home().store.used >= 4 * MIB
        os.kill(cluster.pid(0), signal.SIGKILL)
        await asyncio.sleep(GRACE)
        assert home().store.used >= 4 * MIB  # the other one still reads it
        assert await keepers[1].read() > 0
        os.kill(cluster.pid(1), signal.SIGKILL)
        del keepers
        await all_free(NOTICED_SECONDS + GRACE + FREE_SECONDS)


async def test_the_owner_of_what_is_read_here_is_killed() -> None:
    async with cluster_of(1) as cluster:
        keeper = Keeper.options(scheduling=await on_node(cluster, 0)).remote()
        (ref,) = await keeper.make(4 * MIB)
        value = await ref
        os.kill(cluster.pid(0), signal.SIGKILL)
        await until(lambda: len(home().members.facts) == 1, NOTICED_SECONDS, lambda: home().members.facts)
        assert value.sum() == 4 * MIB  # what is being read stays
        del value, ref, keeper
        await all_free(GRACE + FREE_SECONDS + NOTICED_SECONDS)


async def test_a_worker_that_held_refs_and_views_is_killed() -> None:
    async with cluster_of(0):
        keeper = WorkerKeeper.remote()
        ref = actorfw.put(np.ones(4 * MIB, dtype=np.uint8))
        pid = await keeper.keep([ref])
        assert await keeper.put(MIB) == pid
        del ref
        assert home().store.used >= 5 * MIB
        os.kill(pid, signal.SIGKILL)
        del keeper
        await all_free(FREE_SECONDS)


async def test_workers_that_write_are_killed_at_random_points() -> None:
    chance = random.Random(4)
    async with cluster_of(0):
        for _ in range(8):
            pid = await worker_pid.remote()
            writing = write_for_ever.remote(MIB)
            await asyncio.sleep(chance.uniform(0.02, 0.1))
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(actorfw.WorkerDiedError):
                await writing
            del writing
        await all_free(FREE_SECONDS)


async def test_a_node_is_killed_while_others_take_what_it_made() -> None:
    chance = random.Random(5)
    async with cluster_of(2) as cluster:
        there = await on_node(cluster, 1)
        maker = Keeper.options(scheduling=await on_node(cluster, 0)).remote()
        reader = Keeper.options(scheduling=there).remote()
        refs = [(await maker.make(8 * MIB))[0] for _ in range(6)]
        await reader.keep(refs)
        reading = [reader.read.remote(), *refs]
        await asyncio.sleep(chance.uniform(0.0, 0.05))
        os.kill(cluster.pid(0), signal.SIGKILL)
        ends = await asyncio.gather(*reading, return_exceptions=True)
        assert all(not isinstance(end, BaseException) or isinstance(end, actorfw.ActorFwError) for end in ends)
        del ends, reading, refs, maker, reader
        await all_free(NOTICED_SECONDS + GRACE + FREE_SECONDS)
        deadline = time.monotonic() + FREE_SECONDS + NOTICED_SECONDS
        while left := await used_there.options(scheduling=there).remote():
            assert time.monotonic() < deadline, left
            await asyncio.sleep(0.05)
