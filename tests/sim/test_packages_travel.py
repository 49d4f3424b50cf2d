"""Environments and their packages between simulated nodes, each with a disk of its own, under faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import actorfw
from actorfw.core.piecefetch import PIECE
from actorfw.testing import SimCluster, run
from actorfw.testing.sim import SimNode

PIECES = 12


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "data").write_bytes(bytes(range(256)) * (PIECES * PIECE // 256))
    return str(tmp_path / "project")


@actorfw.remote(max_retries=0)
def where() -> str:
    return actorfw.context().node_id


@actorfw.remote
def again() -> tuple[str, int]:
    context = actorfw.context()
    return context.node_id, context.attempt


@actorfw.remote
def large() -> bytes:
    return bytes(1 << 20)


@actorfw.remote
def parent() -> Any:
    return where.remote()


@actorfw.remote(executor="process", max_restarts=3)
class Host:
    def where(self) -> str:
        return actorfw.context().node_id


def _packages(node: SimNode) -> Any:
    return node.runtime.environments.packages


def _content(node: SimNode) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = _packages(node).files().content
    return found


def _digest(cluster: SimCluster, folder: str) -> bytes:
    """Have the driver pack it."""
    definition = where.options(runtime_env={"working_dir": folder})._definition
    environment = cluster.driver.runtime.environments.of(definition, None)
    assert environment is not None
    return environment.working_dir


def _on(node: SimNode) -> actorfw.NodeAffinity:
    return actorfw.NodeAffinity(node.id)


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not true():
            await asyncio.sleep(0.001)


def _environments(node: SimNode) -> list[bool]:
    return sorted(worker.environment is not None for worker in node.runtime.pool.workers.values())


def test_a_package_comes_with_the_first_task_and_once(folder: str) -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            there = cluster.nodes[1]
            task = where.options(runtime_env={"working_dir": folder}, scheduling=_on(there))
            assert await asyncio.gather(*(task.remote() for _ in range(5))) == [there.id] * 5
            assert _packages(there).fetched == 1
            assert _content(there) == _content(cluster.driver)
            assert not _content(cluster.nodes[2])
            assert await where.options(scheduling=_on(there)).remote() == there.id
            assert _environments(there) == [False, True]

    run(main())


def test_what_waits_for_a_package_can_be_cancelled_and_is_due(folder: str) -> None:
    async def main() -> None:
        async with SimCluster(2) as cluster:
            there = cluster.nodes[1]
            task = where.options(runtime_env={"working_dir": folder}, scheduling=_on(there))
            cancelled = task.remote()
            late = task.options(timeout=0.01).remote()
            await _until(lambda: bool(_packages(there)._coming))
            cancelled.cancel()
            with pytest.raises(actorfw.DeadlineExceededError):
                await late
            assert await task.remote() == there.id

    run(main())


@pytest.mark.parametrize("how", ["crashes", "is cut off", "has another file"])
def test_the_next_holder_goes_on(folder: str, how: str) -> None:
    async def main() -> None:
        async with SimCluster(4) as cluster:
            digest = _digest(cluster, folder)
            driver, second, taker, _ = cluster.nodes
            content = _content(driver)[digest]
            _content(second)[digest] = content
            if how == "has another file":
                _content(driver)[digest] = bytes(len(content))
            coming = asyncio.ensure_future(_packages(taker).get(digest, driver.runtime.life))
            if how != "has another file":
                served = _packages(driver).files().uses
                await _until(lambda: bool(served.get(digest)) and bool(_packages(taker)._coming))
                await asyncio.sleep(0.004)
                assert not coming.done()
                if how == "crashes":
                    cluster.crash(0)
                else:
                    cluster.partition([0], [1, 2, 3])
            held = await coming
            assert held.digest == digest
            assert _content(taker)[digest] == content

    run(main())


def test_links_that_break_lose_no_piece(folder: str) -> None:
    async def main() -> None:
        async with SimCluster(2, seed=3) as cluster:
            there = cluster.nodes[1]
            task = where.options(runtime_env={"working_dir": folder}, scheduling=_on(there))
            ref = task.remote()
            for _ in range(4):
                await asyncio.sleep(0.006)
                cluster.network.cut(cluster.driver.place, there.place)
            assert await ref == there.id
            assert _packages(there).fetched == 1

    run(main())


def test_a_node_dies_while_it_fetches(folder: str) -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            there = cluster.nodes[1]
            ref = again.options(
                runtime_env={"working_dir": folder}, scheduling=actorfw.NodeAffinity(there.id, soft=True)
            ).remote()
            await _until(lambda: bool(_packages(there)._coming))
            cluster.crash(1)
            node, _ = await ref
            assert node != there.id

    run(main())


def test_a_full_disk_sends_tasks_elsewhere(folder: str) -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            there = cluster.nodes[1]
            _packages(there).files().full = True
            env: Any = {"working_dir": folder}
            soft = actorfw.NodeAffinity(there.id, soft=True)
            found = await asyncio.gather(*(again.options(runtime_env=env, scheduling=soft).remote() for _ in range(4)))
            assert there.id not in [node for node, _ in found]
            with pytest.raises(actorfw.UnschedulableError, match=r"No space left on device") as caught:
                await where.options(runtime_env=env, scheduling=_on(there)).remote()
            assert caught.value.ran is False
            _packages(there).files().full = False
            await asyncio.sleep(5)
            assert await where.options(runtime_env=env, scheduling=_on(there)).remote() == there.id

    run(main())


def test_a_package_that_nobody_has_any_more_ends_the_task(folder: str) -> None:
    async def main() -> None:
        async with SimCluster(2) as cluster:
            digest = _digest(cluster, folder)
            await asyncio.sleep(0.1)
            _content(cluster.driver).pop(digest)
            for held in _packages(cluster.driver)._kept.values():
                held.release()
            _packages(cluster.driver)._kept.clear()
            task = again.options(runtime_env={"working_dir": folder}, scheduling=_on(cluster.nodes[1]))
            with pytest.raises(actorfw.UnschedulableError, match="found nobody that has the package"):
                await task.remote()

    run(main())


def test_what_a_task_submits_has_the_same_environment(folder: str) -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            env: Any = {"working_dir": folder, "env_vars": {"A": "1"}}
            inner = await parent.options(runtime_env=env, scheduling=_on(cluster.nodes[1])).remote()
            place = await inner
            (node,) = (node for node in cluster.nodes if node.id == place)
            assert _environments(cluster.nodes[1]) == _environments(node) == [True]
            (worker,) = node.runtime.pool.workers.values()
            assert worker.environment is not None
            assert worker.environment.env_vars == (("A", "1"),)
            assert _packages(cluster.nodes[1])._kept  # whoever runs the inner task asks there first

    run(main())


def test_idle_workers_of_others_make_room() -> None:
    async def main() -> None:
        async with SimCluster(1, config=actorfw.Config(max_workers=2)) as cluster:
            node = cluster.driver
            for n in range(5):
                assert await where.options(runtime_env={"env_vars": {"N": str(n)}}).remote() == node.id
                assert len(node.workers) <= 2
                assert await where.remote() == node.id
            first = len(node.runtime.pool.workers)
            pids = {worker.pid for worker in node.workers.values()}
            for _ in range(3):
                await where.options(runtime_env={"env_vars": {"N": "4"}}).remote()
            assert len(node.runtime.pool.workers) == first
            assert {worker.pid for worker in node.workers.values()} == pids

    run(main())


def test_an_actor_keeps_its_environment_over_restarts(folder: str) -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            env: Any = {"working_dir": folder}
            soft = actorfw.NodeAffinity(cluster.nodes[1].id, soft=True)
            host = Host.options(runtime_env=env, scheduling=soft).remote()
            assert await host.where() == cluster.nodes[1].id
            cluster.crash(1)
            async with asyncio.timeout(60):
                while True:
                    try:
                        place = await host.where()
                        break
                    except actorfw.ActorUnavailableError:
                        await asyncio.sleep(0.1)
            node = next(node for node in cluster.nodes if node.id == place)
            assert True in _environments(node)

    run(main())


def test_a_detached_actor_outlives_who_packed_for_it_and_who_ran_it(folder: str) -> None:
    async def main() -> None:
        async with SimCluster(4, num_cpus=1) as cluster:
            spare = cluster.nodes[3]
            soft = actorfw.NodeAffinity(cluster.nodes[1].id, soft=True)

            async def make() -> Any:
                handle = Host.options(
                    name="host", detached=True, runtime_env={"working_dir": folder}, scheduling=soft
                ).remote()
                return await handle.where()

            place = await cluster.run_on(2, make)
            assert place == cluster.nodes[1].id
            await _until(lambda: sum(bool(_content(node)) for node in cluster.nodes) >= 3)  # those who keep it
            cluster.crash(2)
            cluster.crash(1)
            await asyncio.sleep(30)
            handle = await actorfw.get_actor("host", Host)
            assert await handle.where() in (cluster.driver.id, spare.id)

    run(main())


def test_who_inherits_an_actor_has_what_it_is_made_of(folder: str) -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            maker = cluster.nodes[1]

            async def make() -> Any:
                soft = actorfw.NodeAffinity(maker.id, soft=True)
                host = Host.options(name="host", runtime_env={"working_dir": folder}, scheduling=soft).remote()
                await host.where()
                return host

            made = await cluster.run_on(1, make)
            host = await actorfw.get_actor("host", Host)
            assert await host.where() == maker.id
            del made
            await cluster.drain(1)
            place = await host.where()
            assert place != maker.id
            (node,) = (node for node in cluster.nodes if node.id == place)
            assert True in _environments(node)
            (heir,) = (other for other in cluster.alive if other.runtime.guardians.actors)
            await _until(lambda: bool(_content(heir)))

    run(main())


def test_what_is_made_again_has_the_same_environment(folder: str) -> None:
    async def main() -> None:
        async with SimCluster(3, num_cpus=1) as cluster:
            first = actorfw.NodeAffinity(cluster.nodes[1].id, soft=True)
            env: Any = {"working_dir": folder, "env_vars": {"MADE": "again"}}
            ref = large.options(runtime_env=env, scheduling=first).remote()
            await actorfw.wait([ref])
            assert _environments(cluster.nodes[1]) == [True]
            cluster.crash(1)
            assert len(await ref) == 1 << 20
            alive = [worker for node in cluster.alive for worker in node.runtime.pool.workers.values()]
            assert [worker.environment.env_vars for worker in alive if worker.environment] == [(("MADE", "again"),)]

    run(main())


def test_an_environment_that_fails_fails_the_actor(folder: str) -> None:
    async def main() -> None:
        async with SimCluster(2) as cluster:
            there = cluster.nodes[1]
            _packages(there).files().full = True
            host = Host.options(max_restarts=0, runtime_env={"working_dir": folder}, scheduling=_on(there)).remote()
            with pytest.raises(actorfw.ActorDiedError, match=r"could not be made.*No space left"):
                await host.where()
            await _until(lambda: not there.workers)

    run(main())


def test_nothing_is_held_when_nodes_have_closed(folder: str) -> None:
    uses: list[dict[bytes, int]] = []

    async def main() -> None:
        async with SimCluster(2) as cluster:
            task = where.options(runtime_env={"working_dir": folder}, scheduling=_on(cluster.nodes[1]))
            await task.remote()
            slow = where.options(runtime_env={"working_dir": folder, "env_vars": {"B": ""}}).remote()
            uses.extend(_packages(node).files().uses for node in cluster.nodes)
            await slow
            assert any(sum(use.values()) for use in uses)

    run(main())
    assert [sum(use.values()) for use in uses] == [0, 0]
