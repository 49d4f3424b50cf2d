"""How often tasks are run again, when and where: after a dead worker, a dead node, a lost peer, a listed exception."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run

started: list[tuple[float, str]] = []


def note() -> None:
    started.append((asyncio.get_running_loop().time(), str(actorfw.context().node_id)))


@actorfw.remote(executor="process", num_cpus=1)
async def job(seconds: float = 0.0) -> str:
    note()
    await asyncio.sleep(seconds)
    return "done"


@actorfw.remote
async def raises(error: type[Exception]) -> None:
    note()
    raise error("as asked")


@actorfw.remote(executor="process", num_cpus=1)
async def numbers(n: int) -> AsyncIterator[int]:
    note()
    for i in range(n):
        yield i


@pytest.fixture(autouse=True)
def _clean() -> None:
    started.clear()


def pauses() -> list[float]:
    times = [time for time, _ in started]
    return [later - earlier for earlier, later in pairwise(times)]


async def kill_each(cluster: SimCluster, times: int) -> None:
    """Kill the worker of each attempt."""
    for attempt in range(1, times + 1):
        while len(started) < attempt:
            await asyncio.sleep(0.001)
        assert cluster.kill_worker(0)


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_task_whose_worker_dies_runs_once_more_than_it_may_be_retried(retries: int) -> None:
    async def main() -> None:
        async with SimCluster(1, seed=retries) as cluster:
            ref = job.options(max_retries=retries).remote(100)
            await kill_each(cluster, retries + 1)
            with pytest.raises(actorfw.WorkerDiedError) as died:
                await ref
            assert died.value.ran is None
            assert len(started) == retries + 1

    run(main())


def test_pauses_before_attempts_grow_and_are_left_to_chance() -> None:
    seen: list[list[float]] = []

    async def main(seed: int, **options: Any) -> None:
        started.clear()
        async with SimCluster(1, seed=seed, duration=0.001) as cluster:
            ref = job.options(max_retries=8, **options).remote(100)
            await kill_each(cluster, 9)
            with pytest.raises(actorfw.WorkerDiedError):
                await ref
        seen.append(pauses())

    for seed in range(6):
        run(main(seed))
    startup = 0.3  # a new worker process and a turn
    for i in range(8):
        assert max(found[i] for found in seen) <= 0.05 * 2**i + startup
    assert len({found[7] for found in seen}) == 6
    assert max(found[7] for found in seen) > 1.0
    seen.clear()
    run(main(1, retry_delay=1.0))
    assert all(0.5 <= pause <= 1.5 + startup for pause in seen[0])
    assert max(seen[0]) - min(seen[0]) > 0.2


def test_a_task_whose_node_dies_runs_elsewhere() -> None:
    async def main() -> None:
        async with SimCluster(3, seed=1) as cluster:
            there = actorfw.NodeAffinity(cluster.nodes[1].id, soft=True)
            gone = cluster.nodes[1].id
            ref = job.options(scheduling=there, max_retries=1).remote(3)
            while not started:
                await asyncio.sleep(0.01)
            cluster.crash(1)
            assert await ref == "done"
            assert [node == gone for _, node in started] == [True, False]

    run(main())


@pytest.mark.parametrize(
    ("listed", "error", "runs"),
    [(False, OSError, 1), (True, OSError, 4), ([OSError], FileNotFoundError, 4), ([OSError], ValueError, 1)],
)
def test_exceptions_of_the_user_are_retried_if_they_are_listed(listed: Any, error: type[Exception], runs: int) -> None:
    async def main() -> None:
        async with SimCluster(2, seed=1):
            with pytest.raises(error):
                await raises.options(max_retries=3, retry_exceptions=listed).remote(error)
            assert len(started) == runs

    run(main())


def test_a_stream_whose_next_attempt_waits_while_its_items_are_read_goes_on() -> None:
    """What its reader says meanwhile that it has read is not forgotten when the attempt begins."""

    async def main() -> None:
        duration = {"numbers": 0.001}
        async with SimCluster(1, seed=1, duration=lambda name: duration[name]) as cluster:
            stream = numbers.remote(200)
            await asyncio.sleep(1)  # it is as far ahead as it may be
            duration["numbers"] = 10.0
            assert cluster.kill_worker(0)
            await asyncio.sleep(1)
            got = [await anext(stream) for _ in range(32)]
            duration["numbers"] = 0.001
            assert len(started) == 1  # the second attempt has not begun
            got += [item async for item in stream]
            assert got == list(range(200))
            assert len(started) == 2

    async def soon() -> None:
        await asyncio.wait_for(main(), 100)

    run(soon())


@actorfw.remote(max_retries=1)
async def stubborn(attempts: list[int]) -> str:
    note()
    for _ in range(2 if len(started) == 1 else 1):  # the first attempt does not obey the first time
        try:
            await asyncio.sleep(200)
        except asyncio.CancelledError:
            started.append((0.0, "cancelled"))
            if len(started) > 2:
                raise
    return "done"


def test_a_task_that_runs_twice_at_its_node_is_cancelled_twice() -> None:
    async def main() -> None:
        async with SimCluster(3, seed=1, config=actorfw.Config(link_patience=3.0)) as cluster:
            there = actorfw.NodeAffinity(cluster.nodes[1].id)
            ref = stubborn.options(scheduling=there).remote([])
            await asyncio.sleep(0.5)
            cluster.partition([0], [1])
            cluster.reset(0, 1)
            await asyncio.sleep(6)  # it is lost, and told so as soon as that can be said
            cluster.heal()
            await asyncio.sleep(6)
            assert [what == "cancelled" for _, what in started] == [False, True, False]
            assert len(cluster.nodes[1].runtime.execution._foreign) == 2
            actorfw.cancel(ref)
            with pytest.raises(actorfw.TaskCancelledError):
                await ref
            await asyncio.sleep(1)
            assert [what for _, what in started].count("cancelled") >= 2
            assert not [key for key in cluster.nodes[1].runtime.execution._foreign if key[2] == 2]

    run(main())
