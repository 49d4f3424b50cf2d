"""Short work in threads that end by themselves."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref

import pytest

from actorfw.runtime.hands import Hands

SECONDS = 10.0
name = contextvars.ContextVar("name", default="nobody")


def threads() -> int:
    return sum(thread.name == "actorfw hand" for thread in threading.enumerate())


async def gone() -> None:
    async with asyncio.timeout(SECONDS):
        while threads():
            await asyncio.sleep(0.001)


@pytest.mark.asyncio
async def test_it_gives_what_was_returned_or_raised_in_the_callers_context() -> None:
    hands = Hands(2)
    name.set("caller")
    assert await hands.do(lambda: (name.get(), threading.get_ident())) != ("caller", threading.get_ident())
    assert (await hands.do(name.get)) == "caller"
    with pytest.raises(KeyError, match="lost"):
        await hands.do(lambda: {}["lost"])
    await gone()


@pytest.mark.asyncio
async def test_no_more_threads_than_allowed_and_none_when_all_is_done() -> None:
    hands = Hands(3)
    most = 0

    def work() -> None:
        nonlocal most
        most = max(most, threads())

    await asyncio.gather(*(hands.do(work) for _ in range(200)))
    assert 1 <= most <= 3
    await gone()
    assert await hands.do(lambda: "again") == "again"
    await gone()


@pytest.mark.asyncio
async def test_what_is_cancelled_before_its_turn_is_not_done() -> None:
    hands = Hands(1)
    free = threading.Event()
    done: list[int] = []
    first = asyncio.ensure_future(hands.do(lambda: free.wait(SECONDS)))
    second = asyncio.ensure_future(hands.do(lambda: done.append(2)))
    third = asyncio.ensure_future(hands.do(lambda: done.append(3)))
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    await asyncio.sleep(0)
    free.set()
    await third
    assert done == [3]
    with pytest.raises(asyncio.CancelledError):
        await first
    await gone()


@pytest.mark.asyncio
async def test_it_keeps_nothing_of_what_it_did() -> None:
    class Thing:
        pass

    hands = Hands(1)
    free = threading.Event()
    thing = Thing()
    dead = weakref.ref(thing)
    await hands.do(lambda thing=thing: None)
    del thing
    waiting = asyncio.ensure_future(hands.do(lambda: free.wait(SECONDS)))
    await asyncio.sleep(0.01)
    assert dead() is None
    free.set()
    await waiting
    await gone()


def test_a_loop_that_has_closed_is_told_nothing() -> None:
    hands = Hands(1)
    free = threading.Event()
    began = threading.Event()

    def work() -> None:
        began.set()
        free.wait(SECONDS)

    async def main() -> None:
        doing = asyncio.ensure_future(hands.do(work))
        while not (began.is_set() or doing.done()):
            await asyncio.sleep(0)

    asyncio.run(main())
    free.set()
    for thread in threading.enumerate():
        if thread.name == "actorfw hand":
            thread.join(SECONDS)
    assert threads() == 0
