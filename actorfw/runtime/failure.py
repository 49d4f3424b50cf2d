"""Who lives: drives the machine of `core.membership` with this node's links, clock and loop.

Responsible for: its timer, its messages, asking kernels, dialling for it, measuring how late this node's own loop is,
and carrying its verdicts to all parts of the node. Whom to suspect, and when that is a verdict, is decided there; how
the view is used for placing work is `runtime.members`' affair.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.instructions import (
    AskKernel,
    Dead,
    Dial,
    Instruction,
    Left,
    Neighbours,
    Send,
    StateChanged,
    ToldDead,
    Unreachable,
)
from actorfw.core.membership import GOSSIP, Membership
from actorfw.core.records import Phase, Record
from actorfw.core.ring import Recent
from actorfw.runtime.visits import is_visitor
from actorfw.values import events
from actorfw.values.errors import ProtocolError
from actorfw.values.ids import Refutation, node_id_of, short
from actorfw.values.profiles import PROFILES
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.core.session import EvidenceKind
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Failure"]

logger = logging.getLogger("actorfw.members")

HELD_MESSAGES: Final = 4  # for a peer that is being dialled; older ones are not news any more
UNREAD_FRAMES: Final = 1000  # a peer that has not acknowledged so many gets no further news
LAST_WORDS: Final = 2.0  # seconds between the news that a member has left and the end of its session
TIDY_SECONDS: Final = 5.0
PROOF: Final = ("refused", "another_life")  # enough about somebody who is no member

_EVENT_OF: Final[dict[str, type[events.NodeEvent]]] = {
    "stalled": events.NodeStalled,
    "suspect": events.NodeSuspected,
    "leaving": events.NodeLeaving,
}


class Failure:
    """The membership machine of one node, in the real or a simulated world."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.profile = PROFILES[node.config.profile]
        self.machine: Membership
        self._timer: Any = None
        self._due = 0.0
        self._tidy_timer: Any = None
        self._todo: deque[Instruction] = deque()
        self._busy = False
        self._closed = False
        self._heard: dict[bytes, tuple[int, int]] = {}
        self._used: dict[bytes, tuple[int, int]] = {}
        self._recent = Recent()
        self._held: dict[bytes, deque[list[Any]]] = {}
        self._announced: set[bytes] = set()
        self._told: Record | None = None  # what handshakes say of this node

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self, me: Record) -> None:
        """Begin, as a member that nobody knows yet. After a rebirth: again, as another."""
        node = self.node
        self._heard.clear()
        self._held.clear()
        self._announced.clear()
        self._todo.clear()
        self.machine = Membership(me, self.profile, node.config.stall_limit, node.env.random)
        self._do(self.machine.start(self._now()))
        if self._tidy_timer is None:
            self._tidy_timer = node.env.call_later(TIDY_SECONDS, self._tidy)

    def set_phase(self, phase: Phase, heir: bytes = b"") -> None:
        """This node is up, leaves, or has left: the others hear of it."""
        self._do(self.machine.set_phase(phase, heir, self._now()))

    def leave(self) -> None:
        """Tell the others that this node leaves now, and judge nobody any more."""
        if self._timer is None:
            return  # it never began
        self.set_phase(Phase.LEFT, self.me.heir)
        self._closed = True
        for timer in (self._timer, self._tidy_timer):
            if timer is not None:
                timer.cancel()

    @property
    def me(self) -> Record:
        """What this node says of itself."""
        return self.machine.me

    def rows(self) -> list[list[Any]]:
        """The view, as it travels to a newcomer."""
        return [record.to_wire() for record in self.machine.view.values()]

    def learn(self, life: bytes, rows: list[list[Any]]) -> None:
        """What a member told of others, or of itself."""
        self._do(self.machine.message(life, [GOSSIP, rows], self._now()))

    # -- the clock -----------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self.node.env.time()

    def _arm(self) -> None:
        due = max(self._now(), self.machine.next_at())
        if self._timer is not None:
            if self._due <= due:
                return  # it looks again then
            self._timer.cancel()
        self._due = due
        self._timer = self.node.env.call_later(max(0.0, due - self._now()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._now()
        self._look_at_lag(now)
        self._look_at_links(now)
        self._do(self.machine.tick(now))

    def _look_at_lag(self, now: float) -> None:
        """A loop that stood still has heard nobody: what its timers would say now, all at once, is worthless."""
        late = now - self._due
        if late > self.profile.lag_limit:
            self._due = now
            self._do(self.machine.lagged(late, now))

    def _look_at_links(self, now: float) -> None:
        """Who has sent or acknowledged anything since the last look lives, whatever becomes of pings."""
        for life, peer in self.node.peers.by_life.items():
            mark = (peer.session.seen, peer.session.acked)
            if self._heard.get(life) != mark:
                self._heard[life] = mark
                if life in self.machine.view:
                    self._queue(self.machine.evidence(life, "heard", now))
        self._run()

    # -- what comes in -------------------------------------------------------------------------------------------------

    def on_message(self, peer: Peer, msg: list[Any]) -> None:
        """A message of a member's machine."""
        now = self._now()
        if self._timer is not None:
            self._look_at_lag(now)
        self._do(self.machine.message(peer.life, msg[1], now))

    def linked(self, peer: Peer) -> None:
        """A link was made: its other side has said what it is."""
        if is_visitor(peer):
            return
        self.node.hostmates.linked(peer)
        try:
            record = Record.from_wire(peer.info["record"])
            if record.life != peer.life:
                raise ProtocolError(f"it says that it is {short(record.life)}")
        except (KeyError, TypeError, ValueError, ProtocolError) as error:
            logger.error("node %s introduced itself badly: %r", peer.name, error)
            self.node.peers.bury(peer.life, f"its introduction makes no sense: {error!r}")
            return
        now = self._now()
        self._do(self.machine.met(record, now))
        self._do(self.machine.evidence(peer.life, "linked", now))
        for message in self._held.pop(peer.life, ()):
            peer.send((m.MEMBERSHIP, message))

    def rested(self, peer: Peer) -> None:
        """A link that nobody needed was closed by agreement."""
        if peer.life in self.machine.view:
            self._do(self.machine.evidence(peer.life, "goodbye", self._now()))

    def evidence(self, peer: Peer, kind: EvidenceKind, detail: str) -> None:
        """Something speaks for a peer's end."""
        if self._closed:
            return
        if peer.life in self.machine.view:
            now = self._now()
            if kind == "another_life":
                # Whatever link there seems to be, it leads nowhere: who is there has proven it.
                self._do(self.machine.evidence(peer.life, "eof", now))
            self._do(self.machine.evidence(peer.life, kind, now))
        elif kind in PROOF or is_visitor(peer):
            self.node.peers.bury(peer.life, detail)

    def peer_ended(self, peer: Peer, reason: str, detail: str) -> None:
        """A life is over, for all other parts too. If it was not by a verdict, the machine has to hear of it."""
        self._heard.pop(peer.life, None)
        self._used.pop(peer.life, None)
        self._recent.forget(peer.life)
        self._held.pop(peer.life, None)
        record = self.machine.view.get(peer.life)
        if record is not None and reason == "left" and not self._closed:
            # It said so itself, to us at least.
            gone = replace(record, phase=Phase.LEFT, refutation=Refutation(record.refutation + 1))
            self.learn(peer.life, [gone.to_wire()])
        known = record or self.machine.tombstones.get(peer.life, (None,))[0]
        if known is not None:
            self._publish(events.NodeLeft if reason == "left" else events.NodeDied, known, detail)

    # -- what is to be done --------------------------------------------------------------------------------------------

    def _do(self, instructions: list[Instruction]) -> None:
        self._queue(instructions)
        self._run()

    def _queue(self, instructions: list[Instruction]) -> None:
        self._todo.extend(instructions)

    def _run(self) -> None:
        """Carry out what is queued, in order; what follows from it comes behind."""
        if self._busy or self._closed:
            return
        self._busy = True
        try:
            while self._todo:
                instruction = self._todo.popleft()
                try:
                    self._carry_out(instruction)
                except Exception:  # the rest is about others
                    logger.exception("%s failed", type(instruction).__name__)
        finally:
            self._busy = False
        if self._told is not self.machine.me:
            self._told = self.machine.me
            self.node.identity.info["record"] = self._told.to_wire()
        self._arm()

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case Send(life, message):
                self._send(life, message)
            case AskKernel(life, since):
                self._queue(self.machine.kernel(life, self._kernel_of(life, since), self._now()))
            case Dial(life, address):
                self._dial(life, address)
            case StateChanged():
                self._state_changed(instruction)
            case Dead(life, record, verdict):
                self.node.peers.bury(life, verdict.text, record.name)
            case Left(life, record, _heir):
                self._learn_heir(record)
                self._left(life, record)
            case Unreachable(life, detail):
                self._unreachable(life, detail)
            case ToldDead(by, text):
                self.node.rebirth.begin(text, self.node.members.addresses.get(by, ""))
                teller = self.machine.view.get(by)
                self.node.rebirth.begin(text, teller.address if teller is not None else "")
            case Neighbours(added, _removed):
                for life in added:
                    self._dial(life, self.machine.view[life].address if life in self.machine.view else "")

    def _send(self, life: bytes, message: list[Any]) -> None:
        peer = self.node.peers.by_life.get(life)
        if peer is not None and peer.connected:
            # What the link does not take now is no news when it does.
            if not peer.backlog and len(peer.session.unacked) < UNREAD_FRAMES:
                peer.send((m.MEMBERSHIP, message))
            return
        record = self.machine.view.get(life)
        if record is not None:
            self._held.setdefault(life, deque(maxlen=HELD_MESSAGES)).append(message)
            self._link(life, record.address, record.name)

    def _link(self, life: bytes, address: str, name: str) -> Peer:
        """Have a link with a life, or dial until there is one."""
        peers = self.node.peers
        peer = peers.open(life, address, name)
        if not peer.connected:
            peers.needed(peer)
        return peer

    def _dial(self, life: bytes, address: str) -> None:
        record = self.machine.view.get(life)
        if record is None or life == self.node.life:
            return
        peer = self._link(life, address or record.address, record.name)
        if peer.connected:
            # There is one already, of which it is not known whether it carries anything: knock at the door.
            self.node.env.create_task(self._knock(peer, peer.address), f"actorfw knock {peer.name}")
        elif peer.dial_task is None:
            self.node.peers.dials.again(peer, 0.0)

    async def _knock(self, peer: Peer, address: str) -> None:
        link = peer.link
        kind = await self.node.peers.dials.knock(peer.life, address)
        if self._closed or peer.ended is not None or peer.life not in self.machine.view:
            return
        now = self._now()
        if kind == "linked" and link is not None and peer.link is link and link.kernel_answers(now) is False:
            self.node.peers.cut(peer, "its other end does not answer, and the node does")
        self._do(self.machine.evidence(peer.life, kind, now))

    def _kernel_of(self, life: bytes, since: float) -> bool | None:
        peer = self.node.peers.by_life.get(life)
        if peer is None:
            return None
        if peer.link is not None:
            return peer.link.kernel_answers(since)
        # A stopped process accepts connections all the same, or rather its kernel does.
        return True if self.node.peers.dials.accepted(life) else None

    def _unreachable(self, life: bytes, detail: str) -> None:
        """Nobody else says so: it concerns this node only, and the link that does not carry anything."""
        record = self.machine.view.get(life)
        peer = self.node.peers.by_life.get(life)
        if record is not None:
            logger.warning("node %s at %s can't be reached from here: %s", record.name, record.address, detail)
        if peer is not None and peer.link is not None:
            self.node.peers.cut(peer, detail)

    def _left(self, life: bytes, record: Record) -> None:
        """It has left. Its last messages may still be on their way, if its link has not said goodbye yet."""
        peer = self.node.peers.by_life.get(life)
        wait = LAST_WORDS if peer is not None and peer.connected else 0.0
        self.node.env.call_later(wait, self.node.peers.bury, life, "it has left", record.name, "left")

    def _learn_heir(self, record: Record) -> None:
        """It says who answers from now on for what it owned."""
        if record.heir:
            heir = self.machine.view.get(record.heir)
            self.node.heirs.learned([(record.life, record.heir, heir.address if heir is not None else "")])

    def _state_changed(self, change: StateChanged) -> None:
        node = self.node
        life = change.record.life
        self._learn_heir(change.record)
        node.members.changed(change.record, change.state)
        if life == node.life:
            return
        if change.before is None:
            self._publish(events.NodeJoined, change.record)
        kind = _EVENT_OF.get(change.state)
        if change.state == "up":
            kind = events.NodeResumed
            if life not in self._announced:
                self._announced.add(life)
                kind = events.NodeUp
                node.events.member_came(life)
        if kind is not None and change.state != change.before:
            self._publish(kind, change.record, change.detail)

    def _publish(self, kind: type[events.NodeEvent], record: Record, detail: str = "") -> None:
        self.node.events.publish(kind(node_id_of(record.life), record.name, record.address, detail))

    # -- links that nobody needs ---------------------------------------------------------------------------------------

    def _tidy(self) -> None:
        """Of the links to others than neighbours, keep those that were used last."""
        node = self.node
        self._tidy_timer = node.env.call_later(TIDY_SECONDS * node.env.random.uniform(0.8, 1.2), self._tidy)
        recent, peers = self._recent, node.peers.by_life
        for life, peer in peers.items():
            if not peer.connected or life in self.machine.neighbours or is_visitor(peer):
                recent.forget(life)
                continue
            mark = (peer.session.seen, peer.session.next_out)
            if life not in recent or self._used.get(life) != mark:
                self._used[life] = mark
                recent.used(life)
        for life in recent.surplus():
            if life in peers:
                node.peers.rest(peers[life])
