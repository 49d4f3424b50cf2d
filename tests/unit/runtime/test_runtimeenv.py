"""What a `runtime_env` comes to: merged with its submitter's, packed when it has changed, one object if equal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from actorfw.runtime.definitions import Recipe
from actorfw.runtime.runtimeenv import EnvironmentSpec, Resolver
from actorfw.testing.packages import MemoryPackages
from actorfw.values.environment import Environment
from actorfw.values.errors import UsageError


class World:
    def __init__(self) -> None:
        self.now = 100.0
        self.files = MemoryPackages()
        self.resolver = Resolver(lambda: self.files, 1000, lambda: self.now)

    def of(self, given: Any, parent: Environment | None = None, executor: str = "process") -> Environment | None:
        spec = None if given is None else EnvironmentSpec.of(given, "f")
        return self.resolver.of(spec, parent, executor)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text("a = 1")
    return tmp_path


PARENT = Environment((("A", "1"), ("B", "1")), b"w" * 32, (b"m" * 32,))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, PARENT),
        ({}, PARENT),
        ({"env_vars": {"B": "2", "C": "2"}}, (("A", "1"), ("B", "2"), ("C", "2"))),
        ({"env_vars": None}, ()),
        ({"env_vars": {}}, ()),
    ],
)
def test_keys_that_are_missing_are_the_parents(world: World, given: Any, expected: Any) -> None:
    found = world.of(given, PARENT)
    assert found is not None
    if isinstance(expected, Environment):
        assert found == expected
    else:
        assert found.env_vars == expected
        assert (found.working_dir, found.py_modules) == (PARENT.working_dir, PARENT.py_modules)


def test_none_asks_for_none(world: World) -> None:
    assert world.of({"env_vars": None, "working_dir": None, "py_modules": None}, PARENT) is None
    assert world.of({}, None) is None
    assert world.of(None, None) is None


def test_what_shares_a_process_has_modules_only(world: World) -> None:
    assert world.of(None, PARENT, "loop") == Environment(py_modules=PARENT.py_modules)
    assert world.of(None, Environment(PARENT.env_vars), "thread") is None


def test_equal_ones_are_one_object(world: World, folder: Path) -> None:
    one = world.of({"working_dir": folder, "env_vars": {"A": "1", "B": "2"}})
    assert one is not None
    assert world.of({"env_vars": {"B": "2", "A": "1"}, "working_dir": str(folder)}) is one
    assert Environment.from_wire(one.to_wire()).key == one.key


def test_files_are_looked_at_again_after_a_second(world: World, folder: Path) -> None:
    one = world.of({"working_dir": folder})
    (folder / "a.py").write_text("a = 22")
    assert world.of({"working_dir": folder}) is one
    world.now += 1
    other = world.of({"working_dir": folder})
    assert other is not one
    assert len(world.files.content) == 2
    assert sorted(world.files.uses.values()) == [0, 1]
    world.now += 1
    assert world.of({"working_dir": folder}) is other
    world.resolver.close()
    assert not any(world.files.uses.values())


def test_what_can_not_be_packed_leaves_nothing(world: World, folder: Path) -> None:
    (folder / "large").write_bytes(bytes(2000))
    with pytest.raises(UsageError, match=r"large \(2000 bytes\)"):
        world.of({"working_dir": folder})
    (folder / "large").unlink()
    world.files.full = True
    with pytest.raises(UsageError, match="No space left"):
        world.of({"working_dir": folder})
    world.files.full = False
    assert world.of({"working_dir": folder}) is not None


def test_paths_are_those_of_the_moment_they_are_given(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    spec = EnvironmentSpec.of({"working_dir": "."}, "f")
    monkeypatch.chdir(os.path.dirname(folder))
    assert world.resolver.of(spec, None) == world.of({"working_dir": folder})


def test_a_recipe_without_one_is_what_it_was() -> None:
    def recipe(environment: Environment | None) -> Recipe:
        from actorfw.core.ledger import Shape

        return Recipe("def", "f", b"c" * 16, "process", Shape.of(num_cpus=1), environment=environment)

    plain = recipe(None)
    assert Recipe.from_blob(plain.to_blob()) == plain
    with_one = recipe(PARENT)
    assert Recipe.from_blob(with_one.to_blob()) == with_one
    assert with_one.to_blob() != plain.to_blob()
    assert len(plain.to_blob()) < len(with_one.to_blob()) - 64
