"""`Guest`: what runs inside a simulated worker process, and the `Home` of the API there.

Refs, answers and submissions are those of real workers (`runtime.worker`); only the connection, the clock and the way
of taking turns are different, since all of them share the simulation's loop and none may block it. How a worker is
started, stalled and killed is in `actorfw.testing.workers`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, cast

from actorfw.core.renaming import Renaming
from actorfw.runtime import current
from actorfw.runtime.context import CallContext, running_call, with_trace
from actorfw.runtime.definitions import ASYNC, DEF, GENERATOR, ActorDefinitions, MethodInfo, Recipe
from actorfw.runtime.exits import Interrupted
from actorfw.runtime.handles import ActorHandle
from actorfw.runtime.refs import Grip, ObjectRef, Reply
from actorfw.runtime.streams import Stream
from actorfw.runtime.worker.answers import PACKING, PREPARING, RUNNING, Answers, Credit
from actorfw.runtime.worker.objects import WorkerObjects
from actorfw.runtime.worker.verbs import Verbs
from actorfw.testing.guestactor import SimActor, inline
from actorfw.testing.loop import NODE
from actorfw.values.environment import Environment
from actorfw.values.errors import DeadlineExceededError, TaskCancelledError, UsageError
from actorfw.values.ids import RefId
from actorfw.wire import messages as m
from actorfw.wire.code import CodeTable
from actorfw.wire.codec import Codec
from actorfw.wire.payload import Packed

if TYPE_CHECKING:
    from actorfw.runtime.definitions import Definition, Interface
    from actorfw.testing.workers import SimWorker

__all__ = ["Guest"]

RELIEF: Final = 0.01  # seconds of one task after which those behind it go back to the node, as in a real worker

NO_BLOCKING: Final = (
    "a simulated worker can't block: there is no other thread that could bring the value. "
    "Await it in an `async def` task, pass the ref on, or return it"
)


class SimLine:
    """The worker's end of the connection: what real ones do with a socket and threads."""

    shared = True

    def __init__(self, send: Callable[[list[Any]], None]) -> None:
        self.outbox: list[Any] = []
        self.lock = threading.RLock()
        self.before_flush: Callable[[], None] = lambda: None
        self._send = send

    def flush(self) -> None:
        """Send all that is in the outbox."""
        self.before_flush()
        if self.outbox:
            batch = self.outbox[:]
            self.outbox.clear()
            self._send(batch)

    def flush_if_due(self) -> None:
        """The same."""
        self.flush()

    def share(self) -> None:
        """Nobody has to read."""

    def tell_sleepers(self) -> None:
        """Nobody sleeps."""


class SimVerbs(Verbs):
    """Submitting, with virtual time."""

    def _left_and_parent(self, timeout: float | None) -> tuple[Any, int]:
        guest = cast("Guest", self._worker)
        context = guest.call_context()
        left = timeout
        parent = 0
        if context is not None:
            parent = context.number
            if context.deadline is not None:
                inherited = context.deadline - guest.time()
                if inherited <= 0:
                    raise DeadlineExceededError("the deadline of the running call has passed", ran=False)
                left = inherited if left is None else min(left, inherited)
        told = None if left is None else max(1, int(left * 1000))
        return told if context is None else with_trace(told, context.trace), parent

    def wait_ready(self, refs: list[ObjectRef[Any]], num_returns: int, timeout: float | None) -> Reply[Any]:
        reply = super().wait_ready(refs, num_returns, None)
        if timeout is not None and not reply.done():
            cast("Guest", self._worker).call_later(timeout, self._out_of_time, reply, refs, num_returns)
        return reply

    def _out_of_time(self, reply: Reply[Any], refs: list[ObjectRef[Any]], num_returns: int) -> None:
        first = [ref for ref in refs if ref.done()][:num_returns]
        taken = set(map(id, first))
        reply._settle((first, [ref for ref in refs if id(ref) not in taken]))


