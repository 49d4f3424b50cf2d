"""The guardian's side of actors: for each actor that this node made, where it is, whether it is to live, and how it
ended.

Only the guardian places an actor and makes its end final; `kill`, `stop` and the last handle go through it. In this
simple form an actor has one incarnation: it ends with its host, and with this node.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.placement import Infeasible
from actorfw.core.shards import Entry
from actorfw.runtime.definitions import Interface, Recipe
from actorfw.runtime.refs import Reply
from actorfw.values.errors import ActorDiedError, ActorExistsError, ActorFwError, UnschedulableError
from actorfw.values.ids import RefId, text_id
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from actorfw.runtime.handles import ActorHandle
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Guarded", "Guardians"]

logger = logging.getLogger("actorfw.actors")

OFFERS: Final = 4  # actors of one kind that are offered to hosts at a time when some wait for room

NAMING: Final = "naming"
PLACING: Final = "placing"
STARTING: Final = "starting"
UP: Final = "up"
ENDED: Final = "ended"
ALIAS: Final = "alias"


class Guarded:
    """What its guardian knows of one actor."""

    __slots__ = (
        "args",
        "asked_end",
        "created_at",
        "deps",
        "excluded",
        "hashed",
        "host",
        "incarnation",
        "interface",
        "limited",
        "name",
        "number",
        "options",
        "out",
        "reason",
        "recipe",
        "state",
        "target",
        "told_infeasible",
        "waiting",
    )

    def __init__(self, number: int, hashed: bytes, recipe: Recipe, interface: Interface) -> None:
        self.number = number
        self.hashed = hashed
        self.recipe = recipe
        self.interface = interface
        self.args: Any = None
        self.deps: Any = None
        self.options: Mapping[str, Any] = {}
        self.state = PLACING
        self.host: Peer | None = None  # None: this node, once it is starting
        self.incarnation = 1
        self.reason = ""
        self.out: Any = None  # the error that every later call gets
        self.name: tuple[str, str] | None = None
        self.target: RefId | None = None  # the older actor of this name, with get_if_exists
        self.created_at = 0.0
        self.asked_end = ""
        self.excluded: set[bytes] | None = None
        self.told_infeasible = False
        self.limited = False  # its schedule_timeout runs
        self.waiting: list[Reply[Any]] | None = None  # for its end


class Guardians:
    """The actors that this node made."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.actors: dict[int, Guarded] = {}
        self._unplaced: list[Guarded] = []
        # Creations under way elsewhere, by number: of which kind they are, and how many there are of each.
        self._trying: dict[int, tuple[Any, ...]] = {}
        self._tries: Counter[tuple[Any, ...]] = Counter()
        self._asking: dict[int, list[tuple[Peer, RefId]]] = {}

    # -- creation ------------------------------------------------------------------------------------------------------

    def enter(self, actor: Guarded, options: Mapping[str, Any]) -> None:
        """A new actor; on the loop."""
        node = self.node
        actor.options = options
        actor.created_at = node.env.time()
        self.actors[actor.number] = actor
        name = options.get("name")
        if name is None:
            self.place(actor)
            return
        actor.state = NAMING
        actor.name = (options.get("namespace") or node.namespace, name)
        # A name is a handle: it holds the actor until it is removed.
        node.objects.carry_out(node.objects.ownership.store(("name", actor.number), [(node.life, actor.number)]))
        shared = bool(options.get("get_if_exists"))
        node.directory.create(actor.name, actor.number, shared, lambda ok, answer: self._named(actor, ok, answer))

    def _named(self, actor: Guarded, ok: bool, answer: Any) -> None:
        assert actor.name is not None
        namespace, name = actor.name
        if actor.state == ENDED:
            return
        if ok:
            actor.state = PLACING
            if actor.asked_end == "killed":
                self._end(actor, "killed", self._error(actor, "killed"))
            else:
                self.place(actor)
            return
        if isinstance(answer, Exception):
            self._nameless(actor)
            self._end(actor, "crashed", answer)
        elif actor.options.get("get_if_exists"):
            actor.state = ALIAS
            actor.target = (answer.life, answer.number)
            actor.args = actor.deps = None
            self.node.env.create_task(self._share(actor, answer), "actorfw get_if_exists")
        else:
            self._nameless(actor)
            at = f"{name!r} in namespace {namespace!r}"
            error = ActorExistsError(f"an actor named {at} exists: use get_if_exists=True to share it")
            self._end(actor, "name_conflict", error)

    def _nameless(self, actor: Guarded) -> None:
        """It has no name, or not any more, so that nothing but handles holds it."""
        actor.name = None
        ownership = self.node.objects.ownership
        self.node.objects.carry_out(ownership.unstore(("name", actor.number)))

    def _error(self, actor: Guarded, how: str) -> ActorDiedError:
        return ActorDiedError(f"actor {actor.recipe.name} has ended: {how}", reason=how, ran=False)

    async def _share(self, actor: Guarded, entry: Entry) -> None:
        try:
            handle = await self.node.handle_of(entry)
        except ActorFwError as error:
            actor.state = PLACING
            self._nameless(actor)
            self._end(actor, "unknown", error)
            return
        self._alias(actor, handle)
        self._nameless(actor)
        waiting, actor.waiting = actor.waiting, None
        if actor.asked_end == "killed":
            self.node.ask("kill", handle)
        elif actor.asked_end:
            await self.node.ask("stop", handle, None)
        for reply in waiting or ():
            reply._settle(None)

    def _alias(self, actor: Guarded, handle: ActorHandle) -> None:
        """An older actor has the name: what was sent to the new handle goes there."""
        node = self.node
        id = (node.life, actor.number)
        actor.out = handle  # keeps the older one's listing alive as long as this record
        mine = node.objects._handles.pop(id, None)
        if mine is not None:
            mine._guardian, mine._number, mine._address = handle._guardian, handle._number, handle._address
            mine._grip = handle._grip
        route = node.calls.routes.pop(id, None)
        target = node.calls.route((handle._guardian, handle._number))
        if route is not None:
            for call in node.calls.take_queue(route):
                if not call.cancelled:
                    if call.timer is not None:
                        call.timer.cancel()
                    node.calls.start(call, target.id, handle._address)
            for reply in route.waiting or ():
                reply._settle(None)
        for peer, asked in self._asking.pop(actor.number, ()):
            self._answer_located(peer, asked, actor)

    def place(self, actor: Guarded) -> None:
        """Choose a host and have it made there."""
        node = self.node
        actor.state = PLACING
        scheduling = actor.options.get("scheduling", "default")
        choice = node.members.choose_for_actor(actor.recipe.shape, scheduling, actor.excluded)
        if not isinstance(choice, bytes):
            if isinstance(choice, Infeasible) and not actor.told_infeasible:
                actor.told_infeasible = True
                logger.warning("actor %s waits: %s", actor.recipe.name, choice.text)
            if actor not in self._unplaced:
                self._unplaced.append(actor)
                limit = actor.options.get("schedule_timeout")
                if limit is not None and not actor.limited:
                    actor.limited = True
                    node.env.call_later(limit, self._unschedulable, actor, choice)
            return
        actor.state = STARTING
        id = (node.life, actor.number)
        if choice == node.life:
            actor.host = None
            refs = [node.objects.adopt(*dep) for dep in actor.deps] if actor.deps else None
            node.hosting.create(
                id,
                actor.incarnation,
                actor.hashed,
                actor.recipe,
                actor.args,
                refs,
                actor.interface,
                lambda state, out: self._created(actor, state, out),
            )
            cell = node.hosting.cells.get(id)
            if cell is not None:
                self._connect(actor)
            return
        peer = actor.host = node.peers.by_life[choice]
        node.outbound.ship(peer, actor.hashed, actor.recipe.code)
        key = ("create", actor.number, actor.incarnation)
        deps = [node.tasks._dep_for(dep) for dep in actor.deps] if actor.deps else None
        args, deps = node.outbound.outgoing(peer, key, actor.args, deps)
        peer.send((m.CREATE, actor.number, actor.incarnation, actor.hashed, args, deps, actor.interface.to_wire()))
        self._trying[actor.number] = kind = _kind(actor)
        self._tries[kind] += 1
        # Calls follow behind the creation, on the same session; they are kept until it is known that there was room.
        node.calls.route(id).unconfirmed = []
        self._connect(actor)

    def _tried(self, actor: Guarded) -> None:
        kind = self._trying.pop(actor.number, None)
        if kind is not None:
            self._tries[kind] -= 1

    def _connect(self, actor: Guarded) -> None:
        node = self.node
        id = (node.life, actor.number)
        route = node.calls.routes.get(id)
        if route is not None:
            route.incarnation = actor.incarnation
            if actor.host is None:
                node.calls.connect(route, cell=node.hosting.cells.get(id))
            else:
                node.calls.connect(route, peer=actor.host)
        if actor.asked_end:  # its last handle went while it had no place, and tells waited for it
            self._send_end(actor, actor.asked_end)

    def _send_end(self, actor: Guarded, how: str) -> None:
        id = (self.node.life, actor.number)
        if actor.host is None:
            self.node.hosting.end(id, how)
        else:
            actor.host.send((m.END, *id, how))

    def connect_new(self, number: int) -> None:
        """The first call to an own actor made a route: lead it where the actor is, if it is known."""
        actor = self.actors.get(number)
        route = self.node.calls.routes.get((self.node.life, number))
        if route is None:
            return
        if actor is None:
            error = ActorDiedError("the actor has ended", reason="unknown", ran=False)
            self.node.calls.end_route(route, error)
        elif actor.state == ENDED:
            self.node.calls.end_route_with(route, actor.out)
        elif actor.state in (STARTING, UP):
            self._connect(actor)

    def on_created(self, peer: Peer, msg: list[Any]) -> None:
        """A host answers a creation."""
        _, _, number, incarnation, state, out, kept = msg
        objects = self.node.objects
        given = objects.taken(peer, out)
        out = objects.keep(out)
        objects.carry_out(objects.ownership.call_ended(("create", number, incarnation), [tuple(k) for k in kept or ()]))
        actor = self.actors.get(number)
        if actor is not None and actor.incarnation == incarnation and actor.host is peer:
            self._created(actor, state, out)
        objects.settle_taken(given)

    def _created(self, actor: Guarded, state: str, out: Any) -> None:
        self._tried(actor)
        if actor.state == ENDED:
            return
        route = self.node.calls.routes.get((self.node.life, actor.number))
        if route is not None and state != "no_room":
            route.unconfirmed = None
        if state == "up":
            actor.state = UP
            actor.args = actor.deps = None
            if self._unplaced:
                self.node.env.call_soon(self.pump)
            for peer, asked in self._asking.pop(actor.number, ()):
                self._answer_located(peer, asked, actor)
        elif state == "no_room":
            life = actor.host.life if actor.host is not None else self.node.life
            actor.excluded = (actor.excluded or set()) | {life}
            self.node.members.actor_left(life)
            if self.node.closing:
                return
            if route is not None:
                self.node.calls.disconnect(route)
            self.place(actor)  # where it has not been refused yet; `pump` begins anew
        else:
            cause = self.node.unpack_error(out)
            if isinstance(cause, ActorDiedError) and cause.reason == "crashed":
                self._end(actor, "crashed", cause)
                return
            text = f"actor {actor.recipe.name} could not be made: {cause!r}"
            died = ActorDiedError(text, reason="crashed", ran=False)
            died.__cause__ = cause
            self._end(actor, "crashed", died)

    def _unschedulable(self, actor: Guarded, choice: Any) -> None:
        if actor in self._unplaced:
            self._unplaced.remove(actor)
            why = choice.text if isinstance(choice, Infeasible) else "all nodes that could host it were full"
            text = f"actor {actor.recipe.name} found no place within its schedule_timeout: {why}"
            self._end(actor, "crashed", UnschedulableError(text))

    def pump(self) -> None:
        """Room may have appeared, or a member: try those that have no place, a few of each kind.

        One that finds room brings the next few. All at once would cost a refusal each, whenever one slot gets free.
        """
        for number in self._trying:
            # The room may be where this one was refused before it went to try elsewhere.
            self.actors[number].excluded = None
        if not self._unplaced:
            return
        unplaced, self._unplaced = self._unplaced, []
        offered: Counter[tuple[Any, ...]] = Counter()
        for actor in unplaced:
            if actor.state != PLACING:
                continue
            kind = _kind(actor)
            offered[kind] += 1
            if offered[kind] > OFFERS or self._tries[kind] >= OFFERS:
                self._unplaced.append(actor)
            else:
                actor.excluded = None
                self.place(actor)

    # -- where it is ---------------------------------------------------------------------------------------------------

    def on_locate(self, peer: Peer, msg: list[Any]) -> None:
        """Somebody with a handle asks where the actor is."""
        _, life, number = msg
        actor = self.actors.get(number)
        if life != self.node.life or actor is None:
            error = ActorDiedError(f"actor {text_id((life, number))[-20:]} has ended", reason="unknown", ran=False)
            peer.send((m.LOCATED, life, number, life, number, 0, None, "", self._out(error)))
        elif actor.state in (UP, STARTING, ENDED, ALIAS):
            self._answer_located(peer, (life, number), actor)
        else:
            self._asking.setdefault(number, []).append((peer, (life, number)))

    def _answer_located(self, peer: Peer, asked: RefId, actor: Guarded) -> None:
        node = self.node
        if actor.state == ENDED:
            node.outbound.enclose(peer, actor.out)
            peer.send((m.LOCATED, *asked, *asked, 0, None, "", actor.out))
        elif actor.state == ALIAS and actor.target is not None:
            # The asker follows the trail itself.
            route = node.calls.route(actor.target)
            host = route.peer.life if route.peer is not None else node.life
            address = str(route.peer.info["address"]) if route.peer is not None else node.address
            peer.send((m.LOCATED, *asked, *actor.target, route.incarnation, host, address, None))
        elif actor.state == STARTING and actor.host is not None:
            # The creation may be on its way: whoever asks now could overtake it.
            self._asking.setdefault(actor.number, []).append((peer, asked))
        else:
            host = actor.host.life if actor.host is not None else node.life
            address = str(actor.host.info["address"]) if actor.host is not None else node.address
            peer.send((m.LOCATED, *asked, *asked, actor.incarnation, host, address, None))

    # -- the end -------------------------------------------------------------------------------------------------------

    def end(self, number: int, how: str) -> Reply[None] | None:
        """End an actor: "killed" now, "stopped" and "released" after what it has accepted. The reply says when."""
        actor = self.actors.get(number)
        if actor is None or actor.state == ENDED:
            return None
        reply: Reply[None] = Reply(self.node)
        if actor.state == NAMING or (actor.state == ALIAS and actor.out is None):
            actor.asked_end = how
            actor.waiting = [*(actor.waiting or ()), reply]
            return reply
        if actor.state == ALIAS:
            return None
        if actor.state == PLACING:
            route = self.node.calls.routes.get((self.node.life, number))
            if how == "released" and route is not None and route.queue:
                actor.asked_end = how  # tells wait for it: they hold it until it has them
                return None
            if actor in self._unplaced:
                self._unplaced.remove(actor)
            self._end(actor, how, self._error(actor, how))
            return None
        if how == "killed":
            # Final from now on, whatever its host still says.
            self._end(actor, how, self._error(actor, how), keep_route=True)
            self._send_end(actor, how)
            return None
        actor.waiting = [*(actor.waiting or ()), reply]
        if not actor.asked_end:
            actor.asked_end = how
            self._send_end(actor, how)
        return reply

    def released(self, id: RefId) -> None:
        """Ownership says that nobody holds this own id any more; it may be an actor's."""
        actor = self.actors.get(id[1])
        if actor is None:
            return
        if actor.state == ENDED or actor.state == ALIAS:
            self.forget(actor)
        else:
            self.end(id[1], "released")
            if actor.state == ENDED:
                self.forget(actor)

    def forget(self, actor: Guarded) -> None:
        self.actors.pop(actor.number, None)
        self.node.calls.routes.pop((self.node.life, actor.number), None)

    def host_ended(self, id: RefId, incarnation: int, reason: str, out: Any) -> None:
        """An actor ended on this node: tell its guardian, which may be this node too."""
        if id[0] == self.node.life:
            self._host_says(id[1], incarnation, reason, out)
        else:
            peer = self.node.peers.by_life.get(id[0])
            if peer is not None:
                self.node.outbound.enclose(peer, out)
                peer.send((m.ENDED, id[0], id[1], incarnation, reason, out))

    def on_ended(self, peer: Peer, msg: list[Any]) -> None:
        _, _life, number, incarnation, reason, out = msg
        objects = self.node.objects
        given = objects.taken(peer, out)
        self._host_says(number, incarnation, reason, objects.keep(out))
        objects.settle_taken(given)

    def _host_says(self, number: int, incarnation: int, reason: str, out: Any) -> None:
        actor = self.actors.get(number)
        if actor is None or actor.state == ENDED or actor.incarnation != incarnation:
            return
        reason = actor.asked_end if actor.asked_end and reason not in ("crashed", "exited") else reason
        if out is None:
            self._end(actor, reason, self._error(actor, reason))
        else:
            self._end(actor, reason, self.node.unpack_error(out))

    def _end(self, actor: Guarded, reason: str, error: Exception, *, keep_route: bool = False) -> None:
        node = self.node
        self._tried(actor)
        if actor.state in (STARTING, UP):
            node.members.actor_left(actor.host.life if actor.host is not None else node.life)
        actor.state = ENDED
        actor.reason = reason
        actor.out = self._out(error)
        actor.args = actor.deps = None
        route = node.calls.routes.get((node.life, actor.number))
        if route is not None and not keep_route:
            node.calls.end_route_with(route, actor.out)
        if actor.name is not None:
            node.directory.remove(actor.name, (node.life, actor.number), actor.incarnation)
            self._nameless(actor)
        for peer, asked in self._asking.pop(actor.number, ()):
            self._answer_located(peer, asked, actor)
        waiting, actor.waiting = actor.waiting, None
        for reply in waiting or ():
            reply._settle(None)
        if not node.objects.ownership.live((node.life, actor.number)):
            self.forget(actor)

    def peer_ended(self, life: bytes, name: str, why: str) -> None:
        """A host is gone."""
        for actor in list(self.actors.values()):
            if actor.host is not None and actor.host.life == life and actor.state in (STARTING, UP):
                text = f"actor {actor.recipe.name} ended with its node {name}: {why}"
                self._end(actor, "node_died", ActorDiedError(text, reason="node_died", ran=False))

    def info(self, number: int) -> dict[str, Any] | None:
        """What `actorfw.info` tells of an own actor."""
        actor = self.actors.get(number)
        if actor is None:
            return None
        node = self.node
        return {
            "id": text_id((node.life, number)),
            "name": actor.name[1] if actor.name is not None else None,
            "namespace": actor.name[0] if actor.name is not None else None,
            "class_name": actor.interface.name,
            "state": actor.state if actor.state in (UP, ENDED) else "starting",
            "reason": actor.reason,
            "node_id": node.id if actor.host is None else str(actor.host.info["node_id"]),
            "node": node.name if actor.host is None else str(actor.host.info["name"]),
        }

    def close(self) -> None:
        for actor in list(self.actors.values()):
            for reply in actor.waiting or ():
                reply._settle(None)
        self.actors.clear()

    def _out(self, error: Exception) -> Any:
        return pack_error(self.node.codec, error, where=self.node.name, infrastructure=True)


def _kind(actor: Guarded) -> tuple[Any, ...]:
    """What decides where an actor fits: those of one kind fit alike."""
    return actor.recipe.shape, actor.options.get("scheduling", "default")
