"""The name directory's machine, rule by rule: one input, the instructions that come out, what is kept after."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from actorfw.core.entries import Record
from actorfw.core.names import Entry, Names
from actorfw.core.shards import SHARDS, _rank, shard_of
from actorfw.values.errors import ProtocolError

A, B, C, D = (bytes([byte]) * 16 for byte in b"abcd")
LIVES = (A, B, C, D)


def entry(life: bytes, number: int = 1, created: float = 0.0) -> Entry:
    return Entry(life, number, 1, life, f"{life[:1].decode()}:1", created)


def name_in(shard: int) -> str:
    return next(name for name in map(str, count()) if shard_of("", name) == shard)


def shard_ranked(*lives: bytes) -> int:
    """A shard for which these lives stand in this order."""
    return next(
        shard
        for shard in range(SHARDS)
        if sorted(lives, key=lambda life: _rank(life, shard), reverse=True) == list(lives)
    )


def founder(life: bytes = A) -> Names:
    names = Names(life, 0.0)
    assert names.founder() == []
    return names


def member(life: bytes, *others: bytes) -> Names:
    """A member that keeps nothing and knows that nothing is to be looked for yet."""
    names = Names(life, 0.0)
    names.view((life, *others), 0.0)
    return names


def sent(instructions: list[Any], verb: str | None = None) -> list[tuple[bytes, tuple[Any, ...]]]:
    messages = [one[1:] for one in instructions if one[0] == "send"]
    return [(to, message) for to, message in messages if verb in (None, message[0])]


def asks(instructions: list[Any], shard: int) -> dict[bytes, int]:
    """Who is asked for a shard, in which round."""
    return {to: message[2] for to, message in sent(instructions, "recover") if message[1] == shard}


class Cluster:
    """Machines joined by channels that deliver at once, in order."""

    def __init__(self, *lives: bytes) -> None:
        self.machines = {life: Names(life, 0.0) for life in lives}
        self.do(lives[0], "founder")
        for life in lives:
            self.do(life, "view", lives, 0.0)

    def do(self, life: bytes, method: str, *args: Any) -> list[Any]:
        """Call a method and deliver whatever follows from it; returns what is no message."""
        queue = [(life, instruction) for instruction in getattr(self.machines[life], method)(*args)]
        now = args[-1] if args else 0.0
        out: list[Any] = []
        while queue:
            sender, instruction = queue.pop(0)
            if instruction[0] != "send":
                out.append((sender, instruction))
            elif instruction[1] in self.machines:
                to = instruction[1]
                queue += [(to, more) for more in self.machines[to].message(sender, instruction[2], now)]
        return out


def test_shards_spread_and_tell_namespaces_apart() -> None:
    assert {shard_of("default", str(number)) for number in range(5000)} == set(range(SHARDS))
    assert shard_of("a", "b") != shard_of("b", "a")


OLD, NEW = entry(A, 1), entry(A, 2)


@pytest.mark.parametrize(
    ("before", "op", "payload", "ok", "answer"),
    [
        (None, "create", (NEW, False), True, (NEW, True)),
        (None, "create", (NEW, True), True, (NEW, True)),
        (OLD, "create", (NEW, False), False, ("exists", OLD)),
        (OLD, "create", (NEW, True), True, (OLD, False)),
        (OLD, "create", (OLD, False), True, (OLD, True)),
        (None, "lookup", None, False, ("not_found", None)),
        (OLD, "lookup", None, True, OLD),
        (None, "remove", OLD[:3], True, None),
        (OLD, "remove", OLD[:3], True, None),
        (OLD, "remove", NEW[:3], True, None),
        (OLD, "list", None, True, [("space", "name", OLD)]),
        (None, "list", None, True, []),
    ],
)
def test_a_founder_answers_by_itself(before: Entry | None, op: Any, payload: Any, ok: bool, answer: Any) -> None:
    names = founder()
    if before:
        names.request(1, "create", "space", "name", (before, False), 0.0)
    assert names.request(2, op, "space", "name", payload, 0.0) == [("answer", 2, ok, answer)]


def test_only_the_same_actor_is_removed() -> None:
    names = founder()
    names.request(1, "create", "", "name", (OLD, False), 0.0)
    names.request(2, "remove", "", "name", (A, 7, 1), 0.0)
    assert names.kept == names.granted == {("", "name"): OLD}
    names.request(3, "remove", "", "name", OLD[:3], 0.0)
    assert names.kept == names.granted == {}


def test_a_list_is_of_one_namespace_or_of_all() -> None:
    names = founder()
    names.request(1, "create", "x", "name", (OLD, False), 0.0)
    names.request(2, "create", "y", "name", (NEW, False), 0.0)
    assert names.request(3, "list", "y", "", None, 0.0) == [("answer", 3, True, [("y", "name", NEW)])]
    assert names.request(4, "list", None, "", None, 0.0) == [
        ("answer", 4, True, [("x", "name", OLD), ("y", "name", NEW)])
    ]


# -- hand-over ---------------------------------------------------------------------------------------------------------


def test_a_newcomer_gets_the_shards_it_is_first_for_and_no_copy_stays() -> None:
    names = founder(A)
    instructions = names.view((A, B), 1.0)
    given = {message[1]: message[2] for to, message in sent(instructions, "token") if to == B}
    assert set(given.values()) == {1}
    assert set(given) == {shard for shard in range(SHARDS) if _rank(B, shard) > _rank(A, shard)}
    assert names.kept_shards == set(range(SHARDS)) - set(given)


def test_a_request_goes_to_whom_the_shard_was_handed() -> None:
    shard = shard_ranked(B, A)
    names = founder(A)
    names.view((A, B), 0.0)
    names.view((A,), 0.0)  # B is not up any more, but the token is there
    instructions = names.request(1, "lookup", "", name_in(shard), None, 0.0)
    assert sent(instructions) == [(B, ("ask", A, 1, 1, "lookup", "", name_in(shard), None, 1))]


def test_requests_from_any_node_find_the_keeper() -> None:
    cluster = Cluster(*LIVES)
    assert sum(len(machine.kept_shards) for machine in cluster.machines.values()) == SHARDS
    assert all(machine.kept_shards for machine in cluster.machines.values())
    for number, life in enumerate(LIVES, 1):
        held = entry(life, number)
        (answer,) = cluster.do(life, "request", number, "create", "", f"n{number}", (held, False), 0.0)
        assert answer == (life, ("answer", number, True, (held, True)))
        for asker in LIVES:
            (answer,) = cluster.do(asker, "request", number + 10, "lookup", "", f"n{number}", None, 0.0)
            assert answer == (asker, ("answer", number + 10, True, held))
    (answer,) = cluster.do(D, "request", 99, "list", "", "", None, 0.0)
    assert [row[1] for row in answer[1][3]] == ["n1", "n2", "n3", "n4"]


def test_a_token_is_passed_on_by_the_takers_own_view() -> None:
    shard = shard_ranked(C, B, A)
    names = member(B, A, C)
    instructions = names.message(A, ("token", shard, 1, [], [], False), 0.0)
    assert sent(instructions) == [(A, ("taken", shard)), (C, ("token", shard, 2, [], [], False))]


def test_a_request_that_has_travelled_far_waits_and_then_starts_again() -> None:
    shard = shard_ranked(C, B, A)
    names = member(B, A, C)
    ask = ("ask", A, 1, 1, "lookup", "", name_in(shard), None)
    assert sent(names.message(A, (*ask, 5), 0.0)) == [(C, (*ask, 6))]
    assert names.message(A, (*ask, 6), 0.0) == []
    assert sent(names.tick(0.9)) == []
    assert sent(names.tick(1.1), "ask") == [(C, (*ask, 1))]


def test_who_leaves_hands_all_over_and_is_drained_when_that_has_arrived() -> None:
    names = founder(A)
    names.view((A, B), 0.0)
    for shard in range(SHARDS):
        names.message(B, ("taken", shard), 0.0)
    instructions = names.leave(1.0)
    assert sent(instructions)[0] == (B, ("leaving",))
    handed = [message[1] for _, message in sent(instructions, "token")]
    assert handed
    assert not names.kept_shards
    assert not names.drained
    for shard in handed:
        names.message(B, ("taken", shard), 1.0)
    assert names.drained
    assert sent(names.message(C, ("list", 1, None), 1.0))[0] == (C, ("leaving",))  # so that nothing is sent here


def test_who_leaves_alone_keeps_all() -> None:
    names = founder(A)
    assert names.leave(1.0) == []
    assert names.drained
    assert len(names.kept_shards) == SHARDS


# -- recovery: the side that wants the shard ---------------------------------------------------------------------------


def test_the_successor_of_a_dead_keeper_asks_all_and_mints_above_what_they_know() -> None:
    shard = shard_ranked(D, A, B, C)
    name, held = name_in(shard), entry(B)
    names = member(A, B, C, D)
    rounds = asks(names.dead(D, 1.0), shard)
    assert rounds.keys() == {B, C}
    names.message(B, ("no", shard, rounds[B], 5, [("", name, held)], [], None), 1.0)
    assert shard not in names.kept_shards
    instructions = names.message(C, ("no", shard, rounds[C], 3, [], [], None), 1.0)
    assert sent(instructions) == [(B, ("release", shard, rounds[B], 1005)), (C, ("release", shard, rounds[C], 1005))]
    assert names.kept == {("", name): held}


def test_a_shard_whose_token_does_not_come_is_looked_for_after_a_second() -> None:
    shard = shard_ranked(A, B)
    names = member(A, B)
    assert asks(names.tick(0.9), shard) == {}
    assert asks(names.tick(1.0), shard).keys() == {B}


def test_a_joiner_looks_for_nothing_before_it_is_up() -> None:
    names = Names(A, 0.0)
    names.view((), 0.0)
    assert names.tick(5.0) == []
    names.view((B,), 5.0)
    assert names.tick(10.0) == []
    assert not names.kept_shards


@pytest.mark.parametrize("answer", ["have", "busy", "recall"])
def test_a_recovery_gives_way_and_lets_all_promises_go(answer: str) -> None:
    shard = shard_ranked(A, B, C)
    names = member(A, B, C)
    number = asks(names.tick(1.0), shard)[B]
    names.message(C, ("no", shard, number, 0, [], [], None), 1.0)
    extra = (C,) if answer == "busy" else ()
    instructions = names.message(B, (answer, shard, number, *extra), 1.0)
    assert sent(instructions) == [(B, ("release", shard, number, 0)), (C, ("release", shard, number, 0))]
    again = 1.0 if answer == "have" else 0.45
    assert asks(names.tick(1.0 + again), shard)[B] > number


def test_an_answer_of_an_earlier_round_does_not_count() -> None:
    shard = shard_ranked(A, B)
    names = member(A, B)
    first = asks(names.tick(1.0), shard)[B]
    names.message(B, ("recall", shard, first), 1.0)
    second = asks(names.tick(1.5), shard)[B]
    names.message(B, ("no", shard, first, 0, [], [], None), 1.5)
    assert shard not in names.kept_shards
    names.message(B, ("no", shard, second, 0, [], [], None), 1.5)
    assert shard in names.kept_shards


def test_newcomers_are_asked_too_and_so_are_those_only_others_know() -> None:
    shard = shard_ranked(A, B, C, D)
    names = member(A, B)
    number = asks(names.tick(1.0), shard)[B]
    assert asks(names.view((A, B, C), 1.1), shard) == {C: number}
    assert asks(names.message(B, ("no", shard, number, 0, [], [A, B, C, D], None), 1.2), shard) == {D: number}
    names.message(C, ("no", shard, number, 0, [], [], None), 1.3)
    assert shard not in names.kept_shards
    names.message(D, ("no", shard, number, 0, [], [], None), 1.4)
    assert shard in names.kept_shards


def test_who_dies_need_not_answer() -> None:
    shard = shard_ranked(A, B, C)
    names = member(A, B, C)
    number = asks(names.tick(1.0), shard)[B]
    names.message(B, ("no", shard, number, 0, [], [], None), 1.0)
    assert sent(names.dead(C, 1.1), "release")[0] == (B, ("release", shard, number, 1000))
    assert shard in names.kept_shards


def test_a_recovery_ends_when_another_is_first() -> None:
    shard = shard_ranked(C, A, B)
    names = member(A, B)
    number = asks(names.tick(1.0), shard)[B]
    instructions = names.view((A, B, C), 1.1)
    assert (B, ("release", shard, number, 0)) in sent(instructions)


# -- recovery: the side that is asked ----------------------------------------------------------------------------------


def test_a_keeper_does_not_promise_nor_does_who_handed_over_and_has_no_confirmation() -> None:
    shard = shard_ranked(B, A, C)
    names = founder(A)
    assert sent(names.message(C, ("recover", shard, 1, b""), 0.0)) == [(C, ("have", shard, 1))]
    names.view((A, B, C), 0.0)
    assert shard not in names.kept_shards
    assert sent(names.message(C, ("recover", shard, 2, b""), 0.0)) == [(C, ("have", shard, 2))]
    names.message(B, ("taken", shard), 0.0)
    ((to, answer),) = sent(names.message(C, ("recover", shard, 3, b""), 0.0))
    assert (to, answer) == (C, ("no", shard, 3, 1, [], [A, B, C], None))


def test_a_promise_comes_with_the_names_held_here() -> None:
    shard = shard_ranked(B, A)
    name, held = name_in(shard), entry(A)
    names = member(A, B)
    names.request(1, "create", "", name, (held, False), 0.0)
    names.message(B, ("grant", 1, 1, 0, "", name, held), 0.0)
    ((_, answer),) = sent(names.message(C, ("recover", shard, 1, b""), 0.0))
    assert answer[4] == [("", name, tuple(held))]


def test_one_promise_at_a_time_by_rank() -> None:
    shard = shard_ranked(B, C, D, A)
    names = member(A, B, C, D)
    assert sent(names.message(C, ("recover", shard, 1, b""), 0.0))[0][1][0] == "no"
    assert sent(names.message(D, ("recover", shard, 1, b""), 0.0)) == [(D, ("busy", shard, 1, C))]
    assert sent(names.message(B, ("recover", shard, 9, b""), 0.0)) == [(C, ("recall", shard, 1))]
    ((to, answer),) = sent(names.message(C, ("release", shard, 1, 0), 0.0))
    assert (to, answer[:3]) == (B, ("no", shard, 9))


def test_a_question_taken_back_is_not_answered() -> None:
    shard = shard_ranked(B, C, A)
    names = member(A, B, C)
    names.message(C, ("recover", shard, 1, b""), 0.0)
    names.message(B, ("recover", shard, 9, b""), 0.0)
    names.message(B, ("release", shard, 9, 0), 0.0)
    assert sent(names.message(C, ("release", shard, 1, 0), 0.0)) == []
    assert not names._shards.is_promised(shard)


@pytest.mark.parametrize(
    ("end", "kept"),
    [(("release", 0), True), (("release", 1000), False), (("dead",), False)],
)
def test_a_token_that_comes_while_the_shard_is_promised_waits_for_the_outcome(end: tuple[Any, ...], kept: bool) -> None:
    shard = shard_ranked(A, B, C)
    names = member(A, B, C)
    names.message(C, ("recover", shard, 7, b""), 0.0)
    instructions = names.message(B, ("token", shard, 4, [], [], False), 0.0)
    assert sent(instructions) == [(B, ("taken", shard)), (C, ("have", shard, 7))]
    assert shard not in names.kept_shards
    if end[0] == "dead":
        names.dead(C, 0.1)
    else:
        names.message(C, ("release", shard, 7, end[1]), 0.1)
    assert (shard in names.kept_shards) == kept


def test_a_grant_from_before_a_promise_does_not_count() -> None:
    shard = shard_ranked(B, C, A)
    name, held = name_in(shard), entry(A)
    names = member(A, B, C)
    names.request(1, "create", "", name, (held, False), 0.0)
    names.message(C, ("recover", shard, 1, b""), 0.0)
    assert names.message(B, ("grant", 1, 1, 0, "", name, held), 0.1) == []
    assert names.granted == {}
    ask = ("ask", A, 1, 2, "create", "", name, (tuple(held), False), 1)
    assert sent(names.message(C, ("release", shard, 1, 1000), 0.2)) == [(C, ask)]
    assert names.message(C, ("grant", 1, 2, 1000, "", name, held), 0.3) == [("answer", 1, True, (held, True))]
    assert names.granted == {("", name): held}


def test_no_create_leaves_while_its_shard_is_promised() -> None:
    shard = shard_ranked(B, C, A)
    names = member(A, B, C)
    names.message(C, ("recover", shard, 1, b""), 0.0)
    assert names.request(1, "create", "", name_in(shard), (entry(A), False), 0.0) == []
    assert [to for to, _ in sent(names.message(C, ("release", shard, 1, 0), 0.2), "ask")] == [B]


# -- deaths, copies, conflicts -----------------------------------------------------------------------------------------


def test_names_of_a_dead_guardian_are_free_and_its_late_requests_are_not_served() -> None:
    shard = shard_ranked(A, B)
    name = name_in(shard)
    names = founder(A)
    names.view((A, B), 0.0)
    ask = ("ask", B, 1, 1, "create", "", name, (tuple(entry(B)), False), 1)
    assert sent(names.message(B, ask, 0.0), "grant")
    names.dead(B, 1.0)
    assert names.kept == {}
    assert names.message(C, ask, 1.1) == []
    assert names.kept == {}


def test_a_request_is_sent_again_when_a_node_dies_and_when_no_answer_comes() -> None:
    shard = shard_ranked(B, C, A)
    names = member(A, B, C)
    first = sent(names.request(1, "lookup", "", name_in(shard), None, 0.0))
    assert [to for to, _ in first] == [B]
    assert sent(names.tick(1.9), "ask") == []
    assert sent(names.tick(2.0), "ask") == first
    assert sent(names.dead(B, 2.5), "ask") == [(C, first[0][1])]


def test_a_list_does_not_wait_for_the_dead_nor_for_ever() -> None:
    names = member(A, B, C)
    assert [to for to, _ in sent(names.request(1, "list", "", "", None, 0.0), "list")] == [B, C]
    held = entry(B)
    names.message(B, ("listed", 1, [(0, [("", "x", held)])]), 0.1)
    names.dead(C, 0.2)
    assert [to for to, _ in sent(names.tick(0.5), "list")] == [B]  # most shards have no keeper yet
    answers = [one for one in names.tick(5.0) if one[0] == "answer"]
    assert answers == [("answer", 1, True, [("", "x", held)])]


def test_a_late_copy_of_a_create_is_taken_out_again() -> None:
    shard = shard_ranked(B, A)
    name, held = name_in(shard), entry(A)
    names = member(A, B)
    names.request(1, "create", "", name, (held, False), 0.0)
    grant = ("grant", 1, 1, 0, "", name, held)
    names.message(B, grant, 0.0)
    assert names.message(B, grant, 0.0) == []  # a copy while it is held changes nothing
    names.request(2, "remove", "", name, held[:3], 0.0)
    ((to, ask),) = sent(names.message(B, grant, 0.1))
    assert (to, ask[4:]) == (B, ("remove", "", name, held.id, 1))
    assert names.message(B, ("reply", ask[2], 1, True, None), 0.2) == []


def test_a_create_that_meets_such_a_copy_clears_it_and_tries_again() -> None:
    shard = shard_ranked(B, A)
    name, ghost = name_in(shard), entry(A, 1)
    names = member(A, B)
    names.request(2, "create", "", name, (entry(A, 2), False), 0.0)
    asked = sent(names.message(B, ("reply", 2, 1, False, ("exists", ghost)), 0.1))
    assert [(message[3], message[4]) for _, message in asked] == [(1, "remove"), (2, "create")]


def test_where_two_tokens_meet_the_older_actor_stays_and_the_other_is_told() -> None:
    shard = shard_ranked(A, B, C)
    name, older, younger = name_in(shard), entry(C, 1, created=1.0), entry(A, 1, created=2.0)
    names = founder(A)
    names.view((A, B, C), 0.0)
    names.request(1, "create", "", name, (younger, False), 0.0)
    instructions = names.message(B, ("token", shard, 3, [("", name, older)], [], False), 1.0)
    assert ("conflict", "", name, younger, older) in instructions
    assert names.kept == {("", name): older}
    assert names.granted == {}


# -- a keeper that does not know of a name that is held ----------------------------------------------------------------


def holder(created: float = 0.0) -> tuple[Names, str, Entry]:
    """A, with a name of a shard that B keeps and C should keep once it is there."""
    name, held = name_in(shard_ranked(C, B, A)), entry(A, created=created)
    names = member(A, B)
    names.request(1, "create", "", name, (held, False), 0.0)
    names.message(B, ("grant", 1, 1, 0, "", name, held), 0.0)
    return names, name, held


def claims(instructions: list[Any]) -> list[tuple[bytes, Any]]:
    return [(to, message) for to, message in sent(instructions, "ask") if message[4] == "claim"]


def test_a_guardian_claims_its_names_from_whoever_becomes_their_keeper() -> None:
    names, name, held = holder()
    ((to, ask),) = claims(names.view((A, B, C), 1.0))
    assert (to, ask[4:8]) == (C, ("claim", "", name, (tuple(held), False)))
    assert claims(names.tick(3.0)) == [(C, ask)]  # until it is answered
    names.message(C, ("reply", ask[2], ask[3], True, None), 3.1)
    assert claims(names.tick(6.0)) == []
    assert names.granted == {("", name): held}


def test_a_claim_is_made_when_a_recovery_is_given_up() -> None:
    """The names that came with the promise are lost with it."""
    names, name, held = holder()
    shard = shard_ranked(C, B, A)
    names.message(B, ("recover", shard, 7, b""), 1.0)
    ((_, ask),) = claims(names.message(B, ("release", shard, 7, 0), 1.1))
    assert ask[6:8] == (name, (tuple(held), False))


def test_a_keeper_enters_what_is_claimed() -> None:
    keeper = founder(C)
    name, held = name_in(0), entry(A)
    ask = ("ask", A, -1, 1, "claim", "", name, (tuple(held), False), 1)
    for _ in range(2):  # a copy changes nothing
        assert sent(keeper.message(A, ask, 1.0)) == [(A, ("reply", -1, 1, True, None))]
        assert keeper.kept == {("", name): held}


def test_a_claim_that_comes_after_the_name_was_given_back_leaves_nothing() -> None:
    names, name, held = holder()
    ((_, ask),) = claims(names.view((A, B, C), 1.0))
    names.request(2, "remove", "", name, held.id, 1.1)
    answered = sent(names.message(C, ("reply", ask[2], ask[3], True, None), 1.2), "ask")
    assert [message[4:8] for _, message in answered] == [("remove", "", name, held.id)]


def test_of_two_holders_the_older_one_keeps_the_name() -> None:
    cluster = Cluster(A, C)
    name = name_in(shard_ranked(C, A))
    key = ("", name)
    younger = entry(C, created=2.0)
    cluster.do(C, "request", 1, "create", "", name, (younger, False), 2.0)
    older = entry(A, created=1.0)
    cluster.machines[A].adopt("", name, older)
    out = cluster.do(C, "message", A, ("ask", A, -1, 1, "claim", "", name, (tuple(older), False), 1), 3.0)
    assert out == []  # a claim may be late: alone it takes a name from nobody
    assert cluster.machines[C].kept[key] == younger
    assert cluster.do(A, "dead", B, 3.0) == []
    shard = shard_ranked(C, A)
    cluster.do(A, "message", C, ("recover", shard, 9, b""), 3.0)
    out = cluster.do(A, "message", C, ("release", shard, 9, 0), 3.0)
    assert out == [(C, ("conflict", "", name, younger, older))]
    assert cluster.machines[C].kept[key] == older


def test_a_younger_holder_gives_in() -> None:
    names, name, held = holder(created=5.0)
    ((_, ask),) = claims(names.view((A, B, C), 6.0))
    other = entry(D, created=1.0)
    out = names.message(C, ("reply", ask[2], ask[3], False, tuple(other)), 6.1)
    assert out == [("conflict", "", name, held, other)]
    assert names.granted == {}


@pytest.mark.parametrize("message", [(), ("what",), (["list"],), (1, 2)])
def test_what_is_no_message_about_names_is_refused(message: Any) -> None:
    with pytest.raises(ProtocolError, match="no message about names"):
        founder().message(B, message, 0.0)


# -- late copies of creates of detached actors -------------------------------------------------------------------------


def detached(token: bytes, name: str) -> Entry:
    life = b"detached" + token
    return Entry(life, shard_of("default", name), 1, life, "", 0.0, Record(1, b"spec", "up", A, "", 0, ""))


def created(names: Names, made: Entry, now: float) -> list[Any]:
    """What follows from B's request to make this actor, or from a copy of it."""
    return names.message(B, ("ask", B, made.life[-1], 1, "create", "default", "n", (tuple(made), True), 1), now)


