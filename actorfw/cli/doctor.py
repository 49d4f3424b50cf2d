"""`actorfw doctor`: what is wrong here and in the cluster, why it matters, and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

import actorfw
from actorfw.cli import tables
from actorfw.cli.checks import Finding, check_cluster, check_machine, no_cluster, wrong_secret
from actorfw.cli.exits import FAILED, OK
from actorfw.cli.options import Json, Where
from actorfw.cli.visiting import visitor
from actorfw.values.errors import ActorFwError, AuthenticationError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["doctor"]

_CHECKUP_SECONDS: Final = 12.0
_TASK_SECONDS: Final = 20.0


def doctor(
    *,
    task: Annotated[bool, Parameter(help="Whether to start a worker process here and run a task in it.")] = True,
    where: Where | None = None,
    as_json: Json = False,
) -> int:
    """Check this machine, and the cluster if there is one. Exit status 1 if something is wrong."""
    found = actorfw.run(_examine(where or Where(), task=task))
    if as_json:
        tables.show_json([asdict(one) for one in found])
    else:
        _show(found)
    return FAILED if any(one.level == "fail" for one in found) else OK


async def _examine(where: Where, *, task: bool) -> list[Finding]:
    found = check_machine(where)
    if task:
        found.append(await _task_here())
    try:
        guest = visitor(where)
    except UsageError as error:  # a secret, a certificate or a seed that can't be used: found above, or said here
        return [*found, no_cluster(str(error), asked=True)]
    asked = bool(guest.options.seeds) and not guest.options.seeds[0].startswith("local:")
    try:
        async with guest:
            answer = await guest.ask("checkup", _CHECKUP_SECONDS)
    except AuthenticationError as error:
        return [*found, wrong_secret(str(error))]
    except ActorFwError as error:
        return [*found, no_cluster(str(error), asked=asked)]
    return [*found, *check_cluster(answer["rows"])]


async def _task_here() -> Finding:
    """Whether a worker process can be started and does its work."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout(_TASK_SECONDS), actorfw.Node([], num_cpus=1, hosts="own"):
            answer = await _answer.remote()
    except (ActorFwError, OSError, TimeoutError) as error:
        return Finding(
            "worker",
            "fail",
            f"a task in a worker process failed: {type(error).__name__}: {error}",
            why="Tasks and process actors run in processes that are forked from a node.",
            do="See that this user may start processes (ulimit -u) and that there is memory.",
        )
    if answer != 42:
        return Finding("worker", "fail", f"a task in a worker process returned {answer!r} instead of 42")
    return Finding("worker", "ok", f"a node, a worker and a task took {loop.time() - began:.1f} s")


@actorfw.remote(executor="process")
def _answer() -> int:
    return 42


def _show(found: Sequence[Finding]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    with console.capture() as shown:
        _write(console, found)
    print(shown.get(), end="")  # as `tables.table` does, and why


def _write(console: Console, found: Sequence[Finding]) -> None:
    from rich.text import Text

    style = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for one in found:
        line = Text(f"{one.level:<5}", style=style[one.level])
        line.append(f"{one.check:<15}", style="default not bold")
        line.append(f"{one.node}: {one.text}" if one.node else one.text, style="default not bold")
        console.print(line)
        for text in (one.why, f"To do: {one.do}" if one.do else ""):
            if text and one.level != "ok":
                console.print(Text(" " * 20 + text))
    count = {level: sum(one.level == level for one in found) for level in style}
    console.print(f"{count['ok']} ok, {count['warn']} to look at, {count['fail']} wrong")
