"""What a simulated cluster offers to tests of users: further faults, nodes that come back, and many seeds."""

from __future__ import annotations

import asyncio

import pytest

import actorfw
from actorfw.testing import SimCluster, run, simulated
from actorfw.testing.seeds import SEED, SEEDS


@actorfw.remote
class Counter:
    def __init__(self) -> None:
        self.count = 0

    async def add(self) -> int:
        self.count += 1
        return self.count


def on(cluster: SimCluster, index: int) -> Counter:
    return Counter.options(scheduling=actorfw.NodeAffinity(cluster.nodes[index].id)).remote()  # type: ignore[no-any-return]


def test_a_restarted_node_has_the_old_address_and_another_life() -> None:
    async def main() -> None:
        async with SimCluster(3, 1) as cluster:
            before = cluster.nodes[2]
            cluster.crash(2)
            after = await cluster.restart(2)
            assert (after.index, after.name, after.address) == (3, before.name, before.address)
            assert after.id != before.id
            await cluster.settle(5)
            names = {row.name: row.id for row in await actorfw.nodes()}
            assert names == {node.name: node.id for node in cluster.alive}
            assert await on(cluster, 3).add() == 1
            cluster.freeze(3)
            cluster.thaw(3)
            cluster.crash(3)
            assert (await cluster.restart(3)).address == before.address

    run(main)


def test_one_that_is_up_can_not_be_restarted() -> None:
    async def main() -> None:
        async with SimCluster(2, 1) as cluster:
            with pytest.raises(actorfw.UsageError, match="node 1 is up"):
                await cluster.restart(1)

    run(main)


def test_a_delay_is_one_way() -> None:
    async def main() -> None:
        async with SimCluster(2, 1) as cluster:
            loop = asyncio.get_running_loop()
            counter = on(cluster, 1)
            await counter.add()
            cluster.delay(0, 1, 0.1, 0.1)
            started = loop.time()
            await counter.add()
            assert 0.1 <= loop.time() - started < 0.12

    run(main)


def test_a_reset_loses_nothing() -> None:
    async def main() -> None:
        async with SimCluster(2, 1) as cluster:
            counter = on(cluster, 1)
            await counter.add()
            calls = [counter.add() for _ in range(20)]
            for _ in range(5):
                cluster.reset(0, 1)
                await asyncio.sleep(0.01)
            assert await asyncio.gather(*calls) == list(range(2, 22))

    run(main)


def test_a_one_way_partition_lets_the_other_direction_through() -> None:
    async def main() -> None:
        async with SimCluster(3, 1) as cluster:
            counter = on(cluster, 1)
            await counter.add()
            cluster.stall_between([0], [1, 2])
            call = asyncio.ensure_future(counter.add())
            await asyncio.sleep(0.5)
            assert not call.done()
            cluster.heal()
            assert await call == 2

    run(main)


def test_each_seed_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SEEDS, raising=False)
    monkeypatch.delenv(SEED, raising=False)
    seen: list[tuple[int, str]] = []

    @simulated(seeds=5)
    async def check(seed: int, given: str) -> None:
        await asyncio.sleep(3600)
        seen.append((seed, given))

    check(given="by pytest")
    assert seen == [(seed, "by pytest") for seed in range(5)]
    monkeypatch.setenv(SEEDS, "2")
    check("again")
    assert seen[5:] == [(0, "again"), (1, "again")]
    monkeypatch.setenv(SEED, "17")
    check("one")
    assert seen[7:] == [(17, "one")]


def test_a_seed_that_fails_says_how_to_run_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SEEDS, raising=False)
    monkeypatch.delenv(SEED, raising=False)

    @simulated(seeds=5)
    async def check(seed: int) -> None:
        assert seed < 3

    with pytest.raises(AssertionError) as caught:
        check()
    (note,) = caught.value.__notes__
    assert "seed 3 failed" in note
    assert f"{SEED}=3 " in note
    assert "tests/sim/test_sim_tools.py::" in note


@simulated(seeds=3)
async def test_pytest_finds_it_and_its_fixtures(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(monkeypatch, pytest.MonkeyPatch)
    async with SimCluster(2, seed) as cluster:
        assert await on(cluster, 1).add() == 1


@pytest.mark.parametrize("seeds", [0, -1, True, "5"])
def test_a_number_of_seeds_that_is_none_is_refused(seeds: int) -> None:
    with pytest.raises(actorfw.UsageError):
        simulated(seeds)


def test_what_takes_no_seed_is_refused() -> None:
    async def without() -> None:
        pass

    def plain(seed: int) -> None:
        pass

    with pytest.raises(actorfw.UsageError):
        simulated()(without)
    with pytest.raises(actorfw.UsageError):
        simulated()(plain)  # type: ignore[arg-type]
