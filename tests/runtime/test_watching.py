"""Watching actors on whole nodes: one end for each watch, told in order, whatever becomes of links and nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run


@actorfw.remote(num_cpus=0)
class Subject(actorfw.Actor):
    async def ping(self) -> str:
        return "pong"

    async def leaves(self) -> None:
        actorfw.exit_actor()

    async def sleeps(self) -> str:
        await asyncio.sleep(3600)
        return "awake"

    async def large(self, seconds: float) -> bytes:
        await asyncio.sleep(seconds)
        return b"x" * 5_000_000

    @actorfw.method(interleave=True)
    async def watches(self, handles: list[Any]) -> str:
        reason = (await actorfw.watch(handles[0])).reason
        self.reasons = [*getattr(self, "reasons", ()), reason]
        return reason

    async def seen(self) -> list[str]:
        return getattr(self, "reasons", [])


@actorfw.remote(num_cpus=0)
class Fails(actorfw.Actor):
    def __init__(self) -> None:
        raise ValueError("no luck")

    async def ping(self) -> None:
        """Never."""


@actorfw.remote(num_cpus=0, executor="process")
class Crashes(actorfw.Actor):
    def ping(self) -> str:
        return "pong"


Main = Callable[[SimCluster], Awaitable[None]]


def simulate(nodes: int) -> Callable[[Main], Callable[[], None]]:
    """Run a test inside a cluster; afterwards nothing of a watch is left anywhere."""

    def decorate(main: Main) -> Callable[[], None]:
        async def whole() -> None:
            async with SimCluster(nodes) as cluster:
                await main(cluster)
                await cluster.settle()
                assert left_over(cluster) == []

        def test() -> None:
            run(whole())

        test.__name__ = main.__name__
        return test

    return decorate


def left_over(cluster: SimCluster) -> list[Any]:
    left: list[Any] = []
    for node in cluster.alive:
        watching = node.runtime.watching
        left += [*watching._watched, *watching._watchers.of, *watching._fates.open, *node.runtime.readings._open]
    return left


def on(cluster: SimCluster, index: int) -> Any:
    return actorfw.NodeAffinity(cluster.nodes[index].id)


async def subject(cluster: SimCluster, index: int) -> Any:
    """An actor there, made by the driver."""
    handle = Subject.options(scheduling=on(cluster, index)).remote()
    await handle.ping()
    return handle


@simulate(2)
async def test_it_is_told_how_an_actor_ended(cluster: SimCluster) -> None:
    for index in (0, 1):

        async def ends(how: Callable[[Any], Any], index: int = index) -> actorfw.Terminated[Any]:
            handle = await subject(cluster, index)
            watched = actorfw.watch(handle)
            await asyncio.sleep(0.1)
            assert not watched.done()
            made = how(handle)
            if made is not None:
                await asyncio.gather(made, return_exceptions=True)
            ended = await watched
            assert ended.actor is handle
            with pytest.raises(actorfw.ActorDiedError) as info:
                await handle.ping()
            assert info.value.reason == ended.reason
            assert info.value.ran is False
            assert await actorfw.watch(handle) == ended
            return ended

        assert (await ends(lambda h: actorfw.stop(h))).reason == "stopped"
        assert (await ends(lambda h: actorfw.kill(h))).reason == "killed"
        assert (await ends(lambda h: h.leaves.remote())).reason == "exited"
    handle = Fails.remote()
    ended = await actorfw.watch(handle)
    assert ended.reason == "crashed"
    assert "no luck" in ended.detail


@simulate(2)
async def test_a_watch_does_not_keep_the_actor(cluster: SimCluster) -> None:
    for index in (0, 1):
        handle = await subject(cluster, index)
        watched = actorfw.watch(handle)
        await asyncio.sleep(0.1)
        same = handle._number
        del handle
        ended = await watched
        assert ended.reason == "released"
        assert ended.actor._number == same
        with pytest.raises(actorfw.ActorDiedError) as info:
            await ended.actor.ping()
        assert info.value.reason == "released"
    assert (await actorfw.watch(Subject.remote())).reason in ("released", "unknown")


@simulate(3)
async def test_all_who_watch_hear_it_once(cluster: SimCluster) -> None:
    handle = await subject(cluster, 1)
    watchers = [await subject(cluster, index) for index in (0, 1, 2, 2)]
    watching = [watcher.watches.remote([handle]) for watcher in watchers]
    here = [actorfw.watch(handle) for _ in range(3)]
    await asyncio.sleep(0.1)
    actorfw.kill(handle)
    assert [ended.reason for ended in await asyncio.gather(*here)] == ["killed"] * 3
    assert await actorfw.gather(watching) == ["killed"] * 4


@simulate(2)
async def test_a_watch_begun_after_the_end_is_done_at_once(cluster: SimCluster) -> None:
    handle = await subject(cluster, 1)
    other = await subject(cluster, 1)
    await actorfw.stop(handle)
    assert await other.watches([handle]) == "stopped"
    assert (await actorfw.watch(handle)).reason == "stopped"


@simulate(2)
async def test_answers_come_before_the_end_large_ones_too(cluster: SimCluster) -> None:
    handle = await subject(cluster, 1)
    order: list[str] = []
    watched = actorfw.watch(handle)
    watched.add_done_callback(lambda _: order.append("end"))
    await asyncio.sleep(0.1)
    answer = handle.large.remote(0.1)
    answer.add_done_callback(lambda _: order.append("answer"))
    small = handle.ping.remote()
    small.add_done_callback(lambda _: order.append("small"))
    await asyncio.sleep(0.05)
    stopped = actorfw.stop(handle)
    await watched
    await stopped
    await asyncio.sleep(1)
    assert order[-1] == "end"
    assert sorted(order) == ["answer", "end", "small"]
    assert len(await answer) == 5_000_000


@simulate(2)
async def test_open_calls_fail_before_the_end_is_told(cluster: SimCluster) -> None:
    handle = await subject(cluster, 1)
    order: list[str] = []
    watched = actorfw.watch(handle)
    watched.add_done_callback(lambda _: order.append("end"))
    calls = [handle.sleeps.remote() for _ in range(2)]
    for call in calls:
        call.add_done_callback(lambda _: order.append("call"))
    await asyncio.sleep(0.1)
    actorfw.kill(handle)
    assert (await watched).reason == "killed"
    await asyncio.sleep(0)
    assert order == ["call", "call", "end"]
    for call in calls:
        with pytest.raises(actorfw.ActorDiedError) as info:
            await call
        assert info.value.reason == "killed"


@simulate(3)
async def test_the_deaths_of_nodes_end_what_depends_on_them(cluster: SimCluster) -> None:
    handle = await subject(cluster, 1)
    watched = actorfw.watch(handle)
    await asyncio.sleep(0.1)
    cluster.crash(1)
    ended = await watched
    assert ended.reason == "node_died"
    assert "n1" in ended.detail


@simulate(4)
async def test_an_actor_ends_with_the_node_that_made_it(cluster: SimCluster) -> None:
    there = Subject.options(scheduling=on(cluster, 3), name="there").remote()
    await there.ping()

    async def make() -> None:
        made = await subject(cluster, 1)
        (await actorfw.get_actor("there", Subject)).watches.tell([made])
        assert await made.ping() == "pong"
        kept.append(made)

    kept: list[Any] = []
    await cluster.run_on(2, make)
    await asyncio.sleep(0.1)
    assert await there.seen() == []
    cluster.crash(2)
    async with asyncio.timeout(60):
        while not (seen := await there.seen()):
            await asyncio.sleep(0.1)
    assert seen == ["owner_died"]
    assert cluster.nodes[1].runtime.hosting.cells == {}


@simulate(2)
async def test_a_broken_link_tells_nothing(cluster: SimCluster) -> None:
    handle = await subject(cluster, 1)
    watched = actorfw.watch(handle)
    for _ in range(10):
        cluster.cut(0, 1)
        await asyncio.sleep(0.1)
    cluster.freeze(1)
    await asyncio.sleep(2)
    assert not watched.done()
    cluster.thaw(1)
    actorfw.kill(handle)
    assert (await watched).reason == "killed"


@simulate(2)
async def test_who_cancels_the_await_is_forgotten(cluster: SimCluster) -> None:
    handle = await subject(cluster, 1)
    for delay in (0.0, 0.0007, 0.003, 0.5):
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(delay):
                    await actorfw.watch(handle)
    await cluster.settle()
    assert left_over(cluster) == []
    # Others go on.
    kept = actorfw.watch(handle)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(actorfw.watch(handle), 0.1)
    actorfw.kill(handle)
    assert (await kept).reason == "killed"


@simulate(2)
async def test_it_follows_the_name_to_the_older_actor(cluster: SimCluster) -> None:
    older = Subject.options(name="one").remote()
    await older.ping()

    async def share() -> Any:
        return Subject.options(name="one", get_if_exists=True).remote()

    async with cluster.on(1):
        younger = await share()
        watched = actorfw.watch(younger)
        await asyncio.sleep(0.2)
        assert not watched.done()
        actorfw.kill(older)
        ended = await watched
        assert ended.reason == "killed"
        assert ended.actor == older


@simulate(2)
async def test_restarts_are_iterated_and_the_end_is_the_last(cluster: SimCluster) -> None:
    handle = await subject(cluster, 1)
    told: list[Any] = []

    async def follow() -> None:
        async for one in actorfw.watch(handle, restarts=True):
            told.append(one)

    following = asyncio.create_task(follow())
    await asyncio.sleep(0.2)
    actorfw.kill(handle)
    await following
    assert told == [actorfw.Terminated(handle, "killed", told[0].detail)]
    again = [one async for one in actorfw.watch(handle, restarts=True)]
    assert again == told


@simulate(2)
async def test_an_iterator_that_is_dropped_leaves_nothing(cluster: SimCluster) -> None:
    handle = await subject(cluster, 1)
    reading = actorfw.watch(handle, restarts=True)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(reading), 0.1)
    assert left_over(cluster) != []
    del reading
    await asyncio.sleep(0.1)
    assert left_over(cluster) == []
    closed = actorfw.watch(handle, restarts=True)
    await closed.aclose()
    assert [one async for one in closed] == []
    await asyncio.sleep(0.1)
    assert left_over(cluster) == []


@simulate(2)
async def test_a_watch_ends_with_its_own_node(cluster: SimCluster) -> None:
    handle = await subject(cluster, 0)
    watcher = await subject(cluster, 1)
    watching = watcher.watches.remote([handle])
    await asyncio.sleep(0.1)
    await cluster.stop(1)
    with pytest.raises(actorfw.ActorFwError):
        await watching


@simulate(4)
async def test_a_restart_is_no_end(cluster: SimCluster) -> None:
    soft = actorfw.NodeAffinity(cluster.nodes[1].id, soft=True)
    handle = Subject.options(scheduling=soft, max_restarts=2).remote()
    await handle.ping()
    watched = actorfw.watch(handle)
    told: list[Any] = []

    async def follow() -> None:
        async for one in actorfw.watch(handle, restarts=True):
            told.append(one)

    following = asyncio.create_task(follow())
    await asyncio.sleep(0.2)
    for incarnation in (2, 3):
        host = (await actorfw.info(handle)).node_id
        index = next(node.index for node in cluster.alive if node.id == host)
        if index == 0:
            break
        cluster.crash(index)
        async with asyncio.timeout(60):
            while len(told) < incarnation - 1:
                await asyncio.sleep(0.1)
        assert not watched.done()
        assert told[-1] == actorfw.Restarted(handle, incarnation)
    await actorfw.stop(handle)
    await following
    assert (await watched).reason == "stopped"
    assert [type(one).__name__ for one in told] == ["Restarted"] * (len(told) - 1) + ["Terminated"]


@simulate(3)
async def test_without_restarts_left_a_crash_is_the_end(cluster: SimCluster) -> None:
    made: Any = Crashes.options(scheduling=on(cluster, 1), max_restarts=1).remote()
    await made.ping()
    watched = actorfw.watch(made)
    await asyncio.sleep(0.2)
    cluster.kill_worker(1)
    async with asyncio.timeout(60):
        while (await actorfw.info(made)).state == "up":
            await asyncio.sleep(0.001)
    assert await made.ping() == "pong"
    assert not watched.done()
    cluster.kill_worker(1)
    assert (await watched).reason == "crashed"
