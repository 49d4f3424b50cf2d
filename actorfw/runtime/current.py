"""Which node (or worker) module-level functions speak to: the only module-level runtime state of actorfw.

The order: the node entered with `async with` in this context; else the one that `init()` bound to the running loop;
else the process's only one. A context variable is set and put back by value, never with `Token.reset`, which raises
when entering and leaving happen in different tasks (as under `AppRunner` or in async-generator fixtures).
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from asyncio import events
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from actorfw.io.forked import let_go
from actorfw.values.errors import NodeClosedError, NotInitializedError, UsageError

if TYPE_CHECKING:
    from actorfw.runtime.definitions import Interface
    from actorfw.runtime.home import Home

__all__ = [
    "bind_loop",
    "contexts",
    "entered",
    "forgotten_init",
    "home",
    "register",
    "restore_handle",
    "restore_ref",
    "unregister",
]

entered: ContextVar[Home | None] = ContextVar("actorfw_entered", default=None)
_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Home] = weakref.WeakKeyDictionary()
_of_process: list[Home] = []
_lock = threading.Lock()
_forgotten: list[str] = []
contexts: list[Any] = []
"""What `init()` returned and is in use: what `shutdown()` and a second `init()` need to find."""


def home() -> Home:
    """The node or worker that this call belongs to.

    Raises:
        NotInitializedError: none runs here.
        UsageError: several run in this process and nothing says which is meant.
        NodeClosedError: it is clear which is meant, and that one closes.
    """
    meant = found = entered.get()
    if found is not None and found.open:
        return found
    loop = events._get_running_loop()
    if loop is not None:
        found = _by_loop.get(loop)
        if found is not None and found.open:
            return found
    if len(_of_process) == 1:
        return _of_process[0]
    if _of_process and meant is not None:
        raise NodeClosedError("the node on which this runs is not up, or is being shut down")
    if _of_process:
        raise UsageError(
            f"{len(_of_process)} nodes run in this process and none is bound to this loop or context: "
            "enter the one you mean with `async with node:`"
        )
    if _forgotten:
        raise NotInitializedError(
            f"actorfw.init() at {_forgotten[-1]} was called but never awaited: "
            "write `await actorfw.init()` or `async with actorfw.init()`"
        )
    raise NotInitializedError("no node runs here: call actorfw.init() first (in async code: `await actorfw.init()`)")


def register(node: Home) -> None:
    """A node is up in this process."""
    with _lock:
        _of_process.append(node)
    _forgotten.clear()


def unregister(node: Home) -> None:
    """A node of this process is closing."""
    with _lock:
        if node in _of_process:
            _of_process.remove(node)
    for loop, bound in list(_by_loop.items()):
        if bound is node:
            del _by_loop[loop]


def bind_loop(loop: asyncio.AbstractEventLoop, node: Home) -> None:
    """Make a node the one that code on this loop means."""
    _by_loop[loop] = node


def bound_to(loop: asyncio.AbstractEventLoop | None) -> Home | None:
    """The node that `init()` bound to a loop, or with None the only one of the process, if it is open."""
    found = _by_loop.get(loop) if loop is not None else (_of_process[0] if len(_of_process) == 1 else None)
    return found if found is not None and found.open else None


def forgotten_init(where: str | None) -> None:
    """Note that `init()` at FILE:LINE waits to be awaited, or with None that it no longer does."""
    if where is None:
        _forgotten.clear()
    else:
        _forgotten.append(where)


def _after_fork() -> None:
    # The child has the node's objects, but neither its loop nor, from here on, its sockets: to it, there is no node.
    global _lock
    _lock = threading.Lock()
    for node in _of_process:
        node.open = False  # refs and handles of the parent's say so, instead of waiting for a loop that is not there
        let_go(node.descriptors())
    _of_process.clear()
    contexts.clear()
    _by_loop.clear()
    _forgotten.clear()
    entered.set(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def restore_ref(owner: bytes, number: int, address: str) -> Any:
    """What a ref that was pickled outside a message unpickles to."""
    return home().adopt_ref(owner, number, address)


def restore_handle(guardian: bytes, number: int, address: str, interface: Interface) -> Any:
    """What a handle that was pickled outside a message unpickles to."""
    return home().adopt_handle(guardian, number, address, interface)
