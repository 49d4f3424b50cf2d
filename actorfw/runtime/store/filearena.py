"""`FileArena`: one block that lies in a file of its own, for what the arena has no room for while all in it is in use.

It is read and written as any other block; the kernel keeps of it in memory what there is room for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from actorfw.io.sharedmem import SharedMemory
from actorfw.io.spillfiles import HEADER

if TYPE_CHECKING:
    from actorfw.runtime.store.arena import Arena
    from actorfw.runtime.store.blocks import Block

__all__ = ["FILE", "FileArena", "attach_file"]

FILE: Final = b"file:"
"""How the token of such an arena begins; the file's path follows."""


class FileArena:
    """In the place of an `Arena` for one block.

    Args:
        home: the arena whose block it is, or was.
        memory: the file, or memory of this process alone.
        offset: of the block in it.

    Attributes:
        home, memory, offset: as given.
        token: names the file for processes that may open it; empty: there is none.
    """

    def __init__(self, home: Arena, memory: SharedMemory, offset: int, token: bytes = b"") -> None:
        self.home = home
        self.memory = memory
        self.offset = offset
        self.token = token
        self.spiller = home.spiller
        self.now = home.now
        memory.hold()

    @classmethod
    def of_file(cls, home: Arena, fd: int) -> FileArena:
        """Over a spill file, whose descriptor is this object's from now on."""
        path = f"/proc/{os.getpid()}/fd/{fd}"  # the file has no other name
        return cls(home, SharedMemory.attach(fd, readonly=False), HEADER, FILE + path.encode())

    @classmethod
    def on_heap(cls, home: Arena, nbytes: int) -> FileArena:
        """Over memory of this process: for files that can't be mapped."""
        return cls(home, SharedMemory.anonymous(max(1, nbytes)), 0)

    def dropped(self, block: Block) -> None:
        """See `Arena.dropped`."""
        block.offset = -1  # its arena has nothing to free
        self.memory.close()
        self.home.dropped(block)


def attach_file(token: bytes) -> SharedMemory:
    """The memory behind the token of a `FileArena`, in another process of its node.

    Raises:
        OSError: the file is gone, or may not be opened here.
    """
    memory = SharedMemory.attach(os.open(token[len(FILE) :], os.O_RDWR | os.O_CLOEXEC), readonly=False)
    try:
        memory.hold()
    finally:
        fd, memory.fd = memory.fd, -1
        os.close(fd)
    return memory
