"""Heirs: who answers for what a node owned and guarded that has left, and this node's part as an heir.

Responsible for: the table of heirs and keeping all parts of the node in step with it, consenting, and taking an estate
over. Leaves to others: the rules (`core.inheritance`), and this node's own leaving (`runtime.leaving`).

Whoever sends something to the owner or guardian of an id sends it to `of(id[0])`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.inheritance import Estate, Heirs
from actorfw.values.ids import RefId, as_bytes, short
from actorfw.wire import messages as m
from actorfw.wire.payload import size_of

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["ACTOR", "Inheritance"]

logger = logging.getLogger("actorfw.node")

KEEP_SECONDS: Final = 24 * 3600.0
ACTOR: Final = 0  # in the place of a value's state: what follows is what a guardian knows of an actor


class Inheritance:
    """Heirs as one node knows them."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.estate = Estate(node.objects.ownership, self._named)
        self._table = Heirs(KEEP_SECONDS)
        self._incoming: dict[bytes, dict[RefId, tuple[int, Any]]] = {}
        # What a leaver has sent, when large values are still to come: the ids, their names, and what it passed on.
        self._announced: dict[bytes, tuple[list[RefId], list[Any], list[list[Any]]]] = {}
        self._pledges: dict[bytes, None] = {}

    # -- who -----------------------------------------------------------------------------------------------------------

    def of(self, life: bytes) -> bytes:
        """The life that answers for what `life` owned; itself while it is there."""
        return self._table.of(life) if self._table else life

    def where(self, life: bytes, address: str) -> tuple[bytes, str]:
        """That life, and where to dial it; `address` is where `life` itself was."""
        if not self._table:
            return life, address
        return self._table.of(life), self._table.address(life, address)

    def mine(self, life: bytes) -> bool:
        """Whether this node answers for what `life` owned."""
        return life == self.node.life or self.of(life) == self.node.life

    @property
    def pledged(self) -> bool:
        """Whether some node counts on this one: it must not begin to hand over what it has before that has come."""
        return bool(self._pledges)

    def peer_up(self, peer: Peer) -> None:
        """A newcomer may be given a ref of a node that it never met."""
        if self._table:
            peer.send((m.MOVED, self._table.rows()))

    def on_moved(self, peer: Peer, msg: list[Any]) -> None:
        """Somebody has an heir."""
        self.learned((as_bytes(life), as_bytes(heir), str(address)) for life, heir, address in msg[1])

    def learned(self, rows: Iterable[tuple[bytes, bytes, str]]) -> None:
        """Some nodes have heirs; told as often as one likes."""
        node = self.node
        for life, heir, address in rows:
            self._pledges.pop(life, None)
            self._incoming.pop(life, None)
            if life == node.life or not self._table.enter(life, heir, address, node.env.time()):
                continue
            to = self.of(life)
            logger.info("what node %s owned is node %s's now", short(life), short(to))
            node.objects.carry_out(self.estate.moved(life, to))
            node.fetches.moved(to)
            node.copies.moved(to)
            node.calls.locating.moved(to)
            node.hosting.moved(life, to)
            node.watching.moved(to)
            node.directory.moved(life, to, self._table.address(life, address))

    # -- being an heir -------------------------------------------------------------------------------------------------

    def asked(self, peer: Peer, payload: list[Any]) -> bool:
        """A node that leaves asks whether this one takes so many bytes. Who consents stays until it has them."""
        node = self.node
        (size,) = payload
        willing = node.open and not node.leaving.begun and size <= node.config.max_outbox
        if willing:
            self._pledges[peer.life] = None
        return willing

    def on_inherit(self, peer: Peer, msg: list[Any]) -> None:
        """One value or actor of the estate."""
        _, life, number, state, out = msg
        objects = self.node.objects
        given = objects.taken(peer, out)
        self._incoming.setdefault(peer.life, {})[(life, number)] = (state, objects.keep(out))
        objects.settle_taken(given)
        self._complete(peer)

    def on_inherited(self, peer: Peer, msg: list[Any]) -> None:
        """A leaver has sent its estate; or the heir has stored this node's."""
        if msg[1] is None:
            self.node.leaving.inherited(peer)
        else:
            self._announced[peer.life] = [(as_bytes(life), number) for life, number in msg[1]], msg[2], []
            self._complete(peer)

    def on_relay(self, peer: Peer, msg: list[Any]) -> None:
        """Somebody had told the leaver of an actor that this node guards, or is about to."""
        announced = self._announced.get(peer.life)
        if announced is not None:
            announced[2].append(msg)
        elif msg[0] == m.RELAY:
            _, host, life, number, incarnation, reason, out = msg
            objects = self.node.objects
            given = objects.taken(peer, out)
            self.node.guardians.host_says((life, number), as_bytes(host), incarnation, reason, objects.keep(out))
            objects.settle_taken(given)

    def _complete(self, peer: Peer) -> None:
        announced = self._announced.get(peer.life)
        if announced is None:
            return
        ids, names, relayed = announced
        here = self._incoming.get(peer.life, {})
        if any(id not in here for id in ids):
            return
        node = self.node
        del self._announced[peer.life]
        following = self.estate.inherit(peer.life, ids)
        for id in ids:
            state, out = here.pop(id)
            if state == ACTOR:
                node.guardians.inherit(peer, id, out)
            else:
                node.objects.inherit(id, state, out)
        for namespace, name, entry in names:
            node.directory.inherit(namespace, name, entry)
        peer.send((m.INHERITED, None, None))
        node.objects.carry_out(following)
        for msg in relayed:
            self.on_relay(peer, msg)

    def _named(self) -> list[RefId]:
        return [id for id, actor in self.node.guardians.actors.items() if actor.name is not None]

    def peer_ended(self, life: bytes) -> None:
        """A node is gone: if it was about to hand something over, it has not."""
        self._pledges.pop(life, None)
        self._incoming.pop(life, None)
        self._announced.pop(life, None)


def bytes_of(outcomes: Iterable[tuple[int, Any] | None]) -> int:
    """About how much memory these values take."""
    return sum(size_of(found[1]) for found in outcomes if found is not None)
