"""A loop that stands still is logged with the line, once, and again when it turns; one that turns or idles is not."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from actorfw.runtime.loopwatch import LoopWatch

pytestmark = pytest.mark.real

AFTER = 0.2

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


def hang(seconds: float) -> None:
    time.sleep(seconds)


def run(loop_factory: Any, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def watched() -> None:
        watch = LoopWatch(AFTER, "node x")
        watch.start()
        try:
            await main()
        finally:
            watch.stop()
        assert not any(thread.name == "actorfw-loop-watch" for thread in threading.enumerate())

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(watched())


async def until_said(caplog: pytest.LogCaptureFixture, count: int) -> list[str]:
    async with asyncio.timeout(10):
        while len(caplog.messages) < count:
            await asyncio.sleep(0.01)
    return caplog.messages


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_a_stall_is_told_once_and_again_at_its_end(loop_factory: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "actorfw.loop")

    async def main() -> None:
        await asyncio.sleep(0.1)
        assert caplog.messages == []
        hang(3 * AFTER)
        first, last = await until_said(caplog, 2)
        assert "the event loop of node x has not turned for 0." in first
        assert f" s at {__file__}:" in first
        assert first.endswith("in hang: time.sleep(seconds)")
        assert "turns again after about 0." in last
        assert last.endswith("in hang: time.sleep(seconds)")
        caplog.clear()
        hang(1.5 * AFTER)
        assert len(await until_said(caplog, 2)) == 2

    run(loop_factory, main)


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_a_busy_and_an_idle_loop_are_not_stalls(loop_factory: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "actorfw.loop")

    async def main() -> None:
        await asyncio.sleep(2 * AFTER)
        end = time.monotonic() + 2 * AFTER
        while time.monotonic() < end:
            hang(AFTER / 20)
            await asyncio.sleep(0)

    run(loop_factory, main)
    assert caplog.messages == []


def test_a_stall_without_the_interpreters_lock_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    """The thread that would look can't run before it is over, and finds its line all the same."""
    caplog.set_level(logging.WARNING, "actorfw.loop")

    async def main() -> None:
        await asyncio.sleep(0.1)
        number = 10**90_000  # no other thread gets a turn while it is made a text
        sys.set_int_max_str_digits(0)
        end = time.monotonic() + 3 * AFTER
        while time.monotonic() < end:
            str(number)
        sys.set_int_max_str_digits(4300)
        said = await until_said(caplog, 2)
        assert "in main:" in said[0]

    run(None, main)


def test_a_process_that_was_stopped_blames_no_line() -> None:
    """It is the whole process that stood still."""
    program = """
        import asyncio, sys, logging
        from actorfw.runtime.loopwatch import LoopWatch
        logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
        async def main():
            watch = LoopWatch(0.2, "node x")
            watch.start()
            await asyncio.sleep(0.1)
            print("up", flush=True)
            await asyncio.to_thread(sys.stdin.read)
            watch.stop()
        asyncio.run(main())
    """
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(0.6)
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.3)
        assert process.communicate(b"")[0] == b""
        assert process.returncode == 0


def test_a_loop_that_is_stopped_in_a_stall_ends_its_watch(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "actorfw.loop")

    async def main() -> None:
        await asyncio.sleep(0.1)
        hang(2 * AFTER)

    run(None, main)
    assert len(caplog.messages) == 1
