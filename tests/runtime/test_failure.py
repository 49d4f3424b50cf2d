"""How nodes find out about each other, and what that does to work: stalled, unreachable, dead. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run

PATIENCE = 3.0
LIMIT = 8.0
CONFIG = actorfw.Config(link_patience=PATIENCE, stall_limit=LIMIT)


@actorfw.remote
class Counter:
    def __init__(self) -> None:
        self.seen: list[int] = []

    async def add(self, value: int) -> list[int]:
        self.seen.append(value)
        return list(self.seen)

    async def slowly(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    async def count(self, upto: int) -> Any:
        for i in range(upto):
            await asyncio.sleep(0.5)
            yield i


@actorfw.remote(num_cpus=1)
async def where(seconds: float = 0.0) -> str:
    await asyncio.sleep(seconds)
    return actorfw.context().node_id


def on(cluster: SimCluster, index: int, soft: bool = False) -> actorfw.NodeAffinity:
    return actorfw.NodeAffinity(cluster.nodes[index].id, soft=soft)


def states(cluster: SimCluster, seen_by: int = 0) -> dict[str, str]:
    return {row.name: row.state for row in cluster.nodes[seen_by].runtime.members.listing()}


async def unschedulable(call: Any) -> None:
    with pytest.raises(actorfw.UnschedulableError, match="is dead or has left"):
        await asyncio.wait_for(call, 30)


async def until(cluster: SimCluster, done: Callable[[], bool], seconds: float) -> float:
    """Wait in virtual time; returns how long it took."""
    start = cluster.loop.time()
    while not done():
        assert cluster.loop.time() - start < seconds, f"not within {seconds} s"
        await asyncio.sleep(0.01)
    return cluster.loop.time() - start


def simulated(nodes: int = 3, **options: Any) -> Callable[[Callable[[SimCluster], Awaitable[None]]], None]:
    """Run a test's body in a cluster, with a few seeds."""

    def decorate(body: Callable[[SimCluster], Awaitable[None]]) -> None:
        for seed in range(3):

            async def main(seed: int = seed) -> None:
                async with SimCluster(nodes, seed, **{"config": CONFIG, **options}) as cluster:
                    await body(cluster)

            run(main)

    return decorate


# A process that stands still.


def test_a_stalled_member_is_known_within_three_seconds_gets_no_work_and_comes_back() -> None:
    @simulated(3)
    async def _(cluster: SimCluster) -> None:
        counter = Counter.options(scheduling=on(cluster, 1)).remote()
        assert await counter.add(1) == [1]
        cluster.freeze(1)
        pending = counter.add.remote(2)
        for observer in (0, 2):
            await until(cluster, lambda: states(cluster, observer)["n1"] == "stalled", 3.0)  # noqa: B023
        places = {await where.remote() for _ in range(6)}
        assert cluster.nodes[1].id not in places
        await asyncio.sleep(LIMIT - 4)
        assert not pending.done()
        cluster.thaw(1)
        assert await pending == [1, 2]
        assert await counter.add(3) == [1, 2, 3]
        await until(cluster, lambda: states(cluster)["n1"] == "up", 1.0)


def test_a_member_that_stalls_for_too_long_is_dead() -> None:
    @simulated(3)
    async def _(cluster: SimCluster) -> None:
        counter = Counter.options(scheduling=on(cluster, 1)).remote()
        await counter.add(1)
        cluster.freeze(1)
        start = cluster.loop.time()
        with pytest.raises(actorfw.ActorDiedError) as raised:
            await counter.add(2)
        assert raised.value.reason == "node_died"
        assert raised.value.ran is None
        took = cluster.loop.time() - start
        assert LIMIT <= took <= LIMIT + 6
        await until(cluster, lambda: "n1" not in states(cluster, 2), 3.0)


