"""`Fetches`: asking owners for values, and answering those who ask.

A small value comes with the answer. Of a large one the answer says who has it (`runtime.store.locations`), and it is
pulled (`runtime.store.pulls`). All who wait here for the same value wait for one question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.objects import is_large
from actorfw.runtime.refs import CANCELLED, FAILED, PENDING, READY, ObjectRef
from actorfw.runtime.store.elsewhere import DECLINED
from actorfw.values.errors import OwnerDiedError, PeerUnreachableError
from actorfw.values.ids import RefId, as_bytes
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Fetches"]

UNASKED: Final = 4
"""Large values that may come unasked at a time: their owner sends their beginning with the answer who has them."""
NOT_AT_ONCE: Final = 2
"""In a question, in the place of True: a large value is to wait until this node says so."""


class Fetches:
    """The questions for values of one node.

    Attributes:
        asked: what is asked for, and the refs that wait for it.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.objects = node.objects
        self.asked: dict[RefId, list[ObjectRef[Any]]] = {}

    def here(self, id: RefId, out: Any) -> None:
        """A value of this node's own that was elsewhere is here."""
        if id[0] == self.node.life:
            self.objects._exported[id[1]] = (READY, out)
        else:
            self.objects._inherited[id] = (READY, out)
        self.arrived(id, READY, out)

    def failed(self, id: RefId, out: Any) -> None:
        """A value of this node's own that was elsewhere can't be had any more."""
        if id[0] != self.node.life:
            self.objects._inherited[id] = (FAILED, out)
        elif id[1] in self.objects._exported:
            self.objects._exported[id[1]] = (FAILED, out)
        self.arrived(id, FAILED, out)

    def arrived(self, id: RefId, state: int, out: Any) -> None:
        """What was elsewhere has come to those who wait for it here."""
        waiting = self.asked.pop(id, [])
        ref = self.objects._refs.get(id)
        if ref is not None and ref not in waiting:
            waiting.append(ref)
        for one in waiting:
            one._lazy = False
            if state == READY:
                one._settle(out)
            else:
                one._fail(out)

    def fetch(self, ref: ObjectRef[Any]) -> None:
        """Somebody here waits for a borrowed ref."""
        id = (ref._owner, ref._number)
        waiting = self.asked.get(id)
        if waiting is not None:
            if not waiting:
                self.node.pulls.resume(id)
            waiting.append(ref)
            return
        self.asked[id] = [ref]
        if id in self.node.locations:
            self.node.locations.ask(id, self.node.life)
        else:
            self.ask_owner(id)

    def waits_for(self, id: RefId) -> bool:
        """Whether somebody here waits for what its owner has to say where it is."""
        return bool(self.asked.get(id))

    def unasked(self, ref: ObjectRef[Any]) -> None:
        """Nobody waits for this ref any more. If nobody waits for the value, it need not come."""
        id = (ref._owner, ref._number)
        waiting = self.asked.get(id)
        if not waiting or any(one._callbacks is not None for one in waiting):
            return
        for one in waiting:
            one._lazy = True
        waiting.clear()  # who asks again finds its place, and nobody is kept for it
        self.node.pulls.pause(id)

    def forget(self, id: RefId) -> None:
        """What nobody waited for does not come."""
        if self.asked.get(id) == []:
            del self.asked[id]

    def ask_owner(self, id: RefId, *sources: tuple[bytes, ...]) -> None:
        """Ask for a value; `sources`: those that can't be reached, and those that have it no more."""
        owner, address = self.node.heirs.where(id[0], self.objects.address_of(id))
        at_once = len(self.asked) <= UNASKED and not self.node.pulls.crowded
        msg = (m.FETCH, *id, True if at_once else NOT_AT_ONCE, *sources)
        peer = self.node.peers.by_life.get(owner)
        if peer is not None:
            peer.send(msg)
        else:
            self.node.reach(owner, address, lambda found: self._reached(id, msg, found))

    def _reached(self, id: RefId, msg: Any, found: Peer | PeerUnreachableError) -> None:
        if isinstance(found, PeerUnreachableError):
            for ref in self.asked.pop(id, ()):
                why = f"the owner of {self.objects.named(ref)} can't be reached: {found}"
                self.objects.lose(ref, why, OwnerDiedError)
        else:
            found.send(msg)

    def on_fetch(self, sender: Peer, msg: list[Any]) -> None:
        """A borrower asks for a value, or to be told when there is one."""
        _, owner, number, with_value, *sources = msg
        id = (as_bytes(owner), number)
        ref = self.objects.adopt(*id, "")

        def answer(done: ObjectRef[Any]) -> None:
            state, out = done._state, done._out if done._state in (READY, FAILED) else None
            if state == CANCELLED:
                state, out = FAILED, self.objects.cancelled_out(done)
            if with_value and (state == PENDING or (state == READY and is_large(out))):
                away, lacking = sources or ((), ())
                self.node.locations.serve(sender, id, out, away, lacking, at_once=with_value != NOT_AT_ONCE)
                return
            self.node.outbound.send_value(
                sender, (m.SETTLED, *id, state or READY), out if with_value or state == FAILED else None
            )

        if self.objects.ownership.owner(id) == self.node.life:
            self.objects.watch([ref], answer)
        else:
            self.objects.when_done(ref, answer)  # who asks has not heard yet that it has another owner

    def on_settled(self, peer: Peer, msg: list[Any]) -> None:
        """The value of a borrowed ref has come."""
        _, owner, number, state, out = msg
        if state == m.STORED:
            size, version, sources, begun = out
            id = (as_bytes(owner), number)
            found = [(as_bytes(life), address) for life, address in sources]
            if self.waits_for(id) or id in self.node.pulls:
                self.node.pulls.start(id, version, size, found, begun=begun)
            else:
                self.forget(id)
                self.node.pulls.tell_owner(id, version, DECLINED)
            return
        out = self.objects.keep(out)
        if self.node.pulls:
            self.node.pulls.unwanted((as_bytes(owner), number))  # it had lost its sources
        for ref in self.asked.pop((owner, number), ()):
            if state == READY:
                ref._settle(out)
            else:
                ref._fail(out)

    def gone(self, id: RefId) -> None:
        """The owner frees what is being pulled here: it did not know of those who wait for it."""
        for ref in self.asked.pop(id, ()):
            named = self.objects.named(ref)
            self.objects.lose(ref, f"the owner of {named} has freed it: this node was not known to hold it")

    def moved(self, heir: bytes) -> None:
        """What this node waits for is now to be had from an heir. Whoever left may have answered already."""
        peer = self.node.peers.by_life.get(heir)
        for id in list(self.asked):
            if peer is not None and self.node.heirs.of(id[0]) == heir:
                peer.send((m.FETCH, *id, True))

    def owner_died(self, life: bytes) -> None:
        """An owner is gone: what was asked of it will not come."""
        owner = self.objects.ownership.owner
        for id in [id for id in self.asked if owner(id) == life]:
            del self.asked[id]
