"""What `import actorfw` costs a program that imports asyncio anyway, and what it must not drag in."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from benchmarks.harness import Claim, Contestant, Workload
from benchmarks.machine import Cores, import_environment

__all__ = ["WORKLOAD"]

_PROCESS = "python -c 'import {}'"
_STATEMENT = "import {}, within the process"
_HEAVY = "heavy packages loaded by import actorfw"

_HEAVY_PACKAGES = ("aiohttp", "rich", "numpy", "psutil")
_TIMED = "import time; started = time.perf_counter(); import {}; print(time.perf_counter() - started)"
_COUNTED = f"import sys, actorfw; print(sum(name in sys.modules for name in {_HEAVY_PACKAGES!r}))"


def _run(code: str) -> str:
    # -P: what is imported is what a user's program would find, not what lies in the current folder.
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, env=import_environment(), check=True, stdout=subprocess.PIPE, text=True).stdout


def _importing(module: str) -> list[Contestant]:
    """The whole process, interpreter included, and the statement alone; blocking, for nothing else is to run."""

    async def process() -> float:
        started = time.perf_counter()
        _run(f"import {module}")
        return time.perf_counter() - started

    async def statement() -> float:
        return float(_run(_TIMED.format(module)))

    return [
        Contestant(_PROCESS.format(module), "s", process),
        Contestant(_STATEMENT.format(module), "s", statement),
    ]


@asynccontextmanager
async def _asyncio(_cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    yield _importing("asyncio")


@asynccontextmanager
async def _actorfw(_cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    async def heavy() -> float:
        return float(_run(_COUNTED))

    yield [*_importing("actorfw"), Contestant(_HEAVY, "packages", heavy)]


WORKLOAD = Workload(
    name="import",
    limits=(_asyncio,),
    subject=(_actorfw,),
    claims=(
        Claim("import, whole process", _PROCESS.format("actorfw"), _PROCESS.format("asyncio"), at_most=2.5),
        Claim("import, the statement alone", _STATEMENT.format("actorfw"), _STATEMENT.format("asyncio")),
        Claim(f"of {', '.join(_HEAVY_PACKAGES)}: loaded by import", _HEAVY, at_most=0),
    ),
)
