"""A node's objects: the refs it made or borrowed, the values that others hold refs of, and how values travel.

`core.ownership` decides how long an id lives; this part carries its instructions out. A value that nobody else knows
of lives in its `ObjectRef` and goes with it; from the moment an id is exported, its outcome is also kept here until
ownership says it is free.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from actorfw.core.ownership import Instruction, Ownership, Taken
from actorfw.runtime import lines
from actorfw.runtime.handles import ActorHandle
from actorfw.runtime.refs import CANCELLED, FAILED, PENDING, READY, FreeGrip, Grip, ObjectRef
from actorfw.runtime.store.elsewhere import Elsewhere
from actorfw.runtime.store.residence import bring
from actorfw.values.errors import ActorFwError, ObjectLostError, OwnerDiedError, PeerUnreachableError
from actorfw.values.ids import RefId, WireRef, is_detached, owned_ids, short, text_id
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error
from actorfw.wire.payload import Packed, size_of

if TYPE_CHECKING:
    from actorfw.io.env import TimerHandle
    from actorfw.runtime.channel import WorkerProcess
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["INLINE_LIMIT", "Objects"]

logger = logging.getLogger("actorfw.objects")

INLINE_LIMIT: Final = 64 * 1024  # bytes: larger arguments become objects, larger values travel in chunks


class Objects:
    """The refs and values of one node. Everything but `export`, `grip` and `released` is for the node's loop only."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.ownership = Ownership(node.life)
        self._lock = threading.RLock()
        self._grips: weakref.WeakValueDictionary[RefId, Grip] = weakref.WeakValueDictionary()
        self._refs: weakref.WeakValueDictionary[RefId, ObjectRef[Any]] = weakref.WeakValueDictionary()
        self._handles: weakref.WeakValueDictionary[RefId, ActorHandle] = weakref.WeakValueDictionary()
        # Own ids that others may hold: their outcome, None while it is to come.
        self._exported: dict[int, tuple[int, Any] | None] = {}
        self._inherited: dict[RefId, tuple[int, Any]] = {}  # what a node that left has handed over to this one
        self._released: deque[RefId] = deque()
        self._sweep_due = False
        self._pinned: list[Any] = []
        self._dead_owners: dict[bytes, str] = {}
        self.graces: dict[bytes, TimerHandle] = {}  # of the dead whose holdings still count
        self.exported: set[int] = set()  # numbers of own ids that some other node has had
        self._lines: dict[int, str] = {}  # that made own objects, whose refs may be gone here

    # -- making refs ---------------------------------------------------------------------------------------------------

    def made(self, number: int, state: int = PENDING, out: Any = None) -> ObjectRef[Any]:
        """A new ref of this node's own."""
        ref: ObjectRef[Any] = ObjectRef(self.node, self.node.life, number)
        if state != PENDING:
            ref._out = out
            ref._state = state
        return ref

    def grip(self, id: RefId, ref: ObjectRef[Any] | None = None) -> Grip:
        """The one `Grip` on an id here; `ref`: an own one that is being exported."""
        if is_detached(id[0]):
            return FreeGrip(self.node, id)
        with self._lock:
            grip = self._grips.get(id)
            if grip is None:
                grip = self._grips[id] = Grip(self.node, id)
                if self.node.at_home():
                    self._gripped(id, ref)
                else:
                    self.node.post(
                        self._gripped, id, ref
                    )  # with the ref itself, of which its thread may let go before this runs
            return grip

    def _gripped(self, id: RefId, ref: ObjectRef[Any] | None) -> None:
        self.carry_out(self.ownership.hold(id))
        if ref is not None and id[0] == self.node.life and id[1] not in self._exported:
            self._exported[id[1]] = (ref._state, ref._out) if ref._state in (READY, FAILED) else None
            if ref._state == CANCELLED:
                self._exported[id[1]] = (FAILED, self.cancelled_out(ref))

    def export_ref(self, ref: ObjectRef[Any]) -> tuple[WireRef, None, Grip]:
        """The codec met this ref in a value that is about to travel or to be kept. Any thread."""
        if ref._grip is None:
            with self._lock:  # which a rebirth holds while it renames
                ref._owner = self.node.life  # nobody else knows it, and it may be from a former life
                id = (ref._owner, ref._number)
                self._refs[id] = ref
                ref._grip = self.grip(id, ref)
                line = lines.line_of(ref)
                ref._address = lines.hint(self.node.address, line)
                if line:
                    self._lines[ref._number] = line
        return (ref._owner, ref._number, ref._address or self.node.address), None, ref._grip

    def export_handle(self, handle: ActorHandle) -> tuple[WireRef, Any, Grip]:
        """The same for a handle; its interface travels inside the pickle."""
        id = (handle._guardian, handle._number)
        wire = (handle._guardian, handle._number, handle._address or self.node.address)
        return wire, handle._interface, handle._grip or self.grip(id)

    def adopt(self, owner: bytes, number: int, address: str) -> ObjectRef[Any]:
        """The one instance of a ref in this process, by its id."""
        id = (owner, number)
        if owner != self.node.life and self.node.rebirth.lived and id not in self._grips:
            owner, number = id = self.node.rebirth.current(id)
        with self._lock:
            ref = self._refs.get(id)
            if ref is not None:
                return ref
            ref = ObjectRef(self.node, owner, number)
            ref._address = address
            ref._grip = self.grip(id)
            self._refs[id] = ref
        if owner != self.node.life:
            inherited = self._inherited.get(id) if self._inherited else None
            lost = self._dead_owners.get(self.node.heirs.of(owner))
            if inherited is not None and inherited[0] != m.STORED:
                ref._state, ref._out = inherited
            elif lost is not None:
                self.lose(ref, f"the node that owned {self.named(ref)} is gone: {lost}", OwnerDiedError)
            elif (copy := self.node.copies.found(id)) is not None:
                ref._state, ref._out = READY, copy.out
            else:
                ref._lazy = True
            return ref
        outcome = self._exported.get(number, self)
        if outcome is self:
            self.lose(ref, f"object {text_id(id)} was freed here, at its owner: nobody was known to hold it any more")
        elif outcome is not None:
            if outcome[0] == m.STORED:  # type: ignore[index]
                ref._lazy = True
            else:
                ref._state, ref._out = outcome  # type: ignore[misc]
        else:
            logger.error("object %s is pending and has no ref", text_id(id))
        return ref

    def adopt_handle(self, wire: WireRef, interface: Any) -> ActorHandle:
        """The one instance of a handle in this process."""
        id = (wire[0], wire[1])
        with self._lock:
            handle = self._handles.get(id)
            if handle is None:
                node = self.node
                made = node.interfaces.handle_class(interface)
                handle = made(node, wire[0], wire[1], wire[2], node.interfaces.known(interface), self.grip(id))
                self._handles[id] = handle
            return handle

    def intern_handle(self, handle: ActorHandle) -> None:
        """A handle was made here, with a new actor."""
        grip = handle._grip  # whose id will do: there may be a hundred thousand of them
        self._handles[(handle._guardian, handle._number) if grip is None else grip.id] = handle

    def keep(self, wire: Any) -> Any:
        """What a peer or worker sent is kept here: hold the refs in it as long as the bytes.

        Returns it as `Packed` if it is one.
        """
        if type(wire) is list and wire and type(wire[0]) is bytes:
            wire = Packed.from_wire(wire)
        if type(wire) is Packed and wire.refs and wire.hold is None:
            wire.hold = [self.grip((owner, number)) for owner, number, _ in wire.refs]
        return wire

    def leave(self, ids: Iterable[RefId]) -> None:
        """These are about to be known to another node."""
        life = self.node.life
        self.exported.update(number for owner, number in ids if owner == life)

    def taken(self, peer: Peer, *raw: Any) -> Taken | None:
        """A message with these values, as they came, has arrived: count it if there are refs in them.

        Before anything else is done with them. Large values come as `Packed`, and their heads were counted.
        """
        ids = [id for wire in raw if type(wire) is list for id in refs_in(wire) or ()]
        return self.ownership.took(peer.life, ids) if ids else None

    def settle_taken(self, given: Taken | None) -> None:
        """What was taken is held by handles or bytes now."""
        if given is not None:
            self.carry_out(self.ownership.settle(given))

    def pin(self, thing: Any) -> None:
        """A ref or handle was pickled outside a message."""
        if not self._pinned:
            logger.info("a ref was pickled outside an actorfw call: what it stands for is kept until this node ends")
        self._pinned.append(thing)
        if isinstance(thing, ObjectRef):
            self.export_ref(thing)  # pyright: ignore[reportUnknownArgumentType]

    # -- outcomes ------------------------------------------------------------------------------------------------------

    def settled(self, ref: ObjectRef[Any], state: int, out: Any) -> None:
        """One of this node's own refs has its outcome. A value that stays elsewhere is only told of."""
        if type(out) is Elsewhere:
            self._stored(ref, out)
            return
        if ref._grip is not None and ref._number in self._exported:
            self._exported[ref._number] = (state, out)
        if state == READY:
            ref._settle(out)
        else:
            ref._fail(out)

    def _stored(self, ref: ObjectRef[Any], there: Elsewhere) -> None:
        wire, _, _ = self.export_ref(ref)  # its node is to hear when it is let go
        id = (wire[0], wire[1])
        self.leave([id])
        self._exported[id[1]] = (m.STORED, there.size)
        self.node.locations.stored(id, there)
        if not there.version:
            self.node.lineage.machine.note([id[1]], "actor")
        ref._is_elsewhere()

    def when_done(self, ref: ObjectRef[Any], then: Callable[[ObjectRef[Any]], object]) -> None:
        """Call `then(ref)` when the ref has its outcome: at once if it has it. Asks for the value."""
        if ref._state != PENDING:
            then(ref)
        else:
            ref.add_done_callback(then)

    def when_ready(self, ref: ObjectRef[Any], then: Callable[[ObjectRef[Any]], object]) -> None:
        """Call `then(ref)` when a ref whose value is elsewhere has an outcome at its owner, without fetching it."""
        if (ref._owner, ref._number) in self.node.locations:
            then(ref)
            return

        def asked(found: Peer | PeerUnreachableError) -> None:
            if isinstance(found, PeerUnreachableError):
                then(ref)
            else:
                reply = self.node.asks.ask(found, "ready", [ref._owner, ref._number])
                reply.add_done_callback(lambda _: then(ref))

        owner, address = self.node.heirs.where(ref._owner, ref._address)
        self.node.reach(owner, address, asked)

    def watch(self, refs: Iterable[ObjectRef[Any]], then: Callable[[ObjectRef[Any]], object]) -> None:
        """Call `then(ref)` when each has an outcome, at the latest at its owner: without fetching any."""
        context = copy_context()
        for ref in refs:
            if ref._state != PENDING:
                then(ref)
            elif ref._lazy or (ref._owner, ref._number) in self.node.locations:
                self.when_ready(ref, then)
            else:
                ref._add((then, context, None))

    def resolve(self, refs: list[ObjectRef[Any]], then: Callable[[], object], *, fetch: bool = True) -> None:
        """Call `then()` when all of these have their outcomes, here or, without `fetch`, at their owners."""
        waiting = [ref for ref in refs if ref._state == PENDING]
        if fetch and self.node.store.spiller is not None:
            then = partial(bring, self.node, refs, then)
        if not waiting:
            then()
            return
        left = len(waiting)

        def done(_: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                then()

        for ref in waiting:
            if fetch:
                ref.add_done_callback(done)
            elif (ref._owner, ref._number) in self.node.locations:
                self.node.lineage.when_there((ref._owner, ref._number), partial(done, None))
            elif ref._lazy:
                self.when_ready(ref, done)
            else:
                ref._add((done, copy_context(), None))

    def line_of(self, id: RefId) -> str:
        """The line that made an object: "file:line in function", or "" if that is not known here."""
        ref = self._refs.get(id)
        line = lines.line_of(ref) if ref is not None else ""
        return line or (self._lines.get(id[1], "") if id[0] == self.node.life else "")

    def named(self, ref: ObjectRef[Any]) -> str:
        """An object in an error: its id, and the line that made it."""
        line = lines.line_of(ref) or self.line_of((ref._owner, ref._number))
        return f"object {ref.id}" + (f" (made at {line})" if line else "")

    def lose(self, ref: ObjectRef[Any], why: str, error: type[ActorFwError] = ObjectLostError) -> None:
        ref._lazy = False
        if ref._state == PENDING:
            ref._fail(pack_error(self.node.codec, error(why), where=self.node.name, infrastructure=True))

    def cancelled_out(self, ref: ObjectRef[Any]) -> Any:
        """What others see of a ref that was cancelled here."""
        return pack_error(self.node.codec, ref._cancelled_elsewhere(), where=self.node.name, infrastructure=True)

    # -- ownership -----------------------------------------------------------------------------------------------------

    def released(self, id: RefId) -> None:
        """From `Grip.__del__`, in any thread and at any moment: only note it."""
        self._released.append(id)
        if not self._sweep_due:
            self._sweep_due = True
            self.node.wake(self.sweep)

    def sweep(self) -> None:
        """Tell ownership of all that was let go."""
        self._sweep_due = False
        while self._released:
            id = self._released.popleft()
            if id not in self._grips:
                if self.ownership.owner(id) != self.node.life:
                    self.node.calls.let_go(id, lambda id=id: self._drop(id))  # type: ignore[misc]
                else:
                    self._drop(id)

    def _drop(self, id: RefId) -> None:
        if id not in self._grips:
            self.carry_out(self.ownership.drop(id))

    def carry_out(self, instructions: Iterable[Instruction]) -> None:
        """Do what ownership says, in order."""
        for instruction in instructions:
            if instruction[0] == "send":
                _, hashable, verb, id, asof = instruction
                to = cast("bytes", hashable)  # the ledger takes any key for a peer; those that are written to are lives
                peer = self.node.peers.by_life.get(to)
                if peer is None:
                    _, address = self.node.heirs.where(id[0], self.address_of(id))
                    self.node.reach(to, address, partial(self._late, instruction=instruction))
                else:
                    self._tell(peer, verb, id, asof)
            elif instruction[0] == "free":
                self._free(instruction[1])
            else:
                self._lost(instruction[1])

    def _lost(self, id: RefId) -> None:
        ref = self._refs.get(id)
        if ref is None:
            return
        why = self._dead_owners.get(self.ownership.owner(id))
        if why is not None:
            self.lose(ref, f"the node that owned {self.named(ref)} is gone: {why}", OwnerDiedError)
        else:
            self.lose(ref, f"the owner of {self.named(ref)} has freed it: this node was not known to hold it")

    def address_of(self, id: RefId) -> str:
        found = self._refs.get(id) or self._handles.get(id)
        return found._address if found is not None else ""

    def _late(self, found: Peer | PeerUnreachableError, instruction: Any) -> None:
        _, to, verb, id, asof = instruction
        if isinstance(found, PeerUnreachableError):
            self.owner_died(to, f"node {short(to)} can't be reached: {found}")
        else:
            self._tell(found, verb, id, asof)

    def _tell(self, peer: Peer, verb: str, id: RefId, asof: int | None) -> None:
        if verb == "borrow":
            peer.send((m.BORROW, *id))
        elif verb == "grant":
            peer.send((m.GRANT, *id))
        elif verb == "gone":
            peer.send((m.GONE, *id))
        else:
            peer.send((m.RETURN, id[0], id[1], asof))

    def on_borrow(self, peer: Peer, msg: list[Any]) -> None:
        self.carry_out(self.ownership.on_borrow(peer.life, (msg[1], msg[2])))

    def on_grant(self, peer: Peer, msg: list[Any]) -> None:
        self.carry_out(self.ownership.on_grant(peer.life, (msg[1], msg[2])))

    def on_gone(self, peer: Peer, msg: list[Any]) -> None:
        self.carry_out(self.ownership.on_gone(peer.life, (msg[1], msg[2])))

    def on_return(self, peer: Peer, msg: list[Any]) -> None:
        self.carry_out(self.ownership.on_return(peer.life, (msg[1], msg[2]), msg[3]))

    def on_release(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A worker's last handles to these are gone."""
        for owner, number, asof in msg[1]:
            self.carry_out(self.ownership.on_return(("worker", process.index), (owner, number), asof))

    def _free(self, id: RefId) -> None:
        if id in self.node.locations:
            self.node.locations.freed(id)
        elif self.node.pulls:
            self.node.pulls.unwanted(id)
        if id[0] == self.node.life:
            self._exported.pop(id[1], None)
            self.exported.discard(id[1])
            self._lines.pop(id[1], None)
            self.node.lineage.freed(id[1])
            self.node.guardians.released(id)
        elif self._inherited.pop(id, None) is None and self.ownership.owner(id) == self.node.life:
            self.node.guardians.released(id)  # it may be an actor that this node inherited

    # -- inheritance ---------------------------------------------------------------------------------------------------

    def outcome(self, id: RefId) -> tuple[int, Any] | None:
        """The outcome of what this node owns, if it has it and others may hold it."""
        return self._exported.get(id[1]) if id[0] == self.node.life else self._inherited.get(id)

    def inherit(self, id: RefId, state: int, out: Any) -> None:
        """A node that leaves has handed this value over."""
        if state == m.STORED:
            self._inherited[id] = (state, out[0])
            self.node.locations.inherit(id, out)
            if self.node.fetches.waits_for(id):
                self.node.locations.ask(id, self.node.life)
            return
        self._inherited[id] = (state, out)
        self.node.copies.give(id)
        self.node.fetches.arrived(id, state, out)

    # -- deaths --------------------------------------------------------------------------------------------------------

    def owner_died(self, life: bytes, why: str) -> None:
        """A node is dead or gone: what it owned is lost, what it held is let go after the grace."""
        self._dead_owners[life] = why
        owned = self.ownership.owner
        self.node.fetches.owner_died(life)
        self.node.pulls.owner_died(life)
        self.node.copies.owner_died(life)
        self.carry_out(self.ownership.dead(life))
        for id in list(self._refs):
            if owned(id) == life:
                self._lost(id)
        if life not in self.graces:
            self.graces[life] = self.node.env.call_later(self.node.config.borrow_grace, self._grace_over, life)

    def _grace_over(self, life: bytes) -> None:
        del self.graces[life]
        self.carry_out(self.ownership.grace_over(life))

    def closed_out(self) -> Any:
        """What others get for a value that never came to be."""
        return pack_error(self.node.codec, self.node.closed_error(), where=self.node.name, infrastructure=True)

    def worker_died(self, key: object) -> None:
        self.carry_out(self.ownership.worker_dead(key))

    def close(self, error: Exception) -> None:
        """The node closes: values that are elsewhere will not come any more."""
        out = pack_error(self.node.codec, error, where=self.node.name, infrastructure=True)
        self.node.fetches.asked.clear()
        self.node.pulls.clear()
        self.node.copies.clear()
        self.node.locations.close()
        for ref in list(self._refs.values()):
            ref._lazy = False
            ref._fail(out)
        self._pinned.clear()
        # Nobody will ask any more, and whoever still knows this node would keep the memory of all these.
        self._exported.clear()
        self._inherited.clear()


def refs_in(wire: Any) -> list[RefId] | None:
    """The ids inside a wire value, or None."""
    if type(wire) is Packed:
        return owned_ids(wire.refs) or None if wire.refs else None
    if type(wire) is list and wire and type(wire[0]) is bytes:  # as it came
        return owned_ids(wire[2]) or None if wire[2] else None
    return None


def is_large(wire: Any) -> bool:
    """Whether a value should not be part of a small message."""
    kind = type(wire)
    if kind is bytes or kind is str:
        return len(wire) > INLINE_LIMIT
    return kind is Packed and size_of(wire) > INLINE_LIMIT
