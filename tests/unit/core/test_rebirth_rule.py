"""Who of two lives is reborn: the table, the tie-breaks, and what one node remembers of its decisions."""

from __future__ import annotations

from typing import Any

import pytest

from actorfw.core.rebirth import CONDEMNED_SECONDS, Contest, Side, View, decide
from actorfw.values.errors import ProtocolError

LOW, HIGH = b"a" * 16, b"b" * 16


def side(life: bytes = LOW, alive: int = 3, oldest: float = 10.0, buried: float | None = 1.0) -> Side:
    return Side(life, View(alive, oldest), buried)


@pytest.mark.parametrize(
    ("dialler", "acceptor", "reborn"),
    [
        (side(buried=None), side(HIGH, buried=None), "meet"),
        (side(buried=None), side(HIGH), "dialler"),
        (side(alive=9, buried=None), side(HIGH, alive=1), "dialler"),
        (side(), side(HIGH, buried=None), "acceptor"),
        (side(alive=2), side(HIGH, alive=3), "dialler"),
        (side(alive=3), side(HIGH, alive=2), "acceptor"),
        (side(oldest=11.0), side(HIGH, oldest=10.0), "dialler"),
        (side(oldest=10.0), side(HIGH, oldest=11.0), "acceptor"),
        (side(LOW), side(HIGH), "acceptor"),
        (side(HIGH), side(LOW), "dialler"),
        (side(alive=2, oldest=1.0), side(HIGH, alive=3, oldest=9.0), "dialler"),
        # A tombstone of this very moment is one too.
        (side(buried=0.0), side(HIGH, buried=None), "acceptor"),
    ],
)
def test_the_table(dialler: Side, acceptor: Side, reborn: str) -> None:
    assert decide(dialler, acceptor) == reborn


def test_both_orders_of_dialling_give_the_same_loser() -> None:
    sides = [side(life, alive, oldest) for life in (LOW, HIGH) for alive in (1, 2) for oldest in (1.0, 2.0)]
    for one in sides:
        for other in sides:
            if one.life != other.life:
                first = one.life if decide(one, other) == "dialler" else other.life
                second = other.life if decide(other, one) == "dialler" else one.life
                assert first == second


def test_an_older_view_is_the_one_with_the_older_member() -> None:
    assert View.of([5.0, 3.0, 4.0]) == View(3, 3.0)
    assert View.of([]) == View(0, 0.0)


def test_a_side_travels() -> None:
    for buried in (None, 2.5):
        told = side(buried=buried)
        assert Side.from_wire(LOW, told.to_wire()) == told


@pytest.mark.parametrize(
    "wire", [None, [], [3, 1.0], [0, 1.0, None], [3, 1, None], [3, 1.0, 2], ["3", 1.0, None], [3, 1.0, None, 4]]
)
def test_nonsense_is_no_side(wire: Any) -> None:
    with pytest.raises(ProtocolError, match="members, oldest, buried"):
        Side.from_wire(LOW, wire)


def test_one_offer_to_a_life_at_a_time() -> None:
    contest = Contest(LOW)
    assert contest.offering(HIGH)
    assert not contest.offering(HIGH)
    contest.answered(HIGH)
    assert contest.offering(HIGH)


def test_of_two_that_ask_each_other_only_the_higher_decides() -> None:
    low, high = Contest(LOW), Contest(HIGH)
    low.offering(HIGH)
    high.offering(LOW)
    assert low.accepted(side(HIGH), side(LOW), 0.0) == "later"
    assert high.accepted(side(LOW, alive=2), side(HIGH, alive=3), 0.0) == "dialler"
    # Without an offer of its own the lower one decides as well.
    low.answered(HIGH)
    assert low.accepted(side(HIGH, alive=2), side(LOW, alive=3), 0.0) == "dialler"
    # Where nobody has buried anybody there is nothing to decide.
    low.offering(HIGH)
    assert low.accepted(side(HIGH, buried=None), side(LOW, buried=None), 0.0) == "meet"


def test_whom_one_has_told_to_be_reborn_one_does_not_obey_for_a_while() -> None:
    contest = Contest(LOW)
    assert contest.obeys(HIGH, 0.0)
    contest.accepted(side(HIGH, alive=1), side(LOW, alive=3), 0.0)
    assert not contest.obeys(HIGH, CONDEMNED_SECONDS - 0.1)
    assert contest.obeys(HIGH, CONDEMNED_SECONDS)
    assert contest.obeys(b"c" * 16, 0.0)
