"""`Quorum`: this node's part in `partition="majority"`: as a keeper that needs leases, as a host that holds names, and
as a voter if it is one.

Drives `core.leases`, `core.holds` and `core.voters` with this node's messages, members and a clock that goes on while
the machine sleeps. Who keeps a shard, and what a lease is good for, is the directory's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.entries import Key
from actorfw.core.holds import Holds
from actorfw.core.leases import Leases
from actorfw.core.voters import TTL, Voter, majority_of
from actorfw.runtime.cells import ENDING
from actorfw.values.ids import RefId
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.runtime.cells import Cell
    from actorfw.runtime.directory import Directory
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["TTL", "Quorum"]

_FOR_VOTERS: Final = frozenset(("prepare", "accept", "copy", "copied"))


class Quorum:
    """Leases and votes of one life of a node."""

    def __init__(self, node: Node, directory: Directory) -> None:
        self.node = node
        self.directory = directory
        voters = node.config.voters
        self.leases = Leases(node.life, voters, node.env.random)
        self.holds = Holds()
        self._constructs: dict[RefId, tuple[Cell, Callable[[], None]]] = {}  # those that never held their names yet
        self.voter: Voter | None = None
        if node.name in voters:
            env = node.env
            self.voter = Voter(node.name, node.life, voters, env.wall_time(), env.boot_time())
        self._here: deque[Any] = deque()  # between the keeper and the voter on this node
        self._versions: dict[int, int] = {}
        self._lives: dict[str, bytes] = {}

    def may_serve(self, shard: int, _now: float) -> bool:
        """Whether this node is the shard's only keeper at this moment."""
        return self.leases.may_serve(shard, self.node.env.boot_time())

    def tick(self) -> None:
        """Time has passed, or members have changed, or tokens have."""
        node = self.node
        now = node.env.boot_time()
        lives = {fact.name: life for life, fact in node.members.facts.items() if fact.name in node.config.voters}
        if lives != self._lives:
            self._lives = lives
            self.directory.names.quorum = len(lives) >= majority_of(len(node.config.voters))
            self._do(self.leases.lives(lives, now))
            if self.voter is not None:
                self._do(self.voter.lives(lives, now))
        versions = self.directory.names.versions
        if versions != self._versions:
            self._versions = versions
            self._do(self.leases.hold(versions, now))
        else:
            self._do(self.leases.tick(now))
        if self.voter is not None:
            self._do(self.voter.tick(now))
        self._carry_out(self.holds.tick(now))
        for cell, _ in list(self._constructs.values()):
            if cell.state == ENDING and not cell.depth:
                cell.finished(cell.reason)

    # -- as a host -----------------------------------------------------------------------------------------------------

    def hold(self, cell: Cell, name: Key, construct: Callable[[], None]) -> None:
        """An actor is to be made here that may begin calls only while this host holds its name.

        `construct` is called when it does so for the first time, or has ended before.
        """
        cell.holder, todo = self.holds.add(name, cell.id, cell.incarnation, self.node.env.boot_time())
        self._constructs[cell.id] = (cell, construct)
        self._carry_out(todo)

    def let_go(self, cell: Cell) -> None:
        """An actor has ended here."""
        self._carry_out(self.holds.drop(cell.id, cell.incarnation))
        found = self._constructs.get(cell.id)
        if found is not None and found[0] is cell:
            del self._constructs[cell.id]
            found[1]()

    def _carry_out(self, instructions: list[Any]) -> None:
        for what, *about in instructions:
            if what == "ask":
                number, (namespace, name), id, incarnation = about
                answered = partial(self._answered, number)
                self.directory.request("hold", namespace, name, (*id, incarnation), answered)
            elif what == "let_go":
                (namespace, name), id, incarnation = about
                self.directory.request("let_go", namespace, name, (*id, incarnation), lambda ok, payload: None)
            else:
                (id,) = about
                waiting = self._constructs.pop(id, None)
                if waiting is not None:
                    waiting[1]()
                elif id in self.node.hosting.cells:
                    self.node.hosting.cells[id].go_on()

    def _answered(self, number: int, ok: bool, payload: Any) -> None:
        self._carry_out(self.holds.answered(number, payload if ok else None, self.node.env.boot_time()))

    # -- as a keeper, and as a voter -----------------------------------------------------------------------------------

    def on_votes(self, peer: Peer, msg: list[Any]) -> None:
        """A keeper or a voter elsewhere."""
        self._take(peer.life, msg[1])

    def _take(self, life: bytes, message: Any) -> None:
        now = self.node.env.boot_time()
        if message[0] not in _FOR_VOTERS:
            self._do(self.leases.message(life, message, now))
        elif self.voter is not None:
            self._do(self.voter.message(life, message, now))

    def _do(self, instructions: list[Any]) -> None:
        node = self.node
        for what, *about in instructions:
            if what == "send":
                life, message = about
                peer = node.members.peer(life) if life != node.life else None
                if life == node.life:
                    self._here.append(message)
                    if len(self._here) == 1:
                        node.env.call_soon(self._take_own)
                elif peer is not None:
                    peer.send((m.VOTES, message))
            elif what == "leased":
                self.directory.leased(*about)
            else:
                self.directory.outdated(*about)

    def _take_own(self) -> None:
        here, self._here = self._here, deque()
        for message in here:
            self._take(self.node.life, message)
