"""PingPong: one actor calls another, which answers, so many times."""

from __future__ import annotations

import actorfw
from benchmarks.savina.checks import check
from benchmarks.savina.plain import PlainActor, ask, stop

__all__ = ["ours", "plain"]


class Pong(actorfw.Actor):
    def __init__(self) -> None:
        self.pings = 0

    @actorfw.method
    async def ping(self) -> int:
        self.pings += 1
        return self.pings


class Ping(actorfw.Actor):
    @actorfw.method
    async def play(self, pong: Pong, rounds: int) -> int:
        last = 0
        for _ in range(rounds):
            last = await pong.ping()
        return last


async def ours(rounds: int) -> None:
    check("pings answered", await Ping.remote().play(Pong.remote(), rounds), rounds)


class PlainPong(PlainActor):
    def __init__(self) -> None:
        super().__init__()
        self.pings = 0

    async def ping(self) -> int:
        self.pings += 1
        return self.pings


class PlainPing(PlainActor):
    async def play(self, pong: PlainPong, rounds: int) -> int:
        last = 0
        for _ in range(rounds):
            last = await ask(pong.ping)
        return last


async def plain(rounds: int) -> None:
    ping, pong = PlainPing(), PlainPong()
    check("pings answered", await ask(ping.play, pong, rounds), rounds)
    await stop(ping, pong)
