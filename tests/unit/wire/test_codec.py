"""Values to wire values and back: copies, buffers, refs, and errors that name the part."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import functools
import gc
import math
import re
import socket
import sqlite3
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from actorfw.values.errors import SerializationError, UsageError
from actorfw.values.ids import WireRef
from actorfw.wire.code import CodeTable
from actorfw.wire.codec import Codec
from actorfw.wire.payload import Packed

LIFE = bytes(range(16))


class Ref:
    """Stands for an ObjectRef."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and other.number == self.number

    def __hash__(self) -> int:
        return self.number


class Handle:
    """Stands for an actor handle: it knows more than its id."""

    def __init__(self, number: int, interface: Any) -> None:
        self.number = number
        self.interface = interface
        self.id = (LIFE, number)


def export_ref(ref: Ref) -> tuple[WireRef, Any]:
    if ref.number < 0:
        raise UsageError("a reply can't be sent")
    return (LIFE, ref.number, "host:1"), None


def export_handle(handle: Handle) -> tuple[WireRef, Any, Any]:
    return (LIFE, handle.number, "host:2"), handle.interface, handle


def make_codec(codes: CodeTable | None = None) -> Codec:
    codec = Codec(codes or CodeTable("host"))
    codec.register(Ref, export_ref, lambda wire, _: Ref(wire[1]), resolves=True)
    codec.register(Handle, export_handle, lambda wire, extra: Handle(wire[1], extra))
    return codec


@pytest.fixture
def codec() -> Codec:
    return make_codec()


def over_the_wire(wire: Any) -> Any:
    import msgpack

    return msgpack.unpackb(msgpack.packb(wire.to_wire() if isinstance(wire, Packed) else wire))


# --- round trips

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
scalars |= st.text(st.characters(codec=None))  # lone surrogates too
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@hypothesis.given(values)
def test_whatever_is_packed_comes_back_equal(value: object) -> None:
    codec = make_codec()
    again = codec.unpack(over_the_wire(codec.pack(value)))
    assert again == value
    assert type(again) is type(value)


