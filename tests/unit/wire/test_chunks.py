"""The framing between a node and its workers: every message arrives as it was, however its bytes are cut."""

from __future__ import annotations

import gc
import struct
import weakref
from typing import Any, cast

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actorfw.values.errors import ProtocolError
from actorfw.wire.chunks import LARGE, SLICE, Decoder, Encoder, blank
from actorfw.wire.messages import ALLOCATED, BLOB, CALL, OUTPUT, PARTS, RESULT, TASK, VALUE
from actorfw.wire.payload import Packed, Place, SharedBuffer

LIFE = b"l" * 16


def received(decoder: Decoder, data: bytes, step: int) -> list[Any]:
    messages: list[Any] = []
    at = 0
    while at < len(data):
        space = decoder.space()
        assert len(space)
        n = min(step, len(space), len(data) - at)
        space[:n] = data[at : at + n]
        at += n
        messages += decoder.received(n)
    return messages


def sent(encoder: Encoder, messages: list[Any]) -> bytes:
    head, attachments = encoder.encode(messages)
    return head + b"".join(attachments)


def task(args: Any) -> tuple[Any, ...]:
    return (TASK, 1, b"h" * 16, args, None, None, 1, 0)


big = bytes(range(256)) * (LARGE // 256 + 1)
bigger = big * 5

BATCHES: list[tuple[list[Any], list[Any]]] = [
    ([], []),
    ([task([1, "two", None, 3.5])], [list(task([1, "two", None, 3.5]))]),
    ([task(Packed(b"p", [], [], []))] * 3, [list(task([b"p", [], [], []]))] * 3),
    ([task(big)], [list(task(big))]),
    (
        [task(1), task(Packed(b"p", [big, memoryview(b"small"), bytearray(bigger)], [(LIFE, 7, "a:1")], [b"c" * 16]))],
        [list(task(1)), list(task([b"p", [big, b"small", bigger], [[LIFE, 7, "a:1"]], [b"c" * 16]]))],
    ),
    # What a node passes on as it came: a list where the first hop had a `Packed`.
    ([(RESULT, 1, VALUE, [big, [bigger], [], []], None)], [[RESULT, 1, VALUE, [big, [bigger], [], []], None]]),
    (
        [(RESULT, 1, PARTS, [1, big, Packed(bigger, [b""], [], []), [b"x", [big], [], []]], None)],
        [[RESULT, 1, PARTS, [1, big, [bigger, [b""], [], []], [b"x", [big], [], []]], None]],
    ),
    ([(CALL, 1, LIFE, 1, 1, "m", big, None, None, 0)], [[CALL, 1, LIFE, 1, 1, "m", big, None, None, 0]]),
    ([(BLOB, b"h" * 16, bigger)], [[BLOB, b"h" * 16, bigger]]),
    # A body that is larger than the buffer, without attachments.
    ([(OUTPUT, "f", "stdout", "x" * (3 * SLICE))], [[OUTPUT, "f", "stdout", "x" * (3 * SLICE)]]),
    # More attachments than fit into the buffer as sizes.
    (
        [task(Packed(b"p", [big[: LARGE + 1]] * 20, [], []))],
        [list(task([b"p", [big[: LARGE + 1]] * 20, [], []]))],
    ),
]


@pytest.mark.parametrize("step", [1 << 30, 100_003, 4096])
@pytest.mark.parametrize("number", range(len(BATCHES)))
def test_a_batch_arrives_however_it_is_cut(number: int, step: int) -> None:
    batch, expected = BATCHES[number]
    data = sent(Encoder(), batch)
    decoder = Decoder()
    for _ in range(2):
        assert received(decoder, data, step) == expected


@pytest.mark.parametrize("number", range(4))
def test_byte_by_byte(number: int) -> None:
    batch, expected = BATCHES[number]
    assert received(Decoder(), sent(Encoder(), batch), 1) == expected


def test_frames_that_come_together() -> None:
    encoder = Encoder()
    data = b"".join(sent(encoder, batch) for batch, _ in BATCHES * 2)
    expected = [message for _, messages in BATCHES * 2 for message in messages]
    for step in (1 << 30, 9_973):
        assert received(Decoder(), data, step) == expected


WIRE = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=10,
) | st.integers(0, 3).map(lambda n: big * n)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(WIRE, max_size=3), max_size=4), st.integers(1, 300_000))
def test_any_values_in_any_portions(batches: list[list[Any]], step: int) -> None:
    encoder, decoder = Encoder(), Decoder()
    for batch in batches:
        messages = [(RESULT, 1, VALUE, value, None) for value in batch]
        assert received(decoder, sent(encoder, messages), max(step, 997)) == [list(message) for message in messages]


def test_large_buffers_are_not_copied_on_the_way_out() -> None:
    source = bytearray(big)
    head, attachments = Encoder().encode([task(Packed(b"p", [memoryview(source)], [], []))])
    assert len(head) < 100
    source[0] = 77
    assert attachments[0][0] == 77


