"""`Store`: a node's values in shared memory, as the other parts of the node see them.

It gives room, knows to whom blocks are lent, and how much is in use. Where a node has no shared memory it has a store
all the same, which gives none: then values are bytes on the heap, and travel through sockets.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from actorfw.io.sharedmem import SharedMemory
from actorfw.runtime.store.arena import Arena
from actorfw.runtime.store.blocks import LOST, SEALED, Block
from actorfw.runtime.store.lodging import Lends
from actorfw.runtime.store.spilling import Spiller
from actorfw.wire.payload import Packed

if TYPE_CHECKING:
    from actorfw.io.spillfiles import SpillFiles
    from actorfw.runtime.node import Node

__all__ = ["Store"]

logger = logging.getLogger("actorfw.store")


class Store:
    """The shared memory of one node. `allocate` is for any thread, all else for the node's loop.

    Attributes:
        arena: None where there is no shared memory.
        limit: bytes that it may hold; 0 where there is none.
        token: says which arena it is; empty where there is none.
        lends: what other processes of this host have, of this arena and of others.
        spiller: writes blocks to files when room is short; None: values that have no room are bytes on the heap.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.arena: Arena | None = None
        self.limit = 0
        self.token = b""
        self.lends = Lends()
        self.spiller: Spiller | None = None
        self._sweeper: threading.Thread | None = None
        # First, since it may be refused.
        files = node.env.spill_files(node.config.spill_folder, node.config.spill_limit, node.life)
        try:
            memory = node.env.shared_memory(node.options.store_memory)
        except OSError as error:
            logger.info("this node has no shared memory (%s): values travel through sockets", error)
            memory = None
        if memory is not None:
            self.token = node.env.token(16)
            self.arena = Arena(memory, self.token, node.wake, threads=node.env.pace is None)
            self.limit = self.arena.size
            if files is not None:
                self.spiller = self.arena.spiller = Spiller(node, self.arena, files)

    def start(self) -> None:
        """The node is up."""
        if self.spiller is not None and self.node.env.pace is None:
            # What dead nodes left behind goes beside whatever goes on. A thread of its own: it ends when that is done.
            self._sweeper = threading.Thread(target=self._sweep, args=(self.spiller.files,), name="actorfw sweep")
            self._sweeper.daemon = True
            self._sweeper.start()

    @staticmethod
    def _sweep(files: SpillFiles) -> None:
        try:
            files.sweep()
        except Exception:  # the files of others, in whatever state: nothing here depends on them
            logger.exception("what dead nodes left on disk could not be removed")

    @property
    def used(self) -> int:
        """Bytes that blocks take now."""
        return self.arena.used if self.arena is not None else 0

    def allocate(self, nbytes: int) -> Block | None:
        """A block to fill and seal; None: the bytes are to be kept on the heap. Any thread.

        A thread waits for room, if there is none; a loop makes it itself, which stops it as long as that takes.

        Raises:
            ObjectStoreFullError: memory and disk are full.
        """
        if self.spiller is not None:
            return self.spiller.allocate(nbytes)
        return self.arena.allocate(nbytes) if self.arena is not None else None

    def allocate_later(self, nbytes: int, then: Callable[[Block | Exception | None], object]) -> None:
        """The same for code on the loop that can wait: `then(block)`, `then(None)` or `then(error)`, on the loop."""
        spiller = self.spiller
        found = None if self.arena is None or (spiller is not None and spiller.waiting) else self.arena.allocate(nbytes)
        if found is not None or spiller is None:
            then(found)
            if spiller is not None:
                spiller.look()
        else:
            node = self.node
            spiller.allocate_later(nbytes, lambda found: node.post(then, found))

    def has_room(self, nbytes: int) -> bool:
        """Whether so much could be allocated without waiting for a disk."""
        return self.spiller is None or self.spiller.has_room(nbytes)

    def make_room(self, nbytes: int, then: Callable[[Exception | None], object]) -> None:
        """Call `then(None)` when so much can be allocated, or `then(error)`; on the loop."""

        def found(block: Block | Exception | None) -> None:
            then(block if isinstance(block, Exception) else None)

        self.allocate_later(nbytes, found)

    def find(self, number: int) -> Block | None:
        """The block of this number, if it lives."""
        return self.arena.find(number) if self.arena is not None else None

    def mapping(self) -> tuple[SharedMemory, bytes] | None:
        """What the workers of this node map: the memory, and the token that names it."""
        arena = self.arena
        return None if arena is None or arena.memory.fd < 0 else (arena.memory, self.token)

    # -- residence -----------------------------------------------------------------------------------------------------

    def resident(self, packed: Any) -> bool:
        """Whether a wire value can be read without waiting for a disk."""
        if self.spiller is None or type(packed) is not Packed:
            return True
        return all(type(part) is not Block or part.state == SEALED for part in packed.buffers)

    def make_resident(self, packed: Any, then: Callable[[], object]) -> None:
        """Call `then()` when a wire value is resident, or is known to be `lost`; on the loop. It is, until that
        returns."""
        parts = packed.buffers if type(packed) is Packed else ()
        away = [part for part in parts if type(part) is Block and part.state != SEALED]
        if away and self.spiller is not None:
            self.spiller.resident_later(away, lambda _: then())
        else:
            then()

    def lost(self, packed: Any) -> str:
        """Why a wire value can't be read any more; empty if it can."""
        if self.spiller is None or type(packed) is not Packed:
            return ""
        return next((part.why for part in packed.buffers if type(part) is Block and part.state == LOST), "")

    def stats(self) -> dict[str, int]:
        """Figures for those who look."""
        arena = self.arena
        if arena is None:
            return {"limit": 0, "used": 0, "warm": 0, "blocks": 0, "lent": 0}
        return {
            **(self.spiller.stats() if self.spiller is not None else {}),
            "limit": self.limit,
            "used": arena.used,
            "warm": arena.warm,
            "blocks": len(arena.blocks),
            "lent": len(self.lends.lent),
        }

    def close(self) -> None:
        """The node closes, its workers are gone. What is viewed here or lent to another node stays readable."""
        if self._sweeper is not None:
            self._sweeper.join()
        if self.spiller is not None:
            self.spiller.close()
        if self.arena is not None:
            self.arena.close()
