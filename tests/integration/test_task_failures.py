"""What becomes of tasks when they raise, and when the process or node that runs them dies."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import actorfw
from actorfw.runtime import current
from tests.integration.quiet import all_quiet

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

EXECUTORS = ("process", "thread", "loop")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[actorfw.LocalCluster]:
    async with actorfw.LocalCluster(nodes=1, num_cpus=1) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", params=["here", "there"])
async def there(cluster: actorfw.LocalCluster, request: pytest.FixtureRequest) -> actorfw.NodeAffinity:
    rows = await actorfw.nodes()
    return actorfw.NodeAffinity(next(row.id for row in rows if row.here == (request.param == "here")))


# -- errors ------------------------------------------------------------------------------------------------------------


class Odd(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")
        self.sum = one + two


def fail(how: str) -> Any:
    if how == "cause":
        try:
            {}["x"]  # type: ignore[index]
        except KeyError as error:
            raise ValueError("bad") from error
    if how == "context":
        try:
            {}["x"]  # type: ignore[index]
        except KeyError:
            raise ValueError("bad")  # noqa: B904
    if how == "notes":
        error = ValueError("bad")
        error.add_note("look here")
        raise error
    if how == "group":
        raise ExceptionGroup("some", [ValueError("a"), KeyError("b")])
    if how == "constructor":
        raise Odd(1, 2)
    if how == "unpicklable":
        bad = ValueError("bad")
        bad.lock = threading.Lock()  # type: ignore[attr-defined]
        raise bad
    if how == "infrastructure":
        raise actorfw.NodeDiedError("of its own")
    if how == "exit":
        sys.exit(3)
    raise {
        "interrupt": KeyboardInterrupt,
        "stop": StopIteration,
        "async stop": StopAsyncIteration,
        "cancelled": asyncio.CancelledError,
    }[how]


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_an_exception_arrives_as_itself(there: actorfw.NodeAffinity, executor: Any) -> None:
    run = actorfw.remote(fail).options(scheduling=there, executor=executor).remote
    with pytest.raises(ValueError, match="bad") as caught:
        await run("cause")
    assert isinstance(caught.value.__cause__, KeyError)
    last: BaseException = caught.value
    while last.__cause__ is not None:
        last = last.__cause__
    assert "Traceback" in str(last)
    assert "in fail" in str(last)
    with pytest.raises(ValueError, match="bad") as caught:
        await run("context")
    assert isinstance(caught.value.__context__, KeyError)
    with pytest.raises(ValueError, match="bad") as caught:
        await run("notes")
    assert "look here" in caught.value.__notes__
    with pytest.raises(ExceptionGroup) as group:
        await run("group")
    assert [type(one) for one in group.value.exceptions] == [ValueError, KeyError]
    with pytest.raises(Odd) as odd:
        await run("constructor")
    assert odd.value.sum == 3


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(
    "how", ["unpicklable", "infrastructure", "exit", "interrupt", "stop", "async stop", "cancelled"]
)
async def test_what_may_not_travel_arrives_as_a_task_error(
    there: actorfw.NodeAffinity, executor: Any, how: str
) -> None:
    run = actorfw.remote(fail).options(scheduling=there, executor=executor).remote
    with pytest.raises((actorfw.TaskError, ValueError) if how == "unpicklable" else actorfw.TaskError) as caught:
        await run(how)
    assert caught.value.__cause__ is not None
    assert await actorfw.remote(os.getpid).options(scheduling=there, executor=executor).remote() > 0


async def test_an_infrastructure_error_tells_what_ran(there: actorfw.NodeAffinity) -> None:
    assert actorfw.TaskError().ran is True


async def test_what_cannot_be_sent_names_the_path(there: actorfw.NodeAffinity) -> None:
    @actorfw.remote
    def take(*args: Any) -> None: ...

    class Session:
        def __init__(self) -> None:
            self.db = {"conn": threading.Lock()}

    with pytest.raises(actorfw.SerializationError, match=r"args\[1\]\.db") as caught:
        take.remote(1, Session())
    assert caught.value.ran is False
    deep: list[Any] = []
    deep.append(deep)
    assert await take.options(scheduling=there).remote(deep) is None


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_a_result_that_cannot_be_sent(there: actorfw.NodeAffinity, executor: Any) -> None:
    def lock() -> Any:
        return [threading.Lock()]

    with pytest.raises(actorfw.SerializationError) as caught:
        await actorfw.remote(lock).options(scheduling=there, executor=executor).remote()
    assert caught.value.ran is True


async def test_a_failed_argument_fails_the_task_without_running_it(there: actorfw.NodeAffinity, tmp_path: Path) -> None:
    def touch(_: Any, path: str) -> None:
        Path(path).touch()

    for executor in EXECUTORS:
        bad = actorfw.remote(fail).remote("notes")
        ref = actorfw.remote(touch).options(scheduling=there, executor=executor).remote(bad, str(tmp_path / "ran"))
        with pytest.raises(ValueError, match="bad"):
            await ref
    assert not list(tmp_path.iterdir())
    del bad, ref
    await all_quiet()


# -- retries -----------------------------------------------------------------------------------------------------------


def count_up(path: str) -> int:
    """How often this was called with that path, this time included."""
    with open(path, "a") as file:
        file.write(f"{actorfw.context().attempt}\n")
    return len(Path(path).read_text().split())


def raises_at_first(path: str, times: int, error: type[Exception]) -> int:
    n = count_up(path)
    if n <= times:
        raise error(n)
    return n


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_listed_exceptions_are_retried(there: actorfw.NodeAffinity, executor: Any, tmp_path: Path) -> None:
    run = actorfw.remote(raises_at_first).options(scheduling=there, executor=executor, retry_delay=0)
    path = str(tmp_path / "a")
    assert await run.options(retry_exceptions=[OSError]).remote(path, 2, OSError) == 3
    assert Path(path).read_text().split() == ["1", "2", "3"]  # context().attempt
    with pytest.raises(ValueError, match="1"):
        await run.options(retry_exceptions=[OSError]).remote(str(tmp_path / "b"), 1, ValueError)
    assert await run.options(retry_exceptions=True).remote(str(tmp_path / "c"), 1, ValueError) == 2
    with pytest.raises(OSError, match="4"):
        await run.options(retry_exceptions=True).remote(str(tmp_path / "d"), 99, OSError)  # three retries: four runs
    with pytest.raises(OSError, match="1"):
        await run.options(retry_exceptions=True, max_retries=0).remote(str(tmp_path / "e"), 99, OSError)
    assert await run.options(retry_exceptions=True, max_retries=-1).remote(str(tmp_path / "f"), 6, OSError) == 7
    with pytest.raises(OSError, match="1"):
        await run.remote(str(tmp_path / "g"), 1, OSError)  # not by default


# -- deaths of workers -------------------------------------------------------------------------------------------------


def die(how: str) -> None:
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "exit":
        os._exit(7)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def dies_at_first(path: str, times: int, how: str) -> int:
    n = count_up(path)
    if n <= times:
        die(how)
    return n


@pytest.mark.parametrize("how", ["segfault", "exit", "kill"])
async def test_a_worker_that_dies_is_replaced_and_its_task_runs_again(
    there: actorfw.NodeAffinity, how: str, tmp_path: Path
) -> None:
    run = actorfw.remote(dies_at_first).options(scheduling=there, retry_delay=0)
    assert await run.remote(str(tmp_path / "a"), 1, how) == 2
    assert Path(tmp_path / "a").read_text().split() == ["1", "2"]
    with pytest.raises(actorfw.WorkerDiedError) as caught:
        await run.options(max_retries=1).remote(str(tmp_path / "b"), 99, how)
    assert caught.value.ran is None
    assert {"segfault": "SIGSEGV", "exit": "status 7", "kill": "SIGKILL"}[how] in str(caught.value)
    assert "dies_at_first" in str(caught.value)
    assert (tmp_path / "b").read_text().split() == ["1", "2"]
    with pytest.raises(actorfw.WorkerDiedError):
        await run.options(max_retries=0).remote(str(tmp_path / "c"), 1, how)
    assert (tmp_path / "c").read_text().split() == ["1"]
    await all_quiet()


async def test_tasks_behind_one_that_kills_its_worker_lose_no_attempt(
    there: actorfw.NodeAffinity, tmp_path: Path
) -> None:
    quick = actorfw.remote(lambda i: (i, actorfw.context().attempt)).options(scheduling=there, max_retries=0)
    await asyncio.gather(*(quick.remote(i) for i in range(50)))  # so that they are sent in batches
    killer = actorfw.remote(die).options(scheduling=there, max_retries=0)
    refs = [quick.remote(i) if i != 20 else killer.remote("kill") for i in range(60)]
    got = await asyncio.gather(*refs, return_exceptions=True)
    assert isinstance(got[20], actorfw.WorkerDiedError)
    assert [one for i, one in enumerate(got) if i != 20] == [(i, 1) for i in range(60) if i != 20]


async def test_a_stream_goes_on_where_it_was_when_its_worker_dies(there: actorfw.NodeAffinity, tmp_path: Path) -> None:
    def numbers(path: str, count: int) -> Iterator[int]:
        first = count_up(path) == 1
        for i in range(count):
            if first and i == 70:
                os._exit(1)
            yield i

    stream = actorfw.remote(numbers).options(scheduling=there, retry_delay=0).remote(str(tmp_path / "a"), 200)
    assert [i async for i in stream] == list(range(200))
    assert len((tmp_path / "a").read_text().split()) == 2
    got: list[int] = []
    once = actorfw.remote(numbers).options(scheduling=there, max_retries=0).remote(str(tmp_path / "b"), 200)
    with pytest.raises(actorfw.WorkerDiedError):
        async for i in once:
            got.append(i)
    assert got == list(range(len(got)))
    await all_quiet()


class SlowAtSecond:
    """An argument that takes long to unpack, the second time."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __getstate__(self) -> str:
        return self.path

    def __setstate__(self, path: str) -> None:
        self.path = path
        with open(path, "a") as file:
            file.write("loaded\n")
        if Path(path).read_text().count("loaded") == 2:
            time.sleep(1.0)


