"""Actors that are started again: on the same node or another, with the calls that were made meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run
from actorfw.wire import messages as m

pytestmark = pytest.mark.usefixtures("clean_journal")

JOURNAL: list[tuple[Any, ...]] = []
"""What really happened, in all nodes and lives: the test's own memory."""


@pytest.fixture
def clean_journal() -> None:
    JOURNAL.clear()


@actorfw.remote
class Loop:
    """Lives on a node's loop."""

    def __init__(self, start: int = 0) -> None:
        self.n = start
        JOURNAL.append(("init", actorfw.context().fencing_token, actorfw.context().node_id))

    async def on_start(self) -> None:
        JOURNAL.append(("on_start", actorfw.context().fencing_token))

    async def on_stop(self, reason: str) -> None:
        JOURNAL.append(("on_stop", reason))

    async def add(self, k: int = 1) -> int:
        JOURNAL.append(("add", k, actorfw.context().fencing_token))
        self.n += k
        return self.n

    async def slow(self, k: int) -> int:
        JOURNAL.append(("slow", k, actorfw.context().fencing_token))
        await asyncio.sleep(1)
        return k

    async def token(self) -> int:
        return actorfw.context().fencing_token

    async def where(self) -> str:
        return actorfw.context().node_id

    async def leave(self) -> None:
        actorfw.exit_actor()


@actorfw.remote(executor="process")
class Process:
    """Lives in a process of its own."""

    def __init__(self) -> None:
        JOURNAL.append(("init", actorfw.context().fencing_token, actorfw.context().node_id))

    def add(self, k: int) -> int:
        JOURNAL.append(("add", k, actorfw.context().fencing_token))
        return k

    def token(self) -> int:
        return actorfw.context().fencing_token

    def fails(self) -> None:
        raise ValueError("no")


@actorfw.remote
class Fragile:
    """Can't be made as often as it is told."""

    def __init__(self, failures: int) -> None:
        JOURNAL.append(("init", actorfw.context().fencing_token))
        if sum(1 for what, *_ in JOURNAL if what == "init") <= failures:
            raise RuntimeError("not yet")

    async def token(self) -> int:
        return actorfw.context().fencing_token


@actorfw.remote
class Persistent:
    """Tells how often its calls were sent."""

    async def on_start(self) -> None:
        JOURNAL.append(("on_start", actorfw.context().attempt))

    async def once(self) -> int:
        return actorfw.context().attempt

    async def slow(self) -> int:
        attempt = actorfw.context().attempt
        JOURNAL.append(("slow", attempt))
        await asyncio.sleep(1)
        return attempt

    async def where(self) -> str:
        return actorfw.context().node_id

    async def noted(self) -> None:
        JOURNAL.append(("noted", actorfw.context().attempt))


def sim(body: Callable[[SimCluster], Awaitable[None]], nodes: int = 3, seed: int = 1, **options: Any) -> None:
    async def main() -> None:
        async with SimCluster(nodes, seed, **options) as cluster, asyncio.timeout(300):
            await body(cluster)

    run(main())


def on(cluster: SimCluster, index: int, *, soft: bool = False) -> Any:
    return actorfw.NodeAffinity(cluster.nodes[index].id, soft=soft)


def of(what: str) -> list[tuple[Any, ...]]:
    return [entry for entry in JOURNAL if entry[0] == what]


async def state(handle: Any) -> tuple[str, int]:
    info = await actorfw.info(handle)
    return info.state, info.incarnation


# -- being started again -----------------------------------------------------------------------------------------------


def test_a_dead_host_brings_the_actor_up_elsewhere_with_its_arguments() -> None:
    async def body(cluster: SimCluster) -> None:
        start = actorfw.put(40)
        h = Loop.options(max_restarts=1, scheduling=on(cluster, 1, soft=True)).remote(start)
        assert await h.add(2) == 42
        del start
        await cluster.settle(1)
        cluster.crash(1)
        await asyncio.sleep(1)
        assert await h.add(1) == 41  # the state is lost, the arguments are not
        assert await h.token() == 2
        assert await h.where() != cluster.nodes[1].id
        assert await state(h) == ("up", 2)
        assert of("on_start") == [("on_start", 1), ("on_start", 2)]

    sim(body)


