"""Actors that are processes of their own: how many can be created and called once per second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import actorfw
from benchmarks.harness import PER_SECOND, Claim, Contestant, Workload
from benchmarks.machine import Cores
from benchmarks.raw import FORKED, forked_processes
from benchmarks.rivals.against import rivals
from benchmarks.subjects import ProcessEcho

__all__ = ["WORKLOAD"]

_CREATED = "await ProcessEcho.remote().echo(x)"

_ACTORS = 20


@asynccontextmanager
async def _actors(_cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    async with actorfw.init(num_cpus=0):

        async def once() -> float:
            actors: list[ProcessEcho] = []
            started = time.perf_counter()
            for x in range(_ACTORS):
                actor = ProcessEcho.remote()
                await actor.echo.remote(x)
                actors.append(actor)
            rate = _ACTORS / (time.perf_counter() - started)
            await asyncio.gather(*[actorfw.stop(actor) for actor in actors])
            return rate

        yield [Contestant(_CREATED, PER_SECOND, once)]


WORKLOAD = Workload(
    name="process-actors",
    limits=(forked_processes,),
    subject=(_actors,),
    claims=(
        Claim("process actor, created and called once", _CREATED, at_least=50.0),
        Claim("the same against plain processes", _CREATED, FORKED),
    ),
    rivals=rivals({_CREATED: (PER_SECOND, "processes_created")}, "ray", "multiprocessing"),
)
