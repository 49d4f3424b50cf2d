"""How far a generator may be ahead of its consumer, in items and in bytes, and which items it is to send at all.

The producer's end of a stream. Sans-IO; whoever waits for room, and how, is the business of those who run generators.

A producer may be `ITEMS` items ahead and goes on as long as what its consumer has not taken is less than `BYTES`. One
item may be of any size, so at most that and one item are on their way or wait. The consumer gives credit in items, and
the producer remembers how large they were.

A generator that runs again begins at its first item. What the consumer has taken already is not sent again, and does
not count. If it runs again only because some items were lost, those are all that is sent, and it ends with the last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, TypeAlias, cast

__all__ = ["BYTES", "FIRST_ITEM", "ITEMS", "ITEM_BITS", "Allowance", "Credit", "first_of", "more"]

ITEMS: Final = 32
BYTES: Final = 16 * 1024 * 1024

Credit: TypeAlias = int | list[Any]
"""As it travels: how many items may be sent; or [that, number of the first item or 0, how many were taken of an earlier
run, the indices of those that are wanted or None]. Items that stay where they were made are objects, whose numbers
follow one another. 0: this is no stream."""

FIRST_ITEM: Final = 1 << 62
"""The numbers of items are from here on, those of all other objects below."""

ITEM_BITS: Final = 24
"""That many of an item's number are its index. What comes after 16 million others has no number of its own."""


def more(credit: Credit, items: int) -> Credit:
    """The credit of a generator that has not started, when so many more items of an earlier run were taken."""
    return [credit, 0, items, None] if isinstance(credit, int) else [*credit[:2], credit[2] + items, credit[3]]


def first_of(credit: Credit | Allowance) -> int:
    """The number of the first item; 0 if items have none."""
    if isinstance(credit, Allowance):
        return credit.first
    return 0 if isinstance(credit, int) else cast("int", credit[1])


_Form: TypeAlias = tuple[int, int, int, Sequence[int] | None]


class Allowance:
    """What one generator may still send.

    Attributes:
        first: the number of its first item, 0 if items have none.
        closed: its consumer went away.
    """

    __slots__ = ("_ahead", "_left", "_paid", "_sizes", "_skip", "_wanted", "closed", "first")

    def __init__(self, credit: Credit) -> None:
        items, first, taken, wanted = (credit, 0, 0, None) if isinstance(credit, int) else cast("_Form", credit)
        self._wanted = None if wanted is None else frozenset(wanted)
        self._skip = taken
        self._left = items
        self._sizes: deque[int] = deque()  # of the items for which credit is to come
        self._ahead = 0
        self._paid = 0  # items to be sent for which it has come
        self.first = first
        self.closed = False

    def wants(self, index: int) -> bool:
        """Whether this item is to be sent."""
        return index in self._wanted if self._wanted is not None else index >= self._skip

    def over(self, index: int) -> bool:
        """Whether neither this item nor any behind it is to be sent."""
        return self._wanted is not None and all(index > wanted for wanted in self._wanted)

    def there(self) -> bool:
        """Whether the generator can go on, if only to end."""
        return self.closed or self._wanted is not None or (self._left > 0 and self._ahead < BYTES)

    def sent(self, size: int) -> None:
        """An item of so many bytes is sent."""
        self._left -= 1
        if self._paid:
            self._paid -= 1
        else:
            self._sizes.append(size)
            self._ahead += size

    def taken(self, items: int) -> None:
        """The consumer took items, or with a negative number went away."""
        if items < 0:
            self.closed = True
            return
        self._left += items
        sizes = self._sizes
        for _ in range(min(items, len(sizes))):
            self._ahead -= sizes.popleft()
            items -= 1
        self._paid += items
