"""Actors that are started again, with real processes that really die."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import actorfw

pytestmark = pytest.mark.real


@actorfw.remote(executor="process", max_restarts=-1, restart_backoff=0.01)
class Worker:
    """Lives in a process of its own, which can be killed."""

    def __init__(self, name: str = "") -> None:
        self.calls: list[int] = []
        self.name = name

    def pid(self) -> int:
        return os.getpid()

    def note(self, k: int) -> list[int]:
        self.calls.append(k)
        return self.calls

    def wait(self, seconds: float, mark: Path | None = None) -> int:
        if mark is not None:
            mark.touch()
        time.sleep(seconds)
        return os.getpid()

    def token(self) -> int:
        return actorfw.context().fencing_token

    def ends_itself(self) -> None:
        os._exit(3)


@actorfw.remote(max_restarts=1)
class OnLoop:
    """Lives on a node's loop."""

    async def pid(self) -> int:
        return os.getpid()

    async def token(self) -> int:
        return actorfw.context().fencing_token


async def test_kill_9_of_its_process_starts_it_again() -> None:
    async with actorfw.init(num_cpus=1):
        w: Any = Worker.remote("w")
        first = await w.pid()
        assert await w.note(1) == [1]
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(10):
            while True:
                try:
                    second = await w.pid()
                except actorfw.ActorUnavailableError:
                    continue  # it had been given to the process before anybody knew of its death
                break
        assert second != first
        assert await w.note(2) == [2]
        assert await w.token() == 2
        assert (await actorfw.info(w)).incarnation == 2


async def test_calls_behind_the_one_that_ran_are_for_the_next_process(tmp_path: Path) -> None:
    async with actorfw.init(num_cpus=1):
        w: Any = Worker.remote()
        first = await w.pid()
        running = w.wait.remote(60, tmp_path / "runs")
        behind = [w.note.remote(k) for k in range(100)]
        async with asyncio.timeout(10):
            while not (tmp_path / "runs").exists():
                await asyncio.sleep(0.005)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(actorfw.ActorUnavailableError) as caught:
            await running
        assert caught.value.ran is None
        assert "SIGKILL" in str(caught.value)
        async with asyncio.timeout(20):
            assert (await asyncio.gather(*behind))[-1] == list(range(100))


async def test_a_call_that_kills_its_process_is_retried_as_often_as_it_may() -> None:
    async with actorfw.init(num_cpus=1):
        w: Any = Worker.remote()
        await w.pid()
        with pytest.raises(actorfw.ActorUnavailableError):
            await w.ends_itself.options(max_task_retries=2).remote()
        assert await w.token() == 4


async def test_a_killed_node_leaves_its_actor_to_another() -> None:
    async with actorfw.LocalCluster(nodes=2, num_cpus=1, driver_cpus=0) as cluster:
        at = {row.pid: row.id for row in await actorfw.nodes()}
        place = actorfw.NodeAffinity(at[cluster.pid(0)], soft=True)
        h: Any = OnLoop.options(scheduling=place, max_task_retries=1).remote()
        assert await h.pid() == cluster.pid(0)
        await cluster.kill(0)
        async with asyncio.timeout(20):
            assert (await h.pid()) in (cluster.pid(1), os.getpid())
        assert await h.token() == 2
        assert (await actorfw.info(h)).incarnation == 2
