"""Whatever way an object was shared, its memory is free when nobody holds it: no bytes, no records, no copies.

Each pattern of `sharing` runs undisturbed, and with a holder killed at many points of it.
"""

from __future__ import annotations

import asyncio
import os
from random import Random
from typing import Any

import pytest

import actorfw
from actorfw.runtime.node import Node
from actorfw.testing import SimCluster, run
from tests.sim.leftovers import leftovers
from tests.sim.sharing import PATTERNS, Pattern

GRACE = 2.0
CONFIG = actorfw.Config(borrow_grace=GRACE)
FREE_SECONDS = 1.0
NOTICED_SECONDS = 5.0  # a killed process, by all members
ENDS_SECONDS = 60.0  # whatever was killed: nothing waits for ever
KILLS = 40 if os.environ.get("ACTORFW_MODEL") == "full" else 3  # points at which a holder is killed, per pattern


def held(node: Node) -> list[str]:
    """What a node still keeps of objects, in words."""
    objects = node.objects
    objects.sweep()
    left = {
        "bytes in its store": node.store.used,
        "records": sum(map(len, objects.ownership.snapshot()[0])),  # type: ignore[arg-type, misc]
        "values": dict(objects._exported),
        "inherited values": dict(objects._inherited),
        "fetches": dict(node.fetches.asked),
    }
    return [f"{node.name} keeps {what}: {kept}" for what, kept in left.items() if kept]


def all_held(cluster: SimCluster) -> list[str]:
    return [line for node in cluster.alive for line in held(node.runtime)] + leftovers(cluster)


async def _rows() -> int:
    return len(await actorfw.objects())


@pytest.mark.parametrize("name", PATTERNS)
def test_memory_is_free_within_a_second(name: str) -> None:
    async def main() -> None:
        async with SimCluster(3, num_cpus=4, config=CONFIG) as cluster:
            await PATTERNS[name](cluster)
            await cluster.settle(FREE_SECONDS)
            assert not all_held(cluster)
            assert await _rows() == 0

    run(main())


async def _disturbed(cluster: SimCluster, pattern: Pattern) -> None:
    try:
        await pattern(cluster)
    except (actorfw.ActorFwError, ExceptionGroup):
        pass  # it says that a holder was killed, and that was so


async def _end_of(cluster: SimCluster, doing: asyncio.Task[None], kill: Any, at: float) -> None:
    done, _ = await asyncio.wait([doing], timeout=at)
    if not done:
        kill()
    async with asyncio.timeout(ENDS_SECONDS):
        await doing


async def _all_know(cluster: SimCluster) -> None:
    """Until the dead are no members to anybody alive."""
    async with asyncio.timeout(NOTICED_SECONDS):
        while any(len(node.runtime.members.facts) != len(cluster.alive) for node in cluster.alive):
            await asyncio.sleep(0.01)


def _duration(name: str) -> float:
    """How long a pattern takes undisturbed, in virtual seconds."""
    took = 0.0

    async def main() -> None:
        nonlocal took
        async with SimCluster(3, num_cpus=4, config=CONFIG) as cluster:
            begun = cluster.loop.time()
            await PATTERNS[name](cluster)
            took = cluster.loop.time() - begun

    run(main())
    return took


@pytest.mark.parametrize("name", PATTERNS)
def test_memory_is_free_after_a_node_was_killed(name: str) -> None:
    longest = _duration(name)
    chance = Random(name)
    for seed in range(KILLS):
        victim, at = 1 + seed % 2, chance.uniform(0, longest)

        async def main(seed: int = seed, victim: int = victim, at: float = at) -> None:
            async with SimCluster(3, seed, num_cpus=4, config=CONFIG) as cluster:
                doing = asyncio.ensure_future(_disturbed(cluster, PATTERNS[name]))
                await _end_of(cluster, doing, lambda: cluster.crash(victim), at)
                del doing
                await _all_know(cluster)
                await cluster.settle(GRACE + FREE_SECONDS)
                assert not all_held(cluster), f"node {victim} was killed after {at} s"
                assert await _rows() == 0

        run(main())


@pytest.mark.parametrize("name", PATTERNS)
def test_memory_is_free_after_workers_were_killed(name: str) -> None:
    longest = _duration(name)
    chance = Random(name)
    for seed in range(KILLS):
        victim, at = seed % 3, chance.uniform(0, longest)

        async def main(seed: int = seed, victim: int = victim, at: float = at) -> None:
            async with SimCluster(3, seed, num_cpus=4, config=CONFIG) as cluster:
                doing = asyncio.ensure_future(_disturbed(cluster, PATTERNS[name]))
                await _end_of(cluster, doing, lambda: cluster.kill_worker(victim), at)
                del doing
                await cluster.settle(FREE_SECONDS)
                assert not all_held(cluster), f"a worker of node {victim} was killed after {at} s"

        run(main())
