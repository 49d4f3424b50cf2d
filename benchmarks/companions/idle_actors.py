"""A node that hosts many idle loop actors, each of which has answered one call, and holds their handles.

Arguments: "resident" or "traced", and how many. Says the bytes that each costs: growth of the resident set, which is
what a user pays, or of what Python's allocator handed out, which leaves out the allocator's own waste.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tracemalloc
from pathlib import Path

import uvloop

import actorfw
from benchmarks.companion import say
from benchmarks.subjects import Echo

_AT_A_TIME = 1000


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _grow(handles: list[Echo], count: int) -> None:
    while len(handles) < count:
        new = [Echo.remote() for _ in range(min(_AT_A_TIME, count - len(handles)))]
        # An answer proves that the actor is there, and that what a call leaves behind is counted too.
        await asyncio.gather(*[handle.echo.remote(1) for handle in new])
        handles += new


async def _main(traced: bool, count: int) -> None:
    async with actorfw.init(num_cpus=0):
        handles: list[Echo] = []
        await _grow(handles, _AT_A_TIME)  # what the first actors load is not the price of one more
        if traced:
            tracemalloc.start()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0] if traced else _resident()
        await _grow(handles, _AT_A_TIME + count)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0] if traced else _resident()
        say((after - before) / count)
        tracemalloc.stop()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1] == "traced", int(sys.argv[2])))
