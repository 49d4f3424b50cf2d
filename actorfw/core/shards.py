"""Who keeps which shard of the name directory: tokens, their hand-over, and their recovery after a death.

Each of 256 shards has one *token*, the right to serve it, and its holder is the shard's *keeper*. Rendezvous hashing
over the members that are up says where a token should be; it gets there by hand-over only, so two nodes with different
views never both serve a shard. When a token died with its keeper, the node that should have it asks every living
member; all of them must promise the shard to it before it mints a new token. Two rules carry the proof:

* a keeper never promises, and a member that has promised takes no token and accepts no grant until it is released:
  so whoever mints knows that no living member serves the shard;
* a promise comes with all entries of the shard that the member guards or has copies of (`core.copies`). So a token may
  be lost, with a keeper or on the way to one: what it said is collected from the guardians and, for detached actors,
  whose guardian was the keeper, from the copies.

`Shards` is the part of `core.names` that knows members, tokens and promises; what a table means, and the requests to
it, are above. A token alone is the right to serve only with `partition="ap"`; else a lease is needed too
(`core.leases`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from hashlib import blake2b
from typing import Any, Final, NamedTuple, cast

from actorfw.core.copies import Copies
from actorfw.core.entries import Entry, Key, Table, prevails, rows_of, shard_of
from actorfw.values.data import Data
from actorfw.values.ids import Life, RefId

__all__ = ["HANDLERS", "SHARDS", "Entry", "Hold", "Key", "Shards", "Table", "Token", "rows_of", "shard_of"]

SHARDS: Final = 256

_LACK_PATIENCE: Final = 1.0  # a token on its way arrives long before; only then is it looked for
_RETRY: Final = 0.3  # after giving way to another recovery of the same shard
_MINT_STEP: Final = 1000  # above what hand-overs that the mint did not hear of may have added
_MAX_DEAD: Final = 10_000


class Hold(NamedTuple):
    """With leases: which incarnation of a name's actor takes calls, or is to.

    Attributes:
        id: the actor's.
        incarnation: no earlier one is told any more that it may go on.
        since: and this one not before then: an earlier one may still take calls.
        runs: this one was told that it may, and has not let go.
    """

    id: RefId
    incarnation: int
    since: float = 0.0
    runs: bool = False


class Token(Data, frozen=False):
    """The right to serve a shard, and what stands in it."""

    version: int
    table: Table
    copies: Sequence[Life] = ()  # who had copies of the table when it came
    # With leases: names of which this table may not know may still be held, for as long as a lease lasts.
    unsettled: bool = False
    quiet: float = 0.0  # no name is given before
    freed: dict[Key, float] = field(default_factory=dict[Key, float])  # nor this one
    holds: dict[Key, Hold] = field(default_factory=dict[Key, Hold])


class _Recovery(Data, frozen=False):
    """One try to get every living member's promise for a shard."""

    round: int
    version: int
    copy: tuple[int, int, list[Any]] | None = None  # the best: version, number, rows
    copiers: list[Life] = field(default_factory=list[Life])
    asked: set[Life] = field(default_factory=set[Life])
    missing: set[Life] = field(default_factory=set[Life])
    rows: list[Any] = field(default_factory=list[Any])


def _rank(life: Life, shard: int) -> tuple[bytes, Life]:
    """Where a life stands for a shard; the highest should keep it."""
    return blake2b(life + shard.to_bytes(1, "big"), digest_size=8).digest(), life


