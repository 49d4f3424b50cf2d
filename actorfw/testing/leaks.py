"""What a test has left behind: tasks, threads, child processes, descriptors, shared memory.

`Looking` compares what the process holds with what it held before: only what came up in between is spoken of. `Leaks`
is the plugin that does it for the tests with a node or cluster of their own. It looks when all fixtures of the test
have ended, whatever their order; a test that has failed for another reason is not looked at.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import psutil
import pytest

from actorfw.testing.inwords import advice, command_of, is_own_thread, of_child, of_descriptor, of_task, of_thread

__all__ = ["KINDS", "Leaks", "Looking"]

KINDS: Final = ("tasks", "threads", "processes", "descriptors", "memory")
PATIENCE: Final = 1.0
"""Seconds for what is about to end. Only a test that seems to leave something waits for it."""

_TURNS: Final = 50
_FDS: Final = Path("/proc/self/fd") if sys.platform == "linux" else Path("/dev/fd")
_SHM: Final = Path("/dev/shm")
_OWN_NAMES: Final = ("memfd:actorfw", "actorfw_")
_RUNNER_ENDS: Final = asyncio.Runner.close.__code__


@dataclass
class Looking:
    """What this process holds at one moment, tasks apart."""

    threads: set[threading.Thread]
    children: set[int]
    descriptors: Counter[str]
    segments: set[str]
    mapped: int

    @classmethod
    def now(cls) -> Looking:
        return cls(set(threading.enumerate()), _children(), Counter(_descriptors().values()), _segments(), _mapped())

    def check(
        self,
        who: str,
        kinds: Iterable[str] = KINDS,
        *,
        own: bool = False,
        pools: bool = True,
        more: Iterable[str] = (),
    ) -> None:
        """Fail if there is more now than there was then.

        Args:
            who: was at work in between.
            kinds: of `KINDS`, what to look for.
            own: look for what is actorfw's only.
            pools: the default executors of loops are to be gone too.
            more: further complaints.
        """
        kinds = set(kinds)
        complaints = self._complaints(kinds, own, pools)
        pause, waited = 0.01, 0.0
        while complaints and waited < PATIENCE:
            if pause < 0.03 or 2 * pause + waited >= PATIENCE:
                gc.collect()  # garbage is no leak, and takes long to look for
            complaints = self._complaints(kinds, own, pools)
            if complaints:
                time.sleep(pause)
                pause, waited = 2 * pause, waited + pause
        complaints = [*more, *complaints]
        if complaints:
            pytest.fail(f"{who} left behind:\n  " + "\n  ".join(complaints) + advice(), pytrace=False)

    def _complaints(self, kinds: set[str], own: bool, pools: bool) -> list[str]:
        now = Looking.now()
        said: list[str] = []
        if "threads" in kinds:
            threads = sorted(now.threads - self.threads, key=lambda thread: thread.name)
            said += [
                of_thread(thread)
                for thread in threads
                if thread.is_alive()
                and (not own or is_own_thread(thread))
                and (pools or not thread.name.startswith("asyncio_"))
            ]
        if "processes" in kinds:
            children = {pid: command_of(pid) for pid in sorted(now.children - self.children)}
            said += [of_child(pid, line) for pid, line in children.items() if not own or "actorfw" in line]
        if "descriptors" in kinds:
            left = now.descriptors - self.descriptors
            for fd, what in _descriptors().items():
                if left[what] > 0 and (not own or any(name in what for name in _OWN_NAMES)):
                    left[what] -= 1
                    said.append(of_descriptor(fd, what))
        if "memory" in kinds:
            said += [f"shared memory /dev/shm/{name}" for name in sorted(now.segments - self.segments)]
            if now.mapped > self.mapped:
                said.append(
                    f"shared memory of {now.mapped - self.mapped} nodes is mapped: an array or another view of a value"
                    " that lay there is still referred to"
                )
        return said


@dataclass(eq=False)
class _Test:
    """One test that is looked at."""

    kinds: frozenset[str]
    alone: bool
    before: Looking | None = None
    failed: bool = False
    loop: asyncio.AbstractEventLoop | None = None
    own_loop: bool = True
    tasks_before: set[asyncio.Task[Any]] = field(default_factory=set)
    tasks_left: dict[asyncio.Task[Any], str] = field(default_factory=dict)
    tasks_cut_off: list[str] = field(default_factory=list)


class Leaks:
    """Looks after tests that have a node of their own; registered when the first one comes.

    Attributes:
        options: of the node or cluster, by test.
    """

    def __init__(self) -> None:
        self.options: dict[pytest.Item, dict[str, Any]] = {}
        self._tests: dict[pytest.Item, _Test] = {}
        _open_what_stays()

    def expect(self, item: pytest.Item, kinds: object, *, beside_others: bool) -> None:
        """A test is about to get its node.

        Args:
            item: the test.
            kinds: what to look for, as the marker or the setting says it.
            beside_others: nodes of the session are up too, and may open things or start processes at any time.
        """
        chosen = _chosen(kinds)
        self._tests[item] = _Test(chosen & {"tasks", "threads"} if beside_others else chosen, not beside_others)

    def begin(self, item: pytest.Item, loop: asyncio.AbstractEventLoop | None = None, *, own_loop: bool = True) -> None:
        """From here on what comes up is the test's.

        Args:
            item: the test.
            loop: on which it runs.
            own_loop: the loop ends with the test.
        """
        test = self._tests[item]
        test.loop, test.own_loop = loop, own_loop
        if loop is not None:
            test.tasks_before = asyncio.all_tasks(loop)
        if test.kinds:
            test.before = Looking.now()

    def ended(self, item: pytest.Item) -> None:
        """The node of a test has ended on its loop. Other fixtures may be about to end tasks of theirs."""
        test = self._tests[item]
        if "tasks" not in test.kinds:
            return

        def done(task: asyncio.Task[Any]) -> None:
            said = test.tasks_left.pop(task)
            frame: FrameType | None = sys._getframe()
            while frame is not None and frame.f_code is not _RUNNER_ENDS:
                frame = frame.f_back
            if frame is not None:  # nobody has ended it before its loop was closed
                test.tasks_cut_off.append(said)

        for task in asyncio.all_tasks(test.loop) - test.tasks_before:
            if task is not asyncio.current_task(test.loop):
                test.tasks_left[task] = of_task(task)
                task.add_done_callback(done)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        report = yield
        if report.failed and item in self._tests:
            self._tests[item].failed = True
        return report

    @pytest.hookimpl(wrapper=True, trylast=True)  # what pytest itself opens around it is in place
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        try:
            result = yield
        finally:
            self.options.pop(item, None)
            test = self._tests.pop(item, None)
        if test is not None and test.before is not None and not test.failed:
            test.before.check(item.name, test.kinds, pools=test.own_loop and test.alone, more=_tasks(test))
        return result


def _tasks(test: _Test) -> list[str]:
    loop = test.loop
    if loop is not None and not loop.is_closed():
        for _ in range(_TURNS):  # for what was told to end to end
            if not test.tasks_left:
                break
            loop.run_until_complete(asyncio.sleep(0))
    return sorted([*test.tasks_cut_off, *test.tasks_left.values()])


def _chosen(kinds: object) -> frozenset[str]:
    if kinds is True or kinds == "all":
        return frozenset(KINDS)
    if kinds is False or kinds == "none":
        return frozenset()
    words = kinds.replace(",", " ").split() if isinstance(kinds, str) else kinds
    if isinstance(words, list | tuple | set | frozenset) and words and all(word in KINDS for word in words):
        return frozenset(str(word) for word in words)
    pytest.fail(f"actorfw's leaks are {kinds!r}; they must be all, none, or some of {', '.join(KINDS)}", pytrace=False)


def _open_what_stays() -> None:
    """libuv has one pipe per process, made with the first loop: it would be taken for the first test's."""
    if "uvloop" in sys.modules:
        sys.modules["uvloop"].new_event_loop().close()


def _children() -> set[int]:
    found: set[int] = set()
    lists = list(Path("/proc/self/task").glob("*/children"))
    if not lists:  # no Linux, or a kernel without them
        return {child.pid for child in psutil.Process().children()}
    for path in lists:
        try:
            found.update(int(pid) for pid in path.read_text().split())
        except OSError:
            pass  # that thread has just ended
    return found


def _descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    for name in os.listdir(_FDS) if _FDS.exists() else ():
        if name in ("0", "1", "2"):
            continue  # what they are changes as pytest captures
        try:
            found[int(name)] = os.readlink(_FDS / name) if _FDS.parts[1] == "proc" else _identity(int(name))
        except OSError:
            pass  # that of listdir itself
    return found


def _identity(fd: int) -> str:
    stat = os.fstat(fd)
    return f"{stat.st_mode:o}:{stat.st_dev}:{stat.st_ino}"


def _segments() -> set[str]:
    return {name for name in os.listdir(_SHM) if name.startswith("actorfw")} if _SHM.exists() else set()


def _mapped() -> int:
    try:
        return Path("/proc/self/maps").read_text().count("/memfd:actorfw")
    except OSError:
        return 0
