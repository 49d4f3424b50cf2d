"""Calls that wait long behind another one of their actor: the log says behind which, and where that hangs."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import actorfw
from actorfw.runtime import heldup

pytestmark = pytest.mark.real

LOG = "actorfw.actors"


class Door(actorfw.Actor):
    """All `def`, so that it runs where it is told to."""

    def __init__(self) -> None:
        self.open = False
        self.in_it = False

    @actorfw.method(interleave=True)
    def let_go(self) -> None:
        self.open = True

    @actorfw.method(interleave=True)
    def hangs(self) -> bool:
        return self.in_it

    def hang(self) -> str:
        return self._hang()

    def _hang(self) -> str:
        until = time.monotonic() + 60
        self.in_it = True
        while not self.open and time.monotonic() < until:
            time.sleep(0.01)  # hangs
        return "hung"

    def ask(self, other: Any) -> Any:
        return actorfw.get(other.hang())  # asks

    def items(self) -> Iterator[str]:
        yield "one"
        yield self._hang()

    def quick(self) -> str:
        return "done"


class Serial(actorfw.Actor):
    """One call at a time: nobody can let it go, so it hangs for a while."""

    def hang(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.01)  # sleeps

    def items(self, seconds: float, mark: Path) -> Iterator[int]:
        yield 1
        mark.touch()
        self.hang(seconds)
        yield 2

    def quick(self) -> str:
        return "done"


class Awaiting(actorfw.Actor):
    def __init__(self) -> None:
        self.event: asyncio.Event | None = None

    @actorfw.method(interleave=True)
    async def let_go(self) -> None:
        assert self.event is not None
        self.event.set()

    @actorfw.method(interleave=True)
    async def hangs(self) -> bool:
        return self.event is not None

    async def hang(self) -> str:
        self.event = asyncio.Event()
        await self.event.wait()  # awaits
        return "hung"

    async def block(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  # blocks

    async def items(self) -> AsyncIterator[str]:
        yield "one"
        yield await self.hang()

    async def quick(self) -> str:
        return "done"


def line_of(comment: str) -> int:
    with open(__file__, encoding="utf-8") as file:
        return next(number for number, line in enumerate(file, 1) if line.rstrip().endswith(f"# {comment}"))


class Log(logging.Handler):
    """What the log says, for tests that wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.came = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self.came.set()

    async def text(self) -> str:
        await asyncio.wait_for(self.came.wait(), 30)
        return self.texts[-1]


@pytest_asyncio.fixture
async def node() -> AsyncIterator[actorfw.Node]:
    async with actorfw.init(num_cpus=1) as running:
        yield running


@pytest_asyncio.fixture
async def log(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Log]:
    monkeypatch.setattr(heldup, "HELD_UP", 1.0)
    monkeypatch.setattr("actorfw.runtime.grouped.HELD_UP", 1.0)
    handler = Log()
    logger = logging.getLogger(LOG)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


