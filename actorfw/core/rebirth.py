"""Who is reborn when two lives meet of which one has buried the other, or each has.

A death verdict is final for the life that it is about, and it can be wrong: a partition, a freeze. When the network
heals, the two lives can't both go on as members of one cluster, since one has already ended what it shared with the
other. One of them takes a new life: it gives up what it had shared, and joins as a newcomer.

The decision is one node's, made from what both say of themselves in one handshake: the acceptor has both statements,
decides, and tells. So two sides never apply the rule to different figures.

    buried by          reborn is
    neither            nobody: they meet as members do
    one                the one that is buried: all that it shared has ended elsewhere already
    both               the one with the smaller view: fewer members alive in it; if equal, the view whose oldest
                       member is younger; if equal, the larger life

After a rebirth nobody holds a tombstone of the new life, and it holds none itself. Each rebirth takes away at least one
pair of lives of which one has buried the other, and nothing here makes a new pair. So it ends, whichever way each
meeting was decided; the rule only sees to it that few are reborn, and those that have least to lose.

Two handshakes of the same two nodes may cross, and views change between them, so that each side might be reborn for
the other's sake. Hence `Contest`: a node has one offer to a life open at a time; while it has, it decides nothing about
that life, if its own is the lower one; and it does not obey a life that it has itself told to be reborn, until that is
old. Then at worst neither is reborn, and they meet again.

Pure: no clock; what a rebirth does to a node is `runtime.rebirth`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from actorfw.values.errors import ProtocolError
from actorfw.values.ids import Life

__all__ = ["CONDEMNED_SECONDS", "Contest", "Decision", "Side", "View", "decide"]

CONDEMNED_SECONDS: Final = 5.0
"""For so long a life that was told to be reborn is not obeyed: longer than the two crossing handshakes take."""

Decision: TypeAlias = Literal["meet", "acceptor", "dialler"]
"""Nobody is reborn, or which of the two is."""


class View(NamedTuple):
    """A node's view in two figures.

    Attributes:
        alive: how many members live in it, the node itself included.
        oldest: when the oldest of them was born, in seconds of its own wall clock. Only decides between equals, so
            clocks need not agree.
    """

    alive: int
    oldest: float

    @classmethod
    def of(cls, births: Iterable[float]) -> View:
        """The view with members that were born at these times."""
        born = list(births)
        return cls(len(born), min(born, default=0.0))


class Side(NamedTuple):
    """What one side of a handshake says of the other and of itself.

    Attributes:
        life: who says it.
        view: its view.
        buried: for how many seconds it has held the other for dead; None if it has not.
    """

    life: Life
    view: View
    buried: float | None

    def to_wire(self) -> list[Any]:
        """All but the life, which the handshake proves."""
        return [self.view.alive, self.view.oldest, self.buried]

    @classmethod
    def from_wire(cls, life: Life, wire: Any) -> Side:
        """The inverse of `to_wire`.

        Raises:
            ProtocolError: it is not such a list.
        """
        if type(wire) is not list or len(wire) != 3:
            raise ProtocolError(f"a view in a handshake is [members, oldest, buried], not {wire!r:.100}")
        alive, oldest, buried = wire
        numbers = type(alive) is int and alive > 0 and type(oldest) is float
        if not numbers or not (buried is None or type(buried) is float):
            raise ProtocolError(f"a view in a handshake is [members, oldest, buried], not {wire!r:.100}")
        return cls(life, View(alive, oldest), buried)


def decide(dialler: Side, acceptor: Side) -> Decision:
    """Who of two lives that meet is reborn, by the table in the module's docstring."""
    if dialler.buried is None and acceptor.buried is None:
        return "meet"
    if acceptor.buried is None:
        return "acceptor"
    if dialler.buried is None:
        return "dialler"
    return "dialler" if _weight(dialler) < _weight(acceptor) else "acceptor"


def _weight(side: Side) -> tuple[int, float, tuple[int, ...]]:
    """The lighter of two sides is reborn."""
    return side.view.alive, -side.view.oldest, tuple(-byte for byte in side.life)


class Contest:
    """One node's meetings with lives that it has buried or that have buried it: see the module's docstring.

    Args:
        life: this node's.
    """

    def __init__(self, life: Life) -> None:
        self._life = life
        self._offers: set[Life] = set()
        self._condemned: dict[Life, float] = {}

    def offering(self, to: Life) -> bool:
        """This node has reached that life and is about to say its part; False if it has done so on another link."""
        if to in self._offers:
            return False
        self._offers.add(to)
        return True

    def answered(self, by: Life) -> None:
        """The offer was answered, or its connection is gone."""
        self._offers.discard(by)

    def accepted(self, dialler: Side, acceptor: Side, now: float) -> Decision | Literal["later"]:
        """This node is the acceptor and decides; "later": the dialler is to try again."""
        decision = decide(dialler, acceptor)
        if decision == "meet":
            return decision
        if dialler.life in self._offers and self._life < dialler.life:
            return "later"
        if decision == "dialler":
            self._condemned[dialler.life] = now + CONDEMNED_SECONDS
        return decision

    def obeys(self, by: Life, now: float) -> bool:
        """Whether this node is to be reborn because that life says so."""
        for life in [life for life, until in self._condemned.items() if until <= now]:
            del self._condemned[life]
        return by not in self._condemned
