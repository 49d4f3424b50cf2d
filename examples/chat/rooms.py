"""A room, shared by all processes of the service: what was said in it, who is there, and a second copy of it all.

A room is an actor with a name, so there is one, wherever it lives; it outlives who made it, and is started again
elsewhere when its process dies. An actor's state dies with its process, so a room has a `Copy` on another node: it
takes in each message before the room acknowledges it, and a room that starts asks it what was said so far. A message
that was acknowledged is gone only if two processes die within about a second: the room's and its copy's.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncIterator
from typing import TypedDict

import actorfw

HISTORY = 300
"""Messages that a room remembers."""

CLIENTS = 10_000
"""Clients of whom a room remembers which message was their last, to know what is sent again."""


class Message(TypedDict):
    """Something said. `sender` and `n`, the sender's own count, tell what is the same message sent again."""

    at: int  # its place in the room: 1, 2, 3, ...
    sender: str
    n: int
    name: str
    text: str
    image: str
    time: float


class State(TypedDict):
    """All that a room must not forget."""

    born: str  # of a room that nobody remembers another one is made
    at: int  # messages so far
    messages: list[Message]  # the last of them
    last: dict[str, int]  # number of the last one of each sender


class News(TypedDict):
    """What a listener hears: new messages, and who is there now."""

    born: str
    messages: list[Message]
    present: list[str]


def take_in(state: State, message: Message) -> None:
    """Add a message to what is remembered; the room and its copy do the same."""
    state["at"] = message["at"]
    state["messages"].append(message)
    del state["messages"][:-HISTORY]
    last = state["last"]
    last.pop(message["sender"], None)  # to its end: the one that was silent longest is the first
    last[message["sender"]] = message["n"]
    if len(last) > CLIENTS:
        del last[next(iter(last))]


class Copy(actorfw.Actor):
    """The second copy of a room's state, on another node than the room."""

    def __init__(self) -> None:
        self.state: State | None = None

    @actorfw.method
    async def begin(self, state: State) -> None:
        """Take over a whole state."""
        self.state = state

    @actorfw.method
    async def add(self, message: Message) -> bool:
        """Take in the next message; False if those before it are not known here."""
        if self.state is None or message["at"] != self.state["at"] + 1:
            return False
        take_in(self.state, message)
        return True

    @actorfw.method
    async def known(self) -> int:
        """How many messages it knows of."""
        return self.state["at"] if self.state is not None else -1

    @actorfw.method
    async def whole(self) -> State | None:
        """All that it knows; None if that is nothing."""
        return self.state


