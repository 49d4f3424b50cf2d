"""Blocks of an arena: when they begin, what they hold, and that they are gone when nobody has them."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from collections.abc import Callable, Iterator

import numpy
import pytest

from actorfw.io.sharedmem import SharedMemory, available
from actorfw.runtime.store import growth
from actorfw.runtime.store.arena import Arena
from actorfw.runtime.store.blocks import Block

pytestmark = pytest.mark.skipif(not available(), reason="this platform has no memfd")

TOKEN = b"an arena's token"
SIZE = 64 << 20
STEP = 4096
PATIENCE = 10.0


class Turns:
    """The loop that an arena wakes: what is to be called, in the order in which it was asked for."""

    def __init__(self) -> None:
        self.due: list[Callable[[], object]] = []

    def __call__(self, fn: Callable[[], object]) -> None:
        self.due.append(fn)

    def run(self) -> None:
        due, self.due = self.due, []
        for fn in due:
            fn()


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def arena(turns: Turns) -> Iterator[Arena]:
    made = Arena(SharedMemory.create(SIZE, "actorfw-test"), TOKEN, turns)
    yield made
    made.validate()
    made.close()


def made(arena: Arena, data: bytes) -> Block:
    block = arena.allocate(len(data))
    assert block is not None
    block.fill(data)
    block.seal()
    return block


def until(condition: Callable[[], bool]) -> None:
    """Let a thread go on until it has done something."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.001)


def resident(arena: Arena) -> int:
    return os.fstat(arena.memory.fd).st_blocks * 512


# -- blocks ------------------------------------------------------------------------------------------------------------


def test_a_block_has_what_was_written(arena: Arena) -> None:
    data = os.urandom(100_000)
    block = made(arena, data)
    assert block.nbytes == 100_000
    assert block.view() == data
    assert block.view().readonly
    assert block.place == (TOKEN, 1, 0, 100_000)
    assert arena.find(1) is block
    assert arena.find(2) is None


def test_it_can_be_filled_in_pieces_of_any_format(arena: Arena) -> None:
    block = arena.allocate(80)
    assert block is not None
    block.fill(memoryview(numpy.arange(5)))
    block.fill(memoryview(numpy.arange(5, 10, dtype="i8").reshape(1, 5)), 40)
    block.seal()
    assert numpy.frombuffer(block.view(), "i8").tolist() == list(range(10))


@pytest.mark.parametrize(("at", "size"), [(-1, 4), (97, 4), (0, 101)])
def test_nothing_is_written_beside_it(arena: Arena, at: int, size: int) -> None:
    block = arena.allocate(100)
    assert block is not None
    with pytest.raises(ValueError, match="can't be written"):
        block.fill(bytes(size), at)


def test_it_is_written_until_it_is_sealed_and_read_from_then_on(arena: Arena) -> None:
    block = arena.allocate(100)
    assert block is not None
    with pytest.raises(ValueError, match="can't be read"):
        block.view()
    block.room()[:3] = b"abc"
    block.seal()
    assert block.view()[:3] == b"abc"
    with pytest.raises(ValueError, match="can't be written"):
        block.fill(b"x")
    with pytest.raises(ValueError, match="only be read"):
        block.room()


def test_it_is_free_within_a_turn_of_the_loop(arena: Arena, turns: Turns) -> None:
    block = made(arena, bytes(100_000))
    other = made(arena, bytes(100_000))
    size = arena._extents.used
    assert turns.due == []
    del block, other
    assert len(turns.due) == 1  # one turn for all of them
    assert arena._extents.used == size
    turns.run()
    assert arena._extents.used == 0
    assert arena.blocks == {}


def test_what_is_used_is_exact_at_once(arena: Arena) -> None:
    blocks = [made(arena, bytes(100_000)) for _ in range(3)]
    assert arena.used == 3 * 102_400
    blocks.pop()
    assert arena.used == 2 * 102_400
    blocks.clear()
    assert arena.used == 0


@pytest.mark.parametrize("make", [numpy.frombuffer, lambda view: view[10:20], lambda view: numpy.frombuffer(view)[::7]])
def test_a_view_keeps_its_block_and_lets_it_go(arena: Arena, make: Callable[[memoryview], object]) -> None:
    block = made(arena, bytes(80_000))
    assert not block.viewed
    kept = make(block.view())
    assert block.viewed
    again = block.view()
    del kept
    assert block.viewed
    del block
    assert arena.used > 0
    del again
    assert arena.used == 0


def test_memory_of_a_view_is_not_given_out_again(arena: Arena) -> None:
    view = made(arena, b"\x07" * 100_000).view()
    others = [made(arena, os.urandom(100_000)) for _ in range(50)]
    assert view == b"\x07" * 100_000
    del others


def test_what_was_dropped_is_taken_again_without_a_turn_of_the_loop(arena: Arena) -> None:
    offset = made(arena, bytes(100_000)).offset
    for _ in range(100):
        assert made(arena, bytes(100_000)).offset == offset
    assert resident(arena) == 102_400


def test_numbers_are_never_used_again(arena: Arena) -> None:
    assert [made(arena, bytes(10)).number for _ in range(5)] == [1, 2, 3, 4, 5]


def test_a_full_arena_has_no_block_and_goes_on(arena: Arena) -> None:
    held = made(arena, bytes(40 << 20))
    assert arena.allocate(30 << 20) is None
    assert arena.allocate(20 << 20) is not None
    del held
    assert arena.allocate(60 << 20) is not None


