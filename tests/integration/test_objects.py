"""Objects: put, get, wait, gather, as_completed; what refs can do; memory is free again when the last is gone."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import pickle
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

import actorfw
from actorfw.runtime import current
from tests.integration.quiet import all_quiet

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[actorfw.LocalCluster]:
    async with actorfw.LocalCluster(nodes=2, num_cpus=1, config=actorfw.Config(borrow_grace=1)) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", params=["here", "there"])
async def there(cluster: actorfw.LocalCluster, request: pytest.FixtureRequest) -> actorfw.NodeAffinity:
    rows = await actorfw.nodes()
    return actorfw.NodeAffinity(next(row.id for row in rows if row.here == (request.param == "here")))


@actorfw.remote
def identity(x: Any) -> Any:
    return x


@actorfw.remote
async def identity_async(x: Any) -> Any:
    return x


@actorfw.remote
async def never() -> None:
    await asyncio.Event().wait()


VALUES: list[Any] = [
    None,
    True,
    7,
    1 << 80,
    1.5,
    "text",
    "ünï",
    b"bytes",
    [1, "two"],
    {"a": (1, {2})},
    "x" * 200_000,
    b"y" * 200_000,
]


async def test_put_and_get_of_every_kind(there: actorfw.NodeAffinity) -> None:
    for value in VALUES:
        ref = actorfw.put(value)
        assert await ref == value
        assert await identity.options(scheduling=there).remote(ref) == value
        assert await identity_async.options(scheduling=there).remote(value) == value
        assert await asyncio.to_thread(actorfw.get, ref) == value
    with pytest.raises(actorfw.UsageError, match="ref"):
        actorfw.put(actorfw.put(1))
    del ref
    await all_quiet()


async def test_put_takes_its_copy_at_once(cluster: actorfw.LocalCluster) -> None:
    value = [1]
    array = np.zeros(1 << 16)
    refs = actorfw.put(value), actorfw.put(array)
    value.append(2)
    array[:] = 9
    assert await refs[0] == [1]
    got = await refs[1]
    assert (got == 0).all()
    first, second = await refs[0], await refs[0]
    first.append(3)
    assert second == [1]


async def test_large_arrays_between_all_places(there: actorfw.NodeAffinity) -> None:
    array = np.arange(1 << 18, dtype=np.float64)
    for executor in ("process", "thread", "loop"):
        run = identity.options(scheduling=there, executor=executor).remote
        assert (await run(array) == array).all()
        assert (await run(actorfw.put(array)) == array).all()
        (inside,) = await run([actorfw.put(array)])
        assert (await inside == array).all()
        del inside
    await all_quiet()


async def test_a_ref_is_sent_stored_and_returned(cluster: actorfw.LocalCluster) -> None:
    ids = [actorfw.NodeAffinity(row.id) for row in await actorfw.nodes()]

    def put(x: Any) -> list[Any]:
        return [actorfw.put([x])]

    async def put_async(x: Any) -> list[Any]:
        return [actorfw.put([x])]

    for maker in (put, put_async):
        (ref,) = await actorfw.remote(maker).options(scheduling=ids[1]).remote(5)
        assert await ref == [5]
        assert await identity.options(scheduling=ids[2]).remote(ref) == [5]
        nested = await identity.options(scheduling=ids[2]).remote([[ref]])
        assert nested[0][0] is ref
        third = await identity_async.options(scheduling=ids[2]).remote({"deep": [ref]})
        assert await third["deep"][0] == [5]
        assert {ref: 1}[third["deep"][0]] == 1
        del ref, nested, third
    await all_quiet()


async def test_a_ref_survives_its_first_holder(cluster: actorfw.LocalCluster) -> None:
    """A gives it to B, B returns it inside a value, A drops its own: the one that came back still has the value."""
    ids = [actorfw.NodeAffinity(row.id) for row in await actorfw.nodes()]
    for _ in range(20):
        ref = actorfw.put(["kept"])
        back = identity_async.options(scheduling=ids[1]).remote([ref])
        del ref
        (again,) = await identity_async.options(scheduling=ids[2]).remote(back)
        del back
        assert await again == ["kept"]
    del again
    await all_quiet()


async def test_memory_is_free_again_on_every_node(cluster: actorfw.LocalCluster) -> None:
    ids = [actorfw.NodeAffinity(row.id) for row in await actorfw.nodes()]

    async def use(refs: list[Any]) -> int:
        return sum([len(await ref) for ref in refs])

    for executor in ("loop", "process"):
        refs = [actorfw.put(os.urandom(1 << 20)) for _ in range(8)]
        users = [
            (actorfw.remote(use).options(scheduling=ids[i % 3], executor=executor).remote([ref]), i)
            for i, ref in enumerate(refs)
        ]
        assert [await user for user, _ in users] == [1 << 20] * 8
        results = [identity.options(scheduling=ids[i % 3]).remote(bytes(1 << 20)) for i in range(8)]
        await asyncio.wait(results)
        del refs, users, results
        await all_quiet()


async def test_a_ref_that_is_dropped_at_once_from_a_thread(cluster: actorfw.LocalCluster) -> None:
    def script() -> list[Any]:
        return actorfw.get([identity_async.remote(identity_async.remote(actorfw.put([i]))) for i in range(200)])

    assert await asyncio.to_thread(script) == [[i] for i in range(200)]
    await all_quiet()


# -- wait, gather, as_completed ----------------------------------------------------------------------------------------


async def test_wait(there: actorfw.NodeAffinity) -> None:
    slow = never.options(scheduling=there).remote()
    refs = [slow, *(identity.options(scheduling=there).remote(i) for i in range(4))]
    ready, pending = await actorfw.wait(refs, num_returns=3)
    assert len(ready) == 3
    assert ready == [ref for ref in refs if ref in ready]
    assert pending == [ref for ref in refs if ref not in ready]
    ready, pending = await actorfw.wait(refs, num_returns=5, timeout=0.2)
    assert (ready, pending) == (refs[1:], [slow])
    assert await actorfw.wait([slow], timeout=0) == ([], [slow])
    assert await actorfw.wait([slow], num_returns=0) == ([], [slow])
    assert await asyncio.to_thread(lambda: actorfw.get(actorfw.wait(refs[1:], num_returns=4))) == (refs[1:], [])
    for wrong in ({"num_returns": 9}, {"num_returns": -1}):
        with pytest.raises(actorfw.UsageError, match="num_returns"):
            actorfw.wait(refs, **wrong)
    with pytest.raises(actorfw.UsageError, match="distinct"):
        actorfw.wait([slow, slow])
    with pytest.raises(TypeError, match="ObjectRefs"):
        actorfw.wait([1])  # type: ignore[list-item]
    actorfw.cancel(slow)


async def test_wait_never_fetches(cluster: actorfw.LocalCluster) -> None:
    ids = [actorfw.NodeAffinity(row.id) for row in await actorfw.nodes()]

    @actorfw.remote
    async def make() -> list[Any]:
        return [actorfw.put(bytes(1 << 20)), never.remote()]

    borrowed, pending = await make.options(scheduling=ids[1]).remote()
    assert await actorfw.wait([pending, borrowed]) == ([borrowed], [pending])
    assert not borrowed.done()
    assert not pending.done()
    assert len(await borrowed) == 1 << 20

    @actorfw.remote
    def look(refs: list[Any]) -> tuple[int, int]:
        ready, waiting = actorfw.get(actorfw.wait(refs))
        return len(ready), len(waiting)

    for one in ids:
        assert await look.options(scheduling=one).remote([pending, borrowed]) == (1, 1)
    actorfw.cancel(pending)
    del borrowed, pending
    await all_quiet()


async def test_gather(there: actorfw.NodeAffinity) -> None:
    run = identity.options(scheduling=there).remote
    assert await actorfw.gather([run(i) for i in range(20)]) == list(range(20))
    assert await actorfw.gather([]) == []
    same = run([1])
    first, second = await actorfw.gather([same, same])
    assert first is not second
    assert await asyncio.to_thread(lambda: actorfw.get(actorfw.gather([run(1), run(2)]))) == [1, 2]

    def fail() -> None:
        raise ValueError("no")

    stuck = never.remote()
    with pytest.raises(ValueError, match="no"):
        await actorfw.gather([stuck, actorfw.remote(fail).remote()])
    stuck.cancel()
    with pytest.raises(actorfw.UsageError, match="progress"):
        actorfw.gather([], progress=True)
    with pytest.raises(TypeError, match="ObjectRefs"):
        actorfw.gather([1])  # type: ignore[list-item]


async def test_as_completed(there: actorfw.NodeAffinity) -> None:
    run = identity.options(scheduling=there).remote
    late = never.remote()
    refs = [late, *(run(i) for i in range(200))]
    got = []
    async for ref in actorfw.as_completed(refs):
        got.append(await ref)
        if len(got) == 200:
            break
    assert sorted(got) == list(range(200))
    assert sorted(
        await asyncio.to_thread(lambda: [actorfw.get(ref) for ref in actorfw.as_completed(refs[1:])])
    ) == list(range(200))
    assert [ref async for ref in actorfw.as_completed([])] == []

    @actorfw.remote
    def in_a_worker(refs: list[Any]) -> list[int]:
        mine = [identity_async.remote(i) for i in range(20)]
        return sorted(actorfw.get(ref) for ref in actorfw.as_completed([*refs, *mine]))

    assert await in_a_worker.options(scheduling=there).remote([run(100), run(101)]) == [*range(20), 100, 101]
    with pytest.raises(actorfw.UsageError, match="progress"):
        actorfw.as_completed([], progress=True)
    actorfw.cancel(late)
    refs.clear()
    del late
    await all_quiet()


async def test_get(cluster: actorfw.LocalCluster) -> None:
    def script() -> None:
        assert actorfw.get(identity_async.remote(1)) == 1
        assert actorfw.get((identity_async.remote(1), identity_async.remote(2))) == [1, 2]
        assert len(actorfw.get(actorfw.nodes())) == 3
        assert actorfw.get([]) == []
        for wrong in (1, "x", [1], asyncio.sleep(0)):
            with pytest.raises(TypeError, match="get takes"):
                actorfw.get(wrong)  # type: ignore[arg-type,call-overload]
        stuck = never.remote()
        with pytest.raises(actorfw.GetTimeoutError) as caught:
            actorfw.get([identity_async.remote(1), stuck], timeout=0.05)
        assert isinstance(caught.value, TimeoutError)
        stuck.cancel()
        with pytest.raises(actorfw.TaskCancelledError):
            actorfw.get(stuck)

    await asyncio.to_thread(script)
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()
    loop.call_later(0.01, future.set_result, 5)
    assert await asyncio.to_thread(lambda: actorfw.get(future)) == 5


# -- the ref itself ----------------------------------------------------------------------------------------------------


async def test_future_and_id(cluster: actorfw.LocalCluster) -> None:
    ref = identity.remote([1])
    future = ref.future()
    assert isinstance(future, concurrent.futures.Future)
    assert await asyncio.wrap_future(future) == [1]
    assert isinstance(ref.id, str)

    @actorfw.remote
    def id_of(refs: list[Any]) -> str:
        return str(refs[0].id)

    assert await id_of.remote([ref]) == ref.id


async def test_a_ref_is_awaited_on_another_loop(cluster: actorfw.LocalCluster) -> None:
    refs = [identity.remote(i) for i in range(20)]

    async def main() -> list[Any]:
        return await asyncio.gather(*refs, *(asyncio.wait_for(ref, 30) for ref in refs))

    both = await asyncio.gather(asyncio.to_thread(asyncio.run, main()), asyncio.gather(*refs))
    assert both == [[*range(20), *range(20)], list(range(20))]


async def test_pickle_outside_a_call_pins(cluster: actorfw.LocalCluster) -> None:
    async with actorfw.Node(num_cpus=0) as node:
        ref = actorfw.put(["pinned"])
        data = pickle.dumps(ref)
        number = ref._number
        del ref
        gc.collect()
        node.runtime.objects.sweep()
        assert number in node.runtime.objects._exported
        assert await pickle.loads(data) == ["pinned"]


async def test_an_object_dies_with_its_owner(cluster: actorfw.LocalCluster) -> None:
    @actorfw.remote
    async def make() -> list[Any]:
        return [actorfw.put(["lost"]), actorfw.put(["lost"]), never.remote()]

    index = await cluster.add_node(name="owner", num_cpus=0)
    (there,) = [actorfw.NodeAffinity(row.id) for row in await actorfw.nodes() if row.name == "owner"]
    got = await make.options(scheduling=there).remote()
    assert await got[0] == ["lost"]
    waiting = asyncio.create_task(got[2].coro())
    await asyncio.sleep(0)
    await cluster.kill(index)
    with pytest.raises(actorfw.OwnerDiedError):
        await got[1]
    with pytest.raises(actorfw.OwnerDiedError):
        await waiting
    assert issubclass(actorfw.OwnerDiedError, actorfw.ObjectLostError)
    assert await got[0] == ["lost"]  # that one had come before
    del got, waiting
    await all_quiet()


async def test_nothing_is_left(cluster: actorfw.LocalCluster) -> None:
    await all_quiet()
    assert len(current.home().objects.ownership) == 0  # type: ignore[attr-defined]
