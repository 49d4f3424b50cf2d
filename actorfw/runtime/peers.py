"""`Peers`: messages to other lives, exactly once and in order, whatever happens to connections.

Does what `core.session` and `core.handshake` decide, over the transports and timers of an `Env`: dials, listens,
writes and redials until the session ends. It judges nobody: what it meets is reported as evidence, and whoever judges
says `bury`. What the messages say is the node's affair; only kinds below 8 are kept here (goodbye, and large messages
in `runtime.bulk`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from actorfw.core.handshake import Proof, Refused, Welcomed
from actorfw.core.session import (
    Adopt,
    CloseLink,
    DialAgain,
    EndReason,
    Evidence,
    Instruction,
    RefuseLink,
    Resend,
    Welcome,
)
from actorfw.io.env import Env, Listener
from actorfw.runtime.bulk import Bulk
from actorfw.runtime.dialling import Dials
from actorfw.runtime.entrance import Entrance
from actorfw.runtime.links import AcceptGreeting, DialGreeting, Greeting, Link, SupersededError, logger
from actorfw.runtime.peer import FIRST_KIND, Handler, Identity, OwnAddressError, Peer, PeerEvents
from actorfw.runtime.tombstones import Tombstones
from actorfw.values.config import Config
from actorfw.values.errors import PeerUnreachableError, ProtocolError
from actorfw.values.ids import NODE_ID_BYTES, Life, short
from actorfw.wire.frames import BatchPacker
from actorfw.wire.messages import KINDS

__all__ = [
    "FIRST_KIND",
    "GOODBYE",
    "Handler",
    "Identity",
    "OwnAddressError",
    "Peer",
    "PeerEvents",
    "Peers",
    "no_handler",
]

GOODBYE: Final = 0  # ("left"), or ("idle"): nobody needs this link, the session stays

_LOGGED: Final = frozenset(10**power for power in range(9))
_CLOSE_SECONDS: Final = 2.0
_FLUSH_SECONDS: Final = 1.0


class Peers:
    """All sessions of one node.

    Args:
        env: the node's world.
        me: who this node is.
        config: `link_patience` is used here.
        secrets: accepted secrets, the preferred one first; at least one.
        events: who is told of peers.
        handlers: indexed by a message's kind, called with (peer, message); places 0 to 7 are filled in here.
        on_unsendable: called with (peer, message, error) for a message that msgpack can't pack or that is too large;
            it is dropped. The default logs it.

    Attributes:
        by_life: the peers whose session has begun and is not over, those opened here without a link included.
        counters: what was refused or broke, by kind.
        entrance: the limits, and what connections may cost that nobody knows yet.
    """

    def __init__(
        self,
        env: Env,
        me: Identity,
        config: Config,
        secrets: tuple[bytes, ...],
        *,
        events: PeerEvents,
        handlers: list[Handler],
        on_unsendable: Callable[[Peer, Sequence[Any], Exception], None] | None = None,
    ) -> None:
        self.env = env
        self.me = me
        self.config = config
        self.secrets = secrets
        self.events = events
        self.handlers = handlers
        self.on_unsendable = on_unsendable or _log_unsendable
        self.by_life: dict[Life, Peer] = {}
        self.entrance = Entrance(env, config)
        self.counters = self.entrance.counters
        self.packer = BatchPacker()
        self.call_soon = env.call_soon
        self.corked: Peer | None = None
        self.dirty: list[Peer] = []
        self.dials = Dials(self)
        self.dial = self.dials.dial
        self.probe = self.dials.probe
        self.connections: dict[Greeting | Link, None] = {}  # ordered, unlike a set: simulations repeat exactly
        self._peers: dict[Life, Peer] = {}
        self.tombstones = Tombstones(self)
        self._listeners: list[Listener] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.closing = False
        self.closed = False  # nothing is taken any more
        self._nothing_left: asyncio.Future[None] | None = None
        own = [self._on_goodbye, *Bulk.handlers(events)]
        handlers[:FIRST_KIND] = [*own, *[no_handler] * (FIRST_KIND - len(own))]

    def __repr__(self) -> str:
        return f"<Peers of {self.me.name}: {len(self.by_life)} peers, {len(self.connections)} connections>"

    async def listen(self, host: str, port: int) -> str:
        """Accept links at `host`:`port`; return the address that was bound.

        The first one becomes `me.info["address"]` unless that is set.

        Raises:
            OSError: the address is taken or not ours.
        """
        listener = await self.entrance.listen(self, host, port)
        self._listeners.append(listener)
        self.me.info.setdefault("address", listener.address)
        return listener.address

    def open(self, life: Life, address: str, name: str) -> Peer:
        """The session with a life at an address, dialled when there is something to send; ended if that can not be."""
        over = "dead" if life in self.tombstones else "closed" if self.closing and life not in self.by_life else None
        peer = Peer(self, life) if over else self._peers.get(life) or Peer(self, life)
        if over:
            peer.name, peer.ended = name, over
        elif not peer.up:
            self._peers[life] = peer
            peer.address, peer.name = peer.address or address, name
            peer.session.resting = peer.session.may_dial()
            self._begin(peer)
        return peer

    def bury(self, life: Life, detail: str, name: str = "", reason: EndReason = "dead") -> None:
        """A life has been judged dead, or is known to have left: its session ends, and it is refused from now on.

        All parts of the node hear of it, also if there never was a session.
        """
        if life in self.tombstones or self.closing:
            return
        peer = self._peers.get(life) or Peer(self, life)
        peer.name = name or peer.name
        peer.up = True
        self._end(peer, reason, detail)

    def reborn(self, life: Life, detail: str) -> None:
        """This node takes a new life: all sessions end, as if everybody else had died, and nobody is told.

        For the parts of the node `detail` is how the others died. Who is dialled or met from now on is new.
        """
        for connection in [*self.connections]:
            if not isinstance(connection, Link):
                connection.fail(ConnectionAbortedError("this node takes a new life"))
        for peer in [*self._peers.values()]:
            self._end(peer, "dead", detail)
        me = self.me
        me.life, me.born, me.lived = life, self.env.wall_time(), me.lived + 1
        self.tombstones.reborn()

    def needed(self, peer: Peer) -> None:
        """There is something to send to a peer that rests."""
        instructions = peer.session.needed()
        if instructions:
            self._start_patience(peer)
            self.carry_out(peer, instructions)

    def cut(self, peer: Peer, why: str) -> None:
        """Close a link that carries nothing, and dial again."""
        link = peer.link
        if link is not None:
            link.discard()
            self.link_lost(link, why)

    def rest(self, peer: Peer) -> bool:
        """Close a link that nobody needs, if the other side has nothing to say either; the session stays."""
        session = peer.session
        proposed = peer.goodbye == (session.next_out, session.seen)  # and nothing has come of it yet
        if peer.link is None or proposed or not peer.idle or not session.quiet():
            return False
        peer.send((GOODBYE, "idle"))
        peer.goodbye = (session.next_out, session.seen)
        return True

    async def close(self) -> None:
        """Say goodbye to all, wait (two seconds at most) until they have read it, and close.

        `peer_ended` is not called for peers that were alive: it was this node that left.
        """
        self.closing = True
        ends: list[asyncio.Future[None]] = []
        for peer in [*self.by_life.values()]:
            if peer.connected:
                peer.send((GOODBYE, "left"))
                peer.flush()
                ends.append(self._until_ended(peer))
        if ends:
            await asyncio.wait(ends, timeout=_CLOSE_SECONDS)
        self._end_all()
        for connection in [*self.connections]:
            if isinstance(connection, Link):
                connection.finish()
            else:
                connection.fail(ConnectionAbortedError("this node is closing"))
        self.closed = True
        tasks = [*self._tasks]
        if tasks:
            await asyncio.wait(tasks)
        if not await self._all_gone(_FLUSH_SECONDS):
            self.abort()
            await self._all_gone(_FLUSH_SECONDS)

    def abort(self) -> None:
        """Close everything at once, without goodbye."""
        self._end_all()
        for connection in [*self.connections]:
            if isinstance(connection, Link):
                connection.cut()
            else:
                connection.fail(ConnectionAbortedError("this node is closing"))

    def _end_all(self) -> None:
        self.closing = True
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for task in self._tasks:
            task.cancel()
        for peer in [*self._peers.values()]:
            peer.ended = peer.ended or "closed"
            peer.stop_timers()
            peer.session.ended = "left"
            peer.link = None
            peer.take_unsent()
            peer.wake()
        self._peers.clear()
        self.by_life.clear()

    async def _all_gone(self, seconds: float) -> bool:
        """Whether every connection is closed within `seconds`."""
        if self.connections:
            self._nothing_left = self.env.create_future()
            await asyncio.wait([self._nothing_left], timeout=seconds)
        return not self.connections

    def descriptors(self) -> list[int]:
        """Of all sockets, for a forked child, which must not hold them."""
        found: list[int] = [fd for listener in self._listeners for fd in listener.descriptors()]
        for connection in self.connections:
            transport = getattr(connection, "transport", None)  # a greeting whose dial is on its way has none yet
            sock = transport.get_extra_info("socket") if transport is not None else None
            if sock is not None:
                found.append(sock.fileno())
        return found

    def count_connections(self) -> None:
        self.entrance.door.connections.set(len(self.connections))

    def gone(self, connection: Greeting | Link) -> None:
        """A connection is closed."""
        self.connections.pop(connection, None)
        self.count_connections()
        if self._nothing_left is not None and not self.connections and not self._nothing_left.done():
            self._nothing_left.set_result(None)

    # Dialling.

    def challenged(self, greeting: DialGreeting, life: Life) -> None:
        """The other side has proven itself: offer it the connection, unless there is a reason not to."""
        if life == self.me.life:
            greeting.fail(OwnAddressError(f"{greeting.where} is this node's own address"))
            return
        if self.tombstones.challenged(greeting, life):
            return
        peer = self._peer(life)
        if peer.connected:
            greeting.succeed(peer)
        elif not peer.session.may_dial():
            greeting.fail(SupersededError(peer))
        else:
            greeting.offer_link(peer, peer.session.dialled(greeting.link))

    def dial_welcomed(self, greeting: DialGreeting, peer: Peer, answer: Welcomed) -> None:
        """The other side takes the connection."""
        if not self.tombstones.proven(peer.life, int(answer.info.get("lived", 0))):
            greeting.fail(PeerUnreachableError(f"{greeting.where} has another life by now"))
            self._end(peer, "dead", "its node has another life by now")
            return
        instructions = peer.session.welcomed(greeting.link, answer.seen)
        if not any(isinstance(instruction, Adopt) for instruction in instructions):
            greeting.fail(ProtocolError(f"{greeting.where} welcomed a link that was not offered to it"))
            return
        greeting.become_link(peer, greeting.shake.write_key, greeting.shake.read_key)
        self._introduced(peer, answer.info)
        self.carry_out(peer, instructions)
        greeting.succeed(peer)
        greeting.hand_over_rest()

    def dial_refused(self, greeting: DialGreeting, peer: Peer, answer: Refused) -> None:
        """The other side, authenticated, does not take the connection."""
        peer.session.refused(greeting.link, answer.epoch)
        if answer.code == "left":
            self._end(peer, "left", answer.text)
            greeting.fail(PeerUnreachableError(f"{greeting.where} refused: {answer.text}"))
        elif answer.code in ("dead", "reborn", "over"):
            greeting.fail(PeerUnreachableError(f"{greeting.where} refused: {answer.text}"))
            self.tombstones.refused(peer.life, greeting.where, answer)
        elif answer.code == "epoch":
            greeting.fail(SupersededError(peer))
        else:
            greeting.fail(PeerUnreachableError(f"{greeting.where} refused: {answer.text}"))

    def dial_lost(self, greeting: DialGreeting, peer: Peer) -> None:
        """The connection that was offered is gone."""
        peer.session.lost(greeting.link)
        if peer.up and peer.dial_task is None and peer.dial_timer is None and not peer.session.resting:
            self.call_soon(self.dials.again, peer, 0.0)  # that dial was made for another purpose

    # Accepting.

    def offered(self, greeting: AcceptGreeting, proof: Proof) -> None:
        """An authenticated dialler offers its connection."""
        if proof.life == self.me.life:
            greeting.refuse("self", "this is the same node")
        elif self.closing:
            greeting.refuse("closing", f"node {self.me.name} is closing")
        elif not self.tombstones.offered(greeting, proof):
            peer = self._peer(proof.life)
            instructions = peer.session.offered(greeting.link, proof.epoch, proof.seen)
            if any(isinstance(instruction, Adopt) for instruction in instructions):
                self._introduced(peer, proof.info)
            self.carry_out(peer, instructions)
            self._forget_if_unborn(peer)

    def buried_by(self, life: Life, refusal: Refused) -> None:
        """A dialler found out that it dialled a life that has left, or had a successor, for all it knows: this one."""
        peer = self._peers.get(life)
        if peer is not None:
            self._end(peer, "dead", refusal.text)

    # What links report.

    def link_lost(self, link: Link, why: str, *, eof: bool = False) -> None:
        """A link is gone without goodbye; `eof`: not by this side's doing."""
        peer = link.peer
        if peer.link is not link:
            self.carry_out(peer, peer.session.lost(link))
            return
        # Who has taken our goodbye and said nothing since has closed the link as it was asked to.
        agreed = eof and peer.session.seen == peer.goodbye[1] and peer.session.acked >= peer.goodbye[0] > 0
        if agreed and peer.idle and peer.session.quiet():
            self._at_rest(peer)
            return
        instructions = peer.session.lost(link, why if not agreed and not self.closing else "")
        self._down(peer, why)
        self.carry_out(peer, instructions)

    def undecodable(self, link: Link, n: int, error: ProtocolError) -> None:
        """A frame arrived whole and is no list of messages."""
        peer = link.peer
        logger.error("frame %d from node %s: %s; the link is closed", n, peer.name, error)
        self.entrance.broken(error, "undecodable_frames")
        self._nonsense(peer, peer.session.undecodable(n), error)

    def garbled(self, link: Link, error: ProtocolError) -> None:
        """What came over a link is no frames."""
        peer = link.peer
        self.entrance.broken(error, "broken_frames")
        if peer.link is not link:
            link.discard()
            return
        logger.warning("the link to node %s is closed: %s", peer.name, error)
        chance = self.env.random.random() if link.sealed else 0.0
        self._nonsense(peer, peer.session.garbled(foreign=link.sealed, chance=chance), error)

    def _nonsense(self, peer: Peer, instructions: list[Instruction], error: ProtocolError) -> None:
        if peer.session.held:
            logger.error("node %s talks nonsense again and again: it gets no further link", peer.name)
        self._down(peer, str(error))
        self.carry_out(peer, instructions)

    def not_handled(self, peer: Peer, message: object) -> None:
        """A message could not be handled: to be called where its exception is handled.

        Who sends one such message sends many: the log has the first of a kind, the tenth, the hundredth.
        """
        kind = kind_of(message)
        count = peer.bad[kind] = peer.bad.get(kind, 0) + 1
        self.counters["bad_messages"] += 1
        if count in _LOGGED:
            so_far = f", {count} of this kind so far" if count > 1 else ""
            logger.exception("a message of kind %s from node %s could not be handled%s", kind, peer.name, so_far)

    def after_frames(self, link: Link) -> None:
        """Frames were processed: end what they ended, use the room that they made, acknowledge."""
        peer = link.peer
        if peer.ending is not None:
            reason, detail = peer.ending
            peer.ending = None
            if peer.link is link and not link.closed:
                link.write_ack()
                link.finish()
            self._end(peer, reason, detail)
            return
        if peer.backlog:
            peer.flush()
        if peer.session.seen != peer.session.told:
            peer.acknowledge()

    def flush_dirty(self) -> None:
        """Write what the handlers sent."""
        dirty, self.dirty = self.dirty, []
        for peer in dirty:
            peer.flush()

    def _on_goodbye(self, peer: Peer, message: list[Any]) -> None:
        if message[1] == "idle":
            # The other side takes a closed link for an agreement only if nothing came after its proposal.
            if peer.idle and not peer.session.unacked:
                self.call_soon(self._agree_to_rest, peer, peer.link, peer.session.seen, peer.session.next_out)
        else:
            self._end(peer, "left", "it said goodbye")

    def _agree_to_rest(self, peer: Peer, link: Link | None, seen: int, sent: int) -> None:
        session = peer.session
        if link is not None and peer.link is link and peer.idle and (session.seen, session.next_out) == (seen, sent):
            link.write_ack()
            link.finish()
            self._at_rest(peer)

    def _at_rest(self, peer: Peer) -> None:
        peer.session.rest()
        peer.link = None
        peer.goodbye = (0, 0)
        if self.closing:
            peer.wake()
        else:
            self.tell(self.events.rested, peer)

    # What the machines decided.

    def carry_out(self, peer: Peer, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case CloseLink(link):
                    cast("Link", link).discard()
                case Welcome(link, seen):
                    cast("AcceptGreeting", cast("Link", link).greeting).welcome(peer, seen)
                case RefuseLink(link, epoch_max):
                    greeting = cast("AcceptGreeting", cast("Link", link).greeting)
                    greeting.refuse("epoch", "there is a later link", epoch_max)
                case Adopt(link):
                    self._adopted(peer, cast("Link", link))
                case Resend(link, frames):
                    for n, batch in frames:
                        cast("Link", link).write(n, batch)
                case DialAgain(delay):
                    self.dials.again(peer, delay)
                case Evidence(kind, detail):
                    self.tell(self.events.evidence, peer, kind, detail)
                    if peer.ended is not None:
                        return

    def _adopted(self, peer: Peer, link: Link) -> None:
        peer.link = link
        peer.goodbye = (0, 0)
        peer.stop_timers()
        if not peer.up:
            self._begin(peer)
        if peer.lost:
            peer.lost = False
            self.tell(self.events.peer_back, peer)
        self.tell(self.events.linked, peer)
        peer.wake()
        if peer.backlog:
            self.call_soon(peer.flush)

    def _begin(self, peer: Peer) -> None:
        peer.up = True
        self.by_life[peer.life] = peer
        self.tell(self.events.peer_up, peer)

    def _down(self, peer: Peer, why: str) -> None:
        peer.link = None
        peer.last_failure = why
        if self.closing:
            peer.wake()  # it has read our goodbye, or never will
            return
        self._start_patience(peer)

    def _start_patience(self, peer: Peer) -> None:
        if peer.patience_timer is None and peer.ended is None and not peer.lost:
            peer.patience_timer = self.env.call_later(self.config.link_patience, self._patience_over, peer)

    def _patience_over(self, peer: Peer) -> None:
        peer.patience_timer = None
        peer.lost = True
        spell = f"it could not be reached for {self.config.link_patience:g} s ({peer.last_failure or 'no answer'})"
        self.tell(self.events.peer_lost, peer, spell, peer.unsent())

    def _introduced(self, peer: Peer, info: dict[str, Any]) -> None:
        peer.info = info
        peer.address = str(info.get("address", ""))
        peer.name = str(info.get("name") or short(peer.life))
        # A node that came back at once never refuses a connection: its new life is the proof that the old one ended.
        for other in [*self.by_life.values()]:
            if other is peer:
                continue
            if other.life[:NODE_ID_BYTES] == peer.life[:NODE_ID_BYTES]:
                self.tell(self.events.evidence, other, "another_life", f"it started anew, as {short(peer.life)}")
            elif peer.address and other.address == peer.address and other.link is not None:
                logger.info("node %s answers at the address of node %s", peer.name, other.name)
                self.cut(other, f"node {peer.name} has its address")

    def _end(self, peer: Peer, reason: EndReason, detail: str) -> None:
        if peer.ended is not None:
            return
        if self.corked is peer:
            peer.ending = (reason, detail)  # the frame is processed whole first
            return
        peer.ended = reason
        peer.lost = False
        self.tombstones.note(peer.life, reason, detail, peer.address)
        self._peers.pop(peer.life, None)
        self.by_life.pop(peer.life, None)
        peer.stop_timers()
        if peer.dial_task is not None:
            peer.dial_task.cancel()
        self.carry_out(peer, peer.session.end(reason))
        peer.link = None
        unsent = peer.take_unsent()
        peer.wake()
        if peer.up:
            self.tell(self.events.peer_ended, peer, reason, detail, unsent)

    def tell(self, event: Callable[..., None], *args: Any) -> None:
        """Tell a part of the node; what goes wrong there is logged, and is nobody else's."""
        try:
            event(*args)
        except Exception:  # the node's own mistake must not leave a session half changed
            logger.exception("%s failed for %r", getattr(event, "__qualname__", event), args[0])

    # Small things.

    def _peer(self, life: Life) -> Peer:
        peer = self._peers.get(life)
        if peer is None:
            peer = self._peers[life] = Peer(self, life)
        return peer

    def known(self, life: Life) -> Peer | None:
        """The peer of this life, also while its first handshake is under way."""
        return self._peers.get(life)

    def forget_unborn(self) -> None:
        """Drop what was made for handshakes that led to nothing."""
        if len(self._peers) > len(self.by_life):
            for peer in [*self._peers.values()]:
                self._forget_if_unborn(peer)

    def _forget_if_unborn(self, peer: Peer) -> None:
        if not peer.up and peer.session.dial_link is None and not peer.waiters:
            self._peers.pop(peer.life, None)

    def task(self, coro: Any, name: str) -> asyncio.Task[Any]:
        task = self.env.create_task(coro, name=f"actorfw {self.me.name}: {name}")
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    def _until_ended(self, peer: Peer) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = self.env.create_future()
        peer.waiters.append(waiter)
        return waiter


def kind_of(message: object) -> int | None:
    """The kind of a message, None if it has none."""
    kind: object = message[0] if type(message) is list and message else None
    return kind if type(kind) is int and 0 <= kind < KINDS else None


def no_handler(peer: Peer, message: list[Any]) -> None:
    """Stands for all handlers that there are not."""
    raise ProtocolError(f"a message of kind {message[0]} is not known here")


def _log_unsendable(peer: Peer, message: Sequence[Any], error: Exception) -> None:
    logger.error("a message of kind %s to node %s can't be sent: %s", message[0], peer.name, error)
