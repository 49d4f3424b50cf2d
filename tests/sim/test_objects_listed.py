"""`actorfw.objects()`: every living object of the cluster, who holds it, how old it is, and which may be leaks."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

import actorfw
from actorfw.runtime.store import listing
from actorfw.testing import SimCluster, run

MIB = 1 << 20


@actorfw.remote
class Keeper(actorfw.Actor):
    def __init__(self) -> None:
        self.kept: list[Any] = []

    @actorfw.method
    async def keep(self, refs: list[Any]) -> int:
        self.kept += refs
        return len(self.kept)


@actorfw.remote(executor="process")
class WorkerKeeper(actorfw.Actor):
    def __init__(self) -> None:
        self.kept: list[Any] = []

    @actorfw.method
    def keep(self, refs: list[Any]) -> int:
        self.kept += refs
        return len(self.kept)

    @actorfw.method
    def put(self, size: int) -> list[Any]:
        return [actorfw.put(bytes(size))]


@actorfw.remote
async def for_ever() -> None:
    await asyncio.Event().wait()


@actorfw.remote
async def fail() -> None:
    raise ValueError("no")


def on(cluster: SimCluster, index: int) -> actorfw.NodeAffinity:
    return actorfw.NodeAffinity(cluster.nodes[index].id)


async def by_id() -> dict[str, actorfw.ObjectRow]:
    return {row.id: row for row in await actorfw.objects()}


def test_every_living_object_has_a_row() -> None:
    async def main() -> None:
        async with SimCluster(2) as cluster:
            large, small, pending, failed = actorfw.put(bytes(2000)), actorfw.put(5), for_ever.remote(), fail.remote()
            with pytest.raises(ValueError, match="no"):
                await failed
            rows = await actorfw.objects()
            assert {row.id: row.state for row in rows} == {
                large.id: "here",
                small.id: "here",
                pending.id: "pending",
                failed.id: "failed",
            }
            assert rows[0].id == large.id  # the largest first
            assert 2000 <= rows[0].size < 2100
            assert rows[0].as_dict()["size"] == rows[0].size
            assert (rows[0].owner, rows[0].owner_id) == ("n0", cluster.nodes[0].id)
            assert (rows[0].holders, rows[0].nodes) == (("n0",), ("n0",))
            assert {row.suspect for row in rows} == {""}
            del large
            await cluster.settle()
            assert len(await actorfw.objects()) == 3
            assert [row.id for row in await actorfw.objects(limit=1)] != []
            actorfw.cancel(pending)

    run(main())


def test_holders_are_told_from_each_other() -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            keeper = Keeper.options(scheduling=on(cluster, 1)).remote()
            worker_keeper = WorkerKeeper.options(scheduling=on(cluster, 2)).remote()
            ref = actorfw.put(bytes(100))
            outer = actorfw.put([ref])
            await keeper.keep([ref])
            await worker_keeper.keep([ref])
            await asyncio.sleep(1)
            (worker,) = cluster.nodes[2].workers.values()
            row = (await by_id())[ref.id]
            assert set(row.holders) == {"n0", f"n0 (in {outer.id})", "n1", f"n2 worker {worker.pid}"}
            del ref
            await cluster.settle()
            assert f"n0 (in {outer.id})" in (await by_id())[row.id].holders
            assert "n0" not in (await by_id())[row.id].holders
            pickle.dumps(outer)
            assert "n0 (pickled)" in (await by_id())[outer.id].holders

    run(main())


def test_those_of_other_nodes_and_their_workers_are_listed_too() -> None:
    async def main() -> None:
        async with SimCluster(2) as cluster:
            keeper = WorkerKeeper.options(scheduling=on(cluster, 1)).remote()
            (ref,) = await keeper.put(3000)
            row = (await by_id())[ref.id]
            assert (row.owner, row.nodes, row.state) == ("n1", ("n1",), "here")
            assert "n0" in row.holders
            assert row.size >= 3000

    run(main())


def test_the_age_is_known_to_a_second() -> None:
    async def main() -> None:
        async with SimCluster(2) as cluster:
            keeper = WorkerKeeper.options(scheduling=on(cluster, 1)).remote()
            made: list[tuple[Any, float]] = []
            for pause in (0.1, 3.3, 60.0, 700.0):
                await asyncio.sleep(pause)
                made.append((actorfw.put(1), cluster.nodes[0].runtime.env.wall_time()))
                made.append(((await keeper.put(10))[0], cluster.nodes[1].runtime.env.wall_time()))
            await asyncio.sleep(100)
            rows = await by_id()
            for ref, when in made:
                created = rows[ref.id].created_at
                assert created is not None
                assert abs(created - when) < 1.1

    run(main())


def test_what_nobody_can_let_go_of_is_a_suspect_at_once() -> None:
    async def main() -> None:
        async with SimCluster(1):
            ref = actorfw.put(bytearray(2 * MIB))
            fine = actorfw.put(bytearray(2 * MIB))
            pickle.dumps(ref)
            rows = await by_id()
            assert "pickled" in rows[ref.id].suspect
            assert rows[fine.id].suspect == ""

    run(main())


def test_large_and_old_is_a_suspect() -> None:
    async def main() -> None:
        async with SimCluster(1):
            large, small = actorfw.put(bytearray(2 * MIB)), actorfw.put(bytearray(100))
            await asyncio.sleep(listing.OLD - 5)
            assert (await by_id())[large.id].suspect == ""
            await asyncio.sleep(10)
            rows = await by_id()
            assert "10 min" in rows[large.id].suspect
            assert rows[small.id].suspect == ""

    run(main())


def test_a_line_that_makes_very_many_is_a_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MANY", 50)

    async def main() -> None:
        async with SimCluster(1):
            refs = [actorfw.put(number) for number in range(60)]
            few = [actorfw.put(number) for number in range(10)]
            await asyncio.sleep(listing.OLD + 5)
            new = actorfw.put(1)
            rows = await by_id()
            assert all("60 objects" in rows[ref.id].suspect for ref in refs)
            assert all(rows[ref.id].suspect == "" for ref in (*few, new))

    run(main())


def test_a_member_that_does_not_answer_is_left_out() -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            keepers = [WorkerKeeper.options(scheduling=on(cluster, index)).remote() for index in (1, 2)]
            refs = [(await keeper.put(10))[0] for keeper in keepers]
            cluster.freeze(2)
            rows = await by_id()
            assert refs[0].id in rows
            assert refs[1].id not in rows
            cluster.thaw(2)

    run(main())


@pytest.mark.parametrize("limit", [0, -1, listing.MOST + 1, True, "many", 1.5])
def test_the_limit_is_checked(limit: Any) -> None:
    async def main() -> None:
        async with SimCluster(1):
            with pytest.raises(actorfw.UsageError, match="limit"):
                await actorfw.objects(limit=limit)

    run(main())
