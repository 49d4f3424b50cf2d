"""What a simulated cluster may never do: a recorder outside the nodes, which sees what user code does, where and when.

O1 everything ends, O2 nothing starts too often, O3 a caller's calls start in order, O4 an actor's end is told once and
is true, O5 what errors say about having run is true, O6 a name has one holder, O7 what nobody holds is gone and what
somebody holds is not, O8 all see the same members, O9 resources, O10 bounded buffers, O11 a drain loses nothing, O12
replay (in the tests themselves). What is found by looking into nodes is in `tests.sim.looking`.

Where a living node was declared dead, exactly what the contract gives up is not asked for: the one holder of a name,
the one incarnation of an actor, and the order between those.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import defaultdict
from typing import Any

import actorfw
from actorfw import errors
from actorfw.runtime.handles import handle_id
from actorfw.testing import SimCluster
from actorfw.values.ids import NODE_ID_BYTES, RefId, is_detached

__all__ = ["ANY", "Recorder", "Violation", "Watcher", "recorder", "same_in_each_life"]

ANY: Any = object()
"""Any value is right."""

WAKING = 0.1
"""Virtual seconds that a slow node may take from an answer to the code that waits for it."""


class Violation(AssertionError):
    """An oracle says no."""


def same_in_each_life(id: RefId) -> tuple[bytes, int]:
    """An id as it is whatever life its node has."""
    life, number = id
    return (life if is_detached(life) else life[:NODE_ID_BYTES]), number


class Recorder:
    """Sees what user code does, where and when, whatever the nodes believe.

    Attributes:
        harmless: nothing was done to the cluster that may cost anybody a call.
        false_death: a living node was declared dead, or told that it was.
    """

    current: Recorder | None = None

    def __init__(self, window: int) -> None:
        self.window = window
        self.harmless = True
        self.false_death = False
        self.cluster: SimCluster | None = None
        self.starts: defaultdict[str, list[str]] = defaultdict(list)  # key of a call: what started it
        self.allowed: dict[str, int] = {}  # how often it may start; 0: it is no call that could
        self.ends_its_actor: set[str] = set()  # its actor is ended on purpose
        self.outcomes: dict[str, tuple[str, Any]] = {}
        self.pending: dict[str, str] = {}  # key: node of its caller
        self.caller: dict[str, str] = {}
        self.lost: list[tuple[str, str, str]] = []  # (caller's node, key, error) of calls that failed without fault
        self.order: dict[tuple[str, str, str], int] = {}
        self.devices: dict[tuple[str, int], str] = {}
        self.incarnations: defaultdict[str, list[int]] = defaultdict(list)  # actor: tokens, in order of time
        self.holders: dict[str, list[list[Any]]] = {}  # name: [actor, first, last] in order of time
        self.names: set[str] = set()
        self.told: list[Watcher] = []
        self.watchers: list[asyncio.Task[None]] = []
        self.open: defaultdict[tuple[str, Any], list[tuple[str, float, Any]]] = defaultdict(list)
        self.violations: list[str] = []
        self.logged = _Logged(self)

    def violated(self, oracle: str, text: str) -> None:
        self.violations.append(f"{oracle}: {text}")

    def now(self) -> float:
        return self.cluster.loop.time() if self.cluster is not None else 0.0

    def is_alive(self, node: str) -> bool:
        """Whether a node, by its name in the network, is up."""
        return self.cluster is not None and any(found.place == node for found in self.cluster.alive)

    def lossy(self) -> None:
        """Something happens from which calls may fail."""
        self.harmless = False

    def buried(self, life: bytes, reason: str) -> None:
        """Some node takes this life for dead."""
        if reason != "left" and self.cluster is not None:
            for node in self.cluster.alive:
                if node.runtime.life == life and not node.runtime.closing:
                    self.false_death = True
                    self.harmless = False

    # -- calls ---------------------------------------------------------------------------------------------------------

    def submitted(self, key: str, node: str, allowed: int, *, ends: bool = False) -> None:
        self.allowed[key] = allowed
        self.pending[key] = node
        self.caller[key] = node
        if ends:
            self.ends_its_actor.add(key)

    def started(self, key: str, where: str, incarnation: str = "") -> int:
        """Something starts, in an incarnation of an actor or in none; returns how often it has by now."""
        starts = self.starts[key]
        if incarnation:
            actor, _, token = incarnation.rpartition("#")
            if incarnation in starts:
                self.violated("O2", f"{key} started twice in {incarnation}")
            if not self.false_death and int(token) < self.incarnations[actor][-1]:
                self.violated("O2", f"{key} started in {incarnation}, when there was a later one")
        starts.append(incarnation or where)
        if len(starts) > self.allowed.get(key, 1):
            self.violated("O2", f"{key} started {len(starts)} times, at {starts}; allowed {self.allowed.get(key, 1)}")
        return len(starts)

    def in_order(self, caller: str, actor: str, incarnation: str, number: int) -> None:
        at = (caller, actor, incarnation)
        before = self.order.get(at, -1)
        if number <= before:
            self.violated("O3", f"call {number} of {caller} to {actor} started after its call {before}")
        self.order[at] = max(before, number)

    def ended(self, key: str, value: Any, wanted: Any) -> None:
        self.pending.pop(key, None)
        self.outcomes[key] = ("value", value)
        if self.allowed[key] and not self.starts.get(key):
            self.violated("O5", f"{key} has the value {value!r} and never started")
        if value != wanted:
            self.violated("O5", f"{key} has the value {value!r} instead of {wanted!r}")

    def failed(self, key: str, error: BaseException) -> None:
        self.pending.pop(key, None)
        self.outcomes[key] = ("error", repr(error))  # not itself: its traceback holds the refs that were awaited
        if getattr(error, "ran", None) is False and self.starts.get(key):
            self.violated("O5", f"{key} ran, at {self.starts[key]}, and its error says that it did not: {error!r}")
        if getattr(error, "ran", None) is True and not self.starts.get(key):
            self.violated("O5", f"{key} never ran, and its error says that it did: {error!r}")
        lost = isinstance(error, errors.ObjectLostError) and not isinstance(error, errors.OwnerDiedError)
        # What goes with the only node that has it is not freed too early.
        if lost and " is lost" not in str(error) and not self.false_death:
            self.violated("O7", f"{key} read an object that was freed too early: {error}")
        if not isinstance(error, errors.ActorFwError):
            self.violated("O5", f"{key} failed with what nobody raised: {error!r}")
        if not self._expected(key, error):
            self.lost.append((self.caller[key], key, repr(error)))

    def _expected(self, key: str, error: BaseException) -> bool:
        """Whether what the program itself did explains this error."""
        what = key.rpartition(":")[2]
        if isinstance(error, errors.TaskCancelledError):
            return what.startswith("cancelled")
        if isinstance(error, errors.DeadlineExceededError):
            return what.startswith("due")
        if isinstance(error, errors.ActorDiedError):
            # A name that several fight for, or an actor that a leaving node could not place elsewhere.
            return key in self.ends_its_actor or what in ("named", "after its end") or error.reason == "drained"
        if isinstance(error, (errors.UnschedulableError, errors.MailboxFullError, errors.OverloadedError)):
            return True
        return isinstance(error, errors.ActorExistsError)

    def called(self, handle: Any, key: str, ref: Any) -> None:
        """A plain call of an actor, which is to have ended when the actor's end is told."""
        self.open[self.caller[key], same_in_each_life(handle_id(handle))].append((key, self.now(), ref))

    # -- actors --------------------------------------------------------------------------------------------------------

    def incarnation(self, label: str, token: int) -> str:
        """One is made; returns what it is called here."""
        actor = f"{label}@{actorfw.context().actor_id}"
        tokens = self.incarnations[actor]
        if tokens and token <= tokens[-1] and not self.false_death:
            self.violated("O2", f"incarnation {token} of {label} was made after {tokens[-1]}")
        if not tokens or token > tokens[-1]:
            tokens.append(token)
        return f"{actor}#{token}"

    def holds(self, name: str, actor: str) -> None:
        """The holder of a name does something."""
        held = self.holders.setdefault(name, [])
        now = self.now()
        for one in held:
            if one[0] == actor:
                one[2] = now
                if one is not held[-1] and not self.false_death:
                    self.violated("O6", f"{actor} acts as {name} at {now}, when {held[-1][0]} has the name")
                return
        held.append([actor, now, now])

    def watching(self, node: str, handle: Any, *, alias: bool = False) -> Watcher:
        watcher = Watcher(self, node, handle, alias)
        self.told.append(watcher)
        return watcher

    # -- resources -----------------------------------------------------------------------------------------------------

    def device(self, where: str, index: int, key: str) -> None:
        holder = self.devices.get((where, index))
        if holder is not None:
            self.violated("O9", f"device {index} of {where} was given to {key} while {holder} has it")
        self.devices[where, index] = key

    def device_free(self, where: str, index: int) -> None:
        self.devices.pop((where, index), None)

    # -- the verdict ---------------------------------------------------------------------------------------------------

    def calm(self) -> None:
        """O11, and more than that: where nothing was done that may cost a call, none was lost and none run twice."""
        if not self.harmless:
            return
        for node, key, error in self.lost:
            if self.is_alive(node):
                self.violated("O11", f"{key} failed, though nothing was lost: {error}")
        for key, starts in self.starts.items():
            if len(starts) > 1 and self.is_alive(key.partition(":")[0]):
                self.violated("O11", f"{key} was started again, though nothing was lost: {starts}")

    def verdict(self) -> None:
        """Raises what was found."""
        if self.violations:
            raise Violation("\n".join(self.violations[:12]))


