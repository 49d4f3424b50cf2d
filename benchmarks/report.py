"""What the reader sees: one table of claims, on a terminal or as Markdown, and the same as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import PER_SECOND, Claim, Judged, Series, Spread
from benchmarks.machine import Placement

__all__ = ["Outcome", "as_json", "as_markdown", "print_outcomes", "write_into_page"]

_HEADINGS = ("what", "cores", "measured: median (min … max)", "limit or competitor", "ratio", "target", "met")
_BEGIN, _END = "<!-- figures: begin -->", "<!-- figures: end -->"
_TIMES = "x"  # the unit of a ratio


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one workload at one placement."""

    workload: str
    placement: Placement
    series: list[Series] = field(default_factory=list[Series])
    judged: list[Judged] = field(default_factory=list[Judged])
    error: str | None = None


def print_outcomes(console: Console, machine: Mapping[str, str], repetitions: int, outcomes: Iterable[Outcome]) -> None:
    """The table for a terminal, the machine above it."""
    for name, value in _heading(machine, repetitions):
        console.print(f"[bold]{name}[/]: {value}", highlight=False)
    table = Table(*_HEADINGS[:2])
    for heading in _HEADINGS[2:]:
        table.add_column(heading, justify="right")
    failures: list[str] = []
    for outcome in outcomes:
        for cells in _rows(outcome):
            style = {"yes": "green", "NO": "bold red"}.get(cells[-1])
            table.add_row(*cells[:-1], f"[{style}]{cells[-1]}[/]" if style else cells[-1])
        if outcome.error:
            failures.append(f"{outcome.workload}, {outcome.placement}: {outcome.error}")
    console.print(table)
    for failure in failures:
        console.print(f"not measured: {failure}", style="red", markup=False, highlight=False)


def as_markdown(machine: Mapping[str, str], repetitions: int, outcomes: Iterable[Outcome]) -> str:
    """The table for a page of the documentation."""
    lines = [f"- {name}: {value}" for name, value in _heading(machine, repetitions)]
    lines += ["", f"| {' | '.join(_HEADINGS)} |", "|---|---|" + "--:|" * (len(_HEADINGS) - 2)]
    for outcome in outcomes:
        lines += [f"| {' | '.join(cell.replace(chr(10), '<br>') for cell in cells)} |" for cells in _rows(outcome)]
        if outcome.error:
            reason = outcome.error.replace("\n", "<br>")
            lines.append(f"| {outcome.workload} | {outcome.placement} | not measured: {reason} | | | | |")
    return "\n".join(lines) + "\n"


def write_into_page(page: Path, table: str) -> None:
    """Writes the table to a file; into one that has the two marks, between them, leaving the rest as it is."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    before, begin, rest = text.partition(_BEGIN)
    _old, end, after = rest.partition(_END)
    page.write_text(f"{before}{begin}\n\n{table}\n{end}{after}" if end else table, encoding="utf-8")


def as_json(machine: Mapping[str, str], repetitions: int, outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Everything that was measured, sample by sample."""
    return {"machine": dict(machine), "repetitions": repetitions, "outcomes": [asdict(each) for each in outcomes]}


def _heading(machine: Mapping[str, str], repetitions: int) -> list[tuple[str, str]]:
    return [*machine.items(), ("repetitions", f"{repetitions}, after one that is not counted")]


def _rows(outcome: Outcome) -> list[Sequence[str]]:
    """A row per claim; where no claim could be judged, for want of actorfw's half, a row per contestant."""
    if not outcome.judged:
        figures = [(each, _spread(Spread.over(each.samples), each.unit)) for each in outcome.series]
        return [(each.name, str(outcome.placement), figure, "", "", "", "") for each, figure in figures]
    return [
        (
            judged.claim.what,
            str(judged.placement),
            _spread(judged.figure, judged.unit),
            f"{judged.claim.against}:\n{_spread(judged.limit, judged.unit)}" if judged.limit else "",
            _spread(judged.ratio, _TIMES) if judged.ratio else "",
            "reported" if judged.met is None else _target(judged.claim, judged.unit),
            "" if judged.met is None else "yes" if judged.met else "NO",
        )
        for judged in outcome.judged
    ]


def _target(claim: Claim, unit: str) -> str:
    unit = _TIMES if claim.against else unit
    if claim.at_least is not None:
        return f"≥ {_quantity(claim.at_least, unit)}"
    return f"≤ {_quantity(claim.at_most or 0, unit)}"


def _spread(spread: Spread, unit: str) -> str:
    return f"{_quantity(spread.median, unit)} ({_number(spread.low, unit)} … {_number(spread.high, unit)})"


def _quantity(value: float, unit: str) -> str:
    shown = "ms" if unit == "s" else unit
    return f"{_number(value, unit)}{'' if unit == PER_SECOND else ' '}{shown}"


def _number(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value * 1e3:,.1f}"
    if unit == _TIMES:
        return f"{value:.2f}"
    return f"{value:,.1f}" if unit == "MiB" else f"{value:,.0f}"
