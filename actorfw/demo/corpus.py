"""What the demo reads: Python files, their words, and the index of who has which. Knows nothing of clusters."""

from __future__ import annotations

import os
import re
import sysconfig
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from actorfw.values.errors import UsageError

__all__ = ["Chunk", "Counts", "Tally", "chunks", "count", "count_plainly", "files_in", "part_of", "standard_library"]

WORD: Final = re.compile(rb"[A-Za-z_][A-Za-z_0-9]*")
CHUNK_BYTES: Final = 256 * 1024
FOREIGN: Final = frozenset(
    {"site-packages", "dist-packages"}
)  # installed packages lie inside the standard library's folder

Counts: TypeAlias = "Counter[bytes]"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some files, which one task counts: (number, path) each."""

    number: int
    files: tuple[tuple[int, str], ...]


@dataclass(slots=True)
class Tally:
    """Words with their number, and words with the numbers of the files that have them."""

    totals: Counts = field(default_factory=Counter)
    index: dict[bytes, list[int]] = field(default_factory=dict)

    def add(self, file: int, counts: Counts) -> None:
        """Enter one file."""
        totals, index = self.totals, self.index
        for word, n in counts.items():
            totals[word] += n
            index.setdefault(word, []).append(file)

    def merge(self, other: Tally) -> None:
        """Enter what has no word in common with this."""
        self.totals.update(other.totals)
        self.index.update(other.index)

    def in_order(self) -> Tally:
        """Itself, with the files of each word in order."""
        for files in self.index.values():
            files.sort()
        return self


def standard_library() -> str:
    """The folder of the running Python's standard library."""
    return sysconfig.get_path("stdlib")


def files_in(folder: str) -> list[str]:
    """All `.py` files below a folder that can be read, sorted; installed packages are left out.

    Raises:
        UsageError: there is no such folder, or no such file in it.
    """
    if not Path(folder).is_dir():
        raise UsageError(f"--path is {folder!r}: there is no such folder")
    found = sorted(path for path in _walk(folder) if os.path.isfile(path) and os.access(path, os.R_OK))
    if not found:
        raise UsageError(f"--path is {folder!r}: there is no .py file in it that can be read")
    return found


def _walk(folder: str) -> Iterator[str]:
    for here, folders, names in os.walk(os.path.abspath(folder)):
        folders[:] = [name for name in folders if name not in FOREIGN]
        yield from (os.path.join(here, name) for name in names if name.endswith(".py"))


def chunks(files: Sequence[str], at_least: int) -> list[Chunk]:
    """Cut the files into portions of about the same size, `at_least` so many where there are enough files."""
    sizes = [os.path.getsize(path) for path in files]
    portion = min(CHUNK_BYTES, sum(sizes) // at_least + 1)
    made: list[Chunk] = []
    held: list[tuple[int, str]] = []
    size = 0
    for number, path in enumerate(files):
        held.append((number, path))
        size += sizes[number]
        if size >= portion:
            made.append(Chunk(len(made), tuple(held)))
            held, size = [], 0
    if held:
        made.append(Chunk(len(made), tuple(held)))
    return made


def count(path: str) -> Counts:
    """The words of one file."""
    with open(path, "rb") as file:
        return Counter(WORD.findall(file.read()))


def part_of(word: bytes, parts: int) -> int:
    """Which of `parts` reducers a word belongs to; the same in every process, as `hash` is not."""
    return zlib.crc32(word) % parts


def count_plainly(files: Iterable[str], done: Callable[[], None]) -> Tally:
    """The whole job in this process, for comparison; `done` is called after each file."""
    tally = Tally()
    for number, path in enumerate(files):
        tally.add(number, count(path))
        done()
    return tally
