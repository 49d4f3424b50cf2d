"""Visitors: who asks one member about all, and is none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorfw
from actorfw.runtime.nodeoptions import NodeOptions
from actorfw.runtime.visitor import Visitor
from actorfw.testing import SimCluster, run
from actorfw.testing.network import SimEnv
from actorfw.testing.sim import SECRET


def visitor(sim: SimCluster, *indices: int, name: str = "guest", **options: Any) -> Visitor:
    env = SimEnv(sim.loop, sim.network, name, "visits")
    seeds = [sim.nodes[index].address for index in indices]
    return Visitor(env, NodeOptions(name=name, seeds=seeds, **{"secrets": (SECRET,), **options}))


async def settled(cluster: SimCluster) -> None:
    await asyncio.sleep(1)
    for node in cluster.alive:
        runtime = node.runtime
        assert set(runtime.peers.by_life) <= set(runtime.members.facts)
        assert runtime.verbs.visits._reading == {}
        assert runtime.readings._open == {}


def test_a_visit_shows_nowhere_and_leaves_nothing() -> None:
    async def main() -> None:
        async with SimCluster(nodes=3, seed=1) as cluster:
            happening = actorfw.events()
            for index in range(3):
                async with visitor(cluster, index, name=f"guest-{index}") as guest:
                    assert guest.asked == f"n{index}"
                    answer = await guest.ask("nodes")
                    assert [row["name"] for row in answer["rows"]] == ["n0", "n1", "n2"]
                    assert {row["state"] for row in answer["rows"]} == {"up"}
                    for what, more in (
                        ("actors", {}),
                        ("objects", {"limit": 5}),
                        ("status", {}),
                        ("top", {"limit": 5}),
                    ):
                        answer = await guest.ask(what, **more)
                        assert answer["silent"] == []
                    checked = await guest.ask("checkup")
                    assert [sorted(row["reaches"].values()) for row in checked["rows"]] == [["", ""]] * 3
                    assert all(len(node.runtime.members.facts) == 3 for node in cluster.nodes)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await anext(happening)  # nothing has happened
            await happening.aclose()
            await settled(cluster)

    run(main())


def test_errors_come_back_as_they_are() -> None:
    async def main() -> None:
        async with SimCluster(nodes=2, seed=2) as cluster, visitor(cluster, 1) as guest:
            with pytest.raises(actorfw.ActorNotFoundError, match="no actor has the name"):
                await guest.ask("kill", actor="nobody", namespace=None)
            with pytest.raises(actorfw.UsageError, match="answers no question 'weather'"):
                await guest.ask("weather")
            with pytest.raises(actorfw.UsageError, match="limit is 0"):
                await guest.ask("objects", limit=0)
            with pytest.raises(actorfw.UsageError, match="no member of the cluster"):
                await guest.ask("drain", target="nobody", timeout=1.0)

    run(main())


def test_the_next_seed_is_asked_if_one_does_not_answer() -> None:
    async def main() -> None:
        async with SimCluster(nodes=3, seed=3) as cluster:
            cluster.freeze(0)
            began = cluster.loop.time()
            async with visitor(cluster, 0, 1) as guest:
                assert guest.asked == "n1"
                assert cluster.loop.time() - began < 1
            cluster.thaw(0)

    run(main())


def test_nobody_answers() -> None:
    async def main() -> None:
        async with SimCluster(nodes=2, seed=4) as cluster:
            cluster.freeze(1)
            with pytest.raises(actorfw.PeerUnreachableError, match=r"Tried .*no answer within 5 s"):
                await visitor(cluster, 1).__aenter__()
            cluster.thaw(1)
            with pytest.raises(actorfw.AuthenticationError):
                await visitor(cluster, 0, name="stranger", secrets=(b"another secret, long enough",)).__aenter__()
            with pytest.raises(actorfw.ProtocolError, match="not 'elsewhere'"):
                await visitor(cluster, 0, name="lost", cluster="elsewhere").__aenter__()
            await settled(cluster)

    run(main())


def test_the_member_that_was_asked_goes_away() -> None:
    async def main() -> None:
        async with SimCluster(nodes=3, seed=5) as cluster, visitor(cluster, 1) as guest:
            reading = guest.events()
            assert await anext(reading) == {}
            cluster.loop.call_later(1.0, cluster.crash, 1)
            with pytest.raises(actorfw.PeerUnreachableError, match="n1, which was asked, is gone"):
                await anext(reading)
            with pytest.raises(actorfw.PeerUnreachableError):
                await guest.ask("nodes")

    run(main())


def test_a_visitor_that_vanishes_is_forgotten() -> None:
    async def main() -> None:
        async with SimCluster(nodes=2, seed=6) as cluster:
            guest = visitor(cluster, 1)
            await guest.__aenter__()
            reading = guest.events()
            assert await anext(reading) == {}
            await asyncio.sleep(1)
            assert len(cluster.nodes[1].runtime.verbs.visits._reading) == 1
            cluster.network.crash("guest")
            await settled(cluster)
            assert len(cluster.nodes[1].runtime.members.facts) == 2

    run(main())


def test_events_are_read_in_order() -> None:
    async def main() -> None:
        async with SimCluster(nodes=2, seed=7) as cluster, visitor(cluster, 1) as guest:
            seen: list[str] = []
            async for event in guest.events():
                if not event:
                    await cluster.add_node(name="newcomer")
                    await cluster.stop(2)
                    continue
                assert (event["name"], event["address"]) == ("newcomer", cluster.nodes[2].address)
                seen.append(event["kind"])
                if event["kind"] == "NodeLeft":
                    break
            assert seen.index("NodeJoined") < seen.index("NodeUp") < seen.index("NodeLeft")

    run(main())


def test_a_lone_node_drains_for_a_visitor() -> None:
    async def main() -> None:
        async with SimCluster(nodes=1, seed=8) as cluster:
            async with visitor(cluster, 0) as guest:
                began = cluster.loop.time()
                answer = await guest.ask("drain", target="n0", timeout=30.0)
                assert answer["row"]["node"] == "n0"
                assert cluster.loop.time() - began < 2
            await cluster.nodes[0].runtime.ended

    run(main())
