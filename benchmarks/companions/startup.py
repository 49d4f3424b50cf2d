"""A program that starts a node and runs one task. Says how many seconds passed from `init()` to the result."""

from __future__ import annotations

import time

import uvloop

import actorfw
from benchmarks.companion import say
from benchmarks.subjects import increment


async def _main() -> None:
    started = time.perf_counter()
    async with actorfw.init():
        await increment.remote(1)
        say(time.perf_counter() - started)


if __name__ == "__main__":
    uvloop.run(_main())
