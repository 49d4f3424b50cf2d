"""Names with `partition="majority"`: given and looked up only where a majority of the voters is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorfw
from actorfw.core.entries import shard_of
from actorfw.testing import SimCluster, run

MAJORITY = actorfw.Config(partition="majority", voters=("n0", "n1", "n2"))


@actorfw.remote
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.n = start

    async def add(self, k: int = 1) -> int:
        self.n += k
        return self.n


def serving(cluster: SimCluster) -> list[int]:
    """How many nodes would serve each shard at this moment, whoever they believe is alive."""
    counts = [0] * 256
    for node in cluster.alive:
        quorum = node.runtime.directory.quorum
        assert quorum is not None
        for shard in node.runtime.directory.names.kept_shards:
            counts[shard] += quorum.may_serve(shard, 0.0)
    return counts


@pytest.mark.parametrize("voters", [(), ("a",), ("a", "b"), ("a", "b", "c", "d"), ("a", "b", "b")])
def test_voters_are_three_or_five(voters: tuple[str, ...]) -> None:
    with pytest.raises(actorfw.UsageError, match="3 or 5 different node names"):
        actorfw.Config(partition="majority", voters=voters)


def test_names_are_given_when_the_voters_have_begun() -> None:
    async def main() -> None:
        async with SimCluster(4, 1, config=MAJORITY) as cluster:
            first = Counter.options(name="one").remote(1)
            assert await first.add(1) == 2
            assert max(serving(cluster)) == 1
            async with cluster.on(3):
                assert await (await actorfw.get_actor("one")).add(1) == 3
            with pytest.raises(actorfw.ActorExistsError):
                await Counter.options(name="one").remote().add(1)
            detached = Counter.options(name="two", detached=True).remote(5)
            assert await detached.add(1) == 6

    run(main())


@pytest.mark.parametrize("seed", range(3))
def test_the_side_without_a_majority_gives_no_names(seed: int) -> None:
    async def main() -> None:
        async with SimCluster(5, seed, config=MAJORITY) as cluster:
            assert await Counter.options(name="before").remote(1).add(1) == 2
            cluster.partition([0, 3])

            async def create(name: str) -> Any:
                return await Counter.options(name=name).remote(1).add(1)

            async def watch_keepers() -> None:
                for _ in range(1200):
                    assert max(serving(cluster)) <= 1
                    await asyncio.sleep(0.05)

            watching = asyncio.ensure_future(watch_keepers())
            there = asyncio.ensure_future(cluster.run_on(1, create, "new"))
            with pytest.raises(actorfw.NoQuorumError):
                await asyncio.wait_for(create("new"), 40)
            assert await there == 2
            await watching

    run(main())


@pytest.mark.parametrize("seed", range(3))
def test_after_a_keepers_death_a_full_lease_is_waited_for_and_no_two_serve(seed: int) -> None:
    async def main() -> None:
        async with SimCluster(4, seed, config=MAJORITY) as cluster:
            assert await Counter.options(name="before").remote(1).add(1) == 2
            cluster.crash(2)
            for _ in range(900):
                assert max(serving(cluster)) <= 1
                await asyncio.sleep(0.05)
            assert min(serving(cluster)) == 1
            assert await Counter.options(name="after").remote(1).add(1) == 2

    run(main())


# -- hosts that hold names ---------------------------------------------------------------------------------------------


@actorfw.remote(num_cpus=0)
class Clock:
    """Says when its calls began and ended."""

    async def began(self) -> float:
        return asyncio.get_running_loop().time()

    @actorfw.method(interleave=True)
    async def works(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return actorfw.context().fencing_token


def name_kept_by(cluster: SimCluster, index: int) -> str:
    kept = cluster.nodes[index].runtime.directory.names.kept_shards
    return next(name for name in map(str, range(10_000)) if shard_of("default", name) in kept)


PATIENT = actorfw.Config(partition="majority", voters=("n0", "n1", "n2"), stall_limit=600)


@pytest.mark.parametrize("executor", ["loop", "process"])
@pytest.mark.parametrize("detached", [False, True])
def test_without_an_answer_of_the_keeper_an_actor_begins_no_calls_until_there_is_one(
    executor: Any, detached: bool
) -> None:
    async def main() -> None:
        async with SimCluster(4, 3, config=PATIENT) as cluster:
            name = name_kept_by(cluster, 1)
            here = actorfw.NodeAffinity(cluster.nodes[3].id)
            clock = Clock.options(name=name, detached=detached, executor=executor, scheduling=here).remote()
            loop = cluster.loop
            await clock.began()
            await asyncio.sleep(5)
            long = clock.works.remote(25.0)
            await asyncio.sleep(0.1)
            stopped = loop.time()
            cluster.freeze(1)
            begun: list[float] = []
            late = 0
            ran: list[bool | None] = []
            while loop.time() < stopped + 20:
                try:
                    await clock.began.options(timeout=1).remote()
                    begun.append(loop.time())
                except actorfw.DeadlineExceededError as error:
                    ran.append(error.ran)
                    late += 1
                await asyncio.sleep(0.05)
            assert stopped + 4 < max(begun) < stopped + 8.1, "good for 8 s from when it was asked for"
            assert late > 5
            assert True not in ran
            waiting = [clock.began.remote() for _ in range(3)]
            taken_back = clock.began.remote()
            assert await long == 1, "what runs goes on"
            taken_back.cancel()
            with pytest.raises(actorfw.TaskCancelledError):
                await asyncio.wait_for(taken_back, 5)
            assert not any(ref.done() for ref in waiting)
            cluster.thaw(1)
            back = loop.time()
            await actorfw.gather(waiting)
            assert loop.time() < back + 8
            await actorfw.stop(clock)
            assert await Clock.options(name=name).remote().works(0.0) == 1
            assert loop.time() < back + 10, "a host that lets go need not be waited for"

    run(main(), limit=200)


@pytest.mark.parametrize("detached", [False, True])
def test_a_crash_or_a_drain_hands_the_name_on_without_a_pause(detached: bool) -> None:
    async def main() -> None:
        async with SimCluster(4, 3, config=PATIENT, num_cpus=2) as cluster:
            here = actorfw.NodeAffinity(cluster.nodes[3].id, soft=True)
            options = {"name": "c", "detached": detached, "max_restarts": -1, "max_task_retries": -1}
            clock: Any = Clock.options(executor="process", scheduling=here, **options).remote()
            assert await clock.works(0.0) == 1
            began = cluster.loop.time()
            cluster.kill_worker(3)
            assert await clock.works(0.0) == 2
            assert cluster.loop.time() < began + 2
            began = cluster.loop.time()
            await cluster.drain(3)
            assert await clock.works(0.0) == 3
            assert cluster.loop.time() < began + 4

    run(main(), limit=200)


@pytest.mark.parametrize("detached", [False, True])
def test_after_a_hosts_death_the_next_incarnation_waits_for_a_lease(detached: bool) -> None:
    async def main() -> None:
        async with SimCluster(5, 3, config=MAJORITY) as cluster:
            name = name_kept_by(cluster, 1)
            here = actorfw.NodeAffinity(cluster.nodes[3].id, soft=True)
            options = {"name": name, "detached": detached, "max_restarts": -1, "max_task_retries": -1}
            clock: Any = Clock.options(scheduling=here, **options).remote()
            assert await clock.works(0.0) == 1
            began = cluster.loop.time()
            cluster.crash(3)
            assert await clock.works(0.0) == 2
            assert began + 10 < cluster.loop.time() < began + 25

    run(main(), limit=200)


@pytest.mark.parametrize("detached", [False, True])
def test_after_its_hosts_death_a_name_is_free_when_a_lease_is_over(detached: bool) -> None:
    async def main() -> None:
        async with SimCluster(5, 4, config=MAJORITY) as cluster:
            name = name_kept_by(cluster, 1)
            here = actorfw.NodeAffinity(cluster.nodes[3].id)
            clock = Clock.options(name=name, detached=detached, scheduling=here).remote()
            assert await clock.works(0.0) == 1
            cluster.crash(3)
            assert (await actorfw.watch(clock)).reason == "node_died"
            began = cluster.loop.time()
            assert await Clock.options(name=name).remote().works(0.0) == 1
            assert 8 < cluster.loop.time() - began < 12

    run(main(), limit=200)
