"""The command line: `python -m benchmarks`. Exit status 0 if every target is met, 1 if not, 2 for wrong usage."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from benchmarks.catalogue import WORKLOADS
from benchmarks.comparison import Earlier, changes, load, print_changes
from benchmarks.harness import BenchmarkError, Workload, judge
from benchmarks.machine import Placement, describe
from benchmarks.report import Outcome, as_json, as_markdown, print_outcomes, write_into_page
from benchmarks.rivals.against import COMPETITORS, Competitor, environment
from benchmarks.runner import run
from benchmarks.sizes import Scale

_REPETITIONS = 15
_REPETITIONS_QUICK = 3
_LOG_WIDTH = 200


def _competitors(names: str) -> list[Competitor]:
    unknown = [name for name in names.split(",") if name not in COMPETITORS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(COMPETITORS)}")
    return [COMPETITORS[name] for name in names.split(",")]


def _earlier(file: str) -> Earlier:
    try:
        return load(Path(file))
    except BenchmarkError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures actorfw beside what limits it and what competes with it, and judges its targets.",
    )
    parser.add_argument("--only", action="append", choices=WORKLOADS, metavar="NAME", help=f"{', '.join(WORKLOADS)}")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{_REPETITIONS_QUICK} repetitions, not {_REPETITIONS}, and less work in each where a workload has sizes",
    )
    parser.add_argument("--limits", action="store_true", help="only what needs no actorfw: what this machine can do")
    parser.add_argument(
        "--against",
        type=_competitors,
        default=[],
        metavar="NAMES",
        help=f"measure these, too, where a workload has them: in turn with ours, each in an environment made for it; "
        f"of {','.join(COMPETITORS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE")
    parser.add_argument(
        "--compare",
        type=_earlier,
        metavar="FILE",
        help="say how each row has changed since the run that --json wrote to FILE, and mark what got worse by more "
        "than it scatters",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to FILE, or between its marks")
    return parser.parse_args()


def _measured(
    workload: Workload,
    placement: Placement,
    repetitions: int,
    limits_only: bool,
    scale: Scale,
    against: str = "",
) -> Outcome:
    rival = workload.rivals.get(against)
    claims = workload.claims if rival is None else rival.claims
    repetitions = min(repetitions, workload.most_repetitions or repetitions)
    try:
        series = run(workload, placement, repetitions, limits_only=limits_only, scale=scale, against=against)
    except BenchmarkError as error:
        return Outcome(workload.name, placement, error=str(error))
    return Outcome(workload.name, placement, series, judge(claims, series, placement))


def _failed(outcomes: Iterable[Outcome]) -> bool:
    """A target missed or not measured. One core each is only reported: a machine with a single core is no failure."""
    return any(
        (each.error and each.placement is Placement.ONE_CORE) or any(judged.met is False for judged in each.judged)
        for each in outcomes
    )


def main() -> int:
    """Runs the benchmarks that the command line names."""
    given = _arguments()
    repetitions = _REPETITIONS_QUICK if given.quick else _REPETITIONS
    scale = Scale.QUICK if given.quick else Scale.FULL
    progress = Console(stderr=True)
    machine = {**describe(), "work in each": scale}
    outcomes: list[Outcome] = []
    try:
        for competitor in given.against:
            environment(competitor)
    except BenchmarkError as error:
        progress.print(str(error), style="red", markup=False, highlight=False)
        return 1
    if given.against:
        machine["against"] = ", ".join(map(str, given.against))
    for name in given.only or WORKLOADS:
        workload = WORKLOADS[name]
        if given.limits and not workload.limits:
            continue
        for placement in workload.placements:
            progress.print(f"{name}, {placement} …", highlight=False)
            outcomes.append(_measured(workload, placement, repetitions, given.limits, scale))
        for competitor in given.against:
            if competitor.name in workload.rivals:
                progress.print(f"{name}, against {competitor} …", highlight=False)
                outcomes.append(_measured(workload, Placement.APART, repetitions, False, scale, competitor.name))
    # A log or a pipe has no width of its own to fit the table into.
    output = Console() if sys.stdout.isatty() else Console(width=_LOG_WIDTH)
    print_outcomes(output, machine, repetitions, outcomes)
    if given.compare:
        print_changes(output, machine, given.compare, changes(given.compare, outcomes))
    if given.json:
        given.json.write_text(json.dumps(as_json(machine, repetitions, outcomes), indent=1) + "\n")
    if given.markdown:
        write_into_page(given.markdown, as_markdown(machine, repetitions, outcomes))
    return 1 if _failed(outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
