"""ForkJoin: many messages to each of 60 actors (throughput), and many actors that get one message each (create)."""

from __future__ import annotations

import asyncio

import actorfw
from benchmarks.savina.checks import check
from benchmarks.savina.plain import PlainActor, ask, stop, tell

__all__ = ["WORKERS", "create_ours", "create_plain", "throughput_ours", "throughput_plain"]

WORKERS = 60


class Worker(actorfw.Actor):
    def __init__(self) -> None:
        self.sum = 0

    @actorfw.method
    async def work(self, number: int) -> None:
        self.sum += number

    @actorfw.method
    async def worked(self, number: int) -> int:
        self.sum += number
        return self.sum


async def throughput_ours(rounds: int) -> None:
    workers = [Worker.remote() for _ in range(WORKERS)]
    for number in range(rounds):
        room = [worker.work.tell(number) for worker in workers]
        await room[-1]
    sums = await asyncio.gather(*[worker.worked.remote(0) for worker in workers])
    check("sums of what the workers got", sums, [rounds * (rounds - 1) // 2] * WORKERS)


async def create_ours(actors: int) -> None:
    workers = [Worker.remote() for _ in range(actors)]
    found = await asyncio.gather(*[worker.worked.remote(number) for number, worker in enumerate(workers)])
    check("answers of the workers", found, list(range(actors)))


class PlainWorker(PlainActor):
    def __init__(self) -> None:
        super().__init__()
        self.sum = 0

    async def work(self, number: int) -> None:
        self.sum += number

    async def worked(self, number: int) -> int:
        self.sum += number
        return self.sum


async def throughput_plain(rounds: int) -> None:
    workers = [PlainWorker() for _ in range(WORKERS)]
    for number in range(rounds):
        for worker in workers:
            tell(worker.work, number)
        await asyncio.sleep(0)
    sums = await asyncio.gather(*[ask(worker.worked, 0) for worker in workers])
    check("sums of what the workers got", sums, [rounds * (rounds - 1) // 2] * WORKERS)
    await stop(*workers)


async def create_plain(actors: int) -> None:
    workers = [PlainWorker() for _ in range(actors)]
    found = await asyncio.gather(*[ask(worker.worked, number) for number, worker in enumerate(workers)])
    check("answers of the workers", found, list(range(actors)))
    await stop(*workers)
