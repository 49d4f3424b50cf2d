"""`Env`: where a node gets its time, network and chance from.

Nothing above this floor asks the clock, opens a socket or draws a random number in any other way, so that a node runs
unchanged in a simulated world. `RealEnv` is the real one; the simulated one is in `actorfw.testing`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import resource
import socket
import time
from collections.abc import Callable, Coroutine
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from actorfw.core.door import Door
from actorfw.io import tcp
from actorfw.io.memory import Memory, MemoryMeter
from actorfw.io.rendezvous import FolderRendezvous, Rendezvous, rendezvous_folder
from actorfw.io.services import find_services
from actorfw.io.sharedmem import SharedMemory, available
from actorfw.io.spillfiles import SpillFiles, open_files

__all__ = ["Env", "Listener", "RealEnv", "TimerHandle", "certificates", "usual_store_memory"]

if TYPE_CHECKING:
    from actorfw.io.packages import PackageFiles
    from actorfw.io.tls import Certificates
    from actorfw.values.tls import TLS

T = TypeVar("T")

_STORE_SHARE: Final = 0.3  # of memory, for values: as much again may be the workers' own, made of them
_LEAST_STORE: Final = 64 << 20


class TimerHandle(Protocol):
    """What `Env.call_later` returns."""

    def cancel(self) -> None:
        """Don't call it. Does nothing if it has been called."""
        ...


class Listener(Protocol):
    """A listening address."""

    @property
    def address(self) -> str:
        """What is bound, as "host:port"."""
        ...

    def close(self) -> None:
        """Listen no more. Connections that were accepted stay."""
        ...

    def descriptors(self) -> list[int]:
        """Of its sockets."""
        ...


