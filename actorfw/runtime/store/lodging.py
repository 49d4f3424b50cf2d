"""Lending shared buffers to other processes of the host, and what such a process knows of those that it was lent.

Each time that a message tells another process of a buffer, the lender counts it (`Lends`). The other process makes one
`Lent` of all these times, and when that and every view of it are dead, it reports how often it had been told, which the
lender subtracts. What crosses the report on its way makes a new `Lent` there and stays counted here. As long as a count
is above zero the lender keeps the buffer; whoever dies has returned everything.

Which messages those are, and how the memory gets mapped, is left to those who connect the two.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Final, TypeAlias

from actorfw.io.sharedmem import SharedMemory
from actorfw.runtime.store.filearena import FILE, attach_file
from actorfw.values.errors import ObjectLostError
from actorfw.wire.payload import Buffer, Place, SharedBuffer, WritableBuffer

__all__ = ["LOST", "BlockId", "Lendable", "Lends", "Lent", "Lodger"]

LOST: Final = b"lost:"
"""How the token begins of what can't be read any more; the reason follows."""

BlockId: TypeAlias = tuple[bytes, int]
"""The token of an arena, and the number of a block in it: no other block ever has the same."""


class Lendable(SharedBuffer):
    """A buffer that says to whom it is lent.

    Attributes:
        lends: how many times, by taker; None if it never was. Kept by `Lends`.
    """

    __slots__ = ("lends",)

    lends: dict[Hashable, int] | None


class Lends:
    """Who was lent what, by keys of the lender's choice: what is lent is kept. For the node's loop.

    Attributes:
        lent: all that somebody has.
    """

    def __init__(self) -> None:
        self.lent: dict[BlockId, Lendable] = {}
        self._of: dict[Hashable, set[BlockId]] = {}

    def lend(self, key: Hashable, buffer: Lendable) -> Place:
        """`key` is about to be told of this buffer, once more: it stays until `returned` as often, or `gone`.

        Returns:
            Where it is, and stays as long as it is lent.
        """
        lends = buffer.lends
        if lends is None:
            lends = buffer.lends = {}
        lends[key] = lends.get(key, 0) + 1  # before anything else: what is lent is not moved any more
        try:
            place = buffer.place
        except BaseException:
            lends[key] -= 1
            if not lends[key]:
                del lends[key]
            raise
        if lends[key] == 1:
            id = place[:2]
            self.lent[id] = buffer
            self._of.setdefault(key, set()).add(id)
        return place

    def find(self, key: Hashable, id: BlockId) -> Lendable:
        """What `key` has by this id.

        Raises:
            LookupError: it has no such buffer.
        """
        buffer = self.lent.get(id)
        if buffer is None or buffer.lends is None or key not in buffer.lends:
            raise LookupError(f"{key} names block {id[1]} of arena {id[0].hex()}, which it does not have")
        return buffer

    def returned(self, key: Hashable, rows: Iterable[tuple[BlockId, int]]) -> None:
        """`key` lets go of these, of which it was told so many times. What crosses with that stays counted."""
        for id, count in rows:
            buffer = self.lent.get(id)
            if buffer is None or buffer.lends is None or key not in buffer.lends:
                continue
            buffer.lends[key] -= count
            if buffer.lends[key] <= 0:
                of = self._of[key]
                of.discard(id)
                if not of:
                    del self._of[key]
                self._over(key, id, buffer)

    def gone(self, key: Hashable) -> None:
        """Whoever this was has died, or will not read any more: nothing is lent there now."""
        for id in self._of.pop(key, ()):
            self._over(key, id, self.lent[id])

    def _over(self, key: Hashable, id: BlockId, buffer: Lendable) -> None:
        assert buffer.lends is not None
        del buffer.lends[key]
        if not buffer.lends:
            del self.lent[id]

    def validate(self) -> None:
        """Check that the tables agree.

        Raises:
            AssertionError: they do not.
        """
        of: dict[Hashable, set[BlockId]] = {}
        for id, buffer in self.lent.items():
            assert buffer.lends, (id, "nobody has it")
            for key, count in buffer.lends.items():
                assert count > 0, (id, key, count)
                of.setdefault(key, set()).add(id)
        assert of == self._of, (of, self._of)


