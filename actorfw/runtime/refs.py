"""`Reply` and `ObjectRef`: values to come, by asyncio's future protocol.

They subclass nothing. asyncio takes any object whose class has `_asyncio_future_blocking` for a future, and that is
what makes `await`, `gather`, `wait`, `wait_for`, `timeout` and `shield` take a ref without a helper task, in any loop.
A subclass of `asyncio.Future` would be tied to one loop, keep failed refs alive by their own tracebacks, and hand the
same exception to every waiter.

Rules that hold here:

* A callback list is touched in one place only: on the node's loop, or under the worker's lock (`Home.post`).
* The outcome of an `ObjectRef` stays packed: each await unpacks a copy of its own, of a value or of an error.
* Cancelling a wait cancels the call if it was submitted here and the ref was not handed on; else only that wait ends.

Where values come from, and who else holds a ref, is the business of `runtime.objects`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
from asyncio import events, exceptions
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from types import BuiltinFunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, NoReturn, Self, TypeAlias, TypeVar

from actorfw.runtime import waits
from actorfw.runtime.current import restore_ref
from actorfw.runtime.store.residence import away, brought_back
from actorfw.values.errors import TaskCancelledError
from actorfw.values.ids import RefId, text_id
from actorfw.wire.failures import unpack_error
from actorfw.wire.payload import Packed

if TYPE_CHECKING:
    from actorfw.runtime.home import Home

__all__ = ["CANCELLED", "FAILED", "PENDING", "READY", "Grip", "ObjectRef", "Reply"]

T_co = TypeVar("T_co", covariant=True)

PENDING: Final = 0
READY: Final = 1  # the same number as messages.VALUE
FAILED: Final = 2  # the same number as messages.ERROR
CANCELLED: Final = 3

Callback: TypeAlias = tuple[Callable[[Any], object], Context, asyncio.AbstractEventLoop | None]

_running = events._get_running_loop  # the public function raises where there is none; this is what asyncio uses itself


_SCALARS: Final = frozenset((type(None), bool, int, float, str))  # the same packed and unpacked


class Grip:
    """Holds one id in this process, once, for whoever names it: refs, handles, and packed values that contain it.

    Ids that never left the place where they were made have none. When the last holder lets go, the home is told.
    """

    __slots__ = ("__weakref__", "_home", "id")

    def __init__(self, home: Home, id: RefId) -> None:
        self._home = home
        self.id = id

    def __del__(self) -> None:
        self._home.released(self.id)


class FreeGrip(Grip):
    """In the place of a grip for what nobody owns: holds nothing."""

    __slots__ = ()

    def __del__(self) -> None:
        pass


if TYPE_CHECKING:
    # asyncio.wait and its kin are typed for Future and nothing else, so to checkers, and to them only, a Reply is one.
    # Covariant like asyncio.Task, for the same reason: nobody who reads values ever sets one.
    class _Base(asyncio.Future[T_co]):  # type: ignore[type-var]
        # The stubs tell the private names of Future, too; those of a Reply are of other types, and nobody iterates over
        # it.
        _state: Any
        _callbacks: Any
        __iter__: Any

else:
    _Base = Generic


class Reply(_Base[T_co]):
    """The answer to a control request (`nodes`, `get_actor`, `wait`, ...): awaitable from any loop, thread or none.

    Its outcome is an object of this process, not a packed value, and it can't be sent. Forgetting to await it loses the
    answer, not the deed.
    """

    __slots__ = ("__weakref__", "_asyncio_future_blocking", "_callbacks", "_home", "_out", "_state")

    _home: Home
    _state: int
    _callbacks: Callback | list[Callback] | None
    _out: Any  # the outcome; until there is one, perhaps the tasks of `waits.asker`
    _cancel_message: ClassVar[None] = None  # asyncio.gather reads it

    def __init__(self, home: Home) -> None:
        self._home = home
        self._state = PENDING
        self._callbacks = None
        self._asyncio_future_blocking = False

    # -- asyncio's future protocol -------------------------------------------------------------------------------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The running loop, else the node's."""
        loop = _running() or self._home.loop
        if loop is None:
            raise RuntimeError("no event loop is running here: use actorfw.get()")
        return loop

    def done(self) -> bool:
        """Whether it has a value, an error, or was cancelled."""
        return self._state != PENDING

    def cancelled(self) -> bool:
        """Whether a wait for it was cancelled and the call with it."""
        return self._state == CANCELLED

    def result(self) -> T_co:
        """The value, if it is there.

        Raises:
            asyncio.InvalidStateError: it is not there yet.
            TaskCancelledError: it was cancelled.
            Exception: the error that it ended with.
        """
        if self._state == READY:
            value: T_co = self._out
            return value
        raise self._error()

    def exception(self) -> BaseException | None:
        """The error that it ended with, or None; raises InvalidStateError while it is pending."""
        if self._state == READY:
            return None
        error = self._error()
        if self._state == PENDING:
            raise error
        return error

    def _error(self) -> BaseException:
        if self._state == FAILED:
            # A copy for each: a shared instance would collect the tracebacks of all its waiters, and through them this
            # object.
            error: BaseException = copy.copy(self._out)
            return error
        if waits.was_asked(self):
            return exceptions.CancelledError()
        if self._state == CANCELLED:
            return self._cancelled_elsewhere()
        return exceptions.InvalidStateError(f"{self!r} has no result yet")

    def _make_cancelled_error(self) -> exceptions.CancelledError:
        return exceptions.CancelledError()

    def add_done_callback(self, fn: Callable[[Self], object], /, *, context: Context | None = None) -> None:
        """Call `fn(self)` when done: on the loop that is running now, else on the node's."""
        loop = _running()
        home = self._home
        item = (fn, context or copy_context(), loop or home.loop)
        if loop is not None and loop is home.loop:
            if self._callbacks is None and self._state == PENDING:
                self._callbacks = item
                self._asked()
            else:
                self._add(item)
        else:
            home.post(self._add, item)

    def _add(self, item: Callback) -> None:
        if self._state != PENDING:
            if away(self._out if self._state == READY else None):
                brought_back(self).add_done_callback(lambda _: self._add(item))
            else:
                self._call(item, self)
            return
        callbacks = self._callbacks
        if callbacks is None:
            self._callbacks = item
        elif isinstance(callbacks, list):
            callbacks.append(item)
        else:
            self._callbacks = [callbacks, item]
        self._asked()

    def _asked(self) -> None:
        """Somebody waits for it."""

    def _call(self, item: Callback, outcome: Any) -> None:
        fn, context, loop = item
        if outcome is self:
            if type(fn) is BuiltinFunctionType and fn.__name__ == "task_wakeup":
                # Else the task unpacks a copy of the value that nobody wants: `__await__` makes its own.
                outcome = waits.WOKEN
            elif self._state == CANCELLED:
                fn = waits.cancelled_callback(fn, self)
        if loop is None:
            context.run(fn, outcome)
        elif loop is self._home.loop:
            loop.call_soon(fn, outcome, context=context)
        else:
            try:
                loop.call_soon_threadsafe(fn, outcome, context=context)
            except RuntimeError:
                pass  # that loop is closed: nobody waits there any more

    def _fire(self) -> None:
        callbacks = self._callbacks
        if callbacks is None:
            return
        self._callbacks = None
        if isinstance(callbacks, list):
            for item in callbacks:
                self._call(item, self)
        else:
            self._call(callbacks, self)

    def remove_done_callback(self, fn: Callable[[Self], object], /) -> int:
        """Take `fn` back; returns how often it stood there (from another loop or thread: 1, and it is done soon)."""
        loop = _running()
        if loop is not None and loop is self._home.loop:
            return self._remove(fn)
        self._home.post(self._remove, fn)
        return 1

    def _remove(self, fn: Callable[[Any], object]) -> int:
        callbacks = self._callbacks
        if callbacks is None:
            return 0
        items: list[Callback] = callbacks if isinstance(callbacks, list) else [callbacks]
        kept = [item for item in items if item[0] != fn]
        self._callbacks = kept or None
        return len(items) - len(kept)

    def cancel(self, msg: object = None) -> bool:
        """What a cancelled await does; see the module's rules. Returns False if it is done already."""
        if self._state != PENDING:
            return False
        asker = waits.asker() if waits.OLD_WAIT_FOR else None
        home = self._home
        loop = _running()
        if loop is not None and loop is home.loop:
            self._cancel(asker)
        else:
            home.post(self._cancel, asker)
        return True

    def _cancel(self, asker: asyncio.Task[Any] | None = None) -> None:
        if self._state == PENDING:
            if asker is not None:
                waits.asked_by(self, asker)
            self._state = CANCELLED
            self._fire()

    def __await__(self) -> Generator[Any, None, T_co]:
        if self._state == PENDING and _running() is not self._home.loop:
            yield from self._wait_elsewhere()
        while self._state == PENDING:
            self._asyncio_future_blocking = True
            yield self
        if self._state == CANCELLED:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise exceptions.CancelledError
            raise self._cancelled_elsewhere()
        out = self._out
        if type(out) is Packed and out.buffers:
            yield from self._have_in_memory()
        return self.result()

    def _have_in_memory(self) -> Generator[Any, None, None]:
        """Wait while the value is brought back from disk, or made again. Here, in a loop, to read would stop others."""
        tries = 0  # others may need its room more often than this task gets its turn: then it is read right here
        while self._state == PENDING or (tries < 3 and away(self._out)):
            if self._state == PENDING:
                self._asyncio_future_blocking = True
                yield self
            else:
                tries += 1
                yield from brought_back(self).__await__()

    def _wait_elsewhere(self) -> Generator[Any, None, None]:
        # On another loop than home's, the outcome may come while `cancel` is on its way, which has told the task
        # then that the wait would be cancelled: so it is.
        task = asyncio.current_task()
        cancels = task.cancelling() if task is not None else 0
        while self._state == PENDING:
            self._asyncio_future_blocking = True
            yield self
        if task is not None and task.cancelling() > cancels:
            raise exceptions.CancelledError

    def _cancelled_elsewhere(self) -> Exception:
        return TaskCancelledError("the request was cancelled by another task that awaited it")

    async def coro(self) -> T_co:
        """The same wait as a coroutine: what `asyncio.create_task` and `TaskGroup.create_task` take."""
        return await self

    # -- the runtime's side, at home only ------------------------------------------------------------------------------

    def _settle(self, value: Any) -> None:
        if self._state == PENDING:
            self._out = value
            self._state = READY
            callbacks = self._callbacks
            if type(callbacks) is tuple:  # one waits: the usual case
                self._callbacks = None
                self._call(callbacks, self)
            elif callbacks is not None:
                self._fire()

    def _fail(self, error: Any) -> None:
        if self._state == PENDING:
            self._out = error
            self._state = FAILED
            self._fire()

    if TYPE_CHECKING:
        __iter__: None  # `a, b = two.remote()` is an error to checkers, too
    else:

        def __iter__(self) -> NoReturn:
            raise TypeError(f"{type(self).__name__} is not iterable: await it")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Reply can't be sent: await it and send the answer")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {('pending', 'ready', 'failed', 'cancelled')[self._state]}>"


