"""How far a generator may be ahead, and what of a second run is sent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actorfw.core.credit import BYTES, ITEMS, Allowance, more

MIB = 1024 * 1024


def produced(allowance: Allowance, size: int, most: int = 1000) -> int:
    """How many items it sends before it has to wait."""
    count = 0
    while allowance.there() and count < most:
        allowance.sent(size)
        count += 1
    return count


def test_small_items_are_bounded_by_their_number() -> None:
    allowance = Allowance(ITEMS)
    assert produced(allowance, 100) == ITEMS
    allowance.taken(5)
    assert produced(allowance, 100) == 5


def test_large_items_are_bounded_by_their_bytes() -> None:
    allowance = Allowance(ITEMS)
    assert produced(allowance, 10 * MIB) == 2
    allowance.taken(1)
    assert produced(allowance, 10 * MIB) == 1


def test_an_item_of_any_size_is_let_through() -> None:
    assert produced(Allowance(ITEMS), 100 * BYTES) == 1


@given(st.lists(st.integers(1, 40 * MIB), min_size=1, max_size=200))
def test_never_more_ahead_than_the_window_and_one_item(sizes: list[int]) -> None:
    allowance = Allowance(ITEMS)
    ahead: list[int] = []
    for size in sizes:
        while not allowance.there():
            ahead.pop(0)
            allowance.taken(1)
        assert sum(ahead) < BYTES
        assert len(ahead) < ITEMS
        ahead.append(size)
        allowance.sent(size)


def test_what_an_earlier_run_brought_is_not_sent_and_does_not_count() -> None:
    allowance = Allowance([ITEMS, 0, 100, None])
    assert [index for index in range(200) if allowance.wants(index)] == list(range(100, 200))
    assert produced(allowance, 1) == ITEMS


def test_credit_for_items_of_an_earlier_run_lets_the_bytes_of_this_one_pass() -> None:
    allowance = Allowance(ITEMS)
    allowance.taken(3)  # they were taken while this run began: it will send them once more, in vain
    assert produced(allowance, 10 * MIB) == 5


def test_only_what_is_wanted_is_sent_and_the_last_of_it_is_the_end() -> None:
    allowance = Allowance([ITEMS, 1 << 62, 0, [3, 70]])
    assert [index for index in range(100) if allowance.wants(index)] == [3, 70]
    assert [allowance.over(index) for index in (0, 3, 4, 70, 71)] == [False, False, False, False, True]
    assert produced(allowance, 10 * MIB, 100) == 100  # nobody takes them one by one
    assert allowance.first == 1 << 62


def test_a_consumer_that_went_away_lets_it_go_on_to_its_end() -> None:
    allowance = Allowance(ITEMS)
    produced(allowance, 1)
    allowance.taken(-1)
    assert allowance.there()
    assert allowance.closed


def test_more_was_taken_before_it_has_started() -> None:
    assert more(32, 16) == [32, 0, 16, None]
    assert more([32, 7, 3, None], 16) == [32, 7, 19, None]
    assert Allowance(more(32, 16)).wants(15) is False
    assert produced(Allowance(more(32, 16)), 1) == ITEMS
