"""The commands together, and running one of them. Data goes to stdout, all else to stderr."""

from __future__ import annotations

from collections.abc import Sequence

import cyclopts

import actorfw
from actorfw.cli import acting, listings, making
from actorfw.cli.doctor import doctor
from actorfw.cli.exits import status_of
from actorfw.cli.start import start
from actorfw.cli.top import top

__all__ = ["app", "execute"]

app = cyclopts.App(
    name="actorfw",
    help="Distributed tasks, actors and object refs. Exit status: 0 success, 1 the work failed, 2 wrong usage, "
    "3 no cluster reached, 4 not allowed.",
    help_flags=["--help", "-h"],
    version=actorfw.__version__,
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # it has its message and status here
)
for command in (
    making.demo,
    start,
    listings.status,
    listings.nodes,
    listings.actors,
    listings.tasks,
    listings.objects,
    listings.events,
    top,
    acting.drain,
    acting.kill,
    acting.cancel,
    doctor,
    making.secret,
    making.completion,
):
    app.command(command)
app.register_install_completion_command(help="Install completion of commands and options for your shell.")


def execute(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status."""
    return status_of(lambda: app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value"))
