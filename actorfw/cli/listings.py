"""Commands that show what there is: `nodes`, `actors`, `tasks`, `objects`, `status`, `events`. Any member answers for
all."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from actorfw.cli import tables
from actorfw.cli.exits import say
from actorfw.cli.options import Json, Where
from actorfw.cli.visiting import ask, visit
from actorfw.runtime.visitor import Visitor

__all__ = ["actors", "events", "nodes", "objects", "status", "tasks"]

State = Literal["running", "starting", "sent", "queued", "retrying", "waiting_for_arguments"]


def nodes(*, where: Where | None = None, as_json: Json = False) -> None:
    """List the members of a cluster."""
    rows = ask(where, "nodes")["rows"]
    tables.show_json(rows) if as_json else tables.show_nodes(rows)


def actors(*, where: Where | None = None, as_json: Json = False) -> None:
    """List the actors of a cluster."""
    rows = ask(where, "actors")["rows"]
    tables.show_json(rows) if as_json else tables.show_actors(rows)


def tasks(
    *,
    state: Annotated[
        list[State] | None, Parameter(negative=(), help="Only those in this state; may be repeated. [default: all]")
    ] = None,
    name: Annotated[str | None, Parameter(help="Only those of this name; * and ? stand for any characters.")] = None,
    limit: Annotated[int, Parameter(help="How many at most, those that run first; up to 5,000.")] = 100,
    where: Where | None = None,
    as_json: Json = False,
) -> None:
    """List the tasks of a cluster that are not done, with what each waits for or where it runs."""
    answer = ask(where, "tasks", limit=limit, name=name, states=state)
    rows = answer["rows"]
    tables.show_json(rows) if as_json else tables.show_tasks(rows)
    _note_more("tasks", len(rows), answer["total"])


def objects(
    *,
    limit: Annotated[int, Parameter(help="How many at most, the largest ones; up to 10,000.")] = 100,
    where: Where | None = None,
    as_json: Json = False,
) -> None:
    """List the living objects of a cluster, the largest first; those that may be leaks say why."""
    answer = ask(where, "objects", limit=limit)
    rows = answer["rows"]
    tables.show_json(rows) if as_json else tables.show_objects(rows)
    _note_more("objects", len(rows), answer["total"])


def status(*, where: Where | None = None, as_json: Json = False) -> None:
    """Show what each member of a cluster has and does."""
    rows = ask(where, "status")["rows"]
    tables.show_json(rows) if as_json else tables.show_status(rows)


def events(*, where: Where | None = None, as_json: Json = False) -> None:
    """Print what happens in a cluster, one event a line, until Ctrl-C."""

    async def follow(guest: Visitor) -> None:
        async for event in guest.events():
            if event:
                tables.show_event(event, as_json=as_json)
            else:
                say(f"node {guest.asked} listens; Ctrl-C ends it")

    visit(where, follow)


def _note_more(what: str, shown: int, there: int) -> None:
    if shown < there:
        print(f"{shown} of {there} {what}; --limit shows more", file=sys.stderr)
