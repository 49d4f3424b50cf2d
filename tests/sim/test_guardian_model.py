"""All orders of events, within bounds, of one actor: its guardian, two hosts, and a caller with two calls.

The guardian's machine and the hosts' fence are the real ones; the caller and the cells follow the rules of
`runtime.calls` and `runtime.cells` in the smallest form. `ACTORFW_MODEL=full` searches further.
"""

from __future__ import annotations

import copy
import os
import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from actorfw.core import guardian as g
from actorfw.core.fencing import Fence
from actorfw.core.guardian import Guardian

ID = (b"guardian", 1)
FULL = os.environ.get("ACTORFW_MODEL") == "full"


class BrokenError(Exception):
    """An invariant does not hold."""


class Cell:
    """An incarnation at a host: its mailbox, and the one call that runs."""

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.up = False
        self.running = 0
        self.box: list[int] = []
        self.how = ""

    def key(self) -> Any:
        return self.incarnation, self.up, self.running, tuple(self.box), self.how


class Host:
    def __init__(self, fence: type[Fence]) -> None:
        self.fence = fence()
        self.cell: Cell | None = None
        self.alive = True
        self.buried = False  # by the others, who share one verdict here
        self.to_guardian: deque[Any] = deque()
        self.from_guardian: deque[Any] = deque()
        self.to_caller: deque[Any] = deque()
        self.from_caller: deque[Any] = deque()

    def key(self) -> Any:
        queues = (self.to_guardian, self.from_guardian, self.to_caller, self.from_caller)
        cell = self.cell.key() if self.cell is not None else None
        return self.alive, self.buried, cell, self.fence.highest(ID), *map(tuple, queues)