async def held_up(log: Log, actor: Any, hanging: Any) -> str:
    """Let calls wait behind one that hangs, and return what the log says, which it says once."""
    while not await actor.hangs():
        pass
    waiting = [actor.quick.remote() for _ in range(2)]
    text = await log.text()
    await actor.let_go()
    assert await hanging == "hung"
    assert await asyncio.gather(*waiting) == ["done", "done"]
    assert log.texts == [text]
    return text


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_a_def_method_in_a_thread(node: actorfw.Node, log: Log, executor: str) -> None:
    door = Door.options(executor=executor).remote()
    text = await held_up(log, door, door.hang.remote())
    assert "2 calls have waited 1 s behind hang, which hangs at" in text
    assert f"in _hang ({__file__}:{line_of('hangs')})" in text or f":{line_of('hangs') - 1})" in text


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_a_generator_in_a_thread(node: actorfw.Node, log: Log, executor: str) -> None:
    door = Door.options(executor=executor).remote()
    items = door.items.remote()
    assert await anext(items) == "one"
    text = await held_up(log, door, asyncio.ensure_future(anext(items)))
    assert "2 calls have waited 1 s behind items, which hangs at" in text
    assert "in _hang" in text
    await items.aclose()


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_a_coroutine_on_a_loop_of_its_own(node: actorfw.Node, log: Log, executor: str) -> None:
    actor = Awaiting.options(executor=executor).remote()
    text = await held_up(log, actor, actor.hang.remote())
    assert f"2 calls have waited 1 s behind hang, which hangs at {__file__}:{line_of('awaits')}" in text


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_an_async_generator_on_a_loop_of_its_own(node: actorfw.Node, log: Log, executor: str) -> None:
    actor = Awaiting.options(executor=executor).remote()
    items = actor.items.remote()
    assert await anext(items) == "one"
    text = await held_up(log, actor, asyncio.ensure_future(anext(items)))
    assert f"behind items, which hangs at {__file__}:" in text
    assert "hang" in text
    await items.aclose()


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_a_coroutine_that_blocks_its_loop(node: actorfw.Node, log: Log, executor: str) -> None:
    actor = Awaiting.options(executor=executor).remote()
    calls = [actor.block.remote(2), actor.quick.remote()]
    text = await log.text()
    assert f"1 call has waited 1 s behind block, which hangs at {__file__}:{line_of('blocks')}" in text
    await asyncio.gather(*calls)
    assert log.texts == [text]


async def test_a_call_on_the_main_thread_of_a_process(node: actorfw.Node, log: Log) -> None:
    actor = Serial.remote()
    assert await actor.quick() == "done"
    calls = [actor.hang.remote(2), actor.quick.remote(), actor.quick.remote()]
    text = await log.text()
    assert f"2 calls have waited 1 s behind hang, which hangs at {__file__}:" in text
    await asyncio.gather(*calls)
    assert log.texts == [text]


async def test_a_generator_on_the_main_thread_of_a_process(node: actorfw.Node, log: Log, tmp_path: Path) -> None:
    actor = Serial.remote()
    mark = tmp_path / "it hangs"
    items = actor.items.remote(2, mark)
    assert await anext(items) == 1
    while not mark.exists():
        await asyncio.sleep(0.01)
    quick = actor.quick.remote()
    text = await log.text()
    assert "1 call has waited 1 s behind items, which hangs at" in text
    assert "in hang" in text
    assert await quick == "done"
    assert await anext(items) == 2
    await items.aclose()


async def test_where_a_call_waits_in_get_is_the_callers_line(node: actorfw.Node, log: Log) -> None:
    inner, outer = Door.remote(), Door.options(executor="thread").remote()
    hanging = outer.ask.remote(inner)
    while not await inner.hangs():
        pass
    waiting = outer.quick.remote()
    text = await log.text()
    assert f"behind ask, which hangs at {__file__}:{line_of('asks')};" in text
    await inner.let_go()
    assert await hanging == "hung"
    assert await waiting == "done"


async def test_a_process_that_can_not_answer_is_named_by_its_method(node: actorfw.Node, log: Log) -> None:
    @actorfw.remote
    class Stubborn:
        def hang(self, seconds: float) -> None:
            import ctypes

            ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # keeps the interpreter lock

        def quick(self) -> str:
            return "done"

    actor = Stubborn.remote()
    calls = [actor.hang.remote(3), actor.quick.remote()]
    text = await log.text()
    assert "1 call has waited 1 s behind hang; @actorfw.method" in text
    await asyncio.gather(*calls)
    assert log.texts == [text]


async def test_long_calls_behind_which_nobody_waits_are_not_logged(node: actorfw.Node, log: Log) -> None:
    actor = Serial.remote()
    slow = [actor, *(Serial.options(executor="thread").remote() for _ in range(2))]
    await asyncio.gather(*(one.hang(1.6) for one in slow))
    await asyncio.gather(*(one.hang(0.3) for one in slow for _ in range(6)))
    assert log.texts == []


def test_frames_of_a_thread_that_runs_no_call_are_none() -> None:
    thread = threading.get_ident()
    assert heldup.frames_of_thread(thread) == []
    assert heldup.frames_of_thread(-1) == []
    assert heldup.place([]) == ""
