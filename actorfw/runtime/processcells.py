"""Actors that live in a worker process of their own.

The mailbox stays on the node, so that cancelling, ending and listing mean the same wherever an actor runs; a few
calls wait in the worker already, which starts them in order and keeps to the actor's concurrency (`runtime.worker`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.cells import AT_ONCE, ENDED, ENDING, HOOK_SECONDS, STARTING, UP
from actorfw.runtime.context import milliseconds
from actorfw.runtime.definitions import Recipe
from actorfw.runtime.grouped import Grouped
from actorfw.runtime.groups import BESIDE, Groups
from actorfw.runtime.marks import words_by_group
from actorfw.runtime.routes import ACKNOWLEDGE, ActorCall, count_of
from actorfw.values.errors import ActorDiedError
from actorfw.values.ids import RefId
from actorfw.wire import messages as m

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.pool import Worker

__all__ = ["AHEAD", "ProcessCell"]

logger = logging.getLogger("actorfw.actors")

AHEAD: Final = (
    64  # calls that a process actor may hold unstarted: enough to hide the way there, few enough to take back
)
ANSWER_SECONDS: Final = 1.0  # that a process has to say where it hangs
ABORT_SECONDS: Final = 5.0  # that an interrupted actor gets for its on_stop


class ProcessCell(Grouped):
    """An actor in a worker process of its own."""

    __slots__ = (
        "_asked",
        "_begun",
        "_groups",
        "_limit",
        "_marks",
        "_sent",
        "_stopping",
        "_suspect",
        "_then",
        "worker",
    )

    def __init__(self, node: Node, id: RefId, incarnation: int, recipe: Recipe, groups: Groups) -> None:
        super().__init__(node, id, incarnation, recipe)
        self.worker: Worker | None = None
        self._groups = groups
        self._asked: Any = None  # the call of which the process was asked what holds it up
        self._suspect: ActorCall | None = None  # what does, as far as is known here, until there is an answer
        self._sent: dict[int, ActorCall] = {}
        self._begun: set[int] = set()  # of those, the ones that its process said to have started
        self._marks: tuple[int, ...] | None = None  # how far its process had come
        self._then: Any = None
        self._stopping = False
        self._limit: Any = None  # the timer of what on_stop may take

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
        worker.send((m.CREATE, self.id, self.incarnation, hashed, args, deps, interface.to_wire(), gpus, self.lasting))

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

    def _start_more(self, group: str) -> None:
        worker = self.worker
        if worker is None or self.state in (STARTING, ENDED) or self._then is not None:
            return
        while (call := self._groups.take(group)) is not None:
            keeps_its_place = False
            if call.cancelled:
                self.was_cancelled(call)
            elif not self.expired(call) and (self.holder is None or self.may_begin(call, self.holder)):
                self._send(call, worker)
                info = self.methods.get(call.method)
                # A generator that waits for its consumer is not to keep others out.
                keeps_its_place = info is None or not info.streams
            if not keeps_its_place:
                self._groups.leave(group)
            self.taken(call)  # lets in what stands at the door: that must not be sent before it
            if self.worker is not worker:
                return  # its process was let go
        if len(self._sent) > 1 and group != BESIDE:
            self.watch(group)

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
        node.windows.began(self, call)
        caller = (call.peer.life if call.peer is not None else node.life, call.no)
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
                count_of(call.num_returns),
                caller if call.trace is None else (*caller, *call.trace),
                0 if call.tell else call.attempt,
            )
        )

    def on_started(self, serial: int) -> None:
        """A call runs. The process says so where several may."""
        if serial in self._sent:
            self._begun.add(serial)

    def on_result(self, serial: int, state: int, out: Any) -> None:
        """The worker has answered a call."""
        call = self._sent.pop(serial, None)
        if call is None:
            return
        self._begun.discard(serial)
        if not call.tell:
            self.answer(call, state, out)
        elif state == m.ERROR:
            self.tell_failed(call, self.node.unpack_error(out))
        info = self.methods.get(call.method)
        if info is None or not info.streams:
            group = self._groups.of(call.method)
            self._groups.leave(group)
            self._start_more(group)
        if self.state == ENDING:
            self.idle()

    # -- calls that hold others up -------------------------------------------------------------------------------------

    def head(self, group: str) -> Any:
        # Of an actor that runs one call at a time the process does not say which it has begun.
        for serial, call in self._sent.items():
            if serial not in self._begun and self._groups.of(call.method) == group:
                return call
        return super().head(group)

    def held_up(self, group: str, head: Any) -> None:
        if head is self._asked or self.worker is None:
            return
        self._asked = head
        begun = [no for no, call in self._sent.items() if no in self._begun and self._groups.of(call.method) == group]
        self._suspect = self._sent[begun[0]] if begun else head
        self.worker.send((m.HANGS, begun))
        # What keeps the interpreter to itself keeps its process from answering.
        self.node.env.call_later(ANSWER_SECONDS, self._hangs, self._suspect, "")

    def on_hangs(self, serial: int, where: str) -> None:
        """The process says which of its calls hangs, and where; 0: none, or it does not know."""
        call = self._sent.get(serial, self._suspect if where else None)
        suspect, self._suspect = self._suspect, None
        if call is not None and suspect is not None:
            self._suspect = call
            self._hangs(call, where)

    def _hangs(self, call: ActorCall, where: str) -> None:
        if call is not self._suspect:
            return
        self._suspect = None
        unbegun = sum(1 for serial, one in self._sent.items() if serial not in self._begun and one is not call)
        waiting = unbegun + len(self._groups)
        if waiting and self.state != ENDED:
            self.tell_held_up(call, where, waiting)

    def on_item(self, serial: int, index: int, out: Any) -> None:
        """A generator method has yielded."""
        call = self._sent.get(serial)
        if call is not None:
            self.node.hosting.send_item(call, index, out)

    def add_credit(self, call: ActorCall, items: int) -> None:
        """The consumer of a generator method took items."""
        if call.runner in self._sent and self.worker is not None:
            self.worker.send((m.CREDIT, call.runner, items))

    def sent(self, serial: int) -> ActorCall | None:
        """The call that the worker knows by this number."""
        return self._sent.get(serial)

    def held(self, call: ActorCall | None) -> Iterable[tuple[ActorCall, asyncio.Task[Any] | None]]:
        # Only of an actor that runs one call at a time on its main thread is it known which one that is.
        blocked = [one for one in self._sent.values() if self.node.deadlocks.is_blocked(one)]
        return ((blocked[0], None),) if len(blocked) == 1 else ()

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
        if how in AT_ONCE:
            self._kill()
            return
        self.state = ENDING
        if how in ("owner_died", "fenced"):
            for serial in self._sent:
                if self.worker is not None:
                    self.worker.process.interrupt(serial)
            self._fail_sent(self.died(ran=None))
            self.drain_with(self.died())
            self.node.env.call_later(ABORT_SECONDS, self._kill)
        elif how == "drain":
            self.seal()
        self.idle()

    def cut(self, why: str) -> None:
        if self.state == ENDED:
            return
        self.reason = "drain"
        worker = self.worker
        self._let_go()
        if worker is not None:
            worker.process.kill(why)
            self._marks = worker.process.begun()
        self._lose_sent(why)
        then, self._then = self._then, None
        self.finished("drain")
        if then is not None:
            then("failed", self.out(self.died()))

    def _lose_sent(self, why: str) -> None:
        """Another incarnation follows: what has not started in the process is for that one, the rest is lost."""
        sent, self._sent = self._sent, {}
        marks, self._marks = self._marks, None
        words = words_by_group(self.recipe.groups) if marks is not None else {}
        begun = self._begun.copy()
        for serial, call in sent.items():
            word = words.get(self._groups.of(call.method))
            if marks is not None and word is not None and serial <= marks[word]:
                begun.add(serial)
        self.lose([call for serial, call in sent.items() if serial in begun], why)
        for serial, call in sent.items():
            if serial not in begun:
                self.node.hosting.bounce(self, call)

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
        if self.state != ENDING or self._then is not None or self._stopping or self.worker is None:
            return
        if self._sent or self.waits() or len(self._groups):
            return
        self._stopping = True
        self._limit = self.node.env.call_later(HOOK_SECONDS, self._too_long)
        self.worker.send((m.END, self.id[0], self.id[1], self.reason))

    def _too_long(self) -> None:
        if self.state != ENDED and self.worker is not None:
            logger.error("on_stop of actor %s runs on after %g s: its process is ended", self.title, HOOK_SECONDS)
            self.worker.process.kill("its on_stop took too long")

    def _stopped(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self.finished(self.reason)

    def on_ended_message(self, reason: str, out: Any) -> None:
        """The worker says that the actor has ended: asked to, or by exit_actor()."""
        self.reason = reason
        self._let_go()
        self._fail_sent(self.died(ran=None))
        self._stopped()

    def process_ended(self, sentence: str) -> None:
        """The process is gone."""
        if self.worker is not None:
            self._marks = self.worker.process.begun()
        self.worker = None
        if self.state == ENDED:
            return
        if self._stopping:
            self._stopped()
            return
        then, self._then = self._then, None
        reason = "drain" if self.reason == "drain" else "crashed"
        text = f"actor {self.title} has ended: {sentence}"
        if self.another_follows(reason):
            self._lose_sent(sentence)
            if then is not None:
                then("failed", self.out(ActorDiedError(text, reason="crashed", ran=False)))
            self.finished(reason, self.out(ActorDiedError(text, reason="crashed", ran=False)))
            return
        self.reason = "crashed"
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

    def on_started(self, serial: int) -> None: ...
    def on_hangs(self, serial: int, where: str) -> None: ...
    def on_result(self, serial: int, state: int, out: Any) -> None: ...
    def on_item(self, serial: int, index: int, out: Any) -> None: ...
    def on_created(self, state: str, out: Any) -> None: ...
    def on_ended_message(self, reason: str, out: Any) -> None: ...
    def process_ended(self, sentence: str) -> None: ...
    def output_peer(self) -> None:
        return None


_GONE: Final = _Gone()
