"""Finding actors that wait for each other in a circle: what this node can see of it, and the questions to others.

`core.deadlock` says how a look goes and when it is certain. This part answers for the actors that live here what a
turn waits for, and begins a look where calls have waited for half a second behind a turn that is suspended: each
circle has such a place. It costs nothing while no call waits that long.

Only what is certain is reported. A turn counts as waiting for a call if its task, or the thread or process that it
blocks, can go on by nothing but that call's end: no timeout stands around it, the call has no deadline, and it was
made by this node's own code.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterable
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.deadlock import ROOT, Ask, CallKey, Chase, Found, Turn, Wait
from actorfw.runtime.cells import ENDED, Cell
from actorfw.runtime.driving import inner
from actorfw.runtime.heldup import SUSPECT
from actorfw.runtime.refs import PENDING, ObjectRef, Reply
from actorfw.runtime.routes import IN_QUEUE, ActorCall
from actorfw.values.errors import DeadlockError
from actorfw.values.ids import RefId, as_bytes

if TYPE_CHECKING:
    from actorfw.runtime.channel import WorkerProcess
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Deadlocks"]

_AT_ONCE: Final = 64  # looks that one node has under way
_DEEP: Final = 12  # steps from a context manager to the task that it may cancel
_MANY: Final = 500  # objects on these steps

_GatheringFuture: Final[Any] = getattr(asyncio.tasks, "_GatheringFuture")  # noqa: B009
_PASSED: Final = (type, ModuleType, FunctionType, CodeType, asyncio.AbstractEventLoop, Cell, ObjectRef)


class Deadlocks:
    """One node's share in finding circles."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._chases: dict[Cell, Chase] = {}
        self._blocked: dict[ActorCall, list[Any]] = {}  # calls whose threads or processes wait in get()
        node.asks.verbs["chase"] = self._chased
        node.asks.verbs["deadlock"] = self._fail_here

    # -- beginning -----------------------------------------------------------------------------------------------------

    def suspect(self, cell: Cell) -> None:
        """Calls wait behind a turn of an actor here."""
        if cell in self._chases or len(self._chases) >= _AT_ONCE or self.node.closing:
            return
        if self.turns(cell, ROOT) is None:
            return
        chase = self._chases[cell] = Chase((self.node.life, *cell.id, False))
        self._go(cell, chase, chase.begin())

    def calls_itself(self, cell: Cell) -> None:
        """A turn calls its own actor: if it goes on to wait for that, there is nothing to wait for."""
        self.node.env.call_soon(self.suspect, cell)

    def blocks(self, cell: Cell, call: ActorCall, waiting: list[Any]) -> None:
        """A call's thread or process waits for all of these, and nothing can interrupt that."""
        self._blocked[call] = waiting
        self.node.env.call_later(SUSPECT, self._still, cell, call, waiting)

    def unblocks(self, call: ActorCall) -> None:
        """It goes on."""
        self._blocked.pop(call, None)

    def _still(self, cell: Cell, call: ActorCall, waiting: list[Any]) -> None:
        if self._blocked.get(call) is not waiting:
            return
        if self.node.closing or cell.state == ENDED:
            del self._blocked[call]
            return
        self.suspect(cell)
        self.node.env.call_later(SUSPECT, self._still, cell, call, waiting)

    def on_awaits(self, process: WorkerProcess, msg: list[Any]) -> None:
        """The process of an actor waits in get(), or goes on."""
        _, serial, refs = msg
        cell = self.node.cell_of(process)
        call = cell.sent(serial) if cell is not None else None
        if cell is None or call is None:
            return
        if refs:
            self.blocks(cell, call, [self.node.objects.adopt(as_bytes(owner), number, "") for owner, number in refs])
        else:
            self.unblocks(call)

    def is_blocked(self, call: ActorCall) -> bool:
        """Whether the thread or process that runs a call waits in get()."""
        return call in self._blocked

    def _go(self, cell: Cell, chase: Chase, instructions: Iterable[Any]) -> None:
        node = self.node
        waiting = list(instructions)
        while waiting:
            one = waiting.pop(0)
            if isinstance(one, Ask):
                call = one.wait.call
                host, life, number, queued = one.wait.where
                if host == node.life:
                    waiting += chase.heard(call, self._turns_at((life, number), call, queued))
                    continue
                peer = node.peers.by_life.get(host)
                if peer is None:
                    waiting += chase.heard(call, None)
                    continue
                reply = node.asks.ask(peer, "chase", [life, number, *call, queued])
                reply.add_done_callback(partial(self._answered, cell, chase, call))
            elif isinstance(one, Found):
                self._found(one)
        if chase.over and self._chases.get(cell) is chase:
            del self._chases[cell]

    def _answered(self, cell: Cell, chase: Chase, call: CallKey, done: Reply[Any]) -> None:
        try:
            rows = done.result()
        except Exception:  # no answer, whatever the reason: then nothing is certain
            rows = None
        turns = None
        if rows is not None:
            turns = [
                Turn(
                    (as_bytes(key[0]), key[1]),
                    name,
                    tuple(Wait((as_bytes(w[0]), w[1]), (as_bytes(w[2]), as_bytes(w[3]), w[4], w[5])) for w in waits),
                )
                for key, name, waits in rows
            ]
        self._go(cell, chase, chase.heard(call, turns))

    # -- what can be seen here -----------------------------------------------------------------------------------------

    def _chased(self, peer: Peer, payload: list[Any]) -> Any:
        life, number, call_life, call, queued = payload
        turns = self._turns_at((as_bytes(life), number), (as_bytes(call_life), call), queued)
        if turns is None:
            return None
        return [[list(turn.key), turn.name, [[*wait.call, *wait.where] for wait in turn.waits]] for turn in turns]

    def _turns_at(self, id: RefId, call: CallKey, queued: bool) -> list[Turn] | None:
        cell = self.node.hosting.cells.get(id)
        if cell is None:
            return None
        return self.turns(cell, ROOT if queued else call)

    def turns(self, cell: Cell, key: CallKey) -> list[Turn] | None:
        """The turns without which a call of an actor here can't end; None if it may end otherwise."""
        call: ActorCall | None = None
        if key != ROOT:
            call = self._pending(cell, key)
            if call is None or call.cancelled:
                return None
        found: list[Turn] = []
        for held, task in cell.held(call):
            waits = self._waits(held, task)
            if not waits:
                return None
            life = held.peer.life if held.peer is not None else self.node.life
            found.append(Turn((life, held.no), f"{cell.recipe.name}.{held.method}", waits))
        return found or None

    def _pending(self, cell: Cell, key: CallKey) -> ActorCall | None:
        life, number = key
        if life != self.node.life:
            served = self.node.hosting._calls.get(key)
            return served[1] if served is not None and served[0] is cell else None
        call = self.node.calls.open.get(number)
        return call if call is not None and call.route is not None and call.route.cell is cell else None

    def _waits(self, call: ActorCall, task: asyncio.Task[Any] | None) -> tuple[Wait, ...] | None:
        if call.cancelled:
            return None
        refs: list[Any] | None = self._blocked.get(call)
        if refs is None:
            refs = _awaited(task) if task is not None else None
        waits: list[Wait] = []
        for ref in refs or ():
            if ref._state != PENDING:
                if task is None:
                    continue  # get() waits for the others
                return None
            wait = self._wait(ref)
            if wait is None:
                return None
            waits.append(wait)
        return tuple(sorted(waits, key=lambda wait: wait.call))

    def _wait(self, ref: Any) -> Wait | None:
        node = self.node
        if not isinstance(ref, ObjectRef) or ref._owner != node.life:
            return None
        call = node.calls.open.get(ref._number)
        if call is None or call.deadline is not None or call.tell or call.cancelled or call.route is None:
            return None
        route = call.route
        host = node.life if route.cell is not None else route.peer.life if route.peer is not None else None
        if host is None:
            return None
        return Wait((node.life, call.no), (host, *route.target, call.counted == IN_QUEUE))

    # -- the end of a circle -------------------------------------------------------------------------------------------

    def _found(self, found: Found) -> None:
        life, number = found.victim
        if life == self.node.life:
            self._fail(number, list(found.names))
            return
        peer = self.node.peers.by_life.get(life)
        if peer is not None:
            self.node.asks.ask(peer, "deadlock", [number, list(found.names)])

    def _fail_here(self, peer: Peer, payload: list[Any]) -> None:
        self._fail(*payload)

    def _fail(self, number: int, names: list[str]) -> None:
        calls = self.node.calls
        call = calls.open.get(number)
        if call is None:
            return
        circle = " → ".join([*names, names[0]])
        text = (
            f"the call of {call.method} that {names[0]} waits for can't end, since actors wait for each other in a "
            f"circle: {circle}; let one of them not wait (tell(), or await the ref elsewhere), or mark a method with "
            f"@actorfw.method(interleave=True)"
        )
        if len(names) == 1:
            text = (
                f"{names[0]} waits for a call of {call.method} to its own actor, which runs one call at a time: call "
                f"self.{call.method}() instead, or mark a method with @actorfw.method(interleave=True)"
            )
        calls.fail(call, DeadlockError(text, ran=False))

    def close(self) -> None:
        """The node closes."""
        self._chases.clear()
        self._blocked.clear()


