"""Exceptions over the wire keep their type and all that led to them, and harm nobody's control flow."""

from __future__ import annotations

import asyncio
import pickle
import threading
import traceback
from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from actorfw.values.errors import (
    ActorDiedError,
    ActorFwError,
    DeadlineExceededError,
    NodeDiedError,
    SerializationError,
    TaskError,
)
from actorfw.wire.code import CodeTable
from actorfw.wire.codec import Codec
from actorfw.wire.failures import RemoteTraceback, pack_error, unpack_error
from actorfw.wire.payload import Packed

WHERE = "task f (process 7, node alpha)"


@pytest.fixture
def codec() -> Codec:
    return Codec(CodeTable("host"))


def raised(action: Callable[[], Any]) -> BaseException:
    try:
        action()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def throw(error: BaseException) -> Any:
    raise error


def travel(codec: Codec, error: BaseException, *, infrastructure: bool = False) -> Exception:
    import msgpack

    wire = pack_error(codec, error, where=WHERE, infrastructure=infrastructure)
    again = msgpack.unpackb(msgpack.packb(wire.to_wire() if isinstance(wire, Packed) else wire))
    return unpack_error(codec, again)


def last_link(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


# --- as its own type


class Custom(Exception):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"error {code}: {detail}")
        self.code = code
        self.detail = detail


class NoArguments(Exception):
    def __init__(self, request: object) -> None:
        self.request = request


class OwnNew(Exception):
    def __new__(cls, first: int, second: int) -> OwnNew:
        made = super().__new__(cls, first)
        made.second = second
        return made

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first)

    second: int


class OwnError(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "not there", path)


class Both(ActorFwError, TimeoutError):
    pass


class ValueAndOs(ValueError, OSError):
    pass


class Slotted(Exception):
    __slots__ = ("extra",)

    def __init__(self, extra: int) -> None:
        self.extra = extra


class OwnReduce(Exception):
    def __init__(self, a: int, b: int) -> None:
        self.a, self.b = a, b

    def __reduce__(self) -> Any:
        return OwnReduce, (self.a, self.b)


