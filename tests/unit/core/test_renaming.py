"""A node's ids and records of holding when it takes a new life."""

from __future__ import annotations

from actorfw.core.ownership import Ownership
from actorfw.core.renaming import Renaming
from actorfw.values.ids import detached_life

NODE, OTHER = b"node----", b"other---"
OLD, NEW = NODE + b"life one", NODE + b"life two"
THEM = OTHER + b"whatever"
WORKER = ("worker", 1)
MINE, THEIRS = (OLD, 5), (THEM, 5)
RENAMING = Renaming(OLD, NEW)
LOST = RENAMING.id(THEIRS)


def test_own_ids_get_the_new_life_and_those_of_others_one_that_nobody_has() -> None:
    assert RENAMING.id(MINE) == (NEW, 5)
    assert LOST[1] == 5
    assert LOST[0] not in (OLD, NEW, THEM)
    assert RENAMING.is_lost(LOST[0])
    assert RENAMING.is_lost(OLD)
    assert not RENAMING.is_lost(THEM)
    assert not RENAMING.is_lost(NEW)
    detached = detached_life(b"a token.")
    assert RENAMING.id((detached, 3)) == (detached, 3)
    assert not RENAMING.is_lost(detached)
    # Two of others that differ in their lives alone stay two.
    assert RENAMING.id((OTHER + b"a second", 5)) != LOST


def test_lives_in_messages_and_keys() -> None:
    message = [43, 7, b"hash", [b"data", [], [[OLD, 5, "a:1"], [THEM, 6, "b:1"]], []], (OLD, 9), "x", None]
    assert RENAMING.within(message) == [
        *(43, 7, b"hash", [b"data", [], [[NEW, 5, "a:1"], [THEM, 6, "b:1"]], []], [NEW, 9], "x", None)
    ]
    assert RENAMING.within_key(("name", MINE)) == ("name", (NEW, 5))
    assert RENAMING.within_key((THEM, (3, OLD))) == (THEM, (3, NEW))
    assert RENAMING.deps([[OLD, 5, "a:1"], [THEM, 5, "b:1", b"value"]]) == [
        (NEW, 5, "a:1"),
        (*LOST, "b:1", b"value"),
    ]
    assert RENAMING.deps(None) is None


def test_what_is_held_here_stays_held_and_what_others_hold_does_not() -> None:
    me = Ownership(OLD)
    me.hold(MINE)
    me.gave(THEM, [MINE, (OLD, 6)])
    me.hold((OLD, 6))
    me.drop((OLD, 6))  # only lent from now on
    me.store(("name", (OLD, 7)), [(OLD, 7)])
    assert RENAMING.ownership(me) == [("free", (NEW, 6))]
    held = me.holders((NEW, 5))
    assert held is not None
    assert (held.local, held.lent) == (True, {})
    assert me.holders(MINE) is None
    assert me.live((NEW, 7))
    assert me.unstore(("name", (NEW, 7))) == [("free", (NEW, 7))]
    assert me.drop((NEW, 5)) == [("free", (NEW, 5))]
    assert len(me) == 0


def test_a_worker_goes_on_holding_under_the_new_name() -> None:
    me = Ownership(OLD)
    me.born(MINE, WORKER)
    me.hold((OLD, 6))
    me.gave(WORKER, [(OLD, 6)])
    me.drop((OLD, 6))
    assert RENAMING.ownership(me) == []
    assert me.on_return(WORKER, (NEW, 5), 0) == [("free", (NEW, 5))]
    # A release that was made before the gift does not undo it; one made after it does.
    assert me.on_return(WORKER, (NEW, 6), 0) == []
    assert me.on_return(WORKER, (NEW, 6), 1) == [("free", (NEW, 6))]


def test_what_others_own_is_lost_and_met_anew() -> None:
    me = Ownership(OLD)
    me.settle(me.took(THEM, [THEIRS]))
    token = me.took(THEM, [THEIRS])
    me.hold(THEIRS)
    me.settle(token)
    assert RENAMING.ownership(me) == [("lost", LOST)]
    assert me.drop(LOST) == [("free", LOST)]
    # The same life is a stranger now, whose messages are counted from the first.
    token = me.took(THEM, [THEIRS])
    me.hold(THEIRS)
    assert me.settle(token) == []
    assert me.drop(THEIRS) == [("send", THEM, "return", THEIRS, 1), ("free", THEIRS)]
    # The names of the old life lead nowhere, whoever still says them.
    token = me.took(THEM, [MINE])
    assert ("lost", MINE) in me.settle(token)


def test_calls_that_are_out_or_in_are_over() -> None:
    me = Ownership(OLD)
    me.hold(MINE)
    me.call_sent((1, THEM), THEM, [MINE])
    me.call_received(THEM, (2, OLD), [MINE])
    me.dead(THEM)  # what runs for it goes on
    RENAMING.ownership(me)
    assert not me.awaiting
    held = me.holders((NEW, 5))
    assert held is not None
    assert (held.calls, held.args, held.inside) == (0, 0, 1)
    me.call_answered(THEM, (2, NEW))
    assert me.drop((NEW, 5)) == [("free", (NEW, 5))]
