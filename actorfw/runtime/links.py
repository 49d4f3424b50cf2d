"""One connection of a session: first a `Greeting`, then a `Link`.

A `Greeting` drives `core.handshake` over a fresh connection; a `Link` carries frames between the transport and the
session, and messages to their handlers. Which connection wins, what is sent when, and what a lost one means is decided
by `core.session` and done by `runtime.peers`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, cast

from actorfw.core.handshake import (
    HANDSHAKE_SECONDS,
    HELLO_SECONDS,
    INFO_BYTES,
    NONCE_BYTES,
    PROOF_BYTES,
    Accepting,
    Dialling,
    Offer,
    PacketReader,
    RefusalCode,
    Refused,
)
from actorfw.core.session import Session
from actorfw.io.direct import Direct, read_with, reads_directly
from actorfw.io.env import TimerHandle
from actorfw.io.tcp import kernel_answers, leaves_the_machine, route, tune
from actorfw.values.errors import ActorFwError, PeerUnreachableError, ProtocolError
from actorfw.values.ids import short
from actorfw.values.names import NAME_BYTES
from actorfw.wire.frames import Frame, FrameParser, Piece, Sealer, header, piece_mark, sealer, unpack_batch

if TYPE_CHECKING:
    from actorfw.runtime.peer import Peer
    from actorfw.runtime.peers import Peers

__all__ = ["AcceptGreeting", "DialGreeting", "Greeting", "Link"]

logger = logging.getLogger("actorfw.peers")

# Below this one joined write is cheaper than a vector of two.
_JOIN_BYTES: Final = 32 * 1024
_HIGH_WATER: Final = 512 * 1024


class Link(asyncio.Protocol):
    """A connection that has been taken for a session, or may be.

    Attributes:
        paused: the transport's buffer is full: what is sent waits unpacked.
        closed: this side is done with it; what still arrives is not read.
    """

    __slots__ = (
        *("_direct", "_feed", "_parser", "_peers", "_seal", "_write"),
        *("closed", "greeting", "paused", "peer", "session", "transport"),
    )

    peer: Peer
    session: Session
    transport: asyncio.Transport

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._seal: Sealer | None = None
        self._direct: Direct | None = None
        self._parser = FrameParser()
        self.greeting: Greeting | None = None
        self.paused = False
        self.closed = False

    def start(self, peer: Peer, write_key: bytes, read_key: bytes) -> None:
        """The handshake is over and the session takes this link."""
        self.peer = peer
        self.session = peer.session
        self.greeting = None
        self._write = self.transport.write
        if write_key:
            self._seal = sealer(write_key)
            self._parser = FrameParser(sealer(read_key))
        else:
            self._parser = FrameParser(None, self._place)
        self._feed: Callable[[Any], list[Frame]] = self._parser.feed
        self.transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.transport.set_protocol(self)

    @property
    def sealed(self) -> bool:
        """Whether its frames carry seals: what is wrong with one may be somebody's doing on the way."""
        return self._seal is not None

    # Hot path: one call per write and per read, no object beyond frames and messages.

    def write(self, n: int, batch: Any) -> None:
        """Write frame `n`, with the session's ack."""
        size = len(batch)
        head = header(size, n, self.session.seen)
        if self._seal is not None:
            if type(batch) is Piece:
                batch = batch.joined()
            head += self._seal(head, batch)
        if size < _JOIN_BYTES:
            self._write(head + batch)
        elif type(batch) is Piece:
            self.transport.writelines((head + batch.mark, batch.body))
        else:
            self.transport.writelines((head, batch))

    def write_piece(self, kind: int, number: int, piece: memoryview) -> bool:
        """Write a message that has a frame of its own, without a copy; False if it is small, or frames are sealed."""
        if self._seal is not None or len(piece) < _JOIN_BYTES:
            return False
        batch = Piece(piece_mark(kind, number, len(piece)), piece)
        self.write(self.session.put(batch), batch)
        return True

    def write_ack(self) -> None:
        """Write a frame without number, for its ack's sake."""
        self.write(0, b"")
        self.session.ack_written()

    def data_received(self, data: Any) -> None:
        """Bytes came: process every frame that is complete, then write at once what the handlers sent."""
        peer = self.peer
        session = self.session
        peers = self._peers
        handlers = peers.handlers
        peers.corked = peer
        try:
            for n, ack, batch in self._feed(data):
                if session.link is not self:
                    break
                if ack > session.acked and not session.acknowledge(ack):
                    raise ProtocolError(f"frame {ack} is acknowledged, which was never sent")
                if n == 0:
                    continue
                if n != session.seen + 1:
                    if n > session.seen:
                        raise ProtocolError(f"frame {n} follows frame {session.seen}")
                    continue
                try:
                    messages = unpack_batch(batch)
                except ProtocolError as error:
                    peers.undecodable(self, n, error)
                    break
                session.seen = n
                session.untold_bytes += len(batch)
                rest = iter(messages)
                message: list[Any] = []
                try:
                    for message in rest:
                        handlers[message[0]](peer, message)
                except Exception:  # whatever it is: the others of its frame are not to blame
                    self._handler_failed(message, rest)
                if peer.ending is not None:
                    break
        except ProtocolError as error:
            peers.garbled(self, error)
        finally:
            peers.corked = None
            if peers.dirty:
                peers.flush_dirty()
            if peer.ending is not None or peer.backlog:
                peers.after_frames(self)
            elif session.seen != session.told and (peer.ack_timer is None or session.ack_due):
                peer.acknowledge()

    def _handler_failed(self, message: list[Any], rest: Iterator[list[Any]]) -> None:
        """A message could not be handled: the others of its frame are, and the link goes on."""
        handlers = self._peers.handlers
        self._peers.not_handled(self.peer, message)
        self._peers.entrance.unread(self.peer, message)
        while True:
            try:
                for message in rest:
                    handlers[message[0]](self.peer, message)
                return
            except Exception:  # the node's own mistake, or a peer's: the others of its frame are not to blame
                self._peers.not_handled(self.peer, message)
                self._peers.entrance.unread(self.peer, message)

    # Large pieces are read straight to where they belong, while there are any.

    def _place(self, number: int, size: int, known: bool) -> memoryview | None:
        # Whether or not this one can be placed: from here on reads end where pieces do, so the next one can.
        room = self.peer.bulk.place(number, size) if known else None
        if (room is not None or not known) and self._direct is None and reads_directly(self.transport):
            self._direct = Direct(self, self._parser)
            read_with(self.transport, self._direct)
        return room

    def filled(self, size: int) -> None:
        """So many bytes were read to where they belong."""
        self._feed = self._parser.filled
        try:
            self.data_received(size)  # rather this than one more call for each read of small frames
        finally:
            self._feed = self._parser.feed

    def read_on(self) -> None:
        """Bytes were read by `Direct`: stay with that while large messages are on their way."""
        if self._direct is not None and not self.closed and not self.peer.bulk.arriving and not self._parser.begun:
            self._direct = None
            read_with(self.transport, self)

    # What the transport says.

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self.paused = True

    def resume_writing(self) -> None:
        """The transport's buffer has room again."""
        self.paused = False
        if not self.closed:
            self.peer.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; unless this side closed it, the other side's process may be."""
        self._peers.gone(self)
        if not self.closed:
            self.closed = True
            why = f"the connection was lost: {exc}" if exc else "the connection was closed"
            self._peers.link_lost(self, why, eof=True)

    def kernel_answers(self, since: float) -> bool | None:
        """Whether the other side's kernel has acknowledged what was written by the time `since`, whatever its process
        does; None where that can't be known."""
        return kernel_answers(self.transport, self._peers.env.time() - since)

    # What the session says.

    def discard(self) -> None:
        """Close at once; nothing more is read or written."""
        if self.greeting is not None:
            self.greeting.superseded()
        elif not self.closed:
            self.closed = True
            self.transport.abort()

    def cut(self) -> None:
        """Close at once, what was written included."""
        self.closed = True
        self.transport.abort()

    def finish(self) -> None:
        """Close when what was written has left; nothing more is read."""
        if not self.closed:
            self.closed = True
            self.transport.close()


