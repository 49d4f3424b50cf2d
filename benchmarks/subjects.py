"""What the benchmarks submit: the same small functions and actors for all workloads.

In a module of their own, so that they travel by reference, as the functions of a real program do.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import actorfw
from benchmarks.machine import pin

__all__ = ["Echo", "ProcessEcho", "increment", "meet", "move_to_core"]


@actorfw.remote
def increment(x: int) -> int:
    """A task that costs nothing but its transport."""
    return x + 1


@actorfw.remote
def move_to_core(core: int) -> int:
    """Pins the worker that runs it; returns its process id."""
    pin(core)
    return os.getpid()


@actorfw.remote
def meet(folder: str, count: int) -> int:
    """Returns this worker's process id when `count` workers are in the folder, so that so many of them run."""
    Path(folder, str(os.getpid())).touch()
    while len(os.listdir(folder)) < count:
        time.sleep(0.005)
    return os.getpid()


class Echo(actorfw.Actor):
    """An actor on a node's loop."""

    @actorfw.method
    async def echo(self, x: int) -> int:
        return x

    @actorfw.method
    async def process_id(self) -> int:
        return os.getpid()


class ProcessEcho(actorfw.Actor):
    """An actor in a worker process of its own, since all its methods are `def`."""

    @actorfw.method
    def echo(self, x: int) -> int:
        return x
