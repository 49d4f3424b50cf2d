"""Records of members: merging, and the form on the wire."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorfw.core import spreading
from actorfw.core.gossip import Fingerprint, News
from actorfw.core.membership import Membership
from actorfw.core.records import Accusation, Brief, Phase, Record, read_row
from actorfw.values.errors import ProtocolError
from actorfw.values.ids import Refutation
from actorfw.values.profiles import LAN

LIFE = b"m" * 16
lives = st.sampled_from([bytes([n]) * 16 for n in range(4)])
accusers = st.dictionaries(lives, st.sampled_from(Accusation), max_size=3).map(lambda d: tuple(sorted(d.items())))
verdicts = st.none() | st.sets(lives, max_size=3).map(lambda s: tuple(sorted(s)))
records = st.builds(
    Record,
    life=st.just(LIFE),
    address=st.sampled_from(["a:1", "b:2"]),
    name=st.just("m"),
    totals=st.sampled_from([(), (("CPU", 10_000),)]),
    phase=st.sampled_from(Phase),
    heir=st.sampled_from([b"", b"h" * 16]),
    refutation=st.integers(0, 3).map(Refutation),
    accusers=accusers,
    dead=verdicts,
    proof=st.sampled_from(["", "refused"]),
)


@given(records, records)
def test_merging_is_commutative(one: Record, two: Record) -> None:
    assert one.merge(two) == two.merge(one)


@given(records, records, records)
def test_merging_is_associative(one: Record, two: Record, three: Record) -> None:
    assert one.merge(two).merge(three) == one.merge(two.merge(three))


@given(records, records)
def test_merging_is_idempotent_and_says_so(one: Record, two: Record) -> None:
    both = one.merge(two)
    assert both.merge(one) is both
    assert both.merge(two) is both


@given(records, records)
def test_a_merge_never_goes_back(one: Record, two: Record) -> None:
    both = one.merge(two)
    assert both.refutation == max(one.refutation, two.refutation)
    assert (both.dead is None) == (one.dead is None and two.dead is None)
    if one.refutation == two.refutation:
        assert both.phase == max(one.phase, two.phase)


@given(records)
def test_a_record_crosses_the_wire_whole(record: Record) -> None:
    assert Record.from_wire(msgpack.unpackb(msgpack.packb(record.to_wire()))) == record


@given(records, records)
def test_a_brief_row_says_what_others_say(known: Record, news: Record) -> None:
    brief = read_row(msgpack.unpackb(msgpack.packb(news.to_brief())))
    assert isinstance(brief, Brief)
    merged = known.merge(brief.upon(known))
    if news.refutation == known.refutation:
        assert merged.accusers == known.merge(replace(known, accusers=news.accusers)).accusers
    if news.refutation > known.refutation:
        assert (merged.refutation, merged.accusers) == (known.refutation, known.accusers)
    assert merged.words == known.words


def test_a_higher_refutation_wipes_accusations_away() -> None:
    accused = Record(LIFE, "a:1", "m").accused(b"x" * 16, Accusation.SUSPECT)
    refuted = replace(accused, refutation=Refutation(1), accusers=())
    assert accused.merge(refuted) is refuted
    assert refuted.merge(accused) is refuted


def test_the_gravest_accusation_of_each_member_counts() -> None:
    x, y = b"x" * 16, b"y" * 16
    record = Record(LIFE, "a:1", "m").accused(x, Accusation.STALLED).accused(y, Accusation.REFUSED)
    assert record.stalled
    record = record.accused(x, Accusation.SUSPECT).accused(y, Accusation.STALLED)
    assert record.accusers == ((x, Accusation.SUSPECT), (y, Accusation.REFUSED))
    assert record.seen(Accusation.SUSPECT) == (x, y)
    assert record.seen(Accusation.REFUSED) == (y,)
    assert not record.stalled


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        [LIFE, 0, []],
        [b"short", 0, [], None, ""],
        [LIFE, -1, [], None, ""],
        [LIFE, "0", [], None, ""],
        [LIFE, 0, [b"x" * 16], None, ""],
        [LIFE, 0, [b"x" * 16, 9], None, ""],
        [LIFE, 0, [b"x", 1], None, ""],
        [LIFE, 0, [], [1], ""],
        [LIFE, 0, [], None, 7],
        [*Record(LIFE, "a:1", "m").to_wire(), 1],
        [*Record(LIFE, "a:1", "m").to_wire()[:-2], 9, b""],
        [*Record(LIFE, "a:1", "m").to_wire()[:-1], b"heir"],
    ],
)
def test_a_row_that_makes_no_sense_is_refused(row: object) -> None:
    with pytest.raises(ProtocolError):
        read_row(row)


def test_a_record_needs_what_the_member_says_itself() -> None:
    with pytest.raises(ProtocolError):
        Record.from_wire(Record(LIFE, "a:1", "m").to_brief())


def test_fingerprints_tell_which_buckets_differ() -> None:
    one, two = Fingerprint(), Fingerprint()
    record = Record(LIFE, "a:1", "m")
    other = Record(b"n" * 16, "a:2", "n")
    for fingerprint in (one, two):
        fingerprint.change(None, record)
    assert one.differing(two.to_wire()) == set()
    two.change(None, other)
    assert one.differing(two.to_wire()) == {other.life[-1] % 16}
    suspect = other.accused(LIFE, Accusation.SUSPECT)
    one.change(None, suspect)
    assert one.differing(two.to_wire()) == {other.life[-1] % 16}
    two.change(other, suspect)
    assert one.to_wire() == two.to_wire()
    with pytest.raises(ValueError, match="no fingerprint"):
        one.differing(b"short")


def test_news_is_told_so_often_and_the_least_told_first() -> None:
    news = News()
    known = {bytes([n]) * 16: Record(bytes([n]) * 16, f"a:{n}", str(n)) for n in range(3)}
    first, second, third = known
    news.add(first, full=True)
    assert [row[0] for row in news.take(known.get, 3, 8)] == [first]
    news.add(second, full=False)
    rows = news.take(known.get, 3, 1)
    assert [row[0] for row in rows] == [second]
    assert len(rows[0]) < len(known[second].to_wire())
    news.add(first, full=False)
    rows = news.take(known.get, 3, 8)
    assert [row[0] for row in rows] == [first, second]
    assert rows[0] == known[first].to_wire(), "what it said of itself is still news"
    told = [row[0] for _ in range(5) for row in news.take(known.get, 3, 8)]
    assert told == [first, second, first]
    assert not news
    news.add(third, full=True)
    news.forget(third)
    news.add(b"?" * 16, full=True)
    assert news.take(known.get, 3, 8) == []
    assert not news


@pytest.mark.parametrize(
    "much",
    [
        {"name": "x" * 600},
        {"address": "x" * 600},
        {"labels": tuple((str(number), "") for number in range(65))},
        {"totals": tuple((str(number), 1) for number in range(68))},
        {"proof": "x" * 100},
    ],
    ids=lambda much: next(iter(much)),
)
def test_a_member_may_not_say_more_of_itself_than_is_good(much: dict[str, Any]) -> None:
    row = Record(**{"life": b"l" * 16, "address": "a:1", "name": "n", **much}).to_wire()
    with pytest.raises(ProtocolError):
        Record.from_wire(row)


def test_beyond_the_limit_newcomers_are_not_taken_note_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreading, "MEMBERS", 3)
    machine = Membership(Record(b"m" * 16, "a:1", "me"), LAN, None, Random(1))
    machine.start(0.0)
    for number in range(5):
        machine.met(Record(bytes([number]) * 16, f"b:{number}", f"n{number}", phase=Phase.UP), 1.0)
    assert len(machine.view) == 3
    assert machine.refused == 3
