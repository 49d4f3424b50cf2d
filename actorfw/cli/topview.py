"""What `actorfw top` shows: the answers of the cluster in, lines of text out. No terminal, no clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from actorfw.cli.tables import age, size

__all__ = ["TopView", "with_rates"]

Row: TypeAlias = Mapping[str, Any]
Column: TypeAlias = tuple[str, int, Callable[[Row], str]]
"""Its head; its width, negative where numbers stand to the right, 0 for what is left; and its text."""

_NODES_SHARE: Final = 0.5  # of the lines, at most, for nodes
_NAME: Final = 12  # columns that a name has at least
_SORTS: Final = ("name", "running", "done/s", "memory")


def with_rates(answer: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """The answer, each node with the tasks that it has done per second since the answer before; None if unknown."""
    was = {row["id"]: row.get("tasks_finished") for row in before["rows"]} if before else {}
    seconds = answer["time"] - before["time"] if before else 0.0
    rows: list[dict[str, Any]] = []
    for row in answer["rows"]:
        done, earlier = row.get("tasks_finished"), was.get(row["id"])
        rate = None if done is None or earlier is None or seconds <= 0 else max(0.0, (done - earlier) / seconds)
        rows.append({**row, "tasks_per_second": rate})
    return {**answer, "rows": rows}


@dataclass
class TopView:
    """What is shown of the last answer.

    Attributes:
        cluster: its name.
        asked: the member that answers.
        note: something that went wrong, for the first line.
        what: "tasks" or "actors" below the nodes.
        sort: of the nodes.
        at: how many rows of the lower table are scrolled away.
    """

    cluster: str
    asked: str = ""
    note: str = ""
    what: str = "tasks"
    sort: str = "name"
    at: int = 0
    answer: Mapping[str, Any] = field(default_factory=dict[str, Any])
    _page: int = 10

    def key(self, key: str) -> bool:
        """A key was pressed; False if it ends the view."""
        if key in ("q", "Q"):
            return False
        if key in ("t", "a"):
            self.what = "tasks" if key == "t" else "actors"
            self.at = 0
        elif key == "s":
            self.sort = _SORTS[(_SORTS.index(self.sort) + 1) % len(_SORTS)]
        elif key in ("down", "j"):
            self.at += 1
        elif key in ("up", "k"):
            self.at -= 1
        elif key in ("pagedown", " "):
            self.at += self._page
        elif key in ("pageup", "b"):
            self.at -= self._page
        elif key == "home":
            self.at = 0
        self.at = max(0, self.at)
        return True

    def lines(self, width: int, height: int) -> list[tuple[str, str]]:
        """The screen, as (text, style), each line at most `width` wide, `height` of them at most."""
        answer = self.answer
        rows = sorted(answer.get("rows", ()), key=self._order)
        made = [*self._head(rows), ("", "")]
        room = max(1, height - len(made) - 4)  # heads of both tables, a gap, the last line
        shown = rows[: max(1, min(len(rows), int(room * _NODES_SHARE)))]
        made += _table(_NODES, shown, width)
        more = len(rows) - len(shown)
        made.append((f"and {more} more nodes" if more else "", ""))
        below: Sequence[Row] = answer.get(self.what, ())
        left = max(1, height - len(made) - 2)
        self._page = left
        self.at = min(self.at, max(0, len(below) - left))
        made += _table(_TASKS if self.what == "tasks" else _ACTORS, below[self.at : self.at + left], width, answer)
        made += [("", "")] * (height - len(made) - 1)
        made.append((self._last(len(below), left), "reverse"))
        return [(text[:width], style) for text, style in made[: height - 1]] + [
            (made[-1][0].ljust(width)[:width], "reverse")
        ]

    def _order(self, row: Row) -> tuple[float, str]:
        name = {"running": "tasks_running", "done/s": "tasks_per_second", "memory": "resident_bytes"}.get(self.sort)
        return (-float(row.get(name) or 0) if name else 0.0), row["name"]

    def _head(self, rows: Sequence[Row]) -> list[tuple[str, str]]:
        answer = self.answer
        clock = time.strftime("%H:%M:%S", time.localtime(answer["time"])) if answer else "--:--:--"
        silent = answer.get("silent", ())
        first = f"actorfw top  {clock}  cluster {self.cluster}, {len(rows)} nodes, asked by way of {self.asked}"
        free = sum((row.get("available") or {}).get("CPU", 0) for row in rows)
        cpus = sum((row.get("resources") or {}).get("CPU", 0) for row in rows)
        rates = [row["tasks_per_second"] for row in rows if row["tasks_per_second"] is not None]
        running, waiting = (sum(row.get(key) or 0 for row in rows) for key in ("tasks_running", "tasks_waiting"))
        second = (
            f"tasks: {running} running, {waiting} waiting, {f'{sum(rates):.1f}' if rates else '-'} done/s;"
            f" {sum(row.get('actors') or 0 for row in rows)} actors; CPUs: {cpus - free:g} of {cpus:g} taken"
        )
        note = self.note or (f"no answer from {', '.join(silent)}" if silent else "")
        return [(first, "bold"), (second, ""), *([(note, "bold red")] if note else [])]

    def _last(self, there: int, room: int) -> str:
        place = f"{self.at + 1}-{min(there, self.at + room)} of {there}" if there else "none"
        other = "a actors" if self.what == "tasks" else "t tasks"
        return f" q quit  {other}  s sort: {self.sort}  arrows, pages scroll  {self.what} {place}"


def _table(
    columns: Sequence[Column], rows: Sequence[Row], width: int, answer: Mapping[str, Any] | None = None
) -> list[tuple[str, str]]:
    while (rest := width - sum(abs(column[1]) + 1 for column in columns if column[1])) < _NAME and len(columns) > 1:
        columns = columns[:-1]  # rather a name than all the rest
    now = answer["time"] if answer else 0.0

    def line(cells: Sequence[str]) -> str:
        parts: list[str] = []
        for (_, wide, _), cell in zip(columns, cells, strict=True):
            room = abs(wide) or max(1, rest)
            cut = cell if len(cell) <= room else cell[: room - 1] + "…"
            parts.append(cut.rjust(room) if wide < 0 else cut.ljust(room))
        return " ".join(parts)

    made = [(line([head for head, _, _ in columns]), "underline")]
    for row in rows:
        style = "" if row.get("answered", True) and row.get("state") not in ("suspect", "stalled") else "red"
        made.append((line([text({**row, "now": now}) for _, _, text in columns]), style))
    return made


def _count(key: str) -> Callable[[Row], str]:
    return lambda row: "-" if row.get(key) is None else str(row[key])


def _cpus(row: Row) -> str:
    if not row.get("resources"):
        return "-"
    there = row["resources"].get("CPU", 0)
    return f"{there - row['available'].get('CPU', 0):g}/{there:g}"


def _rate(row: Row) -> str:
    return "-" if row["tasks_per_second"] is None else f"{row['tasks_per_second']:.1f}"


def _memory(row: Row) -> str:
    return "-" if row.get("resident_bytes") is None else size(row["resident_bytes"])


def _state(row: Row) -> str:
    return str(row["state"]) if row["answered"] else "no answer"


_NODES: Final[Sequence[Column]] = (
    ("NODE", 0, lambda row: row["name"]),
    ("STATE", 9, _state),
    ("CPU", -7, _cpus),
    ("RUN", -5, _count("tasks_running")),
    ("WAIT", -7, _count("tasks_waiting")),
    ("DONE/S", -8, _rate),
    ("ACTORS", -6, _count("actors")),
    ("MEMORY", -9, _memory),
)
_TASKS: Final[Sequence[Column]] = (
    ("TASK", 0, lambda row: row["name"]),
    ("STATE", 9, lambda row: row["state"].partition("_")[0]),
    ("FOR", -7, lambda row: age(row["since"], row["now"])),
    ("NODE", 16, lambda row: row["node"]),
    ("TRY", -3, lambda row: str(row["attempt"])),
    ("ID", 12, lambda row: row["id"][-12:]),
)
_ACTORS: Final[Sequence[Column]] = (
    ("ACTOR", 0, lambda row: row["class_name"]),
    ("WAITING CALLS", -13, lambda row: str(row["waiting"])),
    ("NODE", 16, lambda row: row["node"]),
    ("LIFE", -4, lambda row: str(row["incarnation"])),
    ("ID", 16, lambda row: row["id"][-16:]),
)
