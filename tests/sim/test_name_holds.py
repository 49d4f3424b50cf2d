"""Names with `partition="majority"`: of all actors that ever had a name, at most one begins calls at any time.

The oracle looks at the calls themselves: when a later holder of the name has begun one, no earlier holder ever does.
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

import actorfw
from actorfw.core.entries import shard_of
from actorfw.core.holds import Holds
from actorfw.testing import SimCluster, run

FULL = os.environ.get("ACTORFW_MODEL") == "full"
SEEDS = 20 if FULL else 4
MUTANT_SEEDS = 12

MAJORITY = actorfw.Config(partition="majority", voters=("n0", "n1", "n2"))

Turn = tuple[float, str, int]


class TwoHoldersError(AssertionError):
    """Two actors of one name began calls in turns."""


class History:
    """Who began calls, in order."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []

    def began(self, start: float) -> None:
        context = actorfw.context()
        self.turns.append((start, context.actor_id, context.fencing_token))

    def check(self) -> int:
        """Returns how many holders there were."""
        former: set[tuple[str, int]] = set()
        last = ("", 0)
        for time, *who in self.turns:
            holder = (who[0], who[1])
            if holder in former:
                raise TwoHoldersError(f"{holder} began a call at {time:.3f}, after {last} had begun one")
            if holder != last:
                former.add(last)
                last = holder
        return len(former)


HISTORY = History()


@actorfw.remote(num_cpus=0, max_task_retries=0)
class Writer:
    async def write(self) -> int:
        HISTORY.began(asyncio.get_running_loop().time())
        return len(HISTORY.turns)


async def keep_calling(name: str, again: bool) -> None:
    """Call whoever has the name, as this node knows it; make a new one if it is free and that is wanted."""
    known: Any = None
    while True:
        try:
            async with asyncio.timeout(3):
                if known is None:
                    known = await actorfw.get_actor(name)
                await known.write.options(timeout=2).remote()
        except (actorfw.ActorDiedError, actorfw.ActorNotFoundError):
            known = Writer.options(name=name, get_if_exists=True).remote() if again else None
        except (actorfw.ActorFwError, TimeoutError):
            pass
        await asyncio.sleep(0.1)


async def storm(seed: int) -> int:
    """One name, a host that is cut off or stands still and comes back, and callers on all sides."""
    rng = random.Random(seed)
    HISTORY.turns = []
    async with SimCluster(5, seed, config=MAJORITY) as cluster:
        for index in range(5):
            cluster.skew(index, rng.choice((1.0, 0.96, 1.04)))
        name = "writer"
        detached, lasting = rng.random() < 0.5, rng.random() < 0.6
        host, maker = rng.choice((3, 4)), rng.choice((0, 1))
        executor = rng.choice(("loop", "process"))

        async def make() -> Any:
            options = {
                "name": name,
                "detached": detached,
                "executor": executor,
                "max_restarts": -1 if lasting else 0,
                "scheduling": actorfw.NodeAffinity(cluster.nodes[host].id, soft=True),
            }
            made = Writer.options(**options).remote()
            await made.write()
            return made

        made = await cluster.run_on(maker if not detached or rng.random() < 0.5 else host, make)
        callers = [asyncio.ensure_future(cluster.run_on(index, keep_calling, name, not lasting)) for index in range(5)]
        for _ in range(2):
            await asyncio.sleep(rng.uniform(1.0, 6.0))
            if rng.random() < 0.3:
                cluster.freeze(host)
                await asyncio.sleep(rng.choice((5.0, 9.5, 30.0)))
                cluster.thaw(host)
            else:
                keeper = [
                    node.index
                    for node in cluster.alive
                    if shard_of("default", name) in node.runtime.directory.names.kept_shards
                ]
                side = {host}
                side |= {3, 4} if rng.random() < 0.5 else set()
                side |= set(keeper) if rng.random() < 0.3 else set()
                cluster.partition(sorted(side))
                await asyncio.sleep(rng.choice((8.0, 25.0, 45.0)))
                cluster.heal()
        await asyncio.sleep(30)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        del made
    return HISTORY.check()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_two_holders_of_a_name_begin_calls_in_turns(seed: int) -> None:
    run(lambda: storm(seed))


# -- mutants: rules that look right and are not ------------------------------------------------------------------------


def goes_on_for_ever(_holds: Holds, _sent: float, now: float) -> float:
    """A host that was told once that it may begin calls goes on until somebody ends its actor."""
    return now + 1000.0


@pytest.mark.parametrize("mutant", [goes_on_for_ever])
def test_the_oracle_catches(monkeypatch: pytest.MonkeyPatch, mutant: Any) -> None:
    monkeypatch.setattr(Holds, "_end_of", mutant)
    for seed in range(MUTANT_SEEDS):
        try:
            run(lambda seed=seed: storm(seed))  # type: ignore[misc]
        except TwoHoldersError:
            return
    pytest.fail(f"{mutant.__name__} passed {MUTANT_SEEDS} seeds")
