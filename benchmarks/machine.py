"""The machine that measures: which cores a pair of processes runs on, and what it is called in a report.

Leaves to `harness` what runs on those cores.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

__all__ = ["ROOT", "Cores", "Placement", "clean_environment", "describe", "import_environment", "pin"]

ROOT = Path(__file__).resolve().parent.parent


class Placement(StrEnum):
    """Where the two processes of a pair run."""

    ONE_CORE = "one core"
    APART = "one core each"


@dataclass(frozen=True, slots=True)
class Cores:
    """The core of the measuring process and that of its partner."""

    near: int
    far: int

    @classmethod
    def choose(cls, placement: Placement) -> Cores | None:
        """Picks cores among those this process may use; None where the placement cannot be had.

        Unpinned, the scheduler moves a pair between one core and two within a run, and the ratio of one unchanged
        program to a ping-pong was seen to go from 0.17 to 0.74.
        """
        if not hasattr(os, "sched_getaffinity"):
            return None
        # The last one: the first serves the interrupts of most machines.
        *others, near = sorted(os.sched_getaffinity(0))
        if placement is Placement.ONE_CORE:
            return cls(near, near)
        siblings = _siblings(near)
        apart = [core for core in others if core not in siblings] or others
        return cls(near, apart[-1]) if apart else None


def _siblings(core: int) -> set[int]:
    """Hyperthreads of the same physical core, which would share what "one core each" is meant to separate."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text()
    except OSError:
        return {core}
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def pin(core: int) -> None:
    """Keeps this whole process, with the threads it has and will have, on one core."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {core})


def clean_environment() -> dict[str, str]:
    """What every measured process inherits: no debug switches, bytecode written, no cluster of the caller's."""
    unwanted = {"PYTHONDONTWRITEBYTECODE", "PYTHONDEVMODE", "PYTHONASYNCIODEBUG", "PYTHONTRACEMALLOC"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {name: value for name, value in kept.items() if not name.startswith("ACTORFW_")} | {"PYTHONPATH": str(ROOT)}


@cache
def _installed_at() -> str:
    """Where `actorfw` comes from when the repository is not on the path; "" if nowhere."""
    environment = clean_environment()
    del environment["PYTHONPATH"]
    probe = [sys.executable, "-P", "-c", "import actorfw; print(actorfw.__file__)"]
    return subprocess.run(probe, env=environment, cwd="/", capture_output=True, text=True).stdout.strip()


def import_environment() -> dict[str, str]:
    """`clean_environment`, but with the installed `actorfw` before the checkout's, if one is installed."""
    environment = clean_environment()
    if _installed_at():
        del environment["PYTHONPATH"]
    return environment


def _origin() -> str:
    import sysconfig  # as below: this module is imported by what runs in workers, and these two are not cheap

    site = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    if _installed_at().startswith(site):
        return "import measured from an installed wheel, the rest from the checkout"
    return "from a checkout, bytecode written"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short", "HEAD")
        return commit + (" with changes" if commit and git("status", "--porcelain") else "") or "unknown"
    except OSError:  # no git here
        return "unknown"


def describe() -> dict[str, str]:
    """What a reader needs to judge the figures by: machine, versions, and how busy the machine was before."""
    import importlib.metadata

    return {
        "machine": f"{_cpu_model()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(
            f"{name} {importlib.metadata.version(name)}" for name in ("uvloop", "msgpack", "cloudpickle")
        ),
        "actorfw": f"commit {_commit()}, {_origin()}",
        "load before": "{:.2f}, {:.2f}, {:.2f}".format(*os.getloadavg()),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
