"""`ObjectRef` and `Reply` by asyncio's future protocol, under asyncio and uvloop, on many loops, threads and none."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import random
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop

from actorfw.runtime.refs import CANCELLED, PENDING, ObjectRef, Reply
from actorfw.values.errors import TaskCancelledError
from actorfw.wire.code import CodeTable
from actorfw.wire.codec import Codec
from actorfw.wire.failures import pack_error


class Home:
    """As much of a home as refs need: a loop or a lock, a codec, and who was cancelled."""

    life = b"l" * 16

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop
        self.codec = Codec(CodeTable("here"))
        self.withdrawn: list[int] = []
        self.released_ids: list[Any] = []
        self.numbers = iter(range(1, 1_000_000))
        self._lock = threading.RLock()

    def post(self, fn: Callable[..., object], *args: Any) -> None:
        if self.loop is None:
            with self._lock:
                fn(*args)
        else:
            self.loop.call_soon_threadsafe(fn, *args)

    def asked(self, ref: ObjectRef[Any]) -> None:
        raise AssertionError("nothing is elsewhere here")

    def unasked(self, ref: ObjectRef[Any]) -> None:
        assert not ref._lazy
        assert ref._callbacks is None

    def await_cancelled(self, ref: Reply[Any]) -> bool:
        if not isinstance(ref, ObjectRef):
            return True
        if ref._grip is not None:
            return False
        self.withdrawn.append(ref._number)
        return True

    def pin(self, thing: object) -> None:
        raise AssertionError("nothing is pickled here")

    def released(self, id: Any) -> None:
        self.released_ids.append(id)

    def ref(self, *, handed_on: bool = False) -> ObjectRef[Any]:
        ref: ObjectRef[Any] = ObjectRef(self, self.life, next(self.numbers))  # type: ignore[arg-type]
        if handed_on:
            ref._grip = object()  # type: ignore[assignment]
        return ref

    def soon(self, value: Any, delay: float = 0.001, *, handed_on: bool = False) -> ObjectRef[Any]:
        assert self.loop is not None
        ref = self.ref(handed_on=handed_on)
        self.loop.call_soon_threadsafe(self.loop.call_later, delay, ref._settle, self.codec.pack(value))
        return ref

    def fails(self, error: BaseException, delay: float = 0.001) -> ObjectRef[Any]:
        assert self.loop is not None
        ref = self.ref()
        out = pack_error(self.codec, error, where="there")
        self.loop.call_soon_threadsafe(self.loop.call_later, delay, ref._fail, out)
        return ref


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def run(new_loop: Callable[[], asyncio.AbstractEventLoop], coro: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=new_loop, debug=True) as runner:
        runner.run(coro)


@pytest.fixture(params=list(LOOPS))
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return LOOPS[request.param]


@contextmanager
def loop_in_thread(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[asyncio.AbstractEventLoop]:
    loop = new_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(params=["same loop", "other loop"])
def on_loop(request: pytest.FixtureRequest, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Any]:
    """Runs `async def test(home)` on the loop of the refs' home, or on another one."""

    def here(test: Callable[[Home], Coroutine[Any, Any, None]]) -> None:
        errors: list[Any] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: errors.append(context))
            await test(Home(loop))
            gc.collect()
            await asyncio.sleep(0)

        run(new_loop, main())
        assert not errors

    def elsewhere(test: Callable[[Home], Coroutine[Any, Any, None]]) -> None:
        errors: list[Any] = []
        with loop_in_thread(new_loop) as loop:
            loop.call_soon_threadsafe(loop.set_exception_handler, lambda _, context: errors.append(context))

            async def main() -> None:
                asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
                await test(Home(loop))
                gc.collect()

            run(new_loop, main())
        assert not errors

    return here if request.param == "same loop" else elsewhere


# -- the combinators ---------------------------------------------------------------------------------------------------


def test_it_is_a_future_by_protocol_and_not_by_class() -> None:
    ref = Home(None).ref()
    assert asyncio.isfuture(ref)
    assert not isinstance(ref, asyncio.Future)
    assert not asyncio.iscoroutine(ref)


