"""Tasks as a program meets them: functions of all kinds, in all executors, here and on another node."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

import actorfw
from tests.integration.quiet import all_quiet

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

GATE = threading.Event()
LOCK = threading.Lock()  # what a module may have, though it can't be pickled


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[actorfw.LocalCluster]:
    async with actorfw.LocalCluster(nodes=1, num_cpus=1) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", params=["here", "there"])
async def there(cluster: actorfw.LocalCluster, request: pytest.FixtureRequest) -> actorfw.NodeAffinity:
    """Where a test's tasks run."""
    rows = await actorfw.nodes()
    return actorfw.NodeAffinity(next(row.id for row in rows if row.here == (request.param == "here")))


@actorfw.remote
def square(x: int) -> int:
    """The square of a number."""
    return x * x


@actorfw.remote
def add(a: Any, b: Any = 0) -> Any:
    return a + b


@actorfw.remote
async def slowly(x: Any) -> Any:
    await asyncio.sleep(0.001)
    return x


@actorfw.remote
def where() -> tuple[int, str, str]:
    return os.getpid(), actorfw.context().node_id, threading.current_thread().name


@actorfw.remote
async def where_async() -> tuple[int, str, str]:
    return os.getpid(), actorfw.context().node_id, threading.current_thread().name


@actorfw.remote
def fib(n: int) -> int:
    if n < 2:
        return n
    return sum(actorfw.get([fib.remote(n - 1), fib.remote(n - 2)]))


@actorfw.remote
def two() -> tuple[str, list[int]]:
    return "a", [1]


# -- the ordinary ways -------------------------------------------------------------------------------------------------


async def test_a_task_of_each_kind(there: actorfw.NodeAffinity) -> None:
    for executor in ("process", "thread", "loop"):
        assert await square.options(executor=executor, scheduling=there).remote(4) == 16
        assert await slowly.options(executor=executor, scheduling=there).remote("x") == "x"


async def test_an_ordinary_call_runs_here_and_now(cluster: actorfw.LocalCluster) -> None:
    assert square(4) == 16
    assert square.__name__ == "square"
    assert square.__doc__ == "The square of a number."


async def test_where_each_executor_is(there: actorfw.NodeAffinity) -> None:
    here = there.node_id == cluster_id()
    pid, node, _ = await where.options(scheduling=there).remote()
    assert node == there.node_id
    assert pid != os.getpid()
    pid, node, thread = await where.options(scheduling=there, executor="thread").remote()
    assert node == there.node_id
    assert (pid == os.getpid()) is here
    assert "task" in thread
    pid, node, thread = await where_async.options(scheduling=there).remote()
    assert node == there.node_id
    assert (pid == os.getpid()) is here
    assert thread == "MainThread"


def cluster_id() -> str:
    return actorfw.context().node_id


async def test_many_at_once(there: actorfw.NodeAffinity) -> None:
    assert await asyncio.gather(*(square.options(scheduling=there).remote(i) for i in range(300))) == [
        i * i for i in range(300)
    ]
    assert await actorfw.gather([slowly.options(scheduling=there).remote(i) for i in range(300)]) == list(range(300))


