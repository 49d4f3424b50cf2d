"""What user code in a worker asks its node for: nested tasks, actors, objects, control requests.

The worker numbers what it submits by itself, so nothing here waits for an answer. Where things run, retries and all
else is decided by the node, which owns what its workers submit.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from asyncio import events
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from hashlib import blake2b
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.context import milliseconds, with_trace
from actorfw.runtime.groups import BESIDE
from actorfw.runtime.handles import ActorHandle
from actorfw.runtime.lines import Places
from actorfw.runtime.outbox import OVERHEAD
from actorfw.runtime.refs import PENDING, READY, ObjectRef, Reply
from actorfw.runtime.selfcontained import check_by_value, new_id
from actorfw.runtime.streams import WINDOW, Stream
from actorfw.values.errors import DeadlineExceededError, MailboxFullError, OverloadedError, TaskCancelledError
from actorfw.values.ids import WORKER_SHIFT, RefId
from actorfw.wire.chunks import LARGE
from actorfw.wire.failures import pack_error, unpack_error
from actorfw.wire.messages import ASK, CANCEL, CREDIT, INVOKE, PUT, SPAWN, SUBMIT
from actorfw.wire.payload import size_of

if TYPE_CHECKING:
    from actorfw.core.renaming import Renaming
    from actorfw.runtime.definitions import Definition, MethodInfo
    from actorfw.runtime.worker.child import Worker
    from actorfw.values.environment import Environment

__all__ = ["Verbs"]

# Of a definition's options, those that its recipe does not hold and the submitting node acts on.
_SUBMITTERS: Final = frozenset(
    (
        "detached",
        "get_if_exists",
        "max_restarts",
        "restart_backoff",
        "max_retries",
        "max_task_retries",
        "name",
        "namespace",
        "overflow",
        "restart_backoff",
        "retry_delay",
        "retry_exceptions",
        "schedule_timeout",
        "scheduling",
    )
)

_PACE: Final = 1 << 20  # bytes of tasks that a worker submits before it asks whether there is room for more

_TELLS_AT_ONCE: Final = 64  # tells to one actor, after which a worker asks whether there is room for more
_TELLS_REMEMBERED: Final = 1000  # actors that a worker has told something


class Verbs:
    """The asking side of one worker process. Any thread may call it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._line = worker.line
        self._outbox = worker.line.outbox
        self._numbers = itertools.count((worker.index << WORKER_SHIFT) + 1)
        self._requests = itertools.count(1)
        self._places = Places()
        self._since_room = 0  # bytes submitted since the node was asked
        self._room: Reply[Any] | None = None
        self._tells: dict[RefId, tuple[int, Reply[None] | None]] = {}  # by actor, those told last at the end
        self._replies: dict[int, Reply[Any]] = {}
        self._streams: weakref.WeakValueDictionary[int, Stream[Any]] = weakref.WeakValueDictionary()

    def reborn(self, renaming: Renaming) -> None:
        """The node has a new life. Under the lock."""
        self._tells = {renaming.id(id): told for id, told in self._tells.items()}

    # -- tasks and actors ----------------------------------------------------------------------------------------------

    def submit(self, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A nested task: its ref, refs of its parts, or its stream."""
        worker = self._worker
        hashed, recipe = definition.wire(worker.codes, self._environment_of(definition))
        if definition.goes_along:
            args = (definition.target, *args)
        wire, deps = worker.codec.pack_args(args, kwargs)
        options = self._options_of(definition)
        self._make_room(OVERHEAD if type(wire) is list else OVERHEAD + size_of(wire))
        worker.ship(hashed, recipe.code)
        worker.ship_with(wire)
        worker.ship_with(options)
        left, parent = self._left_and_parent(definition.options.get("timeout"))
        parts = definition.options.get("num_returns", 1)
        number, answer, credit = self._answer(parts, streams=definition.streams)
        place = self._places.wire()
        self._send((SUBMIT, number, hashed, wire, _ids(deps), left, parent, parts, credit, options, place))
        return answer

    def _make_room(self, size: int, *, of: str = "tasks") -> None:
        """Now and then, ask whether the node has room for more, and wait until it has.

        Raises:
            OverloadedError: it has none, and a loop runs in this thread.
            MailboxFullError: the same, of calls.
        """
        self._since_room += size
        if self._since_room < _PACE:
            return
        room, self._room = self._room, None
        if events._get_running_loop() is None:
            self._since_room = 0
            self._worker.block([room or self.ask("room")], None)
        elif room is not None and not room.done():
            self._room = room
            error = OverloadedError if of == "tasks" else MailboxFullError
            raise error(
                f"the node of this worker process has no room for more {of}: await some results first", ran=False
            )
        else:
            self._since_room = 0
            self._room = self.ask("room")

    def create_actor(self, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ActorHandle:
        """A new actor: its handle."""
        worker = self._worker
        assert definition.interface is not None
        wire, deps = worker.codec.pack_args(args, kwargs)
        hashed, recipe = definition.wire(worker.codes, self._environment_of(definition))
        options = self._options_of(definition)
        worker.ship(hashed, recipe.code)
        worker.ship_with(wire)
        worker.ship_with(options)
        _, parent = self._left_and_parent(None)
        number: Any = next(self._numbers)
        id: RefId = (worker.life, number)
        if definition.options.get("detached"):
            check_by_value(definition.name, wire, args, kwargs)
            token = blake2b(worker.life + number.to_bytes(8, "big"), digest_size=8).digest()
            namespace = definition.options.get("namespace") or worker.namespace
            id, _ = new_id(token, namespace, definition.options.get("name"))
            number = list(id)
        handle = worker.objects.adopt_handle((*id, worker.address), definition.interface)
        self._send((SPAWN, number, hashed, wire, _ids(deps), parent, options, definition.interface.to_wire()))
        return handle

    def call_actor(self, handle: ActorHandle, method: MethodInfo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of an actor's method: its ref, refs of its parts, or its stream."""
        worker = self._worker
        wire, deps = worker.codec.pack_args(args, kwargs)
        self._make_room(OVERHEAD if type(wire) is list else OVERHEAD + size_of(wire), of="calls")
        worker.ship_with(wire)
        left, parent = self._left_and_parent(method.timeout)
        number, answer, credit = self._answer(method.num_returns, streams=method.streams)
        self._invoke(number, handle, method, wire, deps, left, parent, credit)
        return answer

    def tell_actor(
        self, handle: ActorHandle, method: MethodInfo, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Reply[None]:
        """A call that is not answered."""
        worker = self._worker
        wire, deps = worker.codec.pack_args(args, kwargs)
        self._make_room(OVERHEAD if type(wire) is list else OVERHEAD + size_of(wire), of="calls")
        worker.ship_with(wire)
        context = worker.call_context()
        left, parent = (None, 0) if context is None else (with_trace(None, context.trace), context.number)
        self._invoke(0, handle, method, wire, deps, left, parent, 0)
        # The window is the node's. It is asked now and then, and its answer is that of all tells since.
        id = (handle._guardian, handle._number)
        count, room = self._tells.pop(id, (0, None))
        count += 1
        if count % _TELLS_AT_ONCE == 0:
            room = self.ask("room_at", *id)
        self._tells[id] = (count, room)
        if len(self._tells) > _TELLS_REMEMBERED:
            del self._tells[next(iter(self._tells))]
        if room is not None and not room.done():
            return room
        reply: Reply[None] = Reply(worker)
        reply._settle(None)
        return reply

    def _invoke(
        self,
        number: int,
        handle: ActorHandle,
        method: MethodInfo,
        wire: Any,
        deps: list[ObjectRef[Any]] | None,
        left: Any,
        parent: int,
        credit: int,
    ) -> None:
        self._send(
            (
                INVOKE,
                number,
                handle._guardian,
                handle._number,
                method.name,
                wire,
                _ids(deps),
                left,
                parent,
                credit,
                method.num_returns,
                handle._address,
                BESIDE if method.interleave else method.group,
                method.max_task_retries,
                self._places.wire() if number else 0,
            )
        )

    def _answer(self, parts: int, *, streams: bool) -> tuple[int, Any, int]:
        """The first number of a call, what its caller gets, and the credit of its stream."""
        numbers = self._numbers
        number = next(numbers)
        if streams:
            stream: Stream[Any] = Stream(self._worker, number)
            self._streams[number] = stream
            return number, stream, WINDOW
        made = self._worker.objects.made
        if parts == 1:
            return number, made(number), 0
        if parts == 0:
            return number, (), 0
        with self._line.lock:  # the parts' numbers follow one another
            refs = [made(number)]
            while len(refs) < parts:
                following = next(numbers)
                if following != number + len(refs):  # another thread was in between: begin again
                    number = following
                    refs = []
                refs.append(made(following))
        return number, tuple(refs), 0

    def _environment_of(self, definition: Definition) -> Environment | None:
        resolver = self._worker.resolver
        if definition.runtime_env is None and resolver.inherited is None:
            return None
        return resolver.of(definition.runtime_env, resolver.inherited, definition.executor)

    def _options_of(self, definition: Definition) -> Any:
        given = {name: value for name, value in definition.options.items() if name in _SUBMITTERS}
        return self._worker.codec.pack(given, where="options") if given else None

    def _left_and_parent(self, timeout: float | None) -> tuple[Any, int]:
        context = self._worker.call_context()
        left = timeout
        if context is None:
            parent = 0
        else:
            parent = context.number
            if context.deadline is not None:
                inherited = context.deadline - monotonic()
                if inherited <= 0:
                    raise DeadlineExceededError("the deadline of the running call has passed", ran=False)
                left = inherited if left is None else min(left, inherited)
        told = None if left is None else milliseconds(left)
        return told if context is None else with_trace(told, context.trace), parent

    def _send(self, message: tuple[Any, ...]) -> None:
        self._outbox.append(message)
        self._line.flush_if_due()

    # -- objects -------------------------------------------------------------------------------------------------------

    def put(self, value: Any) -> ObjectRef[Any]:
        """A new object. A small value stays here too."""
        worker = self._worker
        wire = worker.codec.pack(value)
        worker.ship_with(wire)
        return self.ref_of(wire)

    def ref_of(self, wire: Any) -> ObjectRef[Any]:
        """A new object with this wire value."""
        number = next(self._numbers)
        ref = self._worker.objects.made(number)
        self._worker.objects.own.discard((ref._owner, number))
        if size_of(wire) <= LARGE:
            ref._lazy = False
            ref._out = wire
            ref._state = READY
        self._send((PUT, number, wire, self._places.wire()))
        return ref

    def cancel(self, target: ObjectRef[Any] | Stream[Any], *, force: bool, recursive: bool) -> None:
        """Cancel the call that makes this ref or stream."""
        worker = self._worker
        if isinstance(target, Stream):
            self._outbox.append((CANCEL, target._number, force, recursive, worker.life))
            worker.post(target._cancelled)
        else:
            self._outbox.append((CANCEL, target._number, force, recursive, target._owner))
            if (target._owner, target._number) in worker.objects.own:
                worker.post(self._fail_cancelled, target)
        self._line.flush()

    def _fail_cancelled(self, ref: ObjectRef[Any]) -> None:
        if ref._state == PENDING:
            error = TaskCancelledError(f"call {ref.id} was cancelled")
            ref._lazy = False
            ref._fail(pack_error(self._worker.codec, error, where="this process", infrastructure=True))
            self._worker.settled(ref)

    def await_cancelled(self, ref: Reply[Any]) -> bool:
        """An await was cancelled; True if the call goes with it. Under the lock."""
        if not isinstance(ref, ObjectRef):
            return False
        id = (ref._owner, ref._number)
        own = self._worker.objects.own
        if id not in own:
            return False
        own.discard(id)
        self._outbox.append((CANCEL, ref._number, False, True, ref._owner))
        self._line.flush()
        self._worker.settled(ref)
        return True

    def watch(self, refs: Sequence[ObjectRef[Any]], fn: Callable[[ObjectRef[Any]], object]) -> None:
        """Call `fn(ref)`, under the lock, when each has an outcome; fetches nothing."""
        objects = self._worker.objects
        with self._line.lock:
            for ref in refs:
                if ref._state != PENDING:
                    fn(ref)
                else:
                    objects.fetch(ref, with_value=False)
                    objects.on_ready.setdefault((ref._owner, ref._number), []).append(partial(fn, ref))
        self._line.flush()

    def wait_ready(self, refs: list[ObjectRef[Any]], num_returns: int, timeout: float | None) -> Reply[Any]:
        """Settles with (ready, pending) when so many have an outcome or the time is out; fetches nothing."""
        reply: Reply[Any] = Reply(self._worker)
        objects = self._worker.objects
        ready: set[RefId] = set()

        def is_ready(ref: ObjectRef[Any]) -> bool:
            return ref._state != PENDING or (ref._owner, ref._number) in ready

        def answer() -> None:
            if not reply.done():
                first = [ref for ref in refs if is_ready(ref)][:num_returns]
                taken = set(map(id, first))
                reply._settle((first, [ref for ref in refs if id(ref) not in taken]))

        def one_more(found: RefId | None) -> None:
            if found is not None:
                ready.add(found)
            if sum(map(is_ready, refs)) >= num_returns:
                answer()

        with self._line.lock:
            for ref in refs:
                if ref._state == PENDING:
                    key = (ref._owner, ref._number)
                    objects.fetch(ref, with_value=False)
                    waiting: list[Callable[[], object]] = objects.on_ready.setdefault(key, [])
                    waiting.append(partial(one_more, key))
            one_more(None)
        self._line.flush()
        if timeout is not None and not reply.done():
            timer = threading.Timer(timeout, lambda: self._worker.post(answer))
            timer.daemon = True
            timer.start()
            # The timer's thread does not read, and the main thread may be waiting in a read.
            self._line.share()
        return reply

    # -- control requests ----------------------------------------------------------------------------------------------

    def ask(self, verb: str, *args: Any) -> Reply[Any]:
        """A control request to the node."""
        reply: Reply[Any] = Reply(self._worker)
        request = next(self._requests)
        payload = self._worker.codec.pack(args, where=verb)
        self._worker.ship_with(payload)
        self._replies[request] = reply
        if verb == "watch":  # that may be long in coming: who does not wait any more says so
            with self._line.lock:
                reply._add((partial(self._withdraw, request), copy_context(), None))
        self._send((ASK, request, verb, payload))
        return reply

    def _withdraw(self, request: int, reply: Reply[Any]) -> None:
        if reply.cancelled() and self._replies.pop(request, None) is not None:
            self.ask("withdraw", request)

    def on_answer(self, message: list[Any]) -> None:
        """(request, ok, payload)"""
        _, request, ok, payload = message
        reply = self._replies.pop(request, None)
        payload = self._worker.objects.keep(payload)
        if reply is None:
            return
        if not ok:
            reply._fail(unpack_error(self._worker.codec, payload))
            return
        try:
            value = self._worker.codec.unpack(payload)
        except Exception as error:  # unpickling runs user code; whoever asked is told
            reply._fail(error)
        else:
            reply._settle(value)

    # -- streams that are consumed here --------------------------------------------------------------------------------

    def stream_credit(self, number: int, items: int) -> None:
        """The consumer took items."""
        self._outbox.append((CREDIT, number, items))
        self._line.flush_if_due()

    def stream_dropped(self, number: int) -> None:
        """The consumer went away: maybe in a finalizer, so it is only noted and goes with whatever is sent next."""
        self._outbox.append((CREDIT, number, -1))

    def on_item(self, message: list[Any]) -> None:
        """(number, index, out)"""
        out = self._worker.objects.keep(message[3])
        stream = self._streams.get(message[1])
        if stream is not None:
            stream._item(message[2], out)

    def on_result(self, message: list[Any]) -> None:
        """(number, state, out, kept): the end of a stream."""
        _, number, state, out, _kept = message
        out = self._worker.objects.keep(out)
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream._finish(state, out)


def _ids(deps: list[ObjectRef[Any]] | None) -> list[tuple[bytes, int, str]] | None:
    return None if deps is None else [(ref._owner, ref._number, ref._address) for ref in deps]
