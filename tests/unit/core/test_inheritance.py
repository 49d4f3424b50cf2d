"""The table of heirs, and each step of a hand-over as a small table: what happened, what is sent, what remains."""

from __future__ import annotations

import pytest

from actorfw.core.inheritance import Bequest, Estate, Heirs
from actorfw.core.ownership import Instruction, Ownership
from actorfw.values.ids import RefId

LEAVER, HEIR, A, B = (bytes([65 + n]) * 16 for n in range(4))
MINE: RefId = (LEAVER, 1)
OTHER: RefId = (LEAVER, 2)
THEIRS: RefId = (A, 7)


def send(peer: object, verb: str, id: RefId, asof: int | None = None) -> tuple[object, ...]:
    return ("send", peer, verb, id, asof)


def got(own: Ownership, giver: object, id: RefId) -> list[Instruction]:
    """A message with this ref arrived and its handle was made."""
    token = own.took(giver, [id])
    return own.hold(id) + own.settle(token)


class TestHeirs:
    def test_an_unknown_life_answers_for_itself(self) -> None:
        heirs = Heirs(keep=10)
        assert heirs.of(A) == A
        assert heirs.address(A, "a:1") == "a:1"
        assert not heirs

    def test_chains_are_followed(self) -> None:
        heirs = Heirs(keep=10)
        assert heirs.enter(LEAVER, HEIR, "heir:1", 0.0)
        assert heirs.enter(HEIR, A, "a:1", 1.0)
        assert heirs.of(LEAVER) == heirs.of(HEIR) == A
        assert heirs.address(LEAVER, "gone:1") == "a:1"

    def test_the_same_twice_is_no_news_and_nobody_inherits_from_itself(self) -> None:
        heirs = Heirs(keep=10)
        assert heirs.enter(LEAVER, HEIR, "heir:1", 0.0)
        assert not heirs.enter(LEAVER, HEIR, "heir:1", 1.0)
        assert not heirs.enter(HEIR, LEAVER, "leaver:1", 1.0)
        assert not heirs.enter(A, A, "a:1", 1.0)
        assert len(heirs) == 1

    def test_it_forgets_after_a_while(self) -> None:
        heirs = Heirs(keep=10)
        heirs.enter(LEAVER, HEIR, "heir:1", 0.0)
        heirs.enter(B, HEIR, "heir:1", 11.0)
        assert heirs.of(LEAVER) == LEAVER
        assert heirs.rows() == [(B, HEIR, "heir:1")]


class TestLeaver:
    def test_only_what_others_hold_is_handed_over(self) -> None:
        own = Ownership(LEAVER)
        estate = Estate(own)
        own.hold(MINE)
        own.gave(A, [OTHER])
        own.gave(("worker", 1), [MINE])
        assert estate.ids() == [OTHER]
        own.call_sent(1, A, [MINE])  # its answer may say that A keeps it
        assert estate.ids() == [MINE, OTHER]

    def test_afterwards_it_is_a_borrower_on_whom_others_hang(self) -> None:
        own = Ownership(LEAVER)
        estate = Estate(own)
        own.gave(A, [MINE])
        estate.bequeath([MINE])
        assert estate.inherited(HEIR) == []
        assert own.owner(MINE) == HEIR
        assert estate.ids() == []
        assert estate.leaning() == {A}
        assert own.on_return(A, MINE, 1) == [send(HEIR, "return", MINE, 1), ("free", MINE)]
        assert estate.leaning() == set()

    def test_what_comes_back_meanwhile_is_held_until_the_heir_has_it(self) -> None:
        own = Ownership(LEAVER)
        estate = Estate(own)
        own.gave(A, [MINE])
        estate.bequeath([MINE])
        assert own.on_return(A, MINE, 1) == []
        assert own.on_borrow(B, MINE) == [send(B, "grant", MINE)]
        assert own.on_return(B, MINE, 1) == []
        assert estate.inherited(HEIR) == [send(HEIR, "return", MINE, 1), ("free", MINE)]

    def test_whoever_asks_too_late_is_not_told_that_it_is_gone(self) -> None:
        own = Ownership(LEAVER)
        estate = Estate(own)
        own.gave(A, [MINE])
        estate.bequeath([MINE])
        estate.inherited(HEIR)
        assert own.on_borrow(B, MINE) == []

    def test_an_heir_that_dies_in_time_leaves_everything_as_it_was(self) -> None:
        own = Ownership(LEAVER)
        estate = Estate(own)
        own.gave(A, [MINE])
        own.gave(A, [OTHER])
        estate.bequeath([MINE])
        estate.inherited(HEIR)
        estate.bequeath([OTHER])
        assert estate.take_back(HEIR) == []
        assert own.dead(HEIR) == []
        assert own.owner(MINE) == own.owner(OTHER) == LEAVER
        assert sorted(estate.ids()) == [MINE, OTHER]


