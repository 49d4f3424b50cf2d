"""All workloads, in the order in which they are run and reported."""

from __future__ import annotations

from benchmarks.harness import Workload
from benchmarks.workloads import (
    actor_calls,
    idle_actors,
    idle_node,
    imports,
    local_calls,
    process_actors,
    startup,
    tasks,
)

__all__ = ["WORKLOADS"]

WORKLOADS: dict[str, Workload] = {
    module.WORKLOAD.name: module.WORKLOAD
    for module in (actor_calls, tasks, local_calls, process_actors, imports, startup, idle_node, idle_actors)
}
