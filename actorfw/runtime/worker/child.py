"""`Worker`: a worker process from birth to end, and the `Home` of the API inside it.

The main thread reads messages and runs what they ask for, one after another. As long as it is alone there is no other
thread in its way; threads and loops of the user's own are served by a reader thread that starts with the first of
them. What each part does stands in its module:
`line` reads and sends, `tasks` and `actor` run code, `objects` knows the refs, `verbs` passes on what user code asks
the node for, `interrupts` and `overseer` see to it that a long task is neither uncancellable nor in the way.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from asyncio import events
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from actorfw.core.renaming import Renaming
from actorfw.runtime import current
from actorfw.runtime.context import CallContext, running_call
from actorfw.runtime.definitions import ASYNC, ASYNC_GENERATOR, ActorDefinitions, MethodInfo, Recipe
from actorfw.runtime.handles import ActorHandle
from actorfw.runtime.refs import PENDING, Grip, ObjectRef, Reply
from actorfw.runtime.streams import Stream
from actorfw.runtime.worker.actor import Actor
from actorfw.runtime.worker.answers import Answers
from actorfw.runtime.worker.interrupts import Interrupts
from actorfw.runtime.worker.line import Line
from actorfw.runtime.worker.loopturns import LoopActor
from actorfw.runtime.worker.objects import WorkerObjects
from actorfw.runtime.worker.output import Output
from actorfw.runtime.worker.overseer import Overseer
from actorfw.runtime.worker.shared import Shared
from actorfw.runtime.worker.surroundings import Surroundings
from actorfw.runtime.worker.tasks import Tasks
from actorfw.runtime.worker.turns import SerialActor, ThreadedActor
from actorfw.runtime.worker.verbs import Verbs
from actorfw.values.ids import RefId
from actorfw.wire.code import CodeTable
from actorfw.wire.codec import Codec
from actorfw.wire.messages import (
    ALLOCATED,
    ANSWER,
    AWAITS,
    BLOB,
    BLOCKED,
    CALL,
    CANCEL,
    CREATE,
    CREATED,
    CREDIT,
    END,
    ENVIRONMENT,
    HANGS,
    ITEM,
    REBORN,
    RESULT,
    SETTLED,
    STOP,
    TASK,
    UNBLOCKED,
)
from actorfw.wire.payload import Packed

if TYPE_CHECKING:
    from actorfw.io.sharedmem import SharedMemory
    from actorfw.runtime.definitions import Definition, Interface

__all__ = ["Worker", "main"]


def main(
    channel: socket.socket,
    index: int,
    settings: dict[str, Any],
    marks: memoryview | None,
    memory: SharedMemory | None = None,
) -> NoReturn:
    """Be worker process `index` of a node, to the end."""
    worker = Worker(channel, index, settings, marks, memory)
    current.register(worker)
    os.register_at_fork(after_in_child=worker.forked_by_user)
    worker.interrupts.install()
    worker.stdout.install()
    worker.stderr.install()
    worker.run()


class Worker:
    """One worker process.

    Attributes:
        label: name of what is running, for what it prints.
        busy: whether the main thread is running what a message asked for.
        steps: how many messages it has run.
        awaited: refs that a loop or callback of the running task waits for.
        marks: where it notes what it starts (`runtime.marks`), if its node has given it such a place.
        shared: the shared memory of its node.
    """

    time = staticmethod(monotonic)

    def __init__(
        self,
        channel: socket.socket,
        index: int,
        settings: dict[str, Any],
        marks: memoryview | None,
        memory: SharedMemory | None,
    ) -> None:
        self.index = index
        self.marks = marks
        self.life: bytes = settings["life"]
        self.node_id: str = settings["node_id"]
        self.has_threads = True
        self.address: str = settings.get("address", "")
        self.namespace: str = settings.get("namespace", "default")
        self.open = True
        self.loop: asyncio.AbstractEventLoop | None = None
        self.label = ""
        self.busy = False
        self.steps = 0
        self.shared = Shared(self, memory, settings)
        self.line = Line(channel, self.shared)
        self.interrupts = Interrupts(self.line)
        self.codes = CodeTable(settings["host_id"])
        self.codec = Codec(self.codes)
        if memory is not None:
            self.codec.shared = self.shared
            self.codec.at_once = self.shared.allocate_all
        self.actor_classes = ActorDefinitions()
        self.objects = WorkerObjects(self)
        self.stdout = Output("stdout", self.line, self.interrupts, self._label)
        self.stderr = Output("stderr", self.line, self.interrupts, self._label)
        self.answers = Answers(self)
        self.tasks = Tasks(self)
        self.verbs = Verbs(self)
        self.overseer = Overseer(self)
        self.awaited: set[RefId] = set()
        self._lent = 0  # how many waits lend out the CPU
        self._told: set[bytes] = set()  # definitions that the node has
        self.surroundings = Surroundings(settings)
        self.resolver = self.surroundings.resolver
        self.actor: Actor | None = None
        self._run: dict[int, Callable[[list[Any]], object]] = {
            TASK: self.tasks.run,
            CREATE: self._create,
            STOP: self._stop,
        }
        self.codec.register(ObjectRef, self.objects.export_ref, self._adopt, resolves=True)
        self.handles_made(ActorHandle)
        line = self.line
        line.before_flush = self._tell_let_go
        line.on(TASK, self.tasks.accept)
        line.on(CREATE, self._on_create)
        line.on(STOP, line.inbox.append)
        line.on(BLOB, self._on_blob)
        line.on(ENVIRONMENT, self.surroundings.enter)
        line.on(SETTLED, self.objects.on_settled)
        line.on(ANSWER, self.verbs.on_answer)
        line.on(ITEM, self.verbs.on_item)
        line.on(RESULT, self.verbs.on_result)
        line.on(CREDIT, self._on_credit)
        line.on(REBORN, self._on_reborn)
        line.on(ALLOCATED, self.shared.on_allocated)
        line.on(CANCEL, self._on_cancel)

    # -- the main thread -----------------------------------------------------------------------------------------------

    def run(self) -> NoReturn:
        """Read and run, until the node says stop or is gone."""
        line = self.line
        inbox = line.inbox
        run = self._run
        overseer = self.overseer
        interrupts = self.interrupts
        while True:
            while inbox:
                try:
                    message = inbox.popleft()
                except IndexError:
                    break  # the overseer has just handed it back
                self.busy = True
                self.steps += 1
                if overseer.parked:
                    overseer.wake()
                run[message[0]](message)
                del message  # what it holds is not to live until the next one comes
                self.busy = False
                if inbox:
                    line.flush_if_due()
            line.flush()
            if interrupts.cancelled:
                interrupts.idle()
            dealt = line.dealt
            if inbox:
                continue  # the overseer has read it
            if line.shared:
                line.wait(inbox.__len__, None, reads=False)  # type: ignore[arg-type]
            else:
                line.read(dealt)

    def _stop(self, message: list[Any]) -> NoReturn:
        self.line.flush()
        os._exit(0)

    def turn(self, kind: int, run: Callable[[list[Any]], object]) -> None:
        """What the main thread does with messages of this kind from the inbox."""
        self._run[kind] = run

    def _on_create(self, message: list[Any]) -> None:
        message[4] = self.objects.keep(message[4])
        try:
            self.actor = actor = _actor(self, message)
        except Exception as error:  # its definition can't be read
            self.line.outbox.append((CREATED, *message[1], message[2], "failed", self.answers.packed(error)))
            return
        self.line.on(CALL, actor.on_call)
        self.line.on(END, actor.on_end)
        self.line.on(HANGS, actor.on_hangs)
        self.line.inbox.append(message)

    def _create(self, message: list[Any]) -> None:
        assert self.actor is not None
        message[4] = None  # the arguments: this call may last as long as the actor, and they need not
        self.actor.start()

    def relieve(self) -> None:
        """The running task takes long: others may run what waits behind it."""
        if self.actor is None:
            self.tasks.hand_back()

    def _tell_let_go(self) -> None:
        self.objects.tell_released()
        self.shared.tell_let_go()

    # -- messages that need no turn ------------------------------------------------------------------------------------

    def _on_blob(self, message: list[Any]) -> None:
        self._told.add(self.codes.add(message[2]))

    def _on_credit(self, message: list[Any]) -> None:
        if self.actor is not None:
            self.actor.on_credit(message)
            return
        self.tasks.on_credit(message[1], message[2])

    def _on_reborn(self, message: list[Any]) -> None:
        old, self.life = message[1:]
        renaming = Renaming(old, self.life)
        self.objects.reborn(renaming)
        self.verbs.reborn(renaming)
        self.awaited = set(map(renaming.id, self.awaited))
        if self.actor is not None:
            self.actor.reborn(renaming)
        self.line.outbox.append((REBORN, *message[1:]))

    def _on_cancel(self, message: list[Any]) -> None:
        if self.actor is not None:
            self.actor.on_cancel(message[1])
        else:
            self.tasks.cancel(message[1])

    # -- code ----------------------------------------------------------------------------------------------------------

    def ship(self, *hashes: bytes) -> None:
        """Have the blobs of these definitions sent, if the node has not had them."""
        for hashed in hashes:
            if hashed not in self._told:
                self._told.add(hashed)
                self.line.outbox.append((BLOB, hashed, self.codes.get(hashed)))

    def ship_with(self, wire: Any) -> None:
        """The same for the definitions that a value names."""
        if type(wire) is Packed and wire.codes:
            self.ship(*wire.codes)

    def handles_made(self, cls: type[ActorHandle]) -> None:
        """There is a new class of handles: the codec must know it."""
        self.codec.register(cls, self.objects.export_handle, self.objects.adopt_handle, kind="handle")

    # -- waiting -------------------------------------------------------------------------------------------------------

    @contextmanager
    def lending(self) -> Generator[None, None, None]:
        """While in here, others may use the CPU, and tasks that wait behind the running one go back."""
        self._lend()
        try:
            yield
        finally:
            self._take_back()

    def _lend(self) -> None:
        with self.line.lock:
            self._lent += 1
            if self._lent == 1:
                self.relieve()
                self.line.outbox.append((BLOCKED,))
        self.line.flush()

    def _take_back(self) -> None:
        with self.line.lock:
            self._lent -= 1
            if self._lent == 0:
                self.line.outbox.append((UNBLOCKED,))

    def wait_for(self, done: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait in user code until `done()`; False when the time is out.

        Raises:
            Interrupted: the call that waits was cancelled.
        """
        interrupts = self.interrupts
        inbox = self.line.inbox

        def over() -> bool:
            if inbox and self.actor is None:  # tasks that were on their way when this one began to wait
                self.relieve()
                self.line.flush()
            return done()

        if not interrupts.on_main():
            self.line.share()
            with self.lending():
                return self.line.wait(over, timeout, reads=False)
        cancelled = interrupts.cancelled
        with interrupts.shield, self.lending():
            came = self.line.wait(lambda: over() or interrupts.running in cancelled, timeout, reads=True)
        interrupts.check()
        return came

    def awaits_end(self) -> None:
        """The task has ended: whatever its loop still waited for, it does not any more."""
        with self.line.lock:
            if self.awaited:
                self.awaited.clear()
                self._take_back()

    def settled(self, ref: Reply[Any]) -> None:
        """A ref got its outcome. Under the lock."""
        if self.awaited and isinstance(ref, ObjectRef):
            id = (ref._owner, ref._number)
            if id in self.awaited:
                self.awaited.discard(id)
                if not self.awaited:
                    self._take_back()

    # -- Home: the future protocol -------------------------------------------------------------------------------------

    def at_home(self) -> bool:
        """Never: callbacks are touched under the lock."""
        return False

    def post(self, fn: Callable[..., object], *args: Any) -> None:
        """Run `fn(*args)` under the lock, now."""
        with self.interrupts.shield:
            if events._get_running_loop() is not None or not self.interrupts.on_main():
                self.line.share()
            with self.line.lock:
                fn(*args)
                self.line.tell_sleepers()

    def asked(self, ref: ObjectRef[Any]) -> None:
        """A callback waits for this ref: fetch it, and have somebody read. Under the lock."""
        self.objects.fetch(ref)
        self.line.share()
        if not self.awaited:
            self._lend()
        self.awaited.add((ref._owner, ref._number))
        self.line.flush()

    def unasked(self, ref: ObjectRef[Any]) -> None:
        self.objects.unasked(ref)

    def await_cancelled(self, ref: Reply[Any]) -> bool:
        return self.verbs.await_cancelled(ref)

    def grip(self, id: RefId) -> Grip:
        return self.objects.grip(id)

    def released(self, id: RefId) -> None:
        self.objects.released(id)

    def pin(self, thing: ObjectRef[Any] | ActorHandle) -> None:
        self.objects.pin(thing)

    def adopt_ref(self, owner: bytes, number: int, address: str) -> ObjectRef[Any]:
        return self.objects.adopt(owner, number, address)

    def adopt_handle(self, guardian: bytes, number: int, address: str, interface: Interface) -> ActorHandle:
        return self.objects.adopt_handle((guardian, number, address), interface)

    def _adopt(self, wire: tuple[bytes, int, str], extra: object) -> ObjectRef[Any]:
        return self.objects.adopt(*wire)

    def stream_credit(self, number: int, items: int) -> None:
        self.verbs.stream_credit(number, items)

    def stream_dropped(self, number: int) -> None:
        self.verbs.stream_dropped(number)

    def ref_of(self, out: Any) -> ObjectRef[Any]:
        return self.verbs.ref_of(out)

    # -- Home: verbs ---------------------------------------------------------------------------------------------------

    def submit(self, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self.interrupts.shield:
            return self.verbs.submit(definition, args, kwargs)

    def create_actor(self, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ActorHandle:
        with self.interrupts.shield:
            return self.verbs.create_actor(definition, args, kwargs)

    def call_actor(self, handle: ActorHandle, method: MethodInfo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self.interrupts.shield:
            return self.verbs.call_actor(handle, method, args, kwargs)

    def tell_actor(
        self, handle: ActorHandle, method: MethodInfo, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Reply[None]:
        with self.interrupts.shield:
            return self.verbs.tell_actor(handle, method, args, kwargs)

    def put(self, value: Any) -> ObjectRef[Any]:
        with self.interrupts.shield:
            return self.verbs.put(value)

    def ask(self, verb: str, *args: Any) -> Reply[Any]:
        with self.interrupts.shield:
            return self.verbs.ask(verb, *args)

    def cancel(self, ref: ObjectRef[Any] | Stream[Any], *, force: bool, recursive: bool) -> None:
        with self.interrupts.shield:
            self.verbs.cancel(ref, force=force, recursive=recursive)

    def accepted(self, ref: ObjectRef[Any]) -> Reply[None]:
        return self.ask("accepted", ref._owner, ref._number)

    def watch(self, refs: Sequence[ObjectRef[Any]], fn: Callable[[ObjectRef[Any]], object]) -> None:
        with self.interrupts.shield:
            self.verbs.watch(refs, fn)

    def wait_ready(self, refs: list[ObjectRef[Any]], num_returns: int, timeout: float | None) -> Reply[Any]:
        with self.interrupts.shield:
            return self.verbs.wait_ready(refs, num_returns, timeout)

    def block(self, waiting: list[Reply[Any]], timeout: float | None) -> bool:
        at = 0

        def done() -> bool:
            nonlocal at
            while at < len(waiting) and waiting[at]._state != PENDING:
                at += 1
            return at == len(waiting)

        if done():
            return True
        with self.interrupts.shield, self.line.lock:
            refs = [reply for reply in waiting if isinstance(reply, ObjectRef) and reply._state == PENDING]
            self.objects.blocks(refs)
        try:
            return self._block(waiting, done, timeout)
        finally:
            with self.interrupts.shield, self.line.lock:
                self.objects.unblocks(refs)

    def _block(self, waiting: list[Reply[Any]], done: Callable[[], bool], timeout: float | None) -> bool:
        serial = self.interrupts.running if timeout is None and self.actor is not None else 0
        if not serial or not self.interrupts.on_main():
            return self.wait_for(done, timeout)
        waits = [[ref._owner, ref._number] for ref in waiting if isinstance(ref, ObjectRef)]
        if len(waits) == len(waiting):
            self.line.outbox.append((AWAITS, serial, waits))
        try:
            return self.wait_for(done, timeout)
        finally:
            self.line.outbox.append((AWAITS, serial, []))

    def descriptors(self) -> list[int]:
        return []  # a worker's end is told by the zygote, whoever else has its line open

    def call_context(self) -> CallContext | None:
        return running_call.get() or self.tasks.call_context()

    # -- the rest ------------------------------------------------------------------------------------------------------

    def _label(self) -> str:
        return self.label

    def finish_lines(self) -> None:
        """Send what was printed without an end of line."""
        if self.stdout.unfinished:
            self.stdout.flush()
        if self.stderr.unfinished:
            self.stderr.flush()

    def forked_by_user(self) -> None:
        """In a child that user code forked (multiprocessing): it is no worker, and the connection is not its own."""
        self.open = False
        self.line.abandon()
        self.interrupts.after_fork()
        sys.stdout = sys.__stdout__
        sys.stderr = sys.__stderr__


def _actor(worker: Worker, message: list[Any]) -> Actor:
    """The actor that a CREATE asks for, with the way of taking turns that fits its class; it is not made yet."""
    recipe = Recipe.from_blob(worker.codes.get(message[3]))
    methods = [MethodInfo(*row) for row in message[6][1]]
    kind: type[Actor]
    if any(method.kind in (ASYNC, ASYNC_GENERATOR) for method in methods):
        kind = LoopActor
    elif recipe.max_concurrency > 1 or recipe.groups or any(method.interleave for method in methods):
        kind = ThreadedActor
    else:
        kind = SerialActor
    return kind(worker, message, recipe)
