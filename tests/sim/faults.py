"""What is done to a simulated cluster while its programs run, drawn with swarm testing: each seed has some kinds of
faults only, since those that always happen hide what happens without them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from actorfw import errors
from actorfw.testing import SimCluster, SimNode
from tests.sim.looking import drained
from tests.sim.oracles import Recorder

__all__ = ["Faults"]

DRAIN_SECONDS = 8.0
LEAST_ALIVE = 2


class Faults:
    """The faults of one seed.

    Args:
        cluster: to whom they happen.
        seen: hears which of them may cost somebody a call.
        seed: of the choices.
        long: seconds after which the unreachable and the frozen are surely dead.
        begin: starts the program of a node that has joined.
    """

    def __init__(
        self, cluster: SimCluster, seen: Recorder, seed: int, long: float, begin: Callable[[SimNode], object]
    ) -> None:
        self.cluster = cluster
        self.network = cluster.network
        self.seen = seen
        self.long = long
        self.begin = begin
        self.random = random.Random(f"faults/{seed}")
        self.lasting: list[asyncio.Task[None]] = []
        self.leaving: set[int] = set()
        gentle: list[Callable[[], Any]] = [
            self.cut, self.cut_at_byte, self.reset, self.half_open, self.stall, self.freeze, self.lag, self.slow,
            self.delay, self.skew, self.partition, self.join, self.drain, self.stall_worker,
        ]  # fmt: skip
        harsh: list[Callable[[], Any]] = [
            self.worker, self.worker, self.crash, self.crash_in_frame, self.restart, self.shut_down, self.long_freeze,
            self.long_partition, self.long_partition, self.overlapping_partition, self.one_way_partition,
        ]  # fmt: skip
        self.known = [fault for fault in gentle if self.random.random() < 0.4]
        if self.random.random() < 0.6:
            self.known += [fault for fault in harsh if self.random.random() < 0.4]

    @property
    def names(self) -> list[str]:
        return [fault.__name__ for fault in self.known]

    async def run(self, steps: int) -> None:
        """A few seconds of them; returns when all are over."""
        for _ in range(steps):
            await asyncio.sleep(self.random.uniform(0.01, 0.4))
            if self.known:
                done = self.random.choice(self.known)()
                if done is not None:
                    await done
        await asyncio.gather(*self.lasting)
        self.network.true_latency()

    # -- whom ----------------------------------------------------------------------------------------------------------

    def two(self) -> tuple[int, int] | None:
        up = [node.index for node in self.cluster.alive]
        return tuple(self.random.sample(up, 2)) if len(up) > 1 else None  # type: ignore[return-value]

    def one(self) -> SimNode:
        return self.random.choice(self.cluster.alive)

    def spare(self) -> SimNode | None:
        """Somebody whom the cluster can do without; never the driver."""
        found = [node for node in self.cluster.alive if node.index and node.index not in self.leaving]
        staying = len(self.cluster.alive) - len(self.leaving)
        return self.random.choice(found) if staying > LEAST_ALIVE and found else None

    def groups(self) -> tuple[list[str], list[str]]:
        up = [node.place for node in self.cluster.alive]
        self.random.shuffle(up)
        at = self.random.randint(1, max(1, len(up) // 2))
        return up[:at], up[at:]

    def meanwhile(self, fault: Coroutine[Any, Any, None]) -> None:
        self.lasting.append(asyncio.ensure_future(fault))

    # -- links ---------------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        if pair := self.two():
            self.cluster.cut(*pair)

    def reset(self) -> None:
        if pair := self.two():
            self.cluster.reset(*pair)

    def cut_at_byte(self) -> None:
        if pair := self.two():
            self.cluster.cut_after(*pair, self.random.randrange(3_000))

    def half_open(self) -> None:
        if pair := self.two():
            self.cluster.half_open(*pair)

    def stall(self) -> None:
        if pair := self.two():
            places = [self.cluster.nodes[index].place for index in pair]
            self.meanwhile(self._hold([places[0]], [places[1]], [], self.random.uniform(0.1, 1.5)))

    def delay(self) -> None:
        if pair := self.two():
            self.cluster.delay(*pair, 0.01, self.random.choice((0.05, 0.3)))

    async def _hold(self, some: list[str], others: list[str], back: list[str], seconds: float) -> None:
        """Nothing from `some` to `others`, and nothing from those in `back` the other way."""
        ways = [(a, b) for a in some for b in others] + [(b, a) for a in some for b in back]
        for way in ways:
            self.network.stall(*way)
        await asyncio.sleep(seconds)
        for way in ways:
            self.network.unstall(*way)

    def partition(self) -> None:
        some, others = self.groups()
        self.meanwhile(self._hold(some, others, others, self.random.uniform(0.1, 1.5)))

    def long_partition(self) -> None:
        self.seen.lossy()
        some, others = self.groups()
        self.meanwhile(self._hold(some, others, others, self.long * self.random.uniform(0.5, 1.5)))

    def overlapping_partition(self) -> None:
        """Two groups that don't see each other, and somebody who sees both."""
        self.seen.lossy()
        some, others = self.groups()
        self.meanwhile(self._hold(some, others[1:], others[1:], self.long * self.random.uniform(0.5, 1.0)))

    def one_way_partition(self) -> None:
        self.seen.lossy()
        some, others = self.groups()
        seconds = self.random.choice((0.5, self.long))
        if self.random.random() < 0.5:
            some, others = others, some
        self.meanwhile(self._hold(some, others, [], seconds))

    # -- nodes that run badly ------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        self.meanwhile(self._freeze(self.one(), self.random.uniform(0.1, 1.5)))

    def long_freeze(self) -> None:
        self.seen.lossy()
        self.meanwhile(self._freeze(self.one(), self.long * self.random.uniform(0.5, 1.2)))

    async def _freeze(self, node: SimNode, seconds: float) -> None:
        self.cluster.freeze(node.index)
        await asyncio.sleep(seconds)
        if node.state == "up":
            self.cluster.thaw(node.index)

    def lag(self) -> None:
        """Its loop computes; its workers go on."""
        self.meanwhile(self._lag(self.one(), self.random.uniform(0.1, 1.5)))

    async def _lag(self, node: SimNode, seconds: float) -> None:
        loop = self.cluster.loop
        if not loop.is_frozen(node.place):
            loop.freeze(node.place)
            await asyncio.sleep(seconds)
            if node.state == "up":
                loop.thaw(node.place)

    def slow(self) -> None:
        self.meanwhile(self._slow(self.one(), self.random.uniform(0.1, 0.5)))

    async def _slow(self, node: SimNode, seconds: float) -> None:
        self.cluster.slow(node.index, 0.002)
        await asyncio.sleep(seconds)
        if node.state == "up":
            self.cluster.slow(node.index, 0)

    def skew(self) -> None:
        self.cluster.skew(self.one().index, self.random.uniform(0.96, 1.04))

    # -- workers -------------------------------------------------------------------------------------------------------

    async def worker(self) -> None:
        self.seen.lossy()
        actors = self.random.random() < 0.3
        for _ in range(50):  # until one is busy
            workers = [worker for node in self.cluster.alive for worker in node.workers.values()]
            busy = [worker for worker in workers if worker.label and worker.label.startswith("actor ") == actors]
            if busy:
                victim = next((worker for worker in busy if worker.label == "sluggish"), busy[0])
                # Before or after what it runs has had its effect.
                await asyncio.sleep(self.random.uniform(0, 0.15))
                victim.crash()
                return
            await asyncio.sleep(0.01)

    def stall_worker(self) -> None:
        workers = self.one().workers
        if workers:
            self.meanwhile(self._stall_worker(self.random.choice(list(workers.values()))))

    async def _stall_worker(self, worker: Any) -> None:
        worker.stall()
        await asyncio.sleep(self.random.uniform(0.05, 0.5))
        worker.resume()

    # -- nodes that come and go ----------------------------------------------------------------------------------------

    def crash(self) -> None:
        if node := self.spare():
            self.seen.lossy()
            self.cluster.crash(node.index, silent=self.random.random() < 0.4)

    def crash_in_frame(self) -> None:
        """It goes when so many bytes of what it says to somebody have arrived."""
        node = self.spare()
        if node is None:
            return
        self.seen.lossy()
        links = [c for c in self.network.connections if node.place in (c.ends[0].node, c.ends[1].node)]
        if links:
            pipe = self.random.choice(links).pipe(node.place)
            pipe.cut_at = pipe.passed + self.random.randrange(200)
            self.meanwhile(self._crash_when(node, lambda: pipe.cut_at is None or pipe.dead))

    async def _crash_when(self, node: SimNode, true: Callable[[], bool]) -> None:
        for _ in range(500):
            if true():
                break
            await asyncio.sleep(0.002)
        if node.state == "up" and len(self.cluster.alive) > LEAST_ALIVE:
            self.cluster.crash(node.index)

    def restart(self) -> None:
        if node := self.spare():
            self.seen.lossy()
            self.cluster.crash(node.index, silent=self.random.random() < 0.3)
            self.meanwhile(self._join(lambda: self.cluster.restart(node.index), self.random.choice((0.0, 0.2, 2.0))))

    def join(self) -> None:
        """One, or many at once."""
        for _ in range(self.random.choice((1, 1, 3))):
            self.meanwhile(self._join(self.cluster.add_node, self.random.uniform(0, 0.05)))

    async def _join(self, start: Callable[[], Awaitable[SimNode]], after: float) -> None:
        await asyncio.sleep(after)
        try:
            node = await start()
        except errors.ActorFwError:
            return  # nobody could be reached for too long
        if node.state == "up":
            self.begin(node)

    def shut_down(self) -> None:
        if node := self.spare():
            self.seen.lossy()
            self.leaving.add(node.index)
            self.meanwhile(self._leave(node, drain=False))

    def drain(self) -> None:
        if node := self.spare():
            self.leaving.add(node.index)
            self.meanwhile(self._leave(node, drain=True))

    async def _leave(self, node: SimNode, *, drain: bool) -> None:
        life = node.runtime.life
        try:
            if drain:
                report = await self.cluster.drain(node.index, DRAIN_SECONDS)
                if not report.complete:
                    self.seen.lossy()
                elif self.seen.harmless:
                    drained(self.seen, self.cluster, life)
            else:
                await self.cluster.stop(node.index)
        except errors.NodeDiedError:
            pass  # it crashed meanwhile
        finally:
            self.leaving.discard(node.index)
