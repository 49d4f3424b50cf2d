"""What the programs of the rivals share: how many operations they measure, and how they are asked for a figure.

Each runs as a script in an environment of its own, reads the name of a measurement from each line of stdin and writes
the figure to stdout as JSON; it ends when stdin closes. Nothing of this repository but this module is imported there.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping

__all__ = ["BATCH", "BYTES", "CALLS", "CPUS", "CREATED", "MIB", "check", "serve"]

MIB = 1 << 20
BYTES = 128 * MIB

_FULL = os.environ.get("BENCHMARKS_SCALE", "full") == "full"
CALLS = 1_000 if _FULL else 200
BATCH = 10_000 if _FULL else 1_000
CREATED = 1_000 if _FULL else 100
CPUS = os.cpu_count() or 1


def check(found: object, expected: object) -> None:
    """A wrong answer is no measurement."""
    if found != expected:
        raise AssertionError(f"came to {found!r}, and {expected!r} is right")


async def serve(version: str, measurements: Mapping[str, Callable[[], Awaitable[float]]]) -> None:
    """Says the version, then measures what it is asked for until nobody asks any more."""
    with os.fdopen(os.dup(1), "w") as stdout:
        os.dup2(2, 1)  # what the library prints is no figure

        def say(value: object) -> None:
            stdout.write(json.dumps(value) + "\n")
            stdout.flush()

        say(version)
        while name := (await asyncio.to_thread(sys.stdin.readline)).strip():
            say(await measurements[name]())
