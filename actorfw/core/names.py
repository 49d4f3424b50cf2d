"""The name directory: what stands under a name, and the requests that read and change it.

Every name is known twice: in the table of its shard's keeper (`core.shards`) and at the node that asked for it, its
guardian. A request goes to the keeper over whoever knows better where that is. It may get lost with a node that dies
on its way, is therefore sent again, and so may be served twice; it says which actor it is for, so that the second time
changes nothing. An entry goes when its guardian takes it out or dies.

A keeper may not know of a name that is held: its token may have been minted by members that had buried the guardian,
and come here with their new lives. So a guardian claims its names from whoever becomes their keeper.

A detached actor has no guardian but the keeper of its shard, whoever that is. Its entry says all that the next keeper
must know (`core.entries.Record`), and is at the two nodes next in order before it counts (`core.copies`). An entry
whose actor has ended stays for a minute, so that what comes late hears how. What is for the guardian of a detached
actor travels as a request too.

`Names` is the machine of one node: inputs are its methods, each returns what is to be done. It has no clock, no
sockets and no chance of its own. It leaves to others: who is a member and who is dead (membership), exactly-once
delivery in order (sessions), what a name's actor does (guardians), and with leases whether this node may serve.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from typing import Any, Final, Literal, TypeAlias, cast

from actorfw.core.copies import HANDLERS as COPY_HANDLERS
from actorfw.core.entries import HIDDEN, Entry, Key, Record, Table, prevails, rows_of, shard_of
from actorfw.core.keeping import Ask, Keeper
from actorfw.core.shards import HANDLERS, SHARDS, Shards
from actorfw.values.data import Data
from actorfw.values.errors import ProtocolError
from actorfw.values.ids import Life, RefId

__all__ = ["TICK", "Entry", "Instruction", "Names", "Operation"]

TICK: Final = 0.25
"""Seconds between calls of `Names.tick`."""

_MAX_HOPS: Final = 6
_REROUTE: Final = 1.0  # a request that waits here for a token looks for it elsewhere again
_RESEND: Final = 2.0  # a request forwarded to a node that is dead and not yet known to be is lost without a sign
_LIST_RETRY: Final = 0.25
_NO_QUORUM: Final = 2.0  # seconds without a majority of voters after which requests fail
_LEASES: Final = 4  # spans of a lease after which they fail although there is a majority
_LIST_LIMIT: Final = 5.0  # longer than a recovery takes: a list is a view, not worth waiting for beyond that

Operation: TypeAlias = Literal["create", "lookup", "remove", "list", "guard", "hold", "let_go", "claim"]
Instruction: TypeAlias = tuple[Any, ...]
"""What the caller is to do, one of:

* `("send", life, message)`: a plain tuple that msgpack can carry. If there is no session with that life yet, it waits
  until there is one, or until `Names.dead` was called with it;
