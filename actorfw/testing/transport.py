"""`Connection`: one simulated TCP connection, as two asyncio transports and two directed pipes of bytes.

Bytes arrive in order or the connection breaks. Which node may talk to which, and who listens where, is known to
`actorfw.testing.network`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

if TYPE_CHECKING:
    from actorfw.testing.network import MemoryNetwork

__all__ = ["Connection", "Deliver", "MemoryTransport", "Pipe"]

Deliver: TypeAlias = Literal["all", "none", "some"]

# What the kernels of both sides would hold before the writer's own buffer grows.
_KERNEL_BYTES: Final = 256 * 1024


class MemoryTransport(asyncio.Transport):
    """One end of a `Connection`: an asyncio transport without a socket."""

    def __init__(self, connection: Connection, side: int, node: str) -> None:
        super().__init__()
        self.connection = connection
        self.side = side
        self.node = node
        self.context = connection.network.loop.context_of(node)
        self.protocol: asyncio.Protocol | None = None
        self.out = Pipe(self)
        self._high = 64 * 1024
        self._low = 16 * 1024
        self._paused_writing = False
        self._closing = False
        self.lost = False

    def __repr__(self) -> str:
        return f"<MemoryTransport {self.node} of {self.connection!r}>"

    @property
    def other(self) -> MemoryTransport:
        """The other end."""
        return self.connection.ends[1 - self.side]

    # What a protocol calls.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Known names: sockname, peername, within_machine, acknowledges."""
        if name == "acknowledges":
            return self.out.acknowledged()
        if name == "within_machine":
            return not self.connection.network.sealed
        if name in ("sockname", "peername"):
            mine = (name == "sockname") == (self.side == 1)
            host, port = self.connection.address
            return (host, port) if mine else (host, 0)
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """From now on this protocol is called."""
        self.protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol that is called."""
        assert self.protocol is not None
        return self.protocol

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        if data and not self._closing and not self.lost:
            self.out.put(bytes(data))
            if not self._paused_writing and self.get_write_buffer_size() > self._high:
                self._paused_writing = True
                self.get_protocol().pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send several pieces as one."""
        self.write(b"".join(list_of_data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See `asyncio.WriteTransport`."""
        self._high = 64 * 1024 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        """Bytes beyond what the kernels hold."""
        return max(0, self.out.outstanding - _KERNEL_BYTES)

    def pause_reading(self) -> None:
        """Let what arrives wait."""
        self.other.out.reading = False

    def resume_reading(self) -> None:
        """Hand over again what arrives."""
        self.other.out.reading = True
        self.other.out.hand_over_soon()

    def can_write_eof(self) -> bool:
        """No: half-closed connections are not simulated."""
        return False

    def close(self) -> None:
        """Close when everything written has arrived."""
        if not self._closing:
            self._closing = True
            self.out.finish(None)
            self._lose_soon(None)

    def abort(self) -> None:
        """Close now. The other side sees a reset behind what was on its way."""
        if not self.lost:
            self._closing = True
            self.out.finish(ConnectionResetError("connection reset by peer"))
            self._lose_soon(None)

    # What the network calls.

    def start(self, protocol: asyncio.BaseProtocol) -> None:
        """The connection stands."""
        self.protocol = cast("asyncio.Protocol", protocol)
        protocol.connection_made(self)

    def received(self, data: bytes) -> None:
        """Bytes arrived."""
        if not self._closing and self.protocol is not None:
            self.protocol.data_received(data)

    def ended(self, error: Exception | None) -> None:
        """The other side's end has arrived."""
        if self._closing or self.protocol is None:
            return
        if error is None:
            self.protocol.eof_received()
        self._closing = True
        self._lose(error)

    def drained(self) -> None:
        """Some of what was written has arrived."""
        if self._paused_writing and self.get_write_buffer_size() <= self._low:
            self._paused_writing = False
            if not self.lost:
                loop = self.connection.network.loop
                loop.call_soon(self._resume_writing, context=self.context)

    def break_off(self, error: Exception | None) -> None:
        """This end notices that the connection is broken."""
        self._closing = True
        self._lose_soon(error)

    def _resume_writing(self) -> None:
        if not self.lost and not self._paused_writing:
            self.get_protocol().resume_writing()

    def _lose_soon(self, error: Exception | None) -> None:
        self.connection.network.loop.call_soon(self._lose, error, context=self.context)

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self.connection.end_lost()
            if self.protocol is not None:
                self.protocol.connection_lost(error)


class Pipe:
    """One direction of a connection."""

    def __init__(self, writer: MemoryTransport) -> None:
        self.writer = writer
        self.network = writer.connection.network
        self.in_flight: deque[tuple[float, bytes]] = deque()
        self.arrived = bytearray()
        self.outstanding = 0
        self.passed = 0
        self.cut_at: int | None = None
        self.stalled = False
        self.reading = True
        self.dead = False
        self._end: tuple[float, Exception | None] | None = None
        self._end_arrived = False
        self._last = 0.0
        self._scheduled = False
        self._handing = False

    def put(self, data: bytes) -> None:
        if not self.dead and self._end is None:
            self.outstanding += len(data)
            self.in_flight.append((self._arrival(), data))
            self._schedule()

    def finish(self, error: Exception | None) -> None:
        """Nothing more is written: the other side learns it behind what is on its way."""
        if self._end is None and not self.dead:
            self._end = (self._arrival(), error)
            self._schedule()

    def truncate(self, size: int) -> None:
        """Of what has not arrived only the first `size` bytes will."""
        kept: deque[tuple[float, bytes]] = deque()
        for when, data in self.in_flight:
            if size > 0:
                kept.append((when, data[:size]))
                size -= len(data)
        self.in_flight = kept

    def arriving(self) -> int:
        """Bytes that have not arrived yet."""
        return sum(len(data) for _, data in self.in_flight)

    def acknowledged(self) -> bool:
        """Whether the other side's kernel would have answered by now: it does for a frozen process."""
        back = self.writer.other.out
        return not (self.dead or back.dead or back.stalled or (self.stalled and self.in_flight))

    def hold(self) -> None:
        self.stalled = True

    def release(self) -> None:
        if self.stalled:
            self.stalled = False
            self._schedule()

    def kill(self) -> None:
        """Nothing passes any more and nobody is told: what a machine without power does."""
        self.dead = True
        self.in_flight.clear()
        self._end = None
        self._end_arrived = False

    def hand_over_soon(self) -> None:
        if not self._handing:
            self._handing = True
            self.network.loop.call_soon(self._hand_over, context=self.writer.other.context)

    def _arrival(self) -> float:
        network = self.network
        low, high = network.latency_of(self.writer.node, self.writer.other.node)
        self._last = max(self._last, network.loop.time() + network.random.uniform(low, high))
        return self._last

    def _schedule(self) -> None:
        if self._scheduled or self.stalled or self.dead:
            return
        if self.in_flight:
            when = self.in_flight[0][0]
        elif self._end is not None and not self._end_arrived:
            when = self._end[0]
        else:
            return
        self._scheduled = True
        network = self.network
        network.loop.call_at(max(when, network.loop.time()), self._arrive, context=network.context)

    def _arrive(self) -> None:
        self._scheduled = False
        if self.stalled or self.dead:
            return
        now = self.network.loop.time()
        while self.in_flight and self.in_flight[0][0] <= now:
            data = self.in_flight.popleft()[1]
            if self.cut_at is not None and self.passed + len(data) >= self.cut_at:
                data = data[: self.cut_at - self.passed]
                self.cut_at = None
                self.passed += len(data)
                self.arrived += data
                self.hand_over_soon()
                self.writer.connection.cut(deliver="none")
                return
            self.passed += len(data)
            self.arrived += data
        self._end_arrived = not self.in_flight and self._end is not None and self._end[0] <= now
        self.hand_over_soon()
        self._schedule()

    def _hand_over(self) -> None:
        self._handing = False
        if not self.reading:
            return
        reader = self.writer.other
        if self.arrived:
            size = len(self.arrived)
            if self.network.fragment and size > 1 and self.network.random.random() < 0.5:
                size = self.network.random.randint(1, size - 1)
            data = bytes(self.arrived[:size])
            del self.arrived[:size]
            self.outstanding -= size
            self.network.note(self.writer.node, reader.node, data)
            if self.arrived or self._end_arrived:
                self.hand_over_soon()
            self.writer.drained()
            reader.received(data)
        elif self._end is not None and self._end_arrived:
            error = self._end[1]
            self.kill()
            self.network.note(self.writer.node, reader.node, b"")
            reader.ended(error)


class Connection:
    """One TCP connection. `ends[0]` dialled, `ends[1]` accepted."""

    def __init__(self, network: MemoryNetwork, dialler: str, acceptor: str, address: tuple[str, int]) -> None:
        self.network = network
        self.address = address
        self.ends = (MemoryTransport(self, 0, dialler), MemoryTransport(self, 1, acceptor))

    def __repr__(self) -> str:
        return f"<Connection {self.ends[0].node} -> {self.ends[1].node}>"

    def pipe(self, src: str) -> Pipe:
        """The direction in which node `src` writes."""
        return self.ends[0].out if self.ends[0].node == src else self.ends[1].out

    def cut(
        self,
        *,
        deliver: Deliver = "some",
        notice: Literal["both", "dialler", "acceptor"] = "both",
    ) -> None:
        """Break it now.

        Args:
            deliver: what of the bytes on their way still arrives; "some" draws a prefix for each direction.
            notice: who is told. The other half stays open: what it writes goes nowhere, and it is never told.
        """
        for end in self.ends:
            pipe = end.out
            size = pipe.arriving()
            if deliver == "none":
                size = 0
            elif deliver == "some":
                size = self.network.random.randint(0, size)
            pipe.truncate(size)
        reset = ConnectionResetError("connection reset")
        if notice == "both":
            for end in self.ends:
                if end.out.dead:
                    end.other.break_off(reset)
                else:
                    end.out.release()
                    end.out.finish(reset)
        else:
            told = self.ends[0 if notice == "dialler" else 1]
            told.break_off(reset)
            told.other.out.kill()

    def end_lost(self) -> None:
        """One of the ends is done."""
        if all(end.lost for end in self.ends):
            self.network.forget(self)
