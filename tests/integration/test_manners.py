"""What a node leaves alone in its host's process: signals, loop policy, logging, excepthook, gc, executors, output."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from typing import Any

import pytest

import actorfw

pytestmark = pytest.mark.real


@actorfw.remote
def square(x: int) -> int:
    return x * x


class Counter(actorfw.Actor):
    def __init__(self) -> None:
        self.n = 0

    @actorfw.method
    def add(self, k: int) -> int:
        self.n += k
        return self.n


def manners() -> dict[str, Any]:
    """All that belongs to the host."""
    policy = asyncio.events._event_loop_policy
    return {
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "wakeup descriptor": _wakeup_descriptor(),
        "loop policy": policy,
        "root logger": (
            logging.root.level,
            list(logging.root.handlers),
            list(logging.root.filters),
            logging.raiseExceptions,
        ),
        "our loggers": [
            (name, logger.level, list(logger.handlers), logger.propagate)
            for name, logger in sorted(logging.root.manager.loggerDict.items())
            if name.startswith("actorfw") and isinstance(logger, logging.Logger) and (logger.level or logger.handlers)
        ],
        "excepthooks": (sys.excepthook, sys.unraisablehook, threading.excepthook),
        "gc": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), list(gc.callbacks)),
        "streams": (sys.stdout, sys.stderr, sys.stdin),
        "warnings": list(warnings.filters),
        "working folder": os.getcwd(),
        "umask": _umask(),
        "random": random.getstate(),
        "recursion limit": sys.getrecursionlimit(),
        "path": list(sys.path),
        "environment": dict(os.environ),
        "switch interval": sys.getswitchinterval(),
        "asyncio debug": sys.flags.dev_mode,
    }


def _wakeup_descriptor() -> int:
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return fd


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


async def work() -> None:
    assert await asyncio.gather(*(square.remote(n) for n in range(3))) == [0, 1, 4]
    counter = Counter.remote()
    assert await counter.add.remote(2) == 2
    assert await square.options(executor="thread").remote(3) == 9


async def test_in_async_code(capfd: pytest.CaptureFixture[str]) -> None:
    loop = asyncio.get_running_loop()
    loop_settings = (loop.get_exception_handler(), loop.get_task_factory(), loop.get_debug())
    before = manners()
    async with actorfw.init(num_cpus=1):
        assert manners() == before
        await work()
        assert manners() == before
        assert (loop.get_exception_handler(), loop.get_task_factory(), loop.get_debug()) == loop_settings
    async with actorfw.LocalCluster(nodes=1, num_cpus=1, driver_cpus=0):
        await work()
        assert manners() == before
    assert manners() == before
    assert loop._default_executor is None  # type: ignore[attr-defined]
    assert capfd.readouterr() == ("", "")


def test_in_a_script(capfd: pytest.CaptureFixture[str]) -> None:
    before = manners()
    with actorfw.init(num_cpus=1):
        assert manners() == before
        assert actorfw.get([square.remote(n) for n in range(3)]) == [0, 1, 4]
        assert manners() == before
    assert manners() == before
    assert capfd.readouterr() == ("", "")


def test_names_are_looked_up_without_the_loops_executor() -> None:
    async def main() -> None:
        async with actorfw.Node(num_cpus=0, listen="localhost:0") as first:
            port = first.address.rpartition(":")[2]
            async with actorfw.Node(seeds=f"localhost:{port}", num_cpus=0):
                assert len(await actorfw.nodes()) == 2
        assert asyncio.get_running_loop()._default_executor is None  # type: ignore[attr-defined]

    asyncio.run(main())


def test_ctrl_c_is_the_hosts() -> None:
    program = textwrap.dedent("""
        import actorfw, os, signal, time

        @actorfw.remote
        def square(x):
            return x * x

        with actorfw.init(num_cpus=1):
            actorfw.get(square.remote(2))
            try:
                os.killpg(0, signal.SIGINT)
                time.sleep(30)
            except KeyboardInterrupt:
                print("interrupted")
            print(actorfw.get(square.remote(3)))
    """)
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=40,
        start_new_session=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n9\n", "")
