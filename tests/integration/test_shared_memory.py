"""Values in the shared memory of a node that runs: what is put, who keeps it, and what is left of it."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

import actorfw
from actorfw.io import env
from actorfw.runtime import current
from actorfw.runtime.store.store import Store

pytestmark = [pytest.mark.real, pytest.mark.asyncio]

MIB = 1 << 20


def store() -> Store:
    node: Any = current.home()
    return node.store


def mapped() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:actorfw")


@pytest_asyncio.fixture
async def node() -> AsyncIterator[None]:
    async with actorfw.init(num_cpus=0, object_store_memory=256 * MIB):
        yield


@pytest_asyncio.fixture
async def without(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """A node on a platform that has no such memory."""
    monkeypatch.setattr(env, "available", lambda: False)
    async with actorfw.init(num_cpus=0):
        yield


async def test_an_array_is_read_where_it_was_written(node: None) -> None:
    ref = actorfw.put(np.arange(MIB))
    assert store().used == 8 * MIB
    first, second = await ref, await ref
    assert np.shares_memory(first, second)
    assert not first.flags.writeable
    assert first[-1] == MIB - 1


async def test_what_was_put_can_be_changed_afterwards(node: None) -> None:
    value = np.zeros(MIB)
    ref = actorfw.put(value)
    value[:] = 1
    assert (await ref).sum() == 0


async def test_it_is_free_within_a_turn_when_the_last_has_let_go(node: None) -> None:
    ref = actorfw.put(np.arange(MIB))
    view = (await ref)[10:20]
    del ref
    await asyncio.sleep(0)
    arena = store().arena
    assert arena is not None
    assert arena.taken == 8 * MIB
    assert view.tolist() == list(range(10, 20))
    del view
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert arena.taken == 0


async def test_a_ref_inside_a_value_keeps_what_it_stands_for(node: None) -> None:
    inner = actorfw.put(np.arange(MIB))
    outer = actorfw.put({"inner": inner})
    del inner
    for _ in range(5):
        await asyncio.sleep(0)
    assert store().used == 8 * MIB
    assert (await (await outer)["inner"])[7] == 7
    del outer
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
    assert store().used == 0


async def test_many_puts_and_drops_leave_nothing(node: None) -> None:
    values = [np.zeros(8192), np.zeros(20_000), b"x" * 100_000, b"y" * 1000, [b"z" * 2 * MIB]]
    kept: list[Any] = []
    for turn in range(4000):
        kept.append(actorfw.put(values[turn % len(values)]))
        if len(kept) > 20:
            kept.pop(turn % 20)
    assert store().used > 0
    kept.clear()
    for _ in range(3):
        await asyncio.sleep(0)
    assert store().used == 0
    arena = store().arena
    assert arena is not None
    arena.validate()


async def test_puts_from_threads(node: None) -> None:
    def work(n: int) -> int:
        refs = [actorfw.put(np.full(10_000, n)) for _ in range(50)]
        return sum(int(actorfw.get(ref)[-1]) for ref in refs)

    assert await asyncio.gather(*(asyncio.to_thread(work, n) for n in range(6))) == [50 * n for n in range(6)]
    await asyncio.sleep(0)
    assert store().used == 0


# -- put_async ---------------------------------------------------------------------------------------------------------


class Slow:
    """Takes its time to be pickled, and says where that was."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.thread = 0

    def __reduce__(self) -> Any:
        self.thread = threading.get_ident()
        self.began.set()
        assert self.go_on.wait(10)
        return str, ("made again",)


async def test_put_async_pickles_in_a_thread_while_the_loop_goes_on(node: None) -> None:
    slow = Slow()
    putting = asyncio.ensure_future(actorfw.put_async(slow))
    while not slow.began.is_set():
        await asyncio.sleep(0)
    assert not putting.done()
    slow.go_on.set()
    ref = await putting
    assert slow.thread != threading.get_ident()
    assert await ref == "made again"