@hypothesis.given(st.lists(values).map(tuple), st.dictionaries(st.text(min_size=1), values))
def test_arguments_come_back_equal(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    codec = make_codec()
    wire, deps = codec.pack_args(args, kwargs)
    assert codec.unpack_args(over_the_wire(wire)) == (args, kwargs)
    assert deps is None


class Colour(enum.Enum):
    RED = 1


@dataclass
class Point:
    x: int
    y: list[int] = field(default_factory=list[int])


@pytest.mark.parametrize(
    "value",
    [
        1 << 63,
        -(1 << 70),
        math.inf,
        "é" * 10,
        "\ud800",
        "long" * 50_000,
        "lang é" * 50_000,
        b"x" * 1_000_000,
        bytearray(b"abc"),
        {1, 2},
        frozenset((1,)),
        datetime.datetime(2026, 1, 1),
        decimal.Decimal("1.1"),
        Colour.RED,
        Point(1, [2]),
        collections.OrderedDict(a=1),
        Path("a/b"),
        type(None),
        math.sqrt,
        Point,
        sys,
        functools.partial(math.pow, 2),
    ],
    ids=lambda v: type(v).__name__,
)
def test_many_kinds_of_values(codec: Codec, value: Any) -> None:
    again = codec.unpack(over_the_wire(codec.pack(value)))
    if isinstance(value, functools.partial):
        assert again(3) == value(3)
    else:
        assert again == value


@pytest.mark.parametrize("value", [None, True, 5, -(1 << 63), 1.5, "text", ""])
def test_scalars_travel_as_they_are(codec: Codec, value: object) -> None:
    assert codec.pack(value) is value
    assert codec.pack_args((value, value), {}) == ([value, value], None)
    assert codec.unpack(codec.pack(value)) is value


def test_a_subclass_of_a_scalar_is_no_scalar(codec: Codec) -> None:
    class Metres(int):
        pass

    again = codec.unpack(codec.pack(Metres(3)))
    assert type(again).__name__ == "Metres"
    assert again == 3


def test_dict_views_modules_and_memoryviews_can_be_sent(codec: Codec) -> None:
    assert list(codec.unpack(codec.pack({"a": 1}.keys()))) == ["a"]
    assert list(codec.unpack(codec.pack({"a": 1}.items()))) == [("a", 1)]
    assert codec.unpack(codec.pack(math)) is math
    assert codec.unpack(codec.pack(memoryview(b"abc")[::2])).tobytes() == b"ac"


# --- values are copies


def test_each_unpack_makes_a_fresh_copy(codec: Codec) -> None:
    value = {"list": [1]}
    wire = codec.pack(value)
    value["list"].append(2)
    first, second = codec.unpack(wire), codec.unpack(wire)
    assert first == second == {"list": [1]}
    assert first is not second
    assert first["list"] is not second["list"]


@pytest.mark.parametrize("size", [3, 1000, 1 << 20])
def test_arrays_arrive_read_only_and_are_copied_when_packed(codec: Codec, size: int) -> None:
    array = np.arange(size, dtype=np.float64)
    wire = codec.pack(array)
    array[:] = -1
    for packed in (wire, over_the_wire(wire)):
        again = codec.unpack(packed)
        assert again[-1] == size - 1
        assert not again.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            again[0] = 5


def test_arrays_are_views_over_one_buffer(codec: Codec) -> None:
    wire = codec.pack([np.ones(100_000), np.ones((300, 300), order="F")])
    assert isinstance(wire, Packed)
    assert [type(buffer) for buffer in wire.buffers] == [bytes, bytes]
    assert len(wire.data) < 2000
    one, two = codec.unpack(wire), codec.unpack(wire)
    assert np.shares_memory(one[0], two[0])
    assert np.shares_memory(one[0], np.frombuffer(wire.buffers[0]))


@pytest.mark.parametrize("buffer", [bytearray, memoryview])
def test_received_buffers_of_any_kind_give_read_only_arrays(codec: Codec, buffer: Any) -> None:
    wire = codec.pack(np.arange(10))
    assert isinstance(wire, Packed)
    wire.buffers[:] = [buffer(bytearray(b)) for b in wire.buffers]
    assert not codec.unpack(wire).flags.writeable


def test_arrays_that_are_not_contiguous_work(codec: Codec) -> None:
    array = np.arange(100).reshape(10, 10)[:, ::2]
    assert (codec.unpack(codec.pack(array)) == array).all()


@pytest.mark.parametrize("megabytes", [70])
def test_a_large_array_is_copied_once(codec: Codec, megabytes: int) -> None:
    array = np.ones(megabytes << 17)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        wire, _ = codec.pack_args((array,), {})
        codec.unpack_args(wire)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < array.nbytes * 1.1


def test_long_bytes_and_text_are_not_copied_into_the_stream(codec: Codec) -> None:
    data = b"x" * 200_000
    wire = codec.pack(data)
    assert isinstance(wire, Packed)
    assert wire.buffers == [data]
    assert wire.buffers[0] is data
    assert codec.unpack(wire) is data
    text = codec.pack("y" * 200_000)
    assert isinstance(text, Packed)
    assert (len(text.data) < 200, codec.unpack(text)) == (True, "y" * 200_000)
    args, _ = codec.pack_args((data, "y" * 200_000), {"z": data})
    assert isinstance(args, Packed)
    assert len(args.data) < 1000
    assert codec.unpack_args(args) == ((data, "y" * 200_000), {"z": data})


def test_a_large_copy_lets_other_threads_run(codec: Codec) -> None:
    # Counted and not timed: while 256 MiB are copied with the lock held, no other thread takes a single step.
    array = np.ones(32 << 20)
    steps: list[int] = []
    seen_inside: list[int] = []
    stop = threading.Event()

    def step() -> None:
        while not stop.is_set():
            steps.append(1)
            stop.wait(0.0005)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # so that the lock changes hands only where it is given away
    thread = threading.Thread(target=step)
    thread.start()
    try:
        before = len(steps)
        codec.pack(array)
        seen_inside.append(len(steps) - before)
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        thread.join()
    assert seen_inside[0] >= 3


# --- many at once


def test_a_pack_inside_a_pack(codec: Codec) -> None:
    class Nested:
        def __reduce__(self) -> Any:
            inner = codec.pack([1, 2])
            return bytes, (inner,)

    packed = codec.pack(["outer", Nested(), Ref(1)])
    again = codec.unpack(packed)
    assert codec.unpack(again[1]) == [1, 2]
    assert again[2] == Ref(1)


def test_many_threads_pack_with_one_codec(codec: Codec) -> None:
    failures: list[object] = []

    def work(number: int) -> None:
        for i in range(300):
            value = [number, i, Ref(number), np.full(10, i), {"k": "é" * (i % 7)}]
            again = codec.unpack(codec.pack(value))
            if again[:3] != value[:3] or (again[3] != value[3]).any() or again[4] != value[4]:
                failures.append((number, i))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_failure_leaves_nothing_behind_for_the_next_value(codec: Codec) -> None:
    for _ in range(3):
        with pytest.raises(SerializationError):
            codec.pack([Ref(1), np.ones(5), threading.Lock()])
    assert type(codec.pack({"a": 1})) is bytes


def test_a_very_large_value_does_not_slow_down_later_ones(codec: Codec) -> None:
    codec.pack([str(i) for i in range(100_000)])
    assert not codec._idle  # its memo table would be cleared again at every use


# --- refs


def test_refs_travel_beside_the_stream(codec: Codec) -> None:
    wire = codec.pack({"a": [Ref(5), Ref(6)]})
    assert isinstance(wire, Packed)
    assert wire.refs == [(LIFE, 5, "host:1"), (LIFE, 6, "host:1")]
    assert codec.unpack(over_the_wire(wire)) == {"a": [Ref(5), Ref(6)]}


def test_one_ref_twice_is_exported_once(codec: Codec) -> None:
    ref = Ref(5)
    wire = codec.pack([ref, ref])
    assert isinstance(wire, Packed)
    assert len(wire.refs) == 1


def test_a_handle_brings_what_it_knows(codec: Codec) -> None:
    handle = Handle(9, {})
    wire = codec.pack([handle, Ref(1)])
    assert isinstance(wire, Packed)
    assert wire.hold == [handle, None]  # what keeps it alive as long as the bytes exist
    handle.id = (b"another life....", 9)  # the node took a new life
    assert wire.refs == [(b"another life....", 9, "host:2"), (LIFE, 1, "host:1")]
    again = codec.unpack(codec.pack([Handle(9, {"methods": ["add"], "made by": Ref(3)})]))[0]
    assert (again.number, again.interface) == (9, {"methods": ["add"], "made by": Ref(3)})


def test_only_refs_that_are_arguments_themselves_are_to_be_resolved(codec: Codec) -> None:
    wire, deps = codec.pack_args((1, Ref(1), [Ref(2)], Handle(3, None)), {"k": Ref(4)})
    assert deps == [Ref(1), Ref(4)]
    assert isinstance(wire, Packed)
    assert [ref[1] for ref in wire.refs] == [1, 2, 3, 4]


def test_an_error_of_the_export_is_told_with_its_place(codec: Codec) -> None:
    with pytest.raises(SerializationError, match=r"args\[0\] can't be sent: a reply can't be sent"):
        codec.pack_args((Ref(-1),), {})


def test_ref_streams_cannot_be_read_without_a_codec(codec: Codec) -> None:
    import pickle

    wire = codec.pack(Ref(1))
    assert isinstance(wire, Packed)
    with pytest.raises(pickle.UnpicklingError, match="only be read by a Codec"):
        pickle.loads(wire.data)


def test_two_classes_of_one_name_are_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="called Ref"):
        codec.register(Ref, export_ref, lambda wire, _: wire)
    codec.register(Db, export_ref, codec._adopters["Ref"], kind="Ref")


