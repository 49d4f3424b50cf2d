"""What limits actorfw, and what the standard library offers instead: each as an entry of the harness.

All from async code under uvloop; where a competitor is fastest when it blocks the loop, it blocks the loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import cast

from benchmarks import companion
from benchmarks.harness import PER_SECOND, BenchmarkError, Contestant
from benchmarks.machine import Cores, pin

__all__ = [
    "BARE_TASKS",
    "BATCH",
    "EXECUTOR",
    "EXECUTOR_AWAITED",
    "FORKED",
    "PING_PONG",
    "POOL",
    "bare_tasks",
    "executor",
    "forked_processes",
    "ping_pong",
    "pool",
]

PING_PONG = "raw uvloop TCP ping-pong"
BARE_TASKS = "gather over create_task(noop())"
POOL = "multiprocessing.Pool.apply"
EXECUTOR = "ProcessPoolExecutor.submit, then wait"
EXECUTOR_AWAITED = "ProcessPoolExecutor by run_in_executor, gathered"
FORKED = "multiprocessing.Process, started and asked once"

BATCH = 10_000  # calls under way at once, in every gathered workload

_ROUND_TRIPS = 4_000
_MESSAGE = bytes(100)  # about what a small call is on the wire
_POOL_CALLS = 2_000
_PROCESSES = 20


class _Answers(asyncio.Protocol):
    """Hands what arrives to the one who waits."""

    waiter: asyncio.Future[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.waiter.set_result(data)


@asynccontextmanager
async def ping_pong(cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    """Round trips of a small message between two processes: nothing that talks TCP from asyncio is faster."""
    loop = asyncio.get_running_loop()
    async with companion.started("echo", str(cores.far)) as echo:
        transport, answers = await loop.create_connection(_Answers, "127.0.0.1", echo.said)

        async def once() -> float:
            started = time.perf_counter()
            for _ in range(_ROUND_TRIPS):
                answers.waiter = loop.create_future()
                transport.write(_MESSAGE)
                await answers.waiter
            return _ROUND_TRIPS / (time.perf_counter() - started)

        try:
            yield [Contestant(PING_PONG, PER_SECOND, once)]
        finally:
            transport.close()


async def _noop() -> None:
    pass


@asynccontextmanager
async def bare_tasks(_cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    """As many asyncio tasks as there would be calls: what gathering costs when nothing is called."""

    async def once() -> float:
        started = time.perf_counter()
        await asyncio.gather(*[asyncio.create_task(_noop()) for _ in range(BATCH)])
        return BATCH / (time.perf_counter() - started)

    yield [Contestant(BARE_TASKS, PER_SECOND, once)]


def _increment(x: int) -> int:
    return x + 1


@asynccontextmanager
async def pool(cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    """Calls to the one worker of a `Pool`, one by one. `apply` blocks the loop, which is the fastest way to use it."""
    workers = multiprocessing.get_context("spawn").Pool(1, initializer=pin, initargs=(cores.far,))

    async def once() -> float:
        started = time.perf_counter()
        for x in range(_POOL_CALLS):
            workers.apply(_increment, (x,))
        return _POOL_CALLS / (time.perf_counter() - started)

    try:
        yield [Contestant(POOL, PER_SECOND, once)]
    finally:
        workers.close()
        workers.join()


@asynccontextmanager
async def executor(cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    """Calls to the one worker of a `ProcessPoolExecutor`, all submitted before the first is awaited.

    Twice: waited for in one go, which blocks the loop and is the faster, and awaited as async code would.
    """
    loop = asyncio.get_running_loop()
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, initializer=pin, initargs=(cores.far,)) as workers:

        async def submitted() -> float:
            started = time.perf_counter()
            concurrent.futures.wait([workers.submit(_increment, x) for x in range(BATCH)])
            return BATCH / (time.perf_counter() - started)

        async def awaited() -> float:
            started = time.perf_counter()
            await asyncio.gather(*[loop.run_in_executor(workers, _increment, x) for x in range(BATCH)])
            return BATCH / (time.perf_counter() - started)

        yield [Contestant(EXECUTOR, PER_SECOND, submitted), Contestant(EXECUTOR_AWAITED, PER_SECOND, awaited)]


def _answer_once(connection: Connection) -> None:
    connection.send(connection.recv())


@asynccontextmanager
async def forked_processes(_cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    """Processes forked by a fork server that has imported what they need, each asked once through a pipe."""
    context = multiprocessing.get_context("forkserver")
    # Each child imports the main module of this process again; what that imports is to be there already.
    context.set_forkserver_preload(["uvloop", "benchmarks.catalogue"])

    async def once() -> float:
        running: list[tuple[BaseProcess, Connection]] = []
        started = time.perf_counter()
        for number in range(_PROCESSES):
            near, far = context.Pipe()
            process = context.Process(target=_answer_once, args=(far,))
            process.start()
            far.close()
            near.send(number)
            if near.recv() != number:
                raise BenchmarkError(f"process {process.pid} gave another answer than it was asked for")
            running.append((process, near))
        rate = _PROCESSES / (time.perf_counter() - started)
        for asked, end in running:
            end.close()
            asked.join()
        return rate

    yield [Contestant(FORKED, PER_SECOND, once)]
