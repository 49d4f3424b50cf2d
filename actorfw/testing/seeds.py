"""`simulated`: a test in virtual time, once for each of many seeds; says how to run the one that failed again."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

from actorfw.testing.loop import LIMIT, run
from actorfw.values.errors import UsageError

__all__ = ["SEED", "SEEDS", "simulated"]

SEED: Final = "ACTORFW_SIM_SEED"
"""This environment variable names the only seed to run."""

SEEDS: Final = "ACTORFW_SIM_SEEDS"
"""This one says how many to run, whatever the tests say."""

_Test = Callable[..., Coroutine[Any, Any, None]]


def simulated(seeds: int = 20, *, limit: float = LIMIT) -> Callable[[_Test], Callable[..., None]]:
    """Make a plain test of a coroutine function: it is run for each seed, in a loop and a virtual time of its own.

        @simulated(seeds=100)
        async def test_nothing_is_lost(seed: int) -> None:
            async with SimCluster(nodes=3, seed=seed) as cluster:
                ...

    The first argument is the seed; others, such as pytest's fixtures, are passed on. `ACTORFW_SIM_SEEDS=2000` runs more
    seeds, `ACTORFW_SIM_SEED=17` a single one; the exception of a seed that fails has a note with the command for it.

    Args:
        seeds: how many to run, from 0 on; at least 1.
        limit: virtual seconds that each may take.

    Raises:
        UsageError: `seeds` is no such number, or what is decorated is no coroutine function with an argument.
    """
    if type(seeds) is not int or seeds < 1:
        raise UsageError(f"simulated(seeds={seeds!r}): seeds must be an integer, 1 or more")

    def decorate(test: _Test) -> Callable[..., None]:
        first, *others = inspect.signature(test).parameters.values() or (None,)
        if first is None or not inspect.iscoroutinefunction(test):
            raise UsageError(f"simulated: {test!r} must be a coroutine function that takes a seed")

        @functools.wraps(test)
        def run_seeds(*args: Any, **kwargs: Any) -> None:
            for seed in _chosen(seeds):
                try:
                    run(test(seed, *args, **kwargs), limit=limit)
                except BaseException as error:
                    error.add_note(f"seed {seed} failed; run it again with: {_command(test, seed)}")
                    raise

        # pytest asks for what a test takes: the seed is not among its fixtures.
        run_seeds.__signature__ = inspect.Signature(others)  # type: ignore[attr-defined]
        del run_seeds.__wrapped__
        return run_seeds

    return decorate


def _chosen(seeds: int) -> range:
    one = os.environ.get(SEED)
    return range(int(one), int(one) + 1) if one else range(int(os.environ.get(SEEDS) or seeds))


def _command(test: _Test, seed: int) -> str:
    hashing = os.environ.get("PYTHONHASHSEED")
    fixed = f"PYTHONHASHSEED={hashing} " if hashing else ""
    path = inspect.getsourcefile(test) or "?"
    name = test.__qualname__.replace(".", "::")
    return f"{fixed}{SEED}={seed} {os.path.basename(sys.executable)} -m pytest {os.path.relpath(path)}::{name}"