class SlowToGo:
    """Takes its time when it goes in a worker, at a moment when its task has been answered."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.pid:
            time.sleep(0.2)


@actorfw.remote
def look_at(value: SlowToGo) -> int:
    return value.pid


async def test_what_a_task_leaves_behind_takes_long_to_go(there: actorfw.NodeAffinity) -> None:
    for _ in range(3):  # each comes while the worker is at that, which hands it back
        assert await asyncio.wait_for(look_at.options(scheduling=there).remote(SlowToGo()), 30) == os.getpid()


async def test_refs_as_arguments_are_resolved_and_inside_values_stay_refs(there: actorfw.NodeAffinity) -> None:
    def kind_of(top: Any, *, named: Any, inside: list[Any]) -> list[str]:
        return [type(top).__name__, type(named).__name__, type(inside[0]).__name__]

    @actorfw.remote
    def total(refs: list[Any]) -> int:
        return int(sum(actorfw.get(refs)))

    run = {"scheduling": there}
    for executor in ("process", "thread", "loop"):
        kinds = actorfw.remote(kind_of).options(executor=executor, **run).remote
        assert await kinds(square.remote(2), named=square.remote(3), inside=[square.remote(4)]) == [
            "int",
            "int",
            "ObjectRef",
        ]
    assert await add.options(**run).remote(square.remote(2), square.remote(3)) == 13
    assert await add.options(**run).remote(slowly.remote([1]), b=slowly.remote([2])) == [1, 2]
    assert await total.options(**run).remote([square.remote(1), square.remote(2)]) == 5
    await all_quiet()


async def test_a_chain_of_tasks_on_alternating_nodes(cluster: actorfw.LocalCluster) -> None:
    ids = [row.id for row in await actorfw.nodes()]
    ref: Any = 0
    for i in range(20):
        ref = add.options(scheduling=actorfw.NodeAffinity(ids[i % 2])).remote(ref, 1)
    assert await ref == 20
    del ref
    await all_quiet()


async def test_num_returns(there: actorfw.NodeAffinity) -> None:
    for executor in ("process", "thread", "loop"):
        a, b = two.options(num_returns=2, executor=executor, scheduling=there).remote()
        assert await b == [1]
        assert await a == "a"
        parts: Any = two.options(num_returns=3, executor=executor, scheduling=there).remote()
        for part in parts:
            with pytest.raises(actorfw.TaskError, match="num_returns=3 and returned 2 values"):
                await part
        none: Any = square.options(num_returns=0, executor=executor, scheduling=there).remote(1)
        assert not none
    with pytest.raises(TypeError, match="num_returns"):
        _x, _y = two.remote()
    await all_quiet()


async def test_arguments_are_copied_before_remote_returns(there: actorfw.NodeAffinity) -> None:
    given = [1, 2]
    array = np.zeros(100_000)
    refs = [add.options(executor=e, scheduling=there).remote(given, [3]) for e in ("process", "thread", "loop")]
    summed = add.options(scheduling=there).remote(array, 1)
    given.append(99)
    array[:] = 7
    for ref in refs:
        assert await ref == [1, 2, 3]
    assert (await summed == 1).all()


async def test_a_value_inside_one_node_is_a_copy_too(cluster: actorfw.LocalCluster) -> None:
    given: list[int] = []

    @actorfw.remote
    async def grow(what: list[int]) -> list[int]:
        what.append(1)
        return what

    ref = grow.remote(given)
    assert await ref == [1]
    assert given == []
    first, second = await ref, await ref
    assert first is not second


async def test_nested_tasks_with_one_cpu(there: actorfw.NodeAffinity) -> None:
    assert await fib.options(scheduling=there).remote(10) == 55


async def test_nested_tasks_in_threads_with_one_cpu(cluster: actorfw.LocalCluster) -> None:
    @actorfw.remote(executor="thread")
    def outer(depth: int) -> int:
        if depth == 0:
            return int(actorfw.get(square.remote(3)))
        return int(actorfw.get(outer.remote(depth - 1)))

    assert await outer.remote(5) == 9
    assert await outer.options(scheduling=actorfw.NodeAffinity(cluster_id())).remote(5) == 9


async def test_the_number_of_processes_follows_the_depth(cluster: actorfw.LocalCluster) -> None:
    here = actorfw.NodeAffinity(cluster_id())
    assert await fib.options(scheduling=here).remote(13) == 233
    from actorfw.runtime import current

    assert len(current.home().pool.workers) <= 13 + 5  # type: ignore[attr-defined]


async def test_a_worker_waits_in_its_own_loop_too(there: actorfw.NodeAffinity) -> None:
    @actorfw.remote
    def outer() -> list[int]:
        async def main() -> list[int]:
            pair = await asyncio.gather(square.remote(2), square.remote(3))
            ready, _ = await actorfw.wait([square.remote(4)])
            return [
                *pair,
                *[await ref for ref in ready],
                *[await ref async for ref in actorfw.as_completed([square.remote(5)])],
            ]

        return asyncio.run(main())

    assert await outer.options(scheduling=there).remote() == [4, 9, 16, 25]


async def test_the_context_of_a_task(there: actorfw.NodeAffinity) -> None:
    def tell() -> tuple[Any, ...]:
        context = actorfw.context()
        return context.node_id, context.task_id, context.attempt, bool(context.actor_id), context.deadline is not None

    for executor in ("process", "thread", "loop"):
        told = actorfw.remote(tell).options(executor=executor, scheduling=there)
        ref = told.remote()
        assert await ref == (there.node_id, ref.id, 1, False, False)
        assert (await told.options(timeout=60).remote())[4]


async def test_in_a_script_get_blocks_and_on_a_loop_it_refuses(cluster: actorfw.LocalCluster) -> None:
    with pytest.raises(actorfw.BlockingCallError, match="await"):
        actorfw.get(square.remote(2))
    assert await asyncio.to_thread(lambda: actorfw.get([square.remote(2), square.remote(3)])) == [4, 9]
    assert await asyncio.to_thread(lambda: actorfw.get(actorfw.gather([square.remote(2)]))) == [4]


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_cpu": 1}, "'num_cpu' is no option of task square; the options are .*num_cpus"),
        ({"num_cpus": "2"}, "'num_cpus' of task square is '2'"),
        ({"num_cpus": -1}, "'num_cpus'"),
        ({"max_retries": -2}, "'max_retries'"),
        ({"max_retries": 1.5}, "'max_retries'"),
        ({"executor": "gpu"}, "'process', 'thread' or 'loop'"),
        ({"retry_exceptions": [1]}, "'retry_exceptions'"),
        ({"timeout": "1"}, "'timeout'"),
        ({"num_returns": -1}, "'num_returns'"),
        ({"scheduling": "pack"}, "scheduling"),
        ({"resources": {"CPU": 1}}, "num_cpus"),
        ({"runtime_env": {"pip": []}}, "'pip' is no key"),
        ({"max_restarts": 1}, "not there yet|no option"),
    ],
)
async def test_a_wrong_option_fails_at_once(options: Any, message: str) -> None:
    with pytest.raises(actorfw.UsageError, match=message):
        square.options(**options)
    with pytest.raises(actorfw.UsageError):
        actorfw.remote(**options)(lambda: None)


async def test_names(there: actorfw.NodeAffinity) -> None:
    def tell() -> None:
        raise ValueError("no")

    ref = actorfw.remote(tell).options(name="chosen", scheduling=there, max_retries=0).remote()
    with pytest.raises(ValueError, match="no") as caught:
        await ref
    assert "chosen" in str(_last_cause(caught.value))


def _last_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


# -- code --------------------------------------------------------------------------------------------------------------


async def test_closures_lambdas_and_local_classes_travel_by_value(there: actorfw.NodeAffinity) -> None:
    factor = 3

    class Box:
        def __init__(self, x: int) -> None:
            self.x = x

        def times(self) -> int:
            return self.x * factor

    boxed = actorfw.remote(lambda box: Box(box.times()))
    assert (await boxed.options(scheduling=there).remote(Box(2))).x == 6
    assert (await boxed.options(scheduling=there, executor="loop").remote(Box(2))).x == 6


async def test_a_lock_in_the_module_of_a_function_is_no_trouble(there: actorfw.NodeAffinity) -> None:
    assert await uses_the_lock.options(scheduling=there).remote() == "free"


@actorfw.remote
def uses_the_lock() -> str:
    with LOCK:
        return "free"


@pytest.mark.parametrize("start", ["script", "-c", "stdin"])
async def test_code_of_main_needs_no_guard(tmp_path: Any, start: str) -> None:
    code = """
