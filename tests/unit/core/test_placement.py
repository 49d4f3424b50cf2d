"""The choice of a member: who may, who is best, and what is said when nobody can."""

from __future__ import annotations

import copy
import heapq
import pickle
from collections import deque
from collections.abc import Collection
from dataclasses import replace
from random import Random

import pytest

from actorfw.core.ledger import Shape
from actorfw.core.placement import LARGE, WAIT, Choice, Infeasible, Member, choose, window
from actorfw.values.errors import UsageError
from actorfw.values.ids import Life, node_id_of
from actorfw.values.scheduling import Labels, NodeAffinity, Scheduling, check_scheduling

ME, A, B, C = (bytes([65 + n]) * 16 for n in range(4))
ONE = Shape.of(num_cpus=1)


def member(life: Life, *, cpus: float = 4, gpus: int = 0, **facts: object) -> Member:
    made = Member(life, node_id_of(life), Shape.of(num_cpus=cpus, num_gpus=gpus))
    return replace(made, **facts)  # type: ignore[arg-type]


def pick(
    members: list[Member],
    shape: Shape = ONE,
    scheduling: Scheduling = "default",
    *,
    room: bool = False,
    bytes_at: dict[Life, int] | None = None,
    exclude: tuple[Life, ...] = (),
    seed: int = 1,
    gone: Collection[str] = (),
) -> Choice:
    return choose(
        shape,
        scheduling,
        me=ME,
        room=room,
        members=members,
        rng=Random(seed),
        bytes_at=bytes_at,
        exclude=exclude,
        gone=gone,
    )


def all_picks(members: list[Member], scheduling: Scheduling = "default", *, room: bool = False) -> set[Choice]:
    return {pick(members, scheduling=scheduling, room=room, seed=seed) for seed in range(40)}


class TestWhoMay:
    @pytest.mark.parametrize("state", ["joining", "stalled", "suspect"])
    def test_who_may_come_back_is_waited_for(self, state: str) -> None:
        assert pick([member(A, state=state)]) is WAIT

    @pytest.mark.parametrize("state", ["leaving", "left", "dead"])
    def test_who_goes_is_not(self, state: str) -> None:
        choice = pick([member(A, state=state)])
        assert isinstance(choice, Infeasible)
        assert f"is {state}" in choice.text

    def test_own_hosts_nothing_of_others(self) -> None:
        choice = pick([member(A, hosts="own")])
        assert isinstance(choice, Infeasible)
        assert 'hosts="own"' in choice.text
        assert pick([member(ME, hosts="own")], room=True) == ME

    def test_totals_that_are_too_small(self) -> None:
        members = [member(ME, cpus=2, name="here"), member(A, cpus=8, gpus=1, name="there")]
        assert pick(members, Shape.of(num_cpus=3)) == A
        choice = pick(members, Shape.of(num_cpus=9, num_gpus=1))
        assert isinstance(choice, Infeasible)
        assert choice.text == (
            "no member can run this: it asks for CPU 9, GPU 1; there are here with CPU 2 (too little CPU and GPU); "
            "there with CPU 8, GPU 1 (too little CPU)"
        )

    def test_the_text_is_no_table(self) -> None:
        members = [member(bytes([n]) * 16) for n in range(12)]
        choice = pick(members, Shape.of(num_cpus=9))
        assert isinstance(choice, Infeasible)
        assert choice.text.endswith("and 2 more")
        assert isinstance(pick([]), Infeasible)

    def test_a_full_window_waits(self) -> None:
        assert window(4) == 9
        assert pick([member(A, alike=8)]) == A
        assert pick([member(A, alike=9)]) is WAIT

    def test_what_asks_for_nothing_has_no_window(self) -> None:
        assert pick([member(A, alike=900)], Shape()) == A

    def test_who_sent_it_back_is_left_out(self) -> None:
        assert pick([member(A), member(B)], exclude=(A,)) == B
        assert pick([member(A)], exclude=(A,)) is WAIT
        assert pick([member(ME), member(A)], room=True, exclude=(ME,)) == A

    def test_this_node_without_room_waits(self) -> None:
        assert pick([member(ME)]) is WAIT


