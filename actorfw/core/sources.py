"""Where the bytes of one object are: who has a copy, who is being served from which, and who waits for one.

Responsible for: the directory that an object's owner keeps once its bytes are, or shall be, on other nodes too. Leaves
to others: the bytes, the messages, how long the object lives (`core.ownership`), and making it again. No clock, no
chance.

Rules:

1. A node that asks is told from whom to pull, asks again if that comes to nothing, and says when it has it. From then
   on it is a source itself, until the object is freed or it drops its copy.
2. A source serves `FAN` nodes at a time; the others wait. So the number of sources grows by that factor with every
   round, and nobody's line is shared by many. Who is slow does not block the others for ever: after `SLOW` seconds it
   counts no more.
3. The owner is everybody's first source, and has most to do: it sends at most `limit(nodes that asked)` copies, as long
   as there is, or is about to be, another source. A node that asks alone may pull from several at once.
4. A copy whose node leaves, or that the owner has got itself meanwhile, is freed as soon as it serves nobody.
5. The object is lost when somebody waits, nobody has it, and nobody is about to. A dead node's copy counts no more from
   the moment it is known: what the dead hold matters for others, but nobody can be served from it.

Theory of operation: who is served may have all of it but the last byte, so it is asked last whether there is a source
left: it says itself that its source is gone, and waits then like any other. That its source is dead says nothing about
it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

from actorfw.values.ids import Life

__all__ = ["FAN", "SLOW", "STRIPES", "Instruction", "Sources", "limit"]

FAN: Final = 2
"""Nodes that one source serves at a time."""
SLOW: Final = 5.0
"""Seconds after which one that is being served counts no more."""
STRIPES: Final = 3
"""Sources that a node pulls from at once, if nobody else waits for them."""

Instruction: TypeAlias = (
    tuple[Literal["serve"], Life, tuple[Life, ...]] | tuple[Literal["free"], Life] | tuple[Literal["lost"]]
)
"""("serve", node, sources): tell it to pull from these, or that it has it itself. ("free", node): its copy is not
needed. ("lost",): those who wait wait for nothing, unless the object is made again."""


def limit(asked: int) -> int:
    """Copies that the owner sends of one object that so many nodes have asked for."""
    return 2 * max(0, asked - 1).bit_length() + 2


class _Service:
    __slots__ = ("counts", "since", "sources")

    def __init__(self, sources: tuple[Life, ...], since: float) -> None:
        self.sources = sources
        self.since = since
        self.counts = True


class Sources:
    """The directory of one object.

    Args:
        me: the owner's life.
        size: bytes of the object.
        version: which making of it this is; copies of another one are no use.

    Attributes:
        given: copies that the owner was told to send.
    """

    __slots__ = ("_asked", "_former", "_has", "_served", "_unwanted", "_waiting", "given", "me", "size", "version")

    def __init__(self, me: Life, size: int, version: int = 0) -> None:
        self.me = me
        self.size = size
        self.version = version
        self.given = 0
        self._has: dict[Life, int] = {}  # how many each serves; dicts for their order: a simulation repeats itself
        self._served: dict[Life, _Service] = {}
        self._waiting: dict[Life, frozenset[Life]] = {}  # with those that each can't reach
        self._asked: set[Life] = set()
        self._unwanted: dict[Life, None] = {}
        self._former: dict[Life, None] = {}  # who may have what is of no use any more, or has it though others say no

    # What happens

    def made(self, life: Life, version: int, size: int, now: float) -> list[Instruction]:
        """It was made there, for the first time or again: other copies are of no use any more."""
        if version != self.version:
            self._former.update(dict.fromkeys((*self._has, *self._served)))
            self._has.clear()
            self._served.clear()
            self._unwanted.clear()
        self.version = version
        self.size = size
        waited = life in self._waiting or life in self._served
        self._end(life)
        self._waiting.pop(life, None)
        self._has.setdefault(life, 0)
        # It may have run beside a task that waits for it there.
        told: list[Instruction] = [("serve", life, (life,))] if waited and life != self.me else []
        return told + self._pump(now)

    def ask(self, life: Life, now: float, away: Iterable[Life] = (), lacking: Iterable[Life] = ()) -> list[Instruction]:
        """A node wants it.

        Args:
            life: of the node.
            now: the time.
            away: sources that it can't reach now, or that it knows to be dead.
            lacking: those that have it no more.
        """
        for one in lacking:
            if one in self._has:
                self._former[one] = None
                self._forget(one)
        self._end(life)
        self._asked.add(life)
        if life in self._has:
            self._waiting.pop(life, None)
            return [("serve", life, (life,))]
        self._waiting[life] = frozenset(away)
        return self._pump(now)

    def has(self, life: Life, version: int, now: float) -> list[Instruction]:
        """A node has it whole."""
        if version != self.version:
            self._former[life] = None
            return []
        self._end(life)
        self._waiting.pop(life, None)
        self._has.setdefault(life, 0)
        if life == self.me:
            self._unwanted.update(dict.fromkeys(one for one in self._has if one not in self._asked))
        return self._pump(now)

    def gave_up(self, life: Life, now: float) -> list[Instruction]:
        """A node does not want it any more."""
        self._waiting.pop(life, None)
        self._end(life)
        return self._pump(now)

    def leaves(self, life: Life, now: float) -> list[Instruction]:
        """A node wants to be rid of its copy: it goes when another one has it."""
        if life in self._has:
            self._unwanted[life] = None
        return self._pump(now)

    def dead(self, life: Life, now: float) -> list[Instruction]:
        """A node is no more."""
        self._former.pop(life, None)
        self._forget(life)
        self._waiting.pop(life, None)
        self._end(life)
        return self._pump(now)

    def tick(self, now: float) -> list[Instruction]:
        """Time has passed: see `due`."""
        for service in self._served.values():
            if service.counts and now - service.since >= SLOW:
                self._uncount(service)
        return self._pump(now)

    # Looking in

    @property
    def due(self) -> float | None:
        """When `tick` is to be called: while somebody waits behind one that is served."""
        if not self._waiting:
            return None
        return min((one.since + SLOW for one in self._served.values() if one.counts), default=None)

    @property
    def nodes(self) -> tuple[Life, ...]:
        """Who has it."""
        return tuple(self._has)

    @property
    def others(self) -> tuple[Life, ...]:
        """Who has it or may have it soon, the owner aside."""
        return tuple(life for life in dict.fromkeys((*self._has, *self._served)) if life != self.me)

    @property
    def concerned(self) -> tuple[Life, ...]:
        """Who is to be told when it is freed: whoever may have it, or waits for it."""
        every = dict.fromkeys((*self._has, *self._served, *self._waiting, *self._former))
        return tuple(life for life in every if life != self.me)

    @property
    def waiting(self) -> tuple[Life, ...]:
        """Who waits."""
        return tuple(self._waiting)

    def needs(self, life: Life) -> bool:
        """Whether this node's copy, which it wants to be rid of, is the only one that stays."""
        return life in self._has and all(one in self._unwanted for one in self._has)

    def validate(self) -> None:
        """Raises AssertionError if the tables contradict each other."""
        loads = dict.fromkeys(self._has, 0)
        for life, service in self._served.items():
            assert life not in self._waiting, "served and waiting"
            assert life not in service.sources, "served by itself"
            if service.counts:
                for one in service.sources:
                    if one in loads:
                        loads[one] += 1
        assert loads == self._has, (loads, self._has)
        assert all(load <= FAN for load in loads.values()), loads
        assert set(self._unwanted) <= set(self._has), "unwanted and not there"
        assert not set(self._waiting) & set(self._has), "waits for what it has"

    # Inside

    def _pump(self, now: float) -> list[Instruction]:
        out: list[Instruction] = []
        for life, away in list(self._waiting.items()):
            found = self._choose(life, away)
            if found:
                del self._waiting[life]
                self._served[life] = _Service(found, now)
                for one in found:
                    self._has[one] += 1
                self.given += self.me in found
                out.append(("serve", life, found))
        for life in list(self._unwanted):
            if not self._has[life] and not self.needs(life) and life != self.me:
                self._forget(life)
                out.append(("free", life))
        if self._waiting and not self._has and not self._served:
            out.append(("lost",))
        return out

    def _choose(self, life: Life, away: frozenset[Life]) -> tuple[Life, ...]:
        others = [one for one in self._has if one not in (self.me, life)]
        near = [one for one in others if one not in away]
        free = [one for one in near if self._has[one] < FAN]
        mine = self._has.get(self.me, FAN)
        if mine < FAN and life != self.me:
            soon = near or any(one not in away and one != life for one in self._served)
            if (self.given < limit(len(self._asked)) or not soon) and all(self._has[one] > mine for one in free):
                return (self.me,)
        if not free and not near and self.me not in self._has:
            free = [one for one in others if self._has[one] < FAN]  # perhaps it can reach them when it tries again
        if not free:
            return ()
        best = min(free, key=self._has.__getitem__)
        more = [one for one in free if one != best and not self._has[one]] if len(self._waiting) == 1 else []
        return (best, *more[: STRIPES - 1])

    def _forget(self, life: Life) -> None:
        if self._has.pop(life, None) is not None:
            self._unwanted.pop(life, None)
            for service in self._served.values():
                service.sources = tuple(one for one in service.sources if one != life)

    def _end(self, life: Life) -> None:
        service = self._served.pop(life, None)
        if service is not None and service.counts:
            self._uncount(service)

    def _uncount(self, service: _Service) -> None:
        service.counts = False
        for one in service.sources:
            if one in self._has:
                self._has[one] -= 1
