"""Detached actors on simulated nodes: they outlive their creator, their keeper, both at once, and with restarts their
host."""

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

    async def where(self) -> str:
        return actorfw.context().node_id


def keeper_of(cluster: SimCluster, name: str, namespace: str = "default") -> int:
    shard = shard_of(namespace, name)
    (found,) = [node.index for node in cluster.alive if shard in node.runtime.directory.names.kept_shards]
    return found


def name_kept_by(cluster: SimCluster, index: int) -> str:
    return next(name for name in map(str, range(10_000)) if keeper_of(cluster, name) == index)


def at(cluster: SimCluster, index: int) -> dict[str, Any]:
    return {"scheduling": actorfw.NodeAffinity(cluster.nodes[index].id, soft=True)}


def test_a_detached_actor_is_made_called_found_and_stopped() -> None:
    async def main() -> None:
        async with SimCluster(3, 1) as cluster:
            made = Counter.options(name="scores", detached=True, **at(cluster, 1)).remote(10)
            assert await made.add(5) == 15
            found = await actorfw.get_actor("scores")
            assert found == made
            async with cluster.on(2):
                there = await actorfw.get_actor("scores")
                assert await there.add(1) == 16
                info = await actorfw.info(there)
                assert (info.name, info.state, info.node) == ("scores", "up", "n1")
            await actorfw.stop(made)
            with pytest.raises(actorfw.ActorDiedError):
                await made.add(1)
            with pytest.raises(actorfw.ActorNotFoundError):
                await actorfw.get_actor("scores")

    run(main())


@pytest.mark.parametrize("seed", range(4))
def test_it_survives_its_creator(seed: int) -> None:
    async def main() -> None:
        async with SimCluster(4, seed) as cluster:
            name = name_kept_by(cluster, 2)

            async def create() -> None:
                assert await Counter.options(name=name, detached=True, **at(cluster, 3)).remote(1).add(1) == 2

            await cluster.run_on(1, create)
            cluster.crash(1)
            handle = await actorfw.get_actor(name)
            assert await handle.add(1) == 3

    run(main())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("together", [False, True])
def test_it_survives_its_keeper_and_creator(seed: int, together: bool) -> None:
    async def main() -> None:
        async with SimCluster(5, seed) as cluster:
            name = name_kept_by(cluster, 2)

            async def create() -> Any:
                handle = Counter.options(name=name, detached=True, **at(cluster, 3)).remote(1)
                assert await handle.add(1) == 2
                return handle

            await cluster.run_on(1, create)
            handle = await actorfw.get_actor(name)
            assert await handle.add(1) == 3
            cluster.crash(2)
            if together:
                cluster.crash(1)
            assert await handle.add(1) == 4
            await asyncio.sleep(5)
            async with cluster.on(4):
                again = await actorfw.get_actor(name)
                assert again == handle
                assert await again.add(1) == 5
                await actorfw.stop(again)
            with pytest.raises(actorfw.ActorNotFoundError):
                await actorfw.get_actor(name)

    run(main())


@pytest.mark.parametrize("seed", range(4))
def test_with_restarts_left_it_survives_its_host(seed: int) -> None:
    async def main() -> None:
        async with SimCluster(5, seed) as cluster:
            name = name_kept_by(cluster, 2)
            handle = Counter.options(
                name=name, detached=True, max_restarts=2, max_task_retries=-1, **at(cluster, 3)
            ).remote(1)
            first = await handle.where()
            assert await handle.add(1) == 2
            cluster.crash(3)
            assert await handle.add(1) == 2  # a new incarnation begins anew
            assert await handle.where() != first
            assert (await actorfw.info(handle)).incarnation == 2
            where = await handle.where()
            host = next(node.index for node in cluster.alive if node.id == where)
            if host not in (0, 2):
                cluster.crash(2)
                cluster.crash(host)
                assert await handle.add(1) == 2

    run(main())


