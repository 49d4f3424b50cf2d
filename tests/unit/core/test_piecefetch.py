"""Fetching a file in pieces: from one source after another, and from the beginning when it was not what was wanted."""

from __future__ import annotations

import random

import pytest

from actorfw.core.piecefetch import AHEAD, PIECE, PieceFetch
from actorfw.values.errors import ProtocolError

TOTAL = 5 * PIECE + 17


def _length(at: int, total: int = TOTAL) -> int:
    return min(PIECE, total - at)


def test_the_first_piece_says_how_many_there_are() -> None:
    fetch = PieceFetch(["a"], 1 << 30)
    assert fetch.asks() == [0]
    assert fetch.asks() == []
    assert fetch.came("a", 0, TOTAL, PIECE)
    assert fetch.asks() == [PIECE * n for n in range(1, AHEAD + 1)]
    assert not fetch.complete


def test_a_file_of_one_piece() -> None:
    fetch = PieceFetch(["a"], 1 << 30)
    fetch.asks()
    assert fetch.came("a", 0, 3, 3)
    assert fetch.complete


def test_the_next_source_goes_on_where_the_one_before_had_come_to() -> None:
    fetch = PieceFetch(["a", "b"], 1 << 30)
    fetch.asks()
    fetch.came("a", 0, TOTAL, PIECE)
    asked = fetch.asks()
    fetch.came("a", asked[1], TOTAL, _length(asked[1]))
    fetch.failed("a", "gone")
    assert fetch.source == "b"
    again = fetch.asks()
    assert 0 not in again
    assert asked[1] not in again
    assert not fetch.came("a", asked[0], TOTAL, _length(asked[0]))  # late, and asked of b by now
    while not fetch.complete:
        for at in again:
            assert fetch.came("b", at, TOTAL, _length(at))
        again = fetch.asks()
    assert fetch.why == ["gone"]


def test_nobody_is_left() -> None:
    fetch = PieceFetch(["a", "a", "b"], 10)
    fetch.failed("a", "one")
    fetch.failed("a", "not asked any more")
    fetch.failed("b", "two")
    assert fetch.source is None
    assert fetch.asks() == []
    assert fetch.why == ["one", "two"]


@pytest.mark.parametrize(("total", "length"), [(0, 0), (-1, 1), (TOTAL, 5), (TOTAL, PIECE + 1)])
def test_what_can_be_no_piece_is_refused(total: int, length: int) -> None:
    fetch = PieceFetch(["a"], 1 << 30)
    fetch.asks()
    with pytest.raises(ProtocolError):
        fetch.came("a", 0, total, length)


def test_more_than_the_limit_is_refused() -> None:
    fetch = PieceFetch(["a"], TOTAL - 1)
    fetch.asks()
    with pytest.raises(ProtocolError, match="limit"):
        fetch.came("a", 0, TOTAL, PIECE)


def test_sources_that_differ_are_told_apart() -> None:
    fetch = PieceFetch(["a", "b"], 1 << 30)
    fetch.asks()
    fetch.came("a", 0, TOTAL, PIECE)
    fetch.failed("a", "gone")
    (at, *_) = fetch.asks()
    with pytest.raises(ProtocolError, match="another"):
        fetch.came("b", at, TOTAL + 1, PIECE)


def test_whoever_sent_something_false_is_not_asked_again() -> None:
    fetch = PieceFetch(["a", "b"], 1 << 30)
    fetch.asks()
    fetch.came("a", 0, 3, 3)
    fetch.false("its hash is another one")
    assert not fetch.complete
    assert fetch.source == "b"
    assert fetch.asks() == [0]
    assert fetch.came("b", 0, 4, 4)


@pytest.mark.parametrize("seed", range(20))
def test_each_piece_is_kept_once_whatever_fails(seed: int) -> None:
    chance = random.Random(seed)
    total = chance.randrange(1, 12 * PIECE)
    fetch = PieceFetch(range(5), 1 << 30)
    kept: set[int] = set()
    on_the_way: list[tuple[int, int]] = []
    while not fetch.complete:
        source = fetch.source
        assert source is not None
        on_the_way += [(source, at) for at in fetch.asks()]
        sender, at = on_the_way.pop(chance.randrange(len(on_the_way)))
        if chance.random() < 0.1 and source < 4:
            fetch.failed(source, "gone")
        elif fetch.came(sender, at, total, _length(at, total)):
            assert at not in kept
            kept.add(at)
    assert kept == set(range(0, total, PIECE))
