"""The worker pool: which worker process runs which task of this node, and how many processes there are.

A worker is leased for one shape of resources at a time: its grant from the ledger lasts as long as it has tasks of
that shape. Short tasks are sent in batches, so that a worker need not wait for its node between them; how many may
be ahead follows from how long tasks of that name took lately, and a task that takes long gives those behind it back
(`runtime.worker`). A worker blocked in get() lends its CPU out, and the newest children of blocked parents start
first, so that the number of processes follows the depth of a recursion, not its breadth.

Process actors have workers of their own; they are made here too, and belong to `runtime.processcells`.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from actorfw.core.ledger import Shape
from actorfw.runtime.brokentasks import BrokenTasks, started_of
from actorfw.runtime.channel import WorkerProcess, Zygote
from actorfw.runtime.context import milliseconds
from actorfw.runtime.execution import Execution
from actorfw.runtime.foreignqueue import ForeignQueue
from actorfw.runtime.idleworkers import IdleWorkers
from actorfw.runtime.routes import count_of
from actorfw.runtime.store.residence import all_here, away
from actorfw.runtime.store.workers import WorkerLodging
from actorfw.values.errors import OverloadedError, TaskCancelledError
from actorfw.values.ids import WORKER_SHIFT, as_bytes
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.submitted import Task
    from actorfw.values.environment import Environment

__all__ = ["Pool", "Worker"]

logger = logging.getLogger("actorfw.worker")

BATCH_LIMIT: Final = 64
BATCH_SECONDS: Final = (
    0.002  # tasks worth this long may be ahead of a worker; it keeps a stolen moment below the loop's own latency
)
SMOOTHING: Final = 0.2  # weight of the newest duration in the running mean
FORCE_SECONDS: Final = 0.1  # that a task which waits in a worker has to be dropped
ORPHAN_SECONDS: Final = 1.0  # until what the killed children of a zygote had lent is used for something else
IDLE_LIMIT: Final = 60.0  # seconds that a worker beyond the node's CPUs is kept without work


class Worker:
    """What the pool knows about one worker process.

    Attributes:
        running: the tasks that it has, in the order in which they were sent to it.
        depth: how many it may have.
        blocked: how many of its threads lend out its CPU.
        waits: serial of the task that waits in get().
        mark: when it began with what it runs now.
        shape: of the tasks that it runs, with the key of its environment if it has one.
    """

    __slots__ = (
        "blocked",
        "cell",
        "data",
        "depth",
        "environment",
        "grant",
        "handed",
        "idle_since",
        "key",
        "leaving",
        "mark",
        "process",
        "running",
        "shape",
        "short_of_memory",
        "waits",
    )

    def __init__(self, process: WorkerProcess) -> None:
        self.process = process
        self.key = ("worker", process.index)
        self.data: set[bytes] = set()  # hashes of the definitions that it has
        self.running: dict[int, Execution] = {}
        self.grant: Any = None
        self.shape: Any = None
        self.environment: Environment | None = None  # that it alone has; None: that of all
        self.depth = 1
        self.blocked = 0
        self.cell: Any = None  # the process actor that lives in it
        self.leaving = False
        self.waits: int | None = None
        self.mark = 0.0
        self.idle_since = 0.0
        self.handed = 0
        self.short_of_memory = False  # it is being stopped for want of memory

    def send(self, msg: tuple[Any, ...]) -> None:
        self.process.send(msg)

    @property
    def pid(self) -> int | None:
        return self.process.pid


class Pool:
    """The worker processes of one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.ledger = node.ledger
        self.workers: dict[int, Worker] = {}
        self._indices = itertools.count(1)
        self._idle = IdleWorkers()
        self._leased: dict[Any, list[Worker]] = {}  # those with room for more, most recently used last
        # Of other nodes, by submitter; what waits for a bundle holds up nothing else.
        self.foreign = ForeignQueue(node)
        self._blocked: dict[
            int, None
        ] = {}  # serials of executions that wait in get(), in the order in which they began to
        self._means: dict[str, float] = {}
        self._factory: Callable[[int], WorkerProcess] | None = None
        self._zygote: Zygote | None = None
        self.closing = False
        self.deaths = 0
        self._broken = BrokenTasks(node)
        self._leaving = 0  # workers that were told to stop and are not gone yet

    # -- processes -----------------------------------------------------------------------------------------------------

    def warm(self) -> None:
        """Start the zygote ahead of the first task, without waiting for it."""
        if self._zygote is None and not self.closing:
            node = self.node
            node.workerlives.zygote_born()
            self._zygote = zygote = Zygote(
                {
                    "life": node.life,
                    "node_id": node.id,
                    "host_id": node.env.host_id,
                    "address": node.address,
                    "namespace": node.namespace,
                    "desk": node.hostmates.desk(),
                    "packages": [node.config.package_limit, node.config.package_cache],
                },
                node.worker_handlers,
                ended=self._ended,
                output=self._raw_output,
                lost=self._zygote_lost,
                arena=node.store.mapping(),
                lodging=lambda index: WorkerLodging(node.store, ("worker", index)),
            )
            zygote.launch()
            self._factory = zygote.fork

    def spawn(self, environment: Environment | None = None, source: bytes = b"") -> Worker:
        """A new worker process; it takes messages at once.

        Args:
            environment: what it is to run in.
            source: the life that wants work done in it.

        Raises:
            OverloadedError: there are `max_workers` of them.
        """
        limit = self.node.config.max_workers
        if len(self.workers) - self._leaving >= limit and not self._dismiss():
            raise OverloadedError(self._no_more(limit))
        if self.node.env.worker_factory is not None:
            process: WorkerProcess = self.node.env.worker_factory(self.node, next(self._indices), self._ended)
        else:
            self.warm()
            assert self._factory is not None
            process = self._factory(next(self._indices))
        makes = self.node.environments
        worker = Worker(process) if environment is None else makes.worker(process, environment, source)
        self.workers[process.index] = worker
        self.node.workerlives.born(process)
        self.node.pressure.watch()
        return worker

    def _zygote_lost(self, sentence: str) -> None:
        if not self.closing:
            logger.error("%s; a new one starts with the next task", sentence)
            self._zygote = None
            self._factory = None

    def _raw_output(self, process: WorkerProcess | None, text: str) -> None:
        worker = self.workers.get(process.index) if process is not None else None
        self.node.output.raw(worker, process, text)

    def has_room(self, shape: Shape) -> bool:
        """Whether a task of this shape could start now."""
        if self.ledger.has_room(shape):
            return True
        return any(len(w.running) < w.depth and not w.blocked for w in self._leased.get(shape, ()) if w.shape == shape)

    # -- giving work ---------------------------------------------------------------------------------------------------

    def try_run(self, exe: Execution) -> bool:
        """Give a task to a worker, if the ledger or a batch has room.

        Raises:
            OverloadedError: a worker process is needed and can't be started.
        """
        shape = exe.recipe.shape
        lease: Any = shape
        environment = exe.recipe.environment
        if environment is not None:
            lease = (shape, environment.key)
        grant = self.ledger.take(shape)
        if grant is not None:
            idle = self._idle
            worker = None
            if environment is not None:
                worker = idle.take(environment)
            elif idle.plain:
                worker = idle.plain.pop()
            if worker is None:
                if len(self.workers) - self._leaving >= self.node.config.max_workers and not self._dismiss():
                    self.ledger.release(grant)
                    return False
                try:
                    worker = self.spawn(environment, self.node.life if exe.peer is None else exe.peer.life)
                except (OSError, RuntimeError) as error:
                    self.ledger.release(grant)
                    raise OverloadedError(f"node {self.node.name} could not start a worker process: {error}") from error
            worker.grant = grant
            worker.shape = lease
            worker.depth = 1
            worker.mark = self.node.env.time()
        else:
            kept_for = self.ledger.kept_for
            if kept_for is not None and kept_for != shape:
                return False  # the lease ends when the worker has done what it has
            open_ = self._leased.get(lease)
            while open_:
                worker = open_[-1]
                if worker.shape == lease and len(worker.running) < worker.depth and not worker.blocked:
                    break
                open_.pop()
            else:
                return False
            if shape.units("GPU"):
                return False  # devices are given task by task
        self._give(worker, exe)
        return True

    def _give(self, worker: Worker, exe: Execution) -> None:
        node = self.node
        exe.worker = worker
        exe.grant = None
        node.execution.begin(exe)
        worker.running[exe.serial] = exe
        mean = self._means.get(exe.name)
        if mean is not None:
            worker.depth = min(BATCH_LIMIT, max(1, int(BATCH_SECONDS / max(mean, 1e-6))))
        if len(worker.running) < worker.depth:
            open_ = self._leased.setdefault(worker.shape, [])
            if not open_ or open_[-1] is not worker:
                open_.append(worker)
        if (exe.deps or away(exe.args)) and not self._deps_here(worker, exe):
            return
        self._dispatch(worker, exe)

    def _deps_here(self, worker: Worker, exe: Execution) -> bool:
        node = self.node
        objects = node.objects
        if exe.dep_refs is None:
            exe.dep_refs = [objects.adopt(as_bytes(d[0]), d[1], d[2]) for d in exe.deps or ()]
        if all_here(exe.dep_refs) and not away(exe.args):
            return True

        serial = exe.serial

        def then() -> None:
            if worker.running.get(serial) is exe:
                worker.running[serial] = worker.running.pop(serial)  # others were sent before it
                try:
                    self._dispatch(worker, exe)
                except Exception as error:  # whatever it is, its submitter must hear of it
                    self._taken_off(worker, exe)
                    node.execution.failed_to_start(exe, error)

        objects.resolve(exe.dep_refs, lambda: node.store.make_resident(exe.args, then))
        return False

    def _dispatch(self, worker: Worker, exe: Execution) -> None:
        node = self.node
        recipe = exe.recipe
        exe.dispatched = True
        worker.process.label = exe.name
        deps = None
        args = exe.args
        if exe.deps:
            deps, args = node.outbound.deps_to_worker(worker, exe.dep_refs, args)
        node.outbound.ship(worker, exe.hashed, recipe.code)
        node.outbound.give_worker(worker, args)
        left = None if exe.deadline is None else milliseconds(exe.deadline - node.env.time())
        submitter = exe.peer.life if exe.peer is not None else node.life
        gpus = list(worker.grant.gpus) if worker.grant is not None else None
        worker.send(
            (
                m.TASK,
                exe.serial,
                exe.hashed,
                args,
                deps,
                left,
                exe.attempt,
                exe.items_ahead(),
                count_of(exe.num_returns),
                (submitter, exe.no) if exe.trace is None else (submitter, exe.no, *exe.trace),
                gpus or None,
            )
        )

    def pump_children(self) -> None:
        """While parents wait in get(): start the newest of their children."""
        tasks = self.node.tasks
        for serial in list(reversed(self._blocked)):
            while (task := tasks.child_of_blocked(serial)) is not None:
                try:
                    if not tasks.place_child(task):
                        break
                except Exception as error:  # the parent waits for its outcome
                    tasks.unqueue(task)
                    self.node.execution.failed_to_start(task, error)
        limit = self.node.config.max_workers
        if (
            self._blocked
            and len(self.workers) >= limit
            and all(w.blocked or w.cell or w.leaving for w in self.workers.values())
        ):
            # All wait, and nobody can ever run what they wait for: the newest of them hears so.
            task = next(filter(None, map(tasks.child_of_blocked, reversed(self._blocked))), None)
            if task is not None and task.recipe.executor == "process":
                tasks.unqueue(task)
                self.node.execution.answer(task, m.ERROR, self._out(OverloadedError(self._no_more(limit))))

    def _no_more(self, limit: int) -> str:
        self.node.limits["workers"].refused += 1
        actors = sum(1 for worker in self.workers.values() if worker.cell is not None)
        return (
            f"node {self.node.name} runs {len(self.workers)} worker processes, {len(self._blocked)} of them blocked in "
            f"get() and {actors} of them actors, and Config.max_workers is {limit}: let tasks return refs instead of "
            "waiting for them, or raise the limit"
        )

    def _out(self, error: Exception) -> Any:
        return pack_error(self.node.codec, error, where=self.node.name, infrastructure=True)

    # -- answers -------------------------------------------------------------------------------------------------------

    def on_result(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A worker has answered a task (or, in a process actor, a call)."""
        _, serial, state, out, *_rest = msg
        worker = self.workers.get(process.index)
        if worker is None:
            return
        objects = self.node.objects
        out = [objects.keep(part) for part in out] if state == m.PARTS else objects.keep(out)
        if worker.cell is not None:
            worker.cell.on_result(serial, state, out)
            return
        exe = worker.running.pop(serial, None)
        if exe is None:
            return
        now = self.node.env.time()
        took = now - worker.mark
        worker.mark = now
        means = self._means
        mean = means.get(exe.name)
        means[exe.name] = took if mean is None else mean + SMOOTHING * (took - mean)
        exe.worker = None
        if not worker.running:
            self._give_back(worker)
        elif len(worker.running) < worker.depth:
            open_ = self._leased.setdefault(worker.shape, [])
            if not open_ or open_[-1] is not worker:
                open_.append(worker)
        self.node.execution.answer(exe, state, out)
        self.node.tasks.pump_soon()

    def _give_back(self, worker: Worker) -> None:
        grant, worker.grant = worker.grant, None
        worker.shape = None
        self._goes_on(worker)
        worker.process.label = ""
        if grant is not None:
            self.ledger.release(grant)
        worker.idle_since = self.node.env.time()
        if worker.process.alive:
            idle = self._idle
            if worker.environment is None:
                idle.plain.append(worker)
            else:
                idle.put(worker)
            if len(idle.plain) + idle.others > max(1, int(self.ledger.totals.as_dict().get("CPU", 0))):
                self.node.env.call_later(IDLE_LIMIT, self._retire)

    def _retire(self) -> None:
        """End a worker that was idle for long, if there are more than the node's CPUs can use."""
        idle = len(self._idle.plain) + self._idle.others
        if idle > max(1, int(self.ledger.totals.as_dict().get("CPU", 0))):
            self._dismiss(self.node.env.time() - IDLE_LIMIT * 0.99)

    def _dismiss(self, before: float = math.inf) -> bool:
        """End the worker that has been idle for longest, if it was at that time; whatever its environment is."""
        worker = self._idle.oldest()
        if worker is None or worker.idle_since > before:
            return False
        self._idle.remove(worker)
        worker.leaving = True
        self._leaving += 1
        worker.send((m.STOP, "idle"))
        return True

    def on_item(self, process: WorkerProcess, msg: list[Any]) -> None:
        _, serial, index, out = msg[:4]
        worker = self.workers.get(process.index)
        if worker is None:
            return
        out = self.node.objects.keep(out)
        if worker.cell is not None:
            worker.cell.on_item(serial, index, out)
            return
        exe = worker.running.get(serial)
        if exe is not None:
            self.node.items.of_execution(exe, index, out)

    def on_handed_back(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A worker returns what it has not started: somebody else may be free."""
        worker = self.workers[process.index]
        worker.depth = 1
        found = [worker.running.pop(serial, None) for serial in msg[1]]
        if not worker.running and worker.grant is not None:
            self._give_back(worker)  # it had answered, and its process was still at what a task left behind
        self._handed_back([exe for exe in found if exe is not None])
        if worker.blocked:
            self._lend(worker)

    def _handed_back(self, back: list[Execution]) -> None:
        """Tasks that never started wait again, before others and in their order."""
        own: list[Task] = []
        for exe in reversed(back):
            if exe.cancelled:
                error = TaskCancelledError(f"task {exe.name} was cancelled before it started", ran=False)
                exe.worker = None
                self.node.execution.answer(exe, m.ERROR, self._out(error))
                continue
            self.node.execution.by_serial.pop(exe.serial, None)
            if exe.peer is None:
                own.append(cast("Task", exe))
            else:
                exe.reset()
                self.foreign.put_back(exe)
        own.reverse()
        self.node.tasks.requeue(own)

    def _taken_off(self, worker: Worker, exe: Execution) -> None:
        """A task that its worker has not got yet goes no further."""
        worker.running.pop(exe.serial, None)
        exe.worker = None
        if not worker.running:
            self._give_back(worker)

    def withdraw(self, exe: Execution) -> None:
        """Cancel a task whose arguments are still on their way here."""
        self._taken_off(exe.worker, exe)
        error = TaskCancelledError(f"task {exe.name} was cancelled before it started", ran=False)
        self.node.execution.answer(exe, m.ERROR, self._out(error))

    def on_blocked(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A worker waits in get(): its CPU is free, and its children come first."""
        worker = self.workers[process.index]
        worker.blocked += 1
        worker.depth = 1
        if worker.waits is None:
            worker.waits = next((serial for serial, exe in worker.running.items() if exe.dispatched), None)
            if worker.waits is not None:
                self.block(worker.waits)
        self._lend(worker)

    def _lend(self, worker: Worker) -> None:
        # What was sent while it began to wait comes back first: those are the tasks to start now, and not older ones.
        if worker.grant is not None and sum(exe.dispatched for exe in worker.running.values()) <= 1:
            self.ledger.give_back_cpu(worker.grant)
            self.node.tasks.pump_soon()

    def _goes_on(self, worker: Worker) -> None:
        worker.blocked = 0
        if worker.waits is not None:
            self.unblock(worker.waits)
            worker.waits = None

    def block(self, serial: int) -> None:
        """The same for a thread of this process."""
        self._blocked[serial] = None

    def unblock(self, serial: int) -> None:
        self._blocked.pop(serial, None)

    def on_unblocked(self, process: WorkerProcess, msg: list[Any]) -> None:
        """It goes on: its CPU is its own again, whether there is room or not."""
        worker = self.workers[process.index]
        if worker.blocked > 1:
            worker.blocked -= 1
            return
        self._goes_on(worker)
        if worker.grant is not None:
            self.ledger.retake_cpu(worker.grant)
        worker.mark = self.node.env.time()

    def on_output(self, process: WorkerProcess, msg: list[Any]) -> None:
        _, label, stream, text = msg
        worker = self.workers.get(process.index)
        running = None
        if worker is not None and worker.running:
            running = next(iter(worker.running.values()))
        peer = running.peer if running is not None else None
        if worker is not None and worker.cell is not None:
            peer = worker.cell.output_peer()
        self.node.output.task(peer, label, process.pid, stream, text)

    # -- ending --------------------------------------------------------------------------------------------------------

    def cancel(self, exe: Execution, *, force: bool) -> None:
        """End a task in its worker: an interrupt that names it, or with `force` the end of the process."""
        worker: Worker = exe.worker
        if force and started_of(worker.running, worker.process.begun())[-1:] == [exe]:
            worker.depth = 1
            worker.process.kill(f"task {exe.name} was cancelled with force=True")
            return
        worker.process.interrupt(exe.serial)
        if force:
            self.node.env.call_later(FORCE_SECONDS, self._force, worker, exe)

    def _force(self, worker: Worker, exe: Execution) -> None:
        # It did not run when it was cancelled, and another task would have lost its process.
        if worker.running.get(exe.serial) is exe:
            self.cancel(exe, force=True)

    def _ended(self, process: WorkerProcess, sentence: str) -> None:
        worker = self.workers.pop(process.index, None)
        if worker is None or self.closing:
            return
        self.node.pressure.ended(worker)
        self.deaths += 1
        self._leaving -= worker.leaving
        self._idle.remove(worker)
        if worker.environment is not None:
            self.node.environments.ended(worker)
        self.node.objects.worker_died(worker.key)
        if process.orphan:  # it has been killed, and may be writing yet
            self.node.env.call_later(ORPHAN_SECONDS, self.node.store.lends.gone, worker.key)
        else:
            self.node.store.lends.gone(worker.key)
        self.node.worker_calls_ended(worker)
        if worker.cell is not None:
            worker.cell.process_ended(sentence)
            return
        grant, worker.grant = worker.grant, None
        if grant is not None:
            self.ledger.release(grant)
        worker.shape = None  # it may stand more than once among those with room: nothing more is given to it
        running, worker.running = worker.running, {}
        self._goes_on(worker)
        self._handed_back(self._broken.sort_out(running, process.begun(), sentence, worker.short_of_memory))

    def first_number(self, index: int) -> int:
        """Where the numbers of a worker's own refs begin."""
        return index << WORKER_SHIFT

    async def close(self) -> None:
        """End all worker processes, and wait until they are gone."""
        self.closing = True
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            await zygote.close()
        for worker in list(self.workers.values()):
            if zygote is None:
                worker.process.kill("its node is closing")
            self.node.store.lends.gone(worker.key)
        self.workers.clear()

    def abort(self) -> None:
        """The same at once."""
        self.closing = True
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.abort()
