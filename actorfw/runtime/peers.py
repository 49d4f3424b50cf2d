"""`Peers`: messages to other lives, exactly once and in order, whatever happens to connections.

Does what `core.session` and `core.handshake` decide, over the transports and timers of an `Env`: dials, listens,
writes, redials, and judges a life dead when there is nothing left to try. What the messages say is the node's affair;
only kinds below 8 are kept here (goodbye, and large messages in `runtime.bulk`).
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from actorfw.core.handshake import HANDSHAKE_SECONDS, Proof, Refused, Welcomed
from actorfw.core.session import (
    Adopt,
    CloseLink,
    DeclareDead,
    DialAgain,
    DialFailure,
    EndReason,
    Instruction,
    RefuseLink,
    Resend,
    Welcome,
)
from actorfw.io.env import Env, Listener
from actorfw.io.tcp import is_refusal, split_address
from actorfw.runtime.bulk import Bulk
from actorfw.runtime.links import (
    AcceptGreeting,
    AnotherLifeError,
    DialGreeting,
    Greeting,
    Link,
    SupersededError,
    logger,
)
from actorfw.runtime.peer import FIRST_KIND, Handler, Identity, OwnAddressError, Peer, PeerEvents
from actorfw.values.config import Config
from actorfw.values.errors import ActorFwError, PeerUnreachableError, ProtocolError
from actorfw.values.ids import NODE_ID_BYTES, Life, short
from actorfw.wire.frames import BatchPacker

__all__ = ["FIRST_KIND", "GOODBYE", "Handler", "Identity", "OwnAddressError", "Peer", "PeerEvents", "Peers"]

GOODBYE: Final = 0  # (reason)

_CLOSE_SECONDS: Final = 2.0
_FLUSH_SECONDS: Final = 1.0
_MAX_TOMBSTONES: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Tombstone:
    reason: EndReason
    detail: str
    since: float


class Peers:
    """All sessions of one node.

    Args:
        env: the node's world.
        me: who this node is.
        config: `link_patience` and `profile` are used here.
        secrets: accepted secrets, the preferred one first; at least one.
        events: who is told of peers.
        handlers: indexed by a message's kind, called with (peer, message); places 0 to 7 are filled in here.
        on_unsendable: called with (peer, message, error) for a message that msgpack can't pack or that is too large;
            it is dropped. The default logs it.

    Attributes:
        by_life: the peers whose session has begun and is not over.
        counters: what was refused or broke, by kind.
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
        self.counters: Counter[str] = Counter()
        self.packer = BatchPacker()
        self.call_soon = env.call_soon
        self.corked: Peer | None = None
        self.dirty: list[Peer] = []
        self.connections: dict[Greeting | Link, None] = {}  # ordered, unlike a set: simulations repeat exactly
        self._peers: dict[Life, Peer] = {}
        self._tombstones: OrderedDict[Life, _Tombstone] = OrderedDict()
        self._listeners: list[Listener] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._closing = False
        self._nothing_left: asyncio.Future[None] | None = None
        own = [self._on_goodbye, *Bulk.handlers(events)]
        handlers[:FIRST_KIND] = [*own, *[_no_handler] * (FIRST_KIND - len(own))]

    def __repr__(self) -> str:
        return f"<Peers of {self.me.name}: {len(self.by_life)} peers, {len(self.connections)} connections>"

    async def listen(self, host: str, port: int) -> str:
        """Accept links at `host`:`port`; return the address that was bound.

        The first one becomes `me.info["address"]` unless that is set.

        Raises:
            OSError: the address is taken or not ours.
        """
        listener = await self.env.listen(lambda: AcceptGreeting(self, ""), host, port)
        self._listeners.append(listener)
        self.me.info.setdefault("address", listener.address)
        return listener.address

    async def dial(self, address: str, *, expect: Life | None = None) -> Peer:
        """Reach the node at `address` and have a session with it; a link that is there already will do.

        Args:
            address: "host:port".
            expect: the only life that will do, or None.

        Raises:
            PeerUnreachableError: nobody answers, somebody else does, or one of both lives is dead to the other.
            AuthenticationError: it does not know the secret.
            VersionMismatchError: it speaks another version of the protocol or runs another Python.
            ProtocolError: another cluster, or what answers is no node.
            OwnAddressError: it is this node itself.
        """
        try:
            return await self._reach(address, expect)
        except (OSError, AnotherLifeError) as error:
            raise PeerUnreachableError(f"{address} can't be reached: {_why(error)}") from error
        finally:
            if len(self._peers) > len(self.by_life):
                for peer in [*self._peers.values()]:
                    self._forget_if_unborn(peer)

    async def _reach(self, address: str, expect: Life | None) -> Peer:
        until = self.env.time() + HANDSHAKE_SECONDS
        while True:
            known = self._peers.get(expect) if expect is not None else None
            if known is not None and known.connected:
                return known
            try:
                return cast("Peer", await self._attempt(address, expect, only_probe=False))
            except SupersededError as race:
                # The other side dials us at this moment, or knows of a later link than we do.
                peer = race.peer
                patience = min(until - self.env.time(), 0.01 + 0.04 * self.env.random.random())
                if peer is not None and await self._wait_for(peer, patience):
                    return peer
                if self.env.time() >= until:
                    raise TimeoutError("it kept preferring another link that never came") from None

    async def probe(self, address: str, life: Life) -> None:
        """Make sure that `life` answers at `address`, and hang up.

        Raises:
            PeerUnreachableError, AuthenticationError, VersionMismatchError, ProtocolError: as `dial`.
        """
        try:
            await self._attempt(address, life, only_probe=True)
        except (OSError, AnotherLifeError) as error:
            raise PeerUnreachableError(f"{address} can't be reached: {_why(error)}") from error

    def bury(self, life: Life, detail: str) -> None:
        """Judge a life dead: its session ends, and it is refused from now on."""
        peer = self._peers.get(life)
        if peer is not None:
            self._end(peer, "dead", detail)
        else:
            self._note_end(life, "dead", detail)

    async def close(self) -> None:
        """Say goodbye to all, wait (two seconds at most) until they have read it, and close.

        `peer_ended` is not called for peers that were alive: it was this node that left.
        """
        self._closing = True
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
        self._closing = True
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

    def gone(self, connection: Greeting | Link) -> None:
        """A connection is closed."""
        self.connections.pop(connection, None)
        if self._nothing_left is not None and not self.connections and not self._nothing_left.done():
            self._nothing_left.set_result(None)

    # Dialling.

    async def _attempt(self, address: str, expect: Life | None, *, only_probe: bool) -> Peer | None:
        host, port = split_address(address)
        done: asyncio.Future[Peer | None] = self.env.create_future()
        greeting = DialGreeting(self, address, expect, only_probe, done)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await self.env.dial(lambda: greeting, host, port)
                return await done
        except TimeoutError:
            raise TimeoutError(f"no answer within {HANDSHAKE_SECONDS:g} s") from None
        finally:
            if not done.done():
                done.cancel()
                greeting.fail(ConnectionAbortedError("the dial was given up"))

    def challenged(self, greeting: DialGreeting, life: Life) -> None:
        """The other side has proven itself: offer it the connection, unless there is a reason not to."""
        if life == self.me.life:
            greeting.fail(OwnAddressError(f"{greeting.where} is this node's own address"))
            return
        stone = self._tombstones.get(life)
        if stone is not None:
            greeting.leave(greeting.shake.refuse("dead", self._epitaph(stone)))
            greeting.over(PeerUnreachableError(f"{greeting.where} is a life that this node holds for {stone.reason}"))
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
        instructions = peer.session.welcomed(greeting.link, answer.seen)
        if not any(isinstance(instruction, Adopt) for instruction in instructions):
            greeting.fail(ProtocolError(f"{greeting.where} welcomed a link that was not offered to it"))
            return
        greeting.become_link(peer, greeting.shake.write_key, greeting.shake.read_key)
        self._introduced(peer, answer.info)
        self._do(peer, instructions)
        greeting.succeed(peer)
        greeting.hand_over_rest()

    def dial_refused(self, greeting: DialGreeting, peer: Peer, answer: Refused) -> None:
        """The other side, authenticated, does not take the connection."""
        peer.session.refused(greeting.link, answer.epoch)
        if answer.code in ("dead", "left"):
            self._end(peer, "dead" if answer.code == "dead" else "left", answer.text)
            greeting.fail(PeerUnreachableError(f"{greeting.where} refused: {answer.text}"))
        elif answer.code == "epoch":
            greeting.fail(SupersededError(peer))
        else:
            greeting.fail(PeerUnreachableError(f"{greeting.where} refused: {answer.text}"))

    def dial_lost(self, greeting: DialGreeting, peer: Peer) -> None:
        """The connection that was offered is gone."""
        peer.session.lost(greeting.link)

    def _dial_again(self, peer: Peer, delay: float) -> None:
        if peer.dial_timer is not None:
            peer.dial_timer.cancel()
            peer.dial_timer = None
        if delay > 0:
            peer.dial_timer = self.env.call_later(delay, self._dial_again, peer, 0.0)
        elif peer.dial_task is None and peer.address and not self._closing:
            peer.dial_task = self._task(self._redial(peer), f"dial {peer.name}")

    async def _redial(self, peer: Peer) -> None:
        how: DialFailure
        why: Exception
        try:
            await self._attempt(peer.address, peer.life, only_probe=False)
            return
        except SupersededError as error:
            how, why = "epoch", error
        except AnotherLifeError as error:
            how, why = "another life", error
        except OSError as error:
            how, why = ("refused" if is_refusal(error) else "unreachable"), error
        except ActorFwError as error:
            how, why = "unreachable", error
        finally:
            peer.dial_task = None
        peer.last_failure = _why(why)
        chance = self.env.random.random()
        if peer.ended is None:
            self._do(peer, peer.session.dial_failed(how, f"{peer.address}: {_why(why)}", chance))

    # Accepting.

    def offered(self, greeting: AcceptGreeting, proof: Proof) -> None:
        """An authenticated dialler offers its connection."""
        stone = self._tombstones.get(proof.life)
        if proof.life == self.me.life:
            greeting.refuse("self", "this is the same node")
        elif stone is not None:
            greeting.refuse("dead" if stone.reason != "left" else "left", self._epitaph(stone))
        elif self._closing:
            greeting.refuse("closing", f"node {self.me.name} is closing")
        else:
            peer = self._peer(proof.life)
            instructions = peer.session.offered(greeting.link, proof.epoch, proof.seen)
            if any(isinstance(instruction, Adopt) for instruction in instructions):
                self._introduced(peer, proof.info)
            self._do(peer, instructions)
            self._forget_if_unborn(peer)

    def buried_by(self, life: Life, refusal: Refused) -> None:
        """A dialler found out that it dialled a life that is dead to it: this one."""
        peer = self._peers.get(life)
        if peer is not None:
            self._end(peer, "dead", refusal.text)

    # What links report.

    def link_lost(self, link: Link, why: str) -> None:
        """A link is gone that this side did not close."""
        peer = link.peer
        was_current = peer.link is link
        instructions = peer.session.lost(link)
        if was_current:
            self._down(peer, why)
        self._do(peer, instructions)

    def undecodable(self, link: Link, n: int, error: ProtocolError) -> None:
        """A frame arrived whole and is no list of messages."""
        peer = link.peer
        logger.error("frame %d from node %s: %s; the link is closed", n, peer.name, error)
        self.counters["undecodable_frames"] += 1
        instructions = peer.session.undecodable(n)
        self._down(peer, str(error))
        self._do(peer, instructions)

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
        self._end(peer, "left", "it said goodbye")

    # What the machines decided.

    def _do(self, peer: Peer, instructions: list[Instruction]) -> None:
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
                    self._dial_again(peer, delay)
                case DeclareDead(detail):
                    self._end(peer, "dead", detail)

    def _adopted(self, peer: Peer, link: Link) -> None:
        peer.link = link
        peer.stop_timers()
        if not peer.up:
            peer.up = True
            self.by_life[peer.life] = peer
            self._tell(self.events.peer_up, peer)
        peer.wake()
        if peer.backlog:
            self.call_soon(peer.flush)

    def _down(self, peer: Peer, why: str) -> None:
        peer.link = None
        peer.last_failure = why
        if self._closing:
            peer.wake()  # it has read our goodbye, or never will
            return
        if peer.patience_timer is None and peer.ended is None:
            peer.patience_timer = self.env.call_later(self.config.link_patience, self._patience_over, peer)

    def _patience_over(self, peer: Peer) -> None:
        peer.patience_timer = None
        reason: EndReason = "protocol" if peer.session.held else "dead"
        spell = f"it could not be reached for {self.config.link_patience:g} s ({peer.last_failure})"
        self._end(peer, reason, spell)

    def _introduced(self, peer: Peer, info: dict[str, Any]) -> None:
        peer.info = info
        peer.address = str(info.get("address", ""))
        peer.name = str(info.get("name") or short(peer.life))
        # A node that came back at once never refuses a connection: its new life is the proof that the old one ended.
        for other in [*self.by_life.values()]:
            if other is peer:
                continue
            if other.life[:NODE_ID_BYTES] == peer.life[:NODE_ID_BYTES]:
                self._end(other, "dead", f"the node started anew, as {short(peer.life)}")
            elif peer.address and other.address == peer.address and other.link is not None:
                logger.info("node %s answers at the address of node %s", peer.name, other.name)
                link = other.link
                link.discard()
                self.link_lost(link, f"node {peer.name} has its address")

    def _end(self, peer: Peer, reason: EndReason, detail: str) -> None:
        if peer.ended is not None:
            return
        if self.corked is peer:
            peer.ending = (reason, detail)  # the frame is processed whole first
            return
        peer.ended = reason
        self._note_end(peer.life, reason, detail)
        self._peers.pop(peer.life, None)
        self.by_life.pop(peer.life, None)
        peer.stop_timers()
        if peer.dial_task is not None:
            peer.dial_task.cancel()
        self._do(peer, peer.session.end(reason))
        peer.link = None
        unsent = peer.take_unsent()
        peer.wake()
        if peer.up:
            self._tell(self.events.peer_ended, peer, reason, detail, unsent)

    def _tell(self, event: Callable[..., None], *args: Any) -> None:
        try:
            event(*args)
        except Exception:  # the node's own mistake must not leave a session half changed
            logger.exception("%s failed for %r", getattr(event, "__name__", event), args[0])

    def _note_end(self, life: Life, reason: EndReason, detail: str) -> None:
        self._tombstones[life] = _Tombstone(reason, detail, self.env.time())
        while len(self._tombstones) > _MAX_TOMBSTONES:
            self._tombstones.popitem(last=False)

    def _epitaph(self, stone: _Tombstone) -> str:
        ago = self.env.time() - stone.since
        what = "seen leaving" if stone.reason == "left" else "declared dead"
        return f"you were {what} by node {self.me.name} {ago:.1f} s ago: {stone.detail}"

    # Small things.

    def _peer(self, life: Life) -> Peer:
        peer = self._peers.get(life)
        if peer is None:
            peer = self._peers[life] = Peer(self, life)
        return peer

    def _forget_if_unborn(self, peer: Peer) -> None:
        """Drop what was made for a handshake that led to nothing."""
        if not peer.up and peer.session.dial_link is None and not peer.waiters:
            self._peers.pop(peer.life, None)

    def _task(self, coro: Any, name: str) -> asyncio.Task[Any]:
        task = self.env.create_task(coro, name=f"actorfw {self.me.name}: {name}")
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    async def _wait_for(self, peer: Peer, seconds: float) -> bool:
        """Whether the peer has a link within `seconds`."""
        waiter: asyncio.Future[None] = self.env.create_future()
        peer.waiters.append(waiter)
        await asyncio.wait([waiter], timeout=max(0.0, seconds))
        if not waiter.done():
            waiter.cancel()
        return peer.connected

    def _until_ended(self, peer: Peer) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = self.env.create_future()
        peer.waiters.append(waiter)
        return waiter


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and is_refusal(error):
        return "connection refused, nobody listens there"  # each loop words it in its own way
    return str(error) or type(error).__name__


def _no_handler(peer: Peer, message: list[Any]) -> None:
    raise ProtocolError(f"a message of kind {message[0]} is not known here")


def _log_unsendable(peer: Peer, message: Sequence[Any], error: Exception) -> None:
    logger.error("a message of kind %s to node %s can't be sent: %s", message[0], peer.name, error)
