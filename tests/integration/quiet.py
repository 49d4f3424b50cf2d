"""When nobody holds anything any more, no node may remember anything: the tables that must be empty then."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import actorfw
from actorfw.runtime import current
from actorfw.runtime.node import Node

SECONDS = 20.0


def tables(node: Node) -> dict[str, Any]:
    """What a node still knows of refs, values, tasks and streams, without empty tables."""
    gc.collect()
    objects = node.objects
    objects.sweep()
    found: dict[str, Any] = {
        "ownership": [part for part in objects.ownership.snapshot()[0] if part],  # type: ignore[attr-defined]
        "values": dict(objects._exported),
        "fetches": dict(node.fetches.asked),
        "refs": list(objects._refs),
        "tasks": list(node.tasks.open),
        "queues": dict(node.tasks._queues),
        "sent": [life for life, tasks in node.tasks.sent.by_life.items() if tasks],
        "children": dict(node.tasks._children),
        "parts": dict(node.tasks._parts),
        "outbox": node.tasks.outbox.waiting_bytes,
        "of others": list(node.execution._foreign),
        "running": [exe.name for exe in node.execution.by_serial.values() if exe.name != "_tables"],
        "backlog": [len(queue) for queue in node.pool.foreign.queues.values() if queue],
        "blocked": list(node.pool._blocked),
        "streams": dict(node.streams),
        "relays": dict(node.workercalls.relays),
    }
    return {name: repr(table)[:400] for name, table in found.items() if table}


@actorfw.remote
async def _tables() -> dict[str, Any]:
    node = current.home()
    assert isinstance(node, Node)
    left = tables(node)
    for name in ("of others",):  # this very task
        left.pop(name, None)
    return left


async def all_quiet() -> None:
    """Wait until all nodes of the cluster have forgotten everything.

    Raises:
        AssertionError: they have not in time; shows what is left where.
    """
    left: dict[str, Any] = {}
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                left = {}
                for row in await actorfw.nodes():
                    if row.here:
                        home = current.home()
                        assert isinstance(home, Node)
                        found = tables(home)
                    else:
                        found = await _tables.options(scheduling=actorfw.NodeAffinity(row.id)).remote()
                    if found:
                        left[row.name] = found
                if not left:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"still known: {left}") from None