# -- what a task waits for ---------------------------------------------------------------------------------------------


def _awaited(task: asyncio.Task[Any]) -> list[Any] | None:
    """The refs of which a suspended task waits for all, or None if it waits for something else or may be woken."""
    if task.done() or task.cancelling() or _may_be_cancelled(task):
        return None
    waits_for: Any = getattr(task, "_fut_waiter", None)
    if isinstance(waits_for, ObjectRef):
        return [waits_for]
    if isinstance(waits_for, asyncio.Task):
        return _awaited(waits_for)
    if isinstance(waits_for, _GatheringFuture):
        refs: list[Any] = []
        for child in waits_for._children:
            if child.done():
                continue
            if isinstance(child, ObjectRef):
                refs.append(child)
                continue
            more = _awaited(child) if isinstance(child, asyncio.Task) else None
            if more is None:
                return None
            refs += more
        return refs or None
    return None


def _may_be_cancelled(task: asyncio.Task[Any]) -> bool:
    """Whether a `with` around the place where a task is suspended knows the task: a timeout, a group of tasks."""
    coro: Any = task.get_coro()
    while coro is not None:
        for found in gc.get_referents(coro):
            if _leaves_a_with(found) and _leads_to(found, task):
                return True
        coro = inner(coro)
    return False


def _leaves_a_with(found: Any) -> bool:
    # A suspended frame keeps, for each `with` that it is in, the bound method to be called at its end.
    name = getattr(found, "__name__", None)
    return name in ("__aexit__", "__exit__") and getattr(found, "__self__", None) is not None


def _leads_to(start: Any, task: asyncio.Task[Any]) -> bool:
    seen = {id(start)}
    layer = [start.__self__] if isinstance(start, MethodType) else [start]
    for _ in range(_DEEP):
        following: list[Any] = []
        for one in gc.get_referents(*layer):
            if one is task:
                return True
            if id(one) in seen or isinstance(one, _PASSED) or len(seen) > _MANY:
                continue
            seen.add(id(one))
            following.append(one)
        layer = following
        if not layer:
            break
    return False
