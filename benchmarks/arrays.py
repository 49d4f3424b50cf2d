"""Large values for the object workloads: what is submitted with them, and the memory operations that limit them.

numpy is loaded by those who need it: the other workloads are measured without.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import actorfw
from benchmarks import companion
from benchmarks.harness import Contestant
from benchmarks.machine import Cores

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "BYTES",
    "MEMCPY",
    "MIB",
    "MIB_PER_SECOND",
    "RAW_STREAM",
    "Reader",
    "array",
    "fresh_copy_seconds",
    "give",
    "length",
    "memcpy",
    "prepare",
    "raw_stream",
    "rate",
]

MIB = 1 << 20
BYTES = 128 * MIB
MIB_PER_SECOND = "MiB/s"

MEMCPY = "memcpy of 128 MiB, both sides warm"
RAW_STREAM = "raw socket stream of 128 MiB"


def array(nbytes: int = BYTES) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Numbers of that many bytes, in memory that was written to."""
    import numpy as np

    return np.ones(nbytes // 8)


def rate(seconds: float, nbytes: int = BYTES) -> float:
    """Bytes in seconds, as MiB per second."""
    return nbytes / MIB / seconds


def fresh_copy_seconds(source: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """What `numpy.copyto` into shared memory takes that was never touched: memfd, mmap, copy."""
    import numpy as np

    started = time.perf_counter()
    fd = os.memfd_create("benchmark")
    try:
        os.ftruncate(fd, source.nbytes)
        with mmap.mmap(fd, source.nbytes) as mapped:
            target = np.frombuffer(mapped, dtype=source.dtype)
            np.copyto(target, source)
            took = time.perf_counter() - started
            del target
    finally:
        os.close(fd)
    return took


@asynccontextmanager
async def memcpy(_cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    """Copying between two arrays of this process: nothing that takes a copy is faster."""
    source, target = array(), array()

    async def once() -> float:
        started = time.perf_counter()
        ctypes.memmove(target.ctypes.data, source.ctypes.data, BYTES)
        return rate(time.perf_counter() - started)

    yield [Contestant(MEMCPY, MIB_PER_SECOND, once)]


@asynccontextmanager
async def raw_stream(cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    """As many bytes over TCP from another process, by blocking calls into memory that is there."""
    async with companion.started("stream", str(cores.far), str(BYTES)) as sender:
        into = memoryview(bytearray(BYTES))

        async def once() -> float:
            with socket.create_connection(("127.0.0.1", sender.said)) as connection:
                started = time.perf_counter()
                connection.sendall(b"!")
                have = 0
                while have < BYTES:
                    got = connection.recv_into(into[have:])
                    if not got:
                        raise ConnectionError("the sender has ended")
                    have += got
                return rate(time.perf_counter() - started)

        yield [Contestant(RAW_STREAM, MIB_PER_SECOND, once)]


_prepared: dict[int, Any] = {}


@actorfw.remote
def prepare(nbytes: int) -> int:
    """Makes the array that `give` returns; returns this worker's process id."""
    _prepared[nbytes] = array(nbytes)
    return os.getpid()


@actorfw.remote
def give(nbytes: int) -> Any:
    """A task that returns what it has already: the cost is that of the result."""
    return _prepared[nbytes]


@actorfw.remote
def length(value: Any) -> int:
    """A task that looks at its argument."""
    return int(value[-1]) + len(value)


class Reader(actorfw.Actor):
    """An actor on another node, which looks at what it is given."""

    @actorfw.method
    async def process_id(self) -> int:
        return os.getpid()

    @actorfw.method
    async def length(self, value: Any) -> int:
        return int(value[-1]) + len(value)

    @actorfw.method
    async def make(self, nbytes: int) -> list[Any]:
        """Puts an array there; the ref, in a list."""
        return [actorfw.put(array(nbytes))]

    @actorfw.method
    async def echo(self, x: int) -> int:
        return x