def test_without_restarts_left_it_ends() -> None:
    async def body(cluster: SimCluster) -> None:
        h = Loop.options(max_restarts=1, scheduling=on(cluster, 1, soft=True)).remote()
        await h.add()
        cluster.crash(1)
        await asyncio.sleep(1)
        where = await h.where()
        second = next(node.index for node in cluster.alive if node.id == where)
        if second == 0:  # the driver must live
            return
        cluster.crash(second)
        await asyncio.sleep(1)
        with pytest.raises(actorfw.ActorDiedError) as caught:
            await h.add()
        assert caught.value.reason == "node_died"
        assert await state(h) == ("ended", 2)

    for seed in range(4):
        sim(body, nodes=4, seed=seed)


def test_restarts_without_end() -> None:
    async def body(cluster: SimCluster) -> None:
        h = Process.options(max_restarts=-1).remote()
        for round in range(6):
            assert await h.token() == round + 1
            assert cluster.kill_worker(0)
        assert await h.token() == 7

    sim(body, nodes=1)


def test_the_pause_before_a_restart_doubles() -> None:
    async def body(cluster: SimCluster) -> None:
        h = Fragile.options(max_restarts=5, restart_backoff=1.0).remote(5)
        began = cluster.loop.time()
        assert await h.token() == 6
        took = cluster.loop.time() - began
        assert (1 + 2 + 4 + 8 + 16) / 2 <= took <= 1 + 2 + 4 + 8 + 16 + 1

    sim(body, nodes=1)


def test_a_failed_init_is_a_crash_and_its_last_one_the_end() -> None:
    async def body(cluster: SimCluster) -> None:
        h = Fragile.options(max_restarts=2).remote(99)
        with pytest.raises(actorfw.ActorDiedError) as caught:
            await h.token()
        assert caught.value.reason == "crashed"
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert len(of("init")) == 3

    sim(body, nodes=1)


def test_a_failed_argument_is_no_crash() -> None:
    async def body(cluster: SimCluster) -> None:
        bad = Process.remote()
        h = Loop.options(max_restarts=-1).remote(bad.fails.remote())  # type: ignore[attr-defined]
        with pytest.raises(actorfw.ActorDiedError) as caught:
            await h.token()
        assert isinstance(caught.value.__cause__, ValueError)
        assert len(of("init")) == 1  # Process's own

    sim(body, nodes=1)


def test_a_broken_link_restarts_nothing() -> None:
    async def body(cluster: SimCluster) -> None:
        h = Loop.options(max_restarts=1, scheduling=on(cluster, 1)).remote()
        for _ in range(5):
            assert await h.add()
            cluster.cut(0, 1)
        assert await h.token() == 1
        assert await h.add(0) == 5

    sim(body)


def test_info_says_restarting() -> None:
    async def body(cluster: SimCluster) -> None:
        h = Loop.options(max_restarts=1, restart_backoff=5.0, scheduling=on(cluster, 1, soft=True)).remote()
        await h.add()
        cluster.crash(1)
        await asyncio.sleep(1)
        assert await state(h) == ("restarting", 2)
        assert (await actorfw.info(h)).reason == "node_died"
        await h.add()
        assert await state(h) == ("up", 2)

    sim(body)


# -- calls -------------------------------------------------------------------------------------------------------------


def test_a_started_call_is_lost_with_its_node_and_says_that_the_actor_may_come_back() -> None:
    async def body(cluster: SimCluster) -> None:
        h = Loop.options(max_restarts=1, scheduling=on(cluster, 1, soft=True)).remote()
        running = h.slow.remote(1)  # type: ignore[attr-defined]
        await asyncio.sleep(0.5)
        cluster.crash(1)
        with pytest.raises(actorfw.ActorUnavailableError) as caught:
            await running
        assert caught.value.ran is None
        assert len(of("slow")) == 1
        assert await h.add() == 1

    sim(body)


def test_without_restarts_the_same_call_says_that_the_actor_died() -> None:
    async def body(cluster: SimCluster) -> None:
        h = Loop.options(scheduling=on(cluster, 1)).remote()
        running = h.slow.remote(1)  # type: ignore[attr-defined]
        await asyncio.sleep(0.5)
        cluster.crash(1)
        with pytest.raises(actorfw.ActorDiedError) as caught:
            await running
        assert (caught.value.reason, caught.value.ran) == ("node_died", None)

    sim(body)