class TestDefault:
    def test_local_first(self) -> None:
        members = [member(ME, load=9), member(A)]
        assert all_picks(members, room=True) == {ME}
        assert pick([*members, member(B)], room=True, bytes_at={A: LARGE}) == ME

    def test_of_two_the_less_loaded(self) -> None:
        assert all_picks([member(A, load=3), member(B, load=2)]) == {B}
        assert all_picks([member(A, load=3), member(B, load=2, since=2)]) == {A}
        # A load is measured by what fits there.
        assert all_picks([member(A, load=3, cpus=8), member(B, load=2)]) == {A}

    def test_ties_are_broken_by_chance(self) -> None:
        assert all_picks([member(A), member(B), member(C)]) == {A, B, C}

    def test_the_most_loaded_of_three_never(self) -> None:
        assert all_picks([member(A, load=3), member(B), member(C)]) == {B, C}

    def test_large_arguments_draw(self) -> None:
        members = [member(ME), member(A), member(B)]
        assert pick(members, room=True, bytes_at={A: LARGE + 1, B: LARGE + 2}) == B
        assert pick(members, room=True, bytes_at={ME: 9 * LARGE, B: 2 * LARGE}) == ME

    def test_but_not_to_who_is_over_full(self) -> None:
        members = [member(ME), member(A, load=9), member(B)]
        assert pick(members, room=True, bytes_at={A: 9 * LARGE}) == ME
        assert pick(members, room=True, bytes_at={A: 9 * LARGE, B: 2 * LARGE}) == B
        assert pick(members, bytes_at={ME: 9 * LARGE}, exclude=(A,)) == B


class TestAffinity:
    def test_hard(self) -> None:
        there = NodeAffinity(node_id_of(A))
        assert pick([member(ME), member(A), member(B)], scheduling=there, room=True) == A
        assert pick([member(A, alike=9), member(B)], scheduling=there) is WAIT
        assert pick([member(A, state="joining"), member(B)], scheduling=there) is WAIT
        assert pick([member(ME)], scheduling=NodeAffinity(node_id_of(ME))) is WAIT
        assert pick([member(ME)], scheduling=NodeAffinity(node_id_of(ME)), room=True) == ME

    def test_hard_and_impossible(self) -> None:
        choice = pick([member(B)], scheduling=NodeAffinity(node_id_of(A)))
        assert isinstance(choice, Infeasible)
        assert node_id_of(A) in choice.text
        assert "no member has that id" in choice.text
        choice = pick([member(A), member(B, cpus=9)], Shape.of(num_cpus=9), NodeAffinity(node_id_of(A)))
        assert isinstance(choice, Infeasible)
        assert "another node" in choice.text

    def test_hard_and_gone(self) -> None:
        gone = {node_id_of(A)}
        choice = pick([member(B)], scheduling=NodeAffinity(node_id_of(A)), gone=gone)
        assert isinstance(choice, Infeasible)
        assert choice.final
        assert f"node {node_id_of(A)} is dead or has left" in choice.text
        for scheduling in (NodeAffinity(node_id_of(C)), Labels({"zone": "eu"})):
            choice = pick([member(B)], scheduling=scheduling, gone=gone)
            assert isinstance(choice, Infeasible)
            assert not choice.final
        assert pick([member(B)], scheduling=NodeAffinity(node_id_of(A), soft=True), gone=gone) == B
        assert pick([member(A), member(B)], scheduling=NodeAffinity(node_id_of(A)), gone=gone) == A

    def test_soft_while_it_has_room(self) -> None:
        soft = NodeAffinity(node_id_of(A), soft=True)
        assert pick([member(ME), member(A)], scheduling=soft, room=True) == A
        assert pick([member(ME), member(A, load=4)], scheduling=soft, room=True) == ME
        assert pick([member(ME), member(A, state="suspect")], scheduling=soft, room=True) == ME
        assert pick([member(ME)], scheduling=soft, room=True) == ME
        assert pick([member(B)], scheduling=soft) == B
        assert pick([member(ME), member(B)], scheduling=NodeAffinity(node_id_of(ME), soft=True), room=True) == ME

    @pytest.mark.parametrize("node_id", ["", "abc", "g" * 16, "A" * 16, "a" * 17, 7, None, b"a" * 16])
    def test_only_ids(self, node_id: object) -> None:
        with pytest.raises(UsageError, match="node_id"):
            NodeAffinity(node_id)  # type: ignore[arg-type]

    def test_soft_is_a_bool(self) -> None:
        with pytest.raises(UsageError, match="soft"):
            NodeAffinity("a" * 16, "yes")  # type: ignore[arg-type]


class TestSpread:
    def test_the_fewest_of_ours_then_chance(self) -> None:
        members = [member(ME, own=2), member(A, own=1, load=3), member(B, own=1), member(C, own=3)]
        assert all_picks(members, "spread", room=True) == {A, B}

    def test_one_after_another_goes_round(self) -> None:
        members = {life: member(life) for life in (ME, A, B)}
        rng = Random(3)
        for _ in range(9):
            choice = choose(ONE, "spread", me=ME, room=True, members=list(members.values()), rng=rng)
            assert isinstance(choice, bytes)
            members[choice].own += 1
        assert [m.own for m in members.values()] == [3, 3, 3]


