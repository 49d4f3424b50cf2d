"""Values of which large parts lie in shared memory: written once, read without a copy, gone with their last reader."""

from __future__ import annotations

import array
import gc
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np
import pytest

from actorfw.io.sharedmem import SharedMemory, available
from actorfw.runtime.store.arena import Arena
from actorfw.values.errors import SerializationError
from actorfw.wire.code import CodeTable
from actorfw.wire.codec import Codec
from actorfw.wire.failures import pack_error, unpack_error
from actorfw.wire.payload import SHARED_LEAST, Packed, SharedBuffer, size_of

pytestmark = pytest.mark.skipif(not available(), reason="this platform has no memfd")

SIZE = 32 << 20


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena(SharedMemory.create(SIZE, "actorfw-test"), b"token", lambda fn: None)
    yield made
    made.validate()
    assert made.used == 0
    made.close()


@pytest.fixture
def codec(arena: Arena) -> Codec:
    made = Codec(CodeTable("this host"))
    made.shared = arena
    return made


class Ref:
    """Travels as a ref."""


@pytest.fixture
def refs(codec: Codec) -> list[Any]:
    adopted: list[Any] = []
    codec.register(Ref, lambda ref: ((b"owner", 7, ""), None), lambda wire, extra: adopted.append(wire))
    return adopted


def shared(wire: Any) -> list[SharedBuffer]:
    return [buffer for buffer in wire.buffers if isinstance(buffer, SharedBuffer)] if type(wire) is Packed else []


LARGE: dict[str, Callable[[], Any]] = {
    "array": lambda: np.arange(100_000),
    "fortran": lambda: np.asfortranarray(np.arange(100_000).reshape(100, 1000)),
    "structured": lambda: np.zeros(20_000, [("a", "i4"), ("b", "f8")]),
    "bytes": lambda: os.urandom(200_000),
    "bytearray": lambda: bytearray(os.urandom(200_000)),
    "text": lambda: "ünï" * 50_000,
    "lone surrogate": lambda: "\udc80" * 100_000,
    "memoryview": lambda: memoryview(os.urandom(200_000)),
    "stdlib array": lambda: memoryview(array.array("d", range(50_000))),
    "stepped": lambda: np.arange(200_000)[::2].copy(),
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return type(other) is np.ndarray and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, memoryview):
        return type(other) is memoryview and one.tobytes() == other.tobytes()
    return type(one) is type(other) and bool(one == other)


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("place", ["alone", "argument", "inside"])
def test_what_is_large_goes_into_shared_memory(kind: str, place: str, codec: Codec, arena: Arena) -> None:
    value = LARGE[kind]()
    if place == "argument":
        wire, _ = codec.pack_args((1, value), {"also": value})
        (one, first), kwargs = codec.unpack_args(wire)
        assert one == 1
        got = [first, kwargs["also"]]
    elif place == "inside":
        wire = codec.pack([value, "beside"])
        got = [codec.unpack(wire)[0]]
        if kind in ("bytes", "bytearray", "text", "lone surrogate"):
            return  # small enough for the stream itself
    else:
        wire = codec.pack(value)
        got = [codec.unpack(wire)]
    assert all(same(value, one) for one in got)
    assert len(shared(wire)) >= 1
    assert arena.used >= SHARED_LEAST
    assert size_of(wire) >= sum(block.nbytes for block in shared(wire))


def test_arrays_are_read_where_they_lie_and_can_not_be_written(codec: Codec) -> None:
    wire = codec.pack({"a": np.arange(100_000), "b": 5})
    first, second = codec.unpack(wire)["a"], codec.unpack(wire)["a"]
    assert np.shares_memory(first, second)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_bytearrays_are_the_readers_own(codec: Codec) -> None:
    wire = codec.pack(bytearray(100_000))
    first, second = codec.unpack(wire), codec.unpack(wire)
    first[0] = 1
    assert second[0] == 0


def test_the_copy_is_taken_at_once(codec: Codec) -> None:
    value = np.zeros(100_000)
    text = bytearray(b"a" * 100_000)
    wire = codec.pack([value, text])
    alone = codec.pack(text)
    value[:] = 1
    text[:] = b"b" * 100_000
    assert codec.unpack(wire)[0].sum() == 0
    assert codec.unpack(alone) == b"a" * 100_000


