"""The command `actorfw`: arguments in, an exit status out. The commands are in `cli.commands`, loaded to run one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its status.

    Args:
        arguments: default: those of the process.
    """
    from actorfw.cli.commands import execute  # the parser of the command line takes longer to load than all the rest

    sys.exit(execute(sys.argv[1:] if arguments is None else arguments))
