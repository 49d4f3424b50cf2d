"""`ActorCall` and `Route`: one call of an actor, and where this node's calls to an actor go.

Values that `calls` (the caller's side) and `cells` (the host's) work on; the rules are theirs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.windows import Window
from actorfw.runtime.objects import INLINE_LIMIT, is_large, refs_in
from actorfw.values.ids import as_bytes
from actorfw.values.rare import Rare
from actorfw.wire.payload import size_of

if TYPE_CHECKING:
    from actorfw.runtime.cells import Cell
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.refs import ObjectRef, Reply
    from actorfw.values.ids import RefId
    from actorfw.values.trace import Trace

__all__ = [
    "ACKNOWLEDGE",
    "CALL_BYTES",
    "IN_QUEUE",
    "IN_WINDOW",
    "ActorCall",
    "Lane",
    "Route",
    "count_of",
    "held_ids",
    "needs_object",
]

ACKNOWLEDGE: Final = -1  # in a tell's credit field: answer when it starts

CALL_BYTES: Final = 700
"""About what a call that waits at its caller takes beside its arguments: itself, its ref, its places in tables."""

# Where a call counts, at its caller.
IN_QUEUE: Final = 1  # into the node's outbox
IN_WINDOW: Final = 2  # into what was sent and has not started


class ActorCall:
    """One call of an actor's method: at its caller, and at its host if that is this node too. A tell is one without
    an answer."""

    __slots__ = (
        "args",
        "attempt",
        "caller",
        "cancelled",
        "counted",
        "covers",
        "credit",
        "deadline",
        "dep_refs",
        "deps",
        "ending",
        "group",
        "hold",
        "items",
        "lane",
        "method",
        "no",
        "num_returns",
        "parent",
        "peer",
        "ref",
        "retries",
        "route",
        "runner",
        "sent",
        "size",
        "started",
        "stream",
        "tell",
        "timer",
        "trace",
    )

    def __init__(self, no: int, method: str, args: Any, deps: Any) -> None:
        self.no = no
        self.method = method
        self.args = args
        self.deps = deps
        self.peer: Peer | None = None  # who called; None: this node
        self.caller = 0  # which process of the caller's node: 0 is the node itself, else a worker's index
        self.credit: Any = 0
        self.num_returns: Any = 1  # how many; of several, the numbers of their refs
        self.deadline: float | None = None
        self.trace: Trace | None = None
        self.tell = False
        self.cancelled = False
        self.started = False
        self.sent = False
        self.covers: tuple[int, int] = (0, 0)  # of a tell: the calls and bytes that its answer stands for
        self.size = 0  # bytes of the arguments; 0 for scalars, which take next to nothing
        self.counted = 0
        self.parent = 0
        self.dep_refs: list[ObjectRef[Any]] | None = None
        self.runner: Any = None
        self.timer: Any = None
        self.items = 0  # of a generator: how many were sent, or at the caller, have come
        self.ending: tuple[int, Any, int] | None = None  # its end, which has overtaken large items
        # At the caller: what is settled by the answer, and what keeps the actor alive until then.
        self.ref: Any = None  # a ref, or several; of a tell that waits, the `Reply` that says when it has gone
        self.stream: Any = None
        self.route: Route | None = None
        self.hold: Any = None
        self.group = ""  # its concurrency group, at its caller
        self.lane: Lane | None = None
        self.retries = 0  # further incarnations that it may be sent to if one is lost with it
        self.attempt = 1  # how often it has been sent to one, with this time


class Lane(Window):
    """What one node sent to one of an actor's concurrency groups, and what waits because that group is full."""

    __slots__ = ("dropped", "group", "queue", "route")

    def __init__(self, route: Route, group: str) -> None:
        super().__init__()
        self.route = route
        self.group = group
        self.queue: deque[ActorCall] | None = None
        self.dropped = 0


