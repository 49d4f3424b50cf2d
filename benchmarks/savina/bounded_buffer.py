"""BoundedBuffer: 40 producers and 40 consumers around a buffer that has room for 50: back-pressure.

The producers and consumers are tasks here, as they are in asyncio's own way to do it; the buffer is an actor, whose
two methods wait beside each other. The original computes a little for each item, which is left out: it would measure
the interpreter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import actorfw
from benchmarks.savina.checks import check

__all__ = ["PRODUCERS", "ours", "plain"]

PRODUCERS = 40

_CONSUMERS = 40
_ROOM = 50
_OVER = -1

Put = Callable[[int], Awaitable[None]]
Take = Callable[[], Awaitable[int]]


class Buffer(actorfw.Actor):
    def __init__(self) -> None:
        self.items: asyncio.Queue[int] = asyncio.Queue(_ROOM)
        self.fullest = 0

    @actorfw.method(interleave=True)
    async def put(self, item: int) -> None:
        await self.items.put(item)
        self.fullest = max(self.fullest, self.items.qsize())

    @actorfw.method(interleave=True)
    async def take(self) -> int:
        return await self.items.get()

    @actorfw.method
    async def most(self) -> int:
        return self.fullest


async def _produce(put: Put, items: int) -> None:
    for item in range(items):
        await put(item)


async def _consume(take: Take) -> tuple[int, int]:
    """How many it got, and their sum."""
    count = total = 0
    while (item := await take()) != _OVER:
        count += 1
        total += item
    return count, total


async def _run(put: Put, take: Take, items: int) -> None:
    consumers = [asyncio.create_task(_consume(take)) for _ in range(_CONSUMERS)]
    await asyncio.gather(*[asyncio.create_task(_produce(put, items)) for _ in range(PRODUCERS)])
    for _ in consumers:
        await put(_OVER)
    consumed = await asyncio.gather(*consumers)
    check("items consumed", sum(count for count, _ in consumed), PRODUCERS * items)
    check("sum of the items", sum(total for _, total in consumed), PRODUCERS * (items * (items - 1) // 2))


async def ours(items: int) -> None:
    buffer = Buffer.remote()
    await _run(buffer.put, buffer.take, items)
    check("room kept to", await buffer.most() <= _ROOM, True)


async def plain(items: int) -> None:
    buffer: asyncio.Queue[int] = asyncio.Queue(_ROOM)
    await _run(buffer.put, buffer.get, items)
