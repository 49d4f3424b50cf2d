"""The calling side of actors: from `handle.method(...)` to a settled ref, wherever the actor is.

A `Route` says where the calls of this node to one actor go: to a cell of this node, to a peer, or nowhere yet. Calls
of one caller leave in the order in which they were made; while the way is not known they queue here. A call is
answered once: by its host, or by this node when the host is gone, the deadline has passed, or someone cancelled it.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import events
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.context import milliseconds
from actorfw.runtime.refs import CANCELLED, FAILED, PENDING, READY, Reply
from actorfw.runtime.routes import ACKNOWLEDGE, ActorCall, Route
from actorfw.values.errors import (
    ActorDiedError,
    ActorFwError,
    DeadlineExceededError,
    MailboxFullError,
    PeerUnreachableError,
    TaskCancelledError,
)
from actorfw.values.ids import RefId, text_id
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error
from actorfw.wire.payload import size_of

if TYPE_CHECKING:
    from actorfw.runtime.cells import Cell
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Calls"]

TELL_WINDOW: Final = 256  # tells to one actor that have not started
TELL_MARK: Final = 64  # of so many, one is acknowledged
_CALL_BYTES: Final = 200  # about what a waiting call takes without its arguments
_LOOK_AGAIN: Final = 0.05  # seconds; links that get room do not say so


class Calls:
    """The calls that this node's code, and its workers', have open."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.open: dict[int, ActorCall] = {}
        self.routes: dict[RefId, Route] = {}
        self._queued_bytes = 0  # of calls whose way is not known yet
        self._turn_bytes = 0  # of calls made in this turn of the loop, about
        self._turn_noted = False
        self._closed = threading.Event()

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
        elif route.queue:
            self._queue(route, call)
        elif route.cell is not None:
            route.cell.accept(call)
        elif route.peer is not None:
            self._send(call, route, route.peer)
        else:
            self._queue(route, call)
            self._locate(route, address)

    def tell(self, call: ActorCall, id: RefId, address: str) -> Reply[None]:
        """Send a tell; the reply is done when this node's window to the actor has room."""
        node = self.node
        call.tell = True
        route = self.route(id)
        reply: Reply[None] = Reply(node)
        route.tells += 1
        if route.tells % TELL_MARK == 0:
            call.credit = ACKNOWLEDGE
            call.no = node.next_number()
            self.open[call.no] = call
        self.start(call, id, address)
        self._wait_for_window(route, reply)
        return reply

    def admit(self, handle_name: str, size: int) -> None:
        """Refuse a call when what this node could not send yet fills its outbox; in a thread, wait instead.

        Raises:
            MailboxFullError: see `Config.max_outbox`.
        """
        node = self.node
        if self._full(size):
            self._refuse_or_wait(handle_name, size)
        self._turn_bytes += size + _CALL_BYTES
        if not self._turn_noted:
            self._turn_noted = True
            node.post(self._turn_over)

    def _turn_over(self) -> None:
        # Whatever could be sent at once has been; the rest is in the backlog of its peer.
        self._turn_noted = False
        self._turn_bytes = 0

    def _refuse_or_wait(self, handle_name: str, size: int) -> None:
        node = self.node
        if node.at_home() or events._get_running_loop() is not None:
            raise MailboxFullError(
                f"a call to {handle_name} was not queued: {self._waiting_bytes() >> 20} MiB wait on node {node.name} "
                f"to be sent, and max_outbox is {node.config.max_outbox >> 20} MiB: await results, or what tell() "
                f"returns, before sending more"
            )
        while self._full(size) and not self._closed.is_set():
            self._closed.wait(_LOOK_AGAIN)

    async def has_room(self) -> None:
        """Wait until this node has room for more calls."""
        while self._full(0) and not self._closed.is_set():  # noqa: ASYNC110  (links that get room do not say so)
            await asyncio.sleep(_LOOK_AGAIN)

    def window(self, id: RefId) -> Reply[None]:
        """Done when there is room for more tells to an actor."""
        reply: Reply[None] = Reply(self.node)
        self._wait_for_window(self.route(id), reply)
        return reply

    def _wait_for_window(self, route: Route, reply: Reply[None]) -> None:
        if route.ended is None and 2 * self._waiting_bytes() > self.node.config.max_outbox:
            # Few large tells fill the outbox long before they fill the window, and who awaits each must not hit its
            # end.
            if self._closed.is_set():
                reply._fail(self.node.closed_error())
            else:
                self.node.env.call_later(_LOOK_AGAIN, self._wait_for_window, route, reply)
            return
        if route.ended is not None or route.tells - route.acked < TELL_WINDOW:
            reply._settle(None)
        else:
            if route.waiting is None:
                route.waiting = deque()
            route.waiting.append(reply)

    def _waiting_bytes(self) -> int:
        return self.node.outbound.outbox_bytes() + self._queued_bytes + self._turn_bytes

    def _full(self, size: int) -> bool:
        waiting = self._waiting_bytes()
        return waiting > 0 and waiting + size > self.node.config.max_outbox

    def _queue(self, route: Route, call: ActorCall) -> None:
        """The way is not known yet."""
        if route.queue is None:
            route.queue = deque()
        route.queue.append(call)
        size = _CALL_BYTES if type(call.args) is list else _CALL_BYTES + size_of(call.args)
        route.queued_bytes += size
        self._queued_bytes += size

    def take_queue(self, route: Route) -> Iterable[ActorCall]:
        """What waited for a way, in order; it does not any more."""
        self._queued_bytes -= route.queued_bytes
        route.queued_bytes = 0
        queue, route.queue = route.queue, None
        return queue or ()

    def _send(self, call: ActorCall, route: Route, peer: Peer) -> None:
        node = self.node
        call.sent = True
        call.peer = None
        args = call.args
        left = None if call.deadline is None else milliseconds(call.deadline - node.env.time())
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
                call.tell,
            )
        )
        call.runner = peer
        if route.unconfirmed is not None:
            route.unconfirmed.append(call)
        elif call.tell:
            call.args = None

    # -- finding the actor ---------------------------------------------------------------------------------------------

    def _locate(self, route: Route, address: str) -> None:
        if route.asking:
            return
        route.asking = True
        guardian = route.id[0]
        if guardian == self.node.life:
            self.node.guardians.connect_new(route.id[1])
            return
        peer = self.node.peers.by_life.get(guardian)
        if peer is not None:
            peer.send((m.LOCATE, route.id[0], route.id[1]))
        else:
            self.node.reach(guardian, address, lambda found: self._guardian_reached(route, found))

    def _guardian_reached(self, route: Route, found: Peer | PeerUnreachableError) -> None:
        if isinstance(found, PeerUnreachableError):
            text = f"the node that made the actor is gone: {found}"
            self.end_route(route, ActorDiedError(text, reason="owner_died", ran=False))
        else:
            found.send((m.LOCATE, route.id[0], route.id[1]))

    def on_located(self, peer: Peer, msg: list[Any]) -> None:
        """The guardian says where an actor is, or how it ended."""
        _, life, number, target_life, target_number, incarnation, host, address, out = msg
        route = self.routes.get((life, number))
        if out is not None:
            given = self.node.objects.taken(peer, out)
            out = self.node.objects.keep(out)
            if route is not None:
                route.asking = False
                self.end_route_with(route, out)
            self.node.objects.settle_taken(given)
            return
        if route is None:
            return
        route.target = (target_life, target_number)
        route.incarnation = incarnation
        if host == self.node.life:
            cell = self.node.hosting.cells.get(route.target)
            if cell is not None:
                self.connect(route, cell=cell)
            else:
                # It ended while the answer was on its way, and the guardian will hear of it.
                self.end_route_with(route, self.node.hosting.end_of(route.target))
            return
        found = self.node.peers.by_life.get(host)
        if found is not None:
            self.connect(route, peer=found)
        else:
            self.node.reach(host, address, lambda found: self._host_reached(route, found))

    def _host_reached(self, route: Route, found: Peer | PeerUnreachableError) -> None:
        if isinstance(found, PeerUnreachableError):
            text = f"the actor's node can't be reached: {found}"
            self.end_route(route, ActorDiedError(text, reason="node_died", ran=False))
        else:
            self.connect(route, peer=found)

    def connect(self, route: Route, *, cell: Cell | None = None, peer: Peer | None = None) -> None:
        """The way is known: send what has queued, in order."""
        route.asking = False
        route.cell = cell
        route.peer = peer
        for call in self.take_queue(route):
            if call.cancelled:
                continue
            if cell is not None:
                cell.accept(call)
            elif peer is not None:
                self._send(call, route, peer)
        self._queue_sent(route)

    def _queue_sent(self, route: Route) -> None:
        then, route.then = route.then, None
        for do in then or ():
            do()

    def disconnect(self, route: Route) -> None:
        """The host had no room for the actor: what was sent there queues again, in front and in order."""
        route.cell = None
        route.peer = None
        route.asking = True
        unconfirmed, route.unconfirmed = route.unconfirmed, None
        if unconfirmed:
            queued = self.take_queue(route)
            for call in (*unconfirmed, *queued):
                call.sent = False
                self._queue(route, call)

    def on_not_here(self, peer: Peer, msg: list[Any]) -> None:
        """The host does not know the actor: it never ran the call. Ask the guardian again, in order."""
        _, no, *_ = msg
        self.node.objects.carry_out(self.node.objects.ownership.call_ended((no, peer.life)))
        call = self.open.get(no)
        if call is None or call.route is None:
            return
        route = call.route
        if call.runner is not peer or not call.sent:
            return  # it is on its way to another host already
        call.sent = False
        if route.peer is peer:
            route.peer = None
        if route.peer is not None:
            self._send(call, route, route.peer)
            return
        self._queue(route, call)
        self._locate(route, "")

    # -- answers -------------------------------------------------------------------------------------------------------

    def answered(self, no: int, state: int, out: Any, items: int = 0) -> None:
        """The final answer of a call, from a cell here, a peer, or this part itself.

        `items` is how many a generator had yielded when it failed; one that ended well answers with their count.
        """
        call = self.open.get(no)
        if call is None:
            return
        if call.stream is not None:
            items = out if state == m.VALUE else items
            if call.items < items:
                call.ending = (state, out, items)
                return
        del self.open[no]
        if call.timer is not None:
            call.timer.cancel()
        route = call.route
        call.hold = None
        if call.tell:
            assert route is not None
            route.acked += TELL_MARK
            waiting = route.waiting
            while waiting and route.tells - route.acked < TELL_WINDOW + len(waiting):
                waiting.popleft()._settle(None)
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
                else:
                    ref._fail(out)
            else:
                objects.settled(ref, state, out)

    def item(self, no: int, index: int, out: Any) -> None:
        """One item of a generator method."""
        call = self.open.get(no)
        if call is not None and call.stream is not None:
            stream = call.stream()
            if stream is not None:
                stream._item(index, out)
            call.items += 1
            if call.ending is not None:
                self.answered(no, *call.ending)

    # -- ending --------------------------------------------------------------------------------------------------------

    def _expire(self, call: ActorCall) -> None:
        call.timer = None
        if call.no not in self.open:
            return
        ran = None if call.sent or call.started else False
        self._withdraw(call)
        error = DeadlineExceededError(f"call {call.method} did not end within its timeout", ran=ran)
        self.answered(call.no, m.ERROR, self._out(error))

    def _withdraw(self, call: ActorCall) -> None:
        call.cancelled = True
        route = call.route
        if route is None:
            return
        if call.sent and route.peer is not None:
            route.peer.send((m.CANCEL, call.no, False, True))
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
                if ref is not None and ref._state == PENDING:  # type: ignore[union-attr]
                    ref._state = CANCELLED  # type: ignore[union-attr]
                    ref._fire()  # type: ignore[union-attr]
        else:
            self.answered(no, m.ERROR, self._out(TaskCancelledError(f"call {call.method} was cancelled", ran=ran)))
        return True

    def end_route(self, route: Route, error: ActorFwError) -> None:
        """The actor is gone as far as this node is concerned: what waits for it fails, and what comes later."""
        self.end_route_with(route, self._out(error))

    def end_route_with(self, route: Route, out: Any) -> None:
        if route.ended is not None:
            return
        route.ended = out
        route.cell = None
        route.peer = None
        for call in self.take_queue(route):
            if not call.cancelled:
                self.answered(call.no, m.ERROR, out)
        for reply in route.waiting or ():
            reply._settle(None)
        route.waiting = None
        self._queue_sent(route)

    def let_go(self, id: RefId, then: Callable[[], None]) -> None:
        """The last handle here to a foreign actor is gone. Tells that are on their way to a third node must arrive
        before its guardian hears of it: they hold the actor too."""
        route = self.routes.get(id)
        if route is not None and route.queue:
            if route.then is None:
                route.then = []
            route.then.append(lambda: self.let_go(id, then))
            return
        self.routes.pop(id, None)
        if route is None or route.peer is None or route.peer.life == id[0] or not route.tells:
            then()
            return
        reply = self.node.asks.ask(route.peer, "sync", None)
        reply.add_done_callback(lambda _: then())

    def peer_ended(self, life: bytes, name: str, why: str, unsent: Iterable[Any]) -> None:
        """A host is gone, or a guardian with all its actors."""
        never_sent = {msg[1] for msg in unsent if msg[0] == m.CALL}
        hosted = [route for route in self.routes.values() if route.peer is not None and route.peer.life == life]
        guarded = [route for route in self.routes.values() if route.id[0] == life]
        gone = set(map(id, hosted)) | set(map(id, guarded))
        for call in list(self.open.values()):
            # Where it was sent counts, not where its route leads now: that may have ended before.
            here = call.sent and call.runner is not None and call.runner.life == life
            if here or (call.sent and id(call.route) in gone):
                ran = False if call.no in never_sent else None
                reason = "node_died" if here else "owner_died"
                error = ActorDiedError(
                    f"the actor of call {call.method} ended with node {name}: {why}", reason=reason, ran=ran
                )
                self.answered(call.no, m.ERROR, self._out(error))
        for route in hosted:
            text = text_id(route.target)[-20:]
            error = ActorDiedError(f"actor {text} ended with its node {name}: {why}", reason="node_died", ran=False)
            self.end_route(route, error)
        for route in guarded:
            text = f"actor {text_id(route.target)[-20:]} ended with {name}, which had made it: {why}"
            error = ActorDiedError(text, reason="owner_died", ran=False)
            self.end_route(route, error)

    def close(self, error: Exception) -> None:
        self._closed.set()
        out = self._out(error)
        for no in list(self.open):
            self.answered(no, m.ERROR, out)
        for route in self.routes.values():
            for reply in route.waiting or ():
                reply._settle(None)
        self.routes.clear()

    def _out(self, error: BaseException) -> Any:
        return pack_error(self.node.codec, error, where=self.node.name, infrastructure=True)
