"""Processes that live beside a measuring one: how they are started, what they say, and when they end.

A companion is a module of `benchmarks.companions`. It writes one line of JSON, then lives until its standard input
closes, so that it can't outlive the process that started it. This module is both ends of that; it imports little, since
some companions are measured themselves.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Companion", "released", "say", "started"]

_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Companion:
    """A running companion: its process id and what it said."""

    pid: int
    said: Any


@asynccontextmanager
async def started(module: str, *arguments: str) -> AsyncGenerator[Companion, None]:
    """Runs `benchmarks.companions.<module>` for as long as the block lasts, from the moment it has spoken.

    Raises:
        RuntimeError: it ended without a word; its own error stands on stderr.
        TimeoutError: it said nothing, or would not end, within two minutes; it is killed.
    """
    name = f"benchmarks.companions.{module}"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", name, *arguments, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_PATIENCE_S):
            line = await process.stdout.readline()
        if not line:
            raise RuntimeError(f"companion process {name} ended without a word (exit status {await process.wait()})")
        yield Companion(process.pid, json.loads(line))
        process.stdin.close()
        async with asyncio.timeout(_PATIENCE_S):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def say(value: object) -> None:
    """The companion's one line."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def released() -> None:
    """Returns when whoever started this companion wants it no longer."""
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()
    stdin = sys.stdin.fileno()
    loop.add_reader(stdin, closed.set)
    try:
        await closed.wait()
    finally:
        loop.remove_reader(stdin)
