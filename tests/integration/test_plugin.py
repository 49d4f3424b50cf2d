"""The pytest plugin, as a user's test run meets it: a pytest of its own, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.real

pytest_plugins = ["pytester"]

TESTS = """
import asyncio
import actorfw

@actorfw.remote
class Counter:
    def __init__(self):
        self.n = 0
    async def add(self, k):
        self.n += k
        return self.n

@actorfw.remote
def square(x):
    return x * x

async def test_node(actorfw_node):
    counter = Counter.remote()
    assert await asyncio.gather(counter.add(1), counter.add(2)) == [1, 3]
    assert await square.remote(7) == 49
    assert [row.name for row in await actorfw.nodes()] == [actorfw_node.name]

async def test_another_node(actorfw_node):
    assert (await actorfw.cluster_resources())["CPU"] == 1

async def test_cluster(actorfw_cluster):
    cluster = await actorfw_cluster(nodes=1)
    rows = await actorfw.nodes()
    assert len(rows) == 2
    there = next(row.id for row in rows if not row.here)
    counter = Counter.options(scheduling=actorfw.NodeAffinity(there)).remote()
    assert await counter.add(2) == 2
"""


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_fixtures_under_pytest_asyncio(pytester: pytest.Pytester, mode: str) -> None:
    mark = "import pytest\npytestmark = pytest.mark.asyncio\n" if mode == "strict" else ""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(mark + TESTS)
    options = ["-p", "actorfw.testing.plugin"] if not _installed() else []
    result = pytester.runpytest_subprocess("-q", "-W", "error", "--asyncio-mode", mode, *options)
    result.assert_outcomes(passed=3)


def test_loading_the_plugin_loads_no_simulation() -> None:
    code = (
        "import sys, actorfw; before = set(sys.modules); import pytest, pytest_asyncio; between = set(sys.modules)\n"
        "import actorfw.testing.plugin\n"
        "new = set(sys.modules) - between\n"
        "assert new == {'actorfw.testing', 'actorfw.testing.plugin'}, new\n"
        "assert 'aiohttp' not in sys.modules and 'rich' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def _installed() -> bool:
    from importlib.metadata import entry_points

    return any(point.value == "actorfw.testing.plugin" for point in entry_points(group="pytest11"))
