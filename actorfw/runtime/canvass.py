"""`Canvass`: one question to all other members, answered in bounded time, whoever is silent.

A listing is for somebody who waits for it. All questions of one listing share its patience, and who was silent once is
not asked again; of a member that is known to be in trouble less is expected from the start. What the answers mean is
the affair of whoever asks.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgpack

from actorfw.values.errors import ActorFwError
from actorfw.values.ids import node_id_of

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["PATIENCE", "Canvass", "pack_answer", "unpack_answer"]

PATIENCE: Final = 1.3
"""Seconds that one listing waits for members, all its questions together."""

_LONG: Final = 64 * 1024  # bytes from which an answer is worth compressing, so that it fits into one message
_FOR_THE_DOUBTFUL: Final = 0.3  # seconds, of those, for members that are not "up"


class Canvass:
    """The questions of one listing.

    Args:
        node: who asks.
        patience: seconds, for all questions together.

    Attributes:
        silent: the names of those who have not answered, by id.
    """

    def __init__(self, node: Node, patience: float = PATIENCE) -> None:
        self.node = node
        self.silent: dict[str, str] = {}
        self._until = node.env.time() + patience

    @property
    def left(self) -> float:
        """Seconds of patience."""
        return max(0.0, self._until - self.node.env.time())

    async def ask(self, verb: str, payload: Any = None) -> dict[str, Any]:
        """The answers of all other members, by their ids."""
        return await self.ask_each(verb, {node_id_of(peer.life): payload for peer in self.node.members.peers()})

    async def ask_each(self, verb: str, payloads: Mapping[str, Any]) -> dict[str, Any]:
        """The answers of these members, by their ids, each to a payload of its own."""
        node = self.node
        facts = node.members.facts
        asked: dict[str, asyncio.Task[Any]] = {}
        names: dict[str, str] = {}
        firm: set[asyncio.Task[Any]] = set()
        for peer in node.members.peers():
            key = node_id_of(peer.life)
            if key in payloads and key not in self.silent:
                asked[key] = task = asyncio.ensure_future(self._ask(peer, verb, payloads[key]))
                names[key] = peer.name
                if facts[peer.life].state == "up" and not peer.lost:
                    firm.add(task)
        doubtful = set(asked.values()) - firm
        began = node.env.time()
        try:
            if firm:
                await asyncio.wait(firm, timeout=self.left)
            if doubtful:
                spent = node.env.time() - began
                await asyncio.wait(doubtful, timeout=max(0.0, min(self.left, _FOR_THE_DOUBTFUL - spent)))
        finally:
            for task in asked.values():
                task.cancel()
        answers: dict[str, Any] = {}
        for key, task in asked.items():
            if task.done() and not task.cancelled() and task.exception() is None:
                answers[key] = task.result()
            else:
                self.silent[key] = names[key]
        return answers

    async def _ask(self, peer: Peer, verb: str, payload: Any) -> Any:
        try:
            return await self.node.asks.ask(peer, verb, payload)
        except ActorFwError as error:
            raise _SilentError from error


async def pack_answer(answer: Awaitable[Any]) -> bytes:
    """An answer that may be long, as it travels."""
    packed: bytes = msgpack.packb(await answer)
    return b"z" + zlib.compress(packed, 1) if len(packed) > _LONG else b"p" + packed


def unpack_answer(packed: Any) -> Any:
    """The inverse of `pack_answer`."""
    raw = bytes(packed)
    return msgpack.unpackb(zlib.decompress(raw[1:]) if raw[:1] == b"z" else raw[1:])


class _SilentError(Exception):
    """It can't be reached, or refused: for a listing that is the same as silence."""
