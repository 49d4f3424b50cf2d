"""The living objects of a cluster, as their owners see them: how large, where, held by whom, and which may be leaks.

A node's own refs are found among the objects that Python's collector knows, so that no call pays for being listed (to
register each would cost a call 0.3 µs). A million refs take 0.1 s of the loop to find; the rest is done in slices.

Suspects are marked by rules that look at what a program can't mean:

* a large object of which a ref was pickled outside any message stays until its node ends, whoever lets go of it;
* a large object that is old and has not been read for as long, though somebody holds it;
* very many old objects that one and the same line has made.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.canvass import Canvass, pack_answer, unpack_answer
from actorfw.runtime.lines import line_of
from actorfw.runtime.refs import CANCELLED, FAILED, PENDING, READY, ObjectRef
from actorfw.runtime.rows import ObjectRow, ObjectState
from actorfw.runtime.store.blocks import SPILLED, Block
from actorfw.values.errors import UsageError
from actorfw.values.ids import WORKER_SHIFT, RefId, as_bytes, node_id_of, short, text_id
from actorfw.wire.messages import STORED
from actorfw.wire.payload import Packed, size_of

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.refs import Reply

__all__ = ["LARGE", "MANY", "MOST", "OLD", "ObjectList", "refs_of"]

LARGE: Final = 1 << 20  # bytes from which one object is worth a word
OLD: Final = 600.0  # seconds
MANY: Final = 10_000  # old objects that one line has made
MOST: Final = 10_000  # rows of one listing

_CONTAINERS: Final = 3  # named of the objects that one is part of
_SLICE: Final = 2_000  # objects described in one turn of the loop

# The fields of what one node says of an object, before the nodes' answers are put together.
_Described = tuple[int, bytes, int, str, list[str], list[str], list[str], float | None, str, str]


class ObjectList:
    """The objects of all nodes, seen from one."""

    def __init__(self, node: Node) -> None:
        self.node = node

    async def everywhere(self, limit: int) -> list[ObjectRow]:
        """The largest of all members' objects, the largest first."""
        rows, _ = await self.counted(limit, Canvass(self.node))
        return rows

    async def counted(self, limit: int, canvass: Canvass) -> tuple[list[ObjectRow], int]:
        """The same, and how many there are."""
        if not 1 <= limit <= MOST:
            raise UsageError(f"limit is {limit!r}; it must be between 1 and {MOST}")
        node = self.node
        peers = {node_id_of(peer.life): peer for peer in node.members.peers()}
        asking = asyncio.ensure_future(canvass.ask("objects", limit))
        total, own = await self.own(limit)
        described: list[tuple[str, str, _Described]] = [(node.name, node.id, one) for one in own]
        for key, packed in (await asking).items():
            answer = unpack_answer(packed)
            total += answer[0]
            described += [(peers[key].name, key, tuple(one)) for one in answer[1]]
        shown = heapq.nlargest(limit, described, key=lambda each: each[2][0])
        return await self._with_borrowers(shown, peers, canvass), total

    # -- what borrowers add --------------------------------------------------------------------------------------------

    async def _with_borrowers(
        self, shown: list[tuple[str, str, _Described]], peers: dict[str, Peer], canvass: Canvass
    ) -> list[ObjectRow]:
        """Rows of these, in which each borrower says itself what in it holds them."""
        named: dict[str, list[RefId]] = {}
        for _, _, (_, life, number, _, _, _, borrowers, *_) in shown:
            for key in borrowers:
                named.setdefault(key, []).append((life, number))
        node = self.node
        wanted = {key: [list(id) for id in ids] for key, ids in named.items()}
        answers = await canvass.ask_each("object_holders", wanted)
        if node.id in named:
            answers[node.id] = self.held_here(wanted[node.id])
        more: dict[tuple[str, bytes, int], list[str]] = {}
        for key, ids in named.items():
            for id, said in zip(ids, answers.get(key) or (), strict=False):
                more[(key, *id)] = said
        rows: list[ObjectRow] = []
        names = {node.id: node.name, **{key: peer.name for key, peer in peers.items()}}
        for owner, owner_id, (size, life, number, state, at, holders, borrowers, created, line, suspect) in shown:
            all_holders = [*holders]
            for key in borrowers:
                all_holders += more.get((key, life, number)) or [names.get(key, key)]
            rows.append(
                ObjectRow(
                    id=text_id((life, number)),
                    size=size,
                    state=state,  # type: ignore[arg-type]
                    owner=owner,
                    owner_id=owner_id,
                    holders=tuple(all_holders),
                    nodes=tuple(names.get(key, key) for key in at),
                    created_at=created,
                    line=line,
                    suspect=suspect,
                )
            )
        return rows

    def held_here(self, ids: Iterable[Any]) -> list[list[str]]:
        """What in this node's process and workers holds each of these borrowed refs."""
        return [self._holders((as_bytes(life), number))[0] for life, number in ids]

    # -- what a node says of its own -----------------------------------------------------------------------------------

    async def own(self, limit: int) -> tuple[int, list[_Described]]:
        """How many objects this node owns, and its largest ones."""
        found = _Found(self, limit)
        await found.look()
        many = {line: count for line, count in found.lines.items() if count >= MANY}
        described: list[_Described] = []
        for at, (size, _, id, state, out, ref) in enumerate(sorted(found.largest, reverse=True, key=_order)):
            if at % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            described.append(self._describe(id, size, state, out, ref, found.inside.get(id), found.now, many))
        return found.total, described

    def _describe(
        self,
        id: RefId,
        size: int,
        state: int,
        out: Any,
        ref: ObjectRef[Any] | None,
        inside: list[str] | None,
        now: float,
        many: dict[str, int],
    ) -> _Described:
        holders, borrowers = self._holders(id, ref, inside)
        mine = id[0] == self.node.life
        created = self.node.births.of(id[1]) if mine else None
        line = self._line(ref, id[1]) if mine else ""
        where, at = self._where(id, state, out)
        read = max((part.read_at for part in _blocks(out)), default=0.0)
        suspect = "" if where == "pinned" else self._suspect(size, holders, created, read, line, now, many)
        return size, id[0], id[1], where, at, holders, borrowers, created, line, suspect

    def _holders(
        self, id: RefId, ref: ObjectRef[Any] | None = None, inside: list[str] | None = None
    ) -> tuple[list[str], list[str]]:
        """Who holds it as this node knows: here and in its workers, in words; and the ids of other nodes."""
        node = self.node
        found: list[str] = []
        borrowers: list[str] = []
        objects = node.objects
        known = objects._refs.get(id)
        if ref is not None or known is not None:
            found.append(node.name)
        if any(thing is ref or thing is known for thing in objects._pinned if thing is not None):
            found.append(f"{node.name} (pickled)")
        if inside:
            found += [f"{node.name} (in {container})" for container in inside[:_CONTAINERS]]
        holding = objects.ownership.holders(id)
        if holding is None:
            return found, borrowers
        if holding.inside or (holding.local and not found):
            found.append(f"{node.name} (in a value)")
        if holding.calls or holding.args:
            found.append(f"{node.name} (argument)")
        for taker in holding.lent:
            if isinstance(taker, tuple):
                found.append(self._worker(taker[1]))
            elif isinstance(taker, bytes):
                fact = node.members.facts.get(taker)
                if fact is not None:
                    borrowers.append(node_id_of(taker))
                else:
                    found.append(f"{short(taker)} (dead)")
        return found, borrowers

    def _worker(self, index: Any) -> str:
        worker = self.node.pool.workers.get(index)
        return f"{self.node.name} worker {worker.pid if worker is not None else '(dead)'}"

    def _line(self, ref: ObjectRef[Any] | None, number: int) -> str:
        line = line_of(ref) if ref is not None else ""
        return line or self.node.objects.line_of((self.node.life, number))

    def _where(self, id: RefId, state: int, out: Any) -> tuple[ObjectState, list[str]]:
        """Its state, and the ids of the nodes that have its value."""
        here = [self.node.id]
        if state == PENDING:
            return "pending", []
        if state in (FAILED, CANCELLED):
            return "failed", here
        sources = self.node.locations.directory(id)
        at = [node_id_of(life) for life in sources.nodes] if sources is not None else []
        if state == STORED:
            return "elsewhere", at
        blocks = _blocks(out)
        nodes = [*here, *(one for one in at if one not in here)]
        if any(block.in_use for block in blocks):
            return "pinned", nodes
        return ("spilled" if any(block.state == SPILLED for block in blocks) else "here"), nodes

    def _suspect(
        self,
        size: int,
        holders: list[str],
        created: float | None,
        read: float,
        line: str,
        now: float,
        many: dict[str, int],
    ) -> str:
        pickled = f"{self.node.name} (pickled)"
        if size >= LARGE and pickled in holders:
            return "a ref of it was pickled outside a message: it stays until that node ends"
        age = _age(now, created)
        if age < OLD:
            return ""
        if line in many:
            return f"one of {many[line]:,} objects that this line has made, all older than {OLD / 60:.0f} min"
        idle = min(age, now - read)
        if size >= LARGE and idle >= OLD:
            return f"large, held, and not known to have been read for {idle / 60:.0f} min"
        return ""

    def asked(self, limit: Any) -> Reply[Any]:
        """For a peer."""
        return self.node.verbs.begin("objects", pack_answer(self._answer(limit)))

    async def _answer(self, limit: Any) -> list[Any]:
        if type(limit) is not int or not 1 <= limit <= MOST:
            raise UsageError(f"limit is {limit!r}; it must be between 1 and {MOST}")
        total, described = await self.own(limit)
        return [total, [list(one) for one in described]]


