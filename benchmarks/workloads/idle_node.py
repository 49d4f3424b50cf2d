"""The memory of a node with two idle workers: all its processes together, what they share counted once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from benchmarks import companion, resident
from benchmarks.harness import BenchmarkError, Claim, Contestant, Workload
from benchmarks.machine import Cores

__all__ = ["WORKLOAD"]

_SHARED_ONCE = "node, zygote and 2 workers: USS plus shared pages once"
_PROPORTIONAL = "node, zygote and 2 workers: sum of PSS"

_MIB = 1 << 20


def _memory(name: str, size: Callable[[Sequence[int]], int]) -> Contestant:
    async def once() -> float:
        async with companion.started("idle_node") as node:
            group = resident.with_descendants(node.pid)
            if len(set(node.said)) != 2 or not set(node.said) <= set(group):
                raise BenchmarkError(f"two worker processes below {node.pid} were wanted; tasks ran in {node.said}")
            return size(group) / _MIB

    return Contestant(name, "MiB", once)


@asynccontextmanager
async def _idle_node(_cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    yield [
        _memory(_SHARED_ONCE, resident.shared_once),
        _memory(_PROPORTIONAL, resident.proportional),
    ]


WORKLOAD = Workload(
    name="idle-node",
    limits=(),
    subject=(_idle_node,),
    claims=(
        Claim("node with 2 idle workers, shared pages once", _SHARED_ONCE, at_most=100.0),
        Claim("the same by proportional set size", _PROPORTIONAL),
    ),
)
