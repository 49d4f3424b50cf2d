"""Taking a call or a task back, wherever it is at that moment and in each way there is.

Whoever waits hears it at once. What had not started never runs, what runs is interrupted, and nothing is left of it
anywhere when it is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import actorfw
from actorfw.core.windows import Window
from actorfw.testing import SimCluster, run
from tests.sim.leftovers import leftovers

DUE = 0.5  # seconds; the deadline of what is not cancelled otherwise
LONG = 30.0

journal: list[str] = []


async def work(key: str, seconds: float) -> str:
    journal.append(f"{key} starts")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        journal.append(f"{key} is interrupted")
        raise
    journal.append(f"{key} ends")
    return key


async def counting(key: str, upto: int) -> AsyncIterator[int]:
    journal.append(f"{key} starts")
    try:
        for i in range(upto):
            await asyncio.sleep(0.05)
            yield i
    finally:
        journal.append(f"{key} is over")


class _Desk:
    async def go(self, key: str, seconds: float = 0.0, *_: Any) -> str:
        return await work(key, seconds)

    async def count(self, key: str, upto: int) -> AsyncIterator[int]:
        async for i in counting(key, upto):
            yield i

    def compute(self, key: str) -> str:
        journal.append(f"{key} ends")
        return key


@actorfw.remote
class OnLoop(_Desk):
    pass


@actorfw.remote(max_concurrency=2)
class Wide(_Desk):
    pass


@actorfw.remote(executor="process")
class InProcess(_Desk):
    pass


@actorfw.remote(num_cpus=1, max_retries=0)
async def job(key: str, seconds: float = 0.0, *_: Any) -> str:
    return await work(key, seconds)


@actorfw.remote(executor="process", num_cpus=1, max_retries=0)
async def job_in_worker(key: str, seconds: float = 0.0) -> str:
    return await work(key, seconds)


@actorfw.remote(max_retries=0)
def compute(key: str) -> str:
    journal.append(f"{key} ends")
    return key


@actorfw.remote(num_cpus=1, max_retries=0)
async def numbers(key: str, upto: int) -> AsyncIterator[int]:
    async for i in counting(key, upto):
        yield i


@actorfw.remote(executor="process", num_cpus=1, max_retries=0)
async def numbers_in_worker(key: str, upto: int) -> AsyncIterator[int]:
    async for i in counting(key, upto):
        yield i


@actorfw.remote(num_cpus=0, max_retries=0)
async def later(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "late"


@actorfw.remote(num_cpus=0, max_retries=0)
async def parent(seconds: float) -> list[str]:
    return await actorfw.gather([job.remote("call", seconds), job_in_worker.remote("grandchild", seconds)])


def split(cluster: SimCluster) -> None:
    cluster.partition([0], [1])
    cluster.reset(0, 1)


class Scene:
    """A cluster with an actor on node 1, in which a call named "call" is to be taken back."""

    def __init__(self, cluster: SimCluster, options: dict[str, Any]) -> None:
        self.cluster = cluster
        self.options = options  # of that call
        self.durations: dict[str, float] = {}
        self.there = actorfw.NodeAffinity(cluster.nodes[1].id)
        self.actor: Any = None
        self.others: list[Any] = []
        self.leaving: Any = None

    async def has(self, kind: Any, **options: Any) -> None:
        self.actor = kind.options(scheduling=self.there, **options).remote()
        await self.actor.go("first")

    def call(self, seconds: float = 0.0, *rest: Any) -> Any:
        return self.actor.go.options(**self.options).remote("call", seconds, *rest)

    def task(self, fn: Any, *args: Any, **options: Any) -> Any:
        return fn.options(**self.options, **{"scheduling": self.there, **options}).remote("call", *args)


Way = Callable[[Scene], Awaitable[Any]]

# -- where it is -------------------------------------------------------------------------------------------------------


async def without_a_place(scene: Scene) -> Any:
    """The actor can't be made anywhere, so its call waits at the caller."""
    scene.actor = OnLoop.options(num_cpus=9).remote()
    return scene.call()


async def beyond_the_window(scene: Scene) -> Any:
    await scene.has(OnLoop)
    scene.others = [
        scene.actor.go.remote("busy", 3.0),
        *[scene.actor.go.remote("other") for _ in range(Window.CALLS + 10)],
    ]
    return scene.call()


async def in_the_mailbox(scene: Scene) -> Any:
    await scene.has(OnLoop)
    scene.others = [scene.actor.go.remote("busy", 3.0)]
    return scene.call()


