"""Placement groups: where bundles are to lie, and that a group gets all of them or none."""

from __future__ import annotations

from random import Random

import pytest

from actorfw.core.bundles import EXPIRY, SILENCE, Bundles, Commit, Free, Group, Placed, Prepare, Stuck, plan, shape_of
from actorfw.core.ledger import UNIT, Ledger, Shape
from actorfw.values.errors import UsageError

A, B, C = (bytes([65 + n]) * 16 for n in range(3))
ONE = Shape.of(num_cpus=1)
TWO = Shape.of(num_cpus=2)


def cpus(**amounts: int) -> dict[bytes, dict[str, int]]:
    return {{"a": A, "b": B, "c": C}[name]: {"CPU": amount * UNIT} for name, amount in amounts.items()}


class TestPlan:
    def test_strict_pack_takes_one_member_that_has_room_for_all(self) -> None:
        for seed in range(20):
            assert plan("strict_pack", [ONE, TWO], cpus(a=2, b=3, c=2), [], Random(seed)) == [B, B]

    def test_strict_pack_fails_when_no_member_has(self) -> None:
        assert plan("strict_pack", [ONE, TWO], cpus(a=2, b=2), [], Random(1)) is None

    def test_strict_spread_takes_a_member_for_each(self) -> None:
        for seed in range(20):
            chosen = plan("strict_spread", [ONE, TWO, ONE], cpus(a=1, b=2, c=1), [], Random(seed))
            assert chosen is not None
            assert sorted(chosen) == [A, B, C]
            assert chosen[1] == B

    def test_strict_spread_fails_when_there_are_too_few(self) -> None:
        assert plan("strict_spread", [ONE, ONE], cpus(a=4), [], Random(1)) is None

    def test_strict_spread_keeps_away_from_what_is_there(self) -> None:
        assert plan("strict_spread", [ONE], cpus(a=4, b=1), [A], Random(1)) == [B]

    def test_pack_takes_few_members(self) -> None:
        for seed in range(20):
            assert plan("pack", [ONE] * 3, cpus(a=1, b=3, c=1), [], Random(seed)) == [B] * 3

    def test_pack_takes_more_where_it_must(self) -> None:
        chosen = plan("pack", [ONE] * 4, cpus(a=1, b=3), [], Random(1))
        assert chosen is not None
        assert sorted(chosen) == [A, B, B, B]

    def test_pack_goes_where_the_rest_is(self) -> None:
        for seed in range(20):
            assert plan("pack", [ONE], cpus(a=1, b=3), [A], Random(seed)) == [A]

    def test_pack_goes_elsewhere_if_there_is_no_room(self) -> None:
        assert plan("pack", [TWO], cpus(a=1, b=3), [A], Random(1)) == [B]

    def test_spread_takes_many(self) -> None:
        chosen = plan("spread", [ONE] * 3, cpus(a=4, b=4, c=4), [], Random(3))
        assert chosen is not None
        assert sorted(chosen) == [A, B, C]

    def test_spread_shares_where_it_must(self) -> None:
        assert plan("spread", [ONE] * 3, cpus(a=4), [], Random(3)) == [A] * 3

    def test_a_large_bundle_is_not_crowded_out_by_small_ones(self) -> None:
        for seed in range(20):
            chosen = plan("pack", [ONE, ONE, TWO], cpus(a=2, b=2), [], Random(seed))
            assert chosen is not None
            assert chosen[0] == chosen[1] != chosen[2]


