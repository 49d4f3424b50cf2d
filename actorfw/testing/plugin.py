"""The pytest plugin: fixtures with nodes and clusters for tests that run on a real loop.

Every pytest run on a machine with actorfw installed loads this module, so it imports nothing more of actorfw before a
fixture is used.
The fixtures are asynchronous generators: pytest-asyncio (or anyio's plugin) runs them on the test's own loop.

    async def test_counting(actorfw_node):
        counter = Counter.remote()
        assert await counter.add(1) == 1

    async def test_on_three_nodes(actorfw_cluster):
        cluster = await actorfw_cluster(nodes=2)
        assert len(await actorfw.nodes()) == 3
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

try:
    # Under its strict mode only pytest-asyncio's own decorator makes a fixture asynchronous; it need not be installed.
    from pytest_asyncio import fixture as _fixture
except ImportError:
    _fixture = pytest.fixture  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from actorfw import LocalCluster, Node

    ClusterFactory = Callable[..., Awaitable[LocalCluster]]

__all__ = ["actorfw_cluster", "actorfw_node"]

SECRET = "for tests on this machine only"


@_fixture
async def actorfw_node() -> AsyncIterator[Node]:
    """A node of its own on the test's loop, with `num_cpus=1`; the current one in the test, and gone after it."""
    import actorfw

    context = actorfw.init(num_cpus=1, secret=SECRET, log_to_driver=False)
    node = await context
    try:
        yield node
    finally:
        await actorfw.shutdown()


@_fixture
async def actorfw_cluster() -> AsyncIterator[ClusterFactory]:
    """A function that starts a cluster: `cluster = await actorfw_cluster(nodes=2)`.

    It takes the arguments of `actorfw.LocalCluster` and returns one that runs: child processes beside a node on the
    test's loop, which is the current one. It ends with the test. One test has one cluster.
    """
    import actorfw

    started: list[LocalCluster] = []

    async def start(nodes: int = 2, num_cpus: float = 1, **options: Any) -> LocalCluster:
        options.setdefault("secret", SECRET)
        cluster = actorfw.LocalCluster(nodes, num_cpus, **options)
        await cluster.__aenter__()
        started.append(cluster)
        return cluster

    try:
        yield start
    finally:
        while started:
            await started.pop().__aexit__(None, None, None)
