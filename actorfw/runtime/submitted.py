"""`Task`: what a node knows of one task that was submitted on it, over all of its attempts. The rules are `tasks`'."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from actorfw.runtime.execution import Execution
from actorfw.runtime.streams import WINDOW, Stream

if TYPE_CHECKING:
    from actorfw.runtime.definitions import Recipe
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.refs import ObjectRef

__all__ = ["Queue", "Task"]

Queue = OrderedDict[int, "Task"]


class Task(Execution):
    """One submitted task; while it runs on this node it is its own `Execution`."""

    __slots__ = (
        "bounces",
        "consumed",
        "counted",
        "deadline_timer",
        "ending",
        "excluded",
        "key",
        "options",
        "place",
        "queue",
        "received",
        "refs",
        "retries_left",
        "schedule_timer",
        "settled",
        "stream",
        "told_infeasible",
    )

    refs: tuple[ObjectRef[Any], ...]
    stream: weakref.ref[Stream[Any]] | None
    place: Peer | None
    queue: Queue | None
    options: Any

    def __init__(self, no: int, hashed: bytes, recipe: Recipe, args: Any, deps: Any, options: Any) -> None:
        super().__init__(None, no, hashed, recipe, args, deps)
        self.options = options
        self.refs = ()
        self.stream = None
        self.place = None
        self.settled = False
        self.retries_left = 0
        self.excluded: set[bytes] | None = None
        self.deadline_timer: Any = None
        self.schedule_timer: Any = None
        self.queue = None
        self.counted = 0  # bytes that it has in the outbox
        self.bounces = 0
        # Of a stream: items that the consumer has returned credit for, items that came of this attempt, and an end
        # that is ahead of some.
        self.consumed = 0
        self.received = 0
        self.ending: tuple[int, Any, int] | None = None
        self.told_infeasible = False
        self.key: tuple[Any, ...] = ()

    def items_ahead(self) -> int:
        """How many items an attempt that starts now may send.

        It begins again at the first, and the consumer drops what it had.
        """
        return WINDOW + self.consumed if self.stream is not None else 0

    def reset(self) -> None:
        """No attempt of it runs or is on its way any more."""
        self.place = None
        self.worker = None
        self.runner = None
        self.dep_refs = None
        self.serial = 0
        self.started = False
        self.dispatched = False
        self.received = 0
        self.ending = None
