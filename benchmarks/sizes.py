"""How much work one measurement does: all of it, less for `--quick`, next to nothing to see that it runs.

The size is chosen by the runner for the whole measuring process, which reads it from its environment.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["VARIABLE", "Scale", "Sizes"]

VARIABLE = "BENCHMARKS_SCALE"


class Scale(StrEnum):
    """Of every workload that has sizes."""

    FULL = "full"
    QUICK = "quick"
    SMALLEST = "smallest"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many of whatever a workload counts, at each scale."""

    full: int
    quick: int
    smallest: int

    def now(self) -> int:
        """At the scale of this process; all of it where nobody chose one."""
        match Scale(os.environ.get(VARIABLE, Scale.FULL)):
            case Scale.FULL:
                return self.full
            case Scale.QUICK:
                return self.quick
            case Scale.SMALLEST:
                return self.smallest