async def test_a_stream_is_read_while_its_next_attempt_gets_ready(there: actorfw.NodeAffinity, tmp_path: Path) -> None:
    """That its reader has read what came before is not forgotten until it begins."""

    def numbers(argument: SlowAtSecond, count: int) -> Iterator[int]:
        if Path(argument.path).read_text().count("loaded") == 1:
            threading.Timer(0.3, os._exit, (1,)).start()
        yield from range(count)

    path = tmp_path / "loads"
    stream = actorfw.remote(numbers).options(scheduling=there, retry_delay=0).remote(SlowAtSecond(str(path)), 200)
    while not path.exists() or path.read_text().count("loaded") < 2:
        await asyncio.sleep(0.01)
    got = [await anext(stream) for _ in range(32)]

    async def rest() -> list[int]:
        return [i async for i in stream]

    got += await asyncio.wait_for(rest(), 10)
    assert got == list(range(200))
    await all_quiet()


async def test_what_a_dead_worker_had_submitted_is_let_go(there: actorfw.NodeAffinity, tmp_path: Path) -> None:
    @actorfw.remote
    async def child(path: str) -> list[int]:
        Path(path).touch()
        return [1]

    def parent(path: str) -> int:
        if count_up(path + "/runs") == 1:
            refs = [child.remote(f"{path}/{i}") for i in range(5)]
            actorfw.get(actorfw.wait(refs, num_returns=5))
            actorfw.put([refs])
            os._exit(1)
        return 7

    (tmp_path / "x").mkdir()
    assert await actorfw.remote(parent).options(scheduling=there, retry_delay=0).remote(str(tmp_path / "x")) == 7
    assert len(list((tmp_path / "x").iterdir())) == 6
    await all_quiet()


