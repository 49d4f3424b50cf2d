"""`@remote` for functions: wrappers whose `.remote(...)` submits a task and whose plain call runs here and now.

To a type checker, `.remote` takes what the function takes, with refs in place of values in the first four positions
(`arg` elsewhere), and gives a ref to what it returns. The spelling of `self` as a callable is what makes both mypy and
pyright see that.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from actorfw.api.actors import make_actor_class
from actorfw.api.options import AnyOptions, TaskOptions, check_task_options
from actorfw.runtime import current, lines
from actorfw.runtime.definitions import DEF, Definition, kind_of
from actorfw.runtime.refs import ObjectRef
from actorfw.runtime.streams import Stream
from actorfw.values.errors import UsageError

__all__ = ["RemoteFunction", "RemoteGenerator", "RemoteParts", "arg", "remote"]

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Raw = TypeVar("Raw")
Raw_co = TypeVar("Raw_co", covariant=True)
Y = TypeVar("Y")
Y_co = TypeVar("Y_co", covariant=True)
A = TypeVar("A")
A1 = TypeVar("A1")
A2 = TypeVar("A2")
A3 = TypeVar("A3")
A4 = TypeVar("A4")


class _Wrapper:
    """What the three kinds of wrappers share: the function, its options, and how a wrapper travels."""

    __wrapped__: Callable[..., Any]
    __qualname__: str
    __actorfw_definition__ = True  # travels as functions do: by its name where that leads back to it, else by value

    def __init__(self, fn: Callable[..., Any], options: dict[str, Any], origin: _Wrapper | None = None) -> None:
        functools.update_wrapper(self, fn)
        self._options = options
        # What stands under the module's name: of `f.options(...)` it is `f`.
        self._origin = origin or self
        self._definition = Definition(fn, self._origin, options)
        if self._definition.streams and options.get("num_returns", 1) != 1:
            raise UsageError(
                f"{self._definition.name} is a generator: its items come as a stream, num_returns does not apply"
            )

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        raise UsageError(
            f"{self._definition.name} is a method: tasks are plain functions. Make the class an actor "
            "(`class C(actorfw.Actor)`), or pass what the method needs as arguments"
        )

    def _with(self, options: dict[str, Any]) -> _Wrapper:
        checked = check_task_options(options, f"task {self._definition.name}")
        return _wrap(self.__wrapped__, {**self._options, **checked}, self._origin)

    def __reduce__(self) -> Any:
        # Inside a message the codec has seen to it already; this is for by-value code that names this wrapper, and
        # plain pickle.
        by_name = self._origin is self and self.__module__ != "__main__"
        if by_name and _found_at(self.__module__, self.__qualname__) is self:
            return self.__qualname__
        return _wrap_again, (self.__wrapped__, self._options)

    def __repr__(self) -> str:
        return f"<remote function {self.__module__}.{self.__qualname__}>"


class RemoteFunction(_Wrapper, Generic[P, Raw_co, T_co]):
    """A function that can run elsewhere: call it to run it here, `.remote(...)` to submit it as a task."""

    if TYPE_CHECKING:

        def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Raw_co: ...

    @overload
    def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[T_co]: ...
    @overload
    def remote(
        self: Callable[Concatenate[A1, Q], Any], a1: A1 | ObjectRef[A1], /, *args: Q.args, **kwargs: Q.kwargs
    ) -> ObjectRef[T_co]: ...
    @overload
    def remote(
        self: Callable[Concatenate[A1, A2, Q], Any],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> ObjectRef[T_co]: ...
    @overload
    def remote(
        self: Callable[Concatenate[A1, A2, A3, Q], Any],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        a3: A3 | ObjectRef[A3],
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> ObjectRef[T_co]: ...
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
    ) -> ObjectRef[T_co]: ...
    def remote(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Submit a task; its arguments are copied before this returns.

        Returns:
            A ref to the result, at once. Refs among the arguments themselves are resolved before the task runs.

        Raises:
            SerializationError: an argument can't be pickled; the message names the path to it.
            OverloadedError: too many bytes wait on this node already (`Config.max_outbox`).
        """
        made = current.home().submit(self._definition, args, kwargs)
        lines.note(made, sys._getframe(1))
        return made

    @overload
    def options(
        self: RemoteFunction[P, Raw, tuple[A1, A2]], *, num_returns: Literal[2], **options: Unpack[TaskOptions]
    ) -> RemoteParts[P, Raw, tuple[ObjectRef[A1], ObjectRef[A2]]]: ...
    @overload
    def options(
        self: RemoteFunction[P, Raw, tuple[A1, A2, A3]], *, num_returns: Literal[3], **options: Unpack[TaskOptions]
    ) -> RemoteParts[P, Raw, tuple[ObjectRef[A1], ObjectRef[A2], ObjectRef[A3]]]: ...
    @overload
    def options(  # type: ignore[overload-overlap]  # 1 is an int, too
        self, *, num_returns: Literal[1], **options: Unpack[TaskOptions]
    ) -> Self: ...
    @overload
    def options(
        self: RemoteFunction[P, Raw, Iterable[A1]], *, num_returns: int, **options: Unpack[TaskOptions]
    ) -> RemoteParts[P, Raw, tuple[ObjectRef[A1], ...]]: ...
    @overload
    def options(self, **options: Unpack[TaskOptions]) -> Self: ...
    def options(self, **options: Any) -> Any:
        """The same function with other options for what is submitted through it; see `TaskOptions`.

        Raises:
            UsageError: an unknown option or a wrong type; names it and lists the right ones.
        """
        return self._with(options)