class TestHeir:
    def test_it_lists_the_leaver_until_that_returns(self) -> None:
        own = Ownership(HEIR)
        estate = Estate(own)
        assert estate.inherit(LEAVER, [MINE]) == []
        assert own.owner(MINE) == HEIR
        assert own.live(MINE)
        assert own.on_return(LEAVER, MINE, 1) == [("free", MINE)]

    def test_it_lists_who_comes(self) -> None:
        own = Ownership(HEIR)
        estate = Estate(own)
        estate.inherit(LEAVER, [MINE])
        estate.moved(LEAVER, HEIR)
        assert own.on_borrow(A, MINE) == [send(A, "grant", MINE)]
        own.on_return(LEAVER, MINE, 1)
        assert own.live(MINE)
        assert own.on_return(A, MINE, 1) == [("free", MINE)]

    def test_what_it_had_borrowed_itself_becomes_its_own(self) -> None:
        own = Ownership(HEIR)
        estate = Estate(own)
        got(own, A, MINE)  # and so it asked the leaver to be listed
        assert estate.inherit(LEAVER, [MINE]) == [send(A, "return", MINE, 1)]
        assert own.on_grant(LEAVER, MINE) == [send(LEAVER, "return", MINE, 1)]
        own.on_return(LEAVER, MINE, 1)
        assert own.drop(MINE) == [("free", MINE)]

    def test_what_was_not_handed_over_was_freed_before(self) -> None:
        own = Ownership(HEIR)
        estate = Estate(own)
        got(own, A, OTHER)
        estate.inherit(LEAVER, [MINE])
        assert own.owner(OTHER) == LEAVER
        assert ("lost", OTHER) in estate.moved(LEAVER, HEIR)
        assert own.on_borrow(B, OTHER) == [send(B, "gone", OTHER)]


class TestOthers:
    def test_they_register_with_the_heir_and_return_the_leavers_protection(self) -> None:
        own = Ownership(A)
        estate = Estate(own)
        got(own, LEAVER, MINE)
        assert estate.moved(LEAVER, HEIR) == [send(HEIR, "borrow", MINE)]
        assert own.on_grant(HEIR, MINE) == [send(LEAVER, "return", MINE, 1)]
        assert own.dead(LEAVER) == []
        assert own.drop(MINE) == [send(HEIR, "return", MINE, 1), ("free", MINE)]

    def test_an_unanswered_question_is_asked_again(self) -> None:
        own = Ownership(A)
        estate = Estate(own)
        got(own, B, MINE)
        assert estate.moved(LEAVER, HEIR) == [send(HEIR, "borrow", MINE)]
        assert own.on_grant(HEIR, MINE) == [send(B, "return", MINE, 1)]

    def test_told_twice_it_does_nothing(self) -> None:
        own = Ownership(A)
        estate = Estate(own)
        got(own, LEAVER, MINE)
        estate.moved(LEAVER, HEIR)
        assert estate.moved(LEAVER, HEIR) == []

    def test_other_owners_are_none_of_its_business(self) -> None:
        own = Ownership(B)
        estate = Estate(own)
        got(own, A, THEIRS)
        assert estate.moved(LEAVER, HEIR) == []

    @pytest.mark.parametrize("first", [(LEAVER, HEIR), (HEIR, B)])
    def test_a_chain_of_heirs_in_any_order(self, first: tuple[bytes, bytes]) -> None:
        own = Ownership(A)
        estate = Estate(own)
        got(own, LEAVER, MINE)
        for life, heir in (first, (LEAVER, HEIR), (HEIR, B)):
            estate.moved(life, heir)
        assert own.owner(MINE) == B
        assert own.on_grant(B, MINE) == [send(LEAVER, "return", MINE, 1)]

    def test_the_heirs_death_is_the_owners(self) -> None:
        own = Ownership(A)
        estate = Estate(own)
        got(own, LEAVER, MINE)
        estate.moved(LEAVER, HEIR)
        assert ("lost", MINE) in own.dead(HEIR)

    def test_without_an_heir_leaving_is_a_death(self) -> None:
        own = Ownership(A)
        got(own, LEAVER, MINE)
        assert own.dead(LEAVER) == [("lost", MINE)]


class TestBequest:
    def test_nothing_to_hand_over_asks_nobody(self) -> None:
        bequest = Bequest(Estate(Ownership(LEAVER)), [HEIR])
        assert bequest.start() == []
        assert bequest.done
        assert bequest.heir is None

    def test_who_refuses_or_is_dead_is_passed_over(self) -> None:
        own = Ownership(LEAVER)
        own.gave(A, [MINE])
        own.dead(B)
        bequest = Bequest(Estate(own), [HEIR, B, A])
        assert bequest.start() == [("offer", HEIR)]
        assert bequest.consented(B, True) == []
        assert bequest.consented(HEIR, False) == [("offer", A)]
        assert bequest.consented(A, False) == [("alone",)]
        assert bequest.state == "alone"

    def test_what_was_given_meanwhile_is_handed_over_too(self) -> None:
        own = Ownership(LEAVER)
        own.gave(A, [MINE])
        bequest = Bequest(Estate(own), [HEIR])
        bequest.start()
        assert bequest.consented(HEIR, True) == [("inherit", HEIR, (MINE,))]
        own.gave(A, [OTHER])
        assert bequest.inherited(HEIR) == [("inherit", HEIR, (OTHER,)), ("do", [])]
        assert bequest.inherited(HEIR) == [("moved", HEIR), ("do", [])]
        assert not bequest.done
        own.on_return(A, MINE, 2)
        own.on_return(A, OTHER, 2)
        assert bequest.done

    def test_an_heir_that_dies_is_replaced(self) -> None:
        own = Ownership(LEAVER)
        own.gave(A, [MINE])
        bequest = Bequest(Estate(own), [HEIR, B])
        bequest.start()
        bequest.consented(HEIR, True)
        own._dead.add(HEIR)
        assert bequest.dead(HEIR) == [("do", []), ("offer", B)]
        assert bequest.dead(HEIR) == []
        assert bequest.consented(B, True) == [("inherit", B, (MINE,))]
