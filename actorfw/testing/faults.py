"""What a simulated node has in the place of its machine's memory and disk: both do what a test says.

`SteadyMemory` is as full as it is told to be. `MemoryFiles` keeps spilled objects in this process; it can be full,
read-only, and lose or damage what was written.
"""

from __future__ import annotations

import errno
import zlib

from actorfw.io.memory import MemoryReading, MemoryTop
from actorfw.io.spillfiles import SpillFile, SpillFileError

__all__ = ["MemoryFiles", "SteadyMemory"]


class SteadyMemory:
    """Memory whose use only a test changes.

    Attributes:
        used: bytes in use.
        limit: bytes that there are.
        of_process: bytes that a process has, by its number.
    """

    def __init__(self) -> None:
        self.used = 0
        self.limit = 8 << 30
        self.of_process: dict[int, int] = {}

    def read(self) -> MemoryReading:
        """See `Memory.read`."""
        return MemoryReading(self.used, self.limit, "this simulated machine")

    def own(self, pid: int) -> int:
        """See `Memory.own`."""
        return self.of_process.get(pid, 0)

    def top(self, count: int) -> list[MemoryTop]:
        """See `Memory.top`."""
        largest = sorted(self.of_process.items(), key=lambda item: -item[1])[:count]
        return [MemoryTop(pid, "simulated", own) for pid, own in largest]


class MemoryFiles:
    """Spill files that are none.

    Attributes:
        files: what was written, by its name: a test may take one away, shorten or change it.
        size: of the disk in bytes.
        read_only: whether nothing can be written.
        held: how many bytes there are.
    """

    def __init__(self, size: int = 1 << 30) -> None:
        self.where = "memory:"
        self.files: dict[str, bytearray] = {}
        self.size = size
        self.read_only = False
        self.held = 0
        self.closed = False

    def write(self, number: int, view: memoryview) -> SpillFile:
        """See `SpillFiles.write`."""
        if self.read_only:
            raise OSError(errno.EROFS, "Read-only file system", self.where)
        if self.held + view.nbytes > self.size:
            raise OSError(errno.ENOSPC, f"no room for {view.nbytes:,} bytes", self.where)
        name = f"{self.where}{number}"
        self.files[name] = bytearray(view)
        self.held += view.nbytes
        return SpillFile(name, view.nbytes, zlib.crc32(view))

    def read(self, file: SpillFile, into: memoryview) -> None:
        """See `SpillFiles.read`."""
        found = self.files.get(file.name)
        if found is None:
            raise SpillFileError(f"the spill file {file.name} can't be opened: No such file or directory")
        if len(found) != file.nbytes:
            raise SpillFileError(f"the spill file {file.name} was cut short: {file.nbytes:,} bytes had been written")
        if zlib.crc32(found) != file.crc:
            raise SpillFileError(
                f"the spill file {file.name} was changed: its checksum is not that of what was written"
            )
        into[:] = found

    def is_there(self, file: SpillFile) -> bool:
        """See `SpillFiles.is_there`."""
        return len(self.files.get(file.name, b"")) == file.nbytes

    def make(self, number: int, nbytes: int) -> tuple[SpillFile, int]:
        """See `SpillFiles.make`."""
        raise OSError(errno.ENOTSUP, "these files can't be mapped", self.where)

    def open(self, file: SpillFile) -> int:
        """See `SpillFiles.open`."""
        raise SpillFileError(f"the spill file {file.name} can't be mapped")

    def verify(self, file: SpillFile, view: memoryview) -> None:
        """See `SpillFiles.verify`."""
        raise SpillFileError(f"the spill file {file.name} can't be mapped")

    def remove(self, file: SpillFile) -> None:
        """See `SpillFiles.remove`."""
        self.held -= file.nbytes
        self.files.pop(file.name, None)

    def room(self) -> int | None:
        """See `SpillFiles.room`."""
        return self.size - self.held

    def sweep(self) -> int:
        """See `SpillFiles.sweep`."""
        return 0

    def close(self) -> None:
        """See `SpillFiles.close`."""
        self.closed = True
        self.files.clear()
