"""Nodes of one host: they read each other's values in place, and whoever ends, in whatever way, holds nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

import actorfw
from actorfw.io import hostsocket
from actorfw.io.sharedmem import available
from actorfw.runtime import current
from actorfw.runtime.node import Node
from actorfw.runtime.store import hostmates

pytestmark = [pytest.mark.real, pytest.mark.skipif(not available(), reason="this platform has no memfd")]

SIZE = 8 << 20
SECONDS = 15.0


def numbers(first: int = 0) -> Any:
    return np.arange(first, first + SIZE // 8, dtype=np.int64)


def own_node() -> Node:
    home = current.home()
    assert isinstance(home, Node)
    return home


def mapped(array: Any) -> str:
    """How the memory of an array is mapped here: "rw-s" or "r--s" for an arena, else ""."""
    at = array.__array_interface__["data"][0]
    with open("/proc/self/maps", encoding="utf-8") as lines:
        for line in lines:
            where, how, *_ = line.split()
            low, high = (int(part, 16) for part in where.split("-"))
            if low <= at < high:
                return how if "memfd:actorfw" in line else ""
    return ""


def foreign() -> int:
    """How many other nodes' memories this process maps."""
    with open("/proc/self/maps", encoding="utf-8") as lines:
        return sum("memfd:actorfw" in line and " r--s " in line for line in lines)


def looked(array: Any) -> tuple[str, bool, int]:
    return mapped(array), array.flags.writeable, int(array.sum())


SUM = int(numbers().sum())
FOREIGN = ("r--s", False, SUM)


@actorfw.remote(executor="loop", num_cpus=0)
async def look_on_loop(array: Any) -> tuple[str, bool, int]:
    return looked(array)


@actorfw.remote(executor="thread", num_cpus=0)
def look_in_thread(array: Any) -> tuple[str, bool, int]:
    return looked(array)


@actorfw.remote(executor="process", num_cpus=0)
def look_in_worker(array: Any) -> tuple[str, bool, int]:
    return looked(array)


@actorfw.remote(executor="process", num_cpus=0)
def look_at_parts(parts: dict[str, Any]) -> tuple[Any, int, bytes]:
    return looked(parts["array"]), actorfw.get(parts["ref"])[0], parts["small"].tobytes()


@actorfw.remote(executor="process", num_cpus=0)
def made() -> Any:
    return numbers()


@actorfw.remote(executor="loop", num_cpus=0)
async def used() -> int:
    gc.collect()
    return own_node().store.used


@actorfw.remote(executor="loop", num_cpus=0)
async def sources() -> int:
    return len(own_node().hostmates.by_token)


class Keeper(actorfw.Actor):
    def __init__(self) -> None:
        self.kept: list[Any] = []

    @actorfw.method
    def keep(self, array: Any) -> str:
        self.kept.append(array)
        return mapped(array)

    @actorfw.method
    def sums(self) -> list[int]:
        return [int(array.sum()) for array in self.kept]

    @actorfw.method
    def foreign(self) -> int:
        return foreign()

    @actorfw.method
    def drop(self) -> int:
        self.kept.clear()
        return os.getpid()


Worker = actorfw.remote(executor="process", num_cpus=0)(Keeper)


@asynccontextmanager
async def cluster_of(nodes: int) -> AsyncIterator[tuple[actorfw.LocalCluster, list[actorfw.NodeAffinity]]]:
    async with actorfw.LocalCluster(nodes=nodes, num_cpus=2, driver_cpus=0) as cluster:
        rows = await actorfw.nodes()
        there = [
            actorfw.NodeAffinity(next(row.id for row in rows if row.pid == cluster.pid(index)))
            for index in cluster.indices
        ]
        for one in there:  # both have connected
            await until(lambda one=one: sources.options(scheduling=one).remote(), lambda n: n >= nodes)
        await until(lambda: len(own_node().hostmates.by_token), lambda n: n >= nodes)
        yield cluster, there


async def until(ask: Callable[[], Any], right: Callable[[Any], bool], seconds: float = SECONDS) -> Any:
    began = time.monotonic()
    while True:
        found = ask()
        if hasattr(found, "__await__"):
            found = await found
        if right(found):
            return found
        assert time.monotonic() - began < seconds, found
        await asyncio.sleep(0.02)


async def freed(node: Node) -> None:
    def in_use() -> Any:
        gc.collect()
        return node.store.used, dict(node.store.lends.lent)

    await until(in_use, lambda found: found == (0, {}))


async def test_values_are_read_in_place_on_other_nodes() -> None:
    async with cluster_of(2) as (_, there):
        node = own_node()
        for task in (look_on_loop, look_in_thread, look_in_worker):
            ref = actorfw.put(numbers())
            for one in there:
                assert await task.options(scheduling=one).remote(ref) == FOREIGN
                assert await task.options(scheduling=one).remote(numbers()) == FOREIGN
                assert await used.options(scheduling=one).remote() == 0
            del ref
            await freed(node)
        # The other way: what is made there is read here, and by a third.
        ref = made.options(scheduling=there[0]).remote()
        assert looked(await ref) == FOREIGN
        assert await look_in_worker.options(scheduling=there[0]).remote(ref) == ("rw-s", False, SUM)
        assert (await look_in_worker.options(scheduling=there[1]).remote(ref))[1:] == (False, SUM)
        del ref
        gc.collect()
        for one in there:
            await until(lambda one=one: used.options(scheduling=one).remote(), lambda n: n == 0)


