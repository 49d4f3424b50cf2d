"""Placement groups on whole nodes: where work runs, what is lost with a node, and that all comes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run


@actorfw.remote(num_cpus=1)
async def where() -> str:
    await asyncio.sleep(0.05)
    node_id = actorfw.context().node_id
    assert node_id is not None
    return node_id


@actorfw.remote(num_cpus=1)
def where_in_a_worker() -> str:
    node_id = actorfw.context().node_id
    assert node_id is not None
    return node_id


@actorfw.remote(num_cpus=1)
class Place:
    async def where(self) -> str:
        node_id = actorfw.context().node_id
        assert node_id is not None
        return node_id


def simulated(
    nodes: int, seed: int = 1, **options: Any
) -> Callable[[Callable[[SimCluster], Coroutine[Any, Any, None]]], None]:
    def run_it(main: Callable[[SimCluster], Coroutine[Any, Any, None]]) -> None:
        async def inside() -> None:
            async with SimCluster(nodes, seed, **options) as cluster:
                await main(cluster)

        run(inside)

    return run_it


async def free(cluster: SimCluster) -> float:
    return (await actorfw.available_resources())["CPU"]


def test_each_bundle_of_a_strict_spread_lies_on_a_node_of_its_own() -> None:
    @simulated(3, num_cpus=2)
    async def main(cluster: SimCluster) -> None:
        group = await actorfw.placement_group([{"CPU": 1}] * 3, "strict_spread")
        assert await free(cluster) == 3
        seen = [await where.options(scheduling=group.bundle(index)).remote() for index in range(3)]
        assert sorted(seen) == sorted(node.id for node in cluster.nodes)
        in_workers = [await where_in_a_worker.options(scheduling=group.bundle(index)).remote() for index in range(3)]
        assert in_workers == seen
        await actorfw.remove_placement_group(group)
        await cluster.settle()
        assert await free(cluster) == 6


def test_a_strict_pack_lies_on_one_node() -> None:
    @simulated(3, num_cpus=2)
    async def main(cluster: SimCluster) -> None:
        group = await actorfw.placement_group([{"CPU": 1}, {"CPU": 1}], "strict_pack")
        seen = {await where.options(scheduling=group.bundle(index)).remote() for index in range(2)}
        assert len(seen) == 1
        with pytest.raises(actorfw.UnschedulableError, match="found no place"):
            await actorfw.placement_group([{"CPU": 2}, {"CPU": 1}], "strict_pack", timeout=5)


def test_work_waits_for_its_bundle_and_for_nothing_else() -> None:
    @simulated(2, num_cpus=2)
    async def main(cluster: SimCluster) -> None:
        group = await actorfw.placement_group([{"CPU": 1}], "pack")
        started = asyncio.get_running_loop().time()
        many = [where.options(scheduling=group).remote() for _ in range(20)]
        assert len(set(await asyncio.gather(*many))) == 1
        # One after another in the only CPU of the group, though three others were idle.
        assert asyncio.get_running_loop().time() - started >= 20 * 0.05


def test_a_group_can_be_sent_and_used_elsewhere() -> None:
    @simulated(3, num_cpus=1)
    async def main(cluster: SimCluster) -> None:
        group = await actorfw.placement_group([{"CPU": 1}] * 2, "strict_spread")

        async def elsewhere() -> set[str]:
            return set(await asyncio.gather(*[where.options(scheduling=group).remote() for _ in range(8)]))

        assert len(await cluster.run_on(2, elsewhere)) == 2


def test_actors_live_in_a_bundle_and_hold_it() -> None:
    @simulated(2, num_cpus=2)
    async def main(cluster: SimCluster) -> None:
        group = await actorfw.placement_group([{"CPU": 1}, {"CPU": 1}], "strict_spread")
        one: Any = Place.options(scheduling=group.bundle(0)).remote()
        other: Any = Place.options(scheduling=group.bundle(1)).remote()
        assert await one.where() != await other.where()
        third: Any = Place.options(scheduling=group).remote()
        waiting = third.where.remote()
        await cluster.settle()
        assert not waiting.done()
        at = await one.where()
        await actorfw.stop(one)
        assert await waiting == at


def test_bundles_of_a_dead_node_are_placed_anew() -> None:
    @simulated(4, num_cpus=1)
    async def main(cluster: SimCluster) -> None:
        group = await actorfw.placement_group([{"CPU": 1}] * 2, "strict_spread")
        seen = [await where.options(scheduling=group.bundle(index)).remote() for index in range(2)]
        victim = next(node for node in cluster.nodes[1:] if node.id in seen)
        lost = seen.index(victim.id)
        cluster.crash(victim.index)
        again = await where.options(scheduling=group.bundle(lost)).remote()
        assert again not in seen
        assert await where.options(scheduling=group.bundle(1 - lost)).remote() == seen[1 - lost]


def test_a_group_ends_with_its_owner() -> None:
    @simulated(3, num_cpus=1)
    async def main(cluster: SimCluster) -> None:
        async def make() -> actorfw.PlacementGroup:
            return await actorfw.placement_group([{"CPU": 1}] * 3, "strict_spread")

        group = await cluster.run_on(2, make)
        assert await where.options(scheduling=group).remote()
        assert await free(cluster) == 0
        cluster.crash(2)
        await cluster.settle(5)
        with pytest.raises(actorfw.UnschedulableError, match="gone"):
            await where.options(scheduling=group).remote()
        await cluster.settle(15)
        assert await free(cluster) == 2


def test_what_waits_for_a_group_that_is_removed_fails() -> None:
    @simulated(2, num_cpus=1)
    async def main(cluster: SimCluster) -> None:
        group = await actorfw.placement_group([{"CPU": 1}], "pack")
        running, *waiting = [where.options(scheduling=group).remote() for _ in range(3)]
        await actorfw.remove_placement_group(group)
        assert await running
        for ref in waiting:
            with pytest.raises(actorfw.UnschedulableError, match="removed"):
                await ref
        actor: Any = Place.options(scheduling=group).remote()
        with pytest.raises(actorfw.ActorFwError, match="removed"):
            await actor.where()


def test_a_group_that_fits_nowhere_says_so_and_comes_when_a_node_does(caplog: pytest.LogCaptureFixture) -> None:
    @simulated(2, num_cpus=1)
    async def main(cluster: SimCluster) -> None:
        with caplog.at_level(logging.WARNING, "actorfw.tasks"):
            making = actorfw.placement_group([{"CPU": 1}, {"CPU": 3}], "spread")
            await cluster.settle(2)
        assert not making.done()
        assert "no members could host it" in caplog.text
        await cluster.add_node(num_cpus=3)
        group = await making
        assert await where.options(scheduling=group.bundle(1), num_cpus=3).remote() == cluster.nodes[2].id


def test_what_no_bundle_can_run_says_so(caplog: pytest.LogCaptureFixture) -> None:
    @simulated(2, num_cpus=2)
    async def main(cluster: SimCluster) -> None:
        group = await actorfw.placement_group([{"CPU": 1}], "pack")
        with pytest.raises(actorfw.UnschedulableError, match="no bundle of its placement group"):
            await where.options(scheduling=group, num_cpus=2, schedule_timeout=1).remote()


@pytest.mark.parametrize("seed", range(10))
def test_groups_in_each_others_way_come_one_after_the_other(seed: int) -> None:
    @simulated(3, seed, num_cpus=1)
    async def main(cluster: SimCluster) -> None:
        async def use() -> int:
            group = await actorfw.placement_group([{"CPU": 1}] * 3, "strict_spread")
            got = await asyncio.gather(*[where.options(scheduling=group.bundle(n)).remote() for n in range(3)])
            await actorfw.remove_placement_group(group)
            return len(set(got))

        three = await asyncio.gather(*[cluster.run_on(index, use) for index in range(3) for _ in range(2)])
        assert three == [3] * 6
        await cluster.settle()
        assert await free(cluster) == 3


@pytest.mark.parametrize(
    "bad", [([],), ({"CPU": 1},), ([{"CPU": 1}], "tight"), ([{"CPU": 0}],), ([{"GPU": 0.5}],), ("CPU",)]
)
def test_what_is_no_group_is_refused_at_once(bad: Any) -> None:
    @simulated(1)
    async def main(cluster: SimCluster) -> None:
        with pytest.raises(actorfw.UsageError):
            actorfw.placement_group(*bad)
