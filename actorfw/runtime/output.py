"""What tasks and actors print, on its way to the node that submitted them: shown there with a prefix, or logged."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.runtime.channel import WorkerProcess
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.pool import Worker

__all__ = ["Output"]

logger = logging.getLogger("actorfw.worker")


class Output:
    """Shows or logs lines.

    Args:
        node: whose.
        show: print to this process's stdout and stderr; else log.
    """

    def __init__(self, node: Node, show: bool) -> None:
        self.node = node
        self.show = show
        self._started: set[tuple[str, str]] = set()

    def task(self, peer: Peer | None, label: str, pid: int | None, stream: str, text: str) -> None:
        """Lines of a task that runs here, for its submitter."""
        label = f"{label} pid={pid} node={self.node.name}"
        if peer is not None:
            peer.send((m.OUTPUT, label, stream, text))
        else:
            self._emit(label, stream, text)

    def of_call(self, submitter: bytes, label: str, stream: str, text: str) -> None:
        """Lines of a call that runs in this very process, for its submitter."""
        self.task(self.node.peers.by_life.get(submitter), label, os.getpid(), stream, text)

    def raw(self, worker: Worker | None, process: WorkerProcess | None, text: str) -> None:
        """Lines that went past Python's sys.stdout: of C code, of children, of the interpreter when it dies."""
        peer = None
        label = "worker"
        if worker is not None and worker.running:
            running = next(iter(worker.running.values()))
            peer, label = running.peer, running.name
        self.task(peer, label, process.pid if process is not None else None, "stderr", text)

    def on_output(self, peer: Peer, msg: list[Any]) -> None:
        """Lines of a task of this node's that runs elsewhere."""
        _, label, stream, text = msg
        self._emit(str(label), str(stream), str(text))

    def _emit(self, label: str, stream: str, text: str) -> None:
        lines = text.split("\n")
        if lines and not lines[-1]:
            lines.pop()
        if not self.show:
            for line in lines:
                logger.info("(%s) %s", label, line)
            return
        target = sys.stderr if stream == "stderr" else sys.stdout
        try:
            target.write("".join(f"({label}) {line}\n" for line in lines))
            target.flush()
        except (OSError, ValueError):
            pass  # nobody reads this process's output any more
