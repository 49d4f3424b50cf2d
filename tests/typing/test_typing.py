"""What users are told about types: checkers accept `usage_ok.py` and reject just the marked lines of `usage_bad.py`."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OK, BAD = HERE / "usage_ok.py", HERE / "usage_bad.py"

Errors = dict[Path, dict[int, str]]


def run(*command: str | Path) -> str:
    """What a checker prints on standard output; it ends with 1 where it found something."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy(cache: Path) -> Errors:
    """The errors of mypy --strict, by file and line."""
    options = ("--strict", "--no-error-summary", "--show-absolute-path", "--hide-error-context", "--no-pretty")
    out = run("mypy", *options, "--cache-dir", cache, OK, BAD)
    errors: Errors = {OK: {}, BAD: {}}
    for file, line, text in re.findall(r"^(.+?):(\d+): error: (.*)$", out, re.MULTILINE):
        errors.setdefault(Path(file), {})[int(line)] = text
    return errors


def pyright(_: Path) -> Errors:
    """The errors of pyright in the strict mode that pyproject.toml sets, by file and line."""
    out = run("pyright", "--outputjson", "--pythonpath", sys.executable, OK, BAD)
    errors: Errors = {OK: {}, BAD: {}}
    for found in json.loads(out)["generalDiagnostics"]:
        errors.setdefault(Path(found["file"]), {})[found["range"]["start"]["line"] + 1] = found["message"]
    return errors


@pytest.fixture(scope="module", params=[mypy, pyright], ids=["mypy", "pyright"])
def errors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Errors:
    if importlib.util.find_spec(request.param.__name__) is None:
        pytest.skip(f"{request.param.__name__} is not installed here: `nox -s types` runs this")
    found: Errors = request.param(tmp_path_factory.mktemp("checked"))
    return found


@pytest.mark.timeout(300)
def test_what_is_right_is_accepted(errors: Errors) -> None:
    assert errors[OK] == {}


@pytest.mark.timeout(300)
def test_what_is_wrong_is_rejected_where_it_stands(errors: Errors) -> None:
    lines = BAD.read_text(encoding="utf-8").splitlines()
    marked = {number for number, line in enumerate(lines, 1) if re.search(r"# E(:|$)", line)}
    missed = {number: lines[number - 1].strip() for number in sorted(marked - errors[BAD].keys())}
    unwanted = {number: text for number, text in sorted(errors[BAD].items()) if number not in marked}
    assert missed == {}
    assert unwanted == {}
