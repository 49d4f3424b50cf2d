"""Streams of large items: a producer is ahead by so many bytes, whoever runs it, and what is not consumed is freed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import actorfw
from actorfw.core.credit import BYTES
from actorfw.testing import SimCluster, run

SIZE = 10 * 1024 * 1024
AHEAD = -(-BYTES // SIZE)  # of items of that size
COUNT = 12

made: list[int] = []
closed: list[bool] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    made.clear()
    closed.clear()


def blocks(count: int = COUNT, size: int = SIZE) -> Iterator[bytes]:
    try:
        for index in range(count):
            made.append(index)
            yield bytes([index]) * size
    finally:
        closed.append(True)


async def blocks_async(count: int = COUNT, size: int = SIZE) -> AsyncIterator[bytes]:
    try:
        for index in range(count):
            made.append(index)
            yield bytes([index]) * size
            await asyncio.sleep(0)
    finally:
        closed.append(True)


class Maker(actorfw.Actor):
    def __init__(self) -> None:
        pass

    async def blocks(self) -> AsyncIterator[bytes]:
        async for block in blocks_async():
            yield block


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "process": (blocks, {"executor": "process"}),
    "thread": (blocks, {"executor": "thread"}),
    "loop": (blocks_async, {"executor": "loop"}),
    "process, async": (blocks_async, {"executor": "process"}),
    "thread, async": (blocks_async, {"executor": "thread"}),
}
ACTORS: dict[str, dict[str, Any]] = {
    "loop actor": {"executor": "loop"},
    "concurrent actor": {"executor": "loop", "max_concurrency": 2},
    "thread actor": {"executor": "thread"},
    "process actor": {"executor": "process"},
}


async def stream_of(kind: str, node: actorfw.NodeAffinity) -> Any:
    if kind in KINDS:
        fn, options = KINDS[kind]
        return actorfw.remote(fn).options(scheduling=node, **options).remote()
    return (await a_maker(kind, node)).blocks.remote()  # type: ignore[attr-defined]


makers: list[Any] = []


async def a_maker(kind: str, node: actorfw.NodeAffinity) -> Maker:
    maker = Maker.options(scheduling=node, **ACTORS[kind]).remote()
    makers[:] = [maker]
    return maker


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("kind", [*KINDS, *ACTORS])
def test_a_producer_of_large_items_is_a_few_ahead(kind: str, where: int) -> None:
    async def main() -> None:
        async with SimCluster(2, seed=1) as cluster:
            stream = await stream_of(kind, actorfw.NodeAffinity(cluster.nodes[where].id))
            for index in range(COUNT):
                await cluster.settle(5.0)
                # What was taken is known to it only when half of the window was.
                assert len(made) <= min(COUNT, index + AHEAD + 1), index
                assert len(made) >= min(COUNT, index + 1)
                held = [node.runtime.copies.bytes for node in cluster.nodes]
                assert sum(held) <= (AHEAD + 1) * (SIZE + 1000), "what was taken is not freed"
                item = await anext(stream)
                assert item[:1] == bytes([index])
                assert len(item) == SIZE
                del item
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            await cluster.settle(5.0)
            assert not any(node.runtime.copies.by_id for node in cluster.nodes)
            makers.clear()

    run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_small_items_are_as_far_ahead_as_ever(kind: str) -> None:
    async def main() -> None:
        async with SimCluster(2, seed=1) as cluster:
            fn, options = KINDS[kind]
            there = actorfw.NodeAffinity(cluster.nodes[1].id)
            small: Any = actorfw.remote(fn).options(scheduling=there, **options)
            stream = small.remote(100, 10)
            await cluster.settle(30.0)
            assert len(made) == 32
            assert [item[0] async for item in stream] == list(range(100))

    run(main())


@actorfw.remote(executor="process", num_cpus=1)
async def read_there(where: str) -> list[int]:
    there = actorfw.NodeAffinity(where)
    stream: Any = actorfw.remote(blocks).options(scheduling=there).remote(COUNT, 100_000)
    return [item[0] async for item in stream]


@actorfw.remote(executor="process", num_cpus=1)
async def read_refs_there(where: str) -> list[Any]:
    there = actorfw.NodeAffinity(where)
    stream: Any = actorfw.remote(blocks).options(scheduling=there).remote(COUNT, 100_000)
    return [ref async for ref in stream.refs()]


def test_a_worker_reads_a_stream_of_large_items() -> None:
    async def main() -> None:
        async with SimCluster(3, seed=2) as cluster:
            worker = actorfw.NodeAffinity(cluster.nodes[1].id)
            assert await read_there.options(scheduling=worker).remote(cluster.nodes[2].id) == list(range(COUNT))
            refs = await read_refs_there.options(scheduling=worker).remote(cluster.nodes[2].id)
            assert [(await ref)[0] for ref in refs] == list(range(COUNT))

    run(main())


@pytest.mark.parametrize("kind", ACTORS)
def test_items_of_a_method_live_as_refs_and_are_not_made_again(kind: str) -> None:
    async def main() -> None:
        async with SimCluster(3, seed=2) as cluster:
            maker = await a_maker(kind, actorfw.NodeAffinity(cluster.nodes[1].id))
            stream: Any = maker.blocks.remote()  # type: ignore[attr-defined]
            refs = [await anext(stream.refs()) for _ in range(3)]
            assert (await refs[0])[:1] == b"\0"
            await stream.aclose()
            await cluster.settle(5.0)
            copies = cluster.nodes[1].runtime.copies
            assert len(copies.by_id) <= 3
            assert (await refs[1])[:1] == b"\1"
            cluster.crash(1)
            await cluster.settle(30.0)
            with pytest.raises(actorfw.ObjectLostError, match=r"test_large_items.py:\d+ in .*a method of an actor"):
                await refs[2]
            makers.clear()

    run(main())
