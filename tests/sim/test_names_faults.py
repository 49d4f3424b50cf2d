"""Names when nodes die, freeze and are cut off: how soon they are there again, and that they are not given twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorfw
from actorfw.core.entries import shard_of
from actorfw.testing import SimCluster, run


@actorfw.remote
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.n = start

    async def add(self, k: int = 1) -> int:
        self.n += k
        return self.n


def name_kept_by(cluster: SimCluster, index: int) -> str:
    kept = cluster.nodes[index].runtime.directory.names.kept_shards
    return next(name for name in map(str, range(10_000)) if shard_of("default", name) in kept)


def at(cluster: SimCluster, index: int) -> dict[str, Any]:
    return {"scheduling": actorfw.NodeAffinity(cluster.nodes[index].id)}


@pytest.mark.parametrize(("nodes", "seed"), [(4, 0), (4, 1), (4, 2), (4, 3), (9, 4), (9, 5)])
def test_a_name_is_free_within_a_second_after_its_actors_end(nodes: int, seed: int) -> None:
    async def main() -> None:
        async with SimCluster(nodes, seed) as cluster:
            name = name_kept_by(cluster, 1)
            handle = Counter.options(name=name, **at(cluster, 3)).remote(1)
            assert await handle.add(1) == 2
            cluster.crash(3)
            await actorfw.watch(handle)
            began = cluster.loop.time()
            assert await Counter.options(name=name).remote(5).add(1) == 6
            assert cluster.loop.time() - began < 1.0

    run(main())


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("detached", [False, True])
def test_so_it_is_after_a_stop_and_a_kill_seen_from_every_node(how: str, detached: bool) -> None:
    async def main() -> None:
        async with SimCluster(9, 6) as cluster:
            for index in range(9):
                name = name_kept_by(cluster, (index + 2) % 9)
                handle = Counter.options(name=name, detached=detached, **at(cluster, (index + 4) % 9)).remote(1)
                assert await handle.add(1) == 2

                async def wait_and_take(name: str = name) -> float:
                    there = await actorfw.get_actor(name)
                    await actorfw.watch(there)
                    began = cluster.loop.time()
                    while True:
                        try:
                            again = Counter.options(name=name).remote(5)
                            assert await again.add(1) == 6
                            return cluster.loop.time() - began
                        except actorfw.ActorExistsError:
                            await asyncio.sleep(0.02)

                taking = asyncio.ensure_future(cluster.run_on(index, wait_and_take))
                await asyncio.sleep(0.5)
                if how == "stop":
                    await actorfw.stop(handle)
                else:
                    actorfw.kill(handle)
                assert await taking < 1.0

    run(main())


def views(cluster: SimCluster) -> list[frozenset[bytes]]:
    """Who is up, as each node sees it."""
    return [frozenset(node.runtime.directory.names._shards._up) for node in cluster.alive]


@pytest.mark.parametrize("seed", range(3))
def test_nine_nodes_of_which_some_die_some_leave_and_some_join(seed: int) -> None:
    async def main() -> None:
        async with SimCluster(9, seed) as cluster:
            changed, slowest = cluster.loop.time(), 0.0
            seen = views(cluster)
            without: float | None = None
            plan: dict[int, Any] = {
                10: lambda: cluster.crash(3),
                20: lambda: (cluster.crash(4), cluster.crash(5)),
                400: lambda: asyncio.ensure_future(cluster.add_node()),
                401: lambda: asyncio.ensure_future(cluster.add_node()),
                600: lambda: asyncio.ensure_future(cluster.drain(6)),
                800: lambda: cluster.crash(7),
            }
            running = []
            for step in range(1200):
                if step in plan:
                    running.append(plan[step]())
                await asyncio.sleep(0.05)
                now = cluster.loop.time()
                if views(cluster) != seen:
                    seen, changed = views(cluster), now
                kept = [shard for node in cluster.alive for shard in node.runtime.directory.names.kept_shards]
                assert len(kept) == len(set(kept)), "two keepers of one shard"
                if len(kept) == 256:
                    if without is not None:
                        slowest = max(slowest, now - max(changed, without))
                    without = None
                elif without is None:
                    without = now
                agreed = len(set(seen)) == 1 and len(seen[0]) == len(cluster.alive)
                assert without is None or not agreed or now - changed < 3.0, (
                    f"{256 - len(kept)} shards without a keeper"
                )
            assert len(set(seen)) == 1
            assert without is None
            assert slowest < 3.0
            for one in running:
                if isinstance(one, asyncio.Future):
                    await one

    run(main())


@pytest.mark.parametrize(("nodes", "seed"), [(5, 0), (5, 1), (5, 2), (5, 3), (9, 4), (9, 5)])
def test_after_a_keepers_death_every_shard_has_a_keeper_within_three_seconds(nodes: int, seed: int) -> None:
    async def main() -> None:
        async with SimCluster(nodes, seed) as cluster:
            name = name_kept_by(cluster, 2)
            handle = Counter.options(name=name).remote(1)
            assert await handle.add(1) == 2
            life = cluster.nodes[2].runtime.life
            cluster.crash(2)
            while any(life in node.runtime.members.facts for node in cluster.alive):
                await asyncio.sleep(0.01)
            await asyncio.sleep(3)
            kept = [shard for node in cluster.alive for shard in node.runtime.directory.names.kept_shards]
            assert sorted(kept) == list(range(256))
            async with cluster.on(4):
                assert await actorfw.get_actor(name) == handle

    run(main())


def test_a_name_stays_taken_while_its_holders_node_stands_still() -> None:
    async def main() -> None:
        async with SimCluster(4, 1) as cluster:
            name = name_kept_by(cluster, 1)

            async def create() -> None:
                assert await Counter.options(name=name, **at(cluster, 3)).remote(1).add(1) == 2

            await cluster.run_on(3, create)
            cluster.freeze(3)
            for _ in range(4):
                await asyncio.sleep(5)
                with pytest.raises(actorfw.ActorExistsError):
                    await Counter.options(name=name).remote().add(1)
            cluster.thaw(3)
            assert await (await actorfw.get_actor(name)).add(1) == 3

    run(main())


@pytest.mark.parametrize("seed", range(3))
def test_after_a_split_has_healed_one_holder_is_left(seed: int) -> None:
    async def main() -> None:
        async with SimCluster(5, seed) as cluster:
            lasting = Counter.options(name="lasting", detached=True, max_restarts=-1, **at(cluster, 1)).remote(1)
            assert await lasting.add(1) == 2
            cluster.partition([3, 4])
            await asyncio.sleep(40)

            async def create(start: int) -> int:
                return await Counter.options(name="both").remote(start).add(1)

            assert await create(10) == 11
            assert await cluster.run_on(3, create, 20) == 21
            cluster.heal()
            await asyncio.sleep(120)
            assert await lasting.add(1) == 3
            for index in range(5):
                async with cluster.on(index):
                    assert await (await actorfw.get_actor("both")).add(0) == 11
                    assert await actorfw.get_actor("lasting") == lasting
            kept = [shard for node in cluster.alive for shard in node.runtime.directory.names.kept_shards]
            assert sorted(kept) == list(range(256))

    run(main())
