"""Big: each of 120 actors pings others at random, and pings the next when the pong is there: many to many."""

from __future__ import annotations

import asyncio
import random

import actorfw
from benchmarks.savina.checks import check
from benchmarks.savina.latch import Latch
from benchmarks.savina.plain import PlainActor, PlainLatch, ask, stop, tell

__all__ = ["ACTORS", "ours", "plain"]

ACTORS = 120


class Peer(actorfw.Actor):
    def __init__(self, place: int, pings: int, finish: Latch) -> None:
        self.place = place
        self.left = pings
        self.finish = finish
        self.random = random.Random(place)
        self.got = 0

    @actorfw.method
    async def meet(self, peers: list[Peer]) -> None:
        self.peers = peers

    @actorfw.method
    async def pong(self) -> None:
        if self.left:
            self.left -= 1
            self.random.choice(self.peers).ping.tell(self.place)
        else:
            self.finish.add.tell(self.place)

    @actorfw.method
    async def ping(self, sender: int) -> None:
        self.got += 1
        self.peers[sender].pong.tell()

    @actorfw.method
    async def pings(self) -> int:
        return self.got


async def ours(pings: int) -> None:
    finish = Latch.remote(ACTORS)
    peers = [Peer.remote(place, pings, finish) for place in range(ACTORS)]
    await asyncio.gather(*[peer.meet.remote(peers) for peer in peers])
    for peer in peers:
        peer.pong.tell()
    check("actors that got all pongs", sorted(await finish.parts()), list(range(ACTORS)))
    check("pings", sum(await asyncio.gather(*[peer.pings.remote() for peer in peers])), ACTORS * pings)
    await asyncio.gather(*[actorfw.stop(peer) for peer in peers])


class PlainPeer(PlainActor):
    def __init__(self, place: int, pings: int, finish: PlainLatch[int]) -> None:
        super().__init__()
        self.place = place
        self.left = pings
        self.finish = finish
        self.random = random.Random(place)
        self.got = 0

    async def meet(self, peers: list[PlainPeer]) -> None:
        self.peers = peers

    async def pong(self) -> None:
        if self.left:
            self.left -= 1
            tell(self.random.choice(self.peers).ping, self.place)
        else:
            self.finish.add(self.place)

    async def ping(self, sender: int) -> None:
        self.got += 1
        tell(self.peers[sender].pong)

    async def pings(self) -> int:
        return self.got


async def plain(pings: int) -> None:
    finish: PlainLatch[int] = PlainLatch(ACTORS)
    peers = [PlainPeer(place, pings, finish) for place in range(ACTORS)]
    await asyncio.gather(*[ask(peer.meet, peers) for peer in peers])
    for peer in peers:
        tell(peer.pong)
    check("actors that got all pongs", sorted(await finish.parts()), list(range(ACTORS)))
    check("pings", sum(await asyncio.gather(*[ask(peer.pings) for peer in peers])), ACTORS * pings)
    await stop(*peers)
