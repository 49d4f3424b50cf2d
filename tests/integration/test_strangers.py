"""Connections of those who know no secret: they are few, short and cheap, and nothing that they say is unpickled."""

from __future__ import annotations

import asyncio
import pickle
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import pytest

import actorfw
from actorfw.core import handshake
from actorfw.core.door import Door
from actorfw.io import doorstep
from actorfw.io.tcp import split_address
from actorfw.runtime import entrance, links
from actorfw.runtime.store import hostmates
from actorfw.wire import codec
from actorfw.wire import messages as m
from actorfw.wire.frames import header

pytestmark = pytest.mark.real

PLACES = 64


@asynccontextmanager
async def connections(address: str, many: int) -> AsyncIterator[list[socket.socket]]:
    """Silent connections, of many addresses of this machine."""
    loop = asyncio.get_running_loop()
    made: list[socket.socket] = []
    try:
        for number in range(many):
            sock = socket.socket()
            made.append(sock)
            sock.setblocking(False)
            sock.bind((f"127.0.{number % 250}.{1 + number % 200}", 0))
            await loop.sock_connect(sock, split_address(address))
        yield made
    finally:
        for sock in made:
            sock.close()


async def until(done: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(15):
            while not done():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(what)


def closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def test_strangers_are_many_and_get_few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "HALF_OPEN", PLACES)
    monkeypatch.setattr(doorstep, "HELLO_SECONDS", 2.0)
    greetings: list[object] = []
    make = links.AcceptGreeting.__init__

    def counted(self: links.AcceptGreeting, *args: Any) -> None:
        greetings.append(self)
        make(self, *args)

    monkeypatch.setattr(links.AcceptGreeting, "__init__", counted)
    async with actorfw.Node(num_cpus=0) as node:
        peers = node.runtime.peers
        door: Door = peers.entrance.door
        async with connections(node.address, 5 * PLACES) as made:
            await until(lambda: door.half_open.refused >= 4 * PLACES, "all beyond the limit are dropped")
            assert not greetings, "who says nothing costs no handshake"
            assert door.half_open.now == door.half_open.most == PLACES
            assert not peers.connections
            await until(lambda: sum(map(closed, made)) == 4 * PLACES, "and see that they are")
            assert not any(map(closed, made[-PLACES:])), "the oldest go first"
            # All places are taken, and who belongs here is let in at once.
            async with asyncio.timeout(1.5), actorfw.Node(seeds=node.address, num_cpus=0) as other:
                assert len(await other.runtime.ask("nodes")) == 2
            assert 1 <= len(greetings) < 10, "those of the two nodes"
            await until(lambda: door.half_open.now == 0, "who goes on saying nothing is dropped too")
            dropped = door.half_open.refused
            assert dropped + peers.counters["slow_handshakes"] == 5 * PLACES
            row = (await node.runtime.ask("status"))[0]
            expected = {"limit": PLACES, "now": 0, "most": PLACES, "refused": dropped}
            assert row["limits"]["half_open"] == expected


async def test_a_first_packet_in_crumbs_is_not_read() -> None:
    async with actorfw.Node(num_cpus=0) as node, connections(node.address, 1) as (sock,):
        loop = asyncio.get_running_loop()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sent = 0
        try:
            async with asyncio.timeout(10):
                for byte in b"afw:\xff\x0f\0\0" + bytes(100):
                    await loop.sock_sendall(sock, bytes([byte]))
                    sent += 1
                    await asyncio.sleep(0.005)  # each is read by itself
        except ConnectionError:
            pass
        assert sent < 60
        assert node.runtime.peers.counters["failed_handshakes"] == 1


async def test_who_waits_for_a_turn_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with actorfw.Node(num_cpus=0) as node:
        door = node.runtime.peers.entrance.door
        while door.handshakes.take(asyncio.get_running_loop().time()):
            pass
        monkeypatch.setattr(door.handshakes, "rate", 5.0)
        async with actorfw.Node(seeds=node.address, num_cpus=0):
            assert len(await actorfw.nodes()) == 2
        assert door.handshakes.limit.refused >= 1


async def test_a_node_that_has_all_its_connections_says_so() -> None:
    few = actorfw.Config(max_connections=1)
    async with actorfw.Node(num_cpus=0, config=few) as node, actorfw.Node(seeds=node.address, num_cpus=0):
        impatient = actorfw.Config(join_timeout=0.5)
        with pytest.raises(
            actorfw.PeerUnreachableError, match=r"1 connections, its limit: raise Config.max_connections"
        ):
            await actorfw.Node(seeds=node.address, num_cpus=0, config=impatient).start()
        assert (await node.runtime.ask("status"))[0]["limits"]["connections"]["refused"] >= 1


# -- pickle ------------------------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> Any:
        return (print, ("boom",))


@pytest.fixture(scope="module")
def hook() -> list[Any]:
    """Every class that a pickle of this process names, while it is not None that is put first."""
    seen: list[Any] = [False]

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event == "pickle.find_class" and seen[0]:
            seen.append(args)

    sys.addaudithook(audit)
    return seen


@actorfw.remote(num_cpus=0)
async def touch(thing: object) -> str:
    return str(thing)


