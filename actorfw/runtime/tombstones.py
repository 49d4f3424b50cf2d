"""Lives that are over for this node, and what happens when one of them turns up again, or a life that has buried us.

Remembers who was declared dead or seen leaving; says in handshakes whether the other side is among them, and decides
as acceptor who of two is to be reborn (`core.rebirth`). That this node has to be is told to whoever is `told`; doing it
is `runtime.rebirth`'s.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

from actorfw.core.rebirth import Contest, Side, View
from actorfw.core.session import EndReason
from actorfw.values.data import Data
from actorfw.values.errors import PeerUnreachableError
from actorfw.values.ids import NODE_ID_BYTES, Life

if TYPE_CHECKING:
    from actorfw.core.handshake import Proof, Refused
    from actorfw.runtime.links import AcceptGreeting, DialGreeting
    from actorfw.runtime.peers import Peers

__all__ = ["TOMBSTONES", "Tombstone", "Tombstones"]

TOMBSTONES: Final = 10_000
"""Lives that are over and remembered, and addresses of such, the newest."""


class Tombstone(Data):
    """How a life ended for this node."""

    reason: EndReason
    detail: str
    since: float


class Tombstones:
    """The tombstones of one node's present life.

    Attributes:
        told: called with (life, address, why) when this node is to be reborn for the sake of that life. Until somebody
            does it, that life is held for dead.
        view: this node's view, for the contest.
        where: address of each life that was a peer and is over, and when that was, newest last: where to look for it
            again. Outlives a rebirth.
    """

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._env = peers.env
        self._stones: OrderedDict[Life, Tombstone] = OrderedDict()
        # Of each node that has had several lives: the newest that has shown itself, and how many it had before.
        self._newest: dict[bytes, tuple[int, Life]] = {}
        self._over: set[Life] = set()  # for certain: it has a successor, or said that it will
        self._contest = Contest(peers.me.life)
        self.told: Callable[[Life, str, str], None] = lambda life, address, why: peers.bury(life, why)
        self.view: Callable[[], View] = self._view
        self.where: OrderedDict[str, float] = OrderedDict()

    def __contains__(self, life: Life) -> bool:
        return life in self._stones

    def __len__(self) -> int:
        return len(self._stones)

    def reborn(self) -> None:
        """This node has a new life: it has buried nobody."""
        self._stones.clear()
        self._newest.clear()
        self._over.clear()
        self._contest = Contest(self._peers.me.life)

    def note(self, life: Life, reason: EndReason, detail: str, address: str) -> None:
        """A life is over for this node."""
        now = self._env.time()
        self._stones[life] = Tombstone(reason, detail, now)
        while len(self._stones) > TOMBSTONES:
            self._stones.popitem(last=False)
        if address:
            self.where.pop(address, None)
            self.where[address] = now
            while len(self.where) > TOMBSTONES:
                self.where.popitem(last=False)

    def proven(self, life: Life, lived: int) -> bool:
        """This life has authenticated itself, after so many others of its node; False if it has a successor.

        What a life said while it was the newest may be read when it is not any more.
        """
        node = life[:NODE_ID_BYTES]
        newest = self._newest.get(node)
        if newest is not None and newest[1] != life:
            if newest[0] > lived or life in self._over:
                self._over.add(life)
                return False
            self._over.add(newest[1])
        self._newest[node] = lived, life
        return True

    def _view(self) -> View:
        me = self._peers.me
        return View.of([me.born, *(float(peer.info.get("born", 0.0)) for peer in self._peers.by_life.values())])

    def side(self, other: Life) -> Side:
        """What this node says in a handshake with that life."""
        stone = self._stones.get(other)
        buried = None if stone is None or stone.reason == "left" else self._env.time() - stone.since
        return Side(self._peers.me.life, self.view(), buried)

    def epitaph(self, stone: Tombstone) -> str:
        """A tombstone's words for the one under it."""
        ago = self._env.time() - stone.since
        what = "seen leaving" if stone.reason == "left" else "declared dead"
        return f"you were {what} by node {self._peers.me.name} {ago:.1f} s ago: {stone.detail}"

    # -- as dialler ----------------------------------------------------------------------------------------------------

    def challenged(self, greeting: DialGreeting, life: Life) -> bool:
        """A life answers a dial. True if it is over for this node: then all that there is to do has been done."""
        stone = self._stones.get(life)
        if stone is None:
            return False
        if stone.reason == "left" or life in self._over:
            greeting.leave(greeting.shake.refuse("left" if stone.reason == "left" else "over", self.epitaph(stone)))
            greeting.over(PeerUnreachableError(f"{greeting.where} is a life that this node holds for {stone.reason}"))
        elif self._contest.offering(life):
            greeting.contend(life)
        else:
            greeting.fail(PeerUnreachableError(f"{greeting.where} is being asked already which of both is reborn"))
        return True

    def contest_over(self, life: Life) -> None:
        """An offer made after `challenged` was answered, or is lost."""
        self._contest.answered(life)

    def refused(self, life: Life, address: str, answer: Refused) -> None:
        """The other side of a dial, authenticated, refuses because of a tombstone, its own or this node's."""
        if answer.code in ("dead", "over") and self._contest.obeys(life, self._env.time()):
            self.told(life, address, answer.text)
        elif answer.code == "reborn":
            self.over(life, answer.text)

    def over(self, life: Life, detail: str) -> None:
        """A life has said itself that it is over."""
        self._over.add(life)
        self._peers.bury(life, detail)

    # -- as acceptor ---------------------------------------------------------------------------------------------------

    def offered(self, greeting: AcceptGreeting, proof: Proof) -> bool:
        """A life offers a link. True if one of both is over for the other: then it has been answered.

        Raises:
            ProtocolError: what it says of itself has the wrong shape.
        """
        said = Side.from_wire(proof.life, proof.side)
        stone = self._stones.get(proof.life)
        if stone is not None and stone.reason == "left":
            greeting.refuse("left", self.epitaph(stone))
            return True
        if proof.life in self._over or not self.proven(proof.life, int(proof.info.get("lived", 0))):
            greeting.refuse("over", "your node has another life by now")
            return True
        decision: Literal["meet", "acceptor", "dialler", "later"]
        decision = self._contest.accepted(said, self.side(proof.life), self._env.time())
        if decision == "meet":
            return False
        address = str(proof.info.get("address", ""))
        if decision == "later":
            greeting.refuse("later", "this node is asking the same thing at this moment")
        elif decision == "dialler":
            assert stone is not None  # nobody is to be reborn for a side that has buried nobody
            greeting.refuse("dead", self.epitaph(stone))
        else:
            greeting.refuse("reborn", f"node {self._peers.me.name} takes a new life")
            name = str(proof.info.get("name", ""))
            why = f"node {name} declared it dead {said.buried or 0.0:.1f} s ago"
            self.told(proof.life, address, why)
        return True

    # -- for the redialling --------------------------------------------------------------------------------------------

    def addresses(self, within: float) -> list[str]:
        """Where lives that ended here within so many seconds could be dialled."""
        since = self._env.time() - within
        return [address for address, at in self.where.items() if at >= since]
