"""`memory=`: bytes of a node that are promised to a task or an actor as long as it is there."""

from __future__ import annotations

import asyncio

import pytest

import actorfw
from actorfw.api.nodeoptions import complete
from actorfw.core.ledger import Shape
from actorfw.io.env import usual_store_memory
from actorfw.io.memory import MemoryMeter
from actorfw.io.sharedmem import available
from actorfw.testing import SimCluster, run

GIB = 1 << 30

at_once = 0
most = 0


@actorfw.remote(executor="process", num_cpus=0)
async def job(seconds: float = 1.0) -> str:
    global at_once, most
    at_once += 1
    most = max(most, at_once)
    await asyncio.sleep(seconds)
    at_once -= 1
    return str(actorfw.context().node_id)


@actorfw.remote(executor="process", num_cpus=0, memory=2 * GIB)
async def parent(child_memory: int) -> str:
    return await job.options(memory=child_memory).remote()


@actorfw.remote(memory=3 * GIB)
class Keeper:
    async def where(self) -> str:
        return str(actorfw.context().node_id)


@pytest.fixture(autouse=True)
def _clean() -> None:
    global at_once, most
    at_once = most = 0


def cluster(nodes: int = 1, memory: float = 4 * GIB) -> SimCluster:
    return SimCluster(nodes, totals=Shape.of(num_cpus=8, memory=memory))


@pytest.mark.parametrize(("memory", "expected"), [(GIB, 4), (2 * GIB, 2), (3 * GIB, 1), (0, 6)])
def test_no_more_at_a_time_than_fit(memory: int, expected: int) -> None:
    async def main() -> None:
        async with cluster():
            await asyncio.gather(*(job.options(memory=memory).remote() for _ in range(6)))
            assert most == expected

    run(main())


def test_an_actor_keeps_its_share_as_long_as_it_lives() -> None:
    async def main() -> None:
        async with cluster():
            keeper = Keeper.remote()
            await keeper.where()
            ref = job.options(memory=2 * GIB).remote()
            await asyncio.sleep(5)
            assert not ref.done()
            await actorfw.stop(keeper)
            await ref

    run(main())


def test_the_node_that_has_it_is_taken() -> None:
    async def main() -> None:
        async with cluster(3) as sim:
            keepers = [Keeper.remote() for _ in range(3)]
            assert {await keeper.where() for keeper in keepers} == {node.id for node in sim.nodes}

    run(main())


def test_what_a_lost_worker_was_promised_is_free_again() -> None:
    async def main() -> None:
        async with cluster() as sim:
            ref = job.options(memory=4 * GIB, max_retries=1).remote(2.0)
            while not at_once:
                await asyncio.sleep(0.01)
            assert sim.kill_worker(0)
            await ref
            await job.options(memory=4 * GIB).remote()

    run(main())


def test_more_than_any_node_has_is_never_placed() -> None:
    async def main() -> None:
        async with cluster(2):
            with pytest.raises(actorfw.UnschedulableError, match="memory"):
                await job.options(memory=5 * GIB, schedule_timeout=1.0).remote()

    run(main())


def test_who_waits_for_a_child_keeps_its_memory() -> None:
    async def main() -> None:
        async with cluster():
            assert await parent.remote(2 * GIB)
            with pytest.raises((actorfw.TaskError, actorfw.DeadlineExceededError), match="within its timeout"):
                await parent.options(memory=3 * GIB, timeout=10.0).remote(2 * GIB)
            assert at_once == 0

    run(main())


def test_by_default_what_there_is_less_what_values_have() -> None:
    def memory(store: int | None) -> float:
        given = dict.fromkeys(("seeds", "advertise", "name", "labels", "num_cpus", "resources", "secret", "tls"))
        options = complete(
            **given,  # type: ignore[arg-type]
            listen="127.0.0.1:0",
            num_gpus=0,
            memory=None,
            object_store_memory=store,
            dashboard=None,
            namespace="default",
            cluster="default",
            hosts="all",
            log_to_driver=False,
            config=None,
        )
        return options.totals.as_dict()["memory"]

    there = MemoryMeter().limit()
    if available():
        assert memory(None) == there - usual_store_memory()
        assert memory(GIB) == there - GIB
    else:
        assert memory(None) == there
