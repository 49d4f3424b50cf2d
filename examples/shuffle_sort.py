"""Sort more numbers than memory has room for: a shuffle over the nodes of a cluster, which spill what does not fit.

    python examples/shuffle_sort.py --nodes 2 --store-mib 64 --times 3

Each map task makes a part of the data and cuts it by value into as many pieces as there are reduce tasks; each reduce
task merges the pieces that are its own. The pieces go from where they were made to where they are needed, through
shared memory on one machine; those that nobody reads just now go to disk when a node's store is full.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

import actorfw

Numbers: TypeAlias = NDArray[np.uint64]

LARGEST = 1 << 63


class Summary(NamedTuple):
    """What is known of a part: enough to tell whether all of it is there, once, and in order."""

    numbers: int
    total: int  # modulo 2 ** 64
    mixed: int  # all numbers, by exclusive or
    least: int
    greatest: int
    sorted: bool


def summary_of(part: Numbers) -> Summary:
    return Summary(
        len(part),
        int(part.sum(dtype=np.uint64)),
        int(np.bitwise_xor.reduce(part)),
        int(part.min()),
        int(part.max()),
        bool((part[:-1] <= part[1:]).all()),
    )


def make(seed: int, count: int) -> Numbers:
    return np.random.default_rng(seed).integers(0, LARGEST, count, dtype=np.uint64)


@actorfw.remote
def cut(seed: int, count: int, pieces: int) -> tuple[Any, ...]:
    """Make a part of the data and cut it by value; with it, what was in it."""
    part = make(seed, count)
    piece_of = (part // np.uint64(LARGEST // pieces + 1)).astype(np.int64)
    order = np.argsort(piece_of, kind="stable")
    bounds = np.searchsorted(piece_of[order], np.arange(1, pieces))
    return (summary_of(part), *np.split(part[order], bounds))


@actorfw.remote
def merge(*pieces: Numbers) -> Numbers:
    return np.sort(np.concatenate(pieces))


@actorfw.remote
def look_at(part: Numbers) -> Summary:
    return summary_of(part)


def sort(parts: int, count: int) -> tuple[list[actorfw.ObjectRef[Summary]], list[actorfw.ObjectRef[Numbers]]]:
    """What went into it, and the sorted data: parts of ascending numbers."""
    rows: list[Any] = [
        cut.options(num_returns=parts + 1, scheduling="spread").remote(seed, count, parts) for seed in range(parts)
    ]
    merged: list[Any] = [
        merge.options(scheduling="spread").remote(*(row[1 + column] for row in rows)) for column in range(parts)
    ]
    return [row[0] for row in rows], merged


def is_right(before: Sequence[Summary], after: Sequence[Summary]) -> bool:
    """Whether it is the same numbers, in order."""

    def all_of(parts: Sequence[Summary]) -> tuple[int, int, int]:
        mixed = 0
        for part in parts:
            mixed ^= part.mixed
        return sum(part.numbers for part in parts), sum(part.total for part in parts) % (1 << 64), mixed

    in_order = all(one.greatest <= other.least for one, other in itertools.pairwise(after))
    return all(part.sorted for part in after) and in_order and all_of(before) == all_of(after)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=2, help="that work, besides this process")
    parser.add_argument("--store-mib", type=int, default=64, help="shared memory of each")
    parser.add_argument("--times", type=float, default=3, help="how much larger the data is than all of that")
    parser.add_argument("--parts", type=int, default=16)
    options = parser.parse_args(argv)
    store = options.store_mib << 20
    count = int(options.times * options.nodes * store / 8 / options.parts)
    with actorfw.LocalCluster(options.nodes, num_cpus=1, driver_cpus=0, object_store_memory=store):
        before, merged = sort(options.parts, count)
        after = actorfw.get([look_at.remote(part) for part in merged])
        right = is_right(actorfw.get(before), after)
    mib = count * options.parts * 8 / (1 << 20)
    print(f"{mib:.0f} MiB, {options.parts} parts, stores of {options.nodes} x {options.store_mib} MiB:", end=" ")
    print("sorted" if right else "NOT sorted")


if __name__ == "__main__":
    main()
