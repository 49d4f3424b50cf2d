"""What is known of a member: an immutable record, and how two of them become one.

Responsible for: the order of phases and of accusations, merging, and the form on the wire.
Leaves to others: who may say what, timers, and verdicts.

Merging is commutative, associative and idempotent, so it does not matter in which order, how often and by which way
news arrive. A record is made of parts that only grow:

* what the member says of itself (address, totals, phase): only the member changes it, and raises its refutation number
  with each change, so the higher number has the newer words;
* what others accuse it of: per accuser "stalled" < "suspect" < "refused", about one refutation number: a higher one
  wipes the accusations of lower ones away. Equal numbers: the union;
* the verdict: dead, which no refutation undoes; left stands above it, since who left has an heir.
"""

from __future__ import annotations

from dataclasses import field, replace
from enum import IntEnum
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeAlias, cast

from actorfw.values.data import Data
from actorfw.values.errors import ProtocolError
from actorfw.values.ids import LIFE_BYTES, Life, Refutation
from actorfw.values.names import LABELS, NAME_BYTES, RESOURCES

__all__ = ["Accusation", "Accusers", "Brief", "Phase", "Record", "read_row"]


class Phase(IntEnum):
    """How far a member is in its life, as it says itself."""

    JOINING = 0
    UP = 1
    LEAVING = 2
    LEAVING_WITH_HEIR = 3
    LEFT = 4


class Accusation(IntEnum):
    """What a member has seen of another, the graver the greater."""

    STALLED = 1
    SUSPECT = 2
    REFUSED = 3


Accusers: TypeAlias = tuple[tuple[Life, Accusation], ...]

FIRST: Final = Refutation(0)

_BRIEF: Final = 5
_FULL: Final = 15
_TEXT: Final = 2 * NAME_BYTES  # an address is a name of DNS and a port
_OWN: Final = 3  # CPUs, GPUs and memory
_PROOF: Final = 64  # it is one of a few words


