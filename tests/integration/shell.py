"""The command line as a user has it: commands as processes, in a world with no other nodes of this user."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SECRET = "a secret of this test's own"


def environment(folder: Path | str, **more: str) -> dict[str, str]:
    """That of a user whose nodes meet in this folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ACTORFW_")}
    return {**kept, "XDG_RUNTIME_DIR": str(folder), "ACTORFW_SECRET": SECRET, "COLUMNS": "120", **more}


def command(folder: Path | str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "actorfw", *arguments],
        stdin=subprocess.DEVNULL,
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        timeout=50,
    )


class Started:
    """`actorfw start …` in a process."""

    def __init__(self, folder: Path | str, *arguments: str, cpus: float = 1, **more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "actorfw", "start", "--num-cpus", str(cpus), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(folder, **more),
            text=True,
        )
        self.address = ""

    def up(self) -> Started:
        """Wait until it is."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], 30)
        self.address = self.process.stdout.readline().strip() if readable else ""
        if not self.address:
            self.process.kill()
            pytest.fail(f"it did not start: {self.process.communicate()[1]}")
        return self

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        try:
            out, err = self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode, out, err


def new_folder() -> str:
    """Short, for nodes to meet in."""
    return tempfile.mkdtemp(prefix="afw")
