"""Pieces of large messages that are read straight to where they belong: the same bytes, however they come."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actorfw.wire.frames import (
    CHUNK,
    BatchPacker,
    Frame,
    FrameParser,
    Placed,
    header,
    piece_mark,
    sealer,
    unpack_batch,
)

LEAST = 32 * 1024
"""Frames from this size on are put together where they stay."""


def piece(n: int, number: int, body: bytes) -> bytes:
    batch = piece_mark(CHUNK, number, len(body)) + body
    return header(len(batch), n, 0) + batch


class Large:
    """A large message that is being received, as whoever keeps the rules of `bulk.Sink`."""

    def __init__(self, size: int, *, gives: bool = True) -> None:
        self.bytes = bytearray(size)
        self.at = 0
        self.gives = gives
        self.placed = 0

    def place(self, _number: int, size: int, known: bool) -> memoryview | None:
        fits = known and self.gives and self.at + size <= len(self.bytes)
        return memoryview(self.bytes)[self.at : self.at + size] if fits else None

    def take(self, frames: list[Frame]) -> list[tuple[int, bytes]]:
        """Takes pieces; returns the other frames."""
        others: list[tuple[int, bytes]] = []
        for n, _, batch in frames:
            if not isinstance(batch, Placed) and not batch.startswith(b"\x91\x93\x02"):
                others.append((n, bytes(batch)))
                continue
            ((kind, number, body),) = unpack_batch(batch)
            assert (kind, number) == (CHUNK, 300)
            if isinstance(body, Placed):
                self.placed += 1
            else:
                self.bytes[self.at : self.at + len(body)] = body
            self.at += len(body)
        return others


def read(
    parser: FrameParser, large: Large, data: bytes, sizes: list[int], direct: list[bool]
) -> list[tuple[int, bytes]]:
    """Hand a stream to the parser in reads of these sizes, into the room that it gives where `direct` says so."""
    others: list[tuple[int, bytes]] = []
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        room = parser.room() if direct[turn % len(direct)] else None
        turn += 1
        if room is None:
            others += large.take(parser.feed(data[at : at + size]))
        else:
            size = min(size, len(room), len(data) - at)
            room[:size] = data[at : at + size]
            others += large.take(parser.filled(size))
        at += size
    return others


@settings(max_examples=30, deadline=None)
@given(
    bodies=st.lists(st.sampled_from([1, 100, LEAST - 1, LEAST, LEAST + 1, 3 * LEAST]), min_size=1, max_size=4),
    small=st.lists(st.integers(0, 200), max_size=6),
    sizes=st.lists(st.sampled_from([20, 31, 64, 1000, 4096, LEAST, 100_000]), min_size=1, max_size=5),
    direct=st.lists(st.booleans(), min_size=1, max_size=3),
)
def test_whatever_way_they_are_read(bodies: list[int], small: list[int], sizes: list[int], direct: list[bool]) -> None:
    data, expected, whole, n = b"", [], b"", 0
    for turn, size in enumerate(bodies):
        body = bytes([turn + 1]) * size
        whole += body
        n += 1
        data += piece(n, 300, body)
        if turn < len(small):
            n += 1
            batch = BatchPacker().pack([[40, b"s" * small[turn]]])
            data += header(len(batch), n, 0) + batch
            expected.append((n, batch))
    large = Large(len(whole))
    assert read(FrameParser(None, large.place), large, data, sizes, direct) == expected
    assert large.bytes == whole


def test_a_piece_goes_to_its_place_without_being_put_together_first() -> None:
    large = Large(4 * LEAST)
    parser = FrameParser(None, large.place)
    data = piece(1, 300, b"a" * 2 * LEAST) + piece(2, 300, b"b" * 2 * LEAST)
    # Each head is read by itself, as a loop does that is given room for no more than the rest of a piece.
    assert read(parser, large, data, [64, 10 * LEAST], [True]) == []
    assert large.placed == 2
    assert large.bytes == b"a" * 2 * LEAST + b"b" * 2 * LEAST
    assert not parser.begun


def test_behind_another_frame_nothing_is_placed() -> None:
    """What is before it has not been taken yet, so nobody knows where it belongs."""
    large = Large(4 * LEAST)
    parser = FrameParser(None, large.place)
    data = piece(1, 300, b"a" * 2 * LEAST) + piece(2, 300, b"b" * 2 * LEAST)
    assert read(parser, large, data, [3 * LEAST], [False]) == []
    assert large.placed == 0
    assert large.bytes == b"a" * 2 * LEAST + b"b" * 2 * LEAST


@pytest.mark.parametrize("why", ["sealed", "no room", "not a piece"])
def test_what_else_is_put_together_first(why: str) -> None:
    large = Large(2 * LEAST, gives=why != "no room")
    body = b"x" * LEAST
    batch = piece_mark(CHUNK, 300, len(body)) + body if why != "not a piece" else BatchPacker().pack([[40, body]])
    head = header(len(batch), 1, 0)
    if why == "sealed":
        seal = sealer(b"k" * 32)
        parser, data = FrameParser(seal, large.place), head + seal(head, batch) + batch
    else:
        parser, data = FrameParser(None, large.place), head + batch
    frames = [frame for at in range(0, len(data), 1000) for frame in parser.feed(data[at : at + 1000])]
    assert frames == [(1, 0, batch)]
    assert bytes(large.bytes) == bytes(2 * LEAST)
