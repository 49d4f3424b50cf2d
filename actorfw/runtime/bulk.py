"""Large messages: buffers that follow their head in pieces, between the other messages of a session.

The pieces are ordinary messages, so they arrive exactly once and survive cut links. No more of them are on their way to
a peer, of all large messages together, than its path holds (`core.pace`), so a small message hardly waits behind them;
large ones take turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from actorfw.core.pace import Pace
from actorfw.values.errors import ProtocolError
from actorfw.wire.frames import CHUNK, Placed
from actorfw.wire.payload import Buffer

if TYPE_CHECKING:
    from actorfw.runtime.peer import Peer
    from actorfw.runtime.peers import PeerEvents

__all__ = ["CHUNK", "CHUNK_ACK", "CHUNK_BYTES", "LARGE", "Bulk", "Sink"]

LARGE: Final = 1  # (number, head, sizes)
CHUNK_ACK: Final = 3  # (bytes taken)

CHUNK_BYTES: Final = 256 * 1024 - 64
"""So that a piece and its envelope fit in one frame."""


class Sink(Protocol):
    """Takes the bytes of a large message in the place of buffers of its own, as one stream."""

    def place(self, size: int) -> memoryview | None:
        """Where the next bytes are to be, so many: they may be written there before they are taken, more than once, or
        by halves. None: they are wanted in hand."""
        ...

    def take(self, piece: Buffer | Placed) -> None:
        """The next bytes; if they are `Placed`, they are where they belong.

        Raises:
            ProtocolError: they are too many.
        """
        ...

    @property
    def complete(self) -> bool:
        """Whether these were all."""
        ...

    def done(self) -> None:
        """It is complete."""
        ...


class _Outgoing:
    __slots__ = ("at", "buffers", "counts", "number")

    def __init__(self, number: int, buffers: deque[memoryview], counts: bool) -> None:
        self.number = number
        self.buffers = buffers
        self.counts = counts
        self.at = 0

    def next_piece(self) -> memoryview:
        buffer = self.buffers[0]
        piece = buffer[self.at : self.at + CHUNK_BYTES]
        self.at += len(piece)
        if self.at == len(buffer):
            self.buffers.popleft()
            self.at = 0
        return piece


class _Incoming:
    __slots__ = ("at", "buffers", "filling", "head")

    def __init__(self, head: list[Any], sizes: list[int]) -> None:
        self.head = head
        self.buffers = [bytearray(size) for size in sizes]
        self.filling = 0
        self.at = 0
        self.skip_full()

    def place(self, size: int) -> memoryview | None:
        buffer = self.buffers[self.filling]
        end = self.at + size
        return memoryview(buffer)[self.at : end] if size and end <= len(buffer) else None

    def take(self, piece: Buffer | Placed) -> None:
        buffer = self.buffers[self.filling]
        end = self.at + len(piece)
        if not piece or end > len(buffer):
            raise ProtocolError("a piece of a large message does not fit in its buffer")
        if not isinstance(piece, Placed):
            buffer[self.at : end] = piece
        self.at = end
        self.skip_full()

    def skip_full(self) -> None:
        while self.filling < len(self.buffers) and self.at == len(self.buffers[self.filling]):
            self.filling += 1
            self.at = 0

    @property
    def complete(self) -> bool:
        return self.filling == len(self.buffers)


class Bulk:
    """The large messages of one session, both ways.

    Attributes:
        waiting_bytes: what has not been handed to the session yet.
    """

    __slots__ = ("_after", "_incoming", "_number", "_outgoing", "_pace", "_peer", "_untold", "waiting_bytes")

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._number = 0
        self._pace = Pace()
        self._untold = 0  # bytes of pieces that came and are not acknowledged
        self._outgoing: deque[_Outgoing] = deque()
        self._incoming: dict[int, _Incoming | Sink] = {}
        self._after: list[tuple[set[int], Callable[[], object]]] = []
        self.waiting_bytes = 0

    def send(self, head: Sequence[Any], buffers: Sequence[Buffer], *, counts: bool = True) -> None:
        """Send the head now, in order, and the buffers as the window allows.

        `counts`: whether the buffers are kept for this alone, so that they are part of what waits here.
        """
        if self._peer.ended is not None:
            return
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        self._number += 1
        self._peer.send((LARGE, self._number, head, [len(view) for view in views]))
        full = deque(view for view in views if len(view))
        if full:
            if counts:
                self.waiting_bytes += sum(map(len, full))
            self._outgoing.append(_Outgoing(self._number, full, counts))
            self.pump()

    @property
    def busy(self) -> bool:
        """Whether a large message is under way, in either direction."""
        return bool(self._outgoing or self._pace.under_way or self._incoming)

    @property
    def arriving(self) -> bool:
        """Whether large messages are on their way here."""
        return bool(self._incoming)

    def place(self, number: int, size: int) -> memoryview | None:
        """Where the next piece of a large message belongs, of so many bytes, if that is known."""
        transfer = self._incoming.get(number)
        return None if transfer is None else transfer.place(size)

    def when_complete(self, then: Callable[[], object]) -> None:
        """Call `then` when all large messages that have begun to arrive are complete; at once if there are none."""
        if self._incoming:
            self._after.append((set(self._incoming), then))
        else:
            then()

    def _completed(self, number: int) -> None:
        after, self._after = self._after, []
        for numbers, then in after:
            numbers.discard(number)
            if numbers:
                self._after.append((numbers, then))
            else:
                then()

    def clear(self) -> None:
        """The session is over."""
        self._after.clear()
        self._outgoing.clear()
        self._incoming.clear()
        self.waiting_bytes = 0

    def pump(self) -> None:
        """Send what the window allows."""
        pace = self._pace
        peer = self._peer
        # One piece may be under way that the other side acknowledges with the next only.
        while self._outgoing and (
            pace.under_way <= CHUNK_BYTES or (pace.under_way + CHUNK_BYTES <= pace.size and peer.takes_pieces)
        ):
            transfer = self._outgoing.popleft()
            piece = transfer.next_piece()
            pace.sent(len(piece), peer.now())
            if transfer.counts:
                self.waiting_bytes -= len(piece)
            peer.send_piece((CHUNK, transfer.number, piece))
            if transfer.buffers:
                self._outgoing.append(transfer)

    @staticmethod
    def handlers(events: PeerEvents) -> list[Callable[[Peer, list[Any]], None]]:
        """The handlers of the three kinds, in their order."""

        def finish_if_complete(peer: Peer, number: int, transfer: _Incoming | Sink) -> None:
            if transfer.complete:
                del peer.bulk._incoming[number]
                try:
                    if isinstance(transfer, _Incoming):
                        events.on_large(peer, transfer.head, [memoryview(b).toreadonly() for b in transfer.buffers])
                    else:
                        transfer.done()
                finally:
                    peer.bulk._completed(number)

        def on_large(peer: Peer, message: list[Any]) -> None:
            _, number, head, sizes = message
            sink: Sink | None = None
            try:
                sink = events.on_large_head(peer, head, sizes)
            finally:
                if sink is None:
                    peer.check_large(sizes)
                transfer = peer.bulk._incoming[number] = sink or _Incoming(head, sizes)
                finish_if_complete(peer, number, transfer)

        def on_chunk(peer: Peer, message: list[Any]) -> None:
            _, number, piece = message
            bulk = peer.bulk
            transfer = bulk._incoming[number]
            bulk._untold += len(piece)
            try:
                transfer.take(piece)
            finally:
                if bulk._untold > CHUNK_BYTES or transfer.complete:
                    peer.send((CHUNK_ACK, bulk._untold))
                    bulk._untold = 0
            finish_if_complete(peer, number, transfer)

        def on_chunk_ack(peer: Peer, message: list[Any]) -> None:
            bulk = peer.bulk
            bulk._pace.acked(message[1], peer.now())
            bulk.pump()

        return [on_large, on_chunk, on_chunk_ack]
