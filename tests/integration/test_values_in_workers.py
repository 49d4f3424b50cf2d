"""Values in shared memory, across the worker processes of one node: written once, read in place, gone with their last
reader, however that one ends."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

import actorfw
from actorfw.io.sharedmem import available
from actorfw.runtime import current
from actorfw.runtime.node import Node
from actorfw.wire import messages as m

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not available(), reason="this platform has no memfd"),
]

MIB = 1 << 20
SIZE = 4 * MIB
SECONDS = 10.0
PROMPTLY = 1.5  # between the end of the last reader in a worker that does nothing, and the end of the block


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here() -> AsyncIterator[Node]:
    async with actorfw.init(num_cpus=2):
        home = current.home()
        assert isinstance(home, Node)
        yield home


def numbers(size: int = SIZE) -> Any:
    return np.arange(size // 8, dtype=np.int64)


def address(array: Any) -> int:
    found: int = array.__array_interface__["data"][0]
    return found


def in_arena(at: int) -> bool:
    """Whether this process maps an arena there."""
    with open("/proc/self/maps", encoding="utf-8") as lines:
        for line in lines:
            if "memfd:actorfw" in line and "marks" not in line:
                low, high = (int(part, 16) for part in line.split()[0].split("-"))
                if low <= at < high:
                    return True
    return False


def own_memory() -> int:
    """Bytes that this process has for itself alone."""
    with open("/proc/self/status", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not say")


async def freed(node: Node, within: float = SECONDS) -> float:
    """Wait until nothing of the store is in use; returns how long that took."""
    began = time.monotonic()
    while True:
        gc.collect()
        if not node.store.used and not node.store.lends.lent:
            return time.monotonic() - began
        if time.monotonic() - began > within:
            raise AssertionError(f"{node.store.stats()}: {node.store.lends.lent}")
        await asyncio.sleep(0.01)


def looked(array: Any) -> tuple[bool, bool, int]:
    """Whether an array lies in the arena and can't be written to, and its sum."""
    return in_arena(address(array)), not array.flags.writeable, int(array.sum())


SUM = int(numbers().sum())
IN_PLACE = (True, True, SUM)


@actorfw.remote(executor="process")
def look(array: Any) -> tuple[bool, bool, int]:
    return looked(array)


@actorfw.remote(executor="process")
async def look_async(array: Any) -> tuple[bool, bool, int]:
    return looked(array)


@actorfw.remote(executor="thread")
def look_in_thread(array: Any) -> tuple[bool, bool, int]:
    return looked(array)


@actorfw.remote(executor="loop")
async def look_on_loop(array: Any) -> tuple[bool, bool, int]:
    return looked(array)


class Keeper(actorfw.Actor):
    """Keeps what it is given."""

    def __init__(self, first: Any = None) -> None:
        self.kept: list[Any] = [first]

    @actorfw.method
    def look(self, array: Any) -> tuple[bool, bool, int]:
        return looked(array)

    @actorfw.method
    def keep(self, array: Any) -> int:
        self.kept.append(array)
        return os.getpid()

    @actorfw.method
    def sums(self) -> list[int]:
        return [int(array.sum()) for array in self.kept if array is not None]

    @actorfw.method
    def drop(self) -> None:
        self.kept.clear()

    @actorfw.method
    def drop_when(self, path: str) -> None:
        def wait() -> None:
            while not os.path.exists(path):
                time.sleep(0.01)
            self.kept.clear()

        threading.Thread(target=wait, daemon=True).start()

    @actorfw.method
    def made(self, size: int) -> Any:
        return numbers(size)


class LoopKeeper(Keeper):
    @actorfw.method
    async def nothing(self) -> None:
        pass


ACTORS = [(Keeper, "process"), (LoopKeeper, "process"), (Keeper, "thread"), (LoopKeeper, "loop")]


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [look, look_async, look_in_thread, look_on_loop])
@pytest.mark.parametrize("how", ["by ref", "by value"])
async def test_a_task_reads_its_arguments_in_place(here: Node, task: Any, how: str) -> None:
    array = numbers()
    assert await task.remote(actorfw.put(array) if how == "by ref" else array) == IN_PLACE
    await freed(here)


