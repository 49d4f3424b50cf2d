"""`MemoryNetwork`: TCP between simulated nodes, with the faults that TCP allows, and `SimEnv`: a node's world on it.

Bytes of a connection arrive in order or the connection breaks; nothing is dropped or swapped inside a live stream.
Latency, fragments and what was on its way when a connection broke are drawn from the network's seed; `trace` is a hash
over all that was delivered, when and to whom, so two runs can be compared.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable
from hashlib import blake2b
from typing import Any, Final, TypeVar

from actorfw.core.door import Door
from actorfw.io.env import TimerHandle
from actorfw.io.memory import Memory
from actorfw.io.rendezvous import Mate
from actorfw.io.sharedmem import SharedMemory
from actorfw.io.spillfiles import SpillFiles
from actorfw.io.tcp import join_address
from actorfw.testing.faults import SteadyMemory
from actorfw.testing.loop import NODE, VirtualLoop
from actorfw.testing.packages import MemoryPackages
from actorfw.testing.rendezvous import MemoryRendezvous
from actorfw.testing.transport import Connection, Deliver, MemoryTransport

__all__ = ["STORE_BYTES", "Connection", "MemoryNetwork", "MemoryTransport", "SimEnv"]

STORE_BYTES: Final = 16 << 20
"""Of shared memory that a simulated node has at most: values beyond are bytes on the heap."""

T = TypeVar("T")

_SYN_AGAIN: Final = 1.0
_FIRST_PORT: Final = 20_000


class _MemoryListener:
    def __init__(
        self, network: MemoryNetwork, node: str, factory: Callable[[], asyncio.BaseProtocol], key: tuple[str, int]
    ):
        self.network = network
        self.node = node
        self.factory = factory
        self.key = key

    @property
    def address(self) -> str:
        return join_address(*self.key)

    def close(self) -> None:
        self.network.unbind(self)

    def descriptors(self) -> list[int]:
        return []


class MemoryNetwork:
    """All connections of a simulation.

    Args:
        loop: the simulation's loop.
        seed: of everything that is left to chance.
        latency: bounds of what a write takes to arrive, in seconds.
        fragment: cut what arrives into pieces, at random.
        sealed: make nodes believe that connections leave the machine, so that they seal their frames.

    Attributes:
        hosts: the addresses behind names; none means that there is no such name. Others are addresses themselves.
        services: the rows (priority, address, port) behind the names of services.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        seed: int | str = 0,
        *,
        latency: tuple[float, float] = (0.0005, 0.005),
        fragment: bool = False,
        sealed: bool = False,
    ) -> None:
        self.loop = loop
        self.random = random.Random(f"network/{seed}")
        self.latency = latency
        self.fragment = fragment
        self.sealed = sealed
        self.context = loop.context_of(None)
        self.connections: list[Connection] = []
        self.hosts: dict[str, list[str]] = {}
        self.services: dict[str, list[tuple[int, str, int]]] = {}
        self._entries: dict[str, dict[str, Mate]] = {}  # of nodes that find each other, by cluster
        self._latencies: dict[tuple[str, str], tuple[float, float]] = {}
        self._listeners: dict[tuple[str, int], _MemoryListener] = {}
        self._blocked: set[tuple[str, str]] = set()
        self._refusing: set[str] = set()
        self._cut_next: dict[tuple[str, str], int] = {}
        self._next_port = _FIRST_PORT
        self._hash = blake2b(digest_size=16)
        self.delivered = 0

    # What happened.

    @property
    def trace(self) -> str:
        """A hash over everything delivered so far: (time, from, to, bytes)."""
        return self._hash.copy().hexdigest()

    def note(self, src: str, dst: str, data: bytes) -> None:
        """Add to the trace."""
        self.delivered += len(data)
        self._hash.update(f"{self.loop.time():.9f} {src} {dst} {len(data)} ".encode())
        self._hash.update(data)

    def between(self, a: str, b: str) -> list[Connection]:
        """The connections of two nodes, the oldest first."""
        return [c for c in self.connections if {c.ends[0].node, c.ends[1].node} == {a, b}]

    def latency_of(self, src: str, dst: str) -> tuple[float, float]:
        """Bounds for one direction."""
        return self._latencies.get((src, dst), self.latency)

    # Faults.

    def true_latency(self) -> None:
        """Undo all of `set_latency`."""
        self._latencies.clear()

    def set_latency(self, src: str, dst: str, low: float, high: float) -> None:
        """Bounds of what a write from `src` to `dst` takes, from now on."""
        self._latencies[src, dst] = (low, high)

    def cut(self, a: str, b: str, *, deliver: Deliver = "some", notice: str | None = None) -> None:
        """Break all connections of two nodes now. With `notice` only that node is told: the other half stays open."""
        for connection in self.between(a, b):
            if notice is None:
                connection.cut(deliver=deliver)
            else:
                connection.cut(deliver=deliver, notice="dialler" if connection.ends[0].node == notice else "acceptor")

    def cut_after(self, src: str, dst: str, size: int) -> None:
        """Break the newest connection of two nodes when `size` more bytes have arrived from `src` at `dst`."""
        pipe = self.between(src, dst)[-1].pipe(src)
        pipe.cut_at = pipe.passed + size

    def cut_next(self, src: str, dst: str, size: int) -> None:
        """Break the next connection of two nodes when `size` bytes, its handshake included, have passed."""
        self._cut_next[src, dst] = size

    def stall(self, src: str, dst: str) -> None:
        """Let nothing through from `src` to `dst`, in open connections and new ones, until `heal`."""
        self._blocked.add((src, dst))
        for connection in self.between(src, dst):
            connection.pipe(src).hold()

    def unstall(self, src: str, dst: str) -> None:
        """Undo `stall` for one direction: what was held back arrives."""
        self._blocked.discard((src, dst))
        for connection in self.between(src, dst):
            connection.pipe(src).release()

    def partition(self, some: Iterable[str], others: Iterable[str]) -> None:
        """Let nothing through between two groups, and tell nobody, until `heal`."""
        for a in some:
            for b in others:
                self.stall(a, b)
                self.stall(b, a)

    def refuse(self, node: str) -> None:
        """Refuse every dial to this node, as if nobody listened, until `heal`."""
        self._refusing.add(node)

    def heal(self) -> None:
        """Undo `stall`, `partition` and `refuse`: what was held back arrives."""
        self._blocked.clear()
        self._refusing.clear()
        for connection in self.connections:
            for end in connection.ends:
                end.out.release()

    def crash(self, node: str, *, silent: bool = False) -> None:
        """End a node at once, in the loop too. Its kernel closes its connections, unless its machine is gone as well
        (`silent`): then nobody is told, and dials to it hang."""
        self.loop.crash(node)
        for connection in [*self.connections]:
            for end in connection.ends:
                if end.node != node:
                    continue
                if silent:
                    end.out.kill()
                    end.other.out.kill()
                else:
                    end.out.truncate(self.random.randint(0, end.out.arriving()))
                    end.out.finish(ConnectionResetError("connection reset by peer"))
                    end.other.out.kill()
                    end.lost = True
        for key, listener in [*self._listeners.items()]:
            if listener.node == node and not silent:
                del self._listeners[key]

    # What SimEnv calls.

    def bind(self, node: str, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int) -> _MemoryListener:
        """Listen."""
        if port == 0:
            self._next_port += 1
            port = self._next_port
        key = (host, port)
        taken = self._listeners.get(key)
        if taken is not None and not self._gone(taken.node):
            raise OSError(98, f"address already in use: {join_address(host, port)}")
        listener = self._listeners[key] = _MemoryListener(self, node, factory, key)
        return listener

    def unbind(self, listener: _MemoryListener) -> None:
        """Listen no more."""
        if self._listeners.get(listener.key) is listener:
            del self._listeners[listener.key]

    def forget(self, connection: Connection) -> None:
        """Both ends are done."""
        if connection in self.connections:
            self.connections.remove(connection)

    async def connect(
        self, node: str, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> tuple[MemoryTransport, asyncio.BaseProtocol]:
        """Connect from `node`."""
        low, high = self.latency
        await asyncio.sleep(self.random.uniform(low, high))
        while True:
            listener = self._listeners.get((host, port))
            if listener is None or listener.node in self._refusing:
                raise ConnectionRefusedError(111, f"connect to {join_address(host, port)}: connection refused")
            pair = (node, listener.node)
            if pair not in self._blocked and pair[::-1] not in self._blocked and not self._gone(listener.node):
                break
            await asyncio.sleep(_SYN_AGAIN)
        connection = Connection(self, node, listener.node, (host, port))
        self.connections.append(connection)
        for end in connection.ends:
            end.out.cut_at = self._cut_next.pop((end.node, end.other.node), None)
        self.loop.call_soon(lambda: connection.ends[1].start(listener.factory()), context=connection.ends[1].context)
        protocol = factory()
        connection.ends[0].start(protocol)
        return connection.ends[0], protocol

    def rendezvous(self, cluster: str, node: str) -> MemoryRendezvous:
        """Where the nodes of a cluster find each other by its name, for one of them."""
        return MemoryRendezvous(self._entries.setdefault(cluster, {}), node, self._gone)

    def _gone(self, node: str) -> bool:
        return self.loop.is_crashed(node)


def _no_files(*_: object) -> None:
    return None


def _anonymous(size: int | None) -> SharedMemory:
    return SharedMemory.anonymous(min(size or STORE_BYTES, STORE_BYTES))


class SimEnv:
    """The world of one simulated node: its own context, clock and chance, on a virtual loop and a memory network.

    Args:
        loop: the simulation's loop.
        network: the simulation's network.
        node: a name that no other node of the simulation has or had.
        seed: of the node's chance, its ids and nonces included.
    """

    def __init__(self, loop: VirtualLoop, network: MemoryNetwork, node: str, seed: int | str = 0) -> None:
        self.loop = loop
        self.network = network
        self.node = node
        self.random = random.Random(f"node/{seed}/{node}")
        self._tokens = random.Random(f"tokens/{seed}/{node}")
        self.host_id = "simulated"
        self.pid = 1
        self.worker_factory: Any = None
        self.pace: Callable[[str], float] | None = lambda _: 0.0
        self.memory: Memory = SteadyMemory()
        self.descriptor_limit = 1 << 20
        self.spill_files: Callable[[str | None, int | None, bytes], SpillFiles | None] = _no_files
        self.shared_memory: Callable[[int | None], SharedMemory | None] = _anonymous
        self.packages = MemoryPackages()

    def __repr__(self) -> str:
        return f"<SimEnv {self.node}>"

    def time(self) -> float:
        """See `Env.time`."""
        return self.loop.node_time(self.node)

    def boot_time(self) -> float:
        """See `Env.boot_time`."""
        return self.time()

    def wall_time(self) -> float:
        """See `Env.wall_time`."""
        return self.time()

    def call_later(self, delay: float, fn: Callable[..., object], *args: Any) -> TimerHandle:
        """See `Env.call_later`."""
        if NODE.get() == self.node:
            return self.loop.call_later(delay, fn, *args)
        return self.loop.call_later(delay, fn, *args, context=self.loop.context_of(self.node))

    def call_soon(self, fn: Callable[..., object], *args: Any) -> object:
        """See `Env.call_soon`."""
        if NODE.get() == self.node:
            return self.loop.call_soon(fn, *args)
        return self.loop.call_soon(fn, *args, context=self.loop.context_of(self.node))

    def create_task(self, coro: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
        """See `Env.create_task`."""
        return self.loop.create_task(coro, name=name, context=self.loop.context_of(self.node))

    def create_future(self) -> asyncio.Future[Any]:
        """See `Env.create_future`."""
        return self.loop.create_future()

    def package_files(self, limit: int, /) -> MemoryPackages:
        """See `Env.package_files`."""
        return self.packages

    def token(self, n: int) -> bytes:
        """See `Env.token`."""
        return self._tokens.randbytes(n)

    async def resolve(self, host: str) -> list[str]:
        """See `Env.resolve`: here every host's name is its address, but for those of `MemoryNetwork.hosts`."""
        found = self.network.hosts.get(host, [host])
        if not found:
            raise OSError(f"there is no host {host}")
        return found

    async def services(self, name: str, /) -> list[tuple[int, str, int]]:
        """See `Env.services`: those of `MemoryNetwork.services`."""
        try:
            return sorted(self.network.services[name])
        except KeyError:
            raise OSError(f"there is no service {name}") from None

    def rendezvous(self, cluster: str, /) -> MemoryRendezvous:
        """See `Env.rendezvous`."""
        return self.network.rendezvous(cluster, self.node)

    async def dial(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """See `Env.dial`."""
        return await self.network.connect(self.node, protocol_factory, host, port)

    async def listen(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        door: Door,
        refused: Callable[[str, Exception], object],
    ) -> _MemoryListener:
        """See `Env.listen`. What has said nothing yet has a protocol here, too."""
        return self.network.bind(self.node, protocol_factory, host, port)
