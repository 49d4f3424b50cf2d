"""The programs of `benchmarks.savina`: actors on one loop, against the same written with asyncio's tasks and queues."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import actorfw
from benchmarks.harness import PER_SECOND, Claim, Contestant, Entry, Workload
from benchmarks.machine import Cores
from benchmarks.rivals.against import rivals
from benchmarks.savina import (
    banking,
    big,
    bounded_buffer,
    chameneos,
    counting,
    dictionary,
    fork_join,
    ping_pong,
    skynet,
    thread_ring,
)
from benchmarks.sizes import Sizes

__all__ = ["WORKLOADS"]

_OURS = "actors of one loop"
_PLAIN = "asyncio tasks and queues"
_PLAIN_TREE = "the same tree of asyncio tasks"

_PATIENCE_S = 600.0  # a message that is lost, or a method that raised where nobody awaits it, ends as a failure

_Run = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Program:
    """One of them.

    Args:
        counted: what its rate is a rate of.
        each: how many of these there are for each unit of its size.
        rivals: libraries whose programs measure the same, as `rivals_measure`.
    """

    name: str
    counted: str
    sizes: Sizes
    ours: _Run
    plain: _Run
    each: int = 1
    rivals: tuple[str, ...] = ()
    rivals_measure: str = ""


_PROGRAMS = (
    _Program("ping-pong", "calls, one by one", Sizes(100_000, 10_000, 50), ping_pong.ours, ping_pong.plain),
    _Program("counting", "messages to one actor", Sizes(200_000, 20_000, 50), counting.ours, counting.plain),
    _Program(
        "fork-join-throughput",
        f"messages to {fork_join.WORKERS} actors",
        Sizes(10_000, 1_000, 5),
        fork_join.throughput_ours,
        fork_join.throughput_plain,
        fork_join.WORKERS,
    ),
    _Program(
        "fork-join-create",
        "actors created and called once",
        Sizes(40_000, 4_000, 20),
        fork_join.create_ours,
        fork_join.create_plain,
        rivals=("dask", "xoscar"),
        rivals_measure="created",
    ),
    _Program("thread-ring", "hops round 100 actors", Sizes(100_000, 10_000, 250), thread_ring.ours, thread_ring.plain),
    _Program("chameneos", "meetings at one mall", Sizes(50_000, 5_000, 20), chameneos.ours, chameneos.plain),
    _Program("big", "pings, many to many", Sizes(500, 50, 2), big.ours, big.plain, big.ACTORS),
    _Program(
        "concurrent-dictionary",
        "reads and writes of one actor",
        Sizes(10_000, 1_000, 10),
        dictionary.ours,
        dictionary.plain,
        dictionary.WORKERS,
    ),
    _Program(
        "bounded-buffer",
        "items through a buffer of 50",
        Sizes(1_000, 100, 3),
        bounded_buffer.ours,
        bounded_buffer.plain,
        bounded_buffer.PRODUCERS,
    ),
    _Program("banking", "transfers, one call within another", Sizes(12_000, 3_000, 30), banking.ours, banking.plain),
)


async def _took(run: _Run, size: int) -> float:
    started = time.perf_counter()
    async with asyncio.timeout(_PATIENCE_S):
        await run(size)
    return time.perf_counter() - started


def _rate(name: str, run: _Run, sizes: Sizes, each: int) -> Contestant:
    async def once() -> float:
        size = sizes.now()
        return size * each / await _took(run, size)

    return Contestant(name, PER_SECOND, once)


def _seconds(name: str, run: _Run, sizes: Sizes) -> Contestant:
    async def once() -> float:
        return await _took(run, sizes.now())

    return Contestant(name, "s", once)


def _on_a_node(contestant: Contestant) -> Entry:
    @asynccontextmanager
    async def entry(_cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
        async with actorfw.init(num_cpus=0):
            yield [contestant]

    return entry


def _alone(contestant: Contestant) -> Entry:
    @asynccontextmanager
    async def entry(_cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
        yield [contestant]

    return entry


def _workload(program: _Program) -> Workload:
    name = f"savina-{program.name}"
    return Workload(
        name=name,
        limits=(_alone(_rate(_PLAIN, program.plain, program.sizes, program.each)),),
        subject=(_on_a_node(_rate(_OURS, program.ours, program.sizes, program.each)),),
        claims=(Claim(f"{name}: {program.counted}", _OURS, _PLAIN),),
        rivals=rivals({_OURS: (PER_SECOND, program.rivals_measure)}, *program.rivals),
    )


_LEAVES = Sizes(1_000_000, 100_000, 100)

_SKYNET = Workload(
    name="skynet",
    limits=(_alone(_seconds(_PLAIN_TREE, skynet.plain, _LEAVES)),),
    subject=(_on_a_node(_seconds(_OURS, skynet.ours, _LEAVES)),),
    claims=(
        Claim(
            f"skynet: a tree of {skynet.nodes(_LEAVES.full):,} actors ({skynet.nodes(_LEAVES.quick):,} with --quick)",
            _OURS,
            _PLAIN_TREE,
            at_most=2.5,
        ),
    ),
    most_repetitions=3,
)

WORKLOADS = (*[_workload(program) for program in _PROGRAMS], _SKYNET)
