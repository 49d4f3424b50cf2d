"""A process that is nothing but a peer: what `actorfw start` and the children of `LocalCluster` run."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from actorfw.api.life import Node, run
from actorfw.api.printing import send_prints
from actorfw.api.verbs import DRAIN_SECONDS
from actorfw.io.secrets import hidden
from actorfw.runtime.rows import DrainReport
from actorfw.values.config import Config
from actorfw.values.errors import ActorFwError
from actorfw.values.tls import TLS

__all__ = ["child", "live"]


async def live(
    node: Node,
    up: Callable[[Node], None],
    *,
    timeout: float = DRAIN_SECONDS,
    until_eof: int | None = None,
    leaving: Callable[[], object] | None = None,
) -> DrainReport | None:
    """Run a node until SIGINT or SIGTERM, then drain it; a second signal ends the process at once.

    It ends as well when somebody else has drained the node.

    Args:
        node: not started yet.
        up: called when it is a member.
        timeout: of the drain.
        until_eof: a descriptor whose end of file ends the node, too: at once, without draining.
        leaving: called when it is about to leave.

    Returns:
        What the drain says; None if there was none, or if it was not asked for here.
    """
    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    hung_up = asyncio.Event()

    def asked(number: int) -> None:
        if end.is_set():
            os._exit(128 + number)
        end.set()

    def readable(fd: int) -> None:
        if not os.read(fd, 4096):
            loop.remove_reader(fd)
            hung_up.set()
            end.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, asked, number)
    if until_eof is not None:
        loop.add_reader(until_eof, readable, until_eof)
    starting = asyncio.ensure_future(node.start())
    waiting = asyncio.ensure_future(end.wait())
    try:
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            return None
        starting.result()
        with send_prints(node.runtime):
            up(node)
            # This process is ours alone: what start-up made will not go away, so no collection needs to look at it
            # again.
            gc.freeze()
            ends: set[asyncio.Future[Any]] = {waiting, node.runtime.ended}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if leaving is not None:
                leaving()
            report = None if node.runtime.ended.done() else await _drained(node, timeout, hung_up)
            await node.stop()
            return report
    finally:
        waiting.cancel()
        for number in signals:
            loop.remove_signal_handler(number)
        if until_eof is not None:
            loop.remove_reader(until_eof)


async def _drained(node: Node, timeout: float, hung_up: asyncio.Event) -> DrainReport | None:
    """Drain, unless nobody wants that, or not any more."""
    if hung_up.is_set():
        return None
    draining = asyncio.ensure_future(node.drain(timeout))
    waiting = asyncio.ensure_future(hung_up.wait())
    ends: set[asyncio.Future[Any]] = {draining, waiting}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if draining.done():
        return draining.result()
    draining.cancel()
    return None


def child(told: dict[str, Any]) -> None:
    """Be a child of `LocalCluster`: say "up ADDRESS" or "failed WHY" to the parent, and end with it at the latest."""
    report = told["report"]
    os.set_inheritable(report, False)
    secrets = hidden([secret.encode("latin-1") for secret in told.pop("secrets")])

    def say(text: str) -> None:
        os.write(report, text.replace("\n", " ").encode() + b"\n")

    async def whole() -> None:
        settings: dict[str, Any] = told["config"]
        settings["voters"] = tuple(settings["voters"])
        config = Config(**settings)
        tls = None if told["tls"] is None else TLS(**told["tls"])
        node = Node(**told["options"], secret=secrets, tls=tls, config=config)
        await live(node, lambda up: say(f"up {up.address}"), until_eof=sys.stdin.fileno())

    try:
        run(whole())
    except ActorFwError as error:
        say(f"failed {type(error).__name__}: {error}")
        sys.exit(1)
