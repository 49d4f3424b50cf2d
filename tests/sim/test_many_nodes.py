"""More members than each has links to: forty nodes, linked to their neighbours and to whom they call."""

from __future__ import annotations

import asyncio
import time

import actorfw
from actorfw.core.ring import MESH, RINGS
from actorfw.testing import SimCluster, run

NODES = 40
SPARE = 4


@actorfw.remote(num_cpus=1)
async def where() -> str:
    return actorfw.context().node_id


@actorfw.remote
class Counter:
    def __init__(self) -> None:
        self.n = 0

    async def add(self) -> int:
        self.n += 1
        return self.n


def links(cluster: SimCluster, index: int) -> set[str]:
    return {peer.name for peer in cluster.nodes[index].runtime.peers.by_life.values() if peer.connected}


def all_up(cluster: SimCluster) -> bool:
    return all(
        sorted(fact.state for fact in node.runtime.members.facts.values()) == ["up"] * len(cluster.alive)
        for node in cluster.alive
    )


async def few_links(cluster: SimCluster) -> None:
    """Let every node keep its neighbours and very few others."""
    for node in cluster.alive:
        node.runtime.failure._recent.limit = SPARE
    for _ in range(40):
        await asyncio.sleep(5)
        if max(len(links(cluster, node.index)) for node in cluster.alive) <= 2 * RINGS + 2 * SPARE:
            return
    raise AssertionError("links that nobody needs stay open")


def test_forty_nodes() -> None:
    async def main() -> None:
        async with SimCluster(NODES, seed=1) as cluster:
            assert NODES > MESH
            last = cluster.nodes[-1]
            assert len(last.runtime.failure.machine.neighbours) <= 2 * RINGS
            assert len(links(cluster, last.index)) < MESH
            await few_links(cluster)
            assert all_up(cluster)
            assert not any(node.runtime.members.lost for node in cluster.nodes)

            # Work goes to a member without a link as to any other.
            near = links(cluster, 0)
            far = [node for node in cluster.nodes[1:] if node.name not in near]
            assert len(far) > NODES - 1 - 2 * RINGS - 2 * SPARE - 1
            for node in far[:3]:
                assert await where.options(scheduling=actorfw.NodeAffinity(node.id)).remote() == node.id
            counter = Counter.options(scheduling=actorfw.NodeAffinity(far[3].id), name="far").remote()
            assert await counter.add() == 1
            assert await (await actorfw.get_actor("far")).add() == 2

            # A death is known to all, whether they had a link to the dead or not.
            start = cluster.loop.time()
            cluster.crash(far[3].index)
            try:
                await counter.add()
            except actorfw.ActorDiedError:
                pass
            assert cluster.loop.time() - start < 2
            while not all_up(cluster):
                assert cluster.loop.time() - start < 5
                await asyncio.sleep(0.05)

            # And so is one that nobody had anything to do with, of a machine without power.
            start = cluster.loop.time()
            cluster.crash(far[4].index, silent=True)
            while not all_up(cluster):
                assert cluster.loop.time() - start < 20
                await asyncio.sleep(0.05)

    before = time.perf_counter()
    run(main)
    print(f"{time.perf_counter() - before:.1f} s")
