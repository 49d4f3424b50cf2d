"""How the calls of a process actor without coroutines take turns: one after another on the main thread, or in threads.

A generator method holds the actor only from one `yield` to the next: each of its steps stands in the queue like a
call. A step that has no credit stands nowhere until its consumer has taken items.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.exits import ActorExit, Interrupted
from actorfw.runtime.heldup import frames_of_thread
from actorfw.runtime.worker.actor import Actor, Call
from actorfw.runtime.worker.answers import RUNNING
from actorfw.wire.messages import CALL, END

if TYPE_CHECKING:
    from actorfw.runtime.definitions import Recipe
    from actorfw.runtime.worker.child import Worker

__all__ = ["SerialActor", "ThreadedActor"]

_INTERLEAVED_AT_ONCE: Final = 256


class _Plain(Actor):
    """What begins and ends on the main thread."""

    def _begin(self) -> None:
        self.worker.turn(END, self._end_turn)
        context = self.own_context()
        context.run(self.make)
        hook = self.hook("on_start")
        if hook is not None:
            try:
                context.run(hook)
            except BaseException as error:  # user code may raise anything: the node is told, and the process ends
                self.could_not_start(error)
        self.is_up()

    def on_end(self, message: list[Any]) -> None:
        self.worker.line.inbox.append(message)

    def _end_turn(self, message: list[Any]) -> None:
        self._stop(message[3])

    def _stop(self, reason: str) -> None:
        hook = self.hook("on_stop")
        if hook is not None:
            try:
                self.own_context().run(hook, reason)
            except BaseException as error:  # likewise
                self.stop_failed(error)
        self.gone(reason)


class SerialActor(_Plain):
    """One call at a time, on the main thread: it can be interrupted, and needs no other thread."""

    def start(self) -> None:
        """Make the instance on the main thread."""
        worker = self.worker
        worker.turn(CALL, self._turn)
        self._begin()

    def on_call(self, message: list[Any]) -> None:
        call = self.arrived(message)
        if call.streams:
            call.credit.wake = lambda: self._wake(call)
        self.worker.line.inbox.append([CALL, call])

    def hanging(self, begun: list[int]) -> tuple[int, list[FrameType]]:
        return self.worker.interrupts.running, frames_of_thread(self.worker.interrupts.main)

    def on_cancel(self, no: int) -> None:
        call = self.calls.get(no)
        if call is None:
            return
        if call.fn is None:
            self.cancelled(call)
        elif call.parked:
            self.cancelled(call)
            self._wake(call)
        else:
            self.worker.interrupts.cancel(no)

    def _wake(self, call: Call) -> None:
        # Under the line's lock: the generator can go on, if only to be closed.
        if call.parked and (call.ended or call.credit.there()):
            call.parked = False
            self.worker.line.inbox.append([CALL, call])

    def _turn(self, message: list[Any]) -> None:
        """One call to its end, or one step of a generator. On the main thread."""
        call: Call = message[1]
        if call.items is None:
            if not self.prepare(call):
                return
            if self.lasting:
                self.noted(call.no, "")
        interrupts = self.worker.interrupts
        try:
            try:
                interrupts.begin(call.no)
                if call.streams:
                    self._step(call)
                    interrupts.running = 0
                else:
                    assert call.fn is not None
                    assert call.context is not None
                    value = call.context.run(call.fn, *call.args, **call.kwargs)
                    interrupts.running = 0
                    self.returned(call, value)
            except BaseException as error:  # user code may raise anything, and gets it back as an answer
                interrupts.running = 0
                self._raised(call, error)
        except Interrupted as error:  # it came while another exception was on its way
            self._raised(call, error)
        if call.ended:
            interrupts.cancelled.discard(call.no)

    def _raised(self, call: Call, error: BaseException) -> None:
        if call.items is not None:
            close(call)
        self.raised(call, error, RUNNING)
        if isinstance(error, ActorExit):
            self._stop("exited")

    def _step(self, call: Call) -> None:
        worker = self.worker
        if not step(self, call):
            return
        with worker.interrupts.shield:
            worker.line.flush_if_due()
            worker.line.read_now()  # other calls get their turn before the next step
            with worker.line.lock:
                cancelled = call.no in worker.interrupts.cancelled
                if not cancelled:
                    call.parked = True
                    self._wake(call)
        if cancelled:
            raise Interrupted


class ThreadedActor(_Plain):
    """Several calls at a time, in threads: `max_concurrency` of them, or what its group allows; interleaved ones
    beside all others.

    What runs in a thread can't be interrupted: a cancelled call is answered at once, and its result is dropped.
    """

    def __init__(self, worker: Worker, message: list[Any], recipe: Recipe) -> None:
        super().__init__(worker, message, recipe)
        limits = {"": recipe.max_concurrency, **recipe.groups}
        self._room = limits
        self._queues: dict[str, deque[Call]] = {group: deque() for group in limits}
        self._threads = ThreadPoolExecutor(sum(limits.values()) + _INTERLEAVED_AT_ONCE, thread_name_prefix=self.name)
        self._up = False

    def start(self) -> None:
        """Make the instance on the main thread, which then only reads."""
        worker = self.worker
        self._begin()
        with worker.line.lock:
            self._up = True
            for group in self._queues:
                self._dispatch(group)

    def on_call(self, message: list[Any]) -> None:
        call = self.arrived(message)
        if call.streams:
            call.credit.wake = lambda: self._wake(call)
        self._queue(call)

    def _group_of(self, call: Call) -> str | None:
        info = self.methods.get(call.method)
        if info is None:
            return ""
        if info.interleave:
            return None
        return info.group if info.group in self._room else ""

    def _queue(self, call: Call) -> None:
        group = self._group_of(call)
        if group is None:
            if self._up:
                self._threads.submit(self._run, call, None)
                return
            group = ""
        self._queues[group].append(call)
        self._dispatch(group)

    def _dispatch(self, group: str) -> None:
        # Under the line's lock.
        queue = self._queues[group]
        while self._up and queue and self._room[group] > 0:
            self._room[group] -= 1
            self._threads.submit(self._run, queue.popleft(), group)

    def _run(self, call: Call, group: str | None) -> None:
        """One call to its end, or one step of a generator. In a thread."""
        worker = self.worker
        call.thread = threading.get_ident()
        more = False
        try:
            if call.items is not None or self.prepare(call):
                worker.steps += 1
                self.started(call)
                if call.streams:
                    more = step(self, call)
                else:
                    assert call.fn is not None
                    assert call.context is not None
                    self.returned(call, call.context.run(call.fn, *call.args, **call.kwargs))
        except BaseException as error:  # user code may raise anything, and gets it back as an answer
            self.raised(call, error, RUNNING)
            if isinstance(error, ActorExit):
                self._stop("exited")
        with worker.line.lock:
            if group is not None:
                self._room[group] += 1
            if more:
                call.parked = True
                self._wake(call)
            if group is not None:
                self._dispatch(group)
        worker.line.flush()

    def _wake(self, call: Call) -> None:
        # Under the line's lock: the generator can go on, if only to be closed.
        if call.parked and (call.ended or call.credit.there()):
            call.parked = False
            self._queue(call)

    def hanging(self, begun: list[int]) -> tuple[int, list[FrameType]]:
        call = self.in_hand(begun)
        return (call.no, frames_of_thread(call.thread)) if call is not None else (0, [])

    def on_cancel(self, no: int) -> None:
        call = self.calls.get(no)
        if call is not None:
            self.cancelled(call)
            self._wake(call)
            self.worker.line.flush()


def close(call: Call) -> None:
    """End a generator that is not to go on; one that ended by itself is left alone."""
    assert call.context is not None
    try:
        call.context.run(call.items.close)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)  # what it raises now is nobody's answer


def step(actor: Actor, call: Call) -> bool:
    """Run a generator to its next `yield`, or close it if nobody wants more; True if there may be more."""
    context = call.context
    assert context is not None
    if call.items is None:
        assert call.fn is not None
        call.items = context.run(call.fn, *call.args, **call.kwargs)
        actor.started(call)
    if call.ended or call.credit.closed:
        context.run(call.items.close)
        actor.streamed(call)
        return False
    if not call.credit.there():
        return True
    try:
        item = context.run(next, call.items)
    except StopIteration:
        actor.streamed(call)
        return False
    actor.yielded(call, item)
    return True
