"""Handles: how an actor is spoken to from anywhere.

A handle is a ref-like thing: its id is (life of the guardian, number), it is listed with its owner like an object, and
the actor ends when no handle is left. Every public name of a handle is a method of the actor's class; so that an
attribute look-up costs no more than on any object, each interface gets a subclass of `ActorHandle` with one descriptor
per method.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import msgpack

from actorfw.runtime import lines
from actorfw.runtime.current import restore_handle
from actorfw.runtime.definitions import Interface, MethodInfo
from actorfw.values.errors import UsageError
from actorfw.values.ids import RefId, is_detached, text_id

if TYPE_CHECKING:
    from actorfw.runtime.home import Home
    from actorfw.runtime.refs import Grip, ObjectRef, Reply

__all__ = ["ActorHandle", "BoundMethod", "Call", "Interfaces", "handle_id", "hash_by_name", "means"]


class Call:
    """What `handle.method(...)` returns: sent already, and a coroutine to `create_task`, `TaskGroup` and `run`."""

    __slots__ = ("_steps", "ref")

    def __init__(self, ref: ObjectRef[Any]) -> None:
        self.ref = ref
        self._steps: Generator[Any, None, Any] | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        return self.ref.__await__()

    def send(self, value: Any) -> Any:
        if self._steps is None:
            self._steps = self.ref.__await__()
        return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        if self._steps is None:
            self._steps = self.ref.__await__()
        return self._steps.throw(*error)

    def close(self) -> None:
        if self._steps is not None:
            self._steps.close()

    def __repr__(self) -> str:
        return f"<Call {self.ref!r}>"


_OPTIONS = ("timeout", "num_returns", "max_task_retries")


class BoundMethod:
    """A method of an actor, seen through a handle: call it, or `.remote`, `.tell` and `.options` it."""

    __slots__ = ("_handle", "_info")

    def __init__(self, handle: ActorHandle, info: MethodInfo) -> None:
        self._handle = handle
        self._info = info

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Send the call at once; returns a coroutine (for a generator method: a `Stream`)."""
        info = self._info
        if info.kind in _STREAMING:
            return self._handle._home.call_actor(self._handle, info, args, kwargs)
        if info.num_returns != 1:
            info = replace(info, num_returns=1)  # to a checker this is the method itself: its whole value
        return Call(self._handle._home.call_actor(self._handle, info, args, kwargs))

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Send the call at once; returns its reply as an `ObjectRef` (for a generator method: a `Stream`)."""
        made = self._handle._home.call_actor(self._handle, self._info, args, kwargs)
        lines.note(made, sys._getframe(1))
        return made

    def tell(self, /, *args: Any, **kwargs: Any) -> Reply[None]:
        """Send without asking for an answer; awaiting what it returns waits for room, nothing more."""
        return self._handle._home.tell_actor(self._handle, self._info, args, kwargs)

    def options(self, **options: Any) -> BoundMethod:
        """The same method with other options for the calls made through it: timeout, num_returns, max_task_retries."""
        for name, value in options.items():
            if name not in _OPTIONS:
                raise UsageError(f"{name!r} is no option of a call; the options are {', '.join(_OPTIONS)}")
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if name == "timeout" and value is not None and not number:
                raise UsageError(f"timeout is {value!r}; it must be a number of seconds or None")
            if name == "num_returns" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise UsageError(f"num_returns is {value!r}; it must be an integer, 0 or more")
            if name == "max_task_retries" and (isinstance(value, bool) or not isinstance(value, int) or value < -1):
                raise UsageError(f"max_task_retries is {value!r}; it must be an integer, -1 or more")
        if self._info.streams and options.get("num_returns", 1) != 1:
            raise UsageError(
                f"{self._info.name} is a generator: its items come as a stream, num_returns does not apply"
            )
        return BoundMethod(self._handle, replace(self._info, **options))

    def __repr__(self) -> str:
        return f"<method {self._info.name} of {self._handle!r}>"


_STREAMING = ("generator", "async generator")


class _Method:
    """The descriptor that makes a `BoundMethod` of a handle and a name."""

    __slots__ = ("info",)

    def __init__(self, info: MethodInfo) -> None:
        self.info = info

    def __get__(self, handle: ActorHandle | None, owner: type) -> Any:
        return self if handle is None else BoundMethod(handle, self.info)


class ActorHandle:
    """Speaks to one actor, wherever it is. Handles of the same actor are equal; they can be sent and stored."""

    __slots__ = (
        "__weakref__",
        "_address",
        "_grip",
        "_guardian",
        "_hash",
        "_hint",
        "_home",
        "_interface",
        "_number",
        "_route",
    )

    def __init__(
        self, home: Home, guardian: bytes, number: int, address: str, interface: Interface, grip: Grip | None
    ) -> None:
        self._home = home
        self._guardian = guardian
        self._number = number
        self._address = address
        self._interface = interface
        self._grip = grip  # None only for what an actor has of itself: its own handle does not keep it alive
        self._route: Any = None  # the home's own: where calls go
        self._hash = 0  # once somebody has asked for it, for good
        self._hint = 0  # what it is to be; 0: whatever follows from the id

    def __getattr__(self, name: str) -> NoReturn:
        interface: Interface = object.__getattribute__(self, "_interface")
        methods = ", ".join(sorted(interface.methods)) or "none"
        raise AttributeError(
            f"{interface.name} has no method {name!r}; its methods are: {methods}", name=name, obj=self
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and self._number == other._number and self._guardian == other._guardian

    def __hash__(self) -> int:
        # With `get_if_exists` the id may turn out to be another one, and a set that this is in must still find it.
        taken = self._hash
        if not taken:
            # Not by the life of its guardian, which may take a new one; a detached actor's number is its shard only.
            own = self._guardian if is_detached(self._guardian) else "actor"
            taken = self._hash = self._hint or hash((self._number, own)) or 1
        return taken

    def __copy__(self) -> ActorHandle:
        return self

    def __deepcopy__(self, memo: object) -> ActorHandle:
        return self

    def __reduce__(self) -> Any:
        # Plain pickle, outside any message (inside one, the codec takes care of handles before this is reached).
        self._home.pin(self)
        return restore_handle, (self._guardian, self._number, self._address, self._interface)

    def __repr__(self) -> str:
        return f"<{self._interface.name} actor {text_id((self._guardian, self._number))[-20:]}>"


def hash_by_name(handle: ActorHandle, namespace: str, name: str) -> None:
    """The handle was made or found by its name: its hash, if nobody has asked for it, is that of the name.

    All who ask for the name know that from the start, the id only some of them.
    """
    handle._hint = hash((namespace, name, "actor"))


def means(handle: ActorHandle, other: ActorHandle) -> None:
    """`handle` stands for the actor that `other` is a handle of. Its hash stays if somebody has asked for it."""
    handle._guardian, handle._number, handle._address = other._guardian, other._number, other._address
    handle._grip = other._grip
    handle._hint = hash(other)


def handle_id(handle: ActorHandle) -> RefId:
    """The id of the actor that a handle speaks to."""
    return handle._guardian, handle._number


class Interfaces:
    """The interfaces that one home knows, each once, with the subclass of `ActorHandle` that its handles have."""

    def __init__(self, made: Callable[[type[ActorHandle]], None]) -> None:
        self._made = made  # hears of each new class: the codec must know it
        self._known: dict[bytes, tuple[Interface, type[ActorHandle]]] = {}

    def handle_class(self, interface: Interface) -> type[ActorHandle]:
        """The class of handles to actors with this interface."""
        return self._entry(interface)[1]

    def known(self, interface: Interface) -> Interface:
        """The one instance equal to `interface`."""
        return self._entry(interface)[0]

    def _entry(self, interface: Interface) -> tuple[Interface, type[ActorHandle]]:
        key: bytes = msgpack.packb(interface.to_wire())
        entry = self._known.get(key)
        if entry is None:
            methods: Mapping[str, Any] = {name: _Method(info) for name, info in interface.methods.items()}
            made = type(f"{interface.name}Handle", (ActorHandle,), {"__slots__": (), "__module__": __name__, **methods})
            self._made(made)
            entry = self._known[key] = (interface, made)
        return entry