@pytest.mark.parametrize("seed", range(4))
def test_keeper_and_host_die_together(seed: int) -> None:
    async def main() -> None:
        async with SimCluster(5, seed) as cluster:
            name = name_kept_by(cluster, 2)
            handle = Counter.options(
                name=name, detached=True, max_restarts=1, max_task_retries=-1, **at(cluster, 3)
            ).remote(1)
            assert await handle.add(1) == 2
            cluster.crash(3)
            cluster.crash(2)
            assert await handle.add(1) == 2
            assert (await actorfw.info(await actorfw.get_actor(name))).incarnation == 2

    run(main())


@pytest.mark.parametrize("seed", range(4))
def test_without_restarts_it_ends_with_its_host_and_its_name_is_free_within_a_second(seed: int) -> None:
    async def main() -> None:
        async with SimCluster(4, seed) as cluster:
            name = name_kept_by(cluster, 1)
            handle = Counter.options(name=name, detached=True, **at(cluster, 3)).remote(1)
            assert await handle.add(1) == 2
            cluster.crash(3)
            ended = await actorfw.watch(handle)
            assert ended.reason == "node_died"
            began = cluster.loop.time()
            again = Counter.options(name=name, detached=True).remote(7)
            assert await again.add(1) == 8
            assert cluster.loop.time() - began < 1.0

    run(main())


def test_a_name_in_use_raises_or_is_shared() -> None:
    async def main() -> None:
        async with SimCluster(3, 5) as cluster:
            first = Counter.options(name="one", detached=True).remote(1)
            assert await first.add(1) == 2
            with pytest.raises(actorfw.ActorExistsError):
                await Counter.options(name="one", detached=True).remote(1).add(1)
            with pytest.raises(actorfw.ActorExistsError):
                await Counter.options(name="one").remote(1).add(1)
            async with cluster.on(2):
                shared = Counter.options(name="one", detached=True, get_if_exists=True).remote(1)
                assert await shared.add(1) == 3
                assert shared == await actorfw.get_actor("one")
            plain = Counter.options(name="one", get_if_exists=True).remote(1)
            assert await plain.add(1) == 4

    run(main())


@actorfw.remote
class Caller:
    async def add(self, counter: Any) -> int:
        return await counter.add(1)

    async def keep(self, counter: Any) -> None:
        self.counter = counter


def test_a_handle_that_left_before_it_was_known_that_another_actor_has_the_name() -> None:
    async def main() -> None:
        async with SimCluster(4, 6) as cluster:
            name = name_kept_by(cluster, 3)
            assert await Counter.options(name=name, detached=True).remote(1).add(1) == 2
            caller = Caller.options(**at(cluster, 2)).remote()
            shared = Counter.options(name=name, detached=True, get_if_exists=True).remote(1)
            assert await caller.add(shared) == 3

    run(main())


def test_handles_hold_nothing() -> None:
    async def main() -> None:
        async with SimCluster(3, 7) as cluster:
            caller = Caller.options(**at(cluster, 2)).remote()
            handle = Counter.options(name="kept", detached=True, **at(cluster, 1)).remote(1)
            unnamed = Counter.options(detached=True, **at(cluster, 1)).remote(5)
            assert await caller.add(handle) == 2
            assert await caller.add(unnamed) == 6
            await caller.keep(unnamed)
            del handle, unnamed
            await cluster.settle(30)
            again = await actorfw.get_actor("kept")
            assert await again.add(1) == 3

    run(main())


def test_refs_among_the_arguments_are_refused() -> None:
    async def main() -> None:
        async with SimCluster(1, 8):
            ref = actorfw.put(1)
            with pytest.raises(actorfw.UsageError, match="argument 1 is ref"):
                Counter.options(detached=True).remote(ref)
            with pytest.raises(actorfw.UsageError, match="a ref or handle inside"):
                Counter.options(detached=True).remote([ref])
            with pytest.raises(actorfw.UsageError, match="1048576 is the limit"):
                Counter.options(detached=True).remote(bytes(2_000_000))

    run(main())


