"""Every interleaving of callers, links, starts and answers around one mailbox, in small bounds.

Real `Window` and `Mailbox` objects, links as queues of messages; what `runtime.windows` does with them is done here in
the same way. Two callers on other nodes and one on the host's own send calls and tells; the actor starts what it has
accepted in order, answers what has started in any order, and tells of starts in batches. Checked in every state: the
mailbox and the door are within their bounds, no caller has more on its way than its window. At every start: the order
of each caller, and no call twice. In every final state: everything was sent, started and answered.

An actor may have two groups, with a window, an order and turns of their own; the calls of the second may never end.
Then all this holds for the first.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest

from actorfw.core.windows import Mailbox, Window

MOST = 1
WINDOW = 3
BATCH = 2  # starts that are told of at once
FULL = os.environ.get("ACTORFW_MODEL") == "full"

Call: TypeAlias = tuple[int, int, bool, int]
"""Its caller, its number, whether it is a tell, its group."""

Plan: TypeAlias = tuple["bool | str", ...]
"""What a caller makes, in order: whether it is a tell; or a call ("beside") or tell ("aside") of the second group."""


class SmallWindow(Window):
    CALLS = WINDOW
    TELLS = 2
    __slots__ = ()


class ForgetfulWindow(SmallWindow):
    """The planted bug: tells before the one that is answered are not counted back."""

    __slots__ = ()

    def tell(self, size: int) -> tuple[int, int] | None:
        covered = super().tell(size)
        return None if covered is None else (1, 0)


class ShyWindow(SmallWindow):
    """The planted bug: tells are answered too rarely for the window."""

    TELLS = WINDOW + 1
    __slots__ = ()


class OpenWindow(SmallWindow):
    """The planted bug: what was sent is not counted."""

    __slots__ = ()

    def sent(self, size: int) -> None:
        self.out += 0


class RudeMailbox(Mailbox):
    """The planted bug: the last at the door gets in first."""

    __slots__ = ()

    def admit(self) -> Any:
        if self.door is not None:
            self.door.reverse()
        item = super().admit()
        if self.door is not None:
            self.door.reverse()
        return item


class WideMailbox(Mailbox):
    """The planted bug: one too many is let in from the door."""

    __slots__ = ()

    def has_room(self) -> bool:
        return self.pending <= self.most


class SleepyMailbox(Mailbox):
    """The planted bug: the door closes behind the first that gets in."""

    __slots__ = ()

    def admit(self) -> Any:
        item = super().admit()
        if item is not None:
            self.close_door()
        return item


def fork(one: Any) -> Any:
    twin = type(one).__new__(type(one))
    for cls in type(one).__mro__:
        for slot in getattr(cls, "__slots__", ()):
            setattr(twin, slot, getattr(one, slot))
    return twin


def snapshot(one: Any) -> tuple[Any, ...]:
    found: list[Any] = []
    for cls in type(one).__mro__:
        for slot in getattr(cls, "__slots__", ()):
            value = getattr(one, slot)
            found.append(tuple(value) if isinstance(value, deque) else value)
    return tuple(found)


@dataclass(slots=True)
class Caller:
    """A node that calls; the last one is the host itself."""

    plan: Plan
    windows: tuple[Window, Window]
    made: int = 0
    queues: tuple[tuple[Call, ...], tuple[Call, ...]] = ((), ())
    open: frozenset[Call] = frozenset()
    covers: tuple[tuple[Call, tuple[int, int]], ...] = ()
    counted: frozenset[Call] = frozenset()
    to_host: tuple[Any, ...] = ()
    to_caller: tuple[Any, ...] = ()
    knocking: bool = False

    def copy(self) -> Caller:
        return Caller(
            self.plan,
            (fork(self.windows[0]), fork(self.windows[1])),
            self.made,
            self.queues,
            self.open,
            self.covers,
            self.counted,
            self.to_host,
            self.to_caller,
            self.knocking,
        )

    def key(self) -> tuple[Any, ...]:
        return (
            snapshot(self.windows[0]),
            snapshot(self.windows[1]),
            self.made,
            self.queues,
            self.open,
            self.covers,
            self.counted,
            self.to_host,
            self.to_caller,
            self.knocking,
        )

    def wait(self, lane: int, calls: tuple[Call, ...]) -> None:
        """These wait there from now on."""
        self.queues = (calls, self.queues[1]) if lane == 0 else (self.queues[0], calls)


@dataclass(slots=True)
class World:
    """One state, and what can happen next."""

    callers: list[Caller]
    mailbox: Mailbox
    box: tuple[Call, ...] = ()
    running: frozenset[Call] = frozenset()
    begun: tuple[Call, ...] = ()  # started, and their callers not told
    answers: frozenset[Call] = frozenset()  # tells that are answered when they start
    started: tuple[int, ...] = ()  # the last number that started, by caller and group
    broken: str = ""
    breadth: int = field(default=2)
    lanes: int = field(default=2)  # windows of each caller; 1: the planted bug, one for both groups
    stuck: bool = field(default=False)  # calls of the second group never end

    def copy(self) -> World:
        mailbox = fork(self.mailbox)
        if mailbox.door is not None:
            mailbox.door = mailbox.door.copy()
        return World(
            [caller.copy() for caller in self.callers],
            mailbox,
            self.box,
            self.running,
            self.begun,
            self.answers,
            self.started,
            self.broken,
            self.breadth,
            self.lanes,
            self.stuck,
        )

    def key(self) -> tuple[Any, ...]:
        return (
            tuple(caller.key() for caller in self.callers),
            snapshot(self.mailbox),
            self.box,
            self.running,
            self.begun,
            self.answers,
            self.started,
        )

    # -- what can happen -----------------------------------------------------------------------------------------------

    def steps(self) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for at, caller in enumerate(self.callers):
            if caller.made < len(caller.plan):
                found.append(("make", at))
            if caller.to_host:
                found.append(("deliver", at))
            if caller.to_caller:
                found.append(("hear", at))
        for group in {call[3] for call in self.box}:
            if sum(call[3] == group for call in self.running) < self.breadth:
                found.append(("start", group))
        found += [("answer", call) for call in sorted(self.running) if not (self.stuck and call[3])]
        return found

    def do(self, step: tuple[Any, ...]) -> None:
        getattr(self, f"_{step[0]}")(*step[1:])

    def _local(self, at: int) -> bool:
        return at == len(self.callers) - 1

    def _lane(self, call: Call) -> int:
        return 0 if self._local(call[0]) or self.lanes == 1 else call[3]

    def _make(self, at: int) -> None:
        caller = self.callers[at]
        planned = caller.plan[caller.made]
        call = (at, caller.made, planned in (True, "aside"), int(isinstance(planned, str)))
        caller.made += 1
        mailbox = self.mailbox
        lane = self._lane(call)
        queue, window = caller.queues[lane], caller.windows[lane]
        if queue:
            caller.wait(lane, (*queue, call))
        elif self._local(at):
            if mailbox.pending < mailbox.limit:
                self._accept(call)
            else:
                caller.wait(lane, (call,))
                self._pump(at, 0)
        elif window.out < window.limit:
            self._send(call)
        else:
            caller.wait(lane, (call,))

    def _send(self, call: Call) -> None:
        caller = self.callers[call[0]]
        window = caller.windows[self._lane(call)]
        window.sent(0)
        answered = True
        if call[2]:
            covered = window.tell(0)
            answered = covered is not None
            if covered is not None:
                caller.covers += ((call, covered),)
        else:
            caller.open |= {call}
            caller.counted |= {call}
        caller.to_host += ((call, answered),)

    def _pump(self, at: int, lane: int) -> None:
        caller, mailbox = self.callers[at], self.mailbox
        window = caller.windows[lane]
        while caller.queues[lane]:
            if self._local(at):
                if mailbox.pending >= mailbox.limit:
                    if not caller.knocking:
                        caller.knocking = True
                        mailbox.wait(at)
                    return
            elif window.out >= window.limit:
                return
            call = caller.queues[lane][0]
            caller.wait(lane, caller.queues[lane][1:])
            if self._local(at):
                self._accept(call)
            else:
                self._send(call)

    def _deliver(self, at: int) -> None:
        caller, mailbox = self.callers[at], self.mailbox
        (call, answered), caller.to_host = caller.to_host[0], caller.to_host[1:]
        if call[2] and answered:
            self.answers |= {call}
        if mailbox.pending < mailbox.limit:
            self._accept(call)
        else:
            mailbox.wait(call)

    def _accept(self, call: Call) -> None:
        self.mailbox.pending += 1
        self.box += (call,)

    def _start(self, group: int) -> None:
        call = next(call for call in self.box if call[3] == group)
        self.box = tuple(other for other in self.box if other != call)
        mailbox = self.mailbox
        mailbox.pending -= 1
        if mailbox.heard:
            mailbox.left(0)
            self._admit()
        at, number, tell, _ = call
        place = 2 * at + group
        last = self.started[place]
        if last >= number:
            self.broken = f"call {number} of caller {at} started after {last}"
        if number != self._next(at, group, last):
            self.broken = f"call {number} of caller {at} started, and {self._next(at, group, last)} has not"
        self.started = tuple(number if i == place else last for i, last in enumerate(self.started))
        if call in self.answers:
            self.answers -= {call}
            self.callers[at].to_caller += (("answer", call),)
        if not tell and not self._local(at):
            self.running |= {call}
            self.begun += (call,)
            if len(self.begun) >= BATCH:
                begun = [call for call in self.begun if call in self.running]
                self.begun = ()
                for caller in {call[0] for call in begun}:
                    told = tuple(call for call in begun if call[0] == caller)
                    self.callers[caller].to_caller += (("begun", told),)

    def _next(self, at: int, group: int, last: int) -> int | None:
        """The number of a caller's first call of a group after that one."""
        plan = self.callers[at].plan
        return next((n for n in range(last + 1, len(plan)) if isinstance(plan[n], str) == bool(group)), None)

    def _admit(self) -> None:
        mailbox = self.mailbox
        while (item := mailbox.admit()) is not None:
            if isinstance(item, tuple):
                self._accept(item)
                continue
            caller = self.callers[item]
            caller.knocking = False
            call = caller.queues[0][0]
            caller.wait(0, caller.queues[0][1:])
            self._accept(call)
            if caller.queues[0]:
                caller.knocking = True
                mailbox.wait(item)
        mailbox.heard = mailbox.door is not None

    def _answer(self, call: Call) -> None:
        self.running -= {call}
        self.callers[call[0]].to_caller += (("answer", call),)

    def _hear(self, at: int) -> None:
        caller = self.callers[at]
        (kind, what), caller.to_caller = caller.to_caller[0], caller.to_caller[1:]
        calls = what if kind == "begun" else (what,)
        for call in calls:
            window = caller.windows[self._lane(call)]
            if call[2]:
                covered = dict(caller.covers)[call]
                caller.covers = tuple(one for one in caller.covers if one[0] != call)
                window.began(*covered)
                continue
            if call in caller.counted:
                caller.counted -= {call}
                window.began(1, 0)
            if kind == "answer":
                caller.open -= {call}
        for lane in (0, 1):
            if caller.queues[lane]:
                self._pump(at, lane)

    # -- what must hold ------------------------------------------------------------------------------------------------

    def look(self) -> str:
        if self.broken:
            return self.broken
        mailbox = self.mailbox
        if len(self.box) != mailbox.pending:
            return f"{len(self.box)} calls wait, {mailbox.pending} are counted"
        if mailbox.pending > mailbox.most:
            return f"the mailbox holds {mailbox.pending}"
        if len(mailbox.door or ()) > WINDOW * self.lanes * (len(self.callers) - 1) + 1:
            return f"{len(mailbox.door or ())} stand at the door"
        for at, caller in enumerate(self.callers):
            on_way = [call for call, _ in caller.to_host]
            here = [call for call in (*on_way, *self.box, *(mailbox.door or ())) if isinstance(call, tuple)]
            for group in (0, 1):
                on = sum(call[0] == at and call[3] == group for call in here)
                if on > (mailbox.most if self._local(at) else WINDOW):
                    return f"more of caller {at} is on its way than its window allows"
        return ""

    def final(self) -> str:
        for at, caller in enumerate(self.callers):
            for group in (0,) if self.stuck else (0, 1):
                waits = [call for queue in caller.queues for call in queue if call[3] == group]
                if waits or self._next(at, group, self.started[2 * at + group]) is not None:
                    return f"caller {at} is stuck with {waits}"
                unheard = [call for call in caller.open if call[3] == group]
                if unheard:
                    return f"caller {at} never hears of {unheard}"
        if self.mailbox.door is not None:
            return "something stands at the door for ever"
        return ""


