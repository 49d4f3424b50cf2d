"""Each rule of ownership as a small table: what happened, what is sent, what is freed, what remains."""

from __future__ import annotations

import pytest

from actorfw.core.ownership import Instruction, Ownership
from actorfw.values.ids import RefId

ME, OWNER, A, B = (bytes([65 + n]) * 16 for n in range(4))
WORKER = ("worker", 1)
MINE: RefId = (ME, 1)
MINE2: RefId = (ME, 2)
THEIRS: RefId = (OWNER, 7)


def send(peer: object, verb: str, id: RefId, asof: int | None = None) -> tuple[object, ...]:
    return ("send", peer, verb, id, asof)


def free(id: RefId) -> tuple[object, ...]:
    return ("free", id)


def lost(id: RefId) -> tuple[object, ...]:
    return ("lost", id)


@pytest.fixture
def me() -> Ownership:
    return Ownership(ME)


def got(me: Ownership, giver: object, id: RefId) -> list[Instruction]:
    """A message with this ref arrived and its handle was made."""
    token = me.took(giver, [id])
    return me.hold(id) + me.settle(token)


def borrowed(me: Ownership, id: RefId = THEIRS) -> None:
    """A borrowed ref in its steady state: held here, listed at the owner."""
    me.hold(id)
    me.on_grant(id[0], id)


def empty(me: Ownership) -> bool:
    tables = me.snapshot()[0]
    assert isinstance(tables, tuple)
    return not any(tables)


class TestOwnRefs:
    def test_a_handle_holds_and_the_last_one_frees(self, me: Ownership) -> None:
        assert me.hold(MINE) == []
        assert me.live(MINE)
        assert me.drop(MINE) == [free(MINE)]
        assert not me.live(MINE)
        assert empty(me)

    def test_a_second_drop_does_nothing(self, me: Ownership) -> None:
        me.hold(MINE)
        me.drop(MINE)
        assert me.drop(MINE) == []

    def test_bytes_hold_the_refs_in_them(self, me: Ownership) -> None:
        me.hold(MINE)
        assert me.store("value", [MINE, MINE2, MINE]) == []
        assert me.store("value", [MINE2]) == []
        assert me.store("queued call", [MINE]) == []
        assert me.drop(MINE) == []
        assert me.unstore("value") == [free(MINE2)]
        assert me.unstore("value") == []
        assert me.unstore("queued call") == [free(MINE)]
        assert empty(me)

    def test_a_call_holds_until_its_answer_and_sends_nothing(self, me: Ownership) -> None:
        me.hold(MINE)
        assert me.call_sent(1, A, [MINE, MINE]) == []
        assert me.drop(MINE) == []
        assert me.call_ended(1) == [free(MINE)]
        assert empty(me)

    def test_what_the_callee_keeps_lists_it(self, me: Ownership) -> None:
        me.call_sent(1, A, [MINE, MINE2])
        assert me.call_ended(1, [MINE]) == [free(MINE2)]
        assert me.on_return(A, MINE, 0) == []
        assert me.on_return(A, MINE, 1) == [free(MINE)]
        assert empty(me)

    def test_an_unknown_kept_ref_is_ignored(self, me: Ownership) -> None:
        me.call_sent(1, A, [MINE])
        assert me.call_ended(1, [MINE2]) == [free(MINE)]
        assert empty(me)

    def test_the_same_sending_twice_is_a_mistake(self, me: Ownership) -> None:
        me.call_sent(1, A, [MINE])
        with pytest.raises(ValueError, match="another call"):
            me.call_sent(1, B, [MINE])

    def test_calls_without_refs_are_not_known(self, me: Ownership) -> None:
        assert me.call_sent(1, A, []) == []
        assert me.call_ended(1) == []
        assert me.call_received(A, 1, []) == []
        assert me.call_answered(A, 1) == ((), [])
        assert empty(me)

    def test_a_gift_holds_until_it_is_returned_as_of_it(self, me: Ownership) -> None:
        me.gave(A, [MINE2])
        me.gave(A, [MINE])
        me.gave(A, [MINE])
        assert me.on_return(A, MINE, 2) == []  # made before the third message arrived there
        assert me.on_return(B, MINE, 3) == []
        assert me.on_return(A, MINE, 3) == [free(MINE)]
        assert me.on_return(A, MINE, 3) == []

    def test_a_message_with_no_refs_is_not_counted(self, me: Ownership) -> None:
        me.gave(A, [])
        me.gave(A, [MINE])
        assert me.on_return(A, MINE, 1) == [free(MINE)]

    def test_borrow_is_granted_and_listed_as_a_gift(self, me: Ownership) -> None:
        me.hold(MINE)
        me.gave(A, [MINE])
        assert me.on_borrow(B, MINE) == [send(B, "grant", MINE)]
        assert me.on_return(A, MINE, 1) == []
        me.drop(MINE)
        assert me.live(MINE)
        assert me.on_return(B, MINE, 1) == [free(MINE)]

    def test_borrow_of_what_is_not_here_is_gone(self, me: Ownership) -> None:
        assert me.on_borrow(B, MINE) == [send(B, "gone", MINE)]
        assert me.on_borrow(B, THEIRS) == [send(B, "gone", THEIRS)]
        assert empty(me)

    def test_it_comes_home(self, me: Ownership) -> None:
        me.gave(A, [MINE])
        assert got(me, A, MINE) == [send(A, "return", MINE, 1)]
        me.on_return(A, MINE, 1)
        assert me.drop(MINE) == [free(MINE)]

    def test_it_comes_home_too_late(self, me: Ownership) -> None:
        token = me.took(A, [MINE])
        me.hold(MINE)
        assert lost(MINE) in me.settle(token)
        assert me.on_borrow(B, MINE) == [send(B, "gone", MINE)]
        me.gave(B, [MINE])
        assert me.drop(MINE) == [free(MINE)]
        assert empty(me)

    def test_an_argument_comes_home_too_late(self, me: Ownership) -> None:
        assert me.call_received(A, 1, [MINE]) == [lost(MINE)]
        assert me.call_answered(A, 1) == ((), [free(MINE)])

    def test_a_call_on_an_own_ref_keeps_nothing_at_its_owner(self, me: Ownership) -> None:
        me.hold(MINE)
        me.call_received(A, 1, [MINE])
        assert me.drop(MINE) == []
        assert me.call_answered(A, 1) == ((), [free(MINE)])


