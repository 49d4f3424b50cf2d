"""Words that a node uses of values which are on another: what stands for such a value, and what is said of a copy."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["ANY_VERSION", "DECLINED", "HERE", "LEAVES", "SPARE", "Elsewhere", "elsewhere", "is_elsewhere"]

ANY_VERSION: Final = -1

# What a node says of a copy to its owner.
HERE: Final = 1  # it has it
DECLINED: Final = 2  # it does not want it any more
SPARE: Final = 3  # it would rather not keep it
LEAVES: Final = 4  # it can't keep it


class Elsewhere:
    """In the place of a wire value that stays where it was made.

    Attributes:
        life: of the node that has it.
        version: the attempt that made it; 0: a call of an actor.
        size: its bytes.
    """

    __slots__ = ("life", "size", "version")

    def __init__(self, life: bytes, version: int, size: int) -> None:
        self.life = life
        self.version = version
        self.size = size


def is_elsewhere(wire: Any) -> bool:
    """Whether what came in the place of a result's part says that it stays where it was made."""
    return type(wire) is list and bool(wire) and type(wire[0]) is int


def elsewhere(life: bytes, wire: Any, version: int) -> Elsewhere | None:
    """That, in words of this node; None: it is a value."""
    return Elsewhere(life, version, wire[1]) if is_elsewhere(wire) else None
