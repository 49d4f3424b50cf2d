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
    small_objects,
    startup,
    tasks,
)

__all__ = ["WORKLOADS"]

WORKLOADS: dict[str, Workload] = {
    module.WORKLOAD.name: module.WORKLOAD
    for module in (
        *(actor_calls, tasks, local_calls, process_actors),
        *(objects, first_put, object_transfer, small_objects),
        *(imports, startup, idle_node, idle_actors),
    )
}
