"""Commands that end something: `kill` an actor, `cancel` a task, `drain` a node."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from actorfw.api.verbs import DRAIN_SECONDS
from actorfw.cli import tables
from actorfw.cli.exits import FAILED, OK
from actorfw.cli.options import Json, Where
from actorfw.cli.visiting import visit

__all__ = ["cancel", "drain", "kill"]

_ANSWER_SECONDS = 10.0  # beyond what the work itself may take


def kill(
    actor: Annotated[str, Parameter(help="Its name, or its id or the end of that.")],
    /,
    *,
    namespace: Annotated[str | None, Parameter(help="Of the name. [default: any]")] = None,
    where: Where | None = None,
    as_json: Json = False,
) -> None:
    """End an actor now."""
    row = visit(where, lambda guest: guest.ask("kill", _ANSWER_SECONDS, actor=actor, namespace=namespace))["row"]
    tables.show_json(row) if as_json else tables.show_actors([row])


def cancel(
    task: Annotated[str, Parameter(help="Its id or the end of that. By its whole id an actor's call, too.")],
    /,
    *,
    force: Annotated[bool, Parameter(negative=(), help="Kill the worker process that runs it.")] = False,
    recursive: Annotated[bool, Parameter(help="Whether the tasks that it has submitted are cancelled as well.")] = True,
    where: Where | None = None,
    as_json: Json = False,
) -> None:
    """Cancel a task: whoever waits for it gets TaskCancelledError at once."""
    question = {"task": task, "force": force, "recursive": recursive}
    row = visit(where, lambda guest: guest.ask("cancel", _ANSWER_SECONDS, **question))["row"]
    tables.show_json(row) if as_json else tables.show_tasks([row])


def drain(
    node: Annotated[str, Parameter(help="Name, id or address of the node.")],
    /,
    *,
    timeout: Annotated[float, Parameter(help="Seconds after which it leaves all the same.")] = DRAIN_SECONDS,
    where: Where | None = None,
    as_json: Json = False,
) -> int:
    """Have a node leave the cluster without loss. Exit status 1 if something had to be given up."""
    patience = timeout + _ANSWER_SECONDS
    report = visit(where, lambda guest: guest.ask("drain", patience, target=node, timeout=timeout))["row"]
    tables.show_json(report) if as_json else tables.show_drained(report)
    return FAILED if tables.given_up(report) else OK
