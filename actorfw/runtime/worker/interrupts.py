"""Cancelling what the main thread of a worker is running, and nothing else.

The node first writes CANCEL with the number of the call, then has SIGINT sent. The signal only says "look into your
socket": it may come late, when another call runs, and then nothing happens. The exception is raised in user code
only; while the runtime itself is at work on the main thread (a submission, a message half written) the look waits
until it is done.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from actorfw.runtime.exits import Interrupted
from actorfw.runtime.worker.line import Line

__all__ = ["Interrupts"]


class Interrupts:
    """What is running on the main thread, and which calls are to end.

    Attributes:
        main: ident of the main thread.
        running: number of the call whose code is running on the main thread, 0 for none.
        poked: a signal came when it could not be acted upon.
        cancelled: calls that were cancelled and have not ended.
        end_on_loop: how to end the running call if it is a coroutine, else None.
        shield: a context manager for the runtime's own work in the middle of user code; costs nothing in other threads.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self.main = threading.get_ident()
        self.running = 0
        self.poked = False
        self.cancelled: set[int] = set()
        self.end_on_loop: Callable[[], None] | None = None
        self.shield = _Shield(self)
        self._depth = 0

    def install(self) -> None:
        """Take SIGINT. Of the main thread."""
        signal.signal(signal.SIGINT, self._signalled)

    def on_main(self) -> bool:
        """Whether this is the main thread."""
        return threading.get_ident() == self.main

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.poked = True
        if self.running and not self._depth:
            self.look()

    def look(self) -> None:
        """Read what came, and raise if the running call is among the cancelled. On the main thread, in user code.

        Raises:
            Interrupted: it is.
        """
        while True:
            self._depth += 1
            try:
                self.poked = False
                self._line.read_now()
            finally:
                self._depth -= 1
            self.check()
            if not self.poked:  # else a signal came meanwhile, and what it is about perhaps after the reading
                return

    def check(self) -> None:
        """Raise if the running call is among the cancelled; a coroutine is cancelled by its loop instead."""
        running = self.running
        if running in self.cancelled:
            if self.end_on_loop is not None:
                self.end_on_loop()
                return
            # At most once: whatever handles the exception is not interrupted again.
            self.running = 0
            raise Interrupted

    def begin(self, no: int) -> None:
        """The code of this call is about to run.

        Raises:
            Interrupted: it was cancelled on the way here.
        """
        self.running = no
        if self.poked:
            self.look()
        elif self.cancelled:
            self.check()

    def idle(self) -> None:
        """Nothing runs and nothing waits: what is still marked had ended before."""
        self.cancelled.clear()

    def cancel(self, no: int) -> None:
        """A call is to end. Under the line's lock, in whichever thread reads."""
        self.cancelled.add(no)
        if no == self.running and not self.on_main():
            # The signal of the node may have come before this was read.
            signal.pthread_kill(self.main, signal.SIGINT)

    def after_fork(self) -> None:
        """In a process that user code forked: SIGINT means what it always means."""
        self.running = 0
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Shield:
    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts

    def __enter__(self) -> None:
        if self._interrupts.on_main():
            self._interrupts._depth += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        interrupts = self._interrupts
        if interrupts.on_main():
            interrupts._depth -= 1
            if interrupts.poked and interrupts.running and not interrupts._depth:
                interrupts.look()
