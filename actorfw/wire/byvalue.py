"""Definitions by value: what cloudpickle does, with our rule of what goes by reference and one class per process.

Imported only when something has to go by value, since cloudpickle is not cheap to import. When a definition has to be
made again is told here too (`Watch`), because it depends on the same globals; where it is kept is `code`'s affair.
"""

from __future__ import annotations

import functools
import io
import pickle
import types
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final, cast

from cloudpickle import cloudpickle

from actorfw.wire import culprit

__all__ = [
    "HEAP_TYPE",
    "Watch",
    "dumps",
    "fill_class",
    "load_captured",
    "loads",
    "make_cached",
    "make_class",
    "parts_of_code",
    "reduce_special",
    "version_of_copy",
]

# Its underscored functions are its stable core (since 1.3), and the only way to decide ourselves what goes by value.
_cloud: Any = cloudpickle

# Stands on a class that was made here from a definition, and says from which version of it. The class that the
# definition was made from does not have it, and is never written to.
_VERSION: Final = "__actorfw_version__"
HEAP_TYPE: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement or its like, not the type of None and so on
_MISSING: Final = object()
_CACHED_FUNCTION: Final[type] = type(functools.lru_cache(id))
# Attributes that refer back to their class, or change with every isinstance().
_NOT_WATCHED: Final = frozenset(("__dict__", "__weakref__", "_abc_impl", _VERSION))

