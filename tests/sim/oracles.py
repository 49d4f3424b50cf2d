"""What a simulated cluster may never do: a recorder outside the nodes, and the checks made on what it saw.

O1 everything ends, O2 nothing starts too often, O3 a caller's calls start in order, O5 what errors say about having run
is true, O7 what nobody holds is gone and what somebody holds is not, O9 resources, O10 bounded buffers, O12 replay (in
the tests themselves).
"""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import Any

from actorfw import errors
from actorfw.core.ledger import UNIT
from actorfw.runtime.peers import Peer
from actorfw.testing import SimCluster, SimNode

__all__ = ["Recorder", "Violation", "recorder"]


class Violation(AssertionError):
    """An oracle says no."""


class Recorder:
    """Sees what user code does, where and when, whatever the nodes believe."""

    current: Recorder | None = None

    def __init__(self, window: int) -> None:
        self.window = window
        self.starts: defaultdict[str, list[str]] = defaultdict(list)  # key of a call: what started it
        self.allowed: dict[str, int] = {}  # how often it may start
        self.outcomes: dict[str, tuple[str, Any]] = {}
        self.pending: dict[str, str] = {}  # key: node of its caller
        self.order: dict[tuple[str, str, str], int] = {}
        self.devices: dict[tuple[str, int], str] = {}
        self.violations: list[str] = []
        self.logged = _Logged(self)

    def violated(self, oracle: str, text: str) -> None:
        self.violations.append(f"{oracle}: {text}")

    # -- what happens --------------------------------------------------------------------------------------------------

    def submitted(self, key: str, node: str, allowed: int) -> None:
        self.allowed[key] = allowed
        self.pending[key] = node

    def started(self, key: str, where: str) -> None:
        starts = self.starts[key]
        starts.append(where)
        if len(starts) > self.allowed.get(key, 1):
            self.violated("O2", f"{key} started {len(starts)} times, at {starts}; allowed {self.allowed.get(key, 1)}")

    def in_order(self, caller: str, actor: str, incarnation: str, number: int) -> None:
        at = (caller, actor, incarnation)
        before = self.order.get(at, -1)
        if number <= before:
            self.violated("O3", f"call {number} of {caller} to {actor} started after its call {before}")
        self.order[at] = max(before, number)

    def device(self, where: str, index: int, key: str) -> None:
        holder = self.devices.get((where, index))
        if holder is not None:
            self.violated("O9", f"device {index} of {where} was given to {key} while {holder} has it")
        self.devices[where, index] = key

    def device_free(self, where: str, index: int) -> None:
        self.devices.pop((where, index), None)

    def ended(self, key: str, value: Any, wanted: Any) -> None:
        self.pending.pop(key, None)
        self.outcomes[key] = ("value", value)
        if not self.starts.get(key):
            self.violated("O5", f"{key} has the value {value!r} and never started")
        if value != wanted:
            self.violated("O5", f"{key} has the value {value!r} instead of {wanted!r}")

    def failed(self, key: str, error: BaseException) -> None:
        self.pending.pop(key, None)
        self.outcomes[key] = ("error", repr(error))  # not itself: its traceback holds the refs that were awaited
        if getattr(error, "ran", None) is False and self.starts.get(key):
            self.violated("O5", f"{key} ran, at {self.starts[key]}, and its error says that it did not: {error!r}")
        if isinstance(error, errors.ObjectLostError) and not isinstance(error, errors.OwnerDiedError):
            self.violated("O7", f"{key} read an object that was freed too early: {error}")
        if not isinstance(error, errors.ActorFwError):
            self.violated("O5", f"{key} failed with what nobody raised: {error!r}")

    # -- looking in, at any moment -------------------------------------------------------------------------------------

    def look(self, cluster: SimCluster) -> None:
        """Bounds that hold always."""
        for node in cluster.alive:
            runtime = node.runtime
            free = runtime.ledger._free
            for name, units in free.items():
                # Those who waited in a worker and go on may exceed the totals.
                least = -UNIT * len(runtime.pool.workers) if name == "CPU" else 0
                if units < least or units > runtime.ledger.totals.units(name):
                    self.violated("O9", f"{node.name} has {units} units of {name} left of {runtime.ledger.totals}")
            if any(not 0 <= share <= UNIT for share in runtime.ledger._devices):
                self.violated("O9", f"{node.name} has the devices {runtime.ledger._devices}")
            for peer in runtime.peers.by_life.values():
                self._look_at(node, peer)

    def _look_at(self, node: SimNode, peer: Peer) -> None:
        # A window that is not full yet takes one frame more.
        if peer.unacked_bytes > self.window + (256 << 10) + 4096:
            self.violated("O10", f"{node.name} keeps {peer.unacked_bytes} bytes unacknowledged for {peer.name}")
        limit = node.runtime.config.max_outbox
        if peer.queued_bytes > limit + (256 << 10):
            self.violated("O10", f"{node.name} keeps {peer.queued_bytes} bytes waiting for {peer.name}")

    # -- at the end ----------------------------------------------------------------------------------------------------

    def quiet(self, cluster: SimCluster) -> None:
        """O1: the faults are over since long."""
        names = {node.name for node in cluster.alive}
        for key, node_name in self.pending.items():
            if node_name in names:
                self.violated("O1", f"{key} of {node_name} is pending for ever; it started at {self.starts.get(key)}")
        for node in cluster.alive:
            runtime = node.runtime
            tables: dict[str, Any] = {
                "tasks": runtime.tasks.open,
                "calls": runtime.calls.open,
                "executions": runtime.execution.by_serial,
                "foreign executions": runtime.execution._foreign,
                "calls served": runtime.hosting._calls,
                "questions": runtime.asks._open,
                "fetches": runtime.objects._asked,
                "streams": runtime.streams,
                "relays": runtime.workercalls.relays,
            }
            for what, table in tables.items():
                if table:
                    self.violated("O1", f"{node.name} still has {what}: {_some(table)}")

    def let_go(self, cluster: SimCluster) -> None:
        """O7 and O9: nobody holds anything any more, and the grace is over."""
        for node in cluster.alive:
            runtime = node.runtime
            names = ("records", "calls", "answering", "orphans", "stored")
            held: Any = runtime.objects.ownership.snapshot()[0]
            for name, table in zip(names, held, strict=True):
                if table:
                    self.violated("O7", f"{node.name} has ownership {name}: {_some(table)}")
            tables: dict[str, Any] = {
                "exported objects": runtime.objects._exported,
                "actors guarded": runtime.guardians.actors,
                "actors hosted": runtime.hosting.cells,
                "pinned things": runtime.objects._pinned,
            }
            for what, table in tables.items():
                if table:
                    self.violated("O7", f"{node.name} still has {what}: {_some(table)}")
            ledger = runtime.ledger
            if dict(ledger._free) != dict(ledger.totals.amounts) or any(share != UNIT for share in ledger._devices):
                self.violated("O9", f"{node.name} got back {ledger._free} {ledger._devices} of {ledger.totals}")

    def verdict(self) -> None:
        """Raises what was found."""
        if self.violations:
            raise Violation("\n".join(self.violations[:12]))


class _Logged(logging.Handler):
    """Errors in the log are found too: a message that could not be handled is nobody's exception."""

    def __init__(self, seen: Recorder) -> None:
        super().__init__(logging.ERROR)
        self.seen = seen

    def emit(self, record: logging.LogRecord) -> None:
        trace = ""
        if record.exc_info and record.exc_info[1] is not None:
            import traceback

            trace = "".join(traceback.format_exception(record.exc_info[1])[-4:])
        self.seen.violated("log", f"{record.getMessage()}\n{trace}")


def recorder() -> Recorder:
    """The one of the seed that runs now; user code of all nodes finds it here, since all live in this process."""
    assert Recorder.current is not None
    return Recorder.current


def _some(table: Any) -> str:
    shown = list(table.items() if isinstance(table, dict) else table)
    return f"{len(shown)}, such as {', '.join(repr(one)[:300] for one in shown[:3])}"