def test_a_loop_that_is_blocked_for_ten_seconds_loses_nothing() -> None:
    """Its own timers are late, all at once: what they would say of the others is worth nothing."""

    @simulated(3, config=actorfw.Config())
    async def _(cluster: SimCluster) -> None:
        theirs = Counter.options(scheduling=on(cluster, 1)).remote()
        await theirs.add(1)

        async def beyond() -> list[int]:
            mine = Counter.options(scheduling=on(cluster, 2)).remote()
            cells.append(mine)
            return await mine.add(1)  # type: ignore[no-any-return]

        cells: list[Any] = []
        assert await cluster.run_on(1, beyond) == [1]
        for _ in range(3):
            cluster.freeze(1)
            await asyncio.sleep(10)
            cluster.thaw(1)
            await asyncio.sleep(2)
        assert set(states(cluster).values()) == set(states(cluster, 1).values()) == {"up"}
        assert await theirs.add(2) == [1, 2]

        async def again() -> list[int]:
            return await cells[0].add(2)  # type: ignore[no-any-return]

        assert await cluster.run_on(1, again) == [1, 2]
        cells.clear()


# A process or machine that is gone.


def test_a_killed_process_is_dead_within_two_seconds_and_its_tasks_run_elsewhere() -> None:
    @simulated(4)
    async def _(cluster: SimCluster) -> None:
        counter = Counter.options(scheduling=on(cluster, 1)).remote()
        await counter.add(1)
        call = counter.slowly.remote(100)
        task = where.options(scheduling=on(cluster, 1, soft=True)).remote(1.0)
        await asyncio.sleep(0.2)
        cluster.crash(1)
        start = cluster.loop.time()
        with pytest.raises(actorfw.ActorDiedError):
            await call
        assert cluster.loop.time() - start < 2
        for observer in (0, 2, 3):
            await until(cluster, lambda: "n1" not in states(cluster, observer), 2.0)  # noqa: B023
        assert await task != cluster.nodes[1].id
        assert cluster.loop.time() - start < 4


def test_a_machine_without_power_is_dead_within_seven_seconds() -> None:
    @simulated(5)
    async def _(cluster: SimCluster) -> None:
        counter = Counter.options(scheduling=on(cluster, 1)).remote()
        await counter.add(1)
        cluster.crash(1, silent=True)
        start = cluster.loop.time()
        with pytest.raises(actorfw.ActorDiedError) as raised:
            await counter.add(2)
        assert raised.value.ran is None
        assert cluster.loop.time() - start < 8
        for observer in (0, 2, 3, 4):
            await until(cluster, lambda: "n1" not in states(cluster, observer), 3.0)  # noqa: B023


def test_who_dies_without_a_session_is_buried_as_well() -> None:
    @simulated(3)
    async def _(cluster: SimCluster) -> None:
        node = cluster.nodes[0].runtime
        life = cluster.nodes[1].runtime.life
        ended: list[bytes] = []
        owner_died = node.objects.owner_died
        node.objects.owner_died = lambda life, why: (ended.append(life), owner_died(life, why))  # type: ignore[method-assign,func-returns-value,assignment]
        peer = node.peers.by_life.pop(life)
        del node.peers._peers[life]
        assert peer.link is not None
        peer.link.cut()
        cluster.crash(1)
        await until(cluster, lambda: ended == [life], 8.0)
        assert "n1" not in states(cluster)


def test_who_leaves_is_gone_at_once_and_everywhere() -> None:
    @simulated(4)
    async def _(cluster: SimCluster) -> None:
        await cluster.stop(2)
        for observer in (0, 1, 3):
            await until(cluster, lambda: "n2" not in states(cluster, observer), 0.5)  # noqa: B023


# A link that can't be mended, to a member that others reach.


def split(cluster: SimCluster, a: int, b: int) -> None:
    """Two nodes lose sight of each other, and of nobody else."""
    cluster.partition([a], [b])
    cluster.cut(a, b)


