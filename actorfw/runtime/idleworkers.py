"""`IdleWorkers`: the worker processes of a node that have nothing to do, by the environment that they have.

A worker with an environment runs nothing else, so those that nobody asks for again stand in the way when there are as
many workers as there may be: then the one that has been idle for longest ends, whatever its environment. The rules of
who runs what are `runtime.pool`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actorfw.runtime.pool import Worker
    from actorfw.values.environment import Environment

__all__ = ["IdleWorkers"]


class IdleWorkers:
    """Each list is in the order in which its workers became idle.

    Attributes:
        plain: those without an environment of their own.
        others: how many there are beside these.
    """

    __slots__ = ("_by_key", "others", "plain")

    def __init__(self) -> None:
        self.plain: list[Worker] = []
        self._by_key: dict[bytes, list[Worker]] = {}
        self.others = 0

    def put(self, worker: Worker) -> None:
        """One that has an environment has nothing to do."""
        assert worker.environment is not None
        self._by_key.setdefault(worker.environment.key, []).append(worker)
        self.others += 1

    def take(self, environment: Environment) -> Worker | None:
        """The one of this environment that became idle last."""
        found = self._by_key.get(environment.key)
        return self._take(found, -1) if found else None

    def oldest(self) -> Worker | None:
        """The one that has been idle for longest; it stays in its list."""
        firsts = [those[0] for those in (self.plain, *self._by_key.values()) if those]
        return min(firsts, key=lambda worker: worker.idle_since, default=None)

    def remove(self, worker: Worker) -> None:
        """It is not idle any more, or has ended."""
        those = self.plain if worker.environment is None else self._by_key.get(worker.environment.key, [])
        if worker in those:
            self._take(those, those.index(worker))

    def _take(self, those: list[Worker], at: int) -> Worker:
        worker = those.pop(at)
        if worker.environment is not None:
            self.others -= 1
            if not those:
                del self._by_key[worker.environment.key]
        return worker