Reference = Callable[[Any], Any]
"""What to pickle for a definition that goes by reference, None if it goes by value."""


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    def __init__(
        self, file: io.BytesIO, reference: Reference, version: Callable[[type], str], refs: Collection[type]
    ) -> None:
        super().__init__(file, protocol=5)
        self._reference = reference
        self._version = version
        self._refs = refs
        self.captured: list[Any] = []

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) in self._refs:
            self.captured.append(obj)
            return load_captured, (len(self.captured) - 1,)
        if isinstance(obj, types.FunctionType):
            reduced = self._reference(obj)
            return self._dynamic_function_reduce(obj) if reduced is None else reduced
        if isinstance(obj, type):
            reduced = self._reference(obj)
            return self._reduce_class(obj) if reduced is None else reduced
        if type(obj) is _CACHED_FUNCTION:
            reduced = self._reference(obj)
            return reduce_special(obj) if reduced is None else reduced
        return NotImplemented

    def _reduce_class(self, cls: type) -> Any:
        if not cls.__flags__ & HEAP_TYPE:
            return _cloud._class_reduce(cls)
        maker, args, state, *_ = _cloud._dynamic_class_reduce(cls)
        return make_class, (maker, args), (self._version(cls), state), None, None, fill_class


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, captured: Sequence[Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._captured = captured

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == __name__ and global_name == "load_captured":
            return self._captured.__getitem__
        return super().find_class(module_name, global_name)


def loads(data: bytes, captured: Sequence[Any]) -> Any:
    """The inverse of `dumps`, with other refs of the same kinds if one likes."""
    return _Unpickler(data, captured).load()


def load_captured(index: int) -> Any:
    """The name under which definitions ask for the refs that they close over."""
    raise pickle.UnpicklingError("this definition closes over refs, which travel beside it")


def dumps(
    obj: object, reference: Reference, version: Callable[[type], str], refs: Collection[type] = ()
) -> tuple[bytes, list[Any]]:
    """Pickle an object with all that it needs and that can't be imported.

    Args:
        obj: a function or class, mostly.
        reference: what to pickle for a function or class that can be imported there; None to go by value.
        version: a word that changes when a class has changed.
        refs: types of what is left out, to travel beside it.

    Returns:
        The bytes, and what was left out of them.
    """
    file = io.BytesIO()
    pickler = _Pickler(file, reference, version, refs)
    pickler.dump(obj)
    return file.getvalue(), pickler.captured


def make_class(maker: Callable[..., type], args: tuple[Any, ...]) -> type:
    """The class of this identity: the one that this process has, else a new and empty one."""
    known: type | None = _cloud._DYNAMIC_CLASS_TRACKER_BY_ID.get(args[-2])
    if known is not None:
        return known
    cls = maker(*args)
    if _VERSION not in cls.__dict__:
        type.__setattr__(cls, _VERSION, "")
    return cls


def fill_class(cls: type, state: tuple[str, Any]) -> type:
    """Give a class its attributes, unless it has them, or is the very class that the definition was made from."""
    version, inner = state
    if cls.__dict__.get(_VERSION, version) != version:
        _cloud._class_setstate(cls, inner)
        type.__setattr__(cls, _VERSION, version)
    return cls


def version_of_copy(cls: type) -> str | None:
    """The version of a class that was made here from a definition; None for all others."""
    return cast("str | None", cls.__dict__.get(_VERSION))


def reduce_special(obj: Any) -> Any:
    """What cloudpickle answers for the built-in types that plain pickle refuses (modules, code, dict views, ...)."""
    kind: type = type(obj)
    if issubclass(kind, type):
        return _cloud._class_reduce(obj)
    if kind is _CACHED_FUNCTION:
        return make_cached, (obj.__wrapped__, obj.cache_parameters())
    return _cloud.Pickler.dispatch_table[kind](obj)


def make_cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """A function under `functools.lru_cache` again, with an empty cache."""
    return functools.lru_cache(**parameters)(function)


class Watch:
    """The names that a by-value definition was made with, and what they meant.

    Follows the globals and closure variables of functions, the attributes of classes, and whatever of these goes by
    value too. Identity counts: a global list that has grown is the same global.

    Args:
        obj: the definition.
        by_value: tells which functions and classes travel inside it.
    """

    __slots__ = ("_cells", "_classes", "_names")

    def __init__(self, obj: object, by_value: Callable[[Any], bool]) -> None:
        self._names: list[tuple[dict[str, Any], str, Any, bool]] = []
        self._cells: list[tuple[weakref.ref[types.FunctionType], int, Any, bool]] = []
        self._classes: list[tuple[weakref.ref[type], int, list[tuple[str, Any, bool]]]] = []
        entered: set[int] = set()
        waiting = [obj]
        while waiting:
            item = waiting.pop()
            if id(item) not in entered:
                entered.add(id(item))
                waiting.extend(self._enter(item, by_value))

    def unchanged(self) -> bool:
        """Whether every name still means the same object."""
        for namespace, name, held, weak in self._names:
            if not _is(namespace.get(name, _MISSING), held, weak):
                return False
        for function, index, held, weak in self._cells:
            closure = getattr(function(), "__closure__", None)
            if closure is None or not _is(_content(closure[index]), held, weak):
                return False
        for reference, count, attributes in self._classes:
            cls = reference()
            if cls is None or len(cls.__dict__) != count:
                return False
            for name, held, weak in attributes:
                if not _is(cls.__dict__.get(name, _MISSING), held, weak):
                    return False
        return True

    def _enter(self, item: Any, by_value: Callable[[Any], bool]) -> Iterator[Any]:
        item = _unwrapped(item)
        if isinstance(item, types.FunctionType):
            if not by_value(item):
                return
            namespace = item.__globals__
            for name in _cloud._extract_code_globals(item.__code__):
                value = namespace.get(name, _MISSING)
                self._names.append((namespace, name, *_held(value)))
                yield value
            for index, cell in enumerate(item.__closure__ or ()):
                value = _content(cell)
                # Not the cell itself: a function that calls itself is in its own, and would never be freed.
                self._cells.append((weakref.ref(item), index, *_held(value)))
                yield value
        elif isinstance(item, type):
            if not by_value(item):
                return
            attributes: list[tuple[str, Any, bool]] = []
            for name, value in list(item.__dict__.items()):
                if name not in _NOT_WATCHED:
                    attributes.append((name, *_held(value)))
                    yield from (value.fget, value.fset, value.fdel) if isinstance(value, property) else (value,)
            self._classes.append((weakref.ref(item), len(item.__dict__), attributes))
            yield from item.__bases__
        elif not isinstance(item, types.ModuleType):
            yield type(item)


def parts_of_code(value: object) -> Iterator[tuple[str, object]]:
    """As `culprit.parts_of`, but also what functions and classes take along by value."""
    if isinstance(value, types.FunctionType):
        for name in _cloud._extract_code_globals(value.__code__):
            if name in value.__globals__:
                yield f" -> the global {name!r}", value.__globals__[name]
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
            yield f" -> the closure variable {name!r}", _content(cell)
        for default in value.__defaults__ or ():
            yield " -> a default of its parameters", default
    elif isinstance(value, type):
        for name, attribute in list(value.__dict__.items()):
            if name not in _NOT_WATCHED:
                yield f".{name}", _unwrapped(attribute)
        for base in value.__bases__:
            yield f" -> the base class {base.__name__}", base
    else:
        yield from culprit.parts_of(value)


def _held(value: Any) -> tuple[Any, bool]:
    # An id would not do, since the next object often gets the same one. Strongly only what can't be held weakly.
    if isinstance(value, (types.FunctionType, type)):
        return weakref.ref(value), True
    return value, False


def _is(value: Any, held: Any, weak: bool) -> bool:
    # A reference to what is gone gives None, and None may be what the name means now.
    return (value is not None and held() is value) if weak else held is value


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return _MISSING


def _unwrapped(value: Any) -> Any:
    if isinstance(value, (staticmethod, classmethod)):
        return cast("Any", value).__func__
    if isinstance(value, property):
        return value.fget
    if isinstance(value, (types.FunctionType, type)):
        return value
    try:
        inner = getattr(value, "__wrapped__", None)
    except Exception:  # user code, which is only asked whether it wraps something
        return value
    return inner if isinstance(inner, (types.FunctionType, type)) else value
