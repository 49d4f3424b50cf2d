"""One seed of the simulation: a cluster, a random program on each of its nodes, random faults meanwhile, and all
oracles. `ACTORFW_SIM_SEED=17` runs one seed, `ACTORFW_SIM_SEEDS=2000` so many, `ACTORFW_SIM_SHARD=1/2` the second half
of them."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import actorfw
from actorfw import errors
from actorfw.core.ledger import Shape
from actorfw.core.windows import Window
from actorfw.runtime import peer as peer_module
from actorfw.runtime.tombstones import Tombstones
from actorfw.testing import SimCluster, SimNode, run
from actorfw.values.config import Config
from tests.sim.faults import Faults
from tests.sim.looking import agreed, let_go, look, names_agree, quiet
from tests.sim.oracles import Recorder
from tests.sim.programs import Program

__all__ = ["run_seed", "seeds"]

WINDOW = 20_000  # bytes; a link's window in these runs, so that it is ever full
PATIENCE = 10.0
GRACE = 8.0
OPERATIONS = 14
STALL_LIMIT = 4.0
LIMIT = 900.0  # virtual seconds of a seed
QUIET = 20.0
HEALING = 240.0  # in which parts of a split have found each other: every 10 s one of many addresses is dialled
LONG = {"local": 9.0, "lan": 22.0}  # in which the silent are dead


def seeds(usual: int) -> range:
    """Which seeds to run."""
    one = os.environ.get("ACTORFW_SIM_SEED")
    if one:
        return range(int(one), int(one) + 1)
    part, _, parts = os.environ.get("ACTORFW_SIM_SHARD", "0/1").partition("/")
    return range(int(part), int(os.environ.get("ACTORFW_SIM_SEEDS", usual)), int(parts))


def run_seed(seed: int, *, faults: bool = True) -> str:
    """Everything for one seed; returns its trace.

    Raises:
        Violation: an oracle found something; a note says how to run the seed again.
    """
    seen = Recorder.current = Recorder(WINDOW)
    log = logging.getLogger("actorfw")
    level = log.level
    log.addHandler(seen.logged)
    log.setLevel(logging.ERROR)
    try:
        with _small_windows(), _burials(seen):
            return run(_seed(seed, seen, faults), limit=LIMIT)
    except BaseException as error:
        first = {text.partition(":")[0]: text for text in reversed(seen.violations)}
        for text in first.values():
            if text not in str(error):
                error.add_note(f"before that: {text}")
        hashing = os.environ.get("PYTHONHASHSEED", "0")
        error.add_note(
            # The folder counts: its path is in the text of errors, and how long a message is decides when it comes.
            f"seed {seed}; again: cd {os.getcwd()}; PYTHONHASHSEED={hashing} ACTORFW_SIM_SEED={seed} python -m pytest "
            f"tests/sim/test_cluster_faults.py -k objects"
        )
        raise
    finally:
        log.removeHandler(seen.logged)
        log.setLevel(level)
        Recorder.current = None


def set_window(size: int) -> None:
    """Of every link."""
    vars(peer_module)["WINDOW_BYTES"] = size


@contextmanager
def _small_windows() -> Iterator[None]:
    """So that they are ever full."""
    before = vars(peer_module)["WINDOW_BYTES"], Window.CALLS, Window.BYTES, Window.TELLS
    set_window(WINDOW)
    Window.CALLS, Window.BYTES, Window.TELLS = 12, 200_000, 4
    try:
        yield
    finally:
        set_window(before[0])
        _, Window.CALLS, Window.BYTES, Window.TELLS = before


@contextmanager
def _burials(seen: Recorder) -> Iterator[None]:
    """Somebody who knows who lives looks on when nodes declare each other dead."""
    note = Tombstones.note

    def and_tell(self: Tombstones, life: bytes, reason: Any, detail: str, address: str) -> None:
        seen.buried(life, reason)
        note(self, life, reason, detail, address)

    Tombstones.note = and_tell  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tombstones.note = note  # type: ignore[method-assign]


async def _seed(seed: int, seen: Recorder, faults: bool) -> str:
    chance = random.Random(f"shape/{seed}")
    profile = chance.choice(("local", "local", "lan"))
    config = Config(
        profile=profile,
        link_patience=PATIENCE,
        borrow_grace=GRACE,
        max_outbox=2 << 20,
        stall_limit=STALL_LIMIT,
        join_timeout=20.0,
    )
    count = chance.choices((3, 5, 9), (6, 3, 1))[0]
    pace = chance.choice((1.0, 1.0, 10.0))
    async with SimCluster(
        count,
        seed,
        config=config,
        fragment=chance.random() < 0.3,
        totals=Shape.of(num_cpus=chance.choice((1, 2)), num_gpus=2),
        duration=lambda name: 0.15 if name == "sluggish" else chance.uniform(0.001, 0.01),
    ) as cluster:
        seen.cluster = cluster
        ids = [node.id for node in cluster.nodes]
        names = [node.name for node in cluster.nodes]
        programs: list[asyncio.Task[None]] = []

        def begin(node: SimNode, operations: int = 6) -> None:
            program = Program(node.place, seed, ids, names, operations, pace)
            programs.append(asyncio.ensure_future(cluster.run_on(node.index, program.run)))

        for node in cluster.nodes:
            begin(node, OPERATIONS if count == 3 else 8 if count == 5 else 5)
        watching = asyncio.ensure_future(_look(cluster, seen))
        if faults:
            await Faults(cluster, seen, seed, LONG[profile], begin).run(8 if pace == 1.0 else 12)
            cluster.heal()
        await asyncio.wait(programs, timeout=60)
        watching.cancel()
        until = cluster.loop.time() + HEALING
        while not agreed(cluster) and cluster.loop.time() < until:
            await asyncio.sleep(1.0)
        await cluster.settle(QUIET)
        quiet(seen, cluster)
        seen.calm()
        for task in (*programs, *seen.watchers):
            task.cancel()
        for outcome in await asyncio.gather(*programs, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, errors.ActorFwError):
                raise outcome
        await names_agree(seen, cluster)
        seen.open.clear()
        seen.watchers.clear()
        programs.clear()
        await asyncio.wait_for(cluster.run_on(0, _end_named, sorted(seen.names)), 60)
        await cluster.settle(GRACE + 2)
        await cluster.settle(2)
        look(seen, cluster)
        let_go(seen, cluster)
        seen.verdict()
        seen.cluster = None  # all that it was is garbage now, and not only when whoever looked on is gone too
        seen.told.clear()
        return cluster.trace


async def _end_named(names: list[str]) -> None:
    """A name holds its actor as a handle does."""
    for name in names:
        try:
            await actorfw.stop(await actorfw.get_actor(name))
        except errors.ActorFwError:
            pass  # it has none, or has ended


async def _look(cluster: SimCluster, seen: Recorder) -> None:
    while True:
        look(seen, cluster)
        await asyncio.sleep(0.02)
