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
        "out_of_memory",
        "place",
        "queue",
        "received",
        "refs",
        "rerun",
        "retries_left",
        "returns",
        "schedule_timer",
        "settled",
        "stream",
        "told_infeasible",
        "wanted",
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
        self.out_of_memory = 0  # attempts that were stopped for want of memory
        # Of a stream: items that the consumer has returned credit for, items that came of this attempt, and an end
        # that is ahead of some.
        self.consumed = 0
        self.received = 0
        self.ending: tuple[int, Any, int] | None = None
        self.told_infeasible = False
        self.key: tuple[Any, ...] = ()
        self.rerun = False  # it has ended, and runs again for what was lost
        self.wanted: Any = 0  # of a generator, what it sends then
        self.returns: tuple[int, ...] = ()  # the numbers of all its results, once it has ended

    def numbers(self) -> Any:
        """The numbers of its results if there are several, else how many there are."""
        if len(self.returns) > 1:
            return self.returns
        return [ref._number for ref in self.refs] if len(self.refs) > 1 else self.num_returns

    def items_ahead(self) -> Any:
        """What an attempt that starts now may send (`core.credit`).

        It begins again at the first item, and what the consumer had is not sent.
        """
        if self.stream is None:
            return 0
        if self.rerun:
            return self.wanted
        if self.first_item or self.consumed:
            return [WINDOW, self.first_item, self.consumed, None]
        return WINDOW

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
