"""Skynet: an actor makes ten, each of which makes ten, six levels deep; the numbers of the leaves are summed up."""

from __future__ import annotations

import asyncio

import actorfw
from benchmarks.savina.checks import check

__all__ = ["nodes", "ours", "plain"]

_CHILDREN = 10


def nodes(leaves: int) -> int:
    """How many a tree with so many leaves has in all."""
    return leaves + (nodes(leaves // _CHILDREN) if leaves > 1 else 0)


class Skynet(actorfw.Actor):
    @actorfw.method
    async def total(self, number: int, leaves: int) -> int:
        if leaves == 1:
            return number
        below = leaves // _CHILDREN
        children = [Skynet.remote() for _ in range(_CHILDREN)]
        return sum(
            await asyncio.gather(
                *[child.total.remote(number + place * below, below) for place, child in enumerate(children)]
            )
        )


async def ours(leaves: int) -> None:
    check("sum of the leaves", await Skynet.remote().total(0, leaves), leaves * (leaves - 1) // 2)


async def _total(number: int, leaves: int) -> int:
    if leaves == 1:
        return number
    below = leaves // _CHILDREN
    return sum(
        await asyncio.gather(
            *[asyncio.create_task(_total(number + place * below, below)) for place in range(_CHILDREN)]
        )
    )


async def plain(leaves: int) -> None:
    check("sum of the leaves", await asyncio.create_task(_total(0, leaves)), leaves * (leaves - 1) // 2)
