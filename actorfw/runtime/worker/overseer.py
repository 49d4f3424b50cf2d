"""The overseer: a thread of a worker that looks after what the main thread can't while it runs user code for long.

It wakes every 10 ms while tasks run, however short they are, rather than being woken per task: that costs a task
nothing. When the same task runs at two ticks in a row, it sends the replies that are finished, reads what has come
since, and hands back what has not started. Code that keeps the interpreter lock delays it. A worker that was idle for
a second collects its garbage once, so that refs in circles are let go, and says which refs it has released; then the
overseer sleeps until the next task.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from actorfw.runtime.worker.child import Worker

__all__ = ["Overseer"]

TICK: Final = 0.01
_SLOWEST_TICK: Final = 0.05
_IDLE: Final = 1.0


class Overseer:
    """One per worker process; `parked` is true while it sleeps for good and must be woken."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.parked = True
        self._started = False
        # Held while the overseer is to sleep. No Event: a finalizer must be able to wake it, whatever that has
        # interrupted.
        self._gate = threading.Lock()

    def wake(self) -> None:
        """A task is about to run, and the overseer sleeps."""
        self.parked = False
        if self._started:
            self.rouse()
        else:
            self._started = True
            threading.Thread(target=self._watch, name="actorfw-overseer", daemon=True).start()

    def rouse(self) -> None:
        """There is something to send, and the overseer sleeps. Any thread, at any moment; not before the first task."""
        with contextlib.suppress(RuntimeError):  # somebody else has done it
            self._gate.release()

    def _watch(self) -> None:
        worker = self._worker
        line = worker.line
        lodger = worker.shared.lodger
        seen = -1
        tick = TICK
        busy_at = time.monotonic()
        while True:
            time.sleep(tick)
            if not worker.busy:
                tick = TICK
                if line.outbox or lodger.pending:
                    line.flush()
                if worker.steps != seen:
                    seen = worker.steps
                    busy_at = time.monotonic()
                elif time.monotonic() - busy_at > _IDLE:
                    gc.collect()
                    line.flush()
                    worker.shared.tidy()
                    self._gate.acquire(blocking=False)
                    self.parked = True
                    # A task that began just now may have seen us awake.
                    if worker.steps == seen and not worker.busy and not lodger.pending:
                        self._gate.acquire()
                    self.parked = False
                    busy_at = time.monotonic()
                continue
            busy_at = time.monotonic()
            if worker.steps != seen:
                seen = worker.steps
                tick = TICK
                continue
            tick = min(tick * 1.5, _SLOWEST_TICK)
            line.read_now()
            worker.relieve()
            line.flush()
