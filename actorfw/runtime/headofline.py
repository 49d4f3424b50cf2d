"""Keeps room on this node for what has waited longest, its own task or another node's, so that small tasks that always
fit don't starve a large one. What is set aside and when is `core.ledger`'s affair."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from actorfw.core.ledger import PATIENCE
from actorfw.values.scheduling import Labels, NodeAffinity

if TYPE_CHECKING:
    from actorfw.runtime.execution import Execution
    from actorfw.runtime.node import Node
    from actorfw.runtime.submitted import Task

__all__ = ["HeadOfLine"]

logger = logging.getLogger("actorfw.tasks")


class HeadOfLine:
    """Whose turn is next on one node."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def could_run_here(self, task: Task) -> bool:
        """Whether a task of this node that waits would be helped by room on it. What waits for a bundle has the
        bundle's room to itself."""
        node = self.node
        shape = task.recipe.shape
        if shape.bundle is not None or not node.ledger.fits_totals(shape):
            return False
        scheduling = task.key[2]
        if isinstance(scheduling, NodeAffinity):
            return scheduling.soft or scheduling.node_id == node.id
        return not isinstance(scheduling, Labels) or scheduling.matches(node.labels)

    def others_are_due(self) -> bool:
        """Whether a task of another node has waited for so long that it comes before this node's own."""
        oldest = self.node.pool.foreign.oldest()
        return oldest is not None and self.node.env.time() - oldest.since >= PATIENCE

    def keep_room(self, own: Task | None) -> None:
        """Told after each attempt to place what waits: `own` is the oldest of this node's that could run here."""
        ledger = self.node.ledger
        oldest: Execution | None = self.node.pool.foreign.oldest()
        if oldest is None or (own is not None and own.since <= oldest.since):
            oldest = own
        if oldest is None:
            ledger.unreserve()
            return
        before = ledger.kept_for
        if ledger.reserve(oldest.recipe.shape, self.node.env.time()) and before is None:
            logger.info("room is kept for task %s, which has waited longest: %s", oldest.name, oldest.recipe.shape)
