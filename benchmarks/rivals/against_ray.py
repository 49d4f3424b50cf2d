"""Ray as a contestant: its environment, made once in a cache folder, and the process in it that measures on request."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import venv
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.harness import BenchmarkError, Claim, Contestant, Entry, Rival
from benchmarks.machine import Cores, clean_environment

__all__ = ["VERSION", "environment", "ray"]

VERSION = "2.60.0"

_PATIENCE_S = 180.0
_SIDE = Path(__file__).with_name("ray_side.py")
_DONE = "complete"  # the file that says so: an environment may have been left half made


def environment() -> Path:
    """The interpreter of an environment that has Ray; makes it if it is not there.

    Raises:
        BenchmarkError: Ray can't be installed; with what pip says.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "actorfw-benchmarks" / f"ray-{VERSION}-{sys.implementation.cache_tag}"
    interpreter = folder / "bin" / "python"
    if (folder / _DONE).exists():
        return interpreter
    venv.create(folder, with_pip=True, clear=True)
    command = [str(interpreter), "-m", "pip", "install", "--quiet", f"ray=={VERSION}", "numpy"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"ray {VERSION} can't be installed into {folder}:\n{done.stderr[-2000:].strip()}")
    (folder / _DONE).touch()
    return interpreter


def ray(measurements: dict[str, tuple[str, str]]) -> Rival:
    """Ray as the rival of a workload.

    Args:
        measurements: by the name of our contestant, the unit and what `ray_side` calls the same measurement.
    """
    return Rival(_entry(measurements), tuple(Claim(what, what, _named(what)) for what in measurements))


def _named(what: str) -> str:
    return f"Ray {VERSION}: {what}"


def _entry(measurements: dict[str, tuple[str, str]]) -> Entry:

    @asynccontextmanager
    async def entry(_cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
        cpus = os.cpu_count() or 1
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(str(environment()), "-P", str(_SIDE), str(cpus)),
            stdin=pipe,
            stdout=pipe,
            stderr=asyncio.subprocess.DEVNULL,
            env={key: value for key, value in clean_environment().items() if key != "PYTHONPATH"},
            # Ray is made of some ten processes: it gets all cores, which it would not share well on one.
            preexec_fn=lambda: os.sched_setaffinity(0, range(cpus)),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        asking, answers = process.stdin, process.stdout

        async def answer() -> object:
            async with asyncio.timeout(_PATIENCE_S):
                line = await answers.readline()
            if not line:
                raise BenchmarkError(f"Ray's process has ended (exit status {await process.wait()})")
            return json.loads(line)

        def asked(name: str) -> Callable[[], Awaitable[float]]:
            async def once() -> float:
                asking.write(f"{name}\n".encode())
                figure = await answer()
                assert isinstance(figure, (int, float))
                return float(figure)

            return once

        try:
            await answer()
            yield [Contestant(_named(what), unit, asked(name)) for what, (unit, name) in measurements.items()]
        finally:
            asking.close()
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    return entry
