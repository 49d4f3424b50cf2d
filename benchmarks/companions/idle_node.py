"""A node whose two workers have run one task each and now have nothing to do. Says their process ids."""

from __future__ import annotations

import asyncio
import tempfile

import uvloop

import actorfw
from benchmarks.companion import released, say
from benchmarks.subjects import meet


async def _main() -> None:
    async with actorfw.init(num_cpus=2):
        with tempfile.TemporaryDirectory() as folder:
            workers = await asyncio.gather(meet.remote(folder, 2), meet.remote(folder, 2))
        say(workers)
        await released()


if __name__ == "__main__":
    uvloop.run(_main())