@pytest.mark.parametrize("how", ["class", "option of the call"])
def test_max_task_retries_sends_a_lost_call_to_the_next_incarnation_once_each(how: str) -> None:
    async def body(cluster: SimCluster) -> None:
        options: dict[str, Any] = {"max_restarts": 3, "scheduling": on(cluster, 1, soft=True)}
        if how == "class":
            options["max_task_retries"] = 1
        h: Any = Loop.options(**options).remote()
        await h.add()
        call = h.slow if how == "class" else h.slow.options(max_task_retries=1)
        running = [call.remote(k) for k in range(3)]
        await asyncio.sleep(0.5)
        cluster.crash(1)
        assert await asyncio.gather(*running) == [0, 1, 2]
        assert of("slow") == [("slow", 0, 1), ("slow", 0, 2), ("slow", 1, 2), ("slow", 2, 2)]

    sim(body)


@pytest.mark.parametrize("index", [0, 1])
def test_a_call_in_a_process_knows_how_often_it_was_sent(index: int) -> None:
    async def body(cluster: SimCluster) -> None:
        options = {"max_restarts": -1, "restart_backoff": 0, "max_task_retries": 2, "scheduling": on(cluster, index)}
        h: Any = Persistent.options(executor="process", **options).remote()
        assert await h.once.remote() == 1
        running = h.slow.remote()
        for _ in range(2):
            await asyncio.sleep(0.5)
            assert cluster.kill_worker(index)
        assert await running == 3
        assert of("slow") == [("slow", 1), ("slow", 2), ("slow", 3)]
        assert await h.once.remote() == 1
        h.noted.tell()
        await h.once.remote()
        assert of("noted") == [("noted", 1)]
        assert set(of("on_start")) == {("on_start", 0)}

    sim(body, nodes=2)


def test_a_call_on_a_loop_knows_how_often_it_was_sent() -> None:
    async def body(cluster: SimCluster) -> None:
        options: dict[str, Any] = {"max_restarts": 1, "max_task_retries": 1}
        some: Any = [Persistent.options(scheduling="spread", **options).remote() for _ in range(8)]
        first = await asyncio.gather(*(one.where.remote() for one in some))
        running = [one.slow.remote() for one in some]
        await asyncio.sleep(0.5)
        cluster.crash(1)
        again = [2 if place == cluster.nodes[1].id else 1 for place in first]
        assert await asyncio.gather(*running) == again
        then = await asyncio.gather(*(one.where.remote() for one in some))
        moved = {place for place, attempt in zip(then, again, strict=True) if attempt == 2}
        assert moved == {cluster.nodes[0].id, cluster.nodes[2].id}, "one of each kind, or this shows less"

    sim(body, nodes=3)


def test_a_method_says_for_itself_how_often_it_may_be_sent() -> None:
    @actorfw.remote
    class Mixed(Loop):  # type: ignore[misc, valid-type]
        @actorfw.method(max_task_retries=0)
        async def slow(self, k: int) -> int:
            return int(await super().slow(k))

    async def body(cluster: SimCluster) -> None:
        h: Any = Mixed.options(max_restarts=1, max_task_retries=5, scheduling=on(cluster, 1, soft=True)).remote()
        running = h.slow.remote(1)
        await asyncio.sleep(0.5)
        cluster.crash(1)
        with pytest.raises(actorfw.ActorUnavailableError):
            await running

    sim(body)


def test_what_a_dead_process_had_not_started_is_for_the_next_one_in_order() -> None:
    async def body(cluster: SimCluster) -> None:
        for index in (0, 1):
            JOURNAL.clear()
            h: Any = Process.options(max_restarts=1, scheduling=on(cluster, index)).remote()
            await h.token()
            refs = [h.add.remote(k) for k in range(20)]
            h.add.tell(20)
            refs.append(h.add.remote(21))
            await asyncio.sleep(0.03)
            assert cluster.kill_worker(index)
            outcomes = await asyncio.gather(*refs, return_exceptions=True)
            lost = [o for o in outcomes if isinstance(o, actorfw.ActorUnavailableError)]
            assert len(lost) == 1
            assert lost[0].ran is None
            started = [k for _, k, _ in of("add")]
            assert started == sorted(started)
            assert len(set(started)) == len(started)  # none of them twice
            assert 20 in started
            assert {token for _, _, token in of("add")} == {1, 2}
            assert set(range(22)) - set(started) <= {next(k for k, o in enumerate(outcomes) if o is lost[0])}

    sim(body, nodes=2)


