"""The web application: a page, a WebSocket for each client, and an upload for pictures.

Each process listens to a room once, however many of its clients are there, and keeps the last messages. A client's
connection has only its place in them: a slow client falls behind and takes its messages in larger steps, and costs no
memory. What a client has sent is acknowledged when the room has it, and the next is read after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

import actorfw
import actorfw.aiohttp

from .pictures import LARGEST, PREFIX, thumbnail
from .rooms import HISTORY, Message, Room, enter

PAGE = Path(__file__).with_name("page.html")
LONGEST = 4000  # characters of a message
WIDEST = 80_000  # of a thumbnail
STEP = 20  # messages at most in one piece: what a slow client has, it has, if it is cut off
PULSE = 15.0  # seconds between a connection's pings


@dataclass
class Ear:
    """A room as this process hears it.

    Attributes:
        name: of the room.
        room: the actor.
        clients: names of those connected here, by connection.
        born: which room of this name; "" before it has answered.
        messages: the last ones.
        present: who is there, in all processes.
        news: set when there is some, then replaced.
    """

    name: str
    room: Room
    clients: dict[object, str] = field(default_factory=dict[object, str])
    born: str = ""
    messages: list[Message] = field(default_factory=list[Message])
    present: list[str] = field(default_factory=list[str])
    news: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def names(self) -> list[str]:
        return sorted(set(self.clients.values()))

    def heard(self) -> None:
        self.news.set()
        self.news = asyncio.Event()


class Chat:
    """The rooms that this process listens to, and its connections."""

    def __init__(self, app: web.Application) -> None:
        self.app = app
        self.ears: dict[str, Ear] = {}
        self.sockets: weakref.WeakSet[web.WebSocketResponse] = weakref.WeakSet()

    @property
    def process(self) -> str:
        return self.app[actorfw.aiohttp.NODE].id

    def ear(self, name: str) -> Ear:
        """The room of this name, heard from now on."""
        if name not in self.ears:
            self.ears[name] = ear = Ear(name, enter(name))
            ear.task = asyncio.create_task(self._listen(ear))
        return self.ears[name]

    async def _listen(self, ear: Ear) -> None:
        while True:
            after = ear.messages[-1]["at"] if ear.messages else 0
            try:
                listening = ear.room.listen.remote(self.process, ear.names(), ear.born, after)
                async with contextlib.aclosing(listening) as heard:
                    async for news in heard:
                        if news["born"] != ear.born:
                            ear.born, ear.messages = news["born"], []
                        ear.messages += news["messages"]
                        del ear.messages[:-HISTORY]
                        ear.present = news["present"]
                        ear.heard()
            except actorfw.ActorDiedError:
                ear.room = enter(ear.name)  # more processes died than the room had copies: a new one
            except actorfw.ActorFwError:
                await asyncio.sleep(0.05)  # its process has died: the next call waits until the room is up again

    async def close(self) -> None:
        tasks = [ear.task for ear in self.ears.values() if ear.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


CHAT = web.AppKey("chat", Chat)


async def chat(app: web.Application) -> AsyncIterator[None]:
    app[CHAT] = Chat(app)
    yield
    await app[CHAT].close()


async def say_goodbye(app: web.Application) -> None:
    """This process ends: its clients connect to another."""
    for socket in list(app[CHAT].sockets):
        await socket.close(code=WSCloseCode.GOING_AWAY, message=b"this process ends")


async def page(request: web.Request) -> web.StreamResponse:
    return web.FileResponse(PAGE, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})


# The page is one file; what people write is never taken for a part of it.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def upload(request: web.Request) -> web.Response:
    try:
        image = await thumbnail.remote(await request.read())
    except ValueError as error:
        raise web.HTTPUnsupportedMediaType(text=str(error)) from error
    return web.json_response({"image": image})


async def talk(request: web.Request) -> web.WebSocketResponse:
    """One client's connection.

    It sends `{"client", "name", "born", "after"}` first, then `{"n", "text", "image"}`, n counting from 1; it gets
    `{"born", "messages", "present"}` and `{"ack"}`. What is not acknowledged when the connection breaks it sends again.
    """
    socket = web.WebSocketResponse(heartbeat=PULSE, max_msg_size=1 << 20)
    await socket.prepare(request)
    here = request.app[CHAT]
    here.sockets.add(socket)
    try:
        hello = await socket.receive_json(timeout=PULSE)
        name, born, after = str(hello["name"]).strip()[:40] or "somebody", str(hello["born"]), int(hello["after"])
        # Others see this, and must not be able to send in a client's name.
        sender = hashlib.sha256(str(hello["client"]).encode()).hexdigest()[:16]
    except (ValueError, KeyError, TypeError, TimeoutError):
        await socket.close(code=WSCloseCode.PROTOCOL_ERROR, message=b"what came first is no greeting")
        return socket
    ear = here.ear(request.match_info["room"])
    ear.clients[socket] = name
    ear.room.here.tell(here.process, ear.names())
    pump = asyncio.create_task(write(socket, ear, sender, born, after))
    try:
        await read(socket, ear, sender, name)
    finally:
        pump.cancel()
        del ear.clients[socket]
        ear.room.here.tell(here.process, ear.names())
    return socket


async def read(socket: web.WebSocketResponse, ear: Ear, sender: str, name: str) -> None:
    """Hand on what a client says, one message after another."""
    async for frame in socket:
        try:
            if frame.type is not WSMsgType.TEXT:
                raise ValueError
            said = json.loads(frame.data)
            n, text, image = int(said["n"]), str(said["text"])[:LONGEST], str(said.get("image", ""))
            if n < 1 or (image and not image.startswith(PREFIX)) or len(image) > WIDEST:
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError):
            await socket.close(code=WSCloseCode.PROTOCOL_ERROR, message=b"this is no message")
            return
        try:
            last = await ear.room.say(sender, n, name, text, image)
            await socket.send_json({"ack": last})
        except ConnectionResetError:
            return
        except actorfw.ActorFwError:
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"the room can't be reached now")
            return


async def write(socket: web.WebSocketResponse, ear: Ear, sender: str, born: str, after: int) -> None:
    """Send a client what is new, as fast as it takes it."""
    present: list[str] | None = None
    with contextlib.suppress(ConnectionResetError):
        await socket.send_json({"you": sender})
        while not socket.closed:
            news = ear.news
            if ear.born and ear.born != born:  # the client knows a room that is no more
                born, after = ear.born, 0
            messages = [message for message in ear.messages if message["at"] > after][:STEP]
            if ear.born and (messages or present != ear.present):
                after, present = (messages[-1]["at"] if messages else after), ear.present
                # Waits while the connection has more to send than it should have.
                await socket.send_json({"born": born, "messages": messages, "present": present})
            else:
                await news.wait()


def application(**options: Any) -> web.Application:
    """The service; the options are those of `actorfw.init`."""
    app = web.Application(client_max_size=LARGEST)
    # Rooms move to any process of the service, so each takes what another one needs done.
    actorfw.aiohttp.setup(app, hosts="all", **options)
    app.cleanup_ctx.append(chat)
    app.on_shutdown.append(say_goodbye)
    app.router.add_get("/", page)
    app.router.add_post("/pictures", upload)
    app.router.add_get("/rooms/{room:[a-z0-9-]{1,40}}", talk)
    return app
