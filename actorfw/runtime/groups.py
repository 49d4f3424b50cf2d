"""`Groups`: which of an actor's waiting calls may start, where more than one may run. Room and order per concurrency
group."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

from actorfw.runtime.definitions import MethodInfo, Recipe

__all__ = ["BESIDE", "Groups", "runs_one_at_a_time"]

BESIDE: Final = (
    "(interleaved)"  # the group of methods that run beside all others; not a name that a user's group would have
)
_ENDLESS: Final = 1 << 30


def runs_one_at_a_time(recipe: Recipe, methods: Mapping[str, MethodInfo]) -> bool:
    """Whether a call of this actor always waits for the end of the one before it."""
    return recipe.max_concurrency == 1 and not recipe.groups and not any(info.interleave for info in methods.values())


class Groups:
    """The mailbox of an actor with concurrency. Items are calls, or whatever else waits for its turn among them.

    In each group items start in the order in which they came. `ahead`: how many more than may run are let through,
    where something behind this keeps to the limits itself.
    """

    __slots__ = ("_methods", "_queues", "_room")

    def __init__(self, recipe: Recipe, methods: Mapping[str, MethodInfo], *, ahead: int = 0) -> None:
        self._methods = methods
        limits = {"": recipe.max_concurrency, **recipe.groups}
        self._room = {group: limit + ahead for group, limit in limits.items()}
        self._room[BESIDE] = _ENDLESS
        self._queues: dict[str, deque[Any]] = {group: deque() for group in self._room}

    def __iter__(self) -> Any:
        return iter(self._queues)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def of(self, method: str) -> str:
        """The group that a method's calls run in."""
        info = self._methods.get(method)
        if info is None:
            return ""
        if info.interleave:
            return BESIDE
        return info.group if info.group in self._room else ""

    def add(self, group: str, item: Any) -> None:
        """Something waits for its turn."""
        self._queues[group].append(item)

    def put_back(self, calls: Iterable[Any]) -> None:
        """These were taken out, have not started, and are next again, in this order."""
        for call in reversed(tuple(calls)):
            self._queues[self.of(call.method)].appendleft(call)

    def head(self, group: str) -> Any:
        """What has waited longest, or None."""
        queue = self._queues[group]
        return queue[0] if queue else None

    def take(self, group: str) -> Any:
        """What may start now, and takes room from now on; None if nothing waits or there is no room."""
        queue = self._queues[group]
        if not queue or self._room[group] <= 0:
            return None
        self._room[group] -= 1
        return queue.popleft()

    def has_room(self, group: str) -> bool:
        """Whether one more may start now."""
        return self._room[group] > 0

    def leave(self, group: str) -> None:
        """One has ended, or pauses: there is room again."""
        self._room[group] += 1

    def take_out(self, kind: type) -> list[Any]:
        """Take out what waits and is of this kind, in order; the rest stays."""
        taken: list[Any] = []
        for group, queue in self._queues.items():
            taken += [item for item in queue if isinstance(item, kind)]
            self._queues[group] = deque(item for item in queue if not isinstance(item, kind))
        return taken

    def drain(self) -> list[Any]:
        """Take out everything that waits."""
        waiting = [item for queue in self._queues.values() for item in queue]
        for queue in self._queues.values():
            queue.clear()
        return waiting
