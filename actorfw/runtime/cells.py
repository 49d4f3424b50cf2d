"""Cells: actors that live on this node, each with its mailbox.

`Cell` is the mailbox and the end of any actor. Its subclasses say where methods run: on the node's event loop
(`runtime.loopcells`), in threads (`runtime.threadcells`), or in a worker process of its own (`runtime.processcells`).
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.holds import Holder
from actorfw.core.windows import Mailbox
from actorfw.runtime.context import CallContext, overdue
from actorfw.runtime.definitions import MethodInfo, Recipe
from actorfw.runtime.refs import FAILED, READY
from actorfw.runtime.routes import ActorCall
from actorfw.values.errors import (
    ActorDiedError,
    DeadlineExceededError,
    ObjectStoreFullError,
    SerializationError,
    TaskCancelledError,
    TaskError,
)
from actorfw.values.events import TellFailed
from actorfw.values.ids import RefId, as_bytes, text_id
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Mapping

    from actorfw.runtime.node import Node
    from actorfw.values.environment import Environment
    from actorfw.values.trace import Trace

__all__ = ["AT_ONCE", "ENDED", "ENDING", "HOOK_SECONDS", "STARTING", "UP", "Cell", "CellContext", "Step"]

logger = logging.getLogger("actorfw.actors")

STARTING: Final = 0
UP: Final = 1
ENDING: Final = 2  # takes nothing new, finishes what it has
ENDED: Final = 3

AT_ONCE: Final = frozenset(("killed", "drained"))  # ends that wait for nothing, and tell nobody in the actor

HOOK_SECONDS: Final = 30.0  # that on_stop may take


class Step:
    """A generator method between two yields: its next turn stands in the mailbox like a call."""

    __slots__ = ("call", "context", "index", "items")

    def __init__(self, call: ActorCall, items: Any, context: Context) -> None:
        self.call = call
        self.items = items
        self.context = context
        self.index = 0


class Cell(Mailbox):
    """One actor's mailbox and its end; where its methods run is the subclass's."""

    __slots__ = (
        "_gates",
        "_late",
        "_sealed",
        "_told",
        "_watch",
        "_withheld",
        "box",
        "follows",
        "grant",
        "guardian",
        "holder",
        "id",
        "incarnation",
        "interface",
        "lasting",
        "methods",
        "node",
        "reason",
        "recipe",
        "state",
    )

    def __init__(self, node: Node, id: RefId, incarnation: int, recipe: Recipe) -> None:
        super().__init__(recipe.max_pending_calls)
        self.node = node
        self.id = id
        self.guardian = id[0]  # the life that answers for it now
        self.incarnation = incarnation
        self.recipe = recipe
        self.state = STARTING
        self.reason = ""
        self.grant: Any = None
        self.methods: Mapping[str, MethodInfo] = {}
        self.interface: Any = None
        self.box: deque[ActorCall | Step] | None = None
        # Calls whose arguments are not here: by caller, in order, with those behind them; and unordered ones.
        self._gates: dict[tuple[bytes, int], deque[ActorCall]] | None = None
        self._late: set[ActorCall] | None = None
        self.lasting = False  # if it is lost, another incarnation follows
        self.follows = False  # it has ended, and another one does
        self._sealed: list[ActorCall] | None = None  # calls that are for the next one
        self._watch: Any = None  # what looks whether somebody is held up: a timer, or one for each group
        self._told: ActorCall | None = None  # the call of which the log said that it holds others up
        self.holder: Holder | None = None  # with a name that voters have given: until when calls may begin
        self._withheld: deque[ActorCall] | None = None  # their turn has come, but they may not begin now

    # -- a name that voters have given ---------------------------------------------------------------------------------

    def may_begin(self, call: ActorCall, holder: Holder) -> bool:
        """Whether a call whose turn has come may begin; else it waits until this host holds the name again."""
        # Not left to a timer: after a standstill of the process calls come before timers.
        if self.node.env.boot_time() < holder.until:
            return True
        holder.waits = True
        self.pending += 1
        if call.size:
            self.weigh(call.size)
        if self._withheld is None:
            self._withheld = deque()
        self._withheld.append(call)
        return False

    def go_on(self) -> None:
        """This host holds the name again: what was withheld comes first."""
        if self._withheld:
            self.stop_withholding()
            self.wake()

    def stop_withholding(self) -> None:
        """What was withheld is in the mailbox again, before all others."""
        withheld, self._withheld = self._withheld, None
        if withheld:
            self.put_back(withheld)

    def put_back(self, calls: Iterable[ActorCall]) -> None:
        """These are next again, in this order."""
        box = self.box
        if box is None:
            box = self.box = deque()
        box.extendleft(reversed(tuple(calls)))

    # -- the mailbox ---------------------------------------------------------------------------------------------------

    def accept(self, call: ActorCall) -> None:
        """A call has arrived. One whose arguments are not here holds back the later ones of its caller only."""
        if self.state >= ENDING:
            self.reject(call)
            return
        self.pending += 1
        if call.size:
            self.weigh(call.size)
        if call.deps or self._gates:
            self._accept_behind(call)
        else:
            self.enqueue(call)

    def arrive(self, call: ActorCall) -> None:
        """A call has arrived from a peer, outside of any task."""
        self.accept(call)

    def _accept_behind(self, call: ActorCall) -> None:
        if call.deps:
            if call.dep_refs is None:
                adopt = self.node.objects.adopt
                call.dep_refs = [adopt(as_bytes(dep[0]), dep[1], dep[2]) for dep in call.deps]
            waits = not all(ref._state for ref in call.dep_refs)
        else:
            waits = False
        info = self.methods.get(call.method)
        key = (call.peer.life if call.peer is not None else b"", call.caller)
        gate = self._gates.get(key) if self._gates is not None else None
        if info is not None and not info.ordered:
            if waits:
                if self._late is None:
                    self._late = set()
                self._late.add(call)
                self.node.objects.resolve(call.dep_refs or [], lambda: self._arrived(call))
            else:
                self.enqueue(call)
        elif gate is not None:
            gate.append(call)
        elif waits:
            if self._gates is None:
                self._gates = {}
            self._gates[key] = deque((call,))
            self._open_gate_when_ready(key)
        else:
            self.enqueue(call)

    def _arrived(self, call: ActorCall) -> None:
        late = self._late
        if late is not None and call in late:
            late.discard(call)
            self.enqueue(call)

    def open_gates(self) -> None:
        """A call was cancelled: if it waits for its arguments, those behind it need not any more."""
        for key in list(self._gates or ()):
            self._open_gate_when_ready(key)
        for call in [call for call in self._late or () if call.cancelled]:
            self._arrived(call)
        for call in [call for call in self._withheld or () if call.cancelled]:
            assert self._withheld is not None
            self._withheld.remove(call)
            self.taken(call)
            self.was_cancelled(call)
            self.idle()

    def waits(self) -> bool:
        """Whether there are calls whose arguments are not here yet."""
        return bool(self._gates or self._late or self._withheld)

    def _open_gate_when_ready(self, key: tuple[bytes, int]) -> None:
        gates = self._gates
        if gates is None or key not in gates:
            return
        gate = gates[key]
        while gate:
            call = gate[0]
            if call.dep_refs and not call.cancelled and not all(ref._state for ref in call.dep_refs):
                self.node.objects.resolve(call.dep_refs, lambda: self._open_gate_when_ready(key))
                return
            gate.popleft()
            self.enqueue(call)
            if self._gates is not gates:
                return  # the actor ended
        del gates[key]
        if not gates:
            self._gates = None
            self.idle()

    def enqueue(self, call: ActorCall) -> None:
        """Its arguments are here and its turn among its caller's has come."""
        if self.box is None:
            self.box = deque()
        self.box.append(call)
        self.wake()

    def taken(self, call: ActorCall) -> None:
        """A call leaves the mailbox: it starts now, or never will."""
        self.pending -= 1
        if call.size or self.heard:
            self.node.windows.left(self, call)

    def held(self, call: ActorCall | None) -> Iterable[tuple[ActorCall, asyncio.Task[Any] | None]]:
        """The turns without which a call that waits here can't start, or its own if it runs; with their tasks.

        None stands for a call that has not come yet. Nothing: there are none, or it is not known.
        """
        return ()

    def wake(self) -> None:
        """There is something in the mailbox."""
        raise NotImplementedError

    def idle(self) -> None:
        """Nothing runs and nothing waits: the moment to end if that was asked for."""

    def reject(self, call: ActorCall) -> None:
        """Answer a call that came too late, or keep it for the next incarnation."""
        if self.follows:
            self.node.hosting.bounce(self, call)
        elif self._sealed is not None:
            self._sealed.append(call)
        else:
            self.answer(call, m.ERROR, self.out(self.died()))

    def no_method(self, call: ActorCall) -> None:
        """Answer a call of what the class does not have: its caller knows another version of it."""
        error = TaskError(f"actor {self.title} has no method {call.method!r}", ran=False)
        self.answer(call, m.ERROR, self.out(error))

    def tell_failed(self, call: ActorCall, error: BaseException) -> None:
        """A tell raised: nobody waits for its answer, so the log and whoever reads events hear of it."""
        logger.error("a tell of %s to actor %s raised", call.method, self.title, exc_info=error)
        events = self.node.events
        if events.wanted:
            text = "".join(traceback.format_exception(error))
            events.publish(TellFailed(text_id(self.id), call.method, text))

    def refused(self, call: ActorCall, error: Exception) -> None:
        """What a call gave can't be sent."""
        if call.tell:
            return
        if isinstance(error, (SerializationError, ObjectStoreFullError)):
            error.ran = True
        ours = isinstance(error, (SerializationError, ObjectStoreFullError, TaskError))
        self.answer(call, m.ERROR, self.out(error, infrastructure=ours))

    def was_cancelled(self, call: ActorCall) -> None:
        """Answer a call that was taken back."""
        error = TaskCancelledError(f"call {call.method} was cancelled", ran=None if call.started else False)
        self.answer(call, m.ERROR, self.out(error))

    def died(self, where: str = "", *, ran: bool | None = False) -> ActorDiedError:
        """The error that says how this actor ended."""
        return ActorDiedError(f"actor {self.title} has ended{where}: {self.reason}", reason=self.reason, ran=ran)

    @property
    def title(self) -> str:
        return f"{self.recipe.name} {text_id(self.id)[-20:]}"

    @property
    def depth(self) -> int:
        """Calls accepted and not started."""
        waiting = sum(map(len, self._gates.values())) if self._gates else 0
        return waiting + sum(len(those) for those in (self._late, self.box, self._withheld) if those)

    def answer(self, call: ActorCall, state: int, out: Any) -> None:
        """The final answer to a call."""
        self.node.hosting.answer(self, call, state, out)

    def out(self, error: BaseException, *, infrastructure: bool = True) -> Any:
        return pack_error(
            self.node.codec, error, where=f"{self.title} on {self.node.name}", infrastructure=infrastructure
        )

    def drain(self) -> list[ActorCall | Step]:
        """Take out all that waits."""
        waiting: list[ActorCall | Step] = []
        self.stop_withholding()
        box, self.box = self.box, None
        if box:
            waiting += box
            box.clear()  # it may be in somebody's hands
        gates, self._gates = self._gates, None
        for gate in (gates or {}).values():
            waiting += gate
        late, self._late = self._late, None
        waiting += sorted(late or (), key=lambda call: call.no)
        self.emptied()
        if self.heard:
            waiting += self.node.windows.drained(self)
        return waiting

    def drain_with(self, error: ActorDiedError) -> None:
        """Answer all that waits with an error."""
        waiting = self.drain()
        if not waiting:
            return
        out = self.out(error)
        for item in waiting:
            if isinstance(item, Step):  # a generator that has begun, and waited for its turn
                self.answer(item.call, m.ERROR, self.out(self.died(f" while {item.call.method} ran", ran=None)))
                self.discard(item)
            else:
                self.answer(item, m.ERROR, out)

    def discard(self, step: Step) -> None:
        """Close a generator that will not go on."""

    def cancel(self, call: ActorCall) -> None:
        """Its caller took a call back."""
        raise NotImplementedError

    def end(self, how: str) -> None:
        """End the actor: "killed" at once, other words after what it has accepted, "drain" after what has started."""
        if self.state == ENDED:
            return
        self.reason = how
        if how in AT_ONCE:
            self.abort()
            self.finished(how)
            return
        self.state = ENDING
        if how in ("owner_died", "fenced"):
            self.abort()
        elif how == "drain":
            self.seal()
        self.idle()

    def cut(self, why: str) -> None:
        """End this incarnation at once, whatever runs: another one follows elsewhere."""
        if self.state != ENDED:
            self.reason = "drain"
            self.state = ENDING
            self.seal()
            self.abort(lost=why)
            self.finished("drain")

    def abort(self, *, lost: str = "") -> None:
        """Whatever runs or waits fails now, with the reason.

        `lost`: what runs fails because this incarnation does, and another one follows.
        """
        raise NotImplementedError

    def seal(self) -> None:
        """Start nothing more: what waits, and what still comes, is for the next incarnation."""
        if self._sealed is None:
            self._sealed = []
            self._sealed += self.take_unstarted()

    def take_unstarted(self) -> list[ActorCall]:
        """Take out the calls that have not started, those of each caller in order; generators that began stay."""
        waiting: list[ActorCall] = []
        self.stop_withholding()
        box = self.box
        if box:
            waiting += [item for item in box if isinstance(item, ActorCall)]
            steps = [item for item in box if isinstance(item, Step)]
            box.clear()  # in place: it may be in somebody's hands
            box.extend(steps)
        gates, self._gates = self._gates, None
        for gate in (gates or {}).values():
            waiting += gate
        late, self._late = self._late, None
        waiting += sorted(late or (), key=lambda call: call.no)
        self.emptied()
        if self.heard:
            waiting += self.node.windows.drained(self)
        return waiting

    def another_follows(self, reason: str) -> bool:
        """Whether this incarnation's end for this reason is not the actor's."""
        if reason == "drain":
            return True
        return reason == "crashed" and self.lasting and self.state not in (ENDING, ENDED)

    def lose(self, calls: Iterable[ActorCall], why: str) -> None:
        """These had started, and their callers will not hear from this incarnation."""
        for call in calls:
            self.node.hosting.lose(self, call, why)

    def failed(self, error: BaseException, then: Any, out: Any = None) -> None:
        """It could not be made: `then` hears it, and those that call it. `out`: the error as it came, if from afar."""
        if out is None:
            out = self.out(error, infrastructure=False)
        then("failed", out)
        if self.state == ENDED:
            return
        cause = self.node.unpack_error(out)
        died = ActorDiedError(f"actor {self.title} could not be made: {cause!r}", reason="crashed", ran=False)
        died.__cause__ = cause
        if not self.another_follows("crashed"):
            self.reason = "crashed"
            self.drain_with(died)
        self.finished("crashed", self.out(died))

    def finished(self, reason: str, out: Any = None) -> None:
        """This incarnation has ended, and with it the actor unless another one follows."""
        if self.state == ENDED:
            return
        self.follows = self.another_follows(reason)
        self.state = ENDED
        self.reason = reason
        if self.follows:
            sealed, self._sealed = self._sealed, None
            for call in (*(sealed or ()), *self.take_unstarted()):
                self.node.hosting.bounce(self, call)
        self.drain_with(self.died())
        grant, self.grant = self.grant, None
        if grant is not None:
            self.node.ledger.release(grant)
            self.node.tasks.pump_soon()
        self.node.hosting.ended(self, reason, out)

    def expired(self, call: ActorCall) -> bool:
        """Whether a call's deadline has passed before it could start; it is answered then."""
        if call.deadline is None or call.deadline > self.node.env.time():
            return False
        error = DeadlineExceededError(f"call {call.method} was due before it could start", ran=False)
        self.answer(call, m.ERROR, self.out(error))
        return True

    def too_late(self, call: ActorCall, error: BaseException) -> bool:
        """Whether a call ended because its own deadline has passed, which its own calls inherited; answered then."""
        late = overdue(f"call {call.method}", error, call.deadline, self.node.env.time())
        if late is None:
            return False
        self.answer(call, m.ERROR, self.out(late))
        return True

    def ready_arguments(self, call: ActorCall) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Unpack a call's arguments; None when it has been answered instead, or is not to begin now."""
        node = self.node
        if call.deadline is not None and self.expired(call):
            return None
        if self.holder is not None and not self.may_begin(call, self.holder):
            return None
        refs = call.dep_refs
        if refs:
            for ref in refs:
                if ref._state != READY:
                    out = ref._out if ref._state == FAILED else node.objects.cancelled_out(ref)
                    self.answer(call, m.ERROR, out)
                    return None
        args = call.args
        if type(args) is list:  # scalars only
            return tuple(args), {}
        try:
            return node.unpack_args(args, refs)
        except Exception as error:  # unpickling runs user code; the caller is told
            self.answer(call, m.ERROR, self.out(error))
            return None


