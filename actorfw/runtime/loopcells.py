"""Actors on the node's event loop.

`OnLoop` is their beginning and end. `LoopCell` runs one call at a time: an idle one is an object without a task or a
queue; a busy one has one asyncio task, in which each call runs in a context of its own and is cancelled by that
task's cancel and uncancel. `TaskCell` is for classes in which several calls may run: each call is a task.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from actorfw.runtime import driving
from actorfw.runtime.cells import ENDED, ENDING, STARTING, UP, Cell, CellContext, Step
from actorfw.runtime.context import running_call
from actorfw.runtime.definitions import ASYNC, ASYNC_GENERATOR, GENERATOR, MethodInfo, Recipe
from actorfw.runtime.driving import END, HELD_UP, InContext
from actorfw.runtime.execution import Credit
from actorfw.runtime.exits import ActorExit
from actorfw.runtime.groups import Groups
from actorfw.runtime.routes import ACKNOWLEDGE, ActorCall
from actorfw.values.errors import ActorDiedError, SerializationError, TaskError
from actorfw.values.ids import RefId
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actorfw.runtime.node import Node

__all__ = ["LoopCell", "OnLoop", "TaskCell"]

logger = logging.getLogger("actorfw.actors")


class OnLoop(Cell):
    """What all actors on the loop share: how they begin, how they end, and what becomes of a call."""

    __slots__ = ("_hook", "_told", "_watch", "aborted", "instance")

    def __init__(self, node: Node, id: RefId, incarnation: int, recipe: Recipe) -> None:
        super().__init__(node, id, incarnation, recipe)
        self.instance: Any = None
        self.aborted = False
        self._hook: asyncio.Task[None] | None = None  # on_start or on_stop, while it runs
        self._watch: Any = None  # the timer that looks whether somebody is held up
        self._told: ActorCall | None = None  # the call of which the log said that it holds others up

    # -- its beginning -------------------------------------------------------------------------------------------------

    def start(
        self, actor_class: type, interface: Any, args: tuple[Any, ...], kwargs: dict[str, Any], then: Any
    ) -> None:
        """Make the instance; `then(state, out)` hears how it went, "up" or "failed"."""
        self.interface = interface
        self.methods = interface.methods
        context = self.node.base_context.copy()
        context.run(running_call.set, CellContext(self, None))
        if hasattr(actor_class, "on_start"):
            coro = self._start(actor_class, args, kwargs, then)
            self._hook = context.run(self.node.env.create_task, coro, f"actorfw start {self.recipe.name}")
            return
        try:
            self.instance = context.run(actor_class, *args, **kwargs)
        except BaseException as error:
            self.failed(error, then)
        else:
            self._is_up(then)

    async def _start(self, actor_class: type, args: tuple[Any, ...], kwargs: dict[str, Any], then: Any) -> None:
        try:
            instance = actor_class(*args, **kwargs)
            started = instance.on_start()
            if inspect.isawaitable(started):
                await started
        except BaseException as error:
            self._hook = None
            self.failed(error, then)
        else:
            self._hook = None
            self.instance = instance
            self._is_up(then)

    def _is_up(self, then: Any) -> None:
        if self.state == STARTING:
            self.state = UP
        if self.state == ENDED:
            then("failed", self.out(self.died()))
            return
        then("up", None)
        self.wake()
        self.idle()

    # -- its end -------------------------------------------------------------------------------------------------------

    def end(self, how: str) -> None:
        if self.state == ENDED:
            return
        self.reason = how
        if how == "killed":
            self.abort()
            self.finished(how)
            return
        self.state = ENDING
        if how == "owner_died":
            self.abort()
        self.idle()

    def abort(self) -> None:
        """Whatever runs or waits fails now, with the reason; what runs is cancelled, but for the running task."""
        self.aborted = True
        tasks = list(self.tasks())
        for call in self.running():
            self.answer(call, m.ERROR, self.out(self.died(f" while {call.method} ran", ran=None)))
        self.drain_with(self.died())
        current = asyncio.current_task() if self.node.at_home() else None
        for task in tasks:
            if task is not current:
                task.cancel()
        if self.reason == "killed" and self._hook is not None and self._hook is not current:
            self._hook.cancel()

    def running(self) -> Iterable[ActorCall]:
        """The calls that have started and are not answered, generators that wait for their consumers among them."""
        raise NotImplementedError

    def tasks(self) -> Iterable[asyncio.Task[None]]:
        """What runs them."""
        raise NotImplementedError

    def busy(self) -> bool:
        """Whether anything runs or waits."""
        raise NotImplementedError

    def idle(self) -> None:
        if self.state != ENDING or self.instance is None or self._hook is not None or self.busy():
            return
        hook = getattr(self.instance, "on_stop", None)
        if hook is None:
            self.finished(self.reason)
            return
        context = self.node.base_context.copy()
        context.run(running_call.set, CellContext(self, None))
        self._hook = context.run(self.node.env.create_task, self._stopping(hook), f"actorfw stop {self.recipe.name}")

    async def _stopping(self, hook: Any) -> None:
        try:
            done = hook(self.reason)
            if inspect.isawaitable(done):
                await done
        except Exception:
            logger.exception("on_stop of actor %s failed", self.title)
        finally:
            self._hook = None
            self.finished(self.reason)

    def finished(self, reason: str, out: Any = None) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        super().finished(reason, out)

    def discard(self, step: Step) -> None:
        self.node.env.create_task(driving.close(step.items, step.context), f"actorfw close {step.call.method}")

    # -- what becomes of a call ----------------------------------------------------------------------------------------

    def begin(self, call: ActorCall) -> CellContext:
        """It starts now. Returns what `actorfw.context()` is to say in it."""
        call.started = True
        if call.credit == ACKNOWLEDGE:
            self.answer(call, m.VALUE, None)
        return CellContext(self, call)

    def returned(self, call: ActorCall, value: Any) -> None:
        """A call has ended with a value."""
        if call.tell:
            return
        try:
            if call.num_returns != 1:
                self.answer(call, m.PARTS, self.node.execution.parts(call.method, value, call.num_returns))
            else:
                node = self.node
                node.hosting.answer(self, call, m.VALUE, node.codec.pack(value, where="result"))
        except Exception as error:
            self.refused(call, error)

    def refused(self, call: ActorCall, error: Exception) -> None:
        """What a call gave can't be sent."""
        if isinstance(error, SerializationError):
            error.ran = True
        self.answer(call, m.ERROR, self.out(error, infrastructure=isinstance(error, (SerializationError, TaskError))))

    def raised(self, call: ActorCall, error: BaseException) -> None:
        """A call has ended with an exception."""
        if isinstance(error, ActorExit):
            self.answer(
                call,
                m.ERROR,
                self.out(ActorDiedError(f"actor {self.title} exited in {call.method}", reason="exited", ran=True)),
            )
            if self.state != ENDED:
                self.reason = "exited"
                self.state = ENDING
                self.abort()
        elif isinstance(error, asyncio.CancelledError) and call.cancelled:
            self.was_cancelled(call)
        elif self.aborted:
            return  # answered then
        elif call.tell:
            logger.error("a tell of %s to actor %s raised", call.method, self.title, exc_info=error)
        elif not self.too_late(call, error):
            self.answer(call, m.ERROR, self.out(error, infrastructure=False))


