"""A trace and a deadline go along with calls, tells and tasks, and on into what those call, in processes too."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorfw
from actorfw.api.serving import on_behalf
from actorfw.runtime import current
from actorfw.testing import SimCluster, run
from actorfw.values.trace import Trace

TRACE = ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "rojo=1")


def seen() -> list[Any]:
    known = actorfw.context()
    return [known.traceparent, known.tracestate, known.deadline is not None]


@actorfw.remote
async def leaf() -> list[Any]:
    return seen()


@actorfw.remote
async def on_loop(other: Any) -> list[Any]:
    return [seen(), await leaf.remote(), await other.seen()]


@actorfw.remote(executor="process", num_cpus=0)
async def in_process(other: Any) -> list[Any]:
    return [seen(), await leaf.remote(), await other.seen()]


class Post(actorfw.Actor):
    def __init__(self) -> None:
        self.made_in = seen()
        self.told: list[Any] = []

    @actorfw.method
    async def seen(self) -> list[Any]:
        return seen()

    @actorfw.method
    async def passes_on(self, other: Any) -> list[Any]:
        return [seen(), await leaf.remote(), await other.seen()]

    @actorfw.method
    async def items(self) -> Any:
        yield seen()
        yield await leaf.remote()

    @actorfw.method
    async def hear(self, then: Any = None) -> None:
        self.told.append(seen())
        if then is not None:
            then.hear.tell()

    @actorfw.method
    async def heard(self) -> list[Any]:
        return self.told

    @actorfw.method
    async def waits(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @actorfw.method
    async def origin(self) -> list[Any]:
        return self.made_in


@actorfw.remote(executor="process")
class ProcessPost(Post):
    pass


def here() -> Any:
    return current.home()


@pytest.mark.parametrize("trace", [TRACE, (TRACE[0], ""), None])
@pytest.mark.parametrize("timeout", [5.0, None])
def test_they_reach_whatever_is_called(trace: Trace | None, timeout: float | None) -> None:
    async def main() -> None:
        async with SimCluster(nodes=3) as cluster:
            away = [actorfw.NodeAffinity(node.id) for node in cluster.nodes]
            leaves = [Post.options(scheduling=place).remote() for place in away]
            posts = [
                *[Post.options(scheduling=place).remote() for place in away],
                *[Post.options(scheduling=place, executor="process").remote() for place in away],
            ]
            expected = [*(trace or ("", "")), timeout is not None]
            with on_behalf(here(), timeout, trace):
                assert seen() == expected
                for task in (on_loop, in_process):
                    for place in away:
                        assert await task.options(scheduling=place).remote(leaves[2]) == [expected] * 3
                for post in posts:
                    assert await post.passes_on(leaves[1]) == [expected] * 3
                    assert [item async for item in post.items()] == [expected] * 2
                    await post.hear.tell(leaves[0])
            assert seen() == ["", "", False]
            for post in posts:
                assert await post.heard() == [[*expected[:2], False]]  # nobody waits for a tell
            async with asyncio.timeout(10):
                while len(await leaves[0].heard()) < len(posts):
                    await asyncio.sleep(0.1)
            assert await leaves[0].heard() == [[*expected[:2], False]] * len(posts)

    run(main())


def test_an_actor_outlives_the_request_that_made_it() -> None:
    async def main() -> None:
        async with SimCluster(nodes=1):
            with on_behalf(here(), 1.0, TRACE):
                made = Post.remote()
            await asyncio.sleep(2)
            assert await made.origin() == ["", "", False]
            assert await made.seen() == ["", "", False]

    run(main())


@pytest.mark.parametrize("how", ["returned by its host", "never sent"])
def test_a_tell_that_finds_its_actor_gone_keeps_its_trace(how: str) -> None:
    """It goes to the next incarnation."""

    async def main() -> None:
        async with SimCluster(nodes=3) as cluster:
            there = actorfw.NodeAffinity(cluster.nodes[1].id, soft=True)
            post = Post.options(scheduling=there, max_restarts=1).remote()
            await post.seen()
            if how == "never sent":
                cluster.freeze(1)  # so that the link stays down
                cluster.cut(0, 1)
                await asyncio.sleep(0.1)
            else:
                busy = post.waits.remote(1)
                await asyncio.sleep(0.1)
            with on_behalf(here(), None, TRACE):
                for _ in range(3):
                    post.hear.tell()
            if how == "never sent":
                cluster.crash(1)
            else:
                await asyncio.sleep(0.1)
                await asyncio.gather(cluster.drain(1), busy)
            async with asyncio.timeout(10):
                while len(heard := await post.heard()) < 3:
                    await asyncio.sleep(0.1)
            assert heard == [[*TRACE, False]] * 3

    run(main())


def test_what_a_task_retries_keeps_its_trace() -> None:
    async def main() -> None:
        async with SimCluster(nodes=3) as cluster:
            there = actorfw.NodeAffinity(cluster.nodes[2].id, soft=True)

            @actorfw.remote
            async def slowly() -> list[Any]:
                await asyncio.sleep(1)
                return [actorfw.context().attempt, *seen()]

            with on_behalf(here(), None, TRACE):
                ref = slowly.options(scheduling=there).remote()
            await asyncio.sleep(0.5)
            cluster.crash(2)
            assert await ref == [2, *TRACE, False]

    run(main())
