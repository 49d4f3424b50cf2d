"""The door: which connections may stand there while nobody knows who they are, and which go when they are too many.

Pure: callers and the time are passed in. Accepting is `io.doorstep`'s affair, the handshake `core.handshake`'s.

Rules
    A caller that has not shown that it knows a secret is a stranger; after that, until its handshake is over, a guest.
    When one more caller would be too many, another one goes for it, so that nobody who comes finds the door shut: a
    stranger if there is one; of the address with the most of them; of those, the oldest.
    Callers whose first packet is complete, and for whose handshake there is no room in this second, wait; the addresses
    take turns.

Theory of operation
    Somebody with one address takes places from himself as soon as he has more of them than anybody else, so he locks
    nobody else out. Processes of this machine all have one address; but who belongs here says so at once and is a
    stranger for milliseconds, so the oldest is one who does not. Refusing newcomers instead would let whoever is first
    keep everybody else out. Of IPv6 the first 64 bits count: that is what one customer gets.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, Protocol, TypeVar

from actorfw.core.limits import Bucket, Limit, Limits

__all__ = ["ACCEPTS", "HANDSHAKES", "Caller", "Crowd", "Door", "Turns"]

ACCEPTS: Final = (500.0, 1024)
"""Connections taken in a second, and at once: as many as a large cluster has nodes. Taking one and closing it costs
some 70 µs, most of it in the kernel: 4 % of a core. The others wait in the kernel's queue."""

HANDSHAKES: Final = (200.0, 1024)
"""Handshakes of strangers begun in a second, and at once. One costs some 0.3 ms: 6 % of a core. One that succeeds does
not count."""


class Caller(Protocol):
    """A connection that has not proven who it is.

    Attributes:
        group: what its address has in common with others of the same origin.
    """

    group: str

    def drop(self, why: str) -> None:
        """Close it, without a word."""
        ...


C = TypeVar("C", bound=Caller)


class Crowd:
    """Callers by the group they belong to; knows the largest group's oldest, all in constant time."""

    __slots__ = ("_groups", "_largest", "_sizes", "count")

    def __init__(self) -> None:
        self.count = 0
        self._groups: dict[str, dict[Caller, None]] = {}
        self._sizes: dict[int, dict[str, None]] = {}  # the groups of each size
        self._largest = 0

    def __contains__(self, caller: Caller) -> bool:
        return caller in self._groups.get(caller.group, ())

    def add(self, caller: Caller) -> None:
        group = self._groups.setdefault(caller.group, {})
        group[caller] = None
        self.count += 1
        self._moved(caller.group, len(group) - 1, len(group))
        self._largest = max(self._largest, len(group))

    def remove(self, caller: Caller) -> None:
        group = self._groups[caller.group]
        del group[caller]
        self.count -= 1
        self._moved(caller.group, len(group) + 1, len(group))
        if not group:
            del self._groups[caller.group]
        if self._largest not in self._sizes:
            self._largest -= 1

    def _moved(self, name: str, old: int, new: int) -> None:
        if old:
            of_size = self._sizes[old]
            del of_size[name]
            if not of_size:
                del self._sizes[old]
        if new:
            self._sizes.setdefault(new, {})[name] = None

    def oldest_of_most(self) -> Caller:
        """Of the group with the most callers the one that came first; of two such groups the one that got there first.

        Only while there are any.
        """
        name = next(iter(self._sizes[self._largest]))
        return next(iter(self._groups[name]))


class Turns(Generic[C]):
    """Callers that wait, of which each group has one turn after the other."""

    __slots__ = ("_groups",)

    def __init__(self) -> None:
        self._groups: dict[str, deque[C]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def add(self, caller: C) -> None:
        """It waits from now on."""
        self._groups.setdefault(caller.group, deque()).append(caller)

    def next(self) -> C | None:
        """Who is next; it does not wait any more."""
        for name, waiting in self._groups.items():
            caller = waiting.popleft()
            del self._groups[name]
            if waiting:
                self._groups[name] = waiting
            return caller
        return None


class Door:
    """The callers of one node, and what may be spent on them.

    Args:
        half_open: how many callers there may be.
        connections: how many connections there may be, of all kinds.
        limits: where the figures are shown.

    Attributes:
        accepts: of connections taken; who can't be waits outside.
        handshakes: of handshakes begun; who can't begin waits here.
    """

    def __init__(self, half_open: int, connections: int, limits: Limits) -> None:
        self.half_open = limits.add("half_open", Limit(half_open))
        self.connections = limits.add("connections", Limit(connections))
        self.accepts = Bucket(*ACCEPTS)
        self.handshakes = Bucket(*HANDSHAKES)
        limits.add("accepts_per_second", self.accepts.limit)
        limits.add("handshakes_per_second", self.handshakes.limit)
        self._strangers = Crowd()
        self._guests = Crowd()

    def enter(self, caller: Caller) -> None:
        """Somebody has come; who must go for that is dropped."""
        if self.half_open.full:
            self.make_room(f"{self.half_open.limit} connections without a handshake is the limit")
        self._strangers.add(caller)
        self.half_open.set(self._strangers.count + self._guests.count)

    def recognised(self, caller: Caller) -> None:
        """It has shown that it knows a secret, or has heard from somebody who does: not proof, but no stranger."""
        if caller in self._strangers:
            self._strangers.remove(caller)
            self._guests.add(caller)

    def leave(self, caller: Caller) -> None:
        """Its handshake is over, or its connection is."""
        for crowd in (self._strangers, self._guests):
            if caller in crowd:
                crowd.remove(caller)
        self.half_open.set(self._strangers.count + self._guests.count)

    def make_room(self, why: str) -> bool:
        """Drop one caller; False if there is none."""
        crowd = self._strangers if self._strangers.count else self._guests
        if not crowd.count:
            return False
        victim = crowd.oldest_of_most()
        self.half_open.refused += 1
        self.leave(victim)
        victim.drop(why)
        return True