# --- errors name the part


class Db:
    def __init__(self, conn: object) -> None:
        self.name = "main"
        self.conn = conn

    def get(self) -> object:
        return self.conn


class Service:
    def __init__(self, db: object) -> None:
        self.label = "x"
        self.db = db


class Slotted:
    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.Lock()


def fails(codec: Codec, *args: Any, **kwargs: Any) -> SerializationError:
    with pytest.raises(SerializationError) as caught:
        codec.pack_args(args, kwargs)
    return caught.value


def test_the_path_to_an_argument(codec: Codec) -> None:
    connection = sqlite3.connect(":memory:")
    try:
        error = fails(codec, 1, Service(Db(connection)))
    finally:
        connection.close()
    assert error.path == "args[1].db.conn"
    assert "args[1].db.conn (of type sqlite3.Connection) can't be sent" in str(error)
    assert "__getstate__" in str(error)
    assert error.__cause__ is not None


def generator() -> Any:
    yield 1


PATHS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda lock: [0, {"x": [1, lock]}], r"args\[0\]\[1\]\['x'\]\[1\]"),
    (lambda lock: {(1, 2): lock}, r"args\[0\]\[\(1, 2\)\]"),
    (lambda lock: Slotted(), r"args\[0\]\.lock"),
    (lambda lock: functools.partial(print, 1, lock), r"args\[0\]\.args\[1\]"),
    (lambda lock: collections.deque([1, lock]), r"args\[0\]\[1\]"),
    (lambda lock: ValueError("x", lock), r"args\[0\]\.args\[1\]"),
    (lambda lock: Point(1, [2, lock]), r"args\[0\]\.y\[1\]"),
    (lambda lock: collections.defaultdict(list[Any], {"k": lock}), r"args\[0\]\['k'\]"),
    (lambda lock: {Db(lock)}, r"args\[0\]\{<.*\}\.conn"),
    (lambda lock: Db(lock).get, r"args\[0\]\.__self__\.conn"),
    (lambda lock: lock, r"args\[0\]"),
    (lambda lock: generator(), r"args\[0\]"),
]


