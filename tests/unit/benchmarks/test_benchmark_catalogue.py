"""The catalogue holds together: claims are about contestants, rivals' programs measure what they are asked for."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

import pytest

import benchmarks.rivals
from benchmarks.catalogue import WORKLOADS
from benchmarks.harness import BenchmarkError
from benchmarks.rivals.against import COMPETITORS
from benchmarks.savina import skynet
from benchmarks.savina.checks import check
from benchmarks.savina.plain import PlainActor, PlainLatch, ask, stop, tell
from benchmarks.sizes import VARIABLE, Sizes
from benchmarks.workloads.savina import WORKLOADS as SAVINA

SIDES = Path(benchmarks.rivals.__file__).parent


def measured_by(competitor: str) -> set[str]:
    """Names of the async functions in its program."""
    tree = ast.parse((SIDES / f"{competitor}_side.py").read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)}


def test_each_workload_is_listed_under_its_name_and_none_hides_another() -> None:
    assert all(name == workload.name for name, workload in WORKLOADS.items())
    assert {workload.name for workload in SAVINA} <= set(WORKLOADS)
    assert len(SAVINA) == 11


def test_every_competitor_takes_part_somewhere_and_has_a_program() -> None:
    assert {name for workload in WORKLOADS.values() for name in workload.rivals} == set(COMPETITORS)
    for name in COMPETITORS:
        assert measured_by(name)


def test_rivals_are_asked_for_what_their_programs_measure() -> None:
    for workload in WORKLOADS.values():
        for name, rival in workload.rivals.items():
            assert set(rival.asked) <= measured_by(name), (workload.name, name)
            assert len(rival.asked) == len(rival.claims) > 0
            assert {claim.of for claim in rival.claims} <= {claim.of for claim in workload.claims}


def test_what_is_installed_is_pinned() -> None:
    assert all("==" in requirement for each in COMPETITORS.values() for requirement in each.requirements)


def test_the_size_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = Sizes(3, 2, 1)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert sizes.now() == 3
    for scale, size in (("full", 3), ("quick", 2), ("smallest", 1)):
        monkeypatch.setenv(VARIABLE, scale)
        assert sizes.now() == size


def test_the_tree_of_a_million_leaves_has_1_111_111_nodes() -> None:
    assert skynet.nodes(1_000_000) == 1_111_111
    assert skynet.nodes(100_000) == 111_111


def test_a_wrong_result_is_an_error_that_says_both() -> None:
    check("sum", 3, 3)
    with pytest.raises(BenchmarkError, match="sum: the program came to 3, and 4 is right"):
        check("sum", 3, 4)


class Adder(PlainActor):
    def __init__(self) -> None:
        super().__init__()
        self.sum = 0

    async def add(self, number: int) -> int:
        self.sum += number
        return self.sum

    async def fail(self) -> None:
        raise ValueError("on purpose")


async def test_a_plain_actor_serves_in_order_and_says_when_a_message_failed() -> None:
    adder = Adder()
    tell(adder.add, 1)
    assert await ask(adder.add, 2) == 3
    tell(adder.fail)
    await asyncio.wait([adder.serving])
    with pytest.raises(ValueError, match="on purpose"):
        await stop(adder)


async def test_a_plain_latch_opens_with_the_last_part() -> None:
    latch: PlainLatch[int] = PlainLatch(2)
    latch.add(1)
    waiting = asyncio.create_task(latch.parts())
    await asyncio.sleep(0)
    assert not waiting.done()
    latch.add(2)
    assert await waiting == [1, 2]
