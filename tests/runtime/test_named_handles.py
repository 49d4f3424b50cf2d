"""Handles of named actors: equal when they mean the same actor, and always found again in sets and dictionaries."""

from __future__ import annotations

from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run


class Store(actorfw.Actor):
    def __init__(self, first: int = 0) -> None:
        self.n = first
        self.kept: Any = None

    async def add(self, k: int = 1) -> int:
        self.n += k
        return self.n

    async def keep(self, handle: Any) -> Any:
        before, self.kept = self.kept, handle
        return before


async def shared(detached: bool) -> None:
    async with SimCluster(nodes=3, seed=4) as cluster:

        async def begin() -> Any:
            older = Store.options(name="one", detached=detached).remote(10)
            await older.add(0)
            return older

        older = await cluster.run_on(1, begin)  # on this node nobody has heard of it
        made = [Store.options(name="one", get_if_exists=True, detached=detached).remote(i) for i in range(3)]
        seen = {made[0]: "first", made[1]: "second"}
        hashes = list(map(hash, made))
        assert await made[2].add(0) == 10
        assert await made[0].add(0) == await made[1].add(0) == 10
        found = await actorfw.get_actor("one", Store)
        assert seen[made[0]] == "first"
        assert made[1] in seen
        assert list(map(hash, made)) == hashes
        assert made[0] == made[1] == made[2] == found
        assert {*made, found} == {found}
        assert found in seen
        await found.keep(made[0])
        assert await found.keep(None) in seen
        assert older == made[0]


@pytest.mark.parametrize("detached", [False, True])
def test_what_is_in_a_set_is_found_when_its_name_turns_out_to_be_taken(detached: bool) -> None:
    run(shared(detached))


def test_a_handle_that_came_as_a_value_and_one_made_by_the_name_hash_alike() -> None:
    async def main() -> None:
        async with SimCluster(nodes=2, seed=5) as cluster:

            async def begin() -> None:
                older = Store.options(name="one").remote(10)
                await older.add(0)
                await (await actorfw.get_actor("keeper", Store)).keep(older)

            keeper = Store.options(name="keeper").remote()
            await keeper.add(0)
            await cluster.run_on(1, begin)
            received = await keeper.keep(None)
            known = {received: 1}
            again = Store.options(name="one", get_if_exists=True).remote()
            assert await again.add(0) == 10
            assert again == received
            assert known[again] == 1

    run(main())


def test_handles_of_different_actors_of_one_name_differ() -> None:
    async def main() -> None:
        async with SimCluster(nodes=1, seed=6):
            first = Store.options(name="one").remote(1)
            known = {first}
            await actorfw.stop(first)
            second = Store.options(name="one").remote(2)
            assert await second.add(0) == 2
            assert first != second
            assert second not in known
            assert first in known

    run(main())


def test_hashes_of_detached_actors_without_names_are_spread() -> None:
    async def main() -> None:
        async with SimCluster(nodes=1, seed=7):
            made = [Store.options(detached=True).remote() for _ in range(600)]
            assert len(set(map(hash, made))) > 500
            for handle in made:
                actorfw.kill(handle)

    run(main())