@pytest.mark.parametrize(("make", "path"), PATHS, ids=[path for _, path in PATHS])
def test_paths_through_many_kinds_of_objects(codec: Codec, make: Callable[[Any], Any], path: str) -> None:
    assert re.fullmatch(path, fails(codec, make(threading.Lock())).path)


def test_the_path_to_a_keyword_argument_and_a_result(codec: Codec) -> None:
    assert fails(codec, 1, x=[0, 1, 2, threading.Lock()]).path == "kwargs['x'][3]"
    with pytest.raises(SerializationError) as caught:
        codec.pack(Service({"items": [1, 2, threading.Lock()]}), where="result")
    assert caught.value.path == "result.db['items'][2]"


def test_the_search_leaves_circles_and_finds_the_culprit_behind_them(codec: Codec) -> None:
    a: dict[str, Any] = {}
    b = {"a": a}
    a["b"] = b
    a["later"] = [a, b, threading.Lock()]
    assert fails(codec, a).path == "args[0]['later'][2]"


def test_circles_can_be_sent(codec: Codec) -> None:
    a: list[Any] = [1]
    a.append(a)
    again = codec.unpack(codec.pack(a))
    assert again[1] is again
    service = Service(None)
    service.db = service
    assert (copy := codec.unpack(codec.pack(service))).db is copy


def test_what_is_nested_too_deeply(codec: Codec) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError, match="result can't be sent: nested more deeply"):
        codec.pack(deep, where="result")
    with pytest.raises(SerializationError, match="nested more deeply"):
        codec.pack_args((deep,), {})
    while deep:  # or its own deallocation would be as deep
        deep = deep[0]


def test_the_search_does_not_export_refs() -> None:
    codec = Codec(CodeTable("host"))
    exported: list[int] = []

    def export(ref: Ref) -> tuple[WireRef, Any]:
        exported.append(ref.number)
        return (LIFE, ref.number, ""), None

    codec.register(Ref, export, lambda wire, _: Ref(wire[1]))
    fails(codec, [Ref(1)], threading.Lock())
    assert exported == [1]


