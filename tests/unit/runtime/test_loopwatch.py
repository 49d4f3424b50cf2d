"""Where a loop hangs: which of its frames is told."""

from __future__ import annotations

import json
import sys
from types import FrameType
from typing import Any

from actorfw.runtime.loopwatch import place_in_loop


def frames_at(depth: int = 0) -> list[FrameType]:
    """The frames above this one, from the innermost on."""
    frames: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1 + depth)
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


class Encoder(json.JSONEncoder):
    """The standard library calls this line, which calls it in turn."""

    where = ""

    def iterencode(self, o: Any, _one_shot: bool = False) -> Any:
        self.where = place_in_loop(frames_at())
        return super().iterencode(o, _one_shot)


def installed(name: str, call: str) -> Any:
    """A function of an installed package that calls what it is given."""
    file = f"{json.__file__.removesuffix('json/__init__.py')}site-packages/{name}/core.py"
    space: dict[str, Any] = {}
    exec(compile(f"def {call}(fn):\n    return fn()\n", file, "exec"), space)
    return space[call]


def test_it_is_the_innermost_line_that_is_not_the_standard_librarys() -> None:
    encoder = Encoder()
    encoder.encode([1])
    assert encoder.where.startswith(f" at {__file__}:")
    assert encoder.where.endswith("in iterencode: self.where = place_in_loop(frames_at())")


def test_if_all_are_the_standard_librarys_it_is_the_innermost() -> None:
    def hook(pairs: Any) -> str:
        return place_in_loop([frame for frame in frames_at() if frame.f_code.co_filename != __file__][:2])

    where = json.JSONDecoder(object_pairs_hook=hook).decode('{"a": 1}')
    assert "json/decoder.py:" in where


def test_of_an_installed_package_the_line_that_led_to_it_is_told_too() -> None:
    get = installed("requests", "get")
    where = place_in_loop(get(lambda: frames_at(1)))
    assert "site-packages/requests/core.py:2 in get" in where
    assert f", called from {__file__}:" in where
    assert where.endswith("where = place_in_loop(get(lambda: frames_at(1)))")


def test_nowhere_is_no_text() -> None:
    assert place_in_loop([]) == ""
