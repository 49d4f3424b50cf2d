"""How many calls may be on their way to an actor, and how many it takes in: the counting behind back-pressure.

`Window` is the caller's side: what one node has sent to one actor, or to one of its concurrency groups, and does not
know to have started. `Mailbox` is the host's: what the actor has accepted, of all callers, and what stands at its door
because there is no room. What is counted, sent and answered is the business of `runtime.windows`.

A call's answer says that it started, so the usual call needs no message beside its two. Only what is not answered
soon is reported otherwise: calls that run for long beside others, in batches, and of the tells one in so many.

Because a caller stops at the end of its window, nothing that was sent ever has to be sent back: the door holds at most
one window of each calling node and group, in the order of arrival. So no order has to be restored, and a tell need not
be kept by its sender.
"""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar, Final

__all__ = ["BEGUN", "Mailbox", "Window"]

BEGUN: Final = 64
"""Calls that have started and are not answered, of which the host tells at once."""


class Window:
    """What was sent to one actor, or to one of its concurrency groups, and is not known to have started.

    Attributes:
        out: how many calls.
        out_bytes: their arguments.
        limit: `out` must be below it for the next call to go.
    """

    CALLS: ClassVar[int] = 256
    BYTES: ClassVar[int] = 4 << 20
    TELLS: ClassVar[int] = 64

    __slots__ = ("limit", "out", "out_bytes", "told", "told_bytes")

    def __init__(self) -> None:
        self.limit = self.CALLS
        self.out = 0
        self.out_bytes = 0
        self.told = 0  # tells since the last one that is answered
        self.told_bytes = 0

    def sent(self, size: int) -> None:
        """A call left."""
        self.out += 1
        if size:
            self.weigh(size)

    def weigh(self, size: int) -> None:
        """It has arguments of that size. A single call may be larger than the whole window."""
        self.out_bytes += size
        if self.out_bytes >= self.BYTES:
            self.limit = 0

    def began(self, calls: int, size: int) -> None:
        """So many are known to have started, or will never."""
        self.out -= calls
        if size:
            self.lighten(size)

    def lighten(self, size: int) -> None:
        """So much less is on its way."""
        self.out_bytes -= size
        if self.out_bytes < self.BYTES:
            self.limit = self.CALLS

    def tell(self, size: int) -> tuple[int, int] | None:
        """A tell leaves, and was counted as sent. Some must be answered when they start, or the window would close.

        Returns:
            None for most; else how many calls and bytes its answer stands for.
        """
        self.told += 1
        self.told_bytes += size
        if self.told < self.TELLS and 4 * self.told_bytes < self.BYTES:
            return None
        covered = (self.told, self.told_bytes)
        self.told = self.told_bytes = 0
        return covered

    def renew(self) -> None:
        """The actor lives elsewhere now, and nothing has been sent there."""
        self.limit = self.CALLS
        self.out = self.out_bytes = self.told = self.told_bytes = 0


class Mailbox:
    """What an actor has accepted and not started, and what waits until it has room.

    Attributes:
        most: calls that it accepts (`max_pending_calls`).
        pending: those accepted and not started.
        pending_bytes: their arguments.
        limit: `pending` must be below it for the next to be accepted without a further look; -1: look.
        heard: somebody wants to know when calls start.
    """

    BYTES: ClassVar[int] = 64 << 20

    __slots__ = ("door", "heard", "limit", "most", "pending", "pending_bytes")

    def __init__(self, most: int) -> None:
        self.most = self.limit = most
        self.pending = 0
        self.pending_bytes = 0
        self.door: deque[Any] | None = None
        self.heard = False

    def has_room(self) -> bool:
        """Whether one more may be accepted. A single call may be larger than the whole mailbox."""
        return self.pending < self.most and self.pending_bytes < self.BYTES

    def weigh(self, size: int) -> None:
        """What was accepted has arguments of that size."""
        self.pending_bytes += size
        if self.pending_bytes >= self.BYTES:
            self.limit = -1

    def left(self, size: int) -> None:
        """One that was accepted has started, or never will, and was taken off `pending`."""
        if size:
            self.pending_bytes -= size
            if self.door is None and self.pending_bytes < self.BYTES:
                self.limit = self.most

    def wait(self, item: Any) -> None:
        """There is no room: the item stands at the door, and all that comes later stands behind it."""
        if self.door is None:
            self.door = deque()
            self.limit = -1
            self.heard = True
        self.door.append(item)

    def wait_first(self, item: Any) -> None:
        """What was let in from the door has more to come, and is first again."""
        self.wait(item)
        if self.door is not None:
            self.door.rotate(1)

    def admit(self) -> Any:
        """Whatever has waited longest, if there is room for it now; else None."""
        door = self.door
        if door is None or not self.has_room():
            return None
        item = door.popleft()
        if not door:
            self.close_door()
        return item

    def close_door(self) -> list[Any]:
        """Nothing waits any more; what did is given back, in order."""
        door, self.door = self.door, None
        self.heard = False
        self.limit = self.most if self.pending_bytes < self.BYTES else -1
        return list(door or ())

    def emptied(self) -> None:
        """Nothing that was accepted is left."""
        self.pending = self.pending_bytes = 0
        if self.door is None:
            self.limit = self.most
