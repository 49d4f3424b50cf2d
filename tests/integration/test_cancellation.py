"""Cancelling: by a cancelled await, ref.cancel(), actorfw.cancel; of shared, handed on and borrowed refs."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import actorfw
from tests.integration.quiet import all_quiet

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[actorfw.LocalCluster]:
    async with actorfw.LocalCluster(nodes=1, num_cpus=1) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", params=["here", "there"])
async def there(cluster: actorfw.LocalCluster, request: pytest.FixtureRequest) -> actorfw.NodeAffinity:
    rows = await actorfw.nodes()
    return actorfw.NodeAffinity(next(row.id for row in rows if row.here == (request.param == "here")))


def marked(folder: str, *, end: bool = True) -> None:
    """Tells when it starts and how it ends."""
    path = Path(folder)
    try:
        (path / "started").touch()  # an interrupt may come as soon as this is seen
        while True:
            time.sleep(0.01)
            if (path / "let go").exists():
                return
    except BaseException as error:
        (path / type(error).__name__).touch()
        raise


async def marked_async(folder: str) -> None:
    path = Path(folder)
    try:
        (path / "started").touch()
        while not (path / "let go").exists():
            await asyncio.sleep(0.01)
    except BaseException as error:
        (path / type(error).__name__).touch()
        raise


KINDS = [pytest.param(marked, id="def"), pytest.param(marked_async, id="async def")]


async def exists(path: Path) -> None:
    async with asyncio.timeout(20):
        while not path.exists():
            await asyncio.sleep(0.005)


async def ended(folder: Path) -> None:
    """The task was interrupted where it ran."""
    async with asyncio.timeout(20):
        while len(list(folder.iterdir())) < 2:
            await asyncio.sleep(0.005)


WAYS: dict[str, Any] = {
    "await": lambda ref: ref.coro(),
    "gather": lambda ref: asyncio.wait_for(asyncio.gather(ref), 60),
    "actorfw.gather": lambda ref: asyncio.wait_for(actorfw.gather([ref]), 60),
    "wait_for": lambda ref: asyncio.wait_for(ref, 60),
}


@pytest.mark.parametrize("fn", KINDS)
@pytest.mark.parametrize("way", WAYS)
async def test_a_cancelled_await_cancels_the_call(
    there: actorfw.NodeAffinity, fn: Any, way: str, tmp_path: Path
) -> None:
    ref = actorfw.remote(fn).options(scheduling=there).remote(str(tmp_path))
    await exists(tmp_path / "started")
    waiting = asyncio.create_task(WAYS[way](ref))
    other = asyncio.create_task(ref.coro())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(actorfw.TaskCancelledError):
        await other
    with pytest.raises(actorfw.TaskCancelledError):
        await ref
    assert ref.cancelled()
    await ended(tmp_path)
    del ref, waiting, other
    await all_quiet()


@pytest.mark.parametrize("fn", KINDS)
async def test_ref_cancel_and_actorfw_cancel(there: actorfw.NodeAffinity, fn: Any, tmp_path: Path) -> None:
    for at, cancel in enumerate((lambda ref: ref.cancel(), actorfw.cancel)):
        folder = tmp_path / str(at)
        folder.mkdir()
        ref = actorfw.remote(fn).options(scheduling=there).remote(str(folder))
        await exists(folder / "started")
        cancel(ref)
        with pytest.raises(actorfw.TaskCancelledError):
            await ref
        await ended(folder)
        actorfw.cancel(ref)  # once more does nothing


async def test_a_task_that_waits_never_runs(there: actorfw.NodeAffinity, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    run = actorfw.remote(marked).options(scheduling=there)
    first = run.remote(str(tmp_path / "first"))
    await exists(tmp_path / "first" / "started")
    second = run.remote(str(tmp_path / "second"))
    actorfw.cancel(second)
    with pytest.raises(actorfw.TaskCancelledError):
        await second
    (tmp_path / "first" / "let go").touch()
    assert await first is None
    assert await run.options(executor="thread").remote(str(tmp_path / "first")) is None
    assert not list((tmp_path / "second").iterdir())
    del first, second
    await all_quiet()


async def test_of_a_thread_only_the_result_is_dropped(there: actorfw.NodeAffinity, tmp_path: Path) -> None:
    ref = actorfw.remote(marked).options(scheduling=there, executor="thread").remote(str(tmp_path))
    await exists(tmp_path / "started")
    actorfw.cancel(ref)
    with pytest.raises(actorfw.TaskCancelledError):
        await ref
    (tmp_path / "let go").touch()
    await all_quiet()
    assert not (tmp_path / "Interrupted").exists()


async def test_force_kills_the_worker(there: actorfw.NodeAffinity, tmp_path: Path) -> None:
    @actorfw.remote
    def stubborn(folder: str) -> None:
        (Path(folder) / str(os.getpid())).touch()
        while True:
            try:
                time.sleep(0.01)
            except BaseException:
                (Path(folder) / "refused").touch()

    ref = stubborn.options(scheduling=there).remote(str(tmp_path))
    async with asyncio.timeout(20):
        while not list(tmp_path.iterdir()):
            await asyncio.sleep(0.005)
    (pid,) = [int(path.name) for path in tmp_path.iterdir()]
    actorfw.cancel(ref, force=True)
    with pytest.raises(actorfw.TaskCancelledError):
        await ref
    async with asyncio.timeout(20):
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.005)
    assert await actorfw.remote(os.getpid).options(scheduling=there).remote() != pid
    await all_quiet()


@pytest.mark.parametrize("recursive", [True, False])
@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_children_are_cancelled_too(
    there: actorfw.NodeAffinity, kind: str, recursive: bool, tmp_path: Path
) -> None:
    child = actorfw.remote(marked_async)

    def parent(folder: str) -> None:
        actorfw.get(child.remote(folder))

    async def parent_async(folder: str) -> None:
        await asyncio.shield(child.remote(folder))

    ref = actorfw.remote(parent if kind == "def" else parent_async).options(scheduling=there).remote(str(tmp_path))
    await exists(tmp_path / "started")
    actorfw.cancel(ref, recursive=recursive)
    with pytest.raises(actorfw.TaskCancelledError):
        await ref
    if recursive:
        await exists(tmp_path / "CancelledError")
    else:
        assert await actorfw.remote(os.getpid).options(scheduling=there).remote()
        assert not (tmp_path / "CancelledError").exists()
        (tmp_path / "let go").touch()
    del ref
    await all_quiet()


async def test_a_ref_that_was_handed_on_goes_on(there: actorfw.NodeAffinity, tmp_path: Path) -> None:
    run = actorfw.remote(marked_async).options(scheduling=there)

    @actorfw.remote
    async def after(_: Any) -> str:
        return "done"

    @actorfw.remote
    async def inside(refs: list[Any]) -> None:
        await refs[0]

    for at, hand_on in enumerate(
        (lambda ref: after.remote(ref), lambda ref: inside.remote([ref]), lambda ref: actorfw.put([ref]))
    ):
        folder = tmp_path / str(at)
        folder.mkdir()
        ref = run.remote(str(folder))
        holder = hand_on(ref)
        for way in WAYS:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await WAYS[way](ref)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ref, 0.02)
        ref.cancel()
        assert not ref.done()
        (folder / "let go").touch()
        assert await ref is None
        await holder
        actorfw.cancel(ref)
        del holder
    other = run.remote(str(tmp_path))
    held = actorfw.put([other])
    actorfw.cancel(other)  # this one means it
    with pytest.raises(actorfw.TaskCancelledError):
        await other
    del ref, other, held
    await all_quiet()


async def test_a_borrowed_ref_is_cancelled_by_cancel_only(there: actorfw.NodeAffinity, tmp_path: Path) -> None:
    mine = actorfw.remote(marked_async).remote(str(tmp_path))

    @actorfw.remote
    async def look(refs: list[Any]) -> str:
        try:
            async with asyncio.timeout(0.02):
                await refs[0]
        except TimeoutError:
            return "still there"
        return "?"

    @actorfw.remote
    def cancel(refs: list[Any]) -> str:
        actorfw.cancel(refs[0])
        try:
            actorfw.get(refs[0])
        except actorfw.TaskCancelledError:
            return "cancelled"
        return "?"

    for executor in ("loop", "process"):
        assert await look.options(scheduling=there, executor=executor).remote([mine]) == "still there"
    assert not mine.done()
    assert await cancel.options(scheduling=there).remote([mine]) == "cancelled"
    with pytest.raises(actorfw.TaskCancelledError):
        await mine
    del mine
    await all_quiet()


async def test_what_never_cancels(there: actorfw.NodeAffinity, tmp_path: Path) -> None:
    ref = actorfw.remote(marked_async).options(scheduling=there).remote(str(tmp_path))
    for wait in (asyncio.wait([ref]), actorfw.wait([ref]), asyncio.shield(ref)):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await wait
    with pytest.raises(actorfw.GetTimeoutError, match="the work goes on"):
        await asyncio.to_thread(lambda: actorfw.get(ref, timeout=0.02))
    assert not ref.done()
    (tmp_path / "let go").touch()
    assert await ref is None


async def test_of_several_returns_one_stands_for_all(there: actorfw.NodeAffinity, tmp_path: Path) -> None:
    run = actorfw.remote(marked_async).options(scheduling=there, num_returns=2)
    refs: Any = run.remote(str(tmp_path))
    await exists(tmp_path / "started")
    refs[1].cancel()
    for ref in refs:
        with pytest.raises(actorfw.TaskCancelledError):
            await ref
    await exists(tmp_path / "CancelledError")
    (tmp_path / "2").mkdir()
    refs = run.remote(str(tmp_path / "2"))
    held = actorfw.put([refs[0]])
    refs[1].cancel()
    assert not refs[0].done()
    (tmp_path / "2" / "let go").touch()
    with pytest.raises(actorfw.TaskError):
        await refs[0]
    del refs, ref, held
    await all_quiet()


async def test_cancelling_inside_a_worker(there: actorfw.NodeAffinity, tmp_path: Path) -> None:
    child = actorfw.remote(marked_async)

    def parent(folder: str) -> str:
        ref = child.remote(folder)

        async def main() -> None:
            try:
                async with asyncio.timeout(0.1):
                    await ref
            except TimeoutError:
                pass

        asyncio.run(main())
        try:
            actorfw.get(ref)
        except actorfw.TaskCancelledError as error:
            return str(error)
        return "?"

    assert "cancelled" in await actorfw.remote(parent).options(scheduling=there).remote(str(tmp_path))
    await exists(tmp_path / "CancelledError")
    await all_quiet()


async def test_refs_that_are_pending_when_their_node_closes() -> None:
    node = actorfw.Node(num_cpus=1)
    async with node:
        ref = actorfw.remote(lambda: threading.Event().wait()).remote()
        loop_ref = actorfw.remote(marked_async).remote("/nowhere/at/all")
        never = actorfw.remote(_never).remote()
        waiting = asyncio.create_task(never.coro())
        await asyncio.wait([loop_ref])
    for one in (ref, never, waiting):
        with pytest.raises(actorfw.NodeClosedError):
            await one


async def _never() -> None:
    await asyncio.Event().wait()
