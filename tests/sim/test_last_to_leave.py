"""A node that says that it will leave, and one that leaves when nobody stays who could take what it has."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run


class Room(actorfw.Actor):
    @actorfw.method
    async def enter(self) -> str:
        return actorfw.context().node_id


@actorfw.remote
async def where() -> str:
    return actorfw.context().node_id


@actorfw.remote(executor="process")
async def worked(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return actorfw.context().node_id


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("nodes", [1, 3])
def test_when_all_leave_nobody_waits_for_actors_to_move(nodes: int, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with SimCluster(nodes=nodes) as cluster:
            room = Room.options(name="room", detached=True, max_restarts=-1).remote()
            await room.enter()
            running = worked.remote(3)  # it is waited for all the same
            await asyncio.sleep(0.5)
            began = loop.time()
            await asyncio.gather(*[cluster.drain(index, timeout=60) for index in reversed(range(nodes))])
            assert await running == cluster.nodes[0].id
            assert 2 < loop.time() - began < 10

    run(main())
    assert warnings(caplog) == []


def test_while_one_stays_actors_move_there(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with SimCluster(nodes=3) as cluster:
            there = actorfw.NodeAffinity(cluster.nodes[2].id, soft=True)
            room = Room.options(name="room", detached=True, max_restarts=-1, scheduling=there).remote()
            assert await room.enter() == cluster.nodes[2].id
            await asyncio.gather(cluster.drain(2), cluster.drain(1))
            assert await room.enter() == cluster.nodes[0].id

    run(main())
    assert warnings(caplog) == []


def test_a_node_that_says_it_will_leave_gets_no_work_and_goes_on_with_its_own() -> None:
    async def main() -> None:
        async with SimCluster(nodes=2, num_cpus=1) as cluster:
            other = cluster.nodes[1]
            other.runtime.leaving.announce()
            async with asyncio.timeout(10):
                while [row.state for row in await actorfw.nodes() if not row.here] != ["leaving"]:
                    await asyncio.sleep(0.1)
            own = cluster.nodes[0].id
            assert set(await asyncio.gather(*[worked.remote(0.1) for _ in range(6)])) == {own}

            async def there() -> Any:
                room = Room.remote()
                return [
                    await where.remote(),
                    await room.enter(),
                    *await asyncio.gather(*[worked.remote(1) for _ in "ab"]),
                ]

            seen = await cluster.run_on(1, there)
            assert seen[:2] == [other.id] * 2
            assert set(seen[2:]) <= {other.id, own}
            assert other.runtime.open

    run(main())