class Shards:
    """The shards' machine on one node.

    Args:
        life: this node's life.
        now: the present; the attribute is to be set before any other call.
        send: sends a message; to this node's own life too, which takes it when the input at hand is done.
        promising: this node is about to promise a shard: no grant for it may be accepted until `promise_ended`.
            Returns the entries in it that this node guards.
        promise_ended: a shard is not promised any more.
        keeper_changed: this node keeps a shard now, or another node is more likely to than before.
        kept: this node keeps a shard now, or what its table says has changed by a merge.
        passing: a shard's token is about to go elsewhere.
        conflict: two actors had one name, and the one that lost it is detached: its keeper, this node, is to end it.
        ttl: for how long leases last, if there are any.
    """

    def __init__(
        self,
        life: Life,
        now: float,
        *,
        send: Callable[[Life, tuple[Any, ...]], None],
        promising: Callable[[int], Table],
        promise_ended: Callable[[int], None],
        keeper_changed: Callable[[int], None],
        kept: Callable[[int], None],
        passing: Callable[[int], None],
        conflict: Callable[[Key, Entry, Entry], None],
        ttl: float | None = None,
    ) -> None:
        self.life = life
        self.now = now
        self.tokens: dict[int, Token] = {}
        # `known` are asked in recoveries: more than those that are up, since who joins or leaves may hold a token or
        # names too.
        self.known: set[Life] = {life}
        self.dead: dict[Life, None] = {}
        self._heirs: dict[Life, tuple[Life, str]] = {}
        self._send = send
        self._promising = promising
        self._promise_ended = promise_ended
        self._keeper_changed = keeper_changed
        self._kept = kept
        self._about_to_pass = passing
        self._conflict = conflict
        self._ttl = ttl
        self.copies = Copies(send, lambda shard: self.tokens[shard].table, self._next_in_order)

        self._up: frozenset[Life] = frozenset()
        self._leaving: set[Life] = set()
        self._ranked: frozenset[Life] = frozenset((life,))
        self._best = [_rank(life, shard) for shard in range(SHARDS)]
        self._fingerprint: bytes | None = None

        self._barred: dict[int, Token] = {}  # came while the shard was promised
        self._passing: dict[int, Life] = {}  # handed over, not yet confirmed
        self._hint: dict[int, Life] = {}
        self._versions: dict[int, int] = {}

        self._due: dict[int, float] = {}
        self._round = 0
        self._recoveries: dict[int, _Recovery] = {}
        self._promised: dict[int, tuple[Life, int]] = {}
        self._deferred: dict[int, dict[Life, tuple[int, bytes]]] = {}

    def __repr__(self) -> str:
        return (
            f"<Shards of {self.life.hex()}: {len(self.tokens)} tokens, {len(self._recoveries)} recoveries, "
            f"{len(self._promised)} promises, {len(self.known)} members>"
        )

    @property
    def drained(self) -> bool:
        """Whether no token is lost with this node: all have arrived elsewhere, or nobody else is up to take them."""
        return self._ranked == frozenset((self.life,)) or not (self.tokens or self._barred or self._passing)

    def is_promised(self, shard: int) -> bool:
        """Whether no grant may be accepted for the shard."""
        return shard in self._promised

    def keeper(self, shard: int) -> Life:
        """Who keeps a shard, as far as this node knows: whom it handed the token to, else who should have it."""
        return self._hint.get(shard) or self._best[shard][1]

    def is_not_keeper(self, shard: int, life: Life) -> None:
        """A node taken for the keeper turned out not to be it."""
        if self._hint.get(shard) == life:
            del self._hint[shard]

    # -- inputs --------------------------------------------------------------------------------------------------------

    def found(self) -> None:
        """Take all shards."""
        self._up = frozenset((self.life,))
        for shard in range(SHARDS):
            self._activate(shard, Token(0, {}))

    def view(self, members: Iterable[Life]) -> None:
        """The members that are up have changed."""
        self._up = frozenset(members).difference(self.dead)
        for life in sorted(self._up):
            self.meet(life)
        self._rebalance()

    def meet(self, life: Life) -> None:
        """A life not known before is asked in all recoveries, since it may hold a token or names."""
        if life in self.known or life in self.dead:
            return
        self.known.add(life)
        self._fingerprint = None
        if self.life in self._leaving:
            self._send(life, ("leaving",))
        for shard, recovery in self._recoveries.items():
            self._ask_promise(shard, recovery, life)

    def end(self, life: Life) -> bool:
        """A life is over. False if that was known."""
        if life in self.dead or life == self.life:
            return False
        self.dead[life] = None
        if len(self.dead) > _MAX_DEAD:
            del self.dead[next(iter(self.dead))]
        self.known.discard(life)
        self._fingerprint = None
        self._up -= {life}
        self._leaving.discard(life)
        for by_shard in (self._hint, self._passing):
            for shard in [shard for shard, to in by_shard.items() if to == life]:
                del by_shard[shard]
        for token in (*self.tokens.values(), *self._barred.values()):
            self._purge(token)
        self.copies.end(life)
        for deferred in self._deferred.values():
            deferred.pop(life, None)
        self._rebalance(died=life)
        for shard in [shard for shard, (holder, _) in self._promised.items() if holder == life]:
            # It may have minted and handed on before it died: a token that came meanwhile may be the second one.
            self._end_promise(shard, take_barred=False)
        for shard, recovery in list(self._recoveries.items()):
            recovery.asked.discard(life)
            recovery.missing.discard(life)
            self._mint_if_promised(shard)
        self.recover_due()
        return True

    def forget(self, life: Life) -> None:
        """A life of which others told is no member here, and does not become one: it is not waited for."""
        if life in self._up or life == self.life or life not in self.known:
            return
        self.known.discard(life)
        self._fingerprint = None
        for shard, recovery in list(self._recoveries.items()):
            recovery.asked.discard(life)
            recovery.missing.discard(life)
            self._mint_if_promised(shard)

    def leave(self) -> None:
        """Hand all tokens over, and be no place for others."""
        self._leaving.add(self.life)
        for life in sorted(self.known - {self.life}):
            self._send(life, ("leaving",))
        self._rebalance()

    # -- where tokens should be, and moving them there -----------------------------------------------------------------

    def _on_leaving(self, peer: Life) -> None:
        self._leaving.add(peer)
        self._rebalance()

    def _rebalance(self, died: Life | None = None) -> None:
        """Follow a change of who is up: hand tokens over, and note which shards this node should keep and doesn't."""
        ranked = (self._up - self._leaving) or frozenset((self.life,))
        added, gone = sorted(ranked - self._ranked), self._ranked - ranked
        self._ranked = ranked
        for shard in range(SHARDS):
            former = self._best[shard]
            candidates = ranked if former[1] in gone else added
            best = max((_rank(life, shard) for life in candidates), default=former)
            if former[1] not in gone:
                best = max(best, former)
            self._best[shard] = best
            if best[1] == self.life:
                self._look_for(shard, 0.0 if former[1] == died else _LACK_PATIENCE)
                continue
            self._due.pop(shard, None)
            if shard in self._recoveries:
                self._give_up(shard, 0.0)
            if shard in self.tokens:
                self._hand_over(shard)
            elif best != former:
                self._keeper_changed(shard)
        self.copies.moved()

    def _next_in_order(self, shard: int, count: int) -> list[Life]:
        """Who should keep a shard if this node were not there, and who after that."""
        others = (life for life in self._ranked if life != self.life and life not in self.dead)
        return heapq.nlargest(count, others, key=lambda life: _rank(life, shard))

    def drop(self, shard: int, version: int) -> None:
        """The token here is outdated: by `version` at least, somebody else kept the shard since."""
        if shard in self.tokens:
            self._about_to_pass(shard)
            del self.tokens[shard]
            self.copies.passed(shard, 0, {}, ())
            self._versions[shard] = max(version, self._versions.get(shard, 0))
            self._look_for(shard, _LACK_PATIENCE)

    def _hand_over(self, shard: int) -> None:
        self._about_to_pass(shard)
        token, to = self.tokens.pop(shard), self._best[shard][1]
        version = self._versions[shard] = token.version + 1
        self._passing[shard] = self._hint[shard] = to
        copies = self.copies.passed(shard, version, token.table, token.copies)
        if shard in self.copies.of:
            copies = sorted({self.life, *copies})
        waited = [hold.since for hold in token.holds.values()]
        unsettled = token.unsettled or self.now < max(token.quiet, *token.freed.values(), *waited, 0.0)
        # Whoever is still waited for is waited for anew: clocks differ.
        held = [(*key, hold.id, hold.incarnation) for key, hold in token.holds.items() if hold.runs]
        self._send(to, ("token", shard, version, rows_of(token.table), copies, unsettled, *([held] if held else ())))
        self._keeper_changed(shard)

    def _on_token(
        self, peer: Life, shard: int, version: int, rows: list[Any], copies: list[Life], unsettled: bool, held: Any = ()
    ) -> None:
        self._send(peer, ("taken", shard))
        token = Token(version, {}, copies, unsettled)
        for namespace, name, id, incarnation in held:
            token.holds[namespace, name] = Hold((bytes(id[0]), id[1]), incarnation, runs=True)
        self.merge(token.table, rows)
        self._versions[shard] = max(version, self._versions.get(shard, 0))
        promised = self._promised.get(shard)
        if promised is None:
            self._activate(shard, token)
        else:
            self._barred[shard] = token
            self._send(promised[0], ("have", shard, promised[1]))

    def _on_taken(self, peer: Life, shard: int) -> None:
        if self._passing.get(shard) == peer:
            del self._passing[shard]

    def _activate(self, shard: int, token: Token) -> None:
        """Become the keeper, or pass the token on at once if another should be by this node's view."""
        present = self.tokens.get(shard)
        if present is not None:
            # Two tokens exist only after a living member was buried, or where clusters met.
            self.merge(token.table, rows_of(present.table))
            token.version = max(token.version, present.version) + 1
            token.holds = {}
            token.copies = sorted({*token.copies, *self.copies.passed(shard, 0, {}, present.copies)})
            token.unsettled = True
        self._purge(token)
        self.tokens[shard] = token
        self._versions[shard] = max(token.version, self._versions.get(shard, 0))
        self._hint.pop(shard, None)
        self._due.pop(shard, None)
        if self._best[shard][1] != self.life:
            self._hand_over(shard)
        else:
            self.copies.kept(shard, token.version, [life for life in token.copies if life not in self.dead])
            token.copies = ()
            self._kept(shard)
            self._keeper_changed(shard)

    def moved(self, life: Life, heir: Life, address: str) -> None:
        """`heir` answers from now on for the actors of `life`, whose entries may be anywhere, on their way too."""
        self._heirs[life] = heir, address
        for token in self.tokens.values():
            self._purge(token)

    def _purge(self, token: Token) -> None:
        for key, entry in token.table.items():
            while entry.guardian in self._heirs:
                heir, address = self._heirs[entry.guardian]
                entry = token.table[key] = entry._replace(guardian=heir, address=address)
        for key in [key for key, entry in token.table.items() if entry.guardian in self.dead]:
            del token.table[key]
            if self._ttl is not None:
                token.freed[key] = self.now + self._ttl

    def merge(self, table: Table, rows: Iterable[Any]) -> None:
        """Enter rows. Of two actors under one name the older one stays."""
        for namespace, name, fields in rows:
            key, entry = (namespace, name), Entry.of(fields)
            old = table.get(key)
            if old is None:
                table[key] = entry
                continue
            kept, lost = (entry, old) if prevails(entry, old) else (old, entry)
            table[key] = kept
            if kept.is_same(lost) or lost.ended:
                continue
            if lost.record is not None:
                self._conflict(key, lost, kept)
            elif lost.guardian not in self.dead:
                self._send(lost.guardian, ("conflict", namespace, name, tuple(lost), tuple(kept)))

    # -- recovery: the side that wants the shard -----------------------------------------------------------------------

    def _look_for(self, shard: int, delay: float) -> None:
        """Plan a recovery of a shard that this node should keep, unless its token comes before."""
        if self._best[shard][1] != self.life or self.life not in self._up or shard in self._recoveries:
            return
        if shard not in self.tokens and shard not in self._barred:
            self._due[shard] = min(self.now + delay, self._due.get(shard, float("inf")))

    def recover_due(self) -> None:
        """Begin the recoveries whose time has come."""
        for shard in [shard for shard, due in self._due.items() if due <= self.now]:
            del self._due[shard]
            self._round += 1
            recovery = self._recoveries[shard] = _Recovery(self._round, self._versions.get(shard, 0))
            for life in sorted(self.known):
                self._ask_promise(shard, recovery, life)

    def _ask_promise(self, shard: int, recovery: _Recovery, life: Life) -> None:
        recovery.asked.add(life)
        recovery.missing.add(life)
        self._send(life, ("recover", shard, recovery.round, self._view_fingerprint()))

    def _view_fingerprint(self) -> bytes:
        if self._fingerprint is None:
            self._fingerprint = blake2b(b"".join(sorted(self.known)), digest_size=8).digest()
        return self._fingerprint

    def _give_up(self, shard: int, delay: float) -> None:
        """Stop a recovery and release all who promised; whoever waits here looks for the keeper again."""
        recovery = self._recoveries.pop(shard)
        self._release(shard, recovery, 0)
        self._look_for(shard, delay)
        self._keeper_changed(shard)

    def _release(self, shard: int, recovery: _Recovery, version: int) -> None:
        # To all asked, whether or not they have answered: in order behind the question, so no promise is left behind.
        for life in sorted(recovery.asked):
            self._send(life, ("release", shard, recovery.round, version))

    def _on_have(self, peer: Life, shard: int, number: int) -> None:
        recovery = self._recoveries.get(shard)
        if recovery is not None and recovery.round == number:
            if peer != self.life:
                self._hint[shard] = peer
            self._give_up(shard, _LACK_PATIENCE)

    def _on_busy(self, peer: Life, shard: int, number: int, other: Life) -> None:
        self.meet(other)
        self._on_recall(peer, shard, number)

    def _on_recall(self, _peer: Life, shard: int, number: int) -> None:
        recovery = self._recoveries.get(shard)
        if recovery is not None and recovery.round == number:
            # Not all at the same moment again; a hash is as good as chance here, and can be replayed.
            jitter = blake2b(self.life + number.to_bytes(8, "big"), digest_size=1).digest()[0] / 255
            self._give_up(shard, _RETRY * (0.5 + jitter))

    def _on_no(
        self, peer: Life, shard: int, number: int, version: int, rows: list[Any], lives: list[Life], copy: Any
    ) -> None:
        recovery = self._recoveries.get(shard)
        if recovery is None or recovery.round != number:
            return
        for life in lives:
            self.meet(life)
        recovery.missing.discard(peer)
        recovery.version = max(recovery.version, version)
        recovery.rows += rows
        if copy is not None:
            recovery.copiers.append(peer)
            recovery.version = max(recovery.version, copy[0])
            if recovery.copy is None or (copy[0], copy[1]) > recovery.copy[:2]:
                recovery.copy = (copy[0], copy[1], copy[2])
        self._mint_if_promised(shard)

    def _mint_if_promised(self, shard: int) -> None:
        recovery = self._recoveries[shard]
        if recovery.missing:
            return
        del self._recoveries[shard]
        token = Token(recovery.version + _MINT_STEP, {}, recovery.copiers, unsettled=True)
        self.merge(token.table, recovery.copy[2] if recovery.copy is not None else ())
        self.merge(token.table, recovery.rows)
        self._release(shard, recovery, token.version)
        self._activate(shard, token)

    # -- recovery: the side that is asked ------------------------------------------------------------------------------

    def _on_recover(self, peer: Life, shard: int, number: int, fingerprint: bytes) -> None:
        if shard in self.tokens or shard in self._passing:
            self._send(peer, ("have", shard, number))
            return
        promised = self._promised.get(shard)
        if promised is None:
            self._promise(peer, shard, number, fingerprint)
        elif _rank(promised[0], shard) > _rank(peer, shard):
            self._send(peer, ("busy", shard, number, promised[0]))
        else:
            self._deferred.setdefault(shard, {})[peer] = (number, fingerprint)
            self._send(promised[0], ("recall", shard, promised[1]))

    def _promise(self, peer: Life, shard: int, number: int, fingerprint: bytes) -> None:
        self._promised[shard] = (peer, number)
        rows = rows_of(self._promising(shard))
        # Whom the other does not know may hold the token: a newcomer to which a keeper gave it before it died.
        lives = [] if fingerprint == self._view_fingerprint() else sorted(self.known)
        copy = self.copies.of.get(shard)
        copied = None if copy is None else (copy.version, copy.number, rows_of(copy.table))
        self._send(peer, ("no", shard, number, self._versions.get(shard, 0), rows, lives, copied))

    def _on_release(self, peer: Life, shard: int, number: int, version: int) -> None:
        """A recovery ended: with a new token if there is a version, else without."""
        deferred = self._deferred.get(shard, {})
        if deferred.get(peer, (0, b""))[0] == number:
            del deferred[peer]
        if self._promised.get(shard) == (peer, number):
            if version and peer != self.life:
                self._versions[shard] = max(version, self._versions.get(shard, 0))
                self._hint[shard] = peer
                self._keeper_changed(shard)
            self._end_promise(shard, take_barred=version == 0)

    def _end_promise(self, shard: int, *, take_barred: bool) -> None:
        del self._promised[shard]
        barred = self._barred.pop(shard, None)
        if barred is not None and take_barred:
            self._activate(shard, barred)
        elif barred is not None:
            self._look_for(shard, _LACK_PATIENCE)
        deferred = self._deferred.pop(shard, {})
        for life in sorted(deferred, key=lambda life: _rank(life, shard), reverse=True):
            self._on_recover(life, shard, *deferred[life])
        if shard not in self._promised:
            self._promise_ended(shard)


HANDLERS: Final = cast(
    "dict[str, Callable[..., None]]",
    {
        "leaving": Shards._on_leaving,  # ()
        # (shard, version, rows, who has copies, unsettled?[, [(namespace, name, id, incarnation), ...] held by hosts])
        "token": Shards._on_token,
        "taken": Shards._on_taken,  # (shard)
        "recover": Shards._on_recover,  # (shard, round, fingerprint of the known lives)
        # (shard, round, version, rows, lives if the fingerprints differ, (version, number, rows) of a copy): promised
        "no": Shards._on_no,
        "have": Shards._on_have,  # (shard, round)
        "busy": Shards._on_busy,  # (shard, round, the life it is promised to)
        "recall": Shards._on_recall,  # (shard, round)
        "release": Shards._on_release,  # (shard, round, version of the token minted, else 0)
    },
)
"""The messages between the machines of two nodes: Shards, sender, fields."""
