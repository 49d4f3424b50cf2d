"""`LocalCluster`: children with indices, addresses, and three ways to change."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import textwrap

import pytest

import actorfw
from actorfw.io.env import usual_store_memory
from actorfw.runtime import current
from actorfw.runtime.node import Node

pytestmark = pytest.mark.real


@actorfw.remote
def where() -> tuple[str, int]:
    return actorfw.context().node_id, os.getppid()


@actorfw.remote
async def on_the_loop() -> int:
    return os.getpid()


async def node_ids(*, here: bool = False) -> list[str]:
    return [row.id for row in await actorfw.nodes() if row.here is here]


async def test_children_keep_their_index() -> None:
    async with actorfw.LocalCluster(nodes=2, num_cpus=1, driver_cpus=0) as cluster:
        assert cluster.indices == [0, 1]
        first, second = cluster.addresses
        rows = {row.address: row for row in await actorfw.nodes()}
        assert set(rows) == {cluster.node.address, first, second}
        assert [rows[address].pid for address in cluster.addresses] == [cluster.pid(0), cluster.pid(1)]
        assert [rows[address].resources["CPU"] for address in cluster.addresses] == [1, 1]
        assert "CPU" not in rows[cluster.node.address].resources

        await cluster.kill(0)
        assert cluster.indices == [1]
        assert cluster.addresses == [second]
        assert await cluster.add_node(num_cpus=2, name="third", labels={"disk": "ssd"}) == 2
        assert cluster.indices == [1, 2]
        rows = {row.address: row for row in await actorfw.nodes()}
        third = rows[cluster.addresses[1]]
        assert (third.name, third.resources["CPU"], third.labels) == ("third", 2, {"disk": "ssd"})
        place = actorfw.NodeAffinity(third.id)
        assert (await where.options(scheduling=place).remote())[0] == third.id
        assert await on_the_loop.options(scheduling=place).remote() == cluster.pid(2)

        await cluster.stop(1)
        assert cluster.indices == [2]
        for wrong in (0, 1, 3):
            with pytest.raises(actorfw.UsageError, match=r"no live node \d; it has \[2\]"):
                cluster.stop(wrong)
        assert await cluster.add_node() == 3


async def test_the_killed_is_dead_and_its_work_runs_elsewhere() -> None:
    async with actorfw.LocalCluster(nodes=2, num_cpus=1, driver_cpus=0) as cluster:
        victims = {row.address: row.id for row in await actorfw.nodes()}
        victim = victims[cluster.addresses[0]]
        pid = cluster.pid(0)
        soft = actorfw.NodeAffinity(victim, soft=True)
        ref = held.options(scheduling=soft).remote(victim)
        await actorfw.wait([where.options(scheduling=soft).remote()], timeout=0)
        await cluster.kill(0)
        assert has_ended(pid)
        assert await ref != victim


@actorfw.remote
def held(at: str) -> str:
    """Where it runs, and for ever on the node that is killed."""
    if actorfw.context().node_id == at:
        signal.pause()
    return actorfw.context().node_id


async def test_one_that_dies_by_itself_is_no_child_any_more() -> None:
    async with actorfw.LocalCluster(nodes=2, num_cpus=0) as cluster:
        gone = cluster.addresses[1]
        os.kill(cluster.pid(1), signal.SIGKILL)
        while cluster.indices != [0] or gone in {row.address for row in await actorfw.nodes()}:
            await asyncio.sleep(0.001)
        with pytest.raises(actorfw.UsageError):
            cluster.kill(1)


async def test_options_are_checked() -> None:
    for wrong in ({"nodes": -1}, {"nodes": "three"}, {"nodes": True}, {"sead": 1}, {"seeds": ["127.0.0.1:1"]}):
        with pytest.raises(actorfw.UsageError):
            actorfw.LocalCluster(**wrong)  # type: ignore[arg-type]
    cluster = actorfw.LocalCluster()
    with pytest.raises(actorfw.UsageError, match="was not started"):
        cluster.node
    with pytest.raises(actorfw.UsageError, match="was not started"):
        cluster.add_node()
    with pytest.raises(actorfw.BlockingCallError, match="async with"), cluster:
        pass
    async with actorfw.LocalCluster(nodes=0, num_cpus=0) as empty:
        assert (empty.indices, empty.addresses) == ([], [])
        with pytest.raises(actorfw.UsageError, match="num_cpu"):
            await empty.add_node(num_cpu=1)  # type: ignore[call-arg]
        with pytest.raises(actorfw.ActorFwError, match=r"node 0 of the cluster did not start: UsageError: .*num_cpus"):
            await empty.add_node(num_cpus=-1)
        assert empty.indices == []


async def test_children_share_secret_namespace_cluster_and_config() -> None:
    config = actorfw.Config(link_patience=3)
    async with actorfw.LocalCluster(
        nodes=1, num_cpus=1, driver_cpus=0, namespace="n", cluster="c", secret="a secret for a test", config=config
    ):
        assert await settings.remote() == ("n", "c", 3)


@actorfw.remote(num_cpus=0)
async def settings() -> tuple[str, str, float]:
    from actorfw.runtime import current

    node = current.home()
    return node.options.namespace, node.options.cluster, node.config.link_patience  # type: ignore[attr-defined]


def test_in_a_script_its_verbs_are_for_get() -> None:
    with actorfw.LocalCluster(nodes=1, num_cpus=1, driver_cpus=0) as cluster:
        assert actorfw.get(cluster.add_node()) == 1
        actorfw.get([cluster.kill(0), cluster.stop(1)])
        assert cluster.indices == []
        cluster.add_node()  # whoever does not wait loses the answer, not the deed


async def test_leaving_while_nodes_are_added() -> None:
    async with actorfw.LocalCluster(nodes=0, num_cpus=0) as cluster:
        adding = [cluster.add_node() for _ in range(2)]
        await asyncio.sleep(0)
    for reply in adding:
        assert reply.done()


async def test_a_start_that_is_cancelled() -> None:
    starting = asyncio.ensure_future(actorfw.LocalCluster(nodes=2, num_cpus=0).__aenter__())
    while not _children_of(os.getpid()):
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


def _children_of(pid: int) -> list[str]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def test_children_end_with_their_parent_however_it_ends() -> None:
    program = textwrap.dedent("""
        import actorfw, os, signal
        cluster = actorfw.LocalCluster(nodes=2, num_cpus=1)
        cluster.__enter__()
        print(*map(cluster.pid, cluster.indices), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == -signal.SIGKILL
    # stderr was captured to its end: nobody holds it any more, so all who could write to it have ended.
    assert all(has_ended(int(pid)) for pid in done.stdout.split())


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or ends within some seconds."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], 10)[0])
    finally:
        os.close(fd)


def test_what_a_child_writes_past_its_tasks_goes_to_stderr() -> None:
    program = textwrap.dedent("""
        import actorfw, os

        class Raw(actorfw.Actor):
            @actorfw.method
            async def write(self) -> None:
                os.write(1, b"raw\\n")
                print("printed")

        with actorfw.LocalCluster(nodes=1, num_cpus=1, driver_cpus=0) as cluster:
            child = next(row.id for row in actorfw.get(actorfw.nodes()) if not row.here)
            raw = Raw.options(scheduling=actorfw.NodeAffinity(child)).remote()
            actorfw.get(raw.write())
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "raw\n"
    assert done.stdout.startswith("(Raw pid=")
    assert done.stdout.endswith(") printed\n")


@actorfw.remote(num_cpus=0)
async def store_limit() -> int:
    home = current.home()
    assert isinstance(home, Node)
    return home.store.limit


async def test_its_nodes_divide_what_one_would_take() -> None:
    alone = usual_store_memory()
    async with actorfw.LocalCluster(nodes=2) as cluster:
        await cluster.add_node()
        await cluster.add_node(object_store_memory=100 << 20)
        rows = {row.address: row.id for row in await actorfw.nodes()}
        places = [rows[cluster.node.address], *(rows[address] for address in cluster.addresses)]
        limits = [await store_limit.options(scheduling=actorfw.NodeAffinity(place)).remote() for place in places]
    own, first, second, third, fourth = limits
    assert own + first + second <= alone + 4096
    assert own == first == second > alone / 3 - 4096
    assert third <= alone / 4 + 4096
    assert fourth == 100 << 20
