"""Names of actors: drives the machine of `core.names` with this node's messages, views and clock."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.entries import Entry, Key, Record, key_of, specs_in
from actorfw.core.names import TICK, Names
from actorfw.runtime.quorum import TTL, Quorum
from actorfw.runtime.refs import Reply
from actorfw.values.errors import NodeClosedError, NoQuorumError, PeerLostError
from actorfw.values.events import NameConflict
from actorfw.values.ids import RefId, is_detached, text_id
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.runtime.guarded import Guarded
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Directory"]

logger = logging.getLogger("actorfw.actors")

HEARSAY_SECONDS: Final = 5.0  # in which a member of which another told is one here too, or has left meanwhile

_NO_QUORUM: Final = (
    'names are decided by a majority of the voters (Config.partition="majority"), and this node reaches no majority:'
    " it is cut off from them, or they are down. Nothing was decided; try again when they are back"
)


def _not_sent(instruction: Any) -> bool:
    return bool(instruction[0] != "send")


class Directory:
    """The name directory as seen from one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.quorum: Quorum | None = None
        self.names = self._machine()
        self._requests = itertools.count(1)
        self._waiting: dict[int, Callable[[bool, Any], None]] = {}
        self._parked: dict[bytes, tuple[float, list[Any]]] = {}  # for lives that are no members (yet): since when
        self._timer: Any = None
        self._drained: asyncio.Event | None = None  # set while and when this node leaves
        self._closed = False

    def _machine(self) -> Names:
        node = self.node
        if node.config.partition == "ap":
            return Names(node.life, node.env.time())
        self.quorum = Quorum(node, self)
        names = Names(node.life, node.env.time(), ttl=TTL)
        names.may_serve = self.quorum.may_serve
        return names

    def start(self, founder: bool) -> None:
        """Begin; the founder of a cluster keeps all names until others are there."""
        if founder:
            self._do(self.names.founder())
        if self._timer is not None:
            self._timer.cancel()
        self._tick()

    def reborn(self, why: str) -> None:
        """This node has a new life, which keeps no shard and has no names; `start` follows."""
        waiting, self._waiting = self._waiting, {}
        self._parked.clear()
        if self._timer is not None:
            self._timer.cancel()
        self.names = self._machine()
        for then in waiting.values():
            then(False, PeerLostError(f"the directory of names did not answer: {why}"))

    def _tick(self) -> None:
        if self._closed:
            return
        now = self.node.env.time()
        self._do(self.names.tick(now))
        for life in [life for life, (since, _) in self._parked.items() if now - since >= HEARSAY_SECONDS]:
            del self._parked[life]
            self._do(self.names.forget(life, now))
        if self.quorum is not None:
            self.quorum.tick()
        self._timer = self.node.env.call_later(TICK, self._tick)

    def view(self, lives: list[bytes]) -> None:
        """The members that are up have changed."""
        if self.node.rebirth.under_way:
            return  # they are all gone for the life that ends, but it is not to take over what they kept
        self._do(self.names.view(sorted(lives), self.node.env.time()))
        if self.quorum is not None:
            self.quorum.tick()

    def leased(self, shard: int) -> None:
        """The voters have granted a shard that this node keeps."""
        self._do(self.names.leased(shard, self.node.env.time()))

    def outdated(self, shard: int, version: int) -> None:
        """The voters know of a later keeper of a shard."""
        self._do(self.names.outdated(shard, version, self.node.env.time()))

    def on_votes(self, peer: Peer, msg: list[Any]) -> None:
        """What keepers and voters say to each other, where names are decided by voters."""
        if self.quorum is not None:
            self.quorum.on_votes(peer, msg)

    def peer_up(self, peer: Peer) -> None:
        for message in self._parked.pop(peer.life, (0.0, ()))[1]:
            self._send(peer, message)

    def is_dead(self, life: bytes) -> bool:
        """Whether a life is known to be over."""
        return self.names.is_dead(life)

    def _send(self, peer: Peer, message: Any) -> None:
        if peer.ended:
            return
        specs = specs_in(message)
        if specs:
            self.node.detached.specs.ship(peer, specs)
        peer.send((m.NAMES, message))

    def granted(self, ids: list[RefId]) -> list[list[Any]]:
        """The names of these actors of this node: namespace, name and entry, as they travel to an heir."""
        wanted = frozenset(ids)
        found = self.names.granted.items()
        return [[*key, tuple(entry)] for key, entry in found if (entry.life, entry.number) in wanted]

    def inherit(self, namespace: str, name: str, entry: list[Any]) -> None:
        """This node answers now for an actor that has this name."""
        mine = Entry(*entry)._replace(guardian=self.node.life, address=self.node.address)
        self.names.adopt(namespace, name, mine)

    def moved(self, life: bytes, heir: bytes, address: str) -> None:
        """Names whose actors `life` guarded belong to actors of its heir."""
        self._do(self.names.moved(life, heir, address, self.node.env.time()))

    def peer_ended(self, life: bytes) -> None:
        if self.node.rebirth.under_way or self._closed:
            return
        self._parked.pop(life, None)
        self._do(self.names.dead(life, self.node.env.time()))

    def on_names(self, peer: Peer, msg: list[Any]) -> None:
        self.node.detached.specs.mentioned(specs_in(msg[1]))
        self._do(self.names.message(peer.life, msg[1], self.node.env.time()))

    def _do(self, instructions: list[Any]) -> None:
        if self._drained is not None and self.names.drained:
            self._drained.set()
        # What is sent leaves first: whoever is told may make the machine send more, which must not overtake it.
        for instruction in sorted(instructions, key=_not_sent):
            try:
                self._carry_out(instruction)
            except Exception:  # the rest is about other names
                logger.exception("%s failed", instruction[0])

    def _carry_out(self, instruction: Any) -> None:
        if instruction[0] == "send":
            peer = self.node.members.peer(instruction[1])
            if peer is not None:
                self._send(peer, instruction[2])
            else:
                parked = self._parked.setdefault(instruction[1], (self.node.env.time(), []))
                parked[1].append(instruction[2])
        elif instruction[0] == "answer":
            then = self._waiting.pop(instruction[1], None)
            if then is not None:
                refused = not instruction[2] and instruction[3][0] == "no_quorum"
                then(instruction[2], NoQuorumError(_NO_QUORUM) if refused else instruction[3])
        else:
            self._tell_guardian(*instruction)

    def _tell_guardian(self, what: str, *about: Any) -> None:
        node = self.node
        if what == "guard":
            node.detached.guard(*about)
        elif what == "give_up":
            node.detached.give_up(*about)
        elif what == "asked":
            node.detached.asked(*about)
        elif what == "safe":
            node.detached.safe(*about)
        else:
            namespace, name, lost, kept = about
            logger.warning("two actors had the name %r in namespace %r: %s stays", name, namespace, text_id(kept.id))
            node.events.publish(NameConflict(name, namespace, text_id(kept.id), text_id(lost.id)))
            if lost.record is not None:
                node.detached.conflict(lost)
            elif lost.id in node.guardians.actors:
                node.guardians.end(lost.id, "name_conflict")

    def record(self, key: Key, id: RefId, incarnation: int, record: Record, ticket: object) -> None:
        """What the next guardian of a detached actor must know; `Detached.safe(ticket)` hears when that will do."""
        self._do(self.names.record(key, id, incarnation, record, ticket, self.node.env.time()))

    def answered(self, ticket: Any, ok: bool, payload: Any) -> None:
        """The guardian here answers what it was asked."""
        self._do(self.names.answered(ticket, ok, payload, self.node.env.time()))

    # -- requests ------------------------------------------------------------------------------------------------------

    def request(
        self, op: Any, namespace: str | None, name: str, payload: Any, then: Callable[[bool, Any], None]
    ) -> None:
        """Begin a request of `core.names`: `then(ok, payload)`, or `then(False, error)`."""
        if self._closed:
            then(False, NodeClosedError("this node is closing"))
            return
        number = next(self._requests)
        self._waiting[number] = then
        self._do(self.names.request(number, op, namespace, name, payload, self.node.env.time()))

    def name_to_hold(self, actor: Guarded) -> Key | None:
        """The name that an actor's host must hold to begin its calls; the host is about to be told to make it."""
        if self.quorum is None:
            return None
        if is_detached(actor.id[0]):
            return actor.name or key_of(actor.id[0])
        if actor.name is not None:
            self.names.restarted(*actor.name, actor.id, actor.machine.incarnation)
        return actor.name

    def create(
        self, key: tuple[str, str], id: RefId, if_exists: bool, then: Callable[[bool, Entry | Exception], None]
    ) -> None:
        """Give an own actor a name. `then(True, entry)`: it has it; `then(False, entry)`: that one has it already."""
        entry = Entry(*id, 1, self.node.life, self.node.address, self.node.env.wall_time())

        def answered(ok: bool, payload: Any) -> None:
            if ok:
                found, new = payload
                then(new, found)
            elif isinstance(payload, Exception):
                then(False, payload)
            else:
                then(False, payload[1])

        self.request("create", key[0], key[1], (entry, if_exists), answered)

    def remove(self, key: tuple[str, str], id: RefId, incarnation: int) -> None:
        """An own actor has ended: its name is free."""
        if not self._closed:
            self.request("remove", key[0], key[1], (id[0], id[1], incarnation), lambda ok, payload: None)

    def lookup(self, namespace: str, name: str) -> Reply[Entry | None]:
        """Who has this name."""
        reply: Reply[Entry | None] = Reply(self.node)
        self.request("lookup", namespace, name, None, lambda ok, payload: _tell(reply, ok, payload))
        return reply

    def listing(self, namespace: str | None) -> Reply[list[tuple[str, str, Entry]]]:
        """All names of a namespace, or of all."""
        reply: Reply[list[tuple[str, str, Entry]]] = Reply(self.node)
        self.request("list", namespace, "", None, lambda ok, payload: _tell(reply, ok, payload))
        return reply

    async def leave(self, patience: float) -> None:
        """Hand over the names that this node keeps for others, before it says goodbye."""
        drained = self._drained = asyncio.Event()
        self._do(self.names.leave(self.node.env.time()))
        try:
            async with asyncio.timeout(patience):
                await drained.wait()
        except TimeoutError:
            pass  # whoever is left recovers the rest

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, {}
        for then in waiting.values():
            then(False, NodeClosedError("this node is closing"))


def _tell(reply: Reply[Any], ok: bool, payload: Any) -> None:
    if isinstance(payload, Exception):
        reply._fail(payload)
    else:
        reply._settle(payload if ok else None)
