"""Where a node runs, and which is the current one: on the running loop, on a thread, many in one loop."""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
import threading
import warnings
from collections.abc import AsyncIterator

import pytest

import actorfw
from actorfw.runtime import current

pytestmark = pytest.mark.real


@actorfw.remote
async def where() -> str:
    return actorfw.context().node_id


def here() -> str:
    return actorfw.context().node_id


# -- on the running loop -----------------------------------------------------------------------------------------------


async def test_nothing_starts_before_await() -> None:
    context = actorfw.init(num_cpus=0)
    for _ in range(3):
        await asyncio.sleep(0)
    with pytest.raises(actorfw.NotInitializedError, match=r"test_life\.py:\d+ was called but never awaited"):
        actorfw.put(1)
    with pytest.raises(actorfw.NotInitializedError, match="was not started"):
        context.address
    node = await context
    assert await actorfw.put(1) == 1
    assert (node.id, node.name, node.address) == (context.id, context.name, context.address)
    assert re.fullmatch(r"[0-9a-f]{16}", node.id)
    assert re.fullmatch(r"127\.0\.0\.1:\d+", node.address)
    assert node.dashboard_url is None
    await actorfw.shutdown()


async def test_async_with_and_await_give_the_same_node() -> None:
    context = actorfw.init(num_cpus=0, name="me")
    first, second = await asyncio.gather(_enter(context), _enter(context))
    assert first is second
    async with context as third:
        assert third is first
        assert [row.name for row in await actorfw.nodes()] == ["me"]
    with pytest.raises(actorfw.NotInitializedError):
        actorfw.nodes()


async def _enter(context: actorfw.NodeContext) -> actorfw.Node:
    return await context


async def test_with_on_a_loop_is_refused_and_says_what_to_write() -> None:
    context = actorfw.init(num_cpus=0)
    with pytest.raises(actorfw.BlockingCallError, match=r"async with actorfw\.init\(\)"), context:
        pass
    del context
    gc.collect()  # it said so once: filterwarnings=error would show a second time


async def test_a_dropped_context_warns_with_its_line() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = inspect.getframeinfo(inspect.currentframe()).lineno + 1  # type: ignore[arg-type]
        actorfw.init(num_cpus=0)
        gc.collect()
    assert [(w.category, str(w.message)) for w in caught] == [
        (RuntimeWarning, f"actorfw.init() at {__file__}:{line} was never awaited")
    ]
    with pytest.raises(actorfw.NotInitializedError, match=f"test_life.py:{line} was called but never awaited"):
        actorfw.nodes()
    async with actorfw.init(num_cpus=0):
        pass
    with pytest.raises(actorfw.NotInitializedError, match=r"call actorfw\.init\(\) first"):
        actorfw.nodes()


async def test_a_second_init_names_the_first() -> None:
    line = inspect.getframeinfo(inspect.currentframe()).lineno + 1  # type: ignore[arg-type]
    await actorfw.init(num_cpus=0)
    with pytest.raises(actorfw.UsageError, match=f"test_life.py:{line}: use it, or call actorfw.shutdown"):
        actorfw.init(num_cpus=0)
    await actorfw.shutdown()
    async with actorfw.init(num_cpus=0):
        pass


async def test_of_two_contexts_only_one_starts() -> None:
    first, second = actorfw.init(num_cpus=0), actorfw.init(num_cpus=0)
    outcomes = await asyncio.gather(_enter(first), _enter(second), return_exceptions=True)
    assert isinstance(outcomes[0], actorfw.Node)
    assert isinstance(outcomes[1], actorfw.UsageError)
    await actorfw.shutdown()


async def test_a_start_that_failed_fails_for_all_who_wait() -> None:
    context = actorfw.init(num_cpus=0, listen="192.0.2.1:0", secret="a secret for a test")
    for outcome in await asyncio.gather(_enter(context), _enter(context), return_exceptions=True):
        assert isinstance(outcome, actorfw.UsageError)
        assert "can't listen on 192.0.2.1:0" in str(outcome)
    async with actorfw.init(num_cpus=0):
        pass


async def test_shutdown_starts_when_it_is_called_and_does_nothing_without_a_node() -> None:
    await actorfw.shutdown()
    node = await actorfw.init(num_cpus=0)
    stopping = actorfw.shutdown()
    await asyncio.sleep(0)
    with pytest.raises(actorfw.NodeClosedError):
        node.runtime.put(1)
    await stopping
    await actorfw.shutdown()


async def test_get_on_a_loop_is_refused() -> None:
    async with actorfw.init(num_cpus=0):
        ref = actorfw.put(1)
        with pytest.raises(actorfw.BlockingCallError, match="await"):
            actorfw.get(ref)
        assert await asyncio.to_thread(actorfw.get, ref) == 1

        def on_another_loop() -> None:
            async def blocked() -> None:
                with pytest.raises(actorfw.BlockingCallError):
                    actorfw.get(ref)
                assert await ref == 1  # any loop may await it

            asyncio.run(blocked())

        await asyncio.to_thread(on_another_loop)


# -- on a thread -------------------------------------------------------------------------------------------------------


