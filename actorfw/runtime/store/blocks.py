"""`Block`: a buffer in this node's own arena.

Its extent is free again when nothing in this process holds the block, no view of it lives, and nobody has it lent. All
three are one thing here: a view holds its block, and so does the store while it is lent; so the end of a block is the
end of this object.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.store.lodging import Lendable
from actorfw.wire.payload import Buffer, Place, WritableBuffer

if TYPE_CHECKING:
    from actorfw.runtime.store.arena import Arena
    from actorfw.runtime.store.filearena import FileArena

__all__ = ["FREED", "LOST", "SEALED", "SPILLED", "WRITING", "Block"]

WRITING: Final = 0
SEALED: Final = 1
SPILLED: Final = 2
FREED: Final = 3
LOST: Final = 4


class Block(Lendable, WritableBuffer):
    """One allocation. Only `Arena.allocate` makes them.

    Attributes:
        arena: it lies in.
        number: never used again for another block of this arena.
        offset: of its extent; -1 where it has none (spilled).
        state: one of `WRITING`, `SEALED`, `SPILLED`, `FREED`, `LOST` (its file was).
        pins: how many are about to read it; under the spiller's lock.
        read_at: when it was last read, here or elsewhere, in seconds since 1970, to about a second; 0.0: never.
        why: what became of its file, if it is lost.
    """

    __slots__ = ("_mapping", "_seen", "arena", "number", "offset", "pins", "read_at", "state", "why")

    def __init__(self, arena: Arena | FileArena, number: int, offset: int, nbytes: int, mapping: object) -> None:
        self.arena = arena
        self.number = number
        self.offset = offset
        self.nbytes = nbytes
        self.state = WRITING
        self._mapping = mapping  # so that it can be read when the node is closed
        self.lends = None
        self.pins = 0
        self.read_at = 0.0
        self.why = ""
        self._seen: weakref.ref[Any] | None = None

    @property
    def place(self) -> Place:
        if self.state >= SPILLED:
            self._bring_back()
        self.read_at = self.arena.now
        return (self.arena.token, self.number, self.offset, self.nbytes)

    def fill(self, data: Buffer, at: int = 0) -> None:
        """See `WritableBuffer.fill`.

        Raises:
            ValueError: it does not fit, or the block is complete.
        """
        view = memoryview(data)
        if view.format != "B" or view.ndim != 1:
            view = view.cast("B")
        if self.state != WRITING or at < 0 or at + view.nbytes > self.nbytes:
            raise ValueError(f"{view.nbytes} bytes at {at} can't be written into {self!r}")
        self.arena.memory.copy_in(self.offset + at, view)

    def room(self) -> memoryview:
        """All of it, to be written to until it is sealed: for what reads straight into memory.

        Raises:
            ValueError: the block is complete.
        """
        if self.state != WRITING:
            raise ValueError(f"{self!r} is complete: it can only be read")
        return self.arena.memory.room(self.offset, self.nbytes, self)

    def seal(self) -> None:
        if self.state == WRITING:
            self.state = SEALED
            spiller = self.arena.spiller
            if spiller is not None:
                spiller.sealed(self)

    def view(self) -> memoryview:
        while True:
            # Views share one array, so that `viewed` has one to ask.
            array = self._seen() if self._seen is not None else None
            if array is None:
                arena, offset = self.arena, self.offset
                if self.state != SEALED or offset < 0:
                    self._bring_back()
                    continue
                array = arena.memory.array(offset, self)
                array.begin = (arena, offset)
                self._seen = weakref.ref(array)
            # Whoever spills it looks for the array after it has changed the state: one of us sees the other.
            if self.state == SEALED and array.begin == (self.arena, self.offset):
                break
            del array
            self._bring_back()
        self.read_at = self.arena.now
        spiller = self.arena.spiller
        if spiller is not None:
            spiller.used(self.number)
        return memoryview(array).cast("B")[: self.nbytes].toreadonly()

    def moved(self, arena: FileArena) -> None:
        """It lies elsewhere from now on; nobody has a view of it."""
        self.arena = arena
        self.offset = arena.offset
        self._mapping = arena.memory.hold()

    def _bring_back(self) -> None:
        """Have it in memory, perhaps not for longer than this takes: whoever needs it looks again.

        Raises:
            ObjectLostError: its file is gone or damaged.
            ValueError: it is not complete, or gone.
        """
        spiller = self.arena.spiller
        if spiller is None or self.state not in (SEALED, SPILLED, LOST):
            raise ValueError(f"{self!r} can't be read")
        spiller.restore(self)

    @property
    def viewed(self) -> bool:
        """Whether a view of it, or anything made of one, lives in this process."""
        return self._seen is not None and self._seen() is not None

    @property
    def in_use(self) -> bool:
        """Whether somebody reads it, here or where it is lent, or is about to."""
        return self.viewed or bool(self.lends) or self.pins > 0

    def __del__(self) -> None:
        self.arena.dropped(self)

    def __repr__(self) -> str:
        state = ("being written", "sealed", "spilled", "freed", "lost")[self.state]
        return f"<Block {self.number}, {self.nbytes} bytes, {state}>"