def test_a_member_that_others_reach_is_lost_but_not_dead() -> None:
    @simulated(4)
    async def _(cluster: SimCluster) -> None:
        counter = Counter.options(scheduling=on(cluster, 1)).remote()
        assert await counter.add(1) == [1]
        split(cluster, 0, 1)
        await asyncio.sleep(0.1)
        waiting = counter.add.remote(2)
        await asyncio.sleep(PATIENCE / 2)
        assert not waiting.done()
        with pytest.raises(actorfw.PeerUnreachableError) as unsent:
            await waiting
        assert unsent.value.ran is False
        assert "n1" in str(unsent.value)
        start = cluster.loop.time()
        with pytest.raises(actorfw.PeerUnreachableError):
            await counter.add(3)
        assert cluster.loop.time() == start  # new ones fail at once
        told = counter.add.tell(4)  # a tell waits, as nobody waits for it
        await told
        await asyncio.sleep(60)
        assert "n1" in states(cluster)
        assert set(states(cluster, 2).values()) == {"up"}
        cluster.heal()
        await until(cluster, lambda: not cluster.nodes[0].runtime.members.lost, 5.0)
        # Neither of the calls that failed unsent has run, the actor is the same, and the tell has arrived.
        assert await counter.add(5) == [1, 4, 5]


def test_what_was_sent_before_the_link_broke_may_have_run_and_does_not_run_twice() -> None:
    @simulated(4)
    async def _(cluster: SimCluster) -> None:
        counter = Counter.options(scheduling=on(cluster, 1)).remote()
        await counter.add(1)
        stream = counter.count(100)
        assert await anext(stream) == 0
        slow = counter.slowly.remote(2)
        await asyncio.sleep(0.1)
        split(cluster, 0, 1)
        with pytest.raises(actorfw.PeerLostError) as lost:
            await slow
        assert lost.value.ran is None
        with pytest.raises(actorfw.PeerLostError):
            async for _ in stream:
                pass
        cluster.heal()
        await until(cluster, lambda: not cluster.nodes[0].runtime.members.lost, 5.0)
        assert await counter.add(2) == [1, 2]
        # The late answers settle nothing any more, and the generator that nobody reads has ended.
        await cluster.settle(2)
        assert not cluster.nodes[0].runtime.calls.open
        assert not cluster.nodes[1].runtime.hosting._calls


def test_tasks_of_a_lost_member_run_elsewhere_and_their_older_attempts_count_no_more() -> None:
    @simulated(4)
    async def _(cluster: SimCluster) -> None:
        big = actorfw.put(b"x" * 300_000)
        sent = [where.options(scheduling=on(cluster, 1, soft=True)).remote(1.0) for _ in range(2)]
        once = Counter.options(scheduling=on(cluster, 1)).remote()
        await once.add(1)
        with_ref = holds.options(scheduling=on(cluster, 1, soft=True)).remote([big])
        await asyncio.sleep(0.1)
        split(cluster, 0, 1)
        first = await asyncio.gather(*sent)
        assert cluster.nodes[1].id not in first
        assert await with_ref == 300_000
        never = where.options(scheduling=on(cluster, 1), max_retries=0, schedule_timeout=1.0).remote()
        with pytest.raises(actorfw.UnschedulableError):
            await never
        cluster.heal()
        await until(cluster, lambda: not cluster.nodes[0].runtime.members.lost, 5.0)
        assert await where.options(scheduling=on(cluster, 1)).remote() == cluster.nodes[1].id
        del big, with_ref
        await cluster.settle(3)
        for node in cluster.nodes:
            assert not node.runtime.execution._foreign


@actorfw.remote(num_cpus=1)
async def holds(refs: list[Any]) -> int:
    await asyncio.sleep(1.0)
    return len(await refs[0])


def test_news_after_a_quiet_time_is_not_taken_for_a_loop_that_stood_still() -> None:
    async def main() -> None:
        async with SimCluster(6, seed=3, config=CONFIG) as cluster:
            await asyncio.sleep(20)
            cluster.partition(range(5), [5])
            others = cluster.nodes[:5]
            await until(cluster, lambda: all("n5" not in states(cluster, node.index) for node in others), 10)
            machines = [node.runtime.failure.machine for node in others]
            assert [machine._lagged_at for machine in machines] == [float("-inf")] * 5
            cluster.heal()

    run(main())


