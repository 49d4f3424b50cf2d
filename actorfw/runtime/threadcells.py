"""Actors whose methods run in threads of the node's process.

Calls of a class without coroutines run in threads, as many at a time as its concurrency allows. A class with
coroutines gets one thread with a loop of its own, on which each call is a task, so that what its methods share
(locks, connections) belongs to one loop. The mailbox stays on the node's loop. Python code in a thread can't be
interrupted: of a cancelled call only the result is dropped, unless it is a coroutine.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime import driving, heldup
from actorfw.runtime.cells import ENDED, ENDING, HOOK_SECONDS, STARTING, UP, CellContext, Step
from actorfw.runtime.context import running_call
from actorfw.runtime.definitions import ASYNC, ASYNC_GENERATOR, MethodInfo, Recipe
from actorfw.runtime.driving import END, Unsendable
from actorfw.runtime.execution import Credit
from actorfw.runtime.exits import ActorExit
from actorfw.runtime.grouped import Grouped
from actorfw.runtime.groups import Groups
from actorfw.runtime.routes import ACKNOWLEDGE, ActorCall
from actorfw.values.errors import ActorDiedError
from actorfw.values.ids import RefId
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.runtime.node import Node

__all__ = ["ThreadCell"]

logger = logging.getLogger("actorfw.actors")

INTERLEAVED_AT_ONCE: Final = 256

News = tuple[Any, ...]
"""What the node's loop is to call, and with what."""


class _Run(Step):
    """One call while it is in hand: from its start to its answer."""

    __slots__ = ("args", "group", "info", "kwargs", "task", "thread")

    def __init__(self, call: ActorCall, info: MethodInfo, args: Any, kwargs: Any, context: Context, group: str) -> None:
        super().__init__(call, None, context)
        self.info = info
        self.args = args
        self.kwargs = kwargs
        self.group = group
        self.task: asyncio.Task[None] | None = None  # on the actor's own loop, if it has one
        self.thread = 0  # in which it runs, or has run


