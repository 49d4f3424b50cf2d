"""A machine whose memory is about to be full: the newest task that can run again makes room, and runs later."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import pytest

import actorfw
from actorfw import Config
from actorfw.testing import SimCluster, run
from actorfw.testing.faults import SteadyMemory
from actorfw.testing.sim import SimNode

GIB = 1 << 30

started: list[tuple[str, float]] = []
ended: list[str] = []


@actorfw.remote(executor="process", num_cpus=1)
async def job(name: str, seconds: float = 5.0) -> str:
    started.append((name, asyncio.get_running_loop().time()))
    await asyncio.sleep(seconds)
    ended.append(name)
    return name


@actorfw.remote(executor="process")
class Keeper:
    async def pid(self) -> str:
        return "here"


@pytest.fixture(autouse=True)
def _clean() -> None:
    started.clear()
    ended.clear()


def memory_of(node: SimNode) -> SteadyMemory:
    return cast("SteadyMemory", node.runtime.env.memory)


def filling(node: SimNode, share: float) -> SteadyMemory:
    """The machine is so full, and each worker that is there now has 1 GiB of it."""
    memory = memory_of(node)
    memory.used = int(memory.limit * share)
    memory.of_process = {worker.pid: GIB for worker in node.workers.values()}
    return memory


async def begun(count: int) -> None:
    while len(started) < count:
        await asyncio.sleep(0.01)


async def stops(node: SimNode, count: int) -> None:
    while node.runtime.pressure.stopped < count:
        await asyncio.sleep(0.01)


def test_the_newest_that_can_run_again_makes_room_and_runs_later() -> None:
    async def main() -> None:
        async with SimCluster(1, num_cpus=3) as cluster:
            refs: list[actorfw.ObjectRef[str]] = []
            for name, retries in (("old", 3), ("new", 3), ("once", 0)):
                refs.append(job.options(max_retries=retries).remote(name))
                await begun(len(refs))
            node = cluster.nodes[0]
            memory = filling(node, 0.97)
            await stops(node, 1)
            memory.used = 0
            stopped_at = asyncio.get_running_loop().time()
            assert await asyncio.gather(*refs) == ["old", "new", "once"]
            assert [name for name, _ in started] == ["old", "new", "once", "new"]
            assert started[3][1] > stopped_at
            assert node.runtime.pressure.stopped == 1

    run(main())


def test_below_the_threshold_nobody_is_stopped() -> None:
    async def main() -> None:
        async with SimCluster(1, num_cpus=2) as cluster:
            refs = [job.remote("a"), job.remote("b")]
            await begun(2)
            filling(cluster.nodes[0], 0.94)
            assert await asyncio.gather(*refs) == ["a", "b"]
            assert len(started) == 2

    run(main())


def test_the_threshold_can_be_set_and_switched_off() -> None:
    async def main(threshold: float) -> int:
        started.clear()
        async with SimCluster(1, config=Config(memory_threshold=threshold)) as cluster:
            ref = job.remote("a")
            await begun(1)
            memory = filling(cluster.nodes[0], 0.6)
            await asyncio.sleep(2)
            memory.used = 0
            assert await ref == "a"
            return cluster.nodes[0].runtime.pressure.stopped

    assert run(main(0.5)) == 1
    assert run(main(1)) == 0


def test_the_error_says_how_full_whose_and_how_often() -> None:
    async def main() -> None:
        async with SimCluster(1) as cluster:
            ref = job.options(max_retries=1).remote("a", 1e6)
            for attempt in (1, 2):
                await begun(attempt)
                memory = filling(cluster.nodes[0], 0.97)
                await stops(cluster.nodes[0], attempt)
                memory.used = 0
            with pytest.raises(actorfw.WorkerDiedError) as died:
                await ref
            text = str(died.value)
            assert died.value.out_of_memory
            assert died.value.ran is None
            for part in (
                "task job: worker process",
                "7.8 GiB of the 8.0 GiB of memory of this simulated machine were in use",
                "Config.memory_threshold=0.95",
                "it was the newest task, and none that can run again has much, and had 1.0 GiB",
                "Most memory had: simulated (process ",
                "2 of 2 attempts were stopped for want of memory",
            ):
                assert part in text, text

    run(main())


def test_the_pause_is_longer_than_for_other_losses() -> None:
    async def main(seed: int) -> float:
        started.clear()
        async with SimCluster(1, seed=seed, duration=0.001) as cluster:
            ref = job.options(max_retries=5).remote("a", 100.0)
            for attempt in range(1, 6):
                await begun(attempt)
                memory = filling(cluster.nodes[0], 0.97)
                await stops(cluster.nodes[0], attempt)
                memory.used = 0
            assert await ref == "a"
            return started[5][1] - started[4][1]

    assert max(run(main(seed)) for seed in range(4)) > 5.0  # RETRY_CAP of other losses


def test_a_task_of_another_node_is_judged_by_its_attempts() -> None:
    async def main() -> None:
        async with SimCluster(2, num_cpus=2) as cluster:
            there = actorfw.NodeAffinity(cluster.nodes[1].id)
            again = job.options(scheduling=there).remote("again")
            await begun(1)
            last = job.options(scheduling=there, max_retries=0).remote("last")
            await begun(2)
            memory = filling(cluster.nodes[1], 0.97)
            await stops(cluster.nodes[1], 1)
            memory.used = 0
            assert await asyncio.gather(again, last) == ["again", "last"]
            assert [name for name, _ in started] == ["again", "last", "again"]

    run(main())


def test_an_actor_goes_when_tasks_have_too_little_and_says_why() -> None:
    async def main() -> None:
        async with SimCluster(1, num_cpus=2) as cluster:
            node = cluster.nodes[0]
            keeper = Keeper.remote()
            assert await keeper.pid() == "here"
            large = {worker.pid: 3 * GIB for worker in node.workers.values()}
            ref = job.remote("small")
            await begun(1)
            memory = filling(node, 0.99)
            memory.of_process = {pid: large.get(pid, GIB // 10) for pid in memory.of_process}
            await stops(node, 1)
            memory.used = 0
            with pytest.raises(actorfw.ActorDiedError, match=r"7\.9 GiB of the 8\.0 GiB of memory"):
                await keeper.pid()
            assert await ref == "small"
            assert len(started) == 1

    run(main())


def test_if_somebody_else_has_the_memory_it_is_said_and_nobody_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with SimCluster(1) as cluster:
            ref = job.remote("a", 20.0)
            await begun(1)
            memory = filling(cluster.nodes[0], 0.97)
            memory.of_process = {1: 7 * GIB}
            assert await ref == "a"
            assert len(started) == 1

    with caplog.at_level(logging.WARNING, "actorfw.worker"):
        run(main())
    said = [record.getMessage() for record in caplog.records if "no worker process of this node" in record.getMessage()]
    assert len(said) == 1
    assert "simulated (process 1) 7.0 GiB" in said[0]


def test_nodes_of_one_machine_do_not_all_stop_one() -> None:
    async def main() -> None:
        async with SimCluster(4) as cluster:
            refs = [
                job.options(scheduling=actorfw.NodeAffinity(node.id)).remote(node.name, 30.0) for node in cluster.nodes
            ]
            await begun(4)
            memories = [filling(node, 0.97) for node in cluster.nodes]
            while not (stopped := sum(node.runtime.pressure.stopped for node in cluster.nodes)):
                await asyncio.sleep(0.001)
            for memory in memories:
                memory.used = 0
            assert sorted(await asyncio.gather(*refs)) == ["n0", "n1", "n2", "n3"]
            assert stopped == sum(node.runtime.pressure.stopped for node in cluster.nodes) == 1

    run(main())
