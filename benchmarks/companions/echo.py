"""The far end of the raw ping-pong: a TCP server that writes back what it reads. Argument: its core. Says its port."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

from benchmarks.companion import released, say
from benchmarks.machine import pin


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def _main() -> None:
    server = await asyncio.get_running_loop().create_server(_Echo, "127.0.0.1", 0)
    say(server.sockets[0].getsockname()[1])
    await released()
    server.close()


if __name__ == "__main__":
    pin(int(sys.argv[1]))
    uvloop.run(_main())