class TestBorrowedRefs:
    def test_from_its_owner_it_needs_no_registration(self, me: Ownership) -> None:
        assert got(me, OWNER, THEIRS) == []
        assert me.drop(THEIRS) == [send(OWNER, "return", THEIRS, 1), free(THEIRS)]
        assert empty(me)

    def test_from_another_it_is_registered_and_then_returned(self, me: Ownership) -> None:
        assert got(me, A, THEIRS) == [send(OWNER, "borrow", THEIRS)]
        assert me.on_grant(OWNER, THEIRS) == [send(A, "return", THEIRS, 1)]
        assert me.drop(THEIRS) == [send(OWNER, "return", THEIRS, 1), free(THEIRS)]
        assert empty(me)

    def test_two_givers_are_both_released(self, me: Ownership) -> None:
        got(me, A, THEIRS)
        assert got(me, B, THEIRS) == []
        assert me.on_grant(OWNER, THEIRS) == [send(A, "return", THEIRS, 1), send(B, "return", THEIRS, 1)]

    def test_a_gift_while_registered_is_returned_at_once(self, me: Ownership) -> None:
        borrowed(me)
        assert got(me, A, THEIRS) == [send(A, "return", THEIRS, 1)]

    def test_dropped_while_asking_waits_for_the_grant(self, me: Ownership) -> None:
        got(me, A, THEIRS)
        assert me.drop(THEIRS) == []
        assert me.on_grant(OWNER, THEIRS) == [
            send(A, "return", THEIRS, 1),
            send(OWNER, "return", THEIRS, 1),
            free(THEIRS),
        ]
        assert empty(me)

    def test_unpickling_that_failed_leaves_nothing(self, me: Ownership) -> None:
        token = me.took(A, [THEIRS])
        assert me.live(THEIRS)
        assert me.settle(token) == [send(A, "return", THEIRS, 1), free(THEIRS)]
        assert me.settle(token) == []
        assert empty(me)

    def test_held_by_the_message_until_the_handle_exists(self, me: Ownership) -> None:
        token = me.took(OWNER, [THEIRS])
        me.gave(B, [THEIRS])
        assert me.on_return(B, THEIRS, 1) == []
        assert me.live(THEIRS)
        me.hold(THEIRS)
        assert me.settle(token) == []

    def test_a_handle_out_of_nowhere_registers(self, me: Ownership) -> None:
        assert me.hold(THEIRS) == [send(OWNER, "borrow", THEIRS)]
        assert me.on_grant(OWNER, THEIRS) == []

    def test_passed_on_it_stays_until_the_taker_is_listed(self, me: Ownership) -> None:
        borrowed(me)
        assert me.gave(A, [THEIRS]) == []
        assert me.drop(THEIRS) == []
        assert me.on_return(A, THEIRS, 1) == [send(OWNER, "return", THEIRS, 1), free(THEIRS)]

    def test_an_unasked_grant_is_returned(self, me: Ownership) -> None:
        assert me.on_grant(OWNER, THEIRS) == [send(OWNER, "return", THEIRS, 1)]
        assert empty(me)

    def test_gone_is_lost_and_not_asked_again(self, me: Ownership) -> None:
        got(me, A, THEIRS)
        assert me.on_gone(OWNER, THEIRS) == [lost(THEIRS), send(A, "return", THEIRS, 1)]
        assert me.hold(THEIRS) == []
        assert me.call_sent(1, B, [THEIRS]) == []
        assert me.gave(B, [THEIRS]) == []
        assert me.drop(THEIRS) == []
        assert me.call_ended(1, [THEIRS]) == [free(THEIRS)]
        assert empty(me)

    def test_gone_by_somebody_else_is_ignored(self, me: Ownership) -> None:
        got(me, A, THEIRS)
        assert me.on_gone(A, THEIRS) == []
        assert me.on_gone(A, MINE) == []


