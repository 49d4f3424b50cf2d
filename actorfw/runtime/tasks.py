"""The submitting side of tasks: from `f.remote(x)` to a settled ref, over as many attempts as it takes.

Responsible for: queueing what nobody can take now, choosing where each attempt runs, retries, deadlines, cancelling.
Where a task runs and how is `runtime.execution`'s business, on this node or another; a task takes exactly one
attempt's answer.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.placement import LARGE, Infeasible, Wait
from actorfw.core.pressure import back_off
from actorfw.runtime.context import milliseconds
from actorfw.runtime.headofline import HeadOfLine
from actorfw.runtime.objects import INLINE_LIMIT, is_large, refs_in
from actorfw.runtime.outbox import OVERHEAD, Outbox
from actorfw.runtime.refs import CANCELLED, FAILED, PENDING, READY, ObjectRef
from actorfw.runtime.sentout import SentOut
from actorfw.runtime.store.elsewhere import Elsewhere, elsewhere, is_elsewhere
from actorfw.runtime.streams import Stream
from actorfw.runtime.submitted import Queue, Task
from actorfw.values.errors import (
    ActorFwError,
    DeadlineExceededError,
    NodeClosedError,
    NodeDiedError,
    TaskCancelledError,
    TaskError,
    UnschedulableError,
    WorkerDiedError,
)
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error, unpack_error
from actorfw.wire.payload import size_of

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Tasks"]

logger = logging.getLogger("actorfw.tasks")

# Full jitter from the first retry on (the AWS architecture blog's finding that it spreads a herd best), unless
# `retry_delay` says otherwise.
RETRY_FIRST: Final = 0.05
RETRY_CAP: Final = 5.0

REMEMBERED: Final = 10_000  # further returns of cancelled tasks, by which they may be cancelled again, with force

BOUNCES: Final = 3  # after so many a task waits a moment before it is offered to the same nodes again
PARKED: Final = 0.1


class Tasks:
    """The tasks that this node submitted, for itself and for its workers."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.open: dict[int, Task] = {}
        self.outbox = Outbox(node.name, node.config.max_outbox, node.outbound.outbox_bytes)
        self._queues: dict[tuple[Any, ...], Queue] = {}
        self._pump_due = False
        self.sent = SentOut()
        self._line = HeadOfLine(node)
        self._children: dict[
            int, dict[int, None]
        ] = {}  # serial of a running execution -> numbers of its tasks that are open
        self._parts: dict[int, Task] = {}  # by the numbers of further returns
        self._first: OrderedDict[int, int] = OrderedDict()  # of cancelled tasks, by those numbers: their own
        self.retried = 0

    # -- submitting ----------------------------------------------------------------------------------------------------

    def enter(self, task: Task) -> None:
        """A new task; on the loop."""
        task.retries_left = task.options.get("max_retries", 3)
        task.attempt = 1
        for ref in task.refs[1:]:
            self._parts[ref._number] = task
        self.resume(task)

    def resume(self, task: Task) -> None:
        """A new task, or one that had ended and is to run again."""
        self.open[task.no] = task
        if task.deadline is not None:
            now = self.node.env.time()
            if task.deadline <= now:
                self._expire(task, ran=False)
                return
            task.deadline_timer = self.node.env.call_later(task.deadline - now, self._expire, task)
        if task.parent:
            if task.parent in self.node.execution.by_serial:
                self._children.setdefault(task.parent, {})[task.no] = None
            else:
                task.parent = 0
        if task.deps:
            self._count(task)
            self.node.objects.resolve(self._deps(task), lambda: self.dispatch(task), fetch=False)
        else:
            self.dispatch(task)

    def enter_from_thread(self, task: Task, size: int) -> None:
        """The same for a task that a thread was let in with."""
        self.outbox.arrived(size)
        if self.node.open:
            self.enter(task)
        else:
            self._settle(task, m.ERROR, self._out(self.node.closed_error()))

    def _deps(self, task: Task) -> list[ObjectRef[Any]]:
        return [self.node.objects.adopt(*dep) for dep in task.deps]

    def dispatch(self, task: Task) -> None:
        """Its arguments are there, or at their owners: find it a place, or queue it."""
        if task.settled:
            return
        try:
            if task.deps:
                for ref in self._deps(task):
                    if ref._state in (FAILED, CANCELLED):
                        out = ref._out if ref._state == FAILED else self.node.objects.cancelled_out(ref)
                        self._settle(task, m.ERROR, out)
                        return
            key = task.key = (task.recipe.executor, task.recipe.shape, task.options.get("scheduling", "default"))
            if key in self._queues or not self._place(task):
                self._enqueue(task)
        except Exception as error:  # whatever it is, the task must not get lost with it
            self._broken(task, error)

    def _broken(self, task: Task, error: Exception) -> None:
        logger.exception("task %s could not be started", task.name)
        if not isinstance(error, ActorFwError):
            error = TaskError(f"task {task.name} could not be started: {type(error).__name__}: {error}", ran=False)
        self._settle(task, m.ERROR, self._out(error))

    # -- queueing ------------------------------------------------------------------------------------------------------

    def _count(self, task: Task) -> None:
        if not task.counted:
            task.counted = OVERHEAD + (size_of(task.args) if task.args is not None else 0)
            self.outbox.add(task.counted)

    def _uncount(self, task: Task) -> None:
        if task.counted:
            self.outbox.remove(task.counted)
            task.counted = 0

    def _enqueue(self, task: Task, *, first: bool = False) -> None:
        queue = self._queues.get(task.key)
        if queue is None:
            queue = self._queues[task.key] = OrderedDict()
        queue[task.no] = task
        if first:
            queue.move_to_end(task.no, last=False)
        task.queue = queue
        task.since = task.since or self.node.env.time()
        self._count(task)
        limit = task.options.get("schedule_timeout")
        if limit is not None and task.schedule_timer is None:
            task.schedule_timer = self.node.env.call_later(limit, self._unschedulable, task)

    def unqueue(self, task: Task) -> None:
        """It does not wait any more."""
        queue, task.queue = task.queue, None
        if queue is not None:
            del queue[task.no]
            if not queue and self._queues.get(task.key) is queue:
                del self._queues[task.key]

    def requeue(self, tasks: Iterable[Task]) -> None:
        """Tasks that were to start here and did not: they wait again, before all others and in their order."""
        for task in reversed(list(tasks)):
            task.reset()
            if not task.settled:
                self._enqueue(task, first=True)
        self.pump_soon()

    def pump_soon(self) -> None:
        """Room may have appeared somewhere: look at the queues at the end of this turn."""
        if not self._pump_due:
            self._pump_due = True
            self.node.env.call_soon(self.pump)

    def pump(self) -> None:
        """Place what waits, as far as there is room."""
        self._pump_due = False
        if self.node.closing:
            return
        pool = self.node.pool
        pool.pump_children()
        self.node.guardians.placing.pump()
        self.node.hosting.tell_room()
        if self._line.others_are_due():
            pool.foreign.pump()
        oldest: Task | None = None
        for queue in list(self._queues.values()):
            while queue:
                task = next(iter(queue.values()))
                try:
                    if not self._place(task):
                        if (oldest is None or task.no < oldest.no) and self._line.could_run_here(task):
                            oldest = task
                        break
                except Exception as error:  # whatever it is, the task must not get lost with it
                    self._broken(task, error)
        self._line.keep_room(oldest)
        pool.foreign.pump()

    @property
    def waiting(self) -> int:
        """How many tasks wait for a place."""
        return sum(map(len, self._queues.values()))

    def child_of_blocked(self, parent: int) -> Task | None:
        """The newest waiting task of a parent that is blocked in get(), if any is left."""
        for no in reversed(self._children.get(parent, {})):
            task = self.open.get(no)
            if task is not None and task.queue is not None:
                return task
        return None

    # -- placing -------------------------------------------------------------------------------------------------------

    def _place(self, task: Task) -> bool:
        """Start an attempt somewhere; False if there is no room now."""
        node = self.node
        nearer = task.deps and any(size > LARGE for size in node.locations.bytes_at(task.deps).values())
        if task.key[2] == "default" and not nearer and node.execution.try_start(task):
            return self._placed(task)
        choice = node.members.choose(task, task.key[1], task.key[2], task.excluded)
        if isinstance(choice, bytes):
            if choice == node.life:
                return node.execution.try_start(task) and self._placed(task)
            peer = node.members.peer(choice)
            if peer is None:
                return False
            self._send(task, peer)
            return self._placed(task)
        if isinstance(choice, Infeasible):
            if choice.final:
                self._settle(task, m.ERROR, self._out(UnschedulableError(f"task {task.name} can't run: {choice.text}")))
                return True
            if not task.told_infeasible and not node.leaving.begun:  # this node counts itself out then
                task.told_infeasible = True
                logger.warning("task %s waits: %s", task.name, choice.text)
        else:
            assert isinstance(choice, Wait)
        return False

    def _placed(self, task: Task) -> bool:
        self.unqueue(task)
        self._uncount(task)
        return True

    def place_child(self, task: Task) -> bool:
        """Start a queued task here, out of turn."""
        return self.node.execution.try_start(task) and self._placed(task)

    def _send(self, task: Task, peer: Peer) -> None:
        node = self.node
        task.place = peer
        self.sent.add(peer.life, task)
        node.outbound.ship(peer, task.hashed, task.recipe.code)
        left: Any = None if task.deadline is None else milliseconds(task.deadline - node.env.time())
        if task.trace is not None:
            left = [left, *task.trace]
        deps = [self._dep_for(dep) for dep in task.deps] if task.deps else None
        if task.stream is not None and type(task.stream()) is Stream:  # a worker's has its items as values
            node.lineage.number_items(task)
        credit = task.items_ahead()
        args, deps = node.outbound.outgoing(peer, (task.no, task.attempt, peer.life), task.args, deps)
        peer.send(
            (
                m.TASK,
                task.no,
                task.hashed,
                args,
                deps,
                left,
                task.attempt,
                credit,
                task.numbers(),
                (m.LIMITED if task.options.get("schedule_timeout") is not None else 0)
                | (m.LAST_ATTEMPT if task.retries_left == 0 else 0),
            )
        )

    def _dep_for(self, dep: Any) -> Any:
        # A small value that is known here goes along, which saves the runner a round trip.
        node = self.node
        if dep[0] == node.life:
            ref = node.objects.adopt(*dep)
            if ref._state == READY and refs_in(ref._out) is None and size_of(ref._out) <= INLINE_LIMIT // 8:
                out = ref._out
                if type(out) is not list and not getattr(out, "codes", None):
                    return [dep[0], dep[1], dep[2], out]
        return list(dep)

    def _unschedulable(self, task: Task) -> None:
        task.schedule_timer = None
        if task.settled or task.queue is None:
            return
        choice = self.node.members.choose(task, task.key[1], task.key[2], None)
        why = choice.text if isinstance(choice, Infeasible) else "all nodes that could run it were busy"
        error = UnschedulableError(
            f"task {task.name} found no place within its schedule_timeout of "
            f"{task.options['schedule_timeout']} s: {why}"
        )
        self._settle(task, m.ERROR, self._out(error))

    # -- answers -------------------------------------------------------------------------------------------------------

    def on_result(self, peer: Peer, msg: list[Any]) -> None:
        """A peer's final answer to an attempt, or to an actor call (attempt 0), which `calls` knows."""
        node = self.node
        usual = not msg[5] and msg[4] is None and len(msg) == 6 and type(msg[3]) is not list
        if usual and not node.objects.ownership.awaiting:
            node.calls.answered(msg[1], msg[2], msg[3])  # a call without refs on either way
            return
        _, no, state, out, kept, attempt, *more = msg
        stays: list[tuple[int, int]] = []
        if state == m.PARTS:
            given = node.objects.taken(peer, *out)
            stays = [(part[0], attempt) for part in out if is_elsewhere(part)]
            out = [elsewhere(peer.life, part, attempt) or node.objects.keep(part) for part in out]
        elif state == m.STORED:
            given = None
            stays = [(out[0], attempt)]
            out = elsewhere(peer.life, out, attempt)
        else:
            given = node.objects.taken(peer, out)
            out = node.objects.keep(out)
        if attempt:
            key = (no, attempt, peer.life)
            node.objects.carry_out(node.objects.ownership.call_ended(key, [tuple(k) for k in kept or ()]))
            task = self.open.get(no)
            if task is not None and task.attempt == attempt and task.place is peer:
                if task.stream is not None:
                    task.ending = (state, out, more[0] if more else 0)
                    node.items.task_ended(task)
                else:
                    self.sent.drop(peer.life, no)
                    self.answered(task, state, out)
            elif stays:
                node.locations.decline(peer, stays)
            self.pump_soon()
        else:
            node.objects.carry_out(node.objects.ownership.call_ended((no, peer.life), [tuple(k) for k in kept or ()]))
            if stays and no not in node.calls.open:
                node.locations.decline(peer, stays)
            node.calls.answered(no, state, out, more[0] if more else 0)
        node.objects.settle_taken(given)

    def on_bounce(self, peer: Peer, msg: list[Any]) -> None:
        """A peer had no room: the attempt never ran, and is not spent."""
        _, no, attempt, load = msg
        node = self.node
        node.members.load(peer.life, load)
        node.objects.carry_out(node.objects.ownership.call_ended((no, attempt, peer.life)))
        task = self.open.get(no)
        if task is None or task.attempt != attempt or task.place is not peer:
            return
        self.sent.drop(peer.life, no)
        task.place = None
        task.bounces += 1
        if task.excluded is None:
            task.excluded = set()
            node.env.call_later(PARKED, self._offer_again, task)
        task.excluded.add(peer.life)
        if task.bounces % BOUNCES == 0 or task.key in self._queues or not self._place(task):
            self._enqueue(task)

    def _offer_again(self, task: Task) -> None:
        task.excluded = None
        if not task.settled:
            self.pump_soon()

    def answered(self, task: Task, state: int, out: Any) -> None:
        """The answer of the current attempt, from here or from a peer."""
        if task.settled:
            return
        if state == m.BROKE:
            self.broke(task, out)
            return
        if state == m.ERROR:
            listed = task.options.get("retry_exceptions", False)
            if listed is not False and task.retries_left != 0:
                error = unpack_error(self.node.codec, out)
                kinds: Any = Exception if listed is True else tuple(listed)
                if isinstance(error, kinds) and not isinstance(error, TaskCancelledError):
                    self._again(task, f"{type(error).__name__}: {error}")
                    return
        self._settle(task, state, out)

    def broke(self, task: Task, out: Any) -> None:
        """The attempt ended with the process or node that ran it; `out` is the error."""
        if task.settled:
            return
        error = unpack_error(self.node.codec, out)
        if isinstance(error, WorkerDiedError) and error.out_of_memory:
            task.out_of_memory += 1
            if task.retries_left == 0:
                text = f"{error} ({task.out_of_memory} of {task.attempt} attempts were stopped for want of memory)"
                out = self._out(WorkerDiedError(text, out_of_memory=True, ran=error.ran))
        if task.retries_left != 0:
            self._again(task, str(error), isinstance(error, WorkerDiedError) and error.out_of_memory)
        else:
            self._settle(task, m.ERROR, out)

    def _again(self, task: Task, why: str, out_of_memory: bool = False) -> None:
        if task.retries_left > 0:
            task.retries_left -= 1
        task.reset()
        task.attempt += 1
        self.retried += 1
        cap = min(RETRY_CAP, RETRY_FIRST * 2 ** min(task.attempt - 2, 10))
        if out_of_memory:
            cap = back_off(task.out_of_memory)
        delay = task.options.get("retry_delay")
        pause = (
            self.node.env.random.uniform(0, cap) if delay is None else delay * self.node.env.random.uniform(0.5, 1.5)
        )
        logger.info("task %s runs again (attempt %d) in %.2f s: %s", task.name, task.attempt, pause, why)
        self._count(task)
        self.node.env.call_later(pause, self.dispatch, task)

    def _close(self, task: Task) -> None:
        """It is over for its submitter, whatever still runs somewhere."""
        task.settled = True
        self.open.pop(task.no, None)
        self.unqueue(task)
        self._uncount(task)
        if task.deadline_timer is not None:
            task.deadline_timer.cancel()
        if task.schedule_timer is not None:
            task.schedule_timer.cancel()
        for ref in task.refs[1:]:
            self._parts.pop(ref._number, None)
        if task.parent:
            siblings = self._children.get(task.parent)
            if siblings is not None:
                siblings.pop(task.no, None)
                if not siblings:
                    del self._children[task.parent]

    def _settle(self, task: Task, state: int, out: Any) -> None:
        self._close(task)
        if state == m.ERROR and task.attempt > 1:
            out = self._about_all_attempts(out)
        node = self.node
        if task.rerun:
            node.lineage.ran(task, state, out)
            return
        if task.stream is not None:
            stream = task.stream()
            if stream is not None:
                stream._finish(state, out)
            node.streams.pop(task.no, None)
            if task.first_item:
                node.lineage.streamed(task)
            return
        refs, task.refs = task.refs, ()
        outs: Iterable[Any] = out if state == m.PARTS else repeat(out)
        large: list[ObjectRef[Any]] = []
        for ref, part in zip(refs, outs, strict=state == m.PARTS):
            node.objects.settled(ref, FAILED if state == m.ERROR else READY, part)
            if state != m.ERROR and (type(part) is Elsewhere or is_large(part)):
                large.append(ref)
        if large:
            task.returns = tuple(ref._number for ref in refs)
            node.lineage.made(task, large)

    def _about_all_attempts(self, out: Any) -> Any:
        """An error of the last attempt may say that it never ran; the task did, or may have, in an earlier one."""
        error = unpack_error(self.node.codec, out)
        if isinstance(error, ActorFwError) and error.ran is False:
            error.ran = None
            return self._out(error)
        return out

    def parent_ended(self, serial: int) -> None:
        """An execution ended here: its children go on, but are nobody's children any more."""
        self._children.pop(serial, None)

    # -- ending them early ---------------------------------------------------------------------------------------------

    def _expire(self, task: Task, ran: bool | None = None) -> None:
        task.deadline_timer = None
        if task.settled:
            return
        started = task.place is not None or task.started
        error = DeadlineExceededError(
            f"task {task.name} did not end within its timeout", ran=None if started and ran is None else False
        )
        self._close(task)
        self._withdraw(task, force=False, recursive=True)
        self._settle(task, m.ERROR, self._out(error))

    def of_number(self, number: int) -> Task | None:
        """The open task that makes the object of this number."""
        return self.open.get(number) or self._parts.get(number)

    def cancel(self, no: int, *, force: bool, recursive: bool, mark: int) -> bool:
        """End a task at once here, and where it runs without waiting for that.

        `mark`: CANCELLED or FAILED, what its refs become.
        """
        task = self.of_number(no)
        if task is not None and task.rerun:
            return False  # what it makes again was had before, and may be needed by others
        if task is None or task.settled:
            if force and no not in self.node.calls.open:
                self._force(no, recursive)
            return False
        started = task.place is not None or task.started
        for ref in task.refs[1:]:
            self._first[ref._number] = task.no
            if len(self._first) > REMEMBERED:
                self._first.popitem(last=False)
        self._close(task)
        self._withdraw(task, force=force, recursive=recursive)
        if mark == CANCELLED:
            for ref in task.refs:
                if ref._state == PENDING:
                    ref._state = CANCELLED
                    if not started:
                        ref.never_ran()
                    ref._fire()
        else:
            error = TaskCancelledError(f"task {task.name} was cancelled", ran=None if started else False)
            self._settle(task, m.ERROR, self._out(error))
        return True

    def _force(self, no: int, recursive: bool) -> None:
        # It was cancelled before and may not have obeyed: wherever it still runs, it loses its process now.
        no = self._first.get(no, no)
        for exe in list(self.node.execution.by_serial.values()):
            if exe.peer is None and exe.no == no:
                self.node.execution.cancel(exe, force=True, recursive=recursive)
        for peer in self.node.peers.by_life.values():
            peer.send((m.CANCEL, no, True, recursive))

    def _withdraw(self, task: Task, *, force: bool, recursive: bool) -> None:
        if task.place is not None:
            task.place.withdraw(m.TASK, task.no)
            task.place.send((m.CANCEL, task.no, force, recursive))
            self.sent.drop(task.place.life, task.no)
            task.place = None
        elif task.started:
            self.node.execution.cancel(task, force=force, recursive=recursive)

    def cancel_children(self, serial: int, *, force: bool) -> None:
        """Cancel the tasks that an execution on this node submitted."""
        for no in self._children.pop(serial, ()):
            self.cancel(no, force=force, recursive=True, mark=FAILED)

    # -- deaths --------------------------------------------------------------------------------------------------------
    # ---------------

    def peer_ended(self, life: bytes, name: str, why: str, unsent: Iterable[Any]) -> None:
        """A peer is dead or has left: its attempts are over."""
        never_sent = {(msg[1], msg[6]) for msg in unsent if msg[0] == m.TASK}
        back: list[Task] = []
        for task in self.sent.take(life):
            if (task.no, task.attempt) in never_sent:
                back.append(task)
            else:
                error = NodeDiedError(f"node {name} ended while it ran task {task.name}: {why}")
                self.broke(task, self._out(error))
        self.requeue(back)

    def close(self, error: NodeClosedError) -> None:
        """The node closes: what is pending fails."""
        out = self._out(error)
        never = self._out(NodeClosedError(str(error), ran=False))
        for task in list(self.open.values()):
            if not task.settled:
                self._settle(task, m.ERROR, out if task.place is not None or task.started else never)
        self.outbox.close()

    def _out(self, error: Exception) -> Any:
        return pack_error(self.node.codec, error, where=self.node.name, infrastructure=True)
