"""Ids when a node takes a new life: what stays its own under the new name, and what it has lost.

Responsible for: the rule by which an id is renamed, and a node's records of holding under it. Leaves to others: when
that happens (`core.rebirth`), and the parts of a node that keep ids (`runtime.renaming`).

What never left the node goes on, and so do the values of what did: numbers stay, the life is the new one. What others
own is lost to it, although they may live: its id gets a life that nobody has, made of halves of both, so that the same
thing is met anew when somebody gives it again, as if there had been no acquaintance.
"""

from __future__ import annotations

from typing import Any, cast

from actorfw.core.ownership import Instruction, Ownership, Peer
from actorfw.values.data import Data
from actorfw.values.ids import NODE_ID_BYTES, Life, RefId, is_detached

__all__ = ["Renaming"]


class Renaming(Data):
    """From one life of a node to the next."""

    old: Life
    new: Life

    def life(self, life: Life) -> Life:
        """What a life in an id becomes."""
        if life == self.old:
            return self.new
        if is_detached(life):
            return life  # nobody's, and held by nobody
        return self.old[NODE_ID_BYTES:] + life[NODE_ID_BYTES:]

    def id(self, id: RefId) -> RefId:
        """What an id becomes."""
        return self.life(id[0]), id[1]

    def is_lost(self, life: Life) -> bool:
        """Whether an id with this life is of something that others owned, or of this node's old life."""
        return life == self.old or life[:NODE_ID_BYTES] == self.old[NODE_ID_BYTES:]

    def deps(self, deps: Any) -> Any:
        """The same for the refs at top level of some arguments, or None."""
        return deps and [(*self.id((bytes(dep[0]), dep[1])), *dep[2:]) for dep in deps]

    def within(self, value: Any) -> Any:
        """A message, with this node's old life renamed wherever it is: one of a worker that has not heard yet."""
        if type(value) is bytes:
            return self.new if value == self.old else value
        if type(value) is list or type(value) is tuple:
            items = cast("list[Any]", value)
            return [self.within(item) for item in items]
        return value

    def ownership(self, records: Ownership) -> list[Instruction]:
        """Rename all that is held. Nobody is told: to the others this life is dead. Workers are, by whom it concerns.

        Returns ("lost", id) for what others own and something here still names, and ("free", id) for what nothing does.
        """
        out: list[Instruction] = []
        held, records._records = records._records, {}
        for id, record in held.items():
            own = records.owner(id) == self.old and id[0] == self.old
            record.calls = record.inside = 0
            record.args = _of_workers(record.args)
            record.lent = _of_workers(record.lent)
            record.prot = _of_workers(record.prot)
            record.reg = "no" if own else "lost"
            if not own:
                record.lent = None
            records._records[self.id(id)] = record
        for table in (records._stored, records._orphans):
            for key, ids in [*table.items()]:
                del cast("dict[Any, Any]", table)[key]
                renamed = tuple(map(self.id, ids))
                cast("dict[Any, Any]", table)[self.within_key(key)] = renamed
                for id in renamed:
                    records._records[id].inside += 1
        # What runs here for others has been ended; what still runs names what it got by handles.
        for key in [key for key in records._answering if _is_life(key[0])]:
            del records._answering[key]
        for call in [call for call, sent in records._calls.items() if _is_life(sent.peer)]:
            del records._calls[call]
        for call, sent in records._calls.items():
            renamed = tuple(map(self.id, sent.ids))
            records._calls[call] = sent._replace(ids=renamed)
            for id in renamed:
                records._records[id].calls += 1
        for counts in (records._numbers, records._seen):
            for peer in [peer for peer in counts if _is_life(peer)]:
                del counts[peer]
        records._given.clear()
        records._heirs.clear()
        records._life = self.new
        records._dead = {self.old, *(id[0] for id in records._records if self.is_lost(id[0]))}
        for id, record in [*records._records.items()]:
            if record.reg == "lost":
                out.append(("lost", id))
            records._settle(id, record, out)
        return out

    def within_key(self, key: Any) -> Any:
        """A key of a table, with the ids in it renamed."""
        if type(key) is tuple:
            parts: tuple[Any, ...] = key
            if len(parts) == 2 and _is_life(parts[0]) and type(parts[1]) is int:
                return self.id(cast("RefId", parts))
            return tuple(self.within_key(part) for part in parts)
        return self.new if key == self.old else key


def _is_life(peer: Peer) -> bool:
    return type(peer) is bytes


def _of_workers(table: dict[Peer, Any] | None) -> dict[Peer, Any] | None:
    return {peer: value for peer, value in table.items() if not _is_life(peer)} or None if table else None
