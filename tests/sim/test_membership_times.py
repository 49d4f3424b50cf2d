"""How fast ten members learn of a death, and what forty pay for it in quiet: the simulation of the documented table."""

from __future__ import annotations

import pytest

from actorfw.core import instructions as i
from actorfw.core.ring import MESH
from actorfw.testing.memberworld import World
from actorfw.values.profiles import LAN


def share(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def seconds_until_all_know(seed: int, fault: str, limit: float) -> float:
    world = World(10, LAN, seed)
    world.run(2 + world.rng.random() * 2)
    assert all(isinstance(change.what, i.Neighbours) for change in world.changes)
    victim = next(iter(world.members))
    others = set(world.members) - {victim}
    at = world.now
    if fault == "cut off":
        world.cut([victim])
    else:
        (world.kill if fault == "killed" else world.freeze)(victim)

    def learned(what: i.Instruction) -> bool:
        if fault == "frozen":
            return isinstance(what, i.StateChanged) and what.record.life == victim and what.state == "stalled"
        return isinstance(what, i.Dead) and what.life == victim

    def all_know() -> bool:
        return {change.by for change in world.changes if learned(change.what)} >= others

    assert world.run(limit + 2, until=all_know), f"seed {seed}"
    held = {change.what.life for change in world.deaths() if isinstance(change.what, i.Dead)}
    assert held <= {victim}
    return world.now - at


@pytest.mark.parametrize(("fault", "limit"), [("killed", 2.0), ("cut off", 7.0), ("frozen", 3.0)])
def test_ten_members_learn_of_a_fault_in_time(fault: str, limit: float) -> None:
    assert share([seconds_until_all_know(seed, fault, limit) for seed in range(25)], 0.95) <= limit


def test_a_stalled_member_is_dead_after_the_limit_and_up_again_if_it_goes_on_before() -> None:
    world = World(5, LAN, 1, stall_limit=6.0)
    world.run(1.0)
    first, second, *others = world.members
    world.freeze(first)
    world.freeze(second)
    world.run(5.0)
    assert [world.members[others[0]].machine.state(life) for life in (first, second)] == ["stalled", "stalled"]
    world.thaw(second)
    world.run(10.0)
    for life in others:
        machine = world.members[life].machine
        assert machine.state(second) == "up"
        assert machine.state(first) is None
    assert {change.what.life for change in world.deaths()} == {first}


def test_quiet_costs_the_same_in_larger_clusters() -> None:
    costs: list[float] = []
    for members in (MESH + 8, 2 * MESH + 16):
        world = World(members, LAN, 1)
        world.run(3.0)
        world.measuring = True
        world.run(10.0)
        costs.append(world.sent_bytes.total() / members / 10.0)
        assert world.deaths() == []
    assert costs[1] <= 1.5 * costs[0]
    assert costs[1] < 100, "bytes per member and second"


def test_newcomers_are_known_to_all_and_know_all() -> None:
    world = World(6, LAN, 1, wire=True)
    world.run(1.0)
    seed = next(iter(world.members))
    for number in range(6, 40):
        newcomer = world.new_member(number)
        world.join(newcomer.record.life, seed)
    world.run(5.0)
    assert world.agree(world.members)
    assert {len(member.machine.view) for member in world.members.values()} == {40}
    assert all(len(member.machine.neighbours) < 12 for member in world.members.values())
