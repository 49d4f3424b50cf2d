"""`Locations`: an owner's part in spreading what it owns: which nodes have the bytes, and who pulls from whom.

An object has an entry here once its bytes are, or are wanted, on another node. Drives one `core.sources.Sources` for
each: tells those who ask, frees the copies when ownership frees the object, and has a lost one made again or fails it.

Leaves to others: the rules (`core.sources`), keeping and sending bytes (`copies`), getting them (`pulls`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from actorfw.core.sources import Instruction, Sources
from actorfw.runtime.refs import FAILED, READY
from actorfw.runtime.store.elsewhere import ANY_VERSION, DECLINED, HERE, LEAVES, Elsewhere
from actorfw.runtime.store.pulls import SMALL, STRIPE
from actorfw.values.errors import ObjectLostError
from actorfw.values.ids import RefId, as_bytes, text_id
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error
from actorfw.wire.payload import size_of

if TYPE_CHECKING:
    from actorfw.io.env import TimerHandle
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Locations"]


class Locations:
    """The directory of one node's own objects that are on other nodes too."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._by_id: dict[RefId, Sources] = {}
        self._fresh: set[tuple[RefId, bytes]] = set()
        self._timer: TimerHandle | None = None

    def __contains__(self, id: RefId) -> bool:
        return id in self._by_id

    def __len__(self) -> int:
        return len(self._by_id)

    def directory(self, id: RefId) -> Sources | None:
        """Who has this object, if anybody but its owner does or wants it."""
        return self._by_id.get(id)

    def bytes_at(self, deps: Iterable[Any]) -> dict[bytes, int]:
        """How much of these arguments each node has, as far as they are this node's own and large."""
        found: dict[bytes, int] = {}
        for life, number, *_ in deps:
            entry = self._by_id.get((life, number))
            if entry is not None:
                for one in entry.nodes:
                    found[one] = found.get(one, 0) + entry.size
            elif self._by_id:
                outcome = self.node.objects.outcome((life, number))
                if outcome is not None and outcome[0] == READY:
                    found[self.node.life] = found.get(self.node.life, 0) + size_of(outcome[1])
        return found

    # -- what happens to objects ---------------------------------------------------------------------------------------

    def stored(self, id: RefId, there: Elsewhere) -> None:
        """It was made elsewhere, for the first time or again."""
        entry = self._by_id.get(id)
        if entry is None:
            entry = self._by_id[id] = Sources(self.node.life, there.size, there.version)
        self._do(id, entry, entry.made(there.life, there.version, there.size, self._now()))

    def is_here(self, id: RefId, version: int) -> None:
        """This node has pulled its own object."""
        entry = self._by_id.get(id)
        if entry is not None:
            self._do(id, entry, entry.has(self.node.life, version, self._now()))

    def remade(self, id: RefId, state: int, out: Any) -> None:
        """A lost object was made again, here; or can't be: `out` is the error then."""
        entry = self._by_id.get(id)
        self.node.pulls.unwanted(id)
        if state == READY:
            self.node.fetches.here(id, out)
            if entry is not None:
                version = entry.version + 1
                self._do(id, entry, entry.made(self.node.life, version, size_of(out), self._now()))
        elif entry is not None:
            for life in entry.waiting:
                peer = self.node.members.peer(life)
                if peer is not None:
                    self.node.outbound.send_value(peer, (m.SETTLED, *id, FAILED), out)
            self._forget(id)
            self.node.fetches.failed(id, out)
        else:
            self.node.fetches.failed(id, out)

    def decline(self, peer: Peer, ids: Iterable[tuple[int, int]]) -> None:
        """Results have come that nobody waits for: numbers and versions."""
        told = [(self.node.life, number, version) for number, version in ids]
        if told:
            peer.send((m.FREE, told))

    def freed(self, id: RefId) -> None:
        """Nobody holds it any more."""
        if self.node.objects.ownership.owner(id) == self.node.life:
            self._forget(id)
        else:
            self._by_id.pop(id, None)  # an heir has it
        self.node.pulls.unwanted(id)
        self.node.fetches.forget(id)

    def _forget(self, id: RefId) -> None:
        entry = self._by_id.pop(id, None)
        if entry is not None:
            for life in entry.concerned:
                self._free(life, id, ANY_VERSION)

    # -- who asks ------------------------------------------------------------------------------------------------------

    def ask(self, id: RefId, life: bytes, away: Iterable[bytes] = (), lacking: Iterable[bytes] = ()) -> None:
        """A node, perhaps this one, wants what has an entry."""
        entry = self._by_id[id]
        self._do(id, entry, entry.ask(life, self._now(), away, lacking))

    def serve(
        self, peer: Peer, id: RefId, out: Any, away: Iterable[bytes], lacking: Iterable[bytes], *, at_once: bool
    ) -> None:
        """A node wants a large value of this node's own. `out`: the value; None if it is elsewhere. `at_once`: it may
        come unasked, even if it is large."""
        entry = self._by_id.get(id)
        if entry is None:
            entry = self._by_id[id] = Sources(self.node.life, size_of(out))
            entry.has(self.node.life, 0, self._now())
        if not away and not lacking and (at_once or entry.size <= SMALL):
            self._fresh.add((id, peer.life))
        self.ask(id, peer.life, away, lacking)
        self._fresh.discard((id, peer.life))

    def lost_here(self, id: RefId, size: int = 0) -> None:
        """This node has lost its own copy of what it owns: it comes from where there is another, or is made again."""
        entry = self._by_id.get(id)
        if entry is None:
            entry = self._by_id[id] = Sources(self.node.life, size)
        self._do(id, entry, entry.ask(self.node.life, self._now(), lacking=(self.node.life,)))

    def value(self, id: RefId, version: int) -> Any:
        """A value of this node's own, if it is here and of that version; else None."""
        entry = self._by_id.get(id)
        if entry is None or entry.version != version:
            return None
        outcome = self.node.objects.outcome(id)
        return outcome[1] if outcome is not None and outcome[0] == READY else None

    def on_has(self, peer: Peer, msg: list[Any]) -> None:
        """A node says something of a copy."""
        _, life, number, version, what = msg
        id = (as_bytes(life), number)
        entry = self._by_id.get(id)
        if entry is None:
            if what != DECLINED:
                self._free(peer.life, id, ANY_VERSION)
            return
        now = self._now()
        if what == HERE and version != entry.version:
            self._free(peer.life, id, version)
        elif what == HERE:
            self._do(id, entry, entry.has(peer.life, version, now))
        elif what == DECLINED:
            self._do(id, entry, entry.gave_up(peer.life, now))
        else:
            self._do(id, entry, entry.leaves(peer.life, now))
            if what == LEAVES and self._by_id.get(id) is entry and entry.needs(peer.life):
                self.node.pulls.keep(id)
                self.ask(id, self.node.life)

    def gave_up(self, id: RefId) -> None:
        """Nobody here wants any more what this node was getting of its own."""
        entry = self._by_id[id]
        self._do(id, entry, entry.gave_up(self.node.life, self._now()))

    # -- carrying out --------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self.node.env.time()

    def _do(self, id: RefId, entry: Sources, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            if instruction[0] == "serve":
                self._serve(id, entry, instruction[1], instruction[2])
            elif instruction[0] == "free":
                self._free(instruction[1], id, entry.version)
            else:
                self._lost(id)
        if entry.due is not None and self._timer is None:
            self._timer = self.node.env.call_later(max(0.0, entry.due - self._now()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._now()
        for id, entry in list(self._by_id.items()):
            if entry.due is not None:
                self._do(id, entry, entry.tick(now))

    def _serve(self, id: RefId, entry: Sources, life: bytes, sources: tuple[bytes, ...]) -> None:
        node = self.node
        addresses = node.members.addresses
        found = [(source, node.address if source == node.life else addresses.get(source, "")) for source in sources]
        if life == node.life:
            if node.fetches.asked.get(id) == [] and id not in node.pulls:
                node.fetches.forget(id)
                self.gave_up(id)
            else:
                node.pulls.start(id, entry.version, entry.size, found)
            return
        peer = node.members.peer(life)
        if peer is None:
            return  # its end is about to be told
        if node.hostmates.lends(life, self.value(id, entry.version)):
            found = [(node.life, node.address)]  # that costs nothing, however many there are
        # Whoever asks for the first time and is served by the owner need not ask for the first range.
        begun = found[0][0] == node.life and (id, life) in self._fresh
        peer.send((m.SETTLED, *id, m.STORED, [entry.size, entry.version, found, begun]))
        if begun:
            node.copies.on_pull(peer, [m.PULL, *id, entry.version, 0, STRIPE, True])

    def _free(self, life: bytes, id: RefId, version: int) -> None:
        peer = self.node.members.peer(life)
        if peer is not None:
            peer.send((m.FREE, [(*id, version)]))

    def fenced(self, id: RefId, why: str) -> None:
        """This node has a new life, and what it had elsewhere is nowhere now. If somebody asks for it, it is lost."""
        if self.node.objects.ownership.live(id):
            self._by_id[id] = Sources(self.node.life, 0)
            if self.node.fetches.waits_for(id):
                self.node.env.call_soon(self._ask_for, id)  # whoever makes it again needs all of the new life

    def _ask_for(self, id: RefId) -> None:
        if id in self._by_id and self.node.fetches.waits_for(id):
            self.ask(id, self.node.life)

    def _lost(self, id: RefId) -> None:
        lineage = getattr(self.node, "lineage", None)
        if lineage is not None:
            lineage.lost(id)
            return
        error = ObjectLostError(f"object {text_id(id)} is lost: no node that had it is left")
        self.remade(id, FAILED, pack_error(self.node.codec, error, where=self.node.name, infrastructure=True))

    # -- ends ----------------------------------------------------------------------------------------------------------

    def peer_ended(self, life: bytes) -> None:
        """A node is gone: nobody can be served from it any more, so its copies count no more from now on."""
        now = self._now()
        for id, entry in list(self._by_id.items()):
            self._do(id, entry, entry.dead(life, now))

    def handed_over(self) -> None:
        """An heir has what this node owned. With a value it was not told who else has it: those copies end."""
        owner = self.node.objects.ownership.owner
        for id, entry in list(self._by_id.items()):
            outcome = self.node.objects.outcome(id)
            if owner(id) != self.node.life and outcome is not None and outcome[0] == READY:
                del self._by_id[id]
                for life in entry.others:
                    self._free(life, id, entry.version)

    def bequest(self, id: RefId) -> list[Any] | None:
        """What an heir has to know of an object that is elsewhere."""
        entry = self._by_id.get(id)
        return None if entry is None else [entry.size, entry.version, list(entry.nodes)]

    def inherit(self, id: RefId, told: list[Any]) -> None:
        """A node that leaves has handed over an object that is elsewhere."""
        size, version, nodes = told
        entry = self._by_id.get(id)
        if entry is None:
            entry = self._by_id[id] = Sources(self.node.life, size, version)
        for life in nodes:
            if as_bytes(life) in self.node.members.facts:
                self._do(id, entry, entry.made(as_bytes(life), version, size, self._now()))
        copy = self.node.copies.give(id, version)
        if copy is not None:
            self.node.fetches.here(id, copy)
        elif self.node.life in entry.nodes:
            self._do(id, entry, entry.dead(self.node.life, self._now()))

    def fence(self) -> list[RefId]:
        """All sessions have ended: forget who has what. Returns what is nowhere else but there."""
        gone: list[RefId] = []
        for id in self._by_id:
            outcome = self.node.objects.outcome(id)
            if id[0] == self.node.life and (outcome is None or outcome[0] == m.STORED):
                gone.append(id)
        self._by_id.clear()
        return gone

    def close(self) -> None:
        """The node closes."""
        self._by_id.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
