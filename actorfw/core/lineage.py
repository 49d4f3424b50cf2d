"""How lost values are made again: which tasks are remembered for that, and which of them has to run.

Responsible for: the specs that one node keeps of finished tasks whose results are large, the bytes that they may take,
how they depend on each other, and the order in which lost values are made. Sans-IO. Leaves to others: what is in a
spec, running it, and when a value is lost (`runtime.store.lineage`).

Rules:

1. A spec is kept as long as one of the objects that its task made is live, or a kept spec needs one of them: that one's
   task has it among its arguments. It keeps no value alive that can be made again, and that is why specs depend on
   specs: a chain of tasks whose last result is held costs the chain of specs and that one value.
2. All specs together take at most `most` bytes. Past that the oldest goes: its results have been there for longest, and
   it is the first that nobody needs any more. A spec that is larger than that by itself is not kept.
3. A task runs again only when somebody asks for what is lost, after what is lost among its arguments, and once at a
   time, for all that it has lost. Who asks meanwhile waits for that run. Each run spends one of those that are left.
4. Whether it can work is found out first, so that nothing runs in vain: if an argument can't be had, its results can't
   either, and the reason names the argument.

An object is *freed* when nobody holds it any more, which is normal, and *lost* when its owner has no copy of it though
somebody holds it. An argument that was freed is made again like one that was lost.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, Literal, TypeAlias

from actorfw.values.data import Data

__all__ = ["ENDLESS", "Instruction", "Lineage", "Why"]

ENDLESS: Final = -1
"""Runs left to a task that may run any number of times."""

Reason: TypeAlias = Literal["put", "actor", "no_retries", "used_up", "evicted", "too_large", "not_reached"]


class Why(Data):
    """Why an object can't be made again.

    Attributes:
        reason: "put": no task made it; "actor": a method did; "no_retries" and "used_up": its task may not run again;
            "evicted" and "too_large": its spec is not kept; "not_reached": its generator ran again and ended before.
        root: the object that this is about.
        argument: if that is another one, the argument of the object's own task through which it is needed; else 0.
    """

    reason: Reason
    root: int
    argument: int = 0


Instruction: TypeAlias = (
    tuple[Literal["forget"], int]
    | tuple[Literal["run"], int, tuple[int, ...]]
    | tuple[Literal["also"], int, tuple[int, ...]]
    | tuple[Literal["fail"], int, Why]
)
"""("forget", task): let its spec go. ("run", task, numbers): run it again, for these; all that it needs and that is not
there is made by others in the same list. ("also", task, numbers): the run under way is for these as well. ("fail",
number, why): this object is lost for good."""


class _Spec:
    __slots__ = ("items", "left", "live", "makes", "needed", "needs", "next", "no", "running", "size", "wanted")

    def __init__(self, no: int, size: int, left: int, *, items: bool) -> None:
        self.no = no
        self.size = size
        self.left = left
        self.items = items  # it makes one after another, and each run only those that it is for
        self.live: set[int] = set()  # of what it made, what is held
        self.makes: set[int] = set()  # that, and what specs need
        self.needs: tuple[int, ...] = ()
        self.needed: dict[int, int] = {}  # of what it made, how many specs need it
        self.running = False
        self.wanted: set[int] = set()  # what this run is for
        self.next: set[int] = set()  # and what the next one is for, since this one will not bring it


class Lineage:
    """The specs of one node, by the numbers of their tasks; objects are named by their numbers, all are its own.

    Args:
        most: bytes that all specs may take.
        missing: tells of an object that is live whether no copy of it is left.
    """

    def __init__(self, most: int, missing: Callable[[int], bool]) -> None:
        self.most = most
        self.size = 0
        self._missing = missing
        self._specs: OrderedDict[int, _Spec] = OrderedDict()
        self._makers: dict[int, _Spec] = {}
        self._reasons: dict[int, Reason] = {}  # of live objects that no spec makes, but for those that were put

    def __len__(self) -> int:
        return len(self._specs)

    def __contains__(self, no: int) -> bool:
        return no in self._specs

    # -- keeping -------------------------------------------------------------------------------------------------------

    def makes(self, number: int) -> bool:
        """Whether this object could be made by a task that is known here."""
        return number in self._makers

    def keep(
        self, no: int, makes: Iterable[int], needs: Iterable[int], size: int, left: int, *, items: bool = False
    ) -> list[Instruction]:
        """A task has ended and made these, which are held.

        Args:
            no: the task.
            makes: its large results.
            needs: objects that its arguments name, of those that `makes` says yes to.
            size: bytes of its spec, with the values that are kept alive for its sake.
            left: how often it may run again; `ENDLESS`.
            items: whether it is a generator.
        """
        made = set(makes)
        if not left or size > self.most:
            self.note(made, "too_large" if left else "no_retries")
            return [("forget", no)]
        spec = self._specs[no] = _Spec(no, size, left, items=items)
        spec.live = made
        spec.makes = set(made)
        spec.needs = tuple(sorted({number for number in needs if number in self._makers}))
        for number in made:
            self._makers[number] = spec
            self._reasons.pop(number, None)
        for number in spec.needs:
            maker = self._makers[number]
            maker.needed[number] = maker.needed.get(number, 0) + 1
        self.size += size
        return self._evict()

    def add(self, no: int, number: int) -> None:
        """A kept task has made one more: an item."""
        spec = self._specs[no]
        spec.live.add(number)
        spec.makes.add(number)
        self._makers[number] = spec

    def note(self, numbers: Iterable[int], reason: Reason) -> None:
        """These are held and can't be made again, for this reason. Of what was put nothing is said."""
        for number in numbers:
            self._reasons[number] = reason

    def freed(self, number: int) -> list[Instruction]:
        """Nobody holds it any more."""
        self._reasons.pop(number, None)
        out: list[Instruction] = []
        spec = self._makers.get(number)
        if spec is not None:
            spec.live.discard(number)
            spec.wanted.discard(number)
            spec.next.discard(number)
            self._unneeded(number, out)
        return out

    def _unneeded(self, number: int, out: list[Instruction]) -> None:
        """This one may be neither live nor needed now, and its spec of no use: a chain of them may go with it."""
        numbers = [number]
        while numbers:
            number = numbers.pop()
            spec = self._makers.get(number)
            if spec is None:
                continue
            if number not in spec.live and number not in spec.needed:
                spec.makes.discard(number)
                del self._makers[number]
            if not spec.makes and not spec.running:
                numbers += self._drop(spec, out)

    def _drop(self, spec: _Spec, out: list[Instruction]) -> list[int]:
        """Let a spec go. Returns the numbers that nobody needs any more."""
        del self._specs[spec.no]
        self.size -= spec.size
        for number in spec.makes:
            del self._makers[number]
        out.append(("forget", spec.no))
        free: list[int] = []
        for number in spec.needs:
            maker = self._makers.get(number)
            if maker is not None and number in maker.needed:
                maker.needed[number] -= 1
                if not maker.needed[number]:
                    del maker.needed[number]
                    free.append(number)
        return free

    def _evict(self) -> list[Instruction]:
        out: list[Instruction] = []
        while self.size > self.most:
            oldest = next((spec for spec in self._specs.values() if not spec.running), None)
            if oldest is None:
                break
            free = self._drop(oldest, out)
            self.note(oldest.live, "evicted")
            for number in free:
                self._unneeded(number, out)
        return out

    # -- making again --------------------------------------------------------------------------------------------------

    def lost(self, number: int) -> list[Instruction]:
        """Somebody wants a live object of which no copy is left."""
        why = self._why_not(number)
        if why is not None:
            return [("fail", number, why)]
        runs: dict[int, set[int]] = {}
        also: list[Instruction] = []
        numbers = [number]
        while numbers:
            number = numbers.pop()
            spec = self._makers[number]
            spec.live.add(number)
            if spec.no in runs:
                runs[spec.no].add(number)
            elif not spec.running:
                runs[spec.no] = spec.wanted = {number, *filter(self._missing, spec.live)}
                spec.running = True
                if spec.left != ENDLESS:
                    spec.left -= 1
                numbers += filter(self._is_gone, spec.needs)
            elif number not in spec.wanted:
                if spec.items:
                    spec.next.add(number)
                else:
                    spec.wanted.add(number)
                    also.append(("also", spec.no, (number,)))
        return [*also, *(("run", no, tuple(sorted(wanted))) for no, wanted in reversed(runs.items()))]

    def _why_not(self, number: int) -> Why | None:
        """Why it can't be made; None if it can: all that it takes, and is gone, can be made."""
        seen: set[int] = set()
        numbers = [(number, 0)]
        while numbers:
            root, argument = numbers.pop()
            spec = self._makers.get(root)
            if spec is None:
                return Why(self._reasons.get(root, "evicted" if argument else "put"), root, argument)
            if spec.no in seen or (spec.running and (root in spec.wanted or not spec.items)):
                continue
            seen.add(spec.no)
            if not spec.left:
                return Why("used_up", root, argument)
            numbers += ((needed, argument or needed) for needed in spec.needs if self._is_gone(needed))
        return None

    def _is_gone(self, number: int) -> bool:
        spec = self._makers.get(number)
        live = number in self._reasons if spec is None else number in spec.live
        return not live or self._missing(number)

    def ended(self, no: int, left: int) -> list[Instruction]:
        """A run has ended, well or not: what it was for has its outcome. `left`: how often it may run again."""
        spec = self._specs.get(no)
        if spec is None:
            return []
        spec.running = False
        spec.wanted = set()
        spec.left = left
        again, spec.next = spec.next, set()
        out: list[Instruction] = []
        for number in sorted(again):
            out += self.lost(number)
        if not spec.makes and not spec.running:
            for number in self._drop(spec, out):
                self._unneeded(number, out)
        return out + self._evict()

    def not_reached(self, number: int) -> list[Instruction]:
        """A run of its generator ended before this one, and so would the next."""
        out: list[Instruction] = []
        spec = self._makers.pop(number, None)
        if spec is not None:
            if number in spec.live:
                self._reasons[number] = "not_reached"
            spec.makes.discard(number)
            spec.live.discard(number)
            spec.wanted.discard(number)
            spec.needed.pop(number, None)
            if not spec.makes and not spec.running:
                for free in self._drop(spec, out):
                    self._unneeded(free, out)
        return out

    # -- looking in ----------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """What holds between any two events."""
        specs = self._specs.values()
        assert self.size == sum(spec.size for spec in specs), "sizes"
        assert self.size <= self.most or all(spec.running for spec in specs), "bound"
        needs: dict[int, int] = {}
        for no, spec in self._specs.items():
            assert spec.no == no, "names"
            assert spec.makes or spec.running, "kept for nothing"
            assert spec.live | set(spec.needed) == spec.makes, "made for nobody"
            assert spec.running or not (spec.wanted or spec.next), "wanted and not being made"
            assert not spec.next or spec.items, "every run of a plain task makes everything"
            for number in spec.makes:
                assert self._makers[number] is spec, "makers"
                assert number not in self._reasons, "a reason for what can be made"
            for number in spec.needs:
                needs[number] = needs.get(number, 0) + 1
        for number, spec in self._makers.items():
            assert number in spec.makes, "a maker that does not make it"
            assert self._specs.get(spec.no) is spec, "a maker that is gone"
            assert spec.needed.get(number, 0) <= needs.get(number, 0), "needed by those that are gone"
