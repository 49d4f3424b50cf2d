"""Many watch many actors while nodes die, are cut off and freeze: each watch hears one end, and a true one."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run

SEEDS = int(os.environ.get("ACTORFW_SIM_SEEDS", "0")) or 8
NODES = 4
ACTORS = 5
QUIET = 45.0  # virtual seconds without faults, after which everybody knows what is true


@actorfw.remote(num_cpus=0)
class Subject(actorfw.Actor):
    async def ping(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return actorfw.context().fencing_token

    async def leave(self) -> None:
        actorfw.exit_actor()


@actorfw.remote(num_cpus=0, executor="process")
class Process(actorfw.Actor):
    def ping(self, seconds: float) -> int:
        return actorfw.context().fencing_token

    def leave(self) -> None:
        actorfw.exit_actor()


class Seen:
    """What one watcher was told, and what its calls brought."""

    def __init__(self, name: str, index: int) -> None:
        self.name = name
        self.index = index
        self.ends: list[str] = []
        self.restarts: list[int] = []
        self.after: list[Any] = []
        self.ran: bool | None = False  # what calls after the end say

    async def watch(self) -> None:
        try:
            handle: Any = await actorfw.get_actor(self.name)
        except actorfw.ActorFwError:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._iterate(handle))
            group.create_task(self._call(handle))
            await self._await(handle)

    async def _await(self, handle: Any) -> None:
        ended = await actorfw.watch(handle)
        self.ends.append(ended.reason)
        if ended.reason != "fenced":  # to its next life the actor is unknown, and may be met anew
            try:
                self.after.append(await handle.ping(0))
            except actorfw.ActorDiedError as error:
                self.ran = error.ran

    async def _iterate(self, handle: Any) -> None:
        async for told in actorfw.watch(handle, restarts=True):
            assert not isinstance(told, actorfw.Terminated) or told.actor == handle
            if isinstance(told, actorfw.Restarted):
                self.restarts.append(told.incarnation)
            else:
                self.restarts.append(0)

    async def _call(self, handle: Any) -> None:
        while not self.ends:
            try:
                token = await handle.ping(1.0)
            except actorfw.ActorFwError:
                await asyncio.sleep(0.2)
            else:
                if self.ends:
                    self.after.append(token)
                await asyncio.sleep(0.5)


async def scene(seed: int) -> None:
    rng = random.Random(seed)
    async with SimCluster(NODES, seed) as cluster:
        made: dict[str, int] = {}
        watchers: list[tuple[Seen, asyncio.Task[None]]] = []

        async def make(name: str) -> None:
            kind: Any = rng.choice((Subject, Process))
            where = actorfw.NodeAffinity(cluster.nodes[rng.randrange(NODES)].id, soft=True)
            options = {"name": name, "scheduling": where, "max_restarts": rng.choice((0, 1, 3))}
            await kind.options(**options).remote().ping(0)

        async def watch(name: str, index: int) -> None:
            seen = Seen(name, index)
            async with cluster.on(index):
                watchers.append((seen, asyncio.create_task(seen.watch())))

        for number in range(ACTORS):
            name = f"a{number}"
            made[name] = rng.randrange(1, NODES)
            await cluster.run_on(made[name], make, name)
        for name in made:
            for index in {0, rng.randrange(NODES)}:
                await watch(name, index)

        async def disturb() -> None:
            up = [node.index for node in cluster.alive if node.index]
            index = rng.choice(up)
            match rng.choice(
                ("crash", "cut", "kill", "stop", "leave", "worker", "worker", "freeze", "stall", "part", "watch")
            ):
                case "crash" if len(up) > 2:
                    cluster.crash(index)
                case "cut":
                    cluster.cut(0, index)
                case "freeze":
                    cluster.freeze(index)
                    await asyncio.sleep(rng.choice((1, 4)))
                    cluster.thaw(index)
                case "stall":
                    cluster.stall(0, index)
                    await asyncio.sleep(1)
                    cluster.heal()
                case "part":
                    cluster.partition([index])
                    await asyncio.sleep(rng.choice((1, 15)))
                    cluster.heal()
                case "worker":
                    busy = [node.index for node in cluster.alive if node.workers]
                    if busy:
                        cluster.kill_worker(rng.choice(busy))
                case "watch":
                    await watch(rng.choice(list(made)), rng.choice([0, *up]))
                case "kill" | "stop" | "leave" as how:
                    try:
                        async with asyncio.timeout(5):
                            handle: Any = await actorfw.get_actor(rng.choice(list(made)))
                            if how == "kill":
                                actorfw.kill(handle)
                            elif how == "stop":
                                await actorfw.stop(handle)
                            else:
                                await handle.leave()
                    except (actorfw.ActorFwError, TimeoutError):
                        pass
                case _:
                    pass

        for _ in range(10):
            await asyncio.sleep(rng.random() * 2)
            await disturb()
        cluster.heal()
        await cluster.settle(QUIET)

        alive = {node.index: node.runtime for node in cluster.alive}
        lives: set[str] = set()
        for runtime in alive.values():
            for cell in runtime.hosting.cells.values():
                if cell.guardian in {other.life for other in alive.values()}:
                    record = next(r for r in alive.values() if r.life == cell.guardian).guardians.actors[cell.id]
                    lives.add(str(record.options["name"]))
        watchers = [(seen, task) for seen, task in watchers if seen.index in alive]
        for seen, task in watchers:
            if task.done():
                task.result()
            assert seen.ran is False
            assert seen.after == [], f"{seen.name} on n{seen.index}: answers after {seen.ends}"
            if seen.name in lives:
                assert seen.ends in ([], ["fenced"]), f"{seen.name} lives, n{seen.index} was told {seen.ends}"
            elif not task.done() or seen.ends:
                assert len(seen.ends) == 1, f"{seen.name} has ended, n{seen.index} was told {seen.ends}"
            ends = [i for i, number in enumerate(seen.restarts) if number == 0]
            assert ends in ([], [len(seen.restarts) - 1]), seen.restarts
            assert seen.restarts == sorted(set(seen.restarts) - {0}) + [0] * len(ends), seen.restarts
            assert bool(ends) == bool(seen.ends)
            task.cancel()
        await asyncio.gather(*(task for _, task in watchers), return_exceptions=True)
        await cluster.settle()
        for runtime in alive.values():
            watched = set(runtime.watching._watched)
            assert not watched, f"{runtime.name}: {watched}"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_watch_hears_the_truth_once(seed: int) -> None:
    run(scene(seed))