async def test_tasks_that_a_dying_task_submitted_still_run(cluster: actorfw.LocalCluster, tmp_path: Path) -> None:
    @actorfw.remote
    def child(path: str) -> None:
        Path(path).touch()

    def parent(path: str) -> None:
        child.remote(path)
        actorfw.get(actorfw.nodes())  # so the submission has left
        os._exit(1)

    with pytest.raises(actorfw.WorkerDiedError):
        await actorfw.remote(parent).options(max_retries=0).remote(str(tmp_path / "done"))
    while not (tmp_path / "done").exists():
        await asyncio.sleep(0.01)


# -- deadlines ---------------------------------------------------------------------------------------------------------


def for_ever() -> None:
    threading.Event().wait()


async def for_ever_async() -> None:
    await asyncio.Event().wait()


async def test_a_deadline_ends_a_task_and_its_children(there: actorfw.NodeAffinity) -> None:
    for fn in (for_ever, for_ever_async):
        with pytest.raises(actorfw.DeadlineExceededError) as caught:
            await actorfw.remote(fn).options(scheduling=there, timeout=0.2).remote()
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.ran is None
    with pytest.raises(actorfw.DeadlineExceededError) as caught:
        await actorfw.remote(for_ever).options(scheduling=there, timeout=0).remote()
    assert caught.value.ran is False

    @actorfw.remote
    def parent() -> float:
        @actorfw.remote
        def child() -> float:
            deadline = actorfw.context().deadline
            assert deadline is not None
            return deadline

        return float(actorfw.get(child.remote()))

    assert await parent.options(scheduling=there, timeout=30).remote() > 0
    assert await actorfw.remote(os.getpid).options(scheduling=there).remote() > 0  # the worker is free again
    await all_quiet()


