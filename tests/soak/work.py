"""What runs in the chaos: tasks and actors that leave a mark wherever they start, which no kill can unmake."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import actorfw

__all__ = ["Account", "async_task", "marks", "nested", "orders", "stats", "sum_of", "sync_task"]

_files: dict[tuple[int, str], int] = {}


def mark(folder: str, number: int, who: str = "task") -> None:
    """Say that this call has started: in a file of this process, so that kills lose nothing."""
    key = (os.getpid(), f"{folder}/{who}")
    fd = _files.get(key)
    if fd is None:
        path = f"{folder}/{who}.{os.getpid()}.{threading.get_ident()}"
        fd = _files[key] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, b"%d\n" % number)


def close() -> None:
    """Close the files of this process."""
    while _files:
        os.close(_files.popitem()[1])


def marks(folder: str) -> Counter[int]:
    """How often each call has started."""
    found: Counter[int] = Counter()
    for path in Path(folder).iterdir():
        found.update(int(line) for line in path.read_text().split())
    return found


def files(folder: str) -> list[Path]:
    return list(Path(folder).iterdir())


def orders(folder: str, who: str) -> list[list[int]]:
    """In which order the calls of an actor started, in each process that it was in."""
    return [[int(line) for line in path.read_text().split()] for path in Path(folder).glob(f"{who}.*")]


@actorfw.remote(num_cpus=1)
def sync_task(folder: str, number: int) -> int:
    mark(folder, number)
    return 2 * number


@actorfw.remote(num_cpus=0)
async def async_task(folder: str, number: int) -> int:
    mark(folder, number)
    await asyncio.sleep(0.01)
    return 2 * number


@actorfw.remote(num_cpus=0)
async def nested(folder: str, number: int) -> list[Any]:
    """Refs of values that were put on the node where this runs."""
    mark(folder, number)
    return [actorfw.put(list(range(number, number + 2000))), actorfw.put(number)]


@actorfw.remote(num_cpus=0)
async def sum_of(folder: str, number: int, refs: list[Any]) -> int:
    mark(folder, number)
    total = 0
    for ref in refs:
        value = await ref
        total += value if isinstance(value, int) else sum(value)
    return total


@actorfw.remote(num_cpus=0)
class Account(actorfw.Actor):
    """Marks what it is asked to do, in order."""

    def __init__(self, folder: str, who: str) -> None:
        self.folder, self.who = folder, who

    async def add(self, number: int) -> int:
        mark(self.folder, number, self.who)
        await asyncio.sleep(0)
        return 2 * number


@actorfw.remote(num_cpus=0)
async def stats() -> dict[str, int]:
    """What the process of a node holds."""
    return stats_here()


def stats_here() -> dict[str, int]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "KiB": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        "tasks": len(asyncio.all_tasks()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }
