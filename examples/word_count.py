"""Count words by map-reduce: one map task for each file, one reduce task for each part of the alphabet of hashes.

    python examples/word_count.py README.md docs/*.md

Each map task returns its counts in as many parts as there are reducers (`num_returns`), so that every reducer fetches
its own parts straight from where they were made and nothing is collected in between.
"""

from __future__ import annotations

import argparse
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import actorfw

SAMPLE = """Whatever can be done by one can be done by many, if the work can be cut
into parts that do not need each other and the parts can be put together again."""


def part_of(word: str, parts: int) -> int:
    """Which reducer counts this word. `hash()` differs between processes for strings; a checksum does not."""
    return zlib.crc32(word.encode()) % parts


@actorfw.remote
def count_words(text: str, parts: int) -> list[dict[str, int]]:
    """Map: the words of one text, counted, in `parts` parts."""
    counted: list[dict[str, int]] = [{} for _ in range(parts)]
    for word, n in Counter(re.findall(r"[^\W\d_]+", text.lower())).items():
        counted[part_of(word, parts)][word] = n
    return counted


@actorfw.remote
def add_up(*counted: dict[str, int]) -> dict[str, int]:
    """Reduce: the sum of the same part of all texts."""
    total: Counter[str] = Counter()
    for words in counted:
        total.update(words)
    return dict(total)


def word_count(texts: Sequence[str], parts: int) -> Counter[str]:
    """Count the words of all texts. Needs a node."""
    mapped = [count_words.options(num_returns=parts).remote(text, parts) for text in texts]
    reduced = [add_up.remote(*map(actorfw.arg, part)) for part in zip(*mapped, strict=True)]
    total: Counter[str] = Counter()
    for words in actorfw.get(reduced):
        total.update(words)
    return total


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="text files; none: a sample of two lines")
    parser.add_argument("--parts", type=int, default=3, help="how many reduce tasks, at least 2")
    parser.add_argument("--top", type=int, default=5)
    options = parser.parse_args(argv)
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in options.files] or SAMPLE.splitlines()
    with actorfw.init():
        counted = word_count(texts, max(2, options.parts))
    print(f"{counted.total()} words, {len(counted)} different, in {len(texts)} texts")
    for word, n in sorted(counted.items(), key=lambda item: (-item[1], item[0]))[: options.top]:
        print(f"{n:6d} {word}")


if __name__ == "__main__":
    main()
