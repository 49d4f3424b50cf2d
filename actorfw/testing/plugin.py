"""The pytest plugin: fixtures with nodes and clusters for tests that run on a real loop.

Every pytest run on a machine with actorfw installed loads this module, so it is small and imports nothing more of
actorfw before a fixture is used. What the fixtures do is in `testing.fixtures`; `testing.leaks` looks for leaks.

    async def test_counting(actorfw_node):
        counter = Counter.remote()
        assert await counter.add(1) == 1

    @pytest.mark.actorfw(nodes=3)
    async def test_a_node_dies(actorfw_cluster):
        await actorfw_cluster.kill(0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actorfw import LocalCluster, Node

__all__ = [
    "actorfw_cluster",
    "actorfw_node",
    "actorfw_options",
    "actorfw_session_cluster",
    "actorfw_session_node",
]

LEAKS = "actorfw_leaks"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The one setting in pytest's configuration."""
    parser.addini(
        LEAKS,
        "what a test with actorfw_node or actorfw_cluster must not leave behind:"
        " all, none, or some of tasks, threads, processes, descriptors, memory",
        default="all",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The one marker."""
    config.addinivalue_line(
        "markers",
        "actorfw(leaks=None, **options): options of init() or LocalCluster() for the fixtures actorfw_node and"
        " actorfw_cluster, such as num_cpus=2 or nodes=3; leaks=False looks for no leaks, leaks='tasks threads' for"
        " these",
    )


@pytest.fixture(scope="session")
def actorfw_options() -> dict[str, Any]:
    """Options of `init` (and `nodes`, of `LocalCluster`) for all fixtures here: none. Override it in a conftest.py."""
    return {}


@pytest.fixture
def actorfw_node(request: pytest.FixtureRequest, actorfw_options: dict[str, Any]) -> Iterator[Node]:
    """A node for one test, with `num_cpus=1`; the current one in the test, and gone after it.

    In an async test it lives on the test's own loop, of whatever scope, as with `async with actorfw.init()`; in a plain
    one on a thread with a loop of its own, as with `with actorfw.init()`.
    """
    from actorfw.testing.fixtures import for_test

    yield from for_test(request, "node", actorfw_options)


@pytest.fixture
def actorfw_cluster(request: pytest.FixtureRequest, actorfw_options: dict[str, Any]) -> Iterator[LocalCluster]:
    """A `LocalCluster` for one test: child processes (`nodes=2`) beside a node in the test's process.

    That node, `actorfw_cluster.node`, is the current one, and is where that of `actorfw_node` would be. A test has one
    of the two.
    """
    from actorfw.testing.fixtures import for_test

    yield from for_test(request, "cluster", actorfw_options)


@pytest.fixture(scope="session")
def actorfw_session_node(request: pytest.FixtureRequest, actorfw_options: dict[str, Any]) -> Iterator[Node]:
    """A node for all tests of the run that ask for it, with `num_cpus=1`.

    It lives on a thread with a loop of its own: plain tests and async ones on loops of any scope can use it. It is the
    current one in tests that ask for it and have no `actorfw_node` beside it.
    """
    from actorfw.testing.fixtures import for_session

    yield from for_session(request, "node", actorfw_options)


@pytest.fixture(scope="session")
def actorfw_session_cluster(request: pytest.FixtureRequest, actorfw_options: dict[str, Any]) -> Iterator[LocalCluster]:
    """A `LocalCluster` (`nodes=2`) for all tests of the run that ask for it; its node lives as `actorfw_session_node`.

    With pytest-xdist each of its processes has one of its own.
    """
    from actorfw.testing.fixtures import for_session

    yield from for_session(request, "cluster", actorfw_options)
