"""What nodes keep of work that is over: nothing, if all is well."""

from __future__ import annotations

from actorfw.testing import SimCluster

__all__ = ["leftovers"]


def leftovers(cluster: SimCluster) -> list[str]:
    """What is kept on any node, in words; to be asked when all handles are gone and the cluster has settled."""
    said = []
    for node in cluster.alive:
        runtime = node.runtime
        calls, tasks, windows = runtime.calls, runtime.tasks, runtime.windows
        routes = [*calls.routes.values(), *calls.aliases]
        left = {
            "calls": calls.open,
            "tasks": tasks.open,
            "children of tasks": tasks._children,
            "returns of tasks": tasks._parts,
            "queues of tasks": tasks._queues,
            "sent tasks": {life: sent for life, sent in tasks.sent.by_life.items() if sent},
            "calls of others": runtime.hosting._calls,
            "tasks of others": runtime.execution._foreign,
            "executions": runtime.execution.by_serial,
            "calls that count in a window": [(route.id, route.out) for route in routes if route.out],
            "queued calls": [route.id for route in routes if route.queue or route.returned],
            "bytes of queued calls": calls.queued_bytes,
            "bytes of queued tasks": tasks.outbox.waiting_bytes,
            "withdrawn calls": windows._withdrawn,
            "waiters for acceptance": windows._accepting,
            "copies": runtime.copies.by_id,
            "locations": runtime.locations._by_id,
            "pulls": runtime.pulls._open,
            "what waits for pulls": runtime.pulls._after,
            "fetches": runtime.fetches.asked,
            "actors": [cell.title for cell in runtime.hosting.cells.values()],
        }
        said += [f"{node.name} keeps {what}: {kept}" for what, kept in left.items() if kept]
        if runtime.ledger._free != dict(runtime.ledger._totals.amounts):
            said.append(f"{node.name} has not got everything back: {runtime.ledger._free}")
    return said
