"""The figures of limits."""

from __future__ import annotations

import pytest

from actorfw.core.limits import Bucket, Limit, Limits


def test_a_limit_knows_how_much_there_was() -> None:
    limit = Limit(3)
    for now in (1, 3, 2):
        limit.set(now)
    assert not limit.full
    assert limit.row() == {"limit": 3, "now": 2, "most": 3, "refused": 0}


def test_what_others_count_is_read_when_it_is_asked_for() -> None:
    there = [5]
    limit = Limit(9, reading=lambda: there[0])
    assert limit.row()["now"] == 5
    there[0] = 1
    assert limit.row() == {"limit": 9, "now": 1, "most": 5, "refused": 0}


def test_where_nothing_is_counted_nothing_is_said() -> None:
    assert Limit(7, measured=False).row() == {"limit": 7, "now": None, "most": None, "refused": 0}
    assert not Limit(None).full


def test_a_bucket_gives_a_burst_and_then_its_rate() -> None:
    bucket = Bucket(10.0, 3)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait(0.0) == pytest.approx(0.1)
    assert bucket.take(0.1)
    assert not bucket.take(0.1)
    bucket.give_back()
    assert bucket.take(0.1)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.limit.row() == {"limit": 10, "now": 3, "most": 3, "refused": 0}


def test_a_clock_that_stands_still_gives_nothing() -> None:
    bucket = Bucket(1.0, 1)
    assert bucket.take(5.0)
    assert not bucket.take(4.0)
    assert not bucket.take(4.5, much=100.0)


def test_rows_are_sorted_by_name() -> None:
    limits = Limits()
    limits.add("b", Limit(1))
    limits.add("a", Limit(2))
    assert list(limits.rows()) == ["a", "b"]
    assert limits["a"].limit == 2
