"""`Marks`: a page that a node shares with its worker processes, where each notes what it starts.

The answers of a worker leave in batches, so what it had sent does not say how far it had come when it died. Before it
starts a task or a call it writes the number of that into its slot: one store to memory, which is there for the node to
read however the process ends. A slot has several words, since an actor starts the calls of each of its concurrency
groups in an order of their own. Where there can be no such page, workers send what they have before they start more.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from typing import Final

from actorfw.runtime.groups import BESIDE

__all__ = ["NO_SLOT", "Marks", "words_by_group", "words_of_slot"]

_WORDS: Final = 8  # a cache line, so that workers on several CPUs don't get in each other's way
_SLOT: Final = struct.Struct(f"@{_WORDS}Q")
_SLOTS: Final = 4096
NO_SLOT: Final = 0xFFFF


class Marks:
    """The node's side of the page.

    Attributes:
        fd: the file behind it, for the process that forks the workers; -1: there is none.
    """

    def __init__(self) -> None:
        self.fd = -1
        self._page: mmap.mmap | None = None
        self._free: list[int] = []
        try:
            self.fd = _file()
            os.ftruncate(self.fd, _SLOTS * _SLOT.size)
            self._page = mmap.mmap(self.fd, _SLOTS * _SLOT.size)
        except OSError:
            self.hand_over()
            return
        self._free = list(range(_SLOTS - 1, -1, -1))

    def hand_over(self) -> None:
        """The other side has the file."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def take(self) -> int:
        """A slot for a new worker, in which nothing is noted; `NO_SLOT` if there is none."""
        if self._page is None or not self._free:
            return NO_SLOT
        slot = self._free.pop()
        _SLOT.pack_into(self._page, slot * _SLOT.size, *([0] * _WORDS))
        return slot

    def read(self, slot: int) -> tuple[int, ...] | None:
        """What a worker has noted, or None if it notes nothing."""
        if self._page is None or slot == NO_SLOT:
            return None
        return _SLOT.unpack_from(self._page, slot * _SLOT.size)

    def give_back(self, slot: int) -> None:
        """The process that had this slot is gone."""
        if slot != NO_SLOT:
            self._free.append(slot)

    def close(self) -> None:
        """All of those processes are gone, or nobody asks any more."""
        self.hand_over()
        if self._page is not None:
            self._page.close()
            self._page = None


def _file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("actorfw-marks")
    import tempfile  # where there is no such file in memory

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def words_of_slot(page: mmap.mmap, slot: int) -> memoryview | None:
    """A worker's own slot: eight numbers that can be set."""
    if slot == NO_SLOT:
        return None
    return memoryview(page)[slot * _SLOT.size : (slot + 1) * _SLOT.size].cast("Q")


def words_by_group(groups: Iterable[str]) -> dict[str, int]:
    """Where the starts of each group's calls are noted; those for which there is no word are told in messages."""
    return dict(zip(("", BESIDE, *groups), range(_WORDS), strict=False))
