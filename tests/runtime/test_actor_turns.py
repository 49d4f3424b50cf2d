"""Actors in virtual time: who is held up, deadlines, order over links that break, and the bounds of what waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run

LOG = "actorfw.actors"


@actorfw.remote
class Worker:
    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.door = asyncio.Event()

    async def note(self, item: Any) -> Any:
        self.seen.append(item)
        return item

    async def slow(self, seconds: float) -> None:
        await self.sleep(seconds)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def slow_items(self, seconds: float) -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(seconds)
        yield 2

    async def all(self) -> list[Any]:
        return self.seen

    async def ask(self, other: Any, seconds: float) -> None:
        await other.slow(seconds)

    async def blob(self, data: bytes) -> int:
        return len(data)


@actorfw.remote
class Interleaving(Worker):  # type: ignore[misc,valid-type]
    @actorfw.method(interleave=True)
    async def beside(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def simulated(nodes: int, **options: Any) -> Callable[[Callable[[SimCluster], Coroutine[Any, Any, None]]], None]:
    """Run a coroutine inside a cluster of so many nodes."""

    def run_it(main: Callable[[SimCluster], Coroutine[Any, Any, None]]) -> None:
        async def inside() -> None:
            async with SimCluster(nodes, 1, **options) as cluster:
                await main(cluster)

        run(inside)

    return run_it


def on(cluster: SimCluster, index: int, actor_class: Any = Worker, **options: Any) -> Any:
    return actor_class.options(scheduling=actorfw.NodeAffinity(cluster.nodes[index].id), **options).remote()


# -- held up -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("actor_class", [Worker, Interleaving])
def test_a_call_held_up_for_five_seconds_is_logged_once(actor_class: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: SimCluster) -> None:
        w = on(cluster, 0, actor_class)
        await w.note(0)
        hanging = w.slow.remote(60)
        await asyncio.sleep(10)  # nobody waits: nobody is held up
        assert not caplog.records
        waiting = [w.note.remote(i) for i in range(3)]
        await asyncio.sleep(4.9)
        assert not caplog.records
        await asyncio.sleep(0.2)
        assert len(caplog.records) == 1
        text = caplog.records[0].getMessage()
        assert "3 calls have waited 5 s behind slow" in text
        line = Worker.slow.__code__.co_firstlineno + 1
        assert f"hangs at {__file__}:{line}" in text
        assert "interleave=True" in text
        waiting.append(w.note.remote(3))
        await asyncio.gather(hanging, *waiting)
        assert len(caplog.records) == 1

    with caplog.at_level(logging.WARNING, LOG):
        simulated(1)(main)


def test_the_next_one_that_hangs_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: SimCluster) -> None:
        w = on(cluster, 0)
        await asyncio.gather(w.slow.remote(7), w.slow.remote(20), w.note.remote(1))
        assert len(caplog.records) == 2

    with caplog.at_level(logging.WARNING, LOG):
        simulated(1)(main)


def test_short_calls_hold_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: SimCluster) -> None:
        w = on(cluster, 0)
        await asyncio.gather(*(w.slow.remote(1) for _ in range(20)))
        assert not caplog.records

    with caplog.at_level(logging.WARNING, LOG):
        simulated(1)(main)


def test_a_hanging_generator_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: SimCluster) -> None:
        w = on(cluster, 0)
        stream = w.slow_items.remote(30)
        assert await anext(stream) == 1
        await asyncio.sleep(1)
        await w.note(1)
        assert await anext(stream) == 2
        assert len(caplog.records) == 1
        line = Worker.slow_items.__code__.co_firstlineno + 2
        assert f"slow_items, which hangs at {__file__}:{line}" in caplog.records[0].getMessage()

    with caplog.at_level(logging.WARNING, LOG):
        simulated(1)(main)


def test_interleaved_calls_hold_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: SimCluster) -> None:
        w = on(cluster, 0, Interleaving)
        side = w.beside.remote(60)
        for i in range(20):
            await w.note(i)
            await asyncio.sleep(1)
        assert not side.done()
        await side
        assert not caplog.records

    with caplog.at_level(logging.WARNING, LOG):
        simulated(1)(main)


# -- deadlines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0, 1])
def test_expired_work_never_starts(where: int) -> None:
    async def main(cluster: SimCluster) -> None:
        w = on(cluster, where)
        await w.note(0)
        slow = w.slow.remote(10)
        late = w.note.options(timeout=5).remote("late")
        before = asyncio.get_running_loop().time()
        with pytest.raises(actorfw.DeadlineExceededError) as caught:
            await late
        assert 4.9 <= asyncio.get_running_loop().time() - before <= 5.1
        assert caught.value.ran is (False if where == 0 else None)
        await slow
        assert await w.all() == [0]

    simulated(2)(main)


def test_a_deadline_of_the_past_is_never_sent() -> None:
    async def main(cluster: SimCluster) -> None:
        w = on(cluster, 1)
        await w.note(0)
        with pytest.raises(actorfw.DeadlineExceededError) as caught:
            await w.note.options(timeout=0).remote("never")
        assert caught.value.ran is False
        assert await w.all() == [0]

    simulated(2)(main)


def test_nested_calls_inherit_what_is_left() -> None:
    async def main(cluster: SimCluster) -> None:
        outer, inner = on(cluster, 1), on(cluster, 2)
        await asyncio.gather(outer.note.remote(0), inner.note.remote(0))
        before = asyncio.get_running_loop().time()
        with pytest.raises(actorfw.DeadlineExceededError):
            await outer.ask.options(timeout=3).remote(inner, 1000)
        assert asyncio.get_running_loop().time() - before < 3.5
        await inner.note("free")  # what it ran for the other is cancelled
        assert asyncio.get_running_loop().time() - before < 4
        await outer.note("free")

    simulated(3)(main)


# -- order and links ---------------------------------------------------------------------------------------------------


def test_calls_keep_their_order_over_links_that_break() -> None:
    async def main(cluster: SimCluster) -> None:
        w = on(cluster, 1)
        refs = []
        for i in range(300):
            if i % 5:
                refs.append(w.note.remote(i))
            else:
                w.note.tell(i)
            if i % 40 == 7:
                await asyncio.sleep(0.01)
                cluster.cut(0, 1)
        await asyncio.gather(*refs)
        assert await w.all() == list(range(300))

    simulated(2)(main)


def test_calls_sent_before_the_actor_has_a_place_keep_their_order() -> None:
    async def main(cluster: SimCluster) -> None:
        full = on(cluster, 1, num_cpus=1)
        await full.note(0)
        w = on(cluster, 1, num_cpus=1)
        refs = []
        for i in range(10):
            refs.append(w.note.remote(i))
            w.note.tell(f"told {i}")
            await asyncio.sleep(0.001)
        await actorfw.stop(full)
        refs.append(w.note.remote(10))
        assert await asyncio.gather(*refs) == list(range(11))
        expected: list[Any] = []
        for i in range(10):
            expected += [i, f"told {i}"]
        assert await w.all() == [*expected, 10]

    simulated(2)(main)


def test_a_cancel_reaches_its_call_over_a_link_that_breaks() -> None:
    async def main(cluster: SimCluster) -> None:
        w = on(cluster, 1)
        await w.note(0)
        hanging = asyncio.create_task(w.slow(10_000))
        await asyncio.sleep(0.1)
        cluster.cut(0, 1)
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        before = asyncio.get_running_loop().time()
        await w.note(1)
        assert asyncio.get_running_loop().time() - before < 100

    simulated(2)(main)


def send(times: int, method: Any, argument: Any, refs: list[Any]) -> None:
    for _ in range(times):
        refs.append(method.remote(argument))


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_a_full_outbox_refuses_calls_at_once() -> None:
    async def main(cluster: SimCluster) -> None:
        w = on(cluster, 1)
        await w.note(0)
        cluster.stall(0, 1)
        refs: list[Any] = []
        with pytest.raises(actorfw.MailboxFullError, match="max_outbox") as caught:
            send(3000, w.blob, b"x" * 20_000, refs)
        assert caught.value.ran is False
        with pytest.raises(actorfw.MailboxFullError):
            w.blob.tell(b"x" * 20_000)
        cluster.heal()
        assert set(await asyncio.gather(*refs)) == {20_000}
        assert await w.blob(b"after") == 5

    simulated(2, config=actorfw.Config(max_outbox=2 << 20))(main)


def test_calls_that_wait_for_a_place_fill_the_outbox_too() -> None:
    async def main(cluster: SimCluster) -> None:
        w = on(cluster, 0, resources={"nowhere": 1})
        with pytest.raises(actorfw.MailboxFullError):
            send(1000, w.blob, b"x" * 20_000, [])
        small = on(cluster, 0, resources={"nowhere": 1})
        with pytest.raises(actorfw.MailboxFullError):
            send(100_000, small.note, 1, [])

    simulated(1, config=actorfw.Config(max_outbox=2 << 20))(main)


def test_tells_wait_for_the_window() -> None:
    async def main(cluster: SimCluster) -> None:
        w = on(cluster, 1)
        await w.note(0)
        slow = w.slow.remote(100)
        for i in range(200):
            await w.note.tell(i)
        before = asyncio.get_running_loop().time()
        for i in range(200):
            await w.note.tell(i)
        assert asyncio.get_running_loop().time() - before > 90
        await slow
        assert len(await w.all()) == 401

    simulated(2)(main)


def test_a_dead_host_frees_those_who_wait_to_tell() -> None:
    async def main(cluster: SimCluster) -> None:
        w = on(cluster, 1)
        await w.note(0)
        w.slow.tell(10_000)

        async def produce() -> None:
            for i in range(1000):
                await w.note.tell(i)

        producing = asyncio.create_task(produce())
        await asyncio.sleep(1)
        assert not producing.done()
        cluster.crash(1)
        await producing
        with pytest.raises(actorfw.ActorDiedError) as caught:
            await w.note(1)
        assert caught.value.reason == "node_died"

    simulated(2)(main)
