"""How much memory there is and how much of it is in use: of this machine, and of the control groups around us.

Linux tells it in files, of both versions of control groups; elsewhere psutil does. What is read is what counts for the
kernel's decision to kill: caches that it could drop are not in use.
"""

from __future__ import annotations

import os
from typing import Final, Protocol

from actorfw.values.data import Data

__all__ = ["Memory", "MemoryMeter", "MemoryReading", "MemoryTop"]

_PAGE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_UNLIMITED: Final = 1 << 60  # version 1 writes a number near 2**63 where there is no limit


class MemoryReading(Data):
    """Memory in use, where it is scarcest.

    Attributes:
        used: bytes in use.
        limit: bytes that there are.
        of: whose memory that is, for people.
    """

    used: int
    limit: int
    of: str

    @property
    def share(self) -> float:
        """How full it is, from 0 to 1."""
        return self.used / self.limit if self.limit else 0.0


class MemoryTop(Data):
    """A process and the memory that is its own."""

    pid: int
    name: str
    own: int


class Memory(Protocol):
    """Who tells a node how full memory is. Any thread."""

    def read(self) -> MemoryReading:
        """The fullest of the machine and the control groups."""
        ...

    def own(self, pid: int) -> int:
        """Bytes that only this process has, so that they would be free if it ended; 0 if there is none."""
        ...

    def top(self, count: int) -> list[MemoryTop]:
        """The processes with the most memory, of those that can be seen. Takes some ms: for a thread."""
        ...


class MemoryMeter:
    """Reads memory. Finding the control groups costs once; a reading costs some 50 us.

    Args:
        root: where "/proc" and "/sys" are to be found; another than "/" in tests.
    """

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._proc = os.path.join(root, "proc")
        self._groups = self._find_groups()

    def limit(self) -> int:
        """Bytes that the processes of this machine, or of the tightest control group around this one, may use in all.

        0 where nobody knows.
        """
        limits = [self._machine().limit, *(found.limit for found in self._read_groups())]
        return min((limit for limit in limits if limit), default=0)

    def read(self) -> MemoryReading:
        """See `Memory.read`."""
        return max([self._machine(), *self._read_groups()], key=lambda reading: reading.share)

    def own(self, pid: int) -> int:
        """See `Memory.own`."""
        try:
            with open(os.path.join(self._proc, str(pid), "statm"), "rb") as file:
                fields = file.read().split()
            return (int(fields[1]) - int(fields[2])) * _PAGE
        except (OSError, IndexError, ValueError):
            if os.path.exists(os.path.join(self._proc, "meminfo")):
                return 0
        import psutil  # where there is no /proc

        try:
            return int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            return 0

    def top(self, count: int) -> list[MemoryTop]:
        """See `Memory.top`."""
        import psutil  # 30 ms, and only this needs it

        found: list[MemoryTop] = []
        for process in psutil.process_iter(["pid", "name"]):
            pid: int = process.info["pid"]
            found.append(MemoryTop(pid, process.info["name"] or "?", self.own(pid)))
        return sorted(found, key=lambda one: -one.own)[:count]

    def _machine(self) -> MemoryReading:
        try:
            fields = _fields(os.path.join(self._proc, "meminfo"))
            total, available = fields["MemTotal:"], fields["MemAvailable:"]
            return MemoryReading((total - available) * 1024, total * 1024, "this machine")
        except (OSError, KeyError, ValueError):
            pass
        import psutil  # where there is no /proc

        memory = psutil.virtual_memory()
        return MemoryReading(memory.total - memory.available, memory.total, "this machine")

    def _find_groups(self) -> list[tuple[str, bool]]:
        """(folder, whether version 2) of the control groups around this process whose files can be seen."""
        try:
            with open(os.path.join(self._proc, "self", "cgroup"), encoding="utf-8") as file:
                rows = [line.rstrip("\n").split(":", 2) for line in file]
            with open(os.path.join(self._proc, "self", "mountinfo"), encoding="utf-8", errors="replace") as file:
                mounts = [line.split() for line in file]
        except OSError:
            return []
        found: list[tuple[str, bool]] = []
        for mount in mounts:
            if "-" not in mount[:-1]:
                continue
            kind, options = mount[mount.index("-") + 1], mount[-1].split(",")
            if kind == "cgroup2":
                inside = next((row[2] for row in rows if len(row) == 3 and row[0] == "0"), None)
            elif kind == "cgroup" and "memory" in options:
                inside = next((row[2] for row in rows if len(row) == 3 and "memory" in row[1].split(",")), None)
            else:
                continue
            if inside is None:
                continue
            at = os.path.join(self._root, mount[4].lstrip("/"))
            # In a container the path is often the host's, of which the mount shows the end only.
            begin = mount[3].rstrip("/")
            rest = inside[len(begin) :] if begin and inside.startswith(begin) else inside
            parts = [part for part in rest.split("/") if part and part != ".."]
            for depth in range(len(parts), -1, -1):
                folder = os.path.join(at, *parts[:depth])
                name = "memory.current" if kind == "cgroup2" else "memory.usage_in_bytes"
                if os.path.exists(os.path.join(folder, name)):
                    found.append((folder, kind == "cgroup2"))
        return found

    def _read_groups(self) -> list[MemoryReading]:
        readings: list[MemoryReading] = []
        for folder, second in self._groups:
            try:
                limit = _number(os.path.join(folder, "memory.max" if second else "memory.limit_in_bytes"))
                if limit is None:
                    continue
                used = _number(os.path.join(folder, "memory.current" if second else "memory.usage_in_bytes")) or 0
                stat = _fields(os.path.join(folder, "memory.stat"))
            except (OSError, ValueError):
                continue  # the group is gone, or may not be read any more
            # Files that nobody used lately: the kernel drops them before it kills anybody.
            used -= stat.get("inactive_file" if second else "total_inactive_file", 0)
            readings.append(MemoryReading(max(0, used), limit, f"the control group {folder}"))
        return readings


def _number(path: str) -> int | None:
    with open(path, encoding="ascii") as file:
        text = file.read().strip()
    if text == "max":
        return None
    number = int(text)
    return number if number < _UNLIMITED else None


def _fields(path: str) -> dict[str, int]:
    found: dict[str, int] = {}
    with open(path, encoding="ascii") as file:
        for line in file:
            name, value, *_ = line.split()
            found[name] = int(value)
    return found
