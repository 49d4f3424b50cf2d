"""`Blocking`: threads of a node's process that wait for values, and what others may use meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from actorfw.runtime.cells import CellContext
from actorfw.runtime.context import running_call

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.refs import Reply

__all__ = ["Blocking"]


class Blocking:
    """The waiting half of `Home`, for threads beside the node's loop."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def block(self, waiting: list[Reply[Any]], timeout: float | None) -> bool:
        """See `Home.block`."""
        node = self.node
        done = threading.Event()
        left = len(waiting)
        lock = threading.Lock()

        def one(_: Any) -> None:
            nonlocal left
            with lock:
                left -= 1
                if left == 0:
                    done.set()

        def add() -> None:
            for reply in waiting:
                reply.add_done_callback(one)

        def forget() -> None:
            for reply in waiting:
                reply.remove_done_callback(one)

        node.post(add)
        context = running_call.get()
        call = context.running if timeout is None and isinstance(context, CellContext) else None
        if call is not None and isinstance(context, CellContext):
            node.post(node.deadlocks.blocks, context.cell, call, waiting)
        try:
            with self.lending():
                in_time = done.wait(timeout)
            if not in_time:
                node.post(forget)
            return in_time
        finally:
            if call is not None:
                node.post(node.deadlocks.unblocks, call)

    @contextmanager
    def lending(self) -> Generator[None]:
        """A thread of this process waits in here: if it runs a task, others may use that one's CPU."""
        node = self.node
        context = running_call.get()
        if context is None or not context.number:
            yield
            return
        lent: list[bool] = []

        def lend(number: int) -> None:
            lent.append(node.execution.blocks(number))

        def take_back(number: int) -> None:
            if lent[0]:
                node.execution.unblocks(number)

        node.post(lend, context.number)
        try:
            yield
        finally:
            node.post(take_back, context.number)
