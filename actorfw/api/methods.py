"""`@method`, and what type checkers are told about methods of actors.

At run time `@method` only marks the function, a class stays the class, and handles are `runtime.handles`. To a checker
a handle is the class, so that what `handle.m` has must be said by the class: the descriptors here do, and nothing of
them is ever made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, Self, TypeVar, Unpack, overload

from actorfw.api.options import CallOptions
from actorfw.runtime.refs import ObjectRef, Reply
from actorfw.runtime.streams import Stream
from actorfw.values.errors import UsageError

__all__ = ["BoundMethod", "BoundParts", "BoundStream", "Method", "PartsMethod", "StreamMethod", "method"]

P = ParamSpec("P")
Q = ParamSpec("Q")
A = TypeVar("A")
A1 = TypeVar("A1")
A2 = TypeVar("A2")
A3 = TypeVar("A3")
A4 = TypeVar("A4")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Raw = TypeVar("Raw")
Raw_co = TypeVar("Raw_co", covariant=True)
Y = TypeVar("Y")
Y_co = TypeVar("Y_co", covariant=True)


class BoundMethod(Generic[P, Raw_co, T_co]):
    """A method of a handle, as type checkers see it (at run time: `runtime.handles.BoundMethod`)."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Raw_co:
        """Send the call at once; a coroutine to asyncio."""
        raise NotImplementedError

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
        """Send the call at once; its reply as a ref."""
        raise NotImplementedError

    @overload
    def tell(self, /, *args: P.args, **kwargs: P.kwargs) -> Reply[None]: ...
    @overload
    def tell(
        self: Callable[Concatenate[A1, Q], Any],
        a1: A1 | ObjectRef[A1],
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> Reply[None]: ...
    @overload
    def tell(
        self: Callable[Concatenate[A1, A2, Q], Any],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> Reply[None]: ...
    @overload
    def tell(
        self: Callable[Concatenate[A1, A2, A3, Q], Any],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        a3: A3 | ObjectRef[A3],
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> Reply[None]: ...
    @overload
    def tell(
        self: Callable[Concatenate[A1, A2, A3, A4, Q], Any],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        a3: A3 | ObjectRef[A3],
        a4: A4 | ObjectRef[A4],
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> Reply[None]: ...
    def tell(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Send one way; awaiting what it returns waits for room, nothing more."""
        raise NotImplementedError

    @overload
    def options(
        self: BoundMethod[P, Raw, tuple[A1, A2]], *, num_returns: Literal[2], **options: Unpack[CallOptions]
    ) -> BoundParts[P, Raw, tuple[ObjectRef[A1], ObjectRef[A2]]]: ...
    @overload
    def options(  # type: ignore[overload-overlap]  # 1 is an int, too
        self, *, num_returns: Literal[1], **options: Unpack[CallOptions]
    ) -> Self: ...
    @overload
    def options(
        self: BoundMethod[P, Raw, Iterable[A1]], *, num_returns: int, **options: Unpack[CallOptions]
    ) -> BoundParts[P, Raw, tuple[ObjectRef[A1], ...]]: ...
    @overload
    def options(self, **options: Unpack[CallOptions]) -> Self: ...
    def options(self, **options: Any) -> Any:
        """The same with options for the calls made through it."""
        raise NotImplementedError


class BoundParts(Generic[P, Raw_co, T_co]):
    """A method of a handle with `num_returns`, as type checkers see it: `.remote(...)` gives a tuple of refs."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Raw_co:
        """Send the call at once; a coroutine of the whole value to asyncio."""
        raise NotImplementedError

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
        """The same."""
        raise NotImplementedError

    def options(self, **options: Unpack[CallOptions]) -> Self:
        """The same with options."""
        raise NotImplementedError


class BoundStream(Generic[P, Raw_co, Y_co]):
    """A generator method of a handle, as type checkers see it."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Raw_co:
        """Send the call at once; a stream."""
        raise NotImplementedError

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
        """The same."""
        raise NotImplementedError

    def options(self, **options: Unpack[CallOptions]) -> Self:
        """The same with options."""
        raise NotImplementedError


class Method(Generic[A, P, Raw_co, T_co]):
    """What `@method` makes of a method, as type checkers see it."""

    @overload
    def __get__(self, obj: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self, obj: A, owner: type[Any]) -> BoundMethod[P, Raw_co, T_co]: ...
    def __get__(self, obj: Any, owner: type[Any]) -> Any:
        raise NotImplementedError

    def __call__(self, obj: A, /, *args: P.args, **kwargs: P.kwargs) -> Raw_co:
        raise NotImplementedError


class StreamMethod(Generic[A, P, Raw_co, Y_co]):
    """The same of a generator method."""

    @overload
    def __get__(self, obj: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self, obj: A, owner: type[Any]) -> BoundStream[P, Raw_co, Y_co]: ...
    def __get__(self, obj: Any, owner: type[Any]) -> Any:
        raise NotImplementedError

    def __call__(self, obj: A, /, *args: P.args, **kwargs: P.kwargs) -> Raw_co:
        raise NotImplementedError


class PartsMethod(Generic[A, P, Raw_co, T_co]):
    """The same of a method with `num_returns`."""

    @overload
    def __get__(self, obj: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self, obj: A, owner: type[Any]) -> BoundParts[P, Raw_co, T_co]: ...
    def __get__(self, obj: Any, owner: type[Any]) -> Any:
        raise NotImplementedError

    def __call__(self, obj: A, /, *args: P.args, **kwargs: P.kwargs) -> Raw_co:
        raise NotImplementedError


# The overlaps that mypy reports below are meant: a generator function returns something, too. The first match is right.
class _MethodDecorator(Protocol):
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, fn: Callable[Concatenate[A, P], AsyncIterator[Y]], /
    ) -> StreamMethod[A, P, AsyncIterator[Y], Y]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, fn: Callable[Concatenate[A, P], Iterator[Y]], /
    ) -> StreamMethod[A, P, Iterator[Y], Y]: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[A, P], Coroutine[Any, Any, T]], /
    ) -> Method[A, P, Coroutine[Any, Any, T], T]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[A, P], T], /) -> Method[A, P, T, T]: ...


class _PartsDecorator(Protocol):
    """What `@method(num_returns=n)` gives: a checker can't count."""

    @overload
    def __call__(
        self, fn: Callable[Concatenate[A, P], Coroutine[Any, Any, tuple[A1, A2]]], /
    ) -> PartsMethod[A, P, Coroutine[Any, Any, tuple[A1, A2]], tuple[ObjectRef[A1], ObjectRef[A2]]]: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[A, P], tuple[A1, A2]], /
    ) -> PartsMethod[A, P, tuple[A1, A2], tuple[ObjectRef[A1], ObjectRef[A2]]]: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[A, P], Coroutine[Any, Any, Iterable[A1]]], /
    ) -> PartsMethod[A, P, Coroutine[Any, Any, Iterable[A1]], tuple[ObjectRef[A1], ...]]: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[A, P], Iterable[A1]], /
    ) -> PartsMethod[A, P, Iterable[A1], tuple[ObjectRef[A1], ...]]: ...