class LoopCell(OnLoop):
    """An actor whose methods run one at a time."""

    __slots__ = ("_now", "_parked", "_task")

    def __init__(self, node: Node, id: RefId, incarnation: int, recipe: Recipe) -> None:
        super().__init__(node, id, incarnation, recipe)
        self._task: asyncio.Task[None] | None = None
        self._now: ActorCall | None = None
        self._parked: dict[asyncio.Task[None], Step] | None = None  # generators that wait for their consumers

    def running(self) -> Iterable[ActorCall]:
        if self._now is not None:
            yield self._now
        for step in (self._parked or {}).values():
            yield step.call

    def tasks(self) -> Iterable[asyncio.Task[None]]:
        if self._task is not None:
            yield self._task
        yield from self._parked or ()

    def busy(self) -> bool:
        return bool(self._task is not None or self.box or self.waits() or self._parked)

    def wake(self) -> None:
        if self._task is not None:
            if self._watch is None:
                self._watch = self.node.env.call_later(HELD_UP, self._look, self._now or self._next())
        elif self.box and self.instance is not None:
            self._task = self.node.env.create_task(self._drain())

    async def _drain(self) -> None:
        box = self.box
        me = asyncio.current_task()
        assert me is not None
        base = self.node.base_context
        methods = self.methods
        while box:
            item = box.popleft()
            if type(item) is Step:
                await self._turn(item, me)
                continue
            call: ActorCall = item  # type: ignore[assignment]
            if call.cancelled:
                self.was_cancelled(call)
                continue
            info = methods.get(call.method)
            if info is None:
                self.no_method(call)
                continue
            ready = self.ready_arguments(call)
            if ready is None:
                continue
            context = base.copy()
            call.started = True
            if call.credit == ACKNOWLEDGE:
                self.answer(call, m.VALUE, None)
            context.run(running_call.set, CellContext(self, call))
            self._now = call
            try:
                fn = getattr(self.instance, call.method)
                kind = info.kind
                if kind == ASYNC:
                    coro = fn(*ready[0], **ready[1])
                    try:
                        # Most methods never suspend: the machinery for those that do starts when one does.
                        waits_for = context.run(coro.send, None)
                    except StopIteration as stop:
                        value = stop.value
                    else:
                        value = await InContext(coro, context, waits_for)
                elif kind in (ASYNC_GENERATOR, GENERATOR):
                    items = context.run(fn, *ready[0], **ready[1])
                    call.credit = Credit(call.credit)
                    await self._turn(Step(call, items, context), me)
                    continue
                else:
                    value = context.run(fn, *ready[0], **ready[1])
                    if inspect.iscoroutine(value):
                        value = await InContext(value, context)
            except BaseException as error:
                self._now = None
                while me.cancelling():
                    me.uncancel()
                self.raised(call, error)
            else:
                self._now = None
                while me.cancelling():  # it swallowed its cancellation
                    me.uncancel()
                self.returned(call, value)
            if self.state == ENDED:
                return
        if self._task is me:
            self._task = None
        if not self.box:
            self.box = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self.state == ENDING:
            self.idle()

    # -- generator methods ---------------------------------------------------------------------------------------------

    async def _turn(self, step: Step, me: asyncio.Task[None]) -> None:
        """One step of a generator method: to its next yield. Other calls run until its consumer wants the next item."""
        call = step.call
        self._now = call
        try:
            if call.credit.closed or call.cancelled:
                raise asyncio.CancelledError
            item = await driving.next_item(step.items, step.context)
            out = None if item is END else self.node.codec.pack(item, where="item")
        except BaseException as error:
            while me.cancelling():
                me.uncancel()
            if isinstance(error, asyncio.CancelledError) and (call.credit.closed or call.cancelled):
                call.cancelled = True
            await driving.close(step.items, step.context)
            self._now = None
            if isinstance(error, SerializationError):
                self.refused(call, error)
            else:
                self.raised(call, error)
            return
        self._now = None
        if item is END:
            self.answer(call, m.VALUE, step.index)
        elif self.aborted:
            await driving.close(step.items, step.context)
        else:
            self.node.hosting.send_item(call, step.index, out)
            step.index += 1
            waiter = self.node.env.create_task(self._until_wanted(step))
            if self._parked is None:
                self._parked = {}
            self._parked[waiter] = step
            waiter.add_done_callback(self._wanted)

    async def _until_wanted(self, step: Step) -> None:
        await step.call.credit.take()

    def _wanted(self, waiter: asyncio.Task[None]) -> None:
        assert self._parked is not None
        step = self._parked.pop(waiter)
        if waiter.cancelled():
            self.discard(step)
            self.idle()
            return
        if self.box is None:
            self.box = deque()
        self.box.append(step)
        self.wake()

    def cancel(self, call: ActorCall) -> None:
        call.cancelled = True
        if call is self._now:
            if self._task is not None:
                self._task.cancel()
        elif isinstance(call.credit, Credit):
            call.credit.add(-1)
        else:
            self.open_gates()

    # -- a call that holds others up -----------------------------------------------------------------------------------

    def _next(self) -> ActorCall | None:
        if not self.box:
            return None
        first = self.box[0]
        return first.call if isinstance(first, Step) else first

    def _look(self, behind: ActorCall | None) -> None:
        self._watch = None
        now = self._now
        if now is None or not self.box:
            return
        if now is behind and now is not self._told and self._task is not None:
            self._told = now
            driving.held_up(self.title, len(self.box), now.method, self._task.get_coro())
        self._watch = self.node.env.call_later(HELD_UP, self._look, now)


