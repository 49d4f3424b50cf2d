"""One look for actors that wait for each other in a circle, and the choice of the call that is to fail.

A `Chase` begins at an actor whose only turn is suspended while calls wait behind it, and goes along: this turn waits
for these calls; such a call waits for the turns that keep it from running or run it; those wait for further calls.
Each step is a question to the host of an actor, which answers for its own moment only, and answers that it does not
know as soon as anything could go on by itself. The chase is over without a result then.

A turn that waits for several calls goes on when one of them fails, so it is stuck only if all of them are. If no
question is left open, nothing that was seen can go on. That is certain, although the answers are of different moments:
the first of these turns to go on would have done so because a call ended whose turn had gone on before. Only a call
that fails for another reason could break the rule, such as the one that another chase has made fail just now. So all
questions are asked again, and only if all answers are the same there was a moment, between the two rounds, when all of
them held.

Every chase that finds a circle chooses the same call in it, so failing it twice is failing it once: of those that have
not started the least. There is one, since calls that all run were made one after the other, and the first can't have
been made by the last. What has not started can fail without any harm but to the one who waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from actorfw.values.data import Data

__all__ = ["ROOT", "Ask", "CallKey", "Chase", "Found", "Instruction", "Lost", "Turn", "Wait"]

CallKey: TypeAlias = tuple[bytes, int]
"""The life that made a call, and the call's number there."""

ROOT: Final[CallKey] = (b"", 0)
"""Stands for no call: the question is which turn of the actor runs."""

MOST: Final = 1000
"""Calls after which a chase gives up: whoever builds larger circles has to find them otherwise."""


class Wait(Data):
    """A call that a turn waits for, and where to ask about it (opaque here)."""

    call: CallKey
    where: Any


class Turn(Data):
    """A method's run that is suspended, and goes on only when one of these calls ends.

    Args:
        key: the call that runs.
        name: for people.
        waits: all the calls, at least one.
    """

    key: CallKey
    name: str
    waits: tuple[Wait, ...]


class Ask(Data):
    """Ask what keeps this call from ending; hand the answer to `Chase.heard`."""

    wait: Wait


class Found(Data):
    """A circle: fail this call. `names`: the turns along the circle, first the one that waits for the call."""

    victim: CallKey
    names: tuple[str, ...]


class Lost(Data):
    """Nothing certain was found."""


Instruction: TypeAlias = Ask | Found | Lost


class Chase:
    """One look, from one actor.

    Args:
        where: the actor.
    """

    __slots__ = ("_before", "_now", "_open", "_root", "over")

    def __init__(self, where: Any) -> None:
        self._root = Wait(ROOT, where)
        self._before: dict[CallKey, tuple[Turn, ...]] | None = None
        self._now: dict[CallKey, tuple[Turn, ...]] = {}
        self._open: set[CallKey] = set()
        self.over = False

    def begin(self) -> list[Instruction]:
        """The first question."""
        self._open.add(ROOT)
        return [Ask(self._root)]

    def heard(self, call: CallKey, turns: Iterable[Turn] | None) -> list[Instruction]:
        """The answer to a question: the turns without which the call can't end, or None if that is not certain."""
        if self.over or call not in self._open:
            return []
        self._open.discard(call)
        known = tuple(turns or ())
        if not known or (self._before is not None and self._before.get(call) != known):
            return self._end(Lost())
        self._now[call] = known
        asks: list[Instruction] = []
        for turn in known:
            for wait in turn.waits:
                if wait.call not in self._now and wait.call not in self._open:
                    self._open.add(wait.call)
                    asks.append(Ask(wait))
        if len(self._now) + len(self._open) > MOST:
            return self._end(Lost())
        if self._open:
            return asks
        if self._before is None:
            self._before, self._now = self._now, {}
            return self.begin()
        return self._end(self._choose())

    def _end(self, outcome: Instruction) -> list[Instruction]:
        self.over = True
        return [outcome]

    # -- what was found ------------------------------------------------------------------------------------------------

    def _next(self, call: CallKey) -> list[CallKey]:
        return [wait.call for turn in self._now[call] for wait in turn.waits]

    def _reach(self, call: CallKey) -> set[CallKey]:
        """The calls that this one depends on, itself only if it does."""
        reached: set[CallKey] = set()
        waiting = self._next(call)
        while waiting:
            one = waiting.pop()
            if one not in reached:
                reached.add(one)
                waiting += self._next(one)
        return reached

    def _choose(self) -> Instruction:
        # A call is part of a knot, and not just stuck behind one, if all that it depends on depends on it.
        reached = {call: self._reach(call) for call in self._now if call != ROOT}
        knots = [call for call in sorted(reached) if all(call in reached[other] for other in reached[call])]
        victim = next((call for call in knots if all(turn.key != call for turn in self._now[call])), None)
        if victim is None:
            return Lost()
        return Found(victim, self._circle(victim))

    def _circle(self, victim: CallKey) -> tuple[str, ...]:
        """The names along the shortest way from a call back to it."""
        came: dict[CallKey, tuple[CallKey, str]] = {}
        waiting = deque([victim])
        while waiting:
            call = waiting.popleft()
            for turn in self._now[call]:
                for wait in turn.waits:
                    if wait.call not in came:
                        came[wait.call] = (call, turn.name)
                        waiting.append(wait.call)
        names: list[str] = []
        call = victim
        while True:
            call, name = came[call]
            names.append(name)
            if call == victim:
                break
        # From the back: the turn that waits for the victim is the last one on the way.
        return (names[0], *reversed(names[1:]))
