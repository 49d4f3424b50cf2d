"""`Spiller`: makes room in a node's arena by writing blocks to files, brings them back, and lets writers wait.

`core.spilling` says which blocks go and whose turn it is; `io.spillfiles` has the files; this part moves the bytes, in
threads of its own, and answers those who wait.

A block goes to disk without any lock that its readers would have to take. Whoever wants to read it first makes that
visible (a view, a lend, a pin) and looks at its state then; the spiller first changes the state and looks for readers
then. So at least one of the two sees the other: a reader that finds the block gone has it restored, a spiller that
finds a reader leaves it where it is.

Room is made in this order: what is free; what can be written to disk; after a moment, since what is in use may soon be
free, a file that is mapped in the place of memory. `ObjectStoreFullError` comes when none of these helps within
`Config.room_timeout`; on a loop, which is not to stand still for others, at once.
"""

from __future__ import annotations

import errno
import itertools
import logging
import threading
from asyncio import events
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.spilling import AWAY, Spilling
from actorfw.io.spillfiles import SpillFile, SpillFileError, SpillFiles
from actorfw.runtime.store.blocks import LOST, SEALED, SPILLED, Block
from actorfw.runtime.store.filearena import FileArena
from actorfw.runtime.store.largest import largest
from actorfw.values.errors import NodeClosedError, ObjectLostError, ObjectStoreFullError

if TYPE_CHECKING:
    from actorfw.io.env import TimerHandle
    from actorfw.runtime.node import Node
    from actorfw.runtime.store.arena import Arena

__all__ = ["Spiller"]

logger = logging.getLogger("actorfw.store")

_THREADS: Final = 3  # that move bytes: a disk is not quicker with more
_TICK: Final = 0.25  # seconds between two looks while somebody waits
_PATIENCE: Final = 0.5  # seconds that what is in use may become free, until a file takes the place of memory
_SMALLEST: Final = 4096  # bytes that the smallest extent has


class _Waiter:
    __slots__ = ("nbytes", "since", "stuck_since", "then", "trying")

    def __init__(self, nbytes: int, then: Callable[[Block | Exception], object], now: float) -> None:
        self.nbytes = nbytes
        self.then = then
        self.since = now
        self.stuck_since: float | None = None  # nothing can be written, and nothing is on its way
        self.trying = False  # to get a file


