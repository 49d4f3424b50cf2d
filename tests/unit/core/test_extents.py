"""`Extents` against a plain list of pages."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actorfw.core.extents import GRAIN, Extents

PAGES = 96
WARM, COLD = "warm", "cold"


class AgainstPages(RuleBasedStateMachine):
    """Each page of the model is free and warm, free and cold, or taken by the extent that begins at its number."""

    def __init__(self) -> None:
        super().__init__()
        self.extents = Extents(PAGES * GRAIN + 17)
        self.pages: list[Any] = [COLD] * PAGES
        self.taken: dict[int, int] = {}

    def spans(self, *states: str) -> list[tuple[int, int]]:
        """Maximal stretches of pages in one of these states, as (first, count)."""
        found: list[tuple[int, int]] = []
        at = 0
        for wanted, group in itertools.groupby(self.pages, lambda page: page in states):
            count = len(list(group))
            if wanted:
                found.append((at, count))
            at += count
        return found

    def enter(self, first: int, count: int) -> None:
        assert all(page in (WARM, COLD) for page in self.pages[first : first + count])
        assert len(self.pages[first : first + count]) == count
        self.pages[first : first + count] = [first] * count
        self.taken[first] = count

    @rule(nbytes=st.one_of(st.integers(0, 20 * GRAIN), st.integers(0, (PAGES + 3) * GRAIN)))
    def take(self, nbytes: int) -> None:
        count = max(1, -(-nbytes // GRAIN))
        start = self.extents.take(nbytes)
        warm = [span for span in self.spans(WARM) if span[1] >= count]
        free = [span for span in self.spans(WARM, COLD) if span[1] >= count]
        if not free:
            assert start == -1
            return
        first = start // GRAIN
        # The best fitting warm piece, else the best fitting run, and the first of those that fit as well.
        assert first == min(warm or free, key=lambda span: (span[1], span[0]))[0]
        assert start % GRAIN == 0
        assert self.extents.size_at(start) == count * GRAIN
        self.enter(first, count)

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), warm=st.booleans())
    def free(self, data: st.DataObject, warm: bool) -> None:
        first = data.draw(st.sampled_from(sorted(self.taken)))
        count = self.taken.pop(first)
        assert self.extents.free(first * GRAIN, warm=warm) == count * GRAIN
        self.pages[first : first + count] = [WARM if warm else COLD] * count

    @rule(first=st.integers(0, PAGES - 1), count=st.integers(1, PAGES))
    def populated(self, first: int, count: int) -> None:
        count = min(count, PAGES - first)
        self.extents.populated(first * GRAIN, count * GRAIN)
        for at in range(first, first + count):
            if self.pages[at] == COLD:
                self.pages[at] = WARM

    @rule(first=st.integers(0, PAGES - 1), count=st.integers(1, 8))
    def take_at(self, first: int, count: int) -> None:
        free = self.pages[first : first + count]
        there = len(free) == count and all(page in (WARM, COLD) for page in free)
        assert self.extents.is_free(first * GRAIN, count * GRAIN) == there
        if there:
            self.extents.take_at(first * GRAIN, count * GRAIN)
            self.enter(first, count)

    @rule(count=st.integers(1, PAGES))
    def next_cold(self, count: int) -> None:
        start, size = self.extents.next_cold(count * GRAIN)
        longest = max((span[1] for span in self.spans(WARM, COLD)), default=0)
        run = [span for span in self.spans(WARM, COLD) if span[1] == longest]
        first, pages = start // GRAIN, size // GRAIN
        assert pages <= count
        assert self.pages[first : first + pages] == [COLD] * pages
        if pages:
            assert any(low <= first and first + pages <= low + length for low, length in run)
            assert first == 0 or self.pages[first - 1] != COLD
        else:
            # Nothing cold at the beginning of the run, or right behind the warm piece that it begins with.
            assert not run or all(self.pages[low + length - 1] == WARM for low, length in run)

    @rule(count=st.integers(1, 12))
    def give_back(self, count: int) -> None:
        found = self.extents.take_warm(count * GRAIN)
        longest = max((span[1] for span in self.spans(WARM)), default=0)
        if not longest:
            assert found is None
            return
        assert found is not None
        first, pages = found[0] // GRAIN, found[1] // GRAIN
        assert pages == min(count, longest)
        assert self.pages[first : first + pages] == [WARM] * pages
        self.enter(first, pages)

    @invariant()
    def agrees(self) -> None:
        self.extents.validate()
        assert self.extents.used == sum(self.taken.values()) * GRAIN
        assert self.extents.warm == self.pages.count(WARM) * GRAIN
        runs = self.spans(WARM, COLD)
        assert self.extents.free_runs() == [(first * GRAIN, count * GRAIN) for first, count in runs]
        assert self.extents.longest == max((count for _, count in runs), default=0) * GRAIN


AgainstPages.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_extents_agree_with_pages = AgainstPages.TestCase


def test_nothing_is_lost_over_a_long_life() -> None:
    chance = random.Random(5)
    extents = Extents(1 << 30)
    held: list[int] = []
    for step in range(20_000):
        if held and chance.random() < 0.48 + 0.1 * (step > 10_000):
            at = chance.randrange(len(held))
            held[at], held[-1] = held[-1], held[at]
            extents.free(held.pop())
        else:
            start = extents.take(int(2 ** chance.uniform(16, 22)))
            if start >= 0:
                held.append(start)
        if not step % 2000:
            extents.validate()
    for start in held:
        extents.free(start)
    extents.validate()
    assert extents.used == 0
    assert extents.free_runs() == [(0, 1 << 30)]


def test_what_was_used_before_is_given_out_first() -> None:
    extents = Extents(100 * GRAIN)
    first, second = extents.take(10 * GRAIN), extents.take(10 * GRAIN)
    extents.free(first)
    assert extents.take(4 * GRAIN) == first
    assert extents.take(6 * GRAIN) == first + 4 * GRAIN
    assert extents.warm == 0
    extents.free(second)
    assert extents.warm == 10 * GRAIN


def test_a_long_one_goes_over_warm_and_cold_space() -> None:
    extents = Extents(100 * GRAIN)
    extents.free(extents.take(10 * GRAIN))
    assert extents.take(50 * GRAIN) == 0
    assert extents.warm == 0


def test_an_extent_is_given_back_once() -> None:
    extents = Extents(10 * GRAIN)
    start = extents.take(GRAIN)
    extents.free(start)
    with pytest.raises(KeyError):
        extents.free(start)
    with pytest.raises(KeyError):
        extents.free(3 * GRAIN)


def test_space_of_less_than_a_page_is_none() -> None:
    extents = Extents(GRAIN - 1)
    assert extents.size == 0
    assert extents.take(1) == -1
    assert extents.longest == 0
    assert extents.next_cold(GRAIN) == (0, 0)
    extents.validate()
