"""ConcurrentDictionary: 20 workers read and (one time in ten) write the dictionary of one actor."""

from __future__ import annotations

import asyncio
import random

import actorfw
from benchmarks.savina.checks import check
from benchmarks.savina.plain import PlainActor, ask, stop

__all__ = ["WORKERS", "ours", "plain"]

WORKERS = 20

_KEYS = 512
_WRITES = 0.1


class Dictionary(actorfw.Actor):
    def __init__(self) -> None:
        self.values: dict[int, int] = {}
        self.reads = 0
        self.writes = 0

    @actorfw.method
    async def write(self, key: int, value: int) -> None:
        self.writes += 1
        self.values[key] = value

    @actorfw.method
    async def read(self, key: int) -> int | None:
        self.reads += 1
        return self.values.get(key)

    @actorfw.method
    async def counts(self) -> tuple[int, int]:
        return self.reads, self.writes


class Worker(actorfw.Actor):
    @actorfw.method
    async def work(self, dictionary: Dictionary, operations: int, seed: int) -> int:
        """Returns how often it wrote."""
        dice = random.Random(seed)
        writes = 0
        for number in range(operations):
            key = dice.randrange(_KEYS)
            if dice.random() < _WRITES:
                writes += 1
                await dictionary.write(key, key + number * _KEYS)
            else:
                value = await dictionary.read(key)
                check("key of the value read", key if value is None else value % _KEYS, key)
        return writes


async def ours(operations: int) -> None:
    dictionary = Dictionary.remote()
    workers = [Worker.remote() for _ in range(WORKERS)]
    written = await asyncio.gather(
        *[worker.work.remote(dictionary, operations, seed) for seed, worker in enumerate(workers)]
    )
    writes = sum(written)
    check("reads and writes", await dictionary.counts(), (WORKERS * operations - writes, writes))


class PlainDictionary(PlainActor):
    def __init__(self) -> None:
        super().__init__()
        self.values: dict[int, int] = {}
        self.reads = 0
        self.writes = 0

    async def write(self, key: int, value: int) -> None:
        self.writes += 1
        self.values[key] = value

    async def read(self, key: int) -> int | None:
        self.reads += 1
        return self.values.get(key)

    async def counts(self) -> tuple[int, int]:
        return self.reads, self.writes


class PlainWorker(PlainActor):
    async def work(self, dictionary: PlainDictionary, operations: int, seed: int) -> int:
        dice = random.Random(seed)
        writes = 0
        for number in range(operations):
            key = dice.randrange(_KEYS)
            if dice.random() < _WRITES:
                writes += 1
                await ask(dictionary.write, key, key + number * _KEYS)
            else:
                value = await ask(dictionary.read, key)
                check("key of the value read", key if value is None else value % _KEYS, key)
        return writes


async def plain(operations: int) -> None:
    dictionary = PlainDictionary()
    workers = [PlainWorker() for _ in range(WORKERS)]
    written = await asyncio.gather(
        *[ask(worker.work, dictionary, operations, seed) for seed, worker in enumerate(workers)]
    )
    writes = sum(written)
    check("reads and writes", await ask(dictionary.counts), (WORKERS * operations - writes, writes))
    await stop(dictionary, *workers)
