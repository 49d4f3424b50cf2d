"""Who still holds a ref: one node's half of the rules by which values and actors live exactly as long as they are used.

Responsible for: every record of holding, own and borrowed, and the messages that keep the nodes' records in step.
Leaves to others: the values themselves, what a handle is, sending, and judging who is dead. No clock, no chance.

Rules:

1. A ref names its owner. The owner's life and a number are the ref's identity. The owner changes only when it leaves
   in an orderly way and names an heir (`core.inheritance`).
2. The owner lists *who* holds a ref, never how often. Only a node itself enters or removes itself, on its own ordered
   session with the owner, so an entry has one writer and nothing can overtake it.
3. Whoever passes a ref on holds it (`lent`) until the taker says that it needs that protection no more (`return`).
   The taker says so once it is listed at the owner, or once it has let go. So on any path from the owner to a holder
   somebody stands who is protected by the one before, and at no moment is a held ref without a chain to its owner.
4. A call is cheaper than that. Its arguments are held by the caller until the *answer is processed*, whatever became
   of the user who waited. The answer names what the callee still holds (`kept`), and only that needs a chain of its
   own, unless another call of the same caller brought it too: then that one's answer will. A callee that keeps
   nothing causes no message at all.
5. Messages that carry refs are counted per sender and receiver. A `return` says up to which of the giver's messages it
   speaks (`asof`), so that one which crosses a newer gift on its way does not cancel that gift, and repeats are safe.
6. What a dead node held stays held for a while (the grace), in which those to whom it had passed the ref on can
   register with the owner themselves.
7. Bytes and refs travel together: who keeps bytes in which refs are packed (a value, a queued call, the spec of an
   actor) holds those refs as long as the bytes.

Theory of operation: a `_Record` per ref says why this node holds it:

    local    a handle in this process             calls   own calls that carry it, not yet answered
    args     calls running here that brought it   inside  bytes kept here that contain it
    lent     to whom it was given, in which of the messages to them

Any of these makes it *live*. A borrowed ref also has `prot`, those who hold it for our sake (the owner among them once
we are listed), and `reg`: whether we have asked the owner to list us. After each event the record is settled:

    event                          live                                      not live
    own ref                        return to all of prot                     the same, then free
    borrowed, owner in prot        return to the rest of prot                return to all of prot, free
    borrowed, owner not in prot    borrow from the owner, unless asked, or   the same; but if asked, wait for the
                                   only a call that runs here brought it     owner's grant first
    lost                           return to all of prot                     the same, then free

`lost` means that the owner died, or said that it has freed the ref, which can only happen after a crash that outlasted
the grace. The record stays until nothing here names it, so that the owner is not asked again.

A worker process is a peer whose key is not a life. For a worker its node stands for every owner: it is given refs, it
keeps some, it returns them, and it never borrows or gives. The node sees it in `lent` only.

The counts of rule 5 hold only if both ends see the same messages in the same order. So a method that counts
(`call_sent`, `gave`, and a `grant` among the instructions) is called when its message is handed to the session, never
to be withdrawn, and the receiving methods are called for each message in the order of arrival.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

from actorfw.values.ids import Life, RefId

__all__ = ["Call", "Container", "Holding", "Instruction", "Ownership", "Peer", "Taken", "Verb"]

Peer: TypeAlias = Hashable
"""A life, or the key of a worker."""

Call: TypeAlias = Hashable
"""Names one *sending* of a call: another attempt is another call."""

Container: TypeAlias = Hashable
"""Names bytes that are kept here."""

Verb: TypeAlias = Literal["borrow", "grant", "gone", "return"]

Instruction: TypeAlias = (
    tuple[Literal["send"], Peer, Verb, RefId, int | None]
    | tuple[Literal["free"], RefId]
    | tuple[Literal["lost"], RefId]
)
"""("send", peer, verb, id, asof or None), ("free", id) or ("lost", id), to be carried out in order."""

_Registration: TypeAlias = Literal["no", "asked", "lost"]

_BORN: Final = 0
"""The message number of what was never given: any return covers it."""


class _Record:
    """Why one ref is held here. Counts suffice: which calls and containers they are, the tables of `Ownership` know."""

    __slots__ = ("args", "calls", "inside", "lent", "local", "prot", "reg")

    def __init__(self) -> None:
        self.local = False
        self.calls = 0
        self.inside = 0
        # Most records never leave the node: they get no dicts.
        self.args: dict[Peer, int] | None = None  # calls of each caller
        self.lent: dict[Peer, int] | None = None
        self.prot: dict[Peer, None] | None = None  # a dict for its order: a simulation must repeat itself exactly
        self.reg: _Registration = "no"

    def live(self) -> bool:
        return bool(self.local or self.calls or self.args or self.inside or self.lent)

    def brought(self, caller: Peer) -> None:
        if self.args is None:
            self.args = {}
        self.args[caller] = self.args.get(caller, 0) + 1

    def answered(self, caller: Peer) -> None:
        assert self.args is not None
        self.args[caller] -= 1
        if not self.args[caller]:
            del self.args[caller]

    def protect(self, giver: Peer) -> None:
        if self.prot is None:
            self.prot = {}
        self.prot[giver] = None

    def lend(self, taker: Peer, number: int) -> None:
        if self.reg == "lost":
            return  # the taker will hear so from the owner; waiting for it would only keep an empty record
        if self.lent is None:
            self.lent = {}
        self.lent[taker] = max(number, self.lent.get(taker, number))


class Taken:
    """Refs of one message that arrived, held until `Ownership.settle`: by then their handles exist, or never will."""

    __slots__ = ("_records",)

    def __init__(self, records: list[tuple[RefId, _Record]]) -> None:
        self._records = records


class Holding(NamedTuple):
    """Why a ref is held here, as `Ownership.holders` tells it."""

    local: bool
    calls: int
    args: int
    inside: int
    lent: dict[Peer, int]
    prot: frozenset[Peer]
    reg: _Registration


class _Sent(NamedTuple):
    peer: Peer
    number: int
    ids: tuple[RefId, ...]


class Ownership:
    """The records of one node. Each method returns the instructions that follow from the event, in order.
    ("send", peer, verb, id, asof): tell `peer`, before anything else is sent to it; only "return" has an `asof`.
    ("free", id): nothing here holds it any more. Its owner frees the value or ends the actor; a borrower forgets its
        copy.
    ("lost", id): it can't be had any more, though something here still names it; a "free" follows when nothing does.

    A `send` to a life that can't be reached at all is answered with `dead` for it. `life` is this node's."""

    __slots__ = (
        *("_answering", "_calls", "_dead", "_given", "_heirs", "_life"),
        *("_numbers", "_orphans", "_records", "_seen", "_stored"),
    )

    def __init__(self, life: Life) -> None:
        self._life = life
        self._records: dict[RefId, _Record] = {}
        self._calls: dict[Call, _Sent] = {}
        self._answering: dict[tuple[Peer, Call], tuple[RefId, ...]] = {}
        self._orphans: dict[tuple[Peer, Call], tuple[RefId, ...]] = {}  # calls that run on though their caller died
        self._stored: dict[Container, tuple[RefId, ...]] = {}
        self._numbers: dict[Peer, int] = {}  # messages with refs sent to each
        self._seen: dict[Peer, int] = {}  # and received from each
        # Never forgotten: an id of a life that died long ago may still come by, and nobody would answer a borrow.
        self._dead: set[Peer] = set()
        # Who owns now what a life that left had owned; and single ids while they change hands (`core.inheritance`).
        self._heirs: dict[Life, Life] = {}
        self._given: dict[RefId, Life] = {}

    # What this node holds itself

    def hold(self, id: RefId) -> list[Instruction]:
        """A handle of this id now exists in this process (they are interned: one for each id)."""
        out: list[Instruction] = []
        record = self._open(id, out)
        record.local = True
        self._settle(id, record, out)
        return out

    def drop(self, id: RefId) -> list[Instruction]:
        """The handle in this process is gone, and no new one was made meanwhile."""
        out: list[Instruction] = []
        record = self._records.get(id)
        if record is not None and record.local:
            record.local = False
            self._settle(id, record, out)
        return out

    def store(self, container: Container, ids: Iterable[RefId]) -> list[Instruction]:
        """Bytes that contain these refs are kept here; a further call with the same container adds to it."""
        out: list[Instruction] = []
        before = self._stored.get(container, ())
        new = tuple(id for id in dict.fromkeys(ids) if id not in before)
        if not new:
            return out
        self._stored[container] = before + new
        for id in new:
            record = self._open(id, out)
            record.inside += 1
            self._settle(id, record, out)
        return out

    def unstore(self, container: Container) -> list[Instruction]:
        """Those bytes are gone. To send and drop them, send first."""
        out: list[Instruction] = []
        for id in self._stored.pop(container, ()):
            record = self._records[id]
            record.inside -= 1
            self._settle(id, record, out)
        return out

    def born(self, id: RefId, peer: Peer) -> list[Instruction]:
        """`peer` (a worker) made this own object through us and holds it from birth: it returns it as if given."""
        out: list[Instruction] = []
        record = self._open(id, out)
        if peer not in self._dead:
            record.lend(peer, _BORN)
        self._settle(id, record, out)
        return out

    # What goes out

    @property
    def awaiting(self) -> bool:
        """Whether any call with refs is out: if not, no answer needs to be told to `call_ended`."""
        return bool(self._calls)

    def call_sent(self, call: Call, peer: Peer, ids: Iterable[RefId]) -> list[Instruction]:
        """A call that carries these refs, the handle of its target included, is handed to the session with `peer`.

        Until then it holds them by `store`. A call without refs is not told.

        Raises:
            ValueError: this call is already outstanding. A further attempt needs a name of its own.
        """
        out: list[Instruction] = []
        distinct = tuple(dict.fromkeys(ids))
        if not distinct or peer in self._dead:
            return out
        if call in self._calls:
            raise ValueError(f"call {call!r} was already sent and is not answered: a further attempt is another call")
        self._calls[call] = _Sent(peer, self._count(peer), distinct)
        for id in distinct:
            record = self._open(id, out)
            record.calls += 1
            self._settle(id, record, out)
        return out

    def call_ended(self, call: Call, kept: Iterable[RefId] = ()) -> list[Instruction]:
        """The final answer to this call (a value, an error, bounced, cancelled) was processed.

        A user's timeout or cancel does not end it, nor a lost link: the callee may still be reading the arguments.
        `took` comes first for the refs in the same answer, else what the callee merely hands back is freed in between.
        Unknown calls are ignored, since calls without refs are never told. `kept`: what the callee still holds.
        """
        out: list[Instruction] = []
        sent = self._calls.get(call)
        if sent is None or sent.peer in self._dead:  # a dead callee's calls end with the grace
            return out
        del self._calls[call]
        held = frozenset(kept)
        for id in sent.ids:
            record = self._records[id]
            record.calls -= 1
            if id in held:
                record.lend(sent.peer, sent.number)
            self._settle(id, record, out)
        return out

    def gave(self, peer: Peer, ids: Iterable[RefId]) -> list[Instruction]:
        """Any other message with refs (a tell, a result, an item, bytes that were pulled) is handed to the session."""
        out: list[Instruction] = []
        distinct = tuple(dict.fromkeys(ids))
        if not distinct or peer in self._dead:
            return out
        number = self._count(peer)
        for id in distinct:
            record = self._open(id, out)
            record.lend(peer, number)
            self._settle(id, record, out)
        return out

    # What comes in

    def call_received(self, peer: Peer, call: Call, ids: Iterable[RefId]) -> list[Instruction]:
        """A call with these refs arrived. Told before anything is unpickled; `call_answered` follows in any case."""
        out: list[Instruction] = []
        distinct = tuple(dict.fromkeys(ids))
        if not distinct or peer in self._dead:
            return out
        self._seen[peer] = self._seen.get(peer, 0) + 1
        key = (peer, call)
        before = self._answering.get(key, ())
        new = tuple(id for id in distinct if id not in before)
        self._answering[key] = before + new
        for id in new:
            record = self._arrived(id, out)
            record.brought(peer)
            self._settle(id, record, out)
        return out

    def call_answered(self, peer: Peer, call: Call) -> tuple[tuple[RefId, ...], list[Instruction]]:
        """The answer to a received call is about to be sent, or its turn ended with nobody left to answer.

        `gave` for refs in the answer itself comes first, else a ref that only the call had brought is let go between.

        Returns what the answer must name as still held here, and the instructions, which follow the answer."""
        out: list[Instruction] = []
        kept: list[RefId] = []
        key = (peer, call)
        for id in self._answering.pop(key, ()):
            record = self._records[id]
            record.answered(peer)
            # While another call of the same caller brought it too, the caller still holds it: the last one says what
            # is kept. Another caller's call would not do: what that one holds may hang on us.
            if (
                (owner := self.owner(id)) != self._life
                and peer not in (record.args or ())
                and record.reg != "lost"
                and record.live()
                and not (record.prot is not None and owner in record.prot)
            ):
                kept.append(id)
                record.protect(peer)
            self._settle(id, record, out)
        for id in self._orphans.pop(key, ()):
            record = self._records[id]
            record.inside -= 1
            self._settle(id, record, out)
        return tuple(kept), out

    def took(self, peer: Peer, ids: Iterable[RefId]) -> Taken:
        """Any other message with refs arrived. They are held until `settle` of what this returns.

        Told in the order of arrival (of the head, if the rest comes in pieces) and before anything is unpickled.
        """
        records: list[tuple[RefId, _Record]] = []
        distinct = tuple(dict.fromkeys(ids))
        if distinct and peer not in self._dead:
            self._seen[peer] = self._seen.get(peer, 0) + 1
            for id in distinct:
                record = self._records.get(id) or self._arrived(id, None)
                record.inside += 1
                record.protect(peer)
                records.append((id, record))
        return Taken(records)

    def settle(self, token: Taken) -> list[Instruction]:
        """The handles of that message exist now, or unpickling failed, or its bytes are stored. Once for each token."""
        out: list[Instruction] = []
        records, token._records = token._records, []
        for id, record in records:
            if self._records.get(id) is not record:
                continue  # everything was forgotten in between
            record.inside -= 1
            if record.reg == "lost":
                out.append(("lost", id))  # `took` has no instructions to say it in; hearing it twice does no harm
            self._settle(id, record, out)
        return out

    def on_borrow(self, peer: Peer, id: RefId) -> list[Instruction]:
        """`peer` asks to be listed as a holder of an own ref."""
        if peer in self._dead:
            return []
        record = self._records.get(id)
        owner = self.owner(id)
        if owner not in (self._life, id[0]):
            return []  # it has an heir: the asker is told, and asks there
        if owner != self._life or record is None or record.reg == "lost":
            return [("send", peer, "gone", id, None)]
        record.lend(peer, self._count(peer))
        return [("send", peer, "grant", id, None)]

    def on_grant(self, peer: Peer, id: RefId) -> list[Instruction]:
        """The owner has listed this node."""
        out: list[Instruction] = []
        if peer in self._dead:
            return out
        self._seen[peer] = self._seen.get(peer, 0) + 1  # a grant is a gift, and counts as one
        record = self._records.get(id)
        if record is None:
            out.append(("send", peer, "return", id, self._seen[peer]))
            return out
        if record.reg == "asked" and self.owner(id) == peer:
            record.reg = "no"
        record.protect(peer)
        self._settle(id, record, out)
        return out

    def on_gone(self, peer: Peer, id: RefId) -> list[Instruction]:
        """The owner has freed it: after a crash that outlasted the grace."""
        out: list[Instruction] = []
        record = self._records.get(id)
        if record is not None and record.reg == "asked" and self.owner(id) == peer:
            self._lose(id, record, out)
        return out

    def on_return(self, peer: Peer, id: RefId, asof: int) -> list[Instruction]:
        """`peer` needs our protection no more, as of that many of our messages."""
        out: list[Instruction] = []
        record = self._records.get(id)
        if record is None or not record.lent:
            return out
        number = record.lent.get(peer)
        if number is not None and number <= asof:
            del record.lent[peer]
            self._settle(id, record, out)
        return out

    # Ends

    def dead(self, peer: Peer) -> list[Instruction]:
        """`peer` died or left: it protects nothing any more, and what it owned is lost. Told as often as one likes.

        What it held itself stays until `grace_over`. What runs here for it goes on to hold its arguments.
        """
        out: list[Instruction] = []
        self._dead.add(peer)
        self._seen.pop(peer, None)
        for key in [key for key in self._answering if key[0] == peer]:
            ids = self._answering.pop(key)
            self._orphans[key] = ids
            for id in ids:
                record = self._records[id]
                record.answered(peer)
                record.inside += 1
        for id, record in list(self._records.items()):
            if record.prot is not None:
                record.prot.pop(peer, None)
            if self.owner(id) == peer:
                if record.reg != "lost":
                    self._lose(id, record, out)
            else:
                self._settle(id, record, out)
        return out

    def grace_over(self, peer: Peer) -> list[Instruction]:
        """Whatever a dead peer passed on is registered by now: let go of what was held for its sake."""
        out: list[Instruction] = []
        self._numbers.pop(peer, None)
        for call in [call for call, sent in self._calls.items() if sent.peer == peer]:
            for id in self._calls.pop(call).ids:
                record = self._records[id]
                record.calls -= 1
                self._settle(id, record, out)
        for id, record in list(self._records.items()):
            if record.lent and record.lent.pop(peer, None) is not None:
                self._settle(id, record, out)
        return out

    def worker_dead(self, peer: Peer) -> list[Instruction]:
        """A worker ended. It passed nothing on except through this node, so there is no grace."""
        out = self.dead(peer)
        out += self.grace_over(peer)
        self._dead.discard(peer)  # it owned nothing, so nothing of it can come by
        return out

    def forget_all(self) -> list[Instruction]:
        """This life ends: everything is let go without a word to anybody."""
        out: list[Instruction] = [("free", id) for id in self._records]
        for table in (self._records, self._calls, self._answering, self._orphans, self._stored):
            table.clear()
        self._numbers.clear()
        self._seen.clear()
        return out

    # Looking in

    def owner(self, id: RefId) -> Life:
        """The life that owns this ref now: the one in its id, or that one's heir."""
        if self._heirs or self._given:
            return self._given.get(id) or self._heirs.get(id[0], id[0])
        return id[0]

    def live(self, id: RefId) -> bool:
        """Whether anything here, or anyone it was lent to, holds this ref, as far as this node knows."""
        record = self._records.get(id)
        return record is not None and record.live()

    def holders(self, id: RefId) -> Holding | None:
        """Why the ref is held here; None if it is not known here."""
        record = self._records.get(id)
        if record is None:
            return None
        return Holding(
            record.local,
            record.calls,
            sum((record.args or {}).values()),
            record.inside,
            dict(record.lent or {}),
            frozenset(record.prot or {}),
            record.reg,
        )

    def __len__(self) -> int:
        return len(self._records)

    def snapshot(self) -> tuple[Hashable, ...]:
        """All that decides how this machine goes on, hashable, for tests that compare or explore states.

        The first element holds the tables that must be empty when all is quiet and nobody holds anything.
        """
        records = frozenset(
            (
                id,
                *(r.local, r.calls, r.inside, r.reg, frozenset(r.prot or {})),
                *(frozenset((r.args or {}).items()), frozenset((r.lent or {}).items())),
            )
            for id, r in self._records.items()
        )
        tables: tuple[frozenset[Hashable], ...] = (
            records,
            frozenset(self._calls.items()),
            frozenset(self._answering.items()),
            frozenset(self._orphans.items()),
            frozenset(self._stored.items()),
        )
        counts = (frozenset(self._numbers.items()), frozenset(self._seen.items()), frozenset(self._dead))
        return tables, counts, frozenset(self._heirs.items()), frozenset(self._given.items())

    # Inside

    def _count(self, peer: Peer) -> int:
        number = self._numbers.get(peer, 0) + 1
        self._numbers[peer] = number
        return number

    def _open(self, id: RefId, out: list[Instruction]) -> _Record:
        """The record of a ref that something here names, made if there is none."""
        record = self._records.get(id)
        if record is None:
            record = self._records[id] = _Record()
            if self.owner(id) in self._dead:
                record.reg = "lost"
                out.append(("lost", id))
        return record

    def _arrived(self, id: RefId, out: list[Instruction] | None) -> _Record:
        """The record of a ref that a message brought. An own one without a record was freed before."""
        record = self._records.get(id)
        if record is None:
            record = self._records[id] = _Record()
            owner = self.owner(id)
            if owner == self._life or owner in self._dead:
                record.reg = "lost"
                if out is not None:
                    out.append(("lost", id))
        return record

    def _lose(self, id: RefId, record: _Record, out: list[Instruction]) -> None:
        record.reg = "lost"
        record.lent = None
        out.append(("lost", id))
        self._settle(id, record, out)

    def _settle(self, id: RefId, record: _Record, out: list[Instruction]) -> None:
        """The table in the module's docstring."""
        live = record.live()
        owner = self.owner(id)
        prot = record.prot
        if owner == self._life or record.reg == "lost":
            if prot:
                self._return(id, record, tuple(prot), out)
        elif live:
            if prot and owner in prot:
                if len(prot) > 1:
                    self._return(id, record, [giver for giver in prot if giver != owner], out)
            elif record.reg == "no" and (prot or not record.args):
                # If only a call that runs here brought it, its caller holds it, and the answer will say what is kept.
                record.reg = "asked"
                out.append(("send", owner, "borrow", id, None))
            return
        elif record.reg == "no":
            if prot:
                self._return(id, record, tuple(prot), out)
        else:
            return  # the owner's grant is on its way, and has to be returned
        if not live:
            del self._records[id]
            out.append(("free", id))

    def _return(self, id: RefId, record: _Record, givers: Sequence[Peer], out: list[Instruction]) -> None:
        assert record.prot is not None
        for giver in givers:
            del record.prot[giver]
            out.append(("send", giver, "return", id, self._seen.get(giver, 0)))
