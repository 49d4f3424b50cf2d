"""What is left of detached actors that have ended: after a while, nothing; and what if all who knew of one die."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorfw
from actorfw.core.entries import shard_of
from actorfw.testing import SimCluster, run


@actorfw.remote(num_cpus=0, executor="loop")
class Holder:
    def __init__(self, data: bytes) -> None:
        self.data = data

    async def size(self) -> int:
        return len(self.data)

    async def on_stop(self, reason: str) -> None:
        STOPPED.append(reason)


STOPPED: list[str] = []


def blobs(cluster: SimCluster) -> list[int]:
    return [len(node.runtime.codes._blobs) for node in cluster.alive]


@pytest.mark.parametrize("named", [True, False])
def test_two_hundred_that_came_and_went_leave_nothing_behind(named: bool) -> None:
    async def main() -> None:
        async with SimCluster(4, 1) as cluster:

            async def create(number: int) -> None:
                name = {"name": f"h{number}"} if named else {}
                made = Holder.options(detached=True, **name).remote(number.to_bytes(1000, "big"))
                assert await made.size() == 1000
                await actorfw.stop(made)

            await create(0)
            await asyncio.sleep(400)
            before = blobs(cluster)
            for number in range(1, 201):
                await cluster.run_on(number % 4, create, number)
            assert sum(blobs(cluster)) > sum(before) + 200
            await asyncio.sleep(400)
            assert blobs(cluster) == [2] * 4  # the class, and its recipe
            for node in cluster.alive:
                runtime = node.runtime
                assert not runtime.detached.specs._known
                assert not runtime.directory.names.kept
                assert not any(copy.table for copy in runtime.directory.names._shards.copies.of.values())

    run(main())


def test_one_that_goes_on_keeps_what_it_is_made_from() -> None:
    async def main() -> None:
        async with SimCluster(5, 2) as cluster:
            made = Holder.options(name="one", detached=True, max_restarts=-1, max_task_retries=-1).remote(b"1234")
            assert await made.size() == 4
            await asyncio.sleep(200)
            for _ in range(3):
                shard = shard_of("default", "one")
                keeper = next(n for n in cluster.alive if shard in n.runtime.directory.names.kept_shards)
                host = (await actorfw.info(made)).node_id
                for node in [node for node in cluster.alive if node is keeper or node.id == host]:
                    if node.index:
                        cluster.crash(node.index)
                        await cluster.add_node()
                assert await made.size() == 4
                await asyncio.sleep(70)
            assert await made.size() == 4

    run(main())


@pytest.mark.parametrize("seed", range(3))
def test_when_all_three_who_know_it_die_at_once_its_host_ends_it(seed: int) -> None:
    async def main() -> None:
        STOPPED.clear()
        async with SimCluster(7, seed) as cluster:
            for number in range(10_000):
                shard = shard_of("default", str(number))
                keeper = next(n for n in cluster.alive if shard in n.runtime.directory.names.kept_shards)
                lives = keeper.runtime.directory.names._shards._next_in_order(shard, 2)
                three = {keeper.index} | {n.index for n in cluster.alive if n.runtime.life in lives}
                if not three & {0, 6}:
                    break
            name = str(number)
            host = cluster.nodes[6]
            soft = actorfw.NodeAffinity(host.id, soft=True)
            made: Any = Holder.options(name=name, detached=True, max_restarts=-1, scheduling=soft).remote(b"12")
            assert await made.size() == 2
            assert (await actorfw.info(made)).node_id == host.id
            for index in sorted(three):
                cluster.crash(index)
            assert await made.size() == 2  # it runs on until its host has asked
            await asyncio.sleep(40)
            assert STOPPED == ["fenced"]
            assert not host.runtime.hosting.cells
            with pytest.raises(actorfw.ActorDiedError):
                await made.size()
            with pytest.raises(actorfw.ActorNotFoundError):
                await actorfw.get_actor(name)
            again = Holder.options(name=name, detached=True).remote(b"123")
            assert await again.size() == 3

    run(main())
