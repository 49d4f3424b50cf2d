"""Estimate pi by throwing darts: many `def` tasks with numpy, each in a worker process.

    python examples/monte_carlo_pi.py --darts 20000000 --batches 40

A plain script: `with actorfw.init()` starts a node beside it and `actorfw.get` waits for its answers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

import actorfw


@actorfw.remote
def hits(darts: int, seed: int) -> int:
    """How many of `darts` random points of the unit square lie within the quarter circle."""
    x, y = np.random.default_rng(seed).random((2, darts))
    return int(np.count_nonzero(x * x + y * y <= 1.0))


def estimate(darts: int, batches: int, seed: int) -> float:
    """Spread `darts` over `batches` tasks. Needs a node."""
    per_batch = darts // batches
    inside = actorfw.get([hits.remote(per_batch, seed + batch) for batch in range(batches)])
    return 4 * sum(inside) / (per_batch * batches)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--darts", type=int, default=20_000_000)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    with actorfw.init():
        pi = estimate(options.darts, options.batches, options.seed)
    print(f"pi is about {pi:.4f} after {options.darts} darts in {options.batches} tasks")


if __name__ == "__main__":
    main()
