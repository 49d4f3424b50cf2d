"""`Surroundings`: the variables, the folder and the modules that a worker process has.

A worker is told once, before its first task, what its environment is; it has that to its end, and what it submits
inherits it. Leaves to others: making
it (`runtime.environments`), and which tasks run in it (`runtime.pool`).
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from actorfw.runtime.runtimeenv import Resolver
from actorfw.values.environment import Environment

if TYPE_CHECKING:
    from actorfw.io.packages import PackageFiles

__all__ = ["Surroundings"]


class Surroundings:
    """What one worker process finds around it.

    Attributes:
        keeps_folder: whether it works in a folder of its own, and not in its submitter's.
        resolver: what it submits is resolved with.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._variables = dict(os.environ)
        self._born_with = self._variables  # where packages lie does not follow from what a task is given
        self._limit, self._cache = settings.get("packages", (0, 0))
        self.keeps_folder = False
        self.resolver = Resolver(self._files, self._limit, time.monotonic)

    def _files(self) -> PackageFiles:
        from actorfw.io.packages import LocalPackages, cache_folder  # few tasks submit with an environment of their own

        return LocalPackages(cache_folder(self._born_with), self._cache)

    def enter(self, message: list[Any]) -> None:
        """The node says what the environment is."""
        _, wire, folder, entries = message
        environment = self.resolver.inherited = Environment.from_wire(wire)
        given = dict(environment.env_vars)
        os.environ.update(given)
        self._variables = {**self._variables, **given}
        if "TZ" in given and hasattr(time, "tzset"):
            time.tzset()
        if folder:
            os.chdir(folder)
            self.keeps_folder = True
            entries = [folder, *entries]
        sys.path[:0] = entries

    def restore(self, name: str) -> None:
        """Undo what a task's own setting of a variable was."""
        value = self._variables.get(name)
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
