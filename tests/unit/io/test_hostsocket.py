"""Connections within a host: messages arrive whole and in order with their descriptors, and an end is told once."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actorfw.io import hostsocket
from actorfw.io.hostsocket import HostSocket

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(sys.platform != "linux", reason="the abstract name space is Linux's"),
]


class End:
    """What one end hears."""

    def __init__(self, sock: socket.socket) -> None:
        self.messages: list[Any] = []
        self.fds: list[int] = []
        self.ends = 0
        self.news = asyncio.Event()
        self.sock = HostSocket(asyncio.get_running_loop(), sock, self._heard, self._ended)

    def _heard(self, sock: HostSocket, message: list[Any], fds: list[int]) -> None:
        self.messages.append(message)
        self.fds += fds
        self.news.set()

    def _ended(self, sock: HostSocket) -> None:
        self.ends += 1
        self.news.set()

    async def until(self, messages: int = 0, ends: int = 0) -> None:
        async with asyncio.timeout(5):
            while len(self.messages) < messages or self.ends < ends:
                self.news.clear()
                await self.news.wait()


@pytest.fixture
async def ends() -> AsyncIterator[tuple[End, End]]:
    name = f"actorfw-test-{os.getpid()}-{os.urandom(4).hex()}"
    with hostsocket.listen(name) as listener:
        ours = hostsocket.connect(name)
        theirs, _ = listener.accept()
    pair = End(ours), End(theirs)
    yield pair
    for end in pair:
        end.sock.close()
        for fd in end.fds:
            os.close(fd)


async def test_messages_arrive_in_order_however_large(ends: tuple[End, End]) -> None:
    one, two = ends
    sizes = [0, 10, 3_000_000, 1, 70_000]
    for size in sizes:
        one.sock.send((size, b"x" * size))
    two.sock.send(("back",))
    await two.until(len(sizes))
    await one.until(1)
    assert two.messages == [[size, b"x" * size] for size in sizes]
    assert one.messages == [["back"]]


async def test_descriptors_arrive_with_their_message(ends: tuple[End, End]) -> None:
    one, two = ends
    read, write = os.pipe()
    one.sock.send(("fill", b"x" * 2_000_000))  # they wait behind what the socket has no room for
    one.sock.send(("pipe",), [write])
    os.close(write)
    await two.until(2)
    assert len(two.fds) == 1
    assert not os.get_inheritable(two.fds[0])
    os.write(two.fds[0], b"hello")
    assert os.read(read, 10) == b"hello"
    os.close(two.fds.pop())
    assert os.read(read, 10) == b""  # nobody else has it
    os.close(read)


async def test_an_end_is_told_once(ends: tuple[End, End]) -> None:
    one, two = ends
    one.sock.send(("last",))
    one.sock.close()
    one.sock.close()
    one.sock.send(("too late",))
    await two.until(1, 1)
    assert (two.messages, two.ends, one.ends) == ([["last"]], 1, 0)
    assert two.sock.fd == -1


async def test_closing_ends_it_whoever_else_has_the_descriptor(ends: tuple[End, End]) -> None:
    one, two = ends
    other = os.dup(one.sock.fd)
    one.sock.close()
    await two.until(ends=1)
    os.close(other)


async def test_it_lasts_as_long_as_somebody_has_it_if_the_process_just_goes(ends: tuple[End, End]) -> None:
    one, two = ends
    other = os.dup(one.sock.fd)
    one.sock.release()
    one.sock._sock.close()  # as the kernel does
    await asyncio.sleep(0.05)
    assert not two.ends
    os.close(other)
    await two.until(ends=1)


@pytest.mark.parametrize(
    "data", [struct.pack("<I", 1 << 30), struct.pack("<I", 1) + b"\xc1", struct.pack("<I", 1) + b"\x05"]
)
async def test_nonsense_ends_it(ends: tuple[End, End], data: bytes) -> None:
    one, two = ends
    os.write(one.sock.fd, data)
    await two.until(ends=1)
    assert not two.messages


async def test_nobody_listens() -> None:
    with pytest.raises(OSError, match="refused"):
        hostsocket.connect("actorfw-nobody")
    with pytest.raises(OSError, match="refused"):
        hostsocket.receive_blocking("actorfw-nobody", ("?",), 1.0)
