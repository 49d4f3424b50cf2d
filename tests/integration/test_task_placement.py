"""Where tasks go: resources, devices, labels, affinity, spreading, and what happens to those that fit nowhere."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import actorfw
from tests.integration.quiet import all_quiet

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[actorfw.LocalCluster]:
    async with actorfw.LocalCluster(nodes=0, num_cpus=1) as running:
        await running.add_node(name="big", num_cpus=3, num_gpus=2, labels={"zone": "a"}, resources={"disk": 2})
        await running.add_node(name="small", num_cpus=1, labels={"zone": "b"})
        yield running


async def ids() -> dict[str, str]:
    return {row.name: row.id for row in await actorfw.nodes()}


@actorfw.remote
def where() -> str:
    return actorfw.context().node_id


@actorfw.remote
def devices() -> tuple[str | None, tuple[int, ...]]:
    return os.environ.get("CUDA_VISIBLE_DEVICES"), tuple(actorfw.context().gpus)


async def test_resources_and_labels_choose_the_node(cluster: actorfw.LocalCluster) -> None:
    nodes = await ids()
    for options, name in (
        ({"num_cpus": 3}, "big"),
        ({"num_gpus": 1}, "big"),
        ({"resources": {"disk": 1}}, "big"),
        ({"scheduling": actorfw.Labels({"zone": "a"})}, "big"),
        ({"scheduling": actorfw.Labels({"zone": "b"})}, "small"),
        ({"scheduling": actorfw.NodeAffinity(nodes["small"])}, "small"),
        ({"scheduling": actorfw.NodeAffinity("0" * 16, soft=True), "resources": {"disk": 1}}, "big"),
    ):
        for executor in ("process", "thread", "loop"):
            assert await where.options(executor=executor, **options).remote() == nodes[name]


async def test_spread(cluster: actorfw.LocalCluster) -> None:
    @actorfw.remote(num_cpus=0, executor="thread", scheduling="spread")
    def slow(path: str) -> str:
        while not Path(path).exists():
            threading.Event().wait(0.005)
        return actorfw.context().node_id

    nodes = await ids()
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"actorfw-spread-{os.getpid()}"
    refs = [slow.remote(str(path)) for _ in range(3 * len(nodes))]
    try:
        path.touch()
        assert Counter(await asyncio.gather(*refs)) == dict.fromkeys(nodes.values(), 3)
    finally:
        path.unlink()
    del refs
    await all_quiet()


async def test_a_task_sees_its_devices(cluster: actorfw.LocalCluster) -> None:
    assert await devices.remote() == (None, ())
    visible, gpus = await devices.options(num_gpus=1).remote()
    assert visible == str(gpus[0])
    assert await devices.options(num_gpus=2).remote() == ("0,1", (0, 1))
    visible, gpus = await devices.options(num_gpus=0.5).remote()
    assert visible == str(gpus[0])
    assert await devices.options(scheduling=actorfw.NodeAffinity((await ids())["big"])).remote() == (None, ())


async def test_no_more_run_at_once_than_there_is_room_for(cluster: actorfw.LocalCluster, tmp_path: Path) -> None:
    def one_of(path: str) -> int:
        mine = Path(path) / str(os.getpid())
        mine.touch()
        n = len(os.listdir(path))
        threading.Event().wait(0.01)
        mine.unlink()
        return n

    run = actorfw.remote(one_of).options(num_cpus=0.1, resources={"disk": 1})
    assert max(await asyncio.gather(*(run.remote(str(tmp_path)) for _ in range(30)))) == 2


async def test_a_large_task_is_not_starved_by_small_ones(cluster: actorfw.LocalCluster, tmp_path: Path) -> None:
    big = actorfw.NodeAffinity((await ids())["big"])
    done = tmp_path / "done"

    @actorfw.remote
    def small(path: str) -> None:
        threading.Event().wait(0.01)

    @actorfw.remote
    async def feeder(path: str) -> int:
        """Keeps the queue of small ones full until the large one has run."""
        count = 0
        running = {small.remote(path) for _ in range(8)}
        while not Path(path).exists():
            _, running_now = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            running = set(running_now)
            while len(running) < 8:
                running.add(small.remote(path))
                count += 1
        await asyncio.wait(running)
        return count

    @actorfw.remote
    async def large(path: str) -> None:
        await actorfw.remote(lambda: Path(path).touch()).options(num_cpus=3).remote()

    feeding = feeder.options(scheduling=big).remote(str(done))
    async with asyncio.timeout(25):
        await large.options(scheduling=big).remote(str(done))
    assert await feeding > 0
    await all_quiet()


async def test_what_fits_nowhere_waits_and_says_so(
    cluster: actorfw.LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "actorfw"):
        ref = where.options(resources={"laser": 1}).remote()
        with pytest.raises(actorfw.UnschedulableError, match="laser") as caught:
            await where.options(num_cpus=64, resources={"laser": 2}, schedule_timeout=0.1).remote()
    assert caught.value.ran is False
    assert "64" in str(caught.value)
    said = [record.message for record in caplog.records if "laser" in record.message]
    assert len(said) == 2
    assert "where" in said[0]
    assert "big" in said[0]
    assert not ref.done()
    index = await cluster.add_node(name="with laser", num_cpus=1, resources={"laser": 1})
    assert await ref == (await ids())["with laser"]
    await cluster.stop(index)
    for wrong in (actorfw.NodeAffinity("0" * 16), actorfw.Labels({"zone": "c"})):
        with pytest.raises(actorfw.UnschedulableError):
            await where.options(scheduling=wrong, schedule_timeout=0.05).remote()
    del ref, caught
    await all_quiet()


async def test_a_schedule_timeout_counts_while_all_are_busy(cluster: actorfw.LocalCluster) -> None:
    @actorfw.remote(executor="thread")
    def hold() -> None:
        threading.Event().wait(0.5)

    small = actorfw.NodeAffinity((await ids())["small"])
    holding = [hold.options(scheduling=small).remote() for _ in range(4)]
    with pytest.raises(actorfw.UnschedulableError, match="busy"):
        await where.options(scheduling=small, schedule_timeout=0.05).remote()
    await asyncio.gather(*holding)
    assert await where.options(scheduling=small, schedule_timeout=20).remote() == small.node_id


async def test_a_node_with_hosts_own_runs_nothing_of_others(cluster: actorfw.LocalCluster) -> None:
    index = await cluster.add_node(name="own", num_cpus=1, hosts="own", resources={"private": 1})
    with pytest.raises(actorfw.UnschedulableError, match="own"):
        await where.options(resources={"private": 1}, schedule_timeout=0.05).remote()
    await cluster.stop(index)


async def test_without_cpus_only_what_asks_for_none_runs(cluster: actorfw.LocalCluster) -> None:
    async with actorfw.Node(num_cpus=0):
        with pytest.raises(actorfw.UnschedulableError, match="CPU"):
            await where.options(schedule_timeout=0.05).remote()
        assert await where.options(num_cpus=0).remote()
        assert await where.options(num_cpus=0, executor="thread").remote()


async def test_all_resources_come_back(cluster: actorfw.LocalCluster) -> None:
    await all_quiet()
    assert await actorfw.available_resources() == await actorfw.cluster_resources()
