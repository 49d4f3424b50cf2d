"""Placement groups at work: drives the machines of `core.bundles` with this node's messages, members and clock.

A node is the owner of the groups that were made on it, the host of bundles of any, and a submitter of work into those
that it was told of: then it asks the owner where the bundles lie, and hears of every change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from actorfw.core import placement
from actorfw.core.bundles import Bundles, Commit, Free, Group, Instruction, Placed, Prepare, Strategy, Stuck
from actorfw.core.ledger import UNIT, Shape
from actorfw.core.placement import WAIT, Choice, Infeasible
from actorfw.runtime.refs import Reply
from actorfw.values.errors import ActorFwError, NodeClosedError, UnschedulableError
from actorfw.values.ids import Life, RefId, as_bytes
from actorfw.values.scheduling import Bundle, PlacementGroup
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["PlacementGroups"]

logger = logging.getLogger("actorfw.tasks")

ANSWER_SECONDS: Final = 1.0  # for members to say what they have free
ASKED_AT_ONCE: Final = 64  # of a large cluster; the next try asks others
SWEEP_SECONDS: Final = 1.0
PATIENCE: Final = 3.0  # until a group that had its places says that there are none any more

Places = list[tuple[int, "Life | None", Shape]]


class _Owned:
    """A group that this node made."""

    def __init__(self, number: int, value: PlacementGroup, group: Group, reply: Reply[PlacementGroup]) -> None:
        self.number = number
        self.value = value
        self.group = group
        self.reply = reply
        self.askers: dict[Life, None] = {}
        self.driver: asyncio.Task[None] | None = None
        self.changed = asyncio.Event()
        self.told_stuck = False
        self.stuck_since: float | None = None
        self.timer: Any = None


class PlacementGroups:
    """The placement groups that one node has to do with."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.hosted = Bundles(node.ledger)
        self._owned: dict[int, _Owned] = {}
        self._known: dict[RefId, Places | None] = {}  # of others; None: asked
        self._gone: dict[RefId, str] = {}
        self._sweeper: Any = None
        self._closed = False

    # -- making and removing -------------------------------------------------------------------------------------------

    def create(self, bundles: Sequence[Shape], strategy: Strategy, timeout: float | None) -> Reply[PlacementGroup]:
        """A new group of this node; the reply comes when all its bundles have a place."""
        node = self.node
        number = node.next_number()
        told = tuple(tuple(shape.as_dict().items()) for shape in bundles)
        value = PlacementGroup(node.life, number, node.address, told, strategy)
        owned = _Owned(number, value, Group(bundles, strategy, node.env.random), Reply(node))
        self._owned[number] = owned
        if timeout is not None:
            owned.timer = node.env.call_later(timeout, self._too_late, owned, timeout)
        self._drive(owned)
        return owned.reply

    def _too_late(self, owned: _Owned, timeout: float) -> None:
        if not owned.reply.done():
            owned.reply._fail(
                UnschedulableError(f"{owned.value} found no place within {timeout:g} s: {self._why(owned)}")
            )
            self.remove(owned.number, "it was not placed in time")

    def _why(self, owned: _Owned) -> str:
        wanted = ", ".join(f"{{{shape}}}" for shape in owned.group.bundles)
        rows = [f"{fact.name} with {fact.totals}" for fact in self.node.members.facts.values()]
        return f"it asks for {wanted} ({owned.value.strategy}); there are {'; '.join(rows)}"

    def remove(self, number: int, why: str = "it was removed") -> None:
        """A group of this node ends: what runs in it goes on, nothing new starts there."""
        owned = self._owned.pop(number, None)
        if owned is None:
            return
        self._gone[owned.value.ref_id] = why
        if owned.driver is not None:
            owned.driver.cancel()
        if owned.timer is not None:
            owned.timer.cancel()
        self._do(owned, owned.group.remove())
        for life in owned.askers:
            self._tell(life, ["gone", number, why])
        self.node.tasks.pump_soon()

    def fence(self, why: str) -> None:
        """This node takes a new life: its groups end, since other nodes have bundles of them."""
        for owned in list(self._owned.values()):
            if not owned.reply.done():
                owned.reply._fail(UnschedulableError(f"{owned.value} was not placed: {why}"))
            self.remove(owned.number, why)

    def _drive(self, owned: _Owned) -> None:
        if owned.driver is None and not self._closed:
            owned.driver = self.node.env.create_task(self._place(owned), "actorfw placement group")

    async def _place(self, owned: _Owned) -> None:
        env = self.node.env
        try:
            while owned.group.at is not None and not self._closed:
                pause = owned.group.at - env.time()
                if pause <= 0:
                    free = await self._free()
                    totals = {
                        fact.life: dict(fact.totals.amounts)
                        for fact in self.node.members.facts.values()
                        if fact.state in ("up", "joining", "stalled", "suspect") and self._hosts(fact)
                    }
                    self._do(owned, owned.group.due(free, totals, env.time()))
                    continue
                owned.changed.clear()
                try:
                    async with asyncio.timeout(pause):
                        await owned.changed.wait()
                except TimeoutError:
                    pass
        finally:
            owned.driver = None

    def _hosts(self, fact: placement.Member) -> bool:
        return fact.hosts == "all" or fact.life == self.node.life

    async def _free(self) -> dict[Life, dict[str, int]]:
        """What the members that are up say they have free."""
        node = self.node
        free = {node.life: _units(node.ledger.available())} if node.members.facts[node.life].state == "up" else {}
        others = [
            life
            for life, fact in node.members.facts.items()
            if life != node.life and fact.state == "up" and self._hosts(fact)
        ]
        some = node.env.random.sample(others, min(len(others), ASKED_AT_ONCE))
        peers = [peer for peer in map(node.members.peer, some) if peer is not None]

        async def ask(peer: Peer) -> None:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    free[peer.life] = _units(await node.asks.ask(peer, "available", None))
            except (ActorFwError, TimeoutError):
                pass  # it is not asked to host anything now

        await asyncio.gather(*map(ask, peers))
        return dict(sorted(free.items()))

    def _do(self, owned: _Owned, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Prepare(life, index, attempt, shape):
                    self._tell(life, ["prepare", owned.number, index, attempt, shape.amounts])
                case Commit(life, index, attempt):
                    self._tell(life, ["commit", owned.number, index, attempt])
                case Free(life, index, attempt):
                    self._tell(life, ["free", owned.number, index, attempt])
                case Placed():
                    owned.told_stuck = False
                    owned.stuck_since = None
                    self._placed(owned)
                case Stuck(ever):
                    now = self.node.env.time()
                    if owned.stuck_since is None:
                        owned.stuck_since = now
                    # A new group says so at once. One whose hosts go may be on its way out with them.
                    patience = PATIENCE if owned.reply.done() else 0.0
                    if ever and not owned.told_stuck and now - owned.stuck_since >= patience:
                        owned.told_stuck = True
                        logger.warning("%s waits, no members could host it: %s", owned.value, self._why(owned))

    def _placed(self, owned: _Owned) -> None:
        if owned.timer is not None:
            owned.timer.cancel()
            owned.timer = None
        if not owned.reply.done():
            owned.reply._settle(owned.value)
        self._tell_askers(owned)

    def _tell_askers(self, owned: _Owned) -> None:
        rows = [[index, life, shape.amounts] for index, life, shape in self._places_of(owned)]
        for life in list(owned.askers):
            self._tell(life, ["places", owned.number, rows])
        self.node.tasks.pump_soon()

    def _places_of(self, owned: _Owned) -> Places:
        group = owned.group
        return [(i, life, shape) for i, (life, shape) in enumerate(zip(group.hosts, group.bundles, strict=True))]

    # -- messages ------------------------------------------------------------------------------------------------------

    def _tell(self, life: Life, message: list[Any]) -> None:
        node = self.node
        if life == node.life:
            node.env.call_soon(self._on, life, message)
        else:
            peer = node.members.peer(life)
            if peer is not None:
                peer.send((m.BUNDLES, message))

    def on_bundles(self, peer: Peer, msg: list[Any]) -> None:
        """A message of another node's groups, or about its bundles here."""
        self._on(peer.life, msg[1])

    def _on(self, sender: Life, message: list[Any]) -> None:
        if self._closed:
            return
        kind, number, *rest = message
        now = self.node.env.time()
        group = (sender, number)
        if kind == "prepare":
            index, attempt, amounts = rest
            ok = not self.node.closing and self.hosted.prepare(group, index, attempt, Shape.from_wire(amounts), now)
            self._tell(sender, ["prepared", number, index, attempt, ok])
            self._sweep_later()
        elif kind == "commit":
            index, attempt = rest
            if not self.hosted.commit(group, index, attempt):
                self._tell(sender, ["prepared", number, index, attempt, False])
            self.node.tasks.pump_soon()
        elif kind == "free":
            self.hosted.free(group, *rest)
            self.node.tasks.pump_soon()
        elif kind == "prepared":
            owned = self._owned.get(number)
            if owned is not None:
                index, attempt, ok = rest
                self._do(owned, owned.group.answered(sender, index, attempt, ok, now))
                owned.changed.set()
                if owned.group.at is not None:
                    self._drive(owned)
        elif kind == "where":
            owned = self._owned.get(number)
            if owned is None:
                self._tell(
                    sender, ["gone", number, self._gone.get((self.node.life, number), "its owner does not know it")]
                )
            else:
                owned.askers[sender] = None
                rows = [[index, life, shape.amounts] for index, life, shape in self._places_of(owned)]
                self._tell(sender, ["places", number, rows])
        elif kind == "places":
            self._known[group] = [
                (index, None if life is None else as_bytes(life), Shape.from_wire(rows))
                for index, life, rows in rest[0]
            ]
            self.node.tasks.pump_soon()
        elif kind == "gone":
            self._forget(group, rest[0])

    def _forget(self, group: RefId, why: str) -> None:
        self._known.pop(group, None)
        self._gone[group] = why
        self.node.tasks.pump_soon()

    def _sweep_later(self) -> None:
        if self._sweeper is None and any(not row["committed"] for row in self.hosted.rows()):
            self._sweeper = self.node.env.call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        self.hosted.expire(self.node.env.time())
        self._sweep_later()

    # -- running in them -----------------------------------------------------------------------------------------------

    def choose(
        self,
        shape: Shape,
        scheduling: PlacementGroup | Bundle,
        exclude: set[bytes] | None,
        *,
        room: bool,
        lasting: bool,
    ) -> Choice:
        """Where something runs that asks for a group."""
        node = self.node
        group = scheduling.group if isinstance(scheduling, Bundle) else scheduling
        places = self._places(group)
        if isinstance(places, str):
            return Infeasible(f"{group} is gone: {places}", final=True)
        if places is None:
            return WAIT
        index = scheduling.index if isinstance(scheduling, Bundle) else None
        return placement.choose_in_group(
            shape,
            [(life, bundle) for each, life, bundle in places if index is None or each == index],
            me=node.life,
            room=room,
            members=list(node.members.facts.values()),
            rng=node.env.random,
            exclude=exclude or (),
            lasting=lasting,
        )

    def _places(self, group: PlacementGroup) -> Places | str | None:
        """Where its bundles lie; None while that is not known, or why there is no such group any more."""
        key = group.ref_id
        if key in self._gone:
            return self._gone[key]
        owned = self._owned.get(group.number) if group.owner == self.node.life else None
        if owned is not None:
            return self._places_of(owned)
        if group.owner == self.node.life:
            return "its owner does not know it"
        if key not in self._known:
            self._known[key] = None
            self.node.reach(group.owner, group.address, lambda found: self._reached(key, found))
        return self._known.get(key)

    def _reached(self, group: RefId, found: Any) -> None:
        if isinstance(found, Exception):
            self._forget(group, f"the node that made it can't be reached: {found}")
        else:
            found.send((m.BUNDLES, ["where", group[1]]))

    # -- deaths --------------------------------------------------------------------------------------------------------

    def peer_ended(self, life: Life, why: str) -> None:
        """A member is gone: what it owned is free, and what it hosted is placed anew."""
        self.hosted.owner_dead(life)
        for key in [key for key in self._known if key[0] == life]:
            self._forget(key, f"the node that made it is gone: {why}")
        now = self.node.env.time()
        for owned in list(self._owned.values()):
            owned.askers.pop(life, None)
            if life in owned.group.hosts:
                self._do(owned, owned.group.host_dead(life, now))
                self._tell_askers(owned)
                owned.changed.set()
                self._drive(owned)

    def members_changed(self) -> None:
        """Somebody has come: those that wait for room may find it there."""
        for owned in self._owned.values():
            if owned.driver is not None and owned.told_stuck:
                owned.group.at = self.node.env.time()
                owned.changed.set()

    def reborn(self) -> None:
        """This node was held for dead: whoever had bundles of its groups has freed them."""
        for number in list(self._owned):
            self.remove(number, "its owner was cut off and has begun a new life")
        for group in {row["group"] for row in self.hosted.rows()}:
            self.hosted.owner_dead(group[0])
        self._known.clear()

    def close(self) -> None:
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for owned in self._owned.values():
            if owned.driver is not None:
                owned.driver.cancel()
            if owned.timer is not None:
                owned.timer.cancel()
            if not owned.reply.done():
                owned.reply._fail(NodeClosedError(f"node {self.node.name} was shut down"))


def _units(amounts: dict[str, float]) -> dict[str, int]:
    return {name: round(amount * UNIT) for name, amount in amounts.items()}
