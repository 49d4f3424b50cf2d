"""Real zygotes and worker processes, driven through `runtime.channel` by a node that is only a table of handlers."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import actorfw
from actorfw.runtime import current
from actorfw.runtime.channel import WorkerProcess
from actorfw.values.errors import (
    DeadlineExceededError,
    SerializationError,
    TaskCancelledError,
    TaskError,
)
from actorfw.wire import messages as m
from tests.integration.small_node import LIFE, Node

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


# -- plain tasks


def add(a: int, b: int) -> int:
    return a + b


async def test_a_task_runs_in_another_process(node: Node, worker: WorkerProcess) -> None:
    assert await node.run(worker, add, 1, 2) == 3
    assert await node.run(worker, os.getpid) == worker.pid != os.getpid()


async def test_a_batch_is_answered_in_order(node: Node, worker: WorkerProcess) -> None:
    tasks = [node.task(worker, add, i, 1) for i in range(500)]
    assert [await task for task in tasks] == list(range(1, 501))
    assert [message[1] for message in node.kinds(m.RESULT)] == [task.no for task in tasks]


async def test_parts(node: Node, worker: WorkerProcess) -> None:
    def pair() -> tuple[int, str]:
        return 1, "two"

    assert await node.run(worker, pair, parts=2) == [1, "two"]
    assert await node.run(worker, pair, parts=0) == []
    with pytest.raises(TaskError, match=r"num_returns=3 and returned 2 values"):
        await node.run(worker, pair, parts=3)
    with pytest.raises(TaskError, match=r"num_returns=2 and returned int"):
        await node.run(worker, add, 1, 2, parts=2)


async def test_each_task_has_a_context_of_its_own(node: Node, worker: WorkerProcess) -> None:
    import contextvars

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")

    def dirty() -> str:
        import decimal

        before = str(decimal.getcontext().prec)
        decimal.getcontext().prec = 5
        return before

    assert await node.run(worker, dirty) == "28"
    assert await node.run(worker, dirty) == "28"
    assert variable.get() == "clean"


async def test_what_is_known_about_the_call(node: Node, worker: WorkerProcess) -> None:
    def known() -> Any:
        call = current.home().call_context()
        assert call is not None
        assert call.deadline is not None
        assert 0 < call.deadline - time.monotonic() <= 5
        return call.node_id, call.task_id, call.attempt, call.gpus, os.environ.get("CUDA_VISIBLE_DEVICES")

    task = node.task(worker, known, left=5000, gpus=[2, 5])
    assert await task == (LIFE[:8].hex(), f"{LIFE.hex()}-{task.no:x}", 1, (2, 5), "2,5")
    assert await node.run(worker, os.environ.get, "CUDA_VISIBLE_DEVICES") is None


async def test_an_expired_task_does_not_run(node: Node, worker: WorkerProcess) -> None:
    with pytest.raises(DeadlineExceededError) as caught:
        await node.run(worker, add, 1, 2, left=0)
    assert caught.value.ran is False


async def test_coroutines_run_on_a_loop_that_stays(node: Node, worker: WorkerProcess) -> None:
    async def sleeper() -> int:
        await asyncio.sleep(0)
        asyncio.create_task(asyncio.sleep(1000))  # noqa: RUF006  (ends with its task)
        return id(asyncio.get_running_loop())

    assert await node.run(worker, sleeper) == await node.run(worker, sleeper)


# -- errors


class Odd(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("not this one")


def raising(what: str) -> Any:
    if what == "exit":
        sys.exit(3)
    if what == "lock":
        return threading.Lock()
    if what == "odd":
        raise Odd(1, 2)
    if what == "group":
        raise ExceptionGroup("both", [ValueError("a"), KeyError("b")])
    raise {"stop": StopIteration, "keyboard": KeyboardInterrupt, "unpicklable": Unpicklable, "value": ValueError}[what](
        "x"
    )


@pytest.mark.parametrize("what", ["exit", "stop", "keyboard", "unpicklable"])
async def test_what_may_not_be_raised_over_here_is_a_task_error(node: Node, worker: WorkerProcess, what: str) -> None:
    with pytest.raises(TaskError):
        await node.run(worker, raising, what)
    assert await node.run(worker, os.getpid) == worker.pid


async def test_exceptions_arrive_as_they_are(node: Node, worker: WorkerProcess) -> None:
    with pytest.raises(ValueError, match="x") as caught:
        await node.run(worker, raising, "value")
    assert "in raising" in str(caught.value.__cause__)
    assert "runtime/worker" not in str(caught.value.__cause__)
    with pytest.raises(Odd, match="1 and 2"):
        await node.run(worker, raising, "odd")
    with pytest.raises(ExceptionGroup):
        await node.run(worker, raising, "group")


async def test_an_unpicklable_result_names_itself(node: Node, worker: WorkerProcess) -> None:
    with pytest.raises(SerializationError, match="lock") as caught:
        await node.run(worker, raising, "lock")
    assert caught.value.ran is True


async def test_code_that_cannot_be_loaded(node: Node, worker: WorkerProcess, tmp_path: Path) -> None:
    (tmp_path / "passing_module.py").write_text("def f(): return 1\n")
    sys.path.append(str(tmp_path))
    try:
        import passing_module  # type: ignore[import-not-found]

        task = node.task(worker, passing_module.f)
        (tmp_path / "passing_module.py").unlink()  # nothing has been written to the worker in this turn of the loop
        with pytest.raises(SerializationError, match="passing_module") as caught:
            await task
        assert caught.value.ran is False
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("passing_module", None)


# -- interrupts


def spin() -> None:
    try:
        print("spinning")
        while True:
            time.sleep(0.001)
    finally:
        print("cleaned")


def said(node: Node, words: str) -> bool:
    return any(message[3] == words + "\n" for message in node.kinds(m.OUTPUT))


async def test_an_interrupt_ends_the_running_task_only(node: Node, worker: WorkerProcess) -> None:
    task = node.task(worker, spin)
    await node.until(lambda: said(node, "spinning"))
    worker.interrupt(task.no)
    with pytest.raises(TaskCancelledError):
        await task
    assert said(node, "cleaned")
    assert await node.run(worker, os.getpid) == worker.pid


async def test_a_stale_interrupt_hits_nobody(node: Node, worker: WorkerProcess) -> None:
    first = node.task(worker, add, 1, 2)
    await first
    node.sends_again = False
    task = node.task(worker, spin)
    await node.until(lambda: said(node, "spinning"))
    for _ in range(20):
        worker.interrupt(first.no)
    worker.interrupt(10**6)
    probe = node.task(worker, add, 1, 2)
    await node.until(lambda: node.kinds(m.HANDED_BACK))  # so it has read the others
    assert node.kinds(m.HANDED_BACK)[0][1] == [probe.no]
    assert not task.done
    worker.interrupt(task.no)
    with pytest.raises(TaskCancelledError):
        await task


async def test_a_task_that_waits_is_dropped(node: Node, worker: WorkerProcess) -> None:
    tasks = [node.task(worker, time.sleep, 0.005) for _ in range(3)]
    worker.interrupt(tasks[2].no)
    with pytest.raises(TaskCancelledError) as caught:
        await tasks[2]
    assert caught.value.ran is False
    await tasks[0]
    await tasks[1]


async def test_a_coroutine_is_cancelled_by_its_loop(node: Node, worker: WorkerProcess) -> None:
    async def forever() -> None:
        print("spinning")
        try:
            await asyncio.sleep(1000)
        finally:
            print("cleaned")

    task = node.task(worker, forever)
    await node.until(lambda: said(node, "spinning"))
    worker.interrupt(task.no)
    with pytest.raises(TaskCancelledError):
        await task
    assert said(node, "cleaned")

    async def cancels_itself() -> None:
        raise asyncio.CancelledError

    with pytest.raises(TaskError):
        await node.run(worker, cancels_itself)


async def test_interrupts_in_a_storm_of_tasks(node: Node, worker: WorkerProcess) -> None:
    def printing(n: int) -> int:
        print(n)  # the runtime is at work in the middle of user code
        return n

    tasks = [node.task(worker, printing, i) for i in range(300)]
    for task in tasks[::3]:
        worker.interrupt(task.no)
        await asyncio.sleep(0)
    for i, task in enumerate(tasks):
        if i % 3:
            assert await task == i
        else:
            try:
                assert await task == i
            except TaskCancelledError:
                pass


# -- batches


async def test_unstarted_tasks_go_back_after_10_ms(node: Node, worker: WorkerProcess) -> None:
    await node.run(worker, add, 1, 1)
    node.sends_again = False
    node.seen.clear()
    first = node.task(worker, add, 1, 1)
    long = node.task(worker, spin)
    behind = [node.task(worker, add, 1, i) for i in range(5)]
    await node.until(lambda: node.kinds(m.HANDED_BACK))
    assert first.done  # its reply did not wait for the long one
    assert node.kinds(m.HANDED_BACK)[0][1] == [task.no for task in behind]
    late = node.task(worker, add, 1, 1)
    await node.until(lambda: len(node.kinds(m.HANDED_BACK)) == 2)
    assert node.kinds(m.HANDED_BACK)[1][1] == [late.no]
    worker.interrupt(long.no)
    with pytest.raises(TaskCancelledError):
        await long


# -- output


async def test_what_a_task_prints_comes_before_its_result_and_names_it(node: Node, worker: WorkerProcess) -> None:
    def talk() -> None:
        print("one", 1)
        print("two", end="")
        print("three", file=sys.stderr)
        sys.stdout.buffer.write(b"\nbytes \xff\n")
        print("\udc80", end="")

    await node.run(worker, talk)
    assert node.kinds(m.OUTPUT, m.RESULT) == [
        [m.OUTPUT, talk.__qualname__, "stdout", "one 1\n"],
        [m.OUTPUT, talk.__qualname__, "stderr", "three\n"],
        [m.OUTPUT, talk.__qualname__, "stdout", "two\nbytes \\xff\n"],
        [m.OUTPUT, talk.__qualname__, "stdout", "\\udc80"],
        [m.RESULT, node.kinds(m.RESULT)[0][1], m.VALUE],
    ]


async def test_what_goes_past_python_is_read_from_a_pipe(node: Node, worker: WorkerProcess) -> None:
    def around() -> None:
        os.write(1, b"raw\n")
        subprocess.run(["echo", "child"], check=True)

    await node.run(worker, around)
    await node.until(lambda: node.raw == "raw\nchild\n")


# -- streams


def count(n: int) -> Iterator[int]:
    try:
        yield from range(n)
    finally:
        print("closed")


async def acount(n: int) -> AsyncIterator[int]:
    async with asyncio.timeout(10):  # spans the yields: they must all be in one asyncio task
        for i in range(n):
            yield i
            await asyncio.sleep(0)


@pytest.mark.parametrize("fn", [count, acount])
async def test_a_generator_waits_for_credit(node: Node, worker: WorkerProcess, fn: Any) -> None:
    task = node.task(worker, fn, 10, credit=3)
    await node.until(lambda: len(node.kinds(m.ITEM)) == 3)
    worker.send((m.CREDIT, task.no, 4))
    await node.until(lambda: len(node.kinds(m.ITEM)) == 7)
    assert not task.done
    worker.send((m.CREDIT, task.no, 4))
    assert await task == 10
    assert [message[1:] for message in node.kinds(m.ITEM)] == [[task.no, i, i] for i in range(10)]


@pytest.mark.parametrize("fn", [count, acount])
async def test_a_consumer_that_goes_away_closes_the_generator(node: Node, worker: WorkerProcess, fn: Any) -> None:
    task = node.task(worker, fn, 10**9, credit=3)
    await node.until(lambda: len(node.kinds(m.ITEM)) == 3)
    worker.send((m.CREDIT, task.no, -1))
    assert await task == 3
    if fn is count:
        assert [message[3] for message in node.kinds(m.OUTPUT)] == ["closed\n"]


@pytest.mark.parametrize("fn", [count, acount])
async def test_a_generator_that_waits_is_cancelled(node: Node, worker: WorkerProcess, fn: Any) -> None:
    task = node.task(worker, fn, 10**9, credit=3)
    await node.until(lambda: len(node.kinds(m.ITEM)) == 3)
    worker.interrupt(task.no)
    with pytest.raises(TaskCancelledError):
        await task


async def test_a_generator_that_raises(node: Node, worker: WorkerProcess) -> None:
    def some() -> Iterator[int]:
        yield 1
        raise ValueError("after one")

    with pytest.raises(ValueError, match="after one"):
        await node.run(worker, some, credit=5)
    assert len(node.kinds(m.ITEM)) == 1


# -- large values


async def test_large_values_both_ways(node: Node, worker: WorkerProcess) -> None:
    array = np.arange(4_000_000, dtype=np.float64)
    small = node.task(worker, add, 1, 2)

    def double(a: Any) -> Any:
        assert not a.flags.writeable
        return a * 2

    result = await node.run(worker, double, array)
    assert await small == 3
    assert (result == array * 2).all()
    text = "äß" * 500_000
    assert await node.run(worker, str.upper, text) == text.upper()
    assert await node.run(worker, bytes.hex, b"ab" * 100_000) == "6162" * 100_000


# -- deaths


async def test_the_words_for_each_death(node: Node) -> None:
    def segfault() -> None:
        ctypes.string_at(0)

    def suicide() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    cases: list[tuple[Any, tuple[Any, ...], str]] = [
        (os._exit, (7,), r"exited with status 7 while it ran something, by os\._exit"),
        (suicide, (), r"killed by signal SIGKILL .*memory"),
        (segfault, (), r"(?s)killed by signal SIGSEGV .*Segmentation fault.*in segfault"),
    ]
    for index, (fn, args, words) in enumerate(cases, 1):
        worker = node.zygote.fork(index)
        before = node.task(worker, print, "last words")
        await before
        worker.label = "something"
        node.task(worker, fn, *args)
        sentence = await node.until(partial(node.ended.get, index))
        assert f"worker process {worker.pid} " in sentence

        assert re.search(words, sentence), sentence
        assert not worker.alive


async def test_answers_given_before_death_count(node: Node) -> None:
    worker = node.zygote.fork(1)
    tasks = [node.task(worker, add, i, i) for i in range(20)]

    def flush_and_die() -> None:
        print("flush")
        os._exit(1)

    node.task(worker, flush_and_die)
    await node.until(lambda: node.ended)
    assert all(task.done for task in tasks)
    assert node.kinds(m.OUTPUT)[-1][3] == "flush\n"


async def test_many_workers_at_once(node: Node) -> None:
    workers = [node.zygote.fork(index) for index in range(1, 151)]
    pids = await asyncio.gather(*[node.run(worker, os.getpid) for worker in workers])
    assert len(set(pids)) == 150
    assert node.raw == ""


async def test_kill_says_why(node: Node, worker: WorkerProcess) -> None:
    await node.run(worker, add, 1, 2)
    worker.kill("it was in the way")
    assert "was killed: it was in the way" in await node.until(lambda: node.ended.get(1))


async def test_a_worker_that_closes_its_socket_is_ended(node: Node, worker: WorkerProcess) -> None:
    def close_all() -> None:
        os.closerange(3, 1000)
        time.sleep(100)

    node.task(worker, close_all)
    assert "closed the connection" in await node.until(lambda: node.ended.get(1))


async def test_stop_ends_a_worker_after_its_work(node: Node, worker: WorkerProcess) -> None:
    task = node.task(worker, add, 1, 2)
    worker.send((m.STOP, "idle"))
    assert "status 0" in await node.until(lambda: node.ended.get(1))
    assert await task == 3


async def test_a_lost_zygote_takes_its_workers_with_it(node: Node, worker: WorkerProcess) -> None:
    parent = await node.run(worker, os.getppid)
    processes = [psutil.Process(worker.pid)]
    os.kill(parent, signal.SIGKILL)
    await node.until(lambda: node.lost and node.ended)
    assert "status -9" in node.lost
    assert psutil.wait_procs(processes, timeout=10)[1] == []
    with pytest.raises(RuntimeError, match="zygote is not running"):
        node.zygote.fork(2)


async def test_a_worker_forks_processes_of_its_own(node: Node, worker: WorkerProcess) -> None:
    def with_multiprocessing() -> list[int]:
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(_print_and_double, [1, 2, 3])

    assert await node.run(worker, with_multiprocessing) == [2, 4, 6]
    assert await node.run(worker, add, 1, 2) == 3


def _print_and_double(x: int) -> int:
    print("from a grandchild", x)
    return 2 * x


# -- start and end


async def test_close_leaves_nothing_behind() -> None:
    me = psutil.Process()
    fds, threads, children = me.num_fds(), threading.active_count(), len(me.children(recursive=True))
    for _ in range(3):
        node = Node()
        await node.zygote.start()
        workers = [node.zygote.fork(i) for i in range(1, 4)]
        pids = [await node.run(worker, os.getpid) for worker in workers]

        def orphan() -> None:
            subprocess.Popen(["sleep", "1000"])

        await node.run(workers[0], orphan)
        node.task(workers[1], time.sleep, 1000)
        await node.zygote.close()
        assert not any(map(psutil.pid_exists, pids))
        assert node.ended == {}
    assert me.num_fds() == fds
    assert threading.active_count() == threads
    assert len(me.children(recursive=True)) == children


async def test_abort_leaves_nothing_behind() -> None:
    me = psutil.Process()
    fds = me.num_fds()
    node = Node()
    await node.zygote.start()
    worker = node.zygote.fork(1)
    pid = await node.run(worker, os.getpid)
    node.zygote.abort()
    assert me.num_fds() == fds
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)
    assert not psutil.pid_exists(pid)


DRIVER = """
import asyncio, os, sys, time
from actorfw.runtime.channel import Zygote
from actorfw.runtime.definitions import Definition
from actorfw.wire import messages as m
from actorfw.wire.code import CodeTable
from actorfw.wire.codec import Codec