@pytest.mark.parametrize(("cls", "executor"), ACTORS)
async def test_an_actor_reads_its_arguments_in_place(here: Node, cls: Any, executor: str) -> None:
    actor = actorfw.remote(executor=executor)(cls).remote()
    assert await actor.look.remote(actorfw.put(numbers())) == IN_PLACE
    assert await actor.look.remote(numbers()) == IN_PLACE
    await freed(here)
    await actorfw.stop(actor)


async def test_all_kinds_of_buffers(here: Node) -> None:
    @actorfw.remote(executor="process")
    def kinds(*values: Any) -> list[Any]:
        return [(type(value).__name__, bytes(value[:3]), len(value)) for value in values]

    content = b"abc" * MIB
    values = [content, bytearray(content), memoryview(content), np.frombuffer(content, dtype=np.uint8)]
    names = ["bytes", "bytearray", "memoryview", "ndarray"]
    assert await kinds.remote(*values) == [(name, b"abc", len(content)) for name in names]
    assert await kinds.remote(*map(actorfw.put, values)) == [(name, b"abc", len(content)) for name in names]
    await freed(here)


async def test_a_worker_takes_no_memory_for_what_it_reads(here: Node) -> None:
    @actorfw.remote(executor="process")
    def grown(array: Any, before: int) -> int:
        assert array[-1] == len(array) - 1
        return own_memory() - before

    @actorfw.remote(executor="process")
    def own() -> int:
        return own_memory()

    ref = actorfw.put(numbers(64 * MIB))
    await grown.remote(ref, 0)
    before = await own.remote()
    for _ in range(5):
        assert await grown.remote(ref, before) < 8 * MIB
    del ref
    await freed(here)


async def test_a_worker_sees_memory_that_came_after_its_birth(here: Node) -> None:
    await look.remote(numbers())
    refs = [actorfw.put(numbers(32 * MIB)) for _ in range(8)]
    assert [found[:2] for found in await actorfw.gather([look.remote(ref) for ref in refs])] == [(True, True)] * 8
    del refs
    await freed(here)


# -- results -----------------------------------------------------------------------------------------------------------


async def test_a_worker_writes_results_where_they_stay(here: Node) -> None:
    @actorfw.remote(executor="process")
    def made(size: int) -> Any:
        return numbers(size)

    for size in (SIZE, 300_000 * 8, 100_000):
        array = await made.remote(size)
        assert array.sum() == numbers(size).sum()
        assert not array.flags.writeable
        if size >= SIZE:
            assert in_arena(address(array))
        del array
    await freed(here)


async def test_parts_items_and_objects_of_a_worker(here: Node) -> None:
    @actorfw.remote(executor="process", num_returns=2)
    def parts() -> tuple[Any, Any]:
        return numbers(), {"a": numbers(2 * SIZE), "b": "small"}

    @actorfw.remote(executor="process")
    def items() -> Generator[Any, None, None]:
        for _ in range(5):
            yield numbers()

    @actorfw.remote(executor="process")
    async def items_async() -> AsyncGenerator[Any, None]:
        for _ in range(5):
            yield numbers()

    @actorfw.remote(executor="process")
    def puts() -> list[Any]:
        refs = [actorfw.put(numbers()) for _ in range(3)]
        assert [looked(actorfw.get(ref)) for ref in refs] == [IN_PLACE] * 3
        return refs

    one, two = parts.remote()
    first = await one
    assert looked(first) == IN_PLACE
    assert in_arena(address((await two)["a"]))
    for stream in (items, items_async):
        count = 0
        async for item in stream.remote():
            assert looked(item) == IN_PLACE
            count += 1
            del item
        assert count == 5
    refs = await puts.remote()
    for ref in refs:
        assert looked(await ref) == IN_PLACE
    assert here.store.used
    del one, two, first, refs, ref
    await freed(here)


@pytest.mark.parametrize(("cls", "executor"), ACTORS)
async def test_results_of_actors(here: Node, cls: Any, executor: str) -> None:
    actor = actorfw.remote(executor=executor)(cls).remote()
    array = await actor.made.remote(SIZE)
    assert looked(array) == IN_PLACE
    del array
    await freed(here)
    await actorfw.stop(actor)


async def test_nested_tasks_pass_values_on_in_place(here: Node) -> None:
    @actorfw.remote(executor="process")
    def outer(array: Any) -> list[Any]:
        return actorfw.get([look.remote(array), look.remote(actorfw.put(array))])

    assert await outer.remote(numbers()) == [IN_PLACE, IN_PLACE]
    await freed(here)


