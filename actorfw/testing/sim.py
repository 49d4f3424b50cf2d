"""`SimCluster`: a whole cluster in one loop, in virtual time, on a network that breaks on demand.

    async def main() -> None:
        async with actorfw.testing.SimCluster(nodes=3, seed=7) as cluster:
            counter = Counter.options(scheduling=actorfw.NodeAffinity(cluster.nodes[1].id)).remote()
            cluster.cut(0, 1)
            assert await counter.add(1) == 1

    actorfw.testing.run(main())

The nodes are the real ones; only their world (`SimEnv`) and their worker processes (`SimWorker`) are simulated.
Everything that happens follows from the seed.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from actorfw.core.ledger import Shape
from actorfw.io.spillfiles import SpillFiles
from actorfw.io.tcp import split_address
from actorfw.runtime import current
from actorfw.runtime.node import Node
from actorfw.runtime.nodeoptions import NodeOptions
from actorfw.runtime.rows import DrainReport
from actorfw.testing.loop import NODE, VirtualLoop
from actorfw.testing.network import MemoryNetwork, SimEnv
from actorfw.testing.workers import Duration, SimWorker, SimWorkers
from actorfw.values.config import Config
from actorfw.values.errors import NodeDiedError, UsageError

if TYPE_CHECKING:
    from actorfw.runtime.home import Home

__all__ = ["SimCluster", "SimNode"]

T = TypeVar("T")

SECRET: Final = b"a simulation has no secrets"
PIDS_PER_NODE: Final = 10_000

logger = logging.getLogger("actorfw.testing")


class SimNode:
    """One node of a simulation.

    Attributes:
        index: its place in `SimCluster.nodes`.
        name: "n" and the index, unless it was given one.
        runtime: the node itself.
        workers: its simulated worker processes that are alive, by index.
        state: "up", "crashed" or "left".
        place: its name in the network and the loop; not that of the node before it, if it was started again.
    """

    def __init__(self, index: int, name: str, env: SimEnv, workers: SimWorkers) -> None:
        self.index = index
        self.name = name
        self.state = "starting"
        self.runtime: Node
        self.place = env.node
        self.started_with: tuple[float | None, dict[str, Any]] = (None, {})
        self._env = env
        self._workers = workers
        self._ended: asyncio.Future[None] = env.create_future()

    @property
    def id(self) -> str:
        """For `NodeAffinity`: 16 hexadecimal digits."""
        return self.runtime.id

    @property
    def address(self) -> str:
        """Where peers dial it, "host:port"."""
        return self.runtime.address

    @property
    def workers(self) -> dict[int, SimWorker]:
        return self._workers.alive

    def __repr__(self) -> str:
        return f"<SimNode {self.index} {self.name} {self.state}>"


class SimCluster:
    """An async context manager; use it inside `actorfw.testing.run`. Node 0, the driver, is the current one inside.

    Same seed, same history: `trace` is equal after two runs in processes with the same `PYTHONHASHSEED`, as long as the
    code under test asks no real clock, no `random` or `os.urandom` of its own, and iterates over no set whose order
    matters. Cyclic garbage is only collected in `settle`, since a collection decides when handles are let go.

    Args:
        nodes: how many to start.
        seed: of everything that is left to chance.
        num_cpus: of each node.
        latency: bounds of what a message takes between nodes, in virtual seconds.
        duration: of tasks and methods in worker processes: seconds, bounds, or a function of their name.
        fragment: let messages arrive in pieces.
        config: of each node.
        disk: makes the files of a node that spills objects, a `MemoryFiles`; None: nodes spill none.
        **options: further options of each node: labels, totals, hosts, namespace.

    Attributes:
        nodes: all that were ever started; an index keeps its meaning.
        network: for finer faults than the methods here offer.
        loop: the simulation's loop.
    """

    def __init__(
        self,
        nodes: int = 3,
        seed: int | str = 0,
        *,
        num_cpus: float = 1,
        latency: tuple[float, float] = (0.0005, 0.005),
        duration: Duration = (0.001, 0.01),
        fragment: bool = False,
        config: Config | None = None,
        disk: Callable[[], SpillFiles] | None = None,
        **options: Any,
    ) -> None:
        given = cast("object", nodes)
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            raise UsageError(f"nodes is {nodes!r}; it must be an integer, 1 or more")
        self.seed = seed
        self.nodes: list[SimNode] = []
        self.loop: VirtualLoop
        self.network: MemoryNetwork
        self._count = nodes
        self._num_cpus = num_cpus
        self._latency = latency
        self._duration: Duration = duration
        self._fragment = fragment
        self._disk = disk
        self._config = config or Config()
        self._options = options
        self._was: Home | None = None
        self._collecting = False

    # -- life ----------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> SimCluster:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            raise UsageError("SimCluster needs virtual time: run it with actorfw.testing.run(main())")
        self.loop = loop
        self.network = MemoryNetwork(loop, self.seed, latency=self._latency, fragment=self._fragment)
        self._was = current.entered.get()
        self._collecting = gc.isenabled()
        gc.disable()
        try:
            for _ in range(self._count):
                await self.add_node()
            await self._all_met()
        except BaseException:
            await self._end()
            raise
        current.entered.set(self.driver.runtime)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            at = f"{self.loop.time():.6f} virtual seconds"
            error.add_note(f"SimCluster: seed {self.seed!r}, at {at}, trace {self.trace}")
        await self._end()

    async def _end(self) -> None:
        current.entered.set(self._was)
        try:
            self.heal()
            for node in reversed(self.nodes):
                if node.state in ("up", "starting"):
                    await self.stop(node.index)
        finally:
            for node in self.nodes:
                for worker in list(node.workers.values()):
                    worker.bury()
            if self._collecting:
                gc.enable()

    async def add_node(self, *, name: str | None = None, num_cpus: float | None = None, **options: Any) -> SimNode:
        """Start another node; returns when it is a member.

        Args:
            name: default "n" and its index.
            num_cpus: default as for the others.
            **options: other options for it than for the others.
        """
        return await self._start(name, num_cpus, options)

    async def _start(
        self, name: str | None, num_cpus: float | None, options: dict[str, Any], place: str | None = None
    ) -> SimNode:
        index = len(self.nodes)
        name = name or f"n{index}"
        # The network and the loop know a node that was started again by another name: what is left of the one before
        # it, frozen or on its way, is not its own.
        env = SimEnv(self.loop, self.network, place or name, self.seed)
        workers = SimWorkers(env, self.seed, self._duration, first_pid=PIDS_PER_NODE * (index + 1))
        env.worker_factory = workers
        disk = self._disk
        if disk is not None:
            env.spill_files = lambda folder, limit, life: disk()
        env.pace = workers.draw
        node = SimNode(index, name, env, workers)
        node.started_with = (num_cpus, options)
        given: dict[str, Any] = {
            "totals": Shape.of(num_cpus=self._num_cpus if num_cpus is None else num_cpus),
            "config": self._config,
            **self._options,
            **options,
        }
        seeds = [other.address for other in self.nodes if other.state == "up"]
        given.setdefault("seeds", seeds)
        made = NodeOptions(name=name, secrets=(SECRET,), warm=False, **given)
        self.nodes.append(node)

        async def start() -> None:
            current.entered.set(None)
            node.runtime = Node(env, made)
            await node.runtime.start()

        try:
            await self._within(node, start)
        except BaseException:
            if node.state != "crashed":
                node.state = "left"
            raise
        node.state = "up"
        node.runtime.ended.add_done_callback(lambda _: self._has_left(node))
        return node

    def _has_left(self, node: SimNode) -> None:
        if node.state == "up":
            node.state = "left"

    async def restart(self, index: int) -> SimNode:
        """Start a node that has crashed or left again: the same name, address and options, another life.

        Returns:
            The node as it is now, with an index of its own.
        """
        old = self.nodes[index]
        if old.state not in ("crashed", "left"):
            raise UsageError(f"node {index} is {old.state}: only what has crashed or left can be started again")
        num_cpus, options = old.started_with
        host, port = split_address(old.address)
        place = f"{old.name}~{len(self.nodes)}"
        return await self._start(old.name, num_cpus, {**options, "listen": (host, port)}, place)

    async def _all_met(self) -> None:
        # All know all, and those that are to be linked are.
        def met(node: SimNode) -> bool:
            runtime = node.runtime
            peers = runtime.peers.by_life
            up = [fact for fact in runtime.members.facts.values() if fact.state == "up"]
            linked = [life in peers and peers[life].connected for life in runtime.failure.machine.neighbours]
            return len(up) == len(self.nodes) and all(linked)

        while not all(met(node) for node in self.nodes):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # virtual, and nobody announces it

    async def drain(self, index: int, timeout: float = 30.0) -> DrainReport:
        """Have a node leave the cluster without loss, as `actorfw.drain` does."""
        node = self._up(index)

        async def leave() -> DrainReport:
            report = await node.runtime.leaving.leave(timeout)
            await node.runtime.stop()
            return report

        return await self._within(node, leave)

    async def stop(self, index: int) -> None:
        """Shut a node down: what it has made ends with it."""
        node = self._up(index)
        self.thaw(index)
        self.slow(index, 0)
        try:
            await self._within(node, node.runtime.stop)
        finally:
            if node.state != "crashed":
                node.state = "left"
                self._over(node)

    def crash(self, index: int, *, silent: bool = False) -> None:
        """End a node and its workers at once: nothing of them runs again, not even a `finally`.

        Args:
            index: of the node.
            silent: its machine is gone too, so no connection is closed and nobody is told.
        """
        node = self._up(index)
        node.state = "crashed"
        self.network.crash(node.place, silent=silent)
        for worker in list(node.workers.values()):
            worker.bury()
        current.unregister(node.runtime)
        self._over(node)

    def _over(self, node: SimNode) -> None:
        if not node._ended.done():
            node._ended.set_result(None)

    def _up(self, index: int) -> SimNode:
        if not 0 <= index < len(self.nodes):
            raise UsageError(f"there is no node {index}; there are {len(self.nodes)}, counted from 0")
        node = self.nodes[index]
        if node.state not in ("up", "starting"):
            raise UsageError(f"node {index} is not up: it has {node.state}")
        return node

    @property
    def driver(self) -> SimNode:
        """Node 0."""
        return self.nodes[0]

    @property
    def alive(self) -> list[SimNode]:
        """Those that are up."""
        return [node for node in self.nodes if node.state == "up"]

    # -- faults --------------------------------------------------------------------------------------------------------

    def freeze(self, index: int) -> None:
        """Run nothing of a node and its workers until `thaw`."""
        node = self._up(index)
        self.loop.freeze(node.place)
        for worker in node.workers.values():
            worker.stall()

    def thaw(self, index: int) -> None:
        """Go on after `freeze`."""
        node = self._up(index)
        self.loop.thaw(node.place)
        for worker in node.workers.values():
            worker.resume()

    def slow(self, index: int, seconds: float = 0.01) -> None:
        """Let each turn of a node's loop take so much virtual time; 0 makes it fast again."""
        self.loop.slow(self._up(index).place, seconds)

    def skew(self, index: int, rate: float) -> None:
        """Let a node's clock run `rate` times as slowly; 1 is a true clock."""
        self.loop.skew(self._up(index).place, rate)

    def cut(self, a: int, b: int) -> None:
        """Break the connections of two nodes now; what of the bytes on their way still arrives is drawn."""
        self.network.cut(self._place(a), self._place(b))

    def half_open(self, a: int, b: int) -> None:
        """The same, but only `a` is told: `b` keeps its half open and what it writes goes nowhere."""
        self.network.cut(self._place(a), self._place(b), notice=self._place(a))

    def cut_after(self, a: int, b: int, size: int) -> None:
        """Break the connection of two nodes when `size` more bytes have arrived from `a` at `b`."""
        if self.network.between(self._place(a), self._place(b)):
            self.network.cut_after(self._place(a), self._place(b), size)

    def stall(self, a: int, b: int) -> None:
        """Let nothing through from `a` to `b`, and tell nobody, until `heal`."""
        self.network.stall(self._place(a), self._place(b))

    def stall_between(self, some: Iterable[int], others: Iterable[int]) -> None:
        """A one-way partition: let nothing through from one group to another, until `heal`; the way back is open."""
        for a in sorted(set(some)):
            for b in sorted(set(others)):
                self.stall(a, b)

    def reset(self, a: int, b: int) -> None:
        """Break the connections of two nodes now; what was on its way is lost, and both are told."""
        self.network.cut(self._place(a), self._place(b), deliver="none")

    def delay(self, a: int, b: int, low: float, high: float) -> None:
        """Let messages from `a` to `b` take so many seconds from now on, drawn between two bounds."""
        self.network.set_latency(self._place(a), self._place(b), low, high)

    def partition(self, some: Iterable[int], others: Iterable[int] | None = None) -> None:
        """Let nothing through between two groups, until `heal`.

        Args:
            some: indices of one side.
            others: of the other; default: all that are not in `some`.
        """
        one = sorted(set(some))
        two = [node.index for node in self.nodes if node.index not in one] if others is None else sorted(set(others))
        self.network.partition([self._place(i) for i in one], [self._place(i) for i in two])

    def _place(self, index: int) -> str:
        """A node's name in the network and the loop."""
        return self.nodes[index].place

    def heal(self) -> None:
        """Undo `stall`, `partition` and `freeze`: what was held back arrives."""
        self.network.heal()
        for node in self.alive:
            self.thaw(node.index)

    def kill_worker(self, index: int, worker: int | None = None) -> bool:
        """Have a worker process of a node die, as if by a segmentation fault.

        Args:
            index: of the node.
            worker: its number; default: the first that is running something, else the first.

        Returns:
            Whether there was one.
        """
        found = self._up(index).workers
        if worker is not None:
            chosen = found.get(worker)
        else:
            chosen = next((w for w in found.values() if w.label), None) or next(iter(found.values()), None)
        if chosen is None:
            return False
        chosen.crash()
        return True

    # -- time and place ------------------------------------------------------------------------------------------------

    @property
    def trace(self) -> str:
        """A hash over every message so far: when, from whom, to whom, and its bytes."""
        return self.network.trace

    async def settle(self, seconds: float = 1.0) -> None:
        """Let virtual time pass, and collect garbage: what nobody names any more is let go."""
        gc.collect()
        await asyncio.sleep(seconds)
        gc.collect()
        await asyncio.sleep(0.001)

    @asynccontextmanager
    async def on(self, index: int) -> AsyncGenerator[SimNode]:
        """What stands inside runs on a node: it is the current one, and what is frozen or crashed with it.

        Freezing or crashing a node from inside its own block ends the test's own progress: use `run_on` for what may
        go down.
        """
        node = self._up(index)
        was = NODE.get(), current.entered.get()
        NODE.set(node.place)
        current.entered.set(node.runtime)
        try:
            yield node
        finally:
            NODE.set(was[0])
            current.entered.set(was[1])

    async def run_on(self, index: int, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run `await fn(*args)` on a node, as if its own program did.

        Raises:
            NodeDiedError: the node crashed meanwhile.
        """
        node = self._up(index)

        async def there() -> T:
            current.entered.set(node.runtime)
            return await fn(*args)

        return await self._within(node, there)

    async def _within(self, node: SimNode, fn: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await fn()

        task = self.loop.create_task(run(), context=self.loop.context_of(node.place))
        try:
            await asyncio.wait([task, node._ended], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            raise NodeDiedError(f"node {node.index} crashed while the simulation's program ran there", ran=None)
        result: T = task.result()
        return result

    def __repr__(self) -> str:
        return f"<SimCluster seed={self.seed!r} {self.nodes}>"
