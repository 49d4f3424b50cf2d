"""The keeper's side of the name directory: what is done with requests for shards whose tokens are here.

A name is entered, looked up and removed here. Of detached actors the keeper is the guardian too: their entries change
with what `record` says, count when they are safe elsewhere (`core.copies`), and requests to their guardian end here.

Leaves to others: whether the token is here and may be served, and how requests come and answers go (`core.names`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from actorfw.core.entries import ALIASES, Entry, Key, Record
from actorfw.core.shards import Hold, Shards, Token
from actorfw.values.ids import Life, RefId

__all__ = ["Ask", "Keeper"]

_ENDED_STAYS: Final = 60.0  # an ended detached actor's entry


class Ask(NamedTuple):
    """A request as it travels. `attempt` tells its copies apart: only a grant of the latest one counts."""

    origin: Life
    request: int
    attempt: int
    op: str
    namespace: str
    name: str
    payload: Any


class Keeper:
    """What one node does with the shards that it keeps.

    Args:
        tell: takes an instruction (`core.names.Instruction`).
        send: sends a message, to this node too.
        wait: keeps a request that can't be served yet.
        again: serves what waits for a shard, as far as that can be served now.
        ttl: with leases, how long they last.

    Attributes:
        shards: to be set before anything else is called.
    """

    shards: Shards

    def __init__(
        self,
        tell: Callable[[tuple[Any, ...]], None],
        send: Callable[[Life, tuple[Any, ...]], None],
        wait: Callable[[int, Ask], None],
        again: Callable[[int], None],
        ttl: float | None,
    ) -> None:
        self._tell = tell
        self._send = send
        self._wait = wait
        self._again = again
        self._ttl = ttl
        self._guarding: dict[tuple[Life, int], tuple[int, Ask]] = {}  # asked of the guardian here, by ticket
        self._guarded: set[int] = set()  # shards whose detached actors are guarded here
        self._ended: deque[tuple[float, int, Key, RefId]] = deque()

    def tick(self) -> None:
        """Time has passed."""
        while self._ended and self._ended[0][0] <= self.shards.now:
            self._forget_ended(*self._ended.popleft()[1:])

    def serve(self, shard: int, token: Token, ask: Ask) -> None:
        key = (ask.namespace, ask.name)
        old = token.table.get(key)
        if ask.op == "guard":
            self._serve_guard(shard, token, ask)
        elif ask.op == "create":
            self._serve_create(shard, token, key, ask)
        elif ask.op == "lookup":
            self._reply(ask, *_found(old))
        elif ask.op == "hold":
            self._serve_hold(shard, token, key, ask)
        elif ask.op == "claim":
            self._serve_claim(shard, token, key, ask)
        elif ask.op == "let_go":
            self._let_go(shard, token, key, (bytes(ask.payload[0]), ask.payload[1]), ask.payload[2])
            self._reply(ask, True, None)
        else:
            if old is not None and old.id == (ask.payload[0], ask.payload[1]):
                del token.table[key]
                self._free(token, key)
            self._reply(ask, True, None)

    def _reply(self, ask: Ask, ok: bool, answer: Any) -> None:
        self._send(ask.origin, ("reply", ask.request, ask.attempt, ok, answer))

    def _serve_create(self, shard: int, token: Token, key: Key, ask: Ask) -> None:
        entry, old = Entry.of(ask.payload[0]), token.table.get(key)
        known = token.table.get((ALIASES, entry.life.hex())) if entry.record is not None else None
        if known is not None:
            # A copy of a request that was served. Whoever it led to may have ended since, and the name be free: to
            # make the actor now would make one that nobody waits for, or one a second time.
            meant = _meant(known, token)
            self._reply(ask, True, (tuple(meant), meant is known))
        elif old is not None and not old.ended and not old.is_same(entry):
            if ask.payload[1]:
                if entry.record is not None:
                    self._enter_alias(shard, token, entry, old)
                self._reply(ask, True, (tuple(old), False))
            else:
                self._reply(ask, False, ("exists", tuple(old)))
        elif self.shards.now < max(token.quiet, token.freed.get(key, 0.0)):
            self._wait(shard, ask)
        else:
            self._enter(shard, token, key, entry, old, ask)

    def _serve_claim(self, shard: int, token: Token, key: Key, ask: Ask) -> None:
        """Somebody holds this name, or did when it asked. Contested, of two actors the older one stays."""
        fields, contested = ask.payload
        entry, old = Entry.of(fields), token.table.get(key)
        if old is None or old.ended or contested or old.is_same(entry):
            if old is not None and old.ended and not old.is_same(entry):
                self._make_room(shard, token, key, old)
            self.shards.merge(token.table, [(*key, fields)])
            self._reply(ask, True, None)
        else:
            self._reply(ask, False, tuple(old))

    def _enter_alias(self, shard: int, token: Token, entry: Entry, old: Entry) -> None:
        """Its handle may be on its way to others already, and lead them here."""
        key = (ALIASES, entry.life.hex())
        if key not in token.table and entry.record is not None:
            record = entry.record._replace(
                spec=b"", state="alias", host=old.life, address=old.address, reason=str(old.number)
            )
            made = token.table[key] = entry._replace(record=record)
            self.shards.copies.changed(shard, token.version, key)
            self._tell(("guard", key, made))
            self._note_ended(shard, key, made)

    def _enter(self, shard: int, token: Token, key: Key, entry: Entry, old: Entry | None, ask: Ask) -> None:
        if old is not None and old.ended and not old.is_same(entry):
            self._make_room(shard, token, key, old)
        if entry.record is None:
            token.table[key] = entry
            self._send(ask.origin, ("grant", ask.request, ask.attempt, token.version, *key, tuple(entry)))
        else:
            if old is None or not old.is_same(entry):
                token.table[key] = entry
                self.shards.copies.changed(shard, token.version, key)
                self._tell(("guard", key, entry))
            answer = (tuple(entry), True)
            self.shards.copies.when_safe(shard, lambda: self._reply(ask, True, answer))

    def _make_room(self, shard: int, token: Token, key: Key, ended: Entry) -> None:
        self._set_aside(shard, token, ended)
        token.holds.pop(key, None)
        self.shards.copies.changed(shard, token.version, key)

    def _set_aside(self, shard: int, token: Token, ended: Entry) -> None:
        """A name is free for another actor. A copy of the request that made this one may still be on its way."""
        key = (ALIASES, ended.life.hex())
        token.table[key] = ended
        self.shards.copies.changed(shard, token.version, key)
        self._tell(("guard", key, ended))
        self._note_ended(shard, key, ended)

    # -- hosts that hold names, with leases ----------------------------------------------------------------------------

    def _serve_hold(self, shard: int, token: Token, key: Key, ask: Ask) -> None:
        """A host wants to go on taking calls for the actor of this name, or to begin with that.

        The first incarnation of an actor has nobody before it: its name was given when nobody held it. A later one
        waits until the one before it has let go, or must have stopped for want of an answer.
        """
        id, incarnation = (bytes(ask.payload[0]), ask.payload[1]), ask.payload[2]
        entry = token.table.get(key)
        if entry is None or entry.id != id or entry.ended or incarnation < entry.incarnation:
            self._reply(ask, True, False)
            return
        if incarnation > entry.incarnation and entry.record is None:
            token.table[key] = entry._replace(incarnation=incarnation)  # what a guardian elsewhere has decided
        hold = token.holds.get(key)
        if hold is None or hold.id != id:
            # Known to nobody here: an actor of which this keeper gave the name, or one that another keeper saw last.
            since = token.quiet if incarnation > 1 else 0.0
            hold = token.holds[key] = Hold(id, incarnation, since)
        elif incarnation > hold.incarnation:
            assert self._ttl is not None
            hold = token.holds[key] = Hold(id, incarnation, self.shards.now + self._ttl if hold.runs else hold.since)
        if incarnation < hold.incarnation:
            self._reply(ask, True, False)
        elif self.shards.now < hold.since:
            self._wait(shard, ask)
        else:
            token.holds[key] = hold._replace(runs=True)
            self._reply(ask, True, True)

    def _let_go(self, shard: int, token: Token, key: Key, id: RefId, incarnation: int) -> None:
        """A host takes no more calls for an incarnation: whoever waits for that need not any longer."""
        hold = token.holds.get(key)
        if hold is None or hold.id != id:
            return
        if incarnation == hold.incarnation:
            token.holds[key] = hold._replace(runs=False, since=0.0)
            entry = token.table.get(key)
            if entry is None or entry.id != id:
                del token.holds[key]
                token.freed.pop(key, None)
        elif incarnation == hold.incarnation - 1 and not hold.runs:
            token.holds[key] = hold._replace(since=0.0)
        self._again(shard)

    def _free(self, token: Token, key: Key) -> None:
        """An actor's entry is gone: its host may take calls for as long as it holds the name."""
        if self._ttl is None:
            return
        now = self.shards.now
        hold = token.holds.get(key)
        if hold is not None and (hold.runs or now < hold.since):
            token.freed[key] = now + self._ttl
        token.freed = {of: until for of, until in token.freed.items() if now < until}
        token.holds = {of: hold for of, hold in token.holds.items() if of in token.freed or _holds(hold, token, of)}

    # -- detached actors -----------------------------------------------------------------------------------------------

    def record(self, key: Key, id: RefId, incarnation: int, record: Record, ticket: object) -> None:
        """The guardian here says what has become of a detached actor: `("safe", ticket)` follows when that is safe.

        If the shard is handed over before, it does not follow, and the next guardian starts from what was recorded.
        """
        token = self.shards.tokens.get(id[1])
        old = token.table.get(key) if token is not None else None
        if token is not None and old is not None and old.id == id:
            entry = token.table[key] = old._replace(incarnation=incarnation, record=record)
            if entry.ended and not old.ended:
                self._free(token, key)
            self.shards.copies.changed(id[1], token.version, key)
            self.shards.copies.when_safe(id[1], lambda: self._tell(("safe", ticket)))
            self._note_ended(id[1], key, entry)

    def answered(self, ticket: tuple[Life, int], ok: bool, payload: Any) -> None:
        """The guardian here answers what it was asked."""
        found = self._guarding.pop(ticket, None)
        if found is not None:
            self._reply(found[1], ok, payload)

    def leased(self, shard: int) -> None:
        """The lease of a shard that this node keeps begins."""
        token = self.shards.tokens.get(shard)
        if token is not None and self._ttl is not None and token.unsettled:
            token.unsettled = False
            token.quiet = self.shards.now + self._ttl

    def _serve_guard(self, shard: int, token: Token, ask: Ask) -> None:
        id = (bytes(ask.payload[0]), ask.payload[1])
        ticket = (ask.origin, ask.request)
        if not any(entry.id == id for entry in token.table.values()):
            self._reply(ask, False, ("not_found", None))
            return
        known = ticket in self._guarding
        self._guarding[ticket] = (shard, ask)
        if not known:
            self._tell(("asked", ticket, id, *ask.payload[2:]))

    def serve_from_copy(self, shard: int, ask: Ask) -> bool:
        """There is no token, here or elsewhere: a copy may say what suffices to find an actor that is up."""
        copy = self.shards.copies.of.get(shard)
        if copy is None or self._ttl is not None:
            return False
        if ask.op == "lookup":
            entry = copy.table.get((ask.namespace, ask.name))
            if entry is None or entry.ended:
                return False
            self._reply(ask, True, tuple(entry))
            return True
        if ask.op == "guard" and ask.payload[2] == "locate" and not ask.payload[3]:
            for entry in copy.table.values():
                record = entry.record
                if entry.life == ask.payload[0] and record is not None and record.state == "up":
                    answer = ("up", entry.incarnation, record.left != 0, record.host, record.address)
                    self._reply(ask, True, answer)
                    return True
        return False

    def shard_kept(self, shard: int) -> None:
        self._guarded.add(shard)
        for key, entry in self.shards.tokens[shard].table.items():
            if entry.record is not None:
                self._tell(("guard", key, entry))
                self._note_ended(shard, key, entry)

    def shard_passing(self, shard: int) -> None:
        if shard not in self._guarded:
            return  # it only came by
        self._guarded.discard(shard)
        for entry in self.shards.tokens[shard].table.values():
            if entry.record is not None:
                self._tell(("give_up", entry.id))
        for ticket in [ticket for ticket, (of, _) in self._guarding.items() if of == shard]:
            self._wait(shard, self._guarding.pop(ticket)[1])  # sent on when the token has gone

    def conflict(self, key: Key, lost: Entry, kept: Entry) -> None:
        self._tell(("conflict", *key, lost, kept))

    def _note_ended(self, shard: int, key: Key, entry: Entry) -> None:
        if entry.ended:
            self._ended.append((self.shards.now + _ENDED_STAYS, shard, key, entry.id))

    def _forget_ended(self, shard: int, key: Key, id: RefId) -> None:
        token = self.shards.tokens.get(shard)
        entry = token.table.get(key) if token is not None else None
        if token is not None and entry is not None and entry.ended and entry.id == id:
            del token.table[key]
            token.holds.pop(key, None)
            self.shards.copies.changed(shard, token.version, key)
            self._tell(("give_up", id))


def _meant(alias: Entry, token: Token) -> Entry:
    """Whom what stands under an id leads to, in the entry of its name if it still has one."""
    record = alias.record
    assert record is not None
    if record.state != "alias":
        return alias
    id = (record.host, int(record.reason))
    for entry in token.table.values():
        if entry.id == id:
            return entry
    return alias._replace(life=id[0], number=id[1], guardian=id[0], address=record.address)


def _found(entry: Entry | None) -> tuple[bool, Any]:
    return (False, ("not_found", None)) if entry is None or entry.ended else (True, tuple(entry))


def _holds(hold: Hold, token: Token, key: Key) -> bool:
    entry = token.table.get(key)
    return entry is not None and entry.id == hold.id and not entry.ended
