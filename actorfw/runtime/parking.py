"""`Parking`: the tasks of loop actors that have nothing to do, kept for a moment.

Making a task for each call of an actor that is called now and then costs more than most methods do. So a task that has
emptied its mailbox waits for more, and ends when nothing came between two looks. Few may wait: a hundred thousand idle
actors are to cost a hundred thousand objects, not as many tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from actorfw.io.env import Env
    from actorfw.runtime.loopcells import LoopCell

__all__ = ["Parking"]

PLACES: Final = 256
LOOK_SECONDS: Final = 1.0


class Parking:
    """Which actors of one node have a task that waits."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._cells: dict[LoopCell, None] = {}
        self._timer: Any = None
        self._closed = False

    def take(self, cell: LoopCell) -> bool:
        """Whether the task of an actor may wait for more."""
        if cell not in self._cells:
            if len(self._cells) >= PLACES or self._closed:
                return False
            self._cells[cell] = None
            if self._timer is None:
                self._timer = self._env.call_later(LOOK_SECONDS, self._look)
        cell.used = True
        return True

    def leave(self, cell: LoopCell) -> None:
        """It does not wait any more, and will not."""
        self._cells.pop(cell, None)

    def _look(self) -> None:
        self._timer = None
        for cell in list(self._cells):
            if cell.used:
                cell.used = False
            else:
                del self._cells[cell]
                cell.release()
        if self._cells:
            self._timer = self._env.call_later(LOOK_SECONDS, self._look)

    def close(self) -> None:
        """The node closes: its actors end, and their tasks with them."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for cell in list(self._cells):
            cell.release()
        self._cells.clear()
