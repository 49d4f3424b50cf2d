"""What asyncio does not tell a future: whose wait was cancelled, and what those who wait are to hear then.

asyncio knows one kind of cancelling: the future ends, for everybody. A ref that was handed on does not end with one
of its waits, and of a ref that was cancelled each waiter is to hear what concerns him. So the callbacks by which
asyncio's own combinators wait are told apart here: a task's wake-up, `gather`, `shield`, and the `wait_for` of
Python 3.11. Others are left as they are: they never cancel.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from asyncio import exceptions, tasks
from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from actorfw.runtime.refs import Reply

__all__ = [
    "ENDED",
    "OLD_WAIT_FOR",
    "WOKEN",
    "asked_by",
    "asker",
    "cancelled_callback",
    "ended_callback",
    "is_ending",
    "was_asked",
]

OLD_WAIT_FOR: Final = sys.version_info < (3, 12)
"""Python 3.11's `wait_for` cancels the future, waits for its callback, and then asks for its result.

From 3.12 on it is a plain await.
"""

_CANCEL_AND_WAIT: Final[CodeType | None] = (
    getattr(tasks, "_cancel_and_wait").__code__ if OLD_WAIT_FOR else None  # noqa: B009
)
_WAIT_FOR: Final[CodeType] = asyncio.wait_for.__code__
_RELEASE: Final[Any] = getattr(tasks, "_release_waiter", None)
_GatheringFuture: Final[Any] = getattr(tasks, "_GatheringFuture")  # noqa: B009


class _Woken:
    """What the wake-up of a task gets: it takes the result of a future and drops it, so there is none to unpack."""

    __slots__ = ()

    def result(self) -> None:
        return None


class _Ended:
    """Stands in for a ref towards those whose wait was cancelled while the ref itself stays pending."""

    __slots__ = ()

    def done(self) -> bool:
        return True

    def cancelled(self) -> bool:
        return True

    def result(self) -> NoReturn:
        raise exceptions.CancelledError

    exception = result


class _Elsewhere:
    """Stands in for a cancelled ref towards those who did not cancel it: for them the call has failed."""

    __slots__ = ("_ref",)

    def __init__(self, ref: Reply[Any]) -> None:
        self._ref = ref

    def done(self) -> bool:
        return True

    def cancelled(self) -> bool:
        return False

    def exception(self) -> BaseException | None:
        return self._ref.exception()

    def result(self) -> Any:
        return self._ref.result()


WOKEN: Final = _Woken()
ENDED: Final = _Ended()


def _closed_over(fn: Any, name: str) -> Any:
    """The variable of this name that a function defined inside another one uses."""
    code = getattr(fn, "__code__", None)
    if code is None or name not in code.co_freevars:
        return None
    try:
        return fn.__closure__[code.co_freevars.index(name)].cell_contents
    except ValueError:
        return None  # not bound yet


def _gathering(fn: Any) -> Any:
    """The future of the `asyncio.gather` whose callback this is, if it is one's."""
    outer = _closed_over(fn, "outer")
    return outer if isinstance(outer, _GatheringFuture) else None


def is_ending(fn: Callable[[Any], object], ref: Reply[Any]) -> bool:
    """Whether the wait behind a callback is the one that was cancelled. On the loop of that wait."""
    task = getattr(fn, "__self__", None)
    if isinstance(task, asyncio.Task):
        return task.cancelling() > 0
    outer = _gathering(fn)
    if outer is not None:
        return bool(outer._cancel_requested)
    if OLD_WAIT_FOR and isinstance(fn, functools.partial) and fn.func is _RELEASE:
        # It waits for its callback in the same task that cancelled, and others who wait have not cancelled.
        return _waits_for_callback(fn, ref)
    return False


def ended_callback(fn: Callable[[Any], object]) -> Callable[[Any], object]:
    """How a callback whose wait was cancelled is told."""
    outer = _gathering(fn)
    if outer is None:
        return fn
    # Its own callback would read the outcomes of all its refs, of which those that were handed on have none.
    return lambda _: asyncio.Future.cancel(outer)


def cancelled_callback(fn: Callable[[Any], object], ref: Reply[Any]) -> Callable[[Any], object]:
    """How a callback is told that the ref was cancelled: it depends on who did it."""
    outer = _gathering(fn)
    if outer is not None:
        return lambda given: fn(given if outer._cancel_requested else _Elsewhere(ref))
    if getattr(fn, "__name__", "") == "_inner_done_callback":  # shield: whoever is behind it can't have cancelled
        return lambda _: fn(_Elsewhere(ref))
    return fn


# -- the wait_for of Python 3.11 ---------------------------------------------------------------------------------------


def asker() -> asyncio.Task[Any] | None:
    """The task whose `wait_for` calls `cancel()` on a ref just now, and will ask for the result next."""
    if sys._getframe(2).f_code is _CANCEL_AND_WAIT:
        return asyncio.current_task()
    return None


def asked_by(ref: Reply[Any], task: asyncio.Task[Any]) -> None:
    """Remember it; at home, before the ref's outcome is there."""
    try:
        ref._out.add(task)
    except AttributeError:
        ref._out = {task}


def was_asked(ref: Reply[Any]) -> bool:
    """Whether one of those asks now: it is to hear that its wait was cancelled, once."""
    if not OLD_WAIT_FOR or type(getattr(ref, "_out", None)) is not set:
        return False
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__") == "actorfw.runtime.refs" and frame.f_back is not None:
        frame = frame.f_back
    if frame.f_code is not _WAIT_FOR:
        return False
    task = asyncio.current_task()
    if task not in ref._out:
        return False
    ref._out.discard(task)
    return True


def _waits_for_callback(fn: functools.partial[Any], ref: Reply[Any]) -> bool:
    """Whether this is the callback that `wait_for` added when it cancelled, not the one of an undisturbed wait."""
    if type(getattr(ref, "_out", None)) is not set:
        return False
    waiter = fn.args[0]
    return any(getattr(task, "_fut_waiter", None) is waiter for task in ref._out)
