"""The rebirth of this node: others have held it for dead while it lived, so it goes on as a newcomer.

Responsible for: the order in which the parts of the node end what was shared, forget what others had, take the new
name, and join again; and for looking, as long as the node runs, for lives with which that has to be settled. Leaves to
others: who is reborn (`core.rebirth`, `runtime.tombstones`), and what each part has to rename (`runtime.renaming`).

    1. what was exported ends, with the reason "fenced": actors with a name or a handle elsewhere, actors that live here
       for others, work that runs here for others
    2. every session ends, as if all others had died at this moment
    3. what never left is renamed from the old life to the new one
    4. the node joins by the one that made it, its seeds, and the addresses it knew
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.rebirth import View
from actorfw.core.records import Phase
from actorfw.core.renaming import Renaming
from actorfw.runtime.peer import OwnAddressError
from actorfw.runtime.renaming import fenced, rename
from actorfw.values.errors import ActorDiedError, ActorFwError
from actorfw.values.events import Reborn
from actorfw.values.ids import NODE_ID_BYTES, RefId, life_of

if TYPE_CHECKING:
    from actorfw.runtime.node import Node

__all__ = ["Rebirth"]

logger = logging.getLogger("actorfw.members")

REDIAL_SECONDS: Final = 10.0
REMEMBERED_SECONDS: Final = 24 * 3600.0
AGAIN_SECONDS: Final = 1.0  # between two rounds through the addresses
ROUNDS: Final = 3  # in which nobody but newcomers is found before one of them begins the cluster anew


class Rebirth:
    """A node's lives, and its search for who may hold it for dead.

    Attributes:
        lived: how many lives it had before this one.
        under_way: while the parts of the node pass from one life to the next.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.lived = 0
        self.under_way = False
        self._led: dict[str, bytes] = {}  # the lives that answered at addresses by which no member goes
        self._former: list[tuple[Renaming, str]] = []
        self._due: tuple[str, str] | None = None
        self._joining: asyncio.Task[None] | None = None
        self._redialling: asyncio.Task[None] | None = None
        self._timer: Any = None
        stones = node.peers.tombstones
        stones.told = self._told
        stones.view = lambda: View.of(record.born for record in node.failure.machine.view.values())

    def start(self) -> None:
        """The node is up: look around from now on."""
        self._later()

    def close(self) -> None:
        """The node closes."""
        if self._timer is not None:
            self._timer.cancel()
        for task in (self._joining, self._redialling):
            if task is not None:
                task.cancel()

    # -- looking for others --------------------------------------------------------------------------------------------

    def _later(self) -> None:
        env = self.node.env
        self._timer = env.call_later(REDIAL_SECONDS * env.random.uniform(0.5, 1.5), self._redial)

    def _redial(self) -> None:
        self._later()
        if self._redialling is None and self._joining is None:
            self._redialling = self.node.env.create_task(self._look(), "actorfw redial")
            self._redialling.add_done_callback(self._looked)

    def _looked(self, _: Any) -> None:
        self._redialling = None

    async def _look(self) -> None:
        """Dial one address at which somebody may be whom this node does not have in its view."""
        node = self.node
        node.seeds.enter()
        found = await self._addresses()
        view = node.failure.machine.view
        members = {record.address for record in view.values()}
        self._led = {address: life for address, life in self._led.items() if address in found and life in view}
        strangers = [address for address in found if address not in members and address not in self._led]
        if not strangers:
            return
        address = node.env.random.choice(strangers)
        try:
            self._led[address] = (await node.peers.dial(address)).life
        except ActorFwError as error:
            logger.debug("nobody new at %s: %s", address, error)

    async def _addresses(self) -> list[str]:
        """Where this node may find a cluster: its seeds, and who is over for it since a day at most."""
        node = self.node
        seeds = await node.seeds.look()
        found = dict.fromkeys((*seeds.addresses, *node.peers.tombstones.addresses(REMEMBERED_SECONDS)))
        own = (node.address, node.listen_address)
        return [address for address in found if address not in own]

    # -- a new life ----------------------------------------------------------------------------------------------------

    def _told(self, life: bytes, address: str, why: str) -> None:
        self.begin(why, address)

    def begin(self, why: str, address: str = "") -> None:
        """This node is to be reborn: soon, and not amid the handling of a message.

        Args:
            why: says who holds it for dead, and since when.
            address: of a member of the cluster to join.
        """
        if self._due is None and not self.node.closing:
            self._due = (why, address)
            self.node.env.call_soon(self._now)

    def _now(self) -> None:
        node = self.node
        if self._due is None or node.closing:
            return
        (why, address), self._due = self._due, None
        old = node.life
        renaming = Renaming(old, life_of(old[:NODE_ID_BYTES], node.env.token(8)))
        spell = f"this node was cut off: {why}"
        logger.warning("node %s takes a new life: %s", node.name, why)
        known = [record.address for record in node.failure.machine.view.values() if record.life != old]
        self.under_way = True
        try:
            self._former.append((renaming, spell))
            self._fence(spell)
            node.peers.reborn(renaming.new, spell)
            node.members.forget()
            rename(node, renaming, spell)
            self.lived += 1
            node.members.introduce_self(self.lived)
        finally:
            self.under_way = False
        node.events.publish(Reborn(node.id, node.name, node.address, why))
        node.tasks.pump_soon()
        if self._joining is not None:
            self._joining.cancel()
        self._joining = node.env.create_task(self._join(address, known), "actorfw join again")

    def _fence(self, why: str) -> None:
        """End what others know of: they have been told that it is gone, or have begun it anew."""
        node = self.node
        node.detached.reborn()  # they are the next keeper's, and go on or begin anew there
        node.guardians.fence(why)
        node.bundles.fence(why)
        for cell in [*node.hosting.cells.values()]:
            if cell.guardian != node.life:
                cell.end("fenced")

    async def _join(self, address: str, known: list[str]) -> None:
        """Become a member again; alone, if nobody was to be found for `join_timeout`. Then `_look` goes on looking."""
        node = self.node
        until = node.env.time() + node.config.join_timeout
        node.directory.start(founder=False)
        first = 0  # rounds in which it was this node's to begin the cluster anew
        while True:
            for where in dict.fromkeys((address, *await self._addresses(), *known)):
                if not where or where == node.address:
                    continue
                try:
                    async with asyncio.timeout(max(AGAIN_SECONDS, until - node.env.time())):
                        await node.joining._join_by(await node.peers.dial(where))
                    break
                except (OwnAddressError, TimeoutError):
                    continue
                except ActorFwError as error:
                    logger.info("node %s could not join again by %s: %s", node.name, where, error)
            else:
                first = first + 1 if self._is_first_of_newcomers() else 0
                alone = node.env.time() >= until and len(node.failure.machine.view) == 1
                if not alone and first < ROUNDS:
                    await asyncio.sleep(AGAIN_SECONDS * node.env.random.uniform(0.5, 1.5))
                    continue
                node.directory.start(founder=True)
                node.failure.set_phase(Phase.UP)
            break
        self._joining = None

    def _is_first_of_newcomers(self) -> bool:
        """Whether all the others are newcomers too, as when each was declared dead by another: no cluster is left.

        One of them has to begin it anew. Should two do so, they become one cluster when they meet.
        """
        records = self.node.failure.machine.view.values()
        reborn = [record.life for record in records if record.lived]
        return (
            len(reborn) > 1
            and min(reborn) == self.node.life
            and all(record.phase is Phase.JOINING for record in records)
        )

    # -- former lives --------------------------------------------------------------------------------------------------

    def lost(self, life: bytes) -> str | None:
        """Why an id with this life can't lead anywhere: it was another's, or shared, before a rebirth."""
        for renaming, why in self._former:
            if renaming.is_lost(life):
                return why
        return None

    def fenced(self, id: RefId, why: str) -> ActorDiedError:
        """How an actor has ended for this node that was another's, or shared, before a rebirth."""
        return fenced(id, why)

    def current(self, id: RefId) -> RefId:
        """The id that something of this node's own has now; itself if it has not changed."""
        if any(renaming.old == id[0] for renaming, _ in self._former):
            return self.node.life, id[1]
        return id
