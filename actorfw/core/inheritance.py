"""Leaving without loss: how what a node owns passes to an heir while others go on using it.

Responsible for: the estate of a leaver in its own, its heir's and everybody else's records of holding, the order of the
messages by which it changes hands, and the table of who inherited from whom. Leaves to others: values, actors, sending,
choosing whom to ask, and judging who is dead. No clock, no chance.

The idea: after the hand-over *the leaver is an ordinary borrower* of what it owned. It is listed at the heir, and those
that it had listed hang on it as on anybody who passed a ref on. Each of them registers with the heir by the rules of
`core.ownership` as soon as it hears who that is, and then returns the leaver's protection. When nobody hangs on the
leaver any more it may go; should it die before, that is a borrower's death, and the grace covers it. No message has to
be relayed, and none needs a repeat.

    leaver                          heir                               others
    offer ─────────────────────────▶ consent, or not
    inherit(ids, values) ──────────▶ owns them, lists the leaver
         ◀───────────────────────── inherited
    (again, for what was given to somebody meanwhile)
    moved(heir) ───────────────────▶ and to all others ────────────────▶ whom the leaver protects registers:
                                         ◀──────────────────────────── borrow
    ◀─────────────────────────────────── return ─────────────────────── as soon as it is granted
    goodbye, when nobody hangs on it

Between `inherit` and `inherited` both own the ids, each for those who know of it only: the leaver holds them until then
whatever is returned to it, so neither frees what the other's borrowers hold. An heir that dies before anybody was told
of it costs nothing: the leaver takes all back and asks another. One that dies later is an owner's death. To consent is
to stay: an heir does not begin to leave itself before the leaver has told all others, and a leaver consents to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

from actorfw.core.ownership import Instruction, Ownership, Peer
from actorfw.values.ids import Life, RefId

__all__ = ["Bequest", "Estate", "Heirs", "Step"]


class Heirs:
    """Who answers now for what a life owned and guarded. Chains are followed; an unknown life answers for itself.

    Args:
        keep: seconds after which a life that left is forgotten.
    """

    def __init__(self, keep: float) -> None:
        self._keep = keep
        self._heirs: dict[Life, tuple[Life, str, float]] = {}

    def of(self, life: Life) -> Life:
        """The life that answers for `life` now."""
        found = self._heirs.get(life)
        seen = {life}
        while found is not None and found[0] not in seen:
            life = found[0]
            seen.add(life)
            found = self._heirs.get(life)
        return life

    def address(self, life: Life, default: str) -> str:
        """Where the life that answers for `life` is dialled; `default` is `life`'s own address."""
        heir = self.of(life)
        return next((address for to, address, _ in self._heirs.values() if to == heir), default)

    def enter(self, life: Life, heir: Life, address: str, now: float) -> bool:
        """`life` has left its estate to `heir`. Whether that is news."""
        for old in [old for old, (_, _, since) in self._heirs.items() if now - since > self._keep]:
            del self._heirs[old]
        if life == heir or life in self._heirs or self.of(heir) == life:
            return False
        self._heirs[life] = (heir, address, now)
        return True

    def rows(self) -> list[tuple[Life, Life, str]]:
        """(life, heir, the heir's address) of all that is known, for somebody who is new."""
        return [(life, heir, address) for life, (heir, address, _) in self._heirs.items()]

    def __len__(self) -> int:
        return len(self._heirs)


