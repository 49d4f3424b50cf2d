"""Frames: bytes to batches and back, whatever way the bytes are cut, and nothing else gets through."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorfw.values.errors import ProtocolError
from actorfw.wire.frames import (
    HEADER_BYTES,
    MAX_BATCH_BYTES,
    MAX_MESSAGE_BYTES,
    SEAL_BYTES,
    BatchPacker,
    Frame,
    FrameParser,
    Sealer,
    header,
    sealer,
    unpack_batch,
)
from actorfw.wire.payload import Packed

KEY = b"k" * 32


def frame(n: int, batch: bytes, ack: int = 0, seal: Sealer | None = None) -> bytes:
    head = header(len(batch), n, ack)
    return head + (seal(head, batch) if seal is not None else b"") + batch


def feed_in_pieces(parser: FrameParser, data: bytes, cuts: list[int]) -> list[Frame]:
    frames: list[Frame] = []
    at = 0
    for cut in [*sorted(min(c, len(data)) for c in cuts), len(data)]:
        frames += parser.feed(data[at:cut])
        at = cut
    return frames


@pytest.mark.parametrize("seal", [None, sealer(KEY)])
@given(
    batches=st.lists(st.binary(max_size=300), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 2500), max_size=12),
)
def test_any_split_of_the_bytes_gives_the_same_frames(
    seal: Sealer | None, batches: list[bytes], cuts: list[int]
) -> None:
    expected = [(n, 7 * n, batch) for n, batch in enumerate(batches, 1)]
    data = b"".join(frame(n, batch, ack, seal) for n, ack, batch in expected)
    assert feed_in_pieces(FrameParser(seal), data, cuts) == expected


def test_byte_by_byte() -> None:
    parser = FrameParser()
    data = frame(1, b"abc") + frame(2, b"")
    got = [f for i in range(len(data)) for f in parser.feed(data[i : i + 1])]
    assert got == [(1, 0, b"abc"), (2, 0, b"")]


def test_the_header_stays_as_it_is() -> None:
    """Golden bytes: a change here is another protocol version."""
    assert header(3, 2, 1) == b"\x03\0\0\0" + b"\x02" + b"\0" * 7 + b"\x01" + b"\0" * 7
    assert HEADER_BYTES == 20
    assert sealer(KEY)(header(3, 2, 1), b"abc").hex() == "423358374eb59f504b1650f74b7bed3e"


@pytest.mark.parametrize("position", [0, 5, 13, HEADER_BYTES, HEADER_BYTES + SEAL_BYTES, -1])
def test_a_changed_byte_breaks_the_seal(position: int) -> None:
    data = bytearray(frame(1, b"abcdef", 0, sealer(KEY)))
    data[position] ^= 1
    parser = FrameParser(sealer(KEY))
    # A changed length waits for more bytes, or takes the next frame's: the seal is wrong all the same.
    with pytest.raises(ProtocolError, match="seal"):
        parser.feed(bytes(data) + frame(2, b"next", 0, sealer(KEY)))


def test_the_key_of_the_other_direction_does_not_do() -> None:
    with pytest.raises(ProtocolError, match="seal"):
        FrameParser(sealer(KEY)).feed(frame(1, b"abc", 0, sealer(b"j" * 32)))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (header(MAX_MESSAGE_BYTES + 9, 1, 0), "above the limit"),
        (header(3 | 1 << 24, 1, 0), "flags"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "flags"),
    ],
)
def test_garbage_is_refused_at_once(data: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        FrameParser().feed(data)


@pytest.mark.parametrize("batch", [b"", b"\xc1", b"\x92\x01", b"\x01", b"\x91\xdd\xff\xff\xff\xff", b"\x91" * 5000])
def test_what_is_no_list_of_messages(batch: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack_batch(batch)


def test_packed_values_travel_as_a_list_of_four() -> None:
    packed = Packed(b"data", [bytearray(b"one"), memoryview(b"two")], [(b"l" * 16, 3, "h:1")], [b"c" * 16])
    batch = BatchPacker().pack([(10, packed)])
    assert unpack_batch(batch) == [[10, [b"data", [b"one", b"two"], [[b"l" * 16, 3, "h:1"]], [b"c" * 16]]]]


def test_a_packer_survives_what_it_can_t_pack() -> None:
    packer = BatchPacker()
    with pytest.raises(TypeError, match="object"):
        packer.pack([(10, 1), (11, object())])
    with pytest.raises(TypeError, match="int"):
        packer.pack([(10, 1), (11, 1 << 70)])
    assert unpack_batch(packer.pack([(12, 1)])) == [[12, 1]]


def split(messages: list[Any]) -> tuple[list[bytes], list[Any], list[tuple[Any, str]]]:
    refused: list[tuple[Any, str]] = []
    batches: list[bytes] = []
    done = 0
    for batch, count in BatchPacker().pack_split(messages, lambda m, e: refused.append((m, str(e)))):
        done += count
        if batch:
            batches.append(batch)
    assert done == len(messages)
    return batches, [message for batch in batches for message in unpack_batch(batch)], refused


@given(st.lists(st.integers(0, 100_000), max_size=40))
def test_split_batches_keep_order_and_size(sizes: list[int]) -> None:
    messages = [[10, i, b"x" * size] for i, size in enumerate(sizes)]
    batches, got, refused = split(messages)
    assert got == messages
    assert not refused
    assert all(len(batch) <= MAX_BATCH_BYTES for batch in batches)


def test_many_small_messages() -> None:
    messages = [[10, i] for i in range(10_000)]
    batches, got, _ = split(messages)
    assert got == messages
    assert len(batches) == 10


def test_a_large_message_is_alone_in_its_frame_and_fits_the_parser() -> None:
    largest = [10, b"x" * (MAX_MESSAGE_BYTES - 7)]
    batches, got, refused = split([[10, 1], largest, [10, 2]])
    assert got == [[10, 1], largest, [10, 2]]
    assert len(batches) == 3
    assert not refused
    assert [f[2] for f in FrameParser().feed(frame(1, batches[1]))] == [batches[1]]


def test_messages_that_can_t_go_are_left_out_and_the_others_travel() -> None:
    too_large = [10, b"x" * MAX_MESSAGE_BYTES]
    nonsense = [11, object()]
    _, got, refused = split([[10, 1], too_large, [10, 2], nonsense])
    assert got == [[10, 1], [10, 2]]
    assert [message for message, _ in refused] == [too_large, nonsense]
    assert "above the limit" in refused[0][1]
