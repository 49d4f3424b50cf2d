"""The threat model names tests, and those exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/explanation/threat-model.md"


def named() -> list[tuple[str, str]]:
    """(file, test or "") of each test that the page names; `…` is the file that was named before."""
    found: list[tuple[str, str]] = []
    file = ""
    for path, test in re.findall(r"`(tests/[\w/]+\.py|…)(?:::(\w+))?`", PAGE.read_text()):
        file = file if path == "…" else path
        found.append((file, test))
    return found


def test_each_test_that_is_named_exists() -> None:
    rows = named()
    assert len(rows) > 30
    for file, test in rows:
        source = (ROOT / file).read_text()
        assert not test or re.search(rf"^(async )?def {test}\(", source, re.MULTILINE), (file, test)
