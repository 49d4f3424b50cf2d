"""How listings look: tables for people, JSON for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from actorfw.runtime.rows import DrainReport
from actorfw.values.events import Event

__all__ = [
    "given_up",
    "show_actors",
    "show_drained",
    "show_event",
    "show_nodes",
    "show_objects",
    "show_status",
    "table",
]

Row = Mapping[str, Any]


def show_nodes(rows: Sequence[Row], *, as_json: bool) -> None:
    """Members, one a line."""
    if as_json:
        print(json.dumps(list(rows), indent=2))
        return
    table(
        ["name", "id", "address", "state", "resources", "labels"],
        (
            [row["name"], row["id"], row["address"], row["state"], _amounts(row["resources"]), _pairs(row["labels"])]
            for row in rows
        ),
    )


def show_actors(rows: Sequence[Row], *, as_json: bool) -> None:
    """Actors, one a line."""
    if as_json:
        print(json.dumps(list(rows), indent=2))
        return
    table(
        ["id", "name", "namespace", "class", "state", "node", "restarts", "detached"],
        (
            [
                row["id"],
                row["name"] or "",
                row["namespace"] or "",
                row["class_name"],
                row["state"],
                row["node"],
                str(row["restarts"]),
                "yes" if row["detached"] else "",
            ]
            for row in rows
        ),
    )


def show_objects(rows: Sequence[Row], *, as_json: bool) -> None:
    """Objects, one a line."""
    if as_json:
        print(json.dumps(list(rows), indent=2))
        return
    now = time.time()
    table(
        ["id", "size", "state", "owner", "at", "age", "held by", "made by", "suspect"],
        (
            [
                row["id"],
                _size(row["size"]),
                row["state"],
                row["owner"],
                ", ".join(row["nodes"]),
                "-" if row["created_at"] is None else _age(now - row["created_at"]),
                ", ".join(row["holders"]),
                row["line"],
                row["suspect"],
            ]
            for row in rows
        ),
    )


def show_status(rows: Sequence[Row], *, as_json: bool) -> None:
    """What members have and do, one a line."""
    if as_json:
        print(json.dumps(list(rows), indent=2))
        return
    table(
        ["name", "address", "state", "free", "of", "tasks run", "waiting", "done", "actors", "workers"],
        (
            [
                row["name"],
                row["address"],
                row["state"],
                _amounts(row.get("available")),
                _amounts(row.get("resources")),
                *(
                    str(row.get(key, "-"))
                    for key in ("tasks_running", "tasks_waiting", "tasks_finished", "actors", "workers")
                ),
            ]
            for row in rows
        ),
    )


def show_event(event: Event, *, as_json: bool) -> None:
    """Something that happened, in one line, at once."""
    fields = event.as_dict()
    if as_json:
        print(json.dumps(fields), flush=True)
        return
    kind = fields.pop("kind")
    when = fields.pop("time", None)
    clock = time.strftime("%H:%M:%S", time.localtime(when)) if isinstance(when, float) else "--:--:--"
    if "error" in fields:
        fields["error"] = str(fields["error"]).strip().rpartition("\n")[2]
    print(clock, kind, *(f"{name}={value}" for name, value in fields.items() if value != ""), flush=True)


def show_drained(report: DrainReport, *, as_json: bool) -> None:
    """How a node left."""
    if as_json:
        print(json.dumps(report.as_dict(), indent=2))
    elif report.complete:
        heir = f"; node {report.heir} has taken over what others hold of it" if report.heir is not None else ""
        print(f"node {report.node} left in {report.seconds:.1f} s{heir}")
    else:
        print(given_up(report))


def given_up(report: DrainReport) -> str:
    """What a node had to give up when it left."""
    lost = {"task": report.tasks, "call": report.calls, "actor": report.actors, "object": report.objects}
    parts = [f"{count} {kind}{'s' * (count != 1)}" for kind, count in lost.items() if count]
    return f"node {report.node} left after {report.seconds:.1f} s and gave up {', '.join(parts)}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table to stdout."""
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    made = Table(*head, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    console = Console()
    # A cell that is cut is of no use to anybody: better lines that are longer than the terminal is wide.
    wide = console.options.update(max_width=10_000)
    console.width = max(console.width, Measurement.get(console, wide, made).maximum)
    console.print(made)


def _amounts(amounts: Mapping[str, float] | None) -> str:
    if amounts is None:
        return "-"
    return ", ".join(_amount(name, amount) for name, amount in sorted(amounts.items()))


def _amount(name: str, amount: float) -> str:
    if name == "memory":
        return f"{amount / (1 << 30):.1f} GiB"
    return f"{amount:g} {name}"


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _age(seconds: float) -> str:
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h {seconds // 60 % 60} min"


def _pairs(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