class World:
    """One state; `steps` are the events that can come next, faults among them only while they are left."""

    def __init__(
        self,
        *,
        restarts: int = 1,
        retries: int = 1,
        end: str = "killed",
        faults: int = 1,
        false_death: bool = False,
        calls: tuple[int, ...] = (1, 2),
        moves: int = 1,
        repeats: int = 1,
        guardian: type[Guardian] = Guardian,
        fence: type[Fence] = Fence,
        syncs: bool = True,
    ) -> None:
        self.restarts = restarts
        self.end = end
        self.faults = faults
        self.false_death = false_death
        self.syncs = syncs
        self.hosts = {b"A": Host(fence), b"B": Host(fence)}
        self.guardian = guardian(restarts)
        self.placed = True
        self.ended = ""
        self.killed_at = 0
        self.moves = moves
        self.repeats = repeats
        self.calls = calls
        self.route: tuple[bytes, int] | None = None
        self.lost = 0
        self.syncing = b""
        self.queue: list[int] = list(calls)
        self.flying: dict[int, tuple[bytes, int]] = {}
        self.retries = dict.fromkeys(calls, retries)
        self.answers: dict[int, str] = {}
        self.starts: list[tuple[int, int]] = []
        self.made: list[tuple[bytes, int]] = []
        self.spent = 0

    def key(self) -> Any:
        guardian = self.guardian
        return (
            *(host.key() for host in self.hosts.values()),
            (guardian.state, guardian.incarnation, guardian.host, guardian.left, guardian.how),
            (self.end, self.faults, self.placed, self.moves, self.repeats, self.killed_at),
            (self.route, self.lost, self.syncing, tuple(self.queue), tuple(sorted(self.flying.items()))),
            (tuple(self.retries.values()), tuple(sorted(self.answers.items()))),
            (tuple(self.starts), tuple(self.made)),
        )

    def copied(self) -> World:
        other = copy.copy(self)
        other.hosts = {}
        for name, host in self.hosts.items():
            new = other.hosts[name] = copy.copy(host)
            new.fence = copy.copy(host.fence)
            new.fence._highest = host.fence._highest.copy()
            if host.cell is not None:
                new.cell = copy.copy(host.cell)
                new.cell.box = list(host.cell.box)
            new.to_guardian, new.from_guardian = deque(host.to_guardian), deque(host.from_guardian)
            new.to_caller, new.from_caller = deque(host.to_caller), deque(host.from_caller)
        other.guardian = copy.copy(self.guardian)
        if self.guardian._rare is not None:
            other.guardian._rare = dict(self.guardian._rare)
        other.queue, other.flying = list(self.queue), dict(self.flying)
        other.retries, other.answers = dict(self.retries), dict(self.answers)
        other.starts, other.made = list(self.starts), list(self.made)
        return other

    # -- what can happen -----------------------------------------------------------------------------------------------

    def progress(self) -> Iterator[tuple[Any, ...]]:
        """Events that come by themselves."""
        if self.placed and any(not host.buried for host in self.hosts.values()):
            for name, host in self.hosts.items():
                if not host.buried:
                    yield "chosen", name
        if self.guardian.state == g.RESTARTING:
            yield ("due",)
        for name, host in self.hosts.items():
            if not host.buried and host.to_guardian:
                yield "at guardian", name
            if not host.buried and host.to_caller:
                yield "at caller", name
            if host.alive:
                if host.from_guardian and not host.buried:
                    yield "from guardian", name
                if host.from_caller and not host.buried:
                    yield "from caller", name
                cell = host.cell
                if cell is not None and not cell.up:
                    yield "made", name
                    yield "no start", name
                elif cell is not None and cell.running:
                    yield "finish", name
                elif cell is not None and cell.box and cell.how != g.DRAIN:
                    yield "start", name
                elif cell is not None and cell.how:
                    yield "stopped", name
            elif not host.buried:
                yield "bury", name
        if self.queue and self.route is None and not self.syncing:
            state = self.guardian
            if state.state == g.ENDED or (state.state == g.UP and state.incarnation > self.lost):
                yield ("locate",)

    def faulty(self) -> Iterator[tuple[Any, ...]]:
        """Events that users and faults bring."""
        if self.end:
            yield "end", self.end
        if self.moves and self.guardian.state == g.UP:
            yield ("move",)
        for name, host in self.hosts.items():
            if self.faults and host.alive and not host.buried:
                if host.cell is not None and host.cell.up:
                    yield "crash", name
                yield "die", name
                if self.false_death:
                    yield "bury", name
            if self.repeats and host.from_guardian and host.from_guardian[0][0] == "create" and not host.buried:
                yield "repeat", name

    def do(self, step: tuple[Any, ...]) -> None:
        kind, *rest = step
        name = rest[0] if rest else b""
        host = self.hosts.get(name)
        if kind == "chosen":
            self.placed = False
            self.tell(g.Chosen(name))
        elif kind == "due":
            self.tell(g.Due())
        elif kind == "end":
            self.end = ""
            if name in g.AT_ONCE:
                self.killed_at = self.guardian.incarnation
            self.tell(g.End(name))
        elif kind == "move":
            self.moves = 0
            self.tell(g.Move())
        elif kind == "locate":
            self.locate()
        elif host is not None:
            getattr(self, "_" + kind.replace(" ", "_"))(name, host)

    # -- the guardian --------------------------------------------------------------------------------------------------

    def tell(self, event: g.Event) -> None:
        before = self.guardian.left
        for todo in self.guardian.handle(event, 0.0, random.Random(0)):
            if isinstance(todo, g.Place):
                self.placed = True
            elif isinstance(todo, g.Create):
                self.hosts[todo.host].from_guardian.append(("create", todo.incarnation, self.guardian.lasting))
            elif isinstance(todo, g.Stop):
                self.hosts[todo.host].from_guardian.append(("end", todo.incarnation, todo.how))
            elif isinstance(todo, g.MoveOff):
                self.hosts[todo.host].from_guardian.append(("end", todo.incarnation, g.DRAIN))
            elif isinstance(todo, g.Restarting):
                if todo.reason != g.DRAIN:
                    self.spent += 1
                if self.spent > self.restarts:
                    raise BrokenError(f"{self.spent} restarts of {self.restarts}")
                if todo.reason == g.DRAIN and self.guardian.left != before:
                    raise BrokenError("a move spent a restart")
            elif isinstance(todo, g.Ended):
                if self.ended:
                    raise BrokenError("ended twice")
                self.ended = todo.reason
                self.placed = False

    def _at_guardian(self, name: bytes, host: Host) -> None:
        kind, incarnation, *more = host.to_guardian.popleft()
        if kind == "up":
            self.tell(g.Created(name, incarnation))
        elif kind == "crashed":
            self.tell(g.Crashed(name, incarnation))
        else:
            self.tell(g.Over(name, incarnation, more[0]))

    # -- the hosts -----------------------------------------------------------------------------------------------------

    def _repeat(self, name: bytes, host: Host) -> None:
        self.repeats = 0
        host.from_guardian.appendleft(host.from_guardian[0])

    def _from_guardian(self, name: bytes, host: Host) -> None:
        kind, incarnation, more = host.from_guardian.popleft()
        if kind == "create":
            verdict = host.fence.create(ID, incarnation)
            if verdict == "make":
                host.fence.heard(ID, incarnation)
                self.made.append((name, incarnation))
                host.cell = Cell(incarnation)
                if len(self.made) != len(set(self.made)):
                    raise BrokenError(f"incarnation {incarnation} was made twice")
                if self.killed_at and incarnation > self.killed_at:
                    raise BrokenError("it was started again after it was killed")
                live = [h for h in self.hosts.values() if h.alive and h.cell is not None]
                if len(live) > 1 and not any(h.buried for h in live):
                    raise BrokenError("two incarnations live, and nobody was declared dead")
        elif host.cell is not None and host.cell.incarnation == incarnation and host.fence.heard(ID, incarnation):
            host.cell.how = more
            if more in g.AT_ONCE:
                self._leave(host, lost="died", waiting="died")
                host.to_guardian.append(("over", incarnation, more))

    def _made(self, name: bytes, host: Host) -> None:
        assert host.cell is not None
        host.cell.up = True
        host.to_guardian.append(("up", host.cell.incarnation))

    def _no_start(self, name: bytes, host: Host) -> None:
        self._crash(name, host, fault=False)

    def _crash(self, name: bytes, host: Host, *, fault: bool = True) -> None:
        self.faults -= fault
        assert host.cell is not None
        incarnation = host.cell.incarnation
        self._leave(host, lost="lost", waiting="not here")
        host.to_guardian.append(("crashed", incarnation))

    def _stopped(self, name: bytes, host: Host) -> None:
        assert host.cell is not None
        incarnation, how = host.cell.incarnation, host.cell.how
        self._leave(host, lost="lost", waiting="not here")
        host.to_guardian.append(("over", incarnation, how))

    def _leave(self, host: Host, *, lost: str, waiting: str) -> None:
        cell, host.cell = host.cell, None
        assert cell is not None
        if cell.running:
            host.to_caller.append((lost, cell.running, cell.incarnation))
        for call in cell.box:
            host.to_caller.append((waiting, call, cell.incarnation))

    def _start(self, name: bytes, host: Host) -> None:
        cell = host.cell
        assert cell is not None
        call = cell.running = cell.box.pop(0)
        start = (call, cell.incarnation)
        if start in self.starts:
            raise BrokenError(f"call {call} started twice on incarnation {cell.incarnation}")
        first = all(start[0] != call for start in self.starts)
        if first and not self.false_death and any(start[0] > call for start in self.starts):
            raise BrokenError(f"call {call} started after a later one")
        self.starts.append(start)

    def _finish(self, name: bytes, host: Host) -> None:
        assert host.cell is not None
        host.to_caller.append(("result", host.cell.running, host.cell.incarnation))
        host.cell.running = 0

    def _die(self, name: bytes, host: Host) -> None:
        self.faults -= 1
        host.alive = False

    def _bury(self, name: bytes, host: Host) -> None:
        if host.alive:
            self.faults -= 1
        host.buried = True
        host.to_guardian.clear()
        host.to_caller.clear()
        host.from_guardian.clear()
        host.from_caller.clear()
        lasting = self.guardian.lasting
        again = []
        for call, (where, _) in sorted(self.flying.items()):
            if where == name:
                del self.flying[call]
                if lasting and self.retries[call]:
                    self.retries[call] -= 1
                    again.append(call)
                else:
                    self.answer(call, "unavailable" if lasting else "died")
        self.queue += again  # behind those that came back: they were sent before
        if self.route is not None and self.route[0] == name:
            self.lost = self.route[1]
            self.route = None
        if self.syncing == name:
            self.syncing = b""
        self.tell(g.Dead(name))

    # -- the caller ----------------------------------------------------------------------------------------------------

    def locate(self) -> None:
        if self.guardian.state == g.ENDED:
            for call in self.queue:
                self.answer(call, "died")
            self.queue = []
            return
        assert self.guardian.host is not None
        self.route = (self.guardian.host, self.guardian.incarnation)
        for call in self.queue:
            self.flying[call] = self.route
            self.hosts[self.route[0]].from_caller.append((call, self.route[1]))
        self.queue = []

    def _from_caller(self, name: bytes, host: Host) -> None:
        call, incarnation = host.from_caller.popleft()
        if call == 0:
            host.to_caller.append(("synced", 0, 0))
        elif host.cell is None or host.cell.incarnation != incarnation:
            host.to_caller.append(("not here", call, incarnation))
        else:
            host.cell.box.append(call)

    def _at_caller(self, name: bytes, host: Host) -> None:
        kind, call, incarnation = host.to_caller.popleft()
        if kind == "synced":
            self.syncing = b""
            return
        del self.flying[call]
        if kind in ("result", "died"):
            self.answer(call, kind)
        elif kind == "lost" and not self.retries[call]:
            self.answer(call, "unavailable")
        else:
            if kind == "lost":
                self.retries[call] -= 1
            self.queue.append(call)
        if kind != "result" and self.route == (name, incarnation):
            self.route = None
            self.lost = max(self.lost, incarnation)
            if self.syncs:
                self.syncing = name
                host.from_caller.append((0, 0))

    def answer(self, call: int, how: str) -> None:
        if call in self.answers:
            raise BrokenError(f"call {call} was answered twice")
        self.answers[call] = how
        if how == "result" and all(start[0] != call for start in self.starts):
            raise BrokenError(f"call {call} has a result and never ran")

    # -- when nothing more happens -------------------------------------------------------------------------------------

    def at_rest(self) -> None:
        state = self.guardian.state
        if state not in (g.UP, g.ENDED) and not (state == g.PLACING and all(h.buried for h in self.hosts.values())):
            raise BrokenError(f"it stays {state}")
        if state != g.PLACING and set(self.answers) != set(self.calls):
            raise BrokenError(f"calls without an answer while it is {state}: {self.queue} {self.flying}")
        if state == g.ENDED:
            for host in self.hosts.values():
                if host.alive and not host.buried and host.cell is not None:
                    raise BrokenError("it lives on after its end")


