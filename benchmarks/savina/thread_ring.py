"""ThreadRing: one message goes round a ring of 100 actors, so many hops in all."""

from __future__ import annotations

import asyncio

import actorfw
from benchmarks.savina.checks import check
from benchmarks.savina.latch import Latch
from benchmarks.savina.plain import PlainActor, PlainLatch, ask, stop, tell

__all__ = ["ours", "plain"]

_RING = 100


class Member(actorfw.Actor):
    def __init__(self, place: int, finish: Latch) -> None:
        self.place = place
        self.finish = finish

    @actorfw.method
    async def link(self, following: Member) -> None:
        self.following = following

    @actorfw.method
    async def hop(self, left: int) -> None:
        if left:
            self.following.hop.tell(left - 1)
        else:
            self.finish.add.tell(self.place)


async def ours(hops: int) -> None:
    finish = Latch.remote(1)
    ring = [Member.remote(place, finish) for place in range(_RING)]
    await asyncio.gather(*[member.link.remote(ring[(place + 1) % _RING]) for place, member in enumerate(ring)])
    ring[0].hop.tell(hops)
    check("place of the last hop", await finish.parts(), [hops % _RING])
    # They hold each other in a circle, so that nobody's last handle ever goes.
    await asyncio.gather(*[actorfw.stop(member) for member in ring])


class PlainMember(PlainActor):
    following: PlainMember

    def __init__(self, place: int, finish: PlainLatch[int]) -> None:
        super().__init__()
        self.place = place
        self.finish = finish

    async def link(self, following: PlainMember) -> None:
        self.following = following

    async def hop(self, left: int) -> None:
        if left:
            tell(self.following.hop, left - 1)
        else:
            self.finish.add(self.place)


async def plain(hops: int) -> None:
    finish: PlainLatch[int] = PlainLatch(1)
    ring = [PlainMember(place, finish) for place in range(_RING)]
    await asyncio.gather(*[ask(member.link, ring[(place + 1) % _RING]) for place, member in enumerate(ring)])
    tell(ring[0].hop, hops)
    check("place of the last hop", await finish.parts(), [hops % _RING])
    await stop(*ring)
