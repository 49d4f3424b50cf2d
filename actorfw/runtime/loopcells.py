"""`LoopCell`: an actor on the node's event loop whose calls run one at a time.

An idle one is an object without a task or a queue; a busy one has one asyncio task, in which each call runs in a
context of its own and is cancelled by that task's cancel and uncancel. A task that has emptied its mailbox waits a
moment for more (`runtime.parking`); then calls from peers need no turn of the loop.
"""

from __future__ import annotations

import asyncio
import inspect
from asyncio.tasks import _enter_task, _leave_task
from collections import deque
from typing import TYPE_CHECKING, Any

from actorfw.runtime import driving, heldup
from actorfw.runtime.cells import ENDED, ENDING, UP, CellContext, Step
from actorfw.runtime.context import running_call
from actorfw.runtime.definitions import ASYNC, ASYNC_GENERATOR, GENERATOR, Recipe
from actorfw.runtime.driving import END, InContext
from actorfw.runtime.execution import Credit
from actorfw.runtime.heldup import HELD_UP, SUSPECT
from actorfw.runtime.onloop import OnLoop
from actorfw.runtime.routes import ACKNOWLEDGE, ActorCall
from actorfw.values.ids import RefId
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actorfw.runtime.node import Node

__all__ = ["LoopCell"]


