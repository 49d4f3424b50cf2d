"""`SimCluster` as its users meet it: faults do what they say, and simulated workers are like real ones."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import actorfw
from actorfw import errors
from actorfw.testing import SimCluster, run


@actorfw.remote
class Counter(actorfw.Actor):
    def __init__(self) -> None:
        self.n = 0

    async def add(self, k: int = 1) -> int:
        self.n += k
        return self.n


@actorfw.remote(executor="process")
class Slow(actorfw.Actor):
    def __init__(self) -> None:
        self.n = 0

    def add(self, k: int = 1) -> int:
        self.n += k
        return self.n

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    def leave(self) -> None:
        actorfw.exit_actor()


@actorfw.remote
def square(x: int) -> int:
    return x * x


@actorfw.remote
def blocks() -> int:
    return actorfw.get(square.remote(2))


@actorfw.remote(executor="process", num_cpus=1)
async def sum_of_squares(n: int) -> int:
    return sum(await actorfw.gather([square.remote(i) for i in range(n)]))


def on(cluster: SimCluster, index: int) -> dict[str, Any]:
    return {"scheduling": actorfw.NodeAffinity(cluster.nodes[index].id)}


def test_tasks_and_actors_run() -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            assert [row.name for row in await actorfw.nodes()] == ["n0", "n1", "n2"]
            assert await actorfw.gather([square.remote(i) for i in range(9)]) == [i * i for i in range(9)]
            assert await sum_of_squares.remote(4) == 14
            kinds: list[Any] = [Counter, Slow]
            for actor_class in kinds:
                for node in cluster.nodes:
                    counter = actor_class.options(**on(cluster, node.index)).remote()
                    assert await asyncio.gather(*(counter.add() for _ in range(4))) == [1, 2, 3, 4]
            slow: Any = Slow.remote()
            assert [i async for i in slow.count(100)] == list(range(100))
            with pytest.raises(errors.ActorDiedError) as info:
                await slow.leave()
            assert info.value.reason == "exited"

    run(main())


def test_a_simulated_worker_says_that_it_cannot_block() -> None:
    async def main() -> None:
        async with SimCluster(1):
            with pytest.raises(errors.TaskError, match="a simulated worker can't block"):
                await blocks.remote()

    run(main())


def test_durations_are_virtual_and_can_be_set() -> None:
    async def main() -> float:
        async with SimCluster(1, duration=lambda name: 3600.0 if name == "square" else 0.0) as cluster:
            await square.remote(1)
            return cluster.loop.time()

    assert 3600 < run(main()) < 3601


def test_a_cut_link_costs_nothing() -> None:
    async def main() -> None:
        async with SimCluster(2) as cluster:
            counter = Counter.options(**on(cluster, 1)).remote()
            for i in range(20):
                call = counter.add()
                cluster.cut(0, 1)
                assert await call == i + 1

    run(main())


def test_a_crash_fails_calls_and_moves_tasks() -> None:
    async def main() -> None:
        async with SimCluster(3, duration=1.0) as cluster:
            counter = Counter.options(**on(cluster, 2)).remote()
            await counter.add()
            call = counter.add()
            task = square.options(scheduling=actorfw.NodeAffinity(cluster.nodes[2].id, soft=True)).remote(5)
            await asyncio.sleep(0.5)
            cluster.crash(2)
            assert await task == 25
            await call  # it was answered before the crash
            with pytest.raises(errors.ActorDiedError) as info:
                await counter.add()
            assert info.value.reason == "node_died"
            assert len(await actorfw.nodes()) == 2

    run(main())


def test_what_runs_on_a_node_ends_with_it() -> None:
    async def main() -> None:
        finished: list[str] = []

        async def program() -> None:
            try:
                await asyncio.sleep(10)
            finally:
                finished.append("finally")

        async with SimCluster(2) as cluster:
            running = asyncio.ensure_future(cluster.run_on(1, program))
            await asyncio.sleep(1)
            cluster.crash(1)
            with pytest.raises(errors.NodeDiedError):
                await running
            await cluster.settle(20)
            assert finished == []

    run(main())


def test_a_frozen_node_goes_on_when_it_is_thawed() -> None:
    async def main() -> None:
        async with SimCluster(2) as cluster:
            counter = Counter.options(**on(cluster, 1)).remote()
            await counter.add()
            cluster.freeze(1)
            call = asyncio.ensure_future(counter.add())
            await asyncio.sleep(3)
            assert not call.done()
            cluster.thaw(1)
            assert await call == 2

    run(main())


def test_a_partition_holds_back_until_it_heals() -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            counter = Counter.options(**on(cluster, 2)).remote()
            await counter.add()
            cluster.partition([0, 1])
            call = asyncio.ensure_future(counter.add())
            await asyncio.sleep(2)
            assert not call.done()
            cluster.heal()
            assert await call == 2

    run(main())


def test_a_killed_worker_costs_an_attempt() -> None:
    async def main() -> None:
        async with SimCluster(1, duration=1.0) as cluster:
            task = square.options(max_retries=1).remote(3)
            await asyncio.sleep(0.5)
            assert cluster.kill_worker(0)
            assert await task == 9
            task = square.options(max_retries=0).remote(3)
            await asyncio.sleep(0.5)
            assert cluster.kill_worker(0)
            with pytest.raises(errors.WorkerDiedError, match="SIGSEGV"):
                await task

    run(main())


def test_the_current_node() -> None:
    async def main() -> None:
        async with SimCluster(2) as cluster:
            assert actorfw.context().node_id == cluster.driver.id
            async with cluster.on(1) as node:
                assert actorfw.context().node_id == node.id
                assert (await actorfw.nodes())[0].name == "n1"
            assert actorfw.context().node_id == cluster.driver.id

            async def who() -> str:
                return str(actorfw.context().node_id)

            assert await cluster.run_on(1, who) == cluster.nodes[1].id

    run(main())


def test_nodes_come_and_go() -> None:
    async def main() -> None:
        async with SimCluster(2) as cluster:
            node = await cluster.add_node(name="late", num_cpus=4)
            assert sorted(row.name for row in await actorfw.nodes()) == ["late", "n0", "n1"]
            await cluster.stop(node.index)
            await cluster.settle(1)
            assert len(await actorfw.nodes()) == 2
            with pytest.raises(errors.UsageError, match="has left"):
                cluster.crash(node.index)

    run(main())


def test_it_needs_virtual_time() -> None:
    async def main() -> None:
        with pytest.raises(errors.UsageError, match="virtual time"):
            async with SimCluster(1):
                pass

    asyncio.run(main())


def test_an_error_names_the_seed_and_garbage_is_collected_again() -> None:
    async def main() -> None:
        async with SimCluster(1, seed=77):
            raise ValueError("the test's own")

    with pytest.raises(ValueError, match="own") as info:
        run(main())
    assert "seed 77" in info.value.__notes__[0]
    assert gc.isenabled()


def test_what_a_cluster_was_is_gone_when_the_run_is_over() -> None:
    """A thousand of them, one after another, must not fill the machine: the collector alone seldom looks there."""
    was: list[weakref.ref[object]] = []

    async def main() -> None:
        async with SimCluster(2) as cluster:
            counter = Counter.options(scheduling=actorfw.NodeAffinity(cluster.nodes[1].id)).remote()
            assert await counter.add() == 1
            was.extend(weakref.ref(node.runtime) for node in cluster.nodes)

    gc.disable()
    try:
        run(main())
        assert [ref() for ref in was] == [None, None]
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()
