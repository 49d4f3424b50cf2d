"""What worker processes ask of their node: nested tasks, calls, actors, objects, values and control requests.

The node owns all that its workers submit. A worker numbers its own refs, and holds each from birth (`Ownership.born`)
until it says that its last handle is gone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.context import limits
from actorfw.runtime.definitions import Interface
from actorfw.runtime.guarded import Guarded
from actorfw.runtime.lines import Told, hint
from actorfw.runtime.objects import refs_in
from actorfw.runtime.refs import FAILED, PENDING, READY, ObjectRef, Reply
from actorfw.runtime.routes import ActorCall
from actorfw.runtime.streams import Stream
from actorfw.runtime.submitted import Task
from actorfw.values.errors import ActorFwError
from actorfw.values.ids import as_bytes
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error
from actorfw.wire.payload import Packed, size_of

if TYPE_CHECKING:
    from actorfw.runtime.channel import WorkerProcess
    from actorfw.runtime.node import Node

__all__ = ["WorkerCalls"]


_READINGS: Final = frozenset(("events", "watch_restarts"))  # the verbs whose answers are the numbers of readings


class _Relay(Stream[Any]):
    """The node's end of a stream that a worker consumes: items go on to the worker as they come."""

    __slots__ = ("_node", "_worker")

    def __init__(self, node: Node, number: int, worker: Any) -> None:
        super().__init__(node, number)
        self._node = node
        self._worker = worker

    def _item(self, index: int, out: Any, size: int = 0) -> None:
        self._node.outbound.give_worker(self._worker, out)
        self._worker.send((m.ITEM, self._number, index, out))

    def _finish(self, state: int, out: Any) -> None:
        self._end = (-1, None)
        self._node.outbound.give_worker(self._worker, out)
        self._worker.send((m.RESULT, self._number, state, out, None))
        self._node.workercalls.relays.pop(self._number, None)


