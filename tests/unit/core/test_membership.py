"""The membership machine, input by input."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any, TypeVar

import pytest

from actorfw.core import instructions as i
from actorfw.core.membership import Membership
from actorfw.core.records import Accusation, Phase, Record
from actorfw.core.spreading import ACK, GOSSIP, HELP, HELPED, NACK, PING, ROWS, SYNC, VOUCH, WANT
from actorfw.values.errors import ProtocolError
from actorfw.values.ids import Refutation
from actorfw.values.profiles import LAN, WAN, Profile

ME, X, A, B, C = (bytes([n]) * 16 for n in range(1, 6))
STALL_LIMIT = 30.0
Kind = TypeVar("Kind")


def record(life: bytes, **more: Any) -> Record:
    return Record(life, f"host:{life[0]}", f"n{life[0]}", **{"phase": Phase.UP, **more})


def machine(*others: bytes, profile: Profile = LAN, linked: bool = True) -> Membership:
    """A member that knows these others."""
    one = Membership(record(ME), profile, STALL_LIMIT, Random(1))
    one.seed([record(life) for life in others], 0.0)
    for life in others if linked else ():
        one.evidence(life, "linked", 0.0)
    one.start(0.0)
    return one


def of(kind: type[Kind], instructions: list[i.Instruction]) -> list[Kind]:
    return [one for one in instructions if isinstance(one, kind)]


def sent(instructions: list[i.Instruction], kind: int) -> dict[bytes, list[Any]]:
    return {one.life: one.message for one in of(i.Send, instructions) if one.message[0] == kind}


def gossip(one: Membership, frm: bytes, *records: Record, now: float = 1.0) -> list[i.Instruction]:
    return one.message(frm, [GOSSIP, [record.to_wire() for record in records]], now)


def accused(life: bytes, *by: bytes, what: Accusation = Accusation.SUSPECT) -> Record:
    one = record(life)
    for accuser in by:
        one = one.accused(accuser, what)
    return one


def run(one: Membership, until: float, kernel: bool | None = False) -> list[i.Instruction]:
    """Let time pass with nobody answering."""
    done: list[i.Instruction] = []
    while (at := one.next_at()) <= until:
        new = one.tick(at)
        for ask in of(i.AskKernel, new):
            new += one.kernel(ask.life, kernel, at)
        done += new
    return done


# -- learning ----------------------------------------------------------------------------------------------------------


def test_a_new_member_is_told_of_and_asked_for_its_view() -> None:
    one = machine(A)
    done = one.met(record(X), 1.0)
    (change,) = of(i.StateChanged, done)
    assert (change.record.life, change.state, change.before) == (X, "up", None)
    (near,) = of(i.Neighbours, done)
    assert near.added == (X,)
    assert set(sent(done, SYNC)) == {X}
    rows = [row for send in of(i.Send, run(one, 2.0)) if send.message[0] == GOSSIP for row in send.message[1]]
    assert X in [row[0] for row in rows]


def test_equal_views_are_not_sent_and_different_ones_in_the_buckets_that_differ() -> None:
    one, two = machine(A, X), Membership(record(A), LAN, STALL_LIMIT, Random(2))
    two.seed([record(ME), record(X)], 0.0)
    assert one.fingerprint() == two.fingerprint()
    assert one.message(A, [SYNC, two.fingerprint()], 1.0) == []
    two.met(record(B), 1.0)
    answer = sent(one.message(A, [SYNC, two.fingerprint()], 1.0), ROWS)[A]
    assert [row[0] for row in answer[1]] == []
    rest = sent(two.message(ME, answer, 1.0), GOSSIP)[ME]
    assert [row[0] for row in rest[1]] == [B]
    one.message(A, rest, 1.0)
    assert one.fingerprint() == two.fingerprint()
    assert one.state(B) == "up"


def test_what_is_said_of_an_unknown_member_makes_one_ask_who_it_is() -> None:
    one = machine(A)
    done = one.message(A, [GOSSIP, [accused(X, B).to_brief()]], 1.0)
    assert sent(done, WANT) == {A: [WANT, [X]]}
    assert one.state(X) is None
    two = machine(X)
    assert sent(two.message(ME, [WANT, [X, B]], 1.0), GOSSIP) == {ME: [GOSSIP, [record(X).to_wire()]]}


def test_a_member_that_spoke_anew_is_asked_for_its_words() -> None:
    one = machine(A, X)
    newer = replace(record(X), refutation=Refutation(3))
    assert sent(one.message(A, [GOSSIP, [newer.to_brief()]], 1.0), WANT) == {A: [WANT, [X]]}


@pytest.mark.parametrize(
    "message", [[], [99], [PING], [PING, 1, 7], [GOSSIP, [[1]]], [SYNC, b"short"], [[], 1], [WANT, 3]]
)
def test_a_message_that_makes_no_sense_is_refused(message: list[Any]) -> None:
    with pytest.raises(ProtocolError):
        machine(A).message(A, message, 1.0)


def test_other_totals_and_labels_are_told() -> None:
    one = machine(A)
    (change,) = of(i.StateChanged, one.update(1.0, totals=(("CPU", 40_000),), labels={"zone": "b"}))
    assert change.record.totals == (("CPU", 40_000),)
    assert one.me.refutation == 1
    assert one.update(1.0, labels={"zone": "b"}) == []
    (change,) = of(i.StateChanged, gossip(machine_of(A, ME), ME, one.me))
    assert (change.state, change.before) == ("up", "up")
    assert change.record.labels == (("zone", "b"),)


def machine_of(me: bytes, *others: bytes) -> Membership:
    one = Membership(record(me), LAN, STALL_LIMIT, Random(1))
    one.seed([record(life) for life in others], 0.0)
    one.start(0.0)
    return one


# -- phases ------------------------------------------------------------------------------------------------------------


def test_phases_only_rise_and_all_are_told_at_once() -> None:
    one = Membership(record(ME, phase=Phase.JOINING), LAN, STALL_LIMIT, Random(1))
    one.seed([record(A), record(B)], 0.0)
    states = []
    for phase, heir in ((Phase.UP, b""), (Phase.LEAVING, b""), (Phase.LEAVING_WITH_HEIR, A), (Phase.UP, b"")):
        done = one.set_phase(phase, heir, 1.0)
        states.append(one.state(ME))
        if phase is not Phase.UP:
            assert set(sent(done, GOSSIP)) == {A, B}
    assert states == ["up", "leaving", "leaving", "leaving"]
    two = machine_of(A, ME, B)
    (change,) = of(i.StateChanged, gossip(two, ME, one.me))
    assert (change.state, change.record.heir) == ("leaving", A)
    done = one.set_phase(Phase.LEFT, A, 2.0)
    assert set(sent(done, GOSSIP)) == {A, B}
    done = gossip(two, ME, one.me, now=2.0)
    (left,) = of(i.Left, done)
    assert (left.life, left.heir) == (ME, A)
    assert two.state(ME) is None
    assert sent(done, GOSSIP), "and passed on at once"


def test_who_left_is_not_held_dead_later() -> None:
    one = machine(A, X)
    gossip(one, A, record(X, phase=Phase.LEFT, heir=A, refutation=Refutation(2)))
    assert of(i.Dead, gossip(one, A, replace(record(X), dead=(A, B, C)))) == []
    assert one.tombstones[X][0].left


# -- refuting ----------------------------------------------------------------------------------------------------------


def test_who_is_accused_says_that_it_lives_with_a_higher_number() -> None:
    one = machine(A, B)
    done = gossip(one, A, replace(accused(ME, A), refutation=Refutation(4)))
    assert one.me.refutation == 5
    assert any(row[0] == ME and row[1] == 5 for message in sent(done, GOSSIP).values() for row in message[1])
    assert one.prober.awareness.score == 1
    gossip(one, A, replace(accused(ME, A), refutation=Refutation(4)))
    assert one.me.refutation == 5, "old news"


def test_to_have_been_stalled_is_no_sign_of_bad_hearing() -> None:
    one = machine(A, B)
    gossip(one, A, accused(ME, A, what=Accusation.STALLED))
    assert (one.me.refutation, one.prober.awareness.score) == (1, 0)


def test_an_accused_member_learns_of_it_with_the_next_probe() -> None:
    one = machine(A, X)
    done = gossip(one, A, accused(X, A))
    assert [row[0] for row in sent(done, PING)[X][2]] == [X], "looked at at once"
    run(one, 60.0)
    number = 0
    (answer,) = sent(one.message(X, [PING, number, []], 61.0), ACK).values()
    assert X in [row[0] for row in answer[2]]


def test_a_refutation_ends_the_suspicion() -> None:
    one = machine(A, X)
    gossip(one, A, accused(X, A))
    assert one.state(X) == "suspect"
    (change,) = of(i.StateChanged, gossip(one, X, replace(record(X), refutation=Refutation(1)), now=1.2))
    assert (change.state, change.before) == ("up", "suspect")
    assert one.suspicions == {}
    assert of(i.StateChanged, gossip(one, A, accused(X, A), now=1.3)) == []


# -- cut off -----------------------------------------------------------------------------------------------------------


def test_of_two_members_each_decides_alone() -> None:
    one = machine(X)
    done = run(one, 6.0)
    (dead,) = of(i.Dead, done)
    assert dead.life == X
    assert dead.verdict.accusers == (ME,)
    assert one.view.keys() == {ME}


def answering(one: Membership, until: float, *lives: bytes) -> list[i.Instruction]:
    """Let time pass; these answer pings at once, the others not at all."""
    done: list[i.Instruction] = []
    while (at := one.next_at()) <= until:
        new = one.tick(at)
        for ask in of(i.AskKernel, new):
            new += one.kernel(ask.life, False, at)
        for send in of(i.Send, new):
            if send.life in lives and send.message[0] == PING:
                new += one.message(send.life, [ACK, send.message[1], []], at)
        done += new
    return done


def test_a_member_that_nobody_else_misses_is_only_unreachable_from_here() -> None:
    one = machine(X, A, B)
    done = answering(one, 40.0, A, B)
    assert of(i.Dead, done) == []
    (said,) = of(i.Unreachable, done)
    assert said.life == X
    assert "no other member confirms it" in said.detail
    assert one.state(X) == "suspect"


def test_two_more_accusers_are_grounds() -> None:
    one = machine(X, A, B)
    gossip(one, A, accused(X, A))
    answering(one, 3.0, A, B)
    assert one.view[X].of(ME) is Accusation.SUSPECT, "seen with own eyes"
    gossip(one, B, accused(X, B), now=3.0)
    (dead,) = of(i.Dead, answering(one, 8.0, A, B))
    assert dead.verdict.accusers == (ME, A, B)
    assert "n1, n3, n4" in dead.verdict.text
    assert one.state(X) is None


def test_one_more_accuser_is_not_while_others_could_have_seen_it() -> None:
    one = machine(X, A, B)
    gossip(one, A, accused(X, A))
    assert of(i.Dead, answering(one, 40.0, A, B)) == []


def test_who_hears_nobody_judges_nobody() -> None:
    one = machine(X, A, B)
    gossip(one, A, accused(X, A, B))
    assert of(i.Dead, run(one, 40.0)) == []


def test_who_hears_the_accused_tells_the_accusers_and_does_not_confirm() -> None:
    one = machine(X, A, B)
    done = gossip(one, A, accused(X, A))
    ping = sent(done, PING)[X]
    done = one.message(X, [ACK, ping[1], []], 1.1)
    assert sent(done, VOUCH) == {A: [VOUCH, X, 0]}
    assert one.view[X].of(ME) is None


def test_an_accuser_that_is_told_so_waits() -> None:
    one = machine(X, A, B)
    gossip(one, A, accused(X, A, B))
    answering(one, 3.0, A, B)
    deadline = one.suspicions[X].deadline
    one.message(C, [VOUCH, X, 0], deadline - 0.1)
    assert of(i.Dead, answering(one, deadline + 1, A, B)) == []
    assert of(i.Dead, answering(one, deadline + 10, A, B)), "no longer than that"


def test_helpers_are_asked_when_the_kernel_is_silent_too() -> None:
    one = machine(X, A, B)
    done = run(one, 3.0)
    asked = [send for send in of(i.Send, done) if send.message[0] == HELP and send.message[2] == X]
    assert {send.life for send in asked} <= {A, B}
    assert asked
    number = asked[0].message[1]
    two = machine_of(A, ME, X)
    (ping,) = of(i.Send, two.message(ME, asked[0].message, 3.0))
    assert (ping.life, ping.message[0]) == (X, PING)
    (helped,) = of(i.Send, two.message(X, [ACK, ping.message[1], []], 3.1))
    assert (helped.life, helped.message) == (ME, [HELPED, number, X])
    assert sent(machine_of(A, ME).message(ME, asked[0].message, 3.0), NACK) == {ME: [NACK, number, X]}


def test_timers_that_ran_while_this_node_stood_still_are_not_believed() -> None:
    one = machine(X)
    run(one, 2.0)
    while X not in one.suspicions:
        run(one, one.next_at())
    deadline = one.suspicions[X].deadline
    done = one.tick(deadline + 20.0)
    assert of(i.Dead, done) == []
    assert one.prober.awareness.score > 0
    one.evidence(X, "heard", deadline + 20.1)
    assert of(i.Dead, run(one, deadline + 21.5)) == []
    two = machine(X)
    while X not in two.suspicions:
        run(two, two.next_at())
    two.lagged(0.3, two.suspicions[X].deadline - 0.1)
    assert of(i.Dead, run(two, two.suspicions[X].deadline + 0.2)) == []
    assert of(i.Dead, run(two, 30.0))


# -- stalled -----------------------------------------------------------------------------------------------------------


def test_a_member_whose_kernel_answers_is_stalled_and_dead_after_the_limit_only() -> None:
    one = machine(X)
    done = run(one, 20.0, kernel=True)
    (change,) = of(i.StateChanged, done)
    assert change.state == "stalled"
    assert "its process does not" in change.detail
    assert of(i.Dead, done) == []
    since = one.suspicions[X].since
    assert of(i.Dead, run(one, since + STALL_LIMIT - 0.1, kernel=True)) == []
    (dead,) = of(i.Dead, run(one, since + STALL_LIMIT + 0.1, kernel=True))
    assert dead.life == X


def test_a_stalled_member_that_hosts_nothing_for_others_is_waited_for() -> None:
    one = Membership(record(ME), LAN, STALL_LIMIT, Random(1))
    one.seed([record(X, hosts="own")], 0.0)
    one.start(0.0)
    assert of(i.Dead, run(one, 300.0, kernel=True)) == []
    assert one.state(X) == "stalled"
    assert of(i.Dead, run(one, 320.0, kernel=False)), "unless it is cut off as well"


def test_where_the_kernel_cannot_be_asked_stalled_counts_as_cut_off() -> None:
    assert of(i.Dead, run(machine(X), 8.0, kernel=None))


def test_a_stalled_member_that_goes_on_is_up_again() -> None:
    one = machine(X, A)
    gossip(one, A, accused(X, A, what=Accusation.STALLED))
    assert one.state(X) == "stalled"
    two = machine_of(X, ME, A)
    two.message(ME, [PING, 1, [one.view[X].to_brief()]], 9.0)
    gossip(one, X, two.me, now=9.1)
    assert one.state(X) == "up"


# -- gone --------------------------------------------------------------------------------------------------------------


def test_two_that_are_refused_are_proof() -> None:
    one = machine(X, A, B)
    done = one.evidence(X, "eof", 1.0)
    assert of(i.Dial, done) == [i.Dial(X, "host:2")]
    done = one.evidence(X, "refused", 1.01)
    assert of(i.Dead, done) == []
    assert sent(done, GOSSIP), "the others hear of it at once"
    (dead,) = of(i.Dead, gossip(one, A, accused(X, A, what=Accusation.REFUSED), now=1.02))
    assert dead.verdict.proof == "refused"
    assert "n1, n3" in dead.verdict.text


def test_of_two_members_one_refusal_is_proof() -> None:
    one = machine(X)
    one.evidence(X, "eof", 1.0)
    assert of(i.Dead, one.evidence(X, "refused", 1.0))


def test_two_killed_at_once_are_proof_for_the_third() -> None:
    one = machine(X, A)
    for life in (X, A):
        one.evidence(life, "eof", 1.0)
    assert of(i.Dead, one.evidence(X, "refused", 1.0)) == []
    assert {dead.life for dead in of(i.Dead, one.evidence(A, "refused", 1.0))} == {X, A}


def test_a_refused_dial_says_nothing_while_there_is_a_link() -> None:
    one = machine(X)
    assert one.evidence(X, "refused", 1.0) == []
    assert one.state(X) == "up"


def test_across_networks_a_refusal_is_only_a_reason_to_probe() -> None:
    one = machine(X, profile=WAN)
    one.evidence(X, "eof", 1.0)
    done = one.evidence(X, "refused", 1.0)
    assert set(sent(done, PING)) == {X}
    assert one.state(X) == "up"


def test_others_look_when_one_was_refused() -> None:
    one = machine(X, A, B)
    one.evidence(X, "goodbye", 0.5)
    done = gossip(one, A, accused(X, A, what=Accusation.REFUSED))
    assert of(i.Dial, done) == [i.Dial(X, "host:2")]


def test_a_link_that_is_back_makes_the_member_refute() -> None:
    one = machine(X, A, B)
    one.evidence(X, "eof", 1.0)
    one.evidence(X, "refused", 1.0)
    done = one.evidence(X, "linked", 1.5)
    assert [row[0] for row in sent(done, PING)[X][2]] == [X]


@pytest.mark.parametrize("linked", [False, True])
def test_another_life_at_its_address_is_proof(linked: bool) -> None:
    (dead,) = of(i.Dead, machine(X, A, B, linked=linked).evidence(X, "another_life", 1.0))
    assert dead.verdict.proof == "another life"


def test_a_newer_life_of_the_same_node_is_proof_and_an_older_one_is_never_taken_in() -> None:
    newer = record(X[:8] + b"newer..!", lived=1)
    one = machine(X, A, B)
    done = one.met(newer, 1.0)
    (dead,) = of(i.Dead, done)
    assert (dead.life, dead.verdict.proof) == (X, "another life")
    assert one.state(newer.life) == "up"
    two = machine(A, B)
    two.met(newer, 1.0)
    gossip(two, A, record(X), now=1.1)
    assert two.state(X) is None
    assert two.state(newer.life) == "up"


def test_a_newcomer_at_a_known_address_makes_one_look_who_answers_there() -> None:
    one = machine(X, A)
    done = one.met(replace(record(B), address="host:2"), 1.0)
    assert of(i.Dial, done) == [i.Dial(X, "host:2")]
    assert one.state(X) == "up"


# -- verdicts of others ------------------------------------------------------------------------------------------------


def test_a_verdict_with_grounds_is_taken_over_and_passed_on_at_once() -> None:
    one = machine(X, A, B, C)
    done = gossip(one, A, replace(record(X), dead=(A, B, C)), now=10.0)
    assert [dead.life for dead in of(i.Dead, done)] == [X]
    assert any(row[0] == X for message in sent(done, GOSSIP).values() for row in message[1])


def test_a_verdict_without_grounds_is_an_accusation() -> None:
    one = machine(X, A, B, C)
    done = gossip(one, A, replace(record(X), dead=(A,)), now=10.0)
    assert of(i.Dead, done) == []
    assert one.view[X].accusers == ((A, Accusation.SUSPECT),)
    assert X in sent(done, PING)


def test_who_passes_a_verdict_on_counts_beside_those_whose_it_is() -> None:
    """It was passed when there were fewer; more are wanted now, and who has buried somebody accuses them no more."""
    one = machine(X, A, B, C)
    assert of(i.Dead, gossip(one, B, replace(record(X), dead=(A,)), now=10.0)) == []
    assert one.view[X].accusers == ((A, Accusation.SUSPECT), (B, Accusation.SUSPECT))


def test_who_hears_a_member_does_not_take_over_that_it_is_dead() -> None:
    one = machine(X, A, B, C)
    one.evidence(X, "heard", 9.5)
    assert of(i.Dead, gossip(one, A, replace(record(X), dead=(A, B, C)), now=10.0)) == []
    assert of(i.Dead, gossip(one, A, replace(record(X), dead=(A, B), proof="refused"), now=10.0)) == []
    one.evidence(X, "eof", 10.1)
    assert of(i.Dead, gossip(one, A, replace(record(X), dead=(A, B), proof="refused"), now=10.2))


def test_who_is_held_dead_is_told_so_once() -> None:
    one = machine(A, B)
    verdict = replace(record(ME), dead=(A, B))
    (told,) = of(i.ToldDead, gossip(one, A, verdict))
    assert told.by == A
    assert "node n3 holds this life for dead" in told.text
    assert of(i.ToldDead, gossip(one, B, verdict)) == []


def test_whoever_speaks_of_the_dead_as_alive_is_told() -> None:
    one = machine(X)
    one.evidence(X, "eof", 1.0)
    one.evidence(X, "refused", 1.0)
    done = gossip(one, A, record(X), now=2.0)
    assert of(i.StateChanged, done) == []
    assert sent(done, GOSSIP)[A][1][0][:4] == [X, 0, [ME, 3], (ME,)]
    answer = sent(one.message(X, [PING, 1, []], 3.0), ACK)[X]
    assert answer[2][0][0] == X


def test_a_newcomer_takes_over_no_verdicts_about_those_whom_it_never_met() -> None:
    one = machine(A)
    assert one.message(A, [GOSSIP, [replace(record(X), dead=(A, B)).to_brief()]], 1.0) == []
    assert X not in one.tombstones
    (left,) = of(i.Left, gossip(one, A, record(X, phase=Phase.LEFT, heir=A)))
    assert left.heir == A


def test_tombstones_end_after_their_time() -> None:
    one = machine(X)
    one.evidence(X, "eof", 1.0)
    one.evidence(X, "refused", 1.0)
    one.tick(1.0 + LAN.tombstone_keep - 60)
    assert X in one.tombstones
    one.tick(1.0 + LAN.tombstone_keep + 60)
    assert X not in one.tombstones
