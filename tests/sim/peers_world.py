"""Two nodes that only send numbers, on a simulated network: what the tests of `Peers` share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from actorfw.io.env import Env
from actorfw.runtime.peers import FIRST_KIND, Identity, Peer, Peers
from actorfw.testing.loop import VirtualLoop
from actorfw.testing.network import MemoryNetwork, SimEnv
from actorfw.values.config import Config

__all__ = ["DATA", "FAULTY", "Node", "World", "passed", "talk"]

SECRET = b"s" * 32
DATA = FIRST_KIND
FAULTY = FIRST_KIND + 1


class Node:
    """A node that does nothing but send numbers and note what it gets."""

    def __init__(self, env: Env, name: str, life: bytes | None = None, **options: Any) -> None:
        self.name = name
        self.got: list[Any] = []
        self.ended: list[tuple[str, str, list[Sequence[Any]]]] = []
        self.large: list[tuple[list[Any], list[bytes]]] = []
        self.ups = 0
        self.evidences: list[tuple[str, str]] = []
        self.lost: list[tuple[str, list[Sequence[Any]]]] = []
        self.backs = 0
        self.judges = options.pop("judges", True)
        config = options.pop("config", Config())
        secrets = options.pop("secrets", (SECRET,))
        options = {"cluster": "test", "python": "3.11", **options}
        me = Identity(life or env.token(16), name, info={"name": name}, **options)
        handlers: list[Any] = [None] * FIRST_KIND + [self.on_data, self.on_faulty]
        self.peers = Peers(env, me, config, secrets, events=self, handlers=handlers)
        self.address = ""

    def on_data(self, peer: Peer, message: list[Any]) -> None:
        self.got.append(message[1])

    def on_faulty(self, peer: Peer, message: list[Any]) -> None:
        raise RuntimeError("a handler's mistake")

    def peer_up(self, peer: Peer) -> None:
        self.ups += 1

    def evidence(self, peer: Peer, kind: str, detail: str) -> None:
        """Notes it; a node that judges takes refusals and other lives for proof, as one of two members does."""
        self.evidences.append((kind, detail))
        if self.judges and kind in ("refused", "another_life"):
            self.peers.bury(peer.life, detail)

    def peer_lost(self, peer: Peer, detail: str, unsent: list[Sequence[Any]]) -> None:
        self.lost.append((detail, unsent))

    def linked(self, peer: Peer) -> None: ...

    def rested(self, peer: Peer) -> None: ...

    def peer_back(self, peer: Peer) -> None:
        self.backs += 1

    def peer_ended(self, peer: Peer, reason: str, detail: str, unsent: list[Sequence[Any]]) -> None:
        self.ended.append((reason, detail, unsent))

    def on_large_head(self, peer: Peer, head: list[Any], sizes: list[int]) -> None:
        self.got.append(head[1])

    def on_large(self, peer: Peer, head: list[Any], buffers: list[memoryview]) -> None:
        self.large.append((head, [bytes(buffer) for buffer in buffers]))

    async def listen(self, port: int = 0) -> Node:
        self.address = await self.peers.listen("127.0.0.1", port)
        return self

    def peer(self, other: Node) -> Peer:
        return self.peers.by_life[other.peers.me.life]

    def sends(self, other: Node, *values: Any) -> None:
        for value in values:
            self.peer(other).send((DATA, value))


class World:
    """A network with two nodes, a and b."""

    def __init__(self, seed: int = 0, config: Config | None = None, *, judges: bool = True, **network: Any) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.seed = seed
        self.config = config or Config()
        self.judges = judges
        self.network = MemoryNetwork(loop, seed, **network)
        self.a = self.node("a")
        self.b = self.node("b")

    def node(self, name: str, **options: Any) -> Node:
        env = SimEnv(self.loop, self.network, name, self.seed)
        return Node(env, name, config=self.config, judges=self.judges, **options)

    async def listen(self) -> World:
        await self.a.listen()
        await self.b.listen()
        return self

    async def linked(self) -> World:
        await self.listen()
        await self.a.peers.dial(self.b.address)
        await asyncio.sleep(0.1)
        return self

    async def until(self, done: Callable[[], bool], seconds: float = 120.0) -> None:
        """Wait, in virtual time."""
        limit = self.loop.time() + seconds
        while not done():
            assert self.loop.time() < limit, "it never came"
            await asyncio.sleep(0.005)


async def talk(world: World, count: int = 3) -> None:
    """Both sides send `count` numbers, in a few frames, and get the other's, once and in order."""
    a, b = world.a, world.b
    for i in range(count):
        a.sends(b, i)
        b.sends(a, -i)
        await asyncio.sleep(0.002)
    await world.until(lambda: len(a.got) >= count and len(b.got) >= count)
    await asyncio.sleep(0.1)
    assert b.got == list(range(count))
    assert a.got == [-i for i in range(count)]
    assert a.ended == b.ended == []


def passed(world: World, src: str) -> int:
    """Bytes that the newest connection has carried from `src`."""
    return world.network.between("a", "b")[-1].pipe(src).passed
