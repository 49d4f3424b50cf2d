"""The guardian's side of actors: for each actor that this node answers for, where it is, whether it is to live, and how
it ended.

Only the guardian places an actor, starts it again and makes its end final; `kill`, `stop` and the last handle go
through it. The rules are `core.guardian`'s; here its instructions are carried out, and hosts and callers heard.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from actorfw.core.guardian import (
    AT_ONCE,
    ENDED,
    PLACING,
    RESTARTING,
    STARTING,
    UP,
    Adopt,
    Crashed,
    Create,
    Created,
    Dead,
    Due,
    End,
    Ended,
    Event,
    GaveUp,
    Move,
    MoveOff,
    NoRoom,
    Over,
    Place,
    Restarting,
    Stop,
    Up,
    Wait,
)
from actorfw.runtime.guarded import ALIAS, NAMING, Guarded
from actorfw.runtime.heirs import ACTOR
from actorfw.runtime.naming import Naming
from actorfw.runtime.placing import Placing
from actorfw.runtime.refs import Reply
from actorfw.values.errors import ActorDiedError
from actorfw.values.ids import RefId, is_detached, text_id
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from actorfw.runtime.cells import Cell
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.routes import Route

__all__ = ["Guardians"]

logger = logging.getLogger("actorfw.actors")


class Guardians:
    """The actors that this node answers for."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.naming = Naming(self)
        self.actors: dict[RefId, Guarded] = {}
        self.placing = Placing(self)
        # Who wants to know where an actor is, and which incarnation is over for them.
        self._asking: dict[RefId, list[tuple[Peer, int]]] = {}

    # -- the machine ---------------------------------------------------------------------------------------------------

    def enter(self, actor: Guarded, options: Mapping[str, Any]) -> None:
        """A new actor; on the loop."""
        actor.begin(options)
        if self.node.rebirth.lived:
            actor.id = self.node.rebirth.current(actor.id)  # a thread may have made it just before
        self.actors[actor.id] = actor
        name = options.get("name")
        if name is None:
            self.placing.place(actor)
        else:
            self.naming.begin(actor, name)

    def tell(self, actor: Guarded, event: Event, error: Exception | None = None, *, keep_route: bool = False) -> None:
        """Something happened to an actor: do what follows.

        Args:
            actor: which.
            event: what.
            error: what calls get from now on if this is its end.
            keep_route: its host still answers the calls that it has.
        """
        node = self.node
        for todo in actor.machine.handle(event, node.env.time(), node.env.random):
            if isinstance(todo, Place):
                self.placing.place(actor)
            elif isinstance(todo, Create):
                if node.detached.guards(actor.id):
                    node.detached.place(actor, todo.host)
                else:
                    self.create_at(actor, todo.host)
            elif isinstance(todo, Stop):
                self._order(actor, todo.incarnation, todo.how)
            elif isinstance(todo, MoveOff):
                self._order(actor, todo.incarnation, "drain")
            elif isinstance(todo, Wait):
                node.env.call_later(todo.seconds, self._due, actor, actor.machine.incarnation)
            elif isinstance(todo, Up):
                self._is_up(actor)
            elif isinstance(todo, Restarting):
                self._between(actor, todo.incarnation, todo.reason)
            else:
                assert isinstance(todo, Ended)
                self._over(actor, error or self.error(actor, todo.reason), keep_route=keep_route)
        if node.detached.guards(actor.id):
            node.detached.changed(actor)

    def _due(self, actor: Guarded, incarnation: int) -> None:
        if self.actors.get(actor.id) is actor and actor.machine.incarnation == incarnation and not self.node.closing:
            self.tell(actor, Due())

    def error(self, actor: Guarded, how: str) -> ActorDiedError:
        """What calls get after an end for this reason."""
        return ActorDiedError(f"actor {actor.recipe.name} has ended: {how}", reason=how, ran=False)

    # -- at a host -----------------------------------------------------------------------------------------------------

    def create_at(self, actor: Guarded, host: bytes) -> None:
        """Have the host that was chosen make it."""
        node = self.node
        id = actor.id
        incarnation = actor.machine.incarnation
        lasting = actor.machine.lasting
        name = node.directory.name_to_hold(actor)
        if host == node.life:
            actor.host = None
            node.hosting.create(
                id,
                incarnation,
                actor.hashed,
                actor.recipe,
                actor.args,
                [node.objects.adopt(*dep) for dep in actor.deps] if actor.deps else None,
                actor.interface,
                lambda state, out: self._created(actor, node.life, incarnation, state, out),
                node.life,
                lasting,
                name,
            )
            self._connect(actor)
            return
        peer = node.members.peer(host)
        assert peer is not None
        actor.host = peer
        node.outbound.ship(peer, actor.hashed, actor.recipe.code)
        deps = [node.tasks._dep_for(dep) for dep in actor.deps] if actor.deps else None
        args, deps = node.outbound.outgoing(peer, ("create", *id, incarnation), actor.args, deps)
        peer.send((m.CREATE, *id, incarnation, actor.hashed, args, deps, actor.interface.to_wire(), lasting, name))
        self.placing.trying(actor)
        self._connect(actor)

    def on_created(self, peer: Peer, msg: list[Any]) -> None:
        """A host answers a creation."""
        _, life, number, incarnation, state, out, kept = msg
        id = (life, number)
        objects = self.node.objects
        given = objects.taken(peer, out)
        out = objects.keep(out)
        objects.carry_out(objects.ownership.call_ended(("create", *id, incarnation), [tuple(k) for k in kept or ()]))
        actor = self.actors.get(id)
        if actor is not None:
            self._created(actor, peer.life, incarnation, state, out)
        objects.settle_taken(given)

    def _created(self, actor: Guarded, host: bytes, incarnation: int, state: str, out: Any) -> None:
        machine = actor.machine
        if not machine.hosted or machine.host != host or machine.incarnation != incarnation:
            return
        self.placing.tried(actor)
        routes = self._routes(actor)
        if state == "no_room":
            actor.excluded = (actor.excluded or set()) | {host}
            self.placing.left(actor)
            for route in routes:
                self.node.calls.locating.unconnect(route)
            self.tell(actor, NoRoom(host, incarnation))  # where it has not been refused yet; `pump` begins anew
            return
        for route in routes:
            route.unconfirmed = None
        if state == "up":
            self.tell(actor, Created(host, incarnation))
            return
        cause = self.node.unpack_error(out)
        if not (isinstance(cause, ActorDiedError) and cause.reason == "crashed"):
            died = ActorDiedError(
                f"actor {actor.recipe.name} could not be made: {cause!r}", reason="crashed", ran=False
            )
            died.__cause__ = cause
            cause = died
        self.tell(actor, GaveUp("crashed") if state == "hopeless" else Crashed(host, incarnation), cause)

    def _is_up(self, actor: Guarded) -> None:
        if not actor.movable:
            actor.args = actor.deps = None
        actor.excluded = None
        self.placing.found_room()
        self.answer_askers(actor)
        self.node.watching.decided(actor, actor.before)

    def _between(self, actor: Guarded, lost: int, reason: str) -> None:
        """An incarnation is over, and another one follows."""
        node = self.node
        logger.info("actor %s is started again: incarnation %d ended (%s)", actor.recipe.name, lost, reason)
        if reason == "drain":
            host = actor.host.life if actor.host is not None else node.life
            actor.excluded = (actor.excluded or set()) | {host}
        self.placing.left(actor)
        actor.host = None
        actor.before = reason
        for route in self._routes(actor):
            node.calls.locating.leave(route, lost)

    # -- where it is ---------------------------------------------------------------------------------------------------

    def _routes(self, actor: Guarded) -> list[Route]:
        """The routes of this node's own calls to an actor."""
        return self.node.calls.locating.routes_to(actor.id)

    def _connect(self, actor: Guarded) -> None:
        """It has a host: what waits here goes there. Calls follow behind the creation, on the same session."""
        for route in self._routes(actor):
            self.lead(route)
        if actor.asked_end:  # its last handle went while it had no place, and tells waited for it
            how, actor.asked_end = actor.asked_end, ""
            self.end(actor.id, how)

    def lead(self, route: Route) -> None:
        """Connect a route of this node to an own actor, now or when it has a host."""
        node = self.node
        calls = node.calls
        actor = self.actors.get(route.target)
        if actor is None:
            calls.end_route(route, ActorDiedError("the actor has ended", reason="unknown", ran=False))
            return
        machine = actor.machine
        if actor.state == ENDED:
            calls.end_route_with(route, actor.out)
        elif actor.state == ALIAS:
            if actor.out is not None and actor.target is not None:
                route.asking = False
                calls.locating.redirect(route, actor.target, actor.out._address)
        elif machine.hosted and machine.incarnation > route.lost:
            if actor.host is None:
                cell = node.hosting.cells.get(actor.id)
                if cell is not None and cell.incarnation == machine.incarnation:
                    calls.locating.connect(route, machine.incarnation, machine.lasting, cell=cell)
            else:
                if machine.state == STARTING and route.unconfirmed is None:
                    route.unconfirmed = []  # they are kept until it is known that there was room
                calls.locating.connect(route, machine.incarnation, machine.lasting, peer=actor.host)

    def on_locate(self, peer: Peer, msg: list[Any]) -> None:
        """Somebody with a handle asks where the actor is, and which incarnation they know to be over."""
        _, life, number, lost = msg
        id = (life, number)
        actor = self.actors.get(id)
        if actor is None and self.node.leaving.asks_too_late(peer, msg):
            return
        if actor is None:
            error = ActorDiedError(f"actor {text_id(id)[-20:]} has ended", reason="unknown", ran=False)
            peer.send((m.LOCATED, *id, *id, 0, False, None, "", self.out(error)))
            return
        self._asking.setdefault(id, []).append((peer, lost))
        self.answer_askers(actor)

    def answer_askers(self, actor: Guarded) -> None:
        """Tell those who can be told now."""
        asking = self._asking.pop(actor.id, None)
        if asking is None:
            return
        left = [(peer, lost) for peer, lost in asking if not peer.ended and not self._answer(actor, peer, lost)]
        if left:
            self._asking[actor.id] = left

    def _answer(self, actor: Guarded, peer: Peer, lost: int) -> bool:
        node = self.node
        id = actor.id
        state = actor.state
        if state == ENDED:
            node.outbound.enclose(peer, actor.out)
            peer.send((m.LOCATED, *id, *id, 0, False, None, "", actor.out))
            return True
        if state == ALIAS:
            if actor.out is None or actor.target is None:
                return False
            # The asker follows the trail itself.
            peer.send((m.LOCATED, *id, *actor.target, 0, False, None, actor.out._address or node.address, None))
            return True
        # While another host is still making it, whoever asks could overtake the creation.
        if actor.incarnation <= lost or not (state == UP or (state == STARTING and actor.host is None)):
            return False
        host = actor.host.life if actor.host is not None else node.life
        address = str(actor.host.info["address"]) if actor.host is not None else node.address
        peer.send((m.LOCATED, *id, *id, actor.incarnation, actor.machine.lasting, host, address, None))
        return True

    # -- the end -------------------------------------------------------------------------------------------------------

    def end(self, id: RefId, how: str) -> Reply[None] | None:
        """End an actor: "killed" now, "stopped" and "released" after what it has accepted. The reply says when."""
        actor = self.actors.get(id)
        if actor is None or actor.state == ENDED:
            return None
        reply: Reply[None] = Reply(self.node)
        if actor.state == NAMING or (actor.state == ALIAS and actor.out is None):
            actor.asked_end = how
            actor.waiting = [*(actor.waiting or ()), reply]
            return reply
        if actor.state == ALIAS:
            return None
        hosted = actor.machine.hosted
        if not hosted and how == "released" and any(route.waits() for route in self._routes(actor)):
            actor.asked_end = how  # tells wait for it: they hold it until it has them
            return None
        if hosted and how not in AT_ONCE:
            actor.waiting = [*(actor.waiting or ()), reply]
            self.tell(actor, End(how))
            return reply
        self.tell(actor, End(how), self.error(actor, how), keep_route=hosted)
        return None

    def _order(self, actor: Guarded, incarnation: int, how: str) -> None:
        """Have the host end its incarnation. The session carries it over, unless the host dies first."""
        node = self.node
        self.order_at(actor.id, actor.host.life if actor.host is not None else node.life, incarnation, how)

    def order_at(self, id: RefId, host: bytes, incarnation: int, how: str) -> None:
        """Have a host end an incarnation."""
        node = self.node
        peer = node.members.peer(host)
        if host == node.life:
            node.hosting.end(id, incarnation, how, node.life)
        elif peer is not None:
            peer.send((m.END, *id, how, incarnation))

    def released(self, id: RefId) -> None:
        """Ownership says that nobody holds this own id any more; it may be an actor's."""
        actor = self.actors.get(id)
        if actor is None:
            return
        if actor.state == ENDED or actor.state == ALIAS:
            self.forget(actor)
        else:
            self.end(id, "released")
            if actor.state == ENDED:
                self.forget(actor)

    def forget(self, actor: Guarded) -> None:
        self.actors.pop(actor.id, None)
        self.node.calls.routes.pop(actor.id, None)

    def host_ended(self, cell: Cell, reason: str, out: Any) -> None:
        """An incarnation ended on this node: tell its guardian, which may be this node too."""
        node = self.node
        if cell.follows and node.closing:
            return  # the end of this node tells its guardian, and that is no drain
        if cell.guardian == node.life or node.detached.guards(cell.id):
            self.host_says(cell.id, node.life, cell.incarnation, reason, out)
        elif is_detached(cell.guardian):
            node.detached.host_ended(cell, reason, out)
        else:
            peer = node.peers.by_life.get(cell.guardian)
            if peer is not None:
                node.outbound.enclose(peer, out)
                peer.send((m.ENDED, *cell.id, cell.incarnation, reason, out))

    def on_ended(self, peer: Peer, msg: list[Any]) -> None:
        _, life, number, incarnation, reason, out = msg
        objects = self.node.objects
        given = objects.taken(peer, out)
        self.host_says((life, number), peer.life, incarnation, reason, objects.keep(out))
        objects.settle_taken(given)

    def host_says(self, id: RefId, host: bytes, incarnation: int, reason: str, out: Any) -> None:
        """An incarnation ended at its host."""
        actor = self.actors.get(id)
        if actor is None:
            self.node.leaving.ended_there(host, id, incarnation, reason, out)
            return
        error = None if out is None else self.node.unpack_error(out)
        if reason == "crashed":
            self.tell(actor, Crashed(host, incarnation), error)
        else:
            self.tell(actor, Over(host, incarnation, reason), error)

    def _over(self, actor: Guarded, error: Exception, *, keep_route: bool) -> None:
        """It has ended for good."""
        node = self.node
        self.placing.left(actor)
        actor.naming = False  # whatever the directory still answers
        actor.out = self.out(error)
        actor.args = actor.deps = None
        for route in () if keep_route else self._routes(actor):
            node.calls.end_route_with(route, actor.out)
        detached = is_detached(actor.id[0])
        if actor.name is not None and not detached:
            node.directory.remove(actor.name, actor.id, 1)
            self.naming.nameless(actor)
        self.answer_askers(actor)
        node.watching.decided(actor)
        waiting, actor.waiting = actor.waiting, None
        for reply in waiting or ():
            reply._settle(None)
        if not detached and not node.objects.ownership.live(actor.id):
            self.forget(actor)

    def peer_ended(self, life: bytes, name: str, why: str) -> None:
        """A host is gone."""
        for actor in list(self.actors.values()):
            if actor.machine.host == life and actor.machine.hosted:
                text = f"actor {actor.recipe.name} ended with its node {name}: {why}"
                self.tell(actor, Dead(life), ActorDiedError(text, reason="node_died", ran=False))

    def fence(self, why: str) -> None:
        """This node is held for dead: what others know of its actors is over, so those that they know are."""
        node = self.node
        for actor in list(self.actors.values()):
            own = actor.id[0] == node.life and not actor.options.get("detached")
            if own and actor.name is None and actor.id[1] not in node.objects.exported:
                continue
            text = f"actor {text_id(actor.id)[-20:]} was known to others, and {why}"
            cell = node.hosting.cells.get(actor.id) if actor.host is None else None
            self.tell(actor, GaveUp("fenced"), ActorDiedError(text, reason="fenced", ran=False))
            if cell is not None:
                cell.end("fenced")

    # -- other guardians -----------------------------------------------------------------------------------------------

    def move(self, id: RefId) -> None:
        """Its host drains: what may live elsewhere is to go on there. No restart is spent."""
        actor = self.actors.get(id)
        if actor is not None and actor.movable and actor.state in (STARTING, UP):
            self.tell(actor, Move())

    def adopt(self, actor: Guarded, *, seen: tuple[bytes | None, int] | None = None) -> None:
        """Answer for an actor from now on.

        Args:
            actor: the record.
            seen: None if the former guardian handed the record over, so that it is right. Else that one is dead, and
                this is the highest incarnation that a living node says it hosts, and which node that is.
        """
        self.actors[actor.id] = actor
        machine = actor.machine
        if seen is not None:
            self._find_host(actor, seen[0])
            self.tell(actor, Adopt(*seen))
        elif machine.hosted and machine.host is not None and not self.node.detached.may_live(machine.host):
            # The former guardian had not heard of that, or was past doing anything about it.
            text = f"actor {actor.recipe.name} ended with its node"
            self.tell(actor, Dead(machine.host), ActorDiedError(text, reason="node_died", ran=False))
        elif machine.hosted:
            self._find_host(actor, machine.host)
            if machine.state == STARTING and machine.host is not None:
                self.create_at(actor, machine.host)  # the answer may have gone to the former guardian
            for route in self._routes(actor):
                self.lead(route)
            self.answer_askers(actor)
        elif machine.state == RESTARTING:
            self.tell(actor, Due())
        elif machine.state == PLACING:
            self.placing.place(actor)

    def _find_host(self, actor: Guarded, life: bytes | None) -> None:
        actor.counted_at = None
        actor.host = None if life is None or life == self.node.life else self.node.members.peer(life)

    def send_record(self, peer: Peer, actor: Guarded) -> None:
        """Send all that is known of an actor to the node that is to answer for it."""
        node = self.node
        wire = actor.to_wire(node)
        node.outbound.ship(peer, *wire.codes)
        node.outbound.send_value(peer, (m.INHERIT, *actor.id, ACTOR), wire)

    def inherit(self, peer: Peer, id: RefId, record: Any) -> None:
        """Answer for an actor of a node that leaves, by the record that it sent."""
        actor, address = Guarded.from_wire(self.node, id, record)
        if actor.name is not None:
            objects = self.node.objects
            objects.carry_out(objects.ownership.store(("name", id), [id]))
        if actor.naming or actor.target is not None:
            self.actors[id] = actor
            self.naming.inherit(actor, address)
        else:
            self.adopt(actor)

    def hosts(self, life: bytes, id: RefId, incarnation: int) -> bool:
        """Whether this node answers for an actor of which a host has this incarnation, and has it there."""
        actor = self.actors.get(id)
        if actor is None:
            return self.node.leaving.now_guards(id) is not None
        machine = actor.machine
        return machine.hosted and (machine.host, machine.incarnation) == (life, incarnation)

    def give_up(self, id: RefId) -> Guarded | None:
        """Another node answers for it from now on."""
        actor = self.actors.pop(id, None)
        if actor is not None:
            self.placing.left(actor)
            self.node.watching.given_up(id)
        return actor

    # -- the rest ------------------------------------------------------------------------------------------------------

    def info(self, id: RefId) -> dict[str, Any] | None:
        """What `actorfw.info` tells of an actor that is guarded here."""
        actor = self.actors.get(id)
        return None if actor is None else actor.info(self.node, text_id(id))

    def close(self) -> None:
        for actor in list(self.actors.values()):
            for reply in actor.waiting or ():
                reply._settle(None)
        self.actors.clear()

    def out(self, error: Exception) -> Any:
        return pack_error(self.node.codec, error, where=self.node.name, infrastructure=True)
