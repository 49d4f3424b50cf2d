"""Somebody in the middle: passes on what two nodes say to each other, and whatever else a test wants.

He reads everything, as anybody on the way can, and knows no secret. On any `Env`, simulated or real.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from struct import Struct
from typing import Any, Literal, cast

import msgpack

from actorfw.core.door import Door
from actorfw.core.limits import Limits
from actorfw.io.env import Env, Listener
from actorfw.io.tcp import split_address
from actorfw.wire.frames import HEADER_BYTES, SEAL_BYTES

__all__ = ["Middle", "Side", "Tap", "packet", "unpacked"]

Side = Literal["dialler", "acceptor"]
"""Who has said it."""

_PACKET = Struct("<4sI")
_LENGTH = Struct("<I")
_PACKETS = 2  # that each side says before frames


def packet(fields: list[Any]) -> bytes:
    """One packet of the handshake."""
    body = msgpack.packb(fields)
    return _PACKET.pack(b"afw:", len(body)) + body


def unpacked(data: bytes) -> list[Any]:
    """Its fields."""
    fields: list[Any] = msgpack.unpackb(data[_PACKET.size :])
    return fields


class _Leg(asyncio.Protocol):
    """His connection with one of the two."""

    def __init__(self, tap: Tap, side: Side) -> None:
        self.tap = tap
        self.side: Side = side
        self.transport: asyncio.Transport | None = None
        self.early = b""
        self.rest = b""
        self.packets = 0
        self.frames = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        early, self.early = self.early, b""
        if early:
            self.transport.write(early)

    def data_received(self, data: bytes) -> None:
        self.rest += data
        while unit := self._unit():
            if self.packets < _PACKETS:
                self.packets += 1
                told = self.tap.middle.on_packet(self.tap, self.side, self.packets, unit)
            else:
                self.frames += 1
                told = self.tap.middle.on_frame(self.tap, self.side, self.frames, unit)
            if told is not None:
                self.tap.tell(self.side, told)

    def _unit(self) -> bytes:
        """The next packet or frame, if it is whole."""
        if self.packets < _PACKETS:
            head = _PACKET.size
            size = _PACKET.unpack_from(self.rest)[1] if len(self.rest) >= head else 0
        else:
            head = HEADER_BYTES + (SEAL_BYTES if self.tap.middle.sealed else 0)
            size = _LENGTH.unpack_from(self.rest)[0] if len(self.rest) >= head else 0
        if len(self.rest) < head + size:
            return b""
        unit, self.rest = self.rest[: head + size], self.rest[head + size :]
        return unit

    def connection_lost(self, exc: Exception | None) -> None:
        self.tap.close()

    def write(self, data: bytes) -> None:
        if self.transport is None:
            self.early += data
        elif not self.transport.is_closing():
            self.transport.write(data)


class Tap:
    """One connection that goes through his hands."""

    def __init__(self, middle: Middle) -> None:
        self.middle = middle
        self.legs: dict[Side, _Leg] = {"dialler": _Leg(self, "dialler"), "acceptor": _Leg(self, "acceptor")}

    def tell(self, said_by: Side, data: bytes) -> None:
        """Pass on, or say in the name of one side, to the other."""
        self.legs["acceptor" if said_by == "dialler" else "dialler"].write(data)

    def close(self) -> None:
        """Break it off on both sides."""
        for leg in self.legs.values():
            if leg.transport is not None:
                leg.transport.abort()


def _pass_on(tap: Tap, side: Side, number: int, data: bytes) -> bytes | None:
    return data


class Middle:
    """Args:
        env: his world.
        target: the address to which he passes on what comes to his own.
        sealed: whether frames have seals, which he has to know to tell where they end.

    Attributes:
        on_packet, on_frame: called with (tap, who says it, its number from 1, bytes); return what is passed on.
        taps: all that he has had.
    """

    def __init__(self, env: Env, target: str, *, sealed: bool = True) -> None:
        self.env = env
        self.target = target
        self.sealed = sealed
        self.on_packet: Callable[[Tap, Side, int, bytes], bytes | None] = _pass_on
        self.on_frame: Callable[[Tap, Side, int, bytes], bytes | None] = _pass_on
        self.taps: list[Tap] = []
        self.address = ""
        self._listener: Listener | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def listen(self) -> Middle:
        door = Door(100, 100, Limits())
        self._listener = await self.env.listen(self._accept, "127.0.0.1", 0, door, lambda where, error: None)
        self.address = self._listener.address
        return self

    def _accept(self) -> asyncio.BaseProtocol:
        tap = Tap(self)
        self.taps.append(tap)
        task = asyncio.get_running_loop().create_task(self._connect(tap))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return tap.legs["dialler"]

    async def _connect(self, tap: Tap) -> None:
        try:
            await self.env.dial(lambda: tap.legs["acceptor"], *split_address(self.target))
        except OSError:
            tap.close()

    async def say(self, target: str, data: bytes) -> bytes:
        """Connect on his own account, say this, and return what comes back until the other side closes."""
        heard = _Heard(data)
        await self.env.dial(lambda: heard, *split_address(target))
        await heard.over
        return heard.got

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for tap in self.taps:
            tap.close()


class _Heard(asyncio.Protocol):
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.got = b""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self.data)

    def data_received(self, data: bytes) -> None:
        self.got += data

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)
