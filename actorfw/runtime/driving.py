"""Driving users' coroutines and generators: inside another's task, each in a context of its own.

An actor has one task while it is busy. What runs in it is driven step by step in the context of its call, so that
context variables of one call are not seen by the next, while `asyncio.timeout`, `TaskGroup` and `current_task` work
as anywhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from actorfw.wire.codec import Codec

__all__ = ["END", "InContext", "Unsendable", "asynchronous", "close", "inner", "next_item", "pack_item"]

logger = logging.getLogger("actorfw.actors")

END: Final = object()
"""What `next_item` gives after the last item."""


class Unsendable(Exception):  # noqa: N818  (no error of its own: it tells ours from the user's)
    """What user code gave can't be sent; `cause` says why."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


def pack_item(codec: Codec, item: Any) -> Any:
    """What a generator has yielded, as it travels.

    Raises:
        Unsendable: it can't be sent.
    """
    try:
        return codec.pack(item, where="item")
    except Exception as error:  # whatever it is: the generator did not raise it
        raise Unsendable(error) from error


class InContext:
    """Drives a coroutine inside another's task, each step in a context of its own.

    Args:
        coro: the coroutine.
        context: where its steps run.
        *first: what its first step gave, if that was taken already.
    """

    __slots__ = ("context", "coro", "error", "first")

    def __init__(self, coro: Coroutine[Any, Any, Any], context: Context, *first: Any) -> None:
        self.coro = coro
        self.context = context
        self.first = first
        self.error: BaseException | None = None  # raised in it, in place of waiting for what `first` gave

    def __await__(self) -> Generator[Any, Any, Any]:
        run = self.context.run
        coro = self.coro
        if self.first:
            waits_for = self.first[0]
            self.first = ()  # the coroutine may go on for long, and have done with that
        else:
            try:
                waits_for = run(coro.send, None)
            except StopIteration as stop:
                return stop.value
        while True:
            try:
                if self.error is not None:
                    error, self.error = self.error, None
                    raise error
                sent = yield waits_for
            except BaseException as error:  # all that is thrown in goes to the coroutine
                try:
                    waits_for = run(coro.throw, error)
                except StopIteration as stop:
                    return stop.value
            else:
                try:
                    waits_for = run(coro.send, sent)
                except StopIteration as stop:
                    return stop.value


async def _anext(items: Any) -> Any:
    try:
        return await items.__anext__()
    except StopAsyncIteration:
        return END


async def next_item(items: Any, context: Context | None = None) -> Any:
    """The next item of a generator of either kind, or END."""
    if hasattr(items, "__anext__"):
        if context is None:
            return await _anext(items)
        return await InContext(_anext(items), context)
    return next(items, END) if context is None else context.run(next, items, END)


async def close(items: Any, context: Context | None = None) -> None:
    """Close a generator of either kind; an exception of its own is only logged."""
    try:
        if hasattr(items, "aclose"):
            await (items.aclose() if context is None else InContext(items.aclose(), context))
        elif context is None:
            items.close()
        else:
            context.run(items.close)
    except asyncio.CancelledError:
        raise
    except BaseException:  # user code, and what it raises now is nobody's answer
        logger.exception("closing the generator %s failed", getattr(items, "__qualname__", items))


def inner(coro: Any) -> Any:
    """What a suspended coroutine or generator waits for."""
    if isinstance(coro, InContext):
        return coro.coro
    if getattr(coro, "cr_code", None) is _anext.__code__ and coro.cr_frame is not None:
        return coro.cr_frame.f_locals["items"]  # what __anext__ gives does not say what it drives
    found = getattr(coro, "cr_await", None) or getattr(coro, "ag_await", None)
    if found is not None:
        return found
    # The generator of InContext.__await__ has the coroutine that it drives in a local variable.
    frame = getattr(coro, "gi_frame", None)
    driven = frame.f_locals.get("coro") if frame is not None else None
    return driven if driven is not coro else None


async def asynchronous(items: Generator[Any, None, None]) -> AsyncGenerator[Any, None]:
    """A plain generator that runs on the loop, between whose items others get their turn."""
    try:
        for item in items:
            yield item
            await asyncio.sleep(0)
    finally:
        items.close()