def test_await_gather_wait(on_loop: Any) -> None:
    async def test(home: Home) -> None:
        assert await home.soon([1]) == [1]
        assert await asyncio.gather(*(home.soon(i) for i in range(50))) == list(range(50))
        same = home.soon(3)
        assert await asyncio.gather(same, same) == [3, 3]
        mixed = await asyncio.gather(home.soon(1), home.fails(ValueError("no")), return_exceptions=True)
        assert [type(one).__name__ for one in mixed] == ["int", "ValueError"]
        with pytest.raises(ValueError, match="no"):
            await asyncio.gather(home.soon(1), home.fails(ValueError("no")))
        done, pending = await asyncio.wait([home.soon(1), home.soon(2)])
        assert sorted(ref.result() for ref in done) == [1, 2]  # type: ignore[type-var]
        assert not pending
        late = home.ref()
        done, pending = await asyncio.wait([home.soon(1), late], return_when=asyncio.FIRST_COMPLETED)
        assert pending == {late}
        done, pending = await asyncio.wait([late], timeout=0.01)
        assert not done
        assert not late.done()
        assert sorted([await one for one in asyncio.as_completed([home.soon(1), home.soon(2)])]) == [1, 2]

    on_loop(test)


def test_wait_for_timeout_shield_and_groups(on_loop: Any) -> None:
    async def test(home: Home) -> None:
        assert await asyncio.wait_for(home.soon(3), 5) == 3
        ref = home.ref()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ref, 0.01)
        assert ref.cancelled()
        assert home.withdrawn == [ref._number]
        ref = home.ref()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await ref
        assert ref.cancelled()
        one, two = home.ref(), home.ref()
        for exceptions in (False, True):
            one, two = home.ref(), home.ref()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.gather(one, two, return_exceptions=exceptions)
            while not (one.cancelled() and two.cancelled()):
                await asyncio.sleep(0)
        protected = home.soon(5, 0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.shield(protected)
        assert await protected == 5
        shared = home.soon(9)
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(shared.coro()) for _ in range(3)]
        assert [task.result() for task in waiting] == [9, 9, 9]
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(home.fails(ValueError("no")).coro())
        assert caught.group_contains(ValueError, match="no")

    on_loop(test)


def test_each_await_gives_a_copy_and_each_failure_a_fresh_error(on_loop: Any) -> None:
    async def test(home: Home) -> None:
        ref = home.soon({"a": [1]})
        first, second = await ref, await ref
        assert first == second
        assert first is not second
        bad = home.fails(ValueError("no"))
        seen = []
        for _ in range(2):
            with pytest.raises(ValueError, match="no") as caught:
                await bad
            seen.append(caught.value)
        assert seen[0] is not seen[1]
        assert seen[1].__context__ is None
        assert type(bad.exception()) is ValueError

    on_loop(test)


