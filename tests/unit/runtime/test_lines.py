"""The text of places in code, and how workers tell their node of them."""

from __future__ import annotations

import sys
from typing import Any

from actorfw.runtime.lines import Place, Places, Told, address_in, caller, hint, line_in, note, text


class Made:
    _made: Any = None


def test_a_place_is_a_line_in_a_function() -> None:
    made = Made()
    note(made, sys._getframe())
    number = sys._getframe().f_lineno - 1
    assert text(made._made).endswith(f"test_lines.py:{number} in test_a_place_is_a_line_in_a_function")


def test_several_have_the_same() -> None:
    made = (Made(), Made())
    note(made, sys._getframe())
    assert made[0]._made is made[1]._made


def test_of_a_long_path_the_end_is_kept() -> None:
    scope: dict[str, Any] = {"sys": sys}
    exec(compile("frame = sys._getframe()", "/a" * 200 + "/b.py", "exec"), scope)
    said = text((scope["frame"].f_code, 0))
    assert len(said) == 120
    assert said.startswith("...")
    assert said.endswith("/a/b.py:1")


def test_places_in_the_package_itself_are_not_told() -> None:
    assert text((caller.__code__, 0)) == ""


def test_the_hint_of_a_ref() -> None:
    both = hint("127.0.0.1:7700", "a b.py:3 in f")
    assert (address_in(both), line_in(both)) == ("127.0.0.1:7700", "a b.py:3 in f")
    assert (address_in("host:1"), line_in("host:1"), hint("host:1", "")) == ("host:1", "", "host:1")


def test_a_worker_tells_each_line_once() -> None:
    places, told = Places(), Told()
    wires = [places.wire() for _ in range(3)]
    lines = [told.line(1, wire) for wire in wires]
    assert lines[0].split(":")[0].endswith("test_lines.py")
    assert lines == [lines[0]] * 3
    assert [type(wire) for wire in wires] == [list, int, int]
    assert told.line(2, wires[1]) == ""
    told.forget(1)
    assert told.line(1, wires[1]) == ""


def test_line_numbers_are_those_of_the_interpreter() -> None:
    def places() -> list[tuple[Place, int]]:
        frame = sys._getframe()
        found = [((frame.f_code, frame.f_lasti), frame.f_lineno)]
        found += [((frame.f_code, frame.f_lasti), frame.f_lineno) for _ in range(2)]

        found.append(((frame.f_code, frame.f_lasti), frame.f_lineno))
        return found

    for place, number in places():
        assert f":{number} in " in text(place)
