"""`local:CLUSTER`: the processes of one user on one host find each other, whatever has become of some of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

import actorfw

pytestmark = pytest.mark.real

# Forks so many processes at once, each with a node; each says its name, how many members it saw, and its address.
HERD = """
import os, sys
import actorfw
from actorfw.api.member import live
from actorfw.api.life import run
count, first = map(int, sys.argv[1:])
for index in range(first, first + count):
    if os.fork() == 0:
        config = actorfw.Config(join_timeout=20)
        node = actorfw.Node(name=f"n{index}", num_cpus=0, config=config)
        def up(node):
            os.write(1, f"{node.name} {os.getpid()} {len(node.runtime.members.addresses)} {node.address}\\n".encode())
        run(live(node, up, timeout=1))
        os._exit(0)
for _ in range(count):
    os.wait()
"""


class Up(NamedTuple):
    name: str
    pid: int
    members: int
    address: str


class Herd:
    """Processes with nodes that look for each other in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started = 0
        self.parents: list[asyncio.subprocess.Process] = []
        self.pids: list[int] = []

    async def start(self, count: int, *before: str, **environment: str) -> list[Up]:
        """Start so many at once; returns them when all are up."""
        parent = await asyncio.create_subprocess_exec(
            *before, sys.executable, "-c", HERD, str(count), str(self.started),
            stdout=subprocess.PIPE,
            env={**os.environ, "XDG_RUNTIME_DIR": str(self.folder), "ACTORFW_SEEDS": "local:herd", **environment},
        )  # fmt: skip
        self.parents.append(parent)
        self.started += count
        assert parent.stdout is not None
        found: list[Up] = []
        for _ in range(count):
            name, pid, members, address = (await asyncio.wait_for(parent.stdout.readline(), 30)).decode().split()
            found.append(Up(name, int(pid), int(members), address))
            self.pids.append(int(pid))
        return found

    @property
    def entries(self) -> list[str]:
        folder = self.folder / "actorfw"
        return os.listdir(folder) if folder.exists() else []

    def kill(self, one: Up, how: int = signal.SIGKILL) -> None:
        os.kill(one.pid, how)
        if how == signal.SIGKILL:
            self.pids.remove(one.pid)

    async def end(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGTERM)
        self.pids.clear()
        await asyncio.gather(*(asyncio.wait_for(parent.wait(), 20) for parent in self.parents))


@pytest.fixture
async def herd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Herd]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    herd = Herd(tmp_path)
    try:
        yield herd
    finally:
        await herd.end()


def node(*, patience: float = 15, **options: object) -> actorfw.Node:
    config = actorfw.Config(join_timeout=patience)
    return actorfw.Node("local:herd", num_cpus=0, config=config, **options)  # type: ignore[arg-type]


async def names(of: actorfw.Node, count: int) -> list[str]:
    """The members as one node sees them, as soon as there are so many."""
    async with asyncio.timeout(20):
        while len(rows := await of.runtime.ask("nodes")) != count:
            await asyncio.sleep(0.02)
    return sorted(row.name for row in rows)


async def test_of_eight_that_start_at_once_one_founds_and_the_others_join(herd: Herd) -> None:
    for round in range(2):
        found = await herd.start(8)
        assert sorted(one.members == 1 for one in found) == [False] * 7 + [True]
        assert len(herd.entries) == 8
        async with node(name="me") as me:
            assert await names(me, 9) == sorted(["me", *(f"n{8 * round + index}" for index in range(8))])
        await herd.end()
        assert herd.entries == []


async def test_after_a_kill_the_next_one_joins_those_that_are_left_and_founds_if_none_is(herd: Herd) -> None:
    found = await herd.start(3)
    founder = next(one for one in found if one.members == 1)
    herd.kill(founder)
    (late,) = await herd.start(1)
    assert late.members > 1
    assert len(herd.entries) == 3
    async with node(name="me") as me:
        assert await names(me, 4) == sorted(["me", late.name, *(one.name for one in found if one is not founder)])
    for one in (late, *found):
        if one is not founder:
            herd.kill(one)
    (next_one,) = await herd.start(1)
    assert next_one.members == 1
    assert len(herd.entries) == 1


