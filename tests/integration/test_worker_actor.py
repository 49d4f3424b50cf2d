"""Process actors in real worker processes: how their calls take turns, and how they begin and end."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from actorfw.runtime import current
from actorfw.runtime.channel import WorkerProcess
from actorfw.runtime.exits import ActorExit
from actorfw.values.errors import ActorDiedError, DeadlineExceededError, TaskCancelledError, TaskError
from actorfw.wire import messages as m
from tests.integration.small_node import ACTOR, LIFE, Node

pytestmark = pytest.mark.real


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    made.zygote.launch()
    yield made
    await made.zygote.close()


@pytest.fixture
def worker(node: Node) -> WorkerProcess:
    return node.zygote.fork(1)


class Steps:
    """What the three kinds have in common: one `def` class."""

    def __init__(self, start: int = 0) -> None:
        self.n = start
        self.log: list[str] = []
        self.gate = threading.Event()

    def add(self, k: int) -> int:
        self.n += k
        return self.n

    def fail(self) -> None:
        raise ValueError("mine")

    def leave(self) -> None:
        raise ActorExit

    def exit(self) -> None:
        raise SystemExit(3)

    def each(self, n: int) -> Iterator[int]:
        try:
            for i in range(n):
                self.log.append(f"step {i}")
                yield i
        finally:
            self.log.append("closed")

    def mark(self, what: str) -> list[str]:
        self.log.append(what)
        return self.log

    def hang(self) -> None:
        print("hanging")
        while True:
            time.sleep(0.001)

    def wait(self) -> str:
        assert self.gate.wait(10)
        return "opened"

    def open(self) -> None:
        self.gate.set()

    def known(self) -> Any:
        call = current.home().call_context()
        assert call is not None
        assert call.handle is not None
        return call.actor_id, call.fencing_token, call.task_id, call.handle._number

    def on_stop(self, reason: str) -> None:
        print("stopped:", reason)


class Coroutines(Steps):
    """The same with coroutines: it lives on a loop."""

    async def aadd(self, k: int) -> int:
        await asyncio.sleep(0)
        return self.add(k)

    async def ahang(self) -> None:
        print("hanging")
        await asyncio.sleep(1000)

    async def background(self) -> None:
        async def later() -> None:
            await asyncio.sleep(0.001)
            print("in the background")

        self.task = asyncio.create_task(later())

    async def on_start(self) -> None:
        await asyncio.sleep(0)
        print("started")

    async def aeach(self, n: int) -> AsyncIterator[int]:
        async with asyncio.timeout(10):
            for i in range(n):
                self.log.append(f"step {i}")
                yield i


KINDS: list[Any] = [
    pytest.param(Steps, {}, id="serial"),
    pytest.param(Steps, {"max_concurrency": 4}, id="threads"),
    pytest.param(Coroutines, {}, id="loop"),
]


async def is_up(node: Node) -> None:
    await node.until(lambda: node.kinds(m.CREATED))
    assert node.kinds(m.CREATED) == [[m.CREATED, *ACTOR, 3, "up", None]]


@pytest.mark.parametrize(("kind", "options"), KINDS)
async def test_calls_and_errors(node: Node, worker: WorkerProcess, kind: type, options: Any) -> None:
    node.create(worker, kind, 10, **options)
    calls = [node.call(worker, "add", 1) for _ in range(20)]
    assert sorted([await call for call in calls]) == list(range(11, 31))
    await is_up(node)
    with pytest.raises(ValueError, match="mine"):
        await node.call(worker, "fail")
    with pytest.raises(TaskError, match="SystemExit"):
        await node.call(worker, "exit")
    with pytest.raises(TaskError, match="no method 'nope'"):
        await node.call(worker, "nope")
    with pytest.raises(DeadlineExceededError):
        await node.call(worker, "add", 1, left=0)
    with pytest.raises(TaskError, match="num_returns=2"):
        await node.call(worker, "add", 1, parts=2)
    call = node.call(worker, "known")
    assert await call == (f"{LIFE.hex()}-63", 3, f"{LIFE.hex()}-{call.no:x}", 99)


@pytest.mark.parametrize(("kind", "options"), KINDS)
async def test_other_calls_run_between_the_steps_of_a_generator(
    node: Node, worker: WorkerProcess, kind: type, options: Any
) -> None:
    node.create(worker, kind, **options)
    stream = node.call(worker, "each", 6, credit=2)
    await node.until(lambda: len(node.kinds(m.ITEM)) == 2)
    assert await node.call(worker, "mark", "between") == ["step 0", "step 1", "between"]
    worker.send((m.CREDIT, stream.no, 10))
    assert await stream == 6
    assert (await node.call(worker, "mark", "after"))[-3:] == ["step 5", "closed", "after"]
    assert [message[2:] for message in node.kinds(m.ITEM)] == [[i, i] for i in range(6)]


@pytest.mark.parametrize(("kind", "options"), KINDS)
async def test_a_generator_gives_way_without_being_out_of_credit(
    node: Node, worker: WorkerProcess, kind: type, options: Any
) -> None:
    node.create(worker, kind, **options)
    stream = node.call(worker, "each", 10**9, credit=10**9)
    await node.until(lambda: len(node.kinds(m.ITEM)) >= 2)
    await node.call(worker, "mark", "between")
    worker.send((m.CREDIT, stream.no, -1))
    assert await stream >= 2
    assert (await node.call(worker, "mark", "after"))[-2:] == ["closed", "after"]


@pytest.mark.parametrize(("kind", "options"), KINDS)
async def test_a_generator_that_waits_is_cancelled(node: Node, worker: WorkerProcess, kind: type, options: Any) -> None:
    node.create(worker, kind, **options)
    stream = node.call(worker, "each", 10, credit=1)
    await node.until(lambda: node.kinds(m.ITEM))
    worker.interrupt(stream.no)
    with pytest.raises(TaskCancelledError):
        await stream
    assert (await node.call(worker, "mark", "after"))[-2:] == ["closed", "after"]


@pytest.mark.parametrize(("kind", "options"), KINDS)
async def test_the_end(node: Node, worker: WorkerProcess, kind: type, options: Any) -> None:
    node.create(worker, kind, **options)
    await node.call(worker, "add", 1)
    worker.send((m.END, *ACTOR, "released"))
    await node.until(lambda: node.ended)
    assert node.kinds(m.OUTPUT)[-1] == [m.OUTPUT, kind.__qualname__, "stdout", "stopped: released\n"]
    assert node.kinds(m.ENDED) == [[m.ENDED, *ACTOR, 3, "released", None]]


@pytest.mark.parametrize(("kind", "options"), KINDS)
async def test_an_actor_that_exits(node: Node, worker: WorkerProcess, kind: type, options: Any) -> None:
    node.create(worker, kind, **options)
    with pytest.raises(ActorDiedError) as caught:
        await node.call(worker, "leave")
    assert (caught.value.reason, caught.value.ran) == ("exited", True)
    await node.until(lambda: node.ended)
    assert node.kinds(m.ENDED) == [[m.ENDED, *ACTOR, 3, "exited", None]]


class Unmade:
    def __init__(self, where: str) -> None:
        if where == "init":
            raise OSError("no such thing")
        print("half made", end="")

    def on_start(self) -> None:
        raise OSError("no such thing")


@pytest.mark.parametrize("where", ["init", "start"])
async def test_an_actor_that_cannot_be_made(node: Node, worker: WorkerProcess, where: str) -> None:
    node.create(worker, Unmade, where)
    await node.until(lambda: node.ended)
    (created,) = node.kinds(m.CREATED)
    assert created[:5] == [m.CREATED, *ACTOR, 3, "failed"]
    error = node.unpacked_error(created[5])
    assert isinstance(error, OSError)


async def test_a_call_of_a_serial_actor_is_interrupted(node: Node, worker: WorkerProcess) -> None:
    node.create(worker, Steps)
    call = node.call(worker, "hang")
    behind = node.call(worker, "add", 1)
    dropped = node.call(worker, "add", 100)
    await node.until(lambda: node.kinds(m.OUTPUT))
    worker.interrupt(dropped.no)
    with pytest.raises(TaskCancelledError) as caught:
        await dropped
    assert caught.value.ran is False
    assert not behind.done
    worker.interrupt(call.no)
    with pytest.raises(TaskCancelledError):
        await call
    assert await behind == 1


async def test_calls_in_threads_run_beside_each_other(node: Node, worker: WorkerProcess) -> None:
    node.create(worker, Steps, max_concurrency=3)
    waiting = [node.call(worker, "wait") for _ in range(2)]
    await node.call(worker, "open")
    assert [await call for call in waiting] == ["opened", "opened"]
    assert sorted(message[1] for message in node.kinds(m.STARTED)) == [waiting[0].no, waiting[1].no, waiting[1].no + 1]
    hanging = node.call(worker, "hang")
    await node.until(lambda: node.kinds(m.OUTPUT))
    worker.interrupt(hanging.no)
    with pytest.raises(TaskCancelledError):  # what runs goes on, its result is dropped
        await hanging


class Grouped:
    def __init__(self) -> None:
        self.inside: dict[str, int] = {}

    def slow(self) -> int:
        return self._most("slow")

    def _most(self, name: str) -> int:
        self.inside[name] = self.inside.get(name, 0) + 1
        time.sleep(0.02)
        here = self.inside[name]
        self.inside[name] -= 1
        return here

    def reads(self) -> int:
        return self._most("reads")

    def beside(self) -> str:
        return "beside"


Grouped.reads.__actorfw_method__ = {"group": "io"}  # type: ignore[attr-defined]
Grouped.beside.__actorfw_method__ = {"interleave": True}  # type: ignore[attr-defined]


async def test_groups_have_limits_of_their_own(node: Node, worker: WorkerProcess) -> None:
    node.create(worker, Grouped, concurrency_groups={"io": 2})
    slow = [node.call(worker, "slow") for _ in range(3)]
    reads = [node.call(worker, "reads") for _ in range(4)]
    assert await node.call(worker, "beside") == "beside"
    assert max([await call for call in slow]) == 1
    assert max([await call for call in reads]) == 2


async def test_coroutines_take_turns(node: Node, worker: WorkerProcess) -> None:
    node.create(worker, Coroutines)
    hanging = node.call(worker, "ahang")
    behind = node.call(worker, "aadd", 1)
    await node.until(lambda: len(node.kinds(m.OUTPUT)) == 2)
    assert [message[3] for message in node.kinds(m.OUTPUT)] == ["started\n", "hanging\n"]
    assert not behind.done
    worker.interrupt(hanging.no)
    with pytest.raises(TaskCancelledError):
        await hanging
    assert await behind == 1


async def test_what_a_coroutine_leaves_behind_goes_on(node: Node, worker: WorkerProcess) -> None:
    node.create(worker, Coroutines)
    await node.call(worker, "background")
    await node.until(lambda: node.kinds(m.OUTPUT)[-1][3] == "in the background\n")


async def test_an_async_generator_stays_in_one_task(node: Node, worker: WorkerProcess) -> None:
    node.create(worker, Coroutines)
    stream = node.call(worker, "aeach", 5, credit=2)
    await node.until(lambda: len(node.kinds(m.ITEM)) == 2)
    worker.send((m.CREDIT, stream.no, 10))
    assert await stream == 5


async def test_the_process_of_an_actor_dies(node: Node, worker: WorkerProcess) -> None:
    class Fragile:
        def die(self) -> None:
            os._exit(9)

    node.create(worker, Fragile)
    call = node.call(worker, "die")
    assert "status 9" in await node.until(lambda: node.ended.get(1))
    assert not call.done
