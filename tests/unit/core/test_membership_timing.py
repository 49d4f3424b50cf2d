"""The clocks of membership: profiles, suspicion, probes, local health, and the ring."""

from __future__ import annotations

import math
from random import Random

import pytest

from actorfw.core.probing import Prober
from actorfw.core.records import Accusation, Phase, Record
from actorfw.core.ring import MESH, RINGS, Recent, neighbours
from actorfw.core.suspicion import Suspicion, accusers_wanted, refusals_wanted
from actorfw.values.profiles import LAN, LOCAL, PROFILES, WAN, Profile

ME, X, A, B, C, D = (bytes([n]) * 16 for n in range(6))


def record(life: bytes, phase: Phase = Phase.UP, **more: str) -> Record:
    return Record(life, f"a:{life[0]}", f"n{life[0]}", phase=phase, **more)  # type: ignore[arg-type]


# -- profiles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "confirmations", "seconds"),
    [
        # Too few for four confirmations: the shortest at once.
        (2, 0, 3.0),
        (3, 0, 3.0),
        (5, 1, 3.0),
        # 12 s alone, 3 s with four others: 12 - 9 * log(c + 1) / log(5).
        (6, 0, 12.0),
        (6, 1, 12 - 9 * math.log(2) / math.log(5)),
        (6, 2, 12 - 9 * math.log(3) / math.log(5)),
        (6, 3, 12 - 9 * math.log(4) / math.log(5)),
        (6, 4, 3.0),
        (6, 9, 3.0),
        (10, 0, 12.0),
        # Longer where gossip takes longer.
        (100, 0, 24.0),
        (100, 4, 6.0),
        (1000, 0, 36.0),
        (1000, 4, 9.0),
    ],
)
def test_a_suspicion_is_shorter_the_more_confirm_it(members: int, confirmations: int, seconds: float) -> None:
    assert LAN.suspicion(members, confirmations) == pytest.approx(seconds)


def test_news_is_passed_on_more_often_in_larger_clusters() -> None:
    assert [LAN.transmissions(n) for n in (1, 9, 10, 99, 100, 1000)] == [4, 4, 8, 8, 12, 16]


def test_views_are_compared_less_often_in_larger_clusters() -> None:
    assert [LAN.push_pull_every(n) for n in (2, 32, 33, 64, 65, 1000)] == [30, 30, 60, 60, 90, 180]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_each_step_of_a_probe_fits_into_its_interval(profile: Profile) -> None:
    assert 0 < profile.probe_timeout < profile.probe_interval
    assert profile.stall_after >= profile.probe_interval


def test_only_across_networks_a_refusal_proves_nothing() -> None:
    assert (LAN.refused_proves, LOCAL.refused_proves, WAN.refused_proves) == (True, True, False)


# -- suspicion ---------------------------------------------------------------------------------------------------------


def test_confirmations_move_the_deadline_closer_and_never_away() -> None:
    suspicion = Suspicion(100.0)
    accused = record(X).accused(A, Accusation.SUSPECT)
    suspicion.set(accused, LAN, 10, 30.0, 100.0)
    assert suspicion.deadline == pytest.approx(112.0)
    for by, seconds in ((B, 12 - 9 * math.log(2) / math.log(5)), (C, 12 - 9 * math.log(3) / math.log(5))):
        accused = accused.accused(by, Accusation.SUSPECT)
        suspicion.set(accused, LAN, 10, 30.0, 101.0)
        assert suspicion.deadline == pytest.approx(100 + seconds)
    suspicion.set(accused, LAN, 100, 30.0, 101.0)
    assert suspicion.deadline == pytest.approx(100 + 12 - 9 * math.log(3) / math.log(5))


def test_what_was_confirmed_too_late_is_due_now() -> None:
    suspicion = Suspicion(0.0)
    accused = record(X).accused(A, Accusation.SUSPECT)
    suspicion.set(accused, LAN, 10, 30.0, 0.0)
    for by in (B, C, D, ME):
        accused = accused.accused(by, Accusation.SUSPECT)
    suspicion.set(accused, LAN, 10, 30.0, 5.0)
    assert suspicion.deadline == 5.0


def test_as_long_as_one_sees_the_kernel_answer_it_is_stalled() -> None:
    suspicion = Suspicion(0.0)
    accused = record(X).accused(A, Accusation.SUSPECT)
    suspicion.set(accused, LAN, 10, 30.0, 0.0)
    accused = accused.accused(B, Accusation.STALLED)
    suspicion.set(accused, LAN, 10, 30.0, 1.0)
    assert suspicion.deadline == 30.0
    accused = accused.accused(B, Accusation.SUSPECT)
    suspicion.set(accused, LAN, 10, 30.0, 2.0)
    assert suspicion.deadline == pytest.approx(2 + 12 - 9 * math.log(2) / math.log(5))