async def in_the_mailbox_of_two(scene: Scene) -> Any:
    await scene.has(Wide)
    scene.others = [scene.actor.go.remote("busy", 3.0) for _ in range(2)]
    return scene.call()


async def in_the_mailbox_of_a_process(scene: Scene) -> Any:
    await scene.has(InProcess)
    scene.others = [scene.actor.go.remote("busy", 3.0) for _ in range(4)]
    return scene.call()


async def before_a_full_mailbox(scene: Scene) -> Any:
    await scene.has(OnLoop, max_pending_calls=2)
    scene.others = [scene.actor.go.remote("busy", 1.0) for _ in range(5)]
    return scene.call()


async def waiting_for_an_argument(scene: Scene) -> Any:
    await scene.has(OnLoop)
    return scene.call(0.0, later.remote(3.0))


async def behind_one_that_waits(scene: Scene) -> Any:
    await scene.has(OnLoop)
    scene.others = [scene.actor.go.remote("busy", 0.0, later.remote(3.0))]
    return scene.call()


async def while_the_actor_restarts(scene: Scene) -> Any:
    await scene.has(InProcess, max_restarts=1, restart_backoff=5.0)
    scene.others = [scene.actor.go.remote("busy", LONG)]
    ref = scene.call()
    await asyncio.sleep(0.1)
    assert scene.cluster.kill_worker(1)
    return ref


async def made_while_the_actor_restarts(scene: Scene) -> Any:
    await scene.has(InProcess, max_restarts=1, restart_backoff=5.0)
    assert scene.cluster.kill_worker(1)
    await asyncio.sleep(0.1)
    return scene.call()


async def behind_a_link_that_is_down(scene: Scene) -> Any:
    await scene.has(OnLoop)
    split(scene.cluster)
    await asyncio.sleep(0.1)
    return scene.call()


async def sent_again_over_the_next_link(scene: Scene) -> Any:
    await scene.has(OnLoop)
    scene.others = [scene.actor.go.remote("busy", 3.0)]
    await asyncio.sleep(0.1)
    scene.cluster.stall(0, 1)  # it is written, and does not arrive
    ref = scene.call()
    await asyncio.sleep(0)
    split(scene.cluster)
    return ref


async def a_task_without_a_place(scene: Scene) -> Any:
    return scene.task(job, num_cpus=9, scheduling="default")


async def a_task_that_waits_at_its_node(scene: Scene) -> Any:
    scene.others = [job.options(scheduling=scene.there).remote("busy", 3.0)]
    await asyncio.sleep(0.1)
    return scene.task(job)


async def a_task_that_waits_for_a_worker(scene: Scene) -> Any:
    scene.others = [job_in_worker.options(scheduling=scene.there).remote("busy", 3.0)]
    await asyncio.sleep(0.1)
    return scene.task(job_in_worker)


async def a_task_that_is_sent_back_again_and_again(scene: Scene) -> Any:
    """With a `schedule_timeout` it does not wait at its node, but is offered anew."""
    scene.others = [job.options(scheduling=scene.there).remote("busy", 3.0)]
    await asyncio.sleep(0.1)
    return scene.task(job, schedule_timeout=20.0)


async def a_task_without_its_argument(scene: Scene) -> Any:
    return scene.task(job, 0.0, later.remote(3.0))


async def a_task_between_two_attempts(scene: Scene) -> Any:
    scene.durations["compute"] = LONG
    ref = scene.task(compute, max_retries=1, retry_delay=10.0)
    await asyncio.sleep(0.2)
    assert scene.cluster.kill_worker(1)
    scene.durations.clear()
    return ref


async def a_task_behind_a_link_that_is_down(scene: Scene) -> Any:
    split(scene.cluster)
    await asyncio.sleep(0.1)  # or it is among what the link has taken and not delivered
    return scene.task(job)


async def running(scene: Scene) -> Any:
    await scene.has(OnLoop)
    return scene.call(LONG)


async def running_beside_others(scene: Scene) -> Any:
    await scene.has(Wide)
    return scene.call(LONG)


async def running_in_a_process(scene: Scene) -> Any:
    await scene.has(InProcess)
    return scene.call(LONG)


async def running_while_its_actor_moves(scene: Scene) -> Any:
    scene.there = actorfw.NodeAffinity(scene.there.node_id, soft=True)
    await scene.has(OnLoop, max_restarts=1)
    ref = scene.call(LONG)
    await asyncio.sleep(0.05)
    scene.leaving = asyncio.ensure_future(scene.cluster.drain(1, 60.0))
    return ref


