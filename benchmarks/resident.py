"""The memory of a group of processes, from Linux's `/proc/PID/smaps`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

__all__ = ["proportional", "shared_once", "with_descendants"]

_KIB = 1024


def with_descendants(pid: int) -> list[int]:
    """The process and all that descend from it."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def proportional(pids: Sequence[int]) -> int:
    """Bytes by PSS: a page that n processes map counts 1/n for each, also when some of them are not in the group."""
    return sum(sizes["Pss"] for pid in pids for _, sizes in _mappings(pid)) * _KIB


def shared_once(pids: Sequence[int]) -> int:
    """Bytes that the group would occupy on a machine without other processes: private pages, plus shared ones once.

    Unlike PSS it does not shrink when unrelated Python processes happen to map the same libraries.
    """
    total = 0
    files: dict[str, int] = {}
    for pid in pids:
        for file, sizes in _mappings(pid):
            if not file:
                # Anonymous pages are shared by forking only, so within the group: their PSS adds up to once.
                total += sizes["Pss"]
                continue
            total += sizes["Private_Clean"] + sizes["Private_Dirty"]
            shared = sizes["Shared_Clean"] + sizes["Shared_Dirty"]
            files[file] = max(files.get(file, 0), shared)
    return (total + sum(files.values())) * _KIB


def _mappings(pid: int) -> Iterator[tuple[str, dict[str, int]]]:
    """Each mapping: which part of which file it is ("" if of none), and its sizes in KiB."""
    file = ""
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, colon, value = line.partition(":")
        if colon and value.endswith(" kB"):
            sizes[name] = int(value[:-3])
        elif not colon or " " in name:  # "7f00-7f01 r-xp offset device inode path" begins the next one
            if sizes:
                yield file, sizes
            _range, _permissions, offset, device, inode, *_path = line.split(maxsplit=5)
            file = "" if inode == "0" else f"{device} {inode} {offset}"
            sizes = {}
    if sizes:
        yield file, sizes