def test_a_failing_constructor_ends_it_for_all_who_know_its_name() -> None:
    @actorfw.remote
    class Broken:
        def __init__(self) -> None:
            raise ValueError("no")

        async def ping(self) -> None: ...

    async def main() -> None:
        async with SimCluster(3, 9) as cluster:
            handle = Broken.options(name="broken", detached=True, **at(cluster, 1)).remote()
            with pytest.raises(actorfw.ActorDiedError) as caught:
                await handle.ping()
            assert isinstance(caught.value.__cause__, ValueError)
            with pytest.raises(actorfw.ActorNotFoundError):
                await actorfw.get_actor("broken")

    run(main())


@pytest.mark.parametrize("seed", range(6))
def test_a_storm_of_joins_moves_guardians_and_loses_nobody(seed: int) -> None:
    async def main() -> None:
        async with SimCluster(2, seed) as cluster:
            handles = [Counter.options(name=f"c{i}", detached=True).remote(i) for i in range(20)]
            joining = [asyncio.ensure_future(cluster.add_node()) for _ in range(5)]
            assert await actorfw.gather([h.add.remote(1) for h in handles]) == [i + 1 for i in range(20)]
            await asyncio.gather(*joining)
            assert await actorfw.gather([h.add.remote(1) for h in handles]) == [i + 2 for i in range(20)]
            await asyncio.sleep(3)
            for i, handle in enumerate(handles):
                assert await actorfw.get_actor(f"c{i}") == handle
                assert (await actorfw.info(handle)).state == "up"
            await asyncio.gather(*(actorfw.stop(handle) for handle in handles))

    run(main())


@actorfw.remote
def make(name: str) -> Any:
    return Counter.options(name=name, detached=True).remote(40)


def test_a_task_makes_one_that_outlives_its_worker() -> None:
    async def main() -> None:
        async with SimCluster(3, 10) as cluster:
            handle = await make.options(scheduling=actorfw.NodeAffinity(cluster.nodes[1].id)).remote("made")
            assert await handle.add(2) == 42
            cluster.kill_worker(1)
            await cluster.settle(1)
            assert await (await actorfw.get_actor("made")).add(1) == 43

    run(main())


def test_all_actors_are_listed_and_killed_by_name() -> None:
    async def main() -> None:
        async with SimCluster(3, 11) as cluster:
            plain = Counter.options(**at(cluster, 1)).remote()
            named = Counter.options(name="a").remote()
            lasting = Counter.options(name="b", namespace="other", detached=True, **at(cluster, 2)).remote()
            await actorfw.gather([h.add.remote(1) for h in (plain, named, lasting)])
            rows = await cluster.nodes[1].runtime.ask("actors")
            assert [(row.name, row.namespace, row.node, row.detached) for row in rows] == [
                (None, None, "n1", False),
                ("a", "default", "n0", False),
                ("b", "other", "n2", True),
            ]
            assert {(row.class_name, row.state, row.restarts) for row in rows} == {("Counter", "up", 0)}
            with pytest.raises(actorfw.ActorNotFoundError):
                await cluster.nodes[1].runtime.ask("kill_actor", "b", "default")
            await cluster.nodes[1].runtime.ask("kill_actor", "b", None)
            await cluster.nodes[1].runtime.ask("kill_actor", rows[0].id, None)
            await cluster.settle(0.5)
            for dead in (plain, lasting):
                with pytest.raises(actorfw.ActorDiedError):
                    await dead.add(1)

    run(main())


def test_a_leaving_node_hands_guards_and_actors_over() -> None:
    async def main() -> None:
        async with SimCluster(3, 12) as cluster:
            handles = [Counter.options(name=f"c{i}", detached=True).remote(i) for i in range(12)]
            assert await actorfw.gather([h.add.remote(1) for h in handles]) == [i + 1 for i in range(12)]
            await actorfw.drain(cluster.nodes[2].id)
            for i, handle in enumerate(handles):
                assert await actorfw.get_actor(f"c{i}") == handle
                assert (await actorfw.info(handle)).name == f"c{i}"

    run(main())