class Room(actorfw.Actor):
    """Where people talk. Made by `enter`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: State = {"born": uuid.uuid4().hex, "at": 0, "messages": [], "last": {}}
        self.present: dict[str, list[str]] = {}  # names, by the process that they are connected to
        self.news = asyncio.Event()  # set when there is some, then replaced
        self.copy: Copy | None = None
        self.copying = asyncio.Lock()
        self.minder: asyncio.Task[None] | None = None
        self.leaving = False

    async def on_start(self) -> None:
        """Each incarnation begins with what the copy knows."""
        with contextlib.suppress(actorfw.ActorNotFoundError, actorfw.ActorDiedError):
            copy = await actorfw.get_actor(self._copy_name, Copy)
            state = await copy.whole()
            if state is not None:
                self.state, self.copy = state, copy
        self.minder = asyncio.create_task(self._mind_copy())

    async def on_stop(self, reason: str) -> None:
        """The room ends, or moves to another process."""
        if self.minder is not None:
            self.minder.cancel()

    @actorfw.method
    async def say(self, sender: str, n: int, name: str, text: str, image: str = "") -> int:
        """Take a message; returns the number of the sender's last one that was taken.

        A message that comes again is known by its number. If one before it was lost on its way, the answer is lower
        than `n`, and the sender begins again from there.
        """
        last = self.state["last"].get(sender, 0)
        if last and n != last + 1:
            return last
        message: Message = {
            "at": self.state["at"] + 1,
            "sender": sender,
            "n": n,
            "name": name,
            "text": text,
            "image": image,
            "time": time.time(),
        }
        async with self.copying:
            await self._add_to_copy(message)
            take_in(self.state, message)
        self._tell()
        return n

    @actorfw.method(interleave=True)
    async def listen(self, process: str, names: list[str], born: str, after: int) -> AsyncIterator[News]:
        """All that is said after a message, and who is there, until the listening process or this one goes away."""
        if born != self.state["born"]:
            after = 0
        self.present[process] = names
        self._tell()
        seen: list[str] | None = None
        try:
            while not self.leaving:
                news = self.news
                messages = [message for message in self.state["messages"] if message["at"] > after]
                present = sorted({name for names in self.present.values() for name in names})
                if messages or present != seen:
                    after, seen = (messages[-1]["at"] if messages else after), present
                    yield {"born": self.state["born"], "messages": messages, "present": present}
                else:
                    await news.wait()
        finally:
            self.present.pop(process, None)
            self._tell()

    @actorfw.method(interleave=True)
    async def here(self, process: str, names: list[str]) -> None:
        """Who is connected to a process that listens."""
        if process in self.present:
            self.present[process] = names
            self._tell()

    def _tell(self) -> None:
        self.news.set()
        self.news = asyncio.Event()

    # -- the copy ------------------------------------------------------------------------------------------------------

    @property
    def _copy_name(self) -> str:
        return f"copy of {self.name}"

    async def _add_to_copy(self, message: Message) -> None:
        """Have the copy take in a message. Without another node there is none, and nothing to wait for."""
        while True:
            try:
                if self.copy is None:
                    self.copy = await self._make_copy()
                if self.copy is None or await self.copy.add(message):
                    return
                await self.copy.begin(self.state)
            except actorfw.ActorFwError:  # its process has died: a new one, as soon as the cluster knows
                self.copy = None
                await asyncio.sleep(0.05)

    async def _mind_copy(self) -> None:
        """See to it that there is a copy, that it is on another node, and knows all, whoever comes and goes."""
        while True:
            with contextlib.suppress(actorfw.ActorFwError):  # nodes come and go: soon more is known
                if any(node.here and node.state == "leaving" for node in await actorfw.nodes()):
                    # This process is being stopped. The room moves when what runs has ended; who listens comes along.
                    self.leaving = True
                    self._tell()
                    return
                async with self.copying:
                    if self.copy is None or (await actorfw.info(self.copy)).node_id == actorfw.context().node_id:
                        self.copy = await self._make_copy()
                    elif await self.copy.known() != self.state["at"]:
                        await self.copy.begin(self.state)  # it has moved away from a node that was stopped
            await asyncio.sleep(0.5)

    async def _make_copy(self) -> Copy | None:
        """A copy on another node than this one, in place of the one there was; None if there is no other node."""
        here = actorfw.context().node_id
        others = [node.id for node in await actorfw.nodes() if node.state == "up" and node.id != here]
        if not others:
            return None
        with contextlib.suppress(actorfw.ActorNotFoundError, actorfw.ActorDiedError):
            await actorfw.stop(await actorfw.get_actor(self._copy_name, Copy))
        there = actorfw.NodeAffinity(random.choice(others), soft=True)
        copy = Copy.options(name=self._copy_name, detached=True, scheduling=there).remote()
        await copy.begin(self.state)
        return copy


def enter(name: str) -> Room:
    """The room of this name: the one that there is, or a new one."""
    return Room.options(
        name=f"room {name}",
        get_if_exists=True,
        detached=True,  # it outlives the process that made it
        max_restarts=-1,  # and begins again on another node when its own dies:
        max_task_retries=-1,  # calls that were under way are then sent once more, and `say` knows them again
    ).remote(name)
