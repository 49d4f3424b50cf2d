"""`Peers` over real TCP on loopback, under asyncio's loop and uvloop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import pytest

from actorfw.core import handshake
from actorfw.core.door import Door
from actorfw.core.limits import Limits
from actorfw.core.pace import MOST
from actorfw.io import doorstep
from actorfw.io.env import RealEnv
from actorfw.io.tcp import listen, split_address
from actorfw.runtime import links
from actorfw.runtime.peers import FIRST_KIND, Identity, Peer, Peers
from actorfw.values.config import Config
from actorfw.values.errors import AuthenticationError, PeerUnreachableError, ProtocolError, VersionMismatchError
from actorfw.values.tls import TLS

pytestmark = pytest.mark.real

SECRET = b"s" * 32
DATA = FIRST_KIND


class Node:
    """A node that notes what it gets, and can be waited for."""

    def __init__(
        self, name: str, *, secret: bytes = SECRET, tls: TLS | None = None, link_patience: float = 10, **identity: Any
    ) -> None:
        self.got: list[Any] = []
        self.large: list[list[bytes]] = []
        self.ended: list[tuple[str, str]] = []
        self.lost: list[str] = []
        self._changed = asyncio.Event()
        me = Identity(os.urandom(16), name, info={"name": name}, **{"cluster": "test", **identity})
        config = Config(link_patience=link_patience)
        handlers: list[Any] = [None] * FIRST_KIND + [self._on_data]
        self.peers = Peers(RealEnv(tls=tls), me, config, (secret,), events=self, handlers=handlers)
        self.address = ""

    async def __aenter__(self) -> Node:
        self.address = await self.peers.listen("127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.peers.close()
        assert not self.peers.connections

    def _on_data(self, peer: Peer, message: list[Any]) -> None:
        self.got.append(message[1])
        self._changed.set()

    def peer_up(self, peer: Peer) -> None:
        self._changed.set()

    def evidence(self, peer: Peer, kind: str, detail: str) -> None:
        """One of two members takes a refusal for proof."""
        if kind in ("refused", "another_life"):
            self.peers.bury(peer.life, detail)

    def peer_lost(self, peer: Peer, detail: str, unsent: list[Sequence[Any]]) -> None:
        self.lost.append(detail)
        self._changed.set()

    def linked(self, peer: Peer) -> None: ...

    def rested(self, peer: Peer) -> None: ...

    def peer_back(self, peer: Peer) -> None: ...

    def peer_ended(self, peer: Peer, reason: str, detail: str, unsent: list[Sequence[Any]]) -> None:
        self.ended.append((reason, detail))
        self._changed.set()

    def on_large_head(self, peer: Peer, head: list[Any], sizes: list[int]) -> None: ...

    def on_large(self, peer: Peer, head: list[Any], buffers: list[memoryview]) -> None:
        self.large.append([bytes(buffer) for buffer in buffers])
        self._changed.set()

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not done():
                self._changed.clear()
                # Counters and closed connections announce nothing: look again before long.
                try:
                    await asyncio.wait_for(self._changed.wait(), 0.02)
                except TimeoutError:
                    pass


def new_uvloop() -> asyncio.AbstractEventLoop:
    return pytest.importorskip("uvloop").new_event_loop()  # type: ignore[no-any-return]


@pytest.fixture(params=["asyncio", "uvloop"])
def on_loop(request: pytest.FixtureRequest) -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
    """Run a test's main coroutine function on one of the two loops."""
    factory = new_uvloop if request.param == "uvloop" else None

    def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())

    return run


Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


