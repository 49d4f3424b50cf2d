"""Placement groups while the cluster changes: nothing is held by a group that is not there, and no work is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run


@actorfw.remote(num_cpus=1, max_retries=3)
async def where(seconds: float = 0.05) -> str:
    await asyncio.sleep(seconds)
    return str(actorfw.context().node_id)


@actorfw.remote(num_cpus=1)
class Place:
    async def where(self, seconds: float = 0.0) -> str:
        await asyncio.sleep(seconds)
        return str(actorfw.context().node_id)


def simulated(
    nodes: int, seed: int = 1, **options: Any
) -> Callable[[Callable[[SimCluster], Coroutine[Any, Any, None]]], None]:
    def run_it(main: Callable[[SimCluster], Coroutine[Any, Any, None]]) -> None:
        async def inside() -> None:
            async with SimCluster(nodes, seed, **options) as cluster:
                await asyncio.wait_for(main(cluster), 300)

        run(inside)

    return run_it


def held(cluster: SimCluster) -> dict[str, float]:
    """The CPUs in use of each node that is up."""
    found: dict[str, float] = {}
    for node in cluster.alive:
        ledger = node.runtime.ledger
        assert all(free >= 0 for free in ledger._free.values())
        used = sum(units - ledger._free[name] for name, units in ledger._totals.amounts)
        if used or ledger._bundles:
            found[node.name] = used / 10_000
    return found


async def until(done: Callable[[], bool], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not done():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("at", [0.0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.012, 0.015, 0.02, 0.03])
def test_a_partition_while_bundles_are_prepared(at: float) -> None:
    """The owner loses a host at any moment of the making: the group comes on others, and nothing stays behind."""

    @simulated(5, num_cpus=1)
    async def main(cluster: SimCluster) -> None:
        making = asyncio.ensure_future(actorfw.placement_group([{"CPU": 1}] * 3, "strict_spread"))
        await asyncio.sleep(at)
        cluster.partition([4])
        group = await asyncio.wait_for(making, 20)
        seen = [await where.options(scheduling=group.bundle(index)).remote() for index in range(3)]
        assert len(set(seen)) == 3
        assert cluster.nodes[4].id not in seen
        cluster.heal()
        await cluster.settle(30)  # the one that was cut off is back, as another life, and holds nothing
        assert sum(held(cluster).values()) == 3
        await actorfw.remove_placement_group(group)
        await cluster.settle(5)
        assert not held(cluster)


@pytest.mark.parametrize("at", [0.0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.012])
def test_the_owner_dies_while_bundles_are_prepared(at: float) -> None:
    @simulated(4, num_cpus=1)
    async def main(cluster: SimCluster) -> None:
        async def make() -> Any:
            return await actorfw.placement_group([{"CPU": 1}] * 4, "strict_spread")

        making = asyncio.ensure_future(cluster.run_on(3, make))
        await asyncio.sleep(at)
        cluster.crash(3)
        with pytest.raises(actorfw.NodeDiedError):
            await making
        await cluster.settle(20)
        assert not held(cluster)
        for node in cluster.alive:
            assert await where.options(scheduling=actorfw.NodeAffinity(node.id)).remote() == node.id


def test_a_group_ends_with_the_rebirth_of_its_owner_and_nothing_stays_behind() -> None:
    @simulated(4, num_cpus=2)
    async def main(cluster: SimCluster) -> None:
        async def make() -> Any:
            return await actorfw.placement_group([{"CPU": 1}] * 4, "strict_spread")

        group = await cluster.run_on(3, make)
        actor: Any = Place.options(scheduling=group.bundle(1)).remote()
        await actor.where()
        cluster.partition([3])
        await asyncio.sleep(20)
        cluster.heal()
        await cluster.settle(30)
        assert {row.state for row in cluster.nodes[0].runtime.members.listing()} == {"up"}
        with pytest.raises(actorfw.UnschedulableError):
            await where.options(scheduling=group).remote()
        assert set(held(cluster).values()) <= {1.0}  # the actor's: what runs in a group that is gone runs to its end
        del actor
        await cluster.settle(5)
        assert not held(cluster)

        async def again() -> Any:
            fresh = await actorfw.placement_group([{"CPU": 2}] * 4, "strict_spread")
            return [await where.options(scheduling=fresh.bundle(index)).remote() for index in range(4)]

        assert len(set(await cluster.run_on(3, again))) == 4


def test_bundles_of_a_node_that_drains_are_placed_anew_and_its_work_with_them() -> None:
    @simulated(4, num_cpus=1)
    async def main(cluster: SimCluster) -> None:
        group = await actorfw.placement_group([{"CPU": 1}] * 2, "strict_spread")
        seen = [await where.options(scheduling=group.bundle(index)).remote() for index in range(2)]
        index, node = next((i, node) for i, name in enumerate(seen) for node in cluster.nodes[1:] if node.id == name)
        running = where.options(scheduling=group.bundle(index), max_retries=0).remote(2.0)
        waiting = [where.options(scheduling=group.bundle(index), max_retries=0).remote() for _ in range(3)]
        await asyncio.sleep(0.1)
        report = await cluster.drain(node.index, 30.0)
        assert (report.tasks, report.calls, report.actors, report.objects) == (0, 0, 0, 0)
        assert await running == node.id
        there = set(await asyncio.wait_for(asyncio.gather(*waiting), 20))
        assert len(there) == 1
        assert node.id not in there
        await actorfw.remove_placement_group(group)
        await cluster.settle(5)
        assert not held(cluster)


def test_a_group_ends_with_a_drained_owner() -> None:
    @simulated(3, num_cpus=1)
    async def main(cluster: SimCluster) -> None:
        async def make() -> Any:
            return await actorfw.placement_group([{"CPU": 1}] * 3, "strict_spread")

        group = await cluster.run_on(2, make)
        assert await where.options(scheduling=group).remote()
        await cluster.drain(2, 20.0)
        with pytest.raises(actorfw.UnschedulableError):
            await asyncio.wait_for(where.options(scheduling=group).remote().coro(), 20)
        await cluster.settle(20)
        assert not held(cluster)


@pytest.mark.parametrize("how", ["crash", "drain"])
def test_an_actor_with_restarts_follows_its_bundle(how: str) -> None:
    @simulated(4, num_cpus=1)
    async def main(cluster: SimCluster) -> None:
        group = await actorfw.placement_group([{"CPU": 1}] * 2, "strict_spread")
        actors: list[Any] = [
            Place.options(scheduling=group.bundle(index), max_restarts=2).remote() for index in range(2)
        ]
        seen = [await actor.where() for actor in actors]
        index, node = next((i, node) for i, name in enumerate(seen) for node in cluster.nodes[1:] if node.id == name)
        if how == "crash":
            cluster.crash(node.index)
            await asyncio.sleep(3)  # what is sent before that is known may have run
        else:
            report = await cluster.drain(node.index, 30.0)
            assert (report.tasks, report.calls, report.actors, report.objects) == (0, 0, 0, 0)
        moved = await asyncio.wait_for(actors[index].where(), 30)
        assert moved not in seen
        spares = [other.id for other in cluster.alive if other.id not in (*seen, moved)]
        for spare in spares:  # they hold nothing
            assert await where.options(scheduling=actorfw.NodeAffinity(spare)).remote() == spare
        assert sum(held(cluster).values()) == 2
        actors.clear()
        await actorfw.remove_placement_group(group)
        await cluster.settle(10)
        assert not held(cluster)


def test_a_bundle_without_a_place_lets_its_actor_wait_until_there_is_one() -> None:
    @simulated(2, num_cpus=1)
    async def main(cluster: SimCluster) -> None:
        group = await actorfw.placement_group([{"CPU": 1}] * 2, "strict_spread")
        seen = [await where.options(scheduling=group.bundle(index)).remote() for index in range(2)]
        index = seen.index(cluster.nodes[1].id)
        actor: Any = Place.options(scheduling=group.bundle(index), max_restarts=1).remote()
        await actor.where()
        cluster.crash(1)
        await asyncio.sleep(3)
        calling = actor.where.remote()
        task = where.options(scheduling=group.bundle(index)).remote()
        await asyncio.sleep(20)
        assert not calling.done()
        assert not task.done()
        added = await cluster.add_node()
        assert await asyncio.wait_for(calling.coro(), 20) == added.id
        await actorfw.stop(actor)
        assert await asyncio.wait_for(task.coro(), 20) == added.id