@actorfw.remote(num_cpus=0, max_retries=0)
async def puts_something() -> int:
    return await actorfw.put(7)


@pytest.mark.parametrize("seed", range(5))
def test_a_newcomer_can_work_as_soon_as_others_place_work_there(seed: int) -> None:
    """Its own program has not come back from starting it then."""

    async def main() -> None:
        async with SimCluster(3, seed=seed) as cluster:
            late = asyncio.create_task(cluster.add_node(name="late"))
            await until(cluster, lambda: states(cluster).get("late") == "up", 10)
            row = next(row for row in await actorfw.nodes() if row.name == "late")
            first = puts_something.options(scheduling=actorfw.NodeAffinity(row.id)).remote()
            assert await first == 7
            await late

    run(main())


def test_a_member_that_stands_still_does_not_hold_newcomers_up() -> None:
    async def main() -> None:
        async with SimCluster(4, seed=1) as cluster:
            cluster.freeze(2)
            await until(cluster, lambda: states(cluster)["n2"] == "stalled", 4)
            start = cluster.loop.time()
            await cluster.add_node(name="late")
            assert cluster.loop.time() - start < 2
            cluster.thaw(2)
            await until(cluster, lambda: set(states(cluster, 4).values()) == {"up"}, 15)
            assert len(states(cluster, 4)) == len(states(cluster, 2)) == 5

    run(main())


@pytest.mark.parametrize("end", ["crash", "drain"])
def test_what_is_bound_to_a_node_that_is_gone_fails(end: str) -> None:
    async def main() -> None:
        async with SimCluster(3, config=CONFIG) as cluster:
            bound = on(cluster, 1)
            running = where.options(scheduling=bound).remote(5.0)
            waiting = where.options(scheduling=bound).remote()
            lasting: Any = Counter.options(scheduling=bound, max_restarts=-1).remote()
            await lasting.add.remote(1)
            if end == "crash":
                cluster.crash(1)
                await unschedulable(running)
                await unschedulable(waiting)
            else:
                await cluster.drain(1)
                assert await running == bound.node_id
                await unschedulable(waiting)
            await cluster.settle(10)
            with pytest.raises(actorfw.ActorDiedError, match="is dead or has left") as died:
                await asyncio.wait_for(lasting.add.remote(1), 30)
            assert died.value.reason == ("node_died" if end == "crash" else "drained")
            await unschedulable(where.options(scheduling=bound).remote())
            await unschedulable(Counter.options(scheduling=bound).remote().add.remote(1))

            async def elsewhere() -> None:
                await unschedulable(where.options(scheduling=bound).remote())

            await cluster.run_on(2, elsewhere)
            never_seen = where.options(scheduling=actorfw.NodeAffinity("0" * 16)).remote()
            await cluster.settle(30)
            assert not never_seen.done()
            actorfw.cancel(never_seen)
            assert await where.options(scheduling=on(cluster, 1, soft=True)).remote() != bound.node_id

    run(main())


def test_who_comes_back_in_another_life_takes_what_is_bound_to_it() -> None:
    async def main() -> None:
        async with SimCluster(3, config=CONFIG) as cluster:
            bound = on(cluster, 2)
            assert await where.options(scheduling=bound).remote() == bound.node_id
            cluster.partition([0, 1], [2])
            await cluster.settle(30)
            await unschedulable(where.options(scheduling=bound).remote())
            cluster.heal()
            await cluster.settle(60)
            assert await asyncio.wait_for(where.options(scheduling=bound).remote(), 30) == bound.node_id

            async def back() -> str:
                there = on(cluster, 0)
                found: str = await asyncio.wait_for(where.options(scheduling=there).remote(), 30)
                return found

            assert await cluster.run_on(2, back) == cluster.nodes[0].id

    run(main())
