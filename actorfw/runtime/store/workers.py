"""Worker processes and their node's shared memory: what each of them has, and the room that it asks for.

A worker has what it was sent and what it asked room for, until it says that it has let go, or is dead. A block that it
writes is complete when the first message names it; one of which it dies before that goes with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from actorfw.runtime.store.blocks import WRITING, Block
from actorfw.runtime.store.lodging import LOST
from actorfw.values.errors import ObjectLostError
from actorfw.values.ids import as_bytes
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error

if TYPE_CHECKING:
    from collections.abc import Hashable

    from actorfw.runtime.channel import WorkerProcess
    from actorfw.runtime.node import Node
    from actorfw.runtime.store.lodging import Lendable
    from actorfw.runtime.store.store import Store
    from actorfw.wire.payload import Place, SharedBuffer

__all__ = ["WorkerBlocks", "WorkerLodging"]


class WorkerLodging:
    """The node's end of one worker's line, as `wire.chunks` asks it."""

    __slots__ = ("_key", "_lends")

    def __init__(self, store: Store, key: Hashable) -> None:
        self._key = key
        self._lends = store.lends

    def lend(self, buffer: SharedBuffer) -> Place | None:
        """The worker is about to be told of this buffer."""
        try:
            place = self._lends.lend(self._key, cast("Lendable", buffer))
        except ObjectLostError as error:  # just now: whoever reads it there is told
            return LOST + str(error).encode(), 0, 0, buffer.nbytes
        if place[0]:
            return place
        self.take_back(buffer)  # memory of this process alone
        return None

    def take_back(self, buffer: SharedBuffer) -> None:
        """It was not told after all."""
        lends = cast("Lendable", buffer).lends
        if not lends or self._key not in lends:
            return
        self._lends.returned(self._key, [(buffer.place[:2], 1)])

    def receive(self, place: Place) -> SharedBuffer:
        """The worker names a buffer: one that it has."""
        buffer = self._lends.find(self._key, place[:2])
        if type(buffer) is Block and buffer.state == WRITING:
            buffer.seal()
        return buffer


class WorkerBlocks:
    """The desk at which workers ask for room."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def on_alloc(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A worker has a value to write: (request, [bytes, ...]). It may have to wait until there is room."""
        _, request, sizes = msg
        _Room(self.node, process, request, sizes).more()

    def on_let_go(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A worker reads these no more: ([[token, number, how often it had been told], ...])."""
        rows = [((as_bytes(token), number), count) for token, number, count in msg[1]]
        self.node.store.lends.returned(("worker", process.index), rows)


class _Room:
    """What one worker asked for at a time, until it has all of it."""

    def __init__(self, node: Node, process: WorkerProcess, request: int, sizes: list[int]) -> None:
        self._node = node
        self._process = process
        self._request = request
        self._sizes = sizes
        self._blocks: list[Block] = []

    def more(self) -> None:
        self._node.store.allocate_later(self._sizes[len(self._blocks)], self._found)

    def _found(self, found: Block | Exception | None) -> None:
        process = self._process
        if not process.alive:
            return
        if isinstance(found, Exception):
            out = pack_error(self._node.codec, found, where=self._node.name, infrastructure=True)
            process.send((m.ALLOCATED, self._request, None, out))
        elif found is None:
            process.send((m.ALLOCATED, self._request, None, None))
        else:
            self._blocks.append(found)
            if len(self._blocks) < len(self._sizes):
                self.more()
            else:
                process.send((m.ALLOCATED, self._request, self._blocks, None))
