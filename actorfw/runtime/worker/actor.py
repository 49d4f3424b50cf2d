"""A process actor: the instance in its worker, and the way of a call from the socket into a method and back.

Here is what all of them share; how calls take turns is the part of `turns` (one after another on the main thread, or
in threads) and `loopturns` (on a loop). The mailbox proper, with its limits and its end, is the node's: what is here
has been given to the worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import Context
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from actorfw.runtime.context import CallContext, running_call
from actorfw.runtime.definitions import ASYNC_GENERATOR, DEF, GENERATOR, Interface, Recipe
from actorfw.runtime.exits import ActorExit
from actorfw.runtime.groups import BESIDE
from actorfw.runtime.handles import ActorHandle
from actorfw.runtime.heldup import place
from actorfw.runtime.marks import words_by_group
from actorfw.runtime.worker.answers import PACKING, PREPARING, Credit
from actorfw.values.errors import ActorDiedError, DeadlineExceededError, TaskCancelledError, TaskError
from actorfw.values.ids import RefId, text_id
from actorfw.wire.messages import CREATED, ENDED, HANGS, STARTED

if TYPE_CHECKING:
    from actorfw.core.renaming import Renaming
    from actorfw.runtime.worker.child import Worker

__all__ = ["Actor", "Call"]

_DEVICES: Final = "CUDA_VISIBLE_DEVICES"


class Call:
    """One call in this process.

    Attributes:
        no: the node's number of it.
        fn: the bound method; None until its arguments are unpacked.
        index: items that it has sent, if it is a generator.
        items: the generator, once it has been made.
        cancelling: its task was cancelled from outside, so a CancelledError in it is not the user's own.
        parked: it waits between two steps for its consumer.
        thread: in which it runs, where that is not the main thread.
        ended: it has been answered, so nothing more is said about it.
    """

    __slots__ = (
        "args",
        "attempt",
        "cancelling",
        "context",
        "credit",
        "deadline",
        "deps",
        "ended",
        "fn",
        "held",
        "index",
        "items",
        "kind",
        "kwargs",
        "method",
        "name",
        "no",
        "origin",
        "parked",
        "parts",
        "started",
        "thread",
    )

    def __init__(self, actor: Actor, message: list[Any]) -> None:
        _, no, _life, _number, _incarnation, method, args, deps, deadline, credit, parts, origin, attempt, *_ = message
        self.no: int = no
        self.method: str = method
        self.name = f"{actor.name}.{method}"
        self.args: Any = args
        self.attempt: int = attempt or 1  # a tell has one only
        self.kwargs: dict[str, Any] = {}
        self.deps: list[Any] | None = deps
        self.held: list[Any] | None = None  # their refs
        self.deadline: float | None = deadline
        self.parts: int = parts
        self.origin: Any = origin
        info = actor.methods.get(method)
        self.kind = DEF if info is None else info.kind
        self.credit = Credit(credit)
        self.fn: Callable[..., Any] | None = None
        self.items: Any = None
        self.index = 0
        self.context: Context | None = None
        self.started = False
        self.parked = False
        self.thread = 0
        self.cancelling = False
        self.ended = False

    @property
    def streams(self) -> bool:
        return self.kind in (GENERATOR, ASYNC_GENERATOR)


class Actor:
    """What is the same however calls take turns.

    Attributes:
        name: name of its class, for what it prints and for errors.
        instance: the user's object, once it is made.
        calls: those that have not been answered, by the node's number.
    """

    def __init__(self, worker: Worker, message: list[Any], recipe: Recipe) -> None:
        _, id, incarnation, hashed, args, deps, interface, gpus, lasting = message
        self.worker = worker
        self.id: RefId = (id[0], id[1])
        self.incarnation: int = incarnation
        self.lasting: bool = lasting
        self.recipe = recipe
        self.interface = Interface.from_wire(interface)
        self.methods = self.interface.methods
        self.name = recipe.name
        self.instance: Any = None
        self.gpus: tuple[int, ...] = tuple(gpus or ())
        self._groups = recipe.groups
        self._words = words_by_group(recipe.groups)
        self.calls: dict[int, Call] = {}
        self._hashed: bytes = hashed
        self._arguments = (args, worker.answers.ahead(deps))
        self._handle: ActorHandle | None = None
        worker.label = self.name
        if self.gpus:
            os.environ[_DEVICES] = ",".join(map(str, self.gpus))

    # -- its life ------------------------------------------------------------------------------------------------------

    def make(self) -> None:
        """Load the class and make the instance; if that fails, the node hears why and the process ends."""
        worker = self.worker
        stage = PREPARING
        try:
            actor_class, _ = worker.tasks.load_code(self.recipe.code)
            args, kwargs = worker.answers.arguments(*self._arguments)
            del self._arguments
            stage = PACKING
            self.instance = actor_class(*args, **kwargs)
        except BaseException as error:  # user code may raise anything: the node is told, and the process ends
            self.could_not_start(error, ours=stage == PREPARING)

    def could_not_start(self, error: BaseException, *, ours: bool = False) -> NoReturn:
        """`__init__` or `on_start` raised."""
        worker = self.worker
        worker.finish_lines()
        out = getattr(error, "out", None)
        if out is None:
            out = worker.answers.packed(error, infrastructure=ours)
        worker.line.outbox.append((CREATED, *self.id, self.incarnation, "failed", out))
        worker.line.flush()
        os._exit(0)

    def is_up(self) -> None:
        """It takes calls from now on."""
        self.worker.finish_lines()
        self.worker.line.outbox.append((CREATED, *self.id, self.incarnation, "up", None))
        self.worker.line.flush()

    def hook(self, name: str) -> Callable[..., Any] | None:
        """`on_start` or `on_stop`, if the class has one."""
        found = getattr(self.instance, name, None)
        return found if callable(found) else None

    def stop_failed(self, error: BaseException) -> None:
        """`on_stop` raised: the end goes on, and whoever reads the output sees why."""
        import traceback

        text = "".join(traceback.format_exception(error))
        self.worker.stderr.write(f"on_stop of actor {self.name} failed:\n{text}")

    def gone(self, reason: str) -> NoReturn:
        """It has ended, and this process with it."""
        worker = self.worker
        worker.finish_lines()
        worker.line.outbox.append((ENDED, *self.id, self.incarnation, reason, None))
        worker.line.flush()
        os._exit(0)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def arrived(self, message: list[Any]) -> Call:
        """Take a CALL in. Under the line's lock."""
        left = message[8]
        if left is not None:
            message[8] = monotonic() + left / 1000
        message[6] = self.worker.objects.keep(message[6])
        call = Call(self, message)
        call.held = self.worker.answers.ahead(call.deps)
        self.calls[call.no] = call
        return call

    def prepare(self, call: Call) -> bool:
        """Its turn has come: unpack its arguments; False if it is answered already, or now."""
        if call.ended:
            return False
        try:
            if call.deadline is not None and call.deadline <= monotonic():
                raise DeadlineExceededError(f"{call.name} was due before it could start", ran=False)
            fn = getattr(self.instance, call.method, None)
            if fn is None:
                raise TaskError(f"actor {self.name} has no method {call.method!r}", ran=False)
            args = call.args
            if type(args) is not list or (args and type(args[0]) is bytes):
                call.args, call.kwargs = self.worker.answers.arguments(args, call.held)
            call.held = None
        except BaseException as error:  # unpickling runs user code; the caller is told
            self.raised(call, error, PREPARING)
            return False
        call.fn = fn
        if call.context is None:
            call.context = context = Context()
            context.run(running_call.set, self.context_of(call))
        return True

    def context_of(self, call: Call) -> CallContext:
        """What `actorfw.context()` says inside a call."""
        return CallContext(
            node_id=self.worker.node_id,
            call=(call.origin[0], call.origin[1]),
            actor_id=text_id(self.id),
            attempt=call.attempt,
            deadline=call.deadline,
            gpus=self.gpus,
            handle=self.handle(),
            fencing_token=self.incarnation,
            number=call.no,
            trace=tuple(call.origin[2:]) or None,
        )

    def own_context(self) -> Context:
        """For what runs outside of any call: `__init__` and the hooks."""
        context = Context()
        known = CallContext(
            node_id=self.worker.node_id,
            actor_id=text_id(self.id),
            gpus=self.gpus,
            handle=self.handle(),
            fencing_token=self.incarnation,
        )
        context.run(running_call.set, known)
        return context

    def reborn(self, renaming: Renaming) -> None:
        """The node has a new life."""
        self.id = renaming.id(self.id)
        if self._handle is not None:
            self._handle._guardian = self.id[0]

    def handle(self) -> ActorHandle:
        """The actor's handle to itself, which does not keep it alive."""
        if self._handle is None:
            interfaces = self.worker.objects.interfaces
            known = interfaces.known(self.interface)
            made = interfaces.handle_class(known)
            self._handle = made(self.worker, self.id[0], self.id[1], self.worker.address, known, None)
        return self._handle

    def started(self, call: Call) -> None:
        """It runs, and others may beside it: tell the node which those are."""
        if not call.started:
            call.started = True
            self.worker.line.outbox.append((STARTED, call.no))
            if self.lasting:
                with self.worker.line.lock:
                    self.noted(call.no, self.group_of(call))

    def noted(self, no: int, group: str) -> None:
        """If the process dies from now on, the next incarnation is not given this call. The calls of a group are noted
        in their order."""
        word = self._words.get(group)
        marks = self.worker.marks
        if marks is None or word is None:
            self.worker.line.outbox.append((STARTED, no))
            self.worker.line.flush()
        elif no > marks[word]:  # threads may begin in another order than their calls
            marks[word] = no

    def group_of(self, call: Call) -> str:
        """The concurrency group that a call runs in."""
        info = self.methods.get(call.method)
        if info is None:
            return ""
        if info.interleave:
            return BESIDE
        return info.group if info.group in self._groups else ""

    def returned(self, call: Call, value: Any) -> None:
        """It has ended with a value."""
        if self._end(call):
            self.worker.finish_lines()
            try:
                self.worker.answers.value(call.no, call.name, value, call.parts)
            except BaseException as error:  # pickling runs user code; the caller is told
                self.worker.answers.raised(call.no, call.name, error, PACKING)

    def yielded(self, call: Call, item: Any) -> None:
        """A generator has an item for its consumer."""
        self.worker.answers.item(call.no, call.index, item, call.credit)
        call.index += 1

    def streamed(self, call: Call) -> None:
        """A generator has ended."""
        if self._end(call):
            self.worker.finish_lines()
            self.worker.answers.value(call.no, call.name, call.index, 1)

    def raised(self, call: Call, error: BaseException, stage: int) -> None:
        """It has ended with an exception."""
        if not self._end(call):
            return
        self.worker.finish_lines()
        if isinstance(error, ActorExit):
            died = ActorDiedError(f"actor {self.name} exited in {call.method}", reason="exited", ran=True)
            self.worker.answers.failed(call.no, died)
        else:
            self.worker.answers.raised(call.no, call.name, error, stage, call.deadline)

    def cancelled(self, call: Call) -> None:
        """It was cancelled."""
        if self._end(call):
            ran = None if call.fn is not None else False
            self.worker.answers.failed(call.no, TaskCancelledError(f"{call.name} was cancelled", ran=ran))

    def _end(self, call: Call) -> bool:
        with self.worker.line.lock:
            if call.ended:
                return False
            call.ended = True
            self.calls.pop(call.no, None)
            return True

    def start(self) -> None:
        """Make the instance, call `on_start`, and take calls."""
        raise NotImplementedError

    def on_call(self, message: list[Any]) -> None:
        """A CALL has come. Under the line's lock, in whichever thread reads."""
        raise NotImplementedError

    def on_end(self, message: list[Any]) -> None:
        """END: nothing is unanswered any more, and nothing new comes. Likewise."""
        raise NotImplementedError

    def on_cancel(self, no: int) -> None:
        """A call is to be cancelled. Likewise."""
        raise NotImplementedError

    def on_hangs(self, message: list[Any]) -> None:
        """Calls wait for long: say which one holds them up, and where. Likewise."""
        no, frames = self.hanging(message[1])
        self.worker.line.outbox.append((HANGS, no, place(frames)))
        self.worker.line.flush()

    def hanging(self, begun: list[int]) -> tuple[int, list[FrameType]]:
        """The call that holds others up, and where it is; `begun`: those that come into question."""
        raise NotImplementedError

    def in_hand(self, begun: list[int]) -> Call | None:
        """The first of these calls that holds its turn."""
        for no in begun:
            call = self.calls.get(no)
            if call is not None and not call.parked:
                return call
        return None

    def on_credit(self, message: list[Any]) -> None:
        """The consumer of a generator took items. Under the line's lock."""
        call = self.calls.get(message[1])
        if call is not None:
            call.credit.add(message[2])
