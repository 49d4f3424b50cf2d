"""The life of one actor, step by step; all orders of events are searched in tests/sim/test_guardian_model.py."""

from __future__ import annotations

import random

import pytest

from actorfw.core import guardian as g
from actorfw.core.guardian import Guardian

A = b"A" * 16
B = b"B" * 16


class Driven:
    """A guardian with a clock."""

    def __init__(self, restarts: int = 0, backoff: float = 0.1) -> None:
        self.machine = Guardian(restarts, backoff)
        self.now = 0.0
        self._rng = random.Random(1)

    def __call__(self, event: g.Event) -> list[g.Instruction]:
        return self.machine.handle(event, self.now, self._rng)

    def up(self, host: bytes = A) -> None:
        incarnation = self.machine.incarnation
        assert self(g.Chosen(host)) == [g.Create(host, incarnation)]
        assert self(g.Created(host, incarnation)) == [g.Up()]

    def lost(self, event: g.Event) -> float:
        """It crashes; how long the pause is."""
        lost, wait = self(event)
        assert isinstance(lost, g.Restarting)
        assert isinstance(wait, g.Wait)
        assert self(g.Due()) == [g.Place()]
        return wait.seconds


def test_no_room_spends_nothing() -> None:
    d = Driven()
    d(g.Chosen(A))
    assert d(g.NoRoom(A, 1)) == [g.Place()]
    d.up(B)
    assert d.machine.incarnation == 1


def test_restarts_are_counted() -> None:
    d = Driven(restarts=2)
    for incarnation in (1, 2):
        d.up()
        d.lost(g.Crashed(A, incarnation))
    d.up(B)
    assert not d.machine.lasting
    assert d(g.Dead(B)) == [g.Ended("node_died")]
    assert d.machine.incarnation == 3


def test_without_end() -> None:
    d = Driven(restarts=-1)
    for incarnation in range(1, 50):
        d.up()
        d.lost(g.Crashed(A, incarnation))


def test_the_pause_grows_and_begins_anew() -> None:
    d = Driven(restarts=-1, backoff=1.0)
    for incarnation, longest in enumerate((1, 2, 4, 8, 16, 30, 30), 1):
        d.up()
        assert longest / 2 <= d.lost(g.Crashed(A, incarnation)) <= longest
    d.up()
    d.now += g.LONGEST
    assert d.lost(g.Crashed(A, 8)) <= 1


@pytest.mark.parametrize("how", ["killed", "stopped", "released"])
def test_after_an_end_no_incarnation_follows(how: str) -> None:
    d = Driven(restarts=-1)
    d.up()
    orders = d(g.End(how))
    assert orders[-1] == g.Stop(A, 1, how)
    for event in (g.Dead(A), g.Crashed(A, 1), g.Due(), g.Move(), g.Chosen(B)):
        assert not any(isinstance(todo, (g.Place, g.Create, g.Restarting)) for todo in d(event))
    assert d.machine.state == g.ENDED


def test_kill_overtakes_stop() -> None:
    d = Driven()
    d.up()
    d(g.End("stopped"))
    assert d(g.End("released")) == []
    assert d(g.End("killed")) == [g.Ended("killed"), g.Stop(A, 1, "killed")]


def test_a_move_is_free() -> None:
    d = Driven(restarts=1)
    d.up()
    assert d(g.Move()) == [g.MoveOff(A, 1)]
    assert d(g.Over(A, 1, "drain")) == [g.Restarting(1, "drain"), g.Place()]
    assert d.machine.left == 1
    d.up(B)
    assert d.machine.incarnation == 2


def test_what_others_than_its_host_say_is_void() -> None:
    d = Driven(restarts=1)
    d.up()
    for event in (g.Crashed(B, 1), g.Crashed(A, 2), g.Over(B, 1, "exited"), g.Dead(B), g.NoRoom(A, 1)):
        assert d(event) == []
    assert d.machine.state == g.UP


def test_a_new_guardian_takes_what_lives_and_else_goes_on_to_the_next_number() -> None:
    d = Driven(restarts=1)
    d(g.Chosen(A))
    assert d(g.Adopt(B, 3)) == [g.Up()]
    assert (d.machine.host, d.machine.incarnation) == (B, 3)
    e = Driven(restarts=1)
    e(g.Chosen(A))
    assert e(g.Adopt(None, 0)) == [g.Restarting(1, "node_died"), g.Place()]
    assert (e.machine.incarnation, e.machine.left) == (2, 1)
