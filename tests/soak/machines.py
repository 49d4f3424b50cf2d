"""Machines on one machine: network namespaces on a switch, whose cables can be pulled.

Needs Linux, root and the command `ip`; `why_not` says what is missing. Everything has a name of its own with this
process's id in it, and is gone when the block is left.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Switch", "switch", "why_not"]

_NUMBERS = itertools.count()


def _ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True, capture_output=True, timeout=30)


def why_not() -> str:
    """Why no namespaces can be made here; empty if they can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "needs root and the command ip, to make network namespaces"
    probe = f"afw{os.getpid()}probe"
    made = subprocess.run(["ip", "netns", "add", probe], check=False, capture_output=True, text=True, timeout=30)
    if made.returncode:
        return f"no network namespace can be made here: {made.stderr.strip()}"
    _ip("netns", "del", probe)
    return ""


class Switch:
    """Some machines, each with a cable to the switch. Machine k has the address 10.253.0.k+1.

    Attributes:
        names: of the machines' namespaces.
    """

    def __init__(self, machines: int) -> None:
        self.stem = f"afw{os.getpid()}n{next(_NUMBERS)}"
        self.names = [f"{self.stem}m{number}" for number in range(machines)]

    def address(self, machine: int) -> str:
        return f"10.253.0.{machine + 1}"

    def within(self, machine: int, *command: str) -> list[str]:
        """A command, to be run on a machine."""
        return ["ip", "netns", "exec", self.names[machine], *command]

    def pull(self, machine: int) -> None:
        """Pull its cable at the switch: nobody is told, and nothing gets through."""
        _ip("-n", self.stem, "link", "set", f"port{machine}", "down")

    def plug(self, machine: int) -> None:
        """Put it back."""
        _ip("-n", self.stem, "link", "set", f"port{machine}", "up")

    def _build(self) -> None:
        _ip("netns", "add", self.stem)
        _ip("-n", self.stem, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self.stem, "link", "set", "bridge", "up")
        for number, name in enumerate(self.names):
            port = f"port{number}"
            _ip("netns", "add", name)
            _ip("-n", self.stem, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", self.stem, "link", "set", port, "master", "bridge", "up")
            _ip("-n", name, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "eth0", "up")

    def _tear_down(self) -> None:
        for name in (*self.names, self.stem):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=30)


@contextmanager
def switch(machines: int) -> Iterator[Switch]:
    """A switch with machines on it, while the block runs; processes on them have to end before it does."""
    made = Switch(machines)
    try:
        made._build()
        yield made
    finally:
        made._tear_down()
