"""`Stream`: the consumer's end of a generator task or generator method.

Items come numbered and are handed out in order, each once, whatever happens on the way: a task that runs again after
its worker died may send items that were consumed already, and those are dropped by their number. The producer may be
`WINDOW` items and `BYTES` bytes ahead of the consumer (`core.credit`); what it is owed as credit goes back in halves of
that. A large item stays where it was made until it is wanted, and is a ref here. The producing end is in
`runtime.execution`, the cells and in the worker.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar, cast

from actorfw.core.credit import BYTES, ITEMS
from actorfw.runtime.refs import FAILED, READY, ObjectRef, Reply
from actorfw.values.errors import TaskCancelledError
from actorfw.wire.failures import unpack_error
from actorfw.wire.payload import size_of

if TYPE_CHECKING:
    from actorfw.runtime.home import Home

__all__ = ["WINDOW", "Stream"]

T = TypeVar("T")

WINDOW: Final = ITEMS
"""Items that a producer may be ahead."""

_LARGE: Final = BYTES // ITEMS // 4  # smaller items may be any number within the window: their bytes need no counting
_SCALARS: Final = frozenset((type(None), bool, int, float))


class Stream(Generic[T]):
    """Iterates over what a generator yields elsewhere: `async for`, or `for` where blocking is allowed.

    A stream is consumed once and by one consumer at a time; it can't be sent. Dropping it, or leaving it by `aclose`,
    closes the generator. An exception of the generator is raised after the items that came before it.
    """

    __slots__ = (
        *("__weakref__", "_bytes_due", "_credit_due", "_end", "_home"),
        *("_items", "_made", "_next", "_number", "_sizes", "_waiting"),
    )

    def __init__(self, home: Home, number: int) -> None:
        self._home = home
        self._number = number
        self._items: dict[int, Any] = {}  # as they travel, or refs
        self._sizes: dict[int, int] = {}  # of the large ones among them
        self._next = 0
        self._credit_due = 0
        self._bytes_due = 0
        self._made: Any = None
        self._waiting: Reply[Any] | None = None
        # None, or how it ends: (number of items, error on the wire or None); negative: at once, whatever was to come.
        self._end: tuple[int, Any] | None = None

    # -- the consumer --------------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        found, out = await self._take()
        if not found:
            raise StopAsyncIteration
        item: T = await out if isinstance(out, ObjectRef) else self._home.codec.unpack(out)
        return item

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        reply = self._take()
        self._home.block([reply], None)
        found, out = reply.result()
        if not found:
            raise StopIteration
        if isinstance(out, ObjectRef):
            self._home.block([out], None)
            return cast("T", out.result())
        item: T = self._home.codec.unpack(out)
        return item

    def refs(self) -> RefStream[T]:
        """The same items as `ObjectRef`s, for passing on without looking at them."""
        return RefStream(self)

    async def aclose(self) -> None:
        """Stop: the generator is closed where it runs; items that are on their way are dropped."""
        self.close()

    def close(self) -> None:
        """The same, without waiting for anything."""
        if self._end is None or self._end[0] > self._next:
            self._home.post(self._abandon)

    def __del__(self) -> None:
        if self._end is None:
            self._home.stream_dropped(self._number)

    def _take(self) -> Reply[Any]:
        reply: Reply[Any] = Reply(self._home)
        if self._home.at_home():
            self._wait(reply)
        else:
            self._home.post(self._wait, reply)
        return reply

    # -- at home only --------------------------------------------------------------------------------------------------

    def _wait(self, reply: Reply[Any]) -> None:
        if self._waiting is not None and not self._waiting.done():
            reply._fail(RuntimeError("this stream has a consumer already: a stream is for one at a time"))
            return
        self._waiting = reply
        self._hand_out()

    def _hand_out(self) -> None:
        reply = self._waiting
        if reply is None:
            return
        if reply.done():  # its wait was cancelled: the item stays for the next
            self._waiting = None
            return
        if self._next in self._items:
            out = self._items.pop(self._next)
            if self._sizes:
                self._bytes_due += self._sizes.pop(self._next, 0)
            self._next += 1
            self._waiting = None
            reply._settle((True, out))
            self._credit_due += 1
            if (self._credit_due >= WINDOW // 2 or self._bytes_due >= BYTES // 2) and self._end is None:
                due, self._credit_due = self._credit_due, 0
                self._bytes_due = 0
                self._home.stream_credit(self._number, due)
        elif self._end is not None and self._next >= self._end[0]:
            self._waiting = None
            error = self._end[1]
            self._end = (-1, None)
            if error is None:
                reply._settle((False, None))
            elif isinstance(error, BaseException):
                reply._fail(error)
            else:
                reply._fail(unpack_error(self._home.codec, error))

    def _expects(self, index: int) -> bool:
        """Whether this item is one that has not come."""
        return index >= self._next and index not in self._items and self._end is None

    def _item(self, index: int, out: Any, size: int = 0) -> None:
        """An item: the value on the wire, or a ref to one of that size which stays where it is."""
        if self._expects(index):
            self._items[index] = out
            if type(out) not in _SCALARS:
                size = size or size_of(out)
                if size > _LARGE:
                    self._sizes[index] = size
            self._hand_out()

    def _finish(self, state: int, out: Any) -> None:
        """The final answer: READY with the count of items, or FAILED with the error, after the items that are here."""
        if self._end is None:
            if state == READY:
                self._end = (out, None)
            else:
                assert state == FAILED
                last = self._next
                while last in self._items:
                    last += 1
                self._end = (last, out)
            self._hand_out()

    def _abandon(self) -> None:
        if self._end is None:
            self._home.stream_dropped(self._number)
        self._items.clear()
        self._sizes.clear()
        self._end = (-1, None)
        self._hand_out()

    def _cancelled(self) -> None:
        if self._end is None:
            self._items.clear()
            self._sizes.clear()
            self._end = (-1, TaskCancelledError("the stream was cancelled"))
            self._hand_out()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Stream can't be sent: consume it here, or send what `.refs()` yields")

    def __repr__(self) -> str:
        ended = ", ended" if self._end else ""
        return f"<Stream {self._number:x}: {self._next} taken, {len(self._items)} waiting{ended}>"


class RefStream(Generic[T]):
    """What `Stream.refs()` gives: the items as refs."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream[T]) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[ObjectRef[T]]:
        return self

    async def __anext__(self) -> ObjectRef[T]:
        found, out = await self._stream._take()
        if not found:
            raise StopAsyncIteration
        return out if isinstance(out, ObjectRef) else self._stream._home.ref_of(out)

    def __iter__(self) -> Iterator[ObjectRef[T]]:
        return self

    def __next__(self) -> ObjectRef[T]:
        home = self._stream._home
        reply = self._stream._take()
        home.block([reply], None)
        found, out = reply.result()
        if not found:
            raise StopIteration
        return out if isinstance(out, ObjectRef) else home.ref_of(out)

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()
