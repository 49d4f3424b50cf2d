"""Placement groups: several reservations on several nodes, all of them or none.

Responsible for: which members a group's bundles are to lie on, the owner's side of getting them there (`Group`), and
the host's side of setting resources aside (`Bundles`). Leaves to others: messages, timers, and what runs in a bundle,
which takes from the bundle's own books in the host's ledger.

Rules:

1. The owner asks each chosen host to *prepare* a bundle. A host answers at once, yes or no: it never waits, so that two
   groups that want the same nodes can't wait for each other.
2. When all said yes the owner *commits*. A single no, or silence for `SILENCE`, *frees* what was prepared everywhere,
   and the owner tries again after a random pause, so that of two groups in each other's way one comes first.
3. What is prepared and never committed expires at its host (`EXPIRY`), and all that an owner holds ends with its life.
4. When a host of a committed bundle is gone, its bundles are placed anew, beside those that are left.
5. Messages name the group, the bundle and the try: one that comes late changes nothing. (None comes twice, and a free
   never before its prepare: sessions see to that.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final, Literal, TypeAlias, cast

from actorfw.core.ledger import UNIT, Grant, Ledger, Shape
from actorfw.values.data import Data
from actorfw.values.errors import UsageError
from actorfw.values.ids import Life

__all__ = [
    "EXPIRY",
    "SILENCE",
    "Bundles",
    "Commit",
    "Free",
    "Group",
    "Placed",
    "Prepare",
    "Strategy",
    "Stuck",
    "plan",
    "shape_of",
]

Strategy: TypeAlias = Literal["pack", "spread", "strict_pack", "strict_spread"]

SILENCE: Final = 2.0
"""Seconds that a host may take to answer before the try is given up."""

EXPIRY: Final = 10.0
"""Seconds that a host keeps what it has prepared."""

RETRY_FIRST: Final = 0.05
RETRY_CAP: Final = 2.0

Amounts: TypeAlias = Mapping[str, int]
GroupId: TypeAlias = tuple[Life, int]


def shape_of(bundle: object) -> Shape:
    """What a bundle asks for, from how users write it: names of resources and amounts.

    Raises:
        UsageError: no mapping, nothing asked for, or a part of a GPU: a bundle's devices are its own.
    """
    if not isinstance(bundle, Mapping) or not bundle:
        raise UsageError(f"a bundle is {bundle!r}; it must be a dict of resources and amounts, such as {{'CPU': 1}}")
    asked = dict(cast("Mapping[str, Any]", bundle))
    shape = Shape.of(
        num_cpus=asked.pop("CPU", 0),
        num_gpus=asked.pop("GPU", 0),
        memory=asked.pop("memory", 0),
        resources=asked,
    )
    if not shape.amounts:
        raise UsageError(f"a bundle is {bundle!r}; it must ask for something")
    if shape.units("GPU") % UNIT:
        raise UsageError(f"a bundle is {bundle!r}; it must ask for whole GPUs")
    return shape


# -- choosing ----------------------------------------------------------------------------------------------------------


def plan(
    strategy: Strategy, wanted: Sequence[Shape], free: Mapping[Life, Amounts], taken: Sequence[Life], rng: Random
) -> list[Life] | None:
    """A member for each bundle, by what each is said to have free; None if there is no way.

    Args:
        strategy: "strict_pack": all on one member; "pack": on as few as a greedy choice finds; "spread": on as many as
            there are; "strict_spread": no two on one.
        wanted: the bundles.
        free: ten-thousandths by name, of each member that may be asked.
        taken: where bundles of the same group lie already, once for each.
        rng: chance decides among equals, so that groups don't all go for the same members.
    """
    lives = sorted(free)
    rng.shuffle(lives)
    if strategy == "strict_spread":
        return _matching(wanted, [life for life in lives if life not in taken], free)
    left = {life: dict(free[life]) for life in lives}
    if strategy == "strict_pack":
        for life in taken[:1] or lives:
            if life in left and all(_put(left[life], shape) for shape in wanted):
                return [life] * len(wanted)
            if life in left:
                left[life] = dict(free[life])
        return None
    order = sorted(range(len(wanted)), key=lambda index: -_size(wanted[index]))
    chosen: dict[int, Life] = {}
    if strategy == "spread":
        count = dict.fromkeys(lives, 0)
        for life in taken:
            if life in count:
                count[life] += 1
        for index in order:
            fits = [life for life in lives if _fits(left[life], wanted[index])]
            if not fits:
                return None
            life = chosen[index] = min(fits, key=count.__getitem__)
            _put(left[life], wanted[index])
            count[life] += 1
        return [chosen[index] for index in range(len(wanted))]
    waiting = order
    first = [life for life in dict.fromkeys(taken) if life in left]
    while waiting:
        best: list[int] = []
        where: Life | None = None
        for life in [life for life in first if life in left] or list(left):
            room = dict(left[life])
            fits_here = [index for index in waiting if _put(room, wanted[index])]
            if len(fits_here) > len(best):
                best, where = fits_here, life
        if where is None:
            if not first:
                return None
            first = []
            continue
        for index in best:
            chosen[index] = where
        waiting = [index for index in waiting if index not in chosen]
        del left[where]
    return [chosen[index] for index in range(len(wanted))]


def _size(shape: Shape) -> int:
    return sum(units for name, units in shape.amounts if name != "memory")


def _fits(have: Amounts, shape: Shape) -> bool:
    return all(units <= have.get(name, 0) for name, units in shape.amounts)


def _put(have: dict[str, int], shape: Shape) -> bool:
    if not _fits(have, shape):
        return False
    for name, units in shape.amounts:
        have[name] -= units
    return True


def _matching(wanted: Sequence[Shape], lives: Sequence[Life], free: Mapping[Life, Amounts]) -> list[Life] | None:
    """Each bundle on a member of its own (augmenting paths: few bundles, few members)."""
    of: dict[Life, int] = {}

    def place(index: int, seen: set[Life]) -> bool:
        for life in lives:
            if life in seen or not _fits(free[life], wanted[index]):
                continue
            seen.add(life)
            if life not in of or place(of[life], seen):
                of[life] = index
                return True
        return False

    if not all(place(index, set()) for index in range(len(wanted))):
        return None
    where = {index: life for life, index in of.items()}
    return [where[index] for index in range(len(wanted))]


# -- the owner's side --------------------------------------------------------------------------------------------------


class Prepare(Data):
    """Ask a host to set a bundle aside."""

    life: Life
    index: int
    attempt: int
    shape: Shape


class Commit(Data):
    """Tell a host that its bundle is in use from now on."""

    life: Life
    index: int
    attempt: int


class Free(Data):
    """Tell a host to let go of a bundle."""

    life: Life
    index: int
    attempt: int


class Placed(Data):
    """All bundles have a place now."""


class Stuck(Data):
    """There is no way to place what is left, by what is free now; `ever`: nor by what members have in all."""

    ever: bool


Instruction: TypeAlias = Prepare | Commit | Free | Placed | Stuck

OPEN: Final = 0  # nobody holds it
ASKED: Final = 1
READY: Final = 2  # prepared
HELD: Final = 3  # committed


class Group:
    """One placement group, as its owner sees it.

    Args:
        bundles: what each asks for.
        strategy: how they are to lie.
        rng: chance.

    Attributes:
        hosts: where each bundle lies, None while it has no place.
        at: when `due` wants to be called; None: not.
    """

    def __init__(self, bundles: Sequence[Shape], strategy: Strategy, rng: Random) -> None:
        self.bundles = tuple(bundles)
        self.strategy: Strategy = strategy
        self.hosts: list[Life | None] = [None] * len(bundles)
        self.at: float | None = 0.0
        self.removed = False
        self._rng = rng
        self._state = [OPEN] * len(bundles)
        self._attempt = 0
        self._failures = 0

    @property
    def placed(self) -> bool:
        """Whether every bundle is committed."""
        return all(state == HELD for state in self._state)

    def due(self, free: Mapping[Life, Amounts], totals: Mapping[Life, Amounts], now: float) -> list[Instruction]:
        """The time `at` has come, or members have changed.

        Args:
            free: what each member that is up and hosts for others has free, as last heard.
            totals: what each of them, and of those that may come back, has in all.
            now: in seconds.
        """
        if self.removed or self.placed:
            self.at = None
            return []
        if any(state in (ASKED, READY) for state in self._state):
            # Somebody is silent.
            return self._give_up(now) if self.at is not None and now >= self.at else []
        open_ones = [index for index, state in enumerate(self._state) if state == OPEN]
        taken = [life for life, state in zip(self.hosts, self._state, strict=True) if state == HELD and life]
        wanted = [self.bundles[index] for index in open_ones]
        chosen = plan(self.strategy, wanted, free, taken, self._rng)
        if chosen is None:
            self._back_off(now)
            return [Stuck(plan(self.strategy, wanted, totals, taken, self._rng) is None)]
        self._attempt += 1
        said: list[Instruction] = []
        for index, life in zip(open_ones, chosen, strict=True):
            self._state[index] = ASKED
            self.hosts[index] = life
            said.append(Prepare(life, index, self._attempt, self.bundles[index]))
        self.at = now + SILENCE
        return said

    def answered(self, life: Life, index: int, attempt: int, ok: bool, now: float) -> list[Instruction]:
        """A host answers a prepare, or says (not ok) that what was prepared had expired when it was committed."""
        if self.removed or attempt > self._attempt or not 0 <= index < len(self._state) or self.hosts[index] != life:
            return []
        if self._state[index] == HELD and not ok:
            self._open(index)
            self.at = now
            return []
        if attempt != self._attempt or self._state[index] != ASKED:
            return []
        if not ok:
            self._open(index)
            return self._give_up(now)
        self._state[index] = READY
        if any(state == ASKED for state in self._state):
            return []
        said: list[Instruction] = []
        for each, state in enumerate(self._state):
            host = self.hosts[each]
            if state == READY and host is not None:
                self._state[each] = HELD
                said.append(Commit(host, each, attempt))
        self.at = None
        self._failures = 0
        return [*said, Placed()]

    def host_dead(self, life: Life, now: float) -> list[Instruction]:
        """A member is gone."""
        lost = [index for index, host in enumerate(self.hosts) if host == life]
        if not lost or self.removed:
            return []
        trying = any(self._state[index] in (ASKED, READY) for index in lost)
        for index in lost:
            self._open(index)
        if trying:
            return self._give_up(now)
        self.at = now if self.at is None else self.at
        return []

    def remove(self) -> list[Instruction]:
        """It is not wanted any more."""
        if self.removed:
            return []
        said = self._free_where((ASKED, READY, HELD))
        self.removed = True
        self.at = None
        return said

    def _give_up(self, now: float) -> list[Instruction]:
        said = self._free_where((ASKED, READY))
        self._back_off(now)
        return said

    def _free_where(self, states: tuple[int, ...]) -> list[Instruction]:
        said: list[Instruction] = []
        for index, state in enumerate(self._state):
            host = self.hosts[index]
            if state in states and host is not None:
                said.append(Free(host, index, self._attempt))
                self._open(index)
        return said

    def _open(self, index: int) -> None:
        self._state[index] = OPEN
        self.hosts[index] = None

    def _back_off(self, now: float) -> None:
        # Full jitter: two groups in each other's way must not try again at the same time.
        cap = min(RETRY_CAP, RETRY_FIRST * 2 ** min(self._failures, 10))
        self._failures += 1
        self.at = now + max(0.001, self._rng.uniform(0, cap))


# -- the host's side ---------------------------------------------------------------------------------------------------


class _Held(Data, frozen=False):
    attempt: int
    grant: Grant
    expires: float | None  # None: committed


class Bundles:
    """What one node has set aside for placement groups, its own among them.

    Args:
        ledger: of the node.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._held: dict[tuple[GroupId, int], _Held] = {}

    def prepare(self, group: GroupId, index: int, attempt: int, shape: Shape, now: float) -> bool:
        """Set resources aside, now or not at all."""
        key = (group, index)
        held = self._held.get(key)
        if held is not None:
            if held.attempt == attempt:
                return True
            if held.attempt > attempt:
                return False
            self._let_go(key, held)
        grant = self._ledger.take(shape, lasting=True)
        if grant is None:
            return False
        self._held[key] = _Held(attempt, grant, now + EXPIRY)
        return True

    def commit(self, group: GroupId, index: int, attempt: int) -> bool:
        """From now on tasks and actors may run in it; False if it has expired."""
        held = self._held.get((group, index))
        if held is None or held.attempt != attempt:
            return False
        if held.expires is not None:
            held.expires = None
            self._ledger.open_bundle(group, index, held.grant)
        return True

    def free(self, group: GroupId, index: int, attempt: int) -> None:
        """Let go of it; what runs in it goes on, and its resources come back when it has ended."""
        key = (group, index)
        held = self._held.get(key)
        if held is not None and held.attempt <= attempt:
            self._let_go(key, held)

    def expire(self, now: float) -> None:
        """Give up what was prepared long ago."""
        for key, held in list(self._held.items()):
            if held.expires is not None and held.expires <= now:
                self._let_go(key, held)

    def owner_dead(self, life: Life) -> None:
        """All groups of a life are gone."""
        for key, held in list(self._held.items()):
            if key[0][0] == life:
                self._let_go(key, held)

    def _let_go(self, key: tuple[GroupId, int], held: _Held) -> None:
        del self._held[key]
        if held.expires is None:
            self._ledger.close_bundle(*key)
        else:
            self._ledger.release(held.grant)

    def rows(self) -> list[dict[str, Any]]:
        """What is set aside, for listings and tests."""
        return [
            {"group": group, "index": index, "shape": held.grant.shape, "committed": held.expires is None}
            for (group, index), held in self._held.items()
        ]