@pytest.mark.parametrize(("limit", "hosts"), [(None, "all"), (30.0, "own")])
def test_some_stalled_members_are_waited_for_without_end(limit: float | None, hosts: str) -> None:
    suspicion = Suspicion(0.0)
    suspicion.set(record(X, hosts=hosts).accused(A, Accusation.STALLED), LAN, 10, limit, 0.0)
    assert suspicion.deadline == math.inf


def test_a_clock_that_stood_still_starts_again_but_not_for_ever() -> None:
    suspicion = Suspicion(0.0)
    suspicion.deadline = 3.0
    assert not suspicion.distrusted(3.1, -math.inf, 0.5)
    assert suspicion.distrusted(3.6, -math.inf, 0.5)  # fired late
    suspicion.rearm(1.0, 3.6)
    assert suspicion.distrusted(4.6, 4.0, 0.5)  # this node lagged meanwhile
    suspicion.rearm(1.0, 4.6)
    assert not suspicion.distrusted(5.6, 4.0, 0.5)
    again = [suspicion.distrusted(9.0, 9.0, 0.5) for _ in range(4)]
    assert again == [True, True, False, False]


def test_a_clock_that_was_set_again_is_not_turned_back_by_confirmations() -> None:
    suspicion = Suspicion(0.0)
    accused = record(X).accused(A, Accusation.SUSPECT)
    suspicion.set(accused, LAN, 10, 30.0, 0.0)
    suspicion.rearm(1.0, 12.0)
    suspicion.set(accused.accused(B, Accusation.SUSPECT), LAN, 10, 30.0, 12.1)
    assert suspicion.deadline == 13.0


# -- grounds -----------------------------------------------------------------------------------------------------------


def view(*records: Record) -> dict[bytes, Record]:
    return {one.life: one for one in (record(ME), record(X), *records)}


@pytest.mark.parametrize(
    ("others", "accusers", "refusals"),
    [
        ([], 1, 1),  # of two, each decides alone
        ([record(A)], 2, 2),
        ([record(A), record(B)], 3, 2),
        ([record(A), record(B), record(C)], 3, 2),
        ([record(A, Phase.JOINING)], 1, 1),
        ([record(A, Phase.LEAVING)], 2, 2),
        # Whom this node alone does not hear counts: perhaps this node is deaf.
        ([record(A).accused(ME, Accusation.SUSPECT)], 2, 2),
        # Whom others do not hear either does not.
        ([record(A).accused(B, Accusation.SUSPECT), record(B)], 2, 2),
        ([record(A).accused(ME, Accusation.SUSPECT).accused(B, Accusation.SUSPECT), record(B)], 2, 2),
        # A kernel that answers this node, if only to refuse, shows that it hears.
        ([record(A).accused(ME, Accusation.REFUSED)], 1, 1),
        ([record(A).accused(ME, Accusation.STALLED)], 1, 1),
    ],
)
def test_how_many_must_have_seen_it(others: list[Record], accusers: int, refusals: int) -> None:
    assert accusers_wanted(ME, X, view(*others)) == accusers
    assert refusals_wanted(ME, X, view(*others)) == refusals


# -- probes ------------------------------------------------------------------------------------------------------------


def prober() -> Prober:
    return Prober(LAN, Random(1))


def test_every_neighbour_is_probed_once_before_any_is_probed_again() -> None:
    machine = prober()
    near = {A, B, C, D}
    rounds = [[machine.next_target(near) for _ in range(4)] for _ in range(3)]
    assert all(set(one) == near for one in rounds)
    assert rounds[0] != rounds[1] or rounds[1] != rounds[2]
    assert machine.next_target(set()) is None


def test_a_probe_that_is_answered_is_over_and_good_for_health() -> None:
    machine = prober()
    machine.awareness.change(2)
    probe = machine.start(A, 0.0)
    assert machine.answered(B, probe.number) == (None, None), "not the one that was asked"
    assert machine.answered(A, probe.number) == (probe, None)
    assert machine.due(9.0) == []
    assert machine.awareness.score == 1


def test_the_steps_of_a_probe_of_a_member_that_is_cut_off() -> None:
    machine = prober()
    probe = machine.start(A, 10.0)
    assert machine.next_at() == 10.25
    assert machine.due(10.24) == []
    assert machine.due(10.25) == [("kernel", probe)]
    assert machine.kernel(A, False) == [("helpers", probe)]
    machine.helped(probe, [B, C, D])
    assert machine.next_at() == 10.5
    assert machine.due(10.5) == [("failed", probe)]
    assert probe.what is Accusation.SUSPECT


