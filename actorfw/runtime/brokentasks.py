"""What becomes of the tasks of a worker process that died: which had started, and which go elsewhere as if nothing had
been.

The tasks that a worker has not answered stand in the order in which they went to it, and it starts them in that order.
Those up to the one that it noted last (`runtime.marks`) had started; some of them may have ended, with a result that
was not sent any more. Nobody knows, so each of these has spent an attempt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from actorfw.values.errors import TaskCancelledError, WorkerDiedError
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error

if TYPE_CHECKING:
    from actorfw.runtime.execution import Execution
    from actorfw.runtime.node import Node

__all__ = ["BrokenTasks", "started_of"]

_STILLBORN: Final = 3  # workers in a row that died before they started anything, until a task hears of it
_ROW: Final = 10.0  # seconds between two of a row


def started_of(running: dict[int, Execution], begun: tuple[int, ...] | None) -> list[Execution]:
    """Of the tasks of a worker those that it had started, the one that it ran last; `begun`: what it had noted."""
    sent = [exe for exe in running.values() if exe.dispatched]
    if begun is None:
        return sent[:1]  # it sends its answers before it starts the next
    for at, exe in enumerate(sent):
        if exe.serial == begun[0]:
            return sent[: at + 1]
    return []  # what it noted has been answered, and so has all before it


class BrokenTasks:
    """The ends of one node's worker processes, as its tasks see them."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._stillborn = 0
        self._last = 0.0

    def sort_out(
        self, running: dict[int, Execution], begun: tuple[int, ...] | None, sentence: str, short_of_memory: bool
    ) -> list[Execution]:
        """A worker is gone: answer the tasks that it had started, and return the others."""
        started = started_of(running, begun)
        ran: bool | None = None
        if begun is not None and not begun[0] and running:
            now = self.node.env.time()
            self._stillborn = self._stillborn + 1 if now - self._last < _ROW else 1
            self._last = now
            if self._stillborn >= _STILLBORN:
                # It will not be different with the next one, so somebody has to hear of it.
                started = started_of(running, None)
                ran = False
        for exe in started:
            del running[exe.serial]
            exe.worker = None
            if exe.cancelled:
                cancelled = TaskCancelledError(f"task {exe.name} was cancelled, and its worker ended with it")
                out = pack_error(self.node.codec, cancelled, where=self.node.name, infrastructure=True)
                self.node.execution.answer(exe, m.ERROR, out)
            elif exe is started[-1]:
                error = WorkerDiedError(f"task {exe.name}: {sentence}", ran=ran, out_of_memory=short_of_memory)
                self.node.execution.broke(exe, error)
            else:
                text = f"task {exe.name} had started, and perhaps ended, when its worker was lost: {sentence}"
                self.node.execution.broke(exe, WorkerDiedError(text, out_of_memory=short_of_memory))
        return list(running.values())
