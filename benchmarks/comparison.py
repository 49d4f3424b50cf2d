"""An earlier run beside this one: how each row of the table has changed, and whether by more than it scatters.

A row that has a limit is compared by its ratio to it, which says more than two figures of a machine that was busy in
another way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import PER_SECOND, BenchmarkError, Judged, Spread
from benchmarks.report import Outcome

__all__ = ["Change", "Earlier", "changes", "load", "print_changes"]

_Key = tuple[str, str, str, str | None]  # the workload, the placement, what the claim says, beside what


@dataclass(frozen=True, slots=True)
class Earlier:
    """A run that was written by `--json`: what it says of its machine, and the value of each row."""

    machine: Mapping[str, str]
    rows: Mapping[_Key, Spread]


@dataclass(frozen=True, slots=True)
class Change:
    """A row of both runs."""

    what: str
    placement: str
    before: Spread
    now: Spread
    more_is_better: bool

    @property
    def ratio(self) -> float:
        """Of the medians, now to before."""
        if self.before.median:
            return self.now.median / self.before.median
        return float("inf") if self.now.median else 1.0

    @property
    def worse(self) -> bool:
        """By more than the samples of the run that scattered more lie apart."""
        loss = self.before.median - self.now.median
        if not self.more_is_better:
            loss = -loss
        return loss > max(self.before.high - self.before.low, self.now.high - self.now.low)


def _key(workload: str, placement: str, what: str, against: str | None) -> _Key:
    return workload, str(placement), what, against


def load(file: Path) -> Earlier:
    """Reads what `--json` wrote.

    Raises:
        BenchmarkError: the file can't be read, or is something else.
    """
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        rows = {
            _key(
                outcome["workload"], outcome["placement"], judged["claim"]["what"], judged["claim"]["against"]
            ): Spread(**(judged["ratio"] or judged["figure"]))
            for outcome in found["outcomes"]
            for judged in outcome["judged"]
        }
        return Earlier(found["machine"], rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{file} can't be compared with: it is no file that --json wrote ({error!r})") from None


def changes(earlier: Earlier, outcomes: Iterable[Outcome]) -> list[Change]:
    """The rows that both runs have, in the order of this one."""
    return [
        Change(
            f"{judged.claim.what}, beside {judged.claim.against}" if judged.claim.against else judged.claim.what,
            str(judged.placement),
            earlier.rows[key],
            judged.ratio or judged.figure,
            _more_is_better(judged),
        )
        for outcome in outcomes
        for judged in outcome.judged
        if (key := _key(outcome.workload, judged.placement, judged.claim.what, judged.claim.against)) in earlier.rows
    ]


def _more_is_better(judged: Judged) -> bool:
    if judged.claim.at_least is not None:
        return True
    return judged.claim.at_most is None and judged.unit.endswith(PER_SECOND)  # throughput, too


def print_changes(console: Console, machine: Mapping[str, str], earlier: Earlier, found: Iterable[Change]) -> None:
    """The table of changes, with what is not the same about the two runs above it."""
    for name, value in machine.items():
        if value != (before := earlier.machine.get(name, "unknown")):
            console.print(f"[bold]earlier {name}[/]: {before}", highlight=False)
    table = Table("what", "cores")
    for heading in ("before: median (min … max)", "now", "now to before", ""):
        table.add_column(heading, justify="right")
    for change in found:
        mark = "[bold red]WORSE[/]" if change.worse else ""
        spreads = (_spread(change.before), _spread(change.now))
        table.add_row(change.what, change.placement, *spreads, f"{change.ratio:.2f} x", mark)
    console.print(table)


def _spread(spread: Spread) -> str:
    return f"{spread.median:,.4g} ({spread.low:,.4g} … {spread.high:,.4g})"
