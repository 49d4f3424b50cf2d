"""What a node has and who gets it: large tasks among small ones, what fits nowhere, and nothing given twice."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run

started: dict[str, float] = {}


@actorfw.remote(num_cpus=1, max_retries=0)
async def small(seconds: float) -> None:
    await asyncio.sleep(seconds)


@actorfw.remote(num_cpus=1, max_retries=0)
def small_in_a_worker() -> None: ...


@actorfw.remote(num_cpus=8, max_retries=0)
async def large(key: str) -> str:
    started[key] = asyncio.get_running_loop().time()
    await asyncio.sleep(0.1)
    return key


@actorfw.remote(num_cpus=8, max_retries=0)
def large_in_a_worker(key: str) -> str:
    return key


@actorfw.remote(num_cpus=9)
class Huge:
    async def ready(self) -> bool:
        return True


def on(cluster: SimCluster, index: int) -> actorfw.NodeAffinity:
    return actorfw.NodeAffinity(cluster.nodes[index].id)


@actorfw.remote(num_cpus=1, max_retries=0)
async def one(key: str) -> str:
    return key


@pytest.mark.parametrize("kind", [large, large_in_a_worker, one])
@pytest.mark.parametrize("flood_from", [0, 1])
@pytest.mark.parametrize("asked_from", [0, 1])
def test_no_task_waits_for_long_because_of_others(kind: Any, flood_from: int, asked_from: int) -> None:
    """On a node of eight CPUs there are always more small tasks than fit, and one that wants all eight, or just one."""

    async def main() -> None:
        async with SimCluster(2, seed=1, num_cpus=8, duration=0.4) as cluster:
            stop = False

            async def flood(count: int) -> None:
                while not stop:
                    fn = small_in_a_worker.options(scheduling=on(cluster, 1))
                    other = small.options(scheduling=on(cluster, 1))
                    await asyncio.gather(fn.remote(), other.remote(0.2 + count / 100))

            async def flooding() -> None:
                await asyncio.gather(*[flood(count) for count in range(20)])

            async def asking() -> float:
                loop = asyncio.get_running_loop()
                start = loop.time()
                for i in range(3):
                    assert await kind.options(scheduling=on(cluster, 1)).remote(f"{i}") == f"{i}"
                return loop.time() - start

            flooded = asyncio.ensure_future(cluster.run_on(flood_from, flooding))
            await asyncio.sleep(2)
            try:
                took = await asyncio.wait_for(cluster.run_on(asked_from, asking), 30)
            finally:
                stop = True
            await flooded
            assert took < 3 * 4

    run(main())


def test_room_is_not_kept_for_what_can_only_run_elsewhere() -> None:
    async def main() -> None:
        async with SimCluster(2, seed=1, num_cpus=8) as cluster:
            busy = [small.options(scheduling=on(cluster, 1)).remote(20.0) for _ in range(8)]
            away = [large.options(scheduling=on(cluster, 1)).remote(f"{i}") for i in range(5)]
            long = [small.remote(100.0) for _ in range(4)]  # half of node 0
            await asyncio.sleep(3)
            await asyncio.wait_for(small.options(scheduling=on(cluster, 0)).remote(0.1), 1)
            assert cluster.nodes[0].runtime.ledger.kept_for is None
            await asyncio.gather(*busy, *away)
            for ref in long:
                actorfw.cancel(ref)

    run(main())


def test_what_fits_nowhere_says_so_and_waits_for_a_member_that_can(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with SimCluster(2, seed=1, num_cpus=8) as cluster:
            task = large.options(num_cpus=9).remote("huge")
            limited = large.options(num_cpus=9, schedule_timeout=2.0).remote("limited")
            impossible = large.options(num_cpus=99).remote("impossible")
            actor: Any = Huge.remote()
            ready = actor.ready.remote()
            await asyncio.sleep(1)
            said = [record.getMessage() for record in caplog.records if "waits" in record.getMessage()]
            assert sum("task large waits" in text and "CPU 9" in text for text in said) >= 1
            assert sum("CPU 99" in text for text in said) == 1
            with pytest.raises(actorfw.UnschedulableError, match="CPU 9"):
                await limited
            assert not task.done()
            assert not ready.done()
            added = await cluster.add_node(num_cpus=18)
            assert await asyncio.wait_for(task, 1) == "huge"
            assert await asyncio.wait_for(ready, 1)
            assert not impossible.done()
            # A member that goes makes infeasible what was not before.
            del actor, ready
            busy = small.options(num_cpus=18).remote(1000.0)
            await asyncio.sleep(0.5)
            again = large.options(num_cpus=9, schedule_timeout=30.0, max_retries=1).remote("again")
            cluster.crash(added.index)
            with pytest.raises(actorfw.UnschedulableError, match="no member can run this"):
                await again
            actorfw.cancel(busy)
            actorfw.cancel(impossible)

    run(main())


@pytest.mark.parametrize("seed", range(5))
def test_the_books_are_right_at_any_moment_whatever_happens(seed: int) -> None:
    """Tasks of all shapes from all nodes, cancelled and killed at random: nothing negative, nothing given twice."""

    async def main() -> None:
        async with SimCluster(3, seed=seed, num_cpus=4, duration=(0.01, 0.3)) as cluster:
            chance = random.Random(seed)

            def look() -> None:
                for node in cluster.nodes:
                    ledger = node.runtime.ledger
                    assert all(free >= 0 for free in ledger._free.values()), ledger._free
                    assert ledger._free["CPU"] <= dict(ledger._totals.amounts)["CPU"]
                    held = sum(
                        dict(exe.grant.shape.amounts).get("CPU", 0)
                        for exe in node.runtime.execution.by_serial.values()
                        if exe.grant is not None
                    )
                    assert held <= dict(ledger._totals.amounts)["CPU"]

            async def program() -> None:
                refs: list[Any] = []
                for _ in range(60):
                    fn: Any = chance.choice((small, small_in_a_worker, one))
                    arguments = {small: (0.2,), one: ("",)}.get(fn, ())
                    refs.append(fn.options(num_cpus=chance.choice((0.5, 1, 2, 4)), max_retries=3).remote(*arguments))
                    if chance.random() < 0.3:
                        actorfw.cancel(chance.choice(refs))
                    if chance.random() < 0.1:
                        cluster.kill_worker(chance.randrange(3))
                    await asyncio.sleep(chance.choice((0, 0.05)))
                    look()
                await asyncio.gather(*[ref.coro() for ref in refs], return_exceptions=True)

            await asyncio.gather(*[cluster.run_on(index, program) for index in range(3)])
            await cluster.settle(5)
            for node in cluster.nodes:
                assert node.runtime.ledger._free == dict(node.runtime.ledger._totals.amounts)

    run(main())
