"""Every Python block of README and docs runs, and prints what the page says it prints; how, says `doc_blocks.py`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doc_blocks import Block, blocks_of

ROOT = Path(__file__).resolve().parent.parent

PAGES = [
    str(path.relative_to(ROOT))
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    if blocks_of(path.read_text(encoding="utf-8"))
]


@pytest.mark.real
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "tests/doc_blocks.py", page],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{done.stdout}\n{done.stderr}"
    assert done.stdout.endswith("blocks\n")


def test_blocks_are_found_with_their_output_and_reasons() -> None:
    page = "\n".join(
        [
            "```python",
            "print(1)",
            "```",
            "",
            '```text title="output"',
            "1",
            "```",
            "<!-- not run: needs a second machine -->",
            "```python",
            "raise SystemExit",
            "```",
            "```sh",
            "exit 1",
            "```",
            "- in a list",
            "",
            "    ```python",
            "    await x",
            "    ```",
            "",
        ]
    )
    assert blocks_of(page) == [Block(2, "print(1)\n", "1\n"), Block(18, "await x\n")]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_beside_the_docs_lead_somewhere(page: str) -> None:
    """Those within the docs are mkdocs's to check."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert [target for target in targets if not (ROOT / target).exists()] == []
