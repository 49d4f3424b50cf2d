"""Actors that live in a worker process of their own.

The mailbox stays on the node, so that cancelling, ending and listing mean the same wherever an actor runs; a few
calls wait in the worker already, which starts them in order and keeps to the actor's concurrency (`runtime.worker`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.cells import ENDED, ENDING, STARTING, UP, Cell, Step
from actorfw.runtime.context import milliseconds
from actorfw.runtime.definitions import Recipe
from actorfw.runtime.groups import Groups
from actorfw.runtime.routes import ACKNOWLEDGE, ActorCall
from actorfw.values.errors import ActorDiedError
from actorfw.values.ids import RefId
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.pool import Worker

__all__ = ["AHEAD", "ProcessCell"]

logger = logging.getLogger("actorfw.actors")

AHEAD: Final = (
    64  # calls that a process actor may hold unstarted: enough to hide the way there, few enough to take back
)
ABORT_SECONDS: Final = 5.0  # that an interrupted actor gets for its on_stop


class ProcessCell(Cell):
    """An actor in a worker process of its own."""

    __slots__ = ("_groups", "_sent", "_stopping", "_then", "worker")

    def __init__(self, node: Node, id: RefId, incarnation: int, recipe: Recipe, groups: Groups) -> None:
        super().__init__(node, id, incarnation, recipe)
        self.worker: Worker | None = None
        self._groups = groups
        self._sent: dict[int, ActorCall] = {}
        self._then: Any = None
        self._stopping = False

    # -- its beginning -------------------------------------------------------------------------------------------------

    def launch(
        self, worker: Worker, hashed: bytes, interface: Any, args: Any, dep_refs: list[Any] | None, then: Any
    ) -> None:
        """Make the instance in its process; `then(state, out)` hears how it went."""
        node = self.node
        self.interface = interface
        self.methods = interface.methods
        self.worker = worker
        self._then = then
        worker.cell = self
        worker.process.label = f"actor {self.recipe.name}"
        node.outbound.ship(worker, hashed, self.recipe.code)
        deps, args = node.outbound.deps_to_worker(worker, dep_refs, args)
        node.outbound.give_worker(worker, args)
        gpus = list(self.grant.gpus) if self.grant is not None else None
        worker.send((m.CREATE, self.id, self.incarnation, hashed, args, deps, interface.to_wire(), gpus))

    def on_created(self, state: str, out: Any) -> None:
        """The worker has made the instance, or could not."""
        then, self._then = self._then, None
        if self.state == ENDED or then is None:
            return
        if state != "up":
            self._let_go()
            self.failed(ActorDiedError(), then, self.node.objects.keep(out))
            return
        if self.state == STARTING:
            self.state = UP
        then("up", None)
        self.wake()
        self.idle()

    # -- calls ---------------------------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        return super().depth + len(self._groups)

    def drain(self) -> list[ActorCall | Step]:
        return [*super().drain(), *self._groups.drain()]

    def enqueue(self, call: ActorCall) -> None:
        group = self._groups.of(call.method)
        self._groups.add(group, call)
        self._send_more(group)

    def wake(self) -> None:
        for group in self._groups:
            self._send_more(group)

    def _send_more(self, group: str) -> None:
        if self.worker is None or self.state in (STARTING, ENDED) or self._then is not None:
            return
        while (call := self._groups.take(group)) is not None:
            if call.cancelled:
                self.was_cancelled(call)
            elif not self.expired(call):
                self._send(call, self.worker)
                info = self.methods.get(call.method)
                if (
                    info is None or not info.streams
                ):  # a generator that waits for its consumer is not to keep others out
                    continue
            self._groups.leave(group)

    def _send(self, call: ActorCall, worker: Worker) -> None:
        node = self.node
        serial = call.runner = node.next_serial()
        left = None if call.deadline is None else milliseconds(call.deadline - node.env.time())
        deps, args = node.outbound.deps_to_worker(worker, call.dep_refs, call.args)
        node.outbound.give_worker(worker, args)
        self._sent[serial] = call
        call.started = True
        credit = call.credit
        if credit == ACKNOWLEDGE:
            self.answer(call, m.VALUE, None)
            credit = 0
        caller = call.peer.life if call.peer is not None else node.life
        worker.send(
            (
                m.CALL,
                serial,
                self.id[0],
                self.id[1],
                self.incarnation,
                call.method,
                args,
                deps,
                left,
                credit,
                call.num_returns,
                (caller, call.no),
                call.tell,
            )
        )

    def on_result(self, serial: int, state: int, out: Any) -> None:
        """The worker has answered a call."""
        call = self._sent.pop(serial, None)
        if call is None:
            return
        if not call.tell:
            self.answer(call, state, out)
        elif state == m.ERROR:
            logger.error("a tell of %s to actor %s raised: %r", call.method, self.title, self.node.unpack_error(out))
        info = self.methods.get(call.method)
        if info is None or not info.streams:
            group = self._groups.of(call.method)
            self._groups.leave(group)
            self._send_more(group)
        if self.state == ENDING:
            self.idle()

    def on_item(self, serial: int, index: int, out: Any) -> None:
        """A generator method has yielded."""
        call = self._sent.get(serial)
        if call is not None:
            self.node.hosting.send_item(call, index, out)

    def add_credit(self, call: ActorCall, items: int) -> None:
        """The consumer of a generator method took items."""
        if call.runner in self._sent and self.worker is not None:
            self.worker.send((m.CREDIT, call.runner, items))

    def output_peer(self) -> Peer | None:
        """Whose call the actor runs, as far as it is known here: its oldest."""
        for call in self._sent.values():
            return call.peer
        return None

    def cancel(self, call: ActorCall) -> None:
        call.cancelled = True
        if call.runner is None:
            self.open_gates()
        elif call.runner in self._sent and self.worker is not None:
            self.worker.process.interrupt(call.runner)

    # -- its end -------------------------------------------------------------------------------------------------------

    def end(self, how: str) -> None:
        if self.state == ENDED:
            return
        self.reason = how
        if how == "killed":
            self._kill()
            return
        self.state = ENDING
        if how == "owner_died":
            for serial in self._sent:
                if self.worker is not None:
                    self.worker.process.interrupt(serial)
            self._fail_sent(self.died(ran=None))
            self.drain_with(self.died())
            self.node.env.call_later(ABORT_SECONDS, self._kill)
        self.idle()

    def _kill(self) -> None:
        if self.state == ENDED:
            return
        worker = self.worker
        self._let_go()
        if worker is not None:
            worker.process.kill(f"its actor was ended: {self.reason}")
        self._fail_sent(self.died(ran=None))
        then, self._then = self._then, None
        if then is not None:
            then("failed", self.out(self.died()))
        self.finished(self.reason)

    def idle(self) -> None:
        if self.state != ENDING or self._then is not None or self._stopping:
            return
        if self._sent or self.waits() or len(self._groups):
            return
        self._stopping = True
        if self.worker is not None:
            self.worker.send((m.END, self.id[0], self.id[1], self.reason))

    def on_ended_message(self, reason: str, out: Any) -> None:
        """The worker says that the actor has ended: asked to, or by exit_actor()."""
        self.reason = reason
        self._let_go()
        self._fail_sent(self.died(ran=None))
        self.finished(reason)

    def process_ended(self, sentence: str) -> None:
        """The process is gone."""
        self.worker = None
        if self.state == ENDED:
            return
        if self._stopping:
            self.finished(self.reason)
            return
        then, self._then = self._then, None
        self.reason = "crashed"
        text = f"actor {self.title} has ended: {sentence}"
        self._fail_sent(ActorDiedError(text, reason="crashed"))
        died = ActorDiedError(text, reason="crashed", ran=False)
        out = self.out(died)
        if then is not None:
            then("failed", out)
        self.drain_with(died)
        self.finished("crashed", out)

    def _fail_sent(self, error: ActorDiedError) -> None:
        sent, self._sent = self._sent, {}
        if not sent:
            return
        out = self.out(error)
        for call in sent.values():
            if not call.tell:
                self.answer(call, m.ERROR, out)

    def _let_go(self) -> None:
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.cell = _GONE


class _Gone:
    """Takes the place of a cell whose actor has ended while its process is still on its way out."""

    def on_result(self, serial: int, state: int, out: Any) -> None: ...
    def on_item(self, serial: int, index: int, out: Any) -> None: ...
    def on_created(self, state: str, out: Any) -> None: ...
    def on_ended_message(self, reason: str, out: Any) -> None: ...
    def process_ended(self, sentence: str) -> None: ...
    def output_peer(self) -> None:
        return None


_GONE: Final = _Gone()
