"""A node that joins the measuring one as if from another machine. Arguments: its core and a seed. Says its node's id.

It shares no memory with the other: all that it sends goes through sockets.
"""

from __future__ import annotations

import sys

import uvloop

import actorfw
from actorfw.io import env
from benchmarks.companion import released, say
from benchmarks.machine import pin


async def _main(seed: str) -> None:
    env._host_id = lambda: "another machine"
    async with actorfw.init(seeds=[seed], num_cpus=0) as node:
        say(node.id)
        await released()


if __name__ == "__main__":
    pin(int(sys.argv[1]))
    uvloop.run(_main(sys.argv[2]))
