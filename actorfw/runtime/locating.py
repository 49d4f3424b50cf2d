"""Where this node's calls to an actor go: finding its host, and following it to the next one.

A `Route` leads to one incarnation. When that is over its route is *left*: nothing more is sent there, what comes back
without having started is kept in order, and only when all that was sent there has been answered, has come back or can't
come any more is the guardian asked for the next incarnation. So calls start in the order in which they were made, and
none runs twice on one incarnation.

A call that had started when its incarnation was lost fails with `ActorUnavailableError`, or is sent to the next one if
it has retries left.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from actorfw.runtime.context import limits
from actorfw.runtime.routes import ActorCall, Route, held_ids
from actorfw.values.errors import ActorDiedError, ActorUnavailableError, PeerUnreachableError
from actorfw.values.ids import RefId, as_bytes, is_detached, text_id
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.runtime.calls import Calls
    from actorfw.runtime.cells import Cell
    from actorfw.runtime.peers import Peer

__all__ = ["Locating"]


class Locating:
    """The ways of one node's calls."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.node = calls.node

    # -- finding the host ----------------------------------------------------------------------------------------------

    def locate(self, route: Route, address: str = "") -> None:
        """Ask the guardian for an incarnation that is not known to be over."""
        if route.target in self.node.watching.ended:
            self.calls.end_route(route, self.node.watching.error_of(route.target))
            return
        if address:
            route.address = address
        if route.asking:
            return
        node = self.node
        guardian = node.guardian_of(route.target)
        why = node.rebirth.lost(guardian)
        if why is not None and guardian != node.life:  # it still has its old name while its peers are given up
            self._renamed(route, why)
            return
        route.asking = True
        if is_detached(guardian):
            node.detached.locate(route)
            return
        if guardian == node.life or route.target in node.guardians.actors:
            node.guardians.lead(route)
            return
        peer = node.peers.by_life.get(guardian)
        if peer is not None:
            self._ask(route, peer)
        else:
            _, address = node.heirs.where(route.target[0], route.address)
            node.reach(guardian, address, lambda found: self._guardian_reached(route, found))

    def moved(self, heir: bytes) -> None:
        """A guardian has an heir: what it was asked, and may not have answered, the heir is asked now."""
        for route in (*self.calls.routes.values(), *self.calls.aliases):
            if route.asking and route.target[0] != heir and self.node.guardian_of(route.target) == heir:
                route.asking = False
                self.locate(route)

    def _renamed(self, route: Route, why: str) -> None:
        """A call came with a name from a former life: a thread had read it before it was changed."""
        rebirth = self.node.rebirth
        current = rebirth.current(route.target)
        if current not in self.node.guardians.actors:
            self.calls.end_route(route, rebirth.fenced(route.target, why))
        else:
            self.redirect(route, current, route.address)

    def _ask(self, route: Route, guardian: Peer) -> None:
        guardian.send((m.LOCATE, *route.target, route.lost))

    def _guardian_reached(self, route: Route, found: Peer | PeerUnreachableError) -> None:
        if isinstance(found, PeerUnreachableError):
            text = f"the node that made the actor is gone: {found}"
            self.calls.end_route(route, ActorDiedError(text, reason="owner_died", ran=False))
        else:
            self._ask(route, found)

    def routes_to(self, target: RefId) -> list[Route]:
        """Usually one; handles that `get_if_exists` gave before it found an older actor have routes of their own."""
        route = self.calls.routes.get(target)
        if route is not None and route.target == target:
            return [route, *(r for r in self.calls.aliases if r.target == target)]
        return [r for r in self.calls.aliases if r.target == target]

    def on_located(self, peer: Peer, msg: list[Any]) -> None:
        """The guardian says where an actor is, or how it ended; or that another actor is meant."""
        _, life, number, target_life, target_number, incarnation, lasting, host, address, out = msg
        asked = (life, number)
        objects = self.node.objects
        if out is not None:
            given = objects.taken(peer, out)
            out = objects.keep(out)
            for route in self.routes_to(asked):
                route.asking = False
                self.calls.end_route_with(route, out)
            objects.settle_taken(given)
            return
        for route in self.routes_to(asked):
            if not route.asking or route.leaving:
                continue
            if host is None:
                route.asking = False
                self.redirect(route, (target_life, target_number), address)
            elif incarnation > route.lost:
                self.found(route, incarnation, lasting, host, address)

    def redirect(self, route: Route, target: RefId, address: str) -> None:
        """The handle means an older actor, which its own guardian knows."""
        route.target = target
        route.lost = 0
        if route not in self.calls.aliases:
            self.calls.aliases.append(route)
        self.locate(route, address)

    def found(self, route: Route, incarnation: int, lasting: bool, host: bytes, address: str) -> None:
        """The guardian says who hosts it."""
        node = self.node
        if host == node.life:
            cell = node.hosting.cells.get(route.target)
            if cell is not None and cell.incarnation == incarnation:
                self.connect(route, incarnation, lasting, cell=cell)
            else:
                # It ended while the answer was on its way, and the guardian hears of it.
                route.asking = False
                self._gone_already(route, incarnation, lasting)
            return
        found = node.peers.by_life.get(host)
        if found is not None:
            self.connect(route, incarnation, lasting, peer=found)
        else:
            node.reach(host, address, lambda found: self._host_reached(route, incarnation, lasting, found))

    def _host_reached(self, route: Route, incarnation: int, lasting: bool, found: Peer | PeerUnreachableError) -> None:
        if not isinstance(found, PeerUnreachableError):
            self.connect(route, incarnation, lasting, peer=found)
            return
        route.asking = False
        if lasting:
            self._gone_already(route, incarnation, lasting)
        else:
            text = f"the actor's node can't be reached: {found}"
            self.calls.end_route(route, ActorDiedError(text, reason="node_died", ran=False))

    def _gone_already(self, route: Route, incarnation: int, lasting: bool) -> None:
        if lasting:
            route.lost = max(route.lost, incarnation)
            self.locate(route)
        else:
            self.calls.end_route_with(route, self.node.hosting.end_of(route.target))

    def connect(
        self, route: Route, incarnation: int, lasting: bool, *, cell: Cell | None = None, peer: Peer | None = None
    ) -> None:
        """The way is known: send what has queued, in order."""
        if route.leaving or route.ended is not None:
            return  # asked again when all is back
        route.asking = False
        route.incarnation = incarnation
        route.lasting = lasting
        if peer is not route.window_of:
            self.node.windows.moved(route)
            route.window_of = peer
        route.cell = cell
        route.peer = peer
        self.calls.send_queue(route)

    def unconnect(self, route: Route) -> None:
        """The host had no room for the actor: what was sent there queues again, in front and in order."""
        unconfirmed, route.unconfirmed = route.unconfirmed, None
        peer, route.peer = route.peer, None
        route.gather()
        route.cell = None
        route.asking = True
        route.window_of = None
        for call in unconfirmed or ():
            self._keep(route, call)
        if unconfirmed and peer is not None:
            self._await_rest(route, peer)  # it may be tried there again

    # -- leaving an incarnation ----------------------------------------------------------------------------------------

    def leave(self, route: Route, incarnation: int) -> None:
        """This incarnation is over, and another one follows: find it when everything is back that was sent there."""
        if incarnation <= route.lost or route.ended is not None:
            return
        route.lost = incarnation
        if incarnation < route.incarnation:
            return  # it was left before
        peer, route.peer = route.peer, None
        route.gather()
        route.cell = None
        route.unconfirmed = None
        route.window_of = None
        if route.leaving:
            return
        if peer is None or peer.ended:
            self.look_again(route)
            return
        route.asking = True
        self._await_rest(route, peer)

    def _await_rest(self, route: Route, peer: Peer) -> None:
        # The session keeps the order: what its host still says of our calls comes before this answer.
        route.leaving = True
        self.node.asks.ask(peer, "sync", None).add_done_callback(lambda _: self._left(route))

    def _left(self, route: Route) -> None:
        if route.leaving:
            route.leaving = False
            self.look_again(route)

    def look_again(self, route: Route) -> None:
        """Ask where the actor is now, if anything waits for it."""
        route.asking = False
        if not self.node.closing and route.ended is None and (route.returned or route.queue):
            self.locate(route)

    def _keep(self, route: Route, call: ActorCall) -> None:
        """A call for the next incarnation."""
        self.node.windows.unsent(call)
        call.sent = False
        call.started = False
        call.runner = None
        if call.cancelled:
            return
        if route.ended is not None:
            self.calls.answered(call.no, m.ERROR, route.ended)
        else:
            self.calls.keep_returned(route, call)

    def came_back(self, call: ActorCall, incarnation: int) -> None:
        """It never started, and is for the next incarnation."""
        route = call.route
        assert route is not None
        self._keep(route, call)
        self.leave(route, incarnation)
        if route.cell is None and route.peer is None:
            if not route.asking:
                self.look_again(route)
        else:
            self.calls.send_queue(route)

    def lost(self, call: ActorCall, incarnation: int, why: str, items: int = 0) -> None:
        """It had started, or may have, when its incarnation was lost: another one follows."""
        route = call.route
        assert route is not None
        if self._retries(call):
            self.came_back(call, incarnation)
            return
        self._unavailable(call, why, items)
        self.leave(route, incarnation)

    def _retries(self, call: ActorCall) -> bool:
        # Items of a stream that were read can't be taken back.
        if not call.retries or call.cancelled or call.tell or (call.stream is not None and call.items):
            return False
        if call.retries > 0:
            call.retries -= 1
        call.attempt += 1
        return True

    def _unavailable(self, call: ActorCall, why: str, items: int) -> None:
        text = f"call {call.method} was not answered: {why}; the actor is started again"
        out = self.calls.out(ActorUnavailableError(text, ran=None))
        self.calls.answered(call.no, m.ERROR, out, items)

    # -- what hosts say ------------------------------------------------------------------------------------------------

    def on_not_here(self, peer: Peer, msg: list[Any]) -> None:
        """The host has not got that incarnation, or not any more: it never ran the call."""
        _, no, incarnation, kept = msg
        self._call_ended(no, peer, kept)
        call = self._sent_to(peer, no) if incarnation else None
        if call is None:
            self.node.windows.answered_late(no)
        else:
            self.came_back(call, incarnation)

    def on_lost(self, peer: Peer, msg: list[Any]) -> None:
        """An incarnation was lost with this call in it, and another one follows."""
        _, no, incarnation, why, items, kept = msg
        self._call_ended(no, peer, kept)
        call = self._sent_to(peer, no)
        if call is None:
            self.node.windows.answered_late(no)
        else:
            self.lost(call, incarnation, why, items)

    def _call_ended(self, no: int, peer: Peer, kept: Any) -> None:
        objects = self.node.objects
        objects.carry_out(objects.ownership.call_ended((no, peer.life), [(as_bytes(k[0]), k[1]) for k in kept or ()]))

    def _sent_to(self, peer: Peer, no: int) -> ActorCall | None:
        call = self.calls.open.get(no)
        if call is None or call.route is None or call.runner is not peer or not call.sent:
            return None
        return call

    def on_returned(self, peer: Peer, msg: list[Any]) -> None:
        """The host has not got that incarnation any more: a tell comes back as it was."""
        _, no, life, number, incarnation, method, args, deps, credit, caller, trace = msg
        objects = self.node.objects
        held = held_ids(args, deps)
        given = objects.ownership.took(peer.life, held) if held else None
        args = objects.keep(args)
        deps = [(as_bytes(dep[0]), dep[1], dep[2]) for dep in deps] if deps else None
        refs = [objects.adopt(*dep) for dep in deps] if deps else None
        objects.settle_taken(given)
        for route in self.routes_to((life, number)):
            call = self._sent_to(peer, no) if no else None
            if call is None:
                call = ActorCall(0, method, args, deps)
                call.tell = True
                call.route = route
                call.caller = caller
                call.trace = None if trace is None else (trace[0], trace[1])
            call.args, call.deps, call.dep_refs = args, deps, refs
            lane = route.lane_of.get(method)
            call.group = lane.group if lane is not None else ""
            call.credit = credit if call.no else 0
            self.came_back(call, incarnation)
            break

    # -- the end of a host ---------------------------------------------------------------------------------------------

    def host_ended(self, life: bytes, name: str, why: str, unsent: Iterable[Any]) -> None:
        """A node is gone. What was sent to actors there and never left this node goes to the next incarnation; what
        was sent, with retries only."""
        calls = self.calls
        never_left = {msg[1]: msg for msg in unsent if msg[0] == m.CALL and msg[1]}
        tells = [msg for msg in unsent if msg[0] == m.CALL and not msg[1]]
        routes = [r for r in (*calls.routes.values(), *calls.aliases) if r.peer is not None and r.peer.life == life]
        sentence = f"node {name}, where it was sent, is gone ({why})"
        for call in list(calls.open.values()):
            # Where it was sent counts, not where its route leads now: that may have ended before.
            route = call.route
            if not call.sent or call.runner is None or call.runner.life != life or route is None:
                continue
            if not route.lasting or route.ended is not None:
                ran = False if call.no in never_left else None
                text = f"the actor of call {call.method} ended with node {name}: {why}"
                error = ActorDiedError(text, reason="node_died", ran=ran)
                calls.answered(call.no, m.ERROR, calls.out(error))
            elif call.no in never_left or self._retries(call):
                if call.tell:
                    self._refill(call, never_left[call.no])
                self._keep(route, call)
            elif not call.tell:
                self._unavailable(call, sentence, call.items)
            else:
                calls.answered(call.no, m.ERROR, None)
        for msg in tells:
            for route in self.routes_to((msg[2], msg[3])):
                if route.lasting and type(msg[6]) is not int:
                    call = ActorCall(0, "", None, None)
                    call.tell = True
                    call.route = route
                    self._refill(call, msg)
                    lane = route.lane_of.get(call.method)
                    call.group = lane.group if lane is not None else ""
                    self._keep(route, call)
        for route in routes:
            if route.lasting:
                self.leave(route, route.incarnation)
            else:
                text = f"actor {text_id(route.target)[-20:]} ended with its node {name}: {why}"
                calls.end_route(route, ActorDiedError(text, reason="node_died", ran=False))

    def _refill(self, call: ActorCall, msg: Any) -> None:
        call.method, call.args = msg[5], msg[6]
        call.deps = [(as_bytes(dep[0]), dep[1], dep[2]) for dep in msg[7]] if msg[7] else None
        call.caller = msg[11]
        _, call.trace = limits(msg[m.LEFT_OF_CALL], 0.0)
