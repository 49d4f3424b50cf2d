"""The actors that live on this node: their arrival, the way of calls into their cells and back, and their end.

A host does what guardians say; it never decides whether an actor is to live. It remembers how actors ended here, so
that late calls hear the reason.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from actorfw.core.ledger import Shape
from actorfw.runtime.cells import ENDED, Cell
from actorfw.runtime.definitions import Interface, Recipe
from actorfw.runtime.execution import Credit
from actorfw.runtime.groups import Groups, runs_one_at_a_time
from actorfw.runtime.handles import ActorHandle
from actorfw.runtime.loopcells import LoopCell
from actorfw.runtime.objects import INLINE_LIMIT
from actorfw.runtime.parking import Parking
from actorfw.runtime.processcells import AHEAD, ProcessCell
from actorfw.runtime.refs import FAILED, READY
from actorfw.runtime.routes import ActorCall, held_ids
from actorfw.runtime.taskcells import TaskCell
from actorfw.runtime.threadcells import ThreadCell, is_asynchronous
from actorfw.values.errors import ActorDiedError, ActorFwError
from actorfw.values.ids import RefId, text_id
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error

if TYPE_CHECKING:
    from actorfw.runtime.channel import WorkerProcess
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Hosting"]

_PLAIN: Final = frozenset((type(None), bool, int, float))  # results that are what they are on the wire, and small

REMEMBERED: Final = 100_000  # ends of actors; calls to forgotten ones are sent back to their guardians

AnyCell: TypeAlias = LoopCell | TaskCell | ThreadCell | ProcessCell


class Hosting:
    """The cells of one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.cells: dict[RefId, Cell] = {}
        self._ends: OrderedDict[RefId, tuple[str, Any]] = OrderedDict()
        self._refused: dict[tuple[bytes, Shape], Peer] = {}  # guardians that had no room here
        self._calls: dict[tuple[bytes, int], tuple[Cell, ActorCall]] = {}
        self.parking = Parking(node.env)

    # -- arrival -------------------------------------------------------------------------------------------------------

    def on_create(self, peer: Peer, msg: list[Any]) -> None:
        """A guardian elsewhere wants an actor made here."""
        _, number, incarnation, hashed, args, deps, interface = msg
        node = self.node
        id = (peer.life, number)
        held = held_ids(args, deps)
        key = ("create", number, incarnation)
        if held:
            node.objects.carry_out(node.objects.ownership.call_received(peer.life, key, held))
        args = node.objects.keep(args)

        def then(state: str, out: Any) -> None:
            if state == "no_room":
                shape = node.recipe(hashed).shape
                self._refused[(peer.life, shape)] = peer
            node.outbound.enclose(peer, out)
            node.objects.sweep()
            kept, after = node.objects.ownership.call_answered(peer.life, key)
            peer.send((m.CREATED, peer.life, number, incarnation, state, out, [list(k) for k in kept] or None))
            node.objects.carry_out(after)

        refs = None
        if deps:
            refs = [node.objects.adopt(bytes(d[0]), d[1], d[2]) for d in deps]
            for ref, dep in zip(refs, deps, strict=True):
                if len(dep) == 4 and not ref.done():
                    ref._lazy = False
                    ref._settle(dep[3])
        self.create(id, incarnation, hashed, node.recipe(hashed), args, refs, Interface.from_wire(interface), then)

    def create(
        self,
        id: RefId,
        incarnation: int,
        hashed: bytes,
        recipe: Recipe,
        args: Any,
        refs: Any,
        interface: Interface,
        then: Callable[[str, Any], object],
    ) -> None:
        """Make an actor here; `then(state, out)` hears "up", "failed" (with the error) or "no_room", once."""
        node = self.node
        grant = node.ledger.take(recipe.shape, lasting=True)
        if grant is None or node.closing:
            then("no_room", None)
            return
        interface = node.interfaces.known(interface)
        methods = interface.methods
        cell: AnyCell
        if recipe.executor == "loop" and runs_one_at_a_time(recipe, methods):
            cell = LoopCell(node, id, incarnation, recipe)
        elif recipe.executor == "loop":
            cell = TaskCell(node, id, incarnation, recipe, Groups(recipe, methods))
        elif recipe.executor == "thread":
            groups = Groups(recipe, methods)
            cell = ThreadCell(node, id, incarnation, recipe, groups, asynchronous=is_asynchronous(methods))
        else:
            cell = ProcessCell(node, id, incarnation, recipe, Groups(recipe, methods, ahead=AHEAD))
        cell.grant = grant
        cell.interface = interface
        cell.methods = methods
        self.cells[id] = cell
        if refs and not all(ref.done() for ref in refs):
            node.objects.resolve(refs, lambda: self._construct(cell, hashed, args, refs, then))
        else:
            self._construct(cell, hashed, args, refs, then)

    def _construct(
        self, cell: AnyCell, hashed: bytes, args: Any, refs: Any, then: Callable[[str, Any], object]
    ) -> None:
        node = self.node
        if cell.state == ENDED:
            then("failed", cell.out(cell.died()))
            return
        try:
            for ref in refs or ():
                if ref._state != READY:
                    raise node.unpack_error(ref._out if ref._state == FAILED else node.objects.cancelled_out(ref))
            if isinstance(cell, ProcessCell):
                cell.launch(node.pool.spawn(), hashed, cell.interface, args, refs, then)
                return
            actor_class = node.codes.load(cell.recipe.code)
            unpacked, kwargs = node.unpack_args(args, refs)
        except Exception as error:
            cell.failed(error, then, cell.out(error, infrastructure=isinstance(error, ActorFwError)))
            return
        cell.start(actor_class, cell.interface, unpacked, kwargs, then)

    def tell_room(self) -> None:
        """Something here may have become free: guardians that had no room hear of it."""
        for key, peer in list(self._refused.items()):
            if self.node.ledger.has_room(key[1]) and not self.node.closing:
                del self._refused[key]
                self.node.asks.ask(peer, "pump", None)

    def own_handle(self, cell: Cell) -> ActorHandle:
        """The actor's handle to itself, which does not keep it alive."""
        node = self.node
        interface = node.interfaces.known(cell.interface)
        made = node.interfaces.handle_class(interface)
        return made(node, cell.id[0], cell.id[1], node.address, interface, None)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def on_call(self, peer: Peer, msg: list[Any]) -> None:
        """A call from another node. One that can't be taken apart is answered with its error; nobody else notices."""
        try:
            _, no, life, number, _incarnation, method, args, deps, left, credit, num_returns, caller, tell = msg
            node = self.node
            cell = self.cells.get((life, number))
            call = ActorCall(no, method, args, deps)
            call.peer = peer
            call.caller = caller
            call.credit = credit
            call.num_returns = num_returns
            call.tell = tell
            if left is not None:
                call.deadline = node.env.time() + left / 1000
            if deps or (type(args) is list and args and type(args[0]) is bytes):
                given = None
                held = held_ids(args, deps)
                if held:
                    if tell:
                        given = node.objects.ownership.took(peer.life, held)
                    else:
                        call.hold = True
                        node.objects.carry_out(node.objects.ownership.call_received(peer.life, (no, node.life), held))
                call.args = node.objects.keep(args)
                if deps:
                    call.dep_refs = [node.objects.adopt(bytes(d[0]), d[1], d[2]) for d in deps]
                    for ref, dep in zip(call.dep_refs, deps, strict=True):
                        if len(dep) == 4 and not ref.done():
                            ref._lazy = False
                            ref._settle(dep[3])
                node.objects.settle_taken(given)
            if cell is None:
                self._unknown(peer, call, (life, number))
                return
            if not tell:
                self._calls[(peer.life, no)] = (cell, call)
            cell.arrive(call)
        except Exception as error:
            self.node.inbound.refuse_call(peer, msg, error)

    def _unknown(self, peer: Peer, call: ActorCall, id: RefId) -> None:
        end = self._ends.get(id)
        if call.tell and not call.no:
            return
        if end is None:
            if call.hold:
                call.hold = None
                _, then = self.node.objects.ownership.call_answered(peer.life, (call.no, self.node.life))
                self.node.objects.carry_out(then)
            peer.send((m.NOT_HERE, call.no, id[0], id[1]))
            return
        self._send_result(call, peer, m.ERROR, self.end_of(id))

    def end_of(self, id: RefId) -> Any:
        """How an actor ended here, as the error that calls to it get."""
        reason, out = self._ends.get(id, ("unknown", None))
        if out is None:
            error = ActorDiedError(f"actor {text_id(id)[-20:]} has ended: {reason}", reason=reason, ran=False)
            out = pack_error(self.node.codec, error, where=self.node.name, infrastructure=True)
        return out

    def answer(self, cell: Cell, call: ActorCall, state: int, out: Any) -> None:
        """The final answer of a call to an actor here."""
        peer = call.peer
        call.dep_refs = None
        call.args = None
        if peer is None:
            if call.no:
                self.node.calls.answered(call.no, state, out)
            return
        if not call.no:
            if call.hold:  # its caller is gone, and nobody is to be told what is kept: the arguments are let go of
                _, then = self.node.objects.ownership.call_answered(peer.life, (call.hold, self.node.life))
                call.hold = None
                self.node.objects.carry_out(then)
            return
        if not call.tell and self._calls.pop((peer.life, call.no), None) is None:
            return  # answered before
        plain = type(out) in _PLAIN or (type(out) is bytes and len(out) <= INLINE_LIMIT)
        if plain and not call.hold and not call.items:
            peer.send((m.RESULT, call.no, state, out, None, 0))  # the usual answer: nothing in it to be looked after
        else:
            self._send_result(call, peer, state, out)

    def _send_result(self, call: ActorCall, peer: Peer, state: int, out: Any) -> None:
        key = None
        if call.hold:
            call.hold = None
            key = (call.no, self.node.life)
        items = call.items if state == m.ERROR and call.items else None
        self.node.outbound.send_result(peer, call.no, state, out, key, 0, items)

    def send_item(self, call: ActorCall, index: int, out: Any) -> None:
        """One item of a generator method."""
        if call.peer is None:
            self.node.calls.item(call.no, index, out)
        else:
            call.items += 1
            self.node.outbound.send_value(call.peer, (m.ITEM, call.no, index, 0), out)

    def on_cancel(self, peer: Peer, no: int) -> None:
        """A caller took its call back."""
        found = self._calls.get((peer.life, no))
        if found is not None:
            found[0].cancel(found[1])

    def on_credit(self, peer: Peer, no: int, items: int) -> None:
        found = self._calls.get((peer.life, no))
        if found is not None:
            self.add_credit(found[0], found[1], items)

    def add_credit(self, cell: Cell, call: ActorCall, items: int) -> None:
        """The consumer of a generator method took items, or went away (-1)."""
        if items < 0:
            cell.cancel(call)
        elif isinstance(cell, ProcessCell) and call.started:
            cell.add_credit(call, items)
        elif isinstance(call.credit, Credit):
            call.credit.add(items)
        else:
            call.credit += items

    # -- messages of workers -------------------------------------------------------------------------------------------

    def on_created(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A worker has made its actor, or could not."""
        cell = self.node.cell_of(process)
        if cell is not None:
            cell.on_created(msg[4], msg[5])

    def on_worker_ended(self, process: WorkerProcess, msg: list[Any]) -> None:
        """The actor in a worker has ended by itself."""
        cell = self.node.cell_of(process)
        if cell is not None:
            cell.on_ended_message(msg[4], msg[5])

    # -- the end -------------------------------------------------------------------------------------------------------

    def end(self, id: RefId, how: str) -> None:
        """A guardian wants an actor's end."""
        cell = self.cells.get(id)
        if cell is not None:
            cell.end(how)

    def ended(self, cell: Cell, reason: str, out: Any) -> None:
        """A cell has ended for good: its guardian hears of it."""
        if self.cells.pop(cell.id, None) is None:
            return
        self._ends[cell.id] = (reason, out)
        if len(self._ends) > REMEMBERED:
            self._ends.popitem(last=False)
        self.node.guardians.host_ended(cell.id, cell.incarnation, reason, out)

    def peer_ended(self, life: bytes) -> None:
        """A node is gone: the actors that it made end, and nobody wants the answers to its calls."""
        for key, (cell, call) in list(self._calls.items()):
            if key[0] == life:
                del self._calls[key]
                if call.hold:
                    call.hold = call.no
                call.no = 0
                cell.cancel(call)
        for refused in [refused for refused in self._refused if refused[0] == life]:
            del self._refused[refused]
        for id, cell in list(self.cells.items()):
            if id[0] == life:
                cell.end("owner_died")

    def close(self) -> None:
        """The node closes: all actors here end at once."""
        for cell in list(self.cells.values()):
            cell.end("killed")
        self.parking.close()
