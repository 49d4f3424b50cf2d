"""Reading a connection straight into memory that others name, and back to the ordinary way.

An ordinary protocol gets each read as bytes of their own, which somebody then copies to where they belong. A loop that
reads for a `BufferedProtocol` asks where to read to. That costs more per read, so it is worth it for large pieces only,
and a connection changes between the two while it is open. Leaves to others what the bytes are.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final, Protocol

__all__ = ["Direct", "Parser", "Reader", "read_with", "reads_directly"]

_SMALL: Final = 4096  # read where nothing is known of what comes: heads of pieces, and other messages between them


class Parser(Protocol):
    """Knows where the next bytes belong."""

    def room(self) -> memoryview | None:
        """There; None: nothing is known of what comes next."""
        ...


class Reader(Protocol):
    """The protocol that such a connection had before and will have again."""

    def data_received(self, data: bytes, /) -> None: ...
    def filled(self, size: int, /) -> None: ...
    def read_on(self) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, exc: Exception | None, /) -> None: ...


class Direct(asyncio.BufferedProtocol):
    """A connection's protocol while large pieces come.

    Args:
        reader: what it stands in for.
        parser: says where to read to.
    """

    def __init__(self, reader: Reader, parser: Parser) -> None:
        self._reader = reader
        self._parser = parser
        self._small = bytearray(_SMALL)
        self._placed = False

    def get_buffer(self, sizehint: int) -> memoryview | bytearray:
        """Where to read to."""
        room = self._parser.room()
        self._placed = room is not None
        return self._small if room is None else room

    def buffer_updated(self, nbytes: int) -> None:
        """So much was read."""
        reader = self._reader
        if self._placed:
            reader.filled(nbytes)
        else:
            reader.data_received(bytes(memoryview(self._small)[:nbytes]))
        reader.read_on()

    def pause_writing(self) -> None:
        """See asyncio."""
        self._reader.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._reader.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._reader.connection_lost(exc)


def reads_directly(transport: asyncio.BaseTransport) -> bool:
    """Whether the loop reads this connection at the moment it asks where to: a socket, without TLS above it.

    Windows' loop asks first and reads later, when the memory may be somebody else's.
    """
    socket = transport.get_extra_info("socket")
    return socket is not None and transport.get_extra_info("tls") is None and sys.platform != "win32"


def read_with(transport: asyncio.Transport, protocol: asyncio.BaseProtocol) -> None:
    """Hand a connection's reads to another protocol, from the next one on."""
    # uvloop chooses its way of reading when it begins to read.
    transport.pause_reading()
    transport.set_protocol(protocol)
    transport.resume_reading()
