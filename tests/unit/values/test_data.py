"""`Data`: it is a dataclass to all who use it, and costs nothing before."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, field
from typing import Any, Generic, TypeVar

import pytest

from actorfw import EventsDropped
from actorfw.values.data import Data, finish

T = TypeVar("T")


class Point(Data):
    x: int
    y: int = 0


class Named(Point):
    name: str = "?"
    tags: list[str] = field(default_factory=list[str], compare=False)

    @property
    def title(self) -> str:
        return f"{self.name} at {self.x}"


class Whole(Data, frozen=False):
    parts: list[int] = field(default_factory=list[int])
    sum: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self.sum = sum(self.parts)


class Options(Data, kw_only=True):
    first: int = 1
    second: int


class Box(Data, Generic[T]):
    value: T


class Own(Data):
    """With an `__init__` and a `__repr__` of its own."""

    both: tuple[int, int]

    def __init__(self, one: int) -> None:
        object.__setattr__(self, "both", (one, one))

    def __repr__(self) -> str:
        return "own"


class Derived(Own):
    def __init__(self) -> None:
        super().__init__(3)


def test_it_is_made_compared_and_shown_by_its_fields() -> None:
    assert Point(1) == Point(1, 0) != Point(1, 2)
    assert hash(Point(1)) == hash(Point(1))
    assert {Point(1): "a"}[Point(x=1)] == "a"
    assert repr(Point(1)) == "Point(x=1, y=0)"
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        Point()  # type: ignore[call-arg]


def test_any_method_may_be_the_first_that_is_needed() -> None:
    def fresh() -> type[Any]:
        class Fresh(Data):
            x: int

        return Fresh

    assert fresh()(1).x == 1
    for first in (repr, hash, lambda one: one == one, dataclasses.fields, dataclasses.asdict):
        cls = fresh()
        one = object.__new__(cls)
        object.__setattr__(one, "x", 1)
        first(one)
        assert cls(1) == one
    match object.__new__(fresh()):
        case Point(x, y):
            raise AssertionError((x, y))
        case _:
            pass


def test_a_derived_class_has_the_fields_of_its_base_and_is_not_equal_to_it() -> None:
    Point(1)  # finished before the derived class is
    one = Named(1, name="n")
    assert (one.x, one.y, one.title) == (1, 0, "n at 1")
    assert Named(1, 0) != Point(1)
    assert Named(1, tags=["a"]) == Named(1, tags=["b"])
    assert Named(1).tags is not Named(1).tags
    match one:
        case Named(x, _, name):
            assert (x, name) == (1, "n")


def test_a_frozen_one_cannot_be_changed_and_has_no_other_attributes() -> None:
    one = Point(1)
    with pytest.raises(FrozenInstanceError, match="'x'"):
        one.x = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError, match="'x'"):
        del one.x  # type: ignore[misc]
    assert not hasattr(one, "__dict__")


def test_another_can_be_changed_and_not_hashed() -> None:
    one = Whole([1, 2])
    assert one.sum == 3
    one.parts = [3]
    assert one == Whole([3])
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)
    with pytest.raises(AttributeError):
        one.other = 1  # type: ignore[attr-defined]


def test_keywords_only() -> None:
    assert Options(second=2).first == 1
    with pytest.raises(TypeError, match="positional"):
        Options(1, 2)  # type: ignore[misc]


def test_what_a_class_defines_itself_stays() -> None:
    assert Own(2).both == (2, 2)
    assert repr(Own(2)) == "own"
    assert Own(2) == Own(2)
    assert Derived().both == (3, 3)
    assert Box[int](1) == Box(1)


def test_the_functions_of_dataclasses_take_it() -> None:
    one = Named(1, tags=["t"])
    assert dataclasses.is_dataclass(one)
    assert dataclasses.asdict(one) == {"x": 1, "y": 0, "name": "?", "tags": ["t"]}
    assert dataclasses.replace(one, y=5) == Named(1, 5)
    assert [each.name for each in dataclasses.fields(Named)] == ["x", "y", "name", "tags"]
    assert str(inspect.signature(Point)) == "(x: 'int', y: 'int' = 0)"


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_it_can_be_copied_and_sent(again: Any) -> None:
    assert again(Named(1, name="n")) == Named(1, name="n")
    assert again(Options(second=2)) == Options(second=2)


def test_it_arrives_where_none_was_made_before() -> None:
    code = "import pickle, sys; one = pickle.load(sys.stdin.buffer); assert one == type(one)(7)"
    sent = pickle.dumps(EventsDropped(7))
    subprocess.run([sys.executable, "-c", code], input=sent, check=True)


def test_what_is_finished_before_a_fork_is_not_made_again() -> None:
    class Early(Data):
        x: int

    finish(Early)
    made = Early.__dict__["__init__"]
    finish(Early)
    assert Early(3) == Early(x=3)
    assert Early.__dict__["__init__"] is made
