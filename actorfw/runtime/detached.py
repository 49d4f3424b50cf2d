"""Detached actors: those whose guardian is not a node but the keeper of their shard of the name directory.

Whoever keeps the shard answers for them here, in `Guardians` like for any other; what has become of one is recorded in
the directory after each step, and a host is told to make an incarnation only when that record will outlive this node.
So the next keeper goes on from there. Requests for the guardian (where is it, end it, ...) travel as requests of the
directory, and so reach whoever is the keeper.

Leaves to others: who keeps a shard and what is safe (`core.names`), the rules of an actor's life (`core.guardian`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgpack

from actorfw.core.entries import ALIASES, HIDDEN, Entry, Key, Record, key_of
from actorfw.core.guardian import ENDED, STARTING, UP, Dead, End, GaveUp, NoRoom
from actorfw.runtime.definitions import Interface
from actorfw.runtime.guarded import ALIAS, Guarded
from actorfw.runtime.handles import ActorHandle, hash_by_name
from actorfw.runtime.refs import FAILED, FreeGrip, Reply
from actorfw.runtime.selfcontained import check_by_value, new_id
from actorfw.runtime.specs import Specs
from actorfw.values.errors import ActorDiedError, ActorExistsError, ActorFwError, NoQuorumError, UsageError
from actorfw.values.ids import RefId, as_bytes, is_detached, owned_ids, text_id
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error
from actorfw.wire.payload import Packed, in_memory

if TYPE_CHECKING:
    from actorfw.runtime.cells import Cell
    from actorfw.runtime.definitions import Definition, Recipe
    from actorfw.runtime.node import Node
    from actorfw.runtime.routes import Route

__all__ = ["SPEC_LIMIT", "Detached"]

logger = logging.getLogger("actorfw.actors")

SPEC_LIMIT: Final = 1 << 20
"""Bytes of a detached actor's arguments and options: three nodes keep them, and each next keeper gets them."""

_LOOK: Final = 5.0  # seconds between two looks of a host whether it is to go on with what it hosts


class _Kept:
    """What is recorded of a detached actor that is guarded here."""

    __slots__ = ("askers", "key", "record", "then")

    def __init__(self, key: Key, record: Record) -> None:
        self.key = key
        self.record = record
        self.then: Callable[[], None] | None = None  # to be done when the next record is safe
        self.askers: list[tuple[Any, int]] = []  # who waits to hear where it is: ticket, the incarnation that is over


