"""`Growth`: a thread that has an arena's memory ready before it is asked for, and gives back what nobody asks for.

Fresh pages cost many times the copy that fills them. So while a block is being written, a thread populates what the
next ones will take, about as much as is asked for, and helps with the far end of a large block itself. When nothing was
asked for in a while, free memory goes back to the system, and the thread ends. There is none before the first block,
and none where work may not run in threads.
"""

from __future__ import annotations

import threading
from typing import Final

from actorfw.core.extents import Extents
from actorfw.io.memory import MemoryMeter
from actorfw.io.sharedmem import SharedMemory

__all__ = ["Growth"]

LEAST_AHEAD: Final = 1 << 20
MOST_AHEAD: Final = 256 << 20
IDLE: Final = 10.0
"""Seconds without an allocation after which free memory is given back."""

_STEP: Final = 1 << 20  # populated at a time: about a millisecond, for which others may have to wait
_LOOK_EVERY: Final = 16  # steps, whether the machine is crowded
_BACK_STEP: Final = 64 << 20
_HELPED: Final = 8 << 20  # blocks from this size on are populated from both ends
_CROWDED: Final = 0.85  # of the machine's memory in use: nothing is populated ahead above that


class Growth:
    """Works on the extents of one arena, under its lock.

    Args:
        memory: behind the extents.
        extents: what is taken and what is warm.
        lock: held by whoever looks at the extents.
    """

    def __init__(self, memory: SharedMemory, extents: Extents, lock: threading.Lock) -> None:
        self._memory = memory
        self._extents = extents
        self._change = threading.Condition(lock)
        self._thread: threading.Thread | None = None
        self._closed = False
        self._waits = False
        self._asked = 0  # how often
        self._largest = 0  # block since it was idle last
        self._base = 0  # bytes that were in use then
        self._grown = 0  # by how much that has grown at most
        self._far: tuple[int, int] | None = None  # of a block that is being written: what to populate first
        self._can_populate = True
        self._steps = 0
        self._was_crowded = False
        self._meter: MemoryMeter | None = None

    # -- the callers' side, under the lock -----------------------------------------------------------------------------

    def taken(self, offset: int, size: int, cold: int) -> None:
        """An extent was just taken; `cold` bytes of it have no pages."""
        self._asked += 1
        if size > self._largest:
            self._largest = size
        grown = self._extents.used - self._base
        if grown > self._grown:
            self._grown = grown
        if cold >= _HELPED and self._far is None:
            self._far = (offset + size // 2, size - size // 2)
        elif self._extents.warm >= self._ahead():
            return
        if self._waits:
            self._change.notify()
        elif self._thread is None:
            self._start()

    def freed(self) -> None:
        """Some were given back: somebody has to look whether they stay unused."""
        if self._thread is None and self._extents.warm > LEAST_AHEAD:
            self._start()

    def _start(self) -> None:
        if self._closed:
            return
        thread = threading.Thread(target=self._run, name="actorfw-arena", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread can be had, as when the interpreter ends: it goes without
            return
        self._thread = thread

    def _ahead(self) -> int:
        """Bytes of free space that are to have pages."""
        return min(max(LEAST_AHEAD, self._largest, self._grown // 4), MOST_AHEAD, self._extents.size // 8)

    def close(self) -> None:
        """End the thread; not under the lock."""
        with self._change:
            self._closed = True
            self._change.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        if self._meter is None:
            self._meter = MemoryMeter()
        with self._change:
            try:
                while not self._closed and self._turn():
                    pass
            finally:
                self._thread = None

    def _turn(self) -> bool:
        """One thing at a time; returns False when there is nothing left to do until somebody asks for room again."""
        if self._far is not None:
            (start, size), self._far = self._far, None
            for at in range(start, start + size, _STEP):
                if self._closed or not self._populate(at, min(_STEP, start + size - at)):
                    break
            return True
        if self._extents.warm < self._ahead() and not self._crowded():
            start, size = self._extents.next_cold(_STEP)
            if size and self._populate(start, size):
                return True
        asked = self._asked
        self._waits = True
        self._change.wait(IDLE)
        self._waits = False
        if self._closed or self._asked != asked:
            return True
        self._largest = self._grown = 0
        self._base = self._extents.used
        self._give_back()
        return self._asked != asked

    def _populate(self, start: int, size: int) -> bool:
        """Give this range its pages, without the lock meanwhile; what is in use keeps its contents."""
        extents, lock = self._extents, self._change
        if self._can_populate:
            lock.release()
            try:
                self._can_populate = self._memory.populate(start, size)
            except OSError:  # there is no memory: whoever writes will hear of it
                return False
            finally:
                lock.acquire()
            if self._can_populate:
                extents.populated(start, size)
            return self._can_populate
        # This kernel can't: pages come by writing to them, and nobody else may use the range meanwhile.
        if not extents.is_free(start, size):
            return False
        extents.take_at(start, size)
        lock.release()
        try:
            self._memory.touch(start, size)
        finally:
            lock.acquire()
            extents.free(start)
        return True

    def _give_back(self) -> None:
        extents, lock = self._extents, self._change
        asked = self._asked
        while extents.warm > LEAST_AHEAD and not self._closed and self._asked == asked:
            found = extents.take_warm(_BACK_STEP)
            if found is None:
                return
            start, size = found
            lock.release()
            try:
                self._memory.discard(start, size)
            finally:
                lock.acquire()
                extents.free(start, warm=False)

    def _crowded(self) -> bool:
        self._steps += 1
        if self._steps % _LOOK_EVERY != 1:
            return self._was_crowded
        meter, lock = self._meter, self._change
        assert meter is not None
        lock.release()
        try:
            self._was_crowded = meter.read().share > _CROWDED
        finally:
            lock.acquire()
        return self._was_crowded
