"""`--compare`: what of an earlier run is found again, which way is worse, and by how much it must be to be marked."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.comparison import Change, changes, load, print_changes
from benchmarks.harness import BenchmarkError, Claim, Series, Spread, judge
from benchmarks.machine import Placement
from benchmarks.report import Outcome, as_json

CLAIMS = (
    Claim("calls", "ours", "limit", at_least=0.5),
    Claim("calls, alone", "ours"),
    Claim("time", "start", at_most=1.0),
)


def run_with(ours: list[float], start: list[float]) -> Outcome:
    series = [Series("ours", "/s", ours), Series("limit", "/s", [100.0] * len(ours)), Series("start", "s", start)]
    return Outcome("some", Placement.ONE_CORE, series, judge(CLAIMS, series, Placement.ONE_CORE))


def compared(tmp_path: Path, before: Outcome, now: Outcome) -> list[Change]:
    file = tmp_path / "earlier.json"
    file.write_text(json.dumps(as_json({"date": "then"}, 3, [before])))
    return changes(load(file), [now])


def test_rows_are_compared_by_ratio_where_they_have_one_and_else_by_figure(tmp_path: Path) -> None:
    found = compared(tmp_path, run_with([50, 51, 52], [0.5, 0.5, 0.5]), run_with([51, 51, 51], [0.5, 0.5, 0.5]))
    assert [(change.before.median, change.now.median) for change in found] == [(0.51, 0.51), (51, 51), (0.5, 0.5)]
    assert not any(change.worse for change in found)
    assert [change.ratio for change in found] == [1, 1, 1]


def test_worse_is_less_of_what_should_be_much_and_more_of_what_should_be_little(tmp_path: Path) -> None:
    slow, fast = run_with([40, 41, 42], [0.8, 0.8, 0.8]), run_with([60, 61, 62], [0.5, 0.5, 0.5])
    assert all(change.worse for change in compared(tmp_path, fast, slow))
    assert not any(change.worse for change in compared(tmp_path, slow, fast))


def test_a_change_within_what_either_run_scatters_is_not_marked() -> None:
    steady, scattered = Spread(100, 99, 101), Spread(90, 80, 100)
    assert not Change("x", "one core", steady, scattered, more_is_better=True).worse
    assert not Change("x", "one core", scattered, Spread(80, 79, 81), more_is_better=True).worse
    assert Change("x", "one core", steady, Spread(90, 89, 91), more_is_better=True).worse


def test_a_count_that_was_nothing_and_is_something_is_worse() -> None:
    change = Change("left", "one core", Spread(0, 0, 0), Spread(8, 8, 8), more_is_better=False)
    assert change.worse
    assert change.ratio == float("inf")


def test_rows_that_only_one_run_has_are_left_out(tmp_path: Path) -> None:
    before = run_with([1, 1, 1], [1, 1, 1])
    assert compared(tmp_path, before, Outcome("other", Placement.ONE_CORE, before.series, before.judged)) == []
    assert compared(tmp_path, Outcome("some", Placement.ONE_CORE, error="not measured"), before) == []


def test_what_got_worse_stands_out_and_so_does_another_machine(tmp_path: Path) -> None:
    file = tmp_path / "earlier.json"
    file.write_text(json.dumps(as_json({"date": "then"}, 3, [run_with([60, 61, 62], [0.5, 0.5, 0.5])])))
    earlier = load(file)
    page = Console(file=io.StringIO(), width=200)
    print_changes(page, {"date": "now"}, earlier, changes(earlier, [run_with([40, 41, 42], [0.5, 0.5, 0.5])]))
    assert isinstance(page.file, io.StringIO)
    text = page.file.getvalue()
    assert "earlier date: then" in text
    assert text.count("WORSE") == 2


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"machine": {}, "outcomes": [{}]}'])
def test_another_file_is_refused_with_its_name(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "other.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BenchmarkError, match=r"other\.json can't be compared with"):
        load(file)