import actorfw
class Point:
    def __init__(self, x): self.x = x
@actorfw.remote
def double(p): return Point(helper(p.x))
def helper(x): return 2 * x
with actorfw.init(num_cpus=1):
    print(actorfw.get(double.remote(Point(21))).x, flush=True)
"""
    command = [sys.executable, "-X", "dev", "-W", "error"]
    if start == "script":
        (tmp_path / "script.py").write_text(code)
        command.append(str(tmp_path / "script.py"))
    elif start == "-c":
        command += ["-c", code]
    else:
        command.append("-")
    path = os.pathsep.join(p for p in sys.path if p)
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        input=code if start == "stdin" else None,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        timeout=50,
    )
    # With -X dev asyncio says which of its steps were slow: on a busy machine any may be.
    said = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.returncode, done.stdout, said) == (0, "42\n", [])


async def test_what_tasks_print_has_a_prefix() -> None:
    code = """
import actorfw
@actorfw.remote
def speak(): print("hello"); import sys; print("oh", file=sys.stderr)
with actorfw.init(num_cpus=1, name="here", log_to_driver=True):
    actorfw.get(speak.remote())
"""
    path = os.pathsep.join(p for p in sys.path if p)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0
    import re

    assert re.fullmatch(r"\(speak pid=\d+ node=here\) hello\n", done.stdout)
    assert re.fullmatch(r"\(speak pid=\d+ node=here\) oh\n", done.stderr)


# -- much --------------------------------------------------------------------------------------------------------------


@actorfw.remote(executor="thread")
def wait_at_the_gate(_: bytes) -> None:
    GATE.wait()


async def test_a_full_outbox_refuses_on_a_loop_and_blocks_a_thread() -> None:
    from actorfw.runtime import current

    GATE.clear()
    config = actorfw.Config(max_outbox=1 << 20)
    async with actorfw.Node(num_cpus=1, config=config) as node:
        refs = [wait_at_the_gate.remote(b"")]
        with pytest.raises(actorfw.OverloadedError, match="max_outbox") as caught:
            for _ in range(100):
                refs.append(wait_at_the_gate.remote(bytes(1 << 17)))
        assert caught.value.ran is False
        assert len(refs) < 12
        submitted: list[Any] = []

        def submit() -> None:
            current.entered.set(node.runtime)
            for _ in range(20):
                submitted.append(wait_at_the_gate.remote(bytes(1 << 17)))

        thread = threading.Thread(target=submit)
        thread.start()
        for _ in range(20):
            await asyncio.sleep(0)
        assert thread.is_alive()
        assert len(submitted) < 2
        GATE.set()
        await asyncio.gather(*refs)
        await asyncio.to_thread(thread.join)
        await asyncio.gather(*submitted)
        assert node.runtime.tasks.outbox.waiting_bytes == 0


async def test_a_worker_that_submits_much_is_held_back() -> None:
    @actorfw.remote
    def child(data: bytes) -> int:
        return len(data)

    @actorfw.remote
    def parent(count: int) -> int:
        return int(sum(actorfw.get([child.remote(bytes(1 << 18)) for _ in range(count)])))

    config = actorfw.Config(max_outbox=4 << 20)
    async with actorfw.Node(num_cpus=1, config=config) as node:
        ref = parent.remote(100)
        most = 0
        while not ref.done():
            most = max(most, node.runtime.tasks.outbox.waiting_bytes)
            await asyncio.sleep(0)
        assert await ref == 100 << 18
        assert most < 8 << 20


async def test_others_wait_no_longer_than_the_copy_of_a_large_argument(cluster: actorfw.LocalCluster) -> None:
    """While a GiB is on its way to a worker, small things go on."""
    array = np.ones(1 << 27)

    @actorfw.remote
    def total(x: Any) -> float:
        return float(x.sum())

    here = actorfw.NodeAffinity(cluster_id())
    ref = total.options(scheduling=here).remote(array)
    turns = 0
    while not ref.done():
        assert await slowly.remote(1) == 1
        turns += 1
    assert await ref == float(1 << 27)
    assert turns > 20  # of the loop, while the copy went out in slices; at once it would let none pass
    del ref
    await all_quiet()


async def test_everything_is_forgotten_in_the_end(cluster: actorfw.LocalCluster) -> None:
    await all_quiet()
    assert time.monotonic() > 0
    assert isinstance(square.remote, Callable)  # type: ignore[arg-type]