def test_a_process_without_restarts_takes_its_calls_with_it() -> None:
    async def body(cluster: SimCluster) -> None:
        h: Any = Process.options(scheduling=on(cluster, 1)).remote()
        await h.token()
        refs = [h.add.remote(k) for k in range(10)]
        await asyncio.sleep(0.03)
        assert cluster.kill_worker(1)
        outcomes = await asyncio.gather(*refs, return_exceptions=True)
        died = [o for o in outcomes if isinstance(o, actorfw.ActorDiedError)]
        assert died
        assert {error.reason for error in died} == {"crashed"}

    sim(body, nodes=2)


def test_new_calls_wait_for_a_restart_until_their_own_deadline() -> None:
    async def body(cluster: SimCluster) -> None:
        h: Any = Loop.options(max_restarts=1, restart_backoff=10.0, scheduling=on(cluster, 1, soft=True)).remote()
        await h.add()
        cluster.crash(1)
        await asyncio.sleep(1)
        began = cluster.loop.time()
        with pytest.raises(actorfw.DeadlineExceededError) as caught:
            await h.add.options(timeout=0.5).remote(7)
        assert caught.value.ran is False
        assert cluster.loop.time() - began < 0.6
        assert await h.add(1) == 1
        assert not [entry for entry in of("add") if entry[1] == 7]

    sim(body)


