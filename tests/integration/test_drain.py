"""Draining real processes: a signal, the command, and a rolling restart under load."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

import actorfw
from tests.integration.shell import SECRET, Started, command

pytestmark = pytest.mark.real


@actorfw.remote(num_cpus=0)
async def make() -> dict[str, actorfw.ObjectRef[list[int]]]:
    return {"made": actorfw.put([1, 2, 3])}


@actorfw.remote
def after(seconds: float, value: Any) -> Any:
    import time

    time.sleep(seconds)
    return value


@actorfw.remote
class Place(actorfw.Actor):
    async def pid(self) -> int:
        import os

        return os.getpid()


async def ids() -> dict[str, str]:
    return {row.name: row.id for row in await actorfw.nodes()}


async def test_a_signal_drains_and_what_others_hold_lives_on(tmp_path: Path) -> None:
    started = await asyncio.to_thread(Started(tmp_path, "--name", "leaver").up)
    try:
        async with actorfw.Node(started.address, secret=SECRET, num_cpus=1, name="stays"):
            there = actorfw.NodeAffinity((await ids())["leaver"])
            box = await make.options(scheduling=there).remote()
            running = after.options(scheduling=there, max_retries=0).remote(1.0, "finished")
            await after.options(scheduling=there, num_cpus=0).remote(0, None)
            status, out, err = await asyncio.to_thread(started.end, signal.SIGTERM)
            assert (status, out) == (0, ""), err
            assert await running == "finished"
            assert await box["made"] == [1, 2, 3]
            assert set(await ids()) == {"stays"}
    finally:
        started.process.kill()
        started.process.communicate()


async def test_when_the_time_is_over_the_exit_status_says_so(tmp_path: Path) -> None:
    started = await asyncio.to_thread(Started(tmp_path, "--name", "leaver", "--drain-timeout", "0.2").up)
    try:
        async with actorfw.Node(started.address, secret=SECRET, num_cpus=1, name="stays"):
            there = actorfw.NodeAffinity((await ids())["leaver"])
            running = after.options(scheduling=there, max_retries=0).remote(60, None)
            await after.options(scheduling=there, num_cpus=0).remote(0, None)
            status, _, err = await asyncio.to_thread(started.end, signal.SIGINT)
            assert status == 1
            assert "gave up 1 task" in err
            with pytest.raises(actorfw.NodeDiedError):
                await running
    finally:
        started.process.kill()
        started.process.communicate()


def test_the_command_drains_a_node_which_then_ends(tmp_path: Path) -> None:
    first = Started(tmp_path, "--name", "first").up()
    second = Started(tmp_path, "--seed", first.address, "--name", "second").up()
    try:
        done = command(tmp_path, "drain", "second", "--seed", first.address, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        report = json.loads(done.stdout)
        assert (report["node"], report["tasks"], report["objects"]) == ("second", 0, 0)
        out, _ = second.process.communicate(timeout=20)
        assert (second.process.returncode, out) == (0, "")
        assert [
            row["name"] for row in json.loads(command(tmp_path, "nodes", "--seed", first.address, "--json").stdout)
        ] == ["first"]
        done = command(tmp_path, "drain", "second", "--seed", first.address)
        assert (done.returncode, done.stdout) == (2, "")
        assert "no member of the cluster has the name or id 'second'" in done.stderr
    finally:
        for one in (first, second):
            one.process.kill()
            one.process.communicate()


async def test_a_rolling_restart_under_load_loses_no_call() -> None:
    async with actorfw.LocalCluster(nodes=2, num_cpus=1, driver_cpus=0) as cluster:
        place = Place.options(max_restarts=1, scheduling="spread").remote()
        boxes = [
            await make.options(scheduling=actorfw.NodeAffinity(row.id)).remote()
            for row in await actorfw.nodes()
            if not row.here
        ]
        over = asyncio.Event()
        done = 0

        async def submit(number: int) -> None:
            nonlocal done
            while not over.is_set():
                assert await after.options(max_retries=0).remote(0.01, number) == number
                done += 1

        async def call() -> None:
            nonlocal done
            while not over.is_set():
                assert await place.pid() > 0
                done += 1
                await asyncio.sleep(0.005)

        load = [asyncio.ensure_future(submit(number)) for number in range(4)]
        load.append(asyncio.ensure_future(call()))
        before = set(await ids())
        for index in (0, 1):
            await cluster.add_node()
            report = await cluster.stop(index)
            assert report.complete, report
        over.set()
        await asyncio.gather(*load)
        assert done > 20
        assert len(set(await ids()) & before) == 1  # this process's own
        assert [await box["made"] for box in boxes] == [[1, 2, 3]] * 2
