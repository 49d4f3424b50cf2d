"""`HostMates`: nodes of one host read each other's shared memory instead of sending it.

Each node listens on a unix socket, whose name and key are told over authenticated sessions only. A mate connects, shows
the key, and gets a descriptor with which it can read the memory and not write to it. From then on that connection says
what the mate reads, and its end is the end of the process that reads, and of the workers of that which do: the session
can't say so, since who was only declared dead may still be reading.

A value is lent in three steps. The session brings what it consists of: its stream, the refs in it, and the places of
its buffers, which are *offered*: they stay until the mate is gone, or pins them. The mate pins them over the
connection, and reads when that is confirmed; what was withdrawn meanwhile it asks for anew. When it has let go
(`lodging`), it says so there.

A worker of a mate gets the memory from its own node, with the mate's end of the connection: so that ends with the last
process that can read.
"""

from __future__ import annotations

import hmac
import logging
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.handshake import HELLO_SECONDS
from actorfw.io import hostsocket
from actorfw.io.hostsocket import MESSAGE_BYTES, STRANGER_BYTES, HostSocket
from actorfw.io.sharedmem import SharedMemory
from actorfw.runtime.store.blocks import SEALED, Block
from actorfw.runtime.store.lodging import BlockId, Lodger
from actorfw.values.ids import RefId, as_bytes, owned_ids
from actorfw.wire import messages as m
from actorfw.wire.payload import Packed, Part, WireValue

if TYPE_CHECKING:
    from actorfw.core.ownership import Taken
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["STRANGERS", "HostMates"]

logger = logging.getLogger("actorfw.store")

INFO: Final = "mate"
"""Under which a node tells its peers [host, name of the socket, key]."""

STRANGERS: Final = 64
"""Connections of this host's processes that have not shown the key."""

_KEY_BYTES: Final = 16
_INLINE: Final = 1 << 18  # a value that has more beside its blocks travels in pieces

# On the connection, from a mate: (HELLO, key, life), (PIN, request, [[number, count], ...]), (LET_GO, [[number, count],
# ...]). To it: (MEMORY, token) with the descriptor, (PINNED, request, ok?). From a worker, to its own node, (ATTACH,
# key, token); back, (MEMORY, token) with two descriptors.
HELLO: Final = 1
MEMORY: Final = 2
PIN: Final = 3
PINNED: Final = 4
LET_GO: Final = 5
ATTACH: Final = 6


class _Reader:
    """A mate that reads this node's memory. As a key, it says to whom blocks are lent."""

    def __init__(self, life: bytes) -> None:
        self.life = life

    def __repr__(self) -> str:
        return f"mate {self.life[:8].hex()}"


class _Source:
    """A mate whose memory this node reads."""

    def __init__(self, mates: HostMates, life: bytes) -> None:
        self.life = life
        self.sock: HostSocket | None = None
        self.token = b""
        self.memory: SharedMemory | None = None
        self.leaving = False  # nothing new comes of it
        self.lodger = Lodger(self._let_go)
        self._mates = mates
        self._loose: HostSocket | None = None  # the node has closed, and something of this is still read
        self._due = False
        self._requests = 0
        self._pins: dict[int, Callable[[bool], object]] = {}

    # -- pins ----------------------------------------------------------------------------------------------------------

    def pin(self, rows: list[tuple[int, int]], then: Callable[[bool], object]) -> None:
        """Hold what was offered; `then(ok)`."""
        if self.sock is None:
            then(False)
            return
        self._requests += 1
        self._pins[self._requests] = then
        self.sock.send((PIN, self._requests, rows))

    def pinned(self, request: int, ok: bool) -> None:
        then = self._pins.pop(request, None)
        if then is not None:
            then(ok)

    def _let_go(self) -> None:
        # In a finalizer, of any thread.
        loose = self._loose
        if loose is not None:
            if not len(self.lodger):
                loose.close()
            return
        if not self._due:
            self._due = True
            self._mates.node.wake(self.report)

    def report(self) -> None:
        """Say what is not read any more."""
        self._due = False
        rows = [[number, count] for (_, number), count in self.lodger.reports()]
        if rows and self.sock is not None:
            self.sock.send((LET_GO, rows))
        self.tidy()

    # -- its end -------------------------------------------------------------------------------------------------------

    def tidy(self) -> None:
        """If nothing of it is read any more, and nothing new will be, be rid of it."""
        if (self.leaving or self.sock is None) and not len(self.lodger) and not self._pins:
            self._mates.forget(self)

    def ended(self, _: HostSocket) -> None:
        """The other process is gone. Its memory stays as it is as long as somebody reads it."""
        self.sock = None
        pins, self._pins = self._pins, {}
        for then in pins.values():
            then(False)
        self.tidy()

    def heard(self, sock: HostSocket, message: list[Any], fds: list[int]) -> None:
        if message[0] == MEMORY and len(fds) == 1 and self.memory is None:
            self.token = message[1]
            self.memory = SharedMemory.attach(fds[0], readonly=True)
            self.lodger.memories[self.token] = self.memory
            self._mates.by_token[self.token] = self
            return
        for fd in fds:
            os.close(fd)
        if message[0] == PINNED:
            self.pinned(message[1], message[2])

    def close(self) -> None:
        """The node closes. What is still read here stays readable."""
        sock, self.sock = self.sock, None
        pins, self._pins = self._pins, {}
        for then in pins.values():
            then(False)
        if sock is not None:
            sock.release()
            self._loose = sock
            if not len(self.lodger):
                sock.close()
        if self.memory is not None:
            self.memory.close()


