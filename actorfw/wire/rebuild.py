"""How an exception becomes plain parts and is built again from them, without running its own constructor.

Plain pickling calls `cls(*args)` on the other side, with what the constructor handed to `Exception.__init__`: that
fails for constructors that take anything else, and doubles the message of those that make one. Here the built-in
part of the exception is restored by the built-in constructors alone, then `args` and the attributes as they were.
What surrounds an exception (cause, context, traceback, groups) is the affair of `failures`.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, cast

__all__ = ["attributes_of", "build", "has_own_reduce", "reduce_exception", "restore"]


def has_own_reduce(cls: type[BaseException]) -> bool:
    """Whether the author of this exception said how it is to be pickled."""
    for base in cls.__mro__:
        for name in ("__reduce__", "__reduce_ex__", "__setstate__", "__getstate__"):
            if isinstance(base.__dict__.get(name), types.FunctionType):
                return True
    return False


def reduce_exception(error: BaseException) -> Any:
    """What a pickler's `reducer_override` answers for an exception."""
    cls = type(error)
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return _build_group, (cls, group.message, list(group.exceptions), attributes_of(group))
    if has_own_reduce(cls):
        return NotImplemented
    reduced: Any = error.__reduce__()
    return build, (cls, reduced[1], error.args, attributes_of(error))


def attributes_of(error: BaseException) -> dict[str, Any]:
    """The attributes to carry: those set from Python, those in slots, and those that built-in types name themselves."""
    state: dict[str, Any] = {}
    reduced: Any = BaseException.__reduce__(error) if isinstance(error, BaseExceptionGroup) else error.__reduce__()
    if len(reduced) > 2 and isinstance(reduced[2], dict):
        state.update(reduced[2])
    plain: Any = object.__getstate__(error)
    for part in plain if isinstance(plain, tuple) else (plain,):
        if isinstance(part, dict):
            state.update(part)
    return state


def build(
    cls: type[BaseException], built_in_args: tuple[Any, ...], args: tuple[Any, ...], state: dict[str, Any]
) -> BaseException:
    """Make the exception again from what `reduce_exception` said."""
    error = _new(cls, built_in_args)
    for base in reversed(cls.__mro__):  # the built-in constructors set errno, code, start, end and their like
        init = base.__dict__.get("__init__")
        if isinstance(init, types.WrapperDescriptorType) and issubclass(base, BaseException):
            try:
                init(error, *built_in_args)
            except Exception:
                pass  # one of several built-in bases, and these are not its arguments
    error.args = args
    restore(error, state)
    return error


def restore(error: BaseException, state: dict[str, Any]) -> None:
    """Set the attributes that `attributes_of` found."""
    for name, value in state.items():
        object.__setattr__(error, name, value)


def _build_group(
    cls: type[BaseExceptionGroup[BaseException]], message: str, parts: list[BaseException], state: dict[str, Any]
) -> BaseException:
    group = BaseExceptionGroup.__new__(cls, message, parts)
    restore(group, state)
    return group


def _new(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    failure: TypeError | None = None
    for base in cls.__mro__:
        # Only a built-in base's: one written in Python may want other arguments. With several built-in bases
        # only one has the right layout, and the others refuse.
        new = base.__dict__.get("__new__")
        if isinstance(new, types.BuiltinFunctionType):
            try:
                return cast("Callable[..., BaseException]", new)(cls, *args)
            except TypeError as error:
                failure = error
    raise failure or TypeError(f"{cls!r} is no exception class")
