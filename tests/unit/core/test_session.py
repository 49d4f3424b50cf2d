"""The session's rules, one by one. All their interleavings are explored in tests/sim/test_session_model.py."""

from __future__ import annotations

from typing import Any

import pytest

from actorfw.core.session import (
    ACK_BYTES,
    ACK_FRAMES,
    Adopt,
    CloseLink,
    DialAgain,
    Evidence,
    RefuseLink,
    Resend,
    Session,
    Welcome,
)

LOW = b"a" * 16
HIGH = b"b" * 16


def linked(me: bytes = LOW, peer: bytes = HIGH, link: str = "one") -> Session:
    session = Session(me, peer)
    assert session.offered(link, 1, 0) == [Welcome(link, 0), Adopt(link)]
    return session


def test_dial_and_welcome() -> None:
    session = Session(LOW, HIGH)
    assert session.may_dial()
    assert session.dialled("one") == 1
    assert not session.may_dial()
    assert session.welcomed("one", 0) == [Adopt("one")]
    assert session.link == "one"
    assert not session.may_dial()


def test_each_dial_has_a_higher_epoch() -> None:
    session = Session(LOW, HIGH)
    assert session.dialled("one") == 1
    session.refused("one", 6)
    assert session.may_dial()
    assert session.dialled("two") == 7


@pytest.mark.parametrize(("me", "peer", "taken"), [(LOW, HIGH, False), (HIGH, LOW, True)])
def test_of_two_dials_with_one_epoch_the_lower_life_s_wins(me: bytes, peer: bytes, taken: bool) -> None:
    session = Session(me, peer)
    session.dialled("mine")
    answer = session.offered("theirs", 1, 0)
    if taken:
        assert answer == [CloseLink("mine"), Welcome("theirs", 0), Adopt("theirs")]
    else:
        assert answer == [RefuseLink("theirs", 1)]
        assert session.welcomed("mine", 0) == [Adopt("mine")]


def test_a_higher_epoch_wins_over_the_own_dial() -> None:
    session = Session(LOW, HIGH)
    session.dialled("mine")
    assert session.offered("theirs", 2, 0) == [CloseLink("mine"), Welcome("theirs", 0), Adopt("theirs")]


def test_a_stale_offer_is_refused_with_the_epoch_to_beat() -> None:
    session = linked()
    assert session.offered("late", 1, 0) == [RefuseLink("late", 1)]
    assert session.link == "one"


def test_a_stale_welcome_is_closed() -> None:
    session = Session(HIGH, LOW)
    session.dialled("mine")
    session.offered("theirs", 1, 0)
    assert session.welcomed("mine", 0) == [CloseLink("mine")]
    assert session.link == "theirs"


def test_a_new_link_closes_the_old_and_resends_what_was_not_seen() -> None:
    session = linked()
    for batch in (b"1", b"2", b"3"):
        session.put(batch)
    answer = session.offered("two", 2, 1)
    assert answer == [CloseLink("one"), Welcome("two", 0), Adopt("two"), Resend("two", ((2, b"2"), (3, b"3")))]
    assert session.receive("one", 1) is False
    assert session.receive("two", 1) is True
    assert session.unacked_bytes == 2


@pytest.mark.parametrize("seen", [0, 4])
def test_an_impossible_position_is_refused(seen: int) -> None:
    session = linked()
    for batch in (b"1", b"2", b"3"):
        session.put(batch)
    session.acknowledge(2)
    assert session.offered("two", 2, seen) == [RefuseLink("two", 2)]


def test_receiving() -> None:
    session = linked()
    assert session.receive("one", 1) is True
    session.processed(1, 10)
    assert session.receive("one", 1) is False
    assert session.receive("one", 3) is None
    assert session.receive("other", 2) is False


def test_acknowledging() -> None:
    session = linked()
    assert session.put(b"1") == 1
    assert session.put(b"22") == 2
    assert session.unacked_bytes == 3
    assert session.acknowledge(1)
    assert session.unacked_bytes == 2
    assert session.acknowledge(0)
    assert session.acked == 1
    assert not session.acknowledge(3)


def test_an_ack_is_due_by_count_or_bytes() -> None:
    session = linked()
    for n in range(1, ACK_FRAMES):
        session.processed(n, 1)
        assert not session.ack_due
    session.processed(ACK_FRAMES, 1)
    assert session.ack_due
    session.ack_written()
    assert not session.ack_due
    session.processed(ACK_FRAMES + 1, ACK_BYTES)
    assert session.ack_due
    session.put(b"takes it along")
    assert not session.ack_due


