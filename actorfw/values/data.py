"""`Data`: a dataclass with slots whose methods are made when they are first needed.

Responsible for: small classes of named values that cost next to nothing to define. `dataclass(slots=True)` compiles
some five methods and builds the class twice, half a millisecond for each class; a program that imports this package
would pay that for a hundred of them, most of which it never uses. (The two that users write out, `Config` and
`NodeAffinity`, are plain dataclasses: tools that read the source without running it know what those take.) Leaves to
others: what the methods are. They are those of `dataclasses.dataclass`, whose functions (`replace`, `asdict`, `fields`)
take a Data class for one of theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, FrozenInstanceError, dataclass, field
from inspect import Signature, signature
from typing import Any, ClassVar, cast, dataclass_transform

__all__ = ["Data", "finish"]

_Namespace = dict[str, Any]


@dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
class _DataType(type):
    # Of this class alone, without those of its bases: annotations and defaults, for `_finished`.
    _own: tuple[_Namespace, _Namespace]
    _frozen: bool
    _kw_only: bool

    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: _Namespace, *, frozen: bool = True, kw_only: bool = False
    ) -> _DataType:
        annotations: _Namespace = {
            key: kind
            for key, kind in namespace.get("__annotations__", {}).items()
            if not str(kind).startswith("ClassVar")
        }
        defaults = {key: namespace.pop(key) for key in annotations if key in namespace}
        namespace["__slots__"] = tuple(annotations)
        # In each class, not only in the first: else a class would inherit the finished methods of its base.
        for key in _WRITTEN:
            if key not in namespace and (frozen or key != "__hash__"):
                namespace[key] = _LATER[key]
        if frozen:
            namespace["__setattr__"] = _refuse_setting
            namespace["__delattr__"] = _refuse_deleting
        made = super().__new__(mcs, name, bases, namespace)
        made._own = annotations, defaults
        made._frozen = frozen
        made._kw_only = kw_only
        return made

    def __init__(
        cls, name: str, bases: tuple[type, ...], namespace: _Namespace, *, frozen: bool = True, kw_only: bool = False
    ) -> None:
        super().__init__(name, bases, namespace)

    @property
    def __signature__(cls) -> Signature:
        init = cls.__dict__["__init__"]
        if init is _LATER["__init__"]:
            _finish(cls)
            init = cls.__dict__["__init__"]
        whole = signature(init)
        return whole.replace(parameters=list(whole.parameters.values())[1:], return_annotation=Signature.empty)


def _finish(cls: _DataType) -> None:
    """Give the class the methods that `dataclass` writes for one with its fields, in place of those that wait."""
    annotations: _Namespace = {}
    namespace: _Namespace = {"__qualname__": cls.__qualname__, "__module__": cls.__module__}
    for base in reversed(cls.__mro__):
        if isinstance(base, _DataType):
            annotations |= base._own[0]
            namespace |= base._own[1]
    if hasattr(cls, "__post_init__"):
        namespace["__post_init__"] = None  # only whether it is there matters
    pattern: Any = dataclass(frozen=cls._frozen, kw_only=cls._kw_only)(
        type(cls.__name__, (), {**namespace, "__annotations__": annotations})
    )
    for key, waiting in _LATER.items():
        if cls.__dict__.get(key) is waiting:
            setattr(cls, key, pattern.__dict__[key])


def finish(*classes: type[Data]) -> None:
    """Make the methods of these now: before a fork, since else each child makes its own."""
    for cls in classes:
        if any(cls.__dict__.get(key) is waiting for key, waiting in _LATER.items()):
            _finish(cls)


def _later(key: str) -> Callable[..., Any]:
    """A method that puts the finished one in its own place, and calls that."""

    def first(self: Any, *args: Any, **options: Any) -> Any:
        for cls in type(self).__mro__:  # it may have been called by way of `super()`
            if cls.__dict__.get(key) is first:
                _finish(cast(_DataType, cls))
                return cls.__dict__[key](self, *args, **options)
        return getattr(type(self), key)(self, *args, **options)

    first.__name__ = key
    return first


class _Later:
    """A class attribute that `dataclass` sets, and that `dataclasses.fields` and the like ask for."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __get__(self, _instance: object, owner: _DataType) -> Any:
        for cls in owner.__mro__:
            if cls.__dict__.get(self._key) is self:
                _finish(cast(_DataType, cls))
        return getattr(owner, self._key)


def _refuse_setting(_self: object, key: str, _value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {key!r}")


def _refuse_deleting(_self: object, key: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {key!r}")


_METHODS = ("__init__", "__repr__", "__eq__", "__hash__")
_ATTRIBUTES = ("__dataclass_fields__", "__match_args__")
_WRITTEN = (*_METHODS, *_ATTRIBUTES)
_LATER: dict[str, Any] = {key: _later(key) for key in _METHODS} | {key: _Later(key) for key in _ATTRIBUTES}


class Data(metaclass=_DataType, frozen=False):
    """Base of classes with named, typed fields: frozen, with slots, compared by their values.

    Written as a dataclass without its decorator: `class Point(Data):` and the annotated fields, with defaults or
    `dataclasses.field`. `class Point(Data, frozen=False)` has fields that can be set; `kw_only=True` as there.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __getstate__(self) -> list[Any]:
        return [getattr(self, key) for key in self.__dataclass_fields__]

    def __setstate__(self, state: list[Any]) -> None:
        for key, value in zip(self.__dataclass_fields__, state, strict=True):
            object.__setattr__(self, key, value)
