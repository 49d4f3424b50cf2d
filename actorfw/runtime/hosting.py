"""The actors that live on this node: their arrival, the way of calls into their cells and back, and their end.

A host does what guardians say; it never decides whether an actor is to live, and of orders about one actor it takes no
older one than it has heard (`core.fencing`). It remembers how actors ended here, so that late calls hear the reason. If
only an incarnation has ended, what it had not started goes back to its callers, in order, for the next.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from actorfw.core.credit import first_of, more
from actorfw.core.entries import Key
from actorfw.core.fencing import Fence
from actorfw.core.ledger import Shape
from actorfw.runtime.cells import ENDED, ENDING, STARTING, Cell
from actorfw.runtime.context import limits
from actorfw.runtime.definitions import Interface, Recipe
from actorfw.runtime.execution import Credit
from actorfw.runtime.groups import Groups, runs_one_at_a_time
from actorfw.runtime.handles import ActorHandle
from actorfw.runtime.loopcells import LoopCell
from actorfw.runtime.objects import INLINE_LIMIT
from actorfw.runtime.parking import Parking
from actorfw.runtime.processcells import AHEAD, ProcessCell
from actorfw.runtime.refs import FAILED, READY, Reply
from actorfw.runtime.routes import ActorCall, held_ids
from actorfw.runtime.store.residence import all_here
from actorfw.runtime.taskcells import TaskCell
from actorfw.runtime.threadcells import ThreadCell, is_asynchronous
from actorfw.values.errors import ActorDiedError, ActorFwError, PeerUnreachableError
from actorfw.values.ids import RefId, as_bytes, checked_id, is_detached, text_id
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error
from actorfw.wire.payload import size_of

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
        self._ends: OrderedDict[RefId, tuple[str, Any, bool]] = OrderedDict()  # reason, error, does another follow?
        self._fence = Fence()
        # Creations that found no room here: their guardian has kept the calls that it sent behind them.
        self._turned_away: OrderedDict[RefId, int] = OrderedDict()
        self._also: dict[Cell, list[Callable[[str, Any], object]]] = {}  # who else waits for its start
        self._refused: dict[tuple[bytes, Shape], Peer] = {}  # guardians that had no room here
        self._calls: dict[tuple[bytes, int], tuple[Cell, ActorCall]] = {}
        self.parking = Parking(node.env)

    # -- arrival -------------------------------------------------------------------------------------------------------

    def on_create(self, peer: Peer, msg: list[Any]) -> None:
        """A guardian elsewhere wants an actor made here."""
        _, life, number, incarnation, hashed, args, deps, interface, lasting, name = msg
        node = self.node
        id = checked_id(life, number)
        held = held_ids(args, deps)
        key = ("create", *id, incarnation)
        if held:
            node.objects.carry_out(node.objects.ownership.call_received(peer.life, key, held))
        args = node.objects.keep(args)

        def then(state: str, out: Any) -> None:
            if state == "no_room":
                shape = node.recipe(hashed).shape
                self._refused[(peer.life, shape)] = peer
                self._turned_away[id] = incarnation
                if len(self._turned_away) > REMEMBERED:
                    self._turned_away.popitem(last=False)
            node.outbound.enclose(peer, out)
            node.objects.sweep()
            kept, after = node.objects.ownership.call_answered(peer.life, key)
            peer.send((m.CREATED, *id, incarnation, state, out, [list(k) for k in kept] or None))
            node.objects.carry_out(after)

        refs = None
        if deps:
            refs = [node.objects.adopt(as_bytes(d[0]), d[1], d[2]) for d in deps]
            for ref, dep in zip(refs, deps, strict=True):
                if len(dep) == 4 and not ref.done():
                    ref._lazy = False
                    ref._settle(dep[3])
        recipe = node.recipe(hashed)
        made = Interface.from_wire(interface)
        key_held = None if name is None else (name[0], name[1])
        guardian = node.heirs.of(peer.life)  # it may have left since it asked, and its heir have asked before
        self.create(id, incarnation, hashed, recipe, args, refs, made, then, guardian, lasting, key_held)

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
        guardian: bytes,
        lasting: bool,
        name: Key | None,
    ) -> None:
        """Make an incarnation here; `then(state, out)` hears "up", "failed" or "hopeless" (with the error) or
        "no_room", once; nothing if a later one is known. `lasting`: another one follows if it is lost. `name`: to be
        held, as voters have given it."""
        node = self.node
        verdict = self._fence.create(id, incarnation)
        if verdict != "make":
            if verdict == "repeat":
                self._repeat(id, guardian, then)
            return
        before = self.cells.get(id)
        if before is not None:  # its guardian went on without hearing of its end
            before.cut("a later incarnation was made")
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
            # What is in the process begins there without a further look.
            ahead = min(AHEAD, recipe.max_pending_calls // 2) if name is None else 0
            cell = ProcessCell(node, id, incarnation, recipe, Groups(recipe, methods, ahead=ahead))
            cell.most = cell.limit = recipe.max_pending_calls - ahead
        self._fence.heard(id, incarnation)
        self._ends.pop(id, None)
        self._turned_away.pop(id, None)
        cell.guardian = id[0] if is_detached(id[0]) else guardian
        cell.lasting = lasting
        cell.grant = grant
        cell.interface = interface
        cell.methods = methods
        self.cells[id] = cell
        if name is not None and node.directory.quorum is not None:
            node.directory.quorum.hold(cell, name, lambda: self._begin(cell, hashed, args, refs, then))
        else:
            self._begin(cell, hashed, args, refs, then)

    def _begin(self, cell: AnyCell, hashed: bytes, args: Any, refs: Any, then: Callable[[str, Any], object]) -> None:
        environment = cell.recipe.environment
        if environment is not None and not isinstance(cell, ProcessCell):

            def ready(error: Exception | None) -> None:
                if error is None or cell.state == ENDED:
                    self._begin_here(cell, hashed, args, refs, then)
                else:
                    cell.failed(error, self._made(cell, then), cell.out(error))

            self.node.environments.when_here(environment, cell.guardian, ready)
        else:
            self._begin_here(cell, hashed, args, refs, then)

    def _begin_here(
        self, cell: AnyCell, hashed: bytes, args: Any, refs: Any, then: Callable[[str, Any], object]
    ) -> None:
        if refs and not all_here(refs):
            self.node.objects.resolve(refs, lambda: self._construct(cell, hashed, args, refs, then))
        else:
            self._construct(cell, hashed, args, refs, then)

    def _repeat(self, id: RefId, guardian: bytes, then: Callable[[str, Any], object]) -> None:
        """It was made, or tried, before: a guardian's heir asks how that went."""
        cell = self.cells.get(id)
        if cell is None:
            then("failed", self.end_of(id))
            return
        if not is_detached(id[0]):
            cell.guardian = guardian
        if cell.state == STARTING:
            self._also.setdefault(cell, []).append(then)
        else:
            then("up", None)

    def _construct(
        self, cell: AnyCell, hashed: bytes, args: Any, refs: Any, then: Callable[[str, Any], object]
    ) -> None:
        node = self.node
        made = self._made(cell, then)
        if cell.state == ENDED:
            made("failed", cell.out(cell.died()))
            return
        for ref in refs or ():
            if ref._state != READY:
                out = ref._out if ref._state == FAILED else node.objects.cancelled_out(ref)
                cell.lasting = False  # it will not be different elsewhere

                def hopeless(_: str, out: Any) -> None:
                    made("hopeless", out)

                cell.failed(node.unpack_error(out), hopeless, out)
                return
        try:
            if isinstance(cell, ProcessCell):
                worker = node.pool.spawn(cell.recipe.environment, cell.guardian)
                cell.launch(worker, hashed, cell.interface, args, refs, made)
                return
            actor_class = node.codes.load(cell.recipe.code)
            unpacked, kwargs = node.unpack_args(args, refs)
        except Exception as error:  # loading and unpickling run user code
            cell.failed(error, made, cell.out(error, infrastructure=isinstance(error, ActorFwError)))
            return
        cell.start(actor_class, cell.interface, unpacked, kwargs, made)

    def _made(self, cell: AnyCell, then: Callable[[str, Any], object]) -> Callable[[str, Any], None]:
        """`then`, and after it all others that wait to hear how an incarnation was made."""

        def made(state: str, out: Any) -> None:
            then(state, out)
            for other in self._also.pop(cell, ()):
                other(state, out)

        return made

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
            _, no, life, number, incarnation, method, args, deps, left, credit, num_returns, caller, attempt = msg
            node = self.node
            cell = self.cells.get((life, number))
            call = ActorCall(no, method, args, deps)
            call.peer = peer
            call.caller = caller
            call.credit = credit
            call.num_returns = num_returns
            if attempt:
                tell = False
                call.attempt = attempt
            else:
                tell = call.tell = True
            if left is not None:
                call.deadline, call.trace = limits(left, node.env.time())
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
                call.size = size_of(call.args)
                if deps:
                    call.dep_refs = [node.objects.adopt(as_bytes(d[0]), d[1], d[2]) for d in deps]
                    for ref, dep in zip(call.dep_refs, deps, strict=True):
                        if len(dep) == 4 and not ref.done():
                            ref._lazy = False
                            ref._settle(dep[3])
                node.objects.settle_taken(given)
            elif type(args) is bytes:
                call.size = len(args)
            if cell is None or cell.incarnation != incarnation:
                self._unknown(peer, call, (life, number), incarnation)
                return
            if not tell:
                self._calls[(peer.life, no)] = (cell, call)
            if cell.pending < cell.limit:
                cell.arrive(call)
            else:
                node.windows.arrive_full(cell, call)
        except Exception as error:  # the message is a peer's: its caller is told
            self.node.inbound.refuse_call(peer, msg, error)

    def _unknown(self, peer: Peer, call: ActorCall, id: RefId, incarnation: int) -> None:
        end = self._ends.get(id)
        if self._turned_away.get(id) == incarnation:
            if call.no:
                self._unanswered(peer, call, m.NOT_HERE, call.no, 0)
        elif end is None or end[2] or id in self.cells:
            self._send_back(peer, call, id, incarnation)
        elif call.no:
            self._send_result(call, peer, m.ERROR, self.end_of(id))

    # -- what an incarnation leaves behind -----------------------------------------------------------------------------

    def bounce(self, cell: Cell, call: ActorCall) -> None:
        """A call that has not started goes back to its caller, for the next incarnation."""
        peer = call.peer
        call.runner = None
        call.started = False
        if peer is None:
            if call.no or call.tell:
                self.node.calls.locating.came_back(call, cell.incarnation)
        elif call.no or call.tell:
            self._calls.pop((peer.life, call.no), None)
            self._send_back(peer, call, cell.id, cell.incarnation)
        else:
            self._unanswered(peer, call)

    def _send_back(self, peer: Peer, call: ActorCall, id: RefId, incarnation: int) -> None:
        if call.tell:
            # Its caller has kept nothing of it.
            deps = [list(dep[:3]) for dep in call.deps] if call.deps else None
            self.node.outbound.give(peer, call.args, deps)
            where = (call.no, *id, incarnation)
            peer.send((m.RETURNED, *where, call.method, call.args, deps, call.credit, call.caller, call.trace))
            return
        self._unanswered(peer, call, m.NOT_HERE, call.no, incarnation)

    def lose(self, cell: Cell, call: ActorCall, why: str) -> None:
        """A call that had started when its incarnation was lost; another one follows."""
        peer = call.peer
        if call.tell:
            return
        if peer is None:
            if call.no:
                self.node.calls.locating.lost(call, cell.incarnation, why)
        elif not call.no:
            self._unanswered(peer, call)
        elif self._calls.pop((peer.life, call.no), None) is not None:
            self._unanswered(peer, call, m.LOST, call.no, cell.incarnation, why, call.items)

    def _unanswered(self, peer: Peer, call: ActorCall, *head: Any) -> None:
        """This host is through with a call: send `(*head, kept)`, or nothing if its caller is gone."""
        call.args = call.dep_refs = None
        kept: Any = ()
        then: list[Any] = []
        objects = self.node.objects
        if call.hold:
            objects.sweep()
            kept, then = objects.ownership.call_answered(peer.life, (call.no or call.hold, self.node.life))
            call.hold = None
        if head:
            peer.send((*head, [list(id) for id in kept] or None))
        objects.carry_out(then)

    def end_of(self, id: RefId) -> Any:
        """How an actor ended here, as the error that calls to it get."""
        reason, out, _ = self._ends.get(id, ("unknown", None, False))
        if out is None:
            error = ActorDiedError(f"actor {text_id(id)[-20:]} has ended: {reason}", reason=reason, ran=False)
            out = pack_error(self.node.codec, error, where=self.node.name, infrastructure=True)
        return out

    def end_words(self, id: RefId) -> tuple[str, str]:
        """How an actor ended here: one word, and the text of the error if it came with one."""
        reason, out, _ = self._ends.get(id, ("unknown", None, False))
        return reason, "" if out is None else str(self.node.unpack_error(out))

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
        self.node.outbound.send_result(peer, call.no, state, out, key, 0, items, call.num_returns)

    def send_item(self, call: ActorCall, index: int, out: Any) -> None:
        """One item of a generator method."""
        if isinstance(call.credit, Credit):
            call.credit.spend(size_of(out))
        if call.peer is None:
            self.node.calls.item(call.no, index, out)
        else:
            call.items += 1
            self.node.items.send(call.peer, call.no, index, 0, out, first_of(call.credit))

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
            call.credit = more(call.credit, items)

    # -- messages of workers -------------------------------------------------------------------------------------------

    def on_created(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A worker has made its actor, or could not."""
        cell = self.node.cell_of(process)
        if cell is not None:
            cell.on_created(msg[4], msg[5])

    def on_started(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A call runs in a worker's actor."""
        cell = self.node.cell_of(process)
        if cell is not None:
            cell.on_started(msg[1])

    def on_hangs(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A worker says which call of its actor holds others up."""
        cell = self.node.cell_of(process)
        if cell is not None:
            cell.on_hangs(msg[1], msg[2])

    def on_worker_ended(self, process: WorkerProcess, msg: list[Any]) -> None:
        """The actor in a worker has ended by itself."""
        cell = self.node.cell_of(process)
        if cell is not None:
            cell.on_ended_message(msg[4], msg[5])

    # -- the end -------------------------------------------------------------------------------------------------------

    def end(self, id: RefId, incarnation: int, how: str, guardian: bytes) -> None:
        """A guardian wants an incarnation's end; "drain" if another one is to follow."""
        cell = self.cells.get(id)
        if cell is not None and cell.incarnation == incarnation:
            if not is_detached(id[0]):
                cell.guardian = guardian
            cell.end(how)

    def ended(self, cell: Cell, reason: str, out: Any) -> None:
        """An incarnation has ended, and all that it had to say is said: its guardian hears of it."""
        if self.cells.get(cell.id) is not cell:
            return
        del self.cells[cell.id]
        if cell.holder is not None and self.node.directory.quorum is not None:
            self.node.directory.quorum.let_go(cell)
        self._also.pop(cell, None)
        self.node.windows.cell_ended(cell)
        self._ends[cell.id] = (reason, out, cell.follows)
        if len(self._ends) > REMEMBERED:
            self._ends.popitem(last=False)
        self.node.guardians.host_ended(cell, reason, out)
        self.node.watching.incarnation_ended(cell, reason)

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
        for cell in list(self.cells.values()):
            if cell.guardian == life:
                cell.end("owner_died")

    def moved(self, life: bytes, heir: bytes) -> None:
        """The guardian of some actors here has an heir.

        One that it had ended, which this node could not be told, is not the heir's: nobody would end it any more.
        """
        for cell in list(self.cells.values()):
            if cell.guardian == life:
                cell.guardian = heir
                if heir == self.node.life:
                    self._confirmed(cell, heir, self.node.guardians.hosts(heir, cell.id, cell.incarnation))
                else:
                    self._confirm(cell, heir)

    def _confirm(self, cell: Cell, heir: bytes) -> None:
        node = self.node

        def reached(peer: Peer | PeerUnreachableError) -> None:
            if isinstance(peer, PeerUnreachableError) or peer.ended:
                self._confirmed(cell, heir, heir not in node.peers.tombstones)
                return
            reply = node.asks.ask(peer, "hosted", [*cell.id, cell.incarnation])
            reply.add_done_callback(answered)

        def answered(done: Reply[Any]) -> None:
            if done._state == READY:  # else the heir is dead too, and `peer_ended` comes
                self._confirmed(cell, heir, bool(done.result()))

        node.reach(heir, node.heirs.where(heir, "")[1], reached)

    def _confirmed(self, cell: Cell, heir: bytes, hosted: bool) -> None:
        if not hosted and cell.guardian == heir and cell.state < ENDING:
            cell.end("owner_died")

    def close(self, how: str = "killed") -> None:
        """The node closes: all actors here end at once."""
        for cell in list(self.cells.values()):
            if cell.lasting and cell.guardian != self.node.life:
                cell.cut(f"node {self.node.name} was shut down")  # its guardian starts it again elsewhere
            else:
                cell.end(how)
        self.parking.close()
