"""`Copies`: values that this node keeps for their owners, and sending them to those who pull.

Two kinds are kept alike: results that were made here and stay here, since their owner need not have the bytes; and what
this node has pulled, so that the next task that wants it here finds it. Both stay until the owner says that they are
not needed, or is gone; a copy that was pulled may go earlier, then whoever comes for it is sent elsewhere.

Bytes hold the refs in them (`Packed.hold`): a copy keeps alive what it names, and sending it is a gift of those.

Leaves to others: where the copies of an object are (`core.sources`), and pulling (`runtime.store.pulls`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from actorfw.runtime.outbound import PACKED, PICKLED, TEXT
from actorfw.runtime.store.elsewhere import ANY_VERSION, HERE, SPARE
from actorfw.runtime.store.residence import away, lost
from actorfw.values.ids import RefId, as_bytes
from actorfw.wire import messages as m
from actorfw.wire.payload import Buffer, Packed, in_memory, size_of

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Copies", "Copy", "layout"]


class Copy:
    """One value.

    Attributes:
        out: the wire value.
        version: which making of it this is: the number of the attempt.
        size: its bytes.
        first: it was made here, and may be the only one.
        confirmed: the owner knows of it as the object's value. An attempt that was given up for lost may have left
            another one.
    """

    __slots__ = ("confirmed", "first", "out", "size", "version")

    def __init__(self, out: Any, version: int, size: int, first: bool) -> None:
        self.out = out
        self.version = version
        self.size = size
        self.first = first
        self.confirmed = not first


class Copies:
    """The copies on one node.

    Attributes:
        by_id: what is kept, the least recently used first.
        bytes: what they take together.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.by_id: dict[RefId, Copy] = {}
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self.by_id)

    # -- keeping -------------------------------------------------------------------------------------------------------

    def made(self, id: RefId, version: int, out: Any) -> list[int]:
        """A result stays here; returns what its owner is told instead."""
        size = self._keep(id, version, out, first=True)
        return [id[1], size]

    def pulled(self, id: RefId, version: int, out: Any) -> None:
        """A value has come from another node."""
        self._keep(id, version, out, first=False)

    def _keep(self, id: RefId, version: int, out: Any, *, first: bool) -> int:
        self._drop(id)
        size = size_of(out)
        self.by_id[id] = Copy(out, version, size, first)
        self.bytes += size
        return size

    def found(self, id: RefId, version: int = ANY_VERSION) -> Copy | None:
        """A copy that is sure to be the object's value: of a known version, or because its owner has said so."""
        copy = self.by_id.get(id)
        if copy is None or not (copy.confirmed if version == ANY_VERSION else copy.version == version):
            return None
        copy.confirmed = True
        self.by_id[id] = self.by_id.pop(id)
        return copy

    def lacks(self, id: RefId) -> None:
        """The file with this copy is lost: whoever asks for it is told to look elsewhere."""
        self._drop(id)
        if id in self.node.locations or id[0] == self.node.life:
            self.node.locations.lost_here(id)

    def give(self, id: RefId, version: int = ANY_VERSION) -> Any:
        """This node has become the owner: the value of its copy is its own from now on. None: it has none."""
        copy = self.found(id, version)
        self._drop(id)
        return None if copy is None else copy.out

    def _drop(self, id: RefId) -> None:
        copy = self.by_id.pop(id, None)
        if copy is not None:
            self.bytes -= copy.size

    def shed(self, size: int) -> int:
        """Be rid of so many bytes of what others may have too, as soon as their owners say so; returns how many."""
        asked = 0
        for id, copy in list(self.by_id.items()):
            if asked >= size:
                break
            if not copy.first:
                self.node.pulls.tell_owner(id, copy.version, SPARE)
                asked += copy.size
        return asked

    # -- sending -------------------------------------------------------------------------------------------------------

    def on_pull(self, peer: Peer, msg: list[Any]) -> None:
        """Somebody wants a part of a copy."""
        _, life, number, version, offset, length, first = msg
        id = (as_bytes(life), number)
        copy = self.by_id.get(id)
        out = copy.out if copy is not None else self.node.locations.value(id, version)
        if away(out):
            if lost(out):
                self.lacks(id)
            else:
                self.node.store.make_resident(out, lambda: self.on_pull(peer, msg))
                return
        if not self.send(peer, id, version, offset, length, first=first):
            peer.send((m.LACKING, *id, version, offset))

    def send(self, peer: Peer, id: RefId, version: int, offset: int, length: int, *, first: bool) -> bool:
        """Send a part of a value; False if it is not here."""
        copy = self.by_id.get(id)
        if copy is None or copy.version != version:
            out = self.node.locations.value(id, version)
            if out is None:
                return False
        else:
            out = copy.out
        if first and self.node.hostmates.lend(peer, id, version, out):
            return True
        form, views = layout(out)
        sizes = [len(view) for view in views]
        refs: Any = ()
        codes: Any = ()
        if first:
            self.node.outbound.enclose(peer, out)
            if type(out) is Packed:
                refs, codes = out.refs, out.codes
        head = (m.PULLED, *id, version, offset, (form, sizes) if first else None, (refs, codes))
        peer.send_large(head, list(_cut(views, offset, length)), counts=False)
        return True

    # -- ends ----------------------------------------------------------------------------------------------------------

    def on_free(self, peer: Peer, msg: list[Any]) -> None:
        """An owner says that copies are not needed."""
        for life, number, version in msg[1]:
            id = (as_bytes(life), number)
            copy = self.by_id.get(id)
            if copy is not None and version in (copy.version, ANY_VERSION):
                self._drop(id)
            self.node.pulls.freed(id, version)

    def owner_died(self, life: bytes) -> None:
        """A node is gone, and what it owned with it."""
        owner = self.node.objects.ownership.owner
        for id in [id for id in self.by_id if owner(id) == life]:
            self._drop(id)

    def moved(self, heir: bytes) -> None:
        """A node has handed over what it owned and others hold. Nobody frees the rest: the heir knows which it is."""
        node = self.node
        owner = node.objects.ownership.owner
        for id, copy in list(self.by_id.items()):
            if id[0] == heir or owner(id) != heir:
                continue
            if heir != node.life:
                node.pulls.tell_owner(id, copy.version, HERE)
            elif id not in node.locations:
                self._drop(id)

    def clear(self) -> None:
        """The node closes, or takes a new life: nobody will come for what it has."""
        self.by_id.clear()
        self.bytes = 0


def layout(out: Any) -> tuple[int, list[memoryview]]:
    """A wire value as bytes in a row: in which form, and where they are."""
    if type(out) is Packed:
        buffers: list[Buffer] = [out.data, *map(in_memory, out.buffers)]
        return PACKED, [memoryview(buffer).cast("B") for buffer in buffers]
    if type(out) is str:
        return TEXT, [memoryview(out.encode())]
    return PICKLED, [memoryview(out)]


def _cut(views: Iterable[memoryview], offset: int, length: int) -> Iterable[memoryview]:
    """The part of a row of buffers that begins at `offset`."""
    for view in views:
        if length <= 0:
            return
        if offset < len(view):
            part = view[offset : offset + length]
            length -= len(part)
            offset = 0
            yield part
        else:
            offset -= len(view)
