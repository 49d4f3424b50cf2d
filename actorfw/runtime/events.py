"""What this node sees happen, for whoever reads `actorfw.events()` here or on another node.

Every part publishes what it knows, on the loop; each event goes to the readers of this node. Events of members stay
here, as each node has its own view of them. Events of actors also go to the nodes that asked for them: a node asks
every member when its first reader comes, newcomers as they appear, and takes it back when its last reader goes.

A reader has a bounded queue. One that is too slow loses its oldest events and is told how many.
"""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.readings import Reader
from actorfw.values.events import ActorEvent, Event
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.values.errors import PeerUnreachableError

__all__ = ["Events"]

QUEUE: Final = 1024  # events that a reader may be behind

_TRAVEL: Final = {kind.__name__: kind for kind in ActorEvent.__subclasses__()}


class Events:
    """The events of one node.

    Attributes:
        wanted: whether anybody listens: where it costs something to make an event, look here first.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.wanted = False
        self._readers: dict[int, Reader] = {}
        self._askers: dict[bytes, Peer] = {}  # who wants our actors' events
        self._asked: set[bytes] = set()  # lives whose actors' events we want
        node.asks.verbs["events"] = self._wanted_by

    def publish(self, event: Event) -> None:
        """Tell whoever listens; on the loop. Costs next to nothing when nobody does."""
        if not self.wanted:
            return
        if not getattr(event, "time", None):
            event = replace(event, time=self.node.env.wall_time())  # type: ignore[call-arg]  # each has one
        self._hand_out(event)
        if self._askers and isinstance(event, ActorEvent):
            wire = (m.EVENT, event.kind, list(astuple(event)))
            for peer in list(self._askers.values()):
                peer.send(wire)

    def _hand_out(self, event: Event) -> None:
        for reader in list(self._readers.values()):
            reader.put(event)

    # -- readers -------------------------------------------------------------------------------------------------------

    def read(self) -> int:
        """Somebody reads from now on: the number of the reading."""
        node = self.node
        reader = Reader(QUEUE, lambda: self._left(number))
        number = node.readings.enter(reader)
        self._readers[number] = reader
        self._count()
        if len(self._readers) == 1:
            for life in list(node.members.facts):
                self.member_came(life)
        return number

    def _left(self, number: int) -> None:
        self._readers.pop(number, None)
        if not self._readers:
            for life in self._asked:
                peer = self.node.peers.by_life.get(life)
                if peer is not None and not self.node.closing:
                    self.node.asks.ask(peer, "events", False)
            self._asked.clear()
        self._count()

    def _count(self) -> None:
        self.wanted = bool(self._readers or self._askers)

    # -- other nodes ---------------------------------------------------------------------------------------------------

    def member_came(self, life: bytes) -> None:
        """There is a member: if somebody reads here, its actors' events are wanted too."""
        node = self.node
        if not self._readers or life == node.life or life in self._asked:
            return
        self._asked.add(life)
        node.reach(life, node.members.addresses.get(life, ""), lambda found: self._member_reached(life, found))

    def _member_reached(self, life: bytes, found: Peer | PeerUnreachableError) -> None:
        if isinstance(found, Exception) or life not in self._asked:
            self._asked.discard(life)
        else:
            self.node.asks.ask(found, "events", True)

    def _wanted_by(self, peer: Peer, wanted: bool) -> None:
        if wanted:
            self._askers[peer.life] = peer
        else:
            self._askers.pop(peer.life, None)
        self._count()

    def on_event(self, peer: Peer, msg: list[Any]) -> None:
        """Something happened to an actor elsewhere."""
        _, kind, fields = msg
        made = _TRAVEL.get(kind)
        if made is not None:  # else a newer node's, of which this one knows nothing
            self._hand_out(made(*fields))

    def peer_ended(self, life: bytes) -> None:
        self._asked.discard(life)
        self._askers.pop(life, None)
        self._count()