def explore(
    plans: list[Plan],
    window: type[Window],
    mailbox: type[Mailbox],
    limit: int,
    *,
    most: int = MOST,
    lanes: int = 2,
    stuck: bool = False,
) -> tuple[str, int]:
    """What goes wrong somewhere, or "", and how many states there are."""
    first = World(
        [Caller(plan, (window(), window())) for plan in plans],
        mailbox(most),
        started=(-1,) * 2 * len(plans),
        lanes=lanes,
        stuck=stuck,
    )
    seen = {first.key()}
    waiting = [first]
    while waiting:
        world = waiting.pop()
        steps = world.steps()
        if not steps:
            wrong = world.final()
            if wrong:
                return wrong, len(seen)
        for step in steps:
            twin = world.copy()
            twin.do(step)
            wrong = twin.look()
            if wrong:
                return f"{wrong} after {step}", len(seen)
            key = twin.key()
            if key not in seen:
                seen.add(key)
                waiting.append(twin)
                if len(seen) > limit:
                    return "", len(seen)
    return "", len(seen)


CALLS = (False,) * 4
MIXED = (False, True, True, False)
TELLS = (True,) * 8
PLANS: dict[str, list[Plan]] = {
    "one caller": [(False, True, True, False, True, True, False), ()],
    "calls of two": [CALLS, CALLS[:3], ()],
    "tells": [TELLS, CALLS[:1], ()],
    "with the host's own": [MIXED, CALLS],
    "all": [MIXED[:3], CALLS[:2], CALLS[:3]],
    "two groups": [("beside", False, "aside", True), ("beside",), ()],
}
FULL_GROUP: list[Plan] = [("beside",) * 5 + (False, True), ("beside",), ()]
LIMIT = 10_000_000 if FULL else 5_000


