"""`OnLoop`: what all actors on the node's event loop share: how they begin, how they end, what becomes of a call.

Which calls run, and in which tasks, is the business of `runtime.loopcells` (one at a time) and `runtime.taskcells`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any

from actorfw.runtime import driving
from actorfw.runtime.cells import AT_ONCE, ENDED, ENDING, HOOK_SECONDS, STARTING, UP, Cell, CellContext, Step
from actorfw.runtime.context import running_call
from actorfw.runtime.definitions import Recipe
from actorfw.runtime.driving import Unsendable
from actorfw.runtime.exits import ActorExit
from actorfw.runtime.routes import ACKNOWLEDGE, ActorCall
from actorfw.values.errors import ActorDiedError
from actorfw.values.ids import RefId
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actorfw.runtime.node import Node

__all__ = ["OnLoop"]

logger = logging.getLogger("actorfw.actors")


class OnLoop(Cell):
    """What all actors on the loop share: how they begin, how they end, and what becomes of a call."""

    __slots__ = ("_hook", "aborted", "instance")

    def __init__(self, node: Node, id: RefId, incarnation: int, recipe: Recipe) -> None:
        super().__init__(node, id, incarnation, recipe)
        self.instance: Any = None
        self.aborted = False
        self._hook: asyncio.Task[None] | None = None  # on_start or on_stop, while it runs

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
        except BaseException as error:  # user code may raise anything: it is a crash of the actor, not of the node
            self.failed(error, then)
        else:
            self._is_up(then)

    async def _start(self, actor_class: type, args: tuple[Any, ...], kwargs: dict[str, Any], then: Any) -> None:
        try:
            instance = actor_class(*args, **kwargs)
            started = instance.on_start()
            if inspect.isawaitable(started):
                await started
        except BaseException as error:  # likewise
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

    def abort(self, *, lost: str = "") -> None:
        # What runs is cancelled, but for the running task.
        self.aborted = True
        tasks = list(self.tasks())
        if lost:
            self.lose(list(self.running()), lost)
        for call in () if lost else self.running():
            self.answer(call, m.ERROR, self.out(self.died(f" while {call.method} ran", ran=None)))
        self.drain_with(self.died())
        current = asyncio.current_task() if self.node.at_home() else None
        for task in tasks:
            if task is not current:
                task.cancel()
        if (lost or self.reason in AT_ONCE) and self._hook is not None and self._hook is not current:
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
        limit = self.node.env.call_later(HOOK_SECONDS, asyncio.current_task().cancel)  # type: ignore[union-attr]
        try:
            done = hook(self.reason)
            if inspect.isawaitable(done):
                await done
        except asyncio.CancelledError:
            if self.state != ENDED:
                logger.error("on_stop of actor %s was cancelled after %g s", self.title, HOOK_SECONDS)
        except Exception:  # user code, and nobody waits for it
            logger.exception("on_stop of actor %s failed", self.title)
        finally:
            limit.cancel()
            self._hook = None
            self.finished(self.reason)

    def finished(self, reason: str, out: Any = None) -> None:
        super().finished(reason, out)
        self.instance = None  # what it holds ends now: a timer of its calls may keep this cell for long

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
        except Exception as error:  # whatever keeps it from being sent
            self.refused(call, error)

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
        elif isinstance(error, Unsendable):
            self.refused(call, error.cause)
        elif call.tell:
            self.tell_failed(call, error)
        elif not self.too_late(call, error):
            self.answer(call, m.ERROR, self.out(error, infrastructure=False))