def decode_error() -> BaseException:
    return raised(lambda: b"\xff".decode("utf-8"))


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (ValueError("x", 1), []),
        (KeyError("k"), []),
        (Custom(5, detail="y"), ["code", "detail"]),
        (NoArguments([1]), ["request"]),
        (OwnNew(1, 2), ["second"]),
        (OwnError("/x"), ["errno", "strerror", "filename"]),
        (FileNotFoundError(2, "gone", "a", None, "b"), ["errno", "strerror", "filename", "filename2"]),
        (OSError("only text"), ["errno"]),
        (ValueAndOs("x"), []),
        (Slotted(3), ["extra"]),
        (OwnReduce(1, 2), ["a", "b"]),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), ["encoding", "object", "start", "end", "reason"]),
        (ImportError("x", name="n", path="p"), ["name", "path", "msg"]),
        (SyntaxError("x", ("file", 1, 2, "text")), ["filename", "lineno", "offset", "text", "msg"]),
        (asyncio.IncompleteReadError(b"abc", 5), ["partial", "expected"]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_an_exception_arrives_as_its_own_type(codec: Codec, error: Exception, attributes: list[str]) -> None:
    again = travel(codec, raised(lambda: throw(error)))
    assert type(again) is type(error)
    assert again.args == error.args
    assert str(again) == str(error)
    for name in attributes:
        assert getattr(again, name) == getattr(error, name)


def test_a_constructor_is_not_run_again(codec: Codec) -> None:
    runs: list[int] = []

    class Counted(Exception):
        def __init__(self) -> None:
            runs.append(1)

    assert type(travel(codec, Counted())).__name__ == "Counted"
    assert runs == [1]


def test_each_arrival_is_a_fresh_instance(codec: Codec) -> None:
    wire = pack_error(codec, raised(lambda: throw(ValueError("x"))), where=WHERE)
    one, two = unpack_error(codec, wire), unpack_error(codec, wire)
    assert one is not two
    assert one.__traceback__ is None
    assert raised(lambda: throw(one)).__traceback__ is not None
    assert two.__traceback__ is None


@hypothesis.given(st.lists(st.integers() | st.text() | st.none()), st.dictionaries(st.sampled_from("abcd"), st.text()))
def test_arguments_and_attributes_survive(args: list[Any], attributes: dict[str, str]) -> None:
    error = ValueError(*args)
    error.__dict__.update(attributes)
    again = travel(Codec(CodeTable("host")), error)
    assert (again.args, again.__dict__) == (tuple(args), attributes)


# --- what led to it


def test_its_own_cause_is_kept_and_the_remote_traceback_comes_last(codec: Codec) -> None:
    def fail() -> None:
        try:
            {}["k"]  # type: ignore[index]
        except KeyError as key:
            raise ValueError("bad") from key

    again = travel(codec, raised(fail))
    assert type(again.__cause__) is KeyError
    assert type(last_link(again)) is RemoteTraceback
    assert again.__cause__.__cause__ is last_link(again)
    printed = "".join(traceback.format_exception(again))
    assert f"In {WHERE}:" in printed
    assert "in fail" in printed
    assert "KeyError: 'k'" in str(last_link(again))


@pytest.mark.parametrize("suppress", [False, True])
def test_its_context_is_kept(codec: Codec, suppress: bool) -> None:
    def fail() -> None:
        try:
            {}["k"]  # type: ignore[index]
        except KeyError:
            if suppress:
                raise ValueError("bad") from None
            raise ValueError("bad")  # noqa: B904

    again = travel(codec, raised(fail))
    assert type(again.__context__) is KeyError
    assert again.__suppress_context__ is suppress
    assert type(again.__cause__) is RemoteTraceback


def test_notes_are_kept(codec: Codec) -> None:
    error = ValueError("x")
    error.add_note("look here")
    assert travel(codec, error).__notes__ == ["look here"]


def test_what_would_harm_as_itself_is_harmless_as_a_cause(codec: Codec) -> None:
    error = TimeoutError("late")
    error.__cause__ = asyncio.CancelledError("c")
    error.__context__ = SystemExit(3)
    again = travel(codec, error)
    assert type(again) is TimeoutError
    assert type(again.__cause__) is asyncio.CancelledError
    assert type(again.__context__) is SystemExit


def test_circles_in_the_chain_end(codec: Codec) -> None:
    one, two = ValueError("one"), KeyError("two")
    one.__cause__, two.__cause__ = two, one
    one.__context__ = two
    again = travel(codec, one)
    assert type(again) is ValueError
    assert type(again.__cause__) is KeyError
    assert "ValueError: one" in "".join(traceback.format_exception(again))


def test_a_long_chain_is_cut(codec: Codec) -> None:
    error: BaseException = ValueError("first")
    for i in range(2000):
        outer = ValueError(i)
        outer.__cause__ = error
        error = outer
    again = travel(codec, error)
    length, link = 0, again.__cause__
    while link is not None:
        length, link = length + 1, link.__cause__
    assert 200 < length < 300
    assert type(last_link(again)) is RemoteTraceback


def test_through_two_processes_the_text_stays_one_link_with_both_places(codec: Codec) -> None:
    first = travel(codec, raised(lambda: throw(ValueError("deep"))))
    wire = pack_error(codec, raised(lambda: throw(first)), where="task outer (node beta)")
    again = unpack_error(codec, wire)
    assert type(again.__cause__) is RemoteTraceback
    assert again.__cause__.__cause__ is None
    assert WHERE in again.__cause__.text
    assert "task outer (node beta)" in again.__cause__.text


def test_a_huge_traceback_loses_its_middle(codec: Codec) -> None:
    again = travel(codec, raised(lambda: throw(ValueError("x" * 1_000_000))))
    text = str(again.__cause__)
    assert len(text) < 70_000
    assert "characters left out" in text
    assert len(again.args[0]) == 1_000_000


# --- groups


def test_groups_keep_their_parts(codec: Codec) -> None:
    class MyGroup(ExceptionGroup[Exception]):
        extra: str

        def __new__(cls, message: str, parts: list[Exception], extra: str) -> MyGroup:
            made = super().__new__(cls, message, parts)
            made.extra = extra
            return made

        def __init__(self, message: str, parts: list[Exception], extra: str) -> None:
            super().__init__(message, parts)

    inner = ExceptionGroup[Exception]("inner", [OSError(2, "x"), KeyError("k")])
    group = MyGroup("outer", [ValueError("v"), inner], "more")
    group.add_note("note")
    again = travel(codec, raised(lambda: throw(group)))
    assert isinstance(again, ExceptionGroup)
    assert (type(again).__name__, again.message, again.__notes__) == ("MyGroup", "outer", ["note"])
    assert getattr(again, "extra", None) == "more"
    value, nested = again.exceptions
    assert type(value) is ValueError
    assert isinstance(nested, ExceptionGroup)
    assert [type(part) for part in nested.exceptions] == [FileNotFoundError, KeyError]
    assert type(again.__cause__) is RemoteTraceback
    assert type(nested.exceptions[0].__cause__) is RemoteTraceback


def test_parts_that_may_not_be_raised_arrive_as_task_errors(codec: Codec) -> None:
    group = BaseExceptionGroup("g", [ValueError("v"), BaseExceptionGroup("h", [SystemExit(3)]), NodeDiedError("n")])
    again = travel(codec, group)
    assert isinstance(again, ExceptionGroup)
    value, nested, died = again.exceptions
    assert type(value) is ValueError
    assert isinstance(nested, ExceptionGroup)
    assert type(nested.exceptions[0]) is TaskError
    assert type(nested.exceptions[0].__cause__) is SystemExit
    assert type(died) is TaskError
    assert type(died.__cause__) is NodeDiedError


def test_a_group_that_is_no_exception_itself(codec: Codec) -> None:
    class Hard(BaseExceptionGroup[BaseException]):
        pass

    again = travel(codec, Hard("g", [KeyboardInterrupt()]))
    assert type(again) is TaskError
    assert isinstance(again.__cause__, BaseExceptionGroup)


def test_a_group_with_itself_around_it(codec: Codec) -> None:
    leaf = ValueError("leaf")
    group = ExceptionGroup("g", [leaf])
    leaf.__context__ = group
    again = travel(codec, leaf)
    assert isinstance(again.__context__, ExceptionGroup)
    assert again.__context__.exceptions == (again,)


def test_a_group_whose_type_cannot_be_sent_is_still_a_group(codec: Codec) -> None:
    group = ExceptionGroup("g", [ValueError("v")])
    group.lock = threading.Lock()  # type: ignore[attr-defined]
    again = travel(codec, group)
    assert isinstance(again, ExceptionGroup)
    assert type(again.exceptions[0]) is ValueError
    assert any("lock" in note for note in again.__notes__)


# --- what may not be raised as itself


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        asyncio.CancelledError("why"),
        GeneratorExit(),
        StopIteration(5),
        StopAsyncIteration(),
        NodeDiedError("mine"),
        DeadlineExceededError("mine"),
        Both("x"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_it_arrives_as_task_error_with_the_original_as_cause(codec: Codec, error: BaseException) -> None:
    again = travel(codec, raised(lambda: throw(error)))
    assert type(again) is TaskError
    assert type(error).__name__ in str(again)
    assert WHERE in str(again)
    assert again.ran is True
    cause = again.__cause__
    assert cause is not None
    assert (type(cause), cause.args) == (type(error), error.args)
    assert type(last_link(again)) is RemoteTraceback


def test_a_task_error_of_an_inner_task_stays_what_it_is(codec: Codec) -> None:
    first = travel(codec, SystemExit(3))
    again = travel(codec, raised(lambda: throw(first)))
    assert type(again) is TaskError
    assert type(again.__cause__) is SystemExit


# --- infrastructure


def test_our_own_errors_travel_as_themselves(codec: Codec) -> None:
    error = ActorDiedError("gone", reason="killed", ran=False)
    again = travel(codec, error, infrastructure=True)
    assert type(again) is ActorDiedError
    assert (str(again), again.reason, again.ran) == ("gone", "killed", False)
    assert again.__cause__ is None  # it was never raised over there: there is no traceback to show
    with_path = travel(codec, SerializationError("s", path="args[0]"), infrastructure=True)
    assert isinstance(with_path, SerializationError)
    assert with_path.path == "args[0]"


# --- what can't be packed or rebuilt


def test_an_exception_that_holds_what_cannot_be_pickled(codec: Codec) -> None:
    error = ValueError("bad", threading.Lock())
    error.add_note("noted")
    error.__cause__ = KeyError("fine")
    again = travel(codec, raised(lambda: throw(error)))
    assert type(again) is TaskError
    assert "ValueError: ('bad', <unlocked _thread.lock" in str(again)
    assert again.__notes__[0] == "noted"
    assert "ValueError.args[1]" in again.__notes__[1]
    assert type(again.__cause__) is KeyError
    assert "ValueError" in str(last_link(again))


def test_a_link_that_cannot_be_pickled_does_not_spoil_the_rest(codec: Codec) -> None:
    error = KeyError("fine")
    error.__cause__ = ValueError(threading.Lock())
    again = travel(codec, error)
    assert type(again) is KeyError
    assert type(again.__cause__) is TaskError
    assert "ValueError" in str(again.__cause__)


class Unbuildable(Exception):
    def __reduce__(self) -> Any:
        return int, ("not a number",)


class Impostor(Exception):
    def __reduce__(self) -> Any:
        return int, ("5",)


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("cls", [Unbuildable, Impostor])
def test_an_exception_that_cannot_be_rebuilt(codec: Codec, cls: type[Exception]) -> None:
    again = travel(codec, raised(lambda: throw(cls("what it said"))))
    assert type(again) is TaskError
    assert f"{cls.__name__}: what it said" in str(again)
    assert type(again.__cause__) is RemoteTraceback


def test_an_exception_whose_own_methods_fail(codec: Codec) -> None:
    class Hostile(ExceptionGroup[Exception]):
        def __getattribute__(self, name: str) -> Any:
            if name == "exceptions":
                raise RuntimeError("no parts")
            return super().__getattribute__(name)

    again = travel(codec, Hostile("g", [ValueError()]))
    assert type(again) is TaskError
    assert "Hostile" in str(again)


def test_an_exception_without_a_text(codec: Codec) -> None:
    assert type(travel(codec, raised(lambda: throw(NoText())))) is NoText


def test_a_type_that_is_missing_here(codec: Codec) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("class Mine(Exception): pass", namespace)
    wire = pack_error(codec, namespace["Mine"]("x"), where=WHERE)
    assert isinstance(wire, Packed)
    again = unpack_error(Codec(CodeTable("host")), wire)  # which has not got the definition
    assert type(again) is TaskError
    assert "__main__.Mine: x" in str(again)
    assert type(unpack_error(codec, wire)) is namespace["Mine"]


@pytest.mark.parametrize("wire", [b"garbage", pickle.dumps([[1, 2]]), pickle.dumps([]), 5, None, [b"x", 1]])
def test_garbage_is_a_task_error(codec: Codec, wire: Any) -> None:
    assert type(unpack_error(codec, wire)) is TaskError


def test_several_records_with_buffers_refs_and_codes_keep_apart(codec: Codec) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("class One(Exception): pass\nclass Two(Exception): pass", namespace)
    error = namespace["One"](b"x", memoryview(b"first" * 10))
    error.__cause__ = second = namespace["Two"](memoryview(b"second" * 10))
    second.__cause__ = ValueError(memoryview(b"third"))
    again = travel(codec, error)
    assert again.args[1] == b"first" * 10
    assert again.__cause__ is not None
    assert again.__cause__.args[0] == b"second" * 10
    assert again.__cause__.__cause__ is not None
    assert again.__cause__.__cause__.args[0] == b"third"
