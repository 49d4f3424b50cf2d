"""What is known about the call that is running: the source of `actorfw.context()` and of inherited deadlines."""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from actorfw.values.errors import DeadlineExceededError
from actorfw.values.ids import RefId, text_id
from actorfw.values.trace import Trace

if TYPE_CHECKING:
    from actorfw.runtime.handles import ActorHandle
    from actorfw.values.environment import Environment

__all__ = ["CallContext", "limits", "milliseconds", "overdue", "running_call", "with_trace"]

# A loop that counts in milliseconds, as uvloop does, calls a timer up to one of them before it is due.
_EARLY: Final = 0.002


def milliseconds(left: float) -> int:
    """What is left of a deadline, as it travels: rounded up, so that a call made on behalf of another never ends first.

    Else the caller would see the inner deadline as an error of the outer call's code, instead of its own deadline.
    """
    return max(1, math.ceil(left * 1000))


def overdue(name: str, error: BaseException, deadline: float | None, now: float) -> DeadlineExceededError | None:
    """What to answer instead, if a call ended because its own deadline has passed, which its own calls inherited.

    Both ends race for it, and are to say the same.
    """
    if not isinstance(error, DeadlineExceededError) or deadline is None or deadline - now > _EARLY:
        return None
    return DeadlineExceededError(f"{name} did not end within its timeout", ran=None)


def with_trace(left: int | None, trace: Trace | None) -> Any:
    """What is left of a call's deadline, and its trace if it has one, as they travel."""
    return left if trace is None else [left, *trace]


def limits(left: Any, now: float) -> tuple[float | None, Trace | None]:
    """The deadline of a call, and its trace, from the field in which they travel (`wire.messages`)."""
    trace: Trace | None = None
    if type(left) is list:
        left, parent, state = left
        trace = (parent, state)
    return None if left is None else now + left / 1000, trace


class CallContext:
    """One running task or method call, or a request to a web server on whose behalf calls are made.

    Attributes:
        node_id: id of the node that runs it, 16 hexadecimal digits.
        task_id: id of the call (the same as its ref's `id`), or "" outside any.
        actor_id: id of the actor whose method runs, or "".
        attempt: 1 for the first run of a task or call, 2 for its first retry, and so on; 0 outside any.
        deadline: point on this process's monotonic clock when the call expires, or None.
        gpus: indices of the devices that were given to it.
        handle: the running actor's own handle, or None; annotate what you keep it in with the class.
        key: key of a virtual actor, or "".
        fencing_token: the actor's incarnation; 0 outside any.
        number: number of the call in the submitter's life; what its own submissions name as their parent.
        name: of the task or the actor's class, as in errors and output; "" of a request.
        trace: the W3C trace context that goes along with what it calls, or None.
        environment: what it submits has the same, unless it asks for another.
    """

    __slots__ = (
        "actor_id",
        "attempt",
        "call",
        "deadline",
        "environment",
        "fencing_token",
        "gpus",
        "handle",
        "key",
        "name",
        "node_id",
        "number",
        "trace",
    )

    def __init__(
        self,
        *,
        node_id: str = "",
        call: RefId | None = None,
        actor_id: str = "",
        attempt: int = 0,
        deadline: float | None = None,
        gpus: tuple[int, ...] = (),
        handle: ActorHandle | None = None,
        key: str = "",
        fencing_token: int = 0,
        number: int = 0,
        name: str = "",
        trace: Trace | None = None,
        environment: Environment | None = None,
    ) -> None:
        self.node_id: str = node_id
        self.call: RefId | None = call
        self.actor_id: str = actor_id
        self.attempt: int = attempt
        self.deadline: float | None = deadline
        self.gpus: tuple[int, ...] = gpus
        self.handle: Any = handle  # to a checker a handle is its class, which only who asks can know
        self.key: str = key
        self.fencing_token: int = fencing_token
        self.number: int = number
        self.name: str = name
        self.trace: Trace | None = trace
        self.environment: Environment | None = environment

    @property
    def guardian(self) -> bytes:
        """The life that made the running actor, or b"" outside any."""
        return b""

    @property
    def task_id(self) -> str:
        """Made on demand: most calls are never asked for it."""
        return text_id(self.call) if self.call is not None else ""

    @property
    def traceparent(self) -> str:
        """The W3C `traceparent` of the request on whose behalf this runs, or ""."""
        return self.trace[0] if self.trace is not None else ""

    @property
    def tracestate(self) -> str:
        """Its `tracestate`, or ""."""
        return self.trace[1] if self.trace is not None else ""

    def __repr__(self) -> str:
        parts = (f"{name}={getattr(self, name)!r}" for name in sorted(self.__slots__) if getattr(self, name))
        return f"<context {' '.join(parts)}>"


running_call: ContextVar[CallContext | None] = ContextVar("actorfw_running_call", default=None)