class TestOwner:
    def make(self, strategy: str = "strict_spread", bundles: int = 2) -> Group:
        return Group([ONE] * bundles, strategy, Random(1))  # type: ignore[arg-type]

    def start(self, group: Group, now: float = 0.0) -> list[Prepare]:
        said = group.due(cpus(a=1, b=1), cpus(a=1, b=1), now)
        assert all(isinstance(one, Prepare) for one in said)
        return said  # type: ignore[return-value]

    def test_commits_when_all_said_yes(self) -> None:
        group = self.make()
        first, second = self.start(group)
        assert group.answered(first.life, first.index, first.attempt, True, 0.1) == []
        said = group.answered(second.life, second.index, second.attempt, True, 0.2)
        assert said == [Commit(first.life, 0, 1), Commit(second.life, 1, 1), Placed()]
        assert group.placed
        assert group.at is None

    def test_one_no_frees_all(self) -> None:
        group = self.make()
        first, second = self.start(group)
        group.answered(first.life, first.index, first.attempt, True, 0.1)
        assert group.answered(second.life, second.index, second.attempt, False, 0.2) == [Free(first.life, 0, 1)]
        assert group.at is not None
        assert group.at > 0.2
        again = self.start(group, group.at)
        assert {one.attempt for one in again} == {2}

    def test_silence_frees_all(self) -> None:
        group = self.make()
        first, second = self.start(group)
        group.answered(first.life, first.index, first.attempt, True, 0.1)
        assert group.at == SILENCE
        said = group.due({}, {}, SILENCE)
        assert set(map(type, said)) == {Free}
        assert len(said) == 2
        # The late answer of a try that was given up says nothing any more.
        assert group.answered(second.life, second.index, 1, True, SILENCE + 0.1) == []
        assert not group.placed

    def test_says_so_when_there_is_no_way(self) -> None:
        group = self.make()
        assert group.due(cpus(a=1), cpus(a=1, b=1), 0.0) == [Stuck(ever=False)]
        assert group.due(cpus(a=1), cpus(a=1), group.at or 0.0) == [Stuck(ever=True)]

    def test_bundles_of_a_dead_host_are_placed_anew(self) -> None:
        group = self.make()
        for one in self.start(group):
            group.answered(one.life, one.index, one.attempt, True, 0.1)
        lost = group.hosts.index(A)
        assert group.host_dead(A, 5.0) == []
        assert group.hosts[lost] is None
        assert group.at == 5.0
        (again,) = group.due(cpus(b=4, c=1), cpus(b=4, c=1), 5.0)
        assert again == Prepare(C, lost, 2, ONE)
        assert group.answered(C, lost, 2, True, 5.1) == [Commit(C, lost, 2), Placed()]

    def test_a_host_that_dies_during_a_try_ends_it(self) -> None:
        group = self.make()
        self.start(group)
        assert [one.life for one in group.host_dead(A, 0.5) if isinstance(one, Free)] == [B]

    def test_what_expired_before_its_commit_is_placed_anew(self) -> None:
        group = self.make("pack", bundles=1)
        (one,) = self.start(group)
        group.answered(one.life, 0, 1, True, 0.1)
        assert group.placed
        group.answered(one.life, 0, 1, False, 20.0)
        assert not group.placed
        assert group.at == 20.0

    def test_removing_frees_everything_once(self) -> None:
        group = self.make()
        for one in self.start(group):
            group.answered(one.life, one.index, one.attempt, True, 0.1)
        assert {type(one) for one in group.remove()} == {Free}
        assert group.remove() == []
        assert group.due(cpus(a=9), cpus(a=9), 9.0) == []


