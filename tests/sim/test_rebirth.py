"""Nodes that were held for dead while they lived: cut off, frozen, or buried by one member alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

import actorfw
from actorfw.runtime.node import Node
from actorfw.testing import SimCluster, run
from actorfw.values.events import Reborn

BACK = 60.0  # virtual seconds in which everything is settled after a fault


@actorfw.remote
def double(x: int) -> int:
    return 2 * x


@actorfw.remote(max_retries=0)
async def wait_for(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


@actorfw.remote(num_cpus=0, executor="loop")
class Counter(actorfw.Actor):
    def __init__(self, start: int = 0) -> None:
        self.count = start

    async def add(self, n: int = 1) -> int:
        self.count += n
        return self.count

    async def slow(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return self.count


@actorfw.remote(num_cpus=0)
class Process(actorfw.Actor):
    """The same in a worker process of its own."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    async def keep(self, things: list[Any]) -> int:
        self.kept += things
        return len(self.kept)

    async def read(self, index: int) -> Any:
        return await self.kept[index]

    async def nested(self, x: int) -> int:
        result: int = await double.remote(x)
        return result


def here(cluster: SimCluster, index: int) -> actorfw.NodeAffinity:
    return actorfw.NodeAffinity(cluster.nodes[index].id)


def node(cluster: SimCluster, index: int) -> Node:
    return cluster.nodes[index].runtime


async def until(done: Callable[[], bool], seconds: float = BACK) -> None:
    limit = asyncio.get_running_loop().time() + seconds
    while not done():
        assert asyncio.get_running_loop().time() < limit, "it never came"
        await asyncio.sleep(0.05)


def one_cluster(cluster: SimCluster) -> bool:
    """Whether all views are the same, and nobody has buried anybody who lives."""
    nodes = [one.runtime for one in cluster.alive]
    lives = {one.life for one in nodes}
    return all(
        set(one.members.facts) == lives
        and all(fact.state == "up" for fact in one.members.facts.values())
        and not any(life in one.peers.tombstones for life in lives)
        for one in nodes
    )


def apart(cluster: SimCluster, some: set[int]) -> bool:
    """Whether each side has buried the other. A node alone buries nobody, as there is nobody to confirm it."""
    for one in cluster.alive:
        side = some if one.index in some else {other.index for other in cluster.alive} - some
        if len(side) > 1 and set(one.runtime.members.facts) != {node(cluster, i).life for i in side}:
            return False
    return True


async def split(cluster: SimCluster, *some: int) -> None:
    cluster.partition(some)
    await until(lambda: apart(cluster, set(some)), 120.0)


@pytest.mark.parametrize("seed", range(3))
def test_of_a_split_the_smaller_side_comes_back_under_new_lives(seed: int) -> None:
    async def main() -> None:
        async with SimCluster(nodes=5, seed=seed) as cluster:
            before = [(one.id, one.name, one.runtime.life) for one in cluster.nodes]
            await split(cluster, 3, 4)
            cluster.heal()
            await until(lambda: one_cluster(cluster))
            after = [(one.id, one.name, one.runtime.life) for one in cluster.nodes]
            assert [x[:2] for x in after] == [x[:2] for x in before]
            assert [x[2] == y[2] for x, y in zip(after, before, strict=True)] == [True, True, True, False, False]
            assert [one.runtime.rebirth.lived for one in cluster.nodes] == [0, 0, 0, 1, 1]
            # And it is a cluster that works, in every direction.
            for a in range(5):
                for b in range(5):
                    async with cluster.on(a):
                        assert await double.options(scheduling=here(cluster, b)).remote(a) == 2 * a

    run(main)


