"""`Arena`: the shared memory of one node, given out in blocks.

Any thread may allocate. What is dropped is noted by finalizers, which may run anywhere and at any moment, and is free
within a turn of the loop, or when the next allocation looks.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from actorfw.core.extents import Extents, rounded
from actorfw.io.sharedmem import SharedMemory
from actorfw.runtime.store.blocks import FREED, Block
from actorfw.runtime.store.growth import Growth

if TYPE_CHECKING:
    from actorfw.runtime.store.filearena import FileArena
    from actorfw.runtime.store.spilling import Spiller

__all__ = ["Arena"]

logger = logging.getLogger("actorfw.store")


class Arena:
    """The blocks in one shared memory.

    Args:
        memory: all of it is this arena's.
        token: says to other processes which arena it is.
        wake: from any thread and any finalizer: have this called on the loop.
        threads: whether a thread may have memory ready.

    Attributes:
        memory, token: as given.
        blocks: all that there are, by number.
        spiller: writes blocks to files when room is short; None: nobody does.
    """

    def __init__(
        self,
        memory: SharedMemory,
        token: bytes,
        wake: Callable[[Callable[[], object]], object],
        *,
        threads: bool = False,
    ) -> None:
        self.memory = memory
        self.token = token
        self.blocks: dict[int, weakref.ref[Block]] = {}
        self._wake: Callable[[Callable[[], object]], object] | None = wake
        self._extents = Extents(memory.size)
        self._lock = threading.Lock()
        self._growth = Growth(memory, self._extents, self._lock) if threads else None
        self._mapping: object = None
        self._numbers = itertools.count(1)
        self._dropped: deque[tuple[int, int]] = deque()
        self.spiller: Spiller | None = None
        self.now = 0.0  # since 1970, to about a second, as the node tells it
        self._sweep_due = False
        self._pid = os.getpid()

    @property
    def size(self) -> int:
        """Bytes there are for blocks."""
        return self._extents.size

    @property
    def used(self) -> int:
        """Bytes taken by blocks that live."""
        if self._dropped:
            self.sweep()
        return self._extents.used

    @property
    def warm(self) -> int:
        """Bytes of free space that have pages."""
        return self._extents.warm

    def allocate(self, nbytes: int) -> Block | None:
        """A block to fill; None if there is no room for it, or the arena is closed. Any thread."""
        if self._wake is None:
            return None
        with self._lock:
            offset = self._free_dropped(rounded(nbytes)) if self._dropped else -1
            mapping = self._mapping or self._map()
            if mapping is None:
                return None
            if offset < 0:
                extents = self._extents
                warm = extents.warm
                offset = extents.take(nbytes)
                if offset < 0:
                    return None
                if self._growth is not None:
                    size = extents.size_at(offset)
                    self._growth.taken(offset, size, size - (warm - extents.warm))
        number = next(self._numbers)
        block = Block(self, number, offset, nbytes, mapping)
        self.blocks[number] = weakref.ref(block)
        return block

    def next_number(self) -> int:
        """For a block that is to lie elsewhere."""
        return next(self._numbers)

    def adopt(self, beside: FileArena, number: int, nbytes: int) -> Block:
        """A block to fill that lies elsewhere, and is otherwise like those of this arena."""
        block = Block(beside, number, beside.offset, nbytes, beside.memory.hold())
        self.blocks[number] = weakref.ref(block)
        return block

    @property
    def taken(self) -> int:
        """As `used`, without looking for what was dropped meanwhile."""
        return self._extents.used

    def take_extent(self, nbytes: int) -> int:
        """Room for a block that is there already: its offset, -1 if there is none."""
        with self._lock:
            if self._dropped:
                self._free_dropped()
            return self._extents.take(nbytes) if self._wake is not None else -1

    def give_back(self, offset: int) -> None:
        """The memory of a block that is on disk now."""
        with self._lock:
            self._extents.free(offset)

    def _map(self) -> object:
        try:
            self._mapping = self.memory.hold()
        except OSError as error:
            logger.warning("no shared memory, values stay on the heap and travel through sockets: %s", error)
            self._wake = None
        return self._mapping

    def find(self, number: int) -> Block | None:
        """The block of this number, if it lives."""
        found = self.blocks.get(number)
        return found() if found is not None else None

    def dropped(self, block: Block) -> None:
        """From a finalizer: this block is gone. Only note it."""
        block.state = FREED
        wake = self._wake
        if wake is None:
            self._drop_late(block)
            return
        self._dropped.append((block.number, block.offset))
        if not self._sweep_due:
            self._sweep_due = True
            wake(self.sweep)

    def sweep(self) -> None:
        """Free what was dropped."""
        self._sweep_due = False
        with self._lock:
            self._free_dropped()

    def _free_dropped(self, wanted: int = 0) -> int:
        """Free what was dropped, but for the first of the size wanted: its offset, or -1.

        It goes from hand to hand, which is several times quicker than to free it and to look for it.
        """
        found = -1
        dropped = self._dropped
        while dropped:
            number, offset = dropped.popleft()
            self.blocks.pop(number, None)
            if self.spiller is not None:
                self.spiller.left(number)
            if offset >= 0:
                if wanted and found < 0 and self._extents.size_at(offset) == wanted:
                    found = offset
                else:
                    self._extents.free(offset)
        if self._growth is not None:
            self._growth.freed()
        return found

    def _drop_late(self, block: Block) -> None:
        # The node is closed, and somebody kept a value: the rest of the memory is gone already. In a child that was
        # forked this is its parent's memory.
        if block.offset >= 0 and not block.lends and os.getpid() == self._pid:
            size = self._extents.size_at(block.offset)
            self.memory.discard(block.offset, size)

    def close(self) -> None:
        """No more blocks. What is still viewed stays; the rest is given back."""
        with self._lock:
            self._wake = None
            self._free_dropped()
        if self._growth is not None:
            self._growth.close()
        if self._extents.used:
            for start, size in self._extents.free_runs():
                self.memory.discard(start, size)
        self._mapping = None
        self.memory.close()

    def validate(self) -> None:
        """Check that the books agree with the blocks.

        Raises:
            AssertionError: they do not.
        """
        with self._lock:
            self._free_dropped()
            self._extents.validate()
            living = [block for block in (ref() for ref in list(self.blocks.values())) if block is not None]
            taken = sum(self._extents.size_at(block.offset) for block in living if block.offset >= 0)
            assert taken <= self._extents.used
