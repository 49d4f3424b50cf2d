"""The calling side of actors: from `handle.method(...)` to a settled ref, wherever the actor is.

A `Route` says where the calls of this node to one actor go: to a cell of this node, to a peer, or nowhere yet. Calls
of one caller leave in the order in which they were made; while the way is not known they queue here. A call is
answered once: by its host, or by this node when the host is gone, the deadline has passed, or someone cancelled it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from actorfw.runtime.context import milliseconds
from actorfw.runtime.locating import Locating
from actorfw.runtime.refs import CANCELLED, FAILED, PENDING, READY
from actorfw.runtime.routes import CALL_BYTES, IN_QUEUE, IN_WINDOW, ActorCall, Lane, Route
from actorfw.values.errors import (
    ActorDiedError,
    ActorFwError,
    DeadlineExceededError,
    NodeClosedError,
    TaskCancelledError,
)
from actorfw.values.ids import RefId, text_id
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Calls"]


class Calls:
    """The calls that this node's code, and its workers', have open."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.open: dict[int, ActorCall] = {}
        self.routes: dict[RefId, Route] = {}
        self.queued_bytes = 0  # of calls that can't be sent yet
        self.aliases: list[Route] = []  # routes that lead to another actor than their id says
        self.locating = Locating(self)

    # -- calling -------------------------------------------------------------------------------------------------------

    def route(self, id: RefId) -> Route:
        route = self.routes.get(id)
        if route is None:
            route = self.routes[id] = Route(id)
        return route

    def start(self, call: ActorCall, id: RefId, address: str) -> None:
        """Send a new call, or queue it until it is known where to; on the loop."""
        route = self.routes.get(id)
        if route is None:
            route = self.routes[id] = Route(id)
        call.route = route
        if not call.tell:
            self.open[call.no] = call
            if call.deadline is not None:
                now = self.node.env.time()
                if call.deadline <= now:
                    self._expire(call)
                    return
                call.timer = self.node.env.call_later(call.deadline - now, self._expire, call)
        if route.ended is not None:
            self.answered(call.no, m.ERROR, route.ended)
        elif call.group and route.peer is not None:
            self.node.windows.start_in_lane(call, route, route.peer)
        elif route.queue:
            self._queue(route, call)
        elif (cell := route.cell) is not None:
            if cell.pending < cell.limit:
                cell.accept(call)
            else:
                self._queue(route, call)
                self.node.windows.pump(route)
        elif route.peer is not None:
            if route.out < route.limit:
                self._send(call, route, route.peer)
            else:
                self._queue(route, call)
        else:
            self._queue(route, call)
            self.locating.locate(route, address)

    def _queue(self, line: Route | Lane, call: ActorCall) -> None:
        """The way is not known yet, or there is no room."""
        if call.group and isinstance(line, Route):
            call.lane = line.lane(call.group, call.method)
            line.mixed = True
        if line.queue is None:
            line.queue = deque()
        line.queue.append(call)
        call.counted = IN_QUEUE
        self.queued_bytes += CALL_BYTES + call.size

    def left_queue(self, route: Route, call: ActorCall) -> None:
        """A call does not wait at its caller any more."""
        if call.counted == IN_QUEUE:
            call.counted = 0
            self.queued_bytes -= CALL_BYTES + call.size

    def take_queue(self, route: Route) -> list[ActorCall]:
        """What waited for a way or for room, in order; it does not any more."""
        route.gather()
        route.mixed = False
        queue = [*(route.returned or ()), *(route.queue or ())]
        route.returned = route.queue = None
        route.dropped = 0
        for call in queue:
            self.left_queue(route, call)
        return queue

    def keep_returned(self, route: Route, call: ActorCall) -> None:
        """A call came back: it goes before those that were never sent, and behind those that came back before."""
        if call.group:
            call.lane = route.lane(call.group, call.method)
            route.mixed = True
        if route.returned is None:
            route.returned = deque()
        route.returned.append(call)
        call.counted = IN_QUEUE
        self.queued_bytes += CALL_BYTES + call.size

    def send_queue(self, route: Route) -> None:
        """There is a way: what waited for it goes, in order."""
        route.gather()
        returned, route.returned = route.returned, None
        if returned:
            returned.extend(route.queue or ())
            route.queue = returned
        self.node.windows.pump(route)

    def _send(self, call: ActorCall, route: Route, peer: Peer) -> None:
        node = self.node
        call.sent = True
        call.peer = None
        args = call.args
        window = route if call.lane is None else call.lane
        window.out += 1
        if call.size:
            window.weigh(call.size)
        if call.tell:
            node.windows.tell_leaves(route, call)
        else:
            call.counted = IN_WINDOW
        left: Any = None if call.deadline is None else milliseconds(call.deadline - node.env.time())
        if call.trace is not None:
            left = [left, *call.trace]
        deps = call.deps
        if deps:
            deps = [node.tasks._dep_for(dep) for dep in deps]
        if args is not None and type(args) is not list:
            args, deps = node.outbound.outgoing(peer, None if call.tell else (call.no, peer.life), args, deps)
        target = route.target
        peer.send(
            (
                m.CALL,
                call.no,
                target[0],
                target[1],
                route.incarnation,
                call.method,
                args,
                deps,
                left,
                call.credit,
                call.num_returns,
                call.caller,
                0 if call.tell else call.attempt,
            )
        )
        call.runner = peer
        if route.unconfirmed is not None:
            route.unconfirmed.append(call)
        elif call.tell:
            call.args = None

    # -- answers -------------------------------------------------------------------------------------------------------

    def answered(self, no: int, state: int, out: Any, items: int = 0) -> None:
        """The final answer of a call, from a cell here, a peer, or this part itself.

        `items` is how many a generator had yielded when it failed; one that ended well answers with their count.
        """
        call = self.open.get(no)
        if call is None:
            self.node.windows.answered_late(no)
            return
        if call.stream is not None:
            items = out if state == m.VALUE else items
            if call.items < items:
                call.ending = (state, out, items)
                return
        del self.open[no]
        if call.timer is not None:
            call.timer.cancel()
        call.hold = None
        if call.attempt > 1 and state == m.ERROR:
            out = self._of_all_attempts(out)
        if call.counted:
            route: Any = call.route
            if call.counted == IN_WINDOW:
                window = route if call.lane is None else call.lane
                window.out -= 1
                if call.size:
                    window.lighten(call.size)
                call.counted = 0
                if window.queue:
                    self.node.windows.pump(window)
            else:
                self.node.windows.withdrawn(route, call)
        elif call.tell:
            self.node.windows.tell_started(call)
            return
        ref = call.ref
        if call.stream is not None:
            self.node.streams.pop(no, None)
            stream = call.stream()
            if stream is not None:
                stream._finish(state, out)
            return
        objects = self.node.objects
        if isinstance(ref, tuple):
            for position, one in enumerate(ref):
                objects.settled(one, READY if state == m.PARTS else FAILED, out[position] if state == m.PARTS else out)
        elif ref is not None:
            if ref._grip is None:
                if state == READY:
                    ref._settle(out)
                elif state == FAILED:
                    ref._fail(out)
                else:
                    objects.settled(ref, state, out)
            else:
                objects.settled(ref, state, out)

    def _of_all_attempts(self, out: Any) -> Any:
        """The error of the last attempt may say that it never ran; on an incarnation before it may have."""
        error = self.node.unpack_error(out)
        if isinstance(error, ActorFwError) and error.ran is False:
            error.ran = None
            return self.out(error)
        return out

    def item(self, no: int, index: int, out: Any) -> bool:
        """One item of a generator method. Returns whether it is wanted."""
        call = self.open.get(no)
        if call is None or call.stream is None:
            return False
        wanted = self.node.items.of_call(call, index, out)
        call.items += 1
        if call.ending is not None:
            self.answered(no, *call.ending)
        return wanted

    # -- ending --------------------------------------------------------------------------------------------------------

    def _expire(self, call: ActorCall) -> None:
        call.timer = None
        if call.no not in self.open:
            return
        ran = None if call.sent or call.started else False
        self._withdraw(call)
        error = DeadlineExceededError(f"call {call.method} did not end within its timeout", ran=ran)
        self.answered(call.no, m.ERROR, self.out(error))

    def _withdraw(self, call: ActorCall) -> None:
        call.cancelled = True
        route = call.route
        if route is None:
            return
        if call.counted:
            self.node.windows.withdrawn(route, call)
        if call.sent:
            peer = call.runner  # where it was sent; the route may have ended since, or lead elsewhere
            if peer is not None:
                peer.withdraw(m.CALL, call.no)
                peer.send((m.CANCEL, call.no, False, True))
        elif route.cell is not None and not call.sent:
            route.cell.cancel(call)

    def cancel(self, no: int, mark: int) -> bool:
        """End a call at once here, and at its host without waiting. `mark`: what becomes of its refs."""
        call = self.open.get(no)
        if call is None:
            return False
        ran = None if call.sent or call.started else False
        self._withdraw(call)
        if mark == CANCELLED:
            self.open.pop(no, None)
            if call.timer is not None:
                call.timer.cancel()
            call.hold = None
            refs = call.ref if type(call.ref) is tuple else (call.ref,)
            for ref in refs:
                if ref is not None and ref._state == PENDING:
                    ref._state = CANCELLED
                    if ran is False:
                        ref.never_ran()
                    ref._fire()
        else:
            self.answered(no, m.ERROR, self.out(TaskCancelledError(f"call {call.method} was cancelled", ran=ran)))
        return True

    def fail(self, call: ActorCall, error: ActorFwError) -> None:
        """End a call here with an error, and at its host without waiting."""
        self._withdraw(call)
        self.answered(call.no, m.ERROR, self.out(error))

    def end_route(self, route: Route, error: ActorFwError) -> None:
        """The actor is gone as far as this node is concerned: what waits for it fails, and what comes later."""
        self.end_route_with(route, self.out(error))

    def end_route_with(self, route: Route, out: Any) -> None:
        if route.ended is not None:
            return
        route.ended = out
        route.cell = None
        route.peer = None
        queued = self.take_queue(route)
        for call in queued:
            if not call.cancelled:
                self.answered(call.no, m.ERROR, out)
        self.node.windows.route_ended(route, queued)

    def actor_ended(self, id: RefId, error: ActorDiedError) -> None:
        """A watch has heard the actor's end: what is open to it fails now, and what comes later."""
        for route in self.locating.routes_to(id):
            for call in [call for call in self.open.values() if call.route is route and (call.sent or call.started)]:
                ran = ActorDiedError(str(error), reason=error.reason, ran=None)
                self.answered(call.no, m.ERROR, self.out(ran))
            self.end_route(route, error)

    def let_go(self, id: RefId, then: Callable[[], None]) -> None:
        """The last handle here to a foreign actor is gone. Tells that are on their way to a third node must arrive
        before its guardian hears of it: they hold the actor too."""
        route = self.routes.get(id)
        if route is not None and route.waits():
            if route.then is None:
                route.then = []
            route.then.append(lambda: self.let_go(id, then))
            return
        self.routes.pop(id, None)
        if route is None or route.peer is None or route.peer.life == self.node.heirs.of(id[0]) or not route.tells:
            then()
            return
        reply = self.node.asks.ask(route.peer, "sync", None)
        reply.add_done_callback(lambda _: then())

    def peer_ended(self, life: bytes, name: str, why: str, unsent: Iterable[Any]) -> None:
        """A host is gone, or a guardian with all its actors."""
        heir = self.node.heirs.of
        guarded = [route for route in (*self.routes.values(), *self.aliases) if heir(route.target[0]) == life]
        gone = set(map(id, guarded))
        for call in list(self.open.values()):
            if call.sent and id(call.route) in gone and call.runner is not None and call.runner.life != life:
                text = f"the actor of call {call.method} ended with node {name}, which had made it: {why}"
                self.answered(call.no, m.ERROR, self.out(ActorDiedError(text, reason="owner_died", ran=None)))
        for route in guarded:
            route.lasting = False
        self.locating.host_ended(life, name, why, unsent)
        for route in guarded:
            text = f"actor {text_id(route.target)[-20:]} ended with {name}, which had made it: {why}"
            self.end_route(route, ActorDiedError(text, reason="owner_died", ran=False))

    def close(self, error: NodeClosedError) -> None:
        out = self.out(error)
        never = self.out(NodeClosedError(str(error), ran=False))
        for no, call in list(self.open.items()):
            self.answered(no, m.ERROR, out if call.sent or call.started else never)
        self.node.windows.close()
        self.routes.clear()

    def out(self, error: BaseException) -> Any:
        return pack_error(self.node.codec, error, where=self.node.name, infrastructure=True)