class _Found:
    """The objects of one node, gone through in slices: there may be a million, and the loop has other things to do.

    Attributes:
        total: how many there are.
        largest: of them, as a heap.
        lines: that made old ones, with how many.
        inside: by what is part of other objects here, those objects.
        now: when the listing began.
    """

    def __init__(self, listing: ObjectList, limit: int) -> None:
        self._listing = listing
        self._node = listing.node
        self._limit = limit
        self.total = 0
        self.largest: list[tuple[int, int, RefId, int, Any, ObjectRef[Any] | None]] = []
        self.lines: Counter[str] = Counter()
        self.inside: dict[RefId, list[str]] = {}
        self.now = self._node.env.wall_time()
        self._node.births.look()
        self._old = self._node.births.until(self.now - OLD)

    async def look(self) -> None:
        node = self._node
        objects = node.objects
        exported = objects._exported
        refs = refs_of(node)
        numbers = list(exported)
        while refs:
            for ref in refs[-_SLICE:]:
                state, out = ref._state, getattr(ref, "_out", None)
                if state == PENDING:
                    state, out = exported.get(ref._number) or (PENDING, None)
                self._add((node.life, ref._number), state, out, ref)
            del refs[-_SLICE:]
            await asyncio.sleep(0)
        for at in range(0, len(numbers), _SLICE):
            for number in numbers[at : at + _SLICE]:
                id = (node.life, number)
                if number in exported and id not in objects._refs:  # else it was among the refs
                    state, out = exported[number] or (PENDING, None)
                    self._add(id, state, out, None)
            await asyncio.sleep(0)
        for id, (state, out) in list(objects._inherited.items()):
            self._add(id, state, out, None)

    def _add(self, id: RefId, state: int, out: Any, ref: ObjectRef[Any] | None) -> None:
        self.total += 1
        number = id[1]
        size = _size(state, out)
        largest = self.largest
        if len(largest) < self._limit:
            heapq.heappush(largest, (size, -number, id, state, out, ref))
        elif (size, -number) > largest[0][:2]:  # of equal ones the oldest, whatever order the collector has them in
            heapq.heapreplace(largest, (size, -number, id, state, out, ref))
        if type(out) is Packed and out.hold:
            for held in out.hold:
                if held is not None:
                    self.inside.setdefault(held.id, []).append(text_id(id))
        if number <= self._old.get(number >> WORKER_SHIFT, -1):
            line = self._listing._line(ref, number)
            if line:
                self.lines[line] += 1


def _order(entry: tuple[int, int, RefId, int, Any, ObjectRef[Any] | None]) -> tuple[int, int, RefId]:
    return entry[:3]


def refs_of(node: Node) -> list[ObjectRef[Any]]:
    """All refs in this process that are this node's own, those that were never handed on among them."""
    life = node.life
    return [
        ref
        for ref in gc.get_objects()
        if type(ref) is ObjectRef and ref._home is node and (ref._owner == life or ref._grip is None)
    ]


def _size(state: int, out: Any) -> int:
    if state == READY:
        return size_of(out)
    return out if state == STORED else 0


def _blocks(out: Any) -> list[Block]:
    return [part for part in out.buffers if type(part) is Block] if type(out) is Packed else []


def _age(now: float, created: float | None) -> float:
    return now - created if created is not None else 0.0
