"""How calls take turns: one at a time, concurrency, groups, order, generators, cancelling and deadlines."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

import actorfw

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[actorfw.LocalCluster]:
    async with actorfw.LocalCluster(nodes=1, num_cpus=2) as running:
        yield running


Maker = Callable[..., Any]


@pytest_asyncio.fixture(
    loop_scope="module", params=["here", "there", "thread here", "thread there", "process here", "process there"]
)
async def make(cluster: actorfw.LocalCluster, request: pytest.FixtureRequest) -> Maker:
    executor, _, where = request.param.rpartition(" ")
    rows = await actorfw.nodes()
    node_id = next(row.id for row in rows if row.here == (where == "here"))
    placed: dict[str, Any] = {"scheduling": actorfw.NodeAffinity(node_id)}
    if executor:
        placed["executor"] = executor

    def make(actor_class: Any, *args: Any, **options: Any) -> Any:
        return actor_class.options(**{**placed, **options}).remote(*args)

    return make


@actorfw.remote
class Board:
    """Where actors under test write what they do, and where they wait to be let go on."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.doors: dict[str, asyncio.Event] = {}
        self.news = asyncio.Event()

    @actorfw.method(interleave=True)
    async def write(self, line: Any) -> None:
        self.lines.append(line)
        self.news.set()

    @actorfw.method(interleave=True)
    async def door(self, name: str) -> None:
        await self.doors.setdefault(name, asyncio.Event()).wait()

    @actorfw.method(interleave=True)
    async def open(self, name: str) -> None:
        self.doors.setdefault(name, asyncio.Event()).set()

    @actorfw.method(interleave=True)
    async def until(self, *wanted: Any) -> list[Any]:
        while not set(wanted) <= set(self.lines):
            self.news.clear()
            await self.news.wait()
        return list(self.lines)

    @actorfw.method(interleave=True)
    async def all(self) -> list[Any]:
        return list(self.lines)


@actorfw.remote
class Subject:
    def __init__(self, board: Any) -> None:
        self.board = board

    async def log(self, line: Any) -> Any:
        await self.board.write(line)
        return line

    async def held(self, name: str) -> str:
        try:
            await self.board.write(f"in {name}")
            await self.board.door(name)
        except asyncio.CancelledError:
            self.board.write.tell(f"cancelled {name}")
            raise
        await self.board.write(f"out {name}")
        return name

    async def hang(self, name: str) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.board.write.tell(f"cancelled {name}")
            raise

    @actorfw.method(interleave=True)
    async def beside(self, name: str) -> str:
        return await self.held(name)

    @actorfw.method(ordered=False)
    async def unordered(self, line: Any) -> Any:
        return await self.log(line)

    async def stream(self, count: int) -> AsyncIterator[int]:
        try:
            for i in range(count):
                yield i
        finally:
            await self.board.write("closed")

    async def stuck_stream(self) -> AsyncIterator[int]:
        try:
            yield 0
            await self.board.write("stuck")
            await self.board.door("never")
        finally:
            await self.board.write("closed stuck")

    async def broken_stream(self) -> AsyncIterator[int]:
        yield 1
        yield 2
        raise KeyError("after two")

    async def bad_item(self) -> AsyncIterator[Any]:
        yield 1
        yield threading.Lock()

    async def deadline(self) -> float | None:
        return actorfw.context().deadline

    async def nested_deadline(self, other: Any) -> bool:
        mine = actorfw.context().deadline
        theirs = await other.deadline()
        return mine is not None and theirs is not None

    async def nested(self, other: Any, name: str) -> Any:
        return await other.held(name)


class Grouped(Subject):  # type: ignore[misc,valid-type]
    @actorfw.method(group="io")
    async def io(self, name: str) -> str:
        return await self.held(name)


class Plain:
    """No coroutines: one call after another on the main thread of a process."""

    def __init__(self, board: Any) -> None:
        self.board = board

    def log(self, line: Any) -> Any:
        actorfw.get(self.board.write(line))
        return line

    def held(self, name: str) -> str:
        self.log(f"in {name}")
        actorfw.get(self.board.door(name))
        self.log(f"out {name}")
        return name

    def stream(self, count: int) -> Iterator[int]:
        try:
            yield from range(count)
        finally:
            self.log("closed")

    @actorfw.method(interleave=True)
    def beside(self, name: str) -> str:
        return self.held(name)


PlainActor = actorfw.remote(Plain)


async def collect(stream: Any, into: list[Any]) -> None:
    async for item in stream:
        into.append(item)


