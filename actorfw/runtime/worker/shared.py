"""The shared memory of a node as a worker process sees it: what it reads there, and what it writes there itself.

A worker never decides where something lies. It asks its node for room, writes, and names the block in the message
that has the value. What it was told of and lets go, it reports with what it sends next (`runtime.store.lodging`); if it
dies, the node needs no report.
"""

from __future__ import annotations

import itertools
import os
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.store.hostmates import attached
from actorfw.runtime.store.lodging import Lent, Lodger
from actorfw.wire.failures import unpack_error
from actorfw.wire.messages import ALLOC, LET_GO

if TYPE_CHECKING:
    from actorfw.io.sharedmem import SharedMemory
    from actorfw.runtime.worker.child import Worker
    from actorfw.wire.payload import Place, SharedBuffer

__all__ = ["Shared"]

_WORTH_ASKING: Final = 1 << 18
"""Bytes under which going to the node and back takes longer than sending them through the socket."""
_KEPT: Final = 2.0  # seconds that memory of others stays mapped when nothing of it is read


class Shared:
    """What the codec and the line of one worker process need to know of shared memory."""

    def __init__(self, worker: Worker, memory: SharedMemory | None, settings: dict[str, Any]) -> None:
        self._worker = worker
        self._writes = memory is not None
        self._requests = itertools.count(1)
        self._asked: dict[int, list[Any]] = {}  # without an answer: where the answer goes
        self._desk: list[Any] | None = settings.get("desk")
        # Of other nodes: what keeps the connection open that says that somebody reads, and when that was last so.
        self._foreign: dict[bytes, list[Any]] = {}
        self.lodger = Lodger(self._let_go, self._attach)
        if memory is not None:
            self.lodger.memories[settings["arena"]] = memory

    # -- what the line asks --------------------------------------------------------------------------------------------

    def lend(self, buffer: SharedBuffer) -> Place:
        """The node holds all that this worker can name."""
        return buffer.place

    def take_back(self, buffer: SharedBuffer) -> None:
        """Nothing was counted."""

    def receive(self, place: Place) -> Lent:
        """The node tells of a buffer, once more."""
        return self.lodger.receive(place)

    # -- letting go ----------------------------------------------------------------------------------------------------

    def _let_go(self) -> None:
        # In a finalizer, of any thread: nothing may be sent now. If nobody else is going to send soon, the overseer is.
        overseer = self._worker.overseer
        if overseer.parked:
            overseer.rouse()

    def tell_let_go(self) -> None:
        """Put what was let go since the last time into the outbox: behind all that has named it."""
        if self._foreign:
            self.tidy(_KEPT)
        if self.lodger.pending:
            rows = [[token, number, count] for (token, number), count in self.lodger.reports()]
            self._worker.line.outbox.append((LET_GO, rows))

    # -- what is not of this node's own memory -------------------------------------------------------------------------

    def _attach(self, token: bytes) -> SharedMemory:
        memory, fd = attached(self._desk, token)
        self._foreign[token] = [fd, monotonic()]
        return memory

    def tidy(self, kept: float = 0.0) -> None:
        """Unmap what nothing was read of for so many seconds: its node may be gone, and the memory with us only."""
        now = monotonic()
        for token in self.lodger.tokens():
            if token in self._foreign:
                self._foreign[token][1] = now
        for token, (fd, used) in list(self._foreign.items()):
            if now - used < kept or token in self.lodger.tokens():
                continue
            if self._foreign.pop(token, None) is not None:  # else another thread was at it, too
                self.lodger.detach(token)
                if fd >= 0:
                    os.close(fd)

    # -- writing -------------------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> Lent | None:
        """A buffer to fill, or None: the bytes are to go through the socket. Any thread; it waits for room.

        Raises:
            ObjectStoreFullError: there is none, and will be none.
        """
        return self.allocate_all([nbytes])[0]

    def allocate_all(self, sizes: list[int]) -> list[Lent | None]:
        """The same for several at once, for the price of one."""
        line = self._worker.line
        if sum(sizes) < _WORTH_ASKING or not self._writes or line.locked:
            return [None] * len(sizes)  # locked: a message is being dealt with, and no answer could come
        answer = self._ask(sizes)
        if not answer:
            return [None] * len(sizes)
        blocks, error = answer[0]
        if error is not None:
            raise unpack_error(self._worker.codec, error)
        return blocks or [None] * len(sizes)

    def _ask(self, sizes: list[int]) -> list[Any]:
        line = self._worker.line
        interrupts = self._worker.interrupts
        answer: list[Any] = []
        request = next(self._requests)
        on_main = interrupts.on_main()
        if not on_main:
            line.share()

        def done() -> bool:
            return bool(answer) or (on_main and interrupts.running in interrupts.cancelled)

        with interrupts.shield:
            self._asked[request] = answer
            self.tell_let_go()  # first: it may be what there is to be room
            line.outbox.append((ALLOC, request, sizes))
            line.flush()
            line.wait(done, None, reads=on_main)
            self._asked.pop(request, None)
        return answer

    def on_allocated(self, message: list[Any]) -> None:
        """(request, buffers, error): under the line's lock."""
        asked = self._asked.get(message[1])
        if asked is not None:  # else whoever asked was cancelled, and the buffers are let go now
            asked.append(message[2:])
