"""`Pull`: one value on its way here, in ranges from one or several sources, into the memory where it stays.

Leaves to others: which sources there are and what is asked of them (`runtime.store.pulls`).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.admission import Admission
from actorfw.runtime.outbound import PICKLED, TEXT
from actorfw.runtime.store.blocks import Block
from actorfw.values.errors import ObjectStoreFullError, ProtocolError
from actorfw.values.ids import RefId, as_bytes
from actorfw.wire.frames import Placed
from actorfw.wire.payload import SHARED_LEAST, Buffer, Packed, WritableBuffer

if TYPE_CHECKING:
    from actorfw.core.ownership import Taken
    from actorfw.io.env import TimerHandle
    from actorfw.runtime.store.pulls import Pulls

__all__ = ["STRIPE", "HeapRoom", "Pull", "Range"]

STRIPE: Final = 4 << 20
"""Bytes of one range."""


class HeapRoom:
    """Room for one buffer where there is no shared memory."""

    __slots__ = ("_bytes",)

    def __init__(self, size: int) -> None:
        self._bytes = bytearray(size)

    def fill(self, data: Any, at: int = 0) -> None:
        self._bytes[at : at + len(data)] = data

    def room(self) -> memoryview:
        return memoryview(self._bytes)

    def sealed(self) -> memoryview:
        return memoryview(self._bytes).toreadonly()


class Range:
    """A part of a value that was asked of one source; takes its bytes as they come (`runtime.bulk.Sink`)."""

    __slots__ = ("at", "first", "length", "offset", "pull", "source")

    def __init__(self, pull: Pull | None, source: bytes, offset: int, length: int, first: bool) -> None:
        self.pull = pull  # None: nobody wants it any more
        self.source = source
        self.offset = offset
        self.length = length
        self.first = first
        self.at = 0

    def place(self, size: int) -> memoryview | None:
        if self.pull is None or self.at + size > self.length:
            return None
        return self.pull.place(self.offset + self.at, size)

    def take(self, piece: Buffer | Placed) -> None:
        if self.at + len(piece) > self.length:
            raise ProtocolError("a piece of an object is longer than what was asked for")
        if self.pull is not None and not isinstance(piece, Placed):
            self.pull.write(self.offset + self.at, piece)
        self.at += len(piece)

    @property
    def complete(self) -> bool:
        return self.at == self.length

    def done(self) -> None:
        if self.pull is not None:
            self.pull.pulls._done(self.pull, self)


class Pull:
    """One value on its way here."""

    __slots__ = (
        *("asking", "back", "codes", "form", "given", "id", "left", "line", "next", "opened"),
        *("paused", "pulls", "ranges", "refs", "reserved", "room", "size", "starts", "turn", "version", "waits"),
    )

    def __init__(self, pulls: Pulls, id: RefId, version: int, size: int) -> None:
        self.pulls = pulls
        self.id = id
        self.version = version
        self.size = size
        self.ranges: dict[bytes, list[Range]] = {}  # by source
        self.back: list[tuple[int, int]] = []  # what a source left undone
        self.next = 0  # where what was never asked for begins
        self.left = size
        self.asking = False  # the owner, for another source
        self.waits: bool | None = None  # for room in memory; False: it has been made
        self.reserved: Any = None  # that room
        self.turn = False  # whether anything may be asked for
        self.line: Admission[Pull] | None = None  # where it waits for that, or counts
        self.paused: TimerHandle | None = None  # nobody waits for it: until it is given up
        # What its first range says.
        self.opened = False
        self.form = 0
        self.refs: list[Any] = []
        self.codes: list[bytes] = []
        self.given: Taken | None = None
        self.room: list[HeapRoom | WritableBuffer] = []
        self.starts: list[int] = []

    def open(self, form: int, sizes: list[int], refs: list[Any], codes: list[bytes]) -> None:
        store = self.pulls.node.store
        self.opened = True
        self.form = form
        self.refs = refs
        self.codes = codes
        at = 0
        reserved, self.reserved = self.reserved, None
        if reserved is not None and sizes[1:] != [reserved.nbytes]:
            reserved = None  # it is free from here on, for buffers that are smaller
        for number, size in enumerate(sizes):
            try:
                block = reserved if number else None
                if block is None and number and size >= SHARED_LEAST:
                    block = store.allocate(size)
            except ObjectStoreFullError:
                block = None  # there was room for it a moment ago
            self.room.append(block if block is not None else HeapRoom(size))
            self.starts.append(at)
            at += size
        self.size = self.left = at

    def place(self, at: int, size: int) -> memoryview | None:
        """Where these bytes of the whole are to be, if that is in one buffer."""
        if not size or not self.opened:
            return None
        number = bisect_right(self.starts, at) - 1
        at -= self.starts[number]
        room = self.room[number]
        view = room.room() if isinstance(room, (HeapRoom, Block)) else None
        return view[at : at + size] if view is not None and at + size <= len(view) else None

    def write(self, at: int, piece: Buffer) -> None:
        """Bytes of the whole, which may belong to several buffers."""
        starts = self.starts
        number = bisect_right(starts, at) - 1
        view = memoryview(piece)
        while len(view):
            end = starts[number + 1] if number + 1 < len(starts) else self.size
            part = view[: end - at]
            if len(part):
                self.room[number].fill(part, at - starts[number])
            view = view[len(part) :]
            at += len(part)
            number += 1

    def next_range(self) -> tuple[int, int] | None:
        if self.back:
            return self.back.pop()
        if self.next >= self.size:
            return None
        at, self.next = self.next, min(self.next + STRIPE, self.size)
        return at, self.next - at

    def value(self) -> Any:
        """All of it is here."""
        parts: list[Any] = []
        for room in self.room:
            if isinstance(room, HeapRoom):
                parts.append(room.sealed())
            else:
                room.seal()
                parts.append(room)
        data, *rest = parts
        if self.form == PICKLED:
            return bytes(data)
        if self.form == TEXT:
            return str(data, "utf-8")
        return Packed(bytes(data), rest, [(as_bytes(r[0]), r[1], r[2]) for r in self.refs], list(self.codes))