def test_views_of_other_formats_go_as_bytes() -> None:
    view = memoryview(bytearray(big)).cast("I", (len(big) // 8, 2))
    _, attachments = Encoder().encode([task(Packed(b"p", [view], [], []))])
    assert bytes(attachments[0]) == big


def test_attachments_arrive_as_bytes() -> None:
    (message,) = received(Decoder(), sent(Encoder(), [task(Packed(b"p", [big], [], []))]), 10_000)
    assert type(message[3][1][0]) is bytes


def test_what_cannot_be_packed_leaves_the_encoder_usable() -> None:
    encoder = Encoder()
    with pytest.raises(TypeError, match="can't hold object"):
        encoder.encode([task(Packed(b"p", [big], [], [])), (RESULT, 1, VALUE, object(), None)])
    assert received(Decoder(), sent(encoder, [task(1)]), 1000) == [list(task(1))]


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<II", 3, 0) + b"\xc1\xc1\xc1",  # no msgpack
        struct.pack("<II", 1, 0) + msgpack.packb(5),  # no list
        struct.pack("<II", 0xFFFFFFFF, 0),
        struct.pack("<II", 8, 0xFFFFFFFF),
        struct.pack("<II", 4, 0) + msgpack.packb([msgpack.ExtType(1, b"")]).ljust(4, b"\0"),
    ],
)
def test_garbage_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        received(Decoder(), data.ljust(40, b"\0"), 1 << 20)


def test_blank_bytes_are_filled_through_their_view() -> None:
    made, view = blank(100_000)
    view[:] = b"z" * 100_000
    assert made == b"z" * 100_000
    assert hash(made) == hash(b"z" * 100_000)
    assert blank(0)[0] == b""


# -- what is in shared memory


class Placed(SharedBuffer):
    __slots__ = ("content", "number")

    def __init__(self, number: int, content: bytes = big) -> None:
        self.number = number
        self.content = content
        self.nbytes = len(content)

    @property
    def place(self) -> Place:
        return b"token", self.number, self.number << 33, self.nbytes

    def view(self) -> memoryview:
        return memoryview(self.content)


class Desk:
    """Both ends of a connection: what one lends, the other receives."""

    def __init__(self, *unknown: int) -> None:
        self.unknown = unknown
        self.known: dict[Place, Placed] = {}
        self.said: list[tuple[str, int]] = []

    def lend(self, buffer: Any) -> Place | None:
        if buffer.number in self.unknown:
            return None
        self.said.append(("lent", buffer.number))
        self.known[buffer.place] = buffer
        return buffer.place

    def take_back(self, buffer: Any) -> None:
        self.said.append(("taken back", buffer.number))

    def receive(self, place: Place) -> SharedBuffer:
        self.said.append(("received", place[1]))
        return self.known[place]


@pytest.mark.parametrize("step", [1 << 30, 4096, 7])
def test_shared_buffers_travel_as_places_and_are_counted_each_time(step: int) -> None:
    desk = Desk()
    one, two = Placed(1), Placed(2, bigger)
    batch = [
        task(Packed(b"p", [one, big, two, one], [], [])),
        (RESULT, 1, VALUE, [b"p", [two], [], []], None),
        (RESULT, 2, PARTS, [Packed(b"q", [one], [], []), 5], None),
        (ALLOCATED, 7, [two, one], None),
    ]
    head, attachments = Encoder(desk).encode(batch)
    assert [len(view) for view in attachments] == [len(big)]
    assert len(head) < 600
    messages = received(Decoder(desk), head + b"".join(attachments), step)
    assert messages[0][3] == [b"p", [one, big, two, one], [], []]
    assert messages[1][3] == [b"p", [two], [], []]
    assert messages[2][3] == [[b"q", [one], [], []], 5]
    assert messages[3] == [ALLOCATED, 7, [two, one], None]
    numbers = [1, 2, 1, 2, 1, 2, 1]
    assert desk.said == [("lent", n) for n in numbers] + [("received", n) for n in numbers]


def test_what_the_other_end_cannot_map_goes_as_bytes() -> None:
    small = Placed(4, b"small")
    batch = [task(Packed(b"p", [Placed(3), small], [], []))]
    for desk in (Desk(3, 4), None):
        head, attachments = Encoder(desk).encode(batch)
        assert [len(view) for view in attachments] == [len(big)]
        messages = received(Decoder(desk), head + b"".join(attachments), 1 << 30)
        assert messages[0][3] == [b"p", [big, b"small"], [], []]


def test_what_was_lent_in_a_frame_that_is_not_sent_is_taken_back() -> None:
    desk = Desk()
    encoder = Encoder(desk)
    with pytest.raises(TypeError, match="can't hold object"):
        encoder.encode([task(Packed(b"p", [Placed(1), Placed(2)], [], [])), (RESULT, 1, VALUE, object(), None)])
    assert sorted(desk.said) == [("lent", 1), ("lent", 2), ("taken back", 1), ("taken back", 2)]
    desk.said.clear()
    encoder.encode([task(Packed(b"p", [Placed(5)], [], []))])
    assert desk.said == [("lent", 5)]


def test_a_place_that_nobody_knows_is_a_protocol_error() -> None:
    head, _ = Encoder(Desk()).encode([task(Packed(b"p", [Placed(1)], [], []))])
    for desk in (Desk(), None):
        with pytest.raises(ProtocolError, match="can't be read"):
            received(Decoder(desk), head, 1 << 30)


def test_what_lends_for_an_encoder_is_garbage_like_anything() -> None:
    class Lender:
        """Has the encoder that has it, as a worker's process has."""

        encoder: Encoder

    lender = Lender()
    lender.encoder = Encoder(cast("Any", lender))
    lender.encoder.encode([(1, Packed(b"x", [], [], []))])
    dead = weakref.ref(lender)
    del lender
    gc.collect()
    assert dead() is None
