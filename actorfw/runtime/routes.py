"""`ActorCall` and `Route`: one call of an actor, and where this node's calls to an actor go.

Values that `calls` (the caller's side) and `cells` (the host's) work on; the rules are theirs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.objects import INLINE_LIMIT, is_large, refs_in
from actorfw.wire.payload import size_of

if TYPE_CHECKING:
    from actorfw.runtime.cells import Cell
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.refs import ObjectRef, Reply
    from actorfw.values.ids import RefId

__all__ = ["ACKNOWLEDGE", "ActorCall", "Route", "held_ids", "needs_object"]

ACKNOWLEDGE: Final = -1  # in a tell's credit field: answer when it starts


class ActorCall:
    """One call of an actor's method: at its caller, and at its host if that is this node too. A tell is one without
    an answer."""

    __slots__ = (
        "args",
        "caller",
        "cancelled",
        "credit",
        "deadline",
        "dep_refs",
        "deps",
        "ending",
        "hold",
        "items",
        "method",
        "no",
        "num_returns",
        "parent",
        "peer",
        "ref",
        "route",
        "runner",
        "sent",
        "started",
        "stream",
        "tell",
        "timer",
    )

    def __init__(self, no: int, method: str, args: Any, deps: Any) -> None:
        self.no = no
        self.method = method
        self.args = args
        self.deps = deps
        self.peer: Peer | None = None  # who called; None: this node
        self.caller = 0  # which process of the caller's node: 0 is the node itself, else a worker's index
        self.credit: Any = 0
        self.num_returns = 1
        self.deadline: float | None = None
        self.tell = False
        self.cancelled = False
        self.started = False
        self.sent = False
        self.parent = 0
        self.dep_refs: list[ObjectRef[Any]] | None = None
        self.runner: Any = None
        self.timer: Any = None
        self.items = 0  # of a generator: how many were sent, or at the caller, have come
        self.ending: tuple[int, Any, int] | None = None  # its end, which has overtaken large items
        # At the caller: what is settled by the answer, and what keeps the actor alive until then.
        self.ref: ObjectRef[Any] | tuple[ObjectRef[Any], ...] | None = None
        self.stream: Any = None
        self.route: Route | None = None
        self.hold: Any = None


class Route:
    """Where this node's calls to one actor go."""

    __slots__ = (
        "acked",
        "asking",
        "cell",
        "ended",
        "id",
        "incarnation",
        "peer",
        "queue",
        "queued_bytes",
        "target",
        "tells",
        "then",
        "unconfirmed",
        "waiting",
    )

    def __init__(self, id: RefId) -> None:
        self.id = id
        self.target = id  # another id where `get_if_exists` found an older actor
        self.cell: Cell | None = None
        self.peer: Peer | None = None
        self.incarnation = 1
        self.queue: deque[ActorCall] | None = None
        self.queued_bytes = 0
        # What was sent behind a creation of which it is not known yet whether its host had room.
        self.unconfirmed: list[ActorCall] | None = None
        self.then: list[Callable[[], None]] | None = None  # to be done when what queues has been sent
        self.asking = False
        self.ended: Any = None  # the wire error that every further call gets
        self.tells = 0
        self.acked = 0
        self.waiting: deque[Reply[None]] | None = None


def held_ids(args: Any, deps: Any) -> list[RefId] | None:
    """The ids that a call or task holds while it is out: the same list at both ends."""
    if type(args) is int:
        return [(bytes(dep[0]), dep[1]) for dep in deps]
    return refs_in(args)


def needs_object(args: Any) -> bool:
    """Whether arguments travel as an object of their own."""
    return is_large(args) and size_of(args) > INLINE_LIMIT
