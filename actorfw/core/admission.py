"""Whose turn it is to bring bytes in: a line that lets in as many as may be on their way together, by their bytes.

Sans-IO. Leaves to others: what is brought in, from where and to where (`runtime.store.pulls`).

Rules:

1. In the order of asking. Nobody is overtaken, so a large one gets its turn.
2. Those who are in have at most `most` bytes together. One that has more by itself goes in alone.
3. Who is in waits for nobody who is in the line, or both would wait for ever: whoever can't go on leaves, and comes
   again behind the others.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["Admission"]

Key = TypeVar("Key")


class Admission(Generic[Key]):
    """One line.

    Args:
        most: bytes that those who are in may have together.

    Attributes:
        bytes: that they have.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0
        self._inside: dict[Key, int] = {}
        self._line: OrderedDict[Key, int] = OrderedDict()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._line)

    def enter(self, key: Key, size: int, *, at_once: bool = False) -> bool:
        """Ask to be let in; True: it is, or was before. `at_once`: its bytes are on their way already."""
        if key in self._inside:
            return True
        if key in self._line and not at_once:
            return False
        if at_once or (not self._line and self._fits(size)):
            self._line.pop(key, None)
            self._inside[key] = size
            self.bytes += size
            return True
        self._line[key] = size
        return False

    def leave(self, key: Key) -> list[Key]:
        """It is through, or gives up; returns those who are let in now."""
        self._line.pop(key, None)
        self.bytes -= self._inside.pop(key, 0)
        found: list[Key] = []
        while self._line:
            first = next(iter(self._line))
            if not self._fits(self._line[first]):
                break
            size = self._line.pop(first)
            self._inside[first] = size
            self.bytes += size
            found.append(first)
        return found

    def _fits(self, size: int) -> bool:
        return not self._inside or self.bytes + size <= self.most

    def validate(self) -> None:
        """Raises AssertionError if the books are wrong."""
        assert self.bytes == sum(self._inside.values())
        assert not set(self._inside) & set(self._line)
        assert self._inside or not self._line, "somebody waits for nobody"
