"""Draining in virtual time: what others hold of a node outlives it, what it runs is finished, what it can't do in time
is counted."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

import actorfw
from actorfw import errors
from actorfw.testing import SimCluster, run


def on(cluster: SimCluster, index: int, *, soft: bool = False) -> dict[str, Any]:
    return {"scheduling": actorfw.NodeAffinity(cluster.nodes[index].id, soft=soft)}


@actorfw.remote(num_cpus=0)
async def make() -> dict[str, Any]:
    inner = actorfw.put("inner")
    return {"small": actorfw.put([2, 3]), "large": actorfw.put(b"x" * 300_000), "outer": actorfw.put({"inner": inner})}


@actorfw.remote(num_cpus=0)
async def read(box: dict[str, Any]) -> tuple[list[int], int, str]:
    outer = await box["outer"]
    return await box["small"], len(await box["large"]), await outer["inner"]


@actorfw.remote(num_cpus=0)
async def after(seconds: float, value: Any) -> Any:
    await asyncio.sleep(seconds)
    return value


@actorfw.remote
def square(x: int) -> int:
    return x * x


WHOLE = ([2, 3], 300_000, "inner")


def records(cluster: SimCluster) -> int:
    return sum(len(node.runtime.objects.ownership) for node in cluster.alive)


def test_objects_outlive_the_node_that_put_them_and_are_freed_in_the_end() -> None:
    async def main() -> None:
        async with SimCluster(4) as cluster:
            made = await make.options(**on(cluster, 1)).remote()
            await cluster.settle()
            report = await actorfw.drain(cluster.nodes[1].id, timeout=10)
            assert report.complete
            assert report.node == "n1"
            assert report.heir in {node.id for node in cluster.nodes}
            assert report.seconds < 1
            await cluster.settle(30)  # beyond any grace
            assert cluster.nodes[1].state == "left"
            assert [row.name for row in await actorfw.nodes()] == ["n0", "n2", "n3"]
            for index in (0, 2, 3):
                assert await read.options(**on(cluster, index)).remote(made) == WHOLE
            del made
            await cluster.settle(30)
            assert records(cluster) == 0
            assert not any(node.runtime.objects._inherited for node in cluster.alive)

    run(main())


def test_heirs_have_heirs() -> None:
    async def main() -> None:
        async with SimCluster(5) as cluster:
            made = await make.options(**on(cluster, 1)).remote()
            for index in (1, 2, 3, 4):
                assert (await cluster.drain(index)).complete
            assert await read.remote(made) == WHOLE
            newcomer = await cluster.add_node()
            assert await read.options(scheduling=actorfw.NodeAffinity(newcomer.id)).remote(made) == WHOLE
            del made
            await cluster.settle(30)
            assert records(cluster) == 0

    run(main())


def test_a_newcomer_is_told_who_inherited() -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            made = await make.options(**on(cluster, 1)).remote()
            await cluster.drain(1)
            newcomer = await cluster.add_node()
            heirs = newcomer.runtime.heirs
            assert heirs.of(cluster.nodes[1].runtime.life) in {node.runtime.life for node in cluster.alive}
            assert await read.options(scheduling=actorfw.NodeAffinity(newcomer.id)).remote(made) == WHOLE

    run(main())


def test_the_last_node_has_no_heir() -> None:
    async def main() -> None:
        async with SimCluster(1) as cluster:
            ref = actorfw.put(1)
            report = await cluster.drain(0)
            assert report.complete
            assert report.heir is None
            with pytest.raises(errors.NotInitializedError):
                actorfw.put(2)
            assert await ref == 1

    run(main())


def test_who_does_not_consent_is_passed_over() -> None:
    async def main() -> None:
        async with SimCluster(3, config=actorfw.Config(max_outbox=100_000)) as cluster:
            made = await make.options(**on(cluster, 1)).remote()
            report = await cluster.drain(1, timeout=5)
            assert not report.complete  # 300,000 bytes are too much for everybody
            assert report.heir is None
            assert report.objects == 3  # the inner one is held by the outer one only
            await cluster.settle(30)
            with pytest.raises(errors.OwnerDiedError):
                await made["small"]

    run(main())


@pytest.mark.parametrize("moment", [0.0, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03])
def test_an_heir_that_dies_on_the_way_is_replaced_or_its_death_is_an_owners(moment: float) -> None:
    async def main() -> None:
        async with SimCluster(4) as cluster:
            made = await make.options(**on(cluster, 1)).remote()
            counter = (await create.options(**on(cluster, 1)).remote(cluster.nodes[0].id, name="count"))["counter"]
            assert await counter.add() == 8
            await cluster.settle()
            leaving = asyncio.ensure_future(cluster.drain(1, timeout=20))
            await asyncio.sleep(moment)
            heir = cluster.nodes[1].runtime.leaving.heir
            told = cluster.nodes[1].runtime.leaving.moved
            crashes = heir is not None and heir != cluster.nodes[0].runtime.life
            if crashes:
                cluster.crash(next(node.index for node in cluster.nodes if node.runtime.life == heir))
            report = await leaving
            await cluster.settle(40)
            if told and crashes:
                with pytest.raises(errors.OwnerDiedError):
                    await made["small"]
                with pytest.raises(errors.ActorDiedError) as info:
                    await counter.add()
                assert info.value.reason == "owner_died"
            else:
                assert report.complete
                assert await read.options(**on(cluster, 0)).remote(made) == WHOLE
                assert await (await actorfw.get_actor("count", Counter)).add() == await counter.add() - 1

    run(main())


def test_a_leaver_that_crashes_on_the_way_is_a_death() -> None:
    async def main() -> None:
        async with SimCluster(4) as cluster:
            made = await make.options(**on(cluster, 1)).remote()
            await cluster.settle()
            held = after.options(max_retries=0, **on(cluster, 1)).remote(5, "done")  # keeps it from leaving
            await asyncio.sleep(0.1)
            leaving = asyncio.ensure_future(cluster.drain(1))
            await asyncio.sleep(1)
            cluster.crash(1)
            with pytest.raises(errors.NodeDiedError):
                await leaving
            with pytest.raises(errors.NodeDiedError):
                await held
            with pytest.raises(errors.OwnerDiedError):
                await made["small"]

    run(main())


def test_running_tasks_are_finished_and_waiting_ones_go_elsewhere_without_an_attempt() -> None:
    async def main() -> None:
        async with SimCluster(3, duration=2.0) as cluster:
            once: Any = {"max_retries": 0}
            refs = [square.options(**once, **on(cluster, 1, soft=True)).remote(i) for i in range(8)]
            slow = after.options(**once, **on(cluster, 1)).remote(3, "slow")
            await asyncio.sleep(0.5)
            report = await cluster.drain(1)
            assert report.complete
            assert 2.4 < report.seconds < 5
            assert await actorfw.gather(refs) == [i * i for i in range(8)]
            assert await slow == "slow"

    run(main())


def test_nothing_is_placed_on_a_node_that_leaves() -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            blocker = after.options(**on(cluster, 1)).remote(5, None)
            await asyncio.sleep(0.1)
            leaving = asyncio.ensure_future(cluster.drain(1))
            await asyncio.sleep(0.5)
            states = {row.name: row.state for row in await actorfw.nodes()}
            assert states == {"n0": "up", "n1": "leaving", "n2": "up"}
            with pytest.raises(errors.UnschedulableError):
                await make.options(schedule_timeout=1, **on(cluster, 1)).remote()
            await blocker
            assert (await leaving).complete

    run(main())


def test_the_nodes_own_calls_are_awaited() -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:

            async def program() -> tuple[bool, str]:
                ref = after.options(**on(cluster, 2)).remote(2, "own")
                report = await actorfw.drain()
                return report.complete, await ref

            assert await cluster.run_on(1, program) == (True, "own")

    run(main())


def test_what_is_not_done_in_time_is_given_up_and_counted() -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            endless = after.options(max_retries=0, **on(cluster, 1)).remote(1e6, None)
            again = after.options(max_retries=1, **on(cluster, 1, soft=True)).remote(4, "again")

            async def program() -> str:
                try:
                    await after.options(**on(cluster, 2)).remote(1e6, None)
                except errors.NodeClosedError as error:
                    return str(error)
                return ""

            own = asyncio.ensure_future(cluster.run_on(1, program))
            await asyncio.sleep(1)
            report = await cluster.drain(1, timeout=2)
            assert not report.complete
            assert (report.tasks, report.objects) == (3, 0)
            assert "shut down" in await own
            with pytest.raises(errors.NodeDiedError):
                await endless
            assert await again == "again"

    run(main())


def test_asked_twice_there_is_one_answer() -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            await make.options(**on(cluster, 1)).remote()
            blocker = after.options(**on(cluster, 1)).remote(1, None)
            first, second = await asyncio.gather(actorfw.drain("n1"), actorfw.drain("n1", timeout=0))
            assert first == second
            assert first.complete
            await blocker

    run(main())


def test_whom_it_does_not_know_it_can_not_drain() -> None:
    async def main() -> None:
        async with SimCluster(2):
            with pytest.raises(errors.UsageError, match=r"'nobody'; there are n0 \(\w+\), n1"):
                await actorfw.drain("nobody")
            with pytest.raises(errors.UsageError, match="node is 7"):
                actorfw.drain(7)  # type: ignore[arg-type]
            with pytest.raises(errors.UsageError, match="timeout"):
                actorfw.drain(timeout=-1)

    run(main())


def test_all_leave_at_once() -> None:
    async def main() -> None:
        async with SimCluster(4) as cluster:
            made = await make.options(**on(cluster, 2)).remote()
            reports = await asyncio.gather(*(cluster.drain(index, timeout=5) for index in (1, 2, 3)))
            assert all(report.complete for report in reports)
            assert await read.remote(made) == WHOLE

    run(main())


def test_shutting_down_is_not_draining() -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            made = await make.options(**on(cluster, 1)).remote()
            await cluster.settle()
            await cluster.stop(1)
            with pytest.raises(errors.OwnerDiedError):
                await made["small"]

    run(main())


@actorfw.remote
class Counter(actorfw.Actor):
    def __init__(self, start: int = 0) -> None:
        self.n = start
        self.why = ""

    async def add(self, k: int = 1) -> int:
        self.n += k
        return self.n

    async def slow(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return actorfw.context().node_id

    async def where(self) -> tuple[str, int]:
        context = actorfw.context()
        return context.node_id, context.fencing_token


@actorfw.remote(num_cpus=0)
async def create(node_id: str, *, soft: bool = False, **options: Any) -> dict[str, Any]:
    scheduling = actorfw.NodeAffinity(node_id, soft)
    return {"counter": Counter.options(scheduling=scheduling, **options).remote(7)}


def test_an_actor_outlives_the_node_that_created_it() -> None:
    async def main() -> None:
        async with SimCluster(4) as cluster:
            box = await create.options(**on(cluster, 1)).remote(cluster.nodes[2].id)
            counter = box["counter"]
            assert await counter.add() == 8
            report = await cluster.drain(1)
            assert report.complete
            assert report.seconds < 1
            await cluster.settle(30)
            assert await counter.add() == 9  # the same incarnation

            async def other(box: dict[str, Any]) -> int:
                found: int = await box["counter"].add()
                return found

            assert await actorfw.remote(num_cpus=0)(other).options(**on(cluster, 3)).remote(box) == 10
            assert (await actorfw.info(counter)).state == "up"
            watching = asyncio.ensure_future(actorfw.watch(counter))
            await asyncio.sleep(0.1)
            await actorfw.stop(counter)
            assert (await watching).reason == "stopped"
            with pytest.raises(errors.ActorDiedError):
                await counter.add()

    run(main())


def test_it_ends_with_its_last_handle_after_the_hand_over_too() -> None:
    async def main() -> None:
        async with SimCluster(4) as cluster:
            box = await create.options(**on(cluster, 1)).remote(cluster.nodes[2].id)
            counter = box["counter"]
            assert await counter.add() == 8
            await cluster.drain(1)
            assert len(cluster.nodes[2].runtime.hosting.cells) == 1
            del box, counter
            await cluster.settle(30)
            assert not cluster.nodes[2].runtime.hosting.cells
            assert records(cluster) == 0

    run(main())


def test_an_actor_without_restarts_that_others_use_stays_until_its_time_is_over() -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            counter = Counter.options(**on(cluster, 1)).remote()
            assert await counter.add() == 1
            leaving = asyncio.ensure_future(cluster.drain(1, timeout=5))
            await asyncio.sleep(4)
            assert await counter.add() == 2
            report = await leaving
            assert report.actors == 1
            assert not report.complete
            with pytest.raises(errors.ActorDiedError) as info:
                await counter.add()
            assert (info.value.reason, info.value.ran) == ("drained", False)

    run(main())


def test_one_whose_handles_go_does_not_hold_it_up() -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            counter = Counter.options(**on(cluster, 1)).remote()
            assert await counter.add() == 1
            leaving = asyncio.ensure_future(cluster.drain(1, timeout=20))
            await asyncio.sleep(1)
            del counter
            await cluster.settle()
            report = await leaving
            assert report.complete
            assert report.seconds < 5

    run(main())


def test_an_actor_with_restarts_moves_and_spends_none() -> None:
    async def main() -> None:
        async with SimCluster(4) as cluster:
            counter: Any = Counter.options(max_restarts=1, **on(cluster, 1, soft=True)).remote()
            first, one = await counter.where()
            assert (first, one) == (cluster.nodes[1].id, 1)
            running = counter.slow.remote(1)
            waiting = [counter.where.remote() for _ in range(5)]
            await asyncio.sleep(0.5)
            report = await cluster.drain(1)
            assert report.complete
            assert await running == first
            places = await actorfw.gather(waiting)
            assert all(place != first and incarnation == 2 for place, incarnation in places)
            if places[0][0] != cluster.nodes[0].id:
                cluster.crash(next(node.index for node in cluster.nodes if node.id == places[0][0]))
                await cluster.settle(20)
                assert (await counter.where())[1] == 3  # the one restart that it has was still there

    run(main())


def test_names_given_by_a_node_outlive_it() -> None:
    async def main() -> None:
        async with SimCluster(4) as cluster:

            async def program() -> None:
                scheduling = actorfw.NodeAffinity(cluster.nodes[2].id)
                named = Counter.options(name="scores", scheduling=scheduling).remote(1)
                assert await named.add() == 2

            await cluster.run_on(1, program)
            await cluster.settle()
            assert (await cluster.drain(1)).complete
            await cluster.settle(30)
            found = await actorfw.get_actor("scores", Counter)
            assert await found.add() == 3
            with pytest.raises(errors.ActorExistsError):
                await Counter.options(name="scores").remote().add()
            await actorfw.stop(found)
            await cluster.settle(2)
            again = Counter.options(name="scores").remote()
            assert await again.add() == 1

    run(main())


def test_actors_of_its_own_program_alone_end_with_it_at_once() -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            kept: list[Any] = []

            async def program() -> None:
                for index in (1, 2):
                    kept.append(Counter.options(**on(cluster, index)).remote())
                    assert await kept[-1].add() == 1

            await cluster.run_on(1, program)
            report = await cluster.drain(1)
            assert report.complete
            assert report.seconds < 1
            await cluster.settle(2)
            assert not cluster.nodes[2].runtime.hosting.cells

    run(main())


@pytest.mark.parametrize("seed", range(3))
def test_a_rolling_restart_of_five_nodes_under_load_loses_no_call(seed: int) -> None:
    async def main() -> None:
        async with SimCluster(6, seed=seed, duration=(0.05, 0.4)) as cluster:
            counters = [Counter.options(max_restarts=1, scheduling="spread").remote() for _ in range(8)]
            boxes = [await create.options(**on(cluster, index)).remote(cluster.nodes[0].id) for index in range(1, 6)]
            named = Counter.options(name="total", max_restarts=1).remote()
            done = {"calls": 0, "tasks": 0, "named": 0}
            over = asyncio.Event()

            async def call(counter: Any) -> None:
                while not over.is_set():
                    place, _ = await counter.where()
                    assert await counter.slow(0.05) in {node.id for node in cluster.nodes}
                    assert place
                    done["calls"] += 2

            async def submit(number: int) -> None:
                while not over.is_set():
                    assert await square.options(max_retries=0).remote(number) == number * number
                    done["tasks"] += 1

            async def look() -> None:
                while not over.is_set():
                    found = await actorfw.get_actor("total", Counter)
                    assert await found.add(0) == 0
                    done["named"] += 1
                    await asyncio.sleep(0.05)

            load = [asyncio.ensure_future(call(counter)) for counter in counters]
            load += [asyncio.ensure_future(submit(number)) for number in range(12)]
            load.append(asyncio.ensure_future(look()))
            await asyncio.sleep(1)
            for index in range(1, 6):
                await cluster.add_node()
                report = await cluster.drain(index, timeout=60)
                assert report.complete, report
                await asyncio.sleep(0.5)
            over.set()
            await asyncio.gather(*load)
            assert await named.add() == 1
            for box in boxes:
                assert await box["counter"].add() == 8
            assert min(done.values()) > 20, done

    run(main())


@pytest.mark.parametrize("seed", range(6))
def test_broken_links_delay_a_drain_and_lose_nothing(seed: int) -> None:
    async def main() -> None:
        async with SimCluster(5, seed=seed) as cluster:
            chance = random.Random(seed)
            made = [await make.options(**on(cluster, index)).remote() for index in (1, 2)]
            boxes = [await create.options(**on(cluster, index)).remote(cluster.nodes[3].id) for index in (1, 2)]
            over = asyncio.Event()

            async def breaks() -> None:
                while not over.is_set():
                    a, b = chance.sample([node.index for node in cluster.alive], 2)
                    chance.choice((cluster.cut, cluster.half_open))(a, b)
                    await asyncio.sleep(chance.uniform(0.0, 0.01))

            breaking = asyncio.ensure_future(breaks())
            await asyncio.sleep(0.01)
            for index in (1, 2):
                report = await cluster.drain(index)
                assert report.complete, report
            over.set()
            await breaking
            await cluster.settle(30)
            for box in made:
                assert await read.options(**on(cluster, 4)).remote(box) == WHOLE
            for box in boxes:
                assert await box["counter"].add() == 8
            del made, boxes, box
            await cluster.settle(30)
            assert records(cluster) == 0

    run(main())


async def next_restart(events: Any) -> actorfw.ActorRestarted:
    async for event in events:
        if isinstance(event, actorfw.ActorRestarted):
            return event
    raise AssertionError("the events have ended")


def test_the_heir_knows_why_an_actor_is_being_started_again() -> None:
    async def main() -> None:
        async with SimCluster(4) as cluster:
            options = {"max_restarts": 3, "restart_backoff": 20.0}
            box = await create.options(**on(cluster, 1)).remote(cluster.nodes[2].id, soft=True, **options)
            counter = box["counter"]
            assert await counter.add() == 8
            cluster.crash(2)
            await asyncio.sleep(3)
            before = await actorfw.info(counter)
            assert (before.state, before.reason) == ("restarting", "node_died")
            events = actorfw.events()
            restarted = asyncio.ensure_future(next_restart(events))
            assert (await cluster.drain(1)).complete
            found = await asyncio.wait_for(restarted, 60)
            assert (found.incarnation, found.reason) == (2, "node_died")
            assert await counter.add() == 8

    run(main())
