"""All workloads, in the order in which they are run and reported."""

from __future__ import annotations

from benchmarks.harness import Workload
from benchmarks.workloads import (
    actor_calls,
    first_put,
    idle_actors,
    idle_node,
    imports,
    local_calls,
    object_transfer,
    objects,
    process_actors,
    savina,
    secured_links,
    small_objects,
    startup,
    strangers,
    tasks,
    web,
)

__all__ = ["WORKLOADS"]

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        *(actor_calls.WORKLOAD, tasks.WORKLOAD, local_calls.WORKLOAD, process_actors.WORKLOAD),
        *savina.WORKLOADS,
        *(objects.WORKLOAD, first_put.WORKLOAD, object_transfer.WORKLOAD, small_objects.WORKLOAD),
        *(imports.WORKLOAD, startup.WORKLOAD, idle_node.WORKLOAD, idle_actors.WORKLOAD),
        *(strangers.WORKLOAD, secured_links.WORKLOAD, web.WORKLOAD),
    )
}
