"""What stands in the name directory: entries, the tables they are in, and which of two entries for one name stays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeAlias

from actorfw.values.ids import Life, RefId, checked_id

__all__ = [
    "ALIASES",
    "HIDDEN",
    "Entry",
    "Key",
    "Record",
    "Table",
    "key_of",
    "prevails",
    "rows_of",
    "shard_of",
    "specs_in",
    "table_of",
]

Key: TypeAlias = tuple[str, str]
"""(namespace, name)."""

HIDDEN: Final = "\0detached"
"""The namespace of detached actors that nobody named."""

ALIASES: Final = "\0alias"
"""The namespace of ids of which it is only known what became of them: those that `get_if_exists` gave to handles before
it found an older actor, and those of actors that ended and whose names others have."""


class Record(NamedTuple):
    """What a detached actor's guardian must know to go on where another left off.

    Attributes:
        revision: counts the changes; of two records of one incarnation the higher is the later.
        spec: names the blob with its class, arguments and options.
        state: one of `core.guardian`; or "alias": the actor is the one whose id is (`host`, the number in `reason`).
        host: the life it is placed at, or empty.
        address: where that is.
        left: how many restarts are left; -1: any number.
        reason: how it ended.
    """

    revision: int
    spec: bytes
    state: str
    host: Life
    address: str
    left: int
    reason: str


_OF_RECORD: Final = (int, bytes, str, bytes, str, int, str)


class Entry(NamedTuple):
    """What stands under a name.

    Attributes:
        life: the life in the actor's id.
        number: the number in the actor's id.
        incarnation: which placing of the actor this is; of an undetached one, the first.
        guardian: the life that answers for the actor; the entry goes when it dies. A detached actor's own id stands
            for the keeper of its shard, whoever that is.
        address: where the guardian is reached.
        created: when the actor was made, in seconds of its maker's wall clock. Only decides conflicts.
        record: of a detached actor, else None.
    """

    life: Life
    number: int
    incarnation: int
    guardian: Life
    address: str
    created: float
    record: Record | None = None

    @classmethod
    def of(cls, fields: Any) -> Entry:
        """An entry as it came over the wire.

        Raises:
            ValueError, TypeError: it is none. What stands here goes to other nodes, long after its sender is gone.
        """
        life, number, incarnation, guardian, address, created, record = fields
        made = None if record is None else Record(*record)
        entry = cls(*checked_id(life, number), int(incarnation), guardian, address, float(created), made)
        if type(guardian) is not bytes or type(address) is not str:
            raise ValueError(f"{guardian!r} at {address!r} is no guardian")
        if made is not None and tuple(map(type, made)) != _OF_RECORD:
            raise ValueError(f"{made!r} is no record")
        return entry

    @property
    def id(self) -> RefId:
        """The actor's id."""
        return self.life, self.number

    def is_same(self, other: Entry) -> bool:
        """Whether both are about the same actor."""
        return self.id == other.id

    @property
    def ended(self) -> bool:
        """Whether it only says what became of a detached actor that is not, or not any more: the name is free."""
        return self.record is not None and self.record.state in ("ended", "alias")


Table: TypeAlias = dict[Key, Entry]


def shard_of(namespace: str, name: str) -> int:
    """The shard that a name belongs to."""
    return blake2b(f"{namespace}\0{name}".encode(), digest_size=1).digest()[0]


def key_of(life: Life) -> Key:
    """Where a detached actor without a name stands."""
    return HIDDEN, life.hex()


def rows_of(table: Table) -> list[tuple[Any, ...]]:
    """A table as it travels."""
    return [(namespace, name, tuple(entry)) for (namespace, name), entry in table.items()]


def table_of(rows: Iterable[Any]) -> Table:
    """The inverse of `rows_of`."""
    return {(str(namespace), str(name)): Entry.of(fields) for namespace, name, fields in rows}


def specs_in(message: Sequence[Any]) -> list[tuple[bytes, RefId]]:
    """The blobs that the entries in a message about names stand for, and whose they are: its taker must have them."""
    verb = message[0]
    rows: Sequence[Any] = ()
    if verb == "ask":
        if message[4] == "create":
            rows = (("", "", message[7][0]),)
    elif verb == "token":
        rows = message[3]
    elif verb == "copy":
        rows = message[5]
    elif verb == "no" and message[6] is not None:
        rows = message[6][2]
    return [
        (fields[6][1], checked_id(fields[0], fields[1]))
        for _, _, fields in rows
        if fields[6] is not None and fields[6][1]
    ]


def prevails(new: Entry, old: Entry) -> bool:
    """Whether `new` replaces `old` where two tables name the same: the later state of one actor, the older of two."""
    if new.id == old.id:
        return _age(new) >= _age(old)
    if new.ended != old.ended:
        return old.ended
    return (new.created, new.life, new.number) < (old.created, old.life, old.number)


def _age(entry: Entry) -> tuple[int, int]:
    return entry.incarnation, entry.record.revision if entry.record is not None else 0
