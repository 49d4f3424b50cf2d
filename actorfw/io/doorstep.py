"""The doorstep: accepted connections that have not said anything whole yet, kept as cheaply as can be.

A listening socket is read here and not by asyncio, which makes a task, a transport and a protocol of every connection
it accepts: ten times of what a stranger should cost. Here he is a socket, a reader and some bytes until his first
packet is complete. Which callers may stay, and how many are taken in a second, is decided by `core.door`; what the
packet says is the protocol's affair, to which the connection is handed with all that came.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import selectors
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from actorfw.core.door import Door, Turns
from actorfw.core.handshake import HELLO_SECONDS, NO_TLS, PacketReader, SpeaksTlsError, plain_refusal
from actorfw.values.errors import ProtocolError

__all__ = ["Doorstep", "group_of"]

logger = logging.getLogger("actorfw.peers")

_AT_ONCE: Final = 64  # accepted in one turn of the loop: what goes on beside should not wait longer
_READ: Final = 4 * 1024
_MOST_READS: Final = 16  # the first packet is small and written at once: it does not come in crumbs
_LEAST_REST: Final = 0.01
_NO_DESCRIPTOR_REST: Final = 1.0
_TLS_COSTS: Final = 4.0  # handshakes: what a key exchange costs beside one without
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def group_of(host: str) -> str:
    """What addresses of one origin have in common: this machine is one, and so are the first 64 bits of IPv6."""
    if host.startswith("::ffff:"):
        host = host[7:]
    if host == "::1" or host.startswith("127.") or not host:
        return "here"
    if ":" in host:
        return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8].hex()
    return host


class _Stranger:
    """A connection that has not said anything whole yet."""

    __slots__ = ("data", "group", "over", "reads", "sock", "step", "until", "waits")

    def __init__(self, step: Doorstep, sock: socket.socket, group: str, until: float) -> None:
        self.step = step
        self.sock = sock
        self.group = group
        self.until = until
        self.data = b""
        self.reads = 0
        self.waits = False  # for its turn: it has said what it had to say
        self.over = False  # dropped or handed over

    def drop(self, why: str) -> None:
        self.step.drop(self)


class _WithFirstBytes(asyncio.Protocol):
    """Gives the protocol of a connection what was read before it had one."""

    def __init__(self, protocol: asyncio.Protocol, first: bytes) -> None:
        self._protocol = protocol
        self._first = first

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).set_protocol(self._protocol)
        self._protocol.connection_made(transport)
        if self._first:
            self._protocol.data_received(self._first)


class Doorstep:
    """Accepts at a listening socket, which is this object's from now on.

    Args:
        loop: the loop to accept on.
        sock: it listens.
        protocol_factory: makes the protocol of a connection whose first packet has come.
        door: who may be here.
        tls: whether the connections are TLS: then their first bytes are not read here.
        refused: told why a connection was closed that said something which is no handshake.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        door: Door,
        tls: bool,
        refused: Callable[[str, Exception], object],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._factory = protocol_factory
        self._door = door
        self._tls = tls
        self._refused = refused
        self._strangers: dict[_Stranger, None] = {}
        self._deadlines: deque[_Stranger] = deque()
        self._ready: Turns[_Stranger] = Turns()
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}  # what is to be done later, once each
        self._tasks: dict[asyncio.Task[None], socket.socket] = {}
        # The loop has one reader for all of them: its own for each would cost as much as all the rest.
        self._readers = selectors.DefaultSelector()
        self._open = True
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._accept)
        loop.add_reader(self._selector_fd(), self._read)

    def _selector_fd(self) -> int:
        fd: int = self._readers.fileno()
        return fd

    def close(self) -> None:
        """Accept no more, and be rid of all who are still here. What was handed over stays."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for stranger in list(self._strangers):
            self.drop(stranger)
        if self._open:
            self._open = False
            self._loop.remove_reader(self._selector_fd())
            self._readers.close()

    def descriptors(self) -> list[int]:
        """Of the listening socket and of all who are still here."""
        found = [self._sock.fileno()] if self._sock.fileno() >= 0 else []
        found += [self._selector_fd()] if self._open else []
        return found + [stranger.sock.fileno() for stranger in self._strangers]

    # -- accepting -----------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        now = self._loop.time()
        accepts = self._door.accepts
        for _ in range(_AT_ONCE):
            if not accepts.take(now):
                accepts.limit.refused += 1
                self._rest(accepts.wait(now))
                break
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                accepts.give_back()
                break
            except OSError as error:
                accepts.give_back()
                if error.errno not in _EXHAUSTED:
                    raise
                self._exhausted(error)
                break
            sock.setblocking(False)
            host = address[0] if isinstance(address, tuple) and address else ""
            stranger = _Stranger(self, sock, group_of(str(host)), now + HELLO_SECONDS)
            self._strangers[stranger] = None
            self._door.enter(stranger)
            self._deadlines.append(stranger)
            self._readers.register(sock, selectors.EVENT_READ, stranger)
        if self._deadlines:
            self._later(self._too_slow, self._deadlines[0].until - now)

    def _exhausted(self, error: OSError) -> None:
        # The system has no descriptor left for another connection. Those that nobody knows are the first to go.
        if not self._door.make_room("this process has no descriptor left"):
            logger.error(
                "no connection can be accepted for %g s: %s; raise the descriptor limit (ulimit -n)",
                _NO_DESCRIPTOR_REST,
                error,
            )
            self._rest(_NO_DESCRIPTOR_REST)

    def _rest(self, seconds: float) -> None:
        """Let those outside wait there."""
        self._loop.remove_reader(self._sock.fileno())
        self._later(self._go_on, max(seconds, _LEAST_REST))

    def _go_on(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._accept)

    # -- those who are here --------------------------------------------------------------------------------------------

    def _read(self) -> None:
        for key, _ in self._readers.select(0)[:_AT_ONCE]:
            if not key.data.over:
                self._readable(key.data)

    def _readable(self, stranger: _Stranger) -> None:
        if not self._tls:
            try:
                data = stranger.sock.recv(_READ)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self.drop(stranger)
                return
            stranger.data += data
            stranger.reads += 1
            try:
                if PacketReader().feed(stranger.data) is None:
                    if stranger.reads >= _MOST_READS:
                        raise ProtocolError(f"a first packet that comes in more than {_MOST_READS} pieces is not read")
                    return
            except ProtocolError as error:
                if isinstance(error, SpeaksTlsError):
                    _say(stranger.sock, plain_refusal("tls", NO_TLS))
                self._refused(_name_of(stranger.sock), error)
                self.drop(stranger)
                return
        # It waits for its turn, and whatever else it says waits with it.
        self._readers.unregister(stranger.sock)
        stranger.waits = True
        self._ready.add(stranger)
        self._admit()

    def _admit(self) -> None:
        handshakes = self._door.handshakes
        costs = _TLS_COSTS if self._tls else 1.0
        while len(self._ready):
            if not handshakes.take(self._loop.time(), costs):
                handshakes.limit.refused += 1
                self._later(self._admit, max(handshakes.wait(self._loop.time(), costs), _LEAST_REST))
                return
            stranger = self._ready.next()
            while stranger is not None and stranger.over:
                stranger = self._ready.next()
            if stranger is None:
                handshakes.give_back(costs)
                return
            stranger.over = True
            del self._strangers[stranger]
            self._door.leave(stranger)
            task = self._loop.create_task(self._hand_over(stranger), name="actorfw accept")
            self._tasks[task] = stranger.sock
            task.add_done_callback(self._handed_over)

    def _handed_over(self, task: asyncio.Task[None]) -> None:
        sock = self._tasks.pop(task)
        if task.cancelled():  # perhaps before its first step: the loop ends
            sock.close()

    async def _hand_over(self, stranger: _Stranger) -> None:
        protocol = cast("asyncio.Protocol", self._factory())
        first = _WithFirstBytes(protocol, stranger.data)
        try:
            await self._loop.connect_accepted_socket(lambda: first, stranger.sock)
        except OSError as error:  # it has gone meanwhile
            stranger.sock.close()
            self._refused(f"an address of {stranger.group}", error)

    def _too_slow(self) -> None:
        now = self._loop.time()
        while self._deadlines and (self._deadlines[0].over or self._deadlines[0].until <= now):
            stranger = self._deadlines.popleft()
            if not stranger.over and not stranger.waits:
                self._refused(_name_of(stranger.sock), TimeoutError(f"no first packet within {HELLO_SECONDS:g} s"))
                self.drop(stranger)
        if self._deadlines:
            self._later(self._too_slow, self._deadlines[0].until - now)

    def drop(self, stranger: _Stranger) -> None:
        """Close a connection that is still here."""
        if not stranger.over:
            stranger.over = True
            del self._strangers[stranger]
            self._door.leave(stranger)
            if not stranger.waits:
                self._readers.unregister(stranger.sock)
            stranger.sock.close()

    def _later(self, what: Callable[[], None], seconds: float) -> None:
        if what not in self._timers:

            def now_it_is() -> None:
                del self._timers[what]
                what()

            self._timers[what] = self._loop.call_later(max(seconds, 0.0), now_it_is)


def _say(sock: socket.socket, packet: bytes) -> None:
    try:
        sock.send(packet)
    except OSError:
        pass  # it has gone


def _name_of(sock: socket.socket) -> str:
    try:
        name = sock.getpeername()
    except OSError:
        return "somebody who has gone"
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "an unnamed socket"