class TestHost:
    G = (A, 7)

    def make(self) -> tuple[Ledger, Bundles]:
        ledger = Ledger(Shape.of(num_cpus=2, num_gpus=2))
        return ledger, Bundles(ledger)

    def test_prepares_what_there_is_room_for(self) -> None:
        ledger, hosted = self.make()
        assert hosted.prepare(self.G, 0, 1, TWO, 0.0)
        assert hosted.prepare(self.G, 0, 1, TWO, 0.0)  # asked again: the same answer, nothing more taken
        assert not hosted.prepare(self.G, 1, 1, ONE, 0.0)
        assert ledger.available()["CPU"] == 0

    def test_what_is_not_committed_expires(self) -> None:
        ledger, hosted = self.make()
        hosted.prepare(self.G, 0, 1, TWO, 0.0)
        hosted.expire(EXPIRY - 0.1)
        assert ledger.available()["CPU"] == 0
        hosted.expire(EXPIRY)
        assert ledger.available()["CPU"] == 2
        assert not hosted.commit(self.G, 0, 1)

    def test_what_is_committed_does_not(self) -> None:
        ledger, hosted = self.make()
        hosted.prepare(self.G, 0, 1, TWO, 0.0)
        assert hosted.commit(self.G, 0, 1)
        hosted.expire(1e9)
        assert ledger.available()["CPU"] == 0

    def test_work_in_a_bundle_takes_from_it_alone(self) -> None:
        ledger, hosted = self.make()
        hosted.prepare(self.G, 0, 1, ONE, 0.0)
        hosted.commit(self.G, 0, 1)
        inside = ONE.within_bundle((self.G, 0))
        grant = ledger.take(inside)
        assert grant is not None
        assert ledger.available()["CPU"] == 1  # only the bundle's own CPU is out
        assert ledger.take(inside) is None
        assert ledger.take(ONE.within_bundle((self.G, 1))) is None
        assert ledger.take(ONE.within_bundle((self.G, -1))) is None
        assert ledger.take(ONE) is not None
        ledger.release(grant)
        assert ledger.take(ONE.within_bundle((self.G, -1))) is not None

    def test_a_worker_that_blocks_lends_the_bundles_cpu_to_the_bundle(self) -> None:
        ledger, hosted = self.make()
        hosted.prepare(self.G, 0, 1, ONE, 0.0)
        hosted.commit(self.G, 0, 1)
        inside = ONE.within_bundle((self.G, 0))
        first = ledger.take(inside)
        assert first is not None
        assert ledger.give_back_cpu(first)
        assert ledger.available()["CPU"] == 1
        second = ledger.take(inside)
        assert second is not None
        ledger.retake_cpu(first)
        assert ledger.take(inside) is None

    def test_devices_are_the_bundles_own(self) -> None:
        ledger, hosted = self.make()
        other = ledger.take(Shape.of(num_gpus=1))
        assert other is not None
        hosted.prepare(self.G, 0, 1, Shape.of(num_gpus=1), 0.0)
        hosted.commit(self.G, 0, 1)
        halves = [ledger.take(Shape.of(num_gpus=0.5).within_bundle((self.G, 0))) for _ in range(3)]
        assert [half.gpus for half in halves if half is not None] == [(1,), (1,)]
        assert halves[2] is None

    def test_a_freed_bundle_comes_back_when_what_runs_in_it_has_ended(self) -> None:
        ledger, hosted = self.make()
        hosted.prepare(self.G, 0, 1, TWO, 0.0)
        hosted.commit(self.G, 0, 1)
        grant = ledger.take(ONE.within_bundle((self.G, 0)))
        assert grant is not None
        hosted.free(self.G, 0, 1)
        assert ledger.available()["CPU"] == 0
        assert ledger.take(ONE.within_bundle((self.G, 0))) is None
        ledger.release(grant)
        assert ledger.available()["CPU"] == 2

    def test_an_owners_death_frees_its_groups_only(self) -> None:
        ledger, hosted = self.make()
        hosted.prepare(self.G, 0, 1, ONE, 0.0)
        hosted.prepare((B, 1), 0, 1, ONE, 0.0)
        hosted.commit((B, 1), 0, 1)
        hosted.owner_dead(A)
        assert ledger.available()["CPU"] == 1
        hosted.owner_dead(B)
        assert ledger.available()["CPU"] == 2

    def test_a_newer_try_replaces_an_older_one(self) -> None:
        ledger, hosted = self.make()
        hosted.prepare(self.G, 0, 1, TWO, 0.0)
        assert hosted.prepare(self.G, 0, 2, ONE, 0.0)
        assert ledger.available()["CPU"] == 1
        assert not hosted.prepare(self.G, 0, 1, ONE, 0.0)
        hosted.free(self.G, 0, 1)  # of the try that was replaced
        assert ledger.available()["CPU"] == 1


@pytest.mark.parametrize("bundle", [None, {}, [], {"CPU": 0}, {"CPU": -1}, {"GPU": 0.5}, {"CPU": "two"}, "CPU"])
def test_what_is_no_bundle_is_refused(bundle: object) -> None:
    with pytest.raises(UsageError):
        shape_of(bundle)