def test_what_never_left_goes_on_untouched() -> None:
    async def main() -> None:
        async with SimCluster(nodes=3, seed=1, num_cpus=4) as cluster:
            async with cluster.on(2):
                mine = here(cluster, 2)
                counter = Counter.options(scheduling=mine).remote(5)
                process = Process.options(scheduling=mine).remote()
                value = actorfw.put([1, 2, 3])
                inside = actorfw.put([value, counter])
                assert await counter.add() == 6
                assert await process.keep([value, value]) == 2
                task = wait_for.options(scheduling=mine, executor="loop").remote(200.0)
                call = counter.slow(200.0)
                done = double.options(scheduling=mine).remote(4)
                assert await done == 8
                refs = {value: "value", task: "task", done: "done"}
            life = node(cluster, 2).life
            await split(cluster, 2)
            cluster.heal()
            await until(lambda: one_cluster(cluster))
            assert node(cluster, 2).life != life
            async with cluster.on(2):
                assert await value == [1, 2, 3]
                again, handle = cast("tuple[Any, Any]", tuple(await inside))
                assert again is value
                assert again == value
                assert await handle.add() == 7
                assert await counter.add() == 8
                # A set or dict that they were put into still finds them.
                assert [refs[value], refs[task], refs[done]] == ["value", "task", "done"]
                assert await process.keep([value]) == 3
                assert [await process.read(i) for i in range(3)] == [[1, 2, 3]] * 3
                assert await process.nested(5) == 10
                assert await call == 6
                assert await task == "done"
                assert value.id.startswith(node(cluster, 2).life.hex())
            # What goes on can be shared with others under its new name.
            async with cluster.on(2):
                reader = double.options(scheduling=here(cluster, 0)).remote(done)
                assert await reader == 16
                other = Counter.options(scheduling=here(cluster, 0)).remote()
                assert await other.add(await done) == 8
            del value, again, inside, handle, counter, process, task, call, done, refs, reader, other
            await cluster.settle(30.0)
            assert len(node(cluster, 2).objects.ownership) == 0, node(cluster, 2).objects.ownership._records

    run(main)


def test_what_was_shared_ends_fenced() -> None:
    async def main() -> None:
        async with SimCluster(nodes=3, seed=2, num_cpus=4) as cluster:
            async with cluster.on(2):
                shared = Counter.options(scheduling=here(cluster, 2)).remote()
                named = Counter.options(name="n", scheduling=here(cluster, 2)).remote()
                holder = Counter.options(scheduling=here(cluster, 0)).remote()
                assert await named.add() == 1
                assert await wait_for.options(scheduling=here(cluster, 0)).remote(0.1) == "done"
                assert await takes.options(scheduling=here(cluster, 0)).remote([shared]) == 1
                assert await holder.add() == 1
                far = wait_for.options(scheduling=here(cluster, 0)).remote(300.0)
                again = wait_for.options(scheduling=actorfw.NodeAffinity(cluster.nodes[0].id, soft=True), max_retries=3)
                retried = again.remote(60.0)
                borrowed = await makes.options(scheduling=here(cluster, 1)).remote()
                late = asyncio.ensure_future(_outcome(borrowed[0]))
                watching = asyncio.ensure_future(actorfw.watch(shared))
                await asyncio.sleep(0.1)
            async with cluster.on(0):
                seen = Counter.options(scheduling=here(cluster, 2)).remote()
                assert await seen.add() == 1
            await split(cluster, 2)
            cluster.heal()
            await until(lambda: one_cluster(cluster))
            async with cluster.on(2):
                for handle in (shared, named):
                    with pytest.raises(actorfw.ActorDiedError, match="cut off") as ended:
                        await handle.add()
                    assert ended.value.reason == "fenced"
                with pytest.raises(actorfw.ActorDiedError):
                    await holder.add()
                with pytest.raises(actorfw.ActorFwError):
                    await far
                assert await retried == "done"
                assert isinstance(await late, actorfw.ActorFwError)
                with pytest.raises(actorfw.ActorFwError):
                    await borrowed[0]
                assert (await watching).reason in ("fenced", "node_died")
                # The name is free, in the whole cluster.
                new = Counter.options(name="n").remote(100)
                assert await new.add() == 101
            async with cluster.on(0):
                assert await (await actorfw.get_actor("n")).add() == 102
                with pytest.raises(actorfw.ActorDiedError):
                    await seen.add()

    run(main)