class TestLabels:
    def test_matches(self) -> None:
        wanted = Labels({"zone": ("eu", "us"), "disk": "!slow"})
        assert wanted.matches({"zone": "eu"})
        assert wanted.matches({"zone": "us", "disk": "fast"})
        assert not wanted.matches({"zone": "us", "disk": "slow"})
        assert not wanted.matches({"disk": "fast"})
        assert Labels({"zone": ["!eu", "eu"]}).matches({"zone": "eu"})

    def test_only_matching_members(self) -> None:
        members = [member(ME), member(A, labels={"zone": "eu"}), member(B, labels={"zone": "us"})]
        assert all_picks(members, Labels({"zone": "eu"}), room=True) == {A}
        assert all_picks(members, Labels({"zone": "!eu"}), room=True) == {ME}
        choice = pick(members, scheduling=Labels({"zone": ["x", "y"]}))
        assert isinstance(choice, Infeasible)
        assert "labels zone=x or y" in choice.text
        assert "no labels" in choice.text
        assert "labels zone=us" in choice.text

    def test_a_value(self) -> None:
        one = Labels({"b": "1", "a": ["2"]})
        assert one == Labels({"a": "2", "b": ("1",)})
        assert {one, Labels({"a": "2", "b": "1"})} == {one}
        assert pickle.loads(pickle.dumps(one)) == one == copy.copy(one)
        assert repr(one) == "Labels({'a': '2', 'b': '1'})"
        with pytest.raises(AttributeError):
            one.wanted = ()  # type: ignore[misc]

    @pytest.mark.parametrize(
        "wanted", [None, {}, {"": "v"}, {1: "v"}, {"zone": ""}, {"zone": "!"}, {"zone": []}, {"zone": [1]}, {"zone": 1}]
    )
    def test_garbage(self, wanted: object) -> None:
        with pytest.raises(UsageError, match="Labels"):
            Labels(wanted)  # type: ignore[arg-type]


def test_check_scheduling() -> None:
    for value in ("default", "spread", NodeAffinity("a" * 16), Labels({"a": "b"})):
        assert check_scheduling(value) == value
    for wrong in ("SPREAD", None, 1, {"zone": "eu"}):
        with pytest.raises(UsageError, match="scheduling is"):
            check_scheduling(wrong)


def herd(seed: int, *, count_own: bool, hosts: int = 16, slots: int = 4, seconds: float = 20.0) -> float:
    """The 99th percentile of waiting when submitters know the load of a second ago.

    Each of as many submitters sends bursts of 12 tasks of 0.1 s, 70 % of what the hosts can do. Hosts queue.
    """
    task, burst, age, util = 0.1, 12, 1.0, 0.7
    rng = Random(seed)
    lives = [bytes([n]) * 16 for n in range(hosts)]
    # What each submitter knows: its own facts, refreshed once in each period.
    views = [[Member(life, node_id_of(life), Shape.of(num_cpus=slots)) for life in lives] for _ in lives]
    busy = [0] * hosts
    queues: list[deque[float]] = [deque() for _ in lives]
    waits: list[float] = []
    events: list[tuple[float, int, str, int, float]] = []
    number = 0

    def at(time: float, what: str, which: int, since: float = 0.0) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (time, number, what, which, since))

    rate = util * slots / task / burst
    for index in range(hosts):
        at(rng.expovariate(rate), "burst", index)
        at(rng.random() * age, "tell", index)
    while events[0][0] < seconds:
        now, _, what, which, since = heapq.heappop(events)
        if what == "burst":
            for _ in range(burst):
                chosen = choose(ONE, "default", me=b"submitter", room=False, members=views[which], rng=rng)
                assert isinstance(chosen, bytes)
                if count_own:
                    views[which][chosen[0]].since += 1
                at(now + 0.001, "arrive", chosen[0], now)
            at(now + rng.expovariate(rate), "burst", which)
        elif what == "tell":
            for view in views:
                view[which].load = busy[which] + len(queues[which])
                view[which].since = 0
            at(now + age, "tell", which)
        elif what == "arrive":
            if busy[which] < slots:
                busy[which] += 1
                waits.append(now - since)
                at(now + task, "end", which)
            else:
                queues[which].append(since)
        elif queues[which]:
            waits.append(now - queues[which].popleft())
            at(now + task, "end", which)
        else:
            busy[which] -= 1
    waits.sort()
    return waits[len(waits) * 99 // 100]


def test_counting_what_one_sent_keeps_the_herd_apart() -> None:
    stale = [herd(seed, count_own=False) for seed in range(3)]
    counted = [herd(seed, count_own=True) for seed in range(3)]
    print([f"{1000 * a:.0f} -> {1000 * b:.0f} ms" for a, b in zip(stale, counted, strict=True)])
    assert all(b < 0.95 * a for a, b in zip(stale, counted, strict=True)), (stale, counted)
