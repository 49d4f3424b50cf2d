"""Large messages: buffers that follow their head in pieces, between the other messages of a session.

The pieces are ordinary messages, so they arrive exactly once and survive cut links. At most `WINDOW` bytes of them are
on their way to a peer, all large messages together, so a small message never waits behind more than that; large ones
take turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from actorfw.values.errors import ProtocolError
from actorfw.wire.payload import Buffer

if TYPE_CHECKING:
    from actorfw.runtime.peer import Peer
    from actorfw.runtime.peers import PeerEvents

__all__ = ["CHUNK", "CHUNK_ACK", "CHUNK_BYTES", "LARGE", "WINDOW", "Bulk"]

LARGE: Final = 1  # (number, head, sizes)
CHUNK: Final = 2  # (number, bytes)
CHUNK_ACK: Final = 3  # (bytes taken)

CHUNK_BYTES: Final = 256 * 1024 - 64
"""So that a piece and its envelope fit in one frame."""
WINDOW: Final = 1024 * 1024


class _Outgoing:
    __slots__ = ("at", "buffers", "number")

    def __init__(self, number: int, buffers: deque[memoryview]) -> None:
        self.number = number
        self.buffers = buffers
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

    def take(self, piece: bytes) -> None:
        buffer = self.buffers[self.filling]
        end = self.at + len(piece)
        if not piece or end > len(buffer):
            raise ProtocolError("a piece of a large message does not fit in its buffer")
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

    __slots__ = ("_after", "_incoming", "_number", "_outgoing", "_peer", "_under_way", "waiting_bytes")

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._number = 0
        self._under_way = 0
        self._outgoing: deque[_Outgoing] = deque()
        self._incoming: dict[int, _Incoming] = {}
        self._after: list[tuple[set[int], Callable[[], object]]] = []
        self.waiting_bytes = 0

    def send(self, head: Sequence[Any], buffers: Sequence[Buffer]) -> None:
        """Send the head now, in order, and the buffers as the window allows."""
        if self._peer.ended is not None:
            return
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        self._number += 1
        self._peer.send((LARGE, self._number, head, [len(view) for view in views]))
        full = deque(view for view in views if len(view))
        if full:
            self.waiting_bytes += sum(map(len, full))
            self._outgoing.append(_Outgoing(self._number, full))
            self._pump()

    @property
    def busy(self) -> bool:
        """Whether a large message is under way, in either direction."""
        return bool(self._outgoing or self._under_way or self._incoming)

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

    def _pump(self) -> None:
        while self._outgoing and self._under_way + CHUNK_BYTES <= WINDOW:
            transfer = self._outgoing.popleft()
            piece = transfer.next_piece()
            self._under_way += len(piece)
            self.waiting_bytes -= len(piece)
            self._peer.send((CHUNK, transfer.number, piece))
            if transfer.buffers:
                self._outgoing.append(transfer)

    @staticmethod
    def handlers(events: PeerEvents) -> list[Callable[[Peer, list[Any]], None]]:
        """The handlers of the three kinds, in their order."""

        def finish_if_complete(peer: Peer, number: int, transfer: _Incoming) -> None:
            if transfer.complete:
                del peer.bulk._incoming[number]
                try:
                    events.on_large(peer, transfer.head, [memoryview(b).toreadonly() for b in transfer.buffers])
                finally:
                    peer.bulk._completed(number)

        def on_large(peer: Peer, message: list[Any]) -> None:
            _, number, head, sizes = message
            transfer = peer.bulk._incoming[number] = _Incoming(head, sizes)
            try:
                events.on_large_head(peer, head, sizes)
            finally:
                finish_if_complete(peer, number, transfer)

        def on_chunk(peer: Peer, message: list[Any]) -> None:
            _, number, piece = message
            peer.send((CHUNK_ACK, len(piece)))
            transfer = peer.bulk._incoming[number]
            transfer.take(piece)
            finish_if_complete(peer, number, transfer)

        def on_chunk_ack(peer: Peer, message: list[Any]) -> None:
            bulk = peer.bulk
            bulk._under_way -= message[1]
            bulk._pump()

        return [on_large, on_chunk, on_chunk_ack]
