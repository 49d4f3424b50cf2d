"""`Holds`: when a host asks, for how long an answer is good, and what it says at an end."""

from __future__ import annotations

from actorfw.core.holds import Holds

KEY = ("n", "a")
ID = (b"life", 1)


def test_an_answer_is_good_for_eight_seconds_from_when_it_was_asked_for() -> None:
    holds = Holds()
    holder, asked = holds.add(KEY, ID, 1, 100.0)
    assert asked == [("ask", 1, KEY, ID, 1)]
    assert holder.until == 0.0
    assert holds.answered(1, True, 102.0) == [("begin", ID)]
    assert holder.until == 108.0
    assert holds.tick(103.0) == []
    assert holds.tick(103.4) == [("ask", 2, KEY, ID, 1)]
    assert holds.answered(2, True, 103.5) == [], "it began before"
    assert holder.until == 111.4


def test_an_answer_that_comes_too_late_is_asked_for_again() -> None:
    holds = Holds()
    holder, _ = holds.add(KEY, ID, 1, 0.0)
    assert holds.answered(1, True, 9.0) == [("ask", 2, KEY, ID, 1)]
    assert holder.until <= 9.0
    assert holds.answered(2, True, 9.5) == [("begin", ID)]


def test_after_a_pause_it_is_told_when_it_may_begin_again() -> None:
    holds = Holds()
    holder, _ = holds.add(KEY, ID, 1, 0.0)
    holds.answered(1, True, 0.1)
    assert holds.tick(3.5) == [("ask", 2, KEY, ID, 1)]
    assert holds.tick(8.1) == []
    assert holds.answered(2, None, 8.2) == [], "nobody could be asked"
    assert holds.tick(8.3) == []
    assert holds.tick(8.8) == [("ask", 3, KEY, ID, 1)]
    assert holds.answered(3, True, 8.9) == [("begin", ID)]
    assert holder.until == 16.8


def test_a_no_ends_it_at_once() -> None:
    holds = Holds()
    holder, _ = holds.add(KEY, ID, 1, 0.0)
    holds.answered(1, True, 0.1)
    holds.tick(4.0)
    holds.answered(2, False, 4.1)
    assert holder.until == 0.0


def test_only_one_that_began_lets_go() -> None:
    holds = Holds()
    holds.add(KEY, ID, 1, 0.0)
    assert holds.drop(ID) == []
    holder, _ = holds.add(KEY, ID, 2, 0.0)
    holds.answered(2, True, 0.1)
    assert holds.drop(ID, 1) == [], "another incarnation"
    assert holds.drop(ID, 2) == [("let_go", KEY, ID, 2)]
    assert holder.until == 0.0
    assert holds.answered(2, True, 0.2) == []


def test_the_next_incarnation_here_lets_go_for_the_one_before() -> None:
    holds = Holds()
    holds.add(KEY, ID, 1, 0.0)
    holds.answered(1, True, 0.1)
    _, todo = holds.add(KEY, ID, 2, 1.0)
    assert todo == [("let_go", KEY, ID, 1), ("ask", 2, KEY, ID, 2)]