class ObjectRef(Reply[T_co]):
    """A value to come, or one that is there: the result of a task or call, or an object that was `put`.

    It can be awaited many times, by many tasks, in any loop; each await gives a copy of its own. It can be hashed,
    compared, sent anywhere inside arguments, results and actors' states; the object lives while any ref to it lives
    anywhere.
    """

    # _grip: None until somebody else may know its id; a cancelled wait cancels the call only until then.
    # _lazy: the value is elsewhere and has not been asked for.
    # _address: of the owner, as a hint; from the first time that the ref travels, behind it the line that made it.
    # _made: that line, as `runtime.lines` notes it; not set if it was not noted.
    __slots__ = ("_address", "_grip", "_lazy", "_made", "_number", "_owner")

    _made: Any

    def __init__(self, home: Home, owner: bytes, number: int) -> None:
        self._home = home
        self._state = PENDING
        self._callbacks = None
        self._asyncio_future_blocking = False
        self._owner = owner
        self._number = number
        self._grip: Grip | None = None
        self._lazy = False
        self._address = ""

    @property
    def id(self) -> str:
        """The object's id, the same in every process of the cluster."""
        return text_id((self._owner, self._number))

    def result(self) -> T_co:
        """A fresh copy of the value, if it is there; raises as `Reply.result` does."""
        if self._state == READY:
            out = self._out
            value: T_co = out if type(out) in _SCALARS else self._home.codec.unpack(out)
            return value
        raise self._error()

    def _error(self) -> BaseException:
        if self._state == FAILED:
            return unpack_error(self._home.codec, self._out)
        return super()._error()

    def _asked(self) -> None:
        if self._lazy:
            self._lazy = False
            self._home.asked(self)

    def _unasked(self) -> None:
        if self._callbacks is None and self._state == PENDING and not self._lazy and self._grip is not None:
            self._home.unasked(self)

    def _remove(self, fn: Callable[[Any], object]) -> int:
        removed = super()._remove(fn)
        if removed:
            loop = _running()
            if loop is None:
                self._unasked()
            else:  # `wait_for` takes its callback back to add another one at once
                loop.call_soon(self._home.post, self._unasked)
        return removed

    def _is_elsewhere(self) -> None:
        """It has a value, on another node: who only waits for that is told (no loop: they are the runtime's own)."""
        self._lazy = True
        items = self._items()
        wanted = [item for item in items if item[2] is not None]
        self._callbacks = wanted or None
        for item in items:
            if item[2] is None:
                self._call(item, self)
        if wanted:
            self._asked()

    def _cancel(self, asker: asyncio.Task[Any] | None = None) -> None:
        if self._state != PENDING:
            return
        if asker is not None:
            waits.asked_by(self, asker)
        if self._home.await_cancelled(self):
            if self._state == PENDING:
                self._state = CANCELLED
                self._fire()
            return
        # Only a wait ends. Whose, its own loop can tell, when the code that cancels has gone on.
        items = self._items()
        for loop in {id(item[2]): item[2] for item in items if item[2] is not None}.values():
            if loop is self._home.loop:
                loop.call_soon(self._end_waits, loop)
            else:
                try:
                    loop.call_soon_threadsafe(self._end_waits, loop)
                except RuntimeError:
                    pass  # that loop is closed: nobody waits there any more

    def _items(self) -> list[Callback]:
        callbacks = self._callbacks
        if callbacks is None:
            return []
        return list(callbacks) if isinstance(callbacks, list) else [callbacks]

    def _end_waits(self, loop: asyncio.AbstractEventLoop) -> None:
        """On a loop where somebody's wait was cancelled: wake those whose it was."""
        ended = [item for item in self._items() if item[2] is loop and waits.is_ending(item[0], self)]
        if not ended:
            return
        if loop is self._home.loop:
            self._end(ended)
        else:
            self._home.post(self._end, ended)

    def _end(self, ended: list[Callback]) -> None:
        items = self._items()
        kept = [item for item in items if item not in ended]
        self._callbacks = kept or None
        for item in items:
            if item in ended:
                fn, context, loop = item
                self._call((waits.ended_callback(fn), context, loop), waits.ENDED)
        self._unasked()

    def _cancelled_elsewhere(self) -> Exception:
        ran = False if getattr(self, "_out", None) is False else None
        return TaskCancelledError(f"call {self.id} was cancelled by another task that awaited it", ran=ran)

    def never_ran(self) -> None:
        """It is being cancelled, and what it stands for had not started."""
        if not hasattr(self, "_out"):  # else the tasks that asked for it are in its place
            self._out = False

    def accepted(self) -> Reply[None]:
        """What to await so that memory stays flat: done when the actor has taken the call into its mailbox.

        Done, too, when the call has ended. Of calls of actors made by this node or its workers only.

        Raises:
            Exception: awaiting it raises what the call ended with if it never got into the mailbox.
        """
        return self._home.accepted(self)

    def future(self) -> concurrent.futures.Future[T_co]:
        """A `concurrent.futures.Future` with the same outcome, for threads and libraries that want one.

        Cancelling it does nothing here.
        """
        future: concurrent.futures.Future[T_co] = concurrent.futures.Future()
        future.set_running_or_notify_cancel()

        def done(outcome: ObjectRef[T_co]) -> None:
            try:
                future.set_result(outcome.result())
            except Exception as error:  # the error that it ended with
                future.set_exception(error)

        self.add_done_callback(done)
        return future

    if not TYPE_CHECKING:

        def __iter__(self) -> NoReturn:
            raise TypeError("an ObjectRef is not iterable: await it, or ask for its parts with .options(num_returns=2)")

    def __copy__(self) -> ObjectRef[T_co]:
        return self

    def __deepcopy__(self, memo: object) -> ObjectRef[T_co]:
        return self

    def __reduce__(self) -> Any:
        # Plain pickle, outside any message (inside one, the codec takes care of refs before this is reached).
        self._home.pin(self)
        return restore_ref, (self._owner, self._number, self._address)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, ObjectRef) and self._number == other._number and self._owner == other._owner

    def __hash__(self) -> int:
        return hash(self._number)  # its owner may take a new life

    def __repr__(self) -> str:
        return f"<ObjectRef {self.id[-20:]} {('pending', 'ready', 'failed', 'cancelled')[self._state]}>"
