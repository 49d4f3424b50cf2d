"""How rows look: tables for people, JSON for programs. What the columns mean is told in `runtime.rows`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "age",
    "amounts",
    "given_up",
    "show_actors",
    "show_drained",
    "show_event",
    "show_json",
    "show_nodes",
    "show_objects",
    "show_status",
    "show_tasks",
    "size",
    "table",
]

Row = Mapping[str, Any]


def show_json(what: object) -> None:
    """One JSON text."""
    print(json.dumps(what, indent=2))


def show_nodes(rows: Sequence[Row]) -> None:
    """Members, one a line."""
    table(
        ["name", "id", "address", "state", "resources", "labels"],
        (
            [row["name"], row["id"], row["address"], row["state"], amounts(row["resources"]), _pairs(row["labels"])]
            for row in rows
        ),
    )


def show_actors(rows: Sequence[Row]) -> None:
    """Actors, one a line."""
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


def show_tasks(rows: Sequence[Row]) -> None:
    """Tasks, one a line."""
    now = time.time()
    table(
        ["id", "name", "state", "for", "node", "submitted by", "age", "attempt", "parent", "why"],
        (
            [
                row["id"],
                row["name"],
                row["state"],
                age(row["since"], now),
                row["node"],
                row["submitter"],
                age(row["created_at"], now),
                str(row["attempt"]),
                row["parent"],
                row["detail"],
            ]
            for row in rows
        ),
    )


def show_objects(rows: Sequence[Row]) -> None:
    """Objects, one a line."""
    now = time.time()
    table(
        ["id", "size", "state", "owner", "at", "age", "held by", "made by", "suspect"],
        (
            [
                row["id"],
                size(row["size"]),
                row["state"],
                row["owner"],
                ", ".join(row["nodes"]),
                age(row["created_at"], now),
                ", ".join(row["holders"]),
                row["line"],
                row["suspect"],
            ]
            for row in rows
        ),
    )


def show_status(rows: Sequence[Row]) -> None:
    """What members have and do, one a line, and below what was refused."""
    counts = ("tasks_running", "tasks_waiting", "tasks_finished", "actors", "workers")
    table(
        ["name", "address", "state", "free", "of", "tasks run", "waiting", "done", "actors", "workers"],
        (
            [
                row["name"],
                row["address"],
                row["state"] if row["answered"] else f"{row['state']}, no answer",
                amounts(row.get("available")),
                amounts(row.get("resources")),
                *(str(row.get(key, "-")) for key in counts),
            ]
            for row in rows
        ),
    )
    refused = [
        [
            row["name"],
            name.replace("_", " "),
            *(str(limit.get(key, "-")) for key in ("refused", "limit", "now", "most")),
        ]
        for row in rows
        for name, limit in row.get("limits", {}).items()
        if limit.get("refused")
    ]
    if refused:
        print()
        table(["name", "limit", "refused", "at most", "now", "most so far"], refused)


def show_event(event: Row, *, as_json: bool) -> None:
    """Something that happened, in one line, at once."""
    if as_json:
        print(json.dumps(event), flush=True)
        return
    fields = dict(event)
    kind = fields.pop("kind")
    when = fields.pop("time", None)
    clock = time.strftime("%H:%M:%S", time.localtime(when)) if isinstance(when, float) else "--:--:--"
    if "error" in fields:
        fields["error"] = str(fields["error"]).strip().rpartition("\n")[2]
    print(clock, kind, *(f"{name}={value}" for name, value in fields.items() if value != ""), flush=True)


def show_drained(report: Row) -> None:
    """How a node left."""
    lost = given_up(report)
    if lost:
        print(lost)
    else:
        heir = f"; node {report['heir']} has taken over what others hold of it" if report["heir"] is not None else ""
        print(f"node {report['node']} left in {report['seconds']:.1f} s{heir}")


def given_up(report: Row) -> str:
    """What a node had to give up when it left; "" if that was nothing."""
    parts = [
        f"{count} {kind}{'s' * (count != 1)}"
        for kind in ("task", "call", "actor", "object")
        if (count := report[f"{kind}s"])
    ]
    return f"node {report['node']} left after {report['seconds']:.1f} s and gave up {', '.join(parts)}" if parts else ""


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
    with console.capture() as shown:
        console.print(made)
    # By Python's own stdout: where nobody reads any more, rich would end the process with a status of its own.
    print(shown.get(), end="")


def amounts(resources: Mapping[str, float] | None) -> str:
    """Resources, in words."""
    if resources is None:
        return "-"
    return ", ".join(_amount(name, amount) for name, amount in sorted(resources.items()))


def _amount(name: str, amount: float) -> str:
    if name == "memory":
        return f"{amount / (1 << 30):.1f} GiB"
    return f"{amount:g} {name}"


def size(amount: float) -> str:
    """Bytes, in words."""
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def age(since: float | None, now: float) -> str:
    """How long ago that was, in words."""
    if since is None:
        return "-"
    seconds = max(0, round(now - since))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h {seconds // 60 % 60} min"


def _pairs(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
