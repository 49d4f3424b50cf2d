"""Values on their way out: to peers and to worker processes.

Before a value leaves, the definitions that it names are shipped, and the taker is listed as a holder of the refs in it.
What is large goes in pieces (`runtime.bulk`), or as an object of its own if it is the arguments of a call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.objects import is_large, refs_in
from actorfw.runtime.refs import FAILED, READY
from actorfw.runtime.routes import held_ids, needs_object
from actorfw.values.ids import owned_ids
from actorfw.wire import messages as m
from actorfw.wire.payload import Packed, in_memory

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.pool import Worker
    from actorfw.runtime.refs import ObjectRef
    from actorfw.values.ids import RefId

__all__ = ["PACKED", "PICKLED", "TEXT", "Outbound"]

# How a large value travels: what its buffers are.
PICKLED: Final = 1
PACKED: Final = 2
TEXT: Final = 3


class Outbound:
    """What one node does to values before it hands them to a session or a worker."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def ship(self, to: Peer | Worker, *hashes: bytes) -> None:
        """Have the blobs of these definitions at a peer or worker before what is sent next."""
        node = self.node
        sent: set[bytes] = to.data
        for hashed in hashes:
            if hashed not in sent:
                sent.add(hashed)
                to.send((m.BLOB, hashed, node.codes.get(hashed)))

    def outgoing(self, peer: Peer, key: Any, args: Any, deps: Any) -> tuple[Any, Any]:
        """Arguments on their way to a peer: ship their code, make an object of what is large, note their refs.

        `key` names the call in the ownership records until it is answered; None for what is not answered.
        """
        node = self.node
        if type(args) is list or args is None:
            return args, deps
        if type(args) is int:  # they are an object already: the call came back
            self._hold_for(peer, key, held_ids(args, deps) or [])
            return args, deps
        if needs_object(args):
            ref = node.objects.made(node.next_number(), READY, args)
            wire, _, _ = node.objects.export_ref(ref)
            deps = [*(deps or ()), list(wire)]
            args = 0
            self._hold_for(peer, key, held_ids(args, deps) or [])
            return args, deps
        if type(args) is Packed:
            if args.codes:
                self.ship(peer, *args.codes)
            held = refs_in(args)
            if held:
                self._hold_for(peer, key, held)
        return args, deps

    def _hold_for(self, peer: Peer, key: Any, ids: list[RefId]) -> None:
        node = self.node
        ownership = node.objects.ownership
        node.objects.leave(ids)
        node.objects.carry_out(
            ownership.gave(peer.life, ids) if key is None else ownership.call_sent(key, peer.life, ids)
        )

    def give_worker(self, worker: Worker, wire: Any) -> None:
        """A value is about to go to a worker: ship its code, and list the worker with the refs in it."""
        node = self.node
        if type(wire) is Packed:
            if wire.codes:
                self.ship(worker, *wire.codes)
            if wire.refs:
                held = owned_ids(wire.refs)
                if held:
                    node.objects.carry_out(node.objects.ownership.gave(worker.key, held))

    def deps_to_worker(self, worker: Worker, refs: list[ObjectRef[Any]] | None, args: Any) -> tuple[Any, Any]:
        """Send the values of top-level refs ahead of a call; returns what its message has for deps and arguments."""
        node = self.node
        if not refs:
            return None, args
        refs = list(refs)
        if type(args) is int:  # the arguments themselves came as an object, the last one
            args = refs.pop()._out
        deps: list[Any] = []
        for ref in refs:
            state = ref._state if ref._state == READY else FAILED
            out = ref._out if ref._state in (READY, FAILED) else node.objects.cancelled_out(ref)
            self.give_worker(worker, out)
            worker.send((m.SETTLED, ref._owner, ref._number, state, out, True))
            deps.append((ref._owner, ref._number, ref._address))
        return deps or None, args

    def give(self, peer: Peer, args: Any, deps: Any) -> None:
        """Arguments are part of the message that is sent next, and not of a call: the same for them."""
        if type(args) is Packed and args.codes:
            self.ship(peer, *args.codes)
        held = held_ids(args, deps)
        if held:
            self._hold_for(peer, None, held)

    def enclose(self, peer: Peer, out: Any) -> None:
        """A value is part of the message that is sent next, and not of a call: ship its code, and give its refs."""
        if type(out) is Packed:
            if out.codes:
                self.ship(peer, *out.codes)
            if out.refs:
                objects = self.node.objects
                ids = owned_ids(out.refs)
                if ids:
                    objects.leave(ids)
                    objects.carry_out(objects.ownership.gave(peer.life, ids))

    def send_value(self, peer: Peer, head: tuple[Any, ...], out: Any) -> None:
        """Send `(*head, out)`, in pieces if the value is large."""
        self.enclose(peer, out)
        if is_large(out):
            self._send_large(peer, head, out)
        else:
            peer.send((*head, out))

    def send_result(
        self, peer: Peer, no: int, state: int, out: Any, key: Any, attempt: int, items: int | None, numbers: Any
    ) -> None:
        """The final answer of a task or call to the peer that asked.

        `key` names the call in the ownership records if it carried refs; `numbers` are those of the parts of its
        result, if it has parts. Large values stay here, unless this node is about to leave: the peer is told how large
        they are. The order is that of the records: what the result gives, what of the arguments is still held, the
        answer, and only then what follows from it.
        """
        node = self.node
        if state == m.PARTS:
            out = [
                node.copies.made((peer.life, number), attempt, part) if is_large(part) else part
                for number, part in zip(numbers or (), out, strict=True)
            ]
        elif state == m.VALUE and is_large(out) and not node.leaving.begun:
            state, out = m.STORED, node.copies.made((peer.life, no), attempt, out)
        ids: list[RefId] = []
        for part in out if state == m.PARTS else (out,):
            if type(part) is Packed:
                if part.codes:
                    self.ship(peer, *part.codes)
                ids += refs_in(part) or ()
        ownership = node.objects.ownership
        if ids:
            node.objects.leave(ids)
            node.objects.carry_out(ownership.gave(peer.life, ids))
        kept: Any = None
        then: list[Any] = []
        if key is not None:
            node.objects.sweep()
            held, then = ownership.call_answered(peer.life, key)
            kept = [list(id) for id in held] or None
        more = () if items is None else (items,)
        if state != m.PARTS and is_large(out):
            self._send_large(peer, (m.RESULT, no, state, kept, attempt, *more), out)
        else:
            peer.send((m.RESULT, no, state, out, kept, attempt, *more))
        if then:
            node.objects.carry_out(then)

    def _send_large(self, peer: Peer, head: tuple[Any, ...], out: Any) -> None:
        # The form, then (refs, codes); the head is processed in order with other messages, the buffers follow in
        # pieces.
        if type(out) is Packed:
            peer.send_large((*head, PACKED, (out.refs, out.codes)), [out.data, *map(in_memory, out.buffers)])
        elif type(out) is bytes:
            peer.send_large((*head, PICKLED, ((), ())), [out])
        else:
            peer.send_large((*head, TEXT, ((), ())), [out.encode()])

    def outbox_bytes(self) -> int:
        """Bytes of calls that this node could not send yet."""
        node = self.node
        return sum(peer.queued_bytes for peer in list(node.peers.by_life.values()))