class HostMates:
    """The mates of one node, both those that read its memory and those whose memory it reads.

    Attributes:
        by_token: those whose memory it reads.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.by_token: dict[bytes, _Source] = {}
        self.name = ""
        self._key = b""
        self._listener: socket.socket | None = None
        self._readable_fd = -1  # of the memory, for reading only
        self._readers: dict[HostSocket, _Reader | None] = {}
        self._sources: dict[bytes, _Source] = {}  # by life, those that are up

    # -- beginning and end ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen, if there is something to be read here."""
        node = self.node
        arena = node.store.arena
        if arena is None or arena.memory.fd < 0 or node.loop is None:
            return
        name = f"actorfw-{node.env.token(16).hex()}"
        try:
            self._readable_fd = os.open(f"/proc/self/fd/{arena.memory.fd}", os.O_RDONLY | os.O_CLOEXEC)
            self._listener = hostsocket.listen(name)
        except OSError as error:
            logger.info("other nodes of this host can't read this one's memory: %s", error)
            self._close_listener()
            return
        self.name = name
        self._key = node.env.token(_KEY_BYTES)
        node.loop.add_reader(self._listener.fileno(), self._connected)
        node.identity.info[INFO] = [node.env.host_id, name, self._key]

    def desk(self) -> list[Any] | None:
        """What a worker of this node is told, so that it gets the memory of others."""
        return [self.name, self._key] if self.name else None

    def close(self) -> None:
        """The node closes. What mates read stays as it is, since nothing is written there any more."""
        self.node.identity.info.pop(INFO, None)
        for sock in list(self._readers):
            sock.close()
        self._readers.clear()
        for source in {*self._sources.values(), *self.by_token.values()}:
            source.close()
        self._sources.clear()
        self.by_token.clear()
        self._close_listener()

    def _close_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            if self.node.loop is not None:
                self.node.loop.remove_reader(listener.fileno())
            listener.close()
        fd, self._readable_fd = self._readable_fd, -1
        if fd >= 0:
            os.close(fd)

    def descriptors(self) -> list[int]:
        """Of its sockets: a process that is forked must not keep them."""
        socks = [*self._readers, *(source.sock for source in self._sources.values() if source.sock is not None)]
        return [sock.fd for sock in socks] + ([self._listener.fileno()] if self._listener is not None else [])

    # -- peers ---------------------------------------------------------------------------------------------------------

    def linked(self, peer: Peer) -> None:
        """There is a link, the first or another: if that node is on this host, connect to it."""
        told = peer.info.get(INFO)
        node = self.node
        if not self.name or not told or told[0] != node.env.host_id or node.loop is None or peer.life in self._sources:
            return
        try:
            sock = hostsocket.connect(told[1])
        except OSError as error:
            logger.info("node %s is on this host, and its memory can't be had: %s", peer.name, error)
            return
        source = _Source(self, peer.life)
        source.sock = HostSocket(node.loop, sock, source.heard, source.ended)
        source.sock.send((HELLO, told[2], node.life))
        self._sources[peer.life] = source

    def peer_ended(self, life: bytes) -> None:
        """A node is gone, or only thought to be: what it was offered was not taken. What it reads, it may go on
        reading."""
        self.node.store.lends.gone(("offered", life))
        source = self._sources.pop(life, None)
        if source is not None:
            source.leaving = True
            source.tidy()

    def forget(self, source: _Source) -> None:
        """Nothing of it is read any more."""
        if self._sources.get(source.life) is source:
            del self._sources[source.life]
        if self.by_token.get(source.token) is source:
            del self.by_token[source.token]
        if source.sock is not None:
            source.sock.close()
            source.sock = None
        if source.memory is not None:
            source.memory.close()

    # -- who reads here ------------------------------------------------------------------------------------------------

    def _connected(self) -> None:
        assert self._listener is not None
        assert self.node.loop is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # it went away again
        if not hostsocket.same_user(sock):
            sock.close()
            return
        strangers = [known for known, reader in self._readers.items() if reader is None]
        if len(strangers) >= STRANGERS:
            self._drop(strangers[0])
        stranger = HostSocket(self.node.loop, sock, self._heard, self._reader_ended)
        stranger.limit = STRANGER_BYTES
        self._readers[stranger] = None
        self.node.env.call_later(HELLO_SECONDS, self._too_slow, stranger)

    def _too_slow(self, sock: HostSocket) -> None:
        if sock in self._readers and self._readers[sock] is None:
            self._drop(sock)

    def _drop(self, stranger: HostSocket) -> None:
        """Any process of this machine may connect: those that don't show the key make room for others."""
        self.node.limits["mates_half_open"].refused += 1
        del self._readers[stranger]
        stranger.close()

    def strangers(self) -> int:
        """Connections of processes that have not shown the key."""
        return sum(reader is None for reader in self._readers.values())

    def _heard(self, sock: HostSocket, message: list[Any], fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        reader = self._readers.get(sock)
        try:
            if reader is not None:
                self._of_reader(sock, reader, message)
            elif message[0] in (HELLO, ATTACH) and hmac.compare_digest(message[1], self._key):
                if message[0] == ATTACH:
                    self._attach(sock, message[2])
                else:
                    self._readers[sock] = _Reader(message[2])
                    sock.limit = MESSAGE_BYTES
                    assert self.node.store.arena is not None
                    sock.send((MEMORY, self.node.store.token), [self._readable_fd])
            else:
                raise ValueError("it does not know the key")
        except Exception as error:  # the message is somebody else's
            logger.warning("a connection from a process of this host is closed: %r", error)
            sock.close()
            self._reader_ended(sock)

    def _of_reader(self, sock: HostSocket, reader: _Reader, message: list[Any]) -> None:
        token = self.node.store.token
        lends = self.node.store.lends
        if message[0] == PIN:
            rows: list[tuple[BlockId, int]] = [((token, number), count) for number, count in message[2]]
            offered = ("offered", reader.life)
            try:
                blocks = [(lends.find(offered, id), count) for id, count in rows]
            except LookupError:
                blocks = []
            for block, count in blocks:
                for _ in range(count):
                    lends.lend(reader, block)
            lends.returned(offered, rows)
            sock.send((PINNED, message[1], bool(blocks)))
        elif message[0] == LET_GO:
            lends.returned(reader, [((token, number), count) for number, count in message[1]])
        else:
            raise ValueError(f"a message of kind {message[0]}")

    def _reader_ended(self, sock: HostSocket) -> None:
        reader = self._readers.pop(sock, None)
        if reader is not None:
            self.node.store.lends.gone(reader)
            if not any(other is not None and other.life == reader.life for other in self._readers.values()):
                self.node.store.lends.gone(("offered", reader.life))

    def _attach(self, sock: HostSocket, token: bytes) -> None:
        # A worker of this node: it gets the memory, and what tells its owner that it can still read.
        source = self.by_token.get(token)
        if source is None or source.memory is None:
            raise ValueError("it asks for memory that is not known here")
        fds = [source.memory.fd]
        if source.sock is not None:
            fds.append(source.sock.fd)
        sock.send((MEMORY, token), fds)

    # -- lending -------------------------------------------------------------------------------------------------------

    def reads(self, life: bytes) -> bool:
        """Whether this node reads that one's memory."""
        source = self._sources.get(life)
        return source is not None and source.sock is not None

    def lends(self, life: bytes, out: WireValue) -> bool:
        """Whether a node would get this value lent: it reads this one's memory, and the value is all there."""
        if not self._readers or type(out) is not Packed:
            return False
        if not any(reader is not None and reader.life == life for reader in self._readers.values()):
            return False
        arena = self.node.store.arena
        beside = len(out.data)
        blocks = 0
        for part in out.buffers:
            if type(part) is Block:
                if part.state != SEALED or part.arena is not arena:
                    return False
                blocks += 1
            elif isinstance(part, (bytes, bytearray, memoryview)):
                beside += memoryview(part).nbytes
            else:
                return False
        return blocks > 0 and beside <= _INLINE

    def lend(self, peer: Peer, id: RefId, version: int, out: WireValue) -> bool:
        """Offer a value to a peer that reads this node's memory; False if it has to get the bytes."""
        if not self.lends(peer.life, out):
            return False
        assert type(out) is Packed
        lends = self.node.store.lends
        parts: list[Any] = []
        for part in out.buffers:
            parts.append(list(lends.lend(("offered", peer.life), part)) if type(part) is Block else part)
        self.node.outbound.enclose(peer, out)
        peer.send((m.LENT, *id, version, out.data, parts, out.refs, out.codes))
        return True

    def on_lent(self, peer: Peer, msg: list[Any]) -> None:
        """A mate offers a value that this node pulls."""
        _, life, number, version, data, parts, refs, codes = msg
        node = self.node
        held = owned_ids(refs) if refs else None
        given = node.objects.ownership.took(peer.life, held) if held else None
        id = (as_bytes(life), number)
        source = self._sources.get(peer.life)
        if source is None or source.sock is None:
            # Its process is gone, or that connection is: nobody waits for a pin, the other side has heard the same.
            node.objects.settle_taken(given)
            node.pulls.not_lent(peer.life, id, version)
            return
        counts: dict[int, int] = {}
        for part in parts:
            if type(part) is list:
                counts[part[1]] = counts.get(part[1], 0) + 1

        def pinned(ok: bool) -> None:
            self._pinned(source, peer.life, (id, version), (data, parts, refs, codes), given, ok=ok)

        source.pin(list(counts.items()), pinned)

    def _pinned(
        self,
        source: _Source,
        life: bytes,
        what: tuple[RefId, int],
        value: tuple[bytes, list[Any], list[Any], list[bytes]],
        given: Taken | None,
        *,
        ok: bool,
    ) -> None:
        node = self.node
        if not ok:
            node.objects.settle_taken(given)
            node.pulls.not_lent(life, *what)
            return
        data, parts, refs, codes = value
        buffers: list[Part] = [
            source.lodger.receive((part[0], part[1], part[2], part[3])) if type(part) is list else part
            for part in parts
        ]
        out = Packed(data, buffers, [(as_bytes(r[0]), r[1], r[2]) for r in refs], list(codes))
        node.pulls.lent(*what, node.objects.keep(out))
        node.objects.settle_taken(given)


def attached(desk: list[Any] | None, token: bytes, timeout: float = 10.0) -> tuple[SharedMemory, int]:
    """In a worker: the memory of a mate of its node, and the descriptor that it is to keep open as long as it can read.

    Raises:
        OSError: it can't be had.
    """
    if desk is None:
        raise OSError(f"shared memory {token.hex()} is not mapped here")
    name, key = desk
    _, fds = hostsocket.receive_blocking(name, (ATTACH, key, token), timeout)
    memory = SharedMemory.attach(fds[0], readonly=True)
    memory.hand_over()
    return memory, fds[1] if len(fds) > 1 else -1
