"""Which actors have most to do: those with the most calls that wait, of one node and of all."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, Final

from actorfw.values.ids import text_id

if TYPE_CHECKING:
    from actorfw.runtime.canvass import Canvass
    from actorfw.runtime.node import Node

__all__ = ["Busiest"]

_SHOWN: Final = 50


class Busiest:
    """The actors of one node by what waits for them, and those of all members."""

    def __init__(self, node: Node) -> None:
        self.node = node
        node.asks.verbs["busiest"] = lambda peer, payload: self.own()

    async def everywhere(self, canvass: Canvass) -> list[dict[str, Any]]:
        """Of all members."""
        found = self.own()
        for rows in (await canvass.ask("busiest")).values():
            found += rows
        return heapq.nlargest(_SHOWN, found, key=_waiting)

    def own(self) -> list[dict[str, Any]]:
        """Of this node."""
        node = self.node
        rows = [
            {
                "id": text_id(id),
                "class_name": cell.recipe.name,
                "node": node.name,
                "node_id": node.id,
                "waiting": cell.depth,
                "incarnation": cell.incarnation,
            }
            for id, cell in node.hosting.cells.items()
        ]
        return heapq.nlargest(_SHOWN, rows, key=_waiting)


def _waiting(row: dict[str, Any]) -> int:
    return int(row["waiting"])