class Lent(Lendable, WritableBuffer):
    """A buffer in another process's arena. There is one for each block at a time; its views keep it."""

    __slots__ = ("_lodger", "number", "offset", "token")

    def __init__(self, lodger: Lodger, place: Place) -> None:
        self._lodger = lodger
        self.lends = None
        self.token, self.number, self.offset, self.nbytes = place

    @property
    def place(self) -> Place:
        return self.token, self.number, self.offset, self.nbytes

    def view(self) -> memoryview:
        return self._lodger.memory(self.token).view(self.offset, self.nbytes, self)

    def fill(self, data: Buffer, at: int = 0) -> None:
        view = memoryview(data)
        if at < 0 or view.nbytes > self.nbytes - at:
            raise ValueError(f"{view.nbytes} bytes at {at} don't fit into a block of {self.nbytes}")
        memory = self._lodger.memory(self.token)
        memory.copy_in(self.offset + at, view if view.format == "B" and view.ndim == 1 else view.cast("B"))

    def seal(self) -> None:
        """Its owner hears so by the first message that has it."""

    def __repr__(self) -> str:
        return f"Lent(block {self.number} of {self.token.hex()[:8]}, {self.nbytes} bytes)"


class _Watch(weakref.ref[Lent]):
    """A weak reference and not `__del__`: while that runs, another thread could still find the object and revive it."""

    __slots__ = ("count", "id")

    count: int
    id: BlockId


class Lodger:
    """What this process was lent. Any thread; messages are received by one at a time.

    Args:
        let_go: called at any moment and in any thread when there is something to report; it may do next to nothing.
        attach: gets the memory behind a token that is not in `memories`.

    Attributes:
        memories: what is mapped here, by the arena's token.
    """

    def __init__(self, let_go: Callable[[], object], attach: Callable[[bytes], SharedMemory] | None = None) -> None:
        self.memories: dict[bytes, SharedMemory] = {}
        self._let_go = let_go
        self._attach = attach
        self._attaching = threading.Lock()
        self._lents: dict[BlockId, _Watch] = {}
        # All of them until they have been called: one that is not kept is not called.
        self._watches: dict[int, _Watch] = {}
        self._dead: deque[_Watch] = deque()

    def memory(self, token: bytes) -> SharedMemory:
        """The mapped memory behind a token.

        Raises:
            OSError: it can't be mapped.
            ObjectLostError: it was lost before this process was told of it.
        """
        memory = self.memories.get(token)
        if memory is None and token.startswith(LOST):
            raise ObjectLostError(token[len(LOST) :].decode())
        if memory is None and token.startswith(FILE):
            return attach_file(token)  # for one block: its views keep it
        if memory is None:
            if self._attach is None:
                raise OSError(f"shared memory {token.hex()} is not mapped here")
            with self._attaching:
                memory = self.memories.get(token)
                if memory is None:
                    memory = self.memories[token] = self._attach(token)
        return memory

    def receive(self, place: Place) -> Lent:
        """This process is told of a block, once more."""
        id = place[:2]
        watch = self._lents.get(id)
        lent = watch() if watch is not None else None
        if watch is None or lent is None:
            lent = Lent(self, place)
            watch = _Watch(lent, self._died)
            watch.id = id
            watch.count = 0
            self._watches[hash_of(watch)] = watch
            self._lents[id] = watch
        watch.count += 1
        return lent

    def _died(self, watch: weakref.ref[Lent]) -> None:
        assert isinstance(watch, _Watch)
        self._watches.pop(hash_of(watch), None)
        self._dead.append(watch)
        self._let_go()

    def reports(self) -> Iterable[tuple[BlockId, int]]:
        """What has been let go since the last time, with how often it had been received."""
        dead = self._dead
        while True:
            try:
                watch = dead.popleft()
            except IndexError:
                return  # another thread may have had the last
            if self._lents.get(watch.id) is watch:
                del self._lents[watch.id]
            yield watch.id, watch.count

    def tokens(self) -> set[bytes]:
        """Of what something is still held here."""
        return {watch.id[0] for watch in list(self._watches.values())}

    def detach(self, token: bytes) -> None:
        """Map that memory no more; it is attached again when it is needed."""
        memory = self.memories.pop(token, None)
        if memory is not None:
            memory.close()

    @property
    def pending(self) -> bool:
        """Whether there is something to report."""
        return bool(self._dead)

    def __len__(self) -> int:
        return len(self._watches)


hash_of = id
"""A key for a reference whose referent may be dead, which has no hash any more."""