async def test_one_call_at_a_time(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board)
    first = subject.held.remote("a")
    second = subject.held.remote("b")
    await board.until("in a")
    await board.open("b")
    assert await board.all() == ["in a"]
    await board.open("a")
    assert await asyncio.gather(first, second) == ["a", "b"]
    assert await board.all() == ["in a", "out a", "in b", "out b"]


async def test_plain_calls_of_its_own_methods_take_no_turn(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board)
    await board.open("a")
    assert await subject.beside("a") == "a"


async def test_max_concurrency_lets_so_many_run(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board, max_concurrency=2)
    refs = [subject.held.remote(name) for name in "abc"]
    assert sorted(await board.until("in a", "in b")) == ["in a", "in b"]
    await board.open("b")
    assert await refs[1] == "b"
    await board.until("in c")
    await board.open("a")
    await board.open("c")
    assert await asyncio.gather(*refs) == ["a", "b", "c"]


async def test_an_interleaved_method_runs_beside_a_running_call(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board)
    held = subject.held.remote("turn")
    await board.until("in turn")
    await board.open("side")
    assert await subject.beside("side") == "side"
    assert not held.done()
    await board.open("turn")
    assert await held == "turn"


async def test_calls_run_beside_an_interleaved_one(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board)
    socket = subject.beside.remote("socket")
    await board.until("in socket")
    assert await subject.log(1) == 1
    await board.open("socket")
    assert await socket == "socket"


async def test_interleaving_def_methods_of_a_process_actor(cluster: actorfw.LocalCluster) -> None:
    board = Board.remote()
    subject = PlainActor.remote(board)
    held = subject.held.remote("turn")
    await board.until("in turn")
    await board.open("side")
    assert await subject.beside("side") == "side"
    await board.open("turn")
    assert await held == "turn"


async def test_groups_have_room_of_their_own(make: Maker) -> None:
    board = Board.remote()
    subject = make(Grouped, board, concurrency_groups={"io": 2})
    calls = [subject.held.remote("turn"), *(subject.io.remote(name) for name in "abc")]
    await board.until("in turn", "in a", "in b")
    assert "in c" not in await board.all()
    assert not any(call.done() for call in calls)
    await board.open("a")
    await board.until("in c")
    for name in ("turn", "b", "c"):
        await board.open(name)
    assert await asyncio.gather(*calls) == ["turn", "a", "b", "c"]


async def test_a_full_group_does_not_keep_others_out(make: Maker) -> None:
    board = Board.remote()
    subject = make(Grouped, board, concurrency_groups={"io": 1})
    held = [subject.io.remote("a") for _ in range(300)]
    assert await subject.log("through") == "through"
    await board.open("a")
    await asyncio.gather(*held)


async def test_a_group_must_exist(cluster: actorfw.LocalCluster) -> None:
    with pytest.raises(actorfw.UsageError, match=r"io.*concurrency_groups"):

        @actorfw.remote(concurrency_groups={"cpu": 2})
        class Misspelt:
            @actorfw.method(group="io")
            async def read(self) -> None: ...

    with pytest.raises(actorfw.UsageError, match=r"io.*concurrency_groups"):
        Grouped.remote(Board.remote())


async def test_calls_start_in_the_order_sent(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board)
    refs = []
    for i in range(100):
        if i % 3:
            refs.append(subject.log.remote(i))
        else:
            subject.log.tell(i)
    await asyncio.gather(*refs)
    await board.until(*range(100))
    assert await board.all() == list(range(100))


async def test_a_slow_argument_holds_back_only_later_calls_of_its_caller(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board)
    slow = board.door.remote("slow")
    first = subject.log.remote(slow)
    second = subject.log.remote(2)
    other = make(Subject, board)
    unordered = subject.unordered.remote("overtakes")
    assert await unordered == "overtakes"

    @actorfw.remote
    def elsewhere(subject: Any) -> str:
        return actorfw.get(subject.log("another caller"))  # type: ignore[no-any-return]

    assert await elsewhere.remote(subject) == "another caller"
    assert not second.done()
    del other
    await board.open("slow")
    assert await asyncio.gather(first, second) == [None, 2]
    assert await board.all() == ["overtakes", "another caller", None, 2]


async def test_an_unordered_call_may_be_late(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board)
    late = subject.unordered.remote(board.door.remote("slow"))
    assert await subject.log(1) == 1
    await board.open("slow")
    assert await late is None
    assert await board.all() == [1, None]


async def test_cancelling_the_slow_one_lets_the_others_through(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board)
    slow = board.door.remote("never")
    first = subject.log.remote(slow)
    second = subject.log.remote(2)
    actorfw.cancel(first)
    assert await second == 2
    with pytest.raises(actorfw.TaskCancelledError):
        await first
    actorfw.cancel(slow)


