"""Other libraries as contestants: each with an environment made once in a cache folder, and a process in it.

That process runs the rival's program, `<name>_side.py` beside this module, and measures on request.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import subprocess
import sys
import venv
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import BenchmarkError, Claim, Contestant, Entry, Rival
from benchmarks.machine import Cores, clean_environment

__all__ = ["COMPETITORS", "Competitor", "environment", "rivals"]

_PATIENCE_S = 180.0
_DONE = "complete"  # the file that says so: an environment may have been left half made
_ERRORS_SHOWN = 2000
_NUMPY = "numpy==2.4.6"


@dataclass(frozen=True, slots=True)
class Competitor:
    """Another library.

    Args:
        name: what `--against` and its program are called.
        shown: what reports call it.
        version: of the library, or of the Python that it comes with.
        requirements: what pip installs; pinned.
    """

    name: str
    shown: str
    version: str
    requirements: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.shown} {self.version}"


_PYTHON = platform.python_version()
COMPETITORS: Mapping[str, Competitor] = {
    each.name: each
    for each in (
        Competitor("ray", "Ray", "2.60.0", ("ray==2.60.0", _NUMPY)),
        Competitor("dask", "Dask", "2026.8.0", ("distributed==2026.8.0", _NUMPY)),
        Competitor("xoscar", "xoscar", "0.12.2", ("xoscar==0.12.2", "uvloop==0.23.0")),
        Competitor("futures", "concurrent.futures of Python", _PYTHON, ()),
        Competitor("multiprocessing", "multiprocessing of Python", _PYTHON, (_NUMPY,)),
    )
}


def environment(competitor: Competitor) -> Path:
    """The interpreter of an environment that has this library; makes it if it is not there.

    Raises:
        BenchmarkError: the library can't be installed; with what pip says.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    version = f"{competitor.name}-{competitor.version}-{sys.implementation.cache_tag}"
    folder = cache / "actorfw-benchmarks" / version
    interpreter = folder / "bin" / "python"
    if (folder / _DONE).exists():
        return interpreter
    venv.create(folder, with_pip=bool(competitor.requirements), clear=True)
    if competitor.requirements:
        command = [str(interpreter), "-m", "pip", "install", "--quiet", *competitor.requirements]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr[-_ERRORS_SHOWN:].strip()
            raise BenchmarkError(f"{competitor} can't be installed into {folder}:\n{said}")
    (folder / _DONE).touch()
    return interpreter


def rivals(measurements: Mapping[str, tuple[str, str]], *names: str) -> dict[str, Rival]:
    """These libraries as the rivals of a workload.

    Args:
        measurements: by the name of our contestant, the unit and what the rivals' programs call the same measurement.
        names: which libraries.
    """
    return {name: _rival(COMPETITORS[name], measurements) for name in names}


def _rival(competitor: Competitor, measurements: Mapping[str, tuple[str, str]]) -> Rival:
    def named(what: str) -> str:
        return f"{competitor}: {what}"

    return Rival(
        _entry(competitor, {named(what): asked for what, asked in measurements.items()}),
        tuple(Claim(what, what, named(what)) for what in measurements),
        tuple(name for _unit, name in measurements.values()),
    )


def _entry(competitor: Competitor, measurements: Mapping[str, tuple[str, str]]) -> Entry:
    side = Path(__file__).with_name(f"{competitor.name}_side.py")

    @asynccontextmanager
    async def entry(_cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
        cpus = os.cpu_count() or 1
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(str(environment(competitor)), str(side), str(cpus)),
            stdin=pipe,
            stdout=pipe,
            stderr=asyncio.subprocess.DEVNULL,
            env={key: value for key, value in clean_environment().items() if key != "PYTHONPATH"},
            # Most are made of many processes: they get all cores, which they would not share well on one.
            preexec_fn=lambda: os.sched_setaffinity(0, range(cpus)),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        asking, answers = process.stdin, process.stdout

        async def answer() -> object:
            async with asyncio.timeout(_PATIENCE_S):
                line = await answers.readline()
            if not line:
                raise BenchmarkError(f"the process of {competitor} has ended (exit status {await process.wait()})")
            return json.loads(line)

        def asked(name: str) -> Callable[[], Awaitable[float]]:
            async def once() -> float:
                asking.write(f"{name}\n".encode())
                figure = await answer()
                assert isinstance(figure, (int, float))
                return float(figure)

            return once

        try:
            found = await answer()
            if found != competitor.version:
                raise BenchmarkError(f"{competitor} was to be measured, but its process has version {found}")
            yield [Contestant(shown, unit, asked(name)) for shown, (unit, name) in measurements.items()]
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