async def a_running_task(scene: Scene) -> Any:
    return scene.task(job, LONG)


async def a_task_running_in_a_worker(scene: Scene) -> Any:
    return scene.task(job_in_worker, LONG)


async def a_child_of_a_task(scene: Scene) -> Any:
    return parent.options(**scene.options, scheduling=scene.there).remote(LONG)


async def computing_in_a_worker(scene: Scene) -> Any:
    scene.durations["compute"] = LONG
    return scene.task(compute)


async def computing_in_a_process(scene: Scene) -> Any:
    await scene.has(InProcess)
    scene.durations["compute"] = LONG
    return scene.actor.compute.options(**scene.options).remote("call")


WAITING: list[Way] = [
    without_a_place,
    beyond_the_window,
    in_the_mailbox,
    in_the_mailbox_of_two,
    in_the_mailbox_of_a_process,
    before_a_full_mailbox,
    waiting_for_an_argument,
    behind_one_that_waits,
    while_the_actor_restarts,
    made_while_the_actor_restarts,
    behind_a_link_that_is_down,
    sent_again_over_the_next_link,
    a_task_without_a_place,
    a_task_that_waits_at_its_node,
    a_task_that_waits_for_a_worker,
    a_task_that_is_sent_back_again_and_again,
    a_task_without_its_argument,
    a_task_between_two_attempts,
    a_task_behind_a_link_that_is_down,
]
RUNNING: list[Way] = [
    running,
    running_beside_others,
    running_in_a_process,
    running_while_its_actor_moves,
    a_running_task,
    a_task_running_in_a_worker,
    a_child_of_a_task,
]
COMPUTING: list[Way] = [computing_in_a_worker, computing_in_a_process]

# Where this node knows that it has not started: nobody else has it.
HERE: set[Way] = {
    without_a_place,
    beyond_the_window,
    while_the_actor_restarts,
    made_while_the_actor_restarts,
    a_task_without_a_place,
    a_task_without_its_argument,
}

# -- how it is taken back ----------------------------------------------------------------------------------------------

HOW = ("cancel", "force", "await", "deadline")


async def take_back(ref: Any, how: str) -> Exception:
    """Do it, and return what others that wait for it see."""
    loop = asyncio.get_running_loop()
    other = asyncio.ensure_future(ref.coro())
    start = loop.time()
    if how == "await":
        waiting = asyncio.ensure_future(ref.coro())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    elif how != "deadline":
        actorfw.cancel(ref, force=how == "force")
    with pytest.raises(actorfw.ActorFwError) as caught:
        await other
    assert loop.time() - start <= (DUE if how == "deadline" else 0.001)
    return caught.value


@asynccontextmanager
async def scenery(how: str) -> AsyncIterator[Scene]:
    journal.clear()
    options = {"timeout": DUE} if how == "deadline" else {}
    durations: dict[str, float] = {}
    async with SimCluster(2, seed=1, duration=lambda name: durations.get(name.rpartition(".")[2], 0.001)) as cluster:
        scene = Scene(cluster, options)
        scene.durations = durations
        yield scene
        if scene.leaving is not None:
            report = await asyncio.wait_for(scene.leaving, 5)
            assert (report.tasks, report.calls, report.actors, report.objects) == (0, 0, 0, 0)
        # What else there was goes on as if nothing had been.
        cluster.heal()
        durations.clear()
        if scene.others:
            done = await asyncio.gather(*[one.coro() for one in scene.others], return_exceptions=True)
            assert all(isinstance(one, str | actorfw.ActorUnavailableError) for one in done), done
        await cluster.add_node(num_cpus=9)
        if scene.actor is not None:
            assert await scene.actor.go("afterwards") == "afterwards"
        await cluster.settle(10)
        scene.actor, scene.others = None, []
        for _ in range(3):
            await cluster.settle()
        said = leftovers(cluster)
        assert not said, "\n".join(said)


def check_error(where: Way, how: str, error: Exception) -> None:
    assert type(error) is (actorfw.DeadlineExceededError if how == "deadline" else actorfw.TaskCancelledError)
    assert error.ran is (False if where in HERE else None) or (error.ran is False and where in WAITING)


def named(value: Any) -> str:
    return value.__name__ if callable(value) else str(value)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("where", WAITING, ids=named)