@actorfw.remote
def takes(handles: list[Any]) -> int:
    return len(handles)


@actorfw.remote
def makes() -> list[Any]:
    return [wait_for.options(executor="loop").remote(1000.0)]


async def _outcome(ref: Awaitable[Any]) -> Any:
    try:
        return await ref
    except actorfw.ActorFwError as error:
        return error


def test_buried_by_one_member_alone_the_buried_one_is_reborn() -> None:
    async def main() -> None:
        async with SimCluster(nodes=3, seed=3) as cluster:
            lives = [one.runtime.life for one in cluster.nodes]
            node(cluster, 1).peers.bury(lives[2], "for the test")
            await until(lambda: node(cluster, 2).life != lives[2] and one_cluster(cluster))
            assert [one.runtime.life for one in cluster.nodes][:2] == lives[:2]

    run(main)


@pytest.mark.parametrize("seed", range(3))
def test_who_thaws_too_late_comes_back_as_a_new_life(seed: int) -> None:
    async def main() -> None:
        config = actorfw.Config(stall_limit=5.0)
        async with SimCluster(nodes=4, seed=seed, config=config) as cluster:
            events: list[Reborn] = []
            life = node(cluster, 3).life

            async def listen() -> None:
                async for event in actorfw.events():
                    if isinstance(event, Reborn):
                        events.append(event)

            listening = asyncio.ensure_future(cluster.run_on(3, listen))
            await asyncio.sleep(1.0)
            cluster.freeze(3)
            await until(lambda: all(life not in node(cluster, i).members.facts for i in range(3)))
            await asyncio.sleep(1.0)
            cluster.thaw(3)
            await until(lambda: one_cluster(cluster))
            assert node(cluster, 3).life != life
            assert [one.runtime.rebirth.lived for one in cluster.nodes] == [0, 0, 0, 1]
            await until(lambda: bool(events))
            assert [event.node_id for event in events] == [cluster.nodes[3].id]
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    run(main)


def test_two_actors_of_one_name_on_two_sides() -> None:
    """The smaller side's is gone, the other stays, whichever was first."""

    async def main() -> None:
        async with SimCluster(nodes=5, seed=4) as cluster:
            await split(cluster, 0, 1)
            handles: dict[int, Any] = {}
            for index, start in ((0, 100), (4, 200)):
                async with cluster.on(index):
                    handles[index] = Counter.options(name="both", get_if_exists=True).remote(start)
                    assert await handles[index].add() == start + 1
            cluster.heal()
            await until(lambda: one_cluster(cluster))
            for index in range(5):
                async with cluster.on(index):
                    found = await actorfw.get_actor("both")
                    assert await found.add() > 200
            async with cluster.on(0):
                with pytest.raises(actorfw.ActorDiedError) as ended:
                    await handles[0].add()
                assert ended.value.reason == "fenced"
            async with cluster.on(4):
                assert await handles[4].add() > 200

    run(main)


def test_detached_actors_are_one_each_afterwards() -> None:
    async def main() -> None:
        async with SimCluster(nodes=5, seed=8) as cluster:
            handles: dict[str, Any] = {}
            async with cluster.on(4):
                for name, index in (("there", 0), ("here", 4)):
                    made = Counter.options(name=name, detached=True, scheduling=soft(cluster, index), max_restarts=9)
                    handles[name] = made.remote()
                    assert await handles[name].add() == 1
            await split(cluster, 3, 4)
            cluster.heal()
            await until(lambda: one_cluster(cluster))
            await asyncio.sleep(10.0)
            for index in range(5):
                async with cluster.on(index):
                    # The one on the larger side has gone on, the other has begun anew.
                    assert await (await actorfw.get_actor("there")).add() == 2 + index
                    assert await (await actorfw.get_actor("here")).add() == 1 + index
            async with cluster.on(4):
                # A handle of what nobody owns is good in every life.
                assert await handles["there"].add() == 7
                assert await handles["here"].add() == 6
            alive = [cell.id for one in cluster.nodes for cell in one.runtime.hosting.cells.values()]
            assert len(alive) == len(set(alive)) == 2

    run(main)


