"""Which worker is stopped when memory is short."""

from __future__ import annotations

import pytest

from actorfw.core.pressure import BACK_OFF_CAP, RATE, SETTLE, SHORTEST, Candidate, Pressure, back_off

GIB = 1 << 30
LIMIT = 10 * GIB


def task(key: str, born: int, own: float, *, again: bool = True) -> Candidate:
    return Candidate(key, False, again, born, int(own * GIB))


def actor(key: str, born: int, own: float, *, again: bool = True) -> Candidate:
    return Candidate(key, True, again, born, int(own * GIB))


def chosen(*candidates: Candidate, used: float = 9.6) -> str | None:
    found = Pressure(0.95).choose(int(used * GIB), LIMIT, candidates)
    return None if found is None else str(found.key)


def test_only_above_the_threshold() -> None:
    pressure = Pressure(0.95)
    assert not pressure.too_much(int(9.5 * GIB), LIMIT, 0.0)
    assert pressure.too_much(int(9.6 * GIB), LIMIT, 0.0)


def test_the_newest_that_can_run_again() -> None:
    assert chosen(task("old", 1, 2), task("new", 2, 2), task("last attempt", 3, 2, again=False)) == "new"


def test_one_without_attempts_left_if_there_is_no_other() -> None:
    assert chosen(task("old", 1, 2, again=False), task("new", 2, 2, again=False)) == "new"


def test_a_small_one_is_spared() -> None:
    assert chosen(task("large", 1, 4), task("small", 2, 0.3)) == "large"
    assert chosen(task("large, last attempt", 1, 4, again=False), task("small", 2, 0.3)) == "large, last attempt"


def test_actors_only_if_tasks_have_too_little() -> None:
    assert chosen(actor("actor", 1, 6), task("task", 2, 1)) == "task"
    assert chosen(actor("actor", 1, 6), task("task", 2, 0.2), used=9.9) == "actor"
    assert chosen(actor("stays", 1, 6, again=False), actor("restarts", 0, 6)) == "restarts"


def test_nobody_if_somebody_else_has_it() -> None:
    assert chosen(task("tiny", 1, 0.05), actor("tiny too", 2, 0.05)) is None
    assert chosen() is None


def test_one_at_a_time_and_a_moment_after_each() -> None:
    pressure = Pressure(0.95)
    assert pressure.choose(int(9.9 * GIB), LIMIT, [task("a", 1, 3)]) is not None
    assert not pressure.too_much(LIMIT, LIMIT, 1.0)
    pressure.ended("another", 1.5)
    assert not pressure.too_much(LIMIT, LIMIT, 9.0)
    pressure.ended("a", 10.0)
    assert not pressure.too_much(LIMIT, LIMIT, 10.0 + SETTLE / 2)
    assert pressure.too_much(LIMIT, LIMIT, 10.0 + SETTLE)


def test_the_pause_doubles() -> None:
    assert [back_off(times) for times in (1, 2, 3)] == [1.0, 2.0, 4.0]
    assert back_off(1000) == BACK_OFF_CAP


def test_the_less_memory_there_is_the_sooner_it_is_looked_at() -> None:
    pressure = Pressure(0.95)
    gib = 1 << 30
    assert pressure.pause(1 * gib, 64 * gib, 0.25) == 1.0
    assert pressure.pause(60 * gib, 64 * gib, 0.25) == 0.25
    small = gib // 2
    assert pressure.pause(small // 2, small, 0.25) == pytest.approx(0.45 * small / RATE)
    assert pressure.pause(int(small * 0.94), small, 0.25) == SHORTEST
    assert pressure.pause(small, small, 0.25) == SHORTEST
    assert pressure.urgent(int(small * 0.96), small, 0.25)
    assert not pressure.urgent(int(64 * gib * 0.96), 64 * gib, 0.25)
