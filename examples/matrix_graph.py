"""A graph of tasks: two matrices are created side by side, a third task multiplies them.

    python examples/matrix_graph.py --size 800

The refs that `create.remote` returns are arguments of `multiply.remote`: it starts when both values are there, and
gets arrays, not refs. Nothing passes through this script but the final product.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

import actorfw

Matrix = npt.NDArray[np.float64]


@actorfw.remote
def create(size: int, seed: int) -> Matrix:
    """A square matrix of small whole numbers, so that products are exact."""
    return np.random.default_rng(seed).integers(0, 10, (size, size)).astype(np.float64)


@actorfw.remote
def multiply(a: Matrix, b: Matrix) -> Matrix:
    """The matrix product."""
    return a @ b


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=800)
    options = parser.parse_args(argv)
    with actorfw.init():
        product = actorfw.get(multiply.remote(create.remote(options.size, 1), create.remote(options.size, 2)))
    here = multiply(create(options.size, 1), create(options.size, 2))
    assert np.array_equal(product, here)
    print(f"{options.size} x {options.size}: trace {np.trace(product):.0f}, the same as computed here")


if __name__ == "__main__":
    main()
