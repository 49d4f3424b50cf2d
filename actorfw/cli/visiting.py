"""Asking a cluster: whom, with which secret, and what is said of members that gave no answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import actorfw
from actorfw.api.environment import cluster_of
from actorfw.api.nodeoptions import complete, with_defaults
from actorfw.cli.exits import say
from actorfw.cli.options import Where
from actorfw.io.env import RealEnv
from actorfw.runtime.seeds import LOCAL
from actorfw.runtime.visitor import Visitor
from actorfw.values.config import Config

__all__ = ["ask", "note_silent", "place", "visit", "visitor"]

T = TypeVar("T")

# A listing is for somebody who waits for it: it does not try as long as a node does that wants to join.
_SECONDS: Final = 5.0


def place(where: Where) -> tuple[list[str], str]:
    """The seeds and the name of the cluster that is meant: of the command, else of the environment, else this user's
    nodes on this machine."""
    seeds, cluster = cluster_of(where.seeds, where.cluster)
    return seeds or [f"{LOCAL}{cluster}"], cluster


def visitor(where: Where) -> Visitor:
    """A visitor of the cluster; on the loop that runs."""
    config = Config.from_environment()
    seeds, cluster = place(where)
    options = complete(seeds, **with_defaults({"cluster": cluster, "config": config, **where.given()}))
    return Visitor(RealEnv(tls=options.tls), options, patience=min(config.join_timeout, _SECONDS))


def visit(where: Where | None, work: Callable[[Visitor], Awaitable[T]]) -> T:
    """Do something as a visitor of a cluster."""

    async def whole() -> T:
        async with visitor(where or Where()) as guest:
            return await work(guest)

    return actorfw.run(whole())


def ask(where: Where | None, what: str, **arguments: Any) -> dict[str, Any]:
    """The answer to one question. Says who did not take part in it."""
    answer = visit(where, lambda guest: guest.ask(what, **arguments))
    note_silent(answer)
    return answer


def note_silent(answer: Mapping[str, Any]) -> None:
    """Say which members gave no answer, and so what is not shown."""
    silent = answer.get("silent")
    if silent:
        are = "gave no answer: what only it knows" if len(silent) == 1 else "gave no answer: what only they know"
        say(f"{', '.join(silent)} {are} is missing. `actorfw nodes` shows the state of each, `actorfw doctor` why")
