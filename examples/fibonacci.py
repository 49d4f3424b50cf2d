"""Fibonacci here against Fibonacci in worker processes, with timings; then a recursion of tasks within tasks.

    python examples/fibonacci.py --n 27 --count 8

The recursion shows that a task may wait for tasks of its own: a worker that waits in `actorfw.get` lends its slot, so
that even one slot is enough for any depth.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import actorfw


@actorfw.remote
def fibonacci(n: int) -> int:
    """The slow way, on purpose: this is the work to spread."""
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)  # called without .remote: an ordinary function


@actorfw.remote
def fibonacci_tree(n: int, cutoff: int) -> int:
    """Each call above `cutoff` hands both halves to tasks and waits for them."""
    if n <= cutoff:
        return fibonacci(n)
    return sum(actorfw.get([fibonacci_tree.remote(n - 1, cutoff), fibonacci_tree.remote(n - 2, cutoff)]))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=27)
    parser.add_argument("--count", type=int, default=8, help="how many times to compute it")
    parser.add_argument("--depth", type=int, default=5, help="levels of tasks within tasks")
    options = parser.parse_args(argv)

    started = time.perf_counter()
    local = [fibonacci(options.n) for _ in range(options.count)]
    local_seconds = time.perf_counter() - started

    with actorfw.init():
        actorfw.get(fibonacci.remote(1))  # the first task starts a worker: not part of the timing
        started = time.perf_counter()
        remote = actorfw.get([fibonacci.remote(options.n) for _ in range(options.count)])
        remote_seconds = time.perf_counter() - started
        tree = actorfw.get(fibonacci_tree.remote(options.n, options.n - options.depth))

    assert local == remote == [tree] * options.count
    print(f"fibonacci({options.n}) = {tree}: {options.count} times here, as often by tasks, once by a tree of tasks")
    print(f"here {local_seconds:.3f} s, by tasks {remote_seconds:.3f} s")


if __name__ == "__main__":
    main()
