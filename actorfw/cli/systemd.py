"""Telling systemd how a service is (`Type=notify`): messages to the socket that `NOTIFY_SOCKET` names.

Nothing is sent where nobody asked for it. What the states mean is systemd's: see sd_notify(3).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Final

__all__ = ["Notifier"]

_BEATS: Final = 3  # in the time after which systemd would take the service for dead


class Notifier:
    """Whoever has started this process and wants to hear of it, if anybody.

    Args:
        environ: names the socket, and how often it wants a sign of life.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        micros = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._patience = int(micros) / 1e6 if self._address and ours and micros.isdigit() else 0.0

    def tell(self, *lines: str) -> None:
        """Send "KEY=VALUE" lines, in one message."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                pass  # who wanted to know is gone; this node is none the worse for it

    @asynccontextmanager
    async def watched(self) -> AsyncGenerator[None]:
        """In here the loop gives signs of life, as often as was asked for."""
        beating = asyncio.ensure_future(self._beat()) if self._patience else None
        try:
            yield
        finally:
            if beating is not None:
                beating.cancel()

    async def _beat(self) -> None:
        while True:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self._patience / _BEATS)
