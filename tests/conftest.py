"""Hygiene for every test: what it started has ended when it has.

A test that leaves a task, thread, child process, open descriptor or shared-memory segment behind fails, and is told
what. Where nodes outlive the test, as those of a module's fixture do, they may keep what they need; then the module as
a whole is looked at.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from actorfw.runtime import current

TURNS = 50  # of the loop, for what was told to end to end
JOIN_SECONDS = 2.0  # for a thread that is about to end

PROC = Path("/proc/self")
SHM = Path("/dev/shm")


@dataclass
class Held:
    """What this process holds."""

    threads: set[threading.Thread]
    children: set[int]
    descriptors: Counter[str]
    segments: set[str]
    mapped: int  # memory of nodes
    nodes: list[object]

    @classmethod
    def now(cls) -> Held:
        return cls(
            set(threading.enumerate()), _children(), _descriptors(), _segments(), _mapped(), list(current._of_process)
        )

    def complaints(self, before: Held) -> list[str]:
        """What is here now and was not before."""
        said = [f"thread {thread.name!r} runs" for thread in self.threads - before.threads]
        said += [f"child process {pid} is there: {_command(pid)}" for pid in self.children - before.children]
        said += [
            f"descriptor is open: {what}{f' ({n} of them)' if n > 1 else ''}"
            for what, n in (self.descriptors - before.descriptors).items()
        ]
        said += [f"/dev/shm/{name} is there" for name in self.segments - before.segments]
        if self.mapped > before.mapped:
            said.append(f"shared memory of {self.mapped - before.mapped} nodes is mapped")
        return said


def _children() -> set[int]:
    found: set[int] = set()
    for path in PROC.glob("task/*/children"):
        try:
            found.update(int(pid) for pid in path.read_text().split())
        except OSError:
            pass  # that thread has just ended
    return found


def _command(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
            or "ended, and nobody waited for it"
        )
    except OSError:
        return "gone meanwhile"


def _descriptors() -> Counter[str]:
    found: Counter[str] = Counter()
    for fd in os.listdir(PROC / "fd") if PROC.exists() else ():
        try:
            found[os.readlink(PROC / "fd" / fd)] += 1
        except OSError:
            pass  # that of listdir itself
    return found


def _segments() -> set[str]:
    return {name for name in os.listdir(SHM) if name.startswith("actorfw")} if SHM.exists() else set()


def _mapped() -> int:
    try:
        return (PROC / "maps").read_text().count("/memfd:actorfw")
    except OSError:
        return 0


def _check(before: Held) -> None:
    complaints = Held.now().complaints(before)
    if not complaints:
        return
    # Garbage is no leak, and a thread that has done its work may need a moment to be gone.
    gc.collect()
    for thread in set(threading.enumerate()) - before.threads:
        thread.join(JOIN_SECONDS)
    complaints = Held.now().complaints(before)
    if complaints:
        pytest.fail("left behind:\n  " + "\n  ".join(sorted(complaints)), pytrace=False)


@pytest.fixture(autouse=True, scope="session")
def _what_libraries_open_once() -> None:
    """libuv has one pipe per process, made with the first loop."""
    try:
        import uvloop
    except ImportError:
        return
    uvloop.new_event_loop().close()


@pytest.fixture(autouse=True, scope="module")
def _module_leaves_nothing(_what_libraries_open_once: None) -> Iterator[None]:
    before = Held.now()
    yield
    _check(before)
    gc.collect()  # simulations leave much behind, in heaps that the collector seldom looks at


@pytest.fixture(autouse=True)
def _leaves_nothing(_module_leaves_nothing: None, request: pytest.FixtureRequest) -> Iterator[None]:
    before = Held.now()
    yield
    # The loop of a module stays, with the threads of its executor: what is left behind there the module is asked for.
    if not before.nodes and _loop_scope(request) == "function":
        _check(before)


def _loop_scope(request: pytest.FixtureRequest) -> str:
    marker = request.node.get_closest_marker("asyncio")
    scope: str = marker.kwargs.get("loop_scope", "function") if marker is not None else "function"
    return scope


@pytest.fixture(autouse=True)
def _leaves_no_task(_leaves_nothing: None, request: pytest.FixtureRequest) -> Iterator[None]:
    if _loop_scope(request) != "function" or not inspect.iscoroutinefunction(request.function):
        yield
        return
    runner: asyncio.Runner = request.getfixturevalue("_function_scoped_runner")
    yield
    loop = runner.get_loop()
    for _ in range(TURNS):
        left = asyncio.all_tasks(loop)
        if not left:
            return
        runner.run(asyncio.sleep(0))
    said = "\n  ".join(sorted(repr(task) for task in left))
    pytest.fail(f"tasks left behind:\n  {said}", pytrace=False)


@pytest.fixture
def free_port() -> int:
    """A port of loopback at which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
