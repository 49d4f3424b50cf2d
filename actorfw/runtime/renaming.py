"""What keeps ids, when the node takes a new life: each part of it is brought from the old names to the new ones.

The rule is `core.renaming`'s. All sessions have ended by now, and so has what was exported: here nothing fails any more
but the refs and handles of what others own. It is done in one turn of the loop, so that nobody sees half of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from actorfw.core.fencing import Fence
from actorfw.core.renaming import Renaming
from actorfw.runtime.cells import ENDED, Cell
from actorfw.runtime.held import rename_held
from actorfw.runtime.refs import PENDING, ObjectRef
from actorfw.runtime.routes import ActorCall, Route
from actorfw.values.errors import ActorDiedError, ObjectLostError
from actorfw.values.ids import RefId, is_detached, text_id
from actorfw.wire.failures import pack_error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actorfw.runtime.node import Node

__all__ = ["rename"]


def rename(node: Node, renaming: Renaming, why: str) -> None:
    """Carry a node over from one life to the next; `why`: for the errors of what is lost by it."""
    node.objects.sweep()
    node.workerlives.flush()
    _objects(node, renaming, why)
    _tasks(node, renaming)
    _guardians(node, renaming)
    _cells(node, renaming)
    _calls(node, renaming, why)
    node.watching.reborn(renaming.old, renaming.new, why)
    node.directory.reborn(why)
    node.detached.reborn()  # the old life may have become the keeper of more while its peers were given up
    node.workerlives.reborn(renaming)


def _objects(node: Node, renaming: Renaming, why: str) -> None:
    objects = node.objects
    for timer in objects.graces.values():
        timer.cancel()
    objects.graces.clear()
    objects._dead_owners.clear()
    node.lineage.reborn(renaming)
    nowhere = node.locations.fence()
    node.pulls.clear()
    node.copies.clear()
    objects._inherited.clear()
    asked = [ref for id, refs in node.fetches.asked.items() if id[0] != renaming.old for ref in refs]
    own = {renaming.id(id): refs for id, refs in node.fetches.asked.items() if id[0] == renaming.old}
    node.fetches.asked = own
    objects.sweep()  # what was in the copies is let go under the name that it had
    with objects._lock:
        node.life = renaming.new
        rename_held(renaming, objects._grips, objects._refs, objects._handles)
        lost = [ref for ref in objects._refs.values() if ref._owner != renaming.new]
        instructions = renaming.ownership(objects.ownership)
    objects._dead_owners.update((cast("bytes", life), why) for life in objects.ownership._dead)
    for ref in (*lost, *asked):
        ref._lazy = False
        if ref._state == PENDING:
            error = ObjectLostError(f"{objects.named(ref)} was another node's, and {why}")
            ref._fail(pack_error(node.codec, error, where=node.name, infrastructure=True))
    objects.carry_out(instructions)
    for id in nowhere:
        node.locations.fenced(renaming.id(id), why)


def _tasks(node: Node, renaming: Renaming) -> None:
    for task in node.tasks.open.values():
        task.deps = renaming.deps(task.deps)
        _own(task.refs, renaming)
        if task.excluded:
            task.excluded = None


def _guardians(node: Node, renaming: Renaming) -> None:
    guardians = node.guardians
    guardians._asking.clear()
    actors = [*guardians.actors.values()]
    guardians.actors.clear()
    for actor in actors:
        if is_detached(actor.id[0]):
            continue  # others guard it by now
        actor.id = renaming.id(actor.id)
        actor.deps = renaming.deps(actor.deps)
        actor.excluded = actor.counted_at = None
        if actor.machine.host == renaming.old:
            actor.machine.host = renaming.new
        if actor.target is not None:
            actor.target = renaming.id(actor.target)
        if actor.state != "ended" or node.objects.ownership.live(actor.id):
            guardians.actors[actor.id] = actor  # else its last handle went when its record had the old name
    guardians.placing.renamed(renaming.id)


def _cells(node: Node, renaming: Renaming) -> None:
    hosting = node.hosting
    hosting._fence = Fence()
    ends = [(renaming.id(id), end) for id, end in hosting._ends.items() if not is_detached(id[0])]
    hosting._ends.clear()
    hosting._ends.update(ends)
    for id, cell in [*hosting.cells.items()]:
        if cell.guardian != renaming.old or cell.state == ENDED or cell.reason == "fenced":
            continue  # it ends under the name that it had
        # One that was told to stop has not ended yet: who waits for that hears of it by its new name.
        del hosting.cells[id]
        cell.id = renaming.id(id)
        cell.guardian = renaming.new
        hosting.cells[cell.id] = cell
        for call in _waiting(cell):
            call.deps = renaming.deps(call.deps)


def _waiting(cell: Cell) -> Iterable[ActorCall]:
    for gate in (cell._gates or {}).values():
        yield from gate
    yield from cell._late or ()
    for item in cell.box or ():
        if isinstance(item, ActorCall):
            yield item


def _calls(node: Node, renaming: Renaming, why: str) -> None:
    calls = node.calls
    seen: set[int] = set()
    for call in calls.open.values():
        seen.add(id(call))
        if not call.started:
            call.deps = renaming.deps(call.deps)
        if isinstance(call.ref, ObjectRef):
            call.ref._owner = renaming.new
        elif call.ref is not None:
            _own(call.ref, renaming)
    routes = [*calls.routes.values(), *calls.aliases]
    calls.routes.clear()
    for route in dict.fromkeys(routes):
        route.gather()
        _route(route, renaming)
        if is_detached(route.target[0]):
            _to_be_found_anew(node, route)
        if route not in calls.aliases:
            calls.routes[route.id] = route
        for call in route.queue or ():
            if id(call) not in seen:
                call.deps = renaming.deps(call.deps)
    for route in routes:
        if renaming.is_lost(route.target[0]) and route.ended is None:
            calls.end_route(route, fenced(route.target, why))


def _route(route: Route, renaming: Renaming) -> None:
    route.target = renaming.id(route.target)
    route.id = renaming.id(route.id)


def _to_be_found_anew(node: Node, route: Route) -> None:
    """The way to a detached actor: others may have begun it anew, and counted its incarnations in their own way."""
    route.cell = None
    route.peer = None
    route.window_of = None
    route.unconfirmed = None
    route.ended = None
    route.lost = 0
    route.leaving = False
    node.env.call_soon(node.calls.locating.look_again, route)


def _own(refs: Iterable[ObjectRef[Any]], renaming: Renaming) -> None:
    for ref in refs:
        ref._owner = renaming.new


def fenced(id: RefId, why: str) -> ActorDiedError:
    """How an actor has ended for this node that was another node's, or shared with others."""
    text = f"actor {text_id(id)[-20:]} is another node's, or was known to others, and {why}"
    return ActorDiedError(text, reason="fenced", ran=False)