class Estate:
    """The three parts that a node can have in a hand-over, in terms of its `Ownership`."""

    def __init__(self, ownership: Ownership, named: Callable[[], Iterable[RefId]] = tuple) -> None:
        self._ownership = ownership
        self._named = named  # actors of this node that have names, which are handles too
        self._handing: tuple[RefId, ...] = ()

    # The leaver

    def ids(self) -> list[RefId]:
        """What others hold of what this node owns: what an heir is needed for. Workers of this node do not count.

        The dead count while their grace lasts, since whoever had it from them may be about to register, and so do
        calls that are out, since the answer may say that the callee keeps it.
        """
        own = self._ownership
        named = frozenset(self._named())
        return [
            id
            for id, record in own._records.items()
            if own.owner(id) == own._life
            and record.reg != "lost"
            and (record.calls or id in named or any(map(_counts, record.lent or ())))
        ]

    def elsewhere(self, id: RefId) -> bool:
        """Whether anybody else is known to hold this."""
        record = self._ownership._records.get(id)
        return record is not None and any(map(_counts, record.lent or ()))

    @property
    def handing(self) -> tuple[RefId, ...]:
        """What was sent to the heir and not confirmed."""
        return self._handing

    def bequeath(self, ids: Iterable[RefId]) -> None:
        """These are about to be sent to the heir: hold them until it has answered."""
        self._handing = tuple(dict.fromkeys(ids))
        for id in self._handing:
            self._ownership._records[id].inside += 1

    def inherited(self, heir: Life) -> list[Instruction]:
        """The heir has them: from now on this node has borrowed them from it."""
        own = self._ownership
        out: list[Instruction] = []
        if heir in own._dead:
            return out
        own._seen[heir] = own._seen.get(heir, 0) + 1
        ids, self._handing = self._handing, ()
        for id in ids:
            own._given[id] = heir
        for id in ids:
            record = own._records[id]
            record.protect(heir)
            record.inside -= 1
            own._settle(id, record, out)
        return out

    def take_back(self, heir: Life) -> list[Instruction]:
        """The heir died before anybody was told of it: all is as before. Called before its death is."""
        own = self._ownership
        out: list[Instruction] = []
        ids, self._handing = self._handing, ()
        for id in ids:
            own._records[id].inside -= 1
        given = [id for id, to in own._given.items() if to == heir]
        for id in given:
            del own._given[id]
        for id in dict.fromkeys((*given, *ids)):
            record = own._records.get(id)
            if record is not None:
                if record.prot is not None:
                    record.prot.pop(heir, None)
                own._settle(id, record, out)
        return out

    def leaning(self) -> set[Peer]:
        """Those who hang on this node for anything that they hold; calls whose arguments it brought count too."""
        own = self._ownership
        found = {peer for record in own._records.values() for peer in record.lent or () if _counts(peer)}
        found.update(sent.peer for sent in own._calls.values() if _counts(sent.peer))
        return found - own._dead

    def lost(self, life: Life) -> bool:
        """Whether a life is known to be dead."""
        return life in self._ownership._dead

    # The heir

    def inherit(self, leaver: Life, ids: Iterable[RefId]) -> list[Instruction]:
        """The leaver hands these over. "inherited" is sent to it before the instructions are carried out."""
        own = self._ownership
        out: list[Instruction] = []
        if leaver in own._dead:
            return out
        number = own._count(leaver)
        distinct = tuple(dict.fromkeys(ids))
        for id in distinct:
            own._given[id] = own._life
        for id in distinct:
            record = own._records.get(id) or own._open(id, out)
            if record.reg == "asked":
                record.reg = "no"
            record.lend(leaver, number)
            own._settle(id, record, out)
        return out

    # Everybody

    def moved(self, life: Life, heir: Life) -> list[Instruction]:
        """What `life` owned has passed to `heir`, which may be this node. Told as often as one likes."""
        own = self._ownership
        out: list[Instruction] = []
        heir = own._heirs.get(heir, heir)
        if life == own._life or own._heirs.get(life) == heir or heir == life:
            return out
        concerned = [
            (id, record) for id, record in own._records.items() if record.reg != "lost" and own.owner(id) == life
        ]
        for old, to in own._heirs.items():
            if to == life:
                own._heirs[old] = heir
        for id, to in own._given.items():
            if to == life:
                own._given[id] = heir
        own._heirs[life] = heir
        for id, record in concerned:
            if heir == own._life or heir in own._dead:
                own._lose(id, record, out)  # the heir has what there was: the leaver had freed the rest
            elif record.reg == "asked" and not (record.prot and heir in record.prot):
                out.append(("send", heir, "borrow", id, None))  # the leaver may not answer any more
            else:
                record.reg = "no"
                own._settle(id, record, out)
        return out


Step: TypeAlias = (
    tuple[Literal["offer"], Life]
    | tuple[Literal["inherit"], Life, tuple[RefId, ...]]
    | tuple[Literal["moved"], Life]
    | tuple[Literal["alone"]]
    | tuple[Literal["do"], list[Instruction]]
)
"""What the leaver does next: ask `heir` to consent, send it these ids with what they stand for, tell all others, go
without an heir, or carry out what ownership says."""


class Bequest:
    """The leaver: finds an heir and hands the estate over. Begun when nothing that this node does makes new refs.

    Args:
        estate: of this node.
        candidates: lives that may be asked, the best first.

    Attributes:
        heir: who has consented, and whom others are told of once `moved` is set.
        state: "new", "offering", "handing", "moved" or "alone".
    """

    def __init__(self, estate: Estate, candidates: Iterable[Life]) -> None:
        self.estate = estate
        self.heir: Life | None = None
        self.state: Literal["new", "offering", "handing", "moved", "alone"] = "new"
        self._candidates = list(candidates)

    def start(self) -> list[Step]:
        """Ask the first candidate, if anything is to be handed over at all."""
        if not self.estate.ids():
            self.state = "alone"
            return []
        return self._next()

    def _next(self) -> list[Step]:
        self._candidates = [life for life in self._candidates if not self.estate.lost(life)]
        if not self._candidates:
            self.heir = None
            self.state = "alone"
            return [("alone",)]
        self.heir = self._candidates.pop(0)
        self.state = "offering"
        return [("offer", self.heir)]

    def consented(self, peer: Life, ok: bool) -> list[Step]:
        """A candidate has answered the offer."""
        if peer != self.heir or self.state != "offering":
            return []
        return self._hand_over() if ok else self._next()

    def _hand_over(self) -> list[Step]:
        assert self.heir is not None
        ids = self.estate.ids()
        if not ids:
            self.state = "moved"
            return [("moved", self.heir)]
        self.state = "handing"
        self.estate.bequeath(ids)
        return [("inherit", self.heir, tuple(ids))]

    def inherited(self, peer: Life) -> list[Step]:
        """The heir has stored what it was sent. Told in the order of arrival."""
        if peer != self.heir or self.state != "handing":
            return []
        # What follows from it comes last: others must hear of the heir before anything that presumes it.
        instructions = self.estate.inherited(peer)
        return [*self._hand_over(), ("do", instructions)]

    def dead(self, peer: Life) -> list[Step]:
        """Somebody died: if it is the heir, and nobody was told of it yet, there is time for another.

        Called before ownership hears of it.
        """
        if peer != self.heir or self.state not in ("offering", "handing"):
            return []
        return [("do", self.estate.take_back(peer)), *self._next()]

    @property
    def done(self) -> bool:
        """Whether this node may go without taking anything away from anybody."""
        return self.state in ("moved", "alone") and not self.estate.leaning()


def _counts(peer: Peer) -> bool:
    return isinstance(peer, bytes)  # a worker has another key, and ends with its node
