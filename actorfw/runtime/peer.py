"""`Peer`: another life as the node uses it: send to it, see how much waits, and what became of it.

With it, what a node says of itself (`Identity`) and hears of its peers (`PeerEvents`). `Peer` packs what one turn of
the loop sends into frames, and holds back what link and window don't take. Links, dials and verdicts are
`runtime.peers`' affair.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast

from actorfw.core.handshake import PROTOCOL_VERSION, Offer
from actorfw.core.session import ACK_DELAY, WINDOW_BYTES, EndReason, EvidenceKind, Session
from actorfw.io.env import TimerHandle
from actorfw.runtime.bulk import LARGE, Bulk, Sink
from actorfw.values.data import Data
from actorfw.values.errors import ProtocolError
from actorfw.values.ids import Life, short
from actorfw.wire.frames import MAX_BATCH_BYTES
from actorfw.wire.messages import CALL, LEFT_OF_CALL, LEFT_OF_TASK, TASK
from actorfw.wire.payload import Buffer, Packed

if TYPE_CHECKING:
    from actorfw.runtime.links import Link
    from actorfw.runtime.peers import Peers

__all__ = ["FIRST_KIND", "Handler", "Identity", "OwnAddressError", "Peer", "PeerEvents"]

FIRST_KIND: Final = 8
"""Kinds below are the links' own."""

_AT_ONCE: Final = 1024


Handler: TypeAlias = "Callable[[Peer, list[Any]], None]"


class OwnAddressError(ProtocolError):
    """The address that was dialled is this node's own."""


class Identity(Data, frozen=False):
    """Who this node is.

    Args:
        life: of this run of the node.
        name: for messages to people.
        cluster: name of the cluster; nodes of another one are refused.
        info: what the other side gets to know when a session starts or resumes; "address" is where to dial this node.
            It may be changed at any time.
        python: minor version of Python.
        protocol: version of the protocol.
        born: when this life began, in seconds of the wall clock; the other side learns it with `info`, and so
        lived: how many lives this node had before.
    """

    life: Life
    name: str
    cluster: str
    info: dict[str, Any] = field(default_factory=dict[str, Any])
    python: str = f"{sys.version_info[0]}.{sys.version_info[1]}"
    protocol: int = PROTOCOL_VERSION
    born: float = 0.0
    lived: int = 0

    def told(self) -> dict[str, Any]:
        """What an authenticated side is told."""
        return {**self.info, "born": self.born, "lived": self.lived}

    def offer(self, address: str, *, seal: bool = False, tls: bool = False, mark: bytes = b"") -> Offer:
        """What may be told to anybody at the other end of a connection."""
        return Offer(self.life, self.cluster, self.python, self.protocol, seal, tls, mark, address)


class PeerEvents(Protocol):
    """What the node wants to know. All are called on the loop and must not wait."""

    def peer_up(self, peer: Peer) -> None:
        """A session began: by the first handshake with this life, whoever dialled, or because it was opened here."""
        ...

    def linked(self, peer: Peer) -> None:
        """A link was made, the first or another; `peer.info` is what the other side said of itself."""
        ...

    def rested(self, peer: Peer) -> None:
        """A link that nobody needed was closed by agreement; the session stays."""
        ...

    def evidence(self, peer: Peer, kind: EvidenceKind, detail: str) -> None:
        """Something speaks for this life's end; the session goes on until somebody says `Peers.bury`."""
        ...

    def peer_lost(self, peer: Peer, detail: str, unsent: list[Sequence[Any]]) -> None:
        """There has been no link for `link_patience`. Nothing is lost yet: the session goes on when there is one again.

        `unsent`: the messages that were not written to any link. They will be, unless `Peer.rewrite_unsent` makes
        others of them.
        """
        ...

    def peer_back(self, peer: Peer) -> None:
        """A peer that was lost has a link again."""
        ...

    def peer_ended(self, peer: Peer, reason: str, detail: str, unsent: list[Sequence[Any]]) -> None:
        """The life is over ("dead", "left"): nothing of it comes any more.

        `unsent`: the messages that were never written to a link, so surely not processed; of a large one its head.
        """
        ...

    def on_large_head(self, peer: Peer, head: list[Any], sizes: list[int]) -> Sink | None:
        """A large message begins: its head, in order with other messages, and the sizes of its buffers.

        Returns what takes its bytes; None: buffers that `on_large` gets.
        """
        ...

    def on_large(self, peer: Peer, head: list[Any], buffers: list[memoryview]) -> None:
        """A large message is complete. `head` is the object given to `on_large_head`; the buffers are read-only."""
        ...


