"""`Rare`: an attribute like any other, that takes room only where it is set."""

from __future__ import annotations

from typing import Any

from actorfw.values.rare import Rare


class Thing:
    __slots__ = ("_rare",)

    why: Rare[str] = Rare("")
    limit: Rare[int | None] = Rare(None)

    def __init__(self) -> None:
        self._rare: dict[str, Any] | None = None


def test_it_is_its_default_until_it_is_set() -> None:
    one, other = Thing(), Thing()
    one.why = "late"
    assert (one.why, one.limit) == ("late", None)
    assert (other.why, other.limit) == ("", None)


def test_what_is_set_back_takes_no_room() -> None:
    one = Thing()
    one.why = ""
    assert one._rare is None
    one.limit = 3
    one.why = "late"
    one.limit = None
    assert one._rare == {"why": "late"}
    one.why = ""
    assert one._rare is None
