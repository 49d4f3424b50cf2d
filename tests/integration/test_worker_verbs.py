"""What user code in a worker process asks its node for, and what waiting in a worker does to everybody else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from actorfw.runtime import current
from actorfw.runtime.channel import WorkerProcess
from actorfw.runtime.definitions import Definition, Interface, MethodInfo
from actorfw.values.errors import DeadlineExceededError, TaskCancelledError, UsageError
from actorfw.values.ids import WORKER_SHIFT
from actorfw.wire import messages as m
from tests.integration.small_node import LIFE, Node, Ref

pytestmark = pytest.mark.real

FIRST = (1 << WORKER_SHIFT) + 1  # the first number that worker 1 gives


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    made.zygote.launch()
    yield made
    await made.zygote.close()


@pytest.fixture
def worker(node: Node) -> WorkerProcess:
    return node.zygote.fork(1)


# -- in the worker: as little of an API as these tests need


def nothing(*args: Any) -> None:
    """Never runs: the test is its node."""


def submit(*args: Any, **options: Any) -> Any:
    return current.home().submit(Definition(nothing, nothing, options), args, {})


def get(*refs: Any, timeout: float | None = None) -> Any:
    if not current.home().block(list(refs), timeout):
        return "late"
    values = [ref.result() for ref in refs]
    return values if len(values) > 1 else values[0]


# -- nested tasks


async def test_a_nested_task(node: Node, worker: WorkerProcess) -> None:
    def parent() -> int:
        value: int = get(submit(1, "two", max_retries=7))
        return value + 1

    node.answers[m.FETCH] = lambda worker, message: node.settle(worker, message[2], 41)
    task = node.task(worker, parent)
    assert await task == 42
    order = [message[0] for _, message in node.seen if message[0] != m.FETCH]
    assert order[:4] == [m.SUBMIT, m.BLOCKED, m.UNBLOCKED, m.RESULT]
    (submitted,) = node.kinds(m.SUBMIT)
    _, number, hashed, args, deps, left, parent_no, parts, credit, options, _place = submitted
    assert (number, args, deps, left, parent_no, parts, credit) == (FIRST, [1, "two"], None, None, task.no, 1, 0)
    assert node.codec.unpack(options) == {"max_retries": 7}
    assert node.codes.get(hashed)
    assert node.kinds(m.FETCH) == [[m.FETCH, LIFE, FIRST, True, ""]]


async def test_before_it_blocks_a_task_hands_back_what_waits(node: Node, worker: WorkerProcess) -> None:
    def parent() -> Any:
        return get(submit())

    await node.run(worker, nothing)
    node.sends_again = False
    node.seen.clear()
    task = node.task(worker, parent)
    behind = [node.task(worker, nothing) for _ in range(3)]
    await node.until(lambda: node.kinds(m.BLOCKED))
    assert node.kinds(m.HANDED_BACK, m.BLOCKED) == [[m.HANDED_BACK, [t.no for t in behind]], [m.BLOCKED]]
    node.settle(worker, FIRST, "child")
    assert await task == "child"
    assert len(node.kinds(m.UNBLOCKED)) == 1


async def test_no_waiting_no_message(node: Node, worker: WorkerProcess) -> None:
    def parent() -> Any:
        ref = current.home().put([1, 2])
        return get(ref), get(ref)

    assert await node.run(worker, parent) == ([1, 2], [1, 2])
    assert node.kinds(m.BLOCKED, m.FETCH) == []
    (put,) = node.kinds(m.PUT)
    assert put[1] == FIRST
    assert node.codec.unpack(put[2]) == [1, 2]


async def test_errors_and_timeouts_of_nested_tasks(node: Node, worker: WorkerProcess) -> None:
    def failing() -> Any:
        get(submit())

    def impatient() -> Any:
        return get(submit(), timeout=0.01)

    def late() -> Any:
        return submit(timeout=100)

    node.answers[m.FETCH] = lambda worker, message: node.fail(worker, message[2], ValueError("deep down"))
    with pytest.raises(ValueError, match="deep down"):
        await node.run(worker, failing)
    node.answers.clear()
    assert await node.run(worker, impatient) == "late"
    await node.run(worker, late, left=3000)
    assert 0 < node.kinds(m.SUBMIT)[-1][5] <= 3000


async def test_a_passed_deadline_is_inherited(node: Node, worker: WorkerProcess) -> None:
    def late() -> Any:
        call = current.home().call_context()
        assert call is not None
        assert call.deadline is not None
        while time.monotonic() <= call.deadline:
            time.sleep(0.01)
        return submit()

    await node.run(worker, nothing)  # so that the deadline has not passed before it starts
    with pytest.raises(DeadlineExceededError, match="did not end within its timeout"):
        await node.run(worker, late, left=1000)


async def test_parts_and_refs_in_arguments(node: Node, worker: WorkerProcess) -> None:
    def parent() -> Any:
        a, b = submit(num_returns=2)
        c = submit(a, [b])
        return get(a, b, c)

    node.answers[m.FETCH] = lambda worker, message: node.settle(worker, message[2], message[2] - FIRST)
    assert await node.run(worker, parent) == [0, 1, 2]
    first, second = node.kinds(m.SUBMIT)
    assert (first[1], first[7]) == (FIRST, 2)
    assert second[4] == [[LIFE, FIRST, ""]]
    assert [ref[1] for ref in second[3][2]] == [FIRST, FIRST + 1]


async def test_an_interrupt_reaches_a_task_that_waits(node: Node, worker: WorkerProcess) -> None:
    def parent() -> Any:
        return get(submit())

    task = node.task(worker, parent)
    await node.until(lambda: node.kinds(m.BLOCKED))
    worker.interrupt(task.no)
    with pytest.raises(TaskCancelledError):
        await task
    assert [message[0] for message in node.kinds(m.BLOCKED, m.UNBLOCKED)] == [m.BLOCKED, m.UNBLOCKED]


# -- refs


kept: list[Any] = []


def keep(refs: list[Any]) -> None:
    kept.extend(refs)


def drop() -> None:
    kept.clear()


async def test_refs_are_released_when_their_last_handle_is_gone(node: Node, worker: WorkerProcess) -> None:
    await node.run(worker, keep, [Ref(7), Ref(8)])
    await node.run(worker, keep, [Ref(8)])
    assert node.kinds(m.RELEASE) == []
    await node.run(worker, drop)
    await node.run(worker, nothing)
    (release,) = await node.until(lambda: node.kinds(m.RELEASE))
    assert sorted(release[1]) == [[LIFE, 7, 2], [LIFE, 8, 2]]


async def test_refs_in_circles_are_released_when_the_worker_is_idle(node: Node, worker: WorkerProcess) -> None:
    def circle(refs: list[Any]) -> None:
        refs.append(refs)

    await node.run(worker, circle, [Ref(7)])
    await node.until(lambda: node.kinds(m.RELEASE) == [[m.RELEASE, [[LIFE, 7, 1]]]])


async def test_values_come_ahead_of_a_task_that_has_them_as_arguments(node: Node, worker: WorkerProcess) -> None:
    def total(a: int, b: list[int], c: Any) -> Any:
        return a, b, type(c[0]).__name__

    node.settle(worker, 7, 70, ahead=True)
    node.settle(worker, 8, [80], ahead=True)
    deps = [(LIFE, 7, ""), (LIFE, 8, "")]
    assert await node.run(worker, total, Ref(7), Ref(8), [Ref(8)], deps=deps) == (70, [80], "ObjectRef")
    node.fail(worker, 9, KeyError("nine"), ahead=True)
    with pytest.raises(KeyError, match="nine"):
        await node.run(worker, total, Ref(9), 1, 2, deps=[(LIFE, 9, "")])


# -- other threads and loops


def get_one(i: int) -> Any:
    return get(submit(i))


async def test_threads_of_user_code_wait_too(node: Node, worker: WorkerProcess) -> None:
    def parent() -> Any:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(get_one, range(8)))

    node.answers[m.FETCH] = lambda worker, message: node.settle(worker, message[2], message[2])
    assert sorted(await node.run(worker, parent)) == list(range(FIRST, FIRST + 8))
    assert await node.run(worker, nothing) is None  # with a thread of its own reading, all goes on


async def test_a_loop_of_user_code_awaits_refs(node: Node, worker: WorkerProcess) -> None:
    def parent() -> Any:
        async def main() -> Any:
            async with asyncio.timeout(10):
                first = await submit()
                return [first, *await asyncio.gather(submit(), submit())]

        return asyncio.run(main())

    async def coroutine() -> Any:
        return await submit()

    node.answers[m.FETCH] = lambda worker, message: node.settle(worker, message[2], message[2] - FIRST)
    assert await node.run(worker, parent) == [0, 1, 2]
    assert await node.run(worker, coroutine) == 3
    assert [message[0] for message in node.kinds(m.BLOCKED, m.UNBLOCKED)][:2] == [m.BLOCKED, m.UNBLOCKED]
    assert len(node.kinds(m.BLOCKED)) == len(node.kinds(m.UNBLOCKED))


async def test_cancelling_an_await_cancels_the_call(node: Node, worker: WorkerProcess) -> None:
    async def impatient() -> str:
        try:
            await asyncio.wait_for(submit(), 0.01)
        except TimeoutError:
            return "timed out"
        return "came"

    assert await node.run(worker, impatient) == "timed out"
    await node.until(lambda: node.kinds(m.CANCEL) == [[m.CANCEL, FIRST, False, True, LIFE]])
    assert len(node.kinds(m.BLOCKED)) == len(node.kinds(m.UNBLOCKED)) == 1


async def test_an_interrupt_reaches_the_main_thread_while_another_reads(node: Node, worker: WorkerProcess) -> None:
    def parent() -> None:
        thread = threading.Thread(target=get, args=(submit(),), daemon=True)
        thread.start()
        print("spinning")
        while True:
            threading.Event().wait(0.001)

    task = node.task(worker, parent)
    await node.until(lambda: node.kinds(m.OUTPUT))
    worker.interrupt(task.no)
    with pytest.raises(TaskCancelledError):
        await task


# -- actors, streams, requests


class Counter:
    def add(self, k: int) -> int:
        return k

    def each(self) -> Iterator[int]:
        yield 1


async def test_actors_are_made_and_called(node: Node, worker: WorkerProcess) -> None:
    def parent() -> Any:
        home = current.home()
        handle = home.create_actor(Definition(Counter, Counter, {"name": "one"}), (5,), {})
        home.tell_actor(handle, Interface.of(Counter).methods["add"], (1,), {})
        return get(home.call_actor(handle, MethodInfo("add", "def", timeout=5), (2,), {}))

    node.answers[m.FETCH] = lambda worker, message: node.settle(worker, message[2], "added")
    task = node.task(worker, parent)
    assert await task == "added"
    (spawn,) = node.kinds(m.SPAWN)
    assert (spawn[1], spawn[3], spawn[4], spawn[5]) == (FIRST, [5], None, task.no)
    assert node.codec.unpack(spawn[6]) == {"name": "one"}
    tell, call = node.kinds(m.INVOKE)
    assert tell[1:7] == [0, LIFE, FIRST, "add", [1], None]
    assert call[1:7] == [FIRST + 1, LIFE, FIRST, "add", [2], None]
    assert 0 < call[7] <= 5000


async def test_a_stream_is_consumed_in_a_worker(node: Node, worker: WorkerProcess) -> None:
    def numbers() -> Iterator[int]:
        yield 1

    def parent() -> Any:
        stream: Any = current.home().submit(Definition(numbers, numbers, {}), (), {})
        return list(stream)

    def early() -> None:
        stream: Any = current.home().submit(Definition(numbers, numbers, {}), (), {})
        next(stream)
        stream.close()

    def feed(worker: WorkerProcess, message: list[Any]) -> None:
        for index in range(20):
            worker.send((m.ITEM, message[1], index, index))
        worker.send((m.RESULT, message[1], m.VALUE, 20, None))

    node.answers[m.SUBMIT] = feed
    assert await node.run(worker, parent) == list(range(20))
    node.answers[m.SUBMIT] = lambda worker, message: worker.send((m.ITEM, message[1], 0, 0))
    await node.run(worker, early)
    await node.until(lambda: node.kinds(m.CREDIT) == [[m.CREDIT, FIRST + 1, -1]])
    assert [message[8] for message in node.kinds(m.SUBMIT)] == [32, 32]


async def test_control_requests(node: Node, worker: WorkerProcess) -> None:
    def asks(verb: str) -> Any:
        return get(current.home().ask(verb, 1, "two"))

    def answer(worker: WorkerProcess, message: list[Any]) -> None:
        _, request, verb, payload = message
        if verb == "bad":
            worker.send((m.ANSWER, request, False, node.packed_error(UsageError("no such verb"))))
        else:
            worker.send((m.ANSWER, request, True, node.codec.pack(("heard", node.codec.unpack(payload)))))

    node.answers[m.ASK] = answer
    assert await node.run(worker, asks, "good") == ("heard", (1, "two"))
    with pytest.raises(Exception, match="no such verb"):
        await node.run(worker, asks, "bad")


async def test_waiting_for_readiness_does_not_fetch(node: Node, worker: WorkerProcess) -> None:
    def parent() -> Any:
        refs = [submit(i) for i in range(3)]
        ready, pending = get(current.home().wait_ready(refs, 2, None))
        timed = get(current.home().wait_ready([refs[1]], 1, 0.01))
        return [ref._number - FIRST for ref in ready], [ref._number - FIRST for ref in pending], len(timed[1])

    def answer(worker: WorkerProcess, message: list[Any]) -> None:
        assert message[3] is False
        if message[2] != FIRST + 1:
            worker.send((m.SETTLED, LIFE, message[2], m.VALUE, None))

    node.answers[m.FETCH] = answer
    assert await node.run(worker, parent) == ([0, 2], [1], 1)