def test_without_address_space_there_are_no_blocks(
    arena: Arena, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arena.memory, "size", 1 << 62)
    assert arena.allocate(100) is None
    assert arena.allocate(100) is None
    assert [record.message for record in caplog.records if "no shared memory" in record.message] != []
    assert len(caplog.records) == 1


def test_many_threads_get_blocks_of_their_own(arena: Arena) -> None:
    wrong: list[str] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        held: list[tuple[Block, bytes]] = []
        for _ in range(300):
            data = bytes([chance.randrange(256)]) * chance.randrange(1, 100_000)
            held.append((made(arena, data), data))
            if len(held) > 8:
                block, data = held.pop(chance.randrange(len(held)))
                if block.view() != data:
                    wrong.append(repr(block))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    arena.validate()
    assert arena.used == 0


# -- close -------------------------------------------------------------------------------------------------------------


def test_a_view_outlives_the_arena(arena: Arena) -> None:
    block = made(arena, b"\x05" * 100_000)
    fd = os.dup(arena.memory.fd)
    try:
        made(arena, bytes(1 << 20))
        arena.close()
        assert os.fstat(fd).st_blocks * 512 == 102_400  # the rest is given back
        view = block.view()
        assert view == b"\x05" * 100_000
        del block
        assert view[50_000] == 5
        del view
        assert os.fstat(fd).st_blocks == 0
    finally:
        os.close(fd)


def test_a_child_that_was_forked_takes_nothing_away(arena: Arena) -> None:
    block: Block | None = made(arena, b"\x05" * 100_000)
    arena.close()
    pid = os.fork()
    if not pid:
        block = None
        os._exit(0)
    os.waitpid(pid, 0)
    assert block is not None
    assert block.view() == b"\x05" * 100_000


def test_a_closed_arena_has_no_blocks(arena: Arena) -> None:
    arena.close()
    assert arena.allocate(100) is None


# -- growth ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def growing(turns: Turns) -> Iterator[Arena]:
    made = Arena(SharedMemory.create(SIZE, "actorfw-test"), TOKEN, turns, threads=True)
    yield made
    made.validate()
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "actorfw-arena"]


def arena_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "actorfw-arena"]


def test_there_is_no_thread_before_the_first_block(growing: Arena) -> None:
    assert arena_threads() == []
    made(growing, bytes(100))
    assert len(arena_threads()) == 1


def test_the_next_block_is_warm_before_it_is_asked_for(growing: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    colds: list[int] = []
    taken = growth.Growth.taken

    def seen(self: growth.Growth, offset: int, size: int, cold: int) -> None:
        colds.append(cold)
        taken(self, offset, size, cold)

    monkeypatch.setattr(growth.Growth, "taken", seen)
    held = [made(growing, bytes(6 << 20))]
    until(lambda: growing.warm >= 6 << 20)
    assert resident(growing) >= 12 << 20
    held.append(made(growing, bytes(6 << 20)))
    assert colds == [6 << 20, 0]


def test_populating_leaves_what_is_written(growing: Arena) -> None:
    data = os.urandom(20 << 20)
    block = made(growing, data)
    until(lambda: growing.warm >= 8 << 20)
    assert block.view() == data


def test_no_more_is_populated_than_a_part_of_all(growing: Arena) -> None:
    held = made(growing, bytes(30 << 20))
    until(lambda: growing.warm >= SIZE // 8)
    assert growing.warm <= SIZE // 8 + (4 << 20)
    del held


def test_what_nobody_asks_for_is_given_back_and_the_thread_ends(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "IDLE", 0.05)
    arena = Arena(SharedMemory.create(SIZE, "actorfw-test"), TOKEN, turns, threads=True)
    try:
        kept = made(arena, b"\x09" * 100_000)
        large = made(arena, bytes(30 << 20))
        until(lambda: not arena_threads())
        assert resident(arena) >= 30 << 20
        del large
        turns.run()
        until(lambda: not arena_threads())
        assert resident(arena) <= growth.LEAST_AHEAD + 102_400
        assert kept.view() == b"\x09" * 100_000
        again = made(arena, bytes(30 << 20))  # and all goes on
        assert again.view() == bytes(30 << 20)
    finally:
        arena.close()
    assert arena_threads() == []


def test_a_kernel_that_can_not_populate_is_helped(growing: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing.memory, "populate", lambda start, size: False)
    blocks = [made(growing, bytes([n]) * (3 << 20)) for n in range(3)]
    until(lambda: growing.warm >= 3 << 20)
    assert resident(growing) >= 12 << 20
    assert [block.view()[0] for block in blocks] == [0, 1, 2]
    assert all(block.view() == bytes([n]) * (3 << 20) for n, block in enumerate(blocks))


def test_no_memory_to_be_had_ahead_is_no_failure(growing: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def populate(start: int, size: int) -> bool:
        asked.set()
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(growing.memory, "populate", populate)
    block = made(growing, b"\x01" * 100_000)
    assert asked.wait(PATIENCE)
    assert block.view() == b"\x01" * 100_000


def test_garbage_in_a_circle_is_freed_by_the_collector(arena: Arena) -> None:
    circle: list[object] = [made(arena, bytes(100_000)).view()]
    circle.append(circle)
    assert arena.used > 0
    del circle
    gc.collect()
    assert arena.used == 0