class Watcher:
    """One watch of an actor, by one node, and what it was told."""

    def __init__(self, seen: Recorder, node: str, handle: Any, alias: bool) -> None:
        assert seen.cluster is not None
        self.seen = seen
        self.node = node
        self.id = same_in_each_life(handle_id(handle))
        self.alias = alias  # the handle may stand for another actor
        self.simulated = next(found for found in seen.cluster.nodes if found.place == node)
        self.end = ""
        self.life = b""  # of the node, when the end was told
        self.incarnation = 0
        self.error = ""

    def failed(self, error: BaseException) -> None:
        self.error = repr(error)

    def told(self, told: Any) -> None:
        seen = self.seen
        if self.end:
            seen.violated("O4", f"{self} was told {told} after {self.end}")
        if isinstance(told, actorfw.Restarted):
            if told.incarnation <= self.incarnation:
                seen.violated("O4", f"{self} was told {told} after incarnation {self.incarnation}")
            self.incarnation = told.incarnation
            return
        self.end = told.reason
        self.life = self.simulated.runtime.life
        for key, since, ref in seen.open.pop((self.node, self.id), ()):
            if since < seen.now() - WAKING and not ref.done():
                seen.violated("O4", f"{key} was open when {self} was told {told.reason}")

    def __repr__(self) -> str:
        return f"a watch by {self.node} of {self.id[0].hex()}:{self.id[1]}"


class _Logged(logging.Handler):
    """Errors in the log are found too: a message that could not be handled is nobody's exception."""

    def __init__(self, seen: Recorder) -> None:
        super().__init__(logging.ERROR)
        self.seen = seen

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("a tell of "):
            return  # it has no answer that could say so, and so the log is where it is said
        trace = ""
        if record.exc_info and record.exc_info[1] is not None:
            trace = "".join(traceback.format_exception(record.exc_info[1])[-4:])
        self.seen.violated("log", f"{record.getMessage()}\n{trace}")


def recorder() -> Recorder:
    """The one of the seed that runs now; user code of all nodes finds it here, since all live in this process."""
    assert Recorder.current is not None
    return Recorder.current
