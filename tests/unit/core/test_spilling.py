"""Which objects go to disk: least recently used first, no more than needed, in turn for those who wait."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from actorfw.core.spilling import AWAY, COMING, GOING, HERE, TRY_AGAIN, Spilling


def anything(_: int) -> bool:
    return True


def full(limit: int = 1000, size: int = 100) -> Spilling:
    """A store of this limit, full of blocks of this size, numbered from 1 in the order of their use."""
    policy = Spilling(limit)
    for number in range(1, limit // size + 1):
        policy.entered(number, size)
    return policy


def test_below_the_high_water_mark_nothing_goes() -> None:
    policy = full()
    assert policy.choose(800, 0.0, anything) == []


def test_above_it_the_least_recently_used_go_until_the_low_water_mark() -> None:
    policy = full()
    policy.used(1)
    assert policy.choose(1000, 0.0, anything) == [2, 3, 4]
    assert policy.going == 300


def test_what_is_on_its_way_counts_as_gone() -> None:
    policy = full()
    policy.choose(1000, 0.0, anything)
    assert policy.choose(1000, 0.0, anything) == []


def test_what_is_in_use_is_passed_over() -> None:
    policy = full()
    assert policy.choose(1000, 0.0, lambda number: number > 5) == [6, 7, 8]


def test_who_waits_gets_what_is_missing_and_no_more() -> None:
    policy = Spilling(1000)
    for number in (1, 2, 3):
        policy.entered(number, 200)
    policy.wait(1, 500)
    assert policy.choose(600, 0.0, anything) == [1]


def test_the_first_who_waits_comes_first() -> None:
    policy = full()
    policy.wait(1, 900)
    policy.wait(2, 10)
    assert policy.first == (1, 900)
    assert len(policy.choose(1000, 0.0, anything)) == 9
    policy.waits_no_more(1)
    assert policy.first == (2, 10)
    assert policy.waiting == 1


def test_more_goes_when_what_is_free_lies_in_pieces() -> None:
    policy = full()
    assert policy.choose(700, 0.0, anything, missing=250) == [1, 2, 3]


def test_what_could_not_be_written_is_tried_again_later() -> None:
    policy = full()
    chosen = policy.choose(1000, 0.0, anything)
    for number in chosen:
        policy.unwritten(number, 0.0)
    assert policy.going == 0
    assert policy.choose(1000, 1.0, anything) == [4, 5, 6]
    for number in (4, 5, 6):
        policy.unwritten(number, 1.0)
    assert sorted(policy.choose(1000, TRY_AGAIN + 2, anything)) == [4, 5, 6]


def test_what_was_used_meanwhile_stays() -> None:
    policy = full()
    first, *_ = policy.choose(1000, 0.0, anything)
    assert policy.place(first) == GOING
    assert policy.written(first, unused=False) is False
    assert policy.place(first) == HERE


def test_there_and_back() -> None:
    policy = full()
    first, *_ = policy.choose(1000, 0.0, anything)
    assert policy.written(first, unused=True) is True
    assert (policy.place(first), policy.away) == (AWAY, 100)
    assert policy.comes(first)
    assert policy.place(first) == COMING
    assert not policy.comes(first)
    policy.stays(first)
    assert policy.place(first) == AWAY
    policy.comes(first)
    policy.came(first)
    assert (policy.place(first), policy.away) == (HERE, 0)
    policy.validate()


def test_the_biggest_are_named_with_those_that_are_on_their_way() -> None:
    policy = Spilling(1000)
    for number, size in ((1, 100), (2, 500), (3, 300)):
        policy.entered(number, size)
    policy.choose(900, 0.0, lambda number: number == 3)
    assert policy.biggest(2) == [(2, 500), (3, 300)]


def test_validate_finds_a_contradiction() -> None:
    policy = full()
    policy.going += 1
    with pytest.raises(AssertionError):
        policy.validate()


class Model(RuleBasedStateMachine):
    """Against a plain list of blocks with a place each."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = Spilling(1000)
        self.blocks: OrderedDict[int, tuple[int, str]] = OrderedDict()  # bytes and place, least recently used first
        self.numbers = 0
        self.now = 0.0

    def _pick(self, at: int, place: str) -> int | None:
        found = [number for number, (_, where) in self.blocks.items() if where == place]
        return found[at % len(found)] if found else None

    def _put(self, number: int, place: str, *, last: bool = True) -> None:
        self.blocks[number] = (self.blocks[number][0], place)
        self.blocks.move_to_end(number, last=last)

    @property
    def used(self) -> int:
        return sum(size for size, place in self.blocks.values() if place in (HERE, GOING))

    @rule(size=st.integers(1, 300))
    def enter(self, size: int) -> None:
        if self.used + size <= 1000:
            self.numbers += 1
            self.policy.entered(self.numbers, size)
            self.blocks[self.numbers] = (size, HERE)

    @rule(at=st.integers(0, 50))
    def use(self, at: int) -> None:
        number = self._pick(at, HERE)
        if number is not None:
            self.policy.used(number)
            self.blocks.move_to_end(number)

    @rule(at=st.integers(0, 50), place=st.sampled_from([HERE, GOING, AWAY, COMING]))
    def leave(self, at: int, place: str) -> None:
        number = self._pick(at, place)
        if number is not None:
            self.policy.left(number)
            del self.blocks[number]
            assert not self.policy.written(number, unused=True)
            self.policy.came(number)
            self.policy.unwritten(number, self.now)

    @rule(odd_in_use=st.booleans(), missing=st.integers(0, 500))
    def choose(self, odd_in_use: bool, missing: int) -> None:
        self.now += TRY_AGAIN + 1  # what could not be written may be tried again
        used = self.used
        going = sum(size for size, place in self.blocks.values() if place == GOING)
        want = max(missing, used - going - 700 if used - going > 800 else 0)
        expected: list[int] = []
        for number, (size, place) in self.blocks.items():
            if want <= 0:
                break
            if place == HERE and not (odd_in_use and number % 2):
                expected.append(number)
                want -= size
        chosen = self.policy.choose(used, self.now, lambda n: not (odd_in_use and n % 2 == 1), missing=missing)
        assert chosen == expected
        for number in chosen:
            self._put(number, GOING)

    @rule(at=st.integers(0, 50), unused=st.booleans(), failed=st.booleans())
    def end_of_writing(self, at: int, unused: bool, failed: bool) -> None:
        number = self._pick(at, GOING)
        if number is None:
            return
        if failed:
            self.policy.unwritten(number, self.now)
            self._put(number, HERE, last=False)
        else:
            assert self.policy.written(number, unused=unused) == unused
            self._put(number, AWAY if unused else HERE)

    @rule(at=st.integers(0, 50), fits=st.booleans())
    def bring_back(self, at: int, fits: bool) -> None:
        number = self._pick(at, AWAY)
        if number is not None:
            assert self.policy.comes(number)
            if fits and self.used + self.blocks[number][0] <= 1000:
                self.policy.came(number)
                self._put(number, HERE)
            else:
                self.policy.stays(number)

    @invariant()
    def agree(self) -> None:
        self.policy.validate()
        for number, (_, place) in self.blocks.items():
            assert self.policy.place(number) == place
        assert self.policy.away == sum(size for size, place in self.blocks.values() if place in (AWAY, COMING))


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
