"""`TaskCell`: an actor on the node's event loop of whose calls several may run, each as a task of its own."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any

from actorfw.runtime import driving, heldup
from actorfw.runtime.cells import ENDED, ENDING, Step
from actorfw.runtime.context import running_call
from actorfw.runtime.definitions import MethodInfo, Recipe
from actorfw.runtime.driving import END
from actorfw.runtime.execution import Credit
from actorfw.runtime.grouped import Grouped
from actorfw.runtime.groups import Groups
from actorfw.runtime.onloop import OnLoop
from actorfw.runtime.routes import ActorCall
from actorfw.values.ids import RefId
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actorfw.runtime.node import Node

__all__ = ["TaskCell"]

logger = logging.getLogger("actorfw.actors")


class TaskCell(Grouped, OnLoop):
    """An actor of whose calls several may run, each as a task: `max_concurrency` of them, what their group allows, or
    all of a method that interleaves."""

    __slots__ = ("_calls", "_groups")

    def __init__(self, node: Node, id: RefId, incarnation: int, recipe: Recipe, groups: Groups) -> None:
        super().__init__(node, id, incarnation, recipe)
        self._groups = groups
        self._calls: dict[asyncio.Task[None], _Turn] = {}

    def running(self) -> Iterable[ActorCall]:
        return [turn.call for turn in self._calls.values()]

    def tasks(self) -> Iterable[asyncio.Task[None]]:
        return self._calls

    def busy(self) -> bool:
        return bool(self._calls or self.waits() or len(self._groups))

    def drain(self) -> list[ActorCall | Step]:
        waiting: list[Any] = super().drain()
        # A future stands for a generator, whose task is among those that run.
        return [item for item in waiting if isinstance(item, (ActorCall, Step))]

    def _start_more(self, group: str) -> None:
        if self.instance is None or self.state == ENDED:
            return
        groups = self._groups
        while (item := groups.take(group)) is not None:
            if isinstance(item, ActorCall):
                if not self._start_call(item, group):
                    groups.leave(group)
                self.taken(item)  # lets in what stands at the door: that must not start before it
            elif item.done():  # its task was cancelled
                groups.leave(group)
            else:
                item.set_result(None)
        self.watch(group)
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
        self.node.windows.began(self, call)
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
        except BaseException as error:  # user code may raise anything, and the loop is not to end by it
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
                self.node.hosting.send_item(call, index, driving.pack_item(self.node.codec, item))
                index += 1
                turn.leave()
                if not await credit.room():
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

    def held_up(self, group: str, head: Any) -> None:
        for task, turn in self._calls.items():
            if turn.held and turn.group == group:
                where = heldup.place(heldup.frames_of_task(task))
                self.tell_held_up(turn.call, where, len(self._groups))
                break

    def held(self, call: ActorCall | None) -> Iterable[tuple[ActorCall, asyncio.Task[Any] | None]]:
        if call is not None and call.runner in self._calls:
            return ((call, call.runner),)
        groups = self._groups
        if call is not None:
            group = groups.of(call.method)
        else:
            group = next((group for group in groups if groups.head(group) is not None), "")
        if groups.has_room(group):
            return ()
        return [(turn.call, task) for task, turn in self._calls.items() if turn.held and turn.group == group]


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
