"""An actor that others tell their part of the result, and that the program waits for."""

from __future__ import annotations

import asyncio

import actorfw

__all__ = ["Latch"]


class Latch(actorfw.Actor):
    """Open when so many have handed in a number."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._found: list[int] = []
        self._open = asyncio.Event()

    @actorfw.method
    async def add(self, part: int) -> None:
        self._found.append(part)
        if len(self._found) == self._parts:
            self._open.set()

    @actorfw.method(interleave=True)
    async def parts(self) -> list[int]:
        await self._open.wait()
        return self._found