class Record(Data):
    """A member. Shared freely; never changed.

    Attributes:
        life: of the member; its first eight bytes are the node's id.
        address: where it is dialled.
        name: of the node.
        lived: lives that this node had before this one (its rebirths): of two lives of one node id, the one with the
            greater number is the newer.
        born: when this life began, in seconds of the member's own wall clock. For people and for telling which of two
            views is older, never for order.
        totals: `Shape.amounts`.
        labels: sorted (key, value) pairs.
        hosts: "all" or "own".
        pid: of the process.
        phase, heir: what it says it is doing; the heir is b"" unless it names one.
        refutation: raised by the member with all that it says anew.
        accusers: (member, what it has seen), sorted.
        dead: accusers of the verdict, sorted; None if there is none.
        proof: of the verdict, "" if it rests on accusers alone.
    """

    life: Life
    address: str
    name: str
    lived: int = 0
    born: float = 0.0
    totals: tuple[tuple[str, int], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    hosts: str = "all"
    pid: int = 0
    phase: Phase = Phase.JOINING
    heir: Life = b""
    refutation: Refutation = FIRST
    accusers: Accusers = ()
    dead: tuple[Life, ...] | None = None
    proof: str = ""
    _mark: list[int] = field(default_factory=list[int], init=False, compare=False, repr=False)

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def final(self) -> bool:
        return self.dead is not None or self.phase is Phase.LEFT

    @property
    def left(self) -> bool:
        return self.phase is Phase.LEFT

    @property
    def words(self) -> tuple[Any, ...]:
        """What the member says of itself."""
        return _order(self)[1:]

    @property
    def stalled(self) -> bool:
        """Whether somebody has seen that only its process stands still: that outweighs those who see silence."""
        return any(what is Accusation.STALLED for _, what in self.accusers)

    def of(self, accuser: Life) -> Accusation | None:
        """What this member has seen of it."""
        for by, what in self.accusers:
            if by == accuser:
                return what
        return None

    def seen(self, least: Accusation) -> tuple[Life, ...]:
        """Who has seen at least this."""
        return tuple(by for by, what in self.accusers if what >= least)

    @property
    def mark(self) -> int:
        """64 bits that differ when records do. What the member says of itself is told by its refutation number."""
        if not self._mark:
            parts = [self.life, self.refutation.to_bytes(8, "little")]
            parts.extend(by + bytes((what,)) for by, what in self.accusers)
            self._mark.append(int.from_bytes(blake2b(b"".join(parts), digest_size=8).digest(), "little"))
        return self._mark[0]

    # -- changing ------------------------------------------------------------------------------------------------------

    def accused(self, by: Life, what: Accusation) -> Record:
        """With what this member has seen as well."""
        return replace(self, accusers=_union(self.accusers, ((by, what),)))

    def without_verdict(self) -> Record:
        return replace(self, dead=None, proof="")

    def merge(self, other: Record) -> Record:
        """What both know together: `self` itself if the other has nothing new."""
        newer = self if _order(self) >= _order(other) else other
        accusers = newer.accusers
        if self.refutation == other.refutation:
            accusers = _union(self.accusers, other.accusers)
        dead = self.dead
        if other.dead is not None and other.dead != dead:
            dead = other.dead if dead is None else tuple(sorted({*dead, *other.dead}))
        proof = max(self.proof, other.proof)
        if newer is self and accusers == self.accusers and dead == self.dead and proof == self.proof:
            return self
        if accusers == newer.accusers and dead == newer.dead and proof == newer.proof:
            return newer
        return replace(newer, accusers=accusers, dead=dead, proof=proof)

    # -- wire ----------------------------------------------------------------------------------------------------------

    def to_wire(self) -> list[Any]:
        return [
            *self.to_brief(),
            self.address,
            self.name,
            self.lived,
            self.born,
            self.totals,
            self.labels,
            self.hosts,
            self.pid,
            int(self.phase),
            self.heir,
        ]

    def to_brief(self) -> list[Any]:
        """Only what others say of it: for those who know the member."""
        accusers: list[Any] = []
        for by, what in self.accusers:
            accusers += (by, int(what))
        return [self.life, self.refutation, accusers, self.dead, self.proof]

    @classmethod
    def from_wire(cls, row: list[Any]) -> Record:
        """The inverse of `to_wire`.

        Raises:
            ProtocolError: the row makes no sense.
        """
        record = read_row(row)
        if not isinstance(record, Record):
            raise ProtocolError("a member's record lacks what the member says of itself")
        return record


class Brief(NamedTuple):
    """What others say of a member, without what it says itself."""

    life: Life
    refutation: Refutation
    accusers: Accusers
    dead: tuple[Life, ...] | None
    proof: str

    def upon(self, known: Record) -> Record:
        """As a record of a member that is known here. Accusations about words not known here are left out."""
        if self.refutation > known.refutation:
            return replace(known, accusers=(), dead=self.dead, proof=self.proof)
        return replace(known, refutation=self.refutation, accusers=self.accusers, dead=self.dead, proof=self.proof)


def read_row(row: object) -> Record | Brief:
    """A row of a message.

    Raises:
        ProtocolError: it makes no sense.
    """
    try:
        fields = cast("list[Any]", row)
        life, refutation, flat, dead, proof = fields[:_BRIEF]
        accusers = tuple((_life(flat[i]), Accusation(flat[i + 1])) for i in range(0, len(flat), 2))
        accusers = accusers if len(accusers) < 2 else _union((), accusers)
        dead = None if dead is None else tuple(sorted(_life(by) for by in dead))
        if type(refutation) is not int or refutation < 0 or type(proof) is not str or len(proof) > _PROOF:
            raise ValueError("numbers and texts expected")
        if len(fields) == _BRIEF:
            return Brief(_life(life), Refutation(refutation), accusers, dead, proof)
        if len(fields) != _FULL:
            raise ValueError(f"{len(fields)} fields")
        address, name, lived, born, totals, labels, hosts, pid, phase, heir = fields[_BRIEF:]
        if max(len(address), len(name)) > _TEXT or len(totals) > RESOURCES + _OWN or len(labels) > LABELS:
            raise ValueError("it says more of itself than a member may")
        return Record(
            life=_life(life),
            address=str(address),
            name=str(name),
            lived=int(lived),
            born=float(born),
            totals=tuple((str(what), int(much)) for what, much in totals),
            labels=tuple((str(key), str(value)) for key, value in labels),
            hosts="own" if hosts == "own" else "all",
            pid=int(pid),
            phase=Phase(phase),
            heir=_life(heir) if heir else b"",
            refutation=Refutation(refutation),
            accusers=accusers,
            dead=dead,
            proof=proof,
        )
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ProtocolError(f"a member's record makes no sense: {error}") from error


def _life(value: object) -> Life:
    if type(value) is not bytes or len(value) != LIFE_BYTES:
        raise ValueError(f"a life is {LIFE_BYTES} bytes")
    return value


def _order(record: Record) -> tuple[Any, ...]:
    """Which of two has the newer words. All after the refutation number is equal unless somebody breaks the rules; then
    this still gives the same answer everywhere."""
    return (
        record.refutation,
        record.phase,
        record.heir,
        record.address,
        record.name,
        record.lived,
        record.born,
        record.totals,
        record.labels,
        record.hosts,
        record.pid,
    )


def _union(one: Accusers, two: Accusers) -> Accusers:
    if one == two or not two:
        return one
    if not one and len(two) == 1:
        return two
    gravest: dict[Life, Accusation] = dict(one)
    for by, what in two:
        if what > gravest.get(by, 0):
            gravest[by] = what
    return tuple(sorted(gravest.items()))
