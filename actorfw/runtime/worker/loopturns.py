"""How the calls of a process actor with coroutines take turns: as tasks of a loop that runs on the worker's main
thread.

The loop runs for as long as the actor lives, so what a method starts and leaves behind goes on. A thread of its own
reads for it. Calls start in the order of arrival, as many at a time as `max_concurrency` or their group allows; a
`def` method runs on the loop like any other.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from contextlib import nullcontext
from contextvars import Context
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from actorfw.runtime.context import running_call
from actorfw.runtime.definitions import ASYNC_GENERATOR
from actorfw.runtime.driving import END, next_item
from actorfw.runtime.exits import ActorExit
from actorfw.runtime.heldup import frames_of_task
from actorfw.runtime.worker.actor import Actor, Call
from actorfw.runtime.worker.answers import RUNNING

if TYPE_CHECKING:
    from actorfw.runtime.definitions import Recipe
    from actorfw.runtime.worker.child import Worker

__all__ = ["LoopActor"]


class LoopActor(Actor):
    """Calls are tasks on a loop of the actor's own."""

    def __init__(self, worker: Worker, message: list[Any], recipe: Recipe) -> None:
        super().__init__(worker, message, recipe)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ends: str | None = None
        self._arrivals: deque[Call] = deque()
        self._taking = False
        self._flushing = False
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._hooks: set[asyncio.Task[None]] = set()
        self._thread = threading.main_thread().ident

    def start(self) -> None:
        """Make the instance inside the loop, and stay in the loop to the end."""
        worker = self.worker
        worker.busy = False  # nothing waits behind this "task"
        worker.line.share()
        runner = asyncio.Runner()
        runner.run(self._live(), context=self.own_context())

    async def _live(self) -> NoReturn:
        loop = asyncio.get_running_loop()
        self.make()
        hook = self.hook("on_start")
        if hook is not None:
            try:
                await _finished(hook())
            except BaseException as error:  # user code may raise anything: the node is told, and the process ends
                self.could_not_start(error)
        limits = {"": self.recipe.max_concurrency, **self.recipe.groups}
        self._turns = {group: asyncio.Semaphore(limit) for group, limit in limits.items()}
        self.is_up()
        with self.worker.line.lock:
            self._loop = loop
            self._take()
            if self._ends is not None:
                self._begin_end(self._ends)
        await loop.create_future()  # the process ends, not this
        raise AssertionError

    # -- messages: under the line's lock, in the reader's thread -------------------------------------------------------

    def on_call(self, message: list[Any]) -> None:
        self._arrivals.append(self.arrived(message))
        if self._loop is not None and not self._taking:
            self._taking = True
            self._loop.call_soon_threadsafe(self._take)

    def on_cancel(self, no: int) -> None:
        call = self.calls.get(no)
        if call is None:
            return
        if self._loop is None:
            self.cancelled(call)
        else:
            self._loop.call_soon_threadsafe(self._cancel, call)

    def hanging(self, begun: list[int]) -> tuple[int, list[FrameType]]:
        call = self.in_hand(begun)
        task = self._tasks.get(call.no) if call is not None else None
        if call is None or task is None:
            return 0, []
        return call.no, frames_of_task(task, self._thread)

    def on_end(self, message: list[Any]) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin_end, message[3])
        else:
            self._ends = message[3]  # it came as soon as the node heard that this is up

    # -- on the loop ---------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        assert self._loop is not None
        self._taking = False
        while self._arrivals:
            call = self._arrivals.popleft()
            if not call.ended:
                call.context = Context()
                self._tasks[call.no] = self._loop.create_task(self._run(call), context=call.context)

    def _begin_end(self, reason: str) -> None:
        assert self._loop is not None
        task = self._loop.create_task(self._stop(reason), context=self.own_context())
        self._hooks.add(task)  # a loop holds its tasks weakly only

    def _cancel(self, call: Call) -> None:
        task = self._tasks.get(call.no)
        if task is not None and not call.ended:
            call.cancelling = True
            task.cancel()
            if inspect.getcoroutinestate(task.get_coro()) == inspect.CORO_CREATED:  # type: ignore[arg-type]
                # A coroutine that is cancelled before its first step never runs, and could not answer.
                del self._tasks[call.no]
                self.cancelled(call)
                self._flush_soon()

    def _turn_of(self, call: Call) -> Any:
        info = self.methods.get(call.method)
        if info is None:
            return self._turns[""]
        if info.interleave:
            return nullcontext()
        return self._turns.get(info.group) or self._turns[""]

    async def _run(self, call: Call) -> None:
        turn = self._turn_of(call)
        first: Any = None
        try:
            async with turn:
                if not self.prepare(call):
                    return
                running_call.set(self.context_of(call))
                self.started(call)
                self.worker.steps += 1
                assert call.fn is not None
                value = call.fn(*call.args, **call.kwargs)
                if call.streams:
                    # Its code starts with its first step, so that belongs to this turn: calls behind it start later.
                    first = await _step(call, value)
                elif inspect.isawaitable(value):
                    value = await value
            if call.streams:
                await self._stream(call, value, first, turn)
                self.streamed(call)
            else:
                self.returned(call, value)
        except BaseException as error:  # user code may raise anything, and gets it back as an answer
            if isinstance(error, asyncio.CancelledError) and call.cancelling:
                self.cancelled(call)
            else:
                self.raised(call, error, RUNNING)
            if isinstance(error, ActorExit):
                await self._stop("exited")
        finally:
            self._tasks.pop(call.no, None)
            self._flush_soon()

    async def _stream(self, call: Call, items: Any, item: Any, turn: Any) -> None:
        loop = asyncio.get_running_loop()
        room = asyncio.Event()
        credit = call.credit
        credit.wake = lambda: loop.call_soon_threadsafe(room.set)
        try:
            while item is not END:
                self.yielded(call, item)
                self._flush_soon()
                await asyncio.sleep(0)  # a generator that never suspends must not keep the loop
                call.parked = True
                while not credit.there():
                    room.clear()
                    if not credit.there():
                        await room.wait()
                async with turn:
                    call.parked = False
                    item = await _step(call, items)
        finally:
            if call.kind == ASYNC_GENERATOR:
                await items.aclose()
            else:
                items.close()

    async def _stop(self, reason: str) -> None:
        hook = self.hook("on_stop")
        if hook is not None:
            try:
                await _finished(hook(reason))
            except BaseException as error:  # likewise
                self.stop_failed(error)
        self.gone(reason)

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self.worker.line.flush()


async def _step(call: Call, items: Any) -> Any:
    """The next item of a generator, or END when it or its consumer has none left to ask for."""
    if call.credit.closed:
        return END
    return await next_item(items)


async def _finished(value: Any) -> None:
    if inspect.isawaitable(value):
        await value
