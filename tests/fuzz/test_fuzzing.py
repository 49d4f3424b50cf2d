"""The fuzzers themselves: each runs, and each finds a mistake that is planted in what it looks at."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import pytest

from actorfw.core import handshake
from actorfw.core.door import Door
from actorfw.io.hostsocket import HostSocket
from actorfw.runtime import links
from actorfw.runtime.store.hostmates import HostMates
from actorfw.wire import codec, frames
from tests.fuzz import clusters
from tests.fuzz.run import own

SEED = 20


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    level = logging.getLogger("actorfw").level
    yield
    logging.getLogger("actorfw").setLevel(level)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [("accepting", 150), ("dialling", 150), ("proving", 150), ("welcoming", 150), ("frames", 150), ("values", 300)],
)
def test_nothing_is_found(name: str, inputs: int) -> None:
    assert own(name, inputs, SEED) == []


def test_processes_of_the_host_find_nothing() -> None:
    assert own("mates", 150, SEED) == []


def found(name: str, inputs: int) -> bool:
    return bool(own(name, inputs, SEED))


def test_a_tag_that_is_not_checked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake.hmac, "compare_digest", lambda one, two: True)
    assert found("accepting", 500)


def test_an_answer_whose_tag_is_not_checked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake.hmac, "compare_digest", lambda one, two: True)
    assert found("dialling", 500)


def test_a_dial_that_is_not_told_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links.DialGreeting, "over", lambda self, error: None)
    assert found("welcoming", 300)


def test_a_caller_that_is_counted_for_ever_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Door, "leave", lambda self, caller: None)
    assert found("proving", 10)


def test_a_length_that_is_not_checked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_MAX_LENGTH", 0xFFFFFF)
    assert found("frames", 2000)


def test_a_shape_that_is_not_checked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_unpack_failure", lambda error: error)
    assert found("values", 300)


def test_descriptors_that_are_kept_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = HostMates._heard
    monkeypatch.setattr(HostMates, "_heard", lambda self, sock, message, fds: heard(self, sock, message, []))
    before = set(os.listdir("/proc/self/fd"))
    assert found("mates", 100)
    for fd in set(os.listdir("/proc/self/fd")) - before:
        with contextlib.suppress(OSError):  # that of the listing itself is closed
            os.close(int(fd))


def test_a_reader_that_stays_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HostSocket, "_end", lambda self: None)
    assert found("mates", 100)


def test_a_handler_s_mistake_that_goes_further_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {kind: some[:3] for kind, some in clusters.recorded((1,)).items()}
    monkeypatch.setattr(clusters, "recorded", lambda: few)
    assert own("links", 200, SEED) == []

    def not_caught(self: links.Link, message: list[object], rest: object) -> None:
        raise ValueError(message)

    monkeypatch.setattr(links.Link, "_handler_failed", not_caught)
    assert found("links", 100)
