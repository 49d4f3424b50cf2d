"""The Python blocks of a Markdown page: found, run, and their output compared with what the page says.

The blocks of a page run in order, in one process of their own, and share their names. `await` may stand at the top
level, as at the prompt of `python -m asyncio`. A block is followed by what it prints, if that matters, in a block
```` ```text title="output" ````. A block that can't be run is preceded by `<!-- not run: reason -->`.

`python tests/doc_blocks.py PAGE` runs one page. What the pages are, and that all of them run, is `test_docs.py`.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import linecache
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>```+) *(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=indent)(?P=ticks) *$", re.M | re.S
)
NOT_RUN = re.compile(r"<!-- not run: \S.*?-->\s*\Z", re.S)


@dataclass
class Block:
    """One block of code: where it stands, and what it has to print (None: that is not said)."""

    line: int
    code: str
    output: str | None = None


def blocks_of(text: str) -> list[Block]:
    """The blocks of a page that are to be run."""
    blocks: list[Block] = []
    previous_end, previous = 0, False
    for fence in FENCE.finditer(text):
        between = text[previous_end : fence.start()]
        info, indent = fence["info"].strip(), len(fence["indent"])
        body = "".join(line[indent:] if line.strip() else line for line in fence["body"].splitlines(keepends=True))
        runs = info.split(" ")[0] == "python" and not NOT_RUN.search(between)
        if runs:
            blocks.append(Block(text.count("\n", 0, fence.start("body")) + 1, body))
        elif info == 'text title="output"':
            if between.strip() or not previous:
                raise ValueError(f"the output {body!r} follows no block that is run")
            blocks[-1].output = body
        previous_end, previous = fence.end(), runs
    return blocks


def compiled(page: str, text: str, block: Block) -> CodeType:
    """The block as code whose tracebacks show the page's lines."""
    linecache.cache[page] = (len(text), None, text.splitlines(keepends=True), page)
    tree = ast.parse("\n" * (block.line - 1) + block.code, page)
    return compile(tree, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def run_page(page: str) -> int:
    """Run the blocks of one page; returns how many."""
    text = Path(page).read_text(encoding="utf-8")
    # Warnings in actorfw's log are for programs to configure; errors there are for this test to see.
    errors = logging.StreamHandler()
    errors.setLevel(logging.ERROR)
    logging.getLogger("actorfw").addHandler(errors)
    # Not this module's own names: what a block defines must travel by value, as from any script or prompt.
    names: dict[str, Any] = {"__name__": "__main__"}
    blocks = blocks_of(text)
    with asyncio.Runner() as runner:
        for block in blocks:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                code = compiled(page, text, block)
                if code.co_flags & inspect.CO_COROUTINE:
                    runner.run(eval(code, names))
                else:
                    exec(code, names)
            if block.output is not None and printed.getvalue() != block.output:
                raise AssertionError(
                    f"{page}:{block.line} printed\n{printed.getvalue()}\nand the page says\n{block.output}"
                )
    return len(blocks)


if __name__ == "__main__":
    print(run_page(sys.argv[1]), "blocks")
