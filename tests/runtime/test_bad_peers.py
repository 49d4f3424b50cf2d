"""Peers that know the secret and talk nonsense: whole nodes, in virtual time, and one that breaks every rule.

Who knows the secret may run any code on any node, so nothing is defended here against malice. What is shown is that a
mistake of one node stays its own: what it says is refused or ignored and logged once, and the others go on.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter as Count
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

import actorfw
from actorfw.core.records import Phase, Record
from actorfw.runtime.peer import Identity, Peer
from actorfw.runtime.peers import Peers
from actorfw.testing import SimCluster, run
from actorfw.testing.network import SimEnv
from actorfw.testing.sim import SECRET
from actorfw.wire import messages as m
from actorfw.wire.frames import header
from actorfw.wire.messages import KINDS


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


class Rogue:
    """A node of which nothing works but its links."""

    def __init__(self, cluster: SimCluster, name: str = "rogue", life: bytes | None = None, **said: Any) -> None:
        self.cluster = cluster
        self.env = SimEnv(cluster.loop, cluster.network, name, cluster.seed)
        self.me = Identity(life or self.env.token(16), name, "default")
        self.got: Count[int] = Count()
        self.said = said
        self.answers = True
        handlers: list[Any] = [self.on_any] * KINDS
        self.peers = Peers(self.env, self.me, actorfw.Config(), (SECRET,), events=self, handlers=handlers)

    async def start(self, phase: Phase = Phase.UP) -> Rogue:
        address = await self.peers.listen("127.0.0.1", 0)
        self.me.name = self.said.pop("called", self.me.name)
        told = {"address": address, "name": self.me.name, "phase": phase, **self.said}
        record = Record(self.me.life, **told)
        self.me.info.update(address=record.address, name=record.name, record=record.to_wire())
        return self

    async def meets(self, index: int) -> Peer:
        return await self.peers.dial(self.cluster.nodes[index].address)

    async def stop(self) -> None:
        for peer in self.peers.by_life.values():
            peer.backlog.clear()
            peer._out.clear()
        await self.peers.close()

    def on_any(self, peer: Peer, message: list[Any]) -> None:
        self.got[message[0]] += 1
        if message[0] == m.MEMBERSHIP and message[1][0] == 0 and self.answers:
            peer.send((m.MEMBERSHIP, [1, message[1][1], []]))  # a ping, and that it has come

    def peer_up(self, peer: Peer) -> None: ...
    def linked(self, peer: Peer) -> None: ...
    def rested(self, peer: Peer) -> None: ...
    def evidence(self, peer: Peer, kind: str, detail: str) -> None: ...
    def peer_lost(self, peer: Peer, detail: str, unsent: list[Sequence[Any]]) -> None: ...
    def peer_back(self, peer: Peer) -> None: ...
    def peer_ended(self, peer: Peer, reason: str, detail: str, unsent: list[Sequence[Any]]) -> None: ...
    def on_large_head(self, peer: Peer, head: list[Any], sizes: list[int]) -> None: ...
    def on_large(self, peer: Peer, head: list[Any], buffers: list[memoryview]) -> None: ...


@asynccontextmanager
async def a_rogue(cluster: SimCluster, name: str = "rogue", **options: Any) -> AsyncIterator[Rogue]:
    rogue = await Rogue(cluster, name, **options).start()
    try:
        yield rogue
    finally:
        await rogue.stop()


def simulated(main: Callable[[SimCluster], Coroutine[Any, Any, None]], nodes: int = 3, **options: Any) -> None:
    async def whole() -> None:
        async with SimCluster(nodes, seed=main.__name__, **options) as cluster:
            await main(cluster)

    run(whole())


class Work:
    """Work of the honest nodes that goes on all the time, and must not notice anything."""

    def __init__(self, cluster: SimCluster) -> None:
        self.cluster = cluster
        self.rounds = 0
        self.slowest = 0.0
        self._over = False

    async def __aenter__(self) -> Work:
        places = [actorfw.NodeAffinity(node.id) for node in self.cluster.alive]
        self._task = asyncio.create_task(self._go_on(places))
        await self.some()
        return self

    async def _go_on(self, places: list[actorfw.NodeAffinity]) -> None:
        actors = [Counter.options(scheduling=place).remote() for place in places]
        named = Counter.options(name="known", namespace="work", max_restarts=1).remote()
        while not self._over:
            start = self.cluster.loop.time()
            self.rounds += 1
            assert [await actor.add() for actor in actors] == [self.rounds] * len(actors)
            assert [await double.options(scheduling=place).remote(21) for place in places] == [42] * len(places)
            assert await (await actorfw.get_actor("known", Counter, namespace="work")).add() == self.rounds
            ref = actorfw.put([self.rounds])
            assert await double.options(scheduling=places[-1]).remote(ref) == [self.rounds, self.rounds]
            self.slowest = max(self.slowest, self.cluster.loop.time() - start)
            await asyncio.sleep(0.01)
        del named

    async def some(self, rounds: int = 5) -> None:
        """Wait until it has gone on for a while."""
        until = self.rounds + rounds
        while self.rounds < until and not self._task.done():
            await asyncio.sleep(0.01)
        if self._task.done():
            self._task.result()

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await self._task


def states(cluster: SimCluster, seen_by: int = 0) -> dict[str, str]:
    return {row.name: row.state for row in cluster.nodes[seen_by].runtime.members.listing()}


def honest(cluster: SimCluster) -> dict[str, str]:
    return {node.name: "up" for node in cluster.alive}


async def until(cluster: SimCluster, done: Callable[[], bool], seconds: float = 60.0) -> float:
    start = cluster.loop.time()
    while not done():
        assert cluster.loop.time() - start < seconds, f"not within {seconds} s"
        await asyncio.sleep(0.05)
    return cluster.loop.time() - start


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# -- garbage after the handshake ---------------------------------------------------------------------------------------


GARBAGE = {
    "text": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100,
    "zeros": bytes(100_000),
    "ones": b"\xff" * 100_000,
    "noise": random.Random(1).randbytes(100_000),
    "acks of nothing": header(0, 0, 1 << 40),
    "a gap": header(1, 77, 0) + b"\x90",
    "no list": header(1, 1, 0) + b"\x01",
    "half a list": header(2, 1, 0) + b"\x92\x01",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_behind_a_good_handshake(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: SimCluster) -> None:
        async with Work(cluster) as work, a_rogue(cluster) as rogue:
            links = 0
            last: object = None
            peer = await rogue.meets(0)
            start = cluster.loop.time()
            while cluster.loop.time() - start < 20:
                link = peer.link
                if link is not None and not link.closed:
                    links += link is not last
                    last = link
                    link.transport.write(garbage)
                await asyncio.sleep(0.01)
            await work.some()
            assert work.slowest < 1
        assert links <= 11, f"{links} links for somebody who talks nonsense"
        await until(cluster, lambda: states(cluster) == honest(cluster))

    simulated(main)
    said = [record.getMessage() for record in caplog.records if record.name == "actorfw.peers"]
    # Zeros are frames that say nothing.
    assert len(said) < 40, (len(said), said[:20])
    assert bool(said) == any(garbage), said


def test_frames_that_are_sent_again_are_taken_once() -> None:
    async def main(cluster: SimCluster) -> None:
        seen: list[Any] = []
        node = cluster.nodes[1].runtime
        node.asks.verbs["note"] = lambda peer, payload: seen.append(payload)
        async with Work(cluster) as work, a_rogue(cluster) as rogue:
            peer = await rogue.meets(1)
            frames: list[bytes] = []
            link = peer.link
            assert link is not None
            write = link._write
            link._write = lambda data: (frames.append(data), write(data))
            for number in range(10):
                peer.send((m.ASK, number, "note", number))
                await asyncio.sleep(0.01)
            for _ in range(3):
                for frame in [*frames, *reversed(frames)]:
                    write(frame)
            await asyncio.sleep(1)
            peer.send((m.ASK, 10, "note", 10))
            await asyncio.sleep(1)
            assert seen == list(range(11))
            await work.some()

    simulated(main)


# -- lies --------------------------------------------------------------------------------------------------------------


def test_a_second_node_of_a_name_harms_nobody() -> None:
    async def main(cluster: SimCluster) -> None:
        async with Work(cluster) as work:
            async with a_rogue(cluster, called="n1") as rogue:
                await rogue.meets(0)
                await work.some(50)
                assert [node.runtime.life for node in cluster.alive] == [node.runtime.life for node in cluster.nodes]
            await until(cluster, lambda: states(cluster) == honest(cluster))

    simulated(main)


def test_who_says_that_it_is_somebody_else() -> None:
    """Its handshake is made with the life of another member: the true one takes its session back."""

    async def main(cluster: SimCluster) -> None:
        lives = [node.runtime.life for node in cluster.nodes]
        async with Work(cluster) as work, a_rogue(cluster, life=lives[1]) as rogue:
            for _ in range(5):
                try:
                    await rogue.meets(0)
                except actorfw.ActorFwError:
                    pass
                await work.some()
            await asyncio.sleep(5)
            await work.some()
            assert [node.runtime.life for node in cluster.nodes] == lives
        await until(cluster, lambda: states(cluster) == honest(cluster))

    simulated(main)


def test_who_introduces_itself_as_another_than_it_has_proven_to_be(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: SimCluster) -> None:
        async with Work(cluster) as work, a_rogue(cluster) as rogue:
            rogue.me.info["record"][0] = cluster.nodes[1].runtime.life
            await rogue.meets(0)
            await work.some(50)
            assert states(cluster) == honest(cluster)

    simulated(main)
    assert len([text for text in errors_in(caplog) if "introduced itself badly" in text]) == 1


@pytest.mark.parametrize(
    "info",
    [
        {"record": None},
        {"record": []},
        {"record": [b"x"] * 15},
        {"record": {"life": 1}},
        {"name": ["a"], "address": {"b": 1}},
        {"address": "nowhere at all"},
        {"address": "127.0.0.1:99999"},
        {"born": "yesterday", "lived": 0},
        {"lived": 1 << 70},
    ],
    ids=repr,
)
def test_introductions_that_make_no_sense(info: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: SimCluster) -> None:
        async with Work(cluster) as work, a_rogue(cluster) as rogue:
            rogue.me.info.update(info)
            try:
                await rogue.meets(0)
            except (actorfw.ActorFwError, TypeError, ValueError, OverflowError):
                pass  # its own side breaks on what it has said, perhaps
            await work.some(50)
            assert [node.state for node in cluster.nodes] == ["up"] * 3
        await until(cluster, lambda: states(cluster) == honest(cluster))

    simulated(main)
    assert len(errors_in(caplog)) < 5, errors_in(caplog)


def test_who_says_that_it_is_where_another_is() -> None:
    """A wrong `advertise`: links of the one who is really there stay."""

    async def main(cluster: SimCluster) -> None:
        true = cluster.nodes[1]
        peer = cluster.nodes[0].runtime.peers.by_life[true.runtime.life]
        async with Work(cluster) as work, a_rogue(cluster, address=true.address) as rogue:
            links = 0
            last: object = peer.link
            await rogue.meets(0)
            start = cluster.loop.time()
            while cluster.loop.time() - start < 10:
                if peer.link is not last:
                    last = peer.link
                    links += 1
                await asyncio.sleep(0.005)
            assert links <= 2, f"its link was changed {links} times"
            await work.some()
            assert states(cluster)["n1"] == "up"
        await until(cluster, lambda: states(cluster) == honest(cluster))

    simulated(main)


@pytest.mark.parametrize("hours", [-9.0, 9.0, 24 * 365.0])
def test_a_clock_that_is_hours_off(hours: float, monkeypatch: pytest.MonkeyPatch) -> None:
    true = SimEnv.wall_time
    monkeypatch.setattr(SimEnv, "wall_time", lambda env: true(env) + (3600 * hours if env.node[:2] == "n1" else 1e9))

    async def main(cluster: SimCluster) -> None:
        async with Work(cluster) as work:
            cluster.partition([0, 2], [1])
            await asyncio.sleep(20)
            cluster.heal()
            await until(cluster, lambda: all(states(cluster, index) == honest(cluster) for index in range(3)), 120)
            del work
            async with cluster.on(1):
                ticking = Counter.options(name="mine", get_if_exists=True, detached=True).remote()
                assert await ticking.add() == 1
            assert await (await actorfw.get_actor("mine", Counter)).add() == 2
            await actorfw.kill(ticking)

    async def whole() -> None:
        async with SimCluster(3, seed=hours) as cluster:
            try:
                await main(cluster)
            except actorfw.ActorDiedError:
                pass  # the work had an actor on the node that was cut off

    run(whole())


# -- floods ------------------------------------------------------------------------------------------------------------


def test_hundreds_of_handshakes_that_stand_still() -> None:
    async def main(cluster: SimCluster) -> None:
        node = cluster.nodes[0].runtime
        host, _, port = node.address.rpartition(":")
        env = SimEnv(cluster.loop, cluster.network, "flood", 1)
        async with Work(cluster) as work:
            transports = [(await env.dial(asyncio.Protocol, host, int(port)))[0] for _ in range(400)]
            for transport in transports[::2]:
                transport.write(b"afw:")
            assert len(node.peers.connections) >= 400
            await cluster.add_node(name="late")
            await work.some()
            assert work.slowest < 1
            await asyncio.sleep(12)
            assert len(node.peers.connections) < 10
            assert node.peers.counters["slow_handshakes"] == 400
            for transport in transports:
                transport.abort()
        assert states(cluster) == honest(cluster)

    simulated(main)


def test_hundreds_of_newcomers_that_never_come() -> None:
    """They introduce themselves as joining, and go: the view is as before soon after, and links are where they were."""

    async def main(cluster: SimCluster) -> None:
        async with Work(cluster) as work:
            rogues = [await Rogue(cluster, f"late{number}").start(Phase.JOINING) for number in range(200)]
            await asyncio.gather(*(rogue.meets(number % 3) for number, rogue in enumerate(rogues)))
            await work.some()
            assert len(states(cluster)) > 50
            await cluster.add_node(name="honest")
            for rogue in rogues:
                cluster.network.crash(rogue.env.node)
            took = await until(
                cluster, lambda: all(states(cluster, node.index) == honest(cluster) for node in cluster.alive), 120
            )
            print(f"measured: the view is as before after {took:.1f} s")
            await work.some()
            assert [node.state for node in cluster.nodes] == ["up"] * 4
            for node in cluster.alive:
                assert set(node.runtime.peers.by_life) == {n.runtime.life for n in cluster.alive if n is not node}
            assert work.slowest < 2

    simulated(main)


# -- messages that make no sense ---------------------------------------------------------------------------------------


class Fuzz:
    """Random fields: of the right kinds, mostly, and wrong all the same."""

    def __init__(self, seed: object, lives: list[bytes]) -> None:
        self.rng = random.Random(str(seed))
        self.lives = lives

    def scalar(self) -> Any:
        rng = self.rng
        return rng.choice(
            [
                lambda: None,
                lambda: rng.random() < 0.5,
                lambda: rng.randrange(-3, 70),
                lambda: rng.choice([-(1 << 63), (1 << 64) - 1, 1 << 40, -1]),
                lambda: rng.choice([float("nan"), float("inf"), -0.5, 1e300]),
                lambda: rng.choice(["", "up", "node_died", "é" * 9, "default", "members", "released", "joined"]),
                lambda: rng.randbytes(rng.choice([0, 1, 8, 16, 16, 16, 40])),
                lambda: rng.choice(self.lives),
            ]
        )()

    def value(self, depth: int = 3) -> Any:
        rng = self.rng
        roll = rng.random()
        if depth == 0 or roll < 0.6:
            return self.scalar()
        if roll < 0.93:
            return [self.value(depth - 1) for _ in range(rng.randrange(6))]
        return {self.rng.choice(["a", "", "life", b"x"]): self.value(depth - 1) for _ in range(rng.randrange(4))}

    def message(self, kind: int) -> list[Any]:
        return [kind, *(self.value() for _ in range(self.rng.randrange(14)))]

    def damaged(self, fields: Sequence[Any]) -> list[Any]:
        out = list(fields)
        if out:
            at = self.rng.randrange(len(out))
            out[at] = self.mutated(out[at])
        return out

    def mutated(self, value: Any) -> Any:
        """The same with one part replaced, somewhere."""
        if isinstance(value, list | tuple) and value and self.rng.random() < 0.8:
            out = list(value)
            at = self.rng.randrange(len(out))
            out[at] = self.mutated(out[at])
            return out
        return self.value(2)


@pytest.mark.parametrize("kind", [*range(KINDS), KINDS, 1000, -1, 1 << 60])
def test_every_kind_of_message_with_random_fields(kind: int, caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: SimCluster) -> None:
        async with Work(cluster) as work, a_rogue(cluster) as rogue:
            rogue.answers = kind != m.MEMBERSHIP
            fuzz = Fuzz(kind, [rogue.me.life, bytes(16), b"y" * 16])
            peer = await rogue.meets(1)
            for _ in range(200):
                peer.send(fuzz.message(kind))
                if fuzz.rng.random() < 0.1:
                    await asyncio.sleep(0.01)
            await work.some(20)
            assert [node.state for node in cluster.nodes] == ["up"] * 3
        await until(cluster, lambda: all(states(cluster, node.index) == honest(cluster) for node in cluster.alive))

    simulated(main)
    said = errors_in(caplog)
    assert len(said) <= 20, (len(said), Count(text[:80] for text in said).most_common(5))


def test_messages_that_are_no_messages(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: SimCluster) -> None:
        async with Work(cluster) as work, a_rogue(cluster) as rogue:
            peer = await rogue.meets(1)
            for message in ([], ["text"], [None, 1], [[], 2], [{}], [1.5], "CALL", None, 7, {"a": 1}, b"bytes"):
                peer.send(message)  # type: ignore[arg-type]
            await work.some(20)
        await until(cluster, lambda: states(cluster) == honest(cluster))

    simulated(main)
    assert 0 < len(errors_in(caplog)) <= 20


@pytest.mark.parametrize("seed", range(10))
def test_a_node_whose_messages_are_damaged(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """A true member, of whose messages to one other some have one wrong field: the third notices nothing."""

    async def main() -> None:
        async with SimCluster(4, seed=seed) as cluster:
            broken, hurt = cluster.nodes[3].runtime, cluster.nodes[2].runtime
            fuzz = Fuzz(seed, [bytes(16), b"y" * 16])
            peer = broken.peers.by_life[hurt.life]
            packed = peer._pack
            sent: Count[int] = Count()

            def pack(messages: Sequence[Any]) -> bytes:
                out = []
                for message in messages:
                    if message[0] >= 8 and fuzz.rng.random() < 0.3:
                        sent[message[0]] += 1
                        message = [message[0], *fuzz.damaged(message[1:])]
                    out.append(message)
                return packed(out)

            mine: list[Any] = []

            async def load() -> None:
                place = actorfw.NodeAffinity(cluster.nodes[2].id)
                while True:
                    counter = Counter.options(scheduling=place).remote()
                    refs = [counter.add.remote(), double.options(scheduling=place).remote(actorfw.put([1]))]
                    refs.append(actorfw.watch(counter))
                    Counter.options(name=f"n{fuzz.rng.random()}", detached=True).remote()
                    await asyncio.wait([asyncio.ensure_future(ref) for ref in refs], timeout=0.05)
                    mine.extend(refs)

            peer._pack = pack
            task = broken.env.create_task(cluster.run_on(3, load))
            places = [cluster.nodes[0], cluster.nodes[1]]
            counters = [Counter.options(scheduling=actorfw.NodeAffinity(node.id)).remote() for node in places]
            for turn in range(1, 200):
                assert [await counter.add() for counter in counters] == [turn, turn]
                await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.wait([task])
            peer._pack = packed
            assert sum(sent.values()) > 20
            here = actorfw.NodeAffinity(cluster.nodes[2].id)
            assert await double.options(scheduling=here).remote(4) == 8
            assert await Counter.options(scheduling=here).remote().add() == 1

    run(main())
    assert len(errors_in(caplog)) < 300