def test_a_lost_link_is_dialled_again_at_once_then_more_and_more_slowly() -> None:
    session = linked()
    assert session.lost("other") == []
    assert session.lost("one") == [DialAgain(0.0)]
    delays = [session.dial_failed("unreachable", "no route", 0.5) for _ in range(10)]
    nobody = Evidence("unreachable", "no route")
    assert delays[0] == [nobody, DialAgain(0.005)]
    assert delays[1] == [nobody, DialAgain(0.010)]
    assert delays[-1] == [nobody, DialAgain(0.5)]
    assert session.offered("two", 5, 0)[-1] == Adopt("two")
    assert session.lost("two") == [DialAgain(0.0)]
    assert session.dial_failed("unreachable", "no route", 1.0) == [nobody, DialAgain(0.010)]


@pytest.mark.parametrize(
    ("how", "kind"), [("refused", "refused"), ("another life", "another_life"), ("unreachable", "unreachable")]
)
def test_what_a_dial_meets_is_evidence_and_dialling_goes_on(how: Any, kind: Any) -> None:
    session = linked()
    session.lost("one")
    for _ in range(3):
        answer = session.dial_failed(how, "why", 0.0)
        assert answer == [Evidence(kind, "why"), DialAgain(0.0)]
    assert session.ended is None


def test_a_dial_that_lost_a_race_is_no_evidence() -> None:
    session = linked()
    session.lost("one")
    assert session.dial_failed("epoch", "why", 1.0) == [DialAgain(0.010)]


def test_a_link_that_the_other_side_ended_is_evidence_and_one_that_was_cut_here_is_not() -> None:
    session = linked()
    assert session.lost("one", "reset") == [Evidence("eof", "reset"), DialAgain(0.0)]
    session.offered("two", 5, 0)
    assert session.lost("two") == [DialAgain(0.0)]


def test_a_session_may_rest_only_when_all_is_acknowledged_and_dials_when_needed() -> None:
    session = linked()
    assert session.quiet()
    n = session.put(b"1")
    assert not session.quiet()
    session.acknowledge(n)
    session.processed(1, 10)
    assert not session.quiet()
    session.ack_written()
    assert session.quiet()
    session.rest()
    assert session.link is None
    assert session.resting
    assert session.needed() == [DialAgain(0.0)]
    assert not session.resting
    session.offered("two", 5, 1)
    assert session.needed() == []


def test_a_failed_dial_means_nothing_once_the_other_side_has_come() -> None:
    session = linked()
    session.lost("one")
    session.offered("two", 2, 0)
    assert session.dial_failed("refused", "why", 1.0) == []


def test_what_can_t_be_decoded_three_times_holds_the_session_down() -> None:
    session = linked()
    for epoch in (2, 3):
        assert session.undecodable(1) == [CloseLink(session_link(epoch - 1)), DialAgain(0.0)]
        session.offered(session_link(epoch), epoch, 0)
    assert session.undecodable(1) == [CloseLink(session_link(3))]
    assert session.held
    assert not session.may_dial()
    assert session.offered("four", 4, 0) == [RefuseLink("four", 4)]


def test_ten_links_of_garbage_hold_the_session_down_unless_there_is_sense_between() -> None:
    session = linked()
    seen = 0
    for epoch in range(2, 30):  # garbage now and then, on a link that works
        seen = session.seen + ACK_FRAMES
        session.processed(seen, 1)
        assert session.garbled() == [CloseLink(session_link(epoch - 1)), DialAgain(0.0)]
        session.offered(session_link(epoch), epoch, 0)
    for epoch in range(30, 39):
        assert not session.held
        assert session.garbled()
        session.offered(session_link(epoch), epoch, 0)
    assert session.held
    assert session.link is None
    assert not session.may_dial()
    assert session.offered("again", 50, 0) == [RefuseLink("again", 50)]


def session_link(epoch: int) -> str:
    return "one" if epoch == 1 else f"link {epoch}"


def test_the_end_is_the_last_event() -> None:
    session = linked()
    session.put(b"1")
    assert session.end("dead") == [CloseLink("one")]
    assert session.end("left") == []
    assert session.unacked_bytes == 0
    assert session.receive("one", 1) is False
    assert session.offered("two", 2, 0) == [RefuseLink("two", 2)]
    assert session.dial_failed("refused", "why", 0.0) == []
    assert not session.may_dial()
