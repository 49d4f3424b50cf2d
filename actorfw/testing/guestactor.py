"""`SimActor`: a process actor inside a simulated worker, its calls being tasks of the simulation's loop.

All kinds of process actors take turns this way here: one call at a time unless the class says more. The rest of what
runs in such a worker is in `actorfw.testing.guest`.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

from actorfw.runtime.context import running_call
from actorfw.runtime.definitions import DEF
from actorfw.runtime.worker.actor import Call
from actorfw.runtime.worker.answers import PREPARING
from actorfw.runtime.worker.loopturns import LoopActor
from actorfw.values.errors import DeadlineExceededError, TaskError
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.testing.guest import Guest

__all__ = ["SimActor", "inline"]


def inline(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call plain user code as its own process would: no loop runs there, so `actorfw.get` says what it can't do."""
    running = events._get_running_loop()
    events._set_running_loop(None)
    try:
        return fn(*args, **kwargs)
    finally:
        events._set_running_loop(running)


class SimActor(LoopActor):
    """A process actor whose calls are tasks of the simulation's loop."""

    worker: Any

    async def live(self) -> None:
        """Make the instance, and take calls."""
        guest: Guest = self.worker
        await asyncio.sleep(guest.duration(self.name))
        inline(self.own_context().run, self.make)
        hook = self.hook("on_start")
        if hook is not None:
            try:
                started = inline(hook)
                if started is not None:
                    await started
            except BaseException as error:  # user code may raise anything: the node is told, and the process ends
                self.could_not_start(error)
        limits = {"": self.recipe.max_concurrency, **self.recipe.groups}
        self._turns = {group: asyncio.Semaphore(limit) for group, limit in limits.items()}
        self.is_up()
        self._loop = asyncio.get_running_loop()
        self._take()

    def own_context(self) -> Context:
        return cast("Guest", self.worker).context(super().own_context().get(running_call))

    def _take(self) -> None:
        assert self._loop is not None
        self._taking = False
        while self._arrivals:
            call = self._arrivals.popleft()
            if not call.ended:
                call.context = cast("Guest", self.worker).context(None)
                self._tasks[call.no] = self._loop.create_task(self._run(call), context=call.context)

    def arrived(self, message: list[Any]) -> Call:
        message[6] = self.worker.objects.keep(message[6])
        if message[8] is not None:
            message[8] = self.worker.time() + message[8] / 1000
        call = Call(self, message)
        call.held = self.worker.answers.ahead(call.deps)
        self.calls[call.no] = call
        return call

    def prepare(self, call: Call) -> bool:
        guest: Guest = self.worker
        if call.ended:
            return False
        try:
            if call.deadline is not None and call.deadline <= guest.time():
                raise DeadlineExceededError(f"{call.name} was due before it could start", ran=False)
            fn = getattr(self.instance, call.method, None)
            if fn is None:
                raise TaskError(f"actor {self.name} has no method {call.method!r}", ran=False)
            args = call.args
            if type(args) is not list or (args and type(args[0]) is bytes):
                call.args, call.kwargs = guest.answers.arguments(args, call.held)
            call.held = None
        except BaseException as error:  # unpickling runs user code; the caller is told
            self.raised(call, error, PREPARING)
            return False
        call.fn = partial(self._slowly, fn, call) if call.kind == DEF else partial(inline, fn)
        return True

    async def _slowly(self, fn: Callable[..., Any], call: Call, *args: Any, **kwargs: Any) -> Any:
        guest: Guest = self.worker
        before, after = guest.halves(call.name)
        await asyncio.sleep(before)
        value = inline(fn, *args, **kwargs)
        await asyncio.sleep(after)
        return value

    def could_not_start(self, error: BaseException, *, ours: bool = False) -> NoReturn:
        out = getattr(error, "out", None)
        if out is None:
            out = self.worker.answers.packed(error, infrastructure=ours)
        self._leave(m.CREATED, "failed", out)

    def gone(self, reason: str) -> NoReturn:
        self._leave(m.ENDED, reason, None)

    def _leave(self, kind: int, word: str, out: Any) -> NoReturn:
        self.worker.line.outbox.append((kind, *self.id, self.incarnation, word, out))
        self.worker.line.flush()
        self.worker.process.exit()
        raise asyncio.CancelledError  # whoever runs this is buried from here on