def test_the_steps_of_a_probe_of_a_member_that_stands_still() -> None:
    machine = prober()
    probe = machine.start(A, 10.0)
    machine.due(10.25)
    assert machine.kernel(A, True) == []
    assert machine.next_at() == 11.0
    assert machine.due(11.0) == [("failed", probe)]
    machine.failed(probe)
    assert probe.what is Accusation.STALLED
    assert machine.awareness.score == 0, "its kernel was heard"


def test_who_misses_nacks_trusts_itself_less() -> None:
    machine = prober()
    probe = machine.start(A, 0.0)
    machine.due(0.25)
    machine.kernel(A, None)
    machine.helped(probe, [B, C, D])
    machine.nacked(B, probe.number)
    machine.due(0.5)
    machine.failed(probe)
    assert machine.awareness.score == 2
    alone = machine.start(A, 1.0)
    assert alone.ends == 1.0 + 3 * 0.5
    assert alone.next == 1.25, "the direct wait is not stretched"
    machine.failed(alone)
    assert machine.awareness.score == 3, "nobody was asked: one worse"
    for _ in range(20):
        machine.awareness.change(1)
    assert machine.awareness.score == LAN.awareness_max - 1


def test_a_helper_pings_passes_the_answer_on_and_says_in_time_that_it_has_none() -> None:
    machine = prober()
    number = machine.relay(B, 77, A, 0.0)
    assert machine.next_at() == pytest.approx(0.2)
    assert machine.nacks_due(0.19) == []
    assert machine.nacks_due(0.2) == [(B, 77, A)]
    assert machine.nacks_due(0.3) == [], "once"
    assert machine.answered(A, number) == (None, (B, 77)), "late is better than never"
    number = machine.relay(B, 78, A, 1.0)
    assert machine.answered(A, number) == (None, (B, 78))
    assert machine.nacks_due(9.0) == []
    machine.relay(B, 79, A, 10.0)
    machine.nacks_due(10.2)
    machine.nacks_due(10.5)
    assert machine.next_at() == math.inf


def test_an_answer_through_a_helper_counts() -> None:
    machine = prober()
    probe = machine.start(A, 0.0)
    assert machine.vouched(probe.number, B) is None
    assert machine.vouched(probe.number, A) is probe
    assert machine.vouched(probe.number, A) is None


def test_probes_start_again_after_this_node_stood_still() -> None:
    machine = prober()
    probe = machine.start(A, 0.0)
    machine.due(0.25)
    machine.kernel(A, True)
    machine.restart(20.0)
    assert machine.due(20.2) == []
    assert machine.due(20.25) == [("kernel", probe)]
    assert probe.what is Accusation.SUSPECT


def test_probes_of_those_who_are_gone_are_gone() -> None:
    machine = prober()
    machine.start(A, 0.0)
    machine.relay(A, 1, B, 0.0)
    machine.relay(B, 1, A, 0.0)
    assert machine.probing(A)
    machine.forget(A)
    assert not machine.probing(A)
    assert machine.next_at() == math.inf


# -- the ring ----------------------------------------------------------------------------------------------------------


def some(count: int) -> list[bytes]:
    rng = Random(3)
    return [rng.randbytes(16) for _ in range(count)]


def test_few_members_are_all_neighbours() -> None:
    lives = some(MESH)
    assert neighbours(lives[0], lives) == set(lives[1:])


def test_many_members_have_about_ten_neighbours_each_and_agree_on_it() -> None:
    lives = some(100)
    near = {life: neighbours(life, lives) for life in lives}
    assert all(RINGS < len(one) <= 2 * RINGS and life not in one for life, one in near.items())
    assert all(life in near[other] for life, one in near.items() for other in one)


def test_news_crosses_the_links_of_many_members_in_a_few_steps() -> None:
    lives = some(400)
    near = {life: neighbours(life, lives) for life in lives}
    reached = {lives[0]}
    steps = 0
    while len(reached) < len(lives):
        reached |= {other for life in reached for other in near[life]}
        steps += 1
    assert steps <= 4


def test_a_newcomer_changes_few_neighbours() -> None:
    lives = some(100)
    before = {life: neighbours(life, lives) for life in lives}
    newcomer = b"new" + bytes(13)
    changed = [life for life in lives if neighbours(life, [*lives, newcomer]) != before[life]]
    assert set(changed) >= neighbours(newcomer, lives)
    assert len(changed) <= 2 * RINGS


def test_links_used_longest_ago_are_closed_first() -> None:
    recent = Recent(limit=2)
    for life in (A, B, C):
        recent.used(life)
    assert recent.surplus() == [A]
    recent.used(A)
    assert recent.surplus() == [B]
    assert recent.surplus(busy=[B]) == [C]
    recent.forget(C)
    assert recent.surplus() == []
    assert A in recent
    assert len(recent) == 2