def soft(cluster: SimCluster, index: int) -> actorfw.NodeAffinity:
    return actorfw.NodeAffinity(cluster.nodes[index].id, soft=True)


def test_reborn_again_and_again() -> None:
    async def main() -> None:
        async with SimCluster(nodes=3, seed=5) as cluster:
            async with cluster.on(2):
                counter = Counter.options(scheduling=here(cluster, 2)).remote()
                process = Process.options(scheduling=here(cluster, 2)).remote()
                value = actorfw.put([7])
                assert await process.keep([value]) == 1
            for turn in (1, 2, 3):
                await split(cluster, 2)
                cluster.heal()
                await until(lambda: one_cluster(cluster))
                assert node(cluster, 2).rebirth.lived == turn
                async with cluster.on(2):
                    assert await counter.add() == turn
                    assert await process.nested(turn) == 2 * turn
                    assert await value == [7]
                    assert await process.read(0) == [7]

    run(main)


@pytest.mark.parametrize("seed", range(3))
def test_clusters_of_one_name_that_meet_become_one(seed: int) -> None:
    """Two founders: each has all shards, nobody is dead, nobody is reborn; one of them knows of the other."""

    async def main() -> None:
        async with SimCluster(nodes=2, seed=seed) as cluster:
            handles: list[Any] = []
            async with cluster.on(0):
                handles.append(Counter.options(name="same").remote(100))
                assert await handles[0].add() == 101
            cluster.network.partition(["n0", "n1"], ["n2"])
            own = "127.0.0.1:30002"
            seeds = [own, cluster.nodes[0].address]
            await cluster.add_node(listen=("127.0.0.1", 30002), seeds=seeds)
            async with cluster.on(2):
                handles.append(Counter.options(name="same").remote(200))
                mine = Counter.options(name="mine").remote(300)
                assert await handles[1].add() == 201
                assert await mine.add() == 301
            lives = [one.runtime.life for one in cluster.nodes]
            await asyncio.sleep(100.0)
            assert len(node(cluster, 2).members.facts) == 1
            cluster.heal()
            await until(lambda: one_cluster(cluster))
            await asyncio.sleep(10.0)
            assert [one.runtime.life for one in cluster.nodes] == lives
            held = [shard for one in cluster.nodes for shard in one.runtime.directory.names.kept_shards]
            assert sorted(held) == list(range(256))
            for index in range(3):
                async with cluster.on(index):
                    # The older one has the name.
                    assert 101 < await (await actorfw.get_actor("same")).add() < 200
                    assert await (await actorfw.get_actor("mine")).add() > 301
            async with cluster.on(2):
                with pytest.raises(actorfw.ActorDiedError) as ended:
                    await handles[1].add()
                assert ended.value.reason == "name_conflict"

    run(main)


def test_a_node_that_finds_nobody_goes_on_alone_and_looks_further() -> None:
    async def main() -> None:
        config = actorfw.Config(join_timeout=5.0)
        async with SimCluster(nodes=3, seed=7, config=config) as cluster:
            cluster.partition([2])
            node(cluster, 2).rebirth.begin("for the test")
            await asyncio.sleep(0.1)
            assert node(cluster, 2).members.state == "joining"
            await until(lambda: node(cluster, 2).members.state == "up")
            async with cluster.on(2):
                counter = Counter.options(name="alone").remote()
                assert await counter.add() == 1
            life = node(cluster, 2).life
            await asyncio.sleep(60.0)
            assert set(node(cluster, 2).members.facts) == {life}
            cluster.heal()
            await until(lambda: one_cluster(cluster))

    run(main)
