"""Add up many numbers with tasks of two arguments: as a chain, and as a tree.

    python examples/tree_aggregation.py --values 32 --work 0.02

Both do the same number of additions. In the chain each waits for the one before it; in the tree the additions of one
level run side by side, and the depth is the logarithm of the count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import actorfw


@actorfw.remote
def add(x: int, y: int, work: float) -> int:
    """An addition that takes `work` seconds."""
    time.sleep(work)
    return x + y


def chain(values: Sequence[int], work: float) -> tuple[int, int]:
    """The sum, and how many additions had to wait for each other."""
    total = actorfw.put(values[0])
    for value in values[1:]:
        total = add.remote(total, value, work)
    return actorfw.get(total), len(values) - 1


def tree(values: Sequence[int], work: float) -> tuple[int, int]:
    """The sum, and how many levels of additions it took."""
    level = [actorfw.put(value) for value in values]
    depth = 0
    while len(level) > 1:
        odd = level[len(level) - len(level) % 2 :]
        level = [add.remote(x, y, work) for x, y in zip(level[::2], level[1::2], strict=False)] + odd
        depth += 1
    return actorfw.get(level[0]), depth


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=32)
    parser.add_argument("--work", type=float, default=0.02, help="seconds per addition")
    options = parser.parse_args(argv)
    values = range(1, options.values + 1)
    with actorfw.init():
        actorfw.get([add.remote(1, 1, 0.0) for _ in range(8)])  # starts the workers: not part of the timings
        for name, aggregate in (("chain", chain), ("tree", tree)):
            started = time.perf_counter()
            total, depth = aggregate(values, options.work)
            seconds = time.perf_counter() - started
            print(f"{name}: sum {total}, depth {depth}, {seconds:.2f} s")


if __name__ == "__main__":
    main()
