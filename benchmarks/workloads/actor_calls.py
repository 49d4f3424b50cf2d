"""Calls to an async actor on another node, against a raw ping-pong between two processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import actorfw
from benchmarks import companion
from benchmarks.harness import PER_SECOND, Claim, Contestant, Workload, require_other_process
from benchmarks.machine import Cores, Placement
from benchmarks.raw import BATCH, PING_PONG, ping_pong
from benchmarks.rivals.against import rivals
from benchmarks.subjects import Echo

__all__ = ["WORKLOAD"]

_AWAITED = "await actor.echo(x)"
_AWAITED_REF = "await actor.echo.remote(x)"
_GATHERED = "gather over actor.echo.remote(x)"

_CALLS = 4_000


@asynccontextmanager
async def _calls(cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    async with actorfw.init(num_cpus=0) as node, companion.started("peer", str(cores.far), node.address) as peer:
        actor = Echo.options(scheduling=actorfw.NodeAffinity(peer.said)).remote()
        require_other_process(await actor.process_id(), "the actor")

        async def awaited() -> float:
            started = time.perf_counter()
            for x in range(_CALLS):
                await actor.echo(x)
            return _CALLS / (time.perf_counter() - started)

        async def awaited_ref() -> float:
            started = time.perf_counter()
            for x in range(_CALLS):
                await actor.echo.remote(x)
            return _CALLS / (time.perf_counter() - started)

        async def gathered() -> float:
            started = time.perf_counter()
            await asyncio.gather(*[actor.echo.remote(x) for x in range(BATCH)])
            return BATCH / (time.perf_counter() - started)

        yield [
            Contestant(_AWAITED, PER_SECOND, awaited),
            Contestant(_AWAITED_REF, PER_SECOND, awaited_ref),
            Contestant(_GATHERED, PER_SECOND, gathered),
        ]


WORKLOAD = Workload(
    name="actor-calls",
    limits=(ping_pong,),
    subject=(_calls,),
    placements=(Placement.ONE_CORE, Placement.APART),
    claims=(
        Claim("async actor on another node, awaited one by one", _AWAITED, PING_PONG, at_least=0.30),
        Claim("the same through refs", _AWAITED_REF, PING_PONG),
        Claim(f"async actor on another node, {BATCH:,} gathered", _GATHERED, PING_PONG, at_least=1.2),
    ),
    rivals={
        **rivals(
            {_AWAITED_REF: (PER_SECOND, "actor_awaited"), _GATHERED: (PER_SECOND, "actor_gathered")},
            *("ray", "dask", "xoscar"),
        ),
        **rivals({_AWAITED_REF: (PER_SECOND, "actor_awaited")}, "multiprocessing"),
    },
)
