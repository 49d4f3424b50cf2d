"""Chameneos: 100 creatures meet in pairs at one mall, exchange their colours and change, until so many have met.

All messages go through the mall: what is measured is a contended mailbox.
"""

from __future__ import annotations

import asyncio
from typing import cast

import actorfw
from benchmarks.savina.checks import check
from benchmarks.savina.latch import Latch
from benchmarks.savina.plain import PlainActor, PlainLatch, stop, tell

__all__ = ["ours", "plain"]

_CREATURES = 100
_COLOURS = 3


def _after_meeting(mine: int, other: int) -> int:
    """The colour that neither has; equal colours stay."""
    return mine if mine == other else _COLOURS - mine - other


class Mall(actorfw.Actor):
    def __init__(self, meetings: int) -> None:
        self.left = meetings
        self.waiting: tuple[Creature, int] | None = None

    @actorfw.method
    async def arrive(self, creature: Creature, colour: int) -> None:
        if not self.left:
            creature.go_home.tell()
            if self.waiting is not None:
                first, _ = self.waiting
                first.go_home.tell()
                self.waiting = None
        elif self.waiting is None:
            self.waiting = creature, colour
        else:
            first, other = self.waiting
            self.waiting = None
            self.left -= 1
            first.meet.tell(colour)
            creature.meet.tell(other)


class Creature(actorfw.Actor):
    def __init__(self, colour: int, mall: Mall, home: Latch) -> None:
        self.colour = colour
        self.mall = mall
        self.home = home
        self.meetings = 0

    @actorfw.method
    async def start(self) -> None:
        self.me = cast(Creature, actorfw.context().handle)
        self.mall.arrive.tell(self.me, self.colour)

    @actorfw.method
    async def meet(self, other: int) -> None:
        self.meetings += 1
        self.colour = _after_meeting(self.colour, other)
        self.mall.arrive.tell(self.me, self.colour)

    @actorfw.method
    async def go_home(self) -> None:
        self.home.add.tell(self.meetings)


async def ours(meetings: int) -> None:
    home, mall = Latch.remote(_CREATURES), Mall.remote(meetings)
    creatures = [Creature.remote(number % _COLOURS, mall, home) for number in range(_CREATURES)]
    for creature in creatures:
        creature.start.tell()
    check("meetings of all creatures", sum(await home.parts()), 2 * meetings)
    await asyncio.gather(*[actorfw.stop(creature) for creature in creatures])


class PlainMall(PlainActor):
    def __init__(self, meetings: int) -> None:
        super().__init__()
        self.left = meetings
        self.waiting: tuple[PlainCreature, int] | None = None

    async def arrive(self, creature: PlainCreature, colour: int) -> None:
        if not self.left:
            tell(creature.go_home)
            if self.waiting is not None:
                first, _ = self.waiting
                tell(first.go_home)
                self.waiting = None
        elif self.waiting is None:
            self.waiting = creature, colour
        else:
            first, other = self.waiting
            self.waiting = None
            self.left -= 1
            tell(first.meet, colour)
            tell(creature.meet, other)


class PlainCreature(PlainActor):
    def __init__(self, colour: int, mall: PlainMall, home: PlainLatch[int]) -> None:
        super().__init__()
        self.colour = colour
        self.mall = mall
        self.home = home
        self.meetings = 0

    async def start(self) -> None:
        tell(self.mall.arrive, self, self.colour)

    async def meet(self, other: int) -> None:
        self.meetings += 1
        self.colour = _after_meeting(self.colour, other)
        tell(self.mall.arrive, self, self.colour)

    async def go_home(self) -> None:
        self.home.add(self.meetings)


async def plain(meetings: int) -> None:
    home: PlainLatch[int] = PlainLatch(_CREATURES)
    mall = PlainMall(meetings)
    creatures = [PlainCreature(number % _COLOURS, mall, home) for number in range(_CREATURES)]
    for creature in creatures:
        tell(creature.start)
    check("meetings of all creatures", sum(await home.parts()), 2 * meetings)
    await stop(mall, *creatures)
