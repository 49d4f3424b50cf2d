"""Waiting for many refs: all of them (`Gathered`), or each as it gets ready (`Completions`)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from actorfw.runtime.refs import CANCELLED, FAILED, PENDING, READY, ObjectRef, Reply
from actorfw.values.errors import UsageError

if TYPE_CHECKING:
    from actorfw.runtime.home import Home

__all__ = ["Completions", "Gathered"]

T = TypeVar("T")


class Gathered(Reply[list[T]]):
    """The values of many refs, in their order, or the first error. Cancelling it cancels the calls behind the refs."""

    __slots__ = ("_left", "_watches", "refs")

    def __init__(self, home: Home, refs: Sequence[ObjectRef[T]]) -> None:
        super().__init__(home)
        self.refs = refs
        self._left = len(refs)
        self._watches = False
        if home.loop is None:
            return  # in a worker, get() waits for the refs themselves, and need not share the line for that
        if home.at_home():
            self._asked()
        else:
            home.post(self._asked)

    def _asked(self) -> None:
        if self._watches:
            return
        self._watches = True
        if not self.refs:
            self._settle(None)
        context = copy_context()
        for ref in self.refs:
            ref._add((self._one, context, None))

    def _one(self, ref: ObjectRef[T]) -> None:
        if ref._state == PENDING:  # it has a value, on another node: that is wanted, too
            ref._add((self._one, copy_context(), None))
            return
        self._left -= 1
        if ref._state != READY:
            self._fail(ref)
        elif not self._left:
            self._settle(None)

    def _cancel(self, asker: asyncio.Task[Any] | None = None) -> None:
        if self._state == PENDING:
            super()._cancel(asker)
            for ref in self.refs:
                ref._cancel()

    def result(self) -> list[T]:
        """Fresh copies of the values; raises as `Reply.result` does."""
        # The loop tells the whole after its parts: a thread that has waited for those may ask in between.
        if self._state == READY or (self._state == PENDING and all(ref.done() for ref in self.refs)):
            return [ref.result() for ref in self.refs]
        raise self._error()

    def _error(self) -> BaseException:
        if self._state == FAILED:
            failed: ObjectRef[T] = self._out
            return failed._error()
        return super()._error()


class Completions(Generic[T]):
    """Refs in the order in which they get ready, each once. One consumer at a time."""

    def __init__(self, home: Home, refs: Sequence[ObjectRef[T]]) -> None:
        self._home = home
        self._left = len(refs)
        self._ready: deque[ObjectRef[T]] = deque()
        self._waiting: Reply[ObjectRef[T]] | None = None
        home.watch(refs, self._one)

    def next(self) -> Reply[ObjectRef[T]] | None:
        """The next ref to get ready; None when all were given out."""
        if not self._left:
            return None
        reply: Reply[ObjectRef[T]] = Reply(self._home)
        if self._home.at_home():
            self._take(reply)
        else:
            self._home.post(self._take, reply)
        return reply

    def _take(self, reply: Reply[ObjectRef[T]]) -> None:
        if self._waiting is not None and not self._waiting.done():
            reply._fail(UsageError("as_completed has a consumer already: it is for one at a time"))
            return
        self._waiting = reply
        self._hand_out()

    def _one(self, ref: ObjectRef[T]) -> None:
        self._ready.append(ref)
        self._hand_out()

    def _hand_out(self) -> None:
        reply = self._waiting
        if reply is None or not self._ready:
            return
        self._waiting = None
        if reply._state != CANCELLED:  # its wait was cancelled: the ref stays for the next
            self._left -= 1
            reply._settle(self._ready.popleft())
