"""What the kernel at the other end tells of a process that does not run, on real sockets."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from actorfw.io.tcp import kernel_answers

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what was acknowledged (TCP_INFO)"),
]

MACHINES = itertools.count()

READER = """
import socket, sys
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
one, _ = server.accept()
while one.recv(65536):
    pass
"""


@pytest.fixture(params=["asyncio", "uvloop"])
def on_loop(request: pytest.FixtureRequest) -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
    def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        factory = None
        if request.param == "uvloop":
            factory = pytest.importorskip("uvloop").new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())

    return run


@contextmanager
def reader(host: str = "127.0.0.1", *prefix: str) -> Iterator[tuple[int, int]]:
    """A process that reads one connection: its pid and port."""
    with subprocess.Popen([*prefix, sys.executable, "-c", READER, host], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()


@asynccontextmanager
async def connected(host: str, port: int) -> AsyncIterator[asyncio.Transport]:
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, port)
    try:
        yield transport
    finally:
        transport.abort()
        await asyncio.sleep(0)


async def answers(transport: asyncio.Transport, wait: float = 0.25) -> bool | None:
    transport.write(b"are you there?")
    await asyncio.sleep(wait)
    return kernel_answers(transport, wait)


def test_a_stopped_process_has_a_kernel_that_answers(on_loop: Any) -> None:
    async def main() -> None:
        with reader() as (pid, port):
            async with connected("127.0.0.1", port) as transport:
                assert await answers(transport) is True
                os.kill(pid, signal.SIGSTOP)
                assert await answers(transport) is True
                # Also when it has no room for more: its window is closed, and it says so again and again.
                transport.write(bytes(16 << 20))
                for _ in range(4):
                    assert await answers(transport, 0.5) is True

    on_loop(main)


def test_a_connection_that_is_not_tcp_can_t_be_asked() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        read, write = os.pipe()
        with os.fdopen(write, "wb") as pipe:
            transport, _ = await loop.connect_write_pipe(asyncio.Protocol, pipe)
            assert kernel_answers(transport, 1.0) is None
            transport.close()
            os.close(read)
            await asyncio.sleep(0)

    asyncio.run(main())


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def machine() -> Iterator[tuple[str, str, str]]:
    """What is as good as another machine: (network namespace, its address, the cable)."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and the command ip, to make a network namespace")
    number = next(MACHINES)
    name = cable = f"afw{os.getpid()}x{number}"
    net = f"10.254.{77 + number}"
    try:
        run("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.decode()}")
    try:
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "addr", "add", f"{net}.1/30", "dev", cable)
        run("ip", "link", "set", cable, "up")
        run("ip", "-n", name, "addr", "add", f"{net}.2/30", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        yield name, f"{net}.2", cable
    finally:
        subprocess.run(["ip", "link", "del", cable], check=False, capture_output=True)
        run("ip", "netns", "del", name)


def test_a_machine_that_is_cut_off_does_not_answer(on_loop: Any) -> None:
    async def main() -> None:
        with machine() as (name, host, cable), reader(host, "ip", "netns", "exec", name) as (pid, port):
            async with connected(host, port) as transport:
                assert await answers(transport) is True
                run("ip", "link", "set", cable, "down")
                assert await answers(transport) is False
                assert await answers(transport) is False
                run("ip", "link", "set", cable, "up")
                for _ in range(20):
                    if await answers(transport):
                        break
                assert kernel_answers(transport, 0.25) is True
                os.kill(pid, 0)

    on_loop(main)


def test_a_machine_that_is_cut_off_while_its_window_is_closed(on_loop: Any) -> None:
    async def main() -> None:
        with machine() as (name, host, cable), reader(host, "ip", "netns", "exec", name) as (pid, port):
            async with connected(host, port) as transport:
                os.kill(pid, signal.SIGSTOP)
                transport.write(bytes(16 << 20))
                await asyncio.sleep(1)
                assert await answers(transport) is True
                run("ip", "link", "set", cable, "down")
                for _ in range(20):  # the kernel asks less and less often whether there is room
                    if not await answers(transport):
                        break
                assert kernel_answers(transport, 0.25) is False

    on_loop(main)
