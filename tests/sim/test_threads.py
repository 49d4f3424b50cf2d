"""`executor="thread"` in the simulation: there are no threads there, and what would run in them takes virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run


@actorfw.remote(executor="thread")
def square(x: int) -> int:
    return x * x


@actorfw.remote(executor="thread")
async def fetch(x: int) -> int:
    await asyncio.sleep(5)
    return x + 1


@actorfw.remote(executor="thread")
def count(n: int) -> Iterator[int]:
    yield from range(n)


@actorfw.remote(executor="thread")
async def acount(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


@actorfw.remote(executor="thread")
def fail() -> None:
    raise ValueError("no")


class Plain(actorfw.Actor):
    def __init__(self, n: int = 0) -> None:
        self.n = n
        self.ended: Any = None

    def add(self, k: int = 1) -> int:
        self.n += k
        return self.n

    def items(self, n: int) -> Iterator[int]:
        yield from range(n)

    def fail(self) -> None:
        raise ValueError("no")


class Async(actorfw.Actor):
    async def on_start(self) -> None:
        await asyncio.sleep(1)
        self.n = 0

    async def add(self, k: int = 1) -> int:
        before = self.n
        await asyncio.sleep(1)
        self.n = before + k
        return self.n

    async def items(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    async def fail(self) -> None:
        raise ValueError("no")


async def all_of(stream: Any) -> list[Any]:
    return [item async for item in stream]


async def tasks(seed: int) -> str:
    async with SimCluster(nodes=2, seed=seed, duration=2.0) as cluster:
        since = asyncio.get_running_loop().time()
        everywhere = [actorfw.NodeAffinity(node.id) for node in cluster.nodes]
        refs = [square.options(scheduling=there).remote(i) for i, there in enumerate(everywhere)]
        assert await asyncio.gather(*refs) == [0, 1]
        assert 2 <= asyncio.get_running_loop().time() - since < 3
        assert await fetch.remote(square.remote(3)) == 10
        for there in everywhere:
            assert await all_of(count.options(scheduling=there).remote(100)) == list(range(100))
            assert await all_of(acount.options(scheduling=there).remote(100)) == list(range(100))
            with pytest.raises(ValueError, match="no"):
                await fail.options(scheduling=there).remote()
            cancelled = fetch.options(scheduling=there).remote(1)
            actorfw.cancel(cancelled)
            with pytest.raises(actorfw.TaskCancelledError):
                await cancelled
        return cluster.trace


def test_tasks_run_and_take_virtual_time() -> None:
    assert run(tasks(1)) == run(tasks(1))


@pytest.mark.parametrize("actor_class", [Plain, Async])
def test_actors_run(actor_class: Any) -> None:
    async def main() -> str:
        async with SimCluster(nodes=2, seed=2) as cluster:
            for node in cluster.nodes:
                there = actorfw.NodeAffinity(node.id)
                actor = actor_class.options(executor="thread", scheduling=there).remote()
                assert await asyncio.gather(*(actor.add() for _ in range(5))) == [1, 2, 3, 4, 5]
                assert await all_of(actor.items.remote(100)) == list(range(100))
                with pytest.raises(ValueError, match="no"):
                    await actor.fail()
                if actor_class is Async:
                    hanging = actor.add.remote()
                    await asyncio.sleep(0.5)
                    actorfw.cancel(hanging)
                    with pytest.raises(actorfw.TaskCancelledError):
                        await hanging
                    assert await actor.add() == 6
                await actorfw.stop(actor)
                with pytest.raises(actorfw.ActorDiedError):
                    await actor.add()
            return cluster.trace

    assert run(main()) == run(main())


def test_an_actor_in_threads_is_started_again_elsewhere() -> None:
    async def main() -> None:
        async with SimCluster(nodes=3, seed=3) as cluster:
            options: Any = {"executor": "thread", "max_restarts": 1}
            there = actorfw.NodeAffinity(cluster.nodes[1].id, soft=True)
            actor = Plain.options(scheduling=there, **options).remote(10)
            assert await actor.add() == 11
            cluster.crash(1)
            while True:
                try:
                    assert await actor.add() == 11
                    break
                except actorfw.ActorUnavailableError:
                    continue

    run(main())


def test_what_can_not_be_waited_for_says_so() -> None:
    @actorfw.remote(executor="thread")
    def blocks(inner: list[Any]) -> Any:
        return actorfw.get(inner[0])

    async def main() -> None:
        async with SimCluster(nodes=1, seed=4):
            with pytest.raises(actorfw.TaskError, match="await"):
                await blocks.remote([fetch.remote(1)])

    run(main())
