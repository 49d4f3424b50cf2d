"""Nodes leave nothing behind: one after another, many at once, with work under way. The looking is conftest.py's."""

from __future__ import annotations

import asyncio
import signal

import pytest

import actorfw

pytestmark = pytest.mark.real


@actorfw.remote
def square(x: int) -> int:
    return x * x


@actorfw.remote
def wait_for_ever() -> None:
    signal.pause()


@actorfw.remote
async def never() -> None:
    await asyncio.Event().wait()


class Sleeper(actorfw.Actor):
    @actorfw.method
    async def sleep(self) -> None:
        await asyncio.Event().wait()


class Blocker(actorfw.Actor):
    @actorfw.method
    def block(self) -> None:
        signal.pause()


async def test_fifty_nodes_one_after_another() -> None:
    for _ in range(50):
        async with actorfw.init(num_cpus=0) as node:
            assert [row.name for row in await actorfw.nodes()] == [node.name]


async def test_nodes_with_workers_one_after_another() -> None:
    for n in range(5):
        async with actorfw.init(num_cpus=1):
            assert await square.remote(n) == n * n


async def test_ten_nodes_at_once() -> None:
    nodes = [actorfw.Node(num_cpus=0) for _ in range(1)]
    await nodes[0].start()
    nodes += [actorfw.Node(seeds=nodes[0].address, num_cpus=0) for _ in range(9)]
    await asyncio.gather(*(node.start() for node in nodes[1:]))
    async with nodes[3]:
        names = {row.name for row in await actorfw.nodes()}
        assert names == {node.name for node in nodes}
        await asyncio.gather(*(node.stop() for node in nodes if node is not nodes[3]))
        assert [row.name for row in await actorfw.nodes()] == [nodes[3].name]


async def test_ten_nodes_with_workers_at_once() -> None:
    nodes = [actorfw.Node(num_cpus=1) for _ in range(10)]
    await asyncio.gather(*(node.start() for node in nodes))
    await asyncio.gather(*(node.stop() for node in nodes))


async def test_a_node_that_is_stopped_at_work() -> None:
    async with actorfw.init(num_cpus=2):
        refs = [wait_for_ever.remote(), never.remote()]
        sleeper, blocker = Sleeper.remote(), Blocker.remote()
        refs += [sleeper.sleep.remote(), blocker.block.remote()]
        await square.remote(1)
    for ref in refs:
        with pytest.raises(actorfw.NodeClosedError):
            await ref


async def test_a_start_that_is_cancelled() -> None:
    dead_seed = await _free_port()
    starting = asyncio.ensure_future(actorfw.Node(seeds=dead_seed, num_cpus=1).start())
    for _ in range(5):
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


async def _free_port() -> str:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return f"127.0.0.1:{port}"


def test_a_node_on_a_thread() -> None:
    for n in range(3):
        with actorfw.init(num_cpus=1):
            assert actorfw.get(square.remote(n)) == n * n
