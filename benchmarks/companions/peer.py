"""A node that joins the measuring one. Arguments: its core and a seed. Says its node's id."""

from __future__ import annotations

import sys

import uvloop

import actorfw
from benchmarks.companion import released, say
from benchmarks.machine import pin


async def _main(seed: str) -> None:
    async with actorfw.init(seeds=[seed], num_cpus=0) as node:
        say(node.id)
        await released()


if __name__ == "__main__":
    pin(int(sys.argv[1]))
    uvloop.run(_main(sys.argv[2]))