async def test_two_users_do_not_meet(herd: Herd, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    one, two = await asyncio.gather(herd.start(1), herd.start(1, XDG_RUNTIME_DIR=str(other)))
    assert one[0].members == two[0].members == 1


async def test_one_that_is_stopped_does_not_hold_up_who_can_join_another(herd: Herd) -> None:
    found = await herd.start(2)
    founder = next(one for one in found if one.members == 1)
    herd.kill(founder, signal.SIGSTOP)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with node(name="me") as me:
        assert loop.time() - began < 8
        assert "me" in await names(me, 3)


async def test_a_stopped_one_alone_is_waited_for_and_named(herd: Herd) -> None:
    (one,) = await herd.start(1)
    herd.kill(one, signal.SIGSTOP)
    with pytest.raises(actorfw.PeerUnreachableError, match=f"Tried {one.address}: .*within|Tried {one.address}: it"):
        await node(patience=0.5).start()
    assert len(herd.entries) == 1
    starting = asyncio.ensure_future(node(patience=20).start())
    await asyncio.sleep(0)
    os.kill(one.pid, signal.SIGCONT)
    me = await starting
    assert len(await names(me, 2)) == 2
    await me.stop()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="making a network namespace needs root")
async def test_a_node_of_another_network_namespace_is_not_of_this_host(herd: Herd) -> None:
    script = 'ip link set lo up 2>/dev/null || ifconfig lo up; exec "$@"'
    inside = await herd.start(2, "unshare", "--net", "sh", "-c", script, "sh")
    assert sorted(one.members for one in inside)[0] == 1
    (outside,) = await herd.start(1)
    assert outside.members == 1
    assert len(herd.entries) == 3


async def test_a_node_that_listens_at_all_addresses_is_found_at_one_of_this_host(herd: Herd, free_port: int) -> None:
    secret = "0123456789abcdef"
    async with (
        node(name="wide", listen=f"0.0.0.0:{free_port}", advertise=f"127.0.0.1:{free_port}", secret=secret) as wide,
        node(name="me", secret=secret) as me,
    ):
        assert await names(me, 2) == ["me", "wide"]
        assert wide.address == f"127.0.0.1:{free_port}"


async def test_the_seed_names_the_cluster(herd: Herd, monkeypatch: pytest.MonkeyPatch) -> None:
    async with node(name="first") as first:
        assert first.runtime.options.cluster == "herd"
    for options, why in (
        ({"cluster": "blue"}, "seeds has \"local:herd\", and cluster= says that the cluster is 'blue'"),
        ({"seeds": ["local:herd", "local:blue"]}, 'seeds has "local:blue", and the seed "local:herd" says'),
        ({"seeds": "local:"}, 'seeds has "local:", which names no cluster'),
    ):
        with pytest.raises(actorfw.UsageError, match=why):
            actorfw.Node(**{"seeds": "local:herd", **options})  # type: ignore[arg-type]
    monkeypatch.setenv("ACTORFW_CLUSTER", "green")
    assert actorfw.Node("local:herd")._made.cluster == "herd"
    assert actorfw.Node([])._made.cluster == "green"
    monkeypatch.setenv("ACTORFW_SEEDS", "local:herd")
    with pytest.raises(actorfw.UsageError, match='ACTORFW_SEEDS has "local:herd", and ACTORFW_CLUSTER says'):
        actorfw.Node()


async def test_a_folder_that_others_may_use_is_an_error_at_once(herd: Herd) -> None:
    folder = herd.folder / "actorfw"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(actorfw.UsageError, match="others may look or write into it"):
        await node(patience=60).start()
    folder.chmod(0o700)
