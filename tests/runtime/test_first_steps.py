"""Calls from peers to a loop actor that is idle: their first step is made at once, in the name of the actor's task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run

tint: ContextVar[str] = ContextVar("tint", default="none")


@actorfw.remote
class Subject:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def ping(self, item: Any = None) -> Any:
        self.seen.append(item)
        return item

    async def task_name(self) -> str:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name()

    async def times_out(self) -> str:
        try:
            async with asyncio.timeout(1):
                await asyncio.sleep(5)
        except TimeoutError:
            return "in time"
        return "too late"

    async def group(self) -> int:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.ping(n)) for n in range(3)]
        return sum(task.result() for task in tasks)

    async def cancels_itself(self) -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            return "cancelled"
        return "went on"

    async def cancels_itself_and_returns(self) -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "returned"

    async def paint(self, color: str) -> str:
        was = tint.get()
        tint.set(color)
        await asyncio.sleep(0)
        assert tint.get() == color
        return was

    async def calls_itself(self) -> list[Any]:
        handle = actorfw.context().handle
        assert handle is not None
        handle.ping.tell("later")
        self.seen.append("now")
        return list(self.seen)

    async def all(self) -> list[Any]:
        return list(self.seen)

    async def sleep(self, seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise
        return "slept"

    async def fails(self) -> None:
        raise ValueError("as told")

    async def leaves(self) -> None:
        actorfw.exit_actor()


async def warm(cluster: SimCluster) -> Any:
    """An actor on another node whose task waits for more."""
    actor: Any = Subject.options(scheduling=actorfw.NodeAffinity(cluster.nodes[1].id)).remote()
    await actor.ping("first")
    (cell,) = cluster.nodes[1].runtime.hosting.cells.values()
    assert cell._pause is not None  # type: ignore[attr-defined]
    return actor


def with_actor(main: Callable[[SimCluster, Any], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with SimCluster(2, 1) as cluster:
            await main(cluster, await warm(cluster))

    run(inside)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("times_out", "in time"),
        ("group", 3),
        ("cancels_itself", "cancelled"),
        ("cancels_itself_and_returns", "returned"),
    ],
)
def test_what_needs_the_current_task_finds_it(method: str, answer: Any) -> None:
    async def main(cluster: SimCluster, actor: Any) -> None:
        for _ in range(3):
            assert await getattr(actor, method)() == answer
            assert await actor.ping(7) == 7  # and the actor goes on

    with_actor(main)


def test_all_calls_run_in_one_task() -> None:
    async def main(cluster: SimCluster, actor: Any) -> None:
        assert await actor.task_name() == await actor.task_name()

    with_actor(main)


def test_a_context_variable_of_one_call_is_not_seen_by_the_next() -> None:
    async def main(cluster: SimCluster, actor: Any) -> None:
        assert [await actor.paint("red"), await actor.paint("blue")] == ["none", "none"]

    with_actor(main)


def test_what_a_call_sends_to_its_own_actor_comes_after_it() -> None:
    async def main(cluster: SimCluster, actor: Any) -> None:
        assert await actor.calls_itself() == ["first", "now"]
        assert await actor.all() == ["first", "now", "later"]

    with_actor(main)


def test_calls_behind_one_that_suspends_keep_their_order() -> None:
    async def main(cluster: SimCluster, actor: Any) -> None:
        refs = [actor.sleep.remote(1), *[actor.ping.remote(n) for n in range(5)]]
        assert await asyncio.gather(*refs) == ["slept", 0, 1, 2, 3, 4]
        assert await actor.all() == ["first", 0, 1, 2, 3, 4]

    with_actor(main)


def test_an_exception_is_the_callers() -> None:
    async def main(cluster: SimCluster, actor: Any) -> None:
        with pytest.raises(ValueError, match="as told"):
            await actor.fails()
        assert await actor.ping(1) == 1

    with_actor(main)


@pytest.mark.parametrize("later", [0.0, 0.5])
def test_one_that_suspended_can_be_cancelled(later: float) -> None:
    async def main(cluster: SimCluster, actor: Any) -> None:
        ref = actor.sleep.remote(60)
        await asyncio.sleep(later)
        actorfw.cancel(ref)
        with pytest.raises(actorfw.TaskCancelledError):
            await ref
        assert (await actor.all())[1:] in ([], ["cancelled"])
        assert await actor.ping(1) == 1

    with_actor(main)


def test_an_actor_that_leaves_in_its_first_step_has_left() -> None:
    async def main(cluster: SimCluster, actor: Any) -> None:
        with pytest.raises(actorfw.ActorDiedError) as caught:
            await actor.leaves()
        assert caught.value.reason == "exited"
        with pytest.raises(actorfw.ActorDiedError):
            await actor.ping(1)

    with_actor(main)


@pytest.mark.parametrize("how", ["kill", "stop", "drop"])
def test_the_task_ends_with_its_actor(how: str) -> None:
    async def main(cluster: SimCluster, actor: Any) -> None:
        if how == "kill":
            actorfw.kill(actor)
        elif how == "stop":
            await actorfw.stop(actor)
        del actor
        await cluster.settle(0.5)
        assert not cluster.nodes[1].runtime.hosting.cells
        assert not [task for task in asyncio.all_tasks() if "_drain" in repr(task.get_coro())]

    async def inside() -> None:
        async with SimCluster(2, 1) as cluster:
            await main(cluster, await warm(cluster))

    run(inside)


def test_the_task_of_an_actor_that_is_not_called_ends_soon() -> None:
    async def main(cluster: SimCluster, actor: Any) -> None:
        (cell,) = cluster.nodes[1].runtime.hosting.cells.values()
        await asyncio.sleep(3)
        assert cell._task is None  # type: ignore[attr-defined]
        assert await actor.ping(1) == 1

    with_actor(main)


def test_few_idle_actors_have_a_task() -> None:
    async def main(cluster: SimCluster, actor: Any) -> None:
        near = actorfw.NodeAffinity(cluster.nodes[1].id)
        many = [Subject.options(scheduling=near).remote() for _ in range(300)]
        await asyncio.gather(*[one.ping.remote(1) for one in many])
        waiting = [task for task in asyncio.all_tasks() if "_drain" in repr(task.get_coro())]
        assert 200 < len(waiting) <= 256
        assert await asyncio.gather(*[one.ping.remote(2) for one in many]) == [2] * 300

    with_actor(main)
