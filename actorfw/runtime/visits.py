"""`Visits`: what this node answers to visitors, who are linked and authenticated, and no members of the cluster.

A visitor (`runtime.visitor`) asks one member, and that one answers for the whole cluster: it asks the others, waits a
moment for each, and says who was silent. Nothing of a visit shows in the membership: no other node hears of it, nothing
is placed there, no name moves. Its end leaves nothing behind here.

Answers are rows as plain as JSON; what one is, is told in `runtime.rows`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.busiest import Busiest
from actorfw.runtime.canvass import Canvass, pack_answer
from actorfw.runtime.refs import Reply
from actorfw.runtime.rows import ActorRow
from actorfw.values.errors import UsageError

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.values.events import Event

__all__ = ["VISITOR", "Visits", "is_visitor"]

VISITOR: Final = "visitor"
"""Under which a visitor says in the handshake that it is one."""

_CHECKUP_SECONDS: Final = 4.0  # in which members dial each other


def is_visitor(peer: Peer) -> bool:
    """Whether the other side is no member and will not be one."""
    return VISITOR in peer.info


class Visits:
    """The desk of one node for visitors."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._busiest = Busiest(node)
        self._reading: dict[bytes, int] = {}  # what visitors read: the numbers of their readings
        self._answers: dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]] = {
            "nodes": self._nodes,
            "actors": self._actors,
            "tasks": self._tasks,
            "objects": self._objects,
            "status": self._status,
            "checkup": self._checkup,
            "top": self._top,
            "kill": self._kill,
            "cancel": self._cancel,
            "drain": self._drain,
        }
        node.asks.verbs["visit"] = self._visited
        node.asks.verbs["visit_events"] = self._events

    def ended(self, peer: Peer) -> None:
        """A visitor is gone."""
        number = self._reading.pop(peer.life, None)
        if number is not None:
            self.node.readings.drop(number)

    def _visited(self, peer: Peer, question: Any) -> Reply[Any]:
        what, arguments = question
        answer = self._answers.get(what)
        if answer is None:
            raise UsageError(f"node {self.node.name} answers no question {what!r}: it runs an older actorfw")
        return self.node.verbs.begin(f"visit {what}", pack_answer(answer(**arguments)))

    # -- listings ------------------------------------------------------------------------------------------------------

    async def _nodes(self) -> dict[str, Any]:
        # For the visitor none of them is "here".
        rows = [{**row.as_dict(), "here": False} for row in self.node.members.listing()]
        return {"rows": sorted(rows, key=_name), "silent": []}

    async def _actors(self) -> dict[str, Any]:
        canvass = Canvass(self.node)
        rows = await self.node.actorlist.everywhere(canvass)
        return _listed(canvass, [row.as_dict() for row in rows])

    async def _tasks(self, limit: int, name: str | None, states: list[str] | None) -> dict[str, Any]:
        canvass = Canvass(self.node)
        rows, total = await self.node.verbs.tasklist.everywhere(canvass, limit, name, states)
        return {**_listed(canvass, [row.as_dict() for row in rows]), "total": total}

    async def _objects(self, limit: int) -> dict[str, Any]:
        canvass = Canvass(self.node)
        rows, total = await self.node.objectlist.counted(limit, canvass)
        return {**_listed(canvass, [row.as_dict() for row in rows]), "total": total}

    async def _status(self) -> dict[str, Any]:
        canvass = Canvass(self.node)
        return _listed(canvass, sorted(await self.node.verbs.status(canvass), key=_name))

    async def _checkup(self) -> dict[str, Any]:
        canvass = Canvass(self.node, _CHECKUP_SECONDS)
        return _listed(canvass, await self.node.verbs.checkup.everywhere(canvass))

    async def _top(self, limit: int) -> dict[str, Any]:
        """All that a live view shows, in one answer."""
        canvass = Canvass(self.node)
        rows, (tasks, total), actors = await asyncio.gather(
            self.node.verbs.status(canvass),
            self.node.verbs.tasklist.everywhere(canvass, limit),
            self._busiest.everywhere(canvass),
        )
        return {
            **_listed(canvass, rows),
            "tasks": [row.as_dict() for row in tasks],
            "tasks_total": total,
            "actors": actors,
            "time": self.node.env.wall_time(),
        }

    # -- acting --------------------------------------------------------------------------------------------------------

    async def _kill(self, actor: str, namespace: str | None) -> dict[str, Any]:
        row: ActorRow = await self.node.actorlist.kill(actor, namespace)
        return {"row": row.as_dict()}

    async def _cancel(self, task: str, force: bool, recursive: bool) -> dict[str, Any]:
        row = await self.node.verbs.tasklist.cancel(task, force=force, recursive=recursive)
        return {"row": row.as_dict()}

    async def _drain(self, target: str, timeout: float) -> dict[str, Any]:
        report = await self.node.ask("drain", target, timeout)
        return {"row": report.as_dict()}

    # -- events --------------------------------------------------------------------------------------------------------

    def _events(self, peer: Peer, seen: int) -> Reply[Any]:
        """What happens here after the first `seen` events of this visit: the number of the first, and the events."""
        node = self.node
        if peer.life not in self._reading:
            self._reading[peer.life] = node.events.read()
        told: Reply[Any] = Reply(node)
        answer: Reply[Any] = Reply(node)
        node.readings.take(told, self._reading[peer.life], seen)
        told.add_done_callback(lambda done: _tell_events(answer, done))
        return answer


def _tell_events(answer: Reply[Any], told: Reply[Any]) -> None:
    try:
        first, events, _ = told.result()
    except Exception as error:  # whoever asked is told
        answer._fail(error)
        return
    plain: list[Event] = events
    answer._settle([first, [event.as_dict() for event in plain]])


def _name(row: dict[str, Any]) -> str:
    return str(row["name"])


def _listed(canvass: Canvass, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"rows": rows, "silent": sorted(canvass.silent.values())}