def test_what_has_not_started_never_runs(where: Way, how: str) -> None:
    async def main() -> None:
        async with scenery(how) as scene:
            ref = await where(scene)
            if how != "deadline":
                await asyncio.sleep(0.1)
            error = await take_back(ref, how)
            check_error(where, how, error)
            del ref
        assert not [what for what in journal if what.startswith("call")]

    run(main())


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("where", RUNNING, ids=named)
def test_what_runs_is_interrupted(where: Way, how: str) -> None:
    async def main() -> None:
        async with scenery(how) as scene:
            ref = await where(scene)
            await asyncio.sleep(0.1)
            assert "call starts" in journal
            error = await take_back(ref, how)
            assert error.ran is None
            check_error(where, how, error)
            await asyncio.sleep(0.1)
            kept = how == "force" and where is a_task_running_in_a_worker  # its process is gone, and says nothing
            assert ("call is interrupted" in journal) == (not kept)
            if where is a_child_of_a_task and how != "force":
                assert "grandchild is interrupted" in journal
            del ref
        assert "call ends" not in journal
        assert "grandchild ends" not in journal

    run(main())


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("where", COMPUTING, ids=named)
def test_of_what_computes_the_result_is_dropped_or_it_is_interrupted(where: Way, how: str) -> None:
    async def main() -> None:
        async with scenery(how) as scene:
            ref = await where(scene)
            await asyncio.sleep(0.1)
            error = await take_back(ref, how)
            check_error(where, how, error)
            del ref

    run(main())


@actorfw.remote(executor="process", num_cpus=1, num_returns=2)
async def stubborn() -> tuple[int, int]:
    journal.append("stubborn starts")
    while True:
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            journal.append("stubborn goes on")


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("by", [0, 1])
def test_force_ends_what_did_not_obey_by_each_of_its_refs(where: int, by: int) -> None:
    async def main() -> None:
        async with scenery("force") as scene:
            node = scene.cluster.nodes[where]
            refs = stubborn.options(scheduling=actorfw.NodeAffinity(node.id)).remote()
            await asyncio.sleep(0.1)
            actorfw.cancel(refs[by])
            for ref in refs:
                with pytest.raises(actorfw.TaskCancelledError):
                    await ref
            await asyncio.sleep(1)
            assert journal == ["stubborn starts", "stubborn goes on"]
            assert node.runtime.execution.by_serial
            actorfw.cancel(refs[by], force=True)
            await asyncio.sleep(1)
            assert not node.runtime.execution.by_serial
            del ref, refs

    run(main())


@pytest.mark.parametrize("how", ["cancel", "drop", "aclose", "deadline"])
@pytest.mark.parametrize("running", [False, True], ids=["waiting", "running"])
@pytest.mark.parametrize("kind", [numbers, numbers_in_worker, OnLoop, Wide, InProcess], ids=named)
def test_a_stream_is_taken_back(kind: Any, running: bool, how: str) -> None:
    async def main() -> None:
        async with scenery("deadline" if how == "deadline" else "") as scene:
            task = kind in (numbers, numbers_in_worker)
            if not task:
                await scene.has(kind)
            if not running and task:
                scene.others = [job.options(scheduling=scene.there).remote("busy", 3.0)]
            elif not running:
                scene.others = [scene.actor.go.remote("busy", 3.0) for _ in range(2)]
            await asyncio.sleep(0.1)
            if task:
                stream = kind.options(scheduling=scene.there, **scene.options).remote("call", 100)
            else:
                stream = scene.actor.count.options(**scene.options).remote("call", 100)
            got = [await anext(stream) for _ in range(4 if running else 0)]
            assert got == list(range(len(got)))
            await asyncio.sleep(0.1)
            waiting = None
            if how in ("cancel", "deadline"):
                waiting = asyncio.ensure_future(read(stream))
                await asyncio.sleep(0.01)
            if how == "cancel":
                actorfw.cancel(stream)
            elif how == "aclose":
                await stream.aclose()
            if waiting is not None:
                expected = actorfw.DeadlineExceededError if how == "deadline" else actorfw.TaskCancelledError
                with pytest.raises(expected):
                    await waiting
            del stream, waiting
            await asyncio.sleep(0.5)
            called = [what for what in journal if what.startswith("call")]
            assert called == (["call starts", "call is over"] if running else [])

    run(main())


async def read(stream: Any) -> list[int]:
    return [i async for i in stream]