async def test_values_with_refs_and_small_buffers_in_them() -> None:
    async with cluster_of(1) as (_, (there,)):
        inner = actorfw.put([7, 8])
        value = {"array": numbers(), "ref": inner, "small": np.arange(5, dtype=np.uint8), "same": numbers()}
        for _ in range(3):
            ref = actorfw.put(value)
            found = await look_at_parts.options(scheduling=there).remote(ref)
            assert found == (FOREIGN, 7, bytes(range(5)))
            del ref
        await freed(own_node())


async def test_what_is_kept_there_stays_here() -> None:
    async with cluster_of(1) as (_, (there,)):
        node = own_node()
        actor = Worker.options(scheduling=there).remote()
        for first in range(3):
            assert await actor.keep.remote(numbers(first)) == "r--s"
        gc.collect()
        for _ in range(10):  # others come and go in what would be its place
            actorfw.put(np.zeros(SIZE // 8))
        await until(lambda: node.store.stats()["blocks"], lambda n: n == 3)
        assert await actor.sums.remote() == [int(numbers(first).sum()) for first in range(3)]
        await actor.drop.remote()
        await freed(node)


@pytest.mark.parametrize("whom", ["worker", "node"])
async def test_a_reader_that_is_killed_holds_nothing(whom: str) -> None:
    async with cluster_of(1) as (cluster, (there,)):
        node = own_node()
        actor = Worker.options(scheduling=there).remote()
        for first in range(3):
            await actor.keep.remote(numbers(first))
        pid = cluster.pid(0)
        if whom == "worker":
            await actor.keep.remote(numbers())
            pid = await _pid_of(actor)
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        await freed(node)
        assert time.monotonic() - began < SECONDS
        with pytest.raises(actorfw.ActorDiedError):
            await actor.sums.remote()


async def _pid_of(actor: Any) -> int:
    pid: int = await actor.drop.remote()
    await actor.keep.remote(numbers())
    return pid


async def test_a_view_outlives_the_node_whose_memory_it_is() -> None:
    async with cluster_of(2) as (cluster, there):
        ref = made.options(scheduling=there[0]).remote()
        here = await ref
        assert looked(here) == FOREIGN
        actor = Worker.options(scheduling=there[1]).remote()
        assert await actor.keep.remote(here) == "r--s"
        os.kill(cluster.pid(0), signal.SIGKILL)
        await until(lambda: len(own_node().peers.by_life), lambda n: n == 1)
        assert looked(here) == FOREIGN
        assert await actor.sums.remote() == [SUM]
        await actor.drop.remote()
        del ref, here
        await freed(own_node())
        # Nothing keeps the dead node's memory in being, nor this one's in a worker that reads nothing of it.
        await until(actor.foreign.remote, lambda n: n == 0)
        await until(lambda: (gc.collect(), foreign())[1], lambda n: n == 0)


async def test_a_view_outlives_the_node_that_has_it() -> None:
    async with cluster_of(1) as (_, (there,)):
        ref = made.options(scheduling=there).remote()
        array = await ref
        del ref
        assert len(own_node().hostmates.by_token) == 1
    assert looked(array) == FOREIGN
    del array
    gc.collect()
    assert foreign() == 0


@actorfw.remote(executor="loop", num_cpus=0)
async def keep_for_ever(array: Any) -> None:
    vars(sys).setdefault("kept_by_a_test", []).append(array)


@actorfw.remote(executor="loop", num_cpus=0)
async def sums_kept(*, drop: bool = False) -> list[tuple[str, bool, int]]:
    kept = vars(sys)["kept_by_a_test"]
    found = [looked(array) for array in kept]
    if drop:
        kept.clear()
    return found


async def test_who_is_only_judged_dead_may_go_on_reading() -> None:
    async with cluster_of(1) as (cluster, (there,)):
        node = own_node()
        await keep_for_ever.options(scheduling=there).remote(numbers())
        (life,) = node.peers.by_life
        node.peers.bury(life, "the test says so")

        async def again() -> Any:
            rows = [row for row in await actorfw.nodes() if row.pid == cluster.pid(0) and row.state == "up"]
            return rows[0].id if rows and node.peers.by_life and life not in node.peers.by_life else None

        reborn = actorfw.NodeAffinity(await until(again, bool, 60.0))
        for _ in range(10):
            actorfw.put(np.zeros(SIZE // 8))
        assert node.store.used >= SIZE
        assert await sums_kept.options(scheduling=reborn).remote() == [FOREIGN]
        assert await sums_kept.options(scheduling=reborn).remote(drop=True) == [FOREIGN]
        await freed(node)


async def test_strangers_get_nothing() -> None:
    async with actorfw.init(num_cpus=0):
        node = own_node()
        desk = node.hostmates.desk()
        assert desk is not None
        name, key = desk

        def ask(*message: Any) -> Any:
            return hostsocket.receive_blocking(name, message, 5.0)

        for message in (
            (hostmates.HELLO, b"x" * 16, b"life"),
            (hostmates.ATTACH, b"x" * 16, b"token"),
            (hostmates.PIN, 1, [[1, 1]]),
            (hostmates.ATTACH, key, b"no such token"),
            (99, key),
            ("text",),
        ):
            with pytest.raises(OSError):  # noqa: PT011  (which one depends on how much was written)
                await asyncio.to_thread(ask, *message)
        (kind, token), fds = await asyncio.to_thread(ask, hostmates.HELLO, key, b"life")
        assert (kind, token) == (hostmates.MEMORY, node.store.token)
        with pytest.raises(OSError):  # noqa: PT011  (whichever the kernel says)
            os.write(fds[0], b"for reading only")
        for fd in fds:
            os.close(fd)
        assert await actorfw.put(1) == 1
