"""Large objects between nodes: of one host, and of two as far as they know, against a raw socket stream."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import actorfw
from benchmarks import companion
from benchmarks.arrays import BYTES, MIB, MIB_PER_SECOND, RAW_STREAM, Reader, array, rate, raw_stream
from benchmarks.harness import Claim, Contestant, Workload, require_other_process
from benchmarks.machine import Cores, Placement

__all__ = ["WORKLOAD"]

_NEIGHBOUR = "128 MiB as the argument of an actor on another node of the host"
_PULLED = "128 MiB from a node of another host"
_BESIDE = "p99 of an actor call while 1 GiB is pulled"
_RAW_BESIDE = "p99 of a raw echo beside a raw stream of 1 GiB"

_LARGE = 1024 * MIB
_LEAST_CALLS = 100


async def _times_of(call: Callable[[], Awaitable[object]], beside: asyncio.Future[None]) -> list[float]:
    """What each call takes, one after another, until something else is done."""
    times: list[float] = []
    while not beside.done() or len(times) < _LEAST_CALLS:
        started = time.perf_counter()
        await call()
        times.append(time.perf_counter() - started)
    return times


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


def _receive(port: int, into: memoryview) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"!")
        have = 0
        while have < len(into):
            have += connection.recv_into(into[have:])


@asynccontextmanager
async def _raw_beside(cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    """Round trips over one connection while a thread receives 1 GiB over another."""
    async with AsyncExitStack() as stack:
        echo = await stack.enter_async_context(companion.started("echo", str(cores.far)))
        sender = await stack.enter_async_context(companion.started("stream", str(cores.far), str(_LARGE)))
        reader, writer = await asyncio.open_connection("127.0.0.1", echo.said)
        into = memoryview(bytearray(_LARGE))

        async def call() -> None:
            writer.write(bytes(100))
            await reader.readexactly(100)

        async def once() -> float:
            receiving = asyncio.ensure_future(asyncio.to_thread(_receive, sender.said, into))
            times = await _times_of(call, receiving)
            await receiving
            return _p99(times)

        try:
            yield [Contestant(_RAW_BESIDE, "s", once)]
        finally:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def _nodes(cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(actorfw.init(num_cpus=0))
        readers: list[Reader] = []
        for module in ("peer", "far_peer"):
            peer = await stack.enter_async_context(companion.started(module, str(cores.far), node.address))
            reader = Reader.options(scheduling=actorfw.NodeAffinity(peer.said)).remote()
            require_other_process(await reader.process_id(), "the actor")
            readers.append(reader)
        near, far = readers
        value = array()

        async def neighbour() -> float:
            ref = actorfw.put(value)
            started = time.perf_counter()
            found = await near.length.remote(ref)
            took = time.perf_counter() - started
            assert found == len(value) + 1
            return took

        async def pulled() -> float:
            (ref,) = await far.make(BYTES)
            started = time.perf_counter()
            value = await ref
            took = time.perf_counter() - started
            assert value[-1] == 1
            return rate(took)

        async def beside() -> float:
            (ref,) = await far.make(_LARGE)
            pulling = asyncio.ensure_future(_await(ref))
            times = await _times_of(lambda: far.echo.remote(1), pulling)
            await pulling
            return _p99(times)

        yield [
            Contestant(_NEIGHBOUR, "s", neighbour),
            Contestant(_PULLED, MIB_PER_SECOND, pulled),
            Contestant(_BESIDE, "s", beside),
        ]


async def _await(ref: actorfw.ObjectRef[object]) -> None:
    await ref


WORKLOAD = Workload(
    name="object-transfer",
    limits=(raw_stream, _raw_beside),
    subject=(_nodes,),
    placements=(Placement.ONE_CORE, Placement.APART),
    claims=(
        Claim("an actor on another node of the host reads 128 MiB, the whole call", _NEIGHBOUR, at_most=0.001),
        Claim("128 MiB from another host, over TCP", _PULLED, RAW_STREAM, at_least=0.6),
        Claim("p99 of an actor call between the same nodes while 1 GiB is pulled", _BESIDE, _RAW_BESIDE, at_most=3.0),
    ),
)