def end(names: Names, made: Entry, now: float) -> None:
    assert made.record is not None
    names.record(("default", "n"), made.id, 1, made.record._replace(revision=2, state="ended"), None, now)


def guarded(instructions: list[Any]) -> list[bytes]:
    return [one[2].life for one in instructions if one[0] == "guard" and one[1] == ("default", "n")]


def test_an_actor_that_ended_is_not_made_again_although_another_has_had_its_name() -> None:
    names = founder()
    first, second = detached(b"first..1", "n"), detached(b"second.2", "n")
    assert guarded(created(names, first, 1.0)) == [first.life]
    end(names, first, 2.0)
    assert guarded(created(names, second, 3.0)) == [second.life]
    end(names, second, 4.0)
    late = created(names, first, 5.0)
    assert not guarded(late)
    (reply,) = [message for _, message in sent(late, "reply")]
    assert Entry.of(reply[4][0]).id == first.id
    assert Entry.of(reply[4][0]).ended


def test_a_create_that_was_led_to_an_older_actor_is_led_there_again_after_its_end() -> None:
    names = founder()
    older, newer = detached(b"older..1", "n"), detached(b"newer..2", "n")
    created(names, older, 1.0)
    created(names, newer, 2.0)
    end(names, older, 3.0)
    late = created(names, newer, 4.0)
    assert not guarded(late)
    (reply,) = [message for _, message in sent(late, "reply")]
    assert Entry.of(reply[4][0]).id == older.id
    assert reply[4][1] is False
