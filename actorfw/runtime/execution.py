"""The executing side of tasks, this node's and others': on the loop, in a thread, or through the worker pool.

An `Execution` is one attempt at one task on this node. It is started only with a grant from the ledger, which is
given back when it ends; it is answered exactly once, to whoever submitted it. Worker processes are `runtime.pool`'s.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import logging
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.credit import first_of, more
from actorfw.runtime.context import CallContext, limits, overdue, running_call
from actorfw.runtime.definitions import ASYNC_GENERATOR, GENERATOR, Recipe
from actorfw.runtime.driving import Unsendable, asynchronous, pack_item
from actorfw.runtime.refs import FAILED, READY, ObjectRef
from actorfw.runtime.routes import count_of, held_ids
from actorfw.runtime.store.residence import all_here
from actorfw.runtime.threads import Credit, Threads
from actorfw.values.errors import (
    ActorFwError,
    DeadlineExceededError,
    NodeDiedError,
    ObjectStoreFullError,
    SerializationError,
    TaskCancelledError,
    TaskError,
)
from actorfw.values.ids import as_bytes
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error
from actorfw.wire.payload import size_of

if TYPE_CHECKING:
    from actorfw.core.ledger import Grant
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.submitted import Task

__all__ = ["Credit", "Execution", "ExecutionService"]

logger = logging.getLogger("actorfw.tasks")

STUBBORN: Final = 1.0  # seconds that a task of a dead node has to obey before its worker is killed


class Execution:
    """One attempt at one task, on this node."""

    __slots__ = (
        "args",
        "attempt",
        "cancelled",
        "credit",
        "deadline",
        "dep_refs",
        "deps",
        "dispatched",
        "first_item",
        "grant",
        "hashed",
        "holds",
        "items",
        "last",
        "limited",
        "name",
        "no",
        "num_returns",
        "parent",
        "peer",
        "recipe",
        "runner",
        "serial",
        "since",
        "started",
        "trace",
        "worker",
    )

    peer: Peer | None
    grant: Grant | None
    runner: Any
    worker: Any
    deadline: float | None
    dep_refs: list[ObjectRef[Any]] | None

    def __init__(self, peer: Peer | None, no: int, hashed: bytes, recipe: Recipe, args: Any, deps: Any) -> None:
        self.peer = peer  # who submitted it; None: this node
        self.no = no
        self.hashed = hashed
        self.recipe = recipe
        self.name = recipe.name
        self.args = args
        self.deps = deps
        self.dep_refs = None
        self.holds = False  # whether its arguments carried refs
        self.deadline = None
        self.trace: Any = None  # (traceparent, tracestate), if it belongs to one
        self.attempt = 1
        self.credit: Any = 0
        self.num_returns: Any = 1  # how many; of several, for another node: their numbers there
        self.parent = 0
        self.serial = 0
        self.since = 0.0  # when it began to wait for room on this node
        self.grant = None
        self.runner = None
        self.worker = None
        self.started = False
        self.dispatched = False  # its worker has it
        self.cancelled = False
        self.last = False  # its submitter will not try again
        self.limited = False  # its submitter gives it a schedule_timeout, and so it waits there
        self.items = 0  # that it has sent, if it is a generator
        self.first_item = 0  # the number of the first; 0: they have none

    def items_ahead(self) -> Any:
        """What it may send, if it is a generator that has not started (`core.credit`)."""
        return self.credit

    def reset(self) -> None:
        """It did not start after all."""
        self.worker = None
        self.runner = None
        self.serial = 0
        self.started = False
        self.dispatched = False


class ExecutionService:
    """What runs on this node, but for worker processes and actors."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.ledger = node.ledger
        self._foreign: dict[tuple[bytes, int, int], Execution] = {}
        self.by_serial: dict[int, Execution] = {}
        self._serials = itertools.count(1)
        self._threads = Threads(node)
        self.finished = 0

    # -- arriving ------------------------------------------------------------------------------------------------------

    def on_task(self, peer: Peer, msg: list[Any]) -> None:
        """A peer wants a task run here."""
        _, no, hashed, args, deps, left, attempt, credit, num_returns, flags = msg
        node = self.node
        held = held_ids(args, deps)
        if held:
            node.objects.carry_out(node.objects.ownership.call_received(peer.life, (no, attempt), held))
        exe = Execution(peer, no, hashed, node.recipe(hashed), node.objects.keep(args), deps)
        exe.holds = bool(held)
        exe.attempt = attempt
        exe.credit = credit
        exe.first_item = first_of(credit)
        exe.num_returns = num_returns
        exe.limited = bool(flags & m.LIMITED)
        exe.last = bool(flags & m.LAST_ATTEMPT)
        exe.deadline, exe.trace = limits(left, node.env.time())
        self._foreign[(peer.life, no, attempt)] = exe
        if deps:
            refs: list[ObjectRef[Any]] = []
            for dep in deps:
                ref = node.objects.adopt(as_bytes(dep[0]), dep[1], dep[2])
                if len(dep) == 4 and not ref.done():
                    ref._lazy = False
                    ref._settle(node.objects.keep(dep[3]))
                refs.append(ref)
            exe.dep_refs = refs
            node.objects.resolve(refs, lambda: self._foreign_ready(exe))
        else:
            self._foreign_ready(exe)

    def _foreign_ready(self, exe: Execution) -> None:
        peer = exe.peer
        assert peer is not None
        if exe.cancelled:
            return
        try:
            if not self.node.leaving.begun and (
                self.try_start(exe) or (not exe.limited and self.node.pool.foreign.keep(exe))
            ):
                return
        except Exception as error:  # whatever it is, its submitter must hear of it
            self.failed_to_start(exe, error)
            return
        self.bounce(exe)

    @property
    def foreign(self) -> int:
        """How many tasks of other nodes are here, waiting or running."""
        return len(self._foreign)

    def bounce_waiting(self) -> None:
        """This node leaves: what has not started here goes elsewhere, and has not spent an attempt."""
        for exe in list(self._foreign.values()):
            if not exe.started and not exe.cancelled:
                exe.cancelled = True  # whoever still has it in a queue lets it pass
                self.bounce(exe)

    def give_up(self) -> None:
        """This node leaves before these are done: their submitters may try again elsewhere, if they have attempts."""
        for exe in list(self._foreign.values()):
            self.broke(exe, NodeDiedError(f"node {self.node.name} left before task {exe.name} was done"))
            exe.cancelled = True

    def bounce(self, exe: Execution) -> None:
        """It goes back to its submitter, and has not spent an attempt."""
        peer = exe.peer
        assert peer is not None
        self._foreign.pop((peer.life, exe.no, exe.attempt), None)
        self._end_call(exe)
        peer.send((m.BOUNCE, exe.no, exe.attempt, self.node.load()))

    def failed_to_start(self, exe: Execution, error: Exception) -> None:
        """Something went wrong that should not have: an answer of that is better than none."""
        logger.exception("task %s could not be started", exe.name)
        if not isinstance(error, ActorFwError):
            error = TaskError(f"task {exe.name} could not be started: {type(error).__name__}: {error}", ran=False)
        self.answer(exe, m.ERROR, self._out(error))

    def own_running(self) -> int:
        """How many tasks of this node's own run here."""
        return sum(1 for exe in self.by_serial.values() if exe.peer is None)

    def next_serial(self) -> int:
        return next(self._serials)

    def on_cancel(self, peer: Peer, msg: list[Any]) -> None:
        """The submitter takes a task or an actor call back."""
        _, no, force, recursive = msg
        # An attempt that was given up for lost may still run here beside the one that followed it.
        attempts = [exe for key, exe in self._foreign.items() if key[0] == peer.life and key[1] == no]
        for exe in attempts:
            self.cancel(exe, force=force, recursive=recursive)
        if not attempts:
            self.node.hosting.on_cancel(peer, no)

    def on_credit(self, peer: Peer, msg: list[Any]) -> None:
        """The consumer of a stream took items."""
        _, no, items = msg
        attempts = [key for key in self._foreign if key[0] == peer.life and key[1] == no]
        if attempts:
            self.add_credit(self._foreign[max(attempts)], items)  # nobody reads what an older one yields
        else:
            self.node.hosting.on_credit(peer, no, items)

    def add_credit(self, exe: Execution, items: int) -> None:
        """The consumer of a stream that runs here took items, or went away."""
        if items < 0 and not exe.started:
            self.cancel(exe, force=False, recursive=False)
            return
        if isinstance(exe.credit, Credit):
            exe.credit.add(items)
        else:
            exe.credit = more(exe.credit, items)  # what it starts with, should it go back and start again
        if exe.worker is not None:
            exe.worker.send((m.CREDIT, exe.serial, items))

    # -- starting ------------------------------------------------------------------------------------------------------

    def try_start(self, exe: Execution) -> bool:
        """Run it here if there is room for it now."""
        kind = exe.recipe.executor
        if exe.recipe.environment is not None and (away := self.node.environments.turned_away(exe)) is not None:
            return away
        if kind == "process":
            return self.node.pool.try_run(exe)
        if kind == "thread" and not self._threads.has_room():
            return False
        grant = self.ledger.take(exe.recipe.shape, lasting=True)
        if grant is None:
            return False
        exe.grant = grant
        self.begin(exe)
        if exe.deps and not self._deps_here(exe):
            return True
        self._start_here(exe)
        return True

    def begin(self, exe: Execution) -> None:
        """It has its grant: it counts as running."""
        exe.started = True
        exe.serial = next(self._serials)
        self.by_serial[exe.serial] = exe

    def _deps_here(self, exe: Execution) -> bool:
        # A local task comes here with its own deps settled; borrowed ones are fetched now.
        if exe.dep_refs is None:
            exe.dep_refs = [self.node.objects.adopt(as_bytes(d[0]), d[1], d[2]) for d in exe.deps]
        if all_here(exe.dep_refs):
            return True

        def then() -> None:
            if not exe.cancelled:
                try:
                    self._start_here(exe)
                except Exception as error:  # whatever it is, its submitter must hear of it
                    self.failed_to_start(exe, error)

        self.node.objects.resolve(exe.dep_refs, then)
        return False

    def dep_outcomes(self, exe: Execution) -> tuple[list[tuple[Any, int, Any]], Any]:
        """[(wire ref, state, out)] of the deps of an execution, and the first error among them or None."""
        outcomes: list[tuple[Any, int, Any]] = []
        failed: Any = None
        for ref in exe.dep_refs or ():
            out = ref._out if ref._state in (READY, FAILED) else self.node.objects.cancelled_out(ref)
            state = ref._state if ref._state == READY else FAILED
            if state == FAILED and failed is None:
                failed = out
            outcomes.append(((ref._owner, ref._number, ref._address), state, out))
        return outcomes, failed

    # -- on the loop ---------------------------------------------------------------------------------------------------

    def context(self, exe: Execution) -> CallContext:
        submitter = exe.peer.life if exe.peer is not None else self.node.life
        return CallContext(
            node_id=self.node.id,
            call=(submitter, exe.no),
            attempt=exe.attempt,
            deadline=exe.deadline,
            gpus=tuple(exe.grant.gpus) if exe.grant is not None else (),
            number=exe.serial,
            name=exe.name,
            trace=exe.trace,
            environment=exe.recipe.environment,
        )

    def _start_here(self, exe: Execution) -> None:
        if exe.recipe.environment is not None and not self.node.environments.here(exe, lambda: self._start_here(exe)):
            return
        if exe.recipe.executor == "loop" or self.node.env.pace is not None:
            self._start_on_loop(exe)
        else:
            self._start_in_thread(exe)

    def _start_on_loop(self, exe: Execution) -> None:
        context = self.node.base_context.copy()
        context.run(running_call.set, self.context(exe))
        exe.runner = context.run(self.node.env.create_task, self._on_loop(exe), f"actorfw {exe.name}")

    async def _on_loop(self, exe: Execution) -> None:
        try:
            ready = self._ready(exe)
            if ready is None:
                return
            pace = self.node.env.pace
            if pace is not None and exe.recipe.executor == "thread":
                await asyncio.sleep(pace(exe.name))
            value = ready()
            del ready  # with the arguments, whose refs are given back with the answer
            if exe.recipe.kind == ASYNC_GENERATOR:
                await self._stream(exe, value)
                return
            if exe.recipe.kind == GENERATOR:
                await self._stream(exe, asynchronous(value))
                return
            if inspect.isawaitable(value):
                value = await value
        except asyncio.CancelledError as error:
            if exe.cancelled or self.node.closing:
                self.answer(exe, m.ERROR, self._out(TaskCancelledError(f"task {exe.name} was cancelled")))
            else:
                self.raised(exe, error)
        except BaseException as error:  # user code may raise anything, and the loop is not to end by it
            self.raised(exe, error)
        else:
            self.returned(exe, value)

    def _ready(self, exe: Execution) -> Callable[[], Any] | None:
        if exe.deadline is not None and exe.deadline <= self.node.env.time():
            error = DeadlineExceededError(f"task {exe.name} was due before it could start", ran=False)
            self.answer(exe, m.ERROR, self._out(error))
            return None
        _, failed = self.dep_outcomes(exe)
        if failed is not None:
            self.answer(exe, m.ERROR, failed)
            return None
        try:
            fn = self.node.codes.load(exe.recipe.code)
            args, kwargs = self.node.unpack_args(exe.args, exe.dep_refs)
        except Exception as error:  # loading and unpickling run user code
            self.answer(exe, m.ERROR, self._out(error))
            return None
        return functools.partial(fn, *args, **kwargs)

    async def _stream(self, exe: Execution, items: AsyncGenerator[Any, None]) -> None:
        credit = exe.credit = Credit(exe.items_ahead())
        index = 0
        try:
            while not credit.over(index) and await self._room(exe, credit):
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    break
                if credit.wants(index):
                    out = pack_item(self.node.codec, item)
                    credit.spend(size_of(out))
                    self.node.items.of_execution(exe, index, out)
                index += 1
        finally:
            await items.aclose()
        self.answer(exe, m.VALUE, index)

    async def _room(self, exe: Execution, credit: Credit) -> bool:
        # A slow consumer must not keep a CPU busy with waiting for it.
        if credit.there() or not self.blocks(exe.serial):
            return await credit.room()
        try:
            return await credit.room()
        finally:
            self.unblocks(exe.serial)

    # -- in a thread ---------------------------------------------------------------------------------------------------

    def _start_in_thread(self, exe: Execution) -> None:
        ready = self._ready(exe)
        if ready is None:
            return
        context = self.node.base_context.copy()
        context.run(running_call.set, self.context(exe))
        streams = exe.recipe.kind in (GENERATOR, ASYNC_GENERATOR)
        if streams:
            exe.credit = Credit(exe.items_ahead())
        exe.runner = self._threads.start(context, exe, ready)

    def blocks(self, number: int) -> bool:
        """What runs in this process waits for others, for the execution with this serial.

        Its CPU is free meanwhile. On the loop.
        """
        exe = self.by_serial.get(number)
        if exe is None or exe.grant is None:
            return False
        if exe.recipe.executor == "thread":
            self._threads.blocked += 1
        self.ledger.give_back_cpu(exe.grant)
        self.node.pool.block(number)
        self.node.tasks.pump_soon()
        return True

    def unblocks(self, number: int) -> None:
        """It goes on."""
        self.node.pool.unblock(number)
        exe = self.by_serial.get(number)
        if exe is None or exe.grant is None:
            return
        if exe.recipe.executor == "thread":
            self._threads.blocked -= 1
        self.ledger.retake_cpu(exe.grant)

    # -- answering -----------------------------------------------------------------------------------------------------

    def returned(self, exe: Execution, value: Any) -> None:
        """It returned: pack what it returned and answer."""
        try:
            self.answer(exe, *self.outcome(exe, value))
        except Exception as error:  # whatever keeps it from being sent
            self.refused(exe, error)

    def outcome(self, exe: Execution, value: Any) -> tuple[int, Any]:
        """What it returned as it travels. Any thread: a large value is copied."""
        if exe.num_returns != 1:
            return m.PARTS, self.parts(exe.name, value, exe.num_returns)
        return m.VALUE, self.node.codec.pack(value, where="result")

    def refused(self, exe: Execution, error: Exception) -> None:
        """What it returned can't be sent."""
        if isinstance(error, (SerializationError, ObjectStoreFullError)):
            error.ran = True
        if isinstance(error, (SerializationError, ObjectStoreFullError, TaskError)):
            self.answer(exe, m.ERROR, self._out(error))
        else:
            self.raised(exe, error)

    def parts(self, name: str, value: Any, numbers: Any) -> list[Any]:
        """The parts of a result with `num_returns`: so many, or one for each of these numbers.

        Raises:
            TaskError: it is no sequence of that length.
        """
        count = count_of(numbers)
        if count == 0:
            return []
        try:
            values = list(value)
        except TypeError:
            raise TaskError(f"{name} was asked for num_returns={count} and returned {type(value).__name__}") from None
        if len(values) != count:
            raise TaskError(f"{name} was asked for num_returns={count} and returned {len(values)} values")
        return [self.node.codec.pack(part, where=f"result[{at}]") for at, part in enumerate(values)]

    def raised(self, exe: Execution, error: BaseException) -> None:
        """It raised: answer that."""
        if isinstance(error, Unsendable):
            self.refused(exe, error.cause)
            return
        node, late = self.node, overdue(f"task {exe.name}", error, exe.deadline, self.node.env.time())
        out = pack_error(node.codec, late or error, where=f"{exe.name} on {node.name}", infrastructure=late is not None)
        self.answer(exe, m.ERROR, out)

    def answer(self, exe: Execution, state: int, out: Any) -> None:
        """The final answer of an execution, once."""
        node = self.node
        if exe.serial:
            if self.by_serial.pop(exe.serial, None) is None:
                return
            node.tasks.parent_ended(exe.serial)
        self.finished += 1
        grant, exe.grant = exe.grant, None
        if grant is not None:
            self.ledger.release(grant)
            node.tasks.pump_soon()
        exe.dep_refs = None
        peer = exe.peer
        if peer is None:
            node.tasks.answered(self._task(exe), state, out)
            return
        if self._foreign.pop((peer.life, exe.no, exe.attempt), None) is None:
            return
        exe.args = None
        key = (exe.no, exe.attempt) if exe.holds else None
        node.outbound.send_result(peer, exe.no, state, out, key, exe.attempt, exe.items or None, exe.num_returns)

    def _end_call(self, exe: Execution) -> None:
        """It ends without an answer that could name what is still held."""
        if exe.holds:
            assert exe.peer is not None
            exe.args = None
            _, then = self.node.objects.ownership.call_answered(exe.peer.life, (exe.no, exe.attempt))
            self.node.objects.carry_out(then)

    @staticmethod
    def _task(exe: Execution) -> Task:
        return exe  # type: ignore[return-value]

    # -- ending early --------------------------------------------------------------------------------------------------

    def cancel(self, exe: Execution, *, force: bool, recursive: bool) -> None:
        """End it where it runs. A function in a thread can't be interrupted: its result is dropped."""
        if recursive and exe.serial:
            self.node.tasks.cancel_children(exe.serial, force=force)
        if exe.cancelled and not force:
            return
        exe.cancelled = True
        if exe.worker is not None and exe.dispatched:
            self.node.pool.cancel(exe, force=force)
        elif exe.worker is not None:
            self.node.pool.withdraw(exe)
        elif isinstance(exe.runner, asyncio.Task):
            exe.runner.cancel()
            coro: Any = exe.runner.get_coro()
            if inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
                # A coroutine that is cancelled before its first step never runs, and could not answer.
                self.answer(exe, m.ERROR, self._out(TaskCancelledError(f"task {exe.name} was cancelled", ran=False)))
        elif exe.runner is not None:
            self._threads.cancel(exe)
        else:
            self.answer(exe, m.ERROR, self._out(TaskCancelledError(f"task {exe.name} was cancelled", ran=False)))

    def peer_ended(self, life: bytes) -> None:
        """The submitter is gone: nobody wants the answers."""
        for key, exe in list(self._foreign.items()):
            if key[0] == life:
                del self._foreign[key]
                self.cancel(exe, force=False, recursive=True)
                self._end_call(exe)
                if exe.worker is not None:
                    self.node.env.call_later(STUBBORN, self._end_stubborn, exe, exe.serial)

    def _end_stubborn(self, exe: Execution, serial: int) -> None:
        if self.by_serial.get(serial) is exe and exe.worker is not None and not self.node.closing:
            self.node.pool.cancel(exe, force=True)

    def broke(self, exe: Execution, error: ActorFwError) -> None:
        """Its worker died."""
        self.answer(exe, m.BROKE, self._out(error))

    def _out(self, error: BaseException) -> Any:
        return pack_error(self.node.codec, error, where=self.node.name, infrastructure=True)

    def close(self) -> None:
        """The node closes: stop what runs on the loop, let threads end by themselves."""
        for exe in list(self.by_serial.values()):
            if isinstance(exe.runner, asyncio.Task):
                exe.runner.cancel()
            elif isinstance(exe.credit, Credit):
                exe.credit.add(-1)
        self._threads.close()
