"""What a child process writes past Python: read from a pipe on the loop, passed on by lines, with its last words
kept."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

__all__ = ["RawOutput"]

_PIECE: Final = 256 * 1024
_TAIL_BYTES: Final = 4096


class RawOutput:
    """The reading end of a process's descriptors 1 and 2.

    Args:
        loop: where it is read.
        fd: the pipe; closed by `close`.
        lines: called with whole lines, as text.

    Attributes:
        tail: the last bytes that came.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, lines: Callable[[str], None]) -> None:
        os.set_blocking(fd, False)
        self._loop = loop
        self._fd = fd
        self._lines = lines
        self._partial = b""
        self.tail = b""
        loop.add_reader(fd, self._readable)

    def _readable(self) -> bool:
        """Take what is there; False if that was nothing."""
        try:
            data = os.read(self._fd, _PIECE)
        except (BlockingIOError, InterruptedError):
            return False
        if not data:
            self._loop.remove_reader(self._fd)
            return False
        self.tail = (self.tail + data)[-_TAIL_BYTES:]
        whole, newline, self._partial = (self._partial + data).rpartition(b"\n")
        if not newline and len(self._partial) > _PIECE:
            whole, self._partial = self._partial, b""
        if whole or newline:
            self._lines((whole + newline).decode("utf-8", "backslashreplace"))
        return True

    def read_to_the_end(self) -> None:
        """The process is gone: take all that is left. A child of its own may hold the other end open, so there may be
        no end."""
        while self._readable():
            pass
        if self._partial:
            rest, self._partial = self._partial, b""
            self._lines(rest.decode("utf-8", "backslashreplace") + "\n")

    def close(self) -> None:
        """Stop reading."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
