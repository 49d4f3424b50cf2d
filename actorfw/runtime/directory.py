"""Names of actors: drives the machine of `core.names` with this node's messages, views and clock."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from actorfw.core.names import TICK, Entry, Names
from actorfw.runtime.refs import Reply
from actorfw.values.errors import NodeClosedError
from actorfw.values.ids import RefId
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Directory"]


class Directory:
    """The name directory as seen from one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.names = Names(node.life, node.env.time())
        self._requests = itertools.count(1)
        self._waiting: dict[int, Callable[[bool, Any], None]] = {}
        self._parked: dict[bytes, list[Any]] = {}
        self._timer: Any = None
        self._drained: asyncio.Event | None = None  # set while and when this node leaves
        self._closed = False

    def start(self, founder: bool) -> None:
        """Begin; the founder of a cluster keeps all names until others are there."""
        if founder:
            self._do(self.names.founder())
        self._tick()

    def _tick(self) -> None:
        if self._closed:
            return
        self._do(self.names.tick(self.node.env.time()))
        self._timer = self.node.env.call_later(TICK, self._tick)

    def view(self, lives: list[bytes]) -> None:
        """The members that are up have changed."""
        self._do(self.names.view(sorted(lives), self.node.env.time()))

    def peer_up(self, peer: Peer) -> None:
        for message in self._parked.pop(peer.life, ()):
            peer.send((m.NAMES, message))

    def peer_ended(self, life: bytes) -> None:
        self._parked.pop(life, None)
        self._do(self.names.dead(life, self.node.env.time()))

    def on_names(self, peer: Peer, msg: list[Any]) -> None:
        self._do(self.names.message(peer.life, msg[1], self.node.env.time()))

    def _do(self, instructions: list[Any]) -> None:
        if self._drained is not None and self.names.drained:
            self._drained.set()
        for instruction in instructions:
            if instruction[0] == "send":
                peer = self.node.peers.by_life.get(instruction[1])
                if peer is not None:
                    peer.send((m.NAMES, instruction[2]))
                else:
                    self._parked.setdefault(instruction[1], []).append(instruction[2])
            elif instruction[0] == "answer":
                then = self._waiting.pop(instruction[1], None)
                if then is not None:
                    then(instruction[2], instruction[3])
            else:
                _, _namespace, _name, lost, _kept = instruction
                if lost.life == self.node.life:
                    self.node.guardians.end(lost.number, "name_conflict")

    # -- requests ------------------------------------------------------------------------------------------------------

    def _request(
        self, op: Any, namespace: str | None, name: str, payload: Any, then: Callable[[bool, Any], None]
    ) -> None:
        number = next(self._requests)
        self._waiting[number] = then
        self._do(self.names.request(number, op, namespace, name, payload, self.node.env.time()))

    def create(
        self, key: tuple[str, str], number: int, if_exists: bool, then: Callable[[bool, Entry | Exception], None]
    ) -> None:
        """Give an own actor a name. `then(True, entry)`: it has it; `then(False, entry)`: that one has it already."""
        entry = Entry(self.node.life, number, 1, self.node.life, self.node.address, self.node.env.wall_time())

        def answered(ok: bool, payload: Any) -> None:
            if ok:
                found, new = payload
                then(new, found)
            elif isinstance(payload, Exception):
                then(False, payload)
            else:
                then(False, payload[1])

        self._request("create", key[0], key[1], (entry, if_exists), answered)

    def remove(self, key: tuple[str, str], id: RefId, incarnation: int) -> None:
        """An own actor has ended: its name is free."""
        if not self._closed:
            self._request("remove", key[0], key[1], (id[0], id[1], incarnation), lambda ok, payload: None)

    def lookup(self, namespace: str, name: str) -> Reply[Entry | None]:
        """Who has this name."""
        reply: Reply[Entry | None] = Reply(self.node)
        self._request("lookup", namespace, name, None, lambda ok, payload: _tell(reply, ok, payload))
        return reply

    def listing(self, namespace: str | None) -> Reply[list[tuple[str, str, Entry]]]:
        """All names of a namespace, or of all."""
        reply: Reply[list[tuple[str, str, Entry]]] = Reply(self.node)
        self._request("list", namespace, "", None, lambda ok, payload: _tell(reply, ok, payload))
        return reply

    async def leave(self, patience: float) -> None:
        """Hand over the names that this node keeps for others, before it says goodbye."""
        drained = self._drained = asyncio.Event()
        self._do(self.names.leave(self.node.env.time()))
        try:
            async with asyncio.timeout(patience):
                await drained.wait()
        except TimeoutError:
            pass  # whoever is left recovers the rest

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, {}
        for then in waiting.values():
            then(False, NodeClosedError("this node is closing"))


def _tell(reply: Reply[Any], ok: bool, payload: Any) -> None:
    if isinstance(payload, Exception):
        reply._fail(payload)
    else:
        reply._settle(payload if ok else None)
