"""The top of the package: nothing is exported twice or forgotten, and all of it is documented."""

from __future__ import annotations

import inspect
import itertools
import re
from pathlib import Path
from types import ModuleType

import pytest

import actorfw
from actorfw import errors
from actorfw.values import errors as values_errors

SECTION = re.compile(r"^ *(Args|Attributes|Example|Examples|Returns|Raises|Yields):$", re.MULTILINE)

# Python itself needs no docstring of ours there.
PLAIN = {"errors", "ActorHandle"}


def groups() -> list[list[str]]:
    """The names in `__all__`, in groups as its comments part them."""
    source = Path(actorfw.__file__).read_text(encoding="utf-8")
    block = source.partition("__all__ = [")[2].partition("]")[0]
    parted = re.split(r"^ *#.*$", block, flags=re.MULTILINE)
    return [re.findall(r'"(\w+)"', part) for part in parted[1:]]


def public(cls: type) -> list[tuple[str, object]]:
    """What a class of ours itself has under a public name."""
    return [(name, value) for name, value in vars(cls).items() if not name.startswith("_")]


def test_each_name_is_exported_once_and_is_there() -> None:
    assert len(set(actorfw.__all__)) == len(actorfw.__all__)
    assert [name for name in actorfw.__all__ if not hasattr(actorfw, name)] == []


def test_nothing_public_is_left_out() -> None:
    there = {
        name for name, value in vars(actorfw).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert there - set(actorfw.__all__) == set()
    assert set(actorfw.__all__) - there == {"errors"}


def test_the_list_is_sorted_within_its_groups() -> None:
    found = groups()
    assert list(itertools.chain(*found)) == actorfw.__all__
    assert [group for group in found if group != sorted(group)] == []


def test_a_star_import_brings_the_names_of_the_list() -> None:
    space: dict[str, object] = {}
    exec("from actorfw import *", space)
    assert set(space) - {"__builtins__"} == set(actorfw.__all__)


def test_every_error_is_at_the_top_and_in_errors() -> None:
    made = {
        name
        for name, value in vars(values_errors).items()
        if isinstance(value, type) and issubclass(value, values_errors.ActorFwError)
    }
    assert set(values_errors.__all__) == set(errors.__all__) == made
    assert made <= set(actorfw.__all__)
    for name in made:
        assert getattr(actorfw, name) is getattr(errors, name) is getattr(values_errors, name)


def test_users_errors_are_told_from_ours_by_one_class() -> None:
    others = [getattr(actorfw, name) for name in errors.__all__ if name != "ActorFwError"]
    assert [cls for cls in others if not issubclass(cls, actorfw.ActorFwError)] == []
    also = {
        actorfw.DeadlineExceededError: TimeoutError,
        actorfw.GetTimeoutError: TimeoutError,
        actorfw.ActorNotFoundError: LookupError,
        actorfw.ActorExistsError: ValueError,
        actorfw.NotInitializedError: actorfw.UsageError,
        actorfw.BlockingCallError: actorfw.UsageError,
        actorfw.OwnerDiedError: actorfw.ObjectLostError,
        actorfw.VersionMismatchError: actorfw.ProtocolError,
    }
    assert [cls for cls, base in also.items() if not issubclass(cls, base)] == []


@pytest.mark.parametrize("name", [name for name in actorfw.__all__ if name not in PLAIN])
def test_it_is_documented(name: str) -> None:
    value = getattr(actorfw, name)
    text = inspect.getdoc(value) or ""
    assert text, f"{name} has no docstring"
    first = text.splitlines()[0]
    assert first[-1] in ".:?!" or "`" in first, f"the first line of {name}'s docstring is no sentence: {first!r}"
    if inspect.isfunction(value):
        told = set(SECTION.findall(text))
        explained = text.partition("Args:")[2]
        parameters = inspect.signature(value).parameters
        for parameter in parameters.values():
            if "Args" in told and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                told_of = re.search(rf"^ +\**{parameter.name}: ", explained, re.MULTILINE)
                assert told_of, f"{name} does not explain {parameter}"
        if len(parameters) > 1:
            assert "Args" in told, f"{name} has several parameters and no section Args"


@pytest.mark.parametrize("name", [name for name in actorfw.__all__ if isinstance(getattr(actorfw, name), type)])
def test_its_methods_are_documented(name: str) -> None:
    cls = getattr(actorfw, name)
    told = inspect.getdoc(cls) or ""
    bare = [
        attribute
        for attribute, value in public(cls)
        # What the class explains under Attributes needs no text of its own.
        if (inspect.isfunction(value) or (isinstance(value, property) and f"{attribute}: " not in told))
        and not inspect.getdoc(value)
    ]
    assert bare == []