def test_a_script_has_its_node_when_init_returns() -> None:
    before = set(threading.enumerate())
    context = actorfw.init(num_cpus=0)
    # Beside it one may still be removing what dead nodes left on disk.
    (thread,) = (one for one in set(threading.enumerate()) - before if one.name != "actorfw sweep")
    assert thread.daemon
    assert here() == context.id
    with pytest.raises(
        actorfw.UsageError, match=r"a node runs here already, of actorfw\.init\(\) at .*test_life\.py:\d+"
    ):
        actorfw.init(num_cpus=0)
    assert actorfw.shutdown() is None
    assert not thread.is_alive()
    assert actorfw.shutdown() is None
    with actorfw.init(num_cpus=0) as node:
        assert actorfw.get(where.remote()) == node.id


def test_a_node_that_fails_to_start_on_its_thread() -> None:
    with pytest.raises(actorfw.UsageError, match="can't listen"):
        actorfw.init(listen="192.0.2.1:0", secret="a secret for a test")


def test_threads_find_the_node_of_the_process() -> None:
    found: list[str] = []
    with actorfw.init(num_cpus=0) as node:
        thread = threading.Thread(target=lambda: found.append(actorfw.get(where.remote())))
        thread.start()
        thread.join()
        assert found == [node.id]


async def test_a_thread_of_its_own_in_async_code() -> None:
    context = actorfw.init(num_cpus=0, thread=True)
    node = await context
    loop = node.runtime.loop
    assert loop is not None
    assert loop is not asyncio.get_running_loop()
    assert await where.remote() == node.id
    assert await asyncio.gather(where.remote(), where.remote()) == [node.id] * 2
    with pytest.raises(actorfw.BlockingCallError):
        actorfw.get(where.remote())
    with pytest.raises(actorfw.UsageError, match="a node runs here already"):
        actorfw.init(num_cpus=0, thread=True)
    await actorfw.shutdown()
    async with actorfw.init(num_cpus=0, thread=True):
        assert await where.remote() == here()


# -- the current node --------------------------------------------------------------------------------------------------


async def test_many_nodes_in_one_loop() -> None:
    first, second = actorfw.Node(num_cpus=0), actorfw.Node(num_cpus=0)
    await first.start()
    await second.start()
    assert first.id != second.id
    with pytest.raises(actorfw.UsageError, match="2 nodes run in this process"):
        actorfw.nodes()
    async with first:
        assert here() == first.id
        async with second:
            assert await where.remote() == second.id
            assert await asyncio.create_task(_here()) == second.id
            assert await asyncio.to_thread(here) == second.id
        assert await where.remote() == first.id
    with pytest.raises(actorfw.NotInitializedError):
        actorfw.nodes()


async def _here() -> str:
    return here()


async def test_the_node_of_init_is_bound_to_the_loop_and_others_are_not() -> None:
    async with actorfw.Node(num_cpus=0) as explicit:
        assert here() == explicit.id
        bound = await actorfw.init(num_cpus=0)
        assert here() == explicit.id  # entered in this context
        found: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        import contextvars

        asyncio.get_running_loop().call_soon(lambda: found.set_result(here()), context=contextvars.Context())
        assert await found == bound.id  # a callback from anywhere else: by its loop
        await actorfw.shutdown()


async def test_code_inside_a_task_finds_the_node_that_runs_it() -> None:
    async with actorfw.Node(num_cpus=0) as first, actorfw.Node(num_cpus=0) as second:
        ref = where.remote()
        assert await ref == second.id
        assert await first.runtime.submit(where._definition, (), {}) == first.id  # type: ignore[misc]


async def test_entering_and_leaving_in_different_tasks() -> None:
    async def fixture() -> AsyncIterator[actorfw.Node]:
        async with actorfw.init(num_cpus=0) as node:
            yield node

    steps = fixture()
    node = await asyncio.create_task(anext(steps))
    assert here() == node.id  # by the loop: the context it was entered in is another
    with pytest.raises(StopAsyncIteration):
        await asyncio.create_task(anext(steps))
    with pytest.raises(actorfw.NotInitializedError):
        here()


async def test_a_node_starts_once() -> None:
    node = actorfw.Node(num_cpus=0)
    with pytest.raises(actorfw.NotInitializedError, match="was not started"):
        node.address
    async with node:
        with pytest.raises(actorfw.UsageError, match="was started before"):
            await node.start()
    await node.stop()
    with pytest.raises(actorfw.UsageError, match="was started before"):
        await node.start()


async def test_pending_refs_fail_when_their_node_ends() -> None:
    never = actorfw.remote(_never)
    async with actorfw.init(num_cpus=0):
        ref = never.remote()
        waiting = asyncio.ensure_future(_await(ref))
        await asyncio.sleep(0)
    with pytest.raises(actorfw.NodeClosedError):
        await ref
    with pytest.raises(actorfw.NodeClosedError):
        await waiting
    with pytest.raises(actorfw.NodeClosedError):
        actorfw.remote(_never).remote() if current._of_process else await ref


async def _never() -> None:
    await asyncio.Event().wait()


async def _await(ref: actorfw.ObjectRef[None]) -> None:
    await ref


def test_run_runs_under_uvloop_and_not_inside_a_loop() -> None:
    import uvloop

    async def main() -> object:
        with pytest.raises(actorfw.BlockingCallError):
            actorfw.run(main())
        return asyncio.get_running_loop()

    assert isinstance(actorfw.run(main()), uvloop.Loop)
