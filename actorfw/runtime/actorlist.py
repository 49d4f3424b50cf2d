"""All actors of a cluster, as their guardians know them: for listings, and to find one by a name or an id."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.canvass import Canvass
from actorfw.runtime.rows import ActorRow
from actorfw.values.errors import ActorFwError, ActorNotFoundError, UsageError
from actorfw.values.ids import is_detached, parse_text_id

if TYPE_CHECKING:
    from actorfw.runtime.node import Node

__all__ = ["ActorList"]

_LOOKS: Final = 5  # a detached actor whose guardian changes between two answers is seen by none
_LOOK_AGAIN: Final = 0.2


class ActorList:
    """The actors of all nodes, seen from one."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def own(self) -> list[dict[str, Any]]:
        """Those that this node answers for."""
        rows: list[dict[str, Any]] = []
        for id, actor in self.node.guardians.actors.items():
            found = self.node.guardians.info(id)
            if found is None or found["state"] == "ended" or actor.target is not None or actor.naming:
                continue
            row = {key: found[key] for key in ("id", "name", "namespace", "class_name", "state", "node_id", "node")}
            rows.append({**row, "restarts": found["incarnation"] - 1, "detached": is_detached(id[0])})
        return rows

    async def everywhere(self, canvass: Canvass) -> list[ActorRow]:
        """Those that any member answers for."""
        found: dict[str, dict[str, Any]] = {}
        for look in range(_LOOKS):
            if look:
                await asyncio.sleep(min(_LOOK_AGAIN, canvass.left))
            answers = await canvass.ask("actors")
            found = {row["id"]: row for rows in (self.own(), *answers.values()) for row in rows}
            named = {(row["namespace"], row["name"]) for row in found.values()}
            try:
                async with asyncio.timeout(canvass.left):
                    listed = await self.node.directory.listing(None)
            except (ActorFwError, TimeoutError):
                break  # some names are kept by who is silent
            if canvass.silent or all((namespace, name) in named for namespace, name, _ in listed):
                break
        rows = [ActorRow(**row) for row in found.values()]
        return sorted(rows, key=lambda row: (row.namespace or "", row.name or "", row.id))

    async def kill(self, which: str, namespace: str | None) -> ActorRow:
        """Kill the actor that has this name, or this id or end of an id.

        Raises:
            ActorNotFoundError: there is none.
            UsageError: there are several.
        """
        canvass = Canvass(self.node)
        rows = await self.everywhere(canvass)
        found = [row for row in rows if row.name == which and (namespace is None or row.namespace == namespace)]
        found = found or [row for row in rows if len(which) >= 4 and row.id.endswith(which)]
        if not found:
            silent = f" ({', '.join(canvass.silent.values())} gave no answer)" if canvass.silent else ""
            raise ActorNotFoundError(f"no actor has the name or id {which!r}; `actorfw actors` lists all{silent}")
        if len(found) > 1:
            several = ", ".join(f"{row.id} (namespace {row.namespace!r})" for row in found)
            raise UsageError(f"{which!r} may be any of {several}: give the id, or --namespace")
        await self.node.verbs.kill_id(parse_text_id(found[0].id), "")
        return found[0]