# -- generators --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_generator_holds_the_actor_only_between_yields(make: Maker, concurrency: int) -> None:
    board = Board.remote()
    subject = make(Subject, board, max_concurrency=concurrency)
    streams = [subject.stream.remote(200) for _ in range(3)]
    firsts = [await anext(stream) for stream in streams]
    assert firsts == [0, 0, 0]
    assert await subject.log("beside") == "beside"
    for stream in streams:
        assert [i async for i in stream] == list(range(1, 200))
    await board.until("closed")


async def test_a_plain_generator_in_a_process(cluster: actorfw.LocalCluster) -> None:
    board = Board.remote()
    subject = PlainActor.remote(board)
    stream = subject.stream.remote(200)
    assert await anext(stream) == 0
    assert await subject.log("beside") == "beside"
    assert [i async for i in stream] == list(range(1, 200))
    await board.until("closed")


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_consumer_that_goes_away_closes_the_generator(make: Maker, concurrency: int) -> None:
    board = Board.remote()
    subject = make(Subject, board, max_concurrency=concurrency)
    stream = subject.stream.remote(10_000)
    async for i in stream:
        if i == 3:
            break
    del stream
    await board.until("closed")
    closed = subject.stream.remote(10_000)
    assert await anext(closed) == 0
    await closed.aclose()
    assert await subject.log("free") == "free"
    assert (await board.until("closed", "free")).count("closed") <= 2


async def test_a_generator_that_waits_for_something_is_closed_too(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board)
    stream = subject.stuck_stream.remote()
    assert await anext(stream) == 0
    await board.until("stuck")
    del stream
    await board.until("closed stuck")
    assert await subject.log("free") == "free"


async def test_an_exception_of_a_generator_comes_after_its_items(make: Maker) -> None:
    subject = make(Subject, Board.remote())
    got: list[Any] = []
    with pytest.raises(KeyError, match="after two"):
        await collect(subject.broken_stream.remote(), got)
    assert got == [1, 2]


async def test_an_item_that_cannot_be_sent_ends_the_stream_with_its_reason(make: Maker) -> None:
    subject = make(Subject, Board.remote())
    got: list[Any] = []
    with pytest.raises(actorfw.SerializationError) as caught:
        await collect(subject.bad_item.remote(), got)
    assert got == [1]
    assert caught.value.ran is True


async def test_refs_of_items(make: Maker) -> None:
    subject = make(Subject, Board.remote())
    refs = [ref async for ref in subject.stream.remote(3).refs()]
    assert await asyncio.gather(*refs) == [0, 1, 2]


# -- cancelling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_cancelled_call_is_cancelled_where_it_runs(make: Maker, concurrency: int) -> None:
    board = Board.remote()
    subject = make(Subject, board, max_concurrency=concurrency)
    task = asyncio.create_task(subject.held("a"))
    await board.until("in a")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "cancelled a" in await board.until("cancelled a")
    assert await subject.log(1) == 1


async def test_a_queued_call_that_is_cancelled_never_runs(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board)
    first = subject.held.remote("a")
    await board.until("in a")
    second = subject.log.remote("never")
    actorfw.cancel(second)
    with pytest.raises(actorfw.TaskCancelledError):
        await second
    await board.open("a")
    assert await first == "a"
    assert await subject.log("last") == "last"
    assert await board.all() == ["in a", "out a", "last"]


async def test_a_cancelled_wait_reaches_what_the_method_waits_for(make: Maker) -> None:
    board = Board.remote()
    outer, inner = make(Subject, board), make(Subject, board)
    task = asyncio.create_task(outer.nested(inner, "deep"))
    await board.until("in deep")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await board.until("cancelled deep")


async def test_cancelling_a_gather_cancels_its_calls(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board, max_concurrency=3)
    refs = [subject.held.remote(name) for name in "ab"]
    all_of_them = asyncio.gather(*refs)
    await board.until("in a", "in b")
    all_of_them.cancel()
    with pytest.raises(asyncio.CancelledError):
        await all_of_them
    await board.until("cancelled a", "cancelled b")


async def test_shield_and_wait_protect(cluster: actorfw.LocalCluster) -> None:
    board = Board.remote()
    subject = Subject.remote(board)
    ref = subject.held.remote("a")
    await board.until("in a")
    shielded = asyncio.ensure_future(asyncio.shield(ref))
    shielded.cancel()
    with pytest.raises(asyncio.CancelledError):
        await shielded
    done, pending = await asyncio.wait([ref], timeout=0)
    assert not done
    assert pending
    await board.open("a")
    assert await ref == "a"


