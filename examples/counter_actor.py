"""A counter that many tasks share: an actor, its state in one place, its calls one at a time.

    python examples/counter_actor.py --tasks 20 --increments 50

Twenty tasks in worker processes call it at the same time; none of the increments is lost and no lock is needed.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

import actorfw


class Counter(actorfw.Actor):
    """Counts. An `async def` method makes it live on a node's event loop, at the cost of about an object."""

    def __init__(self, start: int = 0) -> None:
        self.n = start

    async def add(self, k: int = 1) -> int:
        """The count after adding `k`."""
        self.n += k
        return self.n


@actorfw.remote
def work(counter: Counter, increments: int) -> int:
    """Runs in a worker process; the handle it was given works there as it does anywhere."""
    for _ in range(increments):
        actorfw.get(counter.add())
    return increments


async def count(tasks: int, increments: int) -> int:
    counter = Counter.remote()
    done = await asyncio.gather(*[work.remote(counter, increments) for _ in range(tasks)])
    assert sum(done) == tasks * increments
    return await counter.add(0)


async def run(tasks: int, increments: int) -> None:
    async with actorfw.init():
        total = await count(tasks, increments)
    print(f"{tasks} tasks added {increments} each: the counter stands at {total}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--increments", type=int, default=50)
    options = parser.parse_args(argv)
    actorfw.run(run(options.tasks, options.increments))


if __name__ == "__main__":
    main()
