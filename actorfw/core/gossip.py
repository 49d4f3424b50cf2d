"""News that is still to be passed on, and fingerprints that tell whether two views are the same.

Responsible for: how often each piece is told, which go first, and comparing views bucket by bucket.
Leaves to others: what the news are, and whom to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import Struct
from typing import Any, Final

from actorfw.core.records import Record
from actorfw.values.ids import Life

__all__ = ["BUCKETS", "Fingerprint", "News", "in_buckets"]

BUCKETS: Final = 16
_MARKS: Final = Struct(f"<{BUCKETS}Q")


class _Piece:
    __slots__ = ("full", "left")

    def __init__(self, full: bool) -> None:
        self.full = full
        self.left = -1  # set when it is first told: the limit grows with the members


class News:
    """Lives about which something is new. What is told is how things are when it is told, never how they were."""

    def __init__(self) -> None:
        self._pieces: dict[Life, _Piece] = {}

    def __len__(self) -> int:
        return len(self._pieces)

    def add(self, life: Life, full: bool) -> None:
        """Tell of this member from now on, from the start.

        Args:
            full: what it says of itself is new, not only what others say of it.
        """
        old = self._pieces.pop(life, None)
        self._pieces[life] = _Piece(full or (old is not None and old.full))

    def forget(self, life: Life) -> None:
        self._pieces.pop(life, None)

    def take(self, find: Callable[[Life], Record | None], limit: int, most: int) -> list[list[Any]]:
        """Rows for one message: what has been told least often first.

        Args:
            find: the record of a life; those that have none are dropped.
            limit: how often each piece is told.
            most: rows at most.
        """
        pieces = self._pieces
        if not pieces:
            return []
        # The newest is last among those told equally often; it is wanted first.
        newest = list(reversed(pieces.items()))
        for _, piece in newest:
            if piece.left < 0:
                piece.left = limit
        if len(newest) > most:
            newest.sort(key=lambda item: -item[1].left)
        rows: list[list[Any]] = []
        for life, piece in newest[:most]:
            record = find(life)
            piece.left -= 1
            if piece.left <= 0 or record is None:
                del pieces[life]
            if record is not None:
                rows.append(record.to_wire() if piece.full else record.to_brief())
        return rows


class Fingerprint:
    """The records of a view in 16 times 8 bytes, kept up to date record by record.

    Views that differ in one bucket exchange that bucket only: two views of a thousand members that differ in one cost
    sixty rows, and equal ones 128 bytes.
    """

    def __init__(self) -> None:
        self._marks = [0] * BUCKETS

    def change(self, old: Record | None, new: Record | None) -> None:
        """One record came, went, or was replaced."""
        for record in (old, new):
            if record is not None:
                self._marks[_bucket(record.life)] ^= record.mark

    def to_wire(self) -> bytes:
        return _MARKS.pack(*self._marks)

    def differing(self, theirs: bytes) -> set[int]:
        """The buckets that differ.

        Raises:
            ValueError: that is no fingerprint.
        """
        if type(theirs) is not bytes or len(theirs) != _MARKS.size:
            raise ValueError("that is no fingerprint")
        return {i for i, mark in enumerate(_MARKS.unpack(theirs)) if mark != self._marks[i]}


def in_buckets(records: Iterable[Record], buckets: set[int]) -> list[Record]:
    """Those of the records that lie in these buckets."""
    return [record for record in records if _bucket(record.life) in buckets]


def _bucket(life: Life) -> int:
    return life[-1] % BUCKETS