# -- deadlines ---------------------------------------------------------------------------------------------------------


async def test_a_call_past_its_timeout_fails_and_is_cancelled(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board)
    await subject.log(0)
    with pytest.raises(actorfw.DeadlineExceededError) as caught:
        await subject.hang.options(timeout=0.2).remote("a")
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.ran is None
    await board.until("cancelled a")
    assert await subject.log(1) == 1


async def test_a_nested_call_that_runs_out_of_time_is_the_outer_ones_end(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board)
    for _ in range(5):  # both ends race for it, and say the same
        with pytest.raises(actorfw.DeadlineExceededError):
            await subject.held.options(timeout=0.05).remote("a")


async def test_what_is_due_before_it_starts_never_runs(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board)
    first = subject.held.remote("a")
    await board.until("in a")
    with pytest.raises(actorfw.DeadlineExceededError):
        await subject.log.options(timeout=0.05).remote("never")
    await board.open("a")
    await first
    await subject.log("last")
    assert "never" not in await board.all()


async def test_deadlines_are_inherited(make: Maker) -> None:
    subject = make(Subject, Board.remote())
    other = make(Subject, Board.remote())
    assert await subject.deadline() is None
    assert await subject.deadline.options(timeout=100).remote() is not None
    assert await subject.nested_deadline.options(timeout=100).remote(other) is True
    assert await subject.nested_deadline(other) is False


async def test_a_timeout_of_a_method_is_the_default_of_its_calls(cluster: actorfw.LocalCluster) -> None:
    @actorfw.remote
    class Slow:
        @actorfw.method(timeout=0.05)
        async def wait(self) -> None:
            await asyncio.Event().wait()

    with pytest.raises(actorfw.DeadlineExceededError):
        await Slow.remote().wait()


# -- back-pressure -----------------------------------------------------------------------------------------------------


async def test_calls_beyond_max_pending_calls_wait(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board, max_pending_calls=5)
    refs = [subject.log.remote(i) for i in range(200)]
    assert await asyncio.gather(*refs) == list(range(200))


async def test_what_tell_returns_waits_for_room(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board)
    await board.open("a")
    first = subject.held.remote("b")
    await board.until("in b")
    replies = [subject.log.tell(i) for i in range(600)]
    assert await replies[0] is None
    await asyncio.sleep(0)
    assert not replies[-1].done()
    await board.open("b")
    await first
    await replies[-1]
    await board.until(599)


async def test_a_tell_that_raises_is_logged_where_the_actor_is(
    cluster: actorfw.LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    @actorfw.remote
    class Failing:
        async def fail(self) -> None:
            raise KeyError("told")

        async def there(self) -> bool:
            return True

    f = Failing.remote()
    with caplog.at_level(logging.ERROR, "actorfw.actors"):
        f.fail.tell()
        assert await f.there()
    assert "told" in caplog.text


# -- from workers ------------------------------------------------------------------------------------------------------


async def test_tasks_call_actors_and_make_them(make: Maker) -> None:
    board = Board.remote()
    subject = make(Subject, board)

    @actorfw.remote
    def work(subject: Any, board: Any) -> list[Any]:
        got = [actorfw.get(subject.log(1)), actorfw.get(subject.log.remote(2))]
        subject.log.tell(3)
        actorfw.get(board.until(3))
        mine = Subject.remote(board)
        got.append(actorfw.get(mine.log(4)))
        got += list(subject.stream.remote(3))
        return got

    assert await work.remote(subject, board) == [1, 2, 4, 0, 1, 2]
    assert (await board.until(4))[:4] == [1, 2, 3, 4]


async def test_actors_make_actors_and_tasks(make: Maker) -> None:
    @actorfw.remote
    class Parent:
        async def family(self, board: Any) -> list[Any]:
            child = Subject.options(executor="process").remote(board)
            sibling = Subject.remote(board)

            @actorfw.remote
            def task(x: int) -> int:
                return 2 * x

            return [await child.log("child"), await sibling.log("sibling"), await task.remote(4)]

    assert await make(Parent).family(Board.remote()) == ["child", "sibling", 8]


async def test_blocking_calls_in_a_thread_beside_the_loop(cluster: actorfw.LocalCluster) -> None:
    board = Board.remote()
    subject = Subject.remote(board)

    def in_thread() -> list[Any]:
        with pytest.raises(AttributeError):
            subject.nothing
        actorfw.get(subject.log.tell("told"))
        return [actorfw.get(subject.log(1)), *subject.stream.remote(2)]

    assert await asyncio.to_thread(in_thread) == [1, 0, 1]
    assert (await board.until("told"))[0] == "told"