def test_one_value_is_unpacked_once_for_one_await(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        home = Home(asyncio.get_running_loop())
        unpacked: list[Any] = []
        unpack = home.codec.unpack
        home.codec.unpack = lambda wire: unpacked.append(wire) or unpack(wire)  # type: ignore[method-assign,func-returns-value]
        assert await home.soon([1]) == [1]
        assert len(unpacked) == 1

    run(new_loop, main())


# -- cancelling --------------------------------------------------------------------------------------------------------


async def _outcome(ref: Any, waiting: asyncio.Event | None = None, timeout: float | None = None) -> str:
    if waiting is not None:
        waiting.set()
    try:
        async with asyncio.timeout(timeout):
            await ref
    except BaseException as error:
        return type(error).__name__
    return "value"


WAITS: dict[str, Callable[[ObjectRef[Any]], Any]] = {
    "await": lambda ref: ref.coro(),
    "gather": lambda ref: asyncio.gather(ref, ref),
    "wait_for": lambda ref: asyncio.wait_for(ref, 60),
    "shield": lambda ref: asyncio.shield(ref),
    "as_completed": lambda ref: next(iter(asyncio.as_completed([ref]))),
}


@pytest.mark.parametrize("innocent", WAITS)
def test_who_did_not_cancel_sees_an_ordinary_error(on_loop: Any, innocent: str) -> None:
    async def test(home: Home) -> None:
        for cancelled in ("await", "gather", "wait_for"):
            ref = home.ref()
            other = asyncio.create_task(_outcome(WAITS[innocent](ref)))
            mine = (
                asyncio.create_task(WAITS[cancelled](ref))
                if cancelled != "gather"
                else asyncio.ensure_future(WAITS["gather"](ref))
            )
            while _waiting(ref) < 2:
                await asyncio.sleep(0)
            mine.cancel()
            with pytest.raises(asyncio.CancelledError):
                await mine
            assert await other == "TaskCancelledError"
            assert ref.cancelled()
            with pytest.raises(TaskCancelledError):
                await ref
            with pytest.raises(TaskCancelledError):
                ref.result()

    on_loop(test)


def _waiting(ref: ObjectRef[Any]) -> int:
    callbacks = ref._callbacks
    return 0 if callbacks is None else len(callbacks) if type(callbacks) is list else 1


@pytest.mark.parametrize("innocent", WAITS)
@pytest.mark.parametrize(
    "cancelled", ["await", "gather", "gather with exceptions", "wait_for", "wait_for cancelled", "ref.cancel"]
)
def test_of_a_ref_that_was_handed_on_only_the_wait_ends(on_loop: Any, innocent: str, cancelled: str) -> None:
    async def test(home: Home) -> None:
        ref = home.ref(handed_on=True)
        also = home.ref(handed_on=True)
        other = asyncio.create_task(_outcome(WAITS[innocent](ref)))
        while not _waiting(ref):
            await asyncio.sleep(0)
        if cancelled == "await":
            assert await _outcome(ref, timeout=0.01) == "TimeoutError"
        elif cancelled == "gather":
            assert await _outcome(asyncio.gather(ref, also), timeout=0.01) == "TimeoutError"
        elif cancelled == "gather with exceptions":
            assert await _outcome(asyncio.gather(ref, also, return_exceptions=True), timeout=0.01) == "TimeoutError"
        elif cancelled == "wait_for":
            assert await _outcome(asyncio.wait_for(ref, 0.01)) == "TimeoutError"
        elif cancelled == "wait_for cancelled":
            assert await _outcome(asyncio.wait_for(ref, 60), timeout=0.01) == "TimeoutError"
        else:
            ref.cancel()
        assert not ref.done()
        assert not ref.cancelled()
        with pytest.raises(asyncio.InvalidStateError):
            ref.result()
        assert not other.done()
        home.post(ref._settle, home.codec.pack([7]))
        assert await ref == [7]
        assert await other == "value"
        assert not home.withdrawn

    on_loop(test)


def test_a_task_that_is_cancelled_while_it_waits_for_a_ref_ends(on_loop: Any) -> None:
    async def test(home: Home) -> None:
        for handed_on in (False, True):
            ref = home.ref(handed_on=handed_on)
            task = asyncio.create_task(ref.coro())
            while not _waiting(ref):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
            assert ref._state == (PENDING if handed_on else CANCELLED)

    on_loop(test)


def test_wait_never_cancels(on_loop: Any) -> None:
    async def test(home: Home) -> None:
        ref = home.ref()
        task = asyncio.create_task(asyncio.wait([ref]))
        while not _waiting(ref):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not ref.done()
        assert not home.withdrawn

    on_loop(test)


def test_a_gather_with_exceptions_survives_a_cancelled_ref(on_loop: Any) -> None:
    async def test(home: Home) -> None:
        ref = home.ref()
        both = asyncio.gather(ref, home.soon(1), return_exceptions=True)
        ref.cancel()
        first, second = await both
        assert isinstance(first, BaseException)
        assert second == 1

    on_loop(test)


# -- loops, threads, none ----------------------------------------------------------------------------------------------


def test_one_ref_on_two_loops_at_once(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with loop_in_thread(new_loop) as loop:
        home = Home(loop)
        ref = home.soon([5], 0.02)
        other = asyncio.run_coroutine_threadsafe(ref.coro(), loop)
        assert ref.future().result(10) == [5]

        async def main() -> None:
            assert await ref == [5]

        run(new_loop, main())
        assert other.result(10) == [5]


def test_without_any_loop() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        home = Home(None)
        ref = home.ref()
        called: list[Any] = []
        ref.add_done_callback(called.append)
        assert ref.remove_done_callback(called.append) == 1
        ref.add_done_callback(called.append)
        ref._settle(home.codec.pack(3))
        assert called == [ref]
        assert ref.result() == 3
        assert ref.future().result(0) == 3
        with pytest.raises(RuntimeError, match=r"actorfw\.get"):
            ref.get_loop()
        asyncio.run(_expect(ref, 3))


async def _expect(ref: ObjectRef[Any], value: object) -> None:
    assert await ref == value


@pytest.mark.parametrize("handed_on", [False, True])
def test_many_threads_with_loops_of_their_own(
    new_loop: Callable[[], asyncio.AbstractEventLoop], handed_on: bool
) -> None:
    """Three loops await the same refs, which a fourth settles, while waits of refs of their own run into timeouts."""
    count, batch = 600, 50
    with loop_in_thread(new_loop) as loop:
        home = Home(loop)
        shared = [home.ref(handed_on=handed_on) for _ in range(count)]
        ended: list[int] = []

        def user(seed: int) -> None:
            chance = random.Random(seed)

            async def timed(ref: ObjectRef[Any]) -> int:
                try:
                    async with asyncio.timeout(0.001):
                        await ref
                except TimeoutError:
                    return 0
                return 1

            async def main() -> None:
                for at in range(0, count, batch):
                    refs = shared[at : at + batch]
                    for ref in refs:
                        loop.call_soon_threadsafe(loop.call_later, chance.random() * 0.002, ref._settle, ref._number)
                    assert await asyncio.gather(*refs) == [ref._number for ref in refs]
                    own = [home.soon(1, chance.random() * 0.002, handed_on=handed_on) for _ in range(20)]
                    await asyncio.gather(*map(timed, own))
                ended.append(seed)

            run(new_loop, main())

        threads = [threading.Thread(target=user, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(ended) == [0, 1, 2]


# -- the object --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["value", "error", "cancelled"])
def test_refs_are_freed_without_the_collector(new_loop: Callable[[], asyncio.AbstractEventLoop], how: str) -> None:
    async def main() -> None:
        home = Home(asyncio.get_running_loop())
        freed: list[int] = []

        async def once(at: int) -> None:
            if how == "value":
                ref = home.soon([1], 0)
            elif how == "error":
                ref = home.fails(ValueError("no"), 0)
            else:
                ref = home.ref()
                asyncio.get_running_loop().call_soon(ref.cancel)
            weakref.finalize(ref, freed.append, at)
            try:
                await ref
            except (ValueError, TaskCancelledError):
                pass

        gc.collect()
        gc.disable()
        try:
            for at in range(50):
                await once(at)
            await asyncio.sleep(0)
            assert len(freed) >= 49
        finally:
            gc.enable()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_a_failed_ref_that_nobody_awaits_makes_no_noise(on_loop: Any) -> None:
    async def test(home: Home) -> None:
        ref = home.ref()
        ref._fail(pack_error(home.codec, ValueError("no"), where="there"))
        del ref

    on_loop(test)


def test_identity_hash_and_copies() -> None:
    home = Home(None)
    one, two = home.ref(), home.ref()
    again: ObjectRef[Any] = ObjectRef(home, home.life, one._number)  # type: ignore[arg-type]
    assert one == again
    assert hash(one) == hash(again)
    assert one != two
    assert one != one._number
    assert {one, again, two} == {one, two}
    assert copy.deepcopy([one])[0] is one
    assert copy.copy(one) is one
    assert isinstance(one.id, str)
    assert one.id != two.id
    assert "pending" in repr(one)


def test_what_it_refuses() -> None:
    home = Home(None)
    with pytest.raises(TypeError, match="num_returns"):
        _a, _b = home.ref()
    with pytest.raises(asyncio.InvalidStateError):
        home.ref().result()
    with pytest.raises(asyncio.InvalidStateError):
        home.ref().exception()
    reply: Reply[int] = Reply(home)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="can't be sent"):
        pickle.dumps(reply)


def test_a_reply_is_awaited_like_a_ref(on_loop: Any) -> None:
    async def test(home: Home) -> None:
        reply: Reply[Any] = Reply(home)  # type: ignore[arg-type]
        value = {"a": 1}
        home.post(reply._settle, value)
        assert await reply is value
        failed: Reply[Any] = Reply(home)  # type: ignore[arg-type]
        home.post(failed._fail, KeyError("x"))
        with pytest.raises(KeyError):
            await failed
        never: Reply[Any] = Reply(home)  # type: ignore[arg-type]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(never, 0.01)
        assert never.cancelled()

    on_loop(test)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_under_eager_tasks() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        home = Home(loop)
        assert await asyncio.gather(*(asyncio.create_task(home.soon(i).coro()) for i in range(5))) == list(range(5))

    asyncio.run(main())
