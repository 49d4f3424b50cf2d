"""A run that came to a wrong result is no measurement."""

from __future__ import annotations

from benchmarks.harness import BenchmarkError

__all__ = ["check"]


def check(what: str, found: object, expected: object) -> None:
    """The two must be equal.

    Raises:
        BenchmarkError: they are not.
    """
    if found != expected:
        raise BenchmarkError(f"{what}: the program came to {found!r}, and {expected!r} is right")