async def test_threads_of_a_worker_write_at_once(here: Node) -> None:
    @actorfw.remote(executor="process", max_concurrency=4)
    class Many(actorfw.Actor):
        @actorfw.method
        def made(self, k: int) -> Any:
            return np.full(MIB // 8 + k, k)

    actor = Many.remote()
    for _ in range(5):
        arrays = await actorfw.gather([actor.made.remote(k) for k in range(16)])
        assert [int(array.sum()) for array in arrays] == [k * (MIB // 8 + k) for k in range(16)]
        del arrays
    await freed(here)
    await actorfw.stop(actor)


async def test_a_value_of_many_buffers_asks_for_room_once(here: Node) -> None:
    @actorfw.remote(executor="process")
    def many() -> dict[str, Any]:
        return {"large": [np.full(MIB // 8, k) for k in range(10)], "small": [np.arange(k) for k in range(10)]}

    asked: list[list[int]] = []
    answer = here.worker_handlers[m.ALLOC]

    def on_alloc(process: Any, msg: list[Any]) -> None:
        asked.append(msg[2])
        answer(process, msg)

    here.worker_handlers[m.ALLOC] = on_alloc
    try:
        value = await many.remote()
    finally:
        here.worker_handlers[m.ALLOC] = answer
    assert asked == [[MIB] * 10]
    assert [int(array[-1]) for array in value["large"]] == list(range(10))
    assert [len(array) for array in value["small"]] == list(range(10))
    assert all(in_arena(address(array)) for array in value["large"])
    del value
    await freed(here)


async def test_a_value_that_cannot_be_sent_leaves_nothing(here: Node) -> None:
    @actorfw.remote(executor="process")
    def bad() -> Any:
        return [numbers(), threading.Lock()]

    with pytest.raises(actorfw.SerializationError, match="lock"):
        await bad.remote()
    await freed(here)


# -- how long --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "threads"), [(Keeper, 1), (Keeper, 3), (LoopKeeper, 1)])
async def test_what_an_actor_keeps_stays_until_it_lets_go(here: Node, cls: Any, threads: int) -> None:
    actor = actorfw.remote(executor="process", max_concurrency=threads)(cls).remote(numbers())
    ref = actorfw.put(numbers(2 * SIZE))
    await actor.keep.remote(ref)
    await actor.keep.remote(ref)
    del ref
    gc.collect()
    for _ in range(20):  # others come and go in what would be its place
        actorfw.put(np.zeros(SIZE // 8))
        assert await look.remote(numbers()) == IN_PLACE
    large = int(numbers(2 * SIZE).sum())
    assert await actor.sums.remote() == [SUM, large, large]
    assert here.store.used >= 3 * SIZE
    await actor.drop.remote()
    await freed(here, PROMPTLY)
    await actorfw.stop(actor)


@pytest.mark.parametrize(("cls", "threads"), [(Keeper, 1), (Keeper, 3), (LoopKeeper, 1)])
async def test_an_idle_worker_lets_go_promptly(here: Node, tmp_path: Any, cls: Any, threads: int) -> None:
    actor = actorfw.remote(executor="process", max_concurrency=threads)(cls).remote()
    await actor.keep.remote(numbers())
    await actor.drop_when.remote(str(tmp_path / "drop"))
    await asyncio.sleep(2.0)  # until all of it that is actorfw's has gone to sleep: what is to be woken then
    assert here.store.used >= SIZE
    (tmp_path / "drop").touch()
    await freed(here, PROMPTLY)
    await actorfw.stop(actor)


async def test_what_a_busy_worker_drops_goes_at_once(here: Node, tmp_path: Any) -> None:
    @actorfw.remote(executor="process")
    def busy(refs: list[Any], path: str) -> None:
        array = actorfw.get(refs[0])
        assert len(array)
        del array
        refs.clear()
        Path(path, "dropped").touch()
        while not os.path.exists(os.path.join(path, "end")):
            time.sleep(0.01)

    ref = actorfw.put(numbers())
    running = busy.remote([ref], str(tmp_path))
    while not (tmp_path / "dropped").exists():
        await asyncio.sleep(0.01)
    del ref
    gc.collect()
    # The task's own arguments are held by its submitter until it has ended; the worker's view of them is not.
    began = time.monotonic()
    while here.store.lends.lent:
        assert time.monotonic() - began < PROMPTLY
        await asyncio.sleep(0.01)
    (tmp_path / "end").touch()
    await running
    await freed(here)


async def test_a_view_outlives_its_ref_here(here: Node) -> None:
    @actorfw.remote(executor="process")
    def made() -> Any:
        return numbers()

    part = (await made.remote())[-10:]
    gc.collect()
    for _ in range(10):
        await look.remote(numbers())
    assert list(part) == list(numbers()[-10:])
    assert here.store.used
    del part
    await freed(here)


# -- deaths ------------------------------------------------------------------------------------------------------------


async def test_the_dead_hold_nothing(here: Node) -> None:
    actor = actorfw.remote(executor="process")(Keeper).remote()
    for _ in range(5):
        pid = await actor.keep.remote(numbers())
    assert here.store.used >= 5 * SIZE
    os.kill(pid, signal.SIGKILL)
    await freed(here)
    with pytest.raises(actorfw.ActorDiedError):
        await actor.sums.remote()


class Dies:
    """Kills the process that pickles it."""

    def __reduce__(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still here")


WAYS: dict[str, Callable[[], Any]] = {
    "result": lambda: [numbers(), numbers(), Dies()],
    "put": lambda: actorfw.put([numbers(), Dies()]),
    "argument": lambda: look.remote([numbers(), Dies()]),
}


@pytest.mark.parametrize("way", WAYS)
async def test_death_between_writing_a_value_and_sending_it(here: Node, way: str) -> None:
    @actorfw.remote(executor="process", max_retries=1)
    def dies() -> Any:
        return WAYS[way]()

    with pytest.raises(actorfw.WorkerDiedError):
        await dies.remote()
    await freed(here)


async def test_death_in_the_middle_of_a_write(here: Node) -> None:
    @actorfw.remote(executor="process", max_retries=0)
    def dies(delay: float) -> Any:
        array = np.zeros(32 * MIB // 8)
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
        while True:
            actorfw.put(array)

    for delay in (0.003, 0.01, 0.017, 0.029):
        with pytest.raises(actorfw.WorkerDiedError):
            await dies.remote(delay)
        await freed(here)


async def test_death_of_the_process_that_workers_come_from(here: Node) -> None:
    actor = actorfw.remote(executor="process")(Keeper).remote(numbers())
    assert await actor.sums.remote() == [SUM]
    zygote = here.pool._zygote
    assert zygote is not None
    assert zygote._process is not None
    zygote._process.kill()
    await freed(here)
    assert await look.remote(numbers()) == IN_PLACE
    await freed(here)


# -- cancelling --------------------------------------------------------------------------------------------------------


async def test_a_task_that_is_cancelled_while_it_puts(here: Node) -> None:
    @actorfw.remote(executor="process")
    def puts() -> None:
        array = numbers()
        while True:
            actorfw.put(array)

    for delay in (0.05, 0.051, 0.052, 0.06):
        ref = puts.remote()
        await asyncio.sleep(delay)
        actorfw.cancel(ref)
        with pytest.raises(actorfw.TaskCancelledError):
            await ref
        await freed(here)
    assert await look.remote(numbers()) == IN_PLACE
    await freed(here)


async def test_a_task_that_is_cancelled_while_it_waits_for_room(here: Node) -> None:
    @actorfw.remote(executor="process")
    def puts() -> None:
        actorfw.put(numbers())
        raise AssertionError("there was no room")

    asked: list[Any] = []
    came = asyncio.Event()
    answer = here.worker_handlers[m.ALLOC]

    def on_alloc(process: Any, msg: list[Any]) -> None:
        asked.append((process, msg))
        came.set()

    here.worker_handlers[m.ALLOC] = on_alloc
    try:
        ref = puts.remote()
        await came.wait()
        actorfw.cancel(ref)
        with pytest.raises(actorfw.TaskCancelledError):
            await asyncio.wait_for(ref, SECONDS)
    finally:
        here.worker_handlers[m.ALLOC] = answer
    for process, msg in asked:  # it comes too late
        answer(process, msg)
    await freed(here)
    assert await look.remote(numbers()) == IN_PLACE
    await freed(here)