class TestReceivedCalls:
    def test_nothing_kept_nothing_sent(self, me: Ownership) -> None:
        assert me.call_received(A, 1, [THEIRS]) == []
        assert me.call_answered(A, 1) == ((), [free(THEIRS)])
        assert empty(me)

    def test_a_kept_argument_is_named_and_registered(self, me: Ownership) -> None:
        me.call_received(A, 1, [THEIRS, MINE])
        assert me.hold(THEIRS) == []
        kept, following = me.call_answered(A, 1)
        assert kept == (THEIRS,)
        assert send(OWNER, "borrow", THEIRS) in following
        assert me.on_grant(OWNER, THEIRS) == [send(A, "return", THEIRS, 1)]

    def test_kept_of_the_caller_itself_needs_no_registration(self, me: Ownership) -> None:
        me.call_received(OWNER, 1, [THEIRS])
        me.hold(THEIRS)
        assert me.call_answered(OWNER, 1) == ((THEIRS,), [])
        assert me.drop(THEIRS) == [send(OWNER, "return", THEIRS, 1), free(THEIRS)]

    def test_kept_by_passing_it_on(self, me: Ownership) -> None:
        me.call_received(A, 1, [THEIRS])
        assert me.gave(B, [THEIRS]) == []
        kept, following = me.call_answered(A, 1)
        assert kept == (THEIRS,)
        assert following == [send(OWNER, "borrow", THEIRS)]

    def test_already_listed_is_not_kept(self, me: Ownership) -> None:
        borrowed(me)
        me.call_received(A, 1, [THEIRS])
        assert me.call_answered(A, 1) == ((), [])

    def test_two_calls_of_one_caller_with_the_same_argument(self, me: Ownership) -> None:
        me.call_received(A, 1, [THEIRS])
        me.call_received(A, 2, [THEIRS])
        me.hold(THEIRS)
        assert me.call_answered(A, 1) == ((), [])  # A holds it for the other call
        assert me.call_answered(A, 2) == ((THEIRS,), [send(OWNER, "borrow", THEIRS)])

    def test_two_callers_with_the_same_argument(self, me: Ownership) -> None:
        me.call_received(A, 1, [THEIRS])
        me.call_received(B, 1, [THEIRS])
        # B may have it from us: then only A's hold stands between it and its owner.
        assert me.call_answered(A, 1) == ((THEIRS,), [send(OWNER, "borrow", THEIRS)])
        assert me.call_answered(B, 1) == ((), [])
        assert me.on_grant(OWNER, THEIRS) == [
            send(A, "return", THEIRS, 1),
            send(OWNER, "return", THEIRS, 1),
            free(THEIRS),
        ]

    def test_handed_back_to_a_caller_who_owns_it(self) -> None:
        caller, callee = Ownership(ME), Ownership(A)
        caller.call_sent(1, A, [MINE])
        callee.call_received(ME, 1, [MINE])
        callee.gave(ME, [MINE])
        kept, following = callee.call_answered(ME, 1)
        assert (kept, following) == ((MINE,), [])
        token = caller.took(A, [MINE])
        assert caller.call_ended(1, kept) == [send(A, "return", MINE, 1)]
        caller.hold(MINE)
        assert caller.settle(token) == []
        assert callee.on_return(ME, MINE, 1) == [send(ME, "return", MINE, 1), free(MINE)]
        assert caller.on_return(A, MINE, 1) == []
        assert caller.drop(MINE) == [free(MINE)]
        assert empty(caller)
        assert empty(callee)


