"""Tasks in threads of this process (`executor="thread"`), and the credit of generators that run here.

A thread can't be interrupted: of a cancelled function only the result is dropped, a generator is closed at its next
`yield`, and a coroutine is cancelled at its next `await`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from actorfw.core import credit
from actorfw.core.credit import Allowance
from actorfw.runtime.definitions import ASYNC, ASYNC_GENERATOR, GENERATOR
from actorfw.runtime.driving import pack_item
from actorfw.wire import messages as m
from actorfw.wire.payload import size_of

if TYPE_CHECKING:
    from actorfw.runtime.execution import Execution
    from actorfw.runtime.node import Node

__all__ = ["Credit", "Threads"]

LIMIT: Final = 64  # that work at a time; those that wait in get() do not count
MOST: Final = 10_000


class Credit(Allowance):
    """What a generator in this process may still send. Any thread."""

    __slots__ = ("_changed", "_wake")

    def __init__(self, credit: credit.Credit) -> None:
        super().__init__(credit)
        self._changed = threading.Condition()
        self._wake: Callable[[], object] | None = None

    def add(self, items: int) -> None:
        """The consumer took items, or with a negative number went away."""
        with self._changed:
            self.taken(items)
            self._changed.notify()
            wake, self._wake = self._wake, None
        if wake is not None:
            try:
                wake()
            except RuntimeError:
                pass  # that loop is closed, and the generator with it

    def spend(self, size: int) -> None:
        """An item of so many bytes is sent."""
        with self._changed:
            self.sent(size)

    async def room(self) -> bool:
        """Wait for room for one more item, on a loop; False when the consumer went away."""
        while not self.there():
            loop = asyncio.get_running_loop()
            woken = loop.create_future()
            with self._changed:
                if self.there():
                    break
                self._wake = lambda woken=woken, loop=loop: loop.call_soon_threadsafe(_set, woken)
            await woken
        return not self.closed

    def wait(self) -> bool:
        """As `room`, in a thread."""
        with self._changed:
            self._changed.wait_for(self.there)
        return not self.closed


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Threads:
    """The threads in which one node runs tasks."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.blocked = 0
        self._running = 0
        self._pool: ThreadPoolExecutor | None = None
        # Coroutines that run in threads, by the serial of their execution.
        self._coroutines: dict[int, tuple[asyncio.Task[Any], asyncio.AbstractEventLoop]] = {}

    def has_room(self) -> bool:
        """Whether one more may work."""
        return self._running - self.blocked < LIMIT

    def start(self, context: Context, exe: Execution, ready: Callable[[], Any]) -> Future[None]:
        """Run `ready()` and answer; on the loop."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(MOST, thread_name_prefix=f"actorfw {self.node.name} task")
        self._running += 1
        return self._pool.submit(context.run, self._run, exe, ready)

    def _run(self, exe: Execution, ready: Callable[[], Any]) -> None:
        post = self.node.post
        execution = self.node.execution
        kind = exe.recipe.kind
        try:
            value = ready()
            if kind == ASYNC:
                value = self._drive(exe, value)
            elif kind == GENERATOR:
                value = self._stream(exe, value)
            elif kind == ASYNC_GENERATOR:
                value = self._drive(exe, self._async_stream(exe, value))
        except BaseException as error:  # user code may raise anything; the thread is the pool's
            post(execution.raised, exe, error)
        else:
            if kind in (GENERATOR, ASYNC_GENERATOR):
                post(execution.answer, exe, m.VALUE, value)
            else:
                try:
                    state, out = execution.outcome(exe, value)
                except Exception as error:  # whatever keeps it from being sent
                    post(execution.refused, exe, error)
                else:
                    post(execution.answer, exe, state, out)
        post(self._ended)

    def _drive(self, exe: Execution, coro: Coroutine[Any, Any, Any]) -> Any:
        # In a thread. Known while it runs: unlike a function, a coroutine can be told to end.
        serial = exe.serial

        async def whole() -> Any:
            task = asyncio.current_task()
            assert task is not None
            self._coroutines[serial] = (task, asyncio.get_running_loop())
            if exe.cancelled:
                task.cancel()
            try:
                return await coro
            finally:
                del self._coroutines[serial]

        return asyncio.run(whole())

    def _ended(self) -> None:
        self._running -= 1
        self.node.tasks.pump_soon()

    def _stream(self, exe: Execution, items: Generator[Any, None, None]) -> int:
        credit: Credit = exe.credit
        index = 0
        try:
            while not credit.over(index) and self._wait(credit):
                try:
                    item = next(items)
                except StopIteration:
                    break
                self._send(exe, index, item, credit)
                index += 1
        finally:
            items.close()
        return index

    async def _async_stream(self, exe: Execution, items: AsyncGenerator[Any, None]) -> int:
        credit: Credit = exe.credit
        index = 0
        try:
            while not credit.over(index) and await self._room(credit):
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    break
                self._send(exe, index, item, credit)
                index += 1
        finally:
            await items.aclose()
        return index

    def _wait(self, credit: Credit) -> bool:
        # A slow consumer must not keep a CPU busy with waiting for it.
        if credit.there():
            return not credit.closed
        with self.node.lending():
            return credit.wait()

    async def _room(self, credit: Credit) -> bool:
        if credit.there():
            return not credit.closed
        with self.node.lending():
            return await credit.room()

    def _send(self, exe: Execution, index: int, item: Any, credit: Credit) -> None:
        if credit.wants(index):
            out = pack_item(self.node.codec, item)
            credit.spend(size_of(out))
            self.node.post(self.node.items.of_execution, exe, index, out)

    def cancel(self, exe: Execution) -> None:
        """End a coroutine at its next await, a generator at its next yield; a function can't be interrupted."""
        if isinstance(exe.credit, Credit):
            exe.credit.add(-1)
        self._interrupt(exe.serial)

    def _interrupt(self, serial: int) -> None:
        found = self._coroutines.get(serial)
        if found is not None:
            task, loop = found
            try:
                loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:
                pass  # it has just ended

    def close(self) -> None:
        """End coroutines; let functions end by themselves."""
        for serial in list(self._coroutines):
            self._interrupt(serial)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
