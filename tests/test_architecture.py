"""What holds for the code as a whole: imports point down, modules stand alone, public names are documented."""

from __future__ import annotations

import ast
import functools
import graphlib
import inspect
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import actorfw

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "actorfw"
SOURCES = sorted(PACKAGE.rglob("*.py"))
LONGEST_MODULE = 600


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES if path.name != "__main__.py"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50
    )


def test_imports_point_down() -> None:
    pytest.importorskip("importlinter", reason="needs the dependency group lint")
    done = run("-c", "import sys; from importlinter.cli import lint_imports_command as c; sys.exit(c(['--no-cache']))")
    assert done.returncode == 0, done.stdout + done.stderr


def imported_when_loaded(path: Path) -> set[str]:
    """The modules of actorfw that one imports as it is loaded: not what is for type checkers or within functions."""
    found: set[str] = set()

    def visit(statements: list[ast.stmt]) -> None:
        for statement in statements:
            if isinstance(statement, ast.Import):
                found.update(alias.name for alias in statement.names)
            elif isinstance(statement, ast.ImportFrom) and statement.module:
                for alias in statement.names:
                    inner = f"{statement.module}.{alias.name}"
                    found.add(inner if inner in MODULES else statement.module)
            elif isinstance(statement, ast.If) and "TYPE_CHECKING" not in ast.unparse(statement.test):
                visit(statement.body + statement.orelse)
            elif isinstance(statement, (ast.Try, ast.With, ast.ClassDef)):
                visit(statement.body)

    visit(ast.parse(path.read_text(encoding="utf-8")).body)
    return (found & MODULES.keys()) - {"actorfw"}


def test_imports_go_in_no_circle() -> None:
    """So each module can be imported first, whatever `actorfw/__init__.py` imports in which order."""
    sorter = graphlib.TopologicalSorter({name: imported_when_loaded(path) for name, path in MODULES.items()})
    sorter.prepare()  # raises CycleError, which names the circle


def test_every_module_can_be_imported() -> None:
    done = run("-W", "error", "-c", f"import importlib\nfor name in {sorted(MODULES)!r}: importlib.import_module(name)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_import_is_light_and_starts_nothing() -> None:
    program = """
import sys, threading
import actorfw
heavy = {"aiohttp", "rich", "numpy", "cyclopts", "psutil", "multiprocessing"} & set(sys.modules)
print(sorted(heavy), threading.active_count())
"""
    done = run("-W", "error", "-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[] 1\n", "")


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_module_says_what_it_is_for_and_has_a_size_that_can_be_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), f"{path.relative_to(ROOT)} does not say what it is responsible for"
    lines = text.count("\n")
    assert lines <= LONGEST_MODULE, f"{path.relative_to(ROOT)} has {lines} lines: more than a reader takes in"


def needs_a_docstring(thing: object) -> bool:
    kinds = (property, functools.cached_property, classmethod, staticmethod)
    return inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing) or isinstance(thing, kinds)


@pytest.mark.parametrize("name", actorfw.__all__)
def test_a_public_name_is_documented(name: str) -> None:
    thing = getattr(actorfw, name)
    missing = [f"actorfw.{name}"] if needs_a_docstring(thing) and not inspect.getdoc(thing) else []
    if inspect.isclass(thing):
        missing += [
            f"actorfw.{name}.{attribute}"
            for attribute, member in vars(thing).items()
            if not attribute.startswith("_") and needs_a_docstring(member) and not inspect.getdoc(member)
        ]
    assert not missing, f"without a docstring: {', '.join(missing)}"


def test_public_names_are_exported_once_and_every_error_is() -> None:
    assert len(actorfw.__all__) == len(set(actorfw.__all__))
    assert set(actorfw.errors.__all__) <= set(actorfw.__all__)
    assert (PACKAGE / "py.typed").exists()


def test_the_readme_has_its_two_commands_and_an_example_on_the_first_screen() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line for line in readme.splitlines() if line.startswith("python3 -m venv")]
    assert commands == [
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/actorfw demo",
        "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox",
    ]
    assert readme.splitlines().index("actorfw.run(main())                           # [0, 1, 4, 9, 16] and 15") < 30


def test_continuous_integration_runs_the_second_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "README.md" in script.read_text(encoding="utf-8")


def test_every_dependency_is_argued() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    design = (ROOT / "docs" / "explanation" / "design.md").read_text(encoding="utf-8")
    for requirement in project["project"]["dependencies"]:
        name = requirement.split(">")[0].split(";")[0].strip()
        assert f"**{name}**" in design, f"{name} is not argued in docs/explanation/design.md"


def test_every_page_of_the_docs_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert [page for page in sorted(pages) if page not in navigation] == []