@pytest.mark.parametrize("name", sorted(PLANS))
def test_every_interleaving(name: str) -> None:
    wrong, states = explore(PLANS[name], SmallWindow, Mailbox, LIMIT)
    assert wrong == ""
    assert states > 100


@pytest.mark.parametrize(
    ("window", "mailbox", "plan", "says"),
    [
        (ForgetfulWindow, Mailbox, "tells", "stuck"),
        (ShyWindow, Mailbox, "tells", "stuck"),
        (OpenWindow, Mailbox, "calls of two", "than its window allows"),
        (SmallWindow, RudeMailbox, "one caller", "has not"),
        (SmallWindow, WideMailbox, "one caller", "the mailbox holds"),
        (SmallWindow, SleepyMailbox, "one caller", "stuck"),
    ],
)
def test_planted_bugs_are_found(window: type[Window], mailbox: type[Mailbox], plan: str, says: str) -> None:
    wrong, _ = explore(PLANS[plan], window, mailbox, LIMIT)
    assert says in wrong


def test_a_full_group_keeps_nobody_else_out() -> None:
    wrong, states = explore(FULL_GROUP, SmallWindow, Mailbox, LIMIT, most=20, stuck=True)
    assert wrong == ""
    assert states > 100


def test_one_window_for_all_groups_does() -> None:
    wrong, _ = explore(FULL_GROUP, SmallWindow, Mailbox, LIMIT, most=20, stuck=True, lanes=1)
    assert "stuck" in wrong
