"""Targets of the handshake: both sides, from outside and behind the secret, over transports that only record.

Time stands still and all that is drawn by lot is the same each time, so a recorded handshake can be played again: what
differs from it must not be taken for a link.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from actorfw.core import handshake
from actorfw.io.env import TimerHandle
from actorfw.runtime.links import AcceptGreeting, DialGreeting, Greeting, Link
from actorfw.runtime.peer import Identity
from actorfw.runtime.peers import Peers
from actorfw.testing.loop import VirtualLoop
from actorfw.testing.network import MemoryNetwork, SimEnv
from actorfw.values.config import Config
from tests.fuzz.mutating import Mutator, pack, packet, packets, unpacked

__all__ = ["TARGETS", "Found"]

SECRET = b"known to both of them, and nobody else"
ROUNDS = 32  # inputs after which everything is made anew


class Found(AssertionError):
    """A promise was broken."""


class Line(asyncio.Transport):
    """A connection of which only one end exists."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.written: list[bytes] = []
        self.largest = 0  # of what was read at once
        self.open = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        known = {"within_machine": True, "peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}
        return known.get(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol  # type: ignore[assignment]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.written += map(bytes, list_of_data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def is_closing(self) -> bool:
        return not self.open

    def close(self) -> None:
        self.open = False

    abort = close

    def hear(self, data: bytes, pieces: int) -> None:
        size = self.largest = max(1, -(-len(data) // pieces))
        for at in range(0, len(data), size):
            if self.open:
                self.protocol.data_received(data[at : at + size])

    def lose(self) -> None:
        self.open = False
        self.protocol.connection_lost(None)


class Quiet:
    """What a node wants to know of its peers: nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


class Still(SimEnv):
    """A world in which nothing happens by itself, and chance repeats itself."""

    timers = 0

    def token(self, n: int) -> bytes:
        return bytes(range(n))

    def call_later(self, delay: float, fn: Callable[..., object], *args: Any) -> TimerHandle:
        self.timers += 1
        world = self

        class Timer:
            live = True

            def cancel(self) -> None:
                if self.live:
                    self.live = False
                    world.timers -= 1

        return Timer()

    def create_task(self, coro: Any, name: str | None = None) -> Any:
        coro.close()
        return self.loop.create_future()

    def call_soon(self, fn: Callable[..., object], *args: Any) -> object:
        return None


def node(life: bytes, loop: VirtualLoop) -> Peers:
    env = Still(loop, MemoryNetwork(loop), life.hex()[:4])
    me = Identity(life, "node", "cluster", info={"address": "127.0.0.1:2", "name": "node", "extra": {"a": [1, 2.5]}})
    return Peers(env, me, Config(), (SECRET,), events=Quiet(), handlers=[lambda *_: None] * 96)  # type: ignore[arg-type]


class Handshake:
    """One side under attack. `forged`: the attacker knows the secret, and the input is what it says under it."""

    dialling = False
    forged = False

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        logging.getLogger("actorfw").setLevel(logging.CRITICAL)
        self.count = 0
        self.links = 0
        self.done: asyncio.Future[Any] = self.loop.create_future()
        self.anew()
        try:
            self.genuine = self.record()
        except BaseException:
            self.loop.close()
            raise
        assert self.links == 1, "the genuine handshake makes a link, or what is behind it is never reached"

    def anew(self) -> None:
        self.peers = node(b"v" * 16, self.loop)

    def greeting(self, peers: Peers, dialling: bool) -> Greeting:
        if dialling:
            self.done = self.loop.create_future()
            return DialGreeting(peers, "127.0.0.1:2", None, False, self.done)
        return AcceptGreeting(peers, "")

    def record(self) -> list[bytes]:
        """What the attacker's side says in a handshake that nobody has touched."""
        mine = Line(self.greeting(self.peers, self.dialling))
        other = Line(self.greeting(node(b"a" * 16, self.loop), not self.dialling))
        for line in (mine, other):
            line.protocol.connection_made(line)
        said: list[bytes] = []
        for _ in range(4):
            for one, two in ((mine, other), (other, mine)):
                heard, one.written = one.written, []
                if one is other:
                    said += heard
                for data in heard:
                    two.hear(data, 1)
        self.judge(mine, said)
        return said

    def seeds(self) -> list[bytes]:
        if self.forged:
            return [packets(self.genuine[1])[0] and unpacked(packets(self.genuine[1])[0])[1]]
        return [b"".join(self.genuine), self.genuine[0], handshake.plain_refusal("secret", "they differ")]

    def mutated(self, seed: bytes, mutator: Mutator) -> bytes:
        if self.forged:
            value = mutator.value(unpacked(seed))
            return pack(value) if mutator.random.random() < 0.9 else mutator.bytes(seed)
        if mutator.random.random() < 0.4:
            return mutator.bytes(seed)
        bodies = [unpacked(body) for body in packets(seed)]
        at = mutator.random.randrange(len(bodies))
        body = bodies[at]
        if isinstance(body, list) and len(body) == 3 and isinstance(body[1], bytes) and mutator.random.random() < 0.5:
            body[1] = pack(mutator.value(unpacked(body[1])))
        else:
            bodies[at] = mutator.value(body)
        return b"".join(packet(pack(each)) for each in bodies)

    def one(self, data: bytes) -> None:
        self.count += 1
        if self.count % ROUNDS == 0:
            self.anew()
        line = Line(self.greeting(self.peers, self.dialling))
        line.protocol.connection_made(line)
        if self.forged:
            line.hear(self.genuine[0], 1)
            stream = self.forge(line, data)
        else:
            stream = data
        line.hear(stream, 1 + len(data) % 7)
        self.judge(line, packets(stream))

    def forge(self, line: Line, inner: bytes) -> bytes:
        """The second packet with this inside, under the right tag."""
        # The other side has come as far as this one: its secrets and transcript are the same.
        secrets = line.protocol.shake._secrets  # type: ignore[attr-defined]
        label = b"welcome" if self.dialling else b"dialler"
        kind = handshake._WELCOME if self.dialling else handshake._PROOF
        return handshake._write([kind, inner, secrets.tag(label, inner)])

    def judge(self, line: Line, said: Sequence[bytes]) -> None:
        """What holds after any input."""
        protocol = line.protocol
        if isinstance(protocol, Link):
            self.links += 1
            if self.count and not self.forged and said[:2] != [packets(part)[0] for part in self.genuine[:2]]:
                bodies = [unpacked(part) for part in said[:2]]
                genuine = [unpacked(packets(part)[0]) for part in self.genuine[:2]]
                if bodies != genuine:  # other marks of msgpack for the same are no forgery
                    raise Found(f"a handshake was taken that nobody with the secret has made: {bodies}")
        elif isinstance(protocol, Greeting):
            held = len(protocol._reader.rest)
            if held > protocol._reader.limit + 8 + line.largest:  # a packet, and a read that brought more than that
                raise Found(f"{held} bytes are held of a handshake")
        line.lose()
        if isinstance(protocol, DialGreeting) and not self.done.done():
            raise Found("whoever waits for a dial is not told how it ended")
        if self.done.done():
            self.done.exception()  # it has been looked at
        peers = self.peers
        if peers.connections or peers.entrance.door.half_open.now:
            raise Found(f"a connection that is gone is still counted: {peers.connections}")
        for peer in list(peers.by_life.values()):
            peer.stop_timers()
        if len(peers._peers) > 8 or peers.env.timers > 64:  # type: ignore[attr-defined]
            raise Found(f"{len(peers._peers)} peers, {peers.env.timers} timers after one attacker")  # type: ignore[attr-defined]

    def over(self) -> str:
        self.loop.close()
        return f"{self.links} became links"


class Accepting(Handshake):
    """An acceptor hears a stranger."""


class Dialling(Handshake):
    """A dialler is answered by a stranger."""

    dialling = True


class Proving(Handshake):
    """An acceptor hears a dialler that knows the secret."""

    forged = True


class Welcoming(Handshake):
    """A dialler is answered by an acceptor that knows the secret."""

    dialling = True
    forged = True


TARGETS = {"accepting": Accepting, "dialling": Dialling, "proving": Proving, "welcoming": Welcoming}