class Spiller:
    """The spilled blocks of one arena, and those who wait for room in it.

    Args:
        node: whose arena it is.
        arena: it.
        files: where blocks go.
    """

    def __init__(self, node: Node, arena: Arena, files: SpillFiles) -> None:
        self.node = node
        self.arena = arena
        self.files = files
        self.policy = Spilling(arena.size)
        self.written = 0  # bytes, over all
        self.restored = 0
        self._lock = threading.Lock()
        self._high = int(arena.size * 0.8)
        self._on_disk: dict[int, SpillFile] = {}
        self._outside: dict[int, int] = {}  # bytes of blocks that lie in files of their own
        self._unneeded: list[SpillFile] = []
        self._chosen: deque[int] = deque()  # to be written
        self._restoring: dict[int, threading.Event] = {}
        self._waiters: dict[int, _Waiter] = {}
        self._keys = itertools.count()
        self._moved = threading.Condition(self._lock)  # something was written, or could not be
        self._timer: TimerHandle | None = None
        self._hands: ThreadPoolExecutor | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._inline = node.env.pace is not None
        self._disk_error: OSError | None = None
        self._closed = False

    # -- what blocks tell ----------------------------------------------------------------------------------------------

    def sealed(self, block: Block) -> None:
        """A block is complete."""
        if block.arena is self.arena:
            with self._lock:
                self.policy.entered(block.number, max(_SMALLEST, block.nbytes))

    def used(self, number: int) -> None:
        """Somebody looks at a block, or is given it."""
        with self._lock:
            self.policy.used(number)

    def left(self, number: int) -> None:
        """A block is gone. Under the arena's lock: nothing of the arena is touched here."""
        with self._lock:
            self.policy.left(number)
            self._outside.pop(number, None)
            file = self._on_disk.pop(number, None)
            if file is not None:
                self._unneeded.append(file)
            if not self._waiters and file is None:
                return
        self.node.wake(self._tidy)

    def _tidy(self) -> None:
        if self._unneeded and not self._closed:
            self._do(self._remove_unneeded)
        if self._waiters:
            self._advance()

    def _remove_unneeded(self) -> None:
        while True:
            with self._lock:
                if not self._unneeded or self._closed:
                    return
                file = self._unneeded.pop()
            self.files.remove(file)

    # -- room ----------------------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> Block:
        """A block to fill. In a thread it waits for room; on a loop it makes room itself, as far as that can be done.

        Raises:
            ObjectStoreFullError: memory and disk are full.
            NodeClosedError: the node was closed meanwhile.
        """
        if not self._waiters:
            block = self.arena.allocate(nbytes)
            if block is not None:
                self.look()
                return block
        if self._inline or self.node.at_home() or events._get_running_loop() is not None:
            return self._allocate_now(nbytes)
        done = threading.Event()
        answer: list[Block | Exception] = []

        def then(found: Block | Exception) -> None:
            answer.append(found)
            done.set()

        with self.node.lending():
            self.allocate_later(nbytes, then)
            done.wait()
        found = answer[0]
        if isinstance(found, Exception):
            raise found
        return found

    def allocate_later(self, nbytes: int, then: Callable[[Block | Exception], object]) -> None:
        """Call `then(block)` when there is room, or `then(error)`: in any thread, perhaps before this returns."""
        with self._lock:
            closed = self._closed
            if not closed:
                key = next(self._keys)
                self._waiters[key] = _Waiter(nbytes, then, self.node.env.time())
                self.policy.wait(key, nbytes)
        if closed:
            then(NodeClosedError(f"node {self.node.name} is closed"))
            return
        self._advance()
        self.node.post(self._tick)

    def _allocate_now(self, nbytes: int) -> Block:
        missing = max(1, nbytes - (self.arena.size - self.arena.taken))
        while True:
            block = self.arena.allocate(nbytes)
            if block is not None:
                return block
            if nbytes > self.arena.size or not self._make_room(missing):
                return self._in_file(nbytes)
            missing = nbytes  # what became free lies in pieces

    def _make_room(self, missing: int) -> bool:
        """Write what is to go, in this thread; False if nothing can go."""
        with self._lock:
            numbers = self._choose(missing)
            if not numbers and self._chosen:
                numbers = [self._chosen.popleft()]  # of which no other thread has got hold yet
            if not numbers:
                if not self.policy.going or self._closed:
                    return False
                self._moved.wait(1.0)  # another thread is at it
                return True
        for number in numbers:
            self._write(number)
        return True

    def _write_soon(self, numbers: list[int]) -> None:
        self._chosen.extend(numbers)
        for _ in numbers:
            self._do(self._write_next)

    def _write_next(self) -> None:
        try:
            number = self._chosen.popleft()
        except IndexError:
            return  # somebody could not wait
        self._write(number)

    def _choose(self, missing: int = 0) -> list[int]:
        return self.policy.choose(self.arena.taken, self.node.env.time(), self._idle, missing=missing)

    def _idle(self, number: int) -> bool:
        block = self.arena.find(number)
        return block is not None and block.state == SEALED and block.offset >= 0 and not block.in_use

    def has_room(self, nbytes: int) -> bool:
        """Whether so much is free in one piece, and nobody waits for it."""
        return not self._waiters and self.arena.allocate(nbytes) is not None

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for room: whoever comes now is behind."""
        return bool(self._waiters)

    def look(self) -> None:
        """More memory is taken: above the high-water mark write what was not used for long, beside whatever goes on."""
        if self.arena.taken > self._high:
            with self._lock:
                numbers = self._choose()
            self._write_soon(numbers)

    def _advance(self) -> None:
        """Give room to those who wait, in their order, as far as there is any, and have more made."""
        while True:
            with self._lock:
                first = self.policy.first
                if first is None:
                    return
            key, nbytes = first
            block = self.arena.allocate(nbytes) if nbytes <= self.arena.size else None
            if block is None:
                self._write_soon(self._choose_for(key, nbytes))
                return
            waiter = self._answered(key)
            if waiter is not None:
                waiter.then(block)

    def _choose_for(self, key: int, nbytes: int) -> list[int]:
        with self._lock:
            numbers = self._choose()
            if not numbers and not self.policy.going:
                numbers = self._choose(nbytes)  # what is free lies in pieces
            waiter = self._waiters.get(key)
            if waiter is not None:
                if numbers or self.policy.going:
                    waiter.stuck_since = None
                elif waiter.stuck_since is None:
                    waiter.stuck_since = self.node.env.time()
            return numbers

    def _answered(self, key: int) -> _Waiter | None:
        """Whoever waits under this key is about to hear; None if it has."""
        with self._lock:
            self.policy.waits_no_more(key)
            return self._waiters.pop(key, None)

    def _tick(self) -> None:
        """On the loop, while somebody waits."""
        if self._timer is None and not self._closed and self._waiters:
            self._timer = self.node.env.call_later(_TICK, self._look)

    def _look(self) -> None:
        self._timer = None
        self._advance()
        with self._lock:
            keys = [
                key for key, waiter in self._waiters.items() if not waiter.trying and self._is_out_of_patience(waiter)
            ]
            for key in keys:
                self._waiters[key].trying = True
        for key in keys:
            self._do(self._try_file, key)
        self._tick()

    def _is_late(self, waiter: _Waiter) -> bool:
        return self.node.env.time() - waiter.since >= self.node.config.room_timeout

    def _is_out_of_patience(self, waiter: _Waiter) -> bool:
        stuck = waiter.stuck_since
        if stuck is None:
            return self._is_late(waiter)
        return waiter.nbytes > self.arena.size or self.node.env.time() - stuck >= _PATIENCE or self._is_late(waiter)

    def _try_file(self, key: int) -> None:
        """What memory has no room for gets a file; if there is no room for that either, it waits on, or fails."""
        with self._lock:
            waiter = self._waiters.get(key)
        if waiter is None:
            return
        try:
            found: Block | Exception = self._in_file(waiter.nbytes)
        except ObjectStoreFullError as error:
            if waiter.nbytes <= self.arena.size and not self._is_late(waiter):
                waiter.trying = False
                return
            found = error.with_traceback(None)
        except Exception as error:  # whoever waits must hear of it
            found = error.with_traceback(None)
        if self._answered(key) is not None:
            waiter.then(found)
        self._advance()

    def _in_file(self, nbytes: int) -> Block:
        """A block in a file of its own."""
        number = self.arena.next_number()
        try:
            file, fd = self.files.make(number, nbytes)
        except OSError as error:
            if error.errno == errno.ENOTSUP:  # then it is the disk that was full, if anything was tried there
                error = self._disk_error or error
            raise self._full_error(nbytes, error) from None
        block = self.arena.adopt(FileArena.of_file(self.arena, fd), number, nbytes)
        with self._lock:
            self._on_disk[number] = file
            self._outside[number] = nbytes
        return block

    def _full_error(self, nbytes: int, disk: OSError) -> ObjectStoreFullError:
        with self._lock:
            away = self.policy.away
        return ObjectStoreFullError(
            f"the object store of node {self.node.name} has no room for {nbytes:,} bytes: {self.arena.taken:,} of its "
            f"{self.arena.size:,} bytes of memory are in use, {away:,} bytes are on disk, and nothing more can go "
            f"there ({self.files.where}: {disk.strerror or disk}). {largest(self.node, self.policy)}"
            "Let go of refs and of views of values, or raise object_store_memory"
        )

    # -- writing -------------------------------------------------------------------------------------------------------

    def _write(self, number: int) -> None:
        """Write one block, which was chosen, and free its memory, unless somebody reads it by then. In any thread."""
        try:
            self._write_chosen(number)
        finally:
            with self._lock:
                self._moved.notify_all()
            if self._waiters:
                self._advance()

    def _write_chosen(self, number: int) -> None:
        block = self.arena.find(number)
        if block is None or self._closed:
            with self._lock:
                self.policy.unwritten(number, self.node.env.time())
                if block is None:
                    self.policy.left(number)
            return
        file = self._on_disk.get(number)
        if file is not None and not self.files.is_there(file):  # somebody removed it, and only memory has the value now
            file, known = None, self._on_disk.pop(number, None)
            if known is not None:
                self.files.remove(known)
        if file is None:
            view = self.arena.memory.view(block.offset, block.nbytes, block)
            try:
                file = self.files.write(number, view)
            except OSError as error:
                self._unwritten(number, error)
                return
            except Exception as error:  # a file system behind a URL may raise anything
                self._unwritten(number, OSError(0, f"{type(error).__name__}: {error}"))
                return
            finally:
                del view
            self.written += block.nbytes
        offset = -1
        with self._lock:
            self._disk_error = None
            self._on_disk[number] = file
            block.state = SPILLED
            unused = not block.in_use
            if self.policy.written(number, unused=unused):
                offset, block.offset = block.offset, -1
            else:
                block.state = SEALED
        if offset >= 0:
            self.arena.give_back(offset)

    def _unwritten(self, number: int, error: OSError) -> None:
        with self._lock:
            self.policy.unwritten(number, self.node.env.time())
            first = self._disk_error is None
            self._disk_error = error.with_traceback(None)  # which has a view of the block
            # Files of what is in memory again are of no use now that there is no room for others.
            spare = [one for one in self._on_disk if self.policy.place(one) == "here"]
            self._unneeded += [self._on_disk.pop(one) for one in spare if self._on_disk[one].crc >= 0]
        self._remove_unneeded()
        if first:
            logger.warning(
                "objects can't be written to %s (%s): they stay in memory, and it is tried again",
                self.files.where,
                error.strerror or error,
            )

    # -- coming back ---------------------------------------------------------------------------------------------------

    def restore(self, block: Block) -> None:
        """Have a block in memory. Blocks while it is read. Any thread; the caller shows first that it uses the block.

        Raises:
            ObjectLostError: its file is gone or damaged, or the node is closed.
        """
        while True:
            with self._lock:
                if block.state == SEALED:
                    return
                if block.state == LOST:
                    raise ObjectLostError(block.why or "it is lost")
                if block.state != SPILLED:
                    raise ValueError(f"{block!r} can't be read")
                if self._closed:
                    raise ObjectLostError("it was on disk when its node was closed")
                going_on = self._restoring.get(block.number)
                mine = threading.Event()
                file = self._on_disk[block.number]
                if going_on is None:
                    self._restoring[block.number] = mine
                    self.policy.comes(block.number)
            if going_on is not None:
                going_on.wait()
                continue
            try:
                self._bring_back(block, file)
            finally:
                with self._lock:
                    if self.policy.place(block.number) == "coming":
                        self.policy.stays(block.number)
                    del self._restoring[block.number]
                mine.set()

    def _bring_back(self, block: Block, file: SpillFile) -> None:
        offset = self._extent(block.nbytes)
        lost = ""
        arena: FileArena | None = None
        try:
            if offset >= 0:
                self.files.read(file, self.arena.memory.room(offset, block.nbytes))
            else:
                arena = self._beside(block.nbytes, file)
        except SpillFileError as error:
            if offset >= 0:
                self.arena.give_back(offset)
            with self._lock:
                self.policy.left(block.number)
                self._on_disk.pop(block.number, None)
                block.state = LOST
                block.why = str(error)
            self.files.remove(file)
            lost = str(error)
        except BaseException:
            if offset >= 0:
                self.arena.give_back(offset)
            raise
        if lost:
            raise ObjectLostError(lost)
        with self._lock:
            if arena is None:
                block.offset = offset
                self.policy.came(block.number)
            else:
                block.moved(arena)
                self.policy.left(block.number)
                self._outside[block.number] = block.nbytes
            block.state = SEALED
        self.restored += block.nbytes
        self.look()

    def _extent(self, nbytes: int) -> int:
        """Space in the arena, -1 if all of it is in use. Writes others to disk for it, in this thread."""
        missing = max(1, nbytes - (self.arena.size - self.arena.taken))
        while (offset := self.arena.take_extent(nbytes)) < 0:
            if not self._make_room(missing):
                return -1
            missing = nbytes
        return offset

    def _beside(self, nbytes: int, file: SpillFile) -> FileArena:
        """The file itself as memory; or, where it can't be mapped, memory beyond the limit."""
        try:
            fd = self.files.open(file)
        except SpillFileError:
            arena = FileArena.on_heap(self.arena, nbytes)
            self.files.read(file, arena.memory.room(arena.offset, nbytes))
            return arena
        arena = FileArena.of_file(self.arena, fd)
        try:
            self.files.verify(file, arena.memory.view(arena.offset, nbytes))
        except BaseException:
            arena.memory.close()
            raise
        return arena

    def resident_later(self, blocks: list[Block], then: Callable[[Exception | None], object]) -> None:
        """Call `then` on the node's loop when these are in memory, or with the first error."""

        def bring() -> None:
            error: Exception | None = None
            try:
                for block in blocks:
                    if block.state != SEALED:
                        self.restore(block)
            except Exception as caught:  # whoever waits must hear of it
                error = caught.with_traceback(None)  # which has this frame, and so would keep the blocks
            self.node.post(finish, error)

        def finish(error: Exception | None) -> None:
            try:
                then(error)
            finally:
                with self._lock:
                    for block in blocks:
                        block.pins -= 1

        with self._lock:
            for block in blocks:
                block.pins += 1
        if self._closed:
            bring()  # which fails at once
        else:
            self._do(bring, _reads=True)

    # -- threads -------------------------------------------------------------------------------------------------------

    def _do(self, fn: Callable[..., object], *args: Any, _reads: bool = False) -> None:
        if self._inline:
            self.node.post(fn, *args)
            return
        with self._lock:
            if self._closed:
                return
            # Who brings something back may wait for what is to be written: that must never queue behind it.
            hands = self._readers if _reads else self._hands
            if hands is None:
                hands = ThreadPoolExecutor(_THREADS, thread_name_prefix="actorfw spill")
                if _reads:
                    self._readers = hands
                else:
                    self._hands = hands
            hands.submit(_logged, fn, *args)

    def stats(self) -> dict[str, int]:
        """Figures for those who look."""
        with self._lock:
            return {
                "spilled": self.policy.away,
                "outside": sum(self._outside.values()),
                "written": self.written,
                "restored": self.restored,
                "waiting": len(self._waiters),
            }

    def is_spilled(self, number: int) -> bool:
        """Whether a block is on disk only."""
        return self.policy.place(number) == AWAY

    def close(self) -> None:
        """The node closes: nobody waits any more, and the files go. What is viewed stays readable."""
        with self._lock:
            self._closed = True
            waiters = list(self._waiters.values())
            self._waiters.clear()
            pools = [pool for pool in (self._hands, self._readers) if pool is not None]
            self._hands = self._readers = None
            self._moved.notify_all()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for waiter in waiters:
            waiter.then(NodeClosedError(f"node {self.node.name} was closed while somebody waited for room"))
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)
        self.files.close()


def _logged(fn: Callable[..., object], *args: Any) -> None:
    try:
        fn(*args)
    except Exception:  # nobody looks at this future
        logger.exception("a thread that moves objects to or from disk failed")
