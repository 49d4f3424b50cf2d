"""What becomes of work when a peer has had no link for `link_patience`, and when it has one again.

A peer that is lost may well live, and its session goes on: nothing is released, restarted or taken from it. Only those
who wait are told. A call that was sent fails, as it may have run; one that was not is taken back, as is each new one; a
task is run elsewhere if it has retries left. What the peer answers later settles the refs of those calls and tasks, and
nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from actorfw.runtime.cells import STARTING, Cell
from actorfw.runtime.peer import take_back
from actorfw.values.errors import ActorFwError, PeerLostError, PeerUnreachableError
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.routes import ActorCall, Route
    from actorfw.runtime.submitted import Task

__all__ = ["LostPeers"]


class _Nowhere:
    """Stands in a route for the cell, so that calls come here instead of being queued for a link that may not come."""

    __slots__ = ("limit", "lost", "peer", "pending", "state", "why")

    def __init__(self, lost: LostPeers, peer: Peer, why: str) -> None:
        self.lost = lost
        self.peer = peer
        self.why = why
        self.state = STARTING
        self.pending, self.limit = 0, 1  # there is always room for what is refused

    def accept(self, call: ActorCall) -> None:
        """A call wants to be sent. A tell waits for the link, as nobody waits for it."""
        calls = self.lost.node.calls
        route = call.route
        assert route is not None
        if not call.tell:
            calls.answered(call.no, m.ERROR, self.lost.unsent_error(f"call {call.method}", self.peer, self.why))
        elif route.peer is self.peer:
            calls._send(call, route, self.peer)
        else:
            calls._queue(route, call)

    def cancel(self, call: ActorCall) -> None:
        """Nothing waits here."""


class LostPeers:
    """What one node does about peers that it can't reach and that are not dead."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def peer_lost(self, peer: Peer, detail: str, unsent: list[Sequence[Any]]) -> None:
        """There has been no link to it for `link_patience`."""
        node = self.node
        node.members.lost.add(peer.life)
        never_sent = {(msg[0], msg[1]) for msg in unsent if msg[0] in (m.CALL, m.TASK) and msg[1]}
        if never_sent:
            peer.rewrite_unsent(take_back)
        self._calls(peer, detail, never_sent)
        self._tasks(peer, detail, never_sent)
        node.asks.peer_lost(peer, detail)
        node.pulls.peer_lost(peer.life)
        node.tasks.pump_soon()

    def peer_back(self, peer: Peer) -> None:
        """It has a link again: calls may be sent."""
        node = self.node
        node.members.lost.discard(peer.life)
        for route in (*node.calls.routes.values(), *node.calls.aliases):
            if isinstance(route.cell, _Nowhere) and route.cell.peer is peer:
                route.cell = None
        node.tasks.pump_soon()

    def unsent_error(self, what: str, peer: Peer, why: str) -> Any:
        """As a wire value: it was not sent, and will not be."""
        return self._out(PeerUnreachableError(f"{what} was not sent to node {peer.name}: {why}"))

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _calls(self, peer: Peer, why: str, never_sent: set[tuple[int, int]]) -> None:
        node = self.node
        calls = node.calls
        nowhere = cast("Cell", _Nowhere(self, peer, why))
        for route in (*calls.routes.values(), *calls.aliases):
            asking_it = route.asking and route.peer is None and node.heirs.of(route.target[0]) == peer.life
            if route.peer is peer or (asking_it and not route.leaving):
                route.cell = nowhere
                self._give_up_queue(route, nowhere)
        for call in list(calls.open.values()):
            if not call.sent or call.runner is not peer or call.tell:
                continue
            if call.counted and call.route is not None:
                node.windows.withdrawn(call.route, call)  # it keeps its place until the host has let go of it
            if (m.CALL, call.no) in never_sent:
                out = self.unsent_error(f"call {call.method}", peer, why)
            else:
                text = f"call {call.method} was sent to node {peer.name}, and no answer came: {why}"
                out = self._out(PeerLostError(text))
                if call.stream is not None:
                    peer.send((m.CANCEL, call.no, False, True))  # nobody reads what it would yield
            calls.answered(call.no, m.ERROR, out)

    def _give_up_queue(self, route: Route, nowhere: Cell) -> None:
        """What waited for room there, or for the guardian to say where the actor is."""
        windows = self.node.windows
        for call in self.node.calls.take_queue(route):
            if not call.cancelled:
                nowhere.accept(call)
                if call.tell and call.sent:
                    windows.gone(call, route)
        if not route.queue:
            windows._nothing_queued(route)

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def _tasks(self, peer: Peer, why: str, never_sent: set[tuple[int, int]]) -> None:
        tasks = self.node.tasks
        back: list[Task] = []
        for task in tasks.sent.take(peer.life):
            if (m.TASK, task.no) in never_sent:
                task.attempt += 1  # the answer to what was taken back is of an attempt that is none any more
                back.append(task)
            else:
                peer.send((m.CANCEL, task.no, False, True))
                text = f"task {task.name} was sent to node {peer.name}, and no answer came: {why}"
                tasks.broke(task, self._out(PeerLostError(text)))
        tasks.requeue(back)

    def _out(self, error: ActorFwError) -> Any:
        return pack_error(self.node.codec, error, where=self.node.name, infrastructure=True)