def search(start: World) -> int:
    """Visit every state that can be reached; how many there are."""
    seen = {start.key()}
    stack: list[tuple[World, tuple[Any, ...]]] = [(start, ())]
    while stack:
        world, path = stack.pop()
        progress = list(world.progress())
        if not progress:
            try:
                world.at_rest()
            except BrokenError as error:
                raise BrokenError(f"{error}, after {path}") from None
        for step in (*progress, *world.faulty()):
            after = world.copied()
            try:
                after.do(step)
            except BrokenError as error:
                raise BrokenError(f"{error}, after {(*path, step)}") from None
            key = after.key()
            if key not in seen:
                seen.add(key)
                stack.append((after, (*path, step)))
    return len(seen)


@pytest.mark.parametrize(
    ("bounds", "states"),
    [
        ({"end": "killed", "moves": 0, "repeats": 0}, 10_000),
        ({"end": "stopped", "moves": 0, "calls": (1,)}, 4_000),
        ({"end": "killed", "restarts": 0, "repeats": 0, "calls": (1,)}, 2_000),
        ({"end": "", "repeats": 0, "calls": (1,)}, 4_000),
        ({"end": "killed", "false_death": True, "moves": 0, "repeats": 0, "calls": (1,)}, 3_000),
    ],
    ids=["two calls", "stopped", "no restarts", "moved", "false death"],
)
def test_no_order_of_events_breaks_a_promise(bounds: dict[str, Any], states: int) -> None:
    assert search(World(**bounds)) > states


