"""Driving users' coroutines and generators: inside another's task, each in a context of its own, and where they hang.

An actor has one task while it is busy. What runs in it is driven step by step in the context of its call, so that
context variables of one call are not seen by the next, while `asyncio.timeout`, `TaskGroup` and `current_task` work
as anywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Generator
from contextvars import Context
from types import FrameType
from typing import Any, Final

__all__ = ["END", "HELD_UP", "InContext", "close", "held_up", "next_item"]

logger = logging.getLogger("actorfw.actors")

HELD_UP: Final = 5.0  # seconds behind one call after which the log says where it hangs

END: Final = object()
"""What `next_item` gives after the last item."""


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
            except BaseException as error:
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
    except Exception:
        logger.exception("closing the generator %s failed", getattr(items, "__qualname__", items))


def held_up(title: str, waiting: int, method: str, coro: Any) -> None:
    """Say in the log that calls wait behind one that is suspended, and where that hangs."""
    frames = _frames(coro, method)
    where = ""
    if frames:
        first, last = frames[0], frames[-1]
        where = f", which hangs at {first.f_code.co_filename}:{first.f_lineno}"
        if last is not first:
            where += f" in {last.f_code.co_name} ({last.f_code.co_filename}:{last.f_lineno})"
    logger.warning(
        "actor %s: %d %s waited %g s behind %s%s; "
        "@actorfw.method(interleave=True) lets a long-lived method run beside the others",
        title,
        waiting,
        "call has" if waiting == 1 else "calls have",
        HELD_UP,
        method,
        where,
    )


def _frames(coro: Any, method: str) -> list[FrameType]:
    """The frames in which a chain of awaits is suspended, from the method's own on."""
    frames: list[FrameType] = []
    while coro is not None:
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "ag_frame", None)
        if frame is not None:
            frames.append(frame)
        coro = _inner(coro)
    for at, frame in enumerate(frames):
        if frame.f_code.co_name == method:
            return frames[at:]
    return frames[-1:]


def _inner(coro: Any) -> Any:
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
    inner = frame.f_locals.get("coro") if frame is not None else None
    return inner if inner is not coro else None
