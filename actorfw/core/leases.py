"""`Leases`: a keeper's right to serve its shards, as a majority of the configured voters grants it.

For each shard whose token this node holds it renews a lease at a third of `ttl`, counted from when it *sent* what the
voters accepted, and takes it as over two tenths before voters do: so between its last answer and another keeper's first
there is time for a clock that runs up to a tenth too slow or too fast.

A round is for many shards at once: prepare at all voters, then accept at those whose promises were counted, with their
seats (`core.voters`). A lease that another keeper holds is waited for. A register that knows a later version than this
node's token says that the token is outdated: somebody else kept the shard since, so this node must not serve from it.

Sans-IO; it leaves to others: tokens (`core.shards`), what a lease is good for (`core.names`), and sending.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Final, TypeAlias, cast

from actorfw.core.voters import TTL, Ballot, Value, majority_of
from actorfw.values.data import Data
from actorfw.values.errors import ProtocolError
from actorfw.values.ids import Life, as_bytes

__all__ = ["LEASE_SHARE", "Leases"]

LEASE_SHARE: Final = 0.8
"""The part of `ttl` for which a lease is used, counted from sending."""

_ROUND_LIMIT: Final = 1.0
_BACK_OFF: Final = (0.1, 0.5)

Instruction: TypeAlias = tuple[Any, ...]


class _Round(Data, frozen=False):
    number: int
    until: float
    shards: dict[int, int]  # to be held: their tokens' versions
    leaving: dict[int, int]  # to be given up
    promises: dict[str, tuple[float, Life, dict[int, tuple[Ballot, Value | None]]]] = field(
        default_factory=dict[str, "tuple[float, Life, dict[int, tuple[Ballot, Value | None]]]"]
    )
    sent: float = 0.0  # when accept went out
    values: dict[int, Value] = field(default_factory=dict[int, Value])
    seats: frozenset[str] = frozenset()
    accepted: dict[int, int] = field(default_factory=dict[int, int])


class Leases:
    """The machine of one node that keeps shards.

    Instructions are `("send", life, message)`, `("leased", shard)`: it may be served now and could not before, and
    `("outdated", shard, version)`.

    Args:
        life: this node's.
        voters: the configured names.
        rng: for back-off.
        ttl: how long a lease lasts at the voters.
    """

    def __init__(self, life: Life, voters: Sequence[str], rng: random.Random, *, ttl: float = TTL) -> None:
        self.life = life
        self.voters = tuple(voters)
        self.ttl = ttl
        self._majority = majority_of(len(self.voters))
        self._rng = rng
        self._lives: dict[str, Life] = {}
        self._wanted: dict[int, int] = {}  # shards with a token here: its version
        self._giving_up: dict[int, int] = {}
        self._until: dict[int, float] = {}
        self._renew: dict[int, float] = {}
        self._counter = 0
        self._rounds = 0
        self._round: _Round | None = None
        self._pause = 0.0
        self._now = 0.0
        self._out: list[Instruction] = []

    def __repr__(self) -> str:
        return f"<Leases of {self.life.hex()}: {len(self._until)} of {len(self._wanted)} shards>"

    def may_serve(self, shard: int, now: float) -> bool:
        """Whether this node is the shard's only keeper at this moment."""
        return self._until.get(shard, 0.0) > now

    def lives(self, lives: Mapping[str, Life], now: float) -> list[Instruction]:
        """Which lives the voters have now, as far as this node knows."""
        self._lives = {name: life for name, life in lives.items() if name in self.voters}
        return self.tick(now)

    def hold(self, shards: Mapping[int, int], now: float) -> list[Instruction]:
        """The shards whose tokens are here, with their versions: all of them."""
        self._now = now
        for shard in self._wanted.keys() - shards.keys():
            if self._until.pop(shard, 0.0) > now or shard in self._renew:
                self._giving_up[shard] = self._wanted[shard]
            self._renew.pop(shard, None)
        for shard in shards.keys() - self._wanted.keys():
            self._giving_up.pop(shard, None)
        for shard, version in shards.items():
            if self._wanted.get(shard) != version:
                self._renew[shard] = now
        self._wanted = dict(shards)
        return self.tick(now)

    def tick(self, now: float) -> list[Instruction]:
        """Time has passed. To be called every quarter of a second or so; cheap when nothing is due."""
        self._now = now
        if self._round is not None and now >= self._round.until:
            self._over(failed=True)
        if self._round is None and now >= self._pause:
            due = {shard: self._wanted[shard] for shard, when in self._renew.items() if when <= now}
            if (due or self._giving_up) and self._lives:
                self._begin(due)
        out, self._out = self._out, []
        return out

    def message(self, peer: Life, message: Sequence[Any], now: float) -> list[Instruction]:
        """A voter answers.

        Raises:
            ProtocolError: it is no answer of a voter.
        """
        self._now = now
        handler = _HANDLERS.get(message[0]) if message and isinstance(message[0], str) else None
        if handler is None:
            raise ProtocolError(f"node {peer.hex()} sent {message!r:.100}, which is no answer of a voter")
        if self._round is not None and self._round.number == message[1]:
            handler(self, self._round, *message[2:])
        return self.tick(now)

    # -- a round -------------------------------------------------------------------------------------------------------

    def _begin(self, due: dict[int, int]) -> None:
        self._rounds += 1
        self._counter += 1
        self._round = _Round(self._rounds, self._now + _ROUND_LIMIT, due, dict(self._giving_up))
        shards = sorted(due.keys() | self._giving_up.keys())
        for _, life in sorted(self._lives.items()):
            self._out.append(("send", life, ("prepare", self._rounds, self._counter, shards)))

    def _over(self, *, failed: bool) -> None:
        self._round = None
        if failed:
            low, high = _BACK_OFF
            self._pause = self._now + self._rng.uniform(low, high)

    def _on_promise(
        self, current: _Round, name: str, born: float, life: Life, rows: list[Any], refused: list[Any]
    ) -> None:
        if current.seats or name not in self.voters:
            return
        promised = {row[0]: (_ballot(row[1]), _value(row[2])) for row in rows}
        current.promises[name] = (born, as_bytes(life), promised)
        for shard, counter, held in refused:
            self._counter = max(self._counter, counter)
            if held and shard in self._renew:
                # Somebody's lease runs. Once a second is soon enough to see whether it has ended.
                self._renew[shard] = max(self._renew[shard], self._now + 1.0)
        if len(current.promises) >= self._majority:
            self._propose(current)

    def _propose(self, current: _Round) -> None:
        """A majority has answered: ask it to accept, for the shards that all of it promised."""
        quorum = current.promises
        current.seats = frozenset(quorum)
        for shard in sorted(current.shards.keys() | current.leaving.keys()):
            if not all(shard in promised for _, _, promised in quorum.values()):
                continue
            _, value = max((promised[shard] for _, _, promised in quorum.values()), key=lambda row: row[0])
            made = self._change(current, shard, value)
            if made is not None:
                current.values[shard] = made
        if not current.values:
            self._over(failed=True)
            return
        current.sent = self._now
        seats = [(name, born, life) for name, (born, life, _) in sorted(quorum.items())]
        values = sorted(current.values.items())
        for _, _, life in seats:
            self._out.append(("send", life, ("accept", current.number, self._counter, seats, values)))

    def _change(self, current: _Round, shard: int, value: Value | None) -> Value | None:
        """What a register should say, given what it says; None: leave it."""
        if shard not in current.shards:
            if value is None or value[1] != self.life:
                self._giving_up.pop(shard, None)  # it is another's already
                return None
            return value[0], self.life, False
        if shard not in self._wanted:
            return None
        version = current.shards[shard]
        if value is not None and value[1] != self.life and value[0] > version:
            self._out.append(("outdated", shard, value[0]))
            self._renew[shard] = self._now + 1.0
            return None
        return max(version, value[0] if value is not None else 0), self.life, True

    def _on_accepted(self, current: _Round, name: str, shards: list[int]) -> None:
        if name not in current.seats:
            return
        for shard in shards:
            current.accepted[shard] = current.accepted.get(shard, 0) + 1
            if current.accepted[shard] == self._majority:
                self._chosen(current, shard)
        if all(current.accepted.get(shard, 0) == len(current.seats) for shard in current.values):
            self._over(failed=False)

    def _chosen(self, current: _Round, shard: int) -> None:
        if shard in current.shards:
            if self._wanted.get(shard) != current.shards[shard]:
                return  # the token has gone since, and perhaps come back: the voters must know of that one
            until = current.sent + self.ttl * LEASE_SHARE
            new = self._until.get(shard, 0.0) <= self._now < until
            self._until[shard] = until
            self._renew[shard] = current.sent + self.ttl / 3
            if new:
                self._out.append(("leased", shard))
        elif shard in current.leaving:
            self._giving_up.pop(shard, None)

    def _on_unable(self, current: _Round) -> None:
        if current.seats:
            self._over(failed=True)  # it would miss one of the votes that it needs


def _ballot(fields: Any) -> Ballot:
    return fields[0], as_bytes(fields[1])


def _value(fields: Any) -> Value | None:
    return None if fields is None else (fields[0], as_bytes(fields[1]), fields[2])


_HANDLERS: Final = cast(
    "dict[str, Callable[..., None]]",
    {
        "promise": Leases._on_promise,  # (round, name, born, life, [(shard, ballot, value)], [(shard, counter, held?)])
        "accepted": Leases._on_accepted,  # (round, name, shards)
        "unable": Leases._on_unable,  # (round): this voter copies still, or the round counts a vote that is void
    },
)
"""The answers of voters: Leases, round, fields."""