@pytest.mark.parametrize("seed", range(10))
def test_calls_of_every_node_start_in_order_over_a_restart(seed: int) -> None:
    async def body(cluster: SimCluster) -> None:
        h: Any = Loop.options(
            name="shared",
            max_restarts=-1,
            max_task_retries=-1,
            scheduling=on(cluster, 1, soft=True),
            restart_backoff=0.05,
        ).remote()
        await h.add(-1)

        async def caller(name: int) -> None:
            handle: Any = await actorfw.get_actor("shared")
            refs = []
            for k in range(40):
                refs.append(handle.add.remote(name * 1000 + k))
                await asyncio.sleep(0.01)
            await asyncio.gather(*refs)

        callers = [asyncio.ensure_future(cluster.run_on(i, caller, i)) for i in (0, 2)]
        await asyncio.sleep(0.2)
        cluster.crash(1)
        await asyncio.gather(*callers)
        for name in (0, 2):
            for token in {entry[2] for entry in of("add")}:
                mine = [k for _, k, t in of("add") if t == token and k // 1000 == name and k >= 0]
                assert mine == sorted(set(mine))
            first = list(dict.fromkeys(k for _, k, _ in of("add") if k // 1000 == name and k >= 0))
            assert first == [name * 1000 + k for k in range(40)]

    sim(body, seed=seed)


@pytest.mark.parametrize("seed", range(6))
def test_the_next_incarnation_is_asked_for_when_all_is_back_from_the_last_one(seed: int) -> None:
    async def body(cluster: SimCluster) -> None:
        h: Any = Process.options(
            name="shared", max_restarts=-1, restart_backoff=0, max_task_retries=-1, scheduling=on(cluster, 1)
        ).remote()
        await h.token()

        async def caller() -> None:
            handle: Any = await actorfw.get_actor("shared")
            refs = []
            for k in range(200):
                refs.append(handle.add.remote(k))
                await asyncio.sleep(0.005)
            await asyncio.gather(*refs)

        calling = asyncio.ensure_future(cluster.run_on(2, caller))
        for _ in range(3):
            await asyncio.sleep(0.4)
            cluster.kill_worker(1)
        await calling
        assert list(dict.fromkeys(k for _, k, _ in of("add"))) == list(range(200))

    sim(body, seed=seed, latency=(0.001, 0.2))


def test_retries_are_counted() -> None:
    async def body(cluster: SimCluster) -> None:
        h: Any = Loop.options(executor="process", max_restarts=-1, max_task_retries=2, restart_backoff=0).remote()
        await h.token()
        running = h.slow.remote(1)
        for _ in range(3):
            await asyncio.sleep(0.5)
            assert cluster.kill_worker(0)
        with pytest.raises(actorfw.ActorUnavailableError) as caught:
            await running
        assert caught.value.ran is None
        assert of("slow") == [("slow", 1, 1), ("slow", 1, 2), ("slow", 1, 3)]

    sim(body, nodes=1)


def test_orders_and_calls_for_a_former_incarnation_are_void() -> None:
    async def body(cluster: SimCluster) -> None:
        h: Any = Process.options(max_restarts=1, scheduling=on(cluster, 1)).remote()
        await h.token()
        cluster.kill_worker(1)
        await asyncio.sleep(1)
        assert await h.token() == 2
        id = (h._guardian, h._number)
        runtime = cluster.driver.runtime
        host = runtime.peers.by_life[cluster.nodes[1].runtime.life]
        actor = runtime.guardians.actors[id]
        host.send((m.CALL, 10**9, *id, 1, "add", [5], None, None, 0, 1, 0, 1))
        host.send((m.END, *id, "killed", 1))
        host.send((m.CREATE, *id, 1, actor.hashed, actor.args, None, actor.interface.to_wire(), True, None))
        await asyncio.sleep(1)
        assert not of("add")
        assert [entry[1] for entry in of("init")] == [1, 2]
        assert await h.token() == 2

    sim(body, nodes=2)


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_kill_racing_with_the_death_of_the_host_is_final(seed: int) -> None:
    async def body(cluster: SimCluster) -> None:
        h: Any = Loop.options(max_restarts=-1, scheduling=on(cluster, 1, soft=True)).remote()
        await h.add()
        actorfw.kill(h)
        cluster.crash(1)
        await asyncio.sleep(20)
        with pytest.raises(actorfw.ActorDiedError) as caught:
            await h.add()
        assert caught.value.reason == "killed"
        assert len(of("init")) == 1

    sim(body, seed=seed)


def test_kill_while_it_waits_for_its_restart() -> None:
    async def body(cluster: SimCluster) -> None:
        h: Any = Loop.options(max_restarts=-1, restart_backoff=5.0, scheduling=on(cluster, 1, soft=True)).remote()
        await h.add()
        cluster.crash(1)
        await asyncio.sleep(1)
        waiting = h.add.remote()
        actorfw.kill(h)
        with pytest.raises(actorfw.ActorDiedError) as caught:
            await waiting
        assert (caught.value.reason, caught.value.ran) == ("killed", False)
        await asyncio.sleep(20)
        assert len(of("init")) == 1

    sim(body)


def test_exit_actor_and_stop_restart_nothing() -> None:
    async def body(cluster: SimCluster) -> None:
        h: Any = Loop.options(max_restarts=-1).remote()
        with pytest.raises(actorfw.ActorDiedError) as caught:
            await h.leave()
        assert caught.value.reason == "exited"
        g: Any = Loop.options(max_restarts=-1).remote()
        await g.add()
        await actorfw.stop(g)
        await asyncio.sleep(5)
        assert (await actorfw.info(h)).state == (await actorfw.info(g)).state == "ended"
        assert len(of("init")) == 2
        assert of("on_stop") == [("on_stop", "exited"), ("on_stop", "stopped")]

    sim(body, nodes=1)


def test_the_last_handle_gone_while_it_restarts_ends_it() -> None:
    async def body(cluster: SimCluster) -> None:
        h: Any = Loop.options(max_restarts=-1, restart_backoff=5.0, scheduling=on(cluster, 1, soft=True)).remote()
        await h.add()
        cluster.crash(1)
        await asyncio.sleep(1)
        del h
        await cluster.settle(20)
        assert len(of("init")) == 1
        assert not cluster.driver.runtime.guardians.actors

    sim(body)


def test_a_lost_creator_ends_its_actors() -> None:
    async def body(cluster: SimCluster) -> None:
        where = on(cluster, 2)

        async def make() -> None:
            h: Any = Loop.options(name="theirs", max_restarts=-1, scheduling=where).remote()
            await h.add()

        await cluster.run_on(1, make)
        h: Any = await actorfw.get_actor("theirs")
        assert await h.add() == 2
        cluster.crash(1)
        await asyncio.sleep(1)
        with pytest.raises(actorfw.ActorDiedError) as caught:
            await h.add()
        assert caught.value.reason == "owner_died"
        await asyncio.sleep(1)
        assert of("on_stop") == [("on_stop", "owner_died")]
        assert not cluster.nodes[2].runtime.hosting.cells

    sim(body)


def test_a_node_that_is_shut_down_leaves_its_actors_to_others() -> None:
    async def body(cluster: SimCluster) -> None:
        h: Any = Loop.options(max_restarts=1, scheduling=on(cluster, 1, soft=True)).remote()
        await h.add()
        refs = [h.slow.options(max_task_retries=1).remote(k) for k in range(3)]
        await asyncio.sleep(0.2)
        await cluster.stop(1)
        assert await asyncio.gather(*refs) == [0, 1, 2]
        assert await h.token() == 2

    sim(body)


# -- moving ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Loop, Process])
def test_a_moved_actor_finishes_what_runs_and_takes_its_queue_along(kind: Any) -> None:
    async def body(cluster: SimCluster) -> None:
        h: Any = kind.options(max_restarts=1, scheduling=on(cluster, 1, soft=True)).remote()
        await h.token()
        refs = [h.add.remote(k) for k in range(1, 10)]
        h.add.tell(10)
        refs.append(h.add.remote(11))
        await asyncio.sleep(0.004)
        cluster.driver.runtime.guardians.move((h._guardian, h._number))
        await asyncio.gather(*refs)
        assert [k for _, k, _ in of("add")] == list(range(1, 12))
        assert await h.token() == 2
        assert cluster.driver.runtime.guardians.actors[(h._guardian, h._number)].machine.left == 1
        if kind is Loop:
            assert of("on_stop") == [("on_stop", "drain")]
        places = [place for what, _, place in of("init")]
        assert places[0] == cluster.nodes[1].id != places[1]

    sim(body)


# -- all at once -------------------------------------------------------------------------------------------------------


@actorfw.remote
class Shaken:
    """Notes what it starts; its methods take a while."""

    async def work(self, who: str, k: int) -> int:
        JOURNAL.append((who, k, actorfw.context().fencing_token))
        await asyncio.sleep(0.003)
        return k


@actorfw.remote(executor="process")
class ShakenProcess:
    """The same in a process."""

    def work(self, who: str, k: int) -> int:
        JOURNAL.append((who, k, actorfw.context().fencing_token))
        return k


@pytest.mark.parametrize("kind", [Shaken, ShakenProcess])
@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("seed", range(8))
def test_every_call_of_a_shaken_actor_ends_and_none_runs_twice_on_an_incarnation(
    kind: Any, retries: int, seed: int
) -> None:
    async def body(cluster: SimCluster) -> None:
        chance = random.Random(f"shaken/{seed}")
        h: Any = kind.options(
            name="shaken",
            max_restarts=-1,
            max_task_retries=retries,
            restart_backoff=0.05,
            scheduling=actorfw.Labels({"may": "host"}),
        ).remote()
        await h.work("first", 0)

        async def caller(who: str) -> list[Any]:
            handle: Any = await actorfw.get_actor("shaken")
            refs = []
            for k in range(60):
                refs.append(handle.work.remote(who, k))
                if k % 7 == 3:
                    handle.work.tell(who + "/tell", k)
                await asyncio.sleep(0.02)
            return await asyncio.gather(*refs, return_exceptions=True)

        callers = {who: asyncio.ensure_future(cluster.run_on(i, caller, who)) for i, who in ((0, "a"), (1, "b"))}
        for _ in range(6):
            await asyncio.sleep(chance.uniform(0.02, 0.4))
            where = next((node for node in cluster.alive if node.runtime.hosting.cells), None)
            what = chance.choice(("worker", "move", "crash", "cut"))
            if what == "worker":
                for node in cluster.alive[2:]:
                    cluster.kill_worker(node.index)
            elif what == "move":
                cluster.driver.runtime.guardians.move((h._guardian, h._number))
            elif what == "crash" and where is not None and where.index > 1:
                cluster.crash(where.index)
                await cluster.add_node(labels={"may": "host"})
            elif where is not None:
                cluster.cut(0, where.index)
        for who, calling in callers.items():
            outcomes = await calling
            starts = [(k, token) for name, k, token in JOURNAL if name == who]
            assert len(set(starts)) == len(starts)
            for k, outcome in enumerate(outcomes):
                mine = [token for started, token in starts if started == k]
                assert len(mine) <= 1 + retries
                if outcome == k:
                    assert mine
                else:
                    assert isinstance(outcome, actorfw.ActorUnavailableError)
                    assert outcome.ran is None
            first = list(dict.fromkeys(k for k, _ in starts))
            assert first == sorted(first)
            told = [(k, token) for name, k, token in JOURNAL if name == who + "/tell"]
            assert len({k for k, _ in told}) == len(told)
        await asyncio.sleep(5)
        assert await h.work("last", 0) == 0
        assert (await actorfw.info(h)).state == "up"
        actorfw.kill(h)
        del h
        await cluster.settle(20)
        for node in cluster.alive:
            assert not node.runtime.hosting.cells
            assert not node.runtime.hosting._calls
            assert not node.runtime.calls.open

    sim(body, nodes=4, seed=seed, labels={"may": "host"})
