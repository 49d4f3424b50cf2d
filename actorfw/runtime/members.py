"""Who is in the cluster, as this node knows it: joining by seeds, views passed on, and the choice of a node for work.

Every member has a session with every other. A newcomer learns the members from any live one, dials them all, and is
`joining` until its seed and up to two more have dialled it back: a member that can't be dialled would be no peer.
Deaths are judged by `runtime.peers`, each node for itself; who is gone is gone from the view.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from actorfw.core import placement
from actorfw.core.ledger import Shape
from actorfw.core.placement import Choice, Member
from actorfw.io.tcp import is_literal, join_address, split_address
from actorfw.runtime.peer import OwnAddressError
from actorfw.runtime.refs import Reply
from actorfw.runtime.rows import NodeRow, NodeState
from actorfw.values.errors import (
    ActorFwError,
    AuthenticationError,
    PeerLostError,
    PeerUnreachableError,
    ProtocolError,
    UsageError,
)
from actorfw.values.ids import node_id_of
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.submitted import Task

__all__ = ["Members"]

logger = logging.getLogger("actorfw.node")

JOINING: Final = "joining"
UP: Final = "up"
LEAVING: Final = "leaving"

RETRY_FIRST: Final = 0.1
RETRY_CAP: Final = 2.0
WITNESSES: Final = 3  # who dial a newcomer back: its seed and two more


class Members:
    """The view of one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.facts: dict[bytes, Member] = {}
        self.addresses: dict[bytes, str] = {}
        self.pids: dict[bytes, int] = {}
        self._actors: dict[bytes, int] = {}
        self._dialling: set[bytes] = set()
        self._reaching: dict[bytes, list[Callable[[Peer | PeerUnreachableError], object]]] = {}
        self.state = JOINING

    # -- this node -----------------------------------------------------------------------------------------------------

    def introduce_self(self) -> None:
        """Enter this node in its own view and in what handshakes tell."""
        node = self.node
        me = Member(node.life, node.id, node.ledger.totals, node.labels, node.hosts, self.state, name=node.name)
        self.facts[node.life] = me
        self.addresses[node.life] = node.address
        self.pids[node.life] = node.env.pid
        node.identity.info.update(
            name=node.name,
            node_id=node.id,
            address=node.address,
            totals=me.totals.amounts,
            labels=dict(node.labels),
            hosts=node.hosts,
            pid=node.env.pid,
            state=self.state,
        )

    def _set_state(self, state: str) -> None:
        self.state = state
        node = self.node
        node.identity.info["state"] = state
        self.facts[node.life].state = state
        for peer in list(node.peers.by_life.values()):
            peer.send((m.MEMBERS, [self._row(node.life)]))
        self._changed()

    def _row(self, life: bytes) -> list[Any]:
        fact = self.facts[life]
        return [life, self.addresses[life], fact.name, fact.state]

    def _changed(self) -> None:
        node = self.node
        node.directory.view([life for life, fact in self.facts.items() if fact.state == UP])
        node.tasks.pump_soon()

    # -- joining -------------------------------------------------------------------------------------------------------

    async def join(self, seeds: list[str]) -> None:
        """Become a member of the cluster that the seeds belong to, or found one.

        Raises:
            PeerUnreachableError: no seed could be joined within `join_timeout`; names each address tried and why.
            AuthenticationError, VersionMismatchError, ProtocolError: a seed answered and refused this node for good.
            UsageError: a live member has this node's name.
        """
        node = self.node
        addresses, unknown = await self._resolve(seeds)
        if not seeds or (addresses and await self._is_own(addresses[0])):
            node.directory.start(founder=True)
            self._set_state(UP)
            for address in addresses[1:]:
                node.env.create_task(self._try_seed(address), f"actorfw seed {address}")
            return
        node.directory.start(founder=False)
        until = node.env.time() + node.config.join_timeout
        pause = RETRY_FIRST
        while True:
            tried = unknown
            refused: Exception | None = None
            for address in addresses:
                try:
                    async with asyncio.timeout(max(0.0, until - node.env.time())):
                        await self._join_by(address)
                    return
                except OwnAddressError:
                    continue
                except (PeerUnreachableError, PeerLostError) as error:
                    tried[address] = error
                except TimeoutError:
                    tried[address] = PeerUnreachableError("it took the connection, and then did not answer in time")
                except (AuthenticationError, ProtocolError, UsageError) as error:
                    refused = refused or _naming(address, error)
            # Another seed may take this node in; if none does, trying again changes nothing.
            if refused is not None:
                raise refused
            if node.env.time() + pause >= until:
                text = "; ".join(f"{address}: {error}" for address, error in tried.items())
                raise PeerUnreachableError(
                    f"node {node.name} could not join a cluster within {node.config.join_timeout:g} s (join_timeout)."
                    f" Tried {text}. "
                    "To found a cluster here, leave seeds out or put this node's own address first"
                )
            await asyncio.sleep(pause * node.env.random.uniform(0.5, 1.0))
            pause = min(pause * 2, RETRY_CAP)
            addresses, unknown = await self._resolve(seeds)

    async def _resolve(self, seeds: list[str]) -> tuple[list[str], dict[str, Exception]]:
        """The addresses behind the seeds, those of a DNS name sorted; and what could not be resolved."""
        addresses: dict[str, None] = {}
        unknown: dict[str, Exception] = {}
        for seed in seeds:
            host, port = split_address(seed)
            try:
                found = [host] if is_literal(host) else sorted(await self.node.env.resolve(host))
            except OSError as error:
                unknown[seed] = PeerUnreachableError(f"the name {host!r} can't be resolved: {error.strerror or error}")
            else:
                addresses.update((join_address(one, port), None) for one in found)
        return list(addresses), unknown

    async def _is_own(self, address: str) -> bool:
        node = self.node
        if address in (node.address, node.listen_address):
            return True
        if split_address(address)[1] != split_address(node.listen_address)[1]:
            return False
        # The same port, on another address of this machine perhaps: whoever answers there knows.
        try:
            await node.peers.dial(address)
        except OwnAddressError:
            return True
        except ActorFwError:
            pass  # tried again with the others, where it counts
        return False

    async def _try_seed(self, address: str) -> None:
        try:
            await self.node.peers.dial(address)
        except ActorFwError as error:
            logger.info("seed %s is not there yet: %s", address, error)

    async def _join_by(self, address: str) -> None:
        node = self.node
        peer = await node.peers.dial(address)
        if self.facts[peer.life].state == JOINING:
            # Two newcomers that name each other as seeds don't make a cluster: nobody has founded it.
            raise PeerUnreachableError(f"node {peer.name} is there, and has no cluster itself yet")
        rows = await node.asks.ask(peer, "members", None)
        for life, where, name, state in rows:
            self._check_name(life, where, name, state)
        known = [(bytes(life), str(where)) for life, where, _, _ in rows if life != node.life]
        await asyncio.gather(*(self._meet(life, where) for life, where in known))
        witnesses = [peer, *(p for p in node.peers.by_life.values() if p is not peer)][:WITNESSES]
        answers = await asyncio.gather(
            *(node.asks.ask(witness, "dial_back", node.address) for witness in witnesses), return_exceptions=True
        )
        if isinstance(answers[0], ActorFwError):
            raise answers[0]
        failed = [answer for answer in answers if isinstance(answer, str)]
        if failed:
            raise PeerUnreachableError(
                f"it was reached, but its side can't dial this node back: {'; '.join(failed)}. "
                "Set `listen` and `advertise` to an address that the other members can dial"
            )
        for life, fact in self.facts.items():
            self._check_name(life, self.addresses[life], fact.name, fact.state)
        self._set_state(UP)

    def _check_name(self, life: bytes, address: str, name: str, state: str) -> None:
        """Of two newcomers with one name, the one with the smaller life has it."""
        node = self.node
        if life != node.life and name == node.name and (state != JOINING or life < node.life):
            raise UsageError(
                f"the cluster has a member named {name!r} already, at {address}: give this node another name"
            )

    async def _meet(self, life: bytes, address: str) -> None:
        node = self.node
        if life in node.peers.by_life or life in self._dialling or node.closing:
            return
        self._dialling.add(life)
        try:
            await node.peers.dial(address, expect=life)
        except ActorFwError as error:
            logger.info("member %s at %s can't be reached: %s", node_id_of(life), address, error)
        finally:
            self._dialling.discard(life)

    def dial_back(self, peer: Peer, address: str) -> Reply[Any]:
        """A newcomer wants to be dialled; answers None, or why it failed."""
        node = self.node
        reply: Reply[Any] = Reply(node)

        async def probe() -> None:
            try:
                await node.peers.probe(address, peer.life)
            except ActorFwError as error:
                reply._settle(f"node {node.name} could not reach {address}: {error}")
            else:
                reply._settle(None)

        node.env.create_task(probe(), "actorfw dial back")
        return reply

    # -- others --------------------------------------------------------------------------------------------------------

    def peer_up(self, peer: Peer) -> None:
        """A session with a life began: it is a member."""
        info = peer.info
        try:
            fact = Member(
                peer.life,
                str(info["node_id"]),
                Shape.from_wire(info["totals"]),
                {str(k): str(v) for k, v in info["labels"].items()},
                "own" if info["hosts"] == "own" else "all",
                str(info["state"]),
                name=str(info["name"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            logger.error("node %s introduced itself badly: %r", peer.name, error)
            self.node.peers.bury(peer.life, f"its introduction makes no sense: {error!r}")
            return
        self.facts[peer.life] = fact
        self.addresses[peer.life] = str(info["address"])
        self.pids[peer.life] = int(info.get("pid", 0))
        peer.send((m.MEMBERS, self.rows_on_wire()))
        self._changed()

    def rows_on_wire(self) -> list[list[Any]]:
        return [self._row(life) for life in self.facts]

    def on_members(self, peer: Peer, msg: list[Any]) -> None:
        """A peer tells of members that it knows."""
        for life, address, _name, state in msg[1]:
            fact = self.facts.get(life)
            if fact is None:
                if life != self.node.life and not self.node.closing:
                    self.node.env.create_task(self._meet(bytes(life), str(address)), "actorfw meet")
            elif life == peer.life and fact.state != state:
                # Only a member itself says what it is up to.
                fact.state = str(state)
                self._changed()

    def peer_ended(self, life: bytes) -> None:
        self.facts.pop(life, None)
        self.addresses.pop(life, None)
        self._actors.pop(life, None)
        self._changed()

    def reach(self, life: bytes, address: str, then: Callable[[Peer | PeerUnreachableError], object]) -> None:
        """Have a session with a life that is not a peer yet: `then(peer or PeerUnreachableError)`."""
        peer = self.node.peers.by_life.get(life)
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
        return {self.addresses[life] for life, fact in self.facts.items() if fact.state == UP}

    # -- choosing ------------------------------------------------------------------------------------------------------

    def choose(self, task: Task, shape: Shape, scheduling: Any, exclude: set[bytes] | None) -> Choice:
        """Who runs a task."""
        node = self.node
        for life, fact in self.facts.items():
            if life != node.life:
                fact.own = node.tasks.outstanding(life)
        me = self.facts[node.life]
        me.own = node.execution.own_running()
        return placement.choose(
            shape,
            scheduling,
            me=node.life,
            room=node.has_room(task.recipe.executor, shape),
            members=list(self.facts.values()),
            rng=node.env.random,
            exclude=exclude or (),
        )

    def choose_for_actor(self, shape: Shape, scheduling: Any, exclude: set[bytes] | None) -> Choice:
        """Who hosts an actor."""
        node = self.node
        for life, fact in self.facts.items():
            fact.own = self._actors.get(life, 0)
        choice = placement.choose(
            shape,
            scheduling,
            me=node.life,
            room=node.ledger.has_room(shape),
            members=list(self.facts.values()),
            rng=node.env.random,
            exclude=exclude or (),
            lasting=True,
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


def _naming(address: str, error: ActorFwError) -> ActorFwError:
    """The error, if it names the address that it is about; else one like it that does."""
    if address in str(error):
        return error
    named = type(error)(f"{address}: {error}")
    named.__cause__ = error
    return named
