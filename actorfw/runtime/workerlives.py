"""Worker processes when their node takes a new life: they are told, and what they say until they know is translated.

A worker numbers what it makes in the life of its node, and names by that life what it was given. The line to it keeps
the order: what comes before its answer was said under the old name, and what goes to it after the news bears the new.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from actorfw.core.renaming import Renaming
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable

    from actorfw.runtime.channel import WorkerProcess
    from actorfw.runtime.node import Node

__all__ = ["WorkerLives"]


class WorkerLives:
    """What the workers of one node know of its lives."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._lives: list[Renaming] = []  # from each life to the next
        self._zygote_knows = 0  # of how many of them what it forks knows by itself
        self._unaware: dict[int, list[Renaming]] = {}  # by worker
        self._handlers: list[Callable[..., None]] = []  # of workers' messages, while others stand in their places

    def zygote_born(self) -> None:
        """A zygote is being made; what it forks has the life that the node has now."""
        self._zygote_knows = len(self._lives)

    def born(self, process: WorkerProcess) -> None:
        """There is a new worker; a simulated one knows the present life."""
        if self.node.env.worker_factory is None:
            for renaming in self._lives[self._zygote_knows :]:
                self._tell(process, renaming)

    def flush(self) -> None:
        """Write what was said to workers so far, before the ids in it are renamed."""
        for worker in self.node.pool.workers.values():
            worker.process.flush()

    def reborn(self, renaming: Renaming) -> None:
        """The node has a new life."""
        self._lives.append(renaming)
        for worker in self.node.pool.workers.values():
            self._tell(worker.process, renaming)

    def _tell(self, process: WorkerProcess, renaming: Renaming) -> None:
        self._unaware.setdefault(process.index, []).append(renaming)
        process.send((m.REBORN, renaming.old, renaming.new))
        if not self._handlers:
            table = self.node.worker_handlers
            self._handlers = table[:]
            table[:] = [partial(self._translated, handler) for handler in table]

    def _translated(self, handler: Callable[..., None], process: WorkerProcess, msg: list[Any]) -> None:
        if msg[0] != m.REBORN:
            for renaming in self._unaware.get(process.index, ()):
                msg = renaming.within(msg)
        handler(process, msg)

    def on_reborn(self, process: WorkerProcess, msg: list[Any]) -> None:
        """A worker knows."""
        unaware = self._unaware.get(process.index)
        if unaware:
            del unaware[0]
            if not unaware:
                self.ended(process.index)

    def ended(self, index: int) -> None:
        """A worker knows all, or is gone."""
        if self._unaware.pop(index, None) is not None and not self._unaware:
            self.node.worker_handlers[:] = self._handlers
            self._handlers = []