class LoopCell(OnLoop):
    """An actor whose methods run one at a time."""

    __slots__ = ("_now", "_parked", "_pause", "_suspended", "_task", "used")

    def __init__(self, node: Node, id: RefId, incarnation: int, recipe: Recipe) -> None:
        super().__init__(node, id, incarnation, recipe)
        self._task: asyncio.Task[None] | None = None
        self._now: ActorCall | None = None
        self._parked: dict[asyncio.Task[None], Step] | None = None  # generators that wait for their consumers
        self._pause: asyncio.Future[None] | None = None  # what the task waits for while there is nothing to do
        self._suspended: tuple[ActorCall, InContext] | None = None  # a call that began before the task woke up
        self.used = False  # since hosting looked last

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
        return bool((self._task is not None and self._pause is None) or self.box or self.waits() or self._parked)

    def wake(self) -> None:
        if self._pause is not None:
            pause, self._pause = self._pause, None
            pause.set_result(None)
        elif self._task is not None:
            if self._watch is None:
                env = self.node.env
                self._watch = env.call_later(SUSPECT, self._look, self._now or self._next(), env.time())
        elif self.box and self.instance is not None:
            self._task = self.node.env.create_task(self._drain())

    def finished(self, reason: str, out: Any = None) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        super().finished(reason, out)
        self.node.hosting.parking.leave(self)
        self.release()

    def abort(self, *, lost: str = "") -> None:
        task = self._task
        super().abort(lost=lost)
        if task is not None:
            task.add_done_callback(self._is_over)  # cancelled before its first step, it can't say so itself

    def _is_over(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
            self.idle()

    def release(self) -> None:
        """Let the task go that waits for something to do."""
        if self._pause is not None:
            pause, self._pause = self._pause, None
            pause.cancel()

    def arrive(self, call: ActorCall) -> None:
        """A call from a peer. If nothing runs or waits here its first step is made at once, in the name of the task
        that waits for something to do: most methods never suspend, and a turn of the loop costs more than they do."""
        pause = self._pause
        info = self.methods.get(call.method)
        if (
            pause is None
            or info is None
            or info.kind != ASYNC
            or call.deps
            or call.deadline is not None  # this process may have stood still: the word that it is over comes next
            or self._gates
            or self.state != UP
            or asyncio.current_task() is not None
        ):
            self.accept(call)
            return
        ready = self.ready_arguments(call)
        if ready is None:
            return
        node = self.node
        task = self._task
        loop = node.loop
        assert task is not None
        assert loop is not None
        self.used = True
        context = node.base_context.copy()
        call.started = True
        if call.credit == ACKNOWLEDGE:
            self.answer(call, m.VALUE, None)
        context.run(running_call.set, CellContext(self, call))
        self._now = call
        self._pause = None
        _enter_task(loop, task)
        try:
            coro = getattr(self.instance, call.method)(*ready[0], **ready[1])
            waits_for = context.run(coro.send, None)
        except StopIteration as stop:
            _leave_task(loop, task)
            self._now = None
            self.returned(call, stop.value)
        except BaseException as error:  # user code may raise anything, and the loop is not to end by it
            _leave_task(loop, task)
            self._now = None
            self.raised(call, error)
        else:
            _leave_task(loop, task)
            self._suspended = (call, InContext(coro, context, waits_for))
        if self._suspended is None and self.box is None and self.state == UP and not pause.done():
            self._pause = pause
        elif not pause.done():
            pause.set_result(None)

    async def _drain(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        parking = self.node.hosting.parking
        while True:
            if self._suspended is not None:
                (call, rest), self._suspended = self._suspended, None
                await self._finish(call, rest, me)
                del call, rest  # an idle actor keeps nothing of its last call
            if self.state != ENDED:
                await self._work(me)
            if self.state == ENDED:
                return
            self.box = None
            if self._watch is not None:
                self._watch.cancel()
                self._watch = None
            if self.state != UP or not parking.take(self):
                break
            pause = self._pause = self.node.env.create_future()
            try:
                await pause
            except asyncio.CancelledError as error:
                if self._suspended is None and not self.box:
                    break
                while me.cancelling():
                    me.uncancel()
                if self._suspended is not None:
                    self._suspended[1].error = error
            finally:
                self._pause = None
        if self._task is me:
            self._task = None
        if self.state == ENDING:
            self.idle()

    async def _finish(self, call: ActorCall, rest: InContext, me: asyncio.Task[None]) -> None:
        """Go on with a call whose first step has been made."""
        try:
            value = await rest
        except BaseException as error:  # likewise
            self._now = None
            while me.cancelling():
                me.uncancel()
            self.raised(call, error)
        else:
            self._now = None
            while me.cancelling():  # it swallowed its cancellation
                me.uncancel()
            self.returned(call, value)

    async def _work(self, me: asyncio.Task[None]) -> None:
        """Do what is in the mailbox."""
        base = self.node.base_context
        methods = self.methods
        box = self.box
        while box:
            item = box.popleft()
            if type(item) is Step:
                await self._turn(item, me)
                continue
            call: ActorCall = item  # type: ignore[assignment]
            self.pending -= 1
            if call.size or self.heard:
                self.node.windows.left(self, call)
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
                    self.node.windows.began(self, call)
                    await self._turn(Step(call, items, context), me)
                    continue
                else:
                    value = context.run(fn, *ready[0], **ready[1])
                    if inspect.iscoroutine(value):
                        value = await InContext(value, context)
            except BaseException as error:  # likewise
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

    # -- generator methods ---------------------------------------------------------------------------------------------

    async def _turn(self, step: Step, me: asyncio.Task[None]) -> None:
        """One step of a generator method: to its next yield. Other calls run until its consumer wants the next item."""
        call = step.call
        self._now = call
        try:
            if call.credit.closed or call.cancelled:
                raise asyncio.CancelledError
            item = await driving.next_item(step.items, step.context)
            out = None if item is END else driving.pack_item(self.node.codec, item)
        except BaseException as error:  # likewise
            while me.cancelling():
                me.uncancel()
            if isinstance(error, asyncio.CancelledError) and (call.credit.closed or call.cancelled):
                call.cancelled = True
            await driving.close(step.items, step.context)
            self._now = None
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
        await step.call.credit.room()

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

    def _look(self, behind: ActorCall | None, since: float) -> None:
        self._watch = None
        now = self._now
        if now is None or not self.box:
            return
        env = self.node.env
        if now is not behind:
            since = env.time()
        elif self._task is not None:
            if now is not self._told and env.time() - since >= HELD_UP - SUSPECT / 2:
                self._told = now
                where = heldup.place(heldup.frames_of_task(self._task))
                heldup.say(self.title, len(self.box), now.method, where)
            self.node.deadlocks.suspect(self)
        self._watch = env.call_later(SUSPECT, self._look, now, since)

    def held(self, call: ActorCall | None) -> Iterable[tuple[ActorCall, asyncio.Task[Any] | None]]:
        if self._now is None or any(step.call is call for step in (self._parked or {}).values()):
            return ()
        return ((self._now, self._task),)
