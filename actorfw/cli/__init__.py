"""The command `actorfw`: arguments in, an exit status out. The commands are in `cli.app`, loaded to run one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its status.

    Args:
        arguments: default: those of the process.
    """
    _fill_descriptors()
    try:
        from actorfw.cli.app import execute  # the parser of the command line takes longer to load than all the rest
    except KeyboardInterrupt:
        print("actorfw: interrupted", file=sys.stderr, flush=True)
        sys.exit(130)  # as `cli.exits` has it, which may be what was not loaded
    sys.exit(execute(sys.argv[1:] if arguments is None else arguments))


def _fill_descriptors() -> None:
    """Whoever starts a command may have closed its stdin, stdout or stderr: `actorfw start <&- >&-`.

    A socket would get that number then, which others take for the stream; uvloop aborts the process when it closes one.
    And what Python has found closed is None, which nobody can write to.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115  (to the end)
            setattr(sys, name, stream)
