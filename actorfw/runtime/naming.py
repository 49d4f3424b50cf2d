"""Actors that are made with a name: they are made once the directory has given it to them.

With `get_if_exists` another actor may have the name. The new handle then means that one: what was sent to it goes on
there, and this record only says where that is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actorfw.core.entries import Entry
from actorfw.core.guardian import GaveUp
from actorfw.runtime.handles import hash_by_name, means
from actorfw.runtime.routes import IN_QUEUE
from actorfw.values.errors import ActorExistsError, ActorFwError

if TYPE_CHECKING:
    from actorfw.runtime.guarded import Guarded
    from actorfw.runtime.guardians import Guardians
    from actorfw.runtime.handles import ActorHandle
    from actorfw.runtime.refs import Reply

__all__ = ["Naming"]


class Naming:
    """The names of the actors that one node made."""

    def __init__(self, guardians: Guardians) -> None:
        self.guardians = guardians
        self.node = guardians.node

    def begin(self, actor: Guarded, name: str) -> None:
        """A new actor is to have this name."""
        node = self.node
        options = actor.options
        actor.naming = True
        actor.name = (options.get("namespace") or node.namespace, name)
        # A name is a handle: it holds the actor until it is removed.
        node.objects.carry_out(node.objects.ownership.store(("name", actor.id), [actor.id]))
        self._ask(actor, actor.name)

    def inherit(self, actor: Guarded, address: str) -> None:
        """Go on with what another guardian had begun: it has no name yet, or stands for an older actor, from there."""
        if actor.target is not None:
            entry = Entry(*actor.target, 1, actor.target[0], address, 0.0)
            self.node.env.create_task(self._follow(actor, entry), "actorfw get_if_exists")
        elif actor.name is not None:
            self._ask(actor, actor.name)

    def _ask(self, actor: Guarded, name: tuple[str, str]) -> None:
        shared = bool(actor.options.get("get_if_exists"))
        self.node.directory.create(name, actor.id, shared, lambda ok, answer: self._named(actor, ok, answer))

    def _named(self, actor: Guarded, ok: bool, answer: Any) -> None:
        guardians = self.guardians
        if guardians.actors.get(actor.id) is not actor:
            return  # it has ended, or an heir guards it and has asked as well
        actor.naming = False
        if actor.state == "ended":
            return
        assert actor.name is not None
        namespace, name = actor.name
        if ok:
            if actor.asked_end == "killed":
                guardians.tell(actor, GaveUp("killed"), guardians.error(actor, "killed"))
            else:
                guardians.placing.place(actor)
            return
        if isinstance(answer, Exception):
            self.nameless(actor)
            guardians.tell(actor, GaveUp("crashed"), answer)
        elif actor.options.get("get_if_exists"):
            actor.target = (answer.life, answer.number)
            actor.args = actor.deps = None
            self.node.env.create_task(self._share(actor, answer), "actorfw get_if_exists")
        else:
            self.nameless(actor)
            at = f"{name!r} in namespace {namespace!r}"
            error = ActorExistsError(f"an actor named {at} exists: use get_if_exists=True to share it")
            guardians.tell(actor, GaveUp("name_conflict"), error)

    def nameless(self, actor: Guarded) -> None:
        """It has no name, or not any more, so that nothing but handles holds it."""
        actor.name = None
        ownership = self.node.objects.ownership
        self.node.objects.carry_out(ownership.unstore(("name", actor.id)))

    async def _share(self, actor: Guarded, entry: Entry) -> None:
        try:
            handle = await self.node.handle_of(entry)
        except ActorFwError as error:
            actor.target = None
            self.nameless(actor)
            self.guardians.tell(actor, GaveUp("unknown"), error)
            return
        if actor.name is None:
            return  # it has ended meanwhile, with this node's life
        hash_by_name(handle, *actor.name)
        self.nameless(actor)
        self.share(actor, handle)

    async def _follow(self, actor: Guarded, entry: Entry) -> None:
        try:
            handle = await self.node.handle_of(entry)
        except ActorFwError as error:
            actor.target = None
            self.guardians.tell(actor, GaveUp("unknown"), error)
            return
        if self.guardians.actors.get(actor.id) is actor:
            self.share(actor, handle)

    def share(self, actor: Guarded, handle: ActorHandle) -> None:
        """An older actor has the name, and this is its handle."""
        self._alias(actor, handle)
        waiting, actor.waiting = actor.waiting, None
        if actor.asked_end == "killed":
            self.node.ask("kill", handle)
        elif actor.asked_end:
            self.node.ask("stop", handle, None).add_done_callback(lambda _: _settle(waiting))
            return
        _settle(waiting)

    def _alias(self, actor: Guarded, handle: ActorHandle) -> None:
        """An older actor has the name: what was sent to the new handle goes there."""
        node = self.node
        id = actor.id
        actor.out = handle  # keeps the older one's listing alive as long as this record
        actor.target = (handle._guardian, handle._number)
        mine = node.objects._handles.pop(id, None)
        if mine is not None:
            means(mine, handle)
        route = node.calls.routes.pop(id, None)
        target = node.calls.route(actor.target)
        if route is not None:
            for call in node.calls.take_queue(route):
                if not call.cancelled:
                    if call.timer is not None:
                        call.timer.cancel()
                    node.calls.start(call, target.id, handle._address)
                    if call.counted != IN_QUEUE:
                        node.windows.gone(call, target)
            for reply in route.waiting or ():
                reply._settle(None)
        self.guardians.answer_askers(actor)
        node.watching.decided(actor)


def _settle(waiting: list[Reply[None]] | None) -> None:
    for reply in waiting or ():
        reply._settle(None)