class Greeting(asyncio.Protocol):
    """A connection whose other side has not proven itself yet. It ends as a link, or closed, within ten seconds."""

    transport: asyncio.Transport

    patience = HANDSHAKE_SECONDS  # for the first packet

    def __init__(self, peers: Peers, where: str) -> None:
        self.peers = peers
        self.where = where
        self.link = Link(peers)
        self.link.greeting = self
        self.finished = False
        self._reader = PacketReader()
        self._timer: TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self.transport = self.link.transport = cast("asyncio.Transport", transport)
        if self.finished or self.peers.closed:  # given up while it was being made, or accepted too late
            self.finished = True
            self.transport.abort()
            return
        self.peers.connections[self] = None
        self.peers.count_connections()
        tune(transport)
        self.allow(self.patience)
        self.arrived()
        tls = transport.get_extra_info("tls")
        if tls is None:
            self.begin()
        else:
            tls.when_secured(self.begin)

    def arrived(self) -> None:
        """The connection stands, and nothing was said yet."""

    def begin(self) -> None:
        """Start the handshake."""
        raise NotImplementedError

    def offer(self, address: str, *, dialled: bool) -> Offer:
        """What this side says of itself and of the connection; `address`: what was dialled, for all this side knows."""
        me = self.peers.me
        tls = self.transport.get_extra_info("tls")
        if tls is not None:
            return me.offer(address, tls=True, mark=tls.mark)
        if leaves_the_machine(self.transport):
            return me.offer(address, seal=True)
        return me.offer(address, mark=route(self.transport, dialled=dialled))

    def packet(self, packet: bytes) -> None:
        """Take one packet. Raises an `ActorFwError` to give the connection up."""
        raise NotImplementedError

    def over(self, error: Exception) -> None:
        """The connection was given up."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """Bytes of the handshake."""
        try:
            packet = None if self.finished else self._reader.feed(data)
            while packet is not None:
                self.packet(packet)
                packet = None if self.finished else self._reader.feed(b"")
        except ActorFwError as error:
            self.fail(error)
        except Exception as error:  # what the other side says is read here, and nothing of it has been checked yet
            logger.info("a handshake with %s failed", self.where, exc_info=True)
            self.fail(ProtocolError(f"what it says makes no sense: {type(error).__name__}: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone before the handshake was over."""
        self.peers.gone(self)
        self.fail(exc or ConnectionError("the connection was closed during the handshake"))

    def allow(self, seconds: float, size: int = 0) -> None:
        """Give the other side so long from now on for its next packet, of so many bytes."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.peers.env.call_later(seconds, self._too_slow, seconds)
        self._reader.limit = size or self._reader.limit

    def become_link(self, peer: Peer, write_key: bytes, read_key: bytes) -> None:
        """The session takes the connection."""
        self._settle()
        self.peers.connections.pop(self, None)
        self.peers.connections[self.link] = None
        self.link.start(peer, write_key, read_key)

    def hand_over_rest(self) -> None:
        """Give the link what came behind the last packet."""
        rest, self._reader.rest = self._reader.rest, b""
        if rest and not self.link.closed:
            self.link.data_received(rest)

    def leave(self, last: bytes = b"") -> None:
        """Close, politely, after a last packet."""
        if last:
            self.transport.write(last)
        self._settle()
        self.transport.close()

    def fail(self, error: Exception) -> None:
        """Close, and tell whoever waits why."""
        if not self.finished:
            self._settle()
            if hasattr(self, "transport"):
                self.transport.abort()
            self.over(error)

    def superseded(self) -> None:
        """Another connection of the same session won."""
        self.fail(SupersededError())

    def _settle(self) -> None:
        self.finished = True
        if self._timer is not None:
            self._timer.cancel()

    def _too_slow(self, seconds: float) -> None:
        self.peers.counters["slow_handshakes"] += 1
        self.fail(ConnectionError(f"no handshake within {seconds:g} s"))


class LimitError(Exception):
    """A connection was closed because there were too many."""


class SupersededError(Exception):
    """The dial was not needed any more, or must be tried with a higher epoch.

    Args:
        peer: with whom, if known.
    """

    def __init__(self, peer: Peer | None = None) -> None:
        super().__init__("another connection was preferred")
        self.peer = peer


class AnotherLifeError(Exception):
    """Somebody else than expected answers at the address."""


class DialGreeting(Greeting):
    """The dialler's side.

    Args:
        peers: whose dial it is.
        where: the address, for messages.
        expect: the only life that will do, or None.
        only_probe: close as soon as the other side has proven itself.
        done: resolves to the peer (None after a probe).

    Attributes:
        connected: the other side's kernel has taken the connection.
    """

    def __init__(
        self, peers: Peers, where: str, expect: bytes | None, only_probe: bool, done: asyncio.Future[Peer | None]
    ) -> None:
        super().__init__(peers, where)
        self.expect = expect
        self.only_probe = only_probe
        self.done = done
        self.connected = False
        self.peer: Peer | None = None
        self.rival = b""  # a life that has answered, of which this node has buried it or the other way round
        self.shake: Dialling

    def arrived(self) -> None:
        """Somebody's kernel answers there."""
        self.connected = True

    def begin(self) -> None:
        """Send the hello."""
        peers = self.peers
        offer = self.offer(self.where, dialled=True)
        self.shake = Dialling(offer, peers.secrets, peers.env.token(NONCE_BYTES), f"the node at {self.where}")
        self.transport.write(self.shake.hello())

    def packet(self, packet: bytes) -> None:
        """First the challenge, then the answer to our proof."""
        if not self.shake.peer:
            life = self.shake.challenged(packet)
            self.allow(HANDSHAKE_SECONDS, INFO_BYTES)
            if self.expect is not None and life != self.expect:
                raise_another(self, life)
            elif self.only_probe:
                self.succeed(None)
            else:
                self.peers.challenged(self, life)
        elif self.peer is not None:
            answer = self.shake.answered(packet)
            if isinstance(answer, Refused):
                self.peers.dial_refused(self, self.peer, answer)
            else:
                check_told(answer.info)
                self.peers.dial_welcomed(self, self.peer, answer)
        elif self.rival:
            answer = self.shake.answered(packet)
            if isinstance(answer, Refused):
                self.peers.tombstones.refused(self.rival, self.where, answer)
                self.fail(PeerUnreachableError(f"{self.where} is held for dead here; it answers: {answer.text}"))
            else:
                self.fail(ProtocolError(f"{self.where} welcomed a life that it has been told is over"))

    def offer_link(self, peer: Peer, epoch: int) -> None:
        """Offer the connection to `peer` as its session's link."""
        self.peer = peer
        self._prove(peer.life, epoch, peer.session.seen)

    def contend(self, life: bytes) -> None:
        """Tell a life that is dead to this node so: it decides which of both is reborn."""
        self.rival = life
        self._prove(life, 0, 0)

    def _prove(self, life: bytes, epoch: int, seen: int) -> None:
        peers = self.peers
        side = peers.tombstones.side(life).to_wire()
        self.transport.write(self.shake.prove(epoch, seen, side, peers.me.told()))

    def succeed(self, peer: Peer | None) -> None:
        """Resolve the dial; closes the connection unless it has become the link."""
        if not self.finished:
            self.leave()
        if not self.done.done():
            self.done.set_result(peer)

    def over(self, error: Exception) -> None:
        """Tell the dialler; and the session, whose dial this may have been."""
        if self.rival:
            self.peers.tombstones.contest_over(self.rival)
        if self.peer is not None:
            self.peers.dial_lost(self, self.peer)
            if isinstance(error, SupersededError):
                error = SupersededError(self.peer)
        if not self.done.done():
            self.done.set_exception(error)


