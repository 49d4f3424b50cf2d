"""Copies of a shard's detached entries, which must outlive their keeper: at the two nodes next in order.

The keeper sends every change to both; a change is *safe* when both have it, or have died. Who mints a token anew takes
the copy with the highest (version of the token, number of the change) among those of all living members: it is whole,
and says everything that was ever safe. An older one may still name what was removed since, so it counts for nothing.

Only shards with detached entries are copied. The keeper forgets changes that are not safe when it hands its token over:
they are in the table that goes with the token, and whoever waits for them asks the next keeper.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any, Final, cast

from actorfw.core.entries import Key, Table, rows_of, table_of
from actorfw.values.data import Data
from actorfw.values.ids import Life

__all__ = ["COPIES", "Copies", "Copy"]

COPIES: Final = 2


class Copy(Data, frozen=False):
    """What another keeper's shard said, as far as it is to outlive that keeper."""

    version: int
    number: int
    table: Table


class _Kept(Data, frozen=False):
    """A shard kept here that has detached entries, or had some."""

    version: int
    number: int = 0
    acked: dict[Life, int] = field(default_factory=dict[Life, int])  # by those that have a copy, up to which change
    former: set[Life] = field(default_factory=set[Life])  # have copies that nobody needs when the new ones are there
    changed: dict[Key, None] = field(default_factory=dict[Key, None])
    waiting: deque[tuple[int, Callable[[], None]]] = field(default_factory=deque[tuple[int, Callable[[], None]]])


class Copies:
    """The copies that this node's shards have elsewhere, and those it has of others'.

    Args:
        send: sends a message to another life.
        table: the table of a shard kept here.
        others: the lives that should have copies of it, the next in order first.
    """

    def __init__(
        self,
        send: Callable[[Life, tuple[Any, ...]], None],
        table: Callable[[int], Table],
        others: Callable[[int, int], Sequence[Life]],
    ) -> None:
        self._send = send
        self._table = table
        self._others = others
        self._kept: dict[int, _Kept] = {}
        self._dirty: dict[int, None] = {}
        self._needless: dict[int, int] = {}  # versions up to which no copy is wanted here: one may come late
        self.of: dict[int, Copy] = {}
        """Copies of other keepers' shards, which this node has."""

    # -- at the keeper -------------------------------------------------------------------------------------------------

    def kept(self, shard: int, version: int, former: Sequence[Life]) -> None:
        """This node keeps a shard from now on; `former` had copies of it so far."""
        copy = self.of.pop(shard, None)
        if former or copy is not None or _detached(self._table(shard)):
            self._kept[shard] = _Kept(version, former=set(former))
            self._dirty[shard] = None

    def changed(self, shard: int, version: int, key: Key) -> None:
        """A detached entry in a shard kept here has changed, or is gone."""
        kept = self._kept.get(shard)
        if kept is None:
            kept = self._kept[shard] = _Kept(version)
        kept.changed[key] = None
        self._dirty[shard] = None

    def when_safe(self, shard: int, then: Callable[[], None]) -> None:
        """Call `then` when all changes so far are safe; never, if the shard is handed over before."""
        kept = self._kept.get(shard)
        if kept is None:
            then()
        elif shard in self._dirty:
            kept.waiting.append((kept.number + 1, then))
        else:
            kept.waiting.append((kept.number, then))
            self._look(shard, kept)

    def passed(self, shard: int, version: int, table: Table, known: Sequence[Life]) -> list[Life]:
        """The shard's token is about to go; returns who has copies. This node keeps one too, until told otherwise."""
        kept = self._kept.pop(shard, None)
        self._dirty.pop(shard, None)
        if _detached(table):
            self.of[shard] = Copy(version, 0, _detached(table))
        return sorted({*known, *(() if kept is None else (*kept.acked, *kept.former))})

    def flush(self) -> None:
        """Send what has changed since."""
        while self._dirty:
            shard, _ = self._dirty.popitem()
            self._send_changes(shard, self._kept[shard])

    def _send_changes(self, shard: int, kept: _Kept) -> None:
        wanted = self._others(shard, COPIES)
        table = _detached(self._table(shard))
        if not table and not kept.acked:
            wanted = ()
        kept.former |= kept.acked.keys() - set(wanted)
        kept.former -= set(wanted)
        kept.number += 1
        changed, kept.changed = kept.changed, {}
        rows = rows_of({key: table[key] for key in changed if key in table})
        gone = [key for key in changed if key not in table]
        acked: dict[Life, int] = {}
        for life in wanted:
            if life in kept.acked:
                acked[life] = kept.acked[life]
                self._send(life, ("copy", shard, kept.version, kept.number, False, rows, gone))
            else:
                acked[life] = 0
                self._send(life, ("copy", shard, kept.version, kept.number, True, rows_of(table), []))
        kept.acked = acked
        self._look(shard, kept)

    def _look(self, shard: int, kept: _Kept) -> None:
        safe = min(kept.acked.values(), default=kept.number)
        if safe >= kept.number and shard not in self._dirty:
            for life in sorted(kept.former):
                self._send(life, ("uncopy", shard, kept.version))
            kept.former.clear()
        while kept.waiting and kept.waiting[0][0] <= safe:
            kept.waiting.popleft()[1]()

    def moved(self) -> None:
        """The order of members has changed."""
        for shard, kept in self._kept.items():
            if list(kept.acked) != list(self._others(shard, COPIES)):
                self._dirty[shard] = None

    def end(self, life: Life) -> None:
        """A life is over."""
        for shard, kept in self._kept.items():
            kept.former.discard(life)
            if kept.acked.pop(life, None) is not None:
                self._dirty[shard] = None

    def on_copied(self, peer: Life, shard: int, version: int, number: int) -> None:
        kept = self._kept.get(shard)
        if kept is not None and kept.version == version and peer in kept.acked:
            kept.acked[peer] = max(number, kept.acked[peer])
            self._look(shard, kept)

    # -- where the copies are ------------------------------------------------------------------------------------------

    def on_copy(
        self, peer: Life, shard: int, version: int, number: int, whole: bool, rows: list[Any], gone: list[Any]
    ) -> None:
        copy = self.of.get(shard)
        if version > self._needless.get(shard, -1) and (copy is None or version >= copy.version):
            if whole or copy is None:
                copy = self.of[shard] = Copy(version, number, {})
            copy.version, copy.number = version, number
            copy.table.update(table_of(rows))
            for namespace, name in gone:
                copy.table.pop((namespace, name), None)
        self._send(peer, ("copied", shard, version, number))

    def on_uncopy(self, _peer: Life, shard: int, version: int) -> None:
        self._needless[shard] = max(version - 1, self._needless.get(shard, -1))
        copy = self.of.get(shard)
        if copy is not None and copy.version <= version:
            del self.of[shard]


def _detached(table: Table) -> Table:
    return {key: entry for key, entry in table.items() if entry.record is not None}


HANDLERS: Final = cast(
    "dict[str, Callable[..., None]]",
    {
        "copy": Copies.on_copy,  # (shard, version, number, whole?, rows, keys that are gone)
        "copied": Copies.on_copied,  # (shard, version, number)
        "uncopy": Copies.on_uncopy,  # (shard, version)
    },
)
