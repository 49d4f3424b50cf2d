"""The line of those who bring bytes in: its rules by example, and against random runs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actorfw.core.admission import Admission


def test_as_many_as_there_is_room_for_in_order() -> None:
    line: Admission[str] = Admission(10)
    assert line.enter("a", 4)
    assert line.enter("b", 6)
    assert not line.enter("c", 5)
    assert not line.enter("d", 1), "nobody is overtaken"
    assert line.leave("a") == []
    assert line.leave("b") == ["c", "d"]
    assert len(line) == 0
    assert line.bytes == 6
    line.validate()


def test_what_is_larger_than_all_goes_alone() -> None:
    line: Admission[str] = Admission(10)
    assert line.enter("a", 1)
    assert not line.enter("whale", 50)
    assert line.leave("a") == ["whale"]
    assert not line.enter("b", 1)
    assert line.leave("whale") == ["b"]


def test_asking_twice_changes_nothing() -> None:
    line: Admission[str] = Admission(10)
    assert line.enter("a", 10)
    assert line.enter("a", 10)
    assert not line.enter("b", 1)
    assert not line.enter("b", 1)
    assert line.leave("a") == ["b"]
    assert line.leave("a") == []
    line.validate()


def test_whose_bytes_are_on_their_way_is_let_in() -> None:
    line: Admission[str] = Admission(10)
    assert line.enter("a", 9)
    assert not line.enter("b", 5)
    assert line.enter("b", 5, at_once=True)
    assert line.bytes == 14
    assert not line.enter("c", 1)
    assert line.leave("a") == ["c"]
    line.validate()


def test_who_gives_up_its_place_lets_those_behind_pass() -> None:
    line: Admission[str] = Admission(10)
    assert line.enter("a", 5)
    assert not line.enter("b", 9)
    assert not line.enter("c", 5)
    assert line.leave("b") == ["c"]


@given(st.integers(1, 100), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60), st.booleans()), max_size=60))
def test_everybody_gets_in_and_never_too_many(most: int, steps: list[tuple[int, int, bool]]) -> None:
    line: Admission[int] = Admission(most)
    inside: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for key, size, leaves in steps:
        if leaves:
            let_in = line.leave(key)
            inside.pop(key, None)
            sizes.pop(key, None)
        else:
            size = sizes.setdefault(key, size)
            let_in = [key] if line.enter(key, size) else []
        inside.update((one, sizes[one]) for one in let_in)
        assert line.bytes == sum(inside.values())
        assert line.bytes <= most or len(inside) == 1 or not any(size > most for size in inside.values())
        line.validate()
    for _ in range(len(sizes)):
        for key in list(inside):
            inside.pop(key)
            inside.update((one, sizes[one]) for one in line.leave(key))
    assert not inside
    assert not len(line)
