"""Actor classes: `Actor`, `@remote class`, and what `.remote(...)` on a class gives.

To a type checker a handle is the class itself; what its methods have is said in `api.methods`. At run time a class
stays the class, and handles are `runtime.handles`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack, cast, overload

from actorfw.api.options import ActorOptions, check_actor_options
from actorfw.runtime import current
from actorfw.runtime.definitions import Definition
from actorfw.runtime.refs import ObjectRef
from actorfw.values.errors import UsageError

__all__ = ["Actor", "ActorFactory", "ActorHandle", "make_actor_class"]

P = ParamSpec("P")
Q = ParamSpec("Q")
A = TypeVar("A")
A1 = TypeVar("A1")
A2 = TypeVar("A2")
A3 = TypeVar("A3")
A4 = TypeVar("A4")
H = TypeVar("H")
T_co = TypeVar("T_co", covariant=True)

ActorHandle = Annotated[H, "a handle: to a type checker, the class itself"]

_OWN = ("remote", "options", "at")


class ActorFactory(Generic[P, T_co]):
    """An actor class with options, as `Counter.options(name="x")` gives it."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition

    if TYPE_CHECKING:
        # Not there at run time: where the overloads below find the parameters.
        def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T_co: ...

    @overload
    def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> T_co: ...
    @overload
    def remote(
        self: Callable[Concatenate[A1, Q], Any],
        a1: A1 | ObjectRef[A1],
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> T_co: ...
    @overload
    def remote(
        self: Callable[Concatenate[A1, A2, Q], Any],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> T_co: ...
    @overload
    def remote(
        self: Callable[Concatenate[A1, A2, A3, Q], Any],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        a3: A3 | ObjectRef[A3],
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> T_co: ...
    @overload
    def remote(
        self: Callable[Concatenate[A1, A2, A3, A4, Q], Any],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        a3: A3 | ObjectRef[A3],
        a4: A4 | ObjectRef[A4],
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> T_co: ...
    def remote(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Create an actor; see `Actor.remote`."""
        return current.home().create_actor(self._definition, args, kwargs)

    def options(self, **options: Unpack[ActorOptions]) -> Self:
        """The same with further options."""
        cls: type = self._definition.target
        checked = check_actor_options({**self._definition.options, **options}, f"actor {cls.__qualname__}")
        return type(self)(Definition(cls, cls, checked))

    def __repr__(self) -> str:
        return f"<{self._definition.name} with {dict(self._definition.options)}>"


def _create(cls: type, /, *args: Any, **kwargs: Any) -> Any:
    """Create an actor and return its handle at once; calls through it wait until it is up."""
    home = current.home()
    return home.create_actor(home.actor_classes.of(cls), args, kwargs)


def _with_options(cls: type, /, **options: Any) -> Any:
    """The same class with options for the actors made through it; see `ActorOptions`."""
    given: Mapping[str, Any] = cls.__dict__.get("__actorfw_options__", {})
    checked = check_actor_options({**given, **options}, f"actor {cls.__qualname__}")
    return ActorFactory[Any, Any](Definition(cls, cls, checked))


class Actor:
    """The base of typed actor classes: `class Counter(actorfw.Actor)` is the same as `@actorfw.remote class Counter`.

    A subclass stays an ordinary class: `Counter()` makes an ordinary instance here. `Counter.remote()` makes an actor.
    """

    if TYPE_CHECKING:
        # `cls: Callable[P, A]` makes both checkers take P from the subclass's own __init__.
        @overload
        @classmethod
        def remote(cls: Callable[P, A], /, *args: P.args, **kwargs: P.kwargs) -> A: ...
        @overload
        @classmethod
        def remote(
            cls: Callable[Concatenate[A1, Q], A],
            a1: A1 | ObjectRef[A1],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> A: ...
        @overload
        @classmethod
        def remote(
            cls: Callable[Concatenate[A1, A2, Q], A],
            a1: A1 | ObjectRef[A1],
            a2: A2 | ObjectRef[A2],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> A: ...
        @overload
        @classmethod
        def remote(
            cls: Callable[Concatenate[A1, A2, A3, Q], A],
            a1: A1 | ObjectRef[A1],
            a2: A2 | ObjectRef[A2],
            a3: A3 | ObjectRef[A3],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> A: ...
        @overload
        @classmethod
        def remote(
            cls: Callable[Concatenate[A1, A2, A3, A4, Q], A],
            a1: A1 | ObjectRef[A1],
            a2: A2 | ObjectRef[A2],
            a3: A3 | ObjectRef[A3],
            a4: A4 | ObjectRef[A4],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> A: ...
        @classmethod
        def remote(cls: Any, /, *args: Any, **kwargs: Any) -> Any:
            """Create an actor and return its handle at once; calls through it wait until it is up.

            Its arguments are copied before this returns. If its `__init__` raises, every call fails with
            `ActorDiedError`, whose `__cause__` is the exception.

            Raises:
                SerializationError: an argument can't be pickled.
            """

        @classmethod
        def options(cls: Callable[P, A], **options: Unpack[ActorOptions]) -> ActorFactory[P, A]:
            """The same class with options for the actors made through it; see `ActorOptions`."""
            ...

    else:
        remote = classmethod(_create)
        options = classmethod(_with_options)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _refuse_own_names(cls)


if not TYPE_CHECKING:
    # Tells them from methods of the user's when an actor's interface is read.
    _create.__actorfw_own__ = True
    _with_options.__actorfw_own__ = True


def _refuse_own_names(cls: type) -> None:
    for name in _OWN:
        own = getattr(getattr(cls.__dict__.get(name), "__func__", None), "__actorfw_own__", False)
        if name in cls.__dict__ and not own:
            raise UsageError(
                f"class {cls.__qualname__} defines {name!r}, which is the name by which actors of it are made:"
                " give it another name"
            )


def make_actor_class(cls: type, options: Mapping[str, Any]) -> type:
    """What `@remote` does to a class: check it, remember its options, and give it `remote` and `options`."""
    _refuse_own_names(cls)
    checked = check_actor_options(options, f"actor {cls.__qualname__}")
    made = cast("Any", cls)
    if not issubclass(cls, Actor):
        made.remote = classmethod(_create)
        made.options = classmethod(_with_options)
    made.__actorfw_options__ = checked
    Definition(cls, cls, checked)  # fails here and now if something about it is wrong
    return cls