class WorkerCalls:
    """The desk at which workers submit."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.relays: dict[int, _Relay] = {}
        self.lines = Told()
        # What a worker may wait for without end, by its index and request: its watches; and what it reads.
        self._waits: dict[tuple[int, int], Reply[Any]] = {}
        self._readings: dict[int, set[int]] = {}
        # What it waits for the values of.
        self._fetching: dict[tuple[int, int, ObjectRef[Any]], Callable[[ObjectRef[Any]], object]] = {}

    # -- submitting ----------------------------------------------------------------------------------------------------

    def _born(self, process: WorkerProcess, number: int, line: str) -> ObjectRef[Any]:
        objects = self.node.objects
        ref = objects.made(number)
        if line:
            ref._made = objects._lines[number] = line
            ref._address = hint(self.node.address, line)
        id = (self.node.life, number)
        objects._refs[id] = ref
        objects._exported[number] = None
        self.node.births.born(number)
        objects.carry_out(objects.ownership.born(id, self._key(process)))
        ref._grip = objects.grip(id)
        return ref

    def _key(self, process: WorkerProcess) -> Any:
        return self.node.pool.workers[process.index].key

    def _parent(self, process: WorkerProcess, serial: int) -> int:
        return serial if serial in self.node.execution.by_serial else 0

    def on_submit(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A nested task."""
        _, number, hashed, args, deps, left, parent, num_returns, credit, options, place = msg
        node = self.node
        given = node.codec.unpack(options) or {}
        task = Task(number, hashed, node.recipe(hashed), node.objects.keep(args), _deps(deps), given)
        task.deadline, task.trace = limits(left, node.env.time())
        task.parent = self._parent(process, parent)
        task.num_returns = num_returns
        task.name = task.options.get("name") or task.name
        if credit:
            task.stream = self._relay(process, number)
            task.credit = credit
        else:
            line = self.lines.line(process.index, place)
            task.refs = tuple(self._born(process, number + i, line) for i in range(num_returns))
        if task.recipe.environment is not None:
            node.environments.submitted(task.recipe.environment)
        node.tasks.enter(task)

    def on_invoke(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A call of an actor's method."""
        _, number, life, actor, method, args, deps, left, _parent, credit, num_returns, *more = msg
        address, group, retries, place = more
        node = self.node
        call = ActorCall(number, method, node.objects.keep(args), _deps(deps))
        if type(call.args) is not list:
            call.size = size_of(call.args)
        call.caller = process.index
        call.group = group
        call.retries = retries
        call.deadline, call.trace = limits(left, node.env.time())
        call.num_returns = num_returns if num_returns < 2 else [number + i for i in range(num_returns)]
        id = (life, actor)
        call.hold = node.objects.grip(id)
        if not number:
            node.windows.tell(call, id, address)
            return
        if credit:
            call.credit = credit
            call.stream = self._relay(process, number)
        else:
            line = self.lines.line(process.index, place)
            refs = tuple(self._born(process, number + i, line) for i in range(num_returns))
            call.ref = refs[0] if num_returns == 1 else refs
        node.calls.start(call, id, address)

    def on_spawn(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A new actor."""
        _, number, hashed, args, deps, _parent, options, interface_wire = msg
        node = self.node
        given = node.codec.unpack(options) or {}
        interface = node.interfaces.known(Interface.from_wire(interface_wire))
        environment = node.recipe(hashed).environment
        if environment is not None:
            node.environments.submitted(environment)
        if type(number) is list:
            detached = (as_bytes(number[0]), number[1])
            node.detached.spawned(detached, hashed, node.recipe(hashed), interface, node.objects.keep(args), given)
            return
        id = (node.life, number)
        actor = Guarded(id, hashed, node.recipe(hashed), interface)
        actor.args = node.objects.keep(args)
        actor.deps = _deps(deps)
        node.objects.carry_out(node.objects.ownership.born(id, self._key(process)))
        node.guardians.enter(actor, given)

    def on_put(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A new object."""
        _, number, out, place = msg
        ref = self._born(process, number, self.lines.line(process.index, place))
        self.node.objects.settled(ref, READY, self.node.objects.keep(out))

    # -- values --------------------------------------------------------------------------------------------------------

    def on_fetch(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A worker waits for a value, or to hear that there is one."""
        _, owner, number, with_value, address = msg
        node = self.node
        worker = node.pool.workers.get(process.index)
        if worker is None:
            return
        ref = node.objects.adopt(as_bytes(owner), number, address)
        if with_value is None:
            self._withdraw(worker, ref)
            return

        def answer(done: ObjectRef[Any]) -> None:
            self._fetching.pop((process.index, number, done), None)
            if done._state in (READY, FAILED):
                state, out = done._state, done._out
            elif done._state == PENDING:
                state, out = READY, None  # it is elsewhere, and not wanted
            else:
                state, out = FAILED, node.objects.cancelled_out(done)
            if not with_value and state == READY:
                out = None
            node.outbound.give_worker(worker, out)
            worker.send((m.SETTLED, ref._owner, number, state, out))  # the node may have taken a new life meanwhile

        if with_value:
            if ref._state == PENDING:
                self._fetching[(process.index, number, ref)] = answer
            node.objects.when_done(ref, answer)
        else:
            node.objects.watch([ref], answer)

    def _withdraw(self, worker: Any, ref: ObjectRef[Any]) -> None:
        """A worker does not wait for a value any more. If it has been told by now, it will find out."""
        waiting = self._fetching.pop((worker.process.index, ref._number, ref), None)
        if waiting is not None:
            ref._remove(waiting)
            worker.send((m.SETTLED, ref._owner, ref._number, PENDING, None))

    # -- streams -------------------------------------------------------------------------------------------------------

    def _relay(self, process: WorkerProcess, number: int) -> Any:
        relay = self.relays[number] = _Relay(self.node, number, self.node.pool.workers[process.index])
        return weakref.ref(relay)

    def on_credit(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A worker took items of a stream, or let it go (-1)."""
        _, number, items = msg
        if items < 0:
            self.relays.pop(number, None)
            self._readings.get(process.index, set()).discard(number)
            self.node.stream_dropped(number)
        else:
            self.node.stream_credit(number, items)

    # -- the rest ------------------------------------------------------------------------------------------------------

    def on_cancel(self, process: WorkerProcess, msg: list[Any]) -> None:
        """actorfw.cancel, or a cancelled await, in a worker."""
        _, number, force, recursive, owner = msg
        node = self.node
        if owner == node.life:
            node.cancel_number(number, force=force, recursive=recursive)
        else:
            node.cancel(node.objects.adopt(owner, number, ""), force=force, recursive=recursive)

    def on_ask(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A control request of a worker's code."""
        _, request, verb, args = msg
        node = self.node
        worker = node.pool.workers.get(process.index)
        if worker is None:
            return
        given = node.codec.unpack(node.objects.keep(args))
        key = (process.index, request)
        if verb == "withdraw":
            waits = self._waits.pop((process.index, given[0]), None)
            if waits is not None:
                waits.cancel()
            return
        reply = node.ask(verb, *given)
        if verb == "watch":
            self._waits[key] = reply

        def answer(done: Any) -> None:
            self._waits.pop(key, None)
            if verb in _READINGS and done._state == READY:
                self._readings.setdefault(process.index, set()).add(done._out)
            try:
                ok, out = True, node.codec.pack(done.result())
            except Exception as error:  # the error that it ended with, or a value that can't travel
                ours = isinstance(error, ActorFwError)
                ok, out = False, pack_error(node.codec, error, where=node.name, infrastructure=ours)
            node.outbound.give_worker(worker, out)
            worker.send((m.ANSWER, request, ok, out))

        reply.add_done_callback(answer)

    def worker_ended(self, index: int) -> None:
        """Its streams have no consumer any more, and nobody waits for what it asked."""
        self.lines.forget(index)
        for key in [key for key in self._waits if key[0] == index]:
            self._waits.pop(key).cancel()
        for asked in [asked for asked in self._fetching if asked[0] == index]:
            asked[2]._remove(self._fetching.pop(asked))
        for number in self._readings.pop(index, ()):
            self.node.readings.drop(number)
        for number, relay in list(self.relays.items()):
            if relay._worker.process.index == index:
                del self.relays[number]
                self.node.stream_dropped(number)


def _deps(deps: Any) -> Any:
    return [(as_bytes(dep[0]), dep[1], dep[2]) for dep in deps] if deps else None


def carries(wire: Any) -> bool:
    """Whether a value carries refs or code."""
    return type(wire) is Packed and bool(refs_in(wire) or wire.codes)
