"""Which of this node's tasks are at which peer, and how many of each shape: what windows and deaths are counted by."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actorfw.core.ledger import Shape
    from actorfw.runtime.submitted import Task

__all__ = ["SentOut"]

_NONE: dict[bytes, int] = {}


class SentOut:
    """The tasks of one node that others run.

    Attributes:
        by_life: by the peer that has them, and by their numbers.
    """

    def __init__(self) -> None:
        self.by_life: dict[bytes, dict[int, Task]] = {}
        self._alike: dict[Shape, dict[bytes, int]] = {}

    def add(self, life: bytes, task: Task) -> None:
        """A peer gets a task."""
        self.by_life.setdefault(life, {})[task.no] = task
        alike = self._alike.setdefault(task.recipe.shape, {})
        alike[life] = alike.get(life, 0) + 1

    def drop(self, life: bytes, no: int) -> None:
        """It has it no more, if it had it."""
        task = self.by_life.get(life, {}).pop(no, None)
        if task is not None:
            self._one_less(life, task.recipe.shape)

    def take(self, life: bytes) -> list[Task]:
        """All that it has: it does not any more, as far as this node is concerned."""
        tasks = list(self.by_life.pop(life, {}).values())
        for task in tasks:
            self._one_less(life, task.recipe.shape)
        return tasks

    def count(self, life: bytes) -> int:
        """How many it has."""
        return len(self.by_life.get(life, ()))

    def alike(self, shape: Shape) -> dict[bytes, int]:
        """How many of this shape each has; those that are not in it have none."""
        return self._alike.get(shape, _NONE)

    def _one_less(self, life: bytes, shape: Shape) -> None:
        alike = self._alike[shape]
        alike[life] -= 1
        if not alike[life]:
            del alike[life]
            if not alike:
                del self._alike[shape]