class Guest:
    """The inside of one worker process.

    Args:
        process: its outside.
        life: of its node.
        node_id: of its node.
        host_id: of its node.
        address: of its node.
        namespace: of its node.
    """

    def __init__(
        self, process: SimWorker, life: bytes, node_id: str, host_id: str, address: str, namespace: str
    ) -> None:
        self.process = process
        self.index = process.index
        self.life = life
        self.node_id = node_id
        self.has_threads = False
        self.address = address
        self.namespace = namespace
        self.open = True
        self.loop: asyncio.AbstractEventLoop | None = process.loop
        self.label = ""
        self.steps = 0
        self.marks = [0] * 8
        self.stderr = process
        self.line = SimLine(process.say)
        self.codes = CodeTable(host_id)
        self.codec = Codec(self.codes)
        self.actor_classes = ActorDefinitions()
        me = cast("Any", self)  # the parts are written against the inside of a real worker
        self.objects = WorkerObjects(me)
        self.answers = Answers(me)
        self.verbs = SimVerbs(me)
        self.tasks = self
        self.actor: SimActor | None = None
        self.resolver = process.resolver
        self.awaited: dict[RefId, None] = {}
        self._lent = 0
        self._told: set[bytes] = set()
        self._flush_due = False
        self._inbox: deque[list[Any]] = deque()
        self._credits: dict[int, Credit] = {}
        self._early: dict[int, int] = {}  # credit of generators that wait for their turn
        self._running: tuple[int, asyncio.Task[None]] | None = None
        self._cancelled: set[int] = set()
        self._main: asyncio.Task[None] | None = None
        self.codec.register(ObjectRef, self.objects.export_ref, self._adopt, resolves=True)
        self.handles_made(ActorHandle)
        self.line.before_flush = self.objects.tell_released
        self._handlers: dict[int, Callable[[list[Any]], object]] = {
            m.TASK: self._on_task,
            m.CREATE: self._on_create,
            m.CALL: lambda message: self._the_actor().on_call(message),
            m.END: lambda message: self._the_actor().on_end(message),
            m.HANGS: lambda message: self._the_actor().on_hangs(message),
            m.STOP: self._on_stop,
            m.ENVIRONMENT: self._on_environment,
            m.BLOB: lambda message: self._told.add(self.codes.add(message[2])),
            m.SETTLED: self.objects.on_settled,
            m.ANSWER: self.verbs.on_answer,
            m.ITEM: self.verbs.on_item,
            m.RESULT: self.verbs.on_result,
            m.CREDIT: self._on_credit,
            m.REBORN: self._on_reborn,
            m.CANCEL: self._on_cancel,
        }

    # -- time and place ------------------------------------------------------------------------------------------------

    def time(self) -> float:
        """The worker's own clock."""
        return self.process.loop.node_time(self.process.place)

    def duration(self, name: str) -> float:
        """How long something takes here, in virtual seconds."""
        return self.process.duration(name)

    def halves(self, name: str) -> tuple[float, float]:
        """The same, before and after the instant at which its effects happen."""
        return self.process.halves(name)

    def call_later(self, delay: float, fn: Callable[..., object], *args: Any) -> None:
        """Call `fn(*args)` in this process."""
        self.process.loop.call_later(delay, fn, *args, context=self.context(None))

    def context(self, running: CallContext | None) -> Context:
        """A context for user code."""
        context = Context()
        context.run(NODE.set, self.process.place)
        context.run(current.entered.set, self)
        context.run(running_call.set, running)
        return context

    # -- messages ------------------------------------------------------------------------------------------------------

    def hear(self, message: list[Any]) -> None:
        """A message of the node has come."""
        self._handlers[message[0]](message)

    def _the_actor(self) -> SimActor:
        assert self.actor is not None
        return self.actor

    def _on_create(self, message: list[Any]) -> None:
        message[4] = self.objects.keep(message[4])
        recipe = Recipe.from_blob(self.codes.get(message[3]))
        self.actor = SimActor(cast("Any", self), message, recipe)
        self._main = self.process.loop.create_task(self.actor.live(), context=self.context(None))

    def _on_environment(self, message: list[Any]) -> None:
        # One process is all there is here: only what is submitted here shows which environment this worker has.
        self.resolver.inherited = Environment.from_wire(message[1])

    def _on_stop(self, message: list[Any]) -> None:
        self.line.flush()
        self.process.exit()

    def _on_credit(self, message: list[Any]) -> None:
        if self.actor is not None:
            self.actor.on_credit(message)
            return
        _, no, items = message
        credit = self._credits.get(no)
        if credit is not None:
            credit.add(items)
        else:
            self._early[no] = self._early.get(no, 0) + items

    def _on_reborn(self, message: list[Any]) -> None:
        old, self.life = message[1:]
        renaming = Renaming(old, self.life)
        self.objects.reborn(renaming)
        self.verbs.reborn(renaming)
        self.awaited = {renaming.id(id): None for id in self.awaited}
        if self.actor is not None:
            self.actor.reborn(renaming)
        self.line.outbox.append((m.REBORN, *message[1:]))

    def _on_cancel(self, message: list[Any]) -> None:
        no = message[1]
        if self.actor is not None:
            self.actor.on_cancel(no)
            self.line.flush()
            return
        for waiting in list(self._inbox):
            if waiting[1] == no:
                self._take_out(waiting)
                name = Recipe.from_blob(self.codes.get(waiting[2])).name
                self.answers.failed(no, TaskCancelledError(f"task {name} was cancelled before it started", ran=False))
                self.line.flush()
                return
        if self._running is not None and self._running[0] == no and no not in self._cancelled:
            self._cancelled.add(no)
            self._running[1].cancel()

    def _take_out(self, message: list[Any]) -> None:
        self._inbox.remove(message)
        for dep in message[4] or ():
            self.objects.dep((dep[0], dep[1]))

    # -- tasks: one after another --------------------------------------------------------------------------------------

    def _on_task(self, message: list[Any]) -> None:
        if message[5] is not None:
            message[5] = self.time() + message[5] / 1000
        message[3] = self.objects.keep(message[3])
        self._inbox.append(message)
        if self._running is not None:
            self.call_later(RELIEF, self._relieve, self.steps)
        if self._main is None:
            self._main = self.process.loop.create_task(self._work(), context=self.context(None))

    async def _work(self) -> None:
        loop = self.process.loop
        while self._inbox:
            message = self._inbox.popleft()
            no = self.marks[0] = message[1]
            self.steps += 1
            if self._inbox:
                self.call_later(RELIEF, self._relieve, self.steps)
            running = CallContext(
                node_id=self.node_id,
                call=(message[9][0], message[9][1]),
                attempt=message[6],
                deadline=message[5],
                gpus=tuple(message[10] or ()),
                number=no,
                trace=tuple(message[9][2:]) or None,
            )
            task = loop.create_task(self._task(message), context=self.context(running))
            self._running = (no, task)
            del message, running  # what they hold is not to live until the next one comes
            await task
            del task
            self._running = None
            self._cancelled.discard(no)
            self._awaits_end()
            self.label = ""
            self.line.flush()
        self._main = None

    def _relieve(self, step: int) -> None:
        """That step takes long: others may run what waits behind it."""
        if self.steps == step and self._running is not None and self.actor is None:
            self._hand_back()
            self.line.flush()

    def _hand_back(self) -> None:
        numbers = [message[1] for message in self._inbox]
        for message in list(self._inbox):
            self._take_out(message)
        if numbers:
            self.line.outbox.append((m.HANDED_BACK, numbers))

    async def _task(self, message: list[Any]) -> None:
        _, no, hashed, args, deps, deadline, _, credit, num_returns, *_ = message
        name = "task"
        stage = PREPARING
        try:
            held = self.answers.ahead(deps)
            recipe = Recipe.from_blob(self.codes.get(hashed))
            name = self.label = recipe.name
            before, after = self.halves(name)
            await asyncio.sleep(before)
            fn, _cwd = self.load_code(recipe.code)
            if deadline is not None and deadline <= self.time():
                raise DeadlineExceededError(f"task {name} was due before it could start", ran=False)
            if type(args) is list and not (args and type(args[0]) is bytes):
                kwargs: dict[str, Any] = {}
            else:
                args, kwargs = self.answers.arguments(args, held)
            held = None
            stage = RUNNING
            kind = recipe.kind
            value: Any
            if kind == DEF:
                value = inline(fn, *args, **kwargs)
            elif kind == ASYNC:
                value = await fn(*args, **kwargs)
            elif kind == GENERATOR:
                value = await self._stream(no, name, _stepped(fn(*args, **kwargs)), credit)
            else:
                value = await self._stream(no, name, fn(*args, **kwargs), credit)
            await asyncio.sleep(after)
            stage = PACKING
            self.answers.value(no, name, value, num_returns)
        except BaseException as error:  # user code may raise anything, and gets it back as an answer
            if isinstance(error, asyncio.CancelledError) and no in self._cancelled:
                self.answers.raised(no, f"task {name}", Interrupted(), stage)
            else:
                late = isinstance(error, DeadlineExceededError)
                self.answers.raised(no, f"task {name}" if late else name, error, stage, deadline)
        waiting = {message[1] for message in self._inbox}
        self._early = {no: items for no, items in self._early.items() if no in waiting}

    async def _stream(self, no: int, name: str, items: AsyncGenerator[Any, Any], items_ahead: Any) -> int:
        credit = self._credits[no] = Credit(items_ahead)
        credit.taken(self._early.pop(no, 0))
        room = asyncio.Event()
        credit.wake = room.set
        count = 0
        try:
            while not credit.over(count):
                if not credit.there():
                    self._lend()
                    while not credit.there():
                        room.clear()
                        await room.wait()
                    self._take_back()
                if credit.closed:
                    break
                try:
                    item = await items.__anext__()
                except StopAsyncIteration:
                    break
                self.answers.item(no, count, item, credit)
                self.line.flush()
                count += 1
                await asyncio.sleep(self.duration(name) / 8)
        finally:
            del self._credits[no]
            await items.aclose()
        return count

    def load_code(self, code: bytes) -> tuple[Any, str | None]:
        """A function or class; the folder it came from does not matter here."""
        return self.codes.load(code), None

    # -- waiting: the CPU is lent out meanwhile ------------------------------------------------------------------------

    def _lend(self) -> None:
        self._lent += 1
        if self._lent == 1:
            if self.actor is None:
                self._hand_back()
            self.line.outbox.append((m.BLOCKED,))
            self.line.flush()

    def _take_back(self) -> None:
        self._lent -= 1
        if self._lent == 0:
            self.line.outbox.append((m.UNBLOCKED,))

    def _awaits_end(self) -> None:
        if self.awaited:
            self.awaited.clear()
            self._take_back()

    def settled(self, ref: Reply[Any]) -> None:
        """A ref got its outcome."""
        if isinstance(ref, ObjectRef):
            id = (ref._owner, ref._number)
            if id in self.awaited:
                del self.awaited[id]
                if not self.awaited:
                    self._take_back()

    def asked(self, ref: ObjectRef[Any]) -> None:
        """Somebody waits for this ref: fetch it."""
        self.objects.fetch(ref)
        if not self.awaited:
            self._lend()
        self.awaited[(ref._owner, ref._number)] = None
        self.line.flush()

    def block(self, waiting: list[Reply[Any]], timeout: float | None) -> bool:
        """Not here, unless nothing has to be waited for.

        Raises:
            UsageError: something has.
        """
        if all(reply.done() for reply in waiting):
            return True
        raise UsageError(NO_BLOCKING)

    # -- Home ----------------------------------------------------------------------------------------------------------

    def at_home(self) -> bool:
        return True

    def post(self, fn: Callable[..., object], *args: Any) -> None:
        fn(*args)

    def unasked(self, ref: ObjectRef[Any]) -> None:
        self.objects.unasked(ref)

    def await_cancelled(self, ref: Reply[Any]) -> bool:
        return self.verbs.await_cancelled(ref)

    def grip(self, id: RefId) -> Grip:
        return self.objects.grip(id)

    def released(self, id: RefId) -> None:
        self.objects.released(id)
        if not self._flush_due and self.process.alive and not self.process.loop.is_closed():
            self._flush_due = True
            self.process.loop.call_soon(self._flush, context=self.context(None))

    def _flush(self) -> None:
        self._flush_due = False
        self.line.flush()

    def pin(self, thing: ObjectRef[Any] | ActorHandle) -> None:
        self.objects.pin(thing)

    def adopt_ref(self, owner: bytes, number: int, address: str) -> ObjectRef[Any]:
        return self.objects.adopt(owner, number, address)

    def adopt_handle(self, guardian: bytes, number: int, address: str, interface: Interface) -> ActorHandle:
        return self.objects.adopt_handle((guardian, number, address), interface)

    def _adopt(self, wire: tuple[bytes, int, str], extra: object) -> ObjectRef[Any]:
        return self.objects.adopt(*wire)

    def handles_made(self, cls: type[ActorHandle]) -> None:
        """There is a new class of handles: the codec must know it."""
        self.codec.register(cls, self.objects.export_handle, self.objects.adopt_handle, kind="handle")

    def ship(self, *hashes: bytes) -> None:
        """Have the blobs of these definitions sent, if the node has not had them."""
        for hashed in hashes:
            if hashed not in self._told:
                self._told.add(hashed)
                self.line.outbox.append((m.BLOB, hashed, self.codes.get(hashed)))

    def ship_with(self, wire: Any) -> None:
        """The same for the definitions that a value names."""
        if type(wire) is Packed and wire.codes:
            self.ship(*wire.codes)

    def finish_lines(self) -> None:
        """What is printed here goes to the simulation's own output."""

    def stream_credit(self, number: int, items: int) -> None:
        self.verbs.stream_credit(number, items)

    def stream_dropped(self, number: int) -> None:
        self.verbs.stream_dropped(number)
        self.released((b"", 0))  # it goes with the next flush

    def ref_of(self, out: Any) -> ObjectRef[Any]:
        return self.verbs.ref_of(out)

    def submit(self, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.verbs.submit(definition, args, kwargs)

    def create_actor(self, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ActorHandle:
        return self.verbs.create_actor(definition, args, kwargs)

    def call_actor(self, handle: ActorHandle, method: MethodInfo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.verbs.call_actor(handle, method, args, kwargs)

    def tell_actor(
        self, handle: ActorHandle, method: MethodInfo, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Reply[None]:
        return self.verbs.tell_actor(handle, method, args, kwargs)

    def put(self, value: Any) -> ObjectRef[Any]:
        return self.verbs.put(value)

    def ask(self, verb: str, *args: Any) -> Reply[Any]:
        return self.verbs.ask(verb, *args)

    def cancel(self, ref: ObjectRef[Any] | Stream[Any], *, force: bool, recursive: bool) -> None:
        self.verbs.cancel(ref, force=force, recursive=recursive)

    def accepted(self, ref: ObjectRef[Any]) -> Reply[None]:
        return self.ask("accepted", ref._owner, ref._number)

    def watch(self, refs: Sequence[ObjectRef[Any]], fn: Callable[[ObjectRef[Any]], object]) -> None:
        self.verbs.watch(refs, fn)

    def wait_ready(self, refs: list[ObjectRef[Any]], num_returns: int, timeout: float | None) -> Reply[Any]:
        return self.verbs.wait_ready(refs, num_returns, timeout)

    def descriptors(self) -> list[int]:
        return []

    def call_context(self) -> CallContext | None:
        return running_call.get()


async def _stepped(items: Generator[Any, Any, Any]) -> AsyncGenerator[Any, Any]:
    try:
        while True:
            try:
                item = inline(next, items)
            except StopIteration:
                return
            yield item
    finally:
        items.close()
