"""Shared memory as one process sees it, and as two do."""

from __future__ import annotations

import errno
import gc
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

from actorfw.io import sharedmem
from actorfw.io.sharedmem import SharedMemory, available

pytestmark = pytest.mark.skipif(not available(), reason="this platform has no memfd")

PAGE = 4096
NAME = "actorfw-test"


def mappings() -> int:
    """Of the memory of these tests, in this process."""
    return Path("/proc/self/maps").read_text().count(f"/memfd:{NAME}")


def resident(fd: int) -> int:
    """Bytes of a file in memory."""
    return os.fstat(fd).st_blocks * 512


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    made = SharedMemory.create(64 << 20, NAME)
    yield made
    made.close()


class Keeper:
    """Something that a view keeps."""


def test_it_is_mapped_when_it_is_used_first(memory: SharedMemory) -> None:
    assert not memory.mapped
    assert mappings() == 0
    memory.copy_in(0, memoryview(b"x"))
    assert memory.mapped
    assert mappings() == 1
    memory.close()
    assert mappings() == 0


@pytest.mark.parametrize("size", [1, 1000, 1 << 20, (1 << 20) + 1, 5 << 20])
def test_what_is_copied_in_is_there(memory: SharedMemory, size: int) -> None:
    data = os.urandom(size)
    memory.copy_in(12_345, memoryview(data))
    assert memory.view(12_345, size) == data
    assert bytes(memory.view(12_344, 1)) == b"\0"
    assert bytes(memory.view(12_345 + size, 1)) == b"\0"


@pytest.mark.parametrize(("offset", "size"), [(-1, 10), ((64 << 20) - 5, 10), (0, (64 << 20) + 1)])
def test_nothing_is_written_beside_it(memory: SharedMemory, offset: int, size: int) -> None:
    with pytest.raises(ValueError, match="don't fit"):
        memory.copy_in(offset, memoryview(bytes(size)))


def test_a_view_is_read_only_and_a_room_is_not(memory: SharedMemory) -> None:
    view = memory.view(100, 10)
    with pytest.raises(TypeError):
        view[0] = 1
    assert not numpy.frombuffer(view, "u1").flags.writeable
    memory.room(100, 10)[3] = 7
    assert view[3] == 7
    assert (view.nbytes, view.format, view.readonly, view.contiguous) == (10, "B", True, True)


def test_all_that_is_made_of_a_view_keeps_its_keeper(memory: SharedMemory) -> None:
    keeper = Keeper()
    dead = weakref.ref(keeper)
    view = memory.view(PAGE, 8000, keeper)
    del keeper
    array = numpy.frombuffer(view, "f8")
    del view
    part = array[10:20:2]
    del array
    assert dead() is not None
    assert part.sum() == 0
    del part
    assert dead() is None


def test_it_stays_mapped_while_a_view_lives(memory: SharedMemory) -> None:
    memory.copy_in(0, memoryview(b"still here"))
    part = memory.view(0, 10)[6:]
    memory.close()
    assert mappings() == 1
    assert part == b"here"
    del part
    gc.collect()
    assert mappings() == 0


def test_it_can_be_read_after_it_was_closed_while_somebody_holds_it(memory: SharedMemory) -> None:
    memory.copy_in(0, memoryview(b"still here"))
    hold = memory.hold()
    memory.close()
    assert memory.view(0, 5) == b"still"
    del hold
    assert mappings() == 0
    with pytest.raises(OSError, match="closed") as caught:
        memory.view(0, 5)
    assert caught.value.errno == errno.EBADF


def test_closed_before_it_was_used_it_never_comes(memory: SharedMemory) -> None:
    memory.close()
    memory.close()
    with pytest.raises(OSError, match="closed"):
        memory.hold()
    memory.discard(0, PAGE)


def test_another_mapping_of_the_descriptor_sees_the_same(memory: SharedMemory) -> None:
    writer = SharedMemory.attach(os.dup(memory.fd), readonly=False)
    reader = SharedMemory.attach(os.dup(memory.fd), readonly=True)
    assert writer.size == reader.size == memory.size
    writer.copy_in(PAGE, memoryview(b"from there"))
    assert memory.view(PAGE, 10) == reader.view(PAGE, 10) == b"from there"
    view = reader.view(PAGE, 4)
    for one in (memory, writer, reader):
        one.close()
    assert view == b"from"  # whoever made it is gone
    del view
    gc.collect()
    assert mappings() == 0


def test_pages_come_and_go(memory: SharedMemory) -> None:
    assert memory.populate(0, 1 << 20)
    assert resident(memory.fd) == 1 << 20
    memory.copy_in(0, memoryview(b"kept"))
    memory.populate(0, 2 << 20)
    assert resident(memory.fd) == 2 << 20
    assert memory.view(0, 4) == b"kept"
    memory.discard(0, 1 << 20)
    assert resident(memory.fd) == 1 << 20
    assert memory.view(0, 4) == b"\0\0\0\0"
    memory.touch(4 << 20, 1 << 20)
    assert resident(memory.fd) >= 2 << 20


def test_a_kernel_that_can_not_populate_says_so(memory: SharedMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharedmem, "_MADV_POPULATE_WRITE", 4711)
    assert memory.populate(0, PAGE) is False


def test_address_space_may_be_short(memory: SharedMemory) -> None:
    memory.size = 1 << 62
    with pytest.raises(OSError, match="can't be mapped"):
        memory.hold()
    memory.size = 64 << 20
    memory.hold()


def test_anonymous_memory_is_this_process_alone() -> None:
    memory = SharedMemory.anonymous(1 << 20)
    assert memory.fd == -1
    memory.copy_in(0, memoryview(b"mine"))
    memory.discard(0, PAGE)
    assert memory.view(0, 4) == b"\0\0\0\0"
    memory.close()


def test_where_there_is_no_memfd_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert not available()
    with pytest.raises(OSError, match="memfd"):
        SharedMemory.create(1 << 20)


def test_a_size_that_can_not_be_leaves_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Invalid argument"):
        SharedMemory.create(-1, NAME)
    assert len(os.listdir("/proc/self/fd")) == before
