"""A worker's refs: the node keeps the records, the worker only says when it has let go.

For a worker its node stands for every owner. Messages from the node that carry refs are counted on both sides; a
RELEASE says how many of them had been taken when it was made, so that one which crosses a newer gift does not undo it
(`core.ownership`, rule 5).
"""

from __future__ import annotations

import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from actorfw.runtime.handles import ActorHandle, Interfaces
from actorfw.runtime.held import rename_held
from actorfw.runtime.lines import hint, line_of
from actorfw.runtime.refs import PENDING, FreeGrip, Grip, ObjectRef
from actorfw.values.ids import RefId, WireRef, is_detached, owned_ids
from actorfw.wire.messages import FETCH, RELEASE, VALUE
from actorfw.wire.payload import Packed

if TYPE_CHECKING:
    from actorfw.core.renaming import Renaming
    from actorfw.runtime.definitions import Interface
    from actorfw.runtime.worker.child import Worker

__all__ = ["WorkerObjects"]


class WorkerObjects:
    """The refs and handles of one worker process. Everything but `grip`, `export_*`, `adopt*` and `released` is for
    the line's lock."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._lock = worker.line.lock
        self._outbox = worker.line.outbox
        self._grips: weakref.WeakValueDictionary[RefId, Grip] = weakref.WeakValueDictionary()
        self._refs: weakref.WeakValueDictionary[RefId, ObjectRef[Any]] = weakref.WeakValueDictionary()
        self._handles: weakref.WeakValueDictionary[RefId, ActorHandle] = weakref.WeakValueDictionary()
        self.interfaces = Interfaces(worker.handles_made)
        self._released: deque[RefId] = deque()
        self._taken = 0
        # Values that the node sent ahead of a task that needs them, with how many such tasks there are.
        self._deps: dict[RefId, tuple[ObjectRef[Any], int]] = {}
        # Asked for and not answered, in order: with the value, or only whether there is one.
        self._asked: dict[RefId, list[bool]] = {}
        self.on_ready: dict[RefId, list[Callable[[], object]]] = {}  # who wants to know that there is an outcome
        self.blocked: Counter[RefId] = Counter()  # what threads of this process wait for
        self.own: set[RefId] = set()  # pending, submitted here, known to nobody else but the node
        self._pinned: list[Any] = []
        self._lives: list[Renaming] = []

    # -- holding -------------------------------------------------------------------------------------------------------

    def grip(self, id: RefId) -> Grip:
        if is_detached(id[0]):
            return FreeGrip(self._worker, id)
        with self._lock:
            grip = self._grips.get(id)
            if grip is None:
                grip = self._grips[id] = Grip(self._worker, id)
            return grip

    def released(self, id: RefId) -> None:
        """From `Grip.__del__`, in any thread and at any moment: only note it."""
        self._released.append(id)

    def tell_released(self) -> None:
        """Put what was let go since the last time into the outbox."""
        gone: dict[RefId, None] = {}
        while self._released:
            id = self._released.popleft()
            if id not in self._grips:
                gone[id] = None
        if gone:
            taken = self._taken
            self._outbox.append((RELEASE, [[owner, number, taken] for owner, number in gone]))

    def keep(self, wire: Any) -> Any:
        """A value came: if there are refs in it, count the message, and hold them as long as the bytes are here."""
        if type(wire) is list and wire and type(wire[0]) is bytes and wire[2]:
            packed = Packed.from_wire(wire)
            packed.hold = [self.grip((owner, number)) for owner, number, _ in packed.refs]
            if owned_ids(packed.refs):
                self._taken += 1
            return packed
        return wire

    def pin(self, thing: Any) -> None:
        """A ref or handle was pickled outside a message: it is kept as long as this process."""
        self._pinned.append(thing)

    # -- refs and handles ----------------------------------------------------------------------------------------------

    def made(self, number: int) -> ObjectRef[Any]:
        """A new ref to what this worker submitted: pending, and its value stays with the node until somebody asks."""
        worker = self._worker
        id = (worker.life, number)
        ref: ObjectRef[Any] = ObjectRef(worker, worker.life, number)
        with self._lock:
            ref._grip = self.grip(id)
            ref._lazy = True
            self._refs[id] = ref
            self.own.add(id)
        return ref

    def adopt(self, owner: bytes, number: int, address: str) -> ObjectRef[Any]:
        """The one instance of a ref in this process, by its id."""
        id = (owner, number)
        with self._lock:
            ref = self._refs.get(id)
            if ref is None:
                ref = ObjectRef(self._worker, owner, number)
                ref._address = address
                ref._grip = self.grip(id)
                ref._lazy = True
                self._refs[id] = ref
            return ref

    def export_ref(self, ref: ObjectRef[Any]) -> tuple[WireRef, None, Grip | None]:
        """The codec met this ref in a value that is about to travel."""
        self.own.discard((ref._owner, ref._number))
        wire = (ref._owner, ref._number, ref._address or hint(self._worker.address, line_of(ref)))
        return wire, None, ref._grip

    def adopt_handle(self, wire: WireRef, interface: Interface) -> ActorHandle:
        """The one instance of a handle in this process."""
        id = (wire[0], wire[1])
        with self._lock:
            handle = self._handles.get(id)
            if handle is None:
                made = self.interfaces.handle_class(interface)
                known = self.interfaces.known(interface)
                handle = made(self._worker, wire[0], wire[1], wire[2], known, self.grip(id))
                self._handles[id] = handle
            return handle

    def export_handle(self, handle: ActorHandle) -> tuple[WireRef, Interface, Grip | None]:
        """The same for a handle."""
        id = (handle._guardian, handle._number)
        wire = (handle._guardian, handle._number, handle._address or self._worker.address)
        return wire, handle._interface, handle._grip or self.grip(id)

    def reborn(self, renaming: Renaming) -> None:
        """The node has a new life. Under the lock."""
        self._lives.append(renaming)
        rename_held(renaming, self._grips, self._refs, self._handles)
        self._deps = {renaming.id(id): dep for id, dep in self._deps.items()}
        self._asked = {renaming.id(id): flags for id, flags in self._asked.items()}
        self.blocked = Counter({renaming.id(id): count for id, count in self.blocked.items()})
        self.on_ready = {renaming.id(id): fns for id, fns in self.on_ready.items()}
        self.own = set(map(renaming.id, self.own))
        for _ in range(len(self._released)):  # others may append meanwhile
            self._released.append(renaming.id(self._released.popleft()))

    # -- values --------------------------------------------------------------------------------------------------------

    def fetch(self, ref: ObjectRef[Any], *, with_value: bool = True) -> None:
        """Ask the node for the outcome of a ref, unless that is under way."""
        id = (ref._owner, ref._number)
        flags = self._asked.setdefault(id, [])
        if with_value not in flags and (with_value or not flags):
            flags.append(with_value)
            self._outbox.append((FETCH, ref._owner, ref._number, with_value, ref._address))

    def unasked(self, ref: ObjectRef[Any]) -> None:
        """Nobody waits for a ref any more: its value need not come."""
        id = (ref._owner, ref._number)
        if True in self._asked.get(id, ()) and id not in self.blocked:
            ref._lazy = True
            self._outbox.append((FETCH, *id, None, ""))
            self._worker.settled(ref)

    def blocks(self, refs: Iterable[ObjectRef[Any]]) -> None:
        """A thread is about to wait for the values of these."""
        for ref in refs:
            if ref._lazy:
                ref._lazy = False
                self.fetch(ref)
            self.blocked[ref._owner, ref._number] += 1

    def unblocks(self, refs: Iterable[ObjectRef[Any]]) -> None:
        """It does not wait any more."""
        for ref in refs:
            id = (ref._owner, ref._number)
            self.blocked[id] -= 1
            if self.blocked[id] <= 0:
                del self.blocked[id]
                if ref._state == PENDING and ref._callbacks is None:
                    self.unasked(ref)

    def on_settled(self, message: list[Any]) -> None:
        """(owner, number, state, out[, ahead of a task]): an outcome that was asked for, or that a task will need."""
        _, owner, number, state, out, *more = message
        id = (owner, number)
        flags = self._asked.get(id)
        ahead = more[0] if more else flags is None
        out = self.keep(out)
        if ahead:
            ref, tasks = self._deps.get(id) or (self.adopt(owner, number, ""), 0)
            self._deps[id] = (ref, tasks + 1)
            self._settle(ref, state, out)
            return
        with_value = True
        if flags:
            with_value = flags.pop(flags.index(True) if state == PENDING else 0)
            if not flags:
                del self._asked[id]
        found = self._refs.get(id)
        if state == PENDING:  # it was taken back; perhaps somebody waits again
            if found is not None and not found._lazy:
                self.fetch(found)
            return
        self.own.discard(id)
        if found is not None and (with_value or state != VALUE):
            self._settle(found, state, out)
        for fn in self.on_ready.pop(id, ()):
            fn()

    def _settle(self, ref: ObjectRef[Any], state: int, out: Any) -> None:
        ref._lazy = False
        if state == VALUE:
            ref._settle(out)
        else:
            ref._fail(out)
        self._worker.settled(ref)

    def _renamed(self, id: RefId) -> RefId:
        """What an id has become that a waiting task names as it was when the task came."""
        for since in range(len(self._lives)):
            now = id
            for renaming in self._lives[since:]:
                now = renaming.id(now)
            if now in self._deps:
                return now
        return id

    def dep(self, id: RefId) -> ObjectRef[Any]:
        """The ref of an argument whose value came ahead of its task, which takes it now."""
        with self._lock:
            found = self._deps.get(id)
            if found is None and self._lives:
                id = self._renamed(id)
                found = self._deps.get(id)
            if found is None:
                return self.adopt(id[0], id[1], "")
            ref, tasks = found
            if tasks > 1:
                self._deps[id] = (ref, tasks - 1)
            else:
                del self._deps[id]
            return ref