# -- deaths of nodes ---------------------------------------------------------------------------------------------------


async def test_a_node_that_is_killed_in_the_middle() -> None:
    @actorfw.remote
    def work(i: int) -> tuple[int, int]:
        threading.Event().wait(0.005)
        return i, actorfw.context().attempt

    @actorfw.remote(executor="loop")
    async def stay() -> None:
        await asyncio.Event().wait()

    config = actorfw.Config(link_patience=3)
    node = actorfw.Node(num_cpus=1, config=config)
    async with node:
        path = [p for p in sys.path if p]
        children = [await _member(node, path) for _ in range(2)]
        try:
            ids = {row.pid: row.id for row in await actorfw.nodes()}
            victim = children[0]
            on_it = actorfw.NodeAffinity(ids[victim.pid])
            once = stay.options(scheduling=on_it, max_retries=0).remote()
            refs = [work.options(scheduling="spread").remote(i) for i in range(300)]
            await asyncio.wait([refs[10]])
            victim.kill()
            got = await asyncio.gather(*refs)
            assert [i for i, _ in got] == list(range(300))
            assert max(attempt for _, attempt in got) >= 2
            with pytest.raises(actorfw.NodeDiedError) as caught:
                await once
            assert caught.value.ran is None
            del refs, once, got
            await all_quiet()
        finally:
            for child in children:
                if child.returncode is None:
                    child.kill()
                await child.wait()


async def _member(node: actorfw.Node, path: list[str]) -> asyncio.subprocess.Process:
    """Another node of the cluster, in a process of its own."""
    home = current.home()
    code = (
        f"import sys, asyncio; sys.path[:] = {path!r}; import actorfw\n"
        "async def main():\n"
        f"    async with actorfw.init(seeds=[{node.address!r}], num_cpus=1, config=actorfw.Config(borrow_grace=1)):\n"
        "        print('up', flush=True); await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    assert await child.stdout.readline() == b"up\n"
    while not any(row.pid == child.pid and row.state == "up" for row in home.members.listing()):  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)
    return child
