"""How long a program waits from `init()` to the result of its first task, in a fresh process each time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from benchmarks import companion
from benchmarks.harness import Claim, Contestant, Workload
from benchmarks.machine import Cores

__all__ = ["WORKLOAD"]

_STARTUP = "init() and await increment.remote(x)"


@asynccontextmanager
async def _startup(_cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    async def once() -> float:
        async with companion.started("startup") as program:
            return float(program.said)

    yield [Contestant(_STARTUP, "s", once)]


WORKLOAD = Workload(
    name="startup",
    limits=(),
    subject=(_startup,),
    claims=(Claim("init() to the result of the first task", _STARTUP, at_most=0.5),),
)
