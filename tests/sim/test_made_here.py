"""Errors of lost objects name the line of code that made the object, wherever the ref is."""

from __future__ import annotations

from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run


def here(after: int = 0) -> str:
    """The line after this one, or so many further down."""
    import sys

    frame = sys._getframe(1)
    return f"test_made_here.py:{frame.f_lineno + 1 + after} in "


LINES: dict[str, str] = {}


@actorfw.remote
async def value() -> int:
    return 1


@actorfw.remote
async def two() -> tuple[int, int]:
    return 1, 2


class Maker(actorfw.Actor):
    def __init__(self) -> None:
        self.held: list[Any] = []

    async def put(self) -> list[Any]:
        LINES["put"] = here()
        self.held = [actorfw.put([1])]
        return self.held

    async def put_async(self) -> list[Any]:
        LINES["put_async"] = here()
        self.held = [await actorfw.put_async([1])]
        return self.held

    async def task(self) -> list[Any]:
        LINES["task"] = here()
        self.held = [value.remote()]
        return self.held

    async def part(self) -> list[Any]:
        LINES["part"] = here()
        _, second = two.options(num_returns=2).remote()
        return [second]

    async def method(self) -> list[Any]:
        other = Maker.remote()
        LINES["method"] = here()
        self.held = [other.nothing.remote()]  # type: ignore[attr-defined]
        return self.held

    async def nothing(self) -> None:
        pass


@actorfw.remote(executor="process", num_cpus=1)
async def in_worker(kind: str) -> list[Any]:
    made: list[Any]
    if kind == "put":
        LINES["worker put"] = here()
        made = [actorfw.put([1])]
    elif kind == "task":
        LINES["worker task"] = here()
        made = [value.remote()]
    else:
        other = Maker.remote()
        LINES["worker method"] = here()
        made = [other.nothing.remote()]  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("how", ["put", "put_async", "task", "part", "method"])
def test_a_borrower_knows_the_line(how: str) -> None:
    async def main() -> None:
        async with SimCluster(3, seed=5) as cluster:
            there = actorfw.NodeAffinity(cluster.nodes[1].id)
            maker = Maker.options(scheduling=there).remote()
            (ref,) = await getattr(maker, how).remote()
            await cluster.settle()
            owner = cluster.nodes[1].runtime
            assert LINES[how] in owner.objects.line_of((owner.life, ref._number))
            cluster.crash(1)
            await cluster.settle(30.0)
            with pytest.raises(actorfw.OwnerDiedError) as died:
                await ref
            assert LINES[how] in str(died.value)

    run(main())


@pytest.mark.parametrize("how", ["put", "task", "method"])
def test_what_a_worker_made_too(how: str) -> None:
    async def main() -> None:
        async with SimCluster(3, seed=5) as cluster:
            there = actorfw.NodeAffinity(cluster.nodes[1].id)
            (ref,) = await in_worker.options(scheduling=there).remote(how)
            await cluster.settle()
            owner = cluster.nodes[1].runtime
            line = LINES[f"worker {how}"]
            assert line in owner.objects.line_of((owner.life, ref._number))
            cluster.crash(1)
            await cluster.settle(30.0)
            with pytest.raises(actorfw.OwnerDiedError) as died:
                await ref
            assert line in str(died.value)

    run(main())


def test_a_ref_that_was_passed_on_and_one_that_comes_after_the_death() -> None:
    async def main() -> None:
        async with SimCluster(3, seed=5) as cluster:
            first = Maker.options(scheduling=actorfw.NodeAffinity(cluster.nodes[1].id)).remote()
            (ref,) = await first.put()
            for_later = Keeper.options(scheduling=actorfw.NodeAffinity(cluster.nodes[2].id)).remote()
            await for_later.keep([ref])
            del ref
            cluster.crash(1)
            await cluster.settle(30.0)
            (again,) = await for_later.give()
            with pytest.raises(actorfw.OwnerDiedError) as died:
                await again
            assert LINES["put"] in str(died.value)

    run(main())


class Keeper(actorfw.Actor):
    async def keep(self, refs: list[Any]) -> None:
        self.refs = refs

    async def give(self) -> list[Any]:
        return self.refs
