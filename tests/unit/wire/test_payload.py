"""The shapes of packed values and their sizes."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from actorfw.wire.payload import Packed, WireValue, size_of

LIFE = bytes(range(16))


def test_a_packed_value_survives_msgpack() -> None:
    packed = Packed(b"data", [b"one", b"two"], [(LIFE, 7, "10.0.0.1:7700")], [b"c" * 16])
    again = Packed.from_wire(msgpack.unpackb(msgpack.packb(packed.to_wire())))
    assert again.to_wire() == packed.to_wire()
    assert again.refs == [(LIFE, 7, "10.0.0.1:7700")]
    assert type(again.refs[0]) is tuple


@pytest.mark.parametrize(
    "wire",
    [[], [b"data"], ["text", [], [], []], [b"data", [], [1], []], [b"data", [], [], ["no bytes"]], [b"d", 1, [], []]],
)
def test_garbage_is_refused(wire: list[Any]) -> None:
    with pytest.raises(ValueError, match="a packed value is"):
        Packed.from_wire(wire)


@pytest.mark.parametrize(
    ("wire", "least"),
    [
        (None, 1),
        (5, 1),
        ("x" * 1000, 1000),
        (b"x" * 1000, 1000),
        ([1, "y" * 100, None], 100),
        (Packed(b"x" * 10, [b"y" * 5000, memoryview(bytes(800)).cast("Q")], [], []), 5810),
        ([b"x" * 10, [b"y" * 5000], [], []], 5010),
    ],
)
def test_the_size_counts_buffers_and_little_else(wire: WireValue, least: int) -> None:
    assert least <= size_of(wire) <= least + 100


def test_a_packed_value_shows_its_sizes_and_not_its_bytes() -> None:
    assert (
        repr(Packed(b"secret", [b"x" * 100], [], [])) == "Packed(6 bytes, 1 buffers, 0 refs, 0 codes, 106 bytes in all)"
    )
