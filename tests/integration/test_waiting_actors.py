"""Back-pressure and circles of waits where threads and processes are real."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

import actorfw

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[actorfw.LocalCluster]:
    async with actorfw.LocalCluster(nodes=1, num_cpus=2) as running:
        yield running


async def on(where: str) -> dict[str, Any]:
    rows = await actorfw.nodes()
    return {"scheduling": actorfw.NodeAffinity(next(row.id for row in rows if row.here == (where == "here")))}


@actorfw.remote
class Blocking:
    def __init__(self) -> None:
        self.other: Any = None

    def meet(self, other: Any) -> None:
        self.other = other

    def ask(self, times: int) -> int:
        if not times:
            return 0
        return 1 + int(actorfw.get(self.other.ask.remote(times - 1)))

    def ask_for_a_while(self, times: int) -> str:
        try:
            actorfw.get(self.other.ask.remote(times), timeout=1.5)
        except actorfw.GetTimeoutError:
            return "gave up"
        return "answered"


@actorfw.remote(executor="thread")
class Awaiting:
    def __init__(self) -> None:
        self.other: Any = None

    async def meet(self, other: Any) -> None:
        self.other = other

    async def ask(self, times: int) -> int:
        return 1 + await self.other.ask(times - 1) if times else 0


@actorfw.remote
class Slow:
    async def note(self, item: int, seconds: float = 0) -> int:
        await asyncio.sleep(seconds)
        return item


async def pair(first: Any, second: Any) -> tuple[Any, Any]:
    one, two = first.remote(), second.remote()
    await one.meet(two)
    await two.meet(one)
    return one, two


@pytest.mark.parametrize("where", ["here", "there"])
@pytest.mark.parametrize("executors", [("thread", "thread"), ("process", "process"), ("thread", "process")])
async def test_actors_that_block_each_other(
    cluster: actorfw.LocalCluster, executors: tuple[str, str], where: str
) -> None:
    first = Blocking.options(executor=executors[0], **await on("here"))
    second = Blocking.options(executor=executors[1], **await on(where))
    one, two = await pair(first, second)
    assert await one.ask(1) == 1
    began = time.monotonic()
    with pytest.raises(actorfw.ActorFwError, match="DeadlockError"):
        await one.ask(5)
    assert time.monotonic() - began < 4  # the machine may be busy
    assert await one.ask_for_a_while(1) == "gave up"
    assert await two.ask(1) == 1


@pytest.mark.parametrize("where", ["here", "there"])
async def test_coroutines_in_threads_that_wait_for_each_other(cluster: actorfw.LocalCluster, where: str) -> None:
    one, two = await pair(Awaiting.options(**await on("here")), Awaiting.options(**await on(where)))
    assert await one.ask(1) == 1
    with pytest.raises(actorfw.ActorFwError, match="DeadlockError"):
        await one.ask(5)
    assert await two.ask(1) == 1


@pytest.mark.parametrize("where", ["here", "there"])
async def test_accepted_from_threads_and_workers(cluster: actorfw.LocalCluster, where: str) -> None:
    slow = Slow.options(max_pending_calls=3, **await on(where)).remote()

    def produce() -> int:
        refs = []
        for i in range(50):
            ref = slow.note.remote(i, 0.001)
            actorfw.get(ref.accepted())
            refs.append(ref)
        return sum(actorfw.get(refs))

    assert await asyncio.to_thread(produce) == sum(range(50))

    @actorfw.remote
    def nested(slow: Any) -> int:
        refs = []
        for i in range(50):
            ref = slow.note.remote(i, 0.001)
            actorfw.get(ref.accepted())
            refs.append(ref)
        return sum(actorfw.get(refs))

    assert await nested.remote(slow) == sum(range(50))


@pytest.mark.asyncio(loop_scope="function")
async def test_a_thread_waits_where_a_loop_is_refused() -> None:
    config = actorfw.Config(max_outbox=1 << 20)
    async with actorfw.Node(num_cpus=0, config=config):
        slow = Slow.options(max_pending_calls=10).remote()
        first = slow.note.remote(0, 0.3)
        refs: list[Any] = []

        def flood() -> None:
            for i in range(3000):
                refs.append(slow.note.remote(i))

        with pytest.raises(actorfw.MailboxFullError):
            flood()
        await first
        await asyncio.gather(*refs)
        refs.clear()
        slow.note.tell(0, 0.3)
        await asyncio.to_thread(flood)
        assert await asyncio.gather(*refs) == list(range(3000))