@overload
def method(  # type: ignore[overload-overlap]
    fn: Callable[Concatenate[A, P], AsyncIterator[Y]], /
) -> StreamMethod[A, P, AsyncIterator[Y], Y]: ...
@overload
def method(  # type: ignore[overload-overlap]
    fn: Callable[Concatenate[A, P], Iterator[Y]], /
) -> StreamMethod[A, P, Iterator[Y], Y]: ...
@overload
def method(fn: Callable[Concatenate[A, P], Coroutine[Any, Any, T]], /) -> Method[A, P, Coroutine[Any, Any, T], T]: ...
@overload
def method(fn: Callable[Concatenate[A, P], T], /) -> Method[A, P, T, T]: ...
@overload
def method(  # type: ignore[overload-overlap]  # 1 is an int, too
    *,
    group: str = ...,
    interleave: bool = ...,
    ordered: bool = ...,
    timeout: float | None = ...,
    max_task_retries: int = ...,
    num_returns: Literal[1] = ...,
) -> _MethodDecorator: ...
@overload
def method(
    *,
    num_returns: int,
    group: str = ...,
    interleave: bool = ...,
    ordered: bool = ...,
    timeout: float | None = ...,
    max_task_retries: int = ...,
) -> _PartsDecorator: ...
def method(fn: Any = None, /, **options: Any) -> Any:
    """Mark a method of an actor class: for its options, and so that type checkers know its `.remote` and the like.

    Args:
        fn: the method.
        group: the concurrency group that it runs in.
        interleave: let it run beside the others: for long-lived methods such as a WebSocket loop.
        ordered: False lets a call whose arguments are here overtake earlier ones of the same caller that wait for
            theirs.
        timeout: seconds, the default for its calls.
        num_returns: the default for its calls.
        max_task_retries: to how many further incarnations of the actor a call may be sent, if one is lost with it; -1:
            to as many as there are. Default: what the class says.
    """
    checks: dict[str, Callable[[Any], bool]] = {
        "group": lambda v: isinstance(v, str),
        "interleave": lambda v: isinstance(v, bool),
        "ordered": lambda v: isinstance(v, bool),
        "timeout": lambda v: v is None or (isinstance(v, (int, float)) and not isinstance(v, bool) and v >= 0),
        "num_returns": lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0,
        "max_task_retries": lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= -1,
    }
    for name, value in options.items():
        if name not in checks:
            raise UsageError(f"{name!r} is no option of a method; the options are {', '.join(checks)}")
        if not checks[name](value):
            raise UsageError(f"the option {name!r} of a method is {value!r}, which is of the wrong type")

    def mark(found: Any) -> Any:
        if not callable(found) or isinstance(found, type):
            raise UsageError(f"@method takes a method, not {found!r}")
        vars(found)["__actorfw_method__"] = options
        return found

    return mark if fn is None else mark(fn)