class Peer:
    """Another life, as seen from this one.

    Attributes:
        life: its identity.
        info: what it said of itself when the last link was made.
        address: where it can be dialled.
        name: its name, for messages.
        link: the current link, None while there is none.
        lost: whether there has been no link for `link_patience`, and there is none yet.
        ended: why the session is over, None while it is not.
        data: free for the node: its own record of this peer.
        bad: how many of its messages could not be handled, by kind.
    """

    __slots__ = (
        "_backlog_bytes",
        "_out",
        "_pack",
        "_peers",
        "ack_timer",
        "address",
        "backlog",
        "bad",
        "bulk",
        "data",
        "dial_task",
        "dial_timer",
        "ended",
        "ending",
        "goodbye",
        "info",
        "last_failure",
        "life",
        "link",
        "lost",
        "name",
        "patience_timer",
        "session",
        "up",
        "waiters",
        "withdrawn",
    )

    def __init__(self, peers: Peers, life: Life) -> None:
        self._peers = peers
        self.life = life
        self.session = Session(peers.me.life, life)
        self.link: Link | None = None
        self.info: dict[str, Any] = {}
        self.address = ""
        self.name = short(life)
        self.lost = False
        self.ended: str | None = None
        self.ending: tuple[EndReason, str] | None = None
        self.goodbye: tuple[int, int] = (0, 0)  # in which frame this side proposed to rest, what it had seen then
        self.data: Any = None
        self.bad: dict[int | None, int] = {}
        self.up = False
        self.bulk = Bulk(self)
        self.backlog: deque[Sequence[Any]] = deque()
        self.withdrawn: set[tuple[int, int]] = set()  # kinds and numbers of what is in it and not wanted any more
        self.waiters: list[asyncio.Future[None]] = []
        self.dial_task: asyncio.Task[None] | None = None
        self.dial_timer: TimerHandle | None = None
        self.patience_timer: TimerHandle | None = None
        self.last_failure = ""
        self.ack_timer: TimerHandle | None = None
        self._out: list[Sequence[Any]] = []
        self._pack = peers.packer.pack
        self._backlog_bytes = 0

    def __repr__(self) -> str:
        state = self.ended or ("up" if self.link is not None else "down")
        return f"<Peer {self.name} {short(self.life)} at {self.address or 'unknown'} {state}>"

    @property
    def connected(self) -> bool:
        """Whether there is a link now."""
        return self.link is not None

    @property
    def unacked_bytes(self) -> int:
        """Bytes that were written and are kept until the other side has processed them."""
        return self.session.unacked_bytes

    @property
    def queued_bytes(self) -> int:
        """Bytes, nearly, that wait because the link is down or its window full."""
        return self._backlog_bytes + self.bulk.waiting_bytes

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self.backlog and not self._out and not self.bulk.busy

    def send(self, msg: Sequence[Any]) -> None:
        """Send a message (kind first). Legal while the link is down; ignored once the session is over.

        While something is on its way already, all messages of one turn of the loop leave in one frame; a single message
        to an idle peer leaves at once. (Nagle's rule: a lone call does not wait for the loop's next turn, a burst still
        goes together.)
        """
        out = self._out
        if not out:
            peers = self._peers
            if peers.corked is not None:
                peers.dirty.append(self)
            elif self.session.unacked:
                peers.call_soon(self.flush)
            else:
                self._send_now(msg)
                return
        out.append(msg)

    def _send_now(self, msg: Sequence[Any]) -> None:
        link = self.link
        if link is not None and not link.paused and not self.backlog:
            try:
                batch = self._pack([msg])
            except Exception:  # msgpack raises many types: `flush` finds out what is wrong with it
                batch = b""
            if 0 < len(batch) <= MAX_BATCH_BYTES:
                link.write(self.session.put(batch), batch)
                return
        self._out.append(msg)
        self.flush()

    def send_piece(self, msg: tuple[int, int, memoryview]) -> None:
        """Send a piece of a large message: it fills a frame, and is copied once on its way there."""
        if self._out:
            self.flush()
        link = self.link
        if link is not None and self.takes_pieces and link.write_piece(*msg):
            return
        self._out.append(msg)
        self.flush()

    @property
    def takes_pieces(self) -> bool:
        """Whether what is sent now is written now, behind nothing else."""
        return not self.backlog and self._writable()

    def now(self) -> float:
        """The time, as this node's clock tells it."""
        return self._peers.env.time()

    def check_large(self, sizes: list[int]) -> None:
        """Raises ProtocolError if no large message may have buffers of these sizes."""
        self._peers.entrance.check_large(sizes)

    def send_large(self, head: Sequence[Any], buffers: Sequence[Buffer], *, counts: bool = True) -> None:
        """Send a message whose buffers follow in pieces, so that others need not wait for it.

        The buffers must not change until the session has taken them; they are not copied here. `counts`: see `Bulk`.
        """
        self.bulk.send(head, buffers, counts=counts)

    def flush(self) -> None:
        """Write what waits, as far as link and window allow."""
        out = self._out
        link = self.link
        if out:
            self._out = []
            session = self.session
            if (
                link is not None
                and not link.paused
                and not self.backlog
                and session.unacked_bytes < WINDOW_BYTES
                and len(out) <= _AT_ONCE
            ):
                try:
                    batch = self._pack(out)
                except Exception:  # likewise: one of them is to blame, found below
                    batch = b""
                if 0 < len(batch) <= MAX_BATCH_BYTES:
                    link.write(session.put(batch), batch)
                    return
        if self.ended is None:
            self._flush_slowly(out)

    def _flush_slowly(self, out: list[Sequence[Any]]) -> None:
        backlog = self.backlog
        if not backlog:
            done = self._write_some(out)
            self._queue(islice(out, done, None))
            return
        self._queue(out)
        while backlog:
            some = list(islice(backlog, _AT_ONCE))
            if self.withdrawn:
                some = [take_back(one) if self._is_withdrawn(one) else one for one in some]
            done = self._write_some(some)
            for _ in range(done):
                self._backlog_bytes -= _weight(backlog.popleft())
            if done < len(some):
                return
        self.withdrawn.clear()

    def _queue(self, messages: Iterable[Sequence[Any]]) -> None:
        for message in messages:
            self.backlog.append(message)
            self._backlog_bytes += _weight(message)
        if self.session.resting:
            self._peers.needed(self)

    def _write_some(self, messages: list[Sequence[Any]]) -> int:
        """Write as many as link and window allow; return how many are done with."""
        if not messages or not self._writable():
            return 0
        done = 0
        for batch, count in self._peers.packer.pack_split(messages, self._refused):
            done += count
            link = self.link
            if batch and link is not None:
                link.write(self.session.put(batch), batch)
            if not self._writable():
                break
        return done

    def _writable(self) -> bool:
        link = self.link
        return link is not None and not link.paused and self.session.unacked_bytes < WINDOW_BYTES

    def _refused(self, message: Sequence[Any], error: Exception) -> None:
        self._peers.entrance.broken(error)
        self._peers.on_unsendable(self, message, error)

    # Called by links and Peers.

    def acknowledge(self) -> None:
        """Frames were processed and nothing went back: acknowledge them soon, or now if there are many."""
        if self.link is not None and self.session.ack_due:
            self.link.write_ack()
        elif self.ack_timer is None:
            self.ack_timer = self._peers.env.call_later(ACK_DELAY, self._ack_over)

    def _ack_over(self) -> None:
        self.ack_timer = None
        if self.link is not None and self.session.seen != self.session.told:
            self.link.write_ack()

    def unsent(self) -> list[Sequence[Any]]:
        """Everything that was never written, as it was given."""
        waiting = [*self.backlog, *self._out]
        return [
            cast("Sequence[Any]", m[2]) if m[0] == LARGE else m for m in waiting if m[0] == LARGE or m[0] >= FIRST_KIND
        ]

    def take_unsent(self) -> list[Sequence[Any]]:
        """The same; the peer keeps nothing of it."""
        unsent = self.unsent()
        self.backlog.clear()
        self._out = []
        self._backlog_bytes = 0
        self.bulk.clear()
        return unsent

    def withdraw(self, kind: int, number: int) -> None:
        """A call or task that was given to `send` is not wanted any more: if it still waits, it shall not start."""
        if self.backlog:
            self.withdrawn.add((kind, number))

    def _is_withdrawn(self, message: Sequence[Any]) -> bool:
        return message[0] in (CALL, TASK) and (message[0], message[1]) in self.withdrawn

    def rewrite_unsent(self, fn: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        """Have `fn(message)` sent instead of each message that waits, large ones aside.

        None is taken out: what travels in messages is counted at both ends.
        """
        self.backlog = deque(map(fn, self.backlog))
        self._out = [*map(fn, self._out)]

    def stop_timers(self) -> None:
        """Forget every timer and dial."""
        for timer in (self.ack_timer, self.dial_timer, self.patience_timer):
            if timer is not None:
                timer.cancel()
        self.ack_timer = self.dial_timer = self.patience_timer = None

    def wake(self) -> None:
        """Wake those who wait for a link, or for the end."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()


def take_back(message: Sequence[Any]) -> Sequence[Any]:
    """The same call or task with its deadline passed, so that it does not start. It has to travel nonetheless: the refs
    in it are counted at both ends."""
    kind = message[0]
    if kind == CALL and message[1]:
        at = LEFT_OF_CALL
    elif kind == TASK:
        at = LEFT_OF_TASK
    else:
        return message
    return (*message[:at], 0, *message[at + 1 :])


def _weight(value: object) -> int:
    total = 0
    parts = [value]
    while parts:  # no recursion: what a peer said, and travels on, may be nested deeply
        part = parts.pop()
        kind = type(part)
        if kind is bytes or kind is str or kind is bytearray:
            total += len(cast("bytes", part)) + 8
        elif kind is list or kind is tuple:
            total += 8
            parts += cast("list[object]", part)
        elif kind is Packed:
            total += cast("Packed", part).size + 16
        elif kind is memoryview:
            total += cast("memoryview", part).nbytes + 8
        else:
            total += 9
    return total
