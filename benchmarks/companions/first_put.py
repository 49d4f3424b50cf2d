"""A node's first put, and the same bytes copied into fresh shared memory. Argument: its core. Says both, in seconds."""

from __future__ import annotations

import sys
import time

import uvloop

import actorfw
from benchmarks.arrays import array, fresh_copy_seconds
from benchmarks.companion import released, say
from benchmarks.machine import pin


async def _main() -> None:
    value = array()
    async with actorfw.init(num_cpus=0):
        started = time.perf_counter()
        ref = actorfw.put(value)
        took = time.perf_counter() - started
        say([took, fresh_copy_seconds(value)])
        del ref
        await released()


if __name__ == "__main__":
    pin(int(sys.argv[1]))
    uvloop.run(_main())