class RemoteParts(_Wrapper, Generic[P, Raw_co, T_co]):
    """A remote function with `num_returns`: `.remote(...)` gives a tuple of refs."""

    if TYPE_CHECKING:

        def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Raw_co: ...

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
        """Submit a task; see `RemoteFunction.remote`."""
        made = current.home().submit(self._definition, args, kwargs)
        lines.note(made, sys._getframe(1))
        return made

    def options(self, **options: Unpack[TaskOptions]) -> Self:
        """The same with other options."""
        return cast("Self", self._with(cast("dict[str, Any]", options)))


class RemoteGenerator(_Wrapper, Generic[P, Raw_co, Y_co]):
    """A remote generator function: `.remote(...)` gives a `Stream` of what it yields."""

    if TYPE_CHECKING:

        def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Raw_co: ...

    @overload
    def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> Stream[Y_co]: ...
    @overload
    def remote(
        self: Callable[Concatenate[A1, Q], Any],
        a1: A1 | ObjectRef[A1],
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> Stream[Y_co]: ...
    @overload
    def remote(
        self: Callable[Concatenate[A1, A2, Q], Any],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> Stream[Y_co]: ...
    @overload
    def remote(
        self: Callable[Concatenate[A1, A2, A3, Q], Any],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        a3: A3 | ObjectRef[A3],
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> Stream[Y_co]: ...
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
    ) -> Stream[Y_co]: ...
    def remote(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Submit the generator as a task; see `RemoteFunction.remote`."""
        made = current.home().submit(self._definition, args, kwargs)
        lines.note(made, sys._getframe(1))
        return made

    def options(self, **options: Unpack[TaskOptions]) -> Self:
        """The same with other options."""
        return cast("Self", self._with(cast("dict[str, Any]", options)))


def _wrap(fn: Callable[..., Any], options: dict[str, Any], origin: _Wrapper | None = None) -> _Wrapper:
    kind = kind_of(fn)
    made: type[_Wrapper]
    if kind in ("generator", "async generator"):
        made = RemoteGenerator
    elif options.get("num_returns", 1) != 1:
        made = RemoteParts
    else:
        made = RemoteFunction
        if kind == DEF and _says_iterator(fn):
            raise UsageError(
                f"{fn.__qualname__} is annotated to return an iterator and is no generator function: an iterator can't"
                " be sent. Write it with `yield`, or return a list"
            )
    return made(fn, options, origin)


def _found_at(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _says_iterator(fn: Callable[..., Any]) -> bool:
    said = getattr(fn, "__annotations__", {}).get("return")
    text = said if isinstance(said, str) else getattr(said, "__name__", "") or str(said)
    head = text.split("[")[0].rsplit(".", 1)[-1]
    return head in ("Iterator", "AsyncIterator", "Generator", "AsyncGenerator")


def _wrap_again(fn: Callable[..., Any], options: dict[str, Any]) -> _Wrapper:
    return _wrap(fn, options)


class _Decorator(Protocol):
    """What `@remote(...)` with options gives."""

    @overload
    def __call__(self, target: type[A], /) -> type[A]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, target: Callable[P, AsyncIterator[Y]], /
    ) -> RemoteGenerator[P, AsyncIterator[Y], Y]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, target: Callable[P, Iterator[Y]], /
    ) -> RemoteGenerator[P, Iterator[Y], Y]: ...
    @overload
    def __call__(
        self, target: Callable[P, Coroutine[Any, Any, T]], /
    ) -> RemoteFunction[P, Coroutine[Any, Any, T], T]: ...
    @overload
    def __call__(self, target: Callable[P, T], /) -> RemoteFunction[P, T, T]: ...


class _PartsDecorator(Protocol):
    """What `@remote(num_returns=n)` gives: a checker can't count."""

    @overload
    def __call__(
        self, target: Callable[P, Coroutine[Any, Any, tuple[A1, A2]]], /
    ) -> RemoteParts[P, Coroutine[Any, Any, tuple[A1, A2]], tuple[ObjectRef[A1], ObjectRef[A2]]]: ...
    @overload
    def __call__(
        self, target: Callable[P, tuple[A1, A2]], /
    ) -> RemoteParts[P, tuple[A1, A2], tuple[ObjectRef[A1], ObjectRef[A2]]]: ...
    @overload
    def __call__(
        self, target: Callable[P, Coroutine[Any, Any, tuple[A1, A2, A3]]], /
    ) -> RemoteParts[P, Coroutine[Any, Any, tuple[A1, A2, A3]], tuple[ObjectRef[A1], ObjectRef[A2], ObjectRef[A3]]]: ...
    @overload
    def __call__(
        self, target: Callable[P, tuple[A1, A2, A3]], /
    ) -> RemoteParts[P, tuple[A1, A2, A3], tuple[ObjectRef[A1], ObjectRef[A2], ObjectRef[A3]]]: ...
    @overload
    def __call__(
        self, target: Callable[P, Coroutine[Any, Any, Iterable[A1]]], /
    ) -> RemoteParts[P, Coroutine[Any, Any, Iterable[A1]], tuple[ObjectRef[A1], ...]]: ...
    @overload
    def __call__(
        self, target: Callable[P, Iterable[A1]], /
    ) -> RemoteParts[P, Iterable[A1], tuple[ObjectRef[A1], ...]]: ...


# The overlaps that mypy reports are meant, here and above: a class is a callable, too, and a generator function
# returns something. The first match is the right one.
@overload
def remote(target: type[A], /) -> type[A]: ...  # type: ignore[overload-overlap]
@overload
def remote(  # type: ignore[overload-overlap]
    target: Callable[P, AsyncIterator[Y]], /
) -> RemoteGenerator[P, AsyncIterator[Y], Y]: ...
@overload
def remote(  # type: ignore[overload-overlap]
    target: Callable[P, Iterator[Y]], /
) -> RemoteGenerator[P, Iterator[Y], Y]: ...
@overload
def remote(target: Callable[P, Coroutine[Any, Any, T]], /) -> RemoteFunction[P, Coroutine[Any, Any, T], T]: ...
@overload
def remote(target: Callable[P, T], /) -> RemoteFunction[P, T, T]: ...
@overload
def remote(*, num_returns: int, **options: Unpack[TaskOptions]) -> _PartsDecorator: ...
@overload
def remote(**options: Unpack[AnyOptions]) -> _Decorator: ...
def remote(target: Any = None, /, **options: Any) -> Any:
    """Make a function a remote task or a class an actor's class: `@remote`, or `@remote(num_cpus=2, ...)`.

    A function becomes a wrapper that still runs here when it is called. A class stays the class, and gets `remote` and
    `options`.

    Args:
        target: the function or class.
        **options: see `TaskOptions` and `ActorOptions`.

    Raises:
        UsageError: an unknown option or a wrong type; a class that defines `remote`, `options` or `at` itself;
            something that is neither a function nor a class.
    """
    if target is None:

        def decorate(found: Any) -> Any:
            return _remote(found, options)

        return decorate
    if options:
        raise UsageError("write @remote(option=...) on a line of its own above what it decorates")
    return _remote(target, options)


def _remote(target: Any, options: dict[str, Any]) -> Any:
    if isinstance(target, type):
        return make_actor_class(target, options)
    if isinstance(target, _Wrapper):
        raise UsageError(f"{target!r} is remote already: use .options() for other options")
    if isinstance(target, (staticmethod, classmethod)) or not callable(target) or not hasattr(target, "__qualname__"):
        raise UsageError(f"@remote takes a function or a class, not {target!r}")
    return _wrap(target, check_task_options(options, f"task {target.__qualname__}"))


def arg(ref: ObjectRef[T], /) -> T:
    """The ref itself, typed as the value that the callee will see: for keyword arguments and later positions."""
    return cast("T", ref)
