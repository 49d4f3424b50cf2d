"""Handshakes of lives of which one has buried the other, on the real sessions: who is told to be reborn."""

from __future__ import annotations

import pytest

from actorfw.core.rebirth import View
from actorfw.testing import run
from actorfw.values.errors import PeerUnreachableError
from tests.sim.peers_world import Node, World


def ready(world: World, a: View, b: View) -> dict[str, list[str]]:
    """Set both sides' views; who is told to be reborn is noted, and done at once, as far as sessions go."""
    told: dict[str, list[str]] = {"a": [], "b": []}

    def prepare(node: Node, view: View) -> None:
        def reborn(life: bytes, address: str, why: str) -> None:
            told[node.name].append(why)
            assert address
            fresh = node.peers.me.life[:8] + world.loop.time().hex().encode()[-8:].rjust(8, b"-")
            world.loop.call_soon(node.peers.reborn, fresh, why)

        node.peers.tombstones.told = reborn
        node.peers.tombstones.view = lambda: view

    prepare(world.a, a)
    prepare(world.b, b)
    return told


def bury(one: Node, other: Node) -> None:
    one.peers.bury(other.peers.me.life, "for the test")


@pytest.mark.parametrize("dialler", ["a", "b"])
@pytest.mark.parametrize(
    ("a_buries", "b_buries", "a_view", "b_view", "reborn"),
    [
        (True, False, View(1, 5.0), View(9, 1.0), "b"),
        (False, True, View(9, 1.0), View(1, 5.0), "a"),
        (True, True, View(3, 5.0), View(2, 1.0), "b"),
        (True, True, View(2, 5.0), View(2, 6.0), "b"),
        (True, True, View(2, 6.0), View(2, 5.0), "a"),
    ],
)
def test_one_of_two_is_told_and_they_meet_anew(
    dialler: str, a_buries: bool, b_buries: bool, a_view: View, b_view: View, reborn: str
) -> None:
    async def main() -> None:
        world = await World().linked()
        told = ready(world, a_view, b_view)
        lives = {node.name: node.peers.me.life for node in (world.a, world.b)}
        world.network.partition(["a"], ["b"])
        if a_buries:
            bury(world.a, world.b)
        if b_buries:
            bury(world.b, world.a)
        world.network.heal()
        one, other = (world.a, world.b) if dialler == "a" else (world.b, world.a)
        if not one.peers.by_life:
            with pytest.raises(PeerUnreachableError):
                await one.peers.dial(other.address)
        await world.until(lambda: any(told.values()))
        await world.until(lambda: world.a.peers.me.life != lives["a"] or world.b.peers.me.life != lives["b"])
        assert [name for name, why in told.items() if why] == [reborn]
        assert len(told[reborn]) == 1
        assert "for the test" in told[reborn][0] or "declared it dead" in told[reborn][0]
        await one.peers.dial(other.address)
        assert [peer.life for peer in one.peers.by_life.values()] == [other.peers.me.life]

    run(main)


@pytest.mark.parametrize("seed", range(20))
def test_dials_that_cross_have_one_of_both_reborn(seed: int) -> None:
    async def main() -> None:
        world = await World(seed).linked()
        told = ready(world, View(2, 5.0), View(2, 6.0))
        world.network.partition(["a"], ["b"])
        bury(world.a, world.b)
        bury(world.b, world.a)
        world.network.heal()

        async def dial(one: Node, other: Node) -> None:
            while one.peers.tombstones and not any(told.values()):
                try:
                    await one.peers.dial(other.address)
                except PeerUnreachableError:
                    continue

        both = [world.loop.create_task(dial(world.a, world.b)), world.loop.create_task(dial(world.b, world.a))]
        for task in both:
            await task
        await world.until(lambda: any(told.values()))
        assert told["a"] == []
        assert len(told["b"]) == 1

    run(main)


def test_who_has_a_successor_is_not_argued_with() -> None:
    """A life whose node has shown another one is over for certain, whatever the views say."""

    async def main() -> None:
        world = await World().linked()
        told = ready(world, View(1, 5.0), View(2, 6.0))
        old = world.b.peers.me.life
        assert world.a.peers.tombstones.proven(old[:8] + b"the next", 1)
        assert not world.a.peers.tombstones.proven(old, 0)
        bury(world.a, world.b)
        await world.until(lambda: bool(told["b"]))
        assert told["a"] == []

    run(main)