class TestWorkers:
    def test_it_returns_what_it_kept(self, me: Ownership) -> None:
        me.call_sent(1, WORKER, [MINE])
        assert me.call_ended(1, [MINE]) == []
        assert me.on_return(WORKER, MINE, 1) == [free(MINE)]

    def test_what_it_made_is_its_own_until_returned(self, me: Ownership) -> None:
        me.gave(WORKER, [MINE2])
        assert me.born(MINE, WORKER) == []
        assert me.on_return(WORKER, MINE, 0) == [free(MINE)]

    def test_a_gift_of_what_it_made_crosses_its_return(self, me: Ownership) -> None:
        me.born(MINE, WORKER)
        me.gave(WORKER, [MINE])
        assert me.on_return(WORKER, MINE, 0) == []
        assert me.on_return(WORKER, MINE, 1) == [free(MINE)]

    def test_a_foreign_ref_is_borrowed_for_it(self, me: Ownership) -> None:
        me.call_received(A, 1, [THEIRS])
        me.call_sent("dispatch", WORKER, [THEIRS])
        me.call_ended("dispatch", [THEIRS])
        kept, following = me.call_answered(A, 1)
        assert kept == (THEIRS,)
        assert following == [send(OWNER, "borrow", THEIRS)]

    def test_its_death_ends_all_it_held(self, me: Ownership) -> None:
        me.born(MINE, WORKER)
        me.call_sent(1, WORKER, [MINE2])
        assert sorted(map(str, me.worker_dead(WORKER))) == sorted(map(str, [free(MINE), free(MINE2)]))
        assert me.call_ended(1, [MINE2]) == []
        assert empty(me)


class TestDeath:
    def test_what_a_dead_borrower_held_stays_for_the_grace(self, me: Ownership) -> None:
        me.gave(A, [MINE])
        me.call_sent(1, A, [MINE2])
        assert me.dead(A) == []
        assert me.call_ended(1) == []  # its failure is not an answer
        assert me.on_borrow(B, MINE) == [send(B, "grant", MINE)]
        assert me.grace_over(A) == [free(MINE2)]
        assert me.on_return(B, MINE, 1) == [free(MINE)]
        assert empty(me)

    def test_whom_only_the_dead_protected_registers(self, me: Ownership) -> None:
        me.call_received(A, 1, [THEIRS])
        assert me.dead(A) == [send(OWNER, "borrow", THEIRS)]
        me.on_grant(OWNER, THEIRS)
        assert me.call_answered(A, 1) == ((), [send(OWNER, "return", THEIRS, 1), free(THEIRS)])
        assert empty(me)

    def test_a_giver_dies_while_asking(self, me: Ownership) -> None:
        got(me, A, THEIRS)
        assert me.dead(A) == []
        assert me.on_grant(OWNER, THEIRS) == []
        assert me.live(THEIRS)

    def test_the_owner_dies(self, me: Ownership) -> None:
        borrowed(me)
        me.gave(A, [THEIRS])
        got(me, B, (OWNER, 8))
        assert me.dead(OWNER) == [lost(THEIRS), lost((OWNER, 8)), send(B, "return", (OWNER, 8), 1)]
        assert me.dead(OWNER) == []
        assert me.on_return(A, THEIRS, 1) == []
        assert me.drop(THEIRS) == [free(THEIRS)]
        assert me.drop((OWNER, 8)) == [free((OWNER, 8))]
        assert empty(me)

    def test_an_id_of_a_dead_owner_comes_by(self, me: Ownership) -> None:
        me.dead(OWNER)
        assert got(me, A, THEIRS) == [send(A, "return", THEIRS, 1), lost(THEIRS)]
        assert me.call_received(A, 1, [THEIRS, (OWNER, 8)]) == [lost((OWNER, 8))]
        assert me.call_answered(A, 1) == ((), [free((OWNER, 8))])
        assert me.hold((OWNER, 9)) == [lost((OWNER, 9))]

    def test_nothing_is_recorded_for_the_dead(self, me: Ownership) -> None:
        me.dead(A)
        me.grace_over(A)
        me.gave(A, [MINE])
        me.call_sent(1, A, [MINE])
        me.call_received(A, 1, [MINE])
        assert me.settle(me.took(A, [MINE])) == []
        assert me.on_borrow(A, MINE) == []
        assert me.on_grant(A, (A, 1)) == []
        assert empty(me)

    def test_forget_all(self, me: Ownership) -> None:
        me.hold(MINE)
        token = me.took(A, [THEIRS])
        assert me.forget_all() == [free(MINE), free(THEIRS)]
        assert me.settle(token) == []
        assert me.drop(MINE) == []
        assert len(me) == 0


def test_holders_tells_why(me: Ownership) -> None:
    assert me.holders(THEIRS) is None
    got(me, A, THEIRS)
    me.store("spec", [THEIRS])
    me.gave(B, [THEIRS])
    holding = me.holders(THEIRS)
    assert holding is not None
    assert holding._asdict() == {
        "local": True,
        "calls": 0,
        "args": 0,
        "inside": 1,
        "lent": {B: 1},
        "prot": frozenset([A]),
        "reg": "asked",
    }
    assert len(me) == 1
