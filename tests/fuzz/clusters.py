"""Targets behind the handshake: whole nodes in virtual time and a peer that knows the secret and talks nonsense, made
of what real nodes have said to each other; and what processes of one host say over their sockets.

Work of the others goes on all the time: that it does is what is looked at. The peer's nonsense is about itself, about
nobody, and about the node it talks to, not about others: who is let in may end their actors, and that is no finding.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

import actorfw
from actorfw.core.records import Phase, Record
from actorfw.core.session import Batch, Session
from actorfw.io.hostsocket import HostSocket
from actorfw.runtime.peer import Identity, Peer
from actorfw.runtime.peers import GOODBYE, Peers
from actorfw.testing import SimCluster, run
from actorfw.testing.network import SimEnv
from actorfw.testing.sim import SECRET
from actorfw.wire import messages as m
from actorfw.wire.frames import CHUNK
from actorfw.wire.messages import KINDS
from tests.fuzz.handshakes import Found
from tests.fuzz.mutating import Mutator, pack, unpacked
from tests.sim.workload import run_seed

__all__ = ["TARGETS", "recorded"]

A_CLUSTER = 2_000  # messages, after which everything is made anew
A_FRAME = 4
A_PAUSE = 40
PATIENCE = 60.0  # virtual seconds in which work goes on
SLOW = 1.0  # seconds of this process for a frame
OF_A_KIND = 60
DANGEROUS = frozenset(
    (
        *("os", "posix", "sys", "subprocess", "shutil", "ctypes", "socket", "signal", "importlib", "_thread"),
        *("threading", "multiprocessing", "gc", "faulthandler", "resource", "pathlib", "tempfile"),
    )
)


@actorfw.remote(num_cpus=0)
class Counter(actorfw.Actor):
    def __init__(self) -> None:
        self.n = 0

    async def add(self) -> int:
        self.n += 1
        return self.n


@actorfw.remote(num_cpus=0)
async def double(value: Any) -> Any:
    return 2 * value


def recorded(seeds: Sequence[int] = (1, 2, 3, 4)) -> dict[int, list[list[Any]]]:
    """Messages of each kind that nodes have sent in random programs with faults."""
    found: dict[int, list[list[Any]]] = {CHUNK: [[CHUNK, number, b""] for number in range(1, 4)]}
    put = Session.put

    def note(self: Session, batch: Batch) -> int:
        for message in unpacked(batch) or () if isinstance(batch, bytes) else ():  # else a piece of a large message
            some = found.setdefault(message[0], [])
            if len(some) < OF_A_KIND:
                some.append(message)
        return put(self, batch)

    Session.put = note  # type: ignore[method-assign]
    try:
        for seed in seeds:
            run_seed(seed)
    finally:
        Session.put = put  # type: ignore[method-assign]
    return found


class Rogue:
    """A node of which nothing works but its links."""

    def __init__(self, cluster: SimCluster, name: str) -> None:
        self.env = SimEnv(cluster.loop, cluster.network, name, cluster.seed)
        self.me = Identity(self.env.token(16), name, "default")
        self.peers = Peers(self.env, self.me, actorfw.Config(), (SECRET,), events=self, handlers=[self.hear] * KINDS)

    async def meet(self, address: str) -> Peer:
        here = await self.peers.listen("127.0.0.1", 0)
        record = Record(self.me.life, here, self.me.name, phase=Phase.UP)
        self.me.info.update(address=here, name=self.me.name, record=record.to_wire())
        return await self.peers.dial(address)

    async def leave(self) -> None:
        for peer in self.peers.by_life.values():
            peer.backlog.clear()
        await self.peers.close()

    def hear(self, peer: Peer, message: list[Any]) -> None:
        if message[0] == m.MEMBERSHIP and message[1][0] == 0:
            peer.send((m.MEMBERSHIP, [1, message[1][1], []]))

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


class Links:
    """A node hears messages of every kind, each a little wrong, from a peer that it has let in."""

    def __init__(self) -> None:
        self.messages = recorded()
        self.active = False
        self.complaints: dict[str, int] = {}
        self.slowest = 0.0
        self.rounds = 0
        self.clusters = 0
        sys.addaudithook(self.audit)

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        # Who is let in can run code. What that would do is not what is looked at here.
        if event == "pickle.find_class" and self.active and str(args[0]).partition(".")[0] in DANGEROUS:
            raise ValueError("not in this test")

    def run(self, inputs: int, seed: int) -> None:
        """So many messages."""
        done = 0
        while done < inputs:
            self.clusters += 1
            some = min(A_CLUSTER, inputs - done)
            mutator = Mutator(f"{seed}/{done}")
            self.active = True
            try:
                run(lambda mutator=mutator, some=some: self.a_cluster(mutator, some))  # type: ignore[misc]
            finally:
                self.active = False
            done += some
            gc.collect()

    async def a_cluster(self, mutator: Mutator, inputs: int) -> None:
        errors: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(f"{context}"))
        async with SimCluster(3, seed=mutator.random.random()) as cluster:
            work = asyncio.create_task(self.work(cluster))
            for node in cluster.nodes:
                node.runtime.peers.entrance.large_bytes.limit = 64 << 20  # else half of this machine's memory
            names = iter(range(1 << 30))
            rogue = Rogue(cluster, f"rogue{next(names)}")
            peer = await rogue.meet(cluster.nodes[1].address)
            sent = 0
            while sent < inputs:
                if peer.link is None or peer.ended or peer.session.held or len(peer.session.unacked) > 100:
                    await asyncio.sleep(0.2)
                    if peer.link is None or peer.ended or peer.session.held:
                        await rogue.leave()
                        rogue = Rogue(cluster, f"rogue{next(names)}")
                        peer = await rogue.meet(cluster.nodes[1].address)
                    continue
                batch = pack([self.message(mutator, rogue.me.life, cluster) for _ in range(A_FRAME)])
                if mutator.random.random() < 0.002:
                    batch = mutator.bytes(batch)
                peer.link.write(peer.session.put(batch), batch)
                sent += A_FRAME
                if sent % A_PAUSE == 0:
                    start = time.process_time()
                    await asyncio.sleep(0.02)
                    self.slowest = max(self.slowest, (time.process_time() - start) / A_PAUSE * A_FRAME)
                    if self.slowest > SLOW:
                        raise Found(f"a frame took {self.slowest:.1f} s")
                if work.done():
                    work.result()
            await self.goes_on(cluster, work)
            victim = cluster.nodes[1].runtime
            if len(victim.peers.connections) > 64 or victim.peers.entrance.door.half_open.now > 64:
                raise Found(f"{victim.peers!r} after one bad peer")
            self.stop = True
            await work
            await rogue.leave()
            loop.set_exception_handler(None)
        if errors:
            raise Found("nobody caught:\n" + "\n".join(sorted(set(errors))[:20]))

    def message(self, mutator: Mutator, life: bytes, cluster: SimCluster) -> Any:
        rng = mutator.random
        kind = rng.choice(list(self.messages))
        message = [*rng.choice(self.messages[kind])]
        if kind == m.BLOB:  # code that is damaged is executed, and may do anything
            return [kind, *[mutator.value(part) for part in message[1:2]], *message[2:]]
        if kind == GOODBYE and rng.random() < 0.9:
            return [kind, "idle"]
        if kind == CHUNK:
            message[2] = bytes(rng.randrange(100))
        message = self.of(message, life)
        if rng.random() < 0.1:
            return message
        # The kind itself seldom: another kind of the same shape is rather a wrong shape of that kind.
        changed = mutator.value(message if rng.random() < 0.05 else message[1:], (life, [life, 1], b"", 0))
        return changed if not isinstance(changed, list) or rng.random() < 0.05 else [kind, *changed]

    def of(self, value: Any, life: bytes) -> Any:
        """The same, said by this life: others that were there are nobody here."""
        if isinstance(value, list):
            return [self.of(part, life) for part in value]
        return life if isinstance(value, bytes) and len(value) == 16 and value[0] & 1 else value

    async def work(self, cluster: SimCluster) -> None:
        """What goes on between the two others, and must not notice anything."""
        self.stop = False
        place = actorfw.NodeAffinity(cluster.nodes[2].id)
        actor = Counter.options(scheduling=place).remote()
        done = 0
        while not self.stop:
            done += 1
            async with asyncio.timeout(PATIENCE):
                if await actor.add() != done or await double.options(scheduling=place).remote(21) != 42:
                    raise Found("a wrong answer")
                ref = actorfw.put([done])
                if await double.options(scheduling=place).remote(ref) != [done, done]:
                    raise Found("a wrong value")
            self.rounds += 1
            await asyncio.sleep(0.05)

    async def goes_on(self, cluster: SimCluster, work: asyncio.Task[None]) -> None:
        """And with the node itself, too."""
        until = self.rounds + 3
        while self.rounds < until:
            if work.done():
                work.result()
            await asyncio.sleep(0.05)
        place = actorfw.NodeAffinity(cluster.nodes[1].id)
        async with asyncio.timeout(PATIENCE):
            if await double.options(scheduling=place).remote(4) != 8:
                raise Found("a wrong answer of the node itself")

    def over(self) -> str:
        return (
            f"{len(self.messages)} kinds, {self.clusters} clusters, {self.rounds} rounds of work beside,"
            f" slowest frame {self.slowest * 1000:.0f} ms"
        )


class _Loop:
    """Just what a socket needs; who reads when is decided by the test."""

    def add_reader(self, fd: int, fn: Any) -> None: ...
    def remove_reader(self, fd: int) -> None: ...
    def add_writer(self, fd: int, fn: Any) -> None: ...
    def remove_writer(self, fd: int) -> None: ...


class Mates:
    """A node hears processes of its host, some of which know the key."""

    KEY = b"0123456789abcdef"

    def __init__(self) -> None:
        self.descriptors = 0

    def run(self, inputs: int, seed: int) -> None:
        mutator = Mutator(seed)
        done = 0
        while done < inputs:
            some = min(20_000, inputs - done)
            run(lambda some=some: self.a_node(mutator, some))  # type: ignore[misc]
            done += some

    async def a_node(self, mutator: Mutator, inputs: int) -> None:
        rng = mutator.random
        good: list[list[Any]] = [
            [1, self.KEY, b"l" * 16],
            [3, 1, [[1, 1], [2, 3]]],
            [5, [[1, 1]]],
            [6, self.KEY, b"t" * 16],
            [2, b"t"],
            [4, 1, True],
        ]
        async with SimCluster(1, seed=rng.random()) as cluster:
            mates = cluster.nodes[0].runtime.hostmates
            mates._key = self.KEY
            mates.name = "fuzzed"
            mates._readable_fd = os.open("/dev/null", os.O_RDONLY)
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(inputs):
                ours, theirs = socket.socketpair()
                theirs.setblocking(False)
                host = HostSocket(_Loop(), ours, mates._heard, mates._reader_ended)  # type: ignore[arg-type]
                mates._readers[host] = None
                said = [good[0]] if rng.random() < 0.7 else []
                said += [mutator.value(rng.choice(good)) for _ in range(rng.randrange(1, 4))]
                stream = b"".join(len(body).to_bytes(4, "little") + body for body in map(pack, said))
                if rng.random() < 0.3:
                    stream = mutator.bytes(stream)
                fds = [mates._readable_fd] * rng.choice((0, 0, 1, 4))
                try:
                    socket.send_fds(theirs, [stream[:60_000]], fds) if fds else theirs.send(stream[:60_000])
                except OSError:
                    pass  # what was made does not fit
                for _ in range(4):
                    if host.open:
                        host._readable()
                if len(host._in) > (1 << 16) * 5:
                    raise Found(f"{len(host._in)} bytes are held for a process of this host")
                theirs.close()
                for _ in range(3):
                    if host.open:
                        host._readable()
                if host.open or mates._readers:
                    raise Found("a process that is gone is still a reader")
            after = set(os.listdir("/proc/self/fd"))
            os.close(mates._readable_fd)
            mates._readable_fd = -1
            if len(after) != before:
                raise Found(f"{len(after) - before} descriptors are left over")

    def over(self) -> str:
        return ""


TARGETS = {"links": Links, "mates": Mates}
