"""What `actorfw top` shows, at any size of the terminal."""

from __future__ import annotations

from typing import Any

import pytest

from actorfw.cli.topview import TopView, with_rates


def answer(nodes: int, tasks: int = 0, time: float = 100.0, done: int = 0) -> dict[str, Any]:
    rows = [
        {
            "id": f"{i:x}",
            "name": f"node-{i}",
            "state": "up",
            "answered": True,
            "resources": {"CPU": 2.0},
            "available": {"CPU": 2.0 - (i == 0)},
            "tasks_running": i,
            "tasks_waiting": 0,
            "tasks_finished": done * i,
            "actors": 0,
            "resident_bytes": 1 << 20,
        }
        for i in range(nodes)
    ]
    known = [
        {"name": f"task-{i}", "state": "running", "since": 90.0, "node": "node-0", "attempt": 1, "id": f"{i:040x}"}
        for i in range(tasks)
    ]
    return {"rows": rows, "tasks": known, "actors": [], "tasks_total": tasks, "silent": [], "time": time}


def test_rates_come_of_two_answers() -> None:
    first = answer(2, done=10)
    assert [row["tasks_per_second"] for row in with_rates(first, None)["rows"]] == [None, None]
    second = with_rates(answer(3, time=102.0, done=30), first)
    assert [row["tasks_per_second"] for row in second["rows"]] == [0.0, 10.0, None]
    reborn = with_rates(answer(2, time=103.0, done=1), answer(2, time=102.0, done=30))
    assert reborn["rows"][1]["tasks_per_second"] == 0.0


@pytest.mark.parametrize("width", [20, 60, 80, 200])
@pytest.mark.parametrize("height", [5, 12, 24, 60])
@pytest.mark.parametrize("nodes", [0, 1, 3, 100])
def test_it_never_is_larger_than_the_terminal(width: int, height: int, nodes: int) -> None:
    view = TopView("default", asked="node-0", answer=with_rates(answer(nodes, 300), None))
    lines = view.lines(width, height)
    assert len(lines) == height
    assert max(len(text) for text, _ in lines) <= width
    assert lines[-1][0].startswith(" q quit")
    assert len(lines[-1][0]) == width


def test_half_of_the_lines_are_for_nodes_at_most() -> None:
    view = TopView("default", asked="node-0", answer=with_rates(answer(100, 300), None))
    text = [line for line, _ in view.lines(80, 24)]
    assert sum(line.startswith("node-") for line in text) == 8
    assert "and 92 more nodes" in text
    assert sum(line.startswith("task-") for line in text) == 9


def test_keys() -> None:
    view = TopView("default", answer=with_rates(answer(3, 300), None))

    def names(of: str) -> list[str]:
        return [text.split()[0] for text, _ in view.lines(80, 24) if text.startswith(of)]

    assert names("task-")[0] == "task-0"
    page = len(names("task-"))
    for key, first in (("down", 1), ("pagedown", page + 1), ("up", page), ("pageup", 0), ("up", 0)):
        assert view.key(key)
        assert names("task-")[0] == f"task-{first}"
    for _ in range(100):
        view.key(" ")
    assert names("task-")[-1] == "task-299"
    view.key("home")
    assert names("task-")[0] == "task-0"
    assert names("node-") == ["node-0", "node-1", "node-2"]
    view.key("s")
    assert names("node-") == ["node-2", "node-1", "node-0"]
    view.key("a")
    assert names("task-") == []
    assert view.key("?")
    assert not view.key("q")


def test_who_is_silent_stands_out() -> None:
    given = answer(2)
    given["rows"][1] = {"id": "1", "name": "node-1", "state": "stalled", "answered": False}
    given["silent"] = ["node-1"]
    lines = TopView("default", answer=with_rates(given, None)).lines(80, 24)
    assert ("no answer from node-1", "bold red") in lines
    (row,) = [(text, style) for text, style in lines if text.startswith("node-1")]
    assert "no answer" in row[0]
    assert row[1] == "red"
