"""What connections that never finish a handshake cost a node under load: CPU seconds of its process per call."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import psutil

import actorfw
from benchmarks import companion
from benchmarks.harness import BenchmarkError, Claim, Contestant, Workload, require_other_process
from benchmarks.machine import Cores
from benchmarks.subjects import Echo

__all__ = ["WORKLOAD"]

_STRANGERS = 10_000
_CALLERS = 32
_SECONDS = 3.0

_ALONE = "nobody else"
_SILENT = f"{_STRANGERS:,} silent connections, each replaced when it is dropped"
_FLOOD = f"{_STRANGERS:,} connections that hang up or say nonsense at once, all the time"


@asynccontextmanager
async def _calls(cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    # Who attacks has a machine of his own: another core, where there is one.
    elsewhere = str(next((core for core in sorted(os.sched_getaffinity(0)) if core != cores.near), cores.near))
    async with actorfw.init(num_cpus=0) as node, companion.started("peer", str(cores.far), node.address) as peer:
        actor = Echo.options(scheduling=actorfw.NodeAffinity(peer.said)).remote()
        require_other_process(await actor.process_id(), "the actor")
        address = next(row.address for row in await actorfw.nodes() if row.id == peer.said)
        process = psutil.Process(peer.pid)

        async def per_call() -> float:
            calls = 0
            until = time.perf_counter() + _SECONDS

            async def call() -> None:
                nonlocal calls
                while time.perf_counter() < until:
                    await actor.echo(calls)
                    calls += 1

            before = sum(process.cpu_times()[:2])
            await asyncio.gather(*[call() for _ in range(_CALLERS)])
            return (sum(process.cpu_times()[:2]) - before) / calls * 1e9

        async def refusals() -> int:
            async with actorfw.Node(seeds=[address], num_cpus=0, hosts="own") as visitor:
                rows = {row["id"]: row for row in await visitor.runtime.ask("status")}
            return int(rows[peer.said]["limits"]["accepts_per_second"]["refused"])

        async def beside(how: str) -> float:
            before = await refusals()
            async with companion.started("strangers", elsewhere, address, how, str(_STRANGERS)):
                figure = await per_call()
                if await refusals() == before:
                    raise BenchmarkError("so few strangers came that all of them could be taken at once")
            # Those that still stand in the kernel's queue are not the next contestant's.
            while before != (before := await refusals()):  # noqa: ASYNC110  (they are in another process)
                await asyncio.sleep(0.3)
            return figure

        yield [
            Contestant(_ALONE, "ns", per_call),
            Contestant(_SILENT, "ns", lambda: beside("silent")),
            Contestant(_FLOOD, "ns", lambda: beside("flood")),
        ]


WORKLOAD = Workload(
    name="strangers",
    limits=(),
    subject=(_calls,),
    claims=(
        Claim("CPU time per call beside silent strangers", _SILENT, _ALONE, at_most=1.10),
        Claim("the same beside a flood of strangers", _FLOOD, _ALONE),
    ),
)
