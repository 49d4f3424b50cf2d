"""A node inside a web server's process: it begins with the server, and leaves when the last request is answered.

What the doors (`actorfw.aiohttp`, `actorfw.asgi`) share: the node's life, whether it is ready, and the deadline and
trace of a request. How a server tells of its own start and end, and of its requests, is theirs.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from actorfw.api.life import Node, NodeContext, init
from actorfw.api.nodeoptions import DEFAULTS, NodeOptionsDict, check_options
from actorfw.runtime.context import CallContext, running_call
from actorfw.runtime.loopwatch import LoopWatch
from actorfw.values.errors import (
    ActorFwError,
    ActorUnavailableError,
    DeadlineExceededError,
    GetTimeoutError,
    MailboxFullError,
    NodeClosedError,
    NoQuorumError,
    NotInitializedError,
    OverloadedError,
    PeerUnreachableError,
    UsageError,
)
from actorfw.values.trace import Trace

if TYPE_CHECKING:
    from actorfw.runtime.node import Node as RuntimeNode

__all__ = [
    "BLOCKED_AFTER",
    "DRAIN_TIMEOUT",
    "TIMEOUT_HEADER",
    "Refusal",
    "ServerOptions",
    "Serving",
    "check_path",
    "check_request",
    "check_seconds",
    "lag",
    "on_behalf",
    "refusal",
    "shorter",
    "timeout_of",
]

DRAIN_TIMEOUT: Final = 10.0
BLOCKED_AFTER: Final = 1.0
TIMEOUT_HEADER: Final = "X-Request-Timeout"

_LEAST_DRAIN: Final = 1.0  # seconds; what handing over takes, however long requests took
_MOST_LAG: Final = 5.0  # seconds for one turn of the loop, from which on it is as good as dead
_RETRY_AFTER: Final = "1"  # seconds; queues are emptied in less, and restarts and elections take about that


class ServerOptions(NodeOptionsDict, total=False):
    """The options of `init` for a node inside a server."""

    seeds: str | Sequence[str] | None


class Serving:
    """One start of a server, with its node.

    Args:
        what: the function whose options these are, for errors.
        options: for `init`; `hosts` is "own" if not given.
        drain_timeout: seconds at most for leaving, once requests are done.
        blocked_after: seconds after which a loop that stands still is logged; None: never.

    Raises:
        UsageError: an option is not known or a number is wrong. `init`'s own values are checked at the start.
    """

    def __init__(self, what: str, options: ServerOptions, *, drain_timeout: float, blocked_after: float | None) -> None:
        check_options(what, options, frozenset({*DEFAULTS, "seeds"}))
        check_seconds("drain_timeout", drain_timeout, least=0.0)
        if blocked_after is not None:
            check_seconds("blocked_after", blocked_after)
        self._options = cast("dict[str, Any]", dict(options))
        self._drain_timeout = drain_timeout
        self._blocked_after = blocked_after
        self._context: NodeContext | None = None
        self._node: Node | None = None
        self._watch: LoopWatch | None = None
        self._ends_at: float | None = None
        self._ending = False

    @property
    def node(self) -> Node:
        """The node, once it was started."""
        if self._node is None:
            raise NotInitializedError("the server was not started, and so was its node")
        return self._node

    async def start(self) -> Node:
        """Make the running loop a peer; returns when it is a member."""
        options = dict(self._options)
        if options.get("hosts") is None:
            options["hosts"] = os.environ.get("ACTORFW_HOSTS") or "own"
        self._context = init(**options)
        self._node = await self._context
        if self._blocked_after is not None:
            self._watch = LoopWatch(self._blocked_after, f"node {self._node.name}")
            self._watch.start()
        return self._node

    @property
    def ready(self) -> bool:
        """Whether it is a member, stays one, and the server has not begun to end."""
        return not self._ending and self.up

    @property
    def up(self) -> bool:
        """Whether it is a member that nobody has asked to leave."""
        return self._node is not None and self._node.ready

    def ending(self, seconds: float | None = None) -> None:
        """The server takes no new connections. What it has accepted may still call whatever it likes.

        `seconds`: after which the server itself is to be gone, if that is known.
        """
        self._ending = True
        if seconds is not None:
            self._ends_at = time.monotonic() + seconds
        node = self._node
        if node is not None and node._node is not None and node._node.open and node._node.hosts == "all":
            node._node.leaving.announce()

    async def stop(self) -> None:
        """All requests are answered: leave."""
        self._ending = True
        timeout = self._drain_timeout
        if self._ends_at is not None:
            timeout = min(timeout, max(_LEAST_DRAIN, self._ends_at - time.monotonic()))
        try:
            if self._node is not None and self._node._node is not None and self._node._node.open:
                await self._node.drain(timeout)
        finally:
            if self._context is not None:
                await self._context._stop()
            if self._watch is not None:
                self._watch.stop()


async def lag() -> tuple[float, bool]:
    """How many seconds one turn of the loop takes now, and whether that is a loop that lives."""
    began = time.monotonic()
    await asyncio.sleep(0)
    took = time.monotonic() - began
    return took, took < _MOST_LAG


# -- requests ----------------------------------------------------------------------------------------------------------


@contextmanager
def on_behalf(node: RuntimeNode, timeout: float | None, trace: Trace | None) -> Generator[None]:
    """What is called in here has this deadline at most and belongs to this trace. So do tasks that are made in here."""
    deadline = None if timeout is None else node.env.time() + timeout
    before = running_call.get()
    running_call.set(CallContext(node_id=node.id, deadline=deadline, trace=trace))
    try:
        yield
    finally:
        running_call.set(before)


_TIMEOUT: Final = re.compile(r"([0-9]{1,8}(?:\.[0-9]{1,9})?)(H|M|S|m|u|n)?", re.ASCII)
_UNITS: Final = {None: 1.0, "H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def timeout_of(header: str) -> float | None:
    """Seconds, from "2.5" or, as gRPC writes them, "2500m"; None if it is neither."""
    found = _TIMEOUT.fullmatch(header.strip(" \t"))
    return None if found is None else float(found[1]) * _UNITS[found[2]]


def shorter(one: float | None, other: float | None) -> float | None:
    """The shorter of two spans, where None is without end."""
    return one if other is None or (one is not None and one < other) else other


class Refusal:
    """How a server answers a request that failed for want of something which is nobody's mistake.

    Attributes:
        status: 503 or 504.
        text: of the body; the same for every request with this status.
        headers: to be sent with it.
    """

    __slots__ = ("headers", "status", "text")

    def __init__(self, status: int, text: str, headers: dict[str, str]) -> None:
        self.status = status
        self.text = text
        self.headers = headers


_BUSY: Final = Refusal(503, "503: Service Unavailable", {"Retry-After": _RETRY_AFTER})
_LATE: Final = Refusal(504, "504: Gateway Timeout", {})
_KINDS: Final[tuple[tuple[type[ActorFwError], Refusal], ...]] = (
    (DeadlineExceededError, _LATE),
    (GetTimeoutError, _LATE),
    (OverloadedError, _BUSY),
    (MailboxFullError, _BUSY),
    (ActorUnavailableError, _BUSY),
    (PeerUnreachableError, _BUSY),
    (NoQuorumError, _BUSY),
    (NodeClosedError, _BUSY),
)


def refusal(error: BaseException, serving_up: bool) -> Refusal | None:
    """What to answer instead of a 500, or None if the error is somebody's mistake and has to be seen.

    Args:
        error: what the handler raised. Of a group, all of it must be refusals; the first one counts.
        serving_up: whether the node is up: where it is not, that none was found is the node's end, not a mistake.
    """
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        parts = [refusal(part, serving_up) for part in group.exceptions]
        return parts[0] if parts and None not in parts else None
    if not serving_up and isinstance(error, NotInitializedError):
        return _BUSY
    return next((answer for kind, answer in _KINDS if isinstance(error, kind)), None)


def check_path(option: str, path: object) -> None:
    """Refuse what is neither None nor a path.

    Raises:
        UsageError: it names the option.
    """
    if path is not None and not (isinstance(path, str) and path.startswith("/") and "{" not in path):
        raise UsageError(f'{option} is {path!r}; it must be a path such as "/{option}", or None for none')


def check_request(request_timeout: float | None, timeout_header: str | None) -> None:
    """Refuse wrong options of the middleware.

    Raises:
        UsageError: it names the option.
    """
    if request_timeout is not None:
        check_seconds("request_timeout", request_timeout)
    header = cast("object", timeout_header)
    if header is not None and not (isinstance(header, str) and header):
        raise UsageError(f"timeout_header is {timeout_header!r}; it must be the name of a header, or None for none")


def check_seconds(name: str, value: object, *, least: float | None = None) -> None:
    """Refuse what is no number of seconds: above 0, or from `least` on.

    Raises:
        UsageError: it names the option.
    """
    right = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not right or not (cast("float", value) > 0 if least is None else cast("float", value) >= least):
        bound = "above 0" if least is None else f"{least:g} or more"
        raise UsageError(f"{name} is {value!r}; it must be a number of seconds, {bound}")