def frame(*messages: object) -> bytes:
    batch = msgpack.packb(list(messages))
    return header(len(batch), 1, 0) + bytes(batch)


def packet(fields: object) -> bytes:
    body = msgpack.packb(fields)
    return b"afw:" + len(body).to_bytes(4, "little") + bytes(body)


async def test_no_byte_of_a_stranger_is_unpickled(monkeypatch: pytest.MonkeyPatch, hook: list[Any]) -> None:
    calls: list[str] = []
    loads = pickle.loads
    load = codec._Unpickler.load

    def noted_loads(*args: Any, **options: Any) -> Any:
        calls.append("loads")
        return loads(*args, **options)

    def noted_load(self: Any) -> Any:
        calls.append("load")
        return load(self)

    monkeypatch.setattr(pickle, "loads", noted_loads)
    monkeypatch.setattr(codec._Unpickler, "load", noted_load)
    bomb = pickle.dumps(Bomb())
    life = b"l" * 16
    said = [
        (m.BLOB, b"h" * 16, bomb),
        (m.TASK, 1, b"h" * 16, bomb, None, None, 1, 0, 1, 0),
        (m.CALL, 1, life, 1, 1, "method", bomb, None, None, 0, 1, None),
        (m.RESULT, 1, m.ERROR, bomb, None, 0),
        (m.ASK, 1, "objects", bomb),
        (m.ANSWER, 1, False, bomb),
        (1, 1, [m.RESULT, 1, m.VALUE, None, 0, [], [], None], [len(bomb)]),
        (2, 1, bomb),
    ]
    frames = b"".join(frame(message) for message in said)
    hello = [1, 1, f"{sys.version_info[0]}.{sys.version_info[1]}", "default", 0, life, b"n" * 32, [b"i" * 8]]
    recorded: list[bytes] = []  # what a true dialler says first, to be said again by others
    hello_of = handshake.Dialling.hello

    def noted_hello(self: handshake.Dialling) -> bytes:
        recorded.append(hello_of(self))
        return recorded[-1]

    monkeypatch.setattr(handshake.Dialling, "hello", noted_hello)
    async with actorfw.Node(num_cpus=0) as node, actorfw.Node(seeds=node.address, num_cpus=0, name="other") as other:
        place = actorfw.NodeAffinity(other.id)
        loop = asyncio.get_running_loop()
        true_hello = recorded[0]
        streams = [
            bomb,
            frames,
            packet(bomb) + frames,
            packet([1, bomb, bomb]) + frames,
            packet(hello) + frames,
            packet([*hello[:-1], [bomb]]) + frames,
            packet([3, bomb, b"t" * 32]) + frames,
            packet([5, "dead", "x", 0, bomb]),
            true_hello + frames,
            true_hello + packet([3, bomb, b"t" * 32]) + frames,
            true_hello + packet([3, bytes(msgpack.packb([1, 0, [], {"x": bomb}])), b"t" * 32]) + frames,
            true_hello + packet([5, "dead", "x", 0, bomb]),
        ]
        calls.clear()
        hook[:] = [True]
        before = node.runtime.peers.counters.total()
        for stream in streams:
            async with connections(node.address, 1) as (sock,):
                await loop.sock_sendall(sock, stream)
                async with asyncio.timeout(10):
                    try:
                        while await loop.sock_recv(sock, 10_000):
                            pass  # a challenge, or why it was refused
                    except ConnectionError:
                        pass
        mates = node.runtime.hostmates
        assert mates.name, "there is shared memory here, and a socket of its own for the processes of this host"
        for message in ([1, b"k" * 16, bomb], [6, b"k" * 16, bomb], [3, 1, bomb], bomb, [bomb]):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect("\0" + mates.name)
                sock.setblocking(False)
                body = bytes(msgpack.packb(message))
                await loop.sock_sendall(sock, len(body).to_bytes(4, "little") + body)
                async with asyncio.timeout(10):
                    try:
                        assert await loop.sock_recv(sock, 100) == b""
                    except ConnectionError:
                        pass
        assert (calls, hook[1:]) == ([], [])
        assert node.runtime.peers.counters.total() >= before + len(streams)
        # And that would have been noticed: of somebody who was let in, it is unpickled.
        assert await touch.options(scheduling=place).remote(Bomb()) == "None"
        assert calls
        assert ("builtins", "print") in hook
        hook[0] = False


async def test_a_process_of_this_host_that_shows_no_key_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostmates, "HELLO_SECONDS", 0.3)
    async with actorfw.Node(num_cpus=0) as node:
        mates = node.runtime.hostmates
        socks = [socket.socket(socket.AF_UNIX) for _ in range(hostmates.STRANGERS + 20)]
        try:
            for sock in socks:
                sock.setblocking(True)
                sock.settimeout(10)
                await asyncio.to_thread(sock.connect, "\0" + mates.name)
            await until(lambda: node.runtime.limits["mates_half_open"].refused >= 20, "there are places for few")
            assert mates.strangers() <= hostmates.STRANGERS
            await until(lambda: not mates.strangers(), "and not for long")
        finally:
            for sock in socks:
                sock.close()
