"""Commands that need no cluster: `demo` has its own, `secret` makes a secret, `completion` a script for a shell."""

from __future__ import annotations

import json
import os
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

from actorfw.cli import tables
from actorfw.cli.exits import FAILED, OK, say
from actorfw.cli.options import Json
from actorfw.io.secrets import make_secret_text
from actorfw.values.errors import UsageError

__all__ = ["completion", "demo", "secret"]


def demo(
    *,
    peers: Annotated[int, Parameter(help="How many peers to start.")] = 3,
    path: Annotated[
        str | None, Parameter(help="Folder whose .py files are read. [default: the standard library]")
    ] = None,
    keep: Annotated[bool, Parameter(negative=(), help="Leave the cluster up until Ctrl-C.")] = False,
    as_json: Json = False,
) -> int:
    """Count the words of the standard library on some peers, kill one half-way, and check the totals."""
    from actorfw.demo import main

    return OK if main(tables.table, peers=peers, path=path, as_json=as_json, keep=keep) else FAILED


def secret(
    *,
    file: Annotated[
        str | None, Parameter(help="Write it there, for you alone to read; never over a file that is there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a new secret for a cluster. Prints it, or with --file where it is.

    Whoever knows it can run code on every node: give it to each of them as --secret-file or ACTORFW_SECRET_FILE.
    """
    made = make_secret_text()
    if file is None:
        print(json.dumps({"secret": made}) if as_json else made)
        return
    path = os.path.abspath(file)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except FileExistsError:
        raise UsageError(
            f"{path} is there already, and a secret that is in use must not be lost: name another file"
        ) from (None)
    except OSError as error:
        raise UsageError(
            f"{path} can't be made: {error.strerror}. Name a file in a folder that you may write to"
        ) from (error)
    with os.fdopen(fd, "w", encoding="ascii") as out:
        out.write(made + "\n")
    print(json.dumps({"file": path}) if as_json else path)
    say(f"copy it to each node, and start them with --secret-file or ACTORFW_SECRET_FILE={path}")


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the script that completes commands and options in a shell.

    For this session: eval "$(actorfw completion bash)". For all: actorfw --install-completion.
    """
    from actorfw.cli.app import app

    try:
        print(app.generate_completion(shell=shell))
    except cyclopts.CycloptsError as error:
        raise UsageError(str(error)) from error
