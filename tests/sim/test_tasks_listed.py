"""The tasks of a cluster as any member lists them, and ending one by its id, from anywhere."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorfw
from actorfw.runtime.canvass import PATIENCE, Canvass
from actorfw.runtime.rows import TaskRow
from actorfw.runtime.tasklist import MOST
from actorfw.testing import SimCluster, run


@actorfw.remote(executor="loop", num_cpus=1)
async def for_ever() -> None:
    await asyncio.Event().wait()


@actorfw.remote(executor="loop", num_cpus=1)
async def echo(value: Any = None) -> Any:
    return value


@actorfw.remote(executor="loop", num_cpus=0)
async def parent() -> None:
    await for_ever.options(name="child", num_cpus=0).remote()


@actorfw.remote(executor="loop", num_cpus=0, retry_exceptions=True, max_retries=3, retry_delay=60)
async def fails() -> None:
    raise ValueError("no")


@actorfw.remote(executor="loop", num_cpus=0)
async def count() -> Any:
    for i in range(10):
        yield i
    await asyncio.Event().wait()


def on(cluster: SimCluster, index: int) -> actorfw.NodeAffinity:
    return actorfw.NodeAffinity(cluster.nodes[index].id)


async def listed(
    cluster: SimCluster, index: int = 0, limit: int = 100, name: str | None = None, states: list[str] | None = None
) -> tuple[dict[str, TaskRow], int, Canvass]:
    runtime = cluster.nodes[index].runtime
    canvass = Canvass(runtime)
    rows, total = await runtime.verbs.tasklist.everywhere(canvass, limit, name, states)
    return {row.name: row for row in rows}, total, canvass


async def cancelled(cluster: SimCluster, index: int, which: str, **how: bool) -> TaskRow:
    tasklist = cluster.nodes[index].runtime.verbs.tasklist
    return await tasklist.cancel(which, **{"force": False, "recursive": True, **how})


def test_what_waits_is_counted_where_it_waits() -> None:
    async def main() -> None:
        async with SimCluster(nodes=2, seed=1) as cluster:
            refs = [for_ever.options(scheduling=on(cluster, 1)).remote() for _ in range(5)]
            await asyncio.sleep(1)
            rows = await cluster.nodes[0].runtime.verbs.status(Canvass(cluster.nodes[0].runtime))
            assert sum(row["tasks_running"] for row in rows) == 1
            assert sum(row["tasks_waiting"] for row in rows) == 4
            assert next(row["tasks_waiting"] for row in rows if row["name"] == "n1") > 0
            for ref in refs:
                actorfw.cancel(ref)
            await asyncio.sleep(1)
            rows = await cluster.nodes[0].runtime.verbs.status(Canvass(cluster.nodes[0].runtime))
            assert [row["tasks_waiting"] for row in rows] == [0, 0]

    run(main())


def test_each_state_has_its_tasks_and_every_member_tells_the_same() -> None:
    async def main() -> None:
        async with SimCluster(nodes=3, seed=1) as cluster:
            running = for_ever.options(name="there", scheduling=on(cluster, 1)).remote()
            here = for_ever.options(name="here", scheduling=on(cluster, 0)).remote()
            await asyncio.sleep(1)
            behind = for_ever.options(name="behind", scheduling=on(cluster, 0)).remote()
            waiting = echo.options(name="waiting").remote(running)
            never = for_ever.options(name="never", num_gpus=3).remote()
            pausing = fails.options(name="pausing").remote()
            whole = parent.options(name="whole", scheduling=on(cluster, 2)).remote()
            await asyncio.sleep(1)
            rows, total, canvass = await listed(cluster)
            assert total == len(rows) == 8
            assert canvass.silent == {}
            assert {name: row.state for name, row in rows.items()} == {
                "there": "running",
                "here": "running",
                "whole": "running",
                "child": "running",
                "behind": "queued",
                "never": "queued",
                "pausing": "retrying",
                "waiting": "waiting_for_arguments",
            }
            assert {name: row.node for name, row in rows.items() if row.node} == {
                "there": "n1",
                "here": "n0",
                "whole": "n2",
                "child": rows["child"].node,
            }
            assert {name: row.submitter for name, row in rows.items()} == {**dict.fromkeys(rows, "n0"), "child": "n2"}
            assert rows["child"].parent == rows["whole"].id == whole.id
            assert rows["pausing"].attempt == 2
            assert "GPU 3" in rows["never"].detail
            assert rows["there"].id == running.id
            now = cluster.nodes[0].runtime.env.wall_time()
            assert all(row.created_at is not None and 0 <= now - row.created_at < 5 for row in rows.values())
            assert rows["behind"].since is not None
            for index in (1, 2):
                again, _, _ = await listed(cluster, index)
                assert {name: row.state for name, row in again.items()} == {
                    name: row.state for name, row in rows.items()
                }
            for ref in (running, here, behind, never, pausing, whole):
                actorfw.cancel(ref)
            with pytest.raises(actorfw.ActorFwError):
                await waiting
            rows, total, _ = await listed(cluster)
            assert (rows, total) == ({}, 0)

    run(main())


def test_limits_names_and_states() -> None:
    async def main() -> None:
        async with SimCluster(nodes=2, seed=2) as cluster:
            refs = [for_ever.options(name=f"task-{i}", num_gpus=1).remote() for i in range(30)]
            refs.append(for_ever.options(name="other").remote())
            await asyncio.sleep(1)
            rows, total, _ = await listed(cluster, 1, limit=10)
            assert (len(rows), total) == (10, 31)
            assert next(iter(rows)) == "other"  # who runs comes first, then the oldest
            assert list(rows)[1:] == [f"task-{i}" for i in range(9)]
            rows, total, _ = await listed(cluster, 1, name="task-2*")
            assert (len(rows), total) == (11, 11)
            rows, total, _ = await listed(cluster, 1, states=["running"])
            assert (list(rows), total) == (["other"], 1)
            rows, total, _ = await listed(cluster, 1, limit=5, states=["queued"])
            assert (len(rows), total) == (5, 30)
            for limit in (0, MOST + 1):
                with pytest.raises(actorfw.UsageError, match="limit"):
                    await listed(cluster, limit=limit)
            with pytest.raises(actorfw.UsageError, match="'lost'; the states are running, starting"):
                await listed(cluster, states=["lost"])

    run(main())


def test_as_many_as_there_can_be_fit_into_an_answer() -> None:
    async def main() -> None:
        async with SimCluster(nodes=2, seed=3) as cluster:
            refs = [for_ever.options(num_gpus=1, name=f"a task with a name {i}").remote() for i in range(MOST + 10)]
            await asyncio.sleep(1)
            rows, total, canvass = await listed(cluster, 1, limit=MOST)
            assert (len(rows), total, canvass.silent) == (MOST, len(refs), {})

    run(main())


def test_a_member_that_is_silent_costs_a_moment_and_is_named() -> None:
    async def main() -> None:
        async with SimCluster(nodes=3, seed=4) as cluster:
            there = for_ever.options(name="there", scheduling=on(cluster, 2)).remote()
            here = for_ever.options(name="here", scheduling=on(cluster, 0)).remote()
            await asyncio.sleep(1)
            cluster.freeze(2)
            for allowed in (PATIENCE + 0.1, PATIENCE + 0.1, 0.5):
                began = cluster.loop.time()
                rows, _, canvass = await listed(cluster, 1)
                assert cluster.loop.time() - began < allowed
                assert list(canvass.silent.values()) == ["n2"]
                assert {name: row.state for name, row in rows.items()} == {"there": "sent", "here": "running"}
                assert rows["there"].node == "n2"
                await asyncio.sleep(3)  # by the last look it is known that it stands still
            cluster.thaw(2)
            await asyncio.sleep(1)
            rows, _, canvass = await listed(cluster, 1)
            assert canvass.silent == {}
            assert rows["there"].state == "running"
            del there, here

    run(main())


def test_cancelling_by_an_id_from_another_node() -> None:
    async def main() -> None:
        async with SimCluster(nodes=3, seed=5) as cluster:
            running = for_ever.options(name="there", scheduling=on(cluster, 1)).remote()
            whole = parent.options(scheduling=on(cluster, 2)).remote()
            stream = count.options(scheduling=on(cluster, 1)).remote()
            assert await anext(stream) == 0
            await asyncio.sleep(1)
            row = await cancelled(cluster, 2, running.id[-8:])
            assert (row.id, row.name, row.state, row.submitter) == (running.id, "there", "sent", "n0")
            with pytest.raises(actorfw.TaskCancelledError):
                await running
            rows, _, _ = await listed(cluster)
            await cancelled(cluster, 0, rows["count"].id)
            with pytest.raises(actorfw.TaskCancelledError):
                while True:
                    await anext(stream)
            await cancelled(cluster, 1, whole.id)
            await asyncio.sleep(1)
            rows, total, _ = await listed(cluster)
            assert (rows, total) == ({}, 0)  # its child is gone as well
            for wrong in (running.id, running.id[-8:], "xyz", "nothing-like-it"):
                with pytest.raises(actorfw.ActorFwError, match=r"it is done"):
                    await cancelled(cluster, 1, wrong)

    run(main())


def test_an_end_of_an_id_that_several_have() -> None:
    async def main() -> None:
        async with SimCluster(nodes=2, seed=6) as cluster:
            refs = [for_ever.options(num_gpus=1).remote() for _ in range(3)]
            await asyncio.sleep(1)
            tasklist = cluster.nodes[0].runtime.verbs.tasklist
            life = refs[0].id.partition("-")[0]
            rows, _ = await tasklist.everywhere(Canvass(cluster.nodes[0].runtime), 10)
            assert [row.id.partition("-")[0] for row in rows] == [life] * 3
            twins = [TaskRow(id=f"{n}0000-1a", name=f"twin-{n}", state="queued") for n in range(7)]

            async def everywhere(canvass: Canvass, limit: int) -> tuple[list[TaskRow], int]:
                return twins, len(twins)

            tasklist.everywhere = everywhere  # type: ignore[method-assign, assignment]
            with pytest.raises(
                actorfw.UsageError, match=r"may be any of 00000-1a \(twin-0\), .* and 2 more: give more"
            ):
                await cancelled(cluster, 0, "0000-1a")

    run(main())


def test_a_call_is_cancelled_by_its_id() -> None:
    async def main() -> None:
        async with SimCluster(nodes=2, seed=7) as cluster:
            actor = Sleeper.options(scheduling=on(cluster, 1)).remote()
            call = actor.sleep.remote()
            await asyncio.sleep(1)
            row = await cancelled(cluster, 1, call.id)
            assert (row.name, row.state) == ("sleep", "running")
            with pytest.raises(actorfw.TaskCancelledError):
                await call

    run(main())


@actorfw.remote
class Sleeper(actorfw.Actor):
    @actorfw.method
    async def sleep(self) -> None:
        await asyncio.Event().wait()
