"""Finds the part of a value that can't be pickled, after pickling the whole has failed.

Searching costs nothing as long as everything can be pickled, and gives errors such as `args[1].db.conn`. What to try
and where to look next are handed in; this module knows how ordinary objects are made of parts.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, cast

__all__ = ["find", "parts_of"]

_NEVER_FAIL: Final = frozenset((type(None), bool, int, float, complex, str, bytes, bytearray))
# A search through a very large value ends here, with the path as far as it has come.
_MOST_TRIES: Final = 200_000

Parts = Iterable[tuple[str, object]]


def find(
    value: object,
    path: str,
    failure: Exception,
    attempt: Callable[[object], Exception | None],
    parts: Callable[[object], Parts] | None = None,
) -> tuple[str, object, Exception]:
    """The innermost part that fails although none of its own parts does.

    Args:
        value: what failed as a whole, with `failure`.
        path: what to call it.
        attempt: tries to pickle one part; the exception, or None.
        parts: the named parts of an object (default `parts_of`).

    Returns:
        The part's path, the part, and why it can't be pickled.
    """
    parts = parts or parts_of
    # An object that fails is entered once, so circles end. `kept` keeps parts alive, for ids to stay theirs.
    kept: list[object] = [value]
    entered = {id(value)}
    fine: set[int] = set()
    stack = [(path, value, failure, iter(parts(value)))]
    dead_ends: set[int] = set()
    tries = 0
    while stack:
        path, part, failure, rest = stack[-1]
        for suffix, inner in rest:
            if type(inner) in _NEVER_FAIL or id(inner) in fine:
                continue
            if id(inner) in entered:
                dead_ends.add(id(part))  # it may fail only because of what it points back to
                continue
            tries += 1
            if tries > _MOST_TRIES:
                return path, part, failure
            kept.append(inner)
            inner_failure = attempt(inner)
            if inner_failure is None:
                fine.add(id(inner))
            else:
                entered.add(id(inner))
                stack.append((path + suffix, inner, inner_failure, iter(parts(inner))))
                break
        else:
            if id(part) not in dead_ends or len(stack) == 1:
                return path, part, failure
            stack.pop()
    raise AssertionError("the search returns from its outermost part at the latest")


def parts_of(value: object) -> Iterator[tuple[str, object]]:
    """The parts that pickling an object would visit, each with what it is called: `[3]`, `['key']`, `.attribute`."""
    kind = type(value)
    if isinstance(value, dict):
        yield from _items(value.items())
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(cast("list[object]", value)):
            yield f"[{index}]", item
    elif isinstance(value, (set, frozenset)):
        for item in cast("set[object]", value):
            yield f"{{{_short(item)}}}", item
    if kind in (dict, list, tuple, set, frozenset):
        return
    for suffix, part in _reduced_parts(value):
        if not isinstance(part, type):
            yield suffix, part


def _reduced_parts(value: object) -> Iterator[tuple[str, object]]:
    try:
        reducer = copyreg.dispatch_table.get(type(value))
        reduced: Any = reducer(value) if reducer else value.__reduce_ex__(5)
    except Exception:  # user code; then the object itself is what fails
        return  # then the object itself is what fails
    if not isinstance(reduced, tuple):
        return
    padded: tuple[Any, ...] = (*reduced, None, None, None, None)
    arguments, state, items, pairs = padded[1:5]
    yield from _state(value, state)
    plain = "args" if isinstance(value, BaseException) else "__reduce__()[1]"
    for index, argument in enumerate(arguments or ()):
        yield _name_of(value, argument, f".{plain}[{index}]"), argument
    for index, item in enumerate(items or ()):
        yield f"[{index}]", item
    yield from _items(pairs or ())


def _state(owner: object, state: Any) -> Iterator[tuple[str, object]]:
    # Either the attributes, or (attributes, slots), or what __getstate__ made of them.
    halves: tuple[Any, ...] = state if isinstance(state, tuple) else (state,)
    for index, half in enumerate(halves):
        if isinstance(half, dict):
            for name, part in half.items():
                yield f".{name}", part
        elif half is not None:
            yield (
                _name_of(owner, half, f".__getstate__()[{index}]" if isinstance(state, tuple) else ".__getstate__()"),
                half,
            )


def _items(pairs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, object]]:
    for key, item in pairs:
        yield f"[{_short(key)}]", item
        yield f" key {_short(key)}", key


def _name_of(owner: object, part: object, otherwise: str) -> str:
    for name in ("__self__", "func", "args", "keywords", *getattr(owner, "__dict__", ())):
        try:
            if getattr(owner, name, None) is part:
                return f".{name}"
        except Exception:  # a property of the user's
            continue
    return otherwise


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # user code
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."
