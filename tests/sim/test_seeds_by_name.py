"""Seeds that stand for other addresses as time goes by: names, services, and the nodes of one host."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run

PORT = 7700
NAME = f"db.example:{PORT}"
SERVICE = "_actorfw._tcp.example"


async def together(cluster: SimCluster, indices: list[int], within: float = 60.0) -> None:
    """Wait until these nodes, and no others, are members of one cluster."""
    lives = {cluster.nodes[index].runtime.life for index in indices}
    async with asyncio.timeout(within):
        while any({*cluster.nodes[index].runtime.members.facts} != lives for index in indices):
            await asyncio.sleep(0.1)
            lives = {cluster.nodes[index].runtime.life for index in indices}


@pytest.mark.parametrize("seed", range(10))
def test_of_many_of_one_host_one_founds_and_the_others_find_it(seed: int) -> None:
    async def main() -> None:
        async with SimCluster(1, seed, seeds=["local:x"]) as cluster:
            starting = [asyncio.ensure_future(cluster.add_node()) for _ in range(7)]
            if seed % 2:
                await asyncio.sleep(0.002 * seed)
                cluster.crash(0)
            await asyncio.gather(*starting)
            await together(
                cluster, [node.index for node in cluster.alive], within=4
            )  # two clusters would meet, but later

    run(main())


def test_one_of_the_host_that_is_frozen_is_waited_for_and_not_replaced() -> None:
    async def main() -> None:
        config = actorfw.Config(join_timeout=15)
        async with SimCluster(1, 1, seeds=["local:x"], config=config) as cluster:
            cluster.freeze(0)
            with pytest.raises(actorfw.PeerUnreachableError, match="Tried"):
                await cluster.add_node()
            starting = asyncio.ensure_future(cluster.add_node())
            await asyncio.sleep(3)
            cluster.thaw(0)
            await starting
            await together(cluster, [0, 2])

    run(main())


@pytest.mark.parametrize("by", [NAME, SERVICE])
def test_a_name_that_stands_for_nothing_yet_is_asked_again(by: str) -> None:
    async def main() -> None:
        async with SimCluster(1, 1, seeds=[]) as cluster:
            cluster.network.hosts["db.example"] = []
            starting = asyncio.ensure_future(cluster.add_node(seeds=[by], listen=("10.0.0.2", PORT)))
            await asyncio.sleep(5)
            assert not starting.done()
            point(cluster, "10.0.0.2")
            await starting
            await cluster.add_node(seeds=[by], listen=("10.0.0.3", PORT))
            await together(cluster, [1, 2])

    run(main())


def point(cluster: SimCluster, *addresses: str) -> None:
    """Let the name and the service stand for these addresses."""
    cluster.network.hosts["db.example"] = list(addresses)
    cluster.network.services[SERVICE] = [(0, address, PORT) for address in addresses]


@pytest.mark.parametrize("by", [NAME, SERVICE])
def test_the_first_address_in_sorted_order_founds(by: str) -> None:
    async def main() -> None:
        async with SimCluster(1, 1, seeds=[]) as cluster:
            point(cluster, "10.0.0.4", "10.0.0.2", "10.0.0.3")
            options: list[dict[str, Any]] = [{"seeds": [by], "listen": (f"10.0.0.{last}", PORT)} for last in (4, 3, 2)]
            starting = [asyncio.ensure_future(cluster.add_node(**given)) for given in options]
            _, pending = await asyncio.wait(starting, timeout=5)
            assert not pending
            await together(cluster, [1, 2, 3], within=1)

    run(main())


def test_a_first_seed_that_stands_for_nothing_makes_no_founder_of_the_second() -> None:
    async def main() -> None:
        config = actorfw.Config(join_timeout=3)
        async with SimCluster(1, 1, seeds=[], config=config) as cluster:
            cluster.network.hosts["db.example"] = []
            with pytest.raises(actorfw.PeerUnreachableError, match=r"the name .db\.example. can.t be resolved"):
                await cluster.add_node(seeds=[NAME, f"10.0.0.2:{PORT}"], listen=("10.0.0.2", PORT))

    run(main())


def test_addresses_behind_which_nobody_answers_do_not_hold_up() -> None:
    async def main() -> None:
        async with SimCluster(1, 1, seeds=[]) as cluster:
            await cluster.add_node(seeds=[], listen=("10.0.0.9", PORT))
            gone = ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
            for index, host in enumerate(gone):
                await cluster.add_node(seeds=[], listen=(host, PORT), name=f"gone{index}")
                cluster.freeze(len(cluster.nodes) - 1)
            point(cluster, *gone, "10.0.0.9")
            began = cluster.loop.time()
            late = await cluster.add_node(seeds=[NAME], listen=("10.0.0.10", PORT))
            assert cluster.loop.time() - began < 4
            assert len(late.runtime.members.facts) == 2

    run(main())


@pytest.mark.parametrize("by", [NAME, SERVICE])
def test_after_a_split_the_others_are_found_though_all_their_addresses_are_new(by: str) -> None:
    async def main() -> None:
        async with SimCluster(1, 1, seeds=[]) as cluster:
            point(cluster, "10.0.0.1", "10.0.0.2")
            for last in (1, 2):
                await cluster.add_node(seeds=[by], listen=(f"10.0.0.{last}", PORT))
            await together(cluster, [1, 2])
            cluster.partition([2])
            await asyncio.sleep(30)
            await cluster.add_node(seeds=["10.0.0.1:7700"], listen=("10.0.0.7", PORT))
            cluster.crash(1)
            cluster.heal()
            await asyncio.sleep(30)
            assert len(cluster.nodes[2].runtime.members.facts) == 1
            point(cluster, "10.0.0.7", "10.0.0.2")
            await together(cluster, [2, 3])

    run(main())


def test_the_first_of_a_list_that_is_started_again_joins_what_it_had_founded() -> None:
    async def main() -> None:
        async with SimCluster(1, 1, seeds=[]) as cluster:
            seeds = [f"10.0.0.1:{PORT}", f"10.0.0.2:{PORT}"]
            for last in (1, 2):
                await cluster.add_node(seeds=seeds, listen=(f"10.0.0.{last}", PORT))
            cluster.crash(1)
            again = await cluster.restart(1)
            assert len(again.runtime.members.facts) == 2
            await together(cluster, [2, 3], within=1)

    run(main())


def test_the_first_of_a_list_founds_soon_if_the_others_do_not_answer() -> None:
    async def main() -> None:
        async with SimCluster(1, 1, seeds=[]) as cluster:
            await cluster.add_node(seeds=[], listen=("10.0.0.2", PORT), name="second")
            cluster.freeze(1)
            began = cluster.loop.time()
            await cluster.add_node(seeds=[f"10.0.0.1:{PORT}", f"10.0.0.2:{PORT}"], listen=("10.0.0.1", PORT))
            assert cluster.loop.time() - began < 1.5
            cluster.thaw(1)
            await together(cluster, [1, 2])

    run(main())


def test_a_name_whose_owner_does_not_answer_is_waited_for() -> None:
    async def main() -> None:
        async with SimCluster(3, 1) as cluster:
            cluster.crash(2, silent=True)
            began = cluster.loop.time()
            await cluster._start("n2", None, {}, "elsewhere")  # the machine is gone: nobody there even refuses
            assert 1 < cluster.loop.time() - began < 20
            await together(cluster, [0, 1, 3], within=20)

    run(main())


def test_a_name_whose_owner_answers_is_refused_at_once() -> None:
    async def main() -> None:
        async with SimCluster(2, 1) as cluster:
            with pytest.raises(actorfw.UsageError, match="a member named 'n1' already"):
                await cluster._start("n1", None, {}, "elsewhere")

    run(main())
