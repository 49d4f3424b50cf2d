"""The first put of a node, against `numpy.copyto` into fresh shared memory: a fresh process for each repetition."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from benchmarks import companion
from benchmarks.arrays import MIB_PER_SECOND, rate
from benchmarks.harness import Claim, Contestant, Workload
from benchmarks.machine import Cores, Placement

__all__ = ["WORKLOAD"]

_FIRST = "first put of 128 MiB"
_FRESH = "numpy.copyto of 128 MiB into fresh shared memory"


@asynccontextmanager
async def _first_put(cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    measured: list[float] = []

    async def first() -> float:
        async with companion.started("first_put", str(cores.near)) as process:
            measured[:] = process.said
        return rate(measured[0])

    async def fresh() -> float:
        # In the same process as the put, and after it: which of the two comes first in a repetition changes.
        if not measured:
            await first()
        took = measured[1]
        measured.clear()
        return rate(took)

    yield [Contestant(_FIRST, MIB_PER_SECOND, first), Contestant(_FRESH, MIB_PER_SECOND, fresh)]


WORKLOAD = Workload(
    name="first-put",
    limits=(),
    subject=(_first_put,),
    claims=(Claim("first put of a node, 128 MiB", _FIRST, _FRESH, at_least=0.8),),
    placements=(Placement.ONE_CORE, Placement.APART),
)
