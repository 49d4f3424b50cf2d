"""`Home`: what a ref, a handle and every API call need from the place they are in, a node or a worker process.

The API (floor 4) is written against this interface only, so that `f.remote(x)`, `actorfw.get(ref)` and `handle.m()`
mean the same on a node's loop, in a script's thread beside it, and inside a worker process that has no loop at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from actorfw.runtime.context import CallContext
    from actorfw.runtime.definitions import ActorDefinitions, Definition, Interface, MethodInfo
    from actorfw.runtime.handles import ActorHandle
    from actorfw.runtime.refs import Grip, ObjectRef, Reply
    from actorfw.runtime.runtimeenv import Resolver
    from actorfw.runtime.streams import Stream
    from actorfw.values.ids import RefId
    from actorfw.wire.codec import Codec

__all__ = ["Home"]


class Home(Protocol):
    """A node (`runtime.node.Node`) or a worker process (`runtime.worker.child.Worker`)."""

    codec: Codec
    actor_classes: ActorDefinitions
    resolver: Resolver
    """What it makes of the environments that are asked for here."""
    life: bytes
    """The life of the node: owner of all that is submitted here, by its workers too."""
    open: bool
    """False before it is up and once it closes."""
    loop: asyncio.AbstractEventLoop | None
    """The loop that callbacks of refs run on when nobody else's is running; None in a worker."""

    has_threads: bool
    """Whether there is anything beside the loop: not in a simulation."""

    def descriptors(self) -> list[int]:
        """Of the sockets that a forked child must not hold."""
        ...

    # -- the future protocol -------------------------------------------------------------------------------------------
    def at_home(self) -> bool:
        """Whether this thread may touch callback lists directly (the node's loop thread; never in a worker)."""
        ...

    def post(self, fn: Callable[..., object], *args: Any) -> None:
        """Run `fn(*args)` where callback lists may be touched: soon on the node's loop; in a worker at once, locked."""
        ...

    def asked(self, ref: ObjectRef[Any]) -> None:
        """Somebody waits for a ref whose value is not here yet: fetch it. At home."""
        ...

    def unasked(self, ref: ObjectRef[Any]) -> None:
        """Nobody waits for a pending ref any more. At home."""
        ...

    def await_cancelled(self, ref: Reply[Any]) -> bool:
        """An await of a pending ref was cancelled. True if its call is, too: it is ours and not handed on. At home."""
        ...

    def grip(self, id: RefId) -> Grip:
        """The one `Grip` on an id in this process. Any thread."""
        ...

    def released(self, id: RefId) -> None:
        """The last holder of an id here let go. Any thread, from `__del__`: must only note it.

        Before it acts, it looks again whether a new `Grip` was made.
        """
        ...

    def pin(self, thing: ObjectRef[Any] | ActorHandle) -> None:
        """A ref or handle was pickled outside a message: keep what it stands for until this node ends."""
        ...

    def adopt_ref(self, owner: bytes, number: int, address: str) -> ObjectRef[Any]:
        """The one instance of a ref here, by its id."""
        ...

    def adopt_handle(self, guardian: bytes, number: int, address: str, interface: Interface) -> ActorHandle: ...

    # -- streams, at home ----------------------------------------------------------------------------------------------
    def stream_credit(self, number: int, items: int) -> None:
        """The consumer took that many items more: the producer may go on."""
        ...

    def stream_dropped(self, number: int) -> None:
        """The consumer went away (any thread, from `__del__`): close the generator."""
        ...

    def ref_of(self, out: Any) -> ObjectRef[Any]:
        """A new ref, ready, with this wire value."""
        ...

    # -- verbs ---------------------------------------------------------------------------------------------------------
    def submit(self, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Submit a task; copies its arguments before it returns.

        Returns:
            What the definition asks for: an `ObjectRef`, a tuple of them, or a `Stream`.
        """
        ...

    def create_actor(self, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ActorHandle: ...

    def call_actor(self, handle: ActorHandle, method: MethodInfo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method; returns what it asks for, as `submit` does."""
        ...

    def tell_actor(
        self, handle: ActorHandle, method: MethodInfo, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Reply[None]: ...

    def put(self, value: Any) -> ObjectRef[Any]: ...

    def ask(self, verb: str, *args: Any) -> Reply[Any]:
        """Start a control request (nodes, get_actor, stop, ...) and return its answer as a `Reply`."""
        ...

    def cancel(self, ref: ObjectRef[Any] | Stream[Any], *, force: bool, recursive: bool) -> None: ...

    def accepted(self, ref: ObjectRef[Any]) -> Reply[None]:
        """Done when the call that makes a ref is in its actor's mailbox, or has ended."""
        ...

    def watch(self, refs: Sequence[ObjectRef[Any]], fn: Callable[[ObjectRef[Any]], object]) -> None:
        """Call `fn(ref)`, at home, when each of them has an outcome, without fetching any."""
        ...

    def wait_ready(self, refs: list[ObjectRef[Any]], num_returns: int, timeout: float | None) -> Reply[Any]: ...

    def block(self, waiting: list[Reply[Any]], timeout: float | None) -> bool:
        """Wait in this thread until all are done; False if the timeout came first. Never on the node's loop."""
        ...

    def call_context(self) -> CallContext | None: ...
