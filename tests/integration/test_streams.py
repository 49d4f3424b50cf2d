"""Generator tasks: order, back-pressure, endings and errors; from every executor, on loops, in threads and workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

import actorfw
from actorfw.runtime.streams import WINDOW
from tests.integration.quiet import all_quiet

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[actorfw.LocalCluster]:
    async with actorfw.LocalCluster(nodes=1, num_cpus=1) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", params=["here", "there"])
async def there(cluster: actorfw.LocalCluster, request: pytest.FixtureRequest) -> actorfw.NodeAffinity:
    rows = await actorfw.nodes()
    return actorfw.NodeAffinity(next(row.id for row in rows if row.here == (request.param == "here")))


def numbers(count: int, folder: str = "", fail: bool = False) -> Iterator[int]:
    try:
        for i in range(count):
            if folder:
                (Path(folder) / str(i)).touch()
            yield i
        if fail:
            raise ValueError("after the last")
    finally:
        if folder:
            (Path(folder) / "closed").touch()


async def numbers_async(count: int, folder: str = "", fail: bool = False) -> AsyncIterator[int]:
    try:
        for i in range(count):
            if folder:
                (Path(folder) / str(i)).touch()
            yield i
            await asyncio.sleep(0)
        if fail:
            raise ValueError("after the last")
    finally:
        if folder:
            (Path(folder) / "closed").touch()


KINDS = [
    pytest.param((fn, executor), id=f"{fn.__name__} {executor}")
    for fn in (numbers, numbers_async)
    for executor in ("process", "thread", "loop")
]


def remote(kind: Any, there: Any, **options: Any) -> Any:
    fn, executor = kind
    return actorfw.remote(fn).options(executor=executor, scheduling=there, **options)


@pytest.mark.parametrize("kind", KINDS)
async def test_items_come_in_order_each_once(there: actorfw.NodeAffinity, kind: Any) -> None:
    run = remote(kind, there).remote
    assert [i async for i in run(200)] == list(range(200))
    assert [i async for i in run(0)] == []
    assert [await ref async for ref in run(40).refs()] == list(range(40))
    assert await asyncio.to_thread(lambda: list(run(100))) == list(range(100))
    assert await asyncio.to_thread(lambda: actorfw.get(list(run(40).refs()))) == list(range(40))
    await all_quiet()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_producer_is_a_window_ahead_and_no_more(there: actorfw.NodeAffinity, kind: Any, tmp_path: Path) -> None:
    stream = remote(kind, there).remote(10_000, str(tmp_path))
    assert await anext(stream) == 0
    while not (tmp_path / str(WINDOW - 1)).exists():
        await asyncio.sleep(0.005)
    # Others can use the CPU while it waits for its consumer, and that they do shows that it does not go on.
    assert await actorfw.remote(lambda: 1).options(scheduling=there).remote() == 1
    assert not (tmp_path / str(WINDOW + 1)).exists()
    for i in range(1, 100):
        assert await anext(stream) == i
    assert not (tmp_path / str(101 + WINDOW)).exists()
    await stream.aclose()
    while not (tmp_path / "closed").exists():
        await asyncio.sleep(0.005)
    assert [i async for i in stream] == []
    await all_quiet()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_consumer_that_goes_away_closes_it(there: actorfw.NodeAffinity, kind: Any, tmp_path: Path) -> None:
    async for i in remote(kind, there).remote(10_000, str(tmp_path)):
        if i == 3:
            break
    while not (tmp_path / "closed").exists():
        await asyncio.sleep(0.005)
    await all_quiet()


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_comes_after_the_items_before_it(there: actorfw.NodeAffinity, kind: Any) -> None:
    got: list[int] = []
    with pytest.raises(ValueError, match="after the last"):
        async for i in remote(kind, there).remote(50, "", True):
            got.append(i)
    assert got == list(range(50))
    again: list[int] = []
    with pytest.raises(ValueError, match="after the last"):
        async for i in remote(kind, there, retry_exceptions=True, max_retries=1, retry_delay=0).remote(50, "", True):
            again.append(i)
    assert again == list(range(50))
    await all_quiet()


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_a_stream(there: actorfw.NodeAffinity, kind: Any, tmp_path: Path) -> None:
    stream = remote(kind, there).remote(10_000, str(tmp_path))
    assert await anext(stream) == 0
    actorfw.cancel(stream)
    with pytest.raises(actorfw.TaskCancelledError):
        await anext(stream)
    while not (tmp_path / "closed").exists():
        await asyncio.sleep(0.005)
    timed = remote(kind, there, timeout=0.3).remote(10_000)
    with pytest.raises(actorfw.DeadlineExceededError):
        async for _ in timed:
            await asyncio.sleep(0.02)
    await all_quiet()


async def test_large_items(there: actorfw.NodeAffinity) -> None:
    def arrays(count: int, fail: bool) -> Iterator[Any]:
        for i in range(count):
            yield np.full(1 << (16 if i % 2 else 1), i)
        if fail:
            raise ValueError("after the last")

    run = actorfw.remote(arrays).options(scheduling=there).remote
    assert [int(a[0]) async for a in run(30, False)] == list(range(30))
    got: list[int] = []
    with pytest.raises(ValueError, match="after the last"):
        async for a in run(31, True):
            got.append(int(a[0]))
    assert got == list(range(31))
    await all_quiet()


def blocks(count: int, folder: str) -> Iterator[bytes]:
    for i in range(count):
        (Path(folder) / str(i)).touch()
        yield bytes([i]) * (10 << 20)


async def test_large_items_are_bounded_by_their_bytes(there: actorfw.NodeAffinity, tmp_path: Path) -> None:
    stream: Any = actorfw.remote(blocks).options(scheduling=there).remote(8, str(tmp_path))
    for i in range(8):
        await asyncio.sleep(0.1)
        assert len(list(tmp_path.iterdir())) <= i + 3  # less than 16 MiB that were not taken, and one more
        item = await anext(stream)
        assert (item[0], len(item)) == (i, 10 << 20)
        del item
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_items_that_are_refs(there: actorfw.NodeAffinity) -> None:
    @actorfw.remote
    def square(x: int) -> list[int]:
        return [x * x]

    def refs(count: int) -> Iterator[Any]:
        for i in range(count):
            yield [square.remote(i)]

    got = [await one[0] async for one in actorfw.remote(refs).options(scheduling=there).remote(20)]
    assert got == [[i * i] for i in range(20)]
    await all_quiet()


async def test_consumed_in_a_worker(there: actorfw.NodeAffinity) -> None:
    child = actorfw.remote(numbers)

    def parent() -> list[list[int]]:
        async def main() -> list[int]:
            return [i async for i in child.remote(70)]

        short = child.remote(1000)
        first = next(short)
        short.close()
        refs = actorfw.get(list(child.remote(5).refs()))
        return [list(child.remote(100)), asyncio.run(main()), [first], refs]

    got = await actorfw.remote(parent).options(scheduling=there).remote()
    assert got == [list(range(100)), list(range(70)), [0], list(range(5))]
    await all_quiet()


async def test_a_slow_consumer_does_not_keep_a_cpu(cluster: actorfw.LocalCluster) -> None:
    rows = await actorfw.nodes()
    there = actorfw.NodeAffinity(next(row.id for row in rows if not row.here))
    stream = actorfw.remote(numbers).options(scheduling=there).remote(1000)
    assert await anext(stream) == 0
    assert await actorfw.remote(lambda: 5).options(scheduling=there).remote() == 5  # on the node's one CPU
    await stream.aclose()
    await all_quiet()


async def test_one_consumer_at_a_time(cluster: actorfw.LocalCluster) -> None:
    @actorfw.remote
    async def never() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 1

    stream = never.remote()
    first = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="one at a time"):
        await anext(stream)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(actorfw.SerializationError, match="can't be sent"):
        actorfw.put([stream])
    with pytest.raises(actorfw.UsageError, match="stream"):
        never.options(num_returns=2)  # type: ignore[call-arg]
    await stream.aclose()
    await all_quiet()


async def test_a_function_that_says_it_returns_an_iterator_is_refused() -> None:
    def wrong() -> Iterator[int]:
        return iter([1])

    with pytest.raises(actorfw.UsageError, match="yield"):
        actorfw.remote(wrong)
