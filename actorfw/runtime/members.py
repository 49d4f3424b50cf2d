"""The members of the cluster as this node uses them: for placing work, finding a session, listing.

Who is a member, and in which state, is decided by `core.membership`, which `runtime.failure` drives; who is dead or has
left is gone from here. A member need not have a session with this node: the first message to it makes one.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from actorfw.core import placement
from actorfw.core.ledger import Shape
from actorfw.core.placement import Choice, Member
from actorfw.core.records import Phase, Record
from actorfw.runtime.rows import Hosts, NodeRow, NodeState
from actorfw.values.errors import ActorFwError, PeerUnreachableError
from actorfw.values.ids import node_id_of

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.submitted import Task

__all__ = ["Members"]

logger = logging.getLogger("actorfw.node")

REMEMBERED: Final = 10_000  # nodes that are gone


class Members:
    """The view of one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.facts: dict[bytes, Member] = {}
        self.addresses: dict[bytes, str] = {}
        self.pids: dict[bytes, int] = {}
        self.lost: set[bytes] = set()  # can't be reached from here just now, dead or not
        self._named: dict[bytes, None] = {}  # those among which names are spread
        self._actors: dict[bytes, int] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()  # ids of nodes that are dead or have left
        self._reaching: dict[bytes, list[Callable[[Peer | PeerUnreachableError], object]]] = {}

    # -- this node -----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """This node's own."""
        return self.facts[self.node.life].state

    def introduce_self(self, lived: int = 0) -> None:
        """Say what this node is, and begin to watch others; `lived`: lives that it had before."""
        node = self.node
        me = Record(
            node.life,
            node.address,
            node.name,
            lived,
            born=node.env.wall_time(),
            totals=node.ledger.totals.amounts,
            labels=tuple(sorted(node.labels.items())),
            hosts=node.hosts,
            pid=node.env.pid,
        )
        node.identity.info.update(name=node.name, address=node.address)
        self.changed(me, "joining")
        node.failure.start(me)

    def forget(self) -> None:
        """This node takes a new life, and knows nobody."""
        self.facts.clear()
        self.addresses.clear()
        self.pids.clear()
        self.lost.clear()
        self._named.clear()
        self._actors.clear()

    # -- others --------------------------------------------------------------------------------------------------------

    def changed(self, record: Record, state: str) -> None:
        """What is known of a member has changed."""
        life = record.life
        if self._gone:
            self._gone.pop(node_id_of(life), None)
        fact = self.facts.get(life)
        hosts: Hosts = "own" if record.hosts == "own" else "all"
        if fact is None:
            fact = self.facts[life] = Member(
                life, node_id_of(life), Shape(record.totals), dict(record.labels), hosts, state, name=record.name
            )
        else:
            fact.totals, fact.labels, fact.hosts = Shape(record.totals), dict(record.labels), hosts
            fact.state, fact.name = state, record.name
        self.addresses[life] = record.address
        self.pids[life] = record.pid
        # Where names belong depends on what members say they are, not on how they fare: a stall moves nothing.
        self._set_named(life, record.phase is Phase.UP)
        self.node.tasks.pump_soon()
        self.node.bundles.members_changed()

    def peer_ended(self, life: bytes) -> None:
        self.facts.pop(life, None)
        node_id = node_id_of(life)
        # A rebirth ends all sessions, and nobody is dead for that.
        if not self.node.rebirth.under_way and all(fact.node_id != node_id for fact in self.facts.values()):
            self._gone[node_id] = None
            if len(self._gone) > REMEMBERED:
                self._gone.popitem(last=False)
        self.addresses.pop(life, None)
        self.pids.pop(life, None)
        self.lost.discard(life)
        self._actors.pop(life, None)
        self._set_named(life, False)
        self.node.tasks.pump_soon()

    def _set_named(self, life: bytes, has: bool) -> None:
        if has != (life in self._named):
            if has:
                self._named[life] = None
            else:
                del self._named[life]
            self.node.directory.view(list(self._named))

    def peer(self, life: bytes) -> Peer | None:
        """The session with a member; dialled when something is sent, if there is none yet."""
        peer = self.node.peers.by_life.get(life)
        if peer is not None and peer.up:
            return peer
        # One that has just been dialled, or dials, has no session yet: it begins now.
        if life not in self.facts or life == self.node.life:
            return None
        peer = self.node.peers.open(life, self.addresses[life], self.facts[life].name)
        return None if peer.ended else peer  # it is dead, and the members are about to hear it

    def peers(self) -> list[Peer]:
        """The sessions with all other members."""
        return [peer for life in list(self.facts) if (peer := self.peer(life)) is not None]

    def reach(self, life: bytes, address: str, then: Callable[[Peer | PeerUnreachableError], object]) -> None:
        """Have a session with a life that is not a peer yet: `then(peer or PeerUnreachableError)`."""
        peer = self.peer(life)
        if peer is not None:
            then(peer)
            return
        waiting = self._reaching.get(life)
        if waiting is not None:
            waiting.append(then)
            return
        self._reaching[life] = [then]
        self.node.env.create_task(self._reach(life, address), "actorfw reach")

    async def _reach(self, life: bytes, address: str) -> None:
        found: Peer | PeerUnreachableError
        try:
            if not address or self.node.closing:
                raise PeerUnreachableError(f"no address is known for node {node_id_of(life)}")
            found = await self.node.peers.dial(address, expect=life)
        except PeerUnreachableError as error:
            found = error
        except ActorFwError as error:
            found = PeerUnreachableError(str(error))
        for then in self._reaching.pop(life, ()):
            then(found)

    def addresses_up(self) -> set[str]:
        """The addresses of the members that are up, this node included."""
        return {self.addresses[life] for life, fact in self.facts.items() if fact.state == "up"}

    # -- choosing ------------------------------------------------------------------------------------------------------

    def choose(self, task: Task, shape: Shape, scheduling: Any, exclude: set[bytes] | None) -> Choice:
        """Who runs a task."""
        node = self.node
        alike = node.tasks.sent.alike(shape)
        for life, fact in self.facts.items():
            if life != node.life:
                fact.own = node.tasks.sent.count(life)
                fact.alike = alike.get(life, 0)
        me = self.facts[node.life]
        me.own = node.execution.own_running()
        if shape.bundle is not None:
            room = node.has_room(task.recipe.executor, shape)
            return node.bundles.choose(shape, scheduling, exclude, room=room, lasting=False)
        return placement.choose(
            shape,
            scheduling,
            me=node.life,
            room=node.has_room(task.recipe.executor, shape),
            members=list(self.facts.values()),
            rng=node.env.random,
            bytes_at=node.locations.bytes_at(task.deps) if task.deps else None,
            exclude={*exclude, *self.lost} if exclude else self.lost,
            gone=self._gone,
        )

    def choose_for_actor(self, shape: Shape, scheduling: Any, exclude: set[bytes] | None) -> Choice:
        """Who hosts an actor."""
        node = self.node
        for life, fact in self.facts.items():
            fact.own = self._actors.get(life, 0)
        room = node.ledger.has_room(shape)
        if shape.bundle is not None:
            choice = node.bundles.choose(shape, scheduling, exclude, room=room, lasting=True)
        else:
            choice = placement.choose(
                shape,
                scheduling,
                me=node.life,
                room=room,
                members=list(self.facts.values()),
                rng=node.env.random,
                exclude={*exclude, *self.lost} if exclude else self.lost,
                lasting=True,
                gone=self._gone,
            )
        if isinstance(choice, bytes):
            self._actors[choice] = self._actors.get(choice, 0) + 1
        return choice

    def actor_left(self, life: bytes) -> None:
        """An actor that was placed there had no room, or has ended."""
        if self._actors.get(life):
            self._actors[life] -= 1

    def load(self, life: bytes, load: float) -> None:
        """A peer said how much it has to do."""
        fact = self.facts.get(life)
        if fact is not None:
            fact.load = load
            fact.since = 0

    # -- listing -------------------------------------------------------------------------------------------------------

    def listing(self) -> list[NodeRow]:
        """All members, this node first."""
        rows: list[NodeRow] = []
        for life, fact in self.facts.items():
            rows.append(
                NodeRow(
                    id=fact.node_id,
                    name=fact.name,
                    address=self.addresses.get(life, ""),
                    state=cast("NodeState", fact.state),
                    resources=fact.totals.as_dict(),
                    labels=dict(fact.labels),
                    hosts=fact.hosts,
                    pid=self.pids.get(life, 0),
                    here=life == self.node.life,
                )
            )
        return sorted(rows, key=lambda row: (not row.here, row.name))