class Detached:
    """The detached actors that one node makes, guards, hosts and asks for."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.specs = Specs(node)
        self._kept: dict[RefId, _Kept] = {}
        self._made: dict[RefId, Guarded] = {}  # here, and the keeper has not confirmed them, or has refused them
        self._safe: dict[tuple[RefId, int], Callable[[], None]] = {}
        self._timer: Any = None

    def start(self) -> None:
        """The node is up."""
        self._timer = self.node.env.call_later(_LOOK, self._look)

    def close(self) -> None:
        """The node closes."""
        if self._timer is not None:
            self._timer.cancel()

    def guards(self, id: RefId) -> bool:
        """Whether this node, as a keeper, answers for the actor."""
        return id in self._kept

    # -- creation ------------------------------------------------------------------------------------------------------

    def create(
        self,
        definition: Definition,
        hashed: bytes,
        recipe: Recipe,
        wire: Any,
        given: tuple[tuple[Any, ...], Mapping[str, Any]],
    ) -> ActorHandle:
        """Make one; any thread.

        Raises:
            UsageError: there is a ref among the arguments, or they are too large.
        """
        node = self.node
        assert definition.interface is not None
        interface = node.interfaces.known(definition.interface)
        check_by_value(definition.name, wire, *given)
        options = definition.options
        id, key = new_id(node.env.token(8), options.get("namespace") or node.namespace, options.get("name"))
        actor = Guarded(id, hashed, recipe, interface)
        actor.args = wire
        spec = self._specify(actor, options)
        made = node.interfaces.handle_class(interface)
        handle = made(node, *id, "", interface, FreeGrip(node, id))
        node.objects.intern_handle(handle)
        if options.get("name") is not None:
            hash_by_name(handle, *key)
        if node.at_home():
            self._enter(actor, key, spec)
        else:
            node.post(self._enter, actor, key, spec)
        return handle

    def spawned(self, id: RefId, hashed: bytes, recipe: Recipe, interface: Interface, args: Any, options: Any) -> None:
        """A worker makes one; it has chosen the id."""
        actor = Guarded(id, hashed, recipe, interface)
        actor.args = args
        name = options.get("name")
        key = key_of(id[0]) if name is None else (options.get("namespace") or self.node.namespace, name)
        self._enter(actor, key, self._specify(actor, options))

    def _specify(self, actor: Guarded, options: Mapping[str, Any]) -> bytes:
        """What it is made from, as a blob that goes to every keeper; returns its hash."""
        node = self.node
        actor.begin(options)
        packed = actor.to_wire(node)
        blob: bytes = msgpack.packb(
            [packed.data, [bytes(in_memory(part)) for part in packed.buffers], packed.refs, packed.codes, actor.id[0]]
        )
        if len(blob) > SPEC_LIMIT:
            raise UsageError(
                f"the arguments of the detached actor {actor.recipe.name} take {len(blob)} bytes; {SPEC_LIMIT} is the"
                " limit, since three nodes keep them: let it load what is large itself"
            )
        return self.specs.add(blob, actor.id)

    def _enter(self, actor: Guarded, key: Key, spec: bytes) -> None:
        node = self.node
        id = actor.id
        actor.naming = True
        self._made[id] = node.guardians.actors[id] = actor
        record = Record(1, spec, "placing", b"", "", actor.machine.left, "")
        entry = Entry(*id, 1, id[0], "", node.env.wall_time(), record)
        shared = bool(actor.options.get("get_if_exists"))
        node.directory.request("create", *key, (entry, shared), lambda ok, found: self._created(actor, key, ok, found))

    def _created(self, actor: Guarded, key: Key, ok: bool, found: Any) -> None:
        node = self.node
        guardians = node.guardians
        id = actor.id
        if self._made.get(id) is not actor:
            return
        if ok and found[1]:
            del self._made[id]
            if guardians.actors.get(id) is actor:
                del guardians.actors[id]
                node.watching.given_up(id)  # who watches it asks the keeper now
            self._look_again(id)
            asked = actor.asked_end
            waiting, actor.waiting = actor.waiting or [], None
            if asked:
                self.ask(id, "end", asked).add_done_callback(lambda _: _settle(waiting))
            return
        actor.naming = False
        if ok:
            actor.target = found[0].id
            node.env.create_task(self._share(actor, found[0], key), "actorfw get_if_exists")
        elif isinstance(found, Exception):
            guardians.tell(actor, GaveUp("unknown"), found)
        else:
            namespace, name = key
            text = f"an actor named {name!r} in namespace {namespace!r} exists: use get_if_exists=True to share it"
            guardians.tell(actor, GaveUp("name_conflict"), ActorExistsError(text))

    async def _share(self, actor: Guarded, entry: Entry, key: Key) -> None:
        try:
            handle = await self.node.handle_of(entry)
        except ActorFwError as error:
            actor.target = None
            self.node.guardians.tell(actor, GaveUp("unknown"), error)
            return
        hash_by_name(handle, *key)
        self.node.guardians.naming.share(actor, handle)

    # -- as the keeper -------------------------------------------------------------------------------------------------

    def guard(self, key: Key, entry: Entry) -> None:
        """This node answers for an actor from now on: go on where the last guardian left off.

        Told again when the tables of two keepers became one: then the other may have been the last.
        """
        node = self.node
        guardians = node.guardians
        id, record = entry.id, entry.record
        assert record is not None
        before = self._kept.get(id)
        if before is not None and (before.record == record or ALIAS in (before.record.state, record.state)):
            return
        former = guardians.actors.get(id) if before is not None else None
        if before is not None:
            self.give_up(id)
        if record.state != ALIAS and record.spec not in node.codes:
            logger.warning("detached actor %s is forgotten: what it was made from is lost", text_id(id)[-20:])
            gone = record._replace(revision=record.revision + 1, state=ENDED, reason="unknown")
            node.directory.record(key, id, entry.incarnation, gone, None)
            return
        kept = self._kept[id] = _Kept(key, record)
        if record.state == ALIAS:
            return
        actor = self._build(key, entry, record)
        machine = actor.machine
        if machine.state == ENDED:
            actor.out = guardians.out(guardians.error(actor, record.reason))
            guardians.actors[id] = actor
        else:
            guardians.adopt(actor)
        if before is not None and former is not None:
            kept.askers = before.askers
            self._succeed(former, actor)
        self.changed(actor)

    def may_live(self, life: bytes) -> bool:
        """Whether a life is this node's or a member's."""
        node = self.node
        return life == node.life or (life in node.members.facts and not node.directory.is_dead(life))

    def _build(self, key: Key, entry: Entry, record: Record) -> Guarded:
        node = self.node
        data, buffers, refs, codes, _ = msgpack.unpackb(node.codes.get(record.spec))
        packed = Packed(data, buffers, [(as_bytes(ref[0]), ref[1], ref[2]) for ref in refs], codes)
        actor, _ = Guarded.from_wire(node, entry.id, packed)
        actor.name = None if key[0] in (HIDDEN, ALIASES) else key
        machine = actor.machine
        machine.state, machine.incarnation, machine.left = record.state, entry.incarnation, record.left
        machine.host = record.host or None
        machine.reason = record.reason
        return actor

    def _succeed(self, former: Guarded, actor: Guarded) -> None:
        """What this node held for an actor's state was overtaken: `actor` is the same one, as it is."""
        was, machine = former.machine, actor.machine
        if was.hosted and was.host is not None and not self._is_hosted(actor, was.host, was.incarnation):
            self.node.guardians.order_at(actor.id, was.host, was.incarnation, "fenced")
        waiting, former.waiting = former.waiting or [], None
        if machine.state == ENDED:
            _settle(waiting)
            return
        actor.waiting = [*(actor.waiting or ()), *waiting] or None
        if was.how and not machine.how:
            self.node.guardians.tell(actor, End(was.how))

    def give_up(self, id: RefId) -> None:
        """Another node keeps its shard now, or will."""
        kept = self._kept.pop(id, None)
        if kept is not None and kept.record.state != ALIAS:
            self.node.guardians.give_up(id)
            self.node.env.call_soon(self._look_again, id)

    def reborn(self) -> None:
        """This node is held for dead: others guard by now what it guarded."""
        for id in list(self._kept):
            self.give_up(id)
        self._safe.clear()

    def place(self, actor: Guarded, host: bytes) -> None:
        """A host is chosen: it is told when that is recorded safely, so that no other one is chosen beside it."""
        kept = self._kept[actor.id]
        incarnation = actor.machine.incarnation

        def told() -> None:
            machine = actor.machine
            if self.node.guardians.actors.get(actor.id) is not actor or machine.state != STARTING:
                return
            if (machine.incarnation, machine.host) != (incarnation, host):
                return
            if machine.how:  # whoever wanted its end was faster, and the host knows nothing of it
                self.node.guardians.tell(actor, NoRoom(host, incarnation))
            elif self.may_live(host):
                self.node.guardians.create_at(actor, host)
            else:
                text = f"actor {actor.recipe.name} ended with its node"
                self.node.guardians.tell(actor, Dead(host), ActorDiedError(text, reason="node_died", ran=False))

        kept.then = told

    def changed(self, actor: Guarded) -> None:
        """Something has happened to an actor: record what the next guardian must know."""
        kept = self._kept.get(actor.id)
        if kept is None:
            return
        node = self.node
        machine = actor.machine
        host = machine.host or b""
        address = node.address
        if host != node.life:
            address = node.members.addresses.get(host, "")
        old = kept.record
        record = Record(old.revision, old.spec, machine.state, host, address, machine.left, machine.reason)
        if record != old or kept.then is not None:
            kept.record = record._replace(revision=old.revision + 1)
            ticket = (actor.id, kept.record.revision)
            if kept.then is not None:
                self._safe[ticket] = kept.then
                kept.then = None
            node.directory.record(kept.key, actor.id, machine.incarnation, kept.record, ticket)
        self._answer_askers(actor, kept)

    def safe(self, ticket: Any) -> None:
        """A record will outlive this node."""
        then = self._safe.pop(ticket, None)
        if then is not None and ticket[0] in self._kept:
            then()

    def conflict(self, lost: Entry) -> None:
        """A detached actor lost its name to another one: it ends."""
        record = lost.record
        actor = self.node.guardians.actors.get(lost.id)
        if actor is not None and lost.id in self._kept:
            self.node.guardians.tell(actor, GaveUp("name_conflict"))
        if record is not None and record.host:
            self.node.guardians.order_at(lost.id, record.host, lost.incarnation, "name_conflict")

    # -- what the guardian is asked ------------------------------------------------------------------------------------

    def asked(self, ticket: Any, id: RefId, verb: str, argument: Any) -> None:
        """A request has come; `Directory.answered` is called for it, now or later, and after a hand-over by another."""
        node = self.node
        kept = self._kept.get(id)
        actor = node.guardians.actors.get(id)
        if kept is None:
            return
        if kept.record.state == ALIAS:
            self._say(ticket, "alias", kept.record.host, int(kept.record.reason), kept.record.address)
        elif actor is None:
            return
        elif verb == "locate":
            kept.askers.append((ticket, argument))
            self._answer_askers(actor, kept)
        elif verb == "interface":
            self._say(ticket, "is", actor.interface.to_wire())
        elif verb == "info":
            self._say(ticket, "is", node.guardians.info(id))
        elif verb == "end":
            reply = node.guardians.end(id, argument)
            if reply is None:
                self._say(ticket, "is", None)
            else:
                reply.add_done_callback(lambda _: self._say(ticket, "is", None))
        elif verb == "fate":
            fate = node.watching._fate(id, argument)
            fate.add_done_callback(lambda done: self._say(ticket, *done.result()))
        elif verb == "over":
            host, incarnation, reason, out = argument
            node.guardians.host_says(id, as_bytes(host), incarnation, reason, node.objects.keep(out))
            self._say(ticket, "is", None)
        elif verb == "move":
            node.guardians.move(id)
            self._say(ticket, "is", None)
        else:
            self._say(ticket, "is", self._is_hosted(actor, as_bytes(argument[0]), argument[1]))

    def _say(self, ticket: Any, *answer: Any) -> None:
        self.node.directory.answered(ticket, True, answer)

    def _is_hosted(self, actor: Guarded, host: bytes, incarnation: int) -> bool:
        """Whether this incarnation, which a node says it hosts, is the one that is to be."""
        machine = actor.machine
        if machine.state == ENDED:
            return False
        if incarnation > machine.incarnation:
            # What the former guardian recorded last is lost with all who had it.
            self.node.guardians.adopt(actor, seen=(host, incarnation))
            return True
        return incarnation == machine.incarnation and machine.host == host

    def _answer_askers(self, actor: Guarded, kept: _Kept) -> None:
        if not kept.askers:
            return
        machine = actor.machine
        node = self.node
        askers, kept.askers = kept.askers, []
        for ticket, lost in askers:
            if machine.state == ENDED:
                self._say(ticket, "ended", machine.reason, self._as_bytes(actor))
            elif machine.state == UP and machine.incarnation > lost:
                record = kept.record
                address = node.address if actor.host is None else actor.host.address
                self._say(ticket, "up", machine.incarnation, machine.lasting, record.host, address)
            else:
                kept.askers.append((ticket, lost))

    def _as_bytes(self, actor: Guarded) -> Any:
        """The error of an actor that has ended, as others can read it without more: else its text."""
        out = actor.out
        if type(out) is Packed:
            if not out.codes and not owned_ids(out.refs):
                return out.portable()
            error = self.node.unpack_error(out)
            text = ActorDiedError(str(error), reason=actor.machine.reason, ran=False)
            out = pack_error(self.node.codec, text, where=self.node.name, infrastructure=True)
            return out.portable() if type(out) is Packed else out
        return out

    # -- asking the guardian -------------------------------------------------------------------------------------------

    def ask(self, id: RefId, verb: str, argument: Any) -> Reply[Any]:
        """Ask the guardian of a detached actor, whoever that is; the reply is None if nobody knows the actor.

        Fails with `NoQuorumError`, and otherwise only with this node's end.
        """
        reply: Reply[Any] = Reply(self.node)

        def answered(ok: bool, payload: Any) -> None:
            if isinstance(payload, Exception):
                reply._fail(payload)
            else:
                reply._settle(list(payload) if ok else None)

        self.node.directory.request("guard", "", "", (*id, verb, argument), answered)
        return reply

    async def end(self, id: RefId, how: str) -> None:
        """End an actor; returns when it has ended, or with "killed" when that is decided."""
        guardians = self.node.guardians
        made = self._made.get(id)
        if made is not None:
            reply = guardians.end(id, how)
            if reply is not None:
                await reply
        else:
            await self.ask(id, "end", how)

    async def info(self, id: RefId) -> dict[str, Any] | None:
        """What `actorfw.info` tells of an actor; None if it is forgotten."""
        if id in self._made:
            return self.node.guardians.info(id)
        answer = await self.ask(id, "info", None)
        return None if answer is None or answer[0] != "is" else answer[1]

    def locate(self, route: Route) -> None:
        """Find out where an actor is that this node calls."""
        node = self.node
        id = route.target
        actor = node.guardians.actors.get(id)
        if actor is not None:
            node.guardians.lead(route)
            if id not in self._kept or actor.machine.hosted or actor.state == ENDED:
                return
        reply = self.ask(id, "locate", route.lost)
        reply.add_done_callback(lambda done: self._located(route, id, done))

    def _located(self, route: Route, id: RefId, done: Reply[Any]) -> None:
        calls = self.node.calls
        if not route.asking or route.target != id or route.ended is not None or route.leaving:
            return
        if done._state == FAILED:
            route.asking = False
            out = calls.out(done.exception() or NoQuorumError("nobody can be asked where the actor is"))
            for call in calls.take_queue(route):
                calls.answered(call.no, m.ERROR, out)
            return
        answer = done.result()
        if answer is None:
            text = f"actor {text_id(id)[-20:]} has ended, and is forgotten"
            calls.end_route(route, ActorDiedError(text, reason="unknown", ran=False))
        elif answer[0] == "up":
            _, incarnation, lasting, host, address = answer
            if incarnation > route.lost:
                calls.locating.found(route, incarnation, lasting, as_bytes(host), address)
        elif answer[0] == "alias":
            route.asking = False
            calls.locating.redirect(route, (as_bytes(answer[1]), answer[2]), answer[3])
        else:
            route.asking = False
            calls.end_route_with(route, self.node.objects.keep(answer[2]))

    def _look_again(self, id: RefId) -> None:
        """Who guards an actor has changed: calls that wait here to hear of it ask again."""
        for route in self.node.calls.locating.routes_to(id):
            if route.asking and not route.leaving and route.peer is None and route.cell is None:
                route.asking = False
                self.node.calls.locating.locate(route)

    async def interface(self, id: RefId) -> Interface:
        """The methods of an actor.

        Raises:
            ActorDiedError: it has ended.
        """
        answer = await self.ask(id, "interface", None)
        if answer is None or answer[0] != "is":
            raise ActorDiedError("the actor of this name has just ended", reason="unknown", ran=False)
        return Interface.from_wire(answer[1])

    # -- as the host ---------------------------------------------------------------------------------------------------

    def host_ended(self, cell: Cell, reason: str, out: Any) -> None:
        """An incarnation ended on this node: whoever is its guardian hears of it, if need be the next one."""
        node = self.node
        if type(out) is Packed:
            out = out.portable() if not out.codes and not owned_ids(out.refs) else None
        self.ask(cell.id, "over", (node.life, cell.incarnation, reason, out))

    def move(self, id: RefId) -> None:
        """This node drains: its guardian is to place the actor elsewhere."""
        self.ask(id, "move", None)

    def _look(self) -> None:
        """Ask guardians whether what is hosted here is to go on; forget what was made here and came to nothing."""
        node = self.node
        self._timer = node.env.call_later(_LOOK, self._look)
        self.specs.look()
        for cell in list(node.hosting.cells.values()):
            guarded = node.guardians.actors.get(cell.id) if cell.id in self._kept else None
            if guarded is not None:
                if not self._is_hosted(guarded, node.life, cell.incarnation):
                    self._fence(cell)
            elif is_detached(cell.id[0]):
                reply = self.ask(cell.id, "hosting", (node.life, cell.incarnation))
                reply.add_done_callback(lambda done, cell=cell: self._looked(cell, done))  # type: ignore[misc]
        for id, actor in list(self._made.items()):
            if actor.state in (ENDED, ALIAS) and id not in node.objects._handles:
                del self._made[id]
                if node.guardians.actors.get(id) is actor:  # else this node keeps it now, as its creation was heard
                    del node.guardians.actors[id]
                    node.calls.routes.pop(id, None)

    def _looked(self, cell: Cell, done: Reply[Any]) -> None:
        if done._state == FAILED:
            return
        answer = done.result()
        if self.node.hosting.cells.get(cell.id) is cell and (answer is None or answer[0] != "is" or not answer[1]):
            self._fence(cell)

    def _fence(self, cell: Cell) -> None:
        logger.warning("actor %s ends here: it is not, or not any more, to be on this node", text_id(cell.id)[-20:])
        cell.end("fenced")


def _settle(replies: list[Reply[Any]]) -> None:
    for reply in replies:
        reply._settle(None)
