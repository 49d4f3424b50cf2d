"""The page on which workers note what they start, and what becomes of tasks by it."""

from __future__ import annotations

import mmap
from types import SimpleNamespace
from typing import Any

import pytest

from actorfw.runtime import marks
from actorfw.runtime.brokentasks import started_of
from actorfw.runtime.groups import BESIDE
from actorfw.runtime.marks import NO_SLOT, Marks, words_by_group, words_of_slot


def test_what_is_noted_is_read_and_forgotten_with_its_writer() -> None:
    page = Marks()
    theirs = mmap.mmap(page.fd, 0)
    first, second = page.take(), page.take()
    words = words_of_slot(theirs, second)
    assert words is not None
    words[0], words[7] = 1 << 60, 3
    assert page.read(first) == (0,) * 8
    assert page.read(second) == (1 << 60, 0, 0, 0, 0, 0, 0, 3)
    page.give_back(second)
    assert page.take() == second
    assert page.read(second) == (0,) * 8
    words.release()
    theirs.close()
    page.close()
    assert page.read(first) is None


def test_without_a_page_nothing_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError

    monkeypatch.setattr(marks, "_file", refuse)
    page = Marks()
    assert page.fd == -1
    slot = page.take()
    assert slot == NO_SLOT
    assert page.read(slot) is None
    page.give_back(slot)
    page.close()


def test_groups_beyond_the_words_of_a_slot_have_none() -> None:
    words = words_by_group([f"g{i}" for i in range(9)])
    assert (words[""], words[BESIDE], words["g5"]) == (0, 1, 7)
    assert "g6" not in words


def running(*serials: int, waiting: tuple[int, ...] = ()) -> Any:
    return {serial: SimpleNamespace(serial=serial, dispatched=serial not in waiting) for serial in serials}


@pytest.mark.parametrize(
    ("noted", "started"),
    [
        (0, []),
        (4, []),  # answered, and so is all before it
        (5, [5]),
        (7, [5, 9, 7]),  # in the order in which they were sent
        (8, [5, 9, 7, 8]),
        (None, [5]),
    ],
)
def test_what_had_started(noted: int | None, started: list[int]) -> None:
    tasks = running(5, 6, 9, 7, 8, waiting=(6,))
    begun = None if noted is None else (noted,)
    assert [exe.serial for exe in started_of(tasks, begun)] == started