class ThreadCell(Grouped):
    """An actor in threads."""

    __slots__ = (
        "_busy",
        "_groups",
        "_hooked",
        "_limit",
        "_loop",
        "_pace",
        "_parked",
        "_running",
        "_threads",
        "aborted",
        "instance",
    )

    def __init__(
        self, node: Node, id: RefId, incarnation: int, recipe: Recipe, groups: Groups, *, asynchronous: bool
    ) -> None:
        super().__init__(node, id, incarnation, recipe)
        self.instance: Any = None
        self.aborted = False
        self._groups = groups
        self._running: dict[ActorCall, _Run] = {}
        self._parked: dict[asyncio.Task[None], _Run] = {}  # generators that wait for their consumers
        self._busy = 0  # threads or tasks that run the user's code now
        self._hooked = False  # on_stop runs, or has run
        self._limit: Any = None  # the timer of what it may take
        self._loop: asyncio.AbstractEventLoop | None = None
        name = f"actorfw {recipe.name}"
        self._pace = node.env.pace
        self._threads = None
        if self._pace is not None:
            self._loop = node.loop  # there are no threads here: the node's loop stands for the actor's own
        elif asynchronous:
            self._loop = asyncio.new_event_loop()
            self._threads = threading.Thread(target=_run_loop, args=(self._loop,), name=name, daemon=True)
            self._threads.start()
        else:
            most = recipe.max_concurrency + sum(recipe.groups.values()) + INTERLEAVED_AT_ONCE
            self._threads = ThreadPoolExecutor(most, thread_name_prefix=name)

    # -- the threads ---------------------------------------------------------------------------------------------------

    _threads: ThreadPoolExecutor | threading.Thread | None

    def _submit(self, context: Context, make: Callable[[], Coroutine[Any, Any, News]], run: _Run | None = None) -> None:
        """Run a coroutine in the actor's threads, then tell the node's loop what it returns.

        Without a loop of its own it is a coroutine that never waits.
        """
        self._busy += 1
        loop = self._loop
        if loop is None:
            assert isinstance(self._threads, ThreadPoolExecutor)
            self._threads.submit(self._run_through, context, make)
            return

        async def whole() -> None:
            self.node.post(*await make())

        def begin() -> None:
            task = loop.create_task(whole(), context=context)
            if run is not None:
                run.task = task

        loop.call_soon_threadsafe(begin)

    def _run_through(self, context: Context, make: Callable[[], Coroutine[Any, Any, News]]) -> None:
        try:
            context.run(make().send, None)
        except StopIteration as stop:
            # Only now, out of the context: the next step of a generator enters it in another thread.
            self.node.post(*stop.value)
        else:
            raise AssertionError("it waited, and there is no loop")

    async def _finish(self, value: Awaitable[Any]) -> Any:
        """Wait for what a method gave, where its loop is."""
        if self._loop is not None:
            return await value
        return asyncio.run(_as_coroutine(value))  # a `def` that returned an awaitable

    def _let_go(self) -> None:
        """No more calls: the threads end, those that are in user's code when they get out of it."""
        if self._threads is None:
            return
        if self._loop is not None:
            assert isinstance(self._threads, threading.Thread)
            self._loop.call_soon_threadsafe(self._loop.stop)
            if not self._busy:
                self._threads.join(1.0)
        else:
            assert isinstance(self._threads, ThreadPoolExecutor)
            self._threads.shutdown(wait=not self._busy, cancel_futures=True)

    # -- its beginning -------------------------------------------------------------------------------------------------

    def start(
        self, actor_class: type, interface: Any, args: tuple[Any, ...], kwargs: dict[str, Any], then: Any
    ) -> None:
        """Make the instance in a thread; `then(state, out)` hears how it went."""
        self.interface = interface
        self.methods = interface.methods

        async def make() -> News:
            try:
                if self._pace is not None:
                    await asyncio.sleep(self._pace(self.recipe.name))
                instance = actor_class(*args, **kwargs)
                hook = getattr(instance, "on_start", None)
                if hook is not None:
                    started = hook()
                    if inspect.isawaitable(started):
                        await self._finish(started)
            except BaseException as error:  # user code may raise anything: it is a crash of the actor, not of the node
                return self._not_made, error, then
            return self._is_up, instance, then

        self._submit(self._context(None), make)

    def _context(self, call: ActorCall | None) -> Context:
        context = self.node.base_context.copy()
        context.run(running_call.set, CellContext(self, call))
        return context

    def _not_made(self, error: BaseException, then: Any) -> None:
        self._busy -= 1
        self.failed(error, then)

    def _is_up(self, instance: Any, then: Any) -> None:
        self._busy -= 1
        if self.state == ENDED:
            then("failed", self.out(self.died()))
            return
        self.instance = instance
        if self.state == STARTING:
            self.state = UP
        then("up", None)
        self.wake()
        self.idle()

    # -- the mailbox ---------------------------------------------------------------------------------------------------

    def _start_more(self, group: str) -> None:
        if self.instance is None or self.state == ENDED:
            return
        while (item := self._groups.take(group)) is not None:
            run = item if isinstance(item, _Run) else self._begin(item, group)
            if run is None:
                self._groups.leave(group)
            else:
                self._submit(run.context, lambda run=run: self._perform(run), run)  # type: ignore[misc]
            if not isinstance(item, _Run):
                self.taken(item)  # lets in what stands at the door: that must not start before it
        self.watch(group)

    def held_up(self, group: str, head: Any) -> None:
        parked = {run.call for run in self._parked.values()}
        for call, run in self._running.items():
            if run.group == group and call not in parked:
                task = run.task
                if task is None:
                    frames = heldup.frames_of_thread(run.thread)
                else:
                    frames = heldup.frames_of_task(task, run.thread)
                self.tell_held_up(call, heldup.place(frames), len(self._groups))
                break

    def _begin(self, call: ActorCall, group: str) -> _Run | None:
        if call.cancelled:
            self.was_cancelled(call)
            return None
        info = self.methods.get(call.method)
        if info is None:
            self.no_method(call)
            return None
        ready = self.ready_arguments(call)
        if ready is None:
            return None
        call.started = True
        if call.credit == ACKNOWLEDGE:
            self.answer(call, m.VALUE, None)
        if info.streams:
            call.credit = Credit(call.credit)
        run = self._running[call] = _Run(call, info, *ready, self._context(call), group)
        self.node.windows.began(self, call)
        return run

    # -- in a thread of the actor's ------------------------------------------------------------------------------------

    async def _perform(self, run: _Run) -> News:
        call = run.call
        try:
            state, out = await self._outcome(run)
        except BaseException as error:  # likewise
            if run.items is not None:
                await driving.close(run.items)
            return self._raised, call, error
        return self._returned, call, state, out

    async def _outcome(self, run: _Run) -> tuple[int, Any]:
        """How the call ended, or (0, item) if it is a generator that yielded."""
        call, info = run.call, run.info
        run.thread = threading.get_ident()
        if self._pace is not None:
            await asyncio.sleep(self._pace(f"{self.recipe.name}.{call.method}"))
        if run.items is None:
            instance = self.instance
            if call.cancelled or instance is None:
                raise asyncio.CancelledError
            try:
                value = getattr(instance, call.method)(*run.args, **run.kwargs)
            except StopIteration as error:
                raise _StoppedError(error) from None
            run.args = run.kwargs = None
            if not info.streams:
                if inspect.isawaitable(value):
                    value = await self._finish(value)
                try:
                    if call.num_returns != 1:
                        return m.PARTS, self.node.execution.parts(call.method, value, call.num_returns)
                    return m.VALUE, self.node.codec.pack(value, where="result")
                except Exception as error:  # whatever keeps it from being sent
                    raise Unsendable(error) from error
            run.items = value
        if call.credit.closed or call.cancelled:
            call.cancelled = True
            raise asyncio.CancelledError
        item = await driving.next_item(run.items)
        if item is END:
            return m.VALUE, run.index
        return 0, driving.pack_item(self.node.codec, item)

    # -- back on the node's loop ---------------------------------------------------------------------------------------

    def _left(self, call: ActorCall) -> _Run | None:
        self._busy -= 1
        run = self._running.get(call)
        if run is None:  # answered when the actor was aborted
            self.idle()
        return run

    def _returned(self, call: ActorCall, state: int, out: Any) -> None:
        run = self._left(call)
        if run is None:
            return
        run.task = None
        if state:
            del self._running[call]
            if not call.tell:
                self.answer(call, state, out)
        else:
            self.node.hosting.send_item(call, run.index, out)
            run.index += 1
            waiter = self.node.env.create_task(self._until_wanted(run))
            self._parked[waiter] = run
            waiter.add_done_callback(self._wanted)
        self._groups.leave(run.group)
        self._start_more(run.group)
        self.idle()

    async def _until_wanted(self, run: _Run) -> None:
        await run.call.credit.room()

    def _wanted(self, waiter: asyncio.Task[None]) -> None:
        run = self._parked.pop(waiter)
        if waiter.cancelled():
            self.discard(run)
        else:
            self._groups.add(run.group, run)
            self._start_more(run.group)

    def _raised(self, call: ActorCall, error: BaseException) -> None:
        run = self._left(call)
        if run is None:
            return
        del self._running[call]
        self._groups.leave(run.group)
        if isinstance(error, _StoppedError):
            error = error.cause
        if isinstance(error, ActorExit):
            died = ActorDiedError(f"actor {self.title} exited in {call.method}", reason="exited", ran=True)
            self.answer(call, m.ERROR, self.out(died))
            if self.state != ENDED:
                self.reason = "exited"
                self.state = ENDING
                self.abort()
        elif call.cancelled:
            self.was_cancelled(call)
        elif isinstance(error, Unsendable):
            self.refused(call, error.cause)
        elif call.tell:
            self.tell_failed(call, error)
        elif not self.too_late(call, error):
            self.answer(call, m.ERROR, self.out(error, infrastructure=False))
        self._start_more(run.group)
        self.idle()

    def held(self, call: ActorCall | None) -> Iterable[tuple[ActorCall, asyncio.Task[Any] | None]]:
        parked = {run.call for run in self._parked.values()}
        if call is not None and call in self._running:
            return () if call in parked else ((call, self._running[call].task),)
        group = self._groups.of(call.method) if call is not None else ""
        if self._groups.has_room(group):
            return ()
        turns = self._running.items()
        return [(call, run.task) for call, run in turns if run.group == group and call not in parked]

    def cancel(self, call: ActorCall) -> None:
        call.cancelled = True
        run = self._running.get(call)
        if run is None:
            self.open_gates()
            return
        if isinstance(call.credit, Credit):
            call.credit.add(-1)
        self._cancel_task(run)

    def _cancel_task(self, run: _Run) -> None:
        # Only the task of now: a later one closes the generator, and is to get to the end of that.
        if self._loop is not None and run.task is not None:
            self._loop.call_soon_threadsafe(run.task.cancel)

    # -- its end -------------------------------------------------------------------------------------------------------

    def abort(self, *, lost: str = "") -> None:
        # What runs in a thread goes on there, unheard.
        self.aborted = True
        running, self._running = self._running, {}
        for call, run in running.items():
            if lost:
                self.node.hosting.lose(self, call, lost)
            else:
                self.answer(call, m.ERROR, self.out(self.died(f" while {call.method} ran", ran=None)))
                call.cancelled = True
            self._cancel_task(run)
        for waiter in list(self._parked):
            waiter.cancel()
        self.drain_with(self.died())

    def discard(self, step: Step) -> None:
        if isinstance(step, _Run) and self.state != ENDED:

            async def close() -> News:
                await driving.close(step.items)
                return (self._closed,)

            self._submit(step.context, close)

    def _closed(self) -> None:
        self._busy -= 1
        self.idle()

    def idle(self) -> None:
        if self.state != ENDING or self.instance is None or self._hooked:
            return
        if self._busy or self._running or self._parked or self.waits() or len(self._groups):
            return
        hook = getattr(self.instance, "on_stop", None)
        if hook is None:
            self.finished(self.reason)
            return
        self._hooked = True

        async def stop() -> News:
            try:
                done = hook(self.reason)
                if inspect.isawaitable(done):
                    await self._finish(done)
            except BaseException:  # user code, and nobody waits for it; the thread is ours
                logger.exception("on_stop of actor %s failed", self.title)
            return (self._stopped,)

        self._submit(self._context(None), stop)
        self._limit = self.node.env.call_later(HOOK_SECONDS, self._too_long)

    def _too_long(self) -> None:
        logger.error("on_stop of actor %s runs on after %g s: it is not waited for", self.title, HOOK_SECONDS)
        self.finished(self.reason)

    def _stopped(self) -> None:
        self._busy -= 1
        self._limit.cancel()
        self.finished(self.reason)

    def finished(self, reason: str, out: Any = None) -> None:
        if self.state != ENDED:
            self._let_go()
        super().finished(reason, out)
        self.instance = None


class _StoppedError(Exception):
    """Carries a StopIteration of the user's, which can't leave a coroutine as itself."""

    def __init__(self, cause: StopIteration) -> None:
        super().__init__()
        self.cause = cause


def is_asynchronous(methods: Any) -> bool:
    """Whether a class has coroutines, so that its actors need a loop."""
    return any(info.kind in (ASYNC, ASYNC_GENERATOR) for info in methods.values())


async def _as_coroutine(value: Awaitable[Any]) -> Any:
    return await value


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
