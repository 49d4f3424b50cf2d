"""`Arrival`: a large value on its way in, piece by piece, whose large buffers go straight into shared memory.

What a session brings in pieces goes to a sink. This is the one for values that come with a message of their own (items
of streams, arguments); objects that are pulled have another, in `runtime.store.pulls`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actorfw.runtime.store.blocks import Block
from actorfw.values.errors import ObjectStoreFullError, ProtocolError
from actorfw.wire.frames import Placed
from actorfw.wire.payload import SHARED_LEAST, Allocator, Buffer, Part, WritableBuffer

__all__ = ["Arrival", "arrival_of"]


class Arrival:
    """See `actorfw.runtime.bulk.Sink`.

    Args:
        shared: gives the room; what it has none for goes to the heap.
        sizes: of the buffers, in the order in which they come. The first is read here, and stays on the heap.
        then: called with the buffers when all are there.
    """

    __slots__ = ("_at", "_filling", "_sizes", "_then", "room")

    def __init__(self, shared: Allocator, sizes: Sequence[int], then: Callable[[list[Part]], object]) -> None:
        self.room: list[bytearray | WritableBuffer] = []
        for number, size in enumerate(sizes):
            try:
                block = shared.allocate(size) if number and size >= SHARED_LEAST else None
            except ObjectStoreFullError:
                block = None  # it is here already, and nobody else is to suffer for it
            self.room.append(bytearray(size) if block is None else block)
        self._sizes = sizes
        self._then = then
        self._filling = 0
        self._at = 0
        self._skip_full()

    def place(self, size: int) -> memoryview | None:
        if not size or self.complete or self._at + size > self._sizes[self._filling]:
            return None
        room = self.room[self._filling]
        view = memoryview(room) if isinstance(room, bytearray) else room.room() if isinstance(room, Block) else None
        return None if view is None else view[self._at : self._at + size]

    def take(self, piece: Buffer | Placed) -> None:
        end = self._at + len(piece)
        if not piece or self.complete or end > self._sizes[self._filling]:
            raise ProtocolError("a piece of a large message does not fit in its buffer")
        room = self.room[self._filling]
        if isinstance(piece, Placed):
            pass
        elif isinstance(room, bytearray):
            room[self._at : end] = piece
        else:
            room.fill(piece, self._at)
        self._at = end
        self._skip_full()

    def _skip_full(self) -> None:
        while not self.complete and self._at == self._sizes[self._filling]:
            self._filling += 1
            self._at = 0

    @property
    def complete(self) -> bool:
        return self._filling == len(self._sizes)

    def done(self) -> None:
        buffers: list[Part] = []
        for room in self.room:
            if isinstance(room, bytearray):
                buffers.append(memoryview(room).toreadonly())
            else:
                room.seal()
                buffers.append(room)
        self._then(buffers)


def arrival_of(shared: Allocator | None, sizes: Sequence[int], then: Callable[[list[Part]], object]) -> Arrival | None:
    """None if nothing of it would go into shared memory."""
    if shared is None or all(size < SHARED_LEAST for size in sizes[1:]):
        return None
    return Arrival(shared, sizes, then)
