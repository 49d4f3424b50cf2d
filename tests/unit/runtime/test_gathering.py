"""`Gathered`, asked from a thread: what it says while the loop is between telling its parts and telling the whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from actorfw.runtime.gathering import Gathered
from actorfw.runtime.refs import PENDING, ObjectRef
from actorfw.wire.code import CodeTable
from actorfw.wire.codec import Codec
from actorfw.wire.failures import pack_error


class Home:
    """A home as a thread beside the loop sees it: what is posted has not run yet."""

    life = b"l" * 16

    def __init__(self) -> None:
        self.loop = object()  # there is one, elsewhere
        self.codec = Codec(CodeTable("here"))
        self.posted: list[Callable[[], object]] = []

    def at_home(self) -> bool:
        return False

    def post(self, fn: Callable[[], object]) -> None:
        self.posted.append(fn)


def gathered(home: Home, count: int) -> tuple[Gathered[Any], list[ObjectRef[Any]]]:
    refs = [ObjectRef[Any](cast("Any", home), home.life, number) for number in range(count)]
    return Gathered(cast("Any", home), refs), refs


def test_the_whole_has_a_result_as_soon_as_its_parts_have() -> None:
    home = Home()
    whole, refs = gathered(home, 3)
    for number, ref in enumerate(refs):
        with pytest.raises(asyncio.InvalidStateError):
            whole.result()
        ref._settle(home.codec.pack(number))
    assert whole._state == PENDING  # nobody has told it
    assert whole.result() == [0, 1, 2]


def test_a_failed_part_fails_the_whole_before_the_loop_tells_it() -> None:
    home = Home()
    whole, refs = gathered(home, 2)
    refs[0]._settle(home.codec.pack(0))
    refs[1]._fail(pack_error(home.codec, ValueError("no"), where="there"))
    assert whole._state == PENDING
    with pytest.raises(ValueError, match="no"):
        whole.result()
