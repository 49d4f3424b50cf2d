"""Voters and leases, message by message: what a vote is worth, and when."""

from __future__ import annotations

import random
from typing import Any

import pytest

from actorfw.core.leases import LEASE_SHARE, Leases
from actorfw.core.voters import TTL, Voter, majority_of
from actorfw.values.errors import ProtocolError

NAMES = ("v", "w", "u")
V, W, U, P, Q = (bytes([letter]) * 16 for letter in b"vwupq")
V2 = b"V" * 16
LIVES = {"v": V, "w": W, "u": U}


def begun(name: str, life: bytes, *, born: float = 0.0) -> Voter:
    """A voter that has begun with all others, long ago."""
    voter = Voter(name, life, NAMES, born, -TTL)
    others = {other: known for other, known in LIVES.items() if other != name}
    ((_, _, (_, number, *_)), *_) = voter.lives(others, 0.0)
    for other, known in others.items():
        voter.message(known, ("copied", number, other, [(other, 0.0, known)], None), 0.0)
    assert voter.votes
    return voter


def answer(instructions: list[Any]) -> Any:
    ((_, _, message),) = instructions
    return message


def prepared(voter: Voter, life: bytes, counter: int, now: float) -> Any:
    return answer(voter.message(life, ("prepare", 1, counter, [7]), now))


def seats(**lives: bytes) -> list[tuple[str, float, bytes]]:
    return [(name, 0.0 if life in LIVES.values() else 1.0, life) for name, life in lives.items()]


@pytest.mark.parametrize(("voters", "more_than_half"), [(3, 2), (5, 3), (4, 3), (2, 2)])
def test_a_majority_is_more_than_half(voters: int, more_than_half: int) -> None:
    assert majority_of(voters) == more_than_half


def test_a_lease_keeps_others_out_for_as_long_as_it_lasts_and_not_its_keeper() -> None:
    voter = begun("w", W)
    voter.message(P, ("prepare", 1, 1, [7]), 0.0)
    accepted = voter.message(P, ("accept", 1, 1, seats(w=W, u=U), [(7, (3, P, True))]), 1.0)
    assert answer(accepted) == ("accepted", 1, "w", [7])
    assert prepared(voter, Q, 5, TTL)[5:] == ([], [(7, 1, True)])
    assert prepared(voter, P, 2, TTL)[5] == [(7, (1, P), (3, P, True))]
    assert prepared(voter, Q, 5, TTL + 1.0)[5] == [(7, (1, P), (3, P, True))]


def test_a_lease_that_was_given_up_keeps_nobody_out() -> None:
    voter = begun("w", W)
    voter.message(P, ("accept", 1, 1, seats(w=W, u=U), [(7, (3, P, False))]), 1.0)
    assert prepared(voter, Q, 5, 1.1)[5] == [(7, (1, P), (3, P, False))]


def test_of_two_rounds_the_higher_one_counts() -> None:
    voter = begun("w", W)
    assert prepared(voter, P, 4, 0.0)[6] == []
    assert prepared(voter, Q, 3, 0.0)[6] == [(7, 4, False)]
    late = voter.message(Q, ("accept", 1, 3, seats(w=W, u=U), [(7, (1, Q, True))]), 0.0)
    assert answer(late) == ("accepted", 1, "w", [])


def test_a_voter_that_restarted_is_silent_until_it_has_copied_from_a_majority_of_the_others() -> None:
    voter = Voter("v", V2, NAMES, 1.0, 0.0)
    asked = voter.lives({"v": V2, "w": W, "u": U}, 0.0)
    assert [(life, message[0]) for _, life, message in asked] == [(U, "copy"), (W, "copy")]
    assert prepared(voter, P, 1, 0.0) == ("unable", 1)
    rows = [(7, (2, P), (2, P), (3, P, True), True)]
    voter.message(W, ("copied", 1, "w", seats(w=W), rows), 0.1)
    assert not voter.votes
    voter.message(U, ("copied", 1, "u", seats(u=U), []), 0.1)
    assert voter.votes
    assert prepared(voter, Q, 9, TTL)[6] == [(7, 2, True)]  # what it copied it stands by for a full lease


def test_where_all_have_restarted_a_full_lease_is_waited_for() -> None:
    voter = Voter("v", V2, NAMES, 1.0, 0.0)
    for now, votes in ((0.0, False), (TTL - 1.0, False), (TTL, True)):
        ((_, _, (_, number, *_)), *_) = voter.lives({"w": W, "u": U}, now)
        for name, life in (("w", W), ("u", U)):
            voter.message(life, ("copied", number, name, [], None), now)
        assert voter.votes == votes


def test_a_round_that_counts_the_vote_of_a_former_life_is_refused() -> None:
    voter = begun("w", W)
    counted = seats(v=V, w=W)
    voter.message(P, ("prepare", 1, 1, [7]), 0.0)
    voter.message(V2, ("copy", 1, "v", 1.0, V2), 0.1)  # v has restarted: nobody knows what its former life accepted
    assert answer(voter.message(P, ("accept", 1, 1, counted, [(7, (1, P, True))]), 0.2)) == ("unable", 1)
    counted = seats(v=V2, w=W)
    assert answer(voter.message(P, ("accept", 2, 1, counted, [(7, (1, P, True))]), 0.2)) == ("accepted", 2, "w", [7])


def test_a_voter_whose_clock_was_set_back_sits_above_its_former_life() -> None:
    voter = Voter("v", V2, NAMES, -20.0, 0.0)
    voter.lives({"w": W, "u": U}, 0.0)
    voter.message(W, ("copied", 1, "w", [("v", 5.0, V)], []), 0.1)
    again = voter.tick(0.2)
    assert {message for _, _, message in again} == {("copy", 3, "v", 6.0, V2)}


def test_a_keeper_counts_its_lease_from_sending_and_ends_it_early() -> None:
    leases = Leases(P, NAMES, random.Random(1))
    leases.lives(LIVES, 0.0)
    sent = leases.hold({7: 3}, 1.0)
    assert sorted(life for _, life, _ in sent) == sorted(LIVES.values())
    promised = [(7, (0, b""), None)]
    leases.message(V, ("promise", 1, "v", 0.0, V, promised, []), 1.1)
    accept = leases.message(W, ("promise", 1, "w", 0.0, W, promised, []), 1.2)
    assert [(life, message[3]) for _, life, message in accept] == [(V, seats(v=V, w=W)), (W, seats(v=V, w=W))]
    assert leases.message(V, ("accepted", 1, "v", [7]), 1.3) == []
    assert leases.message(W, ("accepted", 1, "w", [7]), 2.0) == [("leased", 7)]
    end = 1.2 + TTL * LEASE_SHARE
    assert leases.may_serve(7, end - 0.01)
    assert not leases.may_serve(7, end)


def test_a_token_older_than_what_the_voters_know_is_outdated() -> None:
    leases = Leases(P, NAMES, random.Random(1))
    leases.lives(LIVES, 0.0)
    leases.hold({7: 3}, 1.0)
    promised = [(7, (4, Q), (9, Q, True))]
    leases.message(V, ("promise", 1, "v", 0.0, V, promised, []), 1.1)
    assert ("outdated", 7, 9) in leases.message(W, ("promise", 1, "w", 0.0, W, promised, []), 1.2)


@pytest.mark.parametrize("message", [(), ("what",), (1, 2)])
def test_what_is_no_message_is_refused(message: Any) -> None:
    with pytest.raises(ProtocolError):
        begun("w", W).message(P, message, 0.0)
    with pytest.raises(ProtocolError):
        Leases(P, NAMES, random.Random(1)).message(V, message, 0.0)
