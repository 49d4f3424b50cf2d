"""Actors out of nothing but asyncio: a task that serves a queue, one message after another.

No node, no names, no supervision, no limits, no deadlock search: the least that an actor on a loop can be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar

__all__ = ["PlainActor", "PlainLatch", "ask", "stop", "tell"]

P = ParamSpec("P")
T = TypeVar("T")
_Message = tuple[Callable[..., Coroutine[Any, Any, Any]], tuple[Any, ...], "asyncio.Future[Any] | None"]


class PlainActor:
    """Serves the messages that `ask` and `tell` put into its queue."""

    def __init__(self) -> None:
        self.mailbox: asyncio.Queue[_Message] = asyncio.Queue()
        self.serving = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        while True:
            method, arguments, reply = await self.mailbox.get()
            answer = await method(*arguments)
            if reply is not None:
                reply.set_result(answer)


def _actor_of(method: Any) -> PlainActor:
    actor: PlainActor = method.__self__
    return actor


def tell(method: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **_none: P.kwargs) -> None:
    """Sends a message one way."""
    _actor_of(method).mailbox.put_nowait((method, args, None))


def ask(method: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **_none: P.kwargs) -> asyncio.Future[T]:
    """Sends a message; what is returned will be the answer."""
    reply: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    _actor_of(method).mailbox.put_nowait((method, args, reply))
    return reply


async def stop(*actors: PlainActor) -> None:
    """Ends actors that are idle.

    Raises:
        Exception: what a method of one of them raised.
    """
    for actor in actors:
        actor.serving.cancel()
    for ended in await asyncio.gather(*[actor.serving for actor in actors], return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended


class PlainLatch(Generic[T]):
    """Open when so many have handed something in."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._found: list[T] = []
        self._open = asyncio.Event()

    def add(self, part: T) -> None:
        """One of the parts."""
        self._found.append(part)
        if len(self._found) == self._parts:
            self._open.set()

    async def parts(self) -> list[T]:
        """All of them, when they are there."""
        await self._open.wait()
        return self._found
