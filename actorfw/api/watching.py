"""`watch` and `events`: hearing of an actor's end, and of what happens in the cluster, on a node or in a worker.

What is watched is not kept alive by it: while somebody waits only the actor's id is known here. Who tells what, and
when, is `runtime.watching`'s and `runtime.events`'.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, cast, overload

from actorfw.api.verbs import get
from actorfw.runtime import current
from actorfw.runtime.handles import ActorHandle
from actorfw.runtime.refs import READY, Reply
from actorfw.values.data import Data
from actorfw.values.errors import NodeClosedError
from actorfw.values.events import Event, EventsDropped

if TYPE_CHECKING:
    from actorfw.runtime.home import Home
    from actorfw.runtime.readings import Piece

__all__ = ["EventReading", "Reading", "Restarted", "Terminated", "WatchReading", "events", "watch"]

T = TypeVar("T")
A = TypeVar("A")


class Terminated(Data, Generic[A]):
    """An actor has ended for good, as far as the node that watched is concerned.

    Attributes:
        actor: a handle of it. Calls through it raise `ActorDiedError`, now and later.
        reason: "stopped", "killed", "exited", "released" (its last handle was gone), "name_conflict", "drained",
            "crashed", "node_died", "owner_died", "fenced" (this node was taken for dead and began a new life) or
            "unknown" (so long ago that nobody remembers).
        detail: more about it in words, or "".
    """

    actor: A
    reason: str
    detail: str = ""


class Restarted(Data, Generic[A]):
    """An actor runs again, after a crash or the end of its node.

    Attributes:
        actor: a handle of it.
        incarnation: the number of the one that runs now; the first is 1.
    """

    actor: A
    incarnation: int


class _Subject:
    """The actor that is watched, without keeping it alive."""

    __slots__ = ("_address", "_handle", "_home", "_interface", "_kind")

    def __init__(self, home: Home, handle: ActorHandle) -> None:
        self._home = home
        self._handle = weakref.ref(handle)
        self._kind = type(handle)
        self._address = handle._address
        self._interface = handle._interface

    def value(self, told: tuple[Any, ...]) -> Terminated[Any] | Restarted[Any]:
        """What the user gets for what the node tells."""
        what, life, number, *more = told
        handle = self._handle()
        if handle is None:
            handle = self._kind(self._home, life, number, self._address, self._interface, None)
        return Restarted(handle, *more) if what == "restarted" else Terminated(handle, *more)


class _Watching(Reply[Terminated[A]]):
    """What `watch(handle)` returns. A cancelled wait ends the watch."""

    __slots__ = ("_inner", "_subject")

    def __init__(self, home: Home, handle: ActorHandle) -> None:
        super().__init__(home)
        self._subject = _Subject(home, handle)
        self._inner = home.ask("watch", handle)
        if home.at_home():
            self._listen()
        else:
            home.post(self._listen)

    def _listen(self) -> None:
        self._inner._add((self._told, copy_context(), None))

    def _told(self, inner: Reply[Any]) -> None:
        if inner._state == READY:
            self._settle(cast("Terminated[A]", self._subject.value(tuple(inner._out))))
        elif inner.cancelled():
            self._cancel()
        else:
            self._fail(inner.exception())

    def _cancel(self, asker: asyncio.Task[Any] | None = None) -> None:
        super()._cancel(asker)
        self._inner._cancel()


class Reading(Generic[T]):
    """Iterates over what its node tells: `async for`, or `for` where blocking is allowed.

    It begins when it is made. Dropping it, leaving its loop or `aclose` ends it; a wait that is cancelled loses
    nothing.
    """

    _ends_with_its_node: ClassVar[bool] = False  # else it fails with `NodeClosedError`

    def __init__(self, home: Home, verb: str, *args: Any) -> None:
        self._home = home
        self._opened: Reply[int] = home.ask(verb, *args)
        self._pieces: deque[T] = deque()
        self._seen = 0
        self._ended = False

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            while not self._pieces and not self._ended:
                self._took(await self._ask(await asyncio.shield(self._opened)))
            if not self._pieces:
                raise StopAsyncIteration
            return self._pieces.popleft()
        except NodeClosedError:
            self._ended = True
            if not self._ends_with_its_node:
                raise
            raise StopAsyncIteration from None
        finally:
            del self  # the traceback of a cancelled wait must not keep the reading

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            while not self._pieces and not self._ended:
                self._took(get(self._ask(get(self._opened))))
            if not self._pieces:
                raise StopIteration
            return self._pieces.popleft()
        except NodeClosedError:
            self._ended = True
            if not self._ends_with_its_node:
                raise
            raise StopIteration from None
        finally:
            del self

    async def aclose(self) -> None:
        """End it: what has not been read is dropped."""
        self.close()

    def close(self) -> None:
        """The same, without waiting for anything."""
        self._pieces.clear()
        if not self._ended:
            self._ended = True
            self._opened.add_done_callback(self._drop)

    def __del__(self) -> None:
        if not self._ended and self._opened.done():
            self._drop(self._opened)

    def _drop(self, opened: Reply[int]) -> None:
        if opened._state == READY:
            self._home.stream_dropped(opened._out)

    def _ask(self, number: int) -> Reply[Piece]:
        return self._home.ask("read", number, self._seen)

    def _took(self, piece: Piece) -> None:
        first, told, ended = piece
        if first > self._seen:
            self._missed(first - self._seen)
        self._pieces.extend(self._value(one) for one in told[max(0, self._seen - first) :])
        self._seen = max(self._seen, first + len(told))
        if ended and not self._ended:
            self._ended = True
            self._drop(self._opened)

    def _missed(self, count: int) -> None:
        """So many were dropped, as this reader was too slow."""

    def _value(self, told: Any) -> T:
        value: T = told
        return value


class EventReading(Reading[Event]):
    """What `actorfw.events()` returns: events as they happen, until the node ends or the reading is dropped."""

    _ends_with_its_node = True

    def __init__(self, home: Home) -> None:
        super().__init__(home, "events")

    def _missed(self, count: int) -> None:
        self._pieces.append(EventsDropped(count))


class WatchReading(Reading["Restarted[A] | Terminated[A]"], Generic[A]):
    """What `actorfw.watch(handle, restarts=True)` returns: its restarts, and at last the one `Terminated`."""

    def __init__(self, home: Home, handle: ActorHandle) -> None:
        self._subject = _Subject(home, handle)
        super().__init__(home, "watch_restarts", handle)

    def _value(self, told: Any) -> Restarted[A] | Terminated[A]:
        return self._subject.value(tuple(told))


@overload
def watch(handle: A) -> Reply[Terminated[A]]: ...
@overload
def watch(handle: A, *, restarts: Literal[False]) -> Reply[Terminated[A]]: ...
@overload
def watch(handle: A, *, restarts: Literal[True]) -> WatchReading[A]: ...
def watch(handle: Any, *, restarts: bool = False) -> Any:
    """Hear of an actor's end: `ended = await actorfw.watch(handle)`, once, when it has ended for good.

    A watch does not keep the actor alive: if `handle` is its last, it ends with the reason "released" when that is
    gone. Nothing happens while a link is broken or a peer stalls. When it has ended, calls of this node that were
    still open to it have failed, and later ones fail, with `ActorDiedError` and the same reason.

    Args:
        handle: of the actor.
        restarts: iterate over its restarts too: `async for` (or `for` where blocking is allowed) over `Restarted`,
            and at last the one `Terminated`.

    Returns:
        A reply of `Terminated(actor, reason)`; cancelling its await ends the watch. With `restarts`, an iterator.

    Raises:
        NodeClosedError: this node was shut down before the actor ended.
    """
    if not isinstance(handle, ActorHandle):
        raise TypeError(f"watch takes the handle of an actor, not {type(handle).__name__}")
    home = current.home()
    return WatchReading[Any](home, handle) if restarts else _Watching[Any](home, handle)


def events() -> EventReading:
    """What happens from now on: `async for event in actorfw.events()`, or `for` where blocking is allowed.

    Events of members (`NodeUp`, `NodeDied`, ...) are this node's view; events of actors (`ActorRestarted`,
    `ActorEnded`, `NameConflict`, `TellFailed`) come from the whole cluster. A reader that falls more than 1,024
    events behind loses the oldest, and gets `EventsDropped(count)` in their place. It ends with the node; breaking
    out of the loop, or dropping what this returned, ends it too.
    """
    return EventReading(current.home())
