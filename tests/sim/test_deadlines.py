"""A deadline that a call's own calls inherit: whoever notices first, it is reported as the outer one's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run


class Door(actorfw.Actor):
    @actorfw.method
    async def opens(self) -> None:
        await asyncio.Event().wait()

    @actorfw.method
    async def through(self, other: Any) -> None:
        await other.opens()


@actorfw.remote
async def knock(door: Any) -> None:
    await door.opens()


@actorfw.remote(executor="process", num_cpus=0)
async def knock_in_a_process(door: Any) -> None:
    await door.opens()


@pytest.mark.parametrize("kind", ["task", "process", "actor"])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_deadline_of_inner_calls_is_the_outer_ones(kind: str, frozen: bool) -> None:
    """Frozen, the caller sees the host's answer before its own timer."""

    async def main() -> None:
        async with SimCluster(nodes=3) as cluster:
            there = actorfw.NodeAffinity(cluster.nodes[1].id)
            door = Door.options(scheduling=actorfw.NodeAffinity(cluster.nodes[2].id)).remote()
            hall = Door.options(scheduling=there).remote()
            await asyncio.gather(actorfw.info(door), actorfw.info(hall))
            match kind:
                case "task":
                    ref: Any = knock.options(timeout=1, scheduling=there).remote(door)
                case "process":
                    ref = knock_in_a_process.options(timeout=1, scheduling=there).remote(door)
                case _:
                    ref = hall.through.options(timeout=1).remote(door)
            await asyncio.sleep(0.5)
            if frozen:
                cluster.freeze(0)
                asyncio.get_running_loop().call_later(1.0, cluster.thaw, 0)
            with pytest.raises(actorfw.DeadlineExceededError) as caught:
                await ref
            assert caught.value.ran is None

    run(main())
