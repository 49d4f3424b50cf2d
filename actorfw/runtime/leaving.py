"""Leaving: how this node takes itself out of the cluster without taking anything from anybody.

Responsible for: the order of the steps, the time limit, and what had to be given up. Leaves to others: the rules of the
hand-over (`core.inheritance`), moving actors (their guardians), names (`runtime.directory`), and closing (`Node.stop`).

`drain` ends what this node does for the cluster: nothing new is placed here, what waits goes elsewhere, what runs is
finished, actors move, and then an heir takes over what others hold. `shutdown` ends a program: its own calls fail, its
actors end; only `hand_over` is done, so that values that others hold outlive it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.inheritance import Bequest, Step
from actorfw.core.records import Phase
from actorfw.runtime.heirs import bytes_of
from actorfw.runtime.rows import DrainReport
from actorfw.runtime.store.elsewhere import LEAVES
from actorfw.values.errors import ActorFwError
from actorfw.values.ids import RefId, is_detached, node_id_of
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.runtime.guarded import Guarded
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Leaving"]

logger = logging.getLogger("actorfw.node")

NAMES_SECONDS: Final = 5.0  # for handing over names; whoever is left recovers the rest
OFFER_SECONDS: Final = 2.0  # in which a candidate has to consent
HAND_OVER_SECONDS: Final = 5.0  # for the estate, also when the time for everything else is over
TURNS: Final = 5  # of the loop
LOOK_AGAIN: Final = 0.01  # seconds


class Leaving:
    """The last things that one node does."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.begun = False
        self._bequest: Bequest | None = None
        self._report: asyncio.Future[DrainReport] | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed: asyncio.Event | None = None
        self._given_up: dict[RefId, Guarded] = {}  # actors that the heir guards, or is about to
        self._askers: list[tuple[Peer, list[Any]]] = []

    @property
    def heir(self) -> bytes | None:
        """Who is asked, or has consented, to take over."""
        return self._bequest.heir if self._bequest is not None else None

    @property
    def moved(self) -> bool:
        """Whether others have been told of the heir."""
        return self._bequest is not None and self._bequest.state == "moved"

    # -- draining ------------------------------------------------------------------------------------------------------

    def leave(self, timeout: float) -> asyncio.Future[DrainReport]:
        """Leave when all that this node does is done, and after `timeout` seconds at the latest. It is closed then.

        Asked twice, there is one answer, of the first. Whoever waits for it may go away: the node leaves all the same.
        """
        if self._report is None:
            self._report = self.node.env.create_future()
            self._task = self.node.env.create_task(
                self._leave(timeout, self._report), f"actorfw drain {self.node.name}"
            )
        return asyncio.shield(self._report)

    def announce(self) -> None:
        """This node will leave: nothing new is placed here, and what waits here for others goes elsewhere. The program
        here goes on as before."""
        self.begun = True
        self.node.failure.set_phase(Phase.LEAVING)
        self.node.execution.bounce_waiting()

    async def _leave(self, timeout: float, report: asyncio.Future[DrainReport]) -> None:
        try:
            report.set_result(await self._drain(timeout))
        finally:
            if not report.done():
                report.cancel()
            for _ in range(TURNS):  # whoever asked is answered before the goodbye
                await asyncio.sleep(0)
            await self.node.stop()

    async def _drain(self, timeout: float) -> DrainReport:
        node = self.node
        began = node.env.time()
        until = began + timeout
        logger.info("node %s drains, for %g s at most", node.name, timeout)
        self.announce()
        if node.peers.by_life:
            await node.directory.leave(min(NAMES_SECONDS, timeout))
        self._move_actors()
        await self._until(self._quiet, until)
        await self._until(lambda: not node.heirs.pledged, until)
        report = {
            "tasks": len(node.tasks.open) + node.execution.foreign,
            "calls": sum(1 for call in node.calls.open.values() if not call.tell),
            "actors": self._needed(),
        }
        last = self._last()
        node.execution.give_up()
        node.end_work("drained")
        lost, heir = await self.hand_over(max(until, node.env.time() + HAND_OVER_SECONDS))
        found = DrainReport(
            node=node.name,
            heir=node_id_of(heir) if heir is not None else None,
            seconds=node.env.time() - began,
            objects=lost,
            **report,
        )
        if not found.complete:
            # A cluster that ends, ends its detached actors: that is nobody's loss who is still there.
            ends = last and not (found.tasks or found.calls or found.objects)
            level = logging.INFO if ends else logging.WARNING
            logger.log(level, "node %s left before all was done: %s", node.name, found)
        return found

    def _quiet(self) -> bool:
        """Nothing that others, or the program here, wait for is under way. Actors wait for nobody if nobody stays."""
        node = self.node
        if node.tasks.open or node.calls.open or node.execution.foreign:
            return False
        return not self._needed() or self._last()

    def _last(self) -> bool:
        """Whether no member stays: the cluster ends with this node, or with others that leave at the same time."""
        life = self.node.life
        return all(fact.state == "leaving" for of, fact in self.node.members.facts.items() if of != life)

    def _needed(self) -> int:
        """How many actors here somebody else has handles of. Those of this node's own program alone end with it."""
        node = self.node
        others = node.heirs.estate.elsewhere
        return sum(1 for cell in node.hosting.cells.values() if cell.guardian != node.life or others(cell.id))

    def _move_actors(self) -> None:
        """Guardians place elsewhere what may live elsewhere. What may not stays until its handles are gone."""
        node = self.node
        if self._last():
            return
        for cell in list(node.hosting.cells.values()):
            if cell.guardian == node.life or node.detached.guards(cell.id):
                node.guardians.move(cell.id)
            elif is_detached(cell.guardian):
                node.detached.move(cell.id)
            else:
                peer = node.peers.by_life.get(cell.guardian)
                if peer is not None:
                    node.asks.ask(peer, "move", list(cell.id))

    async def _until(self, true: Callable[[], bool], until: float) -> None:
        while not true() and self.node.env.time() < until:  # noqa: ASYNC110  (not everything that ends says so)
            await asyncio.sleep(LOOK_AGAIN)

    # -- handing over --------------------------------------------------------------------------------------------------

    async def hand_over(self, until: float) -> tuple[int, bytes | None]:
        """Find an heir for what others hold, and wait until they have turned to it.

        Returns:
            How many objects and actors are lost to others, and the heir.
        """
        node = self.node
        self.begun = True
        self._changed = asyncio.Event()
        await self._give_back_copies(until)
        node.objects.sweep()
        self._bequest = bequest = Bequest(node.heirs.estate, self._candidates())
        self._do(bequest.start())
        while not bequest.done:
            left = until - node.env.time()
            if left <= 0 or (bequest.state == "alone" and node.heirs.estate.ids()):
                break
            self._changed.clear()
            try:
                async with asyncio.timeout(min(left, LOOK_AGAIN)):
                    await self._changed.wait()
            except TimeoutError:
                pass
        if bequest.state == "moved" and bequest.heir is not None:
            recipes = [actor.recipe for actor in self._given_up.values()]
            await node.environments.hand_over(bequest.heir, recipes, until)
        return len(node.heirs.estate.ids()), bequest.heir if bequest.state == "moved" else None

    async def _give_back_copies(self, until: float) -> None:
        """What is kept here for others goes back to them, or they find that they have it from elsewhere."""
        node = self.node
        for id, copy in list(node.copies.by_id.items()):
            node.pulls.tell_owner(id, copy.version, LEAVES)
        await self._until(lambda: not node.copies, until)

    def _candidates(self) -> list[bytes]:
        """Members that are up: those that take work of others first, then those that have least to do."""
        node = self.node
        found = [
            (fact.hosts == "own", fact.load, life)
            for life, fact in node.members.facts.items()
            if life != node.life and fact.state == "up" and life in node.peers.by_life
        ]
        return [life for _, _, life in sorted(found)]

    def _do(self, steps: list[Step]) -> None:
        node = self.node
        for step in steps:
            if step[0] == "offer":
                self._offer(step[1])
            elif step[0] == "inherit":
                self._send_estate(node.peers.by_life[step[1]], list(step[2]))
            elif step[0] == "moved":
                self._tell_all(step[1])
            elif step[0] == "do":
                node.objects.carry_out(step[1])
            else:
                logger.warning("node %s found no heir: what it owns ends with it", node.name)
        if self._changed is not None:
            self._changed.set()

    def _offer(self, heir: bytes) -> None:
        node = self.node
        bequest = self._bequest
        assert bequest is not None
        size = bytes_of(node.objects.outcome(id) for id in node.heirs.estate.ids())
        reply = node.asks.ask(node.peers.by_life[heir], "inherit", [size])
        late = node.env.call_later(OFFER_SECONDS, lambda: self._do(bequest.consented(heir, False)))

        def answered(done: Any) -> None:
            late.cancel()
            try:
                willing = bool(done.result())
            except ActorFwError:
                willing = False
            self._do(bequest.consented(heir, willing))

        reply.add_done_callback(answered)

    def _send_estate(self, peer: Peer, ids: list[tuple[bytes, int]]) -> None:
        node = self.node
        for id in ids:
            actor = node.guardians.actors.get(id)
            if actor is not None:
                node.guardians.send_record(peer, actor)
                node.guardians.give_up(id)
                self._given_up[id] = actor
                continue
            found = node.objects.outcome(id)
            state, out = found if found is not None else (m.ERROR, node.objects.closed_out())
            if state == m.STORED:
                out = node.locations.bequest(id)
            node.outbound.send_value(peer, (m.INHERIT, *id, state), out)
        names = node.directory.granted(ids)
        peer.send((m.INHERITED, [list(id) for id in ids], names))

    def inherited(self, peer: Peer) -> None:
        """The heir has what it was sent."""
        bequest = self._bequest
        if bequest is not None:
            self._do(bequest.inherited(peer.life))
            if self.moved:
                ownership = self.node.objects.ownership
                for id in self._given_up:  # the name is the heir's to hold
                    self.node.objects.carry_out(ownership.unstore(("name", id)))

    def now_guards(self, id: RefId) -> Peer | None:
        """The heir, if it guards this actor or is about to: whatever comes here about the actor is passed on."""
        if id not in self._given_up or self.heir is None:
            return None
        return self.node.peers.by_life.get(self.heir)

    def asks_too_late(self, peer: Peer, msg: list[Any]) -> bool:
        """Somebody asks where an actor is that is being handed over: they ask the heir once they hear of it."""
        given = (msg[1], msg[2]) in self._given_up
        if given and not self.moved:
            self._askers.append((peer, msg))
        return given

    def ended_there(self, host: bytes, id: RefId, incarnation: int, reason: str, out: Any) -> None:
        """A host tells of an actor that is not guarded here any more."""
        heir = self.now_guards(id)
        if heir is not None:
            self.node.outbound.send_value(heir, (m.RELAY, host, *id, incarnation, reason), out)

    def _tell_all(self, heir: bytes) -> None:
        node = self.node
        for id, actor in list(node.guardians.actors.items()):
            if actor.name is None:
                node.guardians.end(id, "owner_died")  # nobody else has a handle: their hosts must not take them over
        address = node.members.addresses.get(heir, "")
        node.failure.set_phase(Phase.LEAVING_WITH_HEIR, heir)  # for those that there is no session with
        node.locations.handed_over()
        for peer in list(node.peers.by_life.values()):
            peer.send((m.MOVED, [(node.life, heir, address)]))

    def peer_up(self, peer: Peer) -> None:
        """A session began: its other end may come for what has moved on."""
        bequest = self._bequest
        if bequest is not None and bequest.state == "moved" and bequest.heir is not None:
            address = self.node.members.addresses.get(bequest.heir, "")
            peer.send((m.MOVED, [(self.node.life, bequest.heir, address)]))

    def peer_ended(self, life: bytes) -> None:
        """A node is gone, perhaps the heir. Before ownership hears of it."""
        bequest = self._bequest
        if bequest is None:
            return
        if life == bequest.heir and bequest.state == "handing":
            given, self._given_up = self._given_up, {}
            askers, self._askers = self._askers, []
            for actor in given.values():
                self.node.guardians.adopt(actor)
            for peer, msg in askers:
                self.node.guardians.on_locate(peer, msg)
        self._do(bequest.dead(life))
