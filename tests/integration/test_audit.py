"""What only several parts together can get wrong: refs in refs across nodes, actors that come and go, last moments."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import actorfw
from tests.integration.quiet import all_quiet

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

MIB = 1 << 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[actorfw.LocalCluster]:
    async with actorfw.LocalCluster(nodes=1, num_cpus=1) as running:
        await running.add_node(num_cpus=1, num_gpus=1)
        yield running


async def places() -> list[actorfw.NodeAffinity]:
    return [actorfw.NodeAffinity(row.id) for row in await actorfw.nodes()]


@actorfw.remote
class Box(actorfw.Actor):
    def __init__(self) -> None:
        self.held: Any = None

    async def keep(self, what: Any) -> None:
        self.held = what

    async def values(self) -> list[Any]:
        return [await ref for ref in self.held]


@actorfw.remote(num_gpus=1)
class Device:
    def index(self) -> list[int]:
        return list(actorfw.context().gpus)


@actorfw.remote
def three_refs() -> list[actorfw.ObjectRef[dict[str, int]]]:
    return [actorfw.put({"number": number}) for number in range(3)]


@actorfw.remote
def wrapped(value: Any) -> list[Any]:
    return [actorfw.put(value)]


@actorfw.remote
def unwrapped(value: Any) -> Any:
    while isinstance(value, actorfw.ObjectRef) or len(value) == 1:
        value = actorfw.get(value) if isinstance(value, actorfw.ObjectRef) else value[0]
    return value


@actorfw.remote
def numbers_as_refs(count: int) -> Iterator[actorfw.ObjectRef[list[int]]]:
    for number in range(count):
        yield actorfw.put([number])


@actorfw.remote
def a_box_within() -> dict[str, list[Any]]:
    box = Box.remote()
    actorfw.get(box.keep([actorfw.put("kept")]))
    return {"boxes": [box]}


@actorfw.remote
def one() -> int:
    return 1


async def test_refs_within_values_within_refs_on_three_nodes(cluster: actorfw.LocalCluster) -> None:
    first, second, third = await places()
    inner = await three_refs.options(scheduling=second).remote()
    middle = await wrapped.options(scheduling=third).remote(inner)
    outer = await wrapped.options(scheduling=first).remote(middle)
    del inner, middle
    gc.collect()
    found = await unwrapped.options(scheduling=second).remote(outer)
    box = Box.options(scheduling=third).remote()
    await box.keep(found)
    del found, outer
    gc.collect()
    assert await box.values() == [{"number": 0}, {"number": 1}, {"number": 2}]
    del box
    await all_quiet()


async def test_handles_in_results_of_tasks(cluster: actorfw.LocalCluster) -> None:
    for place in await places():
        result = await a_box_within.options(scheduling=place).remote()
        box = result["boxes"][0]
        del result
        gc.collect()
        assert await box.values() == ["kept"]
        del box
    await all_quiet()


async def test_streams_whose_items_hold_refs(cluster: actorfw.LocalCluster) -> None:
    for place in await places():
        seen = [await ref async for ref in numbers_as_refs.options(scheduling=place).remote(30)]
        assert seen == [[number] for number in range(30)]
    await all_quiet()


async def test_actors_that_need_a_device_come_and_go(cluster: actorfw.LocalCluster) -> None:
    # More of them, one after another and waiting at once, than a node ever has at a time.
    for _ in range(6):
        device = Device.remote()
        assert await device.index.remote() == [0]
        await actorfw.stop(device)
    waiting = [Device.remote() for _ in range(6)]
    calls = [device.index.remote() for device in waiting]
    del device, waiting
    assert await asyncio.gather(*calls) == [[0]] * 6
    del calls
    await all_quiet()


async def test_a_schedule_timeout_counts_where_another_node_is_full(cluster: actorfw.LocalCluster) -> None:
    device = Device.remote()
    await device.index.remote()
    with pytest.raises(actorfw.UnschedulableError, match="busy") as caught:
        await one.options(num_gpus=1, schedule_timeout=0.1).remote()
    assert caught.value.ran is False
    del caught
    waiting = one.options(num_gpus=1, schedule_timeout=20).remote()
    await actorfw.stop(device)
    assert await waiting == 1
    del waiting, device
    await all_quiet()


async def test_a_stopped_process_delays_and_loses_nothing(cluster: actorfw.LocalCluster) -> None:
    @actorfw.remote
    class Count(actorfw.Actor):
        def __init__(self) -> None:
            self.count = 0

        async def add(self) -> int:
            self.count += 1
            return self.count

        async def pid(self) -> int:
            return os.getpid()

    count = Count.options(scheduling=(await places())[1]).remote()
    pid = await count.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        calls = [count.add.remote() for _ in range(100)]
        with pytest.raises(actorfw.DeadlineExceededError):
            await count.add.options(timeout=0.1).remote()
        assert not (await actorfw.wait(calls, timeout=0))[0]
    finally:
        os.kill(pid, signal.SIGCONT)
    # The one whose time was over before it could start did not start.
    assert await asyncio.gather(*calls) == list(range(1, 101))
    assert await count.add() == 101
    del calls, count
    await all_quiet()


async def test_force_ends_a_task_that_did_not_obey_its_cancellation(
    cluster: actorfw.LocalCluster, tmp_path: Path
) -> None:
    @actorfw.remote
    def stubborn(path: str) -> None:
        Path(path).touch()
        while True:
            try:
                threading.Event().wait(0.01)
            except BaseException:
                pass

    for number, place in enumerate(await places()):
        path = tmp_path / str(number)
        ref = stubborn.options(scheduling=place).remote(str(path))
        while not path.exists():
            await asyncio.sleep(0.005)
        actorfw.cancel(ref)
        with pytest.raises(actorfw.TaskCancelledError):
            await ref
        actorfw.cancel(ref, force=True)
        assert await one.options(scheduling=place).remote() == 1  # its CPU is free
    del ref
    await all_quiet()


async def test_idle_workers_make_room_for_process_actors() -> None:
    @actorfw.remote
    def together(number: int) -> int:
        return number if number == 0 else actorfw.get(together.remote(number - 1)) + 1

    @actorfw.remote
    class Own:
        def one(self) -> int:
            return 1

    async with actorfw.Node(num_cpus=1, config=actorfw.Config(max_workers=3)):
        assert await together.remote(2) == 2  # three worker processes, and all idle now
        owns = [Own.remote() for _ in range(3)]
        assert await asyncio.gather(*[own.one.remote() for own in owns]) == [1, 1, 1]
        with pytest.raises(actorfw.ActorDiedError, match="3 of them actors"):
            await Own.remote().one.remote()


async def test_awaiting_large_tells_keeps_within_the_outbox() -> None:
    @actorfw.remote
    class Sink(actorfw.Actor):
        def __init__(self) -> None:
            self.seen = 0

        async def take(self, data: bytes) -> None:
            self.seen += len(data)

        async def total(self) -> int:
            return self.seen

    config = actorfw.Config(max_outbox=8 * MIB)
    async with actorfw.Node(num_cpus=1) as other, actorfw.Node(seeds=[other.address], num_cpus=0, config=config):
        sink = Sink.options(scheduling=actorfw.NodeAffinity(other.id)).remote()
        await sink.total()
        for _ in range(40):
            await sink.take.tell(b"x" * MIB)
        assert await sink.total() == 40 * MIB


async def test_what_is_asked_in_the_last_moment_is_answered() -> None:
    async with actorfw.Node(num_cpus=0):
        done = one.options(num_cpus=0, executor="thread").remote()
        await done
        pending = one.remote()  # needs a CPU, and waits
        asked = actorfw.nodes()
    with pytest.raises(actorfw.NodeClosedError):
        await asked
    with pytest.raises(actorfw.NodeClosedError):
        await pending
    # get() needs no node for what is there, as await does not.
    with pytest.raises(actorfw.NodeClosedError):
        await asyncio.to_thread(actorfw.get, pending)
    assert await asyncio.to_thread(actorfw.get, done) == 1
