"""SIGTERM to an aiohttp service under load: what it has begun to handle it answers, and it ends with nothing to say.

A client whose kept-alive connection is closed before it has an answer can't know whether its request came too late: the
service's own list of what it began tells.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import actorfw
from tests.integration.loaded_service import Adder

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]

PROGRAM = Path(__file__).with_name("loaded_service.py")
CONNECTIONS = 24
ENOUGH = 300  # answers before the signal


class Load:
    """Clients, each on a connection of its own, one request after another until the service is gone."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered: set[int] = set()
        self.wrong: list[str] = []
        self.enough = asyncio.Event()
        self._next = 0

    async def client(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                return  # it does not listen any more
            try:
                while await self._ask(reader, writer):
                    pass
            except (ConnectionError, asyncio.IncompleteReadError):
                pass  # closed before there was an answer
            finally:
                writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        n, self._next = self._next, self._next + 1
        writer.write(f"GET /{n} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        body = (await reader.readexactly(length)).decode()
        if (head.split()[1], body) != ("200", str(n + 1)):
            self.wrong.append(f"{n}: {head.splitlines()[0]}: {body[:200]}")
        self.answered.add(n)
        if len(self.answered) >= ENOUGH:
            self.enough.set()
        return "connection: close" not in head


async def under_load(
    port: int, cluster: str, signals: int = 1, just_before: Callable[[], object] = lambda: None
) -> tuple[int, str, Load, set[int]]:
    """Exit status, stderr, the load, and what the service began to handle."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", str(PROGRAM), str(port), cluster),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])},
    )
    load = Load(port)
    try:
        while not await _listens(port):
            assert child.returncode is None, (await child.communicate())[1].decode()
            await asyncio.sleep(0.02)
        clients = [asyncio.create_task(load.client()) for _ in range(CONNECTIONS)]
        await load.enough.wait()
        just_before()
        child.send_signal(signal.SIGTERM)
        for _ in range(signals - 1):
            while await _listens(port):
                pass
            child.send_signal(signal.SIGTERM)  # while it answers what it has begun, and leaves
        out, err = await child.communicate()
        await asyncio.gather(*clients)
    finally:
        if child.returncode is None:
            child.kill()
            await child.communicate()
    assert child.returncode is not None
    return child.returncode, err.decode(), load, set(json.loads(out))


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def test_what_was_begun_is_answered(free_port: int) -> None:
    cluster = f"sigterm-{uuid.uuid4().hex[:8]}"
    async with asyncio.timeout(50), actorfw.init(seeds=f"local:{cluster}", cluster=cluster, num_cpus=0):
        far = Adder.options(name="far").remote()
        assert await far.add(1, 1) == 2
        status, said, load, begun = await under_load(free_port, cluster)
        assert (status, said) == (0, "")
        assert load.wrong == []
        assert len(begun) >= ENOUGH
        assert begun <= load.answered
        assert [row.here for row in await actorfw.nodes()] == [True]  # it has said goodbye


async def test_a_second_signal_leaves_no_process_behind(free_port: int) -> None:
    """For aiohttp it means to end at once, with whatever is under way: that is told to no client, and on stderr."""
    cluster = f"sigterm-{uuid.uuid4().hex[:8]}"
    async with asyncio.timeout(50), actorfw.init(seeds=f"local:{cluster}", cluster=cluster, num_cpus=0):
        far = Adder.options(name="far").remote()
        assert await far.add(1, 1) == 2
        before = set(psutil.Process().children(recursive=True))
        seen: list[psutil.Process] = []
        status, *_ = await under_load(
            free_port, cluster, 2, lambda: seen.extend(set(psutil.Process().children(recursive=True)) - before)
        )
        assert status in (0, 1)  # if it was faster
        assert len(seen) > 1  # its worker processes too
        assert psutil.wait_procs(seen, timeout=10)[1] == []
        while [row.here for row in await actorfw.nodes()] != [True]:
            await asyncio.sleep(0.01)
