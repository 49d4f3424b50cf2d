"""`Checkup`: what members say of their machines, their clocks and whom they can dial, for `actorfw doctor`.

Each member dials each other one's advertised address, since a link that stands says nothing about who could make it
anew. Whether what is found is good is not judged here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.canvass import Canvass
from actorfw.values.errors import ActorFwError
from actorfw.values.ids import node_id_of

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.refs import Reply

__all__ = ["Checkup"]

_DIAL_SECONDS: Final = 2.5
_AT_ONCE: Final = 16  # dials of one node


class Checkup:
    """The facts of one node, and of all as one node hears them."""

    def __init__(self, node: Node) -> None:
        self.node = node
        node.asks.verbs["checkup"] = self._asked
        node.asks.verbs["clock"] = lambda peer, payload: node.env.wall_time()

    async def everywhere(self, canvass: Canvass) -> list[dict[str, Any]]:
        """The facts of all members, of silent ones just who they are. With how far each clock is ahead of this node's,
        and by how much that may be wrong."""
        node = self.node
        # Before the dials, which keep loops busy.
        peers = node.members.peers()
        clocks = await asyncio.gather(*(self._clock(peer) for peer in peers))
        asking = asyncio.ensure_future(canvass.ask("checkup"))
        rows = [{**await self.own(), "ahead": 0.0, "unsure": 0.0}]
        answers = await asking
        for peer, clock in zip(peers, clocks, strict=True):
            key = node_id_of(peer.life)
            if key in answers:
                rows.append({**answers[key], "ahead": clock and clock[0], "unsure": clock and clock[1]})
            else:
                rows.append({"id": key, "name": peer.name, "address": peer.address, "answered": False})
        return rows

    async def own(self) -> dict[str, Any]:
        """Of this node."""
        from actorfw.io.machine import look  # few nodes are ever asked

        node = self.node
        peers = [peer for peer in node.members.peers() if peer.address]
        gate = asyncio.Semaphore(_AT_ONCE)
        found = await asyncio.gather(*(self._dial(peer, gate) for peer in peers))
        return {
            "id": node.id,
            "name": node.name,
            "address": node.address,
            "answered": True,
            "state": node.members.state,
            "uvloop": type(node.loop).__module__.startswith("uvloop"),
            "worker_deaths": node.pool.deaths,
            **look(),
            "reaches": {node_id_of(peer.life): why for peer, why in zip(peers, found, strict=True)},
        }

    def _asked(self, peer: Peer, payload: Any) -> Reply[Any]:
        return self.node.verbs.begin("checkup", self.own())

    async def _dial(self, peer: Peer, gate: asyncio.Semaphore) -> str:
        """Why it can't be dialled; "" if it can."""
        async with gate:
            try:
                async with asyncio.timeout(_DIAL_SECONDS):
                    await self.node.peers.probe(peer.address, peer.life)
            except TimeoutError:
                return f"no answer within {_DIAL_SECONDS:g} s"
            except ActorFwError as error:
                return str(error)
        return ""

    async def _clock(self, peer: Peer) -> tuple[float, float] | None:
        """How far its clock is ahead, taking it for read half-way through the question, and half of what that took."""
        env = self.node.env
        canvass = Canvass(self.node)
        key = node_id_of(peer.life)
        wall, began = env.wall_time(), env.time()
        answers = await canvass.ask_each("clock", {key: None})
        took = env.time() - began
        if key not in answers:
            return None
        return answers[key] - (wall + took / 2), took / 2
