"""Testing distributed programs in one process: virtual time and a network that breaks on demand.

The names here are loaded when they are first used: pytest loads the plugin beside them in every run, whether actorfw
is tested or not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from actorfw.testing.loop import StuckError, VirtualLoop, run
    from actorfw.testing.network import MemoryNetwork, SimEnv
    from actorfw.testing.seeds import simulated
    from actorfw.testing.sim import SimCluster, SimNode
    from actorfw.testing.workers import SimWorker

__all__ = [
    "MemoryNetwork",
    "SimCluster",
    "SimEnv",
    "SimNode",
    "SimWorker",
    "StuckError",
    "VirtualLoop",
    "run",
    "simulated",
]

_WHERE: Final = {
    "MemoryNetwork": "network",
    "SimCluster": "sim",
    "SimEnv": "network",
    "SimNode": "sim",
    "SimWorker": "workers",
    "StuckError": "loop",
    "VirtualLoop": "loop",
    "run": "loop",
    "simulated": "seeds",
}


def __getattr__(name: str) -> Any:
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