class CellContext(CallContext):
    """The context of a method call: most of it is read off the cell when asked for."""

    __slots__ = ("_call", "cell")

    # One is made for each call, so it only notes where to look. These never differ:
    key = ""
    number = 0

    def __init__(self, cell: Cell, call: ActorCall | None) -> None:
        self.cell = cell
        self._call = call

    @property
    def running(self) -> ActorCall | None:
        """The call that runs; None in `__init__` and the hooks."""
        return self._call

    @property
    def attempt(self) -> int:  # type: ignore[override]
        return self._call.attempt if self._call is not None else 0

    @property
    def deadline(self) -> float | None:  # type: ignore[override]
        return self._call.deadline if self._call is not None else None

    @property
    def trace(self) -> Trace | None:  # type: ignore[override]
        return self._call.trace if self._call is not None else None

    @property
    def environment(self) -> Environment | None:  # type: ignore[override]
        return self.cell.recipe.environment

    @property
    def call(self) -> RefId | None:  # type: ignore[override]
        call = self._call
        if call is None or call.tell:
            return None
        return call.peer.life if call.peer is not None else self.cell.node.life, call.no

    @property
    def gpus(self) -> tuple[int, ...]:  # type: ignore[override]
        grant = self.cell.grant
        return tuple(grant.gpus) if grant is not None else ()

    @property
    def node_id(self) -> str:  # type: ignore[override]
        return self.cell.node.id

    @property
    def actor_id(self) -> str:  # type: ignore[override]
        return text_id(self.cell.id)

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.cell.recipe.name

    @property
    def guardian(self) -> bytes:
        return self.cell.guardian

    @property
    def fencing_token(self) -> int:  # type: ignore[override]
        return self.cell.incarnation

    @property
    def handle(self) -> Any:
        return self.cell.node.hosting.own_handle(self.cell)
