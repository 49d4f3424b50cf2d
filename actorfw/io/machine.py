"""What this process and its machine have: versions, limits, shared memory. Facts only; whether they will do is not
judged here."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

from actorfw.io.memory import MemoryMeter
from actorfw.io.sharedmem import available
from actorfw.values import __version__

__all__ = ["look"]

_SHM = "/dev/shm"


def look() -> dict[str, Any]:
    """The facts, by name; None where something can't be known here."""
    from importlib.metadata import PackageNotFoundError, version  # 10 ms, and few ask

    def of(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    meter = MemoryMeter()
    reading = meter.read()
    soft, hard = _descriptor_limits()
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "platform": sys.platform,
        "machine": platform.machine(),
        "packages": {"actorfw": __version__, **{name: of(name) for name in ("cloudpickle", "msgpack", "uvloop")}},
        "descriptors_soft": soft,
        "descriptors_hard": hard,
        "descriptors_open": _open_descriptors(),
        "processes": _process_limit(),
        "memfd": available(),
        "shm_bytes": _shm_bytes(),
        "memory_limit": meter.limit(),
        "memory_used": reading.used,
        "memory_of": reading.of,
    }


def _descriptor_limits() -> tuple[int | None, int | None]:
    try:
        import resource
    except ImportError:  # Windows
        return None, None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (None if soft == resource.RLIM_INFINITY else soft), (None if hard == resource.RLIM_INFINITY else hard)


def _process_limit() -> int | None:
    try:
        import resource

        soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    except (ImportError, AttributeError):  # another platform
        return None
    return None if soft == resource.RLIM_INFINITY else soft


def _open_descriptors() -> int | None:
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder))
        except OSError:
            continue
    return None


def _shm_bytes() -> int | None:
    try:
        found = os.statvfs(_SHM)
    except (OSError, AttributeError):
        return None
    return found.f_blocks * found.f_frsize
