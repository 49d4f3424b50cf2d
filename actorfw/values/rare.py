"""`Rare`: an attribute that few instances of a class with slots ever set.

Responsible for: that the others need no room for it. What is set lies in a dict that only such an instance has, in its
slot `_rare`. Leaves to others: which attributes those are. They take some 0.1 us longer to read than a slot, so none
that is read for each call is one of them.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

__all__ = ["Rare"]

T = TypeVar("T")


class Rare(Generic[T]):
    """Such an attribute.

    Args:
        default: what it is while nobody has set it to anything else; compared by identity.
    """

    __slots__ = ("_default", "_name")

    def __init__(self, default: T) -> None:
        self._default = default
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> T:
        rare = instance._rare
        if rare is None:
            return self._default
        value: T = rare.get(self._name, self._default)
        return value

    def __set__(self, instance: Any, value: T) -> None:
        rare = instance._rare
        if value is not self._default:
            if rare is None:
                instance._rare = {self._name: value}
            else:
                rare[self._name] = value
        elif rare is not None:
            rare.pop(self._name, None)
            if not rare:
                instance._rare = None