def test_what_is_small_stays_on_the_heap(codec: Codec, arena: Arena) -> None:
    held = [codec.pack(np.zeros(SHARED_LEAST // 8 - 1)), codec.pack(b"x" * (SHARED_LEAST - 1)), codec.pack([1, "two"])]
    assert arena.used == 0
    held.append(codec.pack(np.zeros(SHARED_LEAST // 8)))
    assert arena.used == SHARED_LEAST


def test_it_is_free_when_wire_and_views_are_gone(codec: Codec, arena: Arena) -> None:
    wire: Any = codec.pack(np.arange(100_000))
    part = codec.unpack(wire)[5:7]
    del wire
    assert arena.used > 0
    assert part.tolist() == [5, 6]
    del part
    assert arena.used == 0


def test_a_view_that_is_packed_again_is_a_copy(codec: Codec, arena: Arena) -> None:
    first = codec.pack(np.arange(100_000))
    second = codec.pack(codec.unpack(first))
    assert arena.used == 2 * 802_816
    del first
    assert codec.unpack(second)[-1] == 99_999


def test_without_room_it_stays_on_the_heap(codec: Codec, arena: Arena) -> None:
    wire = codec.pack(np.zeros(SIZE // 8 + 1))
    assert shared(wire) == []
    assert codec.unpack(wire).shape == (SIZE // 8 + 1,)
    full = arena.allocate(SIZE)
    values = [LARGE[kind]() for kind in LARGE]
    assert all(same(value, codec.unpack(codec.pack(value))) for value in values)
    del full


def test_without_shared_memory_all_is_as_with_it(codec: Codec) -> None:
    codec.shared = None
    for kind in LARGE:
        value = LARGE[kind]()
        got = codec.unpack(codec.pack(value))
        assert same(value, got)
        if isinstance(got, np.ndarray):
            assert not got.flags.writeable


def test_what_could_not_be_packed_leaves_nothing(codec: Codec, arena: Arena) -> None:
    with pytest.raises(SerializationError, match="generator"):
        codec.pack([np.zeros(100_000), (x for x in "ab")])
    assert arena.used == 0


# -- long streams ------------------------------------------------------------------------------------------------------


def test_a_long_stream_goes_there_too(codec: Codec, arena: Arena) -> None:
    value = {"texts": [str(n) * 1000 for n in range(1000)], "raw": [os.urandom(300_000), bytearray(300_000)]}
    wire = codec.pack(value)
    (block,) = shared(wire)
    assert block.nbytes > 1 << 20
    assert size_of(wire) < block.nbytes + 100
    assert codec.unpack(wire) == value
    args, _ = codec.pack_args((value,), {"n": 1})
    assert codec.unpack_args(args) == ((value,), {"n": 1})
    assert type(args) is Packed
    assert Packed.from_wire(msgpack.unpackb(msgpack.packb(args.portable()))).size == size_of(args)
    del block


def test_with_refs_and_buffers_in_it(codec: Codec, refs: list[Any]) -> None:
    value = [np.arange(100_000), [os.urandom(200_000) for _ in range(8)], Ref(), np.arange(3)]
    wire = codec.pack(value)
    assert len(shared(wire)) == 2
    got = codec.unpack(wire)
    assert np.array_equal(got[0], value[0])
    assert got[1] == value[1]
    assert got[3].tolist() == [0, 1, 2]
    assert refs == [(b"owner", 7, "")]


def test_with_definitions_in_it(codec: Codec) -> None:
    seven = 7
    got = codec.unpack(codec.pack((lambda x: x + seven, [os.urandom(300_000) for _ in range(5)])))
    assert got[0](1) == 8


def test_it_may_be_anywhere(codec: Codec) -> None:
    """As it comes from another host: nothing of it in shared memory."""
    value = [os.urandom(300_000) for _ in range(5)]
    wire = codec.pack(value)
    assert type(wire) is Packed
    assert Codec(CodeTable("another host")).unpack(Packed.from_wire(wire.portable())) == value


def test_an_error_may_be_as_long(codec: Codec) -> None:
    wire = pack_error(codec, ValueError([os.urandom(300_000) for _ in range(5)], np.arange(100_000)), where="here")
    error = unpack_error(codec, wire)
    assert isinstance(error, ValueError)
    assert [len(part) for part in error.args[0]] == [300_000] * 5
    assert error.args[1][-1] == 99_999


class Owner(Arena):
    """Has the codec that has it, as a node does."""

    codec: Codec


def test_a_codec_that_was_used_is_garbage_like_anything() -> None:
    owner = Owner(SharedMemory.create(SIZE, "actorfw-test"), b"token", lambda fn: None)
    codec = owner.codec = Codec(CodeTable("this host"))
    codec.shared = owner
    codec.pack([np.arange(100_000), np.arange(3)])
    owner.close()
    dead = weakref.ref(codec)
    del codec, owner
    gc.collect()
    assert dead() is None
