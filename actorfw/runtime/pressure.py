"""Memory pressure on a node's machine: stops a worker process before the kernel would take one, or the machine down.

Reads memory while there are worker processes, and drives `core.pressure`, which says whether and which. What was
stopped ends as any worker process does, and the sentence of its end says why; its task runs again if it has attempts,
after a longer pause than for other losses.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final, cast

from actorfw.core.pressure import Candidate, Pressure
from actorfw.io.memory import MemoryReading, MemoryTop
from actorfw.runtime.brokentasks import started_of

if TYPE_CHECKING:
    from actorfw.io.env import TimerHandle
    from actorfw.runtime.node import Node
    from actorfw.runtime.pool import Worker
    from actorfw.runtime.submitted import Task

__all__ = ["MemoryPressure", "in_bytes"]

logger = logging.getLogger("actorfw.worker")

_TOP: Final = 5  # processes that an error names


class MemoryPressure:
    """Watches over the memory of one node's machine or control group."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.stopped = 0  # workers
        self._pressure = Pressure(node.config.memory_threshold)
        self._timer: TimerHandle | None = None
        self._looking = False
        self._blamed = False
        self._closed = False

    def watch(self) -> None:
        """There is a worker process: look from now on."""
        if self._timer is None and not self._looking and not self._closed and self.node.config.memory_threshold < 1:
            self._later(self.node.config.memory_interval)

    def ended(self, worker: Worker) -> None:
        """A worker process is gone."""
        self._pressure.ended(worker.key, self.node.env.time())

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _later(self, seconds: float) -> None:
        if not self._closed and self.node.pool.workers:
            self._timer = self.node.env.call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        env = self.node.env
        reading = env.memory.read()
        if not self._pressure.too_much(reading.used, reading.limit, env.time()):
            self._blamed = self._blamed and reading.share > self._pressure.threshold
            self._later(self._pressure.pause(reading.used, reading.limit, self.node.config.memory_interval))
            return
        if self._pressure.urgent(reading.used, reading.limit, self.node.config.memory_interval):
            self._surveyed(reading, self._own_top())
            return
        # Several nodes of a machine see the same memory, and the first that stops a worker may help all of them: so not
        # all of them act at once, and each looks again before it does.
        self._looking = True
        self._timer = env.call_later(env.random.uniform(0, self.node.config.memory_interval / 2), self._begin_survey)

    def _begin_survey(self) -> None:
        self._timer = None
        if self.node.env.pace is not None:
            self._survey()
        else:  # whose memory it is takes a while to find out
            threading.Thread(target=self._survey, name="actorfw memory", daemon=True).start()

    def _survey(self) -> None:
        memory = self.node.env.memory
        top = memory.top(_TOP)
        self.node.post(self._surveyed, memory.read(), top)

    def _surveyed(self, reading: MemoryReading, top: list[MemoryTop]) -> None:
        self._looking = False
        if self._closed:
            return
        if self._pressure.too_much(reading.used, reading.limit, self.node.env.time()):
            self._stop_one(reading, top)
        self._later(self._pressure.pause(reading.used, reading.limit, self.node.config.memory_interval))

    def _own_top(self) -> list[MemoryTop]:
        """The workers of this node with the most memory: to find the others takes longer."""
        own = self.node.env.memory.own
        found = [MemoryTop(pid, "a worker", own(pid)) for one in self.node.pool.workers.values() if (pid := one.pid)]
        return sorted(found, key=lambda one: -one.own)[:_TOP]

    def _stop_one(self, reading: MemoryReading, top: list[MemoryTop]) -> None:
        workers = self.node.pool.workers
        candidates = [one for one in map(self._candidate, workers.values()) if one is not None]
        chosen = self._pressure.choose(reading.used, reading.limit, candidates)
        full = (
            f"{in_bytes(reading.used)} of the {in_bytes(reading.limit)} of memory of {reading.of} were in use, which is"
            f" more than Config.memory_threshold={self._pressure.threshold:g} allows"
        )
        most = ", ".join(f"{one.name} (process {one.pid}) {in_bytes(one.own)}" for one in top)
        if chosen is None:
            if not self._blamed:
                self._blamed = True
                logger.warning("%s, and no worker process of this node has much of it; most had: %s", full, most)
            return
        worker = next(one for one in workers.values() if one.key == chosen.key)
        what = "actor" if chosen.actor else "task"
        comes_again = "restart" if chosen.actor else "run again"
        if chosen.again:
            which = f"the newest {what} that can {comes_again}" if worker.running or chosen.actor else "idle"
        else:
            which = f"the newest {what}, and none that can {comes_again} has much"
        self.stopped += 1
        worker.process.kill(
            f"{full}; it was {which}, and had {in_bytes(chosen.own)}. Most memory had: {most}. "
            "Let fewer run at a time (memory= says what each needs), or give each less to do",
        )
        worker.short_of_memory = True
        logger.warning("worker process %s is stopped for want of memory: %s", worker.pid, full)

    def _candidate(self, worker: Worker) -> Candidate | None:
        pid = worker.pid
        if not pid or not worker.process.alive or worker.leaving:
            return None
        own = self.node.env.memory.own(pid)
        if worker.cell is not None:
            return Candidate(worker.key, True, worker.cell.lasting, worker.process.index, own)
        started = started_of(worker.running, worker.process.begun())
        if not started:
            return Candidate(worker.key, False, True, worker.process.index << 32, own)
        exe = started[-1]
        again = not exe.last if exe.peer is not None else cast("Task", exe).retries_left != 0
        return Candidate(worker.key, False, again, exe.serial, own)


def in_bytes(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
