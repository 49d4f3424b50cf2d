"""A real node that is held for dead, and its real worker processes."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import actorfw

pytestmark = pytest.mark.real


@actorfw.remote
def double(x: int) -> int:
    return 2 * x


@actorfw.remote
def sums(refs: list[Any]) -> int:
    return sum(actorfw.get(refs))


@actorfw.remote(num_cpus=0, executor="process")
class Keeper(actorfw.Actor):
    def __init__(self) -> None:
        self.refs: list[Any] = []
        self.counter: Any = None

    def keep(self, refs: list[Any]) -> int:
        self.refs += refs
        return len(self.refs)

    def make(self) -> None:
        self.refs.append(double.remote(21))
        self.refs.append(actorfw.put(1))
        self.counter = Counter.remote()

    def total(self) -> int:
        count: int = actorfw.get(self.counter.add())
        return count + int(sum(actorfw.get(self.refs)))

    def me(self) -> Any:
        return actorfw.context().handle

    def id(self) -> str | None:
        return actorfw.context().actor_id


@actorfw.remote(num_cpus=0)
class Counter(actorfw.Actor):
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count


async def reborn(node: Any, other: Any) -> None:
    """Have one node bury the other, and wait until that one is a member again."""
    mine, theirs = node.runtime, other.runtime
    before = mine.life
    theirs.peers.bury(before, "for the test")
    async with asyncio.timeout(30):
        while mine.life == before or theirs.life not in mine.peers.by_life or mine.members.state != "up":
            await asyncio.sleep(0.01)


async def test_worker_processes_go_on_with_what_they_have() -> None:
    node: Any
    other: Any
    async with actorfw.Node(num_cpus=1) as other, actorfw.init(num_cpus=2, seeds=other.address) as node:
        value = actorfw.put(100)
        keeper: Any = Keeper.options(scheduling=actorfw.NodeAffinity(node.id)).remote()
        assert await keeper.keep([value]) == 1
        await keeper.make()
        assert await keeper.total() == 144
        assert await sums.remote([value, value]) == 200
        workers = {worker.pid for worker in node.runtime.pool.workers.values()}
        for turn in (1, 2):
            await reborn(node, other)
            assert await value == 100
            assert await keeper.total() == 144 + turn
            assert await keeper.id() == f"{node.runtime.life.hex()}-{keeper._number:x}"
            # Old workers, and one that the zygote forks now.
            assert await sums.remote([value, double.remote(1)]) == 102
            mine = actorfw.NodeAffinity(node.id)
            fresh: Any = Keeper.options(scheduling=mine).remote()
            assert await fresh.keep([value, double.options(scheduling=mine).remote(turn)]) == 2
            await fresh.make()
            assert await fresh.total() == 100 + 2 * turn + 42 + 1 + 1
            assert workers <= {worker.pid for worker in node.runtime.pool.workers.values()}
            # The other node works for this one as before.
            there = actorfw.NodeAffinity(other.runtime.id)
            assert await double.options(scheduling=there).remote(value) == 200
        del fresh
        number = keeper._number
        del keeper, value
        async with asyncio.timeout(20):
            while any(id[1] == number for id in node.runtime.guardians.actors):
                await asyncio.sleep(0.01)
            while len(node.runtime.objects.ownership):
                await asyncio.sleep(0.01)


async def test_busy_workers_and_threads_notice_nothing() -> None:
    """Calls from all sides while the node takes one new life after another: each ends, with the right value."""
    node: Any
    other: Any
    async with actorfw.Node(num_cpus=0) as other, actorfw.init(num_cpus=2, seeds=other.address) as node:
        mine = actorfw.NodeAffinity(node.id)
        keeper: Any = Keeper.options(scheduling=mine).remote()
        await keeper.make()
        over = threading.Event()
        problems: list[BaseException] = []
        done = [0]

        def work() -> None:
            count = 0
            try:
                counter: Any = Counter.options(scheduling=mine).remote()
                while not over.is_set():
                    count += 1
                    ref = actorfw.put(count)
                    assert actorfw.get(double.options(scheduling=mine).remote(ref)) == 2 * count
                    assert actorfw.get(counter.add()) == count
                    done[0] += 1
            except BaseException as error:
                problems.append(error)

        threads = [asyncio.create_task(asyncio.to_thread(work)) for _ in range(3)]
        total = 43
        for _ in range(4):
            before = done[0]
            await reborn(node, other)
            for _ in range(5):
                total += 1
                assert await keeper.total() == total
            async with asyncio.timeout(20):
                while done[0] < before + 10 and not problems:
                    await asyncio.sleep(0.01)
        over.set()
        await asyncio.gather(*threads)
        assert not problems, problems