@pytest.mark.parametrize("value", [None, 7, "text", b"x" * 100_000, np.arange(1000), np.arange(MIB), [1, "two"]])
async def test_put_async_gives_what_put_gives(node: None, value: Any) -> None:
    ref = await actorfw.put_async(value)
    assert np.array_equal(await ref, value)


async def test_put_async_has_the_errors_of_put(node: None) -> None:
    with pytest.raises(actorfw.SerializationError, match="generator"):
        await actorfw.put_async(["a", (x for x in "ab")])
    with pytest.raises(actorfw.UsageError, match="put_async takes a value"):
        await actorfw.put_async(actorfw.put(1))


async def test_a_cancelled_put_async_leaves_nothing(node: None) -> None:
    slow = Slow()
    value = np.arange(MIB)
    gone = weakref.ref(value)
    putting = asyncio.ensure_future(actorfw.put_async([slow, value]))
    del value
    while not slow.began.is_set():
        await asyncio.sleep(0)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    slow.go_on.set()
    while gone() is not None:  # the thread has it still
        await asyncio.sleep(0.001)
    for _ in range(3):
        await asyncio.sleep(0)
    arena = store().arena
    assert arena is not None
    assert arena.find(1) is None
    assert arena.next_number() == 2  # there was one
    assert store().used == 0


# -- the node ----------------------------------------------------------------------------------------------------------


async def test_nothing_is_mapped_and_no_thread_runs_before_there_is_something(node: None) -> None:
    threads = set(threading.enumerate())
    actorfw.put([b"small"] * 100)
    assert mapped() == 0
    assert set(threading.enumerate()) <= threads
    actorfw.put(np.arange(MIB))
    assert mapped() == 1


async def test_views_outlive_the_node() -> None:
    async with actorfw.init(num_cpus=0):
        ref = actorfw.put(np.arange(MIB))
        other = actorfw.put(np.arange(MIB))
        view = (await ref)[-3:]
        del ref
    assert mapped() == 1
    assert view.tolist() == [MIB - 3, MIB - 2, MIB - 1]
    assert other.result()[5] == 5  # what was there stays to be had
    del view, other
    gc.collect()
    assert mapped() == 0


async def test_its_size_is_what_was_asked_for(node: None) -> None:
    assert store().limit == 256 * MIB
    values = [actorfw.put(np.full(8 * MIB, n)) for n in range(6)]  # half as much again
    assert store().used <= 256 * MIB
    for n, ref in enumerate(values):
        assert (await ref)[-1] == n


async def test_by_default_it_is_a_part_of_the_memory_that_there_is() -> None:
    async with actorfw.init(num_cpus=0):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        assert 64 * MIB <= store().limit <= 0.3 * total


async def test_without_shared_memory_all_is_as_with_it(without: None) -> None:
    assert (store().arena, store().limit, store().used) == (None, 0, 0)
    value = np.arange(MIB)
    ref = actorfw.put(value)
    value[:] = 0
    first = await ref
    assert first[-1] == MIB - 1
    assert not first.flags.writeable
    assert await actorfw.put("x" * MIB) == "x" * MIB
    assert store().stats()["used"] == 0


@actorfw.remote(executor="process")
async def puts(size: int) -> Any:
    ref = await actorfw.put_async(np.arange(size))
    value = await ref
    assert not value.flags.writeable
    return ref, int(value[-1])


async def test_put_async_in_a_worker() -> None:
    async with actorfw.init(num_cpus=1, object_store_memory=256 * MIB):
        ref, last = await puts.remote(MIB)
        assert last == MIB - 1
        assert (await ref)[-1] == MIB - 1
        del ref


@actorfw.remote(executor="thread", num_cpus=0)
def in_a_thread(size: int) -> Any:
    return Where(), np.arange(size)


class Where:
    """Is made again as the thread in which it was pickled."""

    def __reduce__(self) -> Any:
        return int, (threading.get_ident(),)


async def test_the_result_of_a_thread_is_copied_there(node: None) -> None:
    thread, value = await in_a_thread.remote(MIB)
    assert thread != threading.get_ident()
    assert value[-1] == MIB - 1
    assert store().used == 8 * MIB
