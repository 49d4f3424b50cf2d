"""`Specs`: what detached actors are made from, as blobs at every node that guards one, may have to, or made one.

A blob goes ahead of the first message that names it, once to each peer. It is kept for as long as the actor is known:
now and then each node asks the guardians of those that it has blobs of. The pause between two questions doubles, so a
blob is dropped, at the latest, when the actor has been forgotten for as long as it was known before.

Leaves to others: what is in a blob (`runtime.detached`), and who is a guardian (`core.names`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgpack

from actorfw.runtime.refs import FAILED
from actorfw.values.errors import ActorFwError

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.values.ids import RefId

__all__ = ["Specs"]

logger = logging.getLogger("actorfw.actors")

_FIRST: Final = 60.0  # seconds; an ended actor is remembered for so long anyway
_LAST: Final = 3600.0


class _Known:
    """A blob that is here."""

    __slots__ = ("due", "id", "pause")

    def __init__(self, id: RefId, now: float) -> None:
        self.id = id
        self.pause = _FIRST
        self.due = now + _FIRST


class Specs:
    """The blobs of detached actors on one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._known: dict[bytes, _Known] = {}

    def add(self, blob: bytes, id: RefId) -> bytes:
        """Keep the blob of an actor that is made here; returns its hash."""
        spec = self.node.codes.add(blob)
        self.mentioned([(spec, id)])
        return spec

    def mentioned(self, specs: Iterable[tuple[bytes, RefId]]) -> None:
        """A message named these, and so their blobs are here."""
        for spec, id in specs:
            if spec not in self._known:
                self._known[spec] = _Known(id, self.node.env.time())
                if spec in self.node.codes:
                    self._expect_packages(spec)

    def _expect_packages(self, spec: bytes) -> None:
        """This node may have to have the actor made when those are gone who have the packages of its environment."""
        try:
            hashed: bytes = msgpack.unpackb(self.node.codes.get(spec))[3][0]
        except (ActorFwError, ValueError, TypeError, IndexError):
            return  # it came damaged, which is told when it is wanted
        self.node.environments.expected(hashed, b"")

    def ship(self, peer: Peer, specs: Iterable[tuple[bytes, RefId]]) -> None:
        """Have these at a peer, and what they need, before a message that names them."""
        node = self.node
        for spec, _ in specs:
            if spec not in peer.data and spec in node.codes:
                try:
                    codes: list[bytes] = msgpack.unpackb(node.codes.get(spec))[3]
                    node.outbound.ship(peer, *codes, spec)
                except (ActorFwError, ValueError, TypeError, IndexError) as error:
                    # It came damaged. The actor's name is passed on all the same, and so are the others.
                    peer.data.add(spec)
                    logger.error("an actor's definition can't be passed on to node %s: %s", peer.name, error)

    def look(self) -> None:
        """To be called every few seconds."""
        now = self.node.env.time()
        for spec, known in self._known.items():
            if now >= known.due:
                known.pause = min(2 * known.pause, _LAST)
                known.due = now + known.pause
                reply = self.node.detached.ask(known.id, "info", None)
                reply.add_done_callback(lambda done, spec=spec: self._heard(spec, done))  # type: ignore[misc]

    def _heard(self, spec: bytes, done: Any) -> None:
        if done._state != FAILED and done.result() is None and self._known.pop(spec, None) is not None:
            self.node.codes.forget(spec)
            for peer in self.node.peers.by_life.values():
                peer.data.discard(spec)
