"""The tasks of other nodes that wait on this one for room: a bounded queue for each node, served in turns."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from actorfw.core.ledger import Where
    from actorfw.runtime.execution import Execution
    from actorfw.runtime.node import Node

__all__ = ["AT_LEAST", "ForeignQueue"]

AT_LEAST: Final = 64
"""Tasks that each node may have here: as many as a worker is given at once, however few there is room for."""


class ForeignQueue:
    """What waits here for others. Tasks for a bundle have a queue of their own, as they wait for that alone."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.queues: dict[tuple[bytes, Where | None], deque[Execution]] = {}

    @property
    def waiting(self) -> int:
        """How many tasks wait here."""
        return sum(not exe.cancelled for queue in self.queues.values() for exe in queue)

    def keep(self, exe: Execution) -> bool:
        """Keep a task until there is room; False when its submitter's share of the queue is full."""
        node = self.node
        queue = self._queue_of(exe)
        slots = max(1, exe.recipe.shape.slots(node.ledger.totals))
        if len(queue) >= max(2 * slots + 1, AT_LEAST) or not node.ledger.fits_totals(exe.recipe.shape):
            return False
        exe.since = exe.since or node.env.time()
        queue.append(exe)
        return True

    def put_back(self, exe: Execution) -> None:
        """It was to start, and did not: it waits again, before the others of its node."""
        self._queue_of(exe).appendleft(exe)

    def _queue_of(self, exe: Execution) -> deque[Execution]:
        assert exe.peer is not None
        return self.queues.setdefault((exe.peer.life, exe.recipe.shape.bundle), deque())

    def oldest(self) -> Execution | None:
        """Of those that are next in their queues, bundles aside, the one that has waited longest."""
        oldest: Execution | None = None
        for key, queue in self.queues.items():
            while queue and queue[0].cancelled:
                queue.popleft()
            if key[1] is None and queue and (oldest is None or queue[0].since < oldest.since):
                oldest = queue[0]
        return oldest

    def pump(self) -> None:
        """Start what there is room for, in turns between the nodes."""
        execution = self.node.execution
        waiting: list[deque[Execution]] = []
        for key, queue in list(self.queues.items()):
            if key[1] is not None and not self.node.ledger.bundle_totals(key[1]):
                del self.queues[key]  # the bundle is elsewhere now, or gone: its submitter knows, or will hear
                for exe in queue:
                    if not exe.cancelled:
                        execution.bounce(exe)
            elif queue:
                waiting.append(queue)
        while waiting:
            for queue in list(waiting):
                while queue and queue[0].cancelled:
                    queue.popleft()
                if not queue:
                    waiting.remove(queue)
                    continue
                try:
                    if not execution.try_start(queue[0]):
                        waiting.remove(queue)  # what others wait for may be of another shape
                        continue
                except Exception as error:  # whatever it is, its submitter must hear of it
                    execution.failed_to_start(queue[0], error)
                queue.popleft()

    def peer_ended(self, life: bytes) -> None:
        """What a node had here is void."""
        for key in [key for key in self.queues if key[0] == life]:
            del self.queues[key]