def check_told(info: dict[str, Any]) -> None:
    """What the other side says of itself is read again and again: it must not be something that can't be.

    Raises:
        ProtocolError: it is.
    """
    born, lived = info.get("born", 0.0), info.get("lived", 0)
    texts = info.get("address", ""), info.get("name", "")
    if type(born) is not float or not isfinite(born) or type(lived) is not int or lived < 0:
        raise ProtocolError(f"it says that it was born at {born!r:.50}, and had {lived!r:.50} lives before")
    if not all(type(text) is str and len(text) <= 2 * NAME_BYTES for text in texts):
        raise ProtocolError("its name and address are no texts, or too long")


def raise_another(greeting: DialGreeting, life: bytes) -> None:
    """Another life answers than was expected: proof, since it is authenticated, that the expected one is gone.

    Not if it says that its address is another: then it is the connection that was led astray.
    """
    if greeting.shake.here:
        greeting.fail(AnotherLifeError(f"at {greeting.where} another life ({short(life)}) answers"))
    else:
        other = f"a node of another address answers there ({short(life)})"
        greeting.fail(PeerUnreachableError(f"a connection to {greeting.where} leads elsewhere: {other}"))


class AcceptGreeting(Greeting):
    """The acceptor's side.

    Attributes:
        group: what connections of the same origin have in common.
    """

    patience = HELLO_SECONDS
    group = ""

    def arrived(self) -> None:
        """Note where it comes from."""
        name = self.transport.get_extra_info("peername")
        self.where = f"{name[0]}:{name[1]}" if isinstance(name, tuple) and len(name) > 1 else "an unnamed socket"
        self.group = self.peers.entrance.group(self)
        self.peers.entrance.door.enter(self)

    def begin(self) -> None:
        """Wait for the hello."""
        peers = self.peers
        offer = self.offer(str(peers.me.info.get("address", "")), dialled=False)
        self.shake = Accepting(offer, peers.secrets, peers.env.token(NONCE_BYTES), self.where)

    def drop(self, why: str) -> None:
        """There is no place for it any more."""
        self.fail(LimitError(why))

    def packet(self, packet: bytes) -> None:
        """First the hello, then the proof."""
        peers = self.peers
        if not self.shake.peer:
            answer, error = self.shake.greeted(packet)
            if error is None and (no_room := peers.entrance.no_room()):
                answer, error = self.shake.turn_away("full", no_room)
            if error is None:
                self.transport.write(answer)
                peers.entrance.door.recognised(self)
                self.allow(HANDSHAKE_SECONDS, PROOF_BYTES)
                return
            peers.counters["refused_handshakes"] += 1
            self.leave(answer)
            peers.entrance.refused(self.where, error)
        else:
            said = self.shake.proven(packet)
            peers.entrance.door.handshakes.give_back()
            if not isinstance(said, Refused):
                check_told(said.info)
            if isinstance(said, Refused):
                self.leave()
                peers.buried_by(self.shake.peer, said)
            else:
                peers.offered(self, said)

    def welcome(self, peer: Peer, seen: int) -> None:
        """Take the connection as the session's link."""
        self.transport.write(self.shake.welcome(seen, self.peers.me.told()))
        self.become_link(peer, self.shake.write_key, self.shake.read_key)

    def refuse(self, code: RefusalCode, text: str, epoch: int = 0) -> None:
        """Answer why not, and close."""
        self.leave(self.shake.refuse(code, text, epoch))

    def over(self, error: Exception) -> None:
        """Count it; whoever it was is not our concern."""
        if isinstance(error, ActorFwError):
            self.peers.entrance.refused(self.where, error)

    def _settle(self) -> None:
        super()._settle()
        self.peers.entrance.door.leave(self)
