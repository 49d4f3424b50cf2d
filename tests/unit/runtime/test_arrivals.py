"""Large values that come in pieces, and where their buffers go."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from actorfw.io.sharedmem import SharedMemory, available
from actorfw.runtime.store.arena import Arena
from actorfw.runtime.store.arrivals import Arrival, arrival_of
from actorfw.values.errors import ProtocolError
from actorfw.wire.payload import SHARED_LEAST, Part, SharedBuffer, in_memory

pytestmark = pytest.mark.skipif(not available(), reason="this platform has no memfd")

PIECE = 10_007


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena(SharedMemory.create(8 << 20, "actorfw-test"), b"token", lambda fn: None)
    yield made
    assert made.used == 0
    made.close()


@pytest.mark.parametrize(
    "sizes", [[200_000, 100_000], [5, 0, 70_000, 0, 12, 300_000, 0], [0, SHARED_LEAST], [1, 100_000, 9 << 20]]
)
def test_all_bytes_are_where_they_belong(arena: Arena, sizes: list[int]) -> None:
    came: list[Part] = []
    parts = [os.urandom(size) for size in sizes]
    arrival = arrival_of(arena, sizes, came.extend)
    assert arrival is not None
    for part in parts:
        for start in range(0, len(part), PIECE):
            assert not arrival.complete
            arrival.take(part[start : start + PIECE])
    assert arrival.complete
    arrival.done()
    assert [bytes(in_memory(part)) for part in came] == parts
    shared = [isinstance(part, SharedBuffer) for part in came]
    assert shared == [number > 0 and SHARED_LEAST <= size < 8 << 20 for number, size in enumerate(sizes)]


def test_what_would_all_be_small_needs_no_shared_memory(arena: Arena) -> None:
    assert arrival_of(arena, [1 << 20, 10, SHARED_LEAST - 1], print) is None
    assert arrival_of(arena, [1 << 20], print) is None
    assert arrival_of(None, [10, 1 << 20], print) is None


@pytest.mark.parametrize("pieces", [[0], [11], [10, SHARED_LEAST + 1], [10, SHARED_LEAST, 1]])
def test_pieces_that_do_not_fit_are_refused(arena: Arena, pieces: list[int]) -> None:
    arrival = Arrival(arena, [10, SHARED_LEAST], lambda buffers: None)
    *good, bad = pieces
    for piece in good:
        arrival.take(bytes(piece))
    with pytest.raises(ProtocolError, match="does not fit"):
        arrival.take(bytes(bad))


def test_half_a_value_leaves_nothing(arena: Arena) -> None:
    arrival = Arrival(arena, [10, 100_000], lambda buffers: None)
    arrival.take(bytes(10))
    arrival.take(bytes(50_000))
    assert arena.used > 0
    del arrival
    assert arena.used == 0