class TaskCell(OnLoop):
    """An actor of whose calls several may run, each as a task: `max_concurrency` of them, what their group allows, or
    all of a method that interleaves."""

    __slots__ = ("_calls", "_groups")

    def __init__(self, node: Node, id: RefId, incarnation: int, recipe: Recipe, groups: Groups) -> None:
        super().__init__(node, id, incarnation, recipe)
        self._groups = groups
        self._calls: dict[asyncio.Task[None], _Turn] = {}

    @property
    def depth(self) -> int:
        return super().depth + len(self._groups)

    def running(self) -> Iterable[ActorCall]:
        return [turn.call for turn in self._calls.values()]

    def tasks(self) -> Iterable[asyncio.Task[None]]:
        return self._calls

    def busy(self) -> bool:
        return bool(self._calls or self.waits() or len(self._groups))

    def drain(self) -> list[ActorCall | Step]:
        # A future stands for a generator, whose task is among those that run.
        waiting: list[ActorCall | Step] = [item for item in self._groups.drain() if isinstance(item, ActorCall)]
        return [*super().drain(), *waiting]

    def enqueue(self, call: ActorCall) -> None:
        group = self._groups.of(call.method)
        self._groups.add(group, call)
        self._start_more(group)

    def wake(self) -> None:
        for group in self._groups:
            self._start_more(group)

    def _start_more(self, group: str) -> None:
        if self.instance is None or self.state == ENDED:
            return
        groups = self._groups
        while (item := groups.take(group)) is not None:
            if isinstance(item, ActorCall):
                if not self._start_call(item, group):
                    groups.leave(group)
            elif item.done():  # its task was cancelled
                groups.leave(group)
            else:
                item.set_result(None)
        if self._watch is None:
            head = groups.head(group)
            if head is not None:
                self._watch = self.node.env.call_later(HELD_UP, self._look, group, head)
        if self.state == ENDING:
            self.idle()

    def _start_call(self, call: ActorCall, group: str) -> bool:
        if call.cancelled:
            self.was_cancelled(call)
            return False
        info = self.methods.get(call.method)
        if info is None:
            self.no_method(call)
            return False
        ready = self.ready_arguments(call)
        if ready is None:
            return False
        context = self.node.base_context.copy()
        context.run(running_call.set, self.begin(call))
        turn = _Turn(self._groups, group, call, self._start_more)
        name = f"actorfw {self.recipe.name}.{call.method}"
        task = context.run(self.node.env.create_task, self._run(call, info, ready, turn), name)
        call.runner = task
        self._calls[task] = turn
        task.add_done_callback(self._ran)
        return True

    async def _run(
        self, call: ActorCall, info: MethodInfo, ready: tuple[tuple[Any, ...], dict[str, Any]], turn: _Turn
    ) -> None:
        try:
            value = getattr(self.instance, call.method)(*ready[0], **ready[1])
            if info.streams:
                count = await self._stream(call, value, turn)
                self.answer(call, m.VALUE, count)
                return
            if inspect.isawaitable(value):
                value = await value
        except SerializationError as error:
            if info.streams:
                self.refused(call, error)
            else:
                self.raised(call, error)
        except BaseException as error:
            self.raised(call, error)
        else:
            self.returned(call, value)

    def _ran(self, task: asyncio.Task[None]) -> None:
        turn = self._calls.pop(task)
        if task.cancelled():  # before its first step
            self.raised(turn.call, asyncio.CancelledError())
        elif task.exception() is not None:
            logger.error("actor %s: %r", self.title, task.exception())
        turn.leave()
        self.idle()

    async def _stream(self, call: ActorCall, items: Any, turn: _Turn) -> int:
        credit = call.credit = Credit(call.credit)
        index = 0
        try:
            while (item := await driving.next_item(items)) is not END:
                self.node.hosting.send_item(call, index, self.node.codec.pack(item, where="item"))
                index += 1
                turn.leave()
                if not await credit.take():
                    call.cancelled = True
                    raise asyncio.CancelledError
                await turn.enter()
        finally:
            await driving.close(items)
        return index

    def cancel(self, call: ActorCall) -> None:
        call.cancelled = True
        if call.runner is not None:
            call.runner.cancel()
        else:
            self.open_gates()

    def _look(self, group: str, head: Any) -> None:
        self._watch = None
        waiting = self._groups.head(group)
        if waiting is None or self.state == ENDED:
            return
        if waiting is head:
            for task, turn in self._calls.items():
                if turn.held and turn.group == group:
                    if turn.call is not self._told:
                        self._told = turn.call
                        driving.held_up(self.title, len(self._groups), turn.call.method, task.get_coro())
                    break
        self._watch = self.node.env.call_later(HELD_UP, self._look, group, waiting)


class _Turn:
    """A call's place among those of its group: held from its start, but for the pauses of a generator."""

    __slots__ = ("_groups", "_then", "call", "group", "held")

    def __init__(self, groups: Groups, group: str, call: ActorCall, then: Any) -> None:
        self._groups = groups
        self._then = then  # hears that there is room in a group
        self.group = group
        self.call = call
        self.held = True

    def leave(self) -> None:
        if self.held:
            self.held = False
            self._groups.leave(self.group)
            self._then(self.group)

    async def enter(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._groups.add(self.group, turn)
        self._then(self.group)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.held = True  # it came at the same moment; given back when the task ends
            raise
        self.held = True
