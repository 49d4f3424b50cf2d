"""How rows look to people."""

from __future__ import annotations

from typing import Any

import pytest

from actorfw.cli import tables

NODE: dict[str, Any] = {
    "name": "a",
    "address": "10.0.0.5:7700",
    "state": "up",
    "answered": True,
    "resources": {"CPU": 4.0, "memory": float(8 << 30)},
    "available": {"CPU": 1.0, "memory": float(1 << 30)},
    "tasks_running": 3,
    "tasks_waiting": 0,
    "tasks_finished": 17,
    "actors": 2,
    "workers": 3,
}


def test_what_was_refused_is_shown_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = {"limit": 10, "now": 1, "most": 2, "refused": 0}
    tables.show_status([{**NODE, "limits": {"connections": quiet}}])
    assert "connections" not in capsys.readouterr().out
    tables.show_status([{**NODE, "limits": {"connections": quiet, "half_open": {**quiet, "refused": 5}}}])
    out = capsys.readouterr().out
    assert "connections" not in out
    assert out.splitlines()[-1].split("  ")[0] == "a"
    assert out.splitlines()[-1].split() == ["a", "half", "open", "5", "10", "1", "2"]


def test_who_gave_no_answer_is_shown_as_far_as_it_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    silent = {"name": "b", "address": "10.0.0.6:7700", "state": "stalled", "answered": False}
    tables.show_status([NODE, silent])
    lines = capsys.readouterr().out.splitlines()
    assert "1 CPU, 1.0 GiB" in lines[-2]
    assert "stalled, no answer" in lines[-1]


def test_no_cell_is_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    tables.table(["id", "why"], [["x" * 60, "[red]y[/red]" * 10]])
    assert f"{'x' * 60}   {'[red]y[/red]' * 10}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59, "59 s"), (61, "1 min"), (3600, "1 h 0 min"), (-5, "0 s")]
)
def test_ages(seconds: float, text: str) -> None:
    assert tables.age(1000.0 - seconds, 1000.0) == text
    assert tables.age(None, 1000.0) == "-"


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (5 << 40, "5120.0 GiB")]
)
def test_bytes(amount: int, text: str) -> None:
    assert tables.size(amount) == text


def test_what_was_given_up() -> None:
    report = {"node": "a", "heir": None, "seconds": 1.25, "tasks": 1, "calls": 0, "actors": 2, "objects": 0}
    assert tables.given_up(report) == "node a left after 1.2 s and gave up 1 task, 2 actors"
    assert tables.given_up({**report, "tasks": 0, "actors": 0}) == ""