_NO_LANES: Final[dict[str, Lane]] = {}  # one for all: a hundred thousand routes have none


class Route(Window):
    """Where this node's calls to one actor go, and how many of them are on their way."""

    __slots__ = (
        "_rare",
        "address",
        "asking",
        "cell",
        "dropped",
        "ended",
        "id",
        "incarnation",
        "lane_of",
        "mixed",
        "peer",
        "queue",
        "target",
        "tells",
        "unconfirmed",
        "window_of",
    )

    lasting: Rare[bool] = Rare(False)
    """If the incarnation that it leads to is lost, another follows."""
    lost: Rare[int] = Rare(0)
    """The last incarnation that is known to be over."""
    leaving: Rare[bool] = Rare(False)
    """What was sent to that one is still coming back."""
    returned: Rare[deque[ActorCall] | None] = Rare(None)
    """What has come back: for the next one, in front of the queue."""
    lanes: Rare[tuple[Lane, ...]] = Rare(())
    """The window of the route is that of calls without a group. The others have their own, at another node."""
    knocking: Rare[bool] = Rare(False)
    """It stands at the door of an actor here."""
    turns: Rare[int] = Rare(0)
    """Calls that it sent in from there."""
    then: Rare[list[Callable[[], None]] | None] = Rare(None)
    """To be done when what queues has been sent."""
    waiting: Rare[deque[Reply[None]] | None] = Rare(None)
    """Those who wait for room to tell it more, while calls are in the queue."""

    def __init__(self, id: RefId) -> None:
        super().__init__()
        self._rare: dict[str, Any] | None = None
        self.id = id
        self.target = id  # another id where `get_if_exists` found an older actor
        self.cell: Cell | None = None
        self.peer: Peer | None = None
        self.address = ""  # of the guardian, as far as is known
        self.incarnation = 1  # where `cell` or `peer` leads
        self.queue: deque[ActorCall] | None = None
        self.dropped = 0  # calls in the queue that were cancelled
        self.lane_of = _NO_LANES  # by method
        self.mixed = False  # calls of all groups wait in the queue, since they wait for a way
        self.window_of: Peer | None = None  # whom the counts of the window are about
        # What was sent behind a creation of which it is not known yet whether its host had room.
        self.unconfirmed: list[ActorCall] | None = None
        self.asking = False
        self.ended: Any = None  # the wire error that every further call gets
        self.tells = 0  # sent to another node

    def lane(self, group: str, method: str) -> Lane:
        """The lane of a method's calls."""
        lane = self.lane_of.get(method)
        if lane is None:
            lane = next((lane for lane in self.lanes if lane.group == group), None)
            if lane is None:
                lane = Lane(self, group)
                self.lanes += (lane,)
            if not self.lane_of:
                self.lane_of = {}
            self.lane_of[method] = lane
        return lane

    def waits(self) -> bool:
        """Whether calls wait at their caller."""
        return bool(self.queue or self.returned or any(lane.queue for lane in self.lanes))

    def gather(self) -> None:
        """There is no way any more, or another: what waited for room in its lane waits for that."""
        for lane in self.lanes:
            if lane.queue:
                if self.queue is None:
                    self.queue = deque()
                self.queue.extend(lane.queue)
                self.dropped += lane.dropped
                self.mixed = True
            lane.queue = None
            lane.dropped = 0


def held_ids(args: Any, deps: Any) -> list[RefId] | None:
    """The ids that a call or task holds while it is out: the same list at both ends."""
    if type(args) is int:
        return [(as_bytes(dep[0]), dep[1]) for dep in deps]
    return refs_in(args)


def needs_object(args: Any) -> bool:
    """Whether arguments travel as an object of their own."""
    return is_large(args) and size_of(args) > INLINE_LIMIT


def count_of(numbers: int | list[int]) -> int:
    """How many parts a result has, told as a number or by the numbers of their refs."""
    return len(numbers) if isinstance(numbers, list) else numbers
