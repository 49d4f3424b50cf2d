"""Requests to an aiohttp service whose handler awaits an actor, against the same handler without: by wrk, on two cores.

The service has one core; wrk and the other node share the other one. Of each run two figures are kept: requests per
second, and the time within which 99 of 100 were answered.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from benchmarks import companion
from benchmarks.harness import PER_SECOND, BenchmarkError, Claim, Contestant, Workload
from benchmarks.machine import Cores, Placement

__all__ = ["WORKLOAD"]

_BARE = "aiohttp alone"
_NOTHING = "setup(app), nothing awaited"
_LOCAL = "setup(app), await actor.echo(1), here"
_REMOTE = "setup(app), await actor.echo(1), on another node"
_P99 = "99 of 100 answered within: "

_CONNECTIONS: Final = 32
_SECONDS: Final = 2

_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


class _Load:
    """wrk on one address: a run gives two figures, each of which is asked for once."""

    def __init__(self, url: str, core: int) -> None:
        self._command = [
            "taskset",
            "-c",
            str(core),
            "wrk",
            "-t1",
            f"-c{_CONNECTIONS}",
            f"-d{_SECONDS}s",
            "--latency",
            url,
        ]
        self._rate: float | None = None
        self._p99: float | None = None

    async def rate(self) -> float:
        if self._rate is None:
            await self._run()
        rate, self._rate = self._rate, None
        assert rate is not None
        return rate

    async def p99(self) -> float:
        if self._p99 is None:
            await self._run()
        p99, self._p99 = self._p99, None
        assert p99 is not None
        return p99

    async def _run(self) -> None:
        process = await asyncio.create_subprocess_exec(*self._command, stdout=asyncio.subprocess.PIPE)
        said = (await process.communicate())[0].decode()
        rate = re.search(r"Requests/sec:\s+([0-9.]+)", said)
        p99 = re.search(r"99%\s+([0-9.]+)(us|ms|s)\b", said)
        if process.returncode or rate is None or p99 is None or "Non-2xx" in said or "Socket errors" in said:
            raise BenchmarkError(f"wrk did not get an answer to each request:\n{said}")
        self._rate = float(rate[1])
        self._p99 = float(p99[1]) * _UNITS[p99[2]]


def _figures(name: str, load: _Load) -> list[Contestant]:
    return [Contestant(name, PER_SECOND, load.rate), Contestant(_P99 + name, "s", load.p99)]


def _needs() -> None:
    for program in ("wrk", "taskset"):
        if shutil.which(program) is None:
            raise BenchmarkError(f"{program} is not installed; on Debian: apt-get install wrk util-linux")


@asynccontextmanager
async def _bare(cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    _needs()
    async with companion.started("web_service", str(cores.near), "bare") as service:
        port, _ = service.said
        yield _figures(_BARE, _Load(f"http://127.0.0.1:{port}/nothing", cores.far))


@asynccontextmanager
async def _with_node(cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    _needs()
    async with companion.started("web_service", str(cores.near), "node") as service:
        port, address = service.said
        url = f"http://127.0.0.1:{port}"
        async with companion.started("peer", str(cores.far), address) as peer, aiohttp.ClientSession() as session:
            async with session.get(f"{url}/place/{peer.said}") as answer:
                if int(await answer.text()) != peer.pid:
                    raise BenchmarkError("the actor is not on the other node")
            yield [
                *_figures(_NOTHING, _Load(f"{url}/nothing", cores.far)),
                *_figures(_LOCAL, _Load(f"{url}/local", cores.far)),
                *_figures(_REMOTE, _Load(f"{url}/remote", cores.far)),
            ]


WORKLOAD = Workload(
    name="web",
    limits=(_bare,),
    subject=(_with_node,),
    placements=(Placement.APART,),
    claims=(
        Claim("handler that awaits an actor of its node", _LOCAL, _NOTHING, at_least=0.75, judged_at=Placement.APART),
        Claim(
            "handler that awaits an actor on another node", _REMOTE, _NOTHING, at_least=0.4, judged_at=Placement.APART
        ),
        Claim("the same handler without, beside aiohttp alone", _NOTHING, _BARE),
        *(Claim(f"{_P99}{name}", _P99 + name) for name in (_BARE, _NOTHING, _LOCAL, _REMOTE)),
    ),
)