def nap():
    time.sleep(1000)

async def main():
    got = asyncio.get_running_loop().create_future()
    settings = {"life": b"l" * 16, "node_id": "n", "host_id": "h"}
    handlers = [lambda worker, message: got.done() or got.set_result(message)] * 64
    zygote = Zygote(settings, handlers, ended=print, output=lambda w, text: print("RAW", text), lost=print)
    await zygote.start()
    codes = CodeTable("h")
    codec = Codec(codes)
    workers = [zygote.fork(i) for i in (1, 2)]
    for worker, fn in zip(workers, (nap, os.getpid)):
        hashed, recipe = Definition(fn, fn, {}).wire(codes)
        for blob in (hashed, recipe.code):
            worker.send((m.BLOB, blob, codes.get(blob)))
        worker.send((m.TASK, 1, hashed, [], None, None, 1, 0, 1, (b"l" * 16, 1), None))
    await got
    print(*[worker.pid for worker in workers], zygote._process.pid, flush=True)
    if "wait" in sys.argv:
        await asyncio.sleep(1000)
    await zygote.close()

asyncio.run(main())
"""


def _environment() -> dict[str, str]:
    root = str(Path(actorfw.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": root}


def test_a_killed_node_takes_zygote_and_workers_with_it(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen([sys.executable, script, "wait"], stdout=subprocess.PIPE, text=True, env=_environment())
    try:
        assert driver.stdout is not None
        pids = [int(word) for word in driver.stdout.readline().split()]
        processes = [psutil.Process(pid) for pid in pids]
        assert len(processes) == 3
    finally:
        driver.kill()
        driver.communicate()
    # One of the workers computes and does not read its socket.
    assert psutil.wait_procs(processes, timeout=10)[1] == []


def test_the_users_modules_do_not_shadow_the_standard_library(tmp_path: Path) -> None:
    for name in ("socket", "signal", "select", "struct", "pickle"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')\n")
    # Only the driver is told to keep its own folder off its path: it would not get far itself otherwise.
    done = subprocess.run(
        [sys.executable, "-P", "-c", DRIVER],
        cwd=tmp_path,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 3
    assert done.stderr == ""


def test_a_python_that_cannot_start_says_so(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho this is no python >&2\nexit 3\n")
    fake.chmod(0o755)
    script = textwrap.dedent("""
        import asyncio
        from actorfw.runtime.channel import Zygote
        async def main():
            said = []
            settings = {"life": b"", "node_id": "", "host_id": ""}
            zygote = Zygote(settings, [], ended=print, output=print, lost=said.append)
            try:
                await zygote.start()
            except RuntimeError as error:
                print(error)
            assert said
            await zygote.close()
        asyncio.run(main())
    """)
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script],
        env={**_environment(), "ACTORFW_PYTHON": str(fake)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "status 3" in done.stdout
    assert "this is no python" in done.stdout
    assert done.stderr == ""