* `("answer", request id, ok, payload)`: a request made here is done, see `Names.request`;
* `("conflict", namespace, name, lost entry, kept entry)`: two actors held one name and the one of this node lost it;
* `("guard", key, entry)`: this node guards a detached actor from now on, or it is to look at its entry again;
* `("give_up", id)`: it does not guard it any more;
* `("asked", ticket, id, verb, argument)`: a request to the guardian of a detached actor, to be given to `answered`;
* `("safe", ticket)`: what `record` was called with will outlive this node.
"""


class _Pending(Data, frozen=False):
    """A request made here and not answered yet."""

    op: str
    shard: int
    namespace: str
    name: str
    payload: Any
    begun: float
    attempt: int = 1
    sent: float = 0.0


class _Listing(Data, frozen=False):
    """A `list` made here: who still has to answer, what each shard said, when to ask again and when to give up."""

    namespace: str | None
    until: float
    retry: float | None = None
    missing: set[Life] = field(default_factory=set[Life])
    found: dict[int, list[Any]] = field(default_factory=dict[int, "list[Any]"])


class Names:
    """The name directory's machine on one node.

    A node that founds a cluster calls `founder` once. Every method returns instructions and must be called with a
    time that never goes back.

    Args:
        life: this node's life.
        now: the present, in seconds of any clock that doesn't jump.
        ttl: with leases, how long they last.

    Attributes:
        may_serve: with leases, whether a shard's lease runs.
        quorum: with leases, whether a majority of the voters is there, as far as this node knows.
    """

    def __init__(self, life: Life, now: float, *, ttl: float | None = None) -> None:
        self.life = life
        self.may_serve: Callable[[int, float], bool] | None = None
        self.quorum = True
        self._ttl = ttl
        self._now = now
        self._out: list[Instruction] = []
        self._local: deque[tuple[Any, ...]] = deque()  # messages to this node itself

        self._mine: dict[int, Table] = {}  # what actors of this node hold, by shard
        self._pending: dict[int, _Pending] = {}
        self._listings: dict[int, _Listing] = {}
        self._claims: dict[Key, int] = {}  # requests under way, by what they claim
        self._own_requests = 0
        self._waiting: dict[int, dict[tuple[Life, int], tuple[float, Ask]]] = {}  # for a token, by shard
        self._keeper = Keeper(self._tell, self._send, self._wait, self._route_waiting, ttl)
        self._shards = Shards(
            life,
            now,
            send=self._send,
            promising=self._promising,
            promise_ended=self._promise_ended,
            keeper_changed=self._keeper_changed,
            kept=self._keeper.shard_kept,
            passing=self._keeper.shard_passing,
            conflict=self._keeper.conflict,
            ttl=ttl,
        )
        self._keeper.shards = self._shards

    def __repr__(self) -> str:
        return (
            f"<Names of {self.life.hex()}: {len(self._pending) + len(self._listings)} requests, "
            f"{len(self.granted)} names, {self._shards!r}>"
        )

    @property
    def kept_shards(self) -> frozenset[int]:
        """The shards this node keeps."""
        return frozenset(self._shards.tokens)

    def is_dead(self, life: Life) -> bool:
        """Whether a life is known to be over."""
        return life in self._shards.dead

    @property
    def versions(self) -> dict[int, int]:
        """The versions of the tokens here, by shard."""
        return {shard: token.version for shard, token in self._shards.tokens.items()}

    @property
    def kept(self) -> dict[tuple[str, str], Entry]:
        """All entries this node keeps, by (namespace, name)."""
        return {key: entry for token in self._shards.tokens.values() for key, entry in token.table.items()}

    @property
    def granted(self) -> dict[tuple[str, str], Entry]:
        """The names that actors of this node hold, by (namespace, name)."""
        return {key: entry for table in self._mine.values() for key, entry in table.items()}

    @property
    def drained(self) -> bool:
        """Whether no shard is lost with this node: after `leave`, all have arrived elsewhere, or nobody else is up."""
        return self._shards.drained

    # -- inputs --------------------------------------------------------------------------------------------------------

    def founder(self) -> list[Instruction]:
        """This node founds a cluster, alone: it keeps all shards."""
        self._shards.found()
        return self._flush()

    def view(self, members: Iterable[Life], now: float) -> list[Instruction]:
        """The members that are up have changed.

        Args:
            members: all of them; this node too if it is up itself. Who is missing without having been reported to
                `dead` is not up (any more) but lives: it keeps no shard, and is still asked in recoveries.
            now: the present.
        """
        self._at(now)
        self._shards.view(members)
        return self._flush()

    def dead(self, life: Life, now: float) -> list[Instruction]:
        """A life is over, by death or by leaving: nothing it sent may be delivered after this."""
        self._at(now)
        if self._shards.end(life):
            for request, listing in list(self._listings.items()):
                listing.missing.discard(life)
                self._list_step(request, listing)
            for request in list(self._pending):
                self._dispatch(request)
        return self._flush()

    def forget(self, life: Life, now: float) -> list[Instruction]:
        """What was to be sent to a life could not be, for long: it is no member. It may become one all the same."""
        self._at(now)
        self._shards.forget(life)
        for request, listing in list(self._listings.items()):
            listing.missing.discard(life)
            self._list_step(request, listing)
        return self._flush()

    def moved(self, life: Life, heir: Life, address: str, now: float) -> list[Instruction]:
        """`life` is about to leave, and `heir` answers for its actors from now on: they keep their names."""
        self._at(now)
        self._shards.moved(life, heir, address)
        return self._flush()

    def adopt(self, namespace: str, name: str, entry: Entry) -> None:
        """This node answers now for an actor that has this name."""
        self._mine.setdefault(shard_of(namespace, name), {})[namespace, name] = entry

    def restarted(self, namespace: str, name: str, id: RefId, incarnation: int) -> None:
        """An actor of this node that has this name is to be at another host: a new keeper is to know that."""
        table = self._mine.get(shard_of(namespace, name), {})
        entry = table.get((namespace, name))
        if entry is not None and entry.id == id:
            table[namespace, name] = entry._replace(incarnation=incarnation)

    def leave(self, now: float) -> list[Instruction]:
        """This node is about to leave: hand all shards over. It may end when `drained`."""
        self._at(now)
        self._shards.leave()
        return self._flush()

    def request(
        self, request: int, op: Operation, namespace: str | None, name: str, payload: Any, now: float
    ) -> list[Instruction]:
        """Begin a request of this node. It is answered once, by an instruction `("answer", request, ok, payload)`.

        | op | payload | answer |
        |---|---|---|
        | create | `(Entry, get_if_exists)` | True, `(Entry, new)`; or False, `("exists", Entry)` |
        | lookup | None | True, `Entry`; or False, `("not_found", None)` |
        | remove | `(life, number, incarnation)` | True, None: whatever has the name now, it is not this |
        | list | None | True, `[(namespace, name, Entry), ...]` |
        | guard | `(life, number, verb, argument)` | True, what the guardian said; or False, `("not_found", None)` |
        | hold | `(life, number, incarnation)` | True, whether the host may take calls for it: see `core.holds` |
        | let_go | `(life, number, incarnation)` | True, None: the host takes no more calls for it |

        With leases each may also be answered False, `("no_quorum", None)`.

        Args:
            request: a number above 0 that this life never used before.
            op: what to do.
            namespace: the namespace; for "list" None means all; not used by "guard".
            name: the name; not used by "list" and "guard".
            payload: see above. The guardian in a created entry is this node, and only the guardian removes.
            now: the present.

        A created entry with a `Record` is of a detached actor: once the answer is there, it outlives its creator.
        """
        self._at(now)
        if op == "list":
            listing = self._listings[request] = _Listing(namespace, until=now + _LIST_LIMIT)
            self._ask_list(request, listing)
            return self._flush()
        assert namespace is not None
        self._begin(request, op, namespace, name, payload)
        return self._flush()

    def message(self, peer: Life, message: Sequence[Any], now: float) -> list[Instruction]:
        """A message of another node's machine has come.

        Raises:
            ProtocolError: it is none that this machine knows.
        """
        self._at(now)
        self._shards.meet(peer)
        self._receive(peer, message)
        return self._flush()

    def tick(self, now: float) -> list[Instruction]:
        """Time has passed. To be called every `TICK` seconds; cheap when there is nothing to do."""
        self._at(now)
        for request, pending in list(self._pending.items()):
            if self._ttl is not None and now - pending.begun >= (_LEASES * self._ttl if self.quorum else _NO_QUORUM):
                del self._pending[request]
                self._answer(request, False, ("no_quorum", None))
            elif now - pending.sent >= _RESEND:
                self._dispatch(request)
        self._keeper.tick()
        for shard, queue in list(self._waiting.items()):
            if any(now - since >= _REROUTE for since, _ in queue.values()):
                self._route_waiting(shard)
        for request, listing in list(self._listings.items()):
            if (listing.retry is not None and now >= listing.retry) or now >= listing.until:
                self._list_step(request, listing)
        self._shards.recover_due()
        return self._flush()

    def _at(self, now: float) -> None:
        self._now = self._shards.now = now

    # -- messages ------------------------------------------------------------------------------------------------------

    def _send(self, life: Life, message: tuple[Any, ...]) -> None:
        if life == self.life:
            self._local.append(message)
        else:
            self._out.append(("send", life, message))

    def _tell(self, instruction: Instruction) -> None:
        self._out.append(instruction)

    def _answer(self, request: int, ok: bool, payload: Any) -> None:
        if request > 0:
            self._out.append(("answer", request, ok, payload))

    def _flush(self) -> list[Instruction]:
        while True:
            while self._local:
                self._receive(self.life, self._local.popleft())
            self._shards.copies.flush()
            if not self._local:
                break
        out, self._out = self._out, []
        return out

    def _receive(self, peer: Life, message: Sequence[Any]) -> None:
        verb = message[0] if message and isinstance(message[0], str) else ""
        if verb in _HANDLERS:
            _HANDLERS[verb](self, peer, *message[1:])
        elif verb in HANDLERS:
            HANDLERS[verb](self._shards, peer, *message[1:])
        elif verb in COPY_HANDLERS:
            COPY_HANDLERS[verb](self._shards.copies, peer, *message[1:])
        else:
            raise ProtocolError(f"node {peer.hex()} sent {message!r:.100}, which is no message about names")

    # -- requests on their way -----------------------------------------------------------------------------------------

    def _on_ask(self, peer: Life, *fields: Any) -> None:
        *ask, hops = fields
        self._route(Ask(*ask), hops, peer)

    def _route(self, ask: Ask, hops: int, sender: Life | None) -> None:
        """Serve a request, send it on, or keep it until there is a token or a second has passed."""
        if ask.origin in self._shards.dead:
            return
        shard = _shard_of(ask.op, ask.namespace, ask.name, ask.payload)
        token = self._shards.tokens.get(shard)
        if token is not None:
            if self.may_serve is not None and not self.may_serve(shard, self._now):
                self._wait(shard, ask)
            else:
                self._keeper.serve(shard, token, ask)
            return
        if sender is not None:
            self._shards.is_not_keeper(shard, sender)
        to = self._shards.keeper(shard)
        if to != self.life and hops < _MAX_HOPS:
            self._send(to, ("ask", *ask, hops + 1))
        elif not self._keeper.serve_from_copy(shard, ask):
            self._wait(shard, ask)

    def _wait(self, shard: int, ask: Ask) -> None:
        self._waiting.setdefault(shard, {})[ask.origin, ask.request] = (self._now, ask)

    def _route_waiting(self, shard: int) -> None:
        for _, ask in self._waiting.pop(shard, {}).values():
            self._route(ask, 0, None)

    # -- the keeper ----------------------------------------------------------------------------------------------------

    def record(self, key: Key, id: RefId, incarnation: int, record: Record, ticket: object, now: float) -> list[Any]:
        """The guardian here says what has become of a detached actor: `("safe", ticket)` follows when that is safe.

        If the shard is handed over before, it does not follow, and the next guardian starts from what was recorded.
        """
        self._at(now)
        self._keeper.record(key, id, incarnation, record, ticket)
        return self._flush()

    def answered(self, ticket: tuple[Life, int], ok: bool, payload: Any, now: float) -> list[Instruction]:
        """The guardian here answers what it was asked."""
        self._at(now)
        self._keeper.answered(ticket, ok, payload)
        return self._flush()

    def leased(self, shard: int, now: float) -> list[Instruction]:
        """The lease of a shard that this node keeps begins."""
        self._at(now)
        self._keeper.leased(shard)
        self._route_waiting(shard)
        return self._flush()

    def outdated(self, shard: int, version: int, now: float) -> list[Instruction]:
        """The voters know of a later keeper of a shard than this node."""
        self._at(now)
        self._shards.drop(shard, version)
        return self._flush()

    # -- requests of this node -----------------------------------------------------------------------------------------

    def _begin(self, request: int, op: Operation, namespace: str, name: str, payload: Any) -> None:
        if op == "create":
            payload = (tuple(payload[0]), payload[1])
        elif op == "remove":
            # At once, not when the keeper has done it: a recovery in between must not bring the name back.
            self._forget_mine(namespace, name, tuple(payload))
        shard = _shard_of(op, namespace, name, payload)
        self._pending[request] = _Pending(op, shard, namespace, name, payload, self._now)
        self._dispatch(request)

    def _dispatch(self, request: int) -> None:
        pending = self._pending[request]
        if pending.op in ("create", "claim") and self._shards.is_promised(pending.shard):
            return  # no grant may be accepted now, and names are told already; it is sent when the promise ends
        pending.sent = self._now
        ask = Ask(self.life, request, pending.attempt, pending.op, pending.namespace, pending.name, pending.payload)
        self._route(ask, 0, None)

    def _keeper_changed(self, shard: int) -> None:
        self._route_waiting(shard)
        self._claim(shard)

    def _claim(self, shard: int) -> None:
        """See that the keeper of a shard knows what actors of this node hold in it."""
        for key, entry in self._mine.get(shard, {}).items():
            request = self._claims.get(key)
            if request is None:
                self._own_requests -= 1
                self._claims[key] = self._own_requests
                self._begin(self._own_requests, "claim", *key, (tuple(entry), False))
            else:
                self._dispatch(request)

    def _remove_ghost(self, namespace: str, name: str, entry: Entry) -> None:
        """Take out an entry that a late copy of a create made after the actor no longer wanted the name."""
        self._own_requests -= 1  # below 0: answered to nobody
        self._begin(self._own_requests, "remove", namespace, name, entry.id)

    def _is_ghost(self, pending: _Pending, entry: Entry) -> bool:
        if entry.guardian != self.life:
            return False
        key = (pending.namespace, pending.name)
        held = self._mine.get(pending.shard, {}).get(key)
        if held is not None and held.is_same(entry):
            return False
        return not any(
            other.op == "create" and (other.namespace, other.name) == key and entry.is_same(Entry.of(other.payload[0]))
            for other in self._pending.values()
        )

    def _forget_mine(self, namespace: str, name: str, actor: tuple[Any, ...]) -> bool:
        shard = shard_of(namespace, name)
        table = self._mine.get(shard, {})
        entry = table.get((namespace, name))
        if entry is None or entry.id != actor[:2]:
            return False
        del table[namespace, name]
        if not table:
            del self._mine[shard]
        return True

    def _promising(self, shard: int) -> Table:
        for pending in self._pending.values():
            if pending.shard == shard and pending.op == "create":
                pending.attempt += 1  # refuses grants that are on their way, see `_on_grant`
        return self._mine.get(shard, {})

    def _promise_ended(self, shard: int) -> None:
        for request, pending in list(self._pending.items()):
            if pending.shard == shard:
                self._dispatch(request)
        self._claim(shard)

    def _on_conflict(self, _peer: Life, namespace: str, name: str, lost: Any, kept: Any) -> None:
        entry = Entry.of(lost)
        if self._forget_mine(namespace, name, entry.id):
            self._out.append(("conflict", namespace, name, entry, Entry.of(kept)))

    def _on_grant(
        self, _peer: Life, request: int, attempt: int, _version: int, namespace: str, name: str, fields: Any
    ) -> None:
        entry, shard = Entry.of(fields), shard_of(namespace, name)
        pending = self._pending.get(request)
        if pending is None:
            held = self._mine.get(shard, {}).get((namespace, name))
            if held is None or not held.is_same(entry):
                self._remove_ghost(namespace, name, entry)
        elif attempt == pending.attempt:
            # An older attempt's grant is from before a promise: another token may have been minted without it.
            del self._pending[request]
            self._mine.setdefault(shard, {})[namespace, name] = entry
            self._out.append(("answer", request, True, (entry, True)))

    def _on_reply(self, _peer: Life, request: int, attempt: int, ok: bool, answer: Any) -> None:
        pending = self._pending.get(request)
        if pending is None or attempt != pending.attempt:
            return
        if pending.op == "create":
            entry = Entry.of(answer[0 if ok else 1])
            if ok and answer[1]:
                answer = (entry, True)  # detached: nobody but its keeper holds it
            elif self._is_ghost(pending, entry):
                self._remove_ghost(pending.namespace, pending.name, entry)
                pending.attempt += 1
                self._dispatch(request)
                return
            else:
                answer = (entry, False) if ok else ("exists", entry)
        elif pending.op == "lookup" and ok:
            answer = Entry.of(answer)
        elif pending.op == "claim" and not self._claimed(request, pending, None if ok else Entry.of(answer)):
            return
        del self._pending[request]
        self._answer(request, ok, answer)

    def _claimed(self, request: int, pending: _Pending, other: Entry | None) -> bool:
        """The keeper knows of this node's actor now, or of another. Whether no more is to be asked."""
        key, entry = (pending.namespace, pending.name), Entry.of(pending.payload[0])
        held = self._mine.get(pending.shard, {}).get(key)
        holds = held is not None and held.is_same(entry)
        if other is not None and holds and prevails(entry, other):
            # Only now: a first claim may be late, and the other actor have the name by right.
            pending.payload = (pending.payload[0], True)
            pending.attempt += 1
            self._dispatch(request)
            return False
        del self._claims[key]
        if other is None and not holds:
            self._remove_ghost(*key, entry)  # given back meanwhile, and that may have come to the keeper first
        elif other is not None and holds:
            self._forget_mine(*key, entry.id)
            self._out.append(("conflict", *key, entry, other))
        return True

    # -- lists ---------------------------------------------------------------------------------------------------------

    def _ask_list(self, request: int, listing: _Listing) -> None:
        listing.retry = None
        listing.missing = set(self._shards.known)
        for life in sorted(self._shards.known):
            self._send(life, ("list", request, listing.namespace))

    def _on_list(self, peer: Life, request: int, namespace: str | None) -> None:
        # Empty shards are named too: only so the asking node knows when it has heard of all.
        shards = [
            (shard, [row for row in rows_of(token.table) if namespace is None or row[0] == namespace])
            for shard, token in self._shards.tokens.items()
        ]
        self._send(peer, ("listed", request, shards))

    def _on_listed(self, peer: Life, request: int, shards: list[Any]) -> None:
        listing = self._listings.get(request)
        if listing is None:
            return
        listing.missing.discard(peer)
        for shard, rows in shards:
            listing.found[shard] = rows
        self._list_step(request, listing)

    def _list_step(self, request: int, listing: _Listing) -> None:
        complete = not listing.missing and len(listing.found) == SHARDS
        if complete or self._now >= listing.until:
            del self._listings[request]
            entries = [(row[0], row[1], Entry.of(row[2])) for rows in listing.found.values() for row in rows]
            living = [row for row in entries if row[2].guardian not in self._shards.dead and not row[2].ended]
            living = sorted((row for row in living if row[0] != HIDDEN), key=lambda row: row[:2])
            self._out.append(("answer", request, True, living))
        elif listing.retry is not None and self._now >= listing.retry:
            self._ask_list(request, listing)
        elif not listing.missing and listing.retry is None:
            listing.retry = self._now + _LIST_RETRY  # some token was on its way between two that had answered


def _shard_of(op: str, namespace: str, name: str, payload: Any) -> int:
    return payload[1] if op == "guard" else shard_of(namespace, name)


_HANDLERS: Final = cast(
    "dict[str, Callable[..., None]]",
    {
        "ask": Names._on_ask,  # (origin, request, attempt, op, namespace, name, payload, hops)
        "grant": Names._on_grant,  # (request, attempt, version, namespace, name, entry)
        "reply": Names._on_reply,  # (request, attempt, ok, answer)
        "list": Names._on_list,  # (request, namespace | None)
        "listed": Names._on_listed,  # (request, [(shard, rows), ...])
        "conflict": Names._on_conflict,  # (namespace, name, lost entry, kept entry)
    },
)
