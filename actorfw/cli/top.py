"""`actorfw top`: what the cluster does, live in a terminal; elsewhere one look, or a line of JSON for each."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Annotated, Any, Final

from cyclopts import Parameter

import actorfw
from actorfw.cli.exits import OK
from actorfw.cli.options import Json, Where
from actorfw.cli.topview import TopView, with_rates
from actorfw.cli.visiting import place, visitor
from actorfw.runtime.visitor import Visitor
from actorfw.values.errors import PeerLostError, PeerUnreachableError, UsageError

__all__ = ["top"]

_TASKS: Final = 200  # that are asked for; more fit on no screen
_FIRST_LOOK: Final = 0.5  # seconds between the two answers of which one look consists: rates need two
_LEAST_INTERVAL: Final = 0.1
_NO_SCREEN: Final = ("dumb", "unknown")  # terminals on which nothing can be drawn
_PIPE_SIZE: Final = (120, 60)  # columns and lines, where there is no terminal


def top(
    *,
    interval: Annotated[float, Parameter(help="Seconds between two looks.")] = 1.0,
    once: Annotated[
        bool, Parameter(negative=(), help="Look once and end. [default: where stdout is no terminal]")
    ] = False,
    where: Where | None = None,
    as_json: Json = False,
) -> int:
    """Show nodes and the busiest tasks and actors, live. With --json one object a line, until Ctrl-C.

    Keys: q quits, t and a show tasks or actors, s sorts the nodes, arrows and pages scroll.
    """
    if not interval >= _LEAST_INTERVAL:
        raise UsageError(f"--interval is {interval!r}; it must be at least {_LEAST_INTERVAL:g} s")
    where = where or Where()
    if as_json:
        return actorfw.run(_print_json(where, interval, once=once))
    if once or not sys.stdout.isatty() or os.environ.get("TERM", "").lower() in _NO_SCREEN:
        return actorfw.run(_print_once(where))
    return actorfw.run(_live(where, interval))


class _Cluster:
    """The cluster, by way of whichever member answers."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._stack = AsyncExitStack()
        self._guest: Visitor | None = None
        self._known: list[str] = []
        self._before: Mapping[str, Any] | None = None

    @property
    def asked(self) -> str:
        return self._guest.asked if self._guest is not None else ""

    async def look(self) -> dict[str, Any]:
        """An answer, with rates; from another member if the one that was asked is gone.

        Raises:
            PeerUnreachableError: nobody answers.
        """
        try:
            answer = await self._look()
        except (PeerUnreachableError, PeerLostError):
            if self._guest is None:
                raise
            await self.close()
            answer = await self._look()
        self._known = [row["address"] for row in answer["rows"] if row["answered"]]
        rated = with_rates(answer, self._before)
        self._before = answer
        return rated

    async def _look(self) -> dict[str, Any]:
        if self._guest is None:
            guest = visitor(self._where)
            guest.also = self._known
            self._guest = await self._stack.enter_async_context(guest)
            self._before = None  # by another clock
        return await self._guest.ask("top", limit=_TASKS)

    async def close(self) -> None:
        self._guest = None
        await self._stack.aclose()


async def _print_once(where: Where) -> int:
    cluster = _Cluster(where)
    try:
        await cluster.look()
        await asyncio.sleep(_FIRST_LOOK)
        view = TopView(place(where)[1], answer=await cluster.look(), asked=cluster.asked)
    finally:
        await cluster.close()
    lines = [text.rstrip() for text, _ in view.lines(*_PIPE_SIZE)[:-1]]  # the last one is about keys
    print("\n".join(lines).rstrip())
    return OK


async def _print_json(where: Where, interval: float, *, once: bool) -> int:
    cluster = _Cluster(where)
    try:
        if once:
            await cluster.look()
            await asyncio.sleep(_FIRST_LOOK)
        while True:
            answer = await cluster.look()
            answer["nodes"] = answer.pop("rows")
            print(json.dumps({"asked": cluster.asked, **answer}), flush=True)
            if once:
                return OK
            await asyncio.sleep(interval)
    finally:
        await cluster.close()


async def _live(where: Where, interval: float) -> int:
    from actorfw.cli.screen import Screen  # terminals are not everywhere

    loop = asyncio.get_running_loop()
    cluster = _Cluster(where)
    view = TopView(place(where)[1])
    ended: asyncio.Future[int] = loop.create_future()
    woken = asyncio.Event()

    def end(number: int) -> None:
        if not ended.done():
            ended.set_result(OK if number == signal.SIGINT else 128 + number)

    def pressed(key: str) -> None:
        if not view.key(key):
            end(signal.SIGINT)
        woken.set()

    try:
        view.answer = await cluster.look()  # an error of the start is shown where the shell is
        view.asked = cluster.asked
        looking: asyncio.Task[dict[str, Any]] | None = None
        due = loop.time() + min(interval, _FIRST_LOOK)
        with Screen(pressed, end, woken.set) as screen:
            try:
                while not ended.done():
                    screen.show(view.lines(*screen.size))
                    woken.clear()
                    if looking is None and loop.time() >= due:
                        looking = asyncio.ensure_future(cluster.look())
                    waiting = asyncio.ensure_future(woken.wait())
                    futures: set[asyncio.Future[Any]] = {waiting, ended, *({looking} if looking else ())}
                    pause = None if looking is not None else max(0.0, due - loop.time())
                    await asyncio.wait(futures, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                    waiting.cancel()
                    if looking is not None and looking.done():
                        view.answer, view.asked = looking.result(), cluster.asked
                        looking = None
                        due = loop.time() + interval
            finally:
                if looking is not None:
                    looking.cancel()
                    await asyncio.gather(looking, return_exceptions=True)
        return ended.result()
    finally:
        await cluster.close()
