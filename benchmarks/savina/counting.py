"""Counting: a producer tells a counter to count, so many times, and then asks it how far it got."""

from __future__ import annotations

import asyncio

import actorfw
from benchmarks.savina.checks import check
from benchmarks.savina.plain import PlainActor, ask, stop, tell

__all__ = ["ours", "plain"]

_IN_A_ROW = 1_000  # messages after which the producer waits for room


class Counter(actorfw.Actor):
    def __init__(self) -> None:
        self.count = 0

    @actorfw.method
    async def increment(self) -> None:
        self.count += 1

    @actorfw.method
    async def total(self) -> int:
        return self.count


class Producer(actorfw.Actor):
    @actorfw.method
    async def produce(self, counter: Counter, messages: int) -> int:
        for number in range(messages):
            room = counter.increment.tell()
            if not number % _IN_A_ROW:
                await room
        return await counter.total()


async def ours(messages: int) -> None:
    check("messages counted", await Producer.remote().produce(Counter.remote(), messages), messages)


class PlainCounter(PlainActor):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    async def increment(self) -> None:
        self.count += 1

    async def total(self) -> int:
        return self.count


class PlainProducer(PlainActor):
    async def produce(self, counter: PlainCounter, messages: int) -> int:
        for number in range(messages):
            tell(counter.increment)
            if not number % _IN_A_ROW:
                await asyncio.sleep(0)
        return await ask(counter.total)


async def plain(messages: int) -> None:
    producer, counter = PlainProducer(), PlainCounter()
    check("messages counted", await ask(producer.produce, counter, messages), messages)
    await stop(producer, counter)