class Env(Protocol):
    """The world of one node.

    Attributes:
        random: the node's own source of chance, for jitter and choices.
        host_id: equal for nodes that see the same files and shared memory.
        pid: of the process that the node lives in.
        worker_factory: makes worker processes; what it is, is between the node and its pool.
        memory: tells how much memory is in use.
        descriptor_limit: how many files and sockets the process may have open.
        pace: None where work may run in threads. Else it runs on the loop in their stead, and this says how many
            seconds the work of some name takes.
    """

    random: random.Random
    host_id: str
    pid: int
    worker_factory: Any
    memory: Memory
    descriptor_limit: int
    pace: Callable[[str], float] | None

    def time(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    def boot_time(self) -> float:
        """Seconds on a clock that never goes back, and goes on while the machine sleeps: for leases."""
        ...

    def wall_time(self) -> float:
        """Seconds since 1970, as this machine believes: comparable between nodes, but not for measuring."""
        ...

    def call_later(self, delay: float, fn: Callable[..., object], *args: Any) -> TimerHandle:
        """Call `fn(*args)` on the loop after `delay` seconds."""
        ...

    def call_soon(self, fn: Callable[..., object], *args: Any) -> object:
        """Call `fn(*args)` in the loop's next turn."""
        ...

    def create_task(self, coro: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
        """Run a coroutine as a task of the node."""
        ...

    def create_future(self) -> asyncio.Future[Any]:
        """A future of the node's loop."""
        ...

    def shared_memory(self, size: int | None, /) -> SharedMemory | None:
        """Memory for the values of one node, of the usual size for None; None, or an OSError, if there is none here."""
        ...

    def spill_files(self, folder: str | None, limit: int | None, life: bytes, /) -> SpillFiles | None:
        """Where objects go that memory has no room for; None: nowhere. Raises UsageError if it can't be used."""
        ...

    def package_files(self, limit: int, /) -> PackageFiles:
        """Where packages of code lie, those that nobody uses up to `limit` bytes."""
        ...

    def token(self, n: int, /) -> bytes:
        """`n` bytes that nobody can guess: nonces and ids."""
        ...

    async def resolve(self, host: str) -> list[str]:
        """The addresses behind a name; raises OSError if it can't be resolved."""
        ...

    async def services(self, name: str, /) -> list[tuple[int, str, int]]:
        """The sorted rows (priority, address, port) behind the name of a service; raises OSError as `resolve`."""
        ...

    def rendezvous(self, cluster: str, /) -> Rendezvous:
        """Where nodes of this user on this host find each other."""
        ...

    async def dial(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Connect, as `loop.create_connection`."""
        ...

    async def listen(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        door: Door,
        refused: Callable[[str, Exception], object],
    ) -> Listener:
        """Accept connections; port 0 takes any free one. Who has said nothing yet waits where `door` allows it;
        `refused(where from, why)` is told whose connection is closed for what it said."""
        ...


class RealEnv:
    """The real world, on one running loop: asyncio's own or uvloop.

    Args:
        loop: the loop of the node; None means the running one.
        tls: of all its connections to other nodes.

    Raises:
        UsageError: the files of `tls` can't be used.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, tls: TLS | None = None) -> None:
        self._certificates = certificates(tls)
        if self._certificates is not None:
            self._certificates.warn()
        self.loop = asyncio.get_running_loop() if loop is None else loop
        self.random = random.Random()
        self.host_id = _host_id()
        self.pid = os.getpid()
        self.worker_factory: Any = None
        self.pace: Callable[[str], float] | None = None
        self.time: Callable[[], float] = self.loop.time
        # macOS has no such clock by that name: its monotonic one goes on in sleep.
        clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        self.boot_time: Callable[[], float] = functools.partial(time.clock_gettime, clock)
        self.wall_time: Callable[[], float] = time.time
        self.call_later: Callable[..., TimerHandle] = self.loop.call_later
        self.call_soon: Callable[..., object] = self.loop.call_soon
        self.token: Callable[[int], bytes] = os.urandom
        self.create_future: Callable[[], asyncio.Future[Any]] = self.loop.create_future
        self.memory: Memory = MemoryMeter()
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.descriptor_limit = descriptors if descriptors != resource.RLIM_INFINITY else 1 << 30
        self.spill_files: Callable[[str | None, int | None, bytes], SpillFiles | None] = open_files

    def create_task(self, coro: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
        """See `Env.create_task`."""
        return self.loop.create_task(coro, name=name)

    def shared_memory(self, size: int | None, /) -> SharedMemory | None:
        """See `Env.shared_memory`."""
        if not available():
            return None
        return SharedMemory.create(usual_store_memory() if size is None else size)

    def package_files(self, limit: int, /) -> PackageFiles:
        """See `Env.package_files`."""
        from actorfw.io.packages import LocalPackages, cache_folder  # few programs need it

        return LocalPackages(cache_folder(), limit)

    async def resolve(self, host: str) -> list[str]:
        """See `Env.resolve`."""
        return await tcp.resolve(self.loop, host)

    async def services(self, name: str, /) -> list[tuple[int, str, int]]:
        """See `Env.services`."""
        return await find_services(self.loop, name)

    def rendezvous(self, cluster: str, /) -> Rendezvous:
        """See `Env.rendezvous`."""
        return FolderRendezvous(rendezvous_folder(), cluster)

    async def dial(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """See `Env.dial`."""
        if self._certificates is not None:
            protocol_factory = self._certificates.dialling(protocol_factory, tcp.join_address(host, port))
        return await tcp.dial(self.loop, protocol_factory, host, port)

    async def listen(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        door: Door,
        refused: Callable[[str, Exception], object],
    ) -> Listener:
        """See `Env.listen`."""
        tls = self._certificates is not None
        if self._certificates is not None:
            protocol_factory = self._certificates.accepting(protocol_factory)
        return await tcp.listen(self.loop, protocol_factory, host, port, door, tls=tls, refused=refused)


@functools.cache
def usual_store_memory(nodes: int = 1) -> int:
    """Bytes of shared memory that a node has for values if nobody says; `nodes`: how many share the machine."""
    return max(_LEAST_STORE, int(MemoryMeter().limit() * _STORE_SHARE) // nodes)


def certificates(tls: TLS | None) -> Certificates | None:
    """What is read of the files of `tls`.

    Raises:
        UsageError: they can't be used.
    """
    if tls is None:
        return None
    from actorfw.io.tls import Certificates  # few nodes have any

    return Certificates(tls)


def _host_id() -> str:
    # Containers of one machine share its boot id, but not its files: the mount namespace tells them apart.
    parts = [socket.gethostname()]
    for read in (_boot_id, _mount_namespace):
        try:
            parts.append(read())
        except OSError:
            parts.append("")  # not Linux
    return blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _mount_namespace() -> str:
    return os.readlink("/proc/self/ns/mnt")
