"""The chat of the examples, as a service: three processes, clients on all of them, one is killed with -9 under load.

What was acknowledged is there, once, in each sender's order, for every client and for one that comes later.
"""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = 9
MESSAGES = 20


class Service:
    """Processes of the chat, each with a port of its own."""

    def __init__(self) -> None:
        self.children: dict[int, subprocess.Popen[str]] = {}
        self.cluster = f"chat-{uuid.uuid4().hex[:8]}"

    def start(self) -> int:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        command = [sys.executable, "-X", "dev", "-W", "error", "-m", "examples.chat", "--processes", "1"]
        command += ["--port", str(port), "--cluster", self.cluster]
        self.children[port] = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ
        )
        return port

    def kill(self, port: int) -> None:
        child = self.children.pop(port)
        child.kill()
        child.communicate()

    async def stop(self) -> None:
        """One after another ends when it is told to, with nothing to say."""
        while self.children:
            _, child = self.children.popitem()
            child.send_signal(signal.SIGTERM)
            _, said = await asyncio.to_thread(child.communicate)
            assert (child.returncode, _unexpected(said)) == (0, "")


def _unexpected(stderr: str) -> str:
    # How long steps took tells of the machine's load, in asyncio's debug mode.
    return "\n".join(line for line in stderr.splitlines() if "Executing <" not in line)


@asynccontextmanager
async def service(count: int) -> AsyncIterator[tuple[Service, list[int], aiohttp.ClientSession]]:
    it = Service()
    try:
        ports = [it.start() for _ in range(count)]
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(_ready(session, port, it.children[port]) for port in ports))
            yield it, ports, session
            await it.stop()
    finally:
        for port in list(it.children):
            it.kill(port)


async def _ready(session: aiohttp.ClientSession, port: int, child: subprocess.Popen[str]) -> None:
    async with asyncio.timeout(30):
        while True:
            assert child.poll() is None, child.communicate()[1]
            try:
                async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.05)


class Client:
    """What the page does: it sends again what was not acknowledged, and goes on with another process."""

    def __init__(self, session: aiohttp.ClientSession, ports: list[int], number: int) -> None:
        self.session = session
        self.ports = itertools.cycle(ports[number % len(ports) :] + ports[: number % len(ports)])
        self.name = f"client {number}"
        self.me = ""
        self.outbox: list[dict[str, Any]] = []
        self.acknowledged = 0
        self.seen: dict[int, dict[str, Any]] = {}
        self.born = ""
        self.connections = 0
        self.present: list[str] = []
        self.changed = asyncio.Event()
        self._id = uuid.uuid4().hex
        self._n = 0
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    async def run(self) -> None:
        while True:
            url = f"ws://127.0.0.1:{next(self.ports)}/rooms/lobby"
            try:
                async with self.session.ws_connect(url) as self._socket:
                    self.connections += 1
                    after = max(self.seen, default=0)
                    await self._send({"client": self._id, "name": self.name, "born": self.born, "after": after})
                    for message in [*self.outbox]:
                        await self._send(message)
                    async for frame in self._socket:
                        self._heard(json.loads(frame.data))
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)  # that process is gone

    def _heard(self, news: dict[str, Any]) -> None:
        self.me = news.get("you", self.me)
        self.acknowledged = max(self.acknowledged, news.get("ack", 0))
        self.outbox = [message for message in self.outbox if message["n"] > self.acknowledged]
        if "messages" in news:
            assert self.born in ("", news["born"])  # nobody forgot the room
            self.born, self.present = news["born"], news["present"]
            for message in news["messages"]:
                assert message["at"] not in self.seen, "heard twice"
                self.seen[message["at"]] = message
        self.changed.set()
        self.changed = asyncio.Event()

    async def _send(self, message: dict[str, Any]) -> None:
        assert self._socket is not None
        try:
            await self._socket.send_json(message)
        except ConnectionResetError:
            pass  # it is in the outbox

    async def say(self, text: str, image: str = "") -> None:
        self._n += 1
        message = {"n": self._n, "text": text, "image": image}
        self.outbox.append(message)
        if self._socket is not None and not self._socket.closed:
            await self._send(message)

    async def until(self, condition: Any) -> None:
        while not condition():
            await self.changed.wait()


async def test_one_of_three_processes_is_killed_under_load() -> None:
    async with asyncio.timeout(45), service(3) as (it, ports, session):
        clients = [Client(session, ports, number) for number in range(CLIENTS)]
        running = [asyncio.create_task(client.run()) for client in clients]
        await asyncio.gather(*(client.until(lambda c=client: len(c.present) == CLIENTS) for client in clients))

        image = await _thumbnail(session, ports[1])
        await clients[0].say("a picture", image)
        host = await _host_of_the_room(it.cluster)

        async def talk(client: Client) -> None:
            for number in range(MESSAGES):
                await client.say(f"{client.name} says {number}")
                await asyncio.sleep(0.02)

        talking = [asyncio.create_task(talk(client)) for client in clients]
        await clients[0].until(lambda: clients[0].acknowledged > MESSAGES // 4)
        port = next(port for port, child in it.children.items() if child.pid == host)
        it.kill(port)
        await asyncio.gather(*talking)
        total = CLIENTS * MESSAGES + 1
        for client in clients:
            await client.until(lambda c=client: not c.outbox and len(c.seen) == total)

        late = Client(session, [other for other in ports if other != port], CLIENTS)
        running.append(asyncio.create_task(late.run()))
        await late.until(lambda: len(late.seen) == total and len(late.present) == CLIENTS + 1)
        assert sum(client.connections for client in clients) > CLIENTS  # some had to go elsewhere
        heard = [late.seen[at] for at in sorted(late.seen)]
        assert sorted(late.seen) == list(range(1, total + 1))
        for client in clients:
            assert client.seen == late.seen
            said = [message["text"] for message in heard if message["sender"] == client.me]
            assert said[-MESSAGES:] == [f"{client.name} says {number}" for number in range(MESSAGES)]
        assert heard[0]["image"] == image
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _thumbnail(session: aiohttp.ClientSession, port: int) -> str:
    picture = io.BytesIO()
    Image.linear_gradient("L").resize((900, 500)).save(picture, "PNG")
    async with session.post(f"http://127.0.0.1:{port}/pictures", data=picture.getvalue()) as answer:
        image: str = (await answer.json())["image"]
    with Image.open(io.BytesIO(base64.b64decode(image.partition(",")[2]))) as small:
        assert (small.format, small.size) == ("JPEG", (360, 200))
    async with session.post(f"http://127.0.0.1:{port}/pictures", data=b"no picture") as answer:
        assert answer.status == 415
    return image


async def _host_of_the_room(cluster: str) -> int:
    """The process id of the node where the room lives, as the shell's listings tell it."""
    listings = []
    for verb in ("actors", "nodes"):
        asking = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "actorfw", verb, "--json", "--seed", f"local:{cluster}", "--cluster", cluster,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        listings.append(json.loads((await asking.communicate())[0]))
    actors, nodes = listings
    where = next(row["node_id"] for row in actors if row["name"] == "room lobby")
    pid: int = next(row["pid"] for row in nodes if row["id"] == where)
    return pid
