"""What a node has and what of it is in use: the only authority on whether something may start here.

Responsible for: amounts without rounding errors, admission, which GPU goes to whom, lending the CPU of a blocked
worker, and keeping room for the oldest that waits. Leaves to others: queues, clocks, and the choice among nodes.

Rules:

1. Whoever runs has a `Grant`. `take` gives one or nothing: it never waits and never promises.
2. A worker that blocks in `get()` gives its CPU back, but not its devices or anything else. When it goes on it takes
   its CPU again at once, whether there is room or not: it has its memory and its stack, and others may be waiting for
   what it holds. So more CPU may be in use than there is, but only by those that resumed, and nobody is admitted then.
3. A share of a GPU lies on one device: it goes to the fullest on which it fits, so that whole devices stay free.
   Whole GPUs are devices that nobody shares.
4. When the oldest that waits has waited `PATIENCE`, what it asks for is set aside as it becomes free. Else a large one
   would starve behind small ones that always fit.
5. But nothing is set aside for what only those could free who may hold it for ever (actors), or who wait themselves
   (workers blocked in `get()`, coroutines): the one they wait for may be among those that would find no room.
6. A bundle of a placement group is a grant of its own with books of its own: what runs in the group takes from those,
   and from nothing else. A bundle that is closed is given back when the last that runs in it has ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, TypeAlias, cast

from actorfw.values.data import Data
from actorfw.values.errors import UsageError
from actorfw.values.ids import RefId
from actorfw.values.names import RESOURCES, name_problem, shortened

__all__ = ["PATIENCE", "UNIT", "Grant", "Ledger", "Shape", "Where"]

UNIT: Final = 10_000
"""Amounts are kept in ten-thousandths, as integers: ten times 0.1 is 1."""

PATIENCE: Final = 1.0
"""Seconds that the oldest waits before room is kept for it."""

CPU: Final = "CPU"
GPU: Final = "GPU"
MEMORY: Final = "memory"

_LARGEST: Final = 1 << 62  # fits the envelope's 64 bit integers

Where: TypeAlias = tuple[RefId, int]
"""A bundle: the group's id and the bundle's index, -1 for any of them."""


class Shape(Data):
    """How much of what: a request, or what a node has in all. Hashable; two that ask the same are equal.

    Attributes:
        amounts: (name, ten-thousandths) by name, without zeros. This is also what travels. The names are "CPU", "GPU",
            "memory" (bytes) and those of custom resources.
        bundle: the bundle to take it from, if it is to be in a placement group.
    """

    amounts: tuple[tuple[str, int], ...] = ()
    bundle: Where | None = None

    @classmethod
    def of(
        cls,
        *,
        num_cpus: float = 0,
        num_gpus: float = 0,
        memory: float = 0,
        resources: Mapping[str, float] | None = None,
    ) -> Shape:
        """Check and convert the options of a task, an actor or a node.

        Raises:
            UsageError: an amount that is no number, negative, or less than 0.0001, or more than one GPU and a part of
                another; the message names the option.
        """
        amounts = {CPU: _units("num_cpus", num_cpus), GPU: _units("num_gpus", num_gpus)}
        amounts[MEMORY] = _units("memory", memory)
        gpus = amounts[GPU]
        if gpus > UNIT and gpus % UNIT:
            raise UsageError(f"num_gpus is {num_gpus!r}; it must be a whole number, or below 1 for a share of one GPU")
        given = cast("object", {} if resources is None else resources)
        if not isinstance(given, Mapping):
            raise UsageError(f"resources is {given!r}; it must be a dict of names and amounts")
        if len(cast("Mapping[object, object]", given)) > RESOURCES:
            many = len(cast("Mapping[object, object]", given))
            raise UsageError(f"resources has {many} names, and {RESOURCES} is the limit: give what is alike one name")
        for name, amount in cast("Mapping[object, object]", given).items():
            problem = name_problem(name)
            if problem is not None or not isinstance(name, str):
                raise UsageError(f"resources has the name {shortened(name)}; it must be {problem}")
            if name in amounts:
                option = {CPU: "num_cpus", GPU: "num_gpus", MEMORY: "memory"}[name]
                raise UsageError(f"resources has {name!r}, which has an option of its own: {option}")
            amounts[name] = _units(f"resources[{name!r}]", amount)
        return cls(tuple(sorted((name, units) for name, units in amounts.items() if units)))

    def within_bundle(self, bundle: Where | None) -> Shape:
        """The same, to be taken from a bundle."""
        return replace(self, bundle=bundle)

    @classmethod
    def from_wire(cls, rows: object) -> Shape:
        """The inverse of sending `amounts`.

        Raises:
            ValueError: what arrived is not a shape.
        """
        amounts: dict[str, int] = {}
        if not isinstance(rows, (list, tuple)):
            raise ValueError(f"a shape is a list, not {type(rows).__name__}")
        for row in rows:
            if not isinstance(row, (list, tuple)) or len(row) != 2:
                raise ValueError("a shape is a list of names and amounts")
            name, units = row
            if not isinstance(name, str) or type(units) is not int or not 0 < units < _LARGEST or name in amounts:
                raise ValueError(f"a shape can't contain {row!r}")
            amounts[name] = units
        gpus = amounts.get(GPU, 0)
        if gpus > UNIT and gpus % UNIT:
            raise ValueError("a shape can't ask for whole GPUs and a part of another")
        return cls(tuple(sorted(amounts.items())))

    def units(self, name: str) -> int:
        """Ten-thousandths of this resource; 0 if it has none."""
        for mine, units in self.amounts:
            if mine == name:
                return units
        return 0

    def within(self, totals: Shape) -> bool:
        """Whether this could ever run where there is `totals` in all."""
        have = dict(totals.amounts)
        return all(units <= have.get(name, 0) for name, units in self.amounts)

    def lacking(self, totals: Shape) -> list[str]:
        """The names of what `totals` has too little of."""
        have = dict(totals.amounts)
        return [name for name, units in self.amounts if units > have.get(name, 0)]

    def slots(self, totals: Shape) -> int:
        """How many of this could run at once where there is `totals`. What asks for nothing counts as a CPU each."""
        have = dict(totals.amounts)
        if not self.amounts:
            return max(1, have.get(CPU, 0) // UNIT)
        return min(_slots(name, units, have.get(name, 0)) for name, units in self.amounts)

    def as_dict(self) -> dict[str, float]:
        """As users see it: names and amounts."""
        return {name: _number(units) for name, units in self.amounts}

    def __str__(self) -> str:
        return ", ".join(f"{name} {_text(name, units)}" for name, units in self.amounts) or "nothing"


class Grant:
    """What one running thing holds of a ledger.

    Attributes:
        shape: as asked.
        gpus: indices of its devices, for `CUDA_VISIBLE_DEVICES` and `context().gpus`.
        lasting: whether it may hold this for ever, or wait for others without saying so.
    """

    __slots__ = ("_blocked", "_devices", "_ended", "_ledger", "gpus", "lasting", "shape")

    def __init__(
        self, ledger: Ledger, shape: Shape, devices: tuple[int, ...], gpus: tuple[int, ...], lasting: bool
    ) -> None:
        self.shape = shape
        self.gpus = gpus
        self._ledger = ledger  # whose books it stands in: a bundle's, or the node's
        self._devices = devices  # as that ledger counts them
        self.lasting = lasting
        self._blocked = False
        self._ended = False

    def __repr__(self) -> str:
        state = ", ended" if self._ended else ", blocked" if self._blocked else ""
        return f"<Grant {self.shape}{state}>"


class Ledger:
    """The books of one node.

    Args:
        totals: all that there is. GPUs are whole; their indices count from 0.

    Raises:
        UsageError: a part of a GPU.
    """

    __slots__ = (
        "_aside",
        "_bundles",
        "_devices",
        "_free",
        "_gpus",
        "_grants",
        "_nothing",
        "_of",
        "_stuck",
        "_stuck_devices",
        "_totals",
        "_waiting",
    )

    def __init__(self, totals: Shape, of: Grant | None = None) -> None:
        gpus, part = divmod(totals.units(GPU), UNIT)
        if part:
            raise UsageError(f"num_gpus is {_number(totals.units(GPU))}; a node has a whole number of them")
        self._totals = totals
        self._gpus = tuple(range(gpus)) if of is None else of.gpus
        self._of = of  # the bundle's grant, if these are a bundle's books
        self._grants = 0
        self._nothing = Grant(self, Shape(), (), (), True)
        self._bundles: dict[Where, Ledger] = {}
        self._free = dict(totals.amounts)
        self._devices = [UNIT] * gpus  # what is free of each
        self._stuck = dict.fromkeys(self._free, 0)  # rule 5
        self._stuck_devices = [0] * gpus
        self._waiting: tuple[Shape, float] | None = None
        self._aside: Shape | None = None

    @property
    def totals(self) -> Shape:
        """All that there is."""
        return self._totals

    def available(self) -> dict[str, float]:
        """What is free now, of every resource there is."""
        return {name: _number(max(0, self._free[name])) for name, _ in self._totals.amounts}

    def fits_totals(self, shape: Shape) -> bool:
        """Whether this could ever run here."""
        if shape.bundle is not None:
            return any(shape.within(books._totals) for books in self._books(shape.bundle))
        return shape.within(self._totals)

    def has_room(self, shape: Shape) -> bool:
        """Whether `take` would grant it now."""
        if shape.bundle is not None:
            return any(books._find(shape) is not None for books in self._books(shape.bundle))
        return self._find(shape) is not None

    def take(self, shape: Shape, *, lasting: bool = False) -> Grant | None:
        """Admit something of this shape, or not.

        Args:
            shape: what it needs.
            lasting: an actor, or a coroutine: it may hold this for ever, or wait for others without saying so.
        """
        if shape.bundle is not None and self._of is None:
            for books in self._books(shape.bundle):
                grant = books.take(shape, lasting=lasting)
                if grant is not None:
                    return grant
            return None
        devices = self._find(shape)
        if devices is None:
            return None
        for name, units in shape.amounts:
            self._free[name] -= units
        if devices:
            share = min(shape.units(GPU), UNIT)
            for index in devices:
                self._devices[index] -= share
        if self._waiting is not None and self._waiting[0] == shape:
            self.unreserve()
        if lasting and not shape.amounts and self._of is None:
            return self._nothing  # one for a hundred thousand actors that ask for nothing; it may be released at will
        self._grants += 1
        grant = Grant(self, shape, devices, tuple(self._gpus[index] for index in devices), lasting)
        if lasting:
            self._stick(grant, 1)
        return grant

    def release(self, grant: Grant) -> None:
        """It ended.

        Raises:
            ValueError: it had ended before.
        """
        if grant._ledger is not self:
            books = grant._ledger
            books.release(grant)
            if books not in self._bundles.values():
                self._give_up_if_idle(books)
            return
        if grant is self._nothing:
            return
        self._check(grant)
        if grant.lasting or grant._blocked:
            self._stick(grant, -1)
        grant._ended = True
        self._grants -= 1
        for name, units in grant.shape.amounts:
            if not (grant._blocked and name == CPU):
                self._free[name] += units
        if grant._devices:
            share = min(grant.shape.units(GPU), UNIT)
            for index in grant._devices:
                self._devices[index] += share

    def give_back_cpu(self, grant: Grant) -> bool:
        """Its worker blocks in `get()`.

        Returns:
            Whether this freed anything: not if it holds no CPU, or blocked already.

        Raises:
            ValueError: it has ended.
        """
        if grant._ledger is not self:
            return grant._ledger.give_back_cpu(grant)
        self._check(grant)
        if grant._blocked or grant is self._nothing:
            return False
        grant._blocked = True
        if not grant.lasting:
            self._stick(grant, 1)
        cpus = grant.shape.units(CPU)
        if cpus:
            self._free[CPU] += cpus
        return cpus > 0

    def retake_cpu(self, grant: Grant) -> None:
        """Its worker goes on, with room or without.

        Raises:
            ValueError: it has ended.
        """
        if grant._ledger is not self:
            grant._ledger.retake_cpu(grant)
            return
        self._check(grant)
        if not grant._blocked:
            return
        if not grant.lasting:
            self._stick(grant, -1)
        grant._blocked = False
        cpus = grant.shape.units(CPU)
        if cpus:
            self._free[CPU] -= cpus

    def reserve(self, shape: Shape, now: float) -> bool:
        """The oldest that waits here is of this shape and could not be admitted. Told at each attempt that failed.

        Only the oldest may be told. Its turn counts from the first time that it is told and lasts until something of
        that shape is taken, another shape is told, or `unreserve`.

        Returns:
            Whether what it asks for is set aside now, so that others get only what is left beside it.
        """
        if self._waiting is None or self._waiting[0] != shape:
            self._waiting = (shape, now)
            self._aside = None
        elif now - self._waiting[1] >= PATIENCE:
            self._aside = shape
        return self._aside is not None and self._attainable(self._aside)

    @property
    def kept_for(self) -> Shape | None:
        """What room is set aside for now."""
        aside = self._aside
        return aside if aside is not None and self._attainable(aside) else None

    def unreserve(self) -> None:
        """Nothing waits any more, or the oldest was withdrawn."""
        self._waiting = None
        self._aside = None

    # -- bundles -------------------------------------------------------------------------------------------------------

    def open_bundle(self, group: RefId, index: int, grant: Grant) -> None:
        """What a grant holds is a bundle now: things that ask for it run in there."""
        self._bundles[group, index] = Ledger(grant.shape, grant)

    def close_bundle(self, group: RefId, index: int) -> None:
        """Nothing new runs in a bundle; its grant ends when nothing does any more."""
        self._give_up_if_idle(self._bundles.pop((group, index)))

    def bundle_totals(self, bundle: Where) -> list[Shape]:
        """What the open bundles of a group have in all, those that this names."""
        return [books._totals for books in self._books(bundle)]

    def _give_up_if_idle(self, books: Ledger) -> None:
        if not books._grants and books._of is not None:
            of, books._of = books._of, None
            self.release(of)

    def _books(self, bundle: Where) -> list[Ledger]:
        group, index = bundle
        if index >= 0:
            books = self._bundles.get(bundle)
            return [books] if books is not None else []
        return [books for (each, _), books in self._bundles.items() if each == group]

    # ------------------------------------------------------------------------------------------------------------------

    def _find(self, shape: Shape) -> tuple[int, ...] | None:
        """The devices for this shape (often none), or None if there is no room."""
        free = self._free
        for name, units in shape.amounts:
            if free.get(name, 0) < units:
                return None
        gpus = shape.units(GPU)
        devices = _pick(self._devices, gpus) if gpus else ()
        aside = self._aside
        if aside is None or aside == shape or devices is None or not self._attainable(aside):
            return devices
        for name, units in shape.amounts:
            if free[name] - units < aside.units(name) > 0:
                return None
        if gpus and aside.units(GPU):
            left = list(self._devices)
            for index in devices:
                left[index] -= min(gpus, UNIT)
            if _pick(left, aside.units(GPU)) is None:
                return None
        return devices

    def _attainable(self, shape: Shape) -> bool:
        """Whether it will find room once all have ended that are sure to."""
        totals = self._totals
        if any(units > totals.units(name) - self._stuck.get(name, 0) for name, units in shape.amounts):
            return False
        gpus = shape.units(GPU)
        return not gpus or _pick([UNIT - stuck for stuck in self._stuck_devices], gpus) is not None

    def _stick(self, grant: Grant, sign: int) -> None:
        for name, units in grant.shape.amounts:
            if name != CPU or grant.lasting:
                self._stuck[name] += sign * units
        for index in grant._devices:
            self._stuck_devices[index] += sign * min(grant.shape.units(GPU), UNIT)

    def _check(self, grant: Grant) -> None:
        if grant._ended:
            raise ValueError(f"{grant!r} was released before")

    def __repr__(self) -> str:
        return f"<Ledger {self._totals}; free: {self.available()}>"


def _pick(devices: list[int], gpus: int) -> tuple[int, ...] | None:
    """Which of these devices, of each of which so much is free, for so many units; None if none will do."""
    if gpus < UNIT:
        fits = [index for index, free in enumerate(devices) if free >= gpus]
        return (min(fits, key=devices.__getitem__),) if fits else None
    whole = [index for index, free in enumerate(devices) if free == UNIT]
    count = gpus // UNIT
    return tuple(whole[:count]) if len(whole) >= count else None


def _units(option: str, amount: object) -> int:
    if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not 0 <= amount < _LARGEST / UNIT:
        raise UsageError(f"{option} is {amount!r}; it must be a number, 0 or above")
    units = round(amount * UNIT)
    if amount and not units:
        raise UsageError(f"{option} is {amount!r}; the least amount is {1 / UNIT}")
    return units


def _slots(name: str, units: int, have: int) -> int:
    if name == GPU and units < UNIT:
        return UNIT // units * (have // UNIT)  # a share lies on one device
    return have // units


def _number(units: int) -> float:
    return units // UNIT if units % UNIT == 0 else units / UNIT


def _text(name: str, units: int) -> str:
    amount = _number(units)
    if name == MEMORY and amount >= 1 << 20:
        return f"{amount / (1 << 30):.3g} GiB" if amount >= 1 << 30 else f"{amount / (1 << 20):.3g} MiB"
    return f"{amount:g}"
