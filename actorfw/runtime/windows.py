"""Back-pressure of actor calls: who may send now, what waits where, and who hears when there is room.

A call that may not go yet waits at its caller, in its route's queue, where it counts into the node's outbox
(`Config.max_outbox`): behind a window to another node that is full, or at the door of an actor of this node. At an
actor's host `core.windows.Mailbox` counts what was accepted; what comes beyond waits at the door, or is refused if the
actor was made with `overflow="error"`. Nothing here is needed for a call that finds room.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from asyncio import events
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.windows import BEGUN, Window
from actorfw.runtime.cells import ENDING, Cell
from actorfw.runtime.refs import CANCELLED, FAILED, PENDING, ObjectRef, Reply
from actorfw.runtime.routes import ACKNOWLEDGE, CALL_BYTES, IN_QUEUE, IN_WINDOW, ActorCall, Lane, Route
from actorfw.values.errors import ActorFwError, MailboxFullError, TaskCancelledError, UsageError
from actorfw.values.ids import RefId
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Windows"]

_LOOK_AGAIN: Final = 0.05  # seconds; links that get room do not say so

logger = logging.getLogger("actorfw.actors")


class Windows:
    """The back-pressure of one node's calls, made here and served here."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._turn_bytes = 0  # of calls made in this turn of the loop, about
        self._turn_noted = False
        self._closed = threading.Event()
        # Cancelled here, and perhaps still in a mailbox there.
        self._withdrawn: dict[int, tuple[Route, Route | Lane, int]] = {}
        self._accepting: dict[int, list[Reply[None]]] = {}  # who wants to hear that a call was accepted
        # At the host.
        self._tellers: dict[Cell, deque[Reply[None]]] = {}
        self._begun: dict[Cell, list[ActorCall]] = {}  # started, perhaps not answered, and their callers not told
        self._at_door: set[ActorCall] = set()
        self._asked: set[tuple[bytes, int]] = set()  # of these, those whose callers wait to hear that they got in
        self._admitting: set[Cell] = set()

    # -- the outbox: what may be made at all ---------------------------------------------------------------------------

    def admit(self, handle_name: str, size: int) -> None:
        """Refuse a call when what this node could not send yet fills its outbox; in a thread, wait instead.

        Raises:
            MailboxFullError: see `Config.max_outbox`.
        """
        if self._full(size):
            self._refuse_or_wait(handle_name, size)
        self._turn_bytes += size + CALL_BYTES
        if not self._turn_noted:
            self._turn_noted = True
            self.node.post(self._turn_over)

    def _turn_over(self) -> None:
        # Whatever could be sent at once has been; the rest is in the backlog of its peer.
        self._turn_noted = False
        self._turn_bytes = 0

    def _refuse_or_wait(self, handle_name: str, size: int) -> None:
        node = self.node
        if node.at_home() or events._get_running_loop() is not None:
            node.tasks.outbox.limit.refused += 1
            raise MailboxFullError(
                f"a call to {handle_name} was not queued: {self._waiting_bytes() >> 20} MiB wait on node {node.name} "
                f"to be sent, and max_outbox is {node.config.max_outbox >> 20} MiB: await results, ref.accepted(), or "
                f"what tell() returns, before sending more"
            )
        while self._full(size) and not self._closed.is_set():
            self._closed.wait(_LOOK_AGAIN)

    async def has_room(self) -> None:
        """Wait until this node has room for more calls."""
        while self._full(0) and not self._closed.is_set():  # noqa: ASYNC110  (links that get room do not say so)
            await asyncio.sleep(_LOOK_AGAIN)

    def _waiting_bytes(self) -> int:
        return self.node.outbound.outbox_bytes() + self.node.calls.queued_bytes + self._turn_bytes

    def _full(self, size: int) -> bool:
        waiting = self._waiting_bytes()
        return waiting > 0 and waiting + size > self.node.config.max_outbox

    # -- the caller's side ---------------------------------------------------------------------------------------------

    def start_in_lane(self, call: ActorCall, route: Route, peer: Peer) -> None:
        """Send a call of a group, or of a method that runs beside others: those have room of their own."""
        lane = call.lane = route.lane(call.group, call.method)
        if lane.queue or lane.out >= lane.limit:
            self.node.calls._queue(lane, call)
        else:
            self.node.calls._send(call, route, peer)

    def pump(self, route: Route | Lane) -> None:
        """Send what waits at the caller, in order, as far as there is room."""
        calls = self.node.calls
        if isinstance(route, Lane):
            self._pump_lane(route)
            return
        if route.mixed and route.cell is None and route.peer is not None:
            self._part(route, route.peer)
            return
        queue = route.queue
        while queue:
            cell, peer = route.cell, route.peer
            if cell is not None:
                if cell.pending >= cell.limit and not self._may_knock(route, cell):
                    return
            elif peer is None or peer.ended or route.out >= route.limit:
                return
            call = queue.popleft()
            if call.cancelled:
                route.dropped -= 1
                continue
            calls.left_queue(route, call)
            if cell is not None:
                if cell.pending < cell.limit or cell.state >= ENDING:
                    cell.accept(call)
                else:
                    self.refuse(cell, call)
            elif peer is not None:
                calls._send(call, route, peer)
            self.gone(call, route)
        if queue is not None and route.queue is queue:
            route.queue = None
            self._nothing_queued(route)

    def _part(self, route: Route, peer: Peer) -> None:
        """There is a way for calls of several groups: those of a group that is full wait apart from the others."""
        calls = self.node.calls
        route.mixed = False
        queue, route.queue = route.queue, None
        sent: list[ActorCall] = []
        for call in queue or ():
            line = route if call.lane is None else call.lane
            if call.cancelled:
                route.dropped -= 1
                continue
            if line.queue or peer.ended or line.out >= line.limit:
                if line.queue is None:
                    line.queue = deque()
                line.queue.append(call)
            else:
                calls.left_queue(route, call)
                calls._send(call, route, peer)
                sent.append(call)
        for call in sent:  # only now, since whoever hears of it may make further calls
            self.gone(call, route)
        if not route.queue:
            self._nothing_queued(route)

    def _pump_lane(self, lane: Lane) -> None:
        calls = self.node.calls
        route, queue = lane.route, lane.queue
        while queue:
            peer = route.peer
            if peer is None or peer.ended or lane.out >= lane.limit:
                return
            call = queue.popleft()
            if call.cancelled:
                lane.dropped -= 1
                continue
            calls.left_queue(route, call)
            calls._send(call, route, peer)
            self.gone(call, route)
        if queue is not None and lane.queue is queue:
            lane.queue = None
            lane.dropped = 0
            if not route.queue:
                self._nothing_queued(route)

    def _may_knock(self, route: Route, cell: Cell) -> bool:
        """No room in the mailbox of an actor here: whether the next call is to be dealt with all the same."""
        if cell.state >= ENDING or cell.recipe.overflow == "error":
            return True
        if not route.knocking:
            route.knocking = True
            cell.wait(route)
        return False

    def gone(self, call: ActorCall, route: Route) -> None:
        """A call that had to wait has been sent, or is in the mailbox of an actor here."""
        if call.tell:
            reply, call.ref = call.ref, None
            if reply is not None:
                self._wait_for_room(route, reply)
        elif call.no in self._accepting:
            self.ask_accepted(call)

    def _nothing_queued(self, route: Route) -> None:
        route.dropped = 0
        waiting, route.waiting = route.waiting, None
        for reply in waiting or ():
            self._wait_for_room(route, reply)
        then, route.then = route.then, None
        for do in then or ():
            do()

    def route_ended(self, route: Route, queued: list[ActorCall]) -> None:
        """The actor is gone: whoever waits to tell it something need not wait."""
        for call in queued:
            if call.tell and call.ref is not None:
                call.ref._settle(None)
                call.ref = None
        self._nothing_queued(route)

    def withdrawn(self, route: Route, call: ActorCall) -> None:
        """A call ends here before it is answered. What was sent keeps its place until the host has let go of it."""
        if call.counted == IN_WINDOW:
            self._withdrawn[call.no] = (route, route if call.lane is None else call.lane, call.size)
        else:
            self.node.calls.left_queue(route, call)
            call.args = None
            call.cancelled = True
            line = route if call.lane is None or route.mixed else call.lane
            line.dropped += 1
            queue = line.queue
            if queue is not None and 2 * line.dropped > len(queue):
                kept = [call for call in queue if not call.cancelled]
                queue.clear()
                queue.extend(kept)
                line.dropped = 0
        call.counted = 0

    def answered_late(self, no: int) -> None:
        """The host has let go of a call that ended here before."""
        found = self._withdrawn.pop(no, None)
        if found is not None:
            _, window, size = found
            window.began(1, size)
            if window.queue:
                self.pump(window)

    def unsent(self, call: ActorCall) -> None:
        """A call was sent where the actor is not: it never ran."""
        route = call.route
        if call.tell:
            if call.no:
                self.node.calls.open.pop(call.no, None)
                call.no = call.credit = 0
        elif call.counted == IN_WINDOW and route is not None:
            call.counted = 0
            (route if call.lane is None else call.lane).began(1, call.size)

    def on_begun(self, peer: Peer, msg: list[Any]) -> None:
        """Calls that are not answered yet have started."""
        windows: dict[Route | Lane, None] = {}
        for no in msg[1]:
            call = self.node.calls.open.get(no)
            if call is None:
                self.answered_late(no)
            elif call.counted == IN_WINDOW and call.route is not None:
                call.counted = 0
                call.started = True
                window = call.route if call.lane is None else call.lane
                window.began(1, call.size)
                windows[window] = None
        for window in windows:
            if window.queue:
                self.pump(window)

    def moved(self, route: Route) -> None:
        """The actor is somewhere else than what was counted so far was sent to."""
        windows = (route, *route.lanes)
        if not any(window.out for window in windows):
            for window in windows:
                window.renew()
            return
        for call in self.node.calls.open.values():
            if call.route is route and call.counted == IN_WINDOW:
                call.counted = 0
        for no in [no for no, (of, *_) in self._withdrawn.items() if of is route]:
            del self._withdrawn[no]
        for window in windows:
            window.renew()

    def peer_ended(self, life: bytes) -> None:
        """A node is gone: nothing that was sent there is waited for any more."""
        for no, (route, *_) in list(self._withdrawn.items()):
            if route.peer is None or route.peer.life == life:
                del self._withdrawn[no]

    # -- tells ---------------------------------------------------------------------------------------------------------

    def tell(self, call: ActorCall, id: RefId, address: str) -> Reply[None]:
        """Send a tell; the reply is done when it has gone and there is room for the next."""
        calls = self.node.calls
        call.tell = True
        reply: Reply[None] = Reply(self.node)
        call.ref = reply
        route = calls.route(id)
        calls.start(call, id, address)
        if call.counted != IN_QUEUE and call.ref is not None:
            call.ref = None
            self._wait_for_room(route, reply)
        return reply

    def tell_leaves(self, route: Route, call: ActorCall) -> None:
        """A tell is about to be sent: some are answered when they start, for all those before them too."""
        route.tells += 1
        covered = (route if call.lane is None else call.lane).tell(call.size)
        if covered is not None:
            node = self.node
            call.credit = ACKNOWLEDGE
            call.no = node.next_number()
            call.covers = covered
            node.calls.open[call.no] = call

    def tell_started(self, call: ActorCall) -> None:
        """A tell that was to be answered has started, and so have those before it."""
        route = call.route
        if route is not None and call.sent and route.window_of is call.runner:
            window = route if call.lane is None else call.lane
            window.began(*call.covers)
            if window.queue:
                self.pump(window)

    def room_at(self, id: RefId) -> Reply[None]:
        """Done when there is room for more tells to an actor."""
        reply: Reply[None] = Reply(self.node)
        route = self.node.calls.route(id)
        if route.queue:
            if route.waiting is None:
                route.waiting = deque()
            route.waiting.append(reply)
        else:
            self._wait_for_room(route, reply)
        return reply

    def _wait_for_room(self, route: Route, reply: Reply[None]) -> None:
        cell = route.cell
        if self._closed.is_set():
            reply._fail(self.node.closed_error())
        elif route.ended is not None:
            reply._settle(None)
        elif 2 * self._waiting_bytes() > self.node.config.max_outbox:
            # Few large tells fill the outbox long before they fill the window, and who awaits each must not hit its
            # end.
            self.node.env.call_later(_LOOK_AGAIN, self._wait_for_room, route, reply)
        elif cell is not None and cell.pending >= Window.CALLS and cell.state < ENDING:
            self._tellers.setdefault(cell, deque()).append(reply)
            cell.heard = True
        else:
            reply._settle(None)

    # -- accepted() ----------------------------------------------------------------------------------------------------

    def accepted(self, ref: ObjectRef[Any], reply: Reply[None]) -> None:
        """Settle a reply when the host has taken the call that makes a ref into its mailbox, or it has ended."""
        if reply._state != PENDING:
            return
        if ref._state == PENDING:
            call = self._call_of(ref)
            if call is None:
                reply._fail(
                    UsageError(
                        f"accepted() of {ref!r}: it is not the result of an actor's call that was made on this node "
                        f"({self.node.name}); await the ref itself"
                    )
                )
                return
            if call.started or (call.counted != IN_QUEUE and call.route is not None and call.route.cell is not None):
                reply._settle(None)
                return
            waiting = self._accepting.setdefault(call.no, [])
            waiting.append(reply)
            if len(waiting) == 1 and call.counted == IN_WINDOW:
                self.ask_accepted(call)
        ref.add_done_callback(lambda done: self._ended(done, reply))

    def _call_of(self, ref: ObjectRef[Any]) -> ActorCall | None:
        if ref._owner != self.node.life:
            return None
        call = self.node.calls.open.get(ref._number)
        if call is None:  # one of several results, of which the first names the call
            for call in self.node.calls.open.values():
                if type(call.ref) is tuple and any(part is ref for part in call.ref):
                    return call
            return None
        return None if call.tell else call

    def ask_accepted(self, call: ActorCall) -> None:
        """Somebody wants to know when a call, which has been sent, is in its mailbox."""
        route = call.route
        if route is not None and call.counted == IN_WINDOW and route.peer is not None:
            route.peer.send((m.ACCEPT, call.no))
        elif route is not None and route.cell is not None:
            self._is_accepted(call.no)

    def _is_accepted(self, no: int) -> None:
        for reply in self._accepting.pop(no, ()):
            reply._settle(None)

    def _ended(self, ref: ObjectRef[Any], reply: Reply[None]) -> None:
        self._accepting.pop(ref._number, None)
        if reply._state != PENDING:
            return
        if ref._state == CANCELLED:
            reply._fail(TaskCancelledError("the call was cancelled before it was accepted"))
            return
        if ref._state == FAILED:
            error = self.node.unpack_error(ref._out)
            if isinstance(error, ActorFwError) and error.ran is False:
                reply._fail(error)
                return
        reply._settle(None)

    def on_accepted(self, peer: Peer, msg: list[Any]) -> None:
        """A host has a call in its mailbox."""
        self._is_accepted(msg[1])

    def on_accept(self, peer: Peer, msg: list[Any]) -> None:
        """A caller wants to hear when its call is in the mailbox."""
        no = msg[1]
        found = self.node.hosting._calls.get((peer.life, no))
        if found is None:
            return  # answered before, which says as much, or sent elsewhere
        if found[1] in self._at_door:
            self._asked.add((peer.life, no))
        else:
            peer.send((m.ACCEPTED, no))

    # -- the host's side -----------------------------------------------------------------------------------------------

    def arrive_full(self, cell: Cell, call: ActorCall) -> None:
        """A call from another node, and perhaps no room for it."""
        if cell.state >= ENDING or cell.pending < cell.limit:
            cell.accept(call)
        elif cell.recipe.overflow == "error":
            self.refuse(cell, call)
        else:
            self._at_door.add(call)
            cell.wait(call)

    def refuse(self, cell: Cell, call: ActorCall) -> None:
        """There is no room, and the actor's maker wants callers to hear so."""
        self.node.limits["pending_calls"].refused += 1
        error = MailboxFullError(
            f"actor {cell.title} did not accept a call of {call.method}: {cell.pending} calls with "
            f"{cell.pending_bytes >> 20} MiB have not started there, max_pending_calls is {cell.most} and overflow is "
            f'"error": call again later, or await results before calling more',
            ran=False,
        )
        if call.tell:
            logger.error("a tell of %s was dropped: %s", call.method, error)
        self.node.hosting.answer(cell, call, m.ERROR, cell.out(error))

    def left(self, cell: Cell, call: ActorCall) -> None:
        """A call starts, or is dropped, after it was taken off `pending`; and it was large, or somebody waits."""
        cell.left(call.size)
        if cell.heard and cell not in self._admitting:
            self._admitting.add(cell)
            try:
                self._admit(cell)
            finally:
                self._admitting.discard(cell)

    def _admit(self, cell: Cell) -> None:
        while (item := cell.admit()) is not None:
            if isinstance(item, Route):
                self._admit_from(item, cell)
            else:
                self._at_door.discard(item)
                cell.accept(item)
                if item.peer is not None and self._asked:
                    key = (item.peer.life, item.no)
                    if key in self._asked:
                        self._asked.discard(key)
                        item.peer.send((m.ACCEPTED, item.no))
        tellers = self._tellers.get(cell)
        if tellers is not None:
            for _ in range(min(len(tellers), Window.CALLS - cell.pending)):
                tellers.popleft()._settle(None)
            if not tellers:
                del self._tellers[cell]
        cell.heard = cell.door is not None or cell in self._tellers

    def _admit_from(self, route: Route, cell: Cell) -> None:
        """A route of this node is first at the door: one call of it goes in."""
        route.knocking = False
        queue = route.queue
        if queue is None or route.cell is not cell:
            self.pump(route)
            return
        while queue:
            call = queue.popleft()
            if call.cancelled:
                route.dropped -= 1
                continue
            self.node.calls.left_queue(route, call)
            cell.accept(call)
            self.gone(call, route)
            break
        if queue:
            if not route.knocking:
                # As many calls go in at a time as another node may have at the door.
                route.knocking = True
                route.turns += 1
                if route.turns % Window.CALLS:
                    cell.wait_first(route)
                else:
                    cell.wait(route)
        elif route.queue is queue:
            route.queue = None
            self._nothing_queued(route)

    def drained(self, cell: Cell) -> list[ActorCall]:
        """A mailbox is emptied, the door with it. What waits at its callers here looks where the actor is then."""
        calls: list[ActorCall] = []
        for item in cell.close_door():
            if isinstance(item, Route):
                item.knocking = False
                self.node.post(self.pump, item)
            else:
                self._at_door.discard(item)
                calls.append(item)
        for reply in self._tellers.pop(cell, ()):
            reply._settle(None)
        cell.heard = False
        return calls

    def cell_ended(self, cell: Cell) -> None:
        """Nothing of an actor here will be told of any more."""
        self._begun.pop(cell, None)

    def began(self, cell: Cell, call: ActorCall) -> None:
        """A call starts that may run for long while others start: its caller hears so if many such are not answered."""
        if call.peer is None or call.tell:
            return
        begun = self._begun.get(cell)
        if begun is None:
            begun = self._begun[cell] = []
        begun.append(call)
        if len(begun) < BEGUN:
            return
        served = self.node.hosting._calls
        running = [call for call in begun if call.peer is not None and (call.peer.life, call.no) in served]
        if 2 * len(running) < BEGUN:
            self._begun[cell] = running
            return
        del self._begun[cell]
        by_peer: dict[Peer, list[int]] = {}
        for call in running:
            if call.peer is not None:
                by_peer.setdefault(call.peer, []).append(call.no)
        for peer, numbers in by_peer.items():
            peer.send((m.BEGUN, numbers))

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The node closes: nobody waits any more."""
        self._closed.set()
        for waiting in self._accepting.values():
            for reply in waiting:
                reply._fail(self.node.closed_error())
        self._accepting.clear()
        for route in self.node.calls.routes.values():
            self.route_ended(route, list(route.queue or ()))
        for tellers in self._tellers.values():
            for reply in tellers:
                reply._settle(None)
        self._tellers.clear()