def test_messages_both_ways_and_a_broken_link(on_loop: Run) -> None:
    async def main() -> None:
        async with Node("a") as a, Node("b") as b:
            one, two = await asyncio.gather(a.peers.dial(b.address), b.peers.dial(a.address))
            for i in range(2000):
                one.send((DATA, i))
                two.send((DATA, -i))
                if i % 500 == 250:
                    await a.until(lambda: one.connected)
                    assert one.link is not None
                    one.link.transport.abort()
            await a.until(lambda: len(a.got) == 2000)
            await b.until(lambda: len(b.got) == 2000)
            assert b.got == list(range(2000))
            assert a.got == [-i for i in range(2000)]
            assert a.ended == b.ended == []

    on_loop(main)


def test_large_messages_are_read_to_where_they_belong(on_loop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through broken links and between small ones; then the connection is read in the ordinary way again."""
    read: list[int] = []
    filled = links.Link.filled

    def counted(self: links.Link, size: int) -> None:
        read.append(size)
        filled(self, size)

    monkeypatch.setattr(links.Link, "filled", counted)
    big = [os.urandom(3_000_001), os.urandom(70_000), os.urandom(5_000_000)]

    async def main() -> None:
        async with Node("a") as a, Node("b") as b:
            one = await a.peers.dial(b.address)
            for turn in range(3):
                one.send_large((DATA, "big"), big)
                for i in range(300):
                    one.send((DATA, i))
                    await asyncio.sleep(0)
                if turn == 1:
                    await b.until(lambda: sum(read) > 10_000_000)
                    assert one.link is not None
                    one.link.transport.abort()
                await b.until(lambda turn=turn: len(b.large) == turn + 1)  # type: ignore[misc]
            assert b.large == [big] * 3
            await b.until(lambda: len(b.got) == 900)
            assert b.got == [*range(300)] * 3
            assert sum(read) > 0.5 * 3 * sum(map(len, big))
            assert a.ended == b.ended == []
            (there,) = b.peers.by_life.values()
            assert there.link is not None
            one.send((DATA, 1))
            await b.until(lambda: len(b.got) == 901)
            assert there.link.transport.get_protocol() is there.link

    on_loop(main)


def test_leaving_and_dying(on_loop: Run) -> None:
    async def main() -> None:
        async with Node("a") as a:
            async with Node("b") as b:
                await b.peers.dial(a.address)
            await a.until(lambda: len(a.ended) == 1)
            assert a.ended[0][0] == "left"
            c = Node("c")
            await c.__aenter__()
            await a.peers.dial(c.address)
            c.peers.abort()
            await a.until(lambda: len(a.ended) == 2)
            assert a.ended[1][0] == "dead"
            assert "refused" in a.ended[1][1]

    on_loop(main)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"secret": b"o" * 32}, AuthenticationError, "secret"),
        ({"cluster": "other"}, ProtocolError, "cluster"),
        ({"python": "3.99"}, VersionMismatchError, "Python"),
        ({"protocol": 99}, VersionMismatchError, "protocol version"),
    ],
)
def test_who_does_not_belong(on_loop: Run, options: dict[str, Any], error: type[Exception], text: str) -> None:
    async def main() -> None:
        async with Node("a") as a, Node("b", **options) as b:
            for x, y in ((a, b), (b, a)):
                with pytest.raises(error, match=text) as caught:
                    await x.peers.dial(y.address)
                assert type(caught.value) is error
                assert y.address in str(caught.value)
            assert not a.peers.by_life

    on_loop(main)


def test_nobody_there(on_loop: Run) -> None:
    async def main() -> None:
        async with Node("a") as a:
            with socket.create_server(("127.0.0.1", 0)) as unused:
                address = f"127.0.0.1:{unused.getsockname()[1]}"
            with pytest.raises(PeerUnreachableError, match=address):
                await a.peers.dial(address)
            with pytest.raises(PeerUnreachableError, match="no-such-host"):
                await a.peers.dial("no-such-host.invalid:1")

    on_loop(main)


async def closed_by_the_other_side(address: str, data: bytes) -> None:
    reader, writer = await asyncio.open_connection(*split_address(address))
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            try:
                while await reader.read(1000):
                    pass
            except ConnectionResetError:
                pass
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"\0" * 100_000,
        b"afw:\xff\xff\xff\xff",
        b"afw:\x01\0\0\0\xc1",
        b"afw:\x05\0\0\0\x91\x91\x91\x91\x91",
    ],
)
def test_garbage_costs_its_connection_and_nothing_else(on_loop: Run, data: bytes) -> None:
    async def main() -> None:
        async with Node("a") as a, Node("b") as b:
            peer = await a.peers.dial(b.address)
            await closed_by_the_other_side(b.address, data)
            assert b.peers.counters["failed_handshakes"] == 1
            peer.send((DATA, 1))
            await b.until(lambda: b.got == [1])

    on_loop(main)


def test_a_garbage_answer_is_no_node(on_loop: Run) -> None:
    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail.example.org ESMTP\r\n")
            await reader.read(10_000)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server, Node("a") as a:
            with pytest.raises(ProtocolError, match="not a handshake"):
                await a.peers.dial(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")

    on_loop(main)


def test_who_says_nothing_is_not_waited_for(on_loop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorstep, "HELLO_SECONDS", 0.2)
    assert handshake.HELLO_SECONDS == 3

    async def main() -> None:
        async with Node("a") as a:
            slow: list[Awaitable[None]] = [closed_by_the_other_side(a.address, b"afw:"[:size]) for size in range(5)]
            await asyncio.gather(*slow)
            assert a.peers.counters["slow_handshakes"] == 5

    on_loop(main)


def test_a_big_transfer_lets_small_messages_pass(on_loop: Run) -> None:
    async def main() -> None:
        async with Node("a") as a, Node("b") as b:
            peer = await a.peers.dial(b.address)
            big = os.urandom(1 << 20) * 64
            size = len(big)
            taken: list[int] = []
            waited: list[int] = []
            on_chunk = b.peers.handlers[2]

            def count(sender: Peer, message: list[Any]) -> None:
                taken.append(len(message[2]))
                on_chunk(sender, message)

            def note(sender: Peer, message: list[Any]) -> None:
                waited.append(sum(taken) - message[1])
                b.got.append(message[1])

            b.peers.handlers[2] = count
            b.peers.handlers[DATA] = note
            peer.send_large((DATA, "big"), [big])
            while not b.large:
                peer.send((DATA, sum(taken)))
                await asyncio.sleep(0)
            assert b.large == [[big]]
            assert sum(taken) == size
            assert max(waited) <= MOST
            assert len(waited) > 5

    on_loop(main)


def test_seals_beyond_loopback(on_loop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What leaves the machine is sealed: one side that says so is enough."""
    monkeypatch.setattr(links, "leaves_the_machine", lambda transport: True)

    async def main() -> None:
        async with Node("a") as a, Node("b") as b:
            peer = await a.peers.dial(b.address)
            assert peer.link is not None
            assert peer.link._seal is not None
            for i in range(100):
                peer.send((DATA, i))
            peer.send_large((DATA, "big"), [b"x" * 1_000_000])
            await b.until(lambda: bool(b.large))
            assert b.got == list(range(100))

    on_loop(main)


@pytest.mark.parametrize("turns", range(5))
def test_who_dials_a_listener_that_is_closed_hears_of_it_whatever_the_moment(on_loop: Run, turns: int) -> None:
    """A connection is accepted in one turn of the loop, read in another one, and has a protocol in the next."""

    class Closes(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.close()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = await listen(loop, Closes, "127.0.0.1", 0, Door(8, 8, Limits()))
        with socket.create_connection(split_address(listener.address)) as sock:
            sock.setblocking(False)
            sock.send(b"afw:\0\0\0\0")
            for _ in range(turns):
                await asyncio.sleep(0)
            listener.close()
            try:
                assert await asyncio.wait_for(loop.sock_recv(sock, 1), 5) == b""
            except ConnectionResetError:
                pass  # it was never accepted

    on_loop(main)