@pytest.mark.timeout(0)
@pytest.mark.skipif(not FULL, reason="takes minutes: ACTORFW_MODEL=full")
@pytest.mark.parametrize("end", ["killed", "stopped", ""])
@pytest.mark.parametrize(
    ("retries", "faults"),
    [
        (1, {"faults": 1, "repeats": 0}),
        (1, {"faults": 1, "calls": (1,)}),
        (1, {"faults": 2, "moves": 0, "repeats": 0}),
        (1, {"false_death": True, "moves": 0}),
        (0, {"faults": 1, "repeats": 0}),
        (0, {"faults": 2, "moves": 0, "repeats": 0}),
        (0, {"false_death": True, "moves": 0}),
    ],
    ids=str,
)
def test_no_order_of_more_events_breaks_a_promise(end: str, retries: int, faults: dict[str, Any]) -> None:
    search(World(end=end, retries=retries, **faults))


class RestartsAfterKill(Guardian):
    """Kills the host's incarnation and forgets that it is to stay dead."""

    def _end(self, how: str) -> list[g.Instruction]:
        if not self.hosted or self.host is None:
            return super()._end(how)
        return [g.Stop(self.host, self.incarnation, "stopped")]


class SpendsNothing(Guardian):
    """Never counts its restarts."""

    def _lost(self, reason: str, now: float, rng: random.Random) -> list[g.Instruction]:
        left = self.left
        out = super()._lost(reason, now, rng)
        self.left = left
        return out


class MakesAgain(Fence):
    """A host that takes a repeated order for a new one."""

    def create(self, id: Any, incarnation: int) -> Any:
        return "make"


@pytest.mark.parametrize(
    ("world", "says"),
    [
        ({"guardian": RestartsAfterKill}, "killed"),
        ({"guardian": SpendsNothing, "end": "", "faults": 2}, "restarts of 1"),
        ({"fence": MakesAgain, "end": ""}, "made twice"),
        ({"syncs": False, "end": "", "retries": 0}, "after a later one|without an answer"),
    ],
    ids=["restarts after kill", "spends nothing", "makes again", "no sync before the new route"],
)
def test_what_the_search_finds(world: dict[str, Any], says: str) -> None:
    with pytest.raises(BrokenError, match=says):
        search(World(**world))
