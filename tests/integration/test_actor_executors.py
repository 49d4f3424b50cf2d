"""Executors: any class may run on a loop, in threads or in a process, and what each of them promises."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
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
class Async:
    def __init__(self) -> None:
        self.lock: asyncio.Lock | None = None

    async def where(self) -> tuple[int, str]:
        return os.getpid(), threading.current_thread().name

    def plain_where(self) -> tuple[int, str]:
        return os.getpid(), threading.current_thread().name

    async def locked(self) -> bool:
        # A lock belongs to the loop that first waited for it: all calls must share one.
        if self.lock is None:
            self.lock = asyncio.Lock()
        async with self.lock:
            await asyncio.sleep(0)
        return True

    async def items(self) -> AsyncIterator[int]:
        for i in range(3):
            await asyncio.sleep(0)
            yield i


@actorfw.remote
class Plain:
    def where(self) -> tuple[int, str]:
        return os.getpid(), threading.current_thread().name

    def items(self) -> Iterator[int]:
        yield from range(3)

    def stop_iteration(self) -> None:
        raise StopIteration("mine")

    def leave(self) -> None:
        raise SystemExit(3)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def quit(self) -> None:
        os._exit(7)

    def barrier(self) -> str:
        return threading.current_thread().name


async def ask_for_ever(p: Any) -> None:
    while True:
        await p.where()


async def test_a_class_with_coroutines_lives_on_the_loop_by_default(cluster: actorfw.LocalCluster) -> None:
    a = Async.options(**await on("here")).remote()
    assert await a.where() == (os.getpid(), threading.current_thread().name)
    assert await a.plain_where() == (os.getpid(), threading.current_thread().name)


async def test_a_class_without_has_a_process_of_its_own(cluster: actorfw.LocalCluster) -> None:
    first, second = Plain.remote(), Plain.remote()
    pids = {(await p.where())[0] for p in (first, second)}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert (await first.where())[0] in pids


@pytest.mark.parametrize("where", ["here", "there"])
@pytest.mark.parametrize("executor", ["loop", "process", "thread"])
@pytest.mark.parametrize("cls", [Async, Plain])
async def test_any_class_may_ask_for_any(cluster: actorfw.LocalCluster, cls: Any, executor: str, where: str) -> None:
    a = cls.options(executor=executor, **await on(where)).remote()
    pid, thread = await a.where()
    if where == "here":
        assert (pid == os.getpid()) == (executor != "process")
        assert (thread == threading.current_thread().name) == (executor != "thread")
    assert [i async for i in a.items.remote()] == [0, 1, 2]
    if cls is Async:
        assert all(await asyncio.gather(*(a.locked.remote() for _ in range(5))))


@pytest.mark.parametrize("executor", ["loop", "process", "thread"])
async def test_what_is_not_an_exception_arrives_as_task_error(cluster: actorfw.LocalCluster, executor: str) -> None:
    a = Plain.options(executor=executor).remote()
    with pytest.raises(actorfw.TaskError) as caught:
        await a.stop_iteration()
    assert isinstance(caught.value.__cause__, StopIteration) or "StopIteration" in str(caught.value.__cause__)
    with pytest.raises(actorfw.TaskError, match="SystemExit"):
        await a.leave()
    assert [i async for i in a.items.remote()] == [0, 1, 2]


async def test_the_steps_of_a_generator_may_change_threads_at_any_moment(cluster: actorfw.LocalCluster) -> None:
    # The first thread may be suspended between its step and its way out of the call's context, which the next step
    # enters in another thread. A thread switch every microsecond finds that within a few streams.
    a = Plain.options(executor="thread", **await on("here")).remote()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(60):
            async with asyncio.timeout(20):
                assert [i async for i in a.items.remote()] == [0, 1, 2]
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("executor", ["process", "thread"])
async def test_def_methods_with_concurrency_run_in_threads(cluster: actorfw.LocalCluster, executor: str) -> None:
    @actorfw.remote
    class Meeting:
        def __init__(self) -> None:
            self.barrier = threading.Barrier(2)

        def meet(self) -> int:
            self.barrier.wait(20)
            return threading.get_ident()

    m = Meeting.options(executor=executor, max_concurrency=2).remote()
    one, two = await asyncio.gather(m.meet.remote(), m.meet.remote())
    assert one != two


@pytest.mark.parametrize("where", ["here", "there"])
@pytest.mark.parametrize("method", ["die", "quit"])
async def test_a_process_that_dies_takes_its_actor_along(
    cluster: actorfw.LocalCluster, where: str, method: str
) -> None:
    p = Plain.options(name=f"dying {where} {method}", **await on(where)).remote()
    await p.where()
    with pytest.raises(actorfw.ActorDiedError) as caught:
        await getattr(p, method)()
    assert caught.value.reason == "crashed"
    assert caught.value.ran is None
    with pytest.raises(actorfw.ActorDiedError) as later:
        await p.where()
    assert later.value.reason == "crashed"
    assert later.value.ran is False
    assert (await actorfw.info(p)).reason == "crashed"
    with pytest.raises(actorfw.ActorNotFoundError):
        await actorfw.get_actor(f"dying {where} {method}")


async def test_kill_9_from_outside(cluster: actorfw.LocalCluster) -> None:
    p = Plain.options(**await on("here")).remote()
    pid, _ = await p.where()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(actorfw.ActorDiedError, match="SIGKILL") as caught:
        await ask_for_ever(p)
    assert caught.value.reason == "crashed"


async def test_process_actors_ask_for_no_cpu_unless_told(cluster: actorfw.LocalCluster) -> None:
    here = await on("here")
    many = [Plain.options(**here).remote() for _ in range(4)]
    assert len({(await p.where())[0] for p in many}) == 4
    busy = [Plain.options(num_cpus=1, **here).remote() for _ in range(2)]
    await asyncio.gather(*(b.where.remote() for b in busy))
    free = (await actorfw.available_resources()).get("CPU", 0)
    assert free == 2  # of the other node
    waiting = Plain.options(num_cpus=1, **here).remote()
    ref = waiting.where.remote()
    await actorfw.stop(busy[0])
    assert (await ref)[0] != os.getpid()


async def test_what_can_never_be_placed_says_so(
    cluster: actorfw.LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(actorfw.UnschedulableError, match="unobtainium"):
        await Plain.options(resources={"unobtainium": 1}, schedule_timeout=0.05).remote().where()
    assert "unobtainium" in caplog.text
