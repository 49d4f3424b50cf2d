"""`Voter`: one of the configured nodes whose majority says who keeps a shard, for as long as a lease lasts.

A register per shard holds (version, keeper, held?). Each change is one round of Paxos per register, and the number of
a round is (counter, life of who asks). A voter that has accepted that a keeper holds a shard promises it to nobody else
until a full `ttl` has passed on its own clock; a keeper stops earlier than that, by its own (`core.leases`). So two
keepers never overlap as long as clocks run at rates that differ by less than a tenth.

A voter has no disk. One that restarted knows nothing of what its former life promised or accepted, so it

* gives no vote before it has copied every register from a majority of the others; or, where so many have restarted that
  there is no such majority, before *all* voters have answered and a full `ttl` has passed since it started;
* is from then on known to all it copied from by its new *seat* (time of its start, life). They refuse every round that
  still counts a vote of an older seat: what that seat did may be forgotten.

Sans-IO: `message` and `tick` return `("send", life, message)`. It leaves to others: who is a voter and where
(configuration and membership), exactly-once delivery in order (sessions), and what keepers do (`core.leases`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from actorfw.values.data import Data
from actorfw.values.errors import ProtocolError
from actorfw.values.ids import Life, as_bytes

__all__ = ["TTL", "Ballot", "Seat", "Value", "Voter", "majority_of"]

TTL: Final = 10.0
"""Seconds that a voter stands by a lease, counted from when it accepted it."""

_COPY_AGAIN: Final = 1.0

Ballot: TypeAlias = tuple[int, Life]
Seat: TypeAlias = tuple[float, Life]
"""(wall clock time at which a voter's node started, its life): the higher one of a name is the later one."""
Value: TypeAlias = tuple[int, Life, bool]
"""(version of the token, keeper, whether its lease runs): what a register says."""

Instruction: TypeAlias = tuple[Any, ...]

_NONE: Final[Ballot] = (0, b"")


def majority_of(voters: int) -> int:
    """How many of so many are more than half."""
    return voters // 2 + 1


class _Register(Data, frozen=False):
    promised: Ballot = _NONE
    accepted: Ballot = _NONE
    value: Value | None = None
    until: float = 0.0  # nobody but the keeper is promised anything before


class Voter:
    """The voter's machine on one node.

    Args:
        name: this node's, one of `voters`.
        life: this node's.
        voters: the configured names.
        born: wall clock time of this node's start: tells its lives apart, nothing is measured by it.
        now: the present, on a clock that goes on while the machine sleeps.
        ttl: how long a lease lasts, the same at all voters and keepers.

    Attributes:
        votes: whether it takes part yet.
    """

    def __init__(
        self, name: str, life: Life, voters: Sequence[str], born: float, now: float, *, ttl: float = TTL
    ) -> None:
        self.name = name
        self.life = life
        self.voters = tuple(voters)
        self.ttl = ttl
        self.votes = False
        self._seats: dict[str, Seat] = {name: (born, life)}
        self._born = now
        self._lives: dict[str, Life] = {}
        self._registers: dict[int, _Register] = {}
        self._now = now
        self._out: list[Instruction] = []
        self._asked = float("-inf")
        self._copy = 0  # the number of the copying under way
        self._copied: dict[str, list[Any] | None] = {}  # None: that one does not vote either

    def __repr__(self) -> str:
        state = "votes" if self.votes else "copies"
        return f"<Voter {self.name}: {state}, {len(self._registers)} registers>"

    def lives(self, lives: Mapping[str, Life], now: float) -> list[Instruction]:
        """Which lives the voters have now, as far as this node knows."""
        self._now = now
        self._lives = {name: life for name, life in lives.items() if name in self.voters and name != self.name}
        return self.tick(now)

    def tick(self, now: float) -> list[Instruction]:
        """Time has passed."""
        self._now = now
        if not self.votes and now - self._asked >= _COPY_AGAIN:
            self._asked = now
            self._copy += 1
            self._copied = {}
            for _, life in sorted(self._lives.items()):
                self._send(life, ("copy", self._copy, self.name, *self._seats[self.name]))
        out, self._out = self._out, []
        return out

    def message(self, peer: Life, message: Sequence[Any], now: float) -> list[Instruction]:
        """A keeper, or another voter, asks.

        Raises:
            ProtocolError: it is no question to a voter.
        """
        self._now = now
        handler = _HANDLERS.get(message[0]) if message and isinstance(message[0], str) else None
        if handler is None:
            raise ProtocolError(f"node {peer.hex()} sent {message!r:.100}, which is no message to a voter")
        handler(self, peer, *message[1:])
        out, self._out = self._out, []
        return out

    def _send(self, life: Life, message: tuple[Any, ...]) -> None:
        self._out.append(("send", life, message))

    def _register(self, shard: int) -> _Register:
        found = self._registers.get(shard)
        if found is None:
            found = self._registers[shard] = _Register()
        return found

    # -- rounds --------------------------------------------------------------------------------------------------------

    def _on_prepare(self, peer: Life, number: int, counter: int, shards: list[int]) -> None:
        if not self.votes:
            self._send(peer, ("unable", number))
            return
        ballot = (counter, peer)
        rows: list[tuple[Any, ...]] = []
        refused: list[tuple[int, int, bool]] = []
        for shard in shards:
            register = self._register(shard)
            if self._is_held_against(register, peer):
                refused.append((shard, register.promised[0], True))
            elif ballot <= register.promised:
                refused.append((shard, register.promised[0], False))
            else:
                register.promised = ballot
                rows.append((shard, register.accepted, register.value))
        self._send(peer, ("promise", number, self.name, *self._seats[self.name], rows, refused))

    def _is_held_against(self, register: _Register, life: Life) -> bool:
        value = register.value
        return value is not None and value[2] and value[1] != life and self._now < register.until

    def _on_accept(self, peer: Life, number: int, counter: int, seats: list[Any], values: list[Any]) -> None:
        if not self.votes or not self._counts(seats):
            self._send(peer, ("unable", number))
            return
        ballot = (counter, peer)
        done: list[int] = []
        for shard, fields in values:
            register = self._register(shard)
            if ballot >= register.promised:
                version, keeper, held = fields
                register.promised = register.accepted = ballot
                register.value = (version, bytes(keeper), held)
                register.until = self._now + self.ttl
                done.append(shard)
        self._send(peer, ("accepted", number, self.name, done))

    def _counts(self, seats: list[Any]) -> bool:
        """Whether no vote of an older seat than known is counted, and this node's is."""
        counted = {name: (born, as_bytes(life)) for name, born, life in seats}
        return counted.get(self.name) == self._seats[self.name] and all(
            seat >= self._seats.get(name, seat) for name, seat in counted.items()
        )

    # -- after a restart -----------------------------------------------------------------------------------------------

    def _on_copy(self, peer: Life, number: int, name: str, born: float, life: Life) -> None:
        if name not in self.voters or name == self.name:
            return
        seat = (born, as_bytes(life))
        self._seats[name] = max(seat, self._seats.get(name, seat))
        rows: list[Any] | None = None
        if self.votes:
            rows = [
                (shard, r.promised, r.accepted, r.value, self._now < r.until) for shard, r in self._registers.items()
            ]
        seats = [(of, *known) for of, known in self._seats.items()]
        self._send(peer, ("copied", number, self.name, seats, rows))

    def _on_copied(self, _peer: Life, number: int, name: str, seats: list[Any], rows: list[Any] | None) -> None:
        if self.votes or number != self._copy:
            return
        if self._is_outsat(seats):
            return
        for of, born, life in seats:
            if of != self.name:
                seat = (born, as_bytes(life))
                self._seats[of] = max(seat, self._seats.get(of, seat))
        self._copied[name] = rows
        if self._has_copied_enough():
            for copied in self._copied.values():
                self._take(copied or [])
            self.votes = True
            self._copied = {}

    def _is_outsat(self, seats: list[Any]) -> bool:
        """Whether a former life of this node has a higher seat: its machine's clock was set back in between.

        Then this node takes one above that, and asks anew.
        """
        own = self._seats[self.name]
        highest = max(((born, as_bytes(life)) for of, born, life in seats if of == self.name), default=own)
        if highest <= own:
            return False
        self._seats[self.name] = (highest[0] + 1.0, self.life)
        self._asked = float("-inf")
        self._copied = {}
        self._copy += 1
        return True

    def _has_copied_enough(self) -> bool:
        others = len(self.voters) - 1
        voting = sum(rows is not None for rows in self._copied.values())
        if voting >= majority_of(others):
            return True
        return len(self._copied) == others and self._now - self._born >= self.ttl

    def _take(self, rows: list[Any]) -> None:
        for shard, promised, accepted, value, runs in rows:
            register = self._register(shard)
            register.promised = max(register.promised, _ballot(promised))
            if _ballot(accepted) > register.accepted:
                register.accepted = _ballot(accepted)
                register.value = None if value is None else (value[0], as_bytes(value[1]), value[2])
            if runs:
                register.until = self._now + self.ttl


def _ballot(fields: Any) -> Ballot:
    return fields[0], as_bytes(fields[1])


_HANDLERS: Final = cast(
    "dict[str, Callable[..., None]]",
    {
        "prepare": Voter._on_prepare,  # (round, counter, shards)
        "accept": Voter._on_accept,  # (round, counter, seats counted, [(shard, value), ...])
        "copy": Voter._on_copy,  # (number, name, born, life)
        "copied": Voter._on_copied,  # (number, name, seats, [(shard, promised, accepted, value, runs?)] | None)
    },
)
