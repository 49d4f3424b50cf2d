"""Connections to a node that never finish a handshake. Arguments: their core, the node's address, how, how many.

"silent": so many that are connected and say nothing; whenever one is dropped another one comes in its place. "flood":
the same, but each hangs up, or says nonsense, as soon as it is connected. Says how many it has tried by then, when each
has been tried once.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import resource
import select
import socket
import sys

from benchmarks.companion import released, say
from benchmarks.machine import pin

_PAUSE_S = 0.001
_NONSENSE = (b"", b"GET / HTTP/1.1\r\n\r\n", b"afw:\x05\0\0\0hello")


class _Strangers:
    def __init__(self, address: tuple[str, int], many: int, flood: bool) -> None:
        self.address = address
        self.many = many
        self.flood = flood
        self.tried = 0
        self.connected = 0
        self.random = random.Random(os.getpid())
        self.sockets: dict[int, socket.socket] = {}
        self.epoll = select.epoll()

    def one_more(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        # Many hosts, as far as one machine can be: the whole of 127.0.0.0/8 is loopback.
        sock.bind(
            (f"127.{self.random.randrange(1, 255)}.{self.random.randrange(256)}.{self.random.randrange(1, 255)}", 0)
        )
        status = sock.connect_ex(self.address)
        if status not in (0, errno.EINPROGRESS):
            sock.close()
            return
        self.tried += 1
        self.sockets[sock.fileno()] = sock
        self.epoll.register(sock.fileno(), select.EPOLLOUT | select.EPOLLRDHUP)

    def happened(self, fd: int, what: int) -> None:
        sock = self.sockets[fd]
        gone = what & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP)
        if not gone:
            self.connected += 1
            self.epoll.modify(fd, select.EPOLLRDHUP)
            if not self.flood:
                return
            try:
                sock.send(self.random.choice(_NONSENSE))
            except OSError:
                pass  # it was dropped already
        self.epoll.unregister(fd)
        del self.sockets[fd]
        sock.close()

    async def run(self) -> None:
        spoken = False
        while True:
            for _ in range(min(500, self.many - len(self.sockets))):
                self.one_more()
            for fd, what in self.epoll.poll(0, 500):
                self.happened(fd, what)
            if not spoken and self.tried >= self.many and self.connected:
                spoken = True
                say(self.tried)
            await asyncio.sleep(0 if self.flood else _PAUSE_S)


async def _main(address: str, how: str, many: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    host, _, port = address.rpartition(":")
    strangers = _Strangers((host, int(port)), many, how == "flood")
    running = asyncio.create_task(strangers.run())
    await released()
    running.cancel()


if __name__ == "__main__":
    pin(int(sys.argv[1]))
    asyncio.run(_main(sys.argv[2], sys.argv[3], int(sys.argv[4])))
