"""The far end of a raw socket stream: sends bytes to whoever asks. Arguments: its core, how many bytes. Says its port.

Who connects and sends a byte is sent all of them, by blocking calls, in a thread for each connection.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading

from benchmarks.companion import released, say
from benchmarks.machine import pin


def _send(connection: socket.socket, data: memoryview) -> None:
    with connection:
        while connection.recv(1):
            connection.sendall(data)


def _serve(server: socket.socket, data: memoryview) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return  # it was closed
        threading.Thread(target=_send, args=(connection, data), daemon=True).start()


async def _main(nbytes: int) -> None:
    data = memoryview(b"\1" * nbytes)
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(server, data), daemon=True).start()
    say(server.getsockname()[1])
    await released()
    server.close()


if __name__ == "__main__":
    pin(int(sys.argv[1]))
    asyncio.run(_main(int(sys.argv[2])))
