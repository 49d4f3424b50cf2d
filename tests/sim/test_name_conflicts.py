"""Two clusters that meet and never knew each other: of two actors with one name the older one stays."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run

PORTS = (30001, 30002)
STOPPED: list[tuple[int, str]] = []


@actorfw.remote(num_cpus=0, executor="loop")
class Counter:
    def __init__(self, start: int) -> None:
        self.n = start

    async def add(self, k: int = 1) -> int:
        self.n += k
        return self.n

    async def on_stop(self, reason: str) -> None:
        STOPPED.append((self.n, reason))


def founder(index: int) -> dict[str, Any]:
    """Options of a node that founds a cluster, and looks for the other one all the time."""
    addresses = [f"127.0.0.1:{port}" for port in PORTS]
    return {"listen": ("127.0.0.1", PORTS[index]), "seeds": [addresses[index], addresses[1 - index]]}


async def listen(heard: list[actorfw.NameConflict]) -> None:
    async for event in actorfw.events():
        if isinstance(event, actorfw.NameConflict):
            heard.append(event)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("detached", [False, True])
def test_the_older_actor_keeps_its_name_and_the_other_is_told(seed: int, detached: bool) -> None:
    async def main() -> None:
        STOPPED.clear()
        heard: list[actorfw.NameConflict] = []

        async def create(start: int, name: str = "same") -> Any:
            handle = Counter.options(name=name, detached=detached).remote(start)
            assert await handle.add() == start + 1
            return handle

        async with SimCluster(1, seed, **founder(0)) as cluster:
            cluster.network.partition(["n0"], ["n1"])
            await cluster.add_node(**founder(1))
            # The elder is now at the one, now at the other founder.
            elder, younger = seed % 2, 1 - seed % 2
            old = await cluster.run_on(elder, create, 100)
            await asyncio.sleep(3)
            young = await cluster.run_on(younger, create, 200)
            alone = [await cluster.run_on(index, create, 1000 * (index + 1), f"of {index}") for index in range(2)]
            lives = [one.runtime.life for one in cluster.nodes]
            listening = [asyncio.ensure_future(cluster.run_on(index, listen, heard)) for index in range(2)]

            async def watch() -> actorfw.Terminated:
                return await actorfw.watch(young)

            watching = asyncio.ensure_future(cluster.run_on(younger, watch))
            await asyncio.sleep(30)
            assert not watching.done()
            cluster.heal()
            ended = await watching
            assert ended.reason == "name_conflict"
            await asyncio.sleep(10)
            assert [one.runtime.life for one in cluster.nodes] == lives, "nobody was dead, nobody takes a new life"
            shards = [shard for one in cluster.nodes for shard in one.runtime.directory.names.kept_shards]
            assert sorted(shards) == list(range(256))
            for index in range(2):
                async with cluster.on(index):
                    assert 101 < await (await actorfw.get_actor("same")).add() < 200
                    for other in range(2):
                        assert await (await actorfw.get_actor(f"of {other}")).add() > 1000 * (other + 1)
            async with cluster.on(younger):
                with pytest.raises(actorfw.ActorDiedError) as died:
                    await young.add()
                assert died.value.reason == "name_conflict"
            assert STOPPED == [(201, "name_conflict")]
            assert heard
            assert {(event.name, event.namespace) for event in heard} == {("same", "default")}
            async with cluster.on(elder):
                kept = (await actorfw.info(old)).id
            assert {event.kept for event in heard} == {kept}
            assert kept not in {event.stopped for event in heard}
            for one in listening:
                one.cancel()
            await asyncio.gather(*listening, return_exceptions=True)
            del alone

    run(main)
