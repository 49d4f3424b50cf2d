"""How much may wait on a node before it can be sent: the back-pressure on those who submit tasks.

On a loop, what has no room is refused at once, since waiting would stop the loop. A thread waits until there is
room, and so does a worker, through a request that is answered then.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from actorfw.core.limits import Limit
from actorfw.runtime.refs import Reply
from actorfw.values.errors import NodeClosedError, OverloadedError

__all__ = ["OVERHEAD", "Outbox"]

OVERHEAD: Final = 64
"""Bytes that a waiting task counts beside its arguments."""

_LOOK_AGAIN: Final = 0.05  # seconds; links that get room do not say so


class Outbox:
    """The bytes of tasks that wait on one node.

    Args:
        limit: of bytes, `Config.max_outbox`.
        linked: bytes that wait for links; any thread.

    Attributes:
        limit: its figures.
    """

    def __init__(self, name: str, limit: int, linked: Callable[[], int]) -> None:
        self._name = name
        self._limit = limit
        self.limit = Limit(limit, reading=lambda: self._bytes + linked())
        self._linked = linked
        self._bytes = 0
        self._tasks = 0
        self._coming = 0  # admitted for threads, and not yet seen by the loop
        self._changed = threading.Condition()
        self._threads = 0
        self._replies: deque[Reply[None]] = deque()
        self._closed = False

    @property
    def waiting_bytes(self) -> int:
        """What waits here, links aside."""
        return self._bytes

    def _full(self, size: int) -> bool:
        waiting = self._bytes + self._coming
        if waiting + size > self._limit:
            return waiting > 0  # a single task may be larger than the whole outbox
        linked = self._linked()
        return linked > 0 and linked + waiting + size > self._limit

    # -- on the loop ---------------------------------------------------------------------------------------------------

    def check(self, size: int) -> None:
        """Refuse a task that there is no room for.

        Raises:
            OverloadedError: what waits fills the outbox.
        """
        if self._full(size):
            self.limit.refused += 1
            raise OverloadedError(
                f"a task was not queued: {self._tasks} tasks with {self._bytes >> 20} MiB wait on node {self._name}, "
                f"and {self._linked() >> 20} MiB for its links; max_outbox is {self._limit >> 20} MiB. "
                "Await some results before you submit more"
            )

    def add(self, size: int) -> None:
        """A task waits."""
        self._bytes += size
        self._tasks += 1

    def remove(self, size: int) -> None:
        """It does not any more."""
        self._bytes -= size
        self._tasks -= 1
        if self._threads or self._replies:
            self._room()

    def arrived(self, size: int) -> None:
        """A task that a thread was let in with has come."""
        with self._changed:
            self._coming -= size

    def _room(self) -> None:
        with self._changed:
            self._changed.notify_all()
        while self._replies and not self._full(0):
            self._replies.popleft()._settle(None)

    def ask(self, reply: Reply[None]) -> Reply[None]:
        """Settle a reply when there is room."""
        if self._full(0):
            self._replies.append(reply)
        else:
            reply._settle(None)
        return reply

    def close(self) -> None:
        """Nobody needs to wait any more."""
        self._closed = True
        with self._changed:
            self._changed.notify_all()
        while self._replies:
            self._replies.popleft()._settle(None)

    # -- in other threads ----------------------------------------------------------------------------------------------

    def enter(self, size: int) -> None:
        """Wait until there is room, and take it.

        Raises:
            NodeClosedError: the node was closed meanwhile.
        """
        with self._changed:
            self._threads += 1
            try:
                while self._full(size) and not self._closed:
                    self._changed.wait(_LOOK_AGAIN)
            finally:
                self._threads -= 1
            if self._closed:
                raise NodeClosedError(f"node {self._name} was closed while a task waited for room on it")
            self._coming += size
