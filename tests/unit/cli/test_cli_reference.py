"""The page about the command line names every command and every option, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from actorfw.cli.app import app
from actorfw.runtime.rows import TASK_STATES

PAGE = (Path(__file__).resolve().parents[3] / "docs/reference/cli.md").read_text(encoding="utf-8")
COMMANDS = sorted(name for name in app if not name.startswith("-"))
SECTIONS = dict(re.findall(r"^### `actorfw ([\w-]+)`\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL))
SHARED = PAGE[PAGE.index("## Which cluster") : PAGE.index("## Running a node")]


def options(command: str) -> set[str]:
    return {name for found in app[command].assemble_argument_collection() if found.show for name in found.names}


def test_every_command_has_a_section() -> None:
    assert sorted(SECTIONS) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_explained(command: str) -> None:
    said = set(re.findall(r"--[a-z][a-z-]*|\b[A-Z]{4,}\b", SECTIONS[command]))
    known = options(command)
    assert known - said - set(re.findall(r"--[a-z-]+", SHARED)) == set()
    assert {word for word in said if word.startswith("--")} - known == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_has_a_help_text(command: str) -> None:
    assert app[command].help
    for found in app[command].assemble_argument_collection():
        assert not found.show or found.parameter.help or command == "completion", found.names


def test_every_state_of_a_task_is_explained() -> None:
    for state in TASK_STATES:
        assert f"| `{state}` |" in SECTIONS["tasks"]