def test_a_large_array_beside_the_culprit_is_not_copied_for_the_search(codec: Codec) -> None:
    array = np.ones(1 << 20)
    tracemalloc.start()
    try:
        assert fails(codec, {"lock": threading.Lock(), "array": array}).path == "args[0]['lock']"
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        assert fails(codec, {"lock": threading.Lock(), "array": array, "more": [array]})
        assert tracemalloc.get_traced_memory()[1] - before < array.nbytes / 2
    finally:
        tracemalloc.stop()


# --- what can't be rebuilt


class Fragile:
    def __reduce__(self) -> Any:
        return int, ("not a number",)


def test_a_value_that_fails_to_be_rebuilt_says_so(codec: Codec) -> None:
    with pytest.raises(SerializationError, match=r"can't be rebuilt on host .*ValueError: invalid literal") as caught:
        codec.unpack(codec.pack(Fragile()))
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_missing_module_is_named_with_the_host(codec: Codec) -> None:
    stream = b"\x80\x05cno_such_module_here\nthing\n."
    with pytest.raises(SerializationError) as caught:
        codec.unpack(stream)
    assert "no_such_module_here" in str(caught.value)
    assert socket.gethostname() in str(caught.value)
    assert "Install" in str(caught.value)


def test_another_version_of_a_module_is_guessed(codec: Codec) -> None:
    with pytest.raises(SerializationError, match="Probably another version"):
        codec.unpack(b"\x80\x05cmath\nno_such_function\n.")


# --- exceptions as values


class Custom(Exception):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"error {code}: {detail}")
        self.code = code


def test_exceptions_are_values_too_whatever_their_constructor(codec: Codec) -> None:
    again = codec.unpack(codec.pack([Custom(5, detail="x"), OSError(2, "gone", "file")]))
    assert (type(again[0]), str(again[0]), again[0].code) == (Custom, "error 5: x", 5)
    assert (type(again[1]), again[1].errno, again[1].filename) == (FileNotFoundError, 2, "file")


# --- functions that close over refs


def closing_over(ref: Ref) -> Any:
    def inner() -> Any:
        return ref

    inner.__module__ = "__main__"  # so that it goes by value
    return inner


def shipped(sender: Codec, receiver: Codec, packed: Any) -> Any:
    for code in packed.codes:
        receiver.codes.add(sender.codes.get(code))
    return receiver.unpack(over_the_wire(packed))


def test_a_ref_in_a_closure_travels_beside_the_definition() -> None:
    sender, receiver = make_codec(), make_codec()
    function = closing_over(Ref(7))
    packed = sender.pack(function)
    assert [number for _, number, _ in packed.refs] == [7]
    made = shipped(sender, receiver, packed)
    assert made() == Ref(7)
    again = receiver.pack(made)  # and so it does from there on
    assert ([number for _, number, _ in again.refs], again.codes) == ([7], packed.codes)


def test_functions_that_differ_in_their_refs_only_share_a_definition() -> None:
    sender, receiver = make_codec(), make_codec()
    packed = [sender.pack(closing_over(Ref(number))) for number in (1, 2)]
    assert packed[0].codes == packed[1].codes
    assert [shipped(sender, receiver, one)() for one in packed] == [Ref(1), Ref(2)]


def test_a_definition_keeps_no_ref() -> None:
    sender, receiver = make_codec(), make_codec()
    ref = Ref(3)
    function = closing_over(ref)
    packed = sender.pack(function)
    made = shipped(sender, receiver, packed)
    watched = [weakref.ref(ref), weakref.ref(made())]
    del ref, function, made
    gc.collect()
    assert [one() for one in watched] == [None, None]


def test_a_ref_inside_what_a_function_names_is_the_one_there_is_now() -> None:
    sender, receiver = make_codec(), make_codec()
    box = [Ref(1)]

    def first_of_box() -> Any:
        return box[0]

    first_of_box.__module__ = "__main__"
    assert shipped(sender, receiver, sender.pack(first_of_box))() == Ref(1)
    box[0] = Ref(2)
    gc.collect()
    assert shipped(sender, receiver, sender.pack(first_of_box))() == Ref(2)
