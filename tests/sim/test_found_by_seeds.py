"""What the random runs have found, each as small as it gets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

import actorfw
from actorfw import errors
from actorfw.core.entries import shard_of
from actorfw.core.names import Names
from actorfw.runtime.cells import Step
from actorfw.testing import SimCluster, run
from tests.sim.programs import Program


@actorfw.remote(num_cpus=0)
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.n = start

    async def add(self, k: int = 1) -> int:
        self.n += k
        return self.n


@actorfw.remote(num_cpus=0)
class Notes:
    """Knows in which order its calls started, on a loop, in a process or in a thread of a process."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    async def note(self, number: int) -> list[int]:
        self.seen.append(number)
        return self.seen


@actorfw.remote(num_cpus=0)
class Sleeper:
    async def sleep(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"


@actorfw.remote(num_cpus=1, max_retries=0)
async def wait_for(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


def at(cluster: SimCluster, index: int) -> actorfw.NodeAffinity:
    return actorfw.NodeAffinity(cluster.nodes[index].id)


async def reborn(cluster: SimCluster, index: int) -> None:
    """Cut a node off until it is held for dead, and let it come back."""
    cluster.partition([index])
    life = cluster.nodes[index].runtime.life
    while any(life in node.runtime.members.facts for node in cluster.alive if node.index != index):
        await asyncio.sleep(0.1)
    cluster.heal()
    while not all(len(node.runtime.members.facts) == len(cluster.alive) for node in cluster.alive):
        await asyncio.sleep(0.1)
    assert cluster.nodes[index].runtime.life != life


@pytest.mark.parametrize("options", [{"executor": "process"}, {"executor": "loop", "max_concurrency": 2}])
@pytest.mark.parametrize("index", [0, 1])
def test_calls_at_the_door_of_a_full_mailbox_do_not_overtake(options: dict[str, Any], index: int) -> None:
    async def main() -> None:
        async with SimCluster(2, 1) as cluster:
            notes = Notes.options(max_pending_calls=4, scheduling=at(cluster, index), **options).remote()
            await asyncio.gather(*[notes.note.remote(number) for number in range(24)])
            assert await notes.note(24) == list(range(25))

    run(main())


def test_a_task_that_waits_elsewhere_for_a_bundle_ends_when_its_group_does() -> None:
    async def main() -> None:
        async with SimCluster(2, 1, num_cpus=1) as cluster:
            busy = wait_for.options(scheduling=at(cluster, 0)).remote(60.0)
            await cluster.settle()
            group = await actorfw.placement_group([{"CPU": 1}])
            running, waiting = (wait_for.options(scheduling=group).remote(5.0) for _ in range(2))
            await cluster.settle()
            await actorfw.remove_placement_group(group)
            with pytest.raises(errors.UnschedulableError, match="removed"):
                await asyncio.wait_for(waiting, 10)
            assert await running == "done"
            assert await busy == "done"

    run(main())


def test_what_waits_for_a_bundle_holds_up_no_other_task_of_its_submitter() -> None:
    async def main() -> None:
        async with SimCluster(2, 1, num_cpus=2) as cluster:
            blocker = wait_for.options(num_cpus=2, scheduling=at(cluster, 0)).remote(60.0)
            await cluster.settle()
            group = await actorfw.placement_group([{"CPU": 1}])
            inside = [wait_for.options(scheduling=group).remote(30.0) for _ in range(2)]
            await cluster.settle()
            outside = wait_for.options(scheduling=at(cluster, 1)).remote(1.0)
            assert await asyncio.wait_for(outside, 10) == "done"
            assert await asyncio.gather(blocker, *inside) == ["done"] * 3

    run(main())


@pytest.mark.parametrize("pause", [0.0, 0.001, 1.0])
def test_a_detached_actor_is_watched_from_the_moment_it_is_made(pause: float) -> None:
    async def main() -> None:
        async with SimCluster(3, 1):
            made = Counter.options(name="red", detached=True).remote()
            watch = actorfw.watch(made)
            await asyncio.sleep(pause)
            assert await made.add() == 1
            await actorfw.stop(made)
            assert (await asyncio.wait_for(watch, 10)).reason == "stopped"

    run(main())


@pytest.mark.parametrize("seed", range(3))
def test_a_reborn_node_guards_nothing_that_it_took_for_its_own_in_between(seed: int) -> None:
    async def main() -> None:
        async with SimCluster(3, seed) as cluster:
            kept = cluster.nodes[0].runtime.directory.names.kept_shards
            names = [name for name in map(str, range(1000)) if shard_of("default", name) in kept][:12]
            made = [
                Counter.options(name=name, detached=True, max_restarts=-1, max_task_retries=-1).remote()
                for name in names
            ]
            await asyncio.gather(*[one.add() for one in made])
            await reborn(cluster, 1)
            cluster.crash(2)  # so that much of it becomes the reborn node's to keep
            await cluster.settle(20)
            async with cluster.on(1):
                for name in names:
                    assert (await asyncio.wait_for(actorfw.info(await actorfw.get_actor(name)), 30)).name == name

    run(main())


def test_a_node_is_reborn_while_it_waits_for_a_name(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with SimCluster(3, 1) as cluster:
            kept = cluster.nodes[2].runtime.directory.names.kept_shards
            name = next(name for name in map(str, range(1000)) if shard_of("default", name) in kept)
            cluster.partition([0])
            named = Counter.options(name=name).remote()
            call = named.add.remote()
            await reborn(cluster, 0)
            with pytest.raises(errors.ActorDiedError):
                await asyncio.wait_for(call, 30)
            del named, call
            await cluster.settle(30)
            assert not cluster.nodes[0].runtime.guardians.actors

    with caplog.at_level(logging.ERROR):
        run(main())
    assert not caplog.records


@pytest.mark.parametrize("seed", range(3))
def test_when_all_are_reborn_at_once_there_is_a_cluster_again(seed: int) -> None:
    async def main() -> None:
        async with SimCluster(3, seed) as cluster:
            for index, node in enumerate(cluster.nodes):
                node.runtime.rebirth.begin("a test", cluster.nodes[(index + 1) % 3].address)
            await cluster.settle(30)
            for node in cluster.nodes:
                assert [fact.state for fact in node.runtime.members.facts.values()] == ["up"] * 3
            kept = [shard for node in cluster.alive for shard in node.runtime.directory.names.kept_shards]
            assert sorted(kept) == list(range(256))
            assert await Counter.options(name="a name").remote().add() == 1

    run(main())


def test_code_on_a_node_that_closes_is_told_so() -> None:
    async def main() -> None:
        async with SimCluster(3, 1) as cluster, cluster.on(1):
            await cluster.stop(1)
            with pytest.raises(errors.NodeClosedError):
                actorfw.put(1)

    run(main())


def test_timers_of_a_node_with_another_clock_are_never_early() -> None:
    async def main() -> None:
        async with SimCluster(2, 1) as cluster:
            cluster.skew(0, 0.9854481022093399)
            cluster.skew(1, 1.0026091363252576)
            env = cluster.nodes[0].runtime.env

            async def sleep_often() -> None:
                for _ in range(2000):
                    due = env.time() + 0.0163
                    await asyncio.sleep(due - env.time())
                    assert env.time() >= due

            await cluster.run_on(0, sleep_often)

    run(main())


@pytest.mark.parametrize("how", ["owner_died", "fenced"])
def test_an_actor_that_ends_in_the_turn_in_which_its_first_call_came_is_over(how: str) -> None:
    async def main() -> None:
        async with SimCluster(1, 1) as cluster:
            notes = Notes.remote()
            await cluster.settle()
            (cell,) = cluster.nodes[0].runtime.hosting.cells.values()
            call = notes.note.remote(1)
            cell.end(how)
            with pytest.raises(errors.ActorDiedError):
                await call
            await cluster.settle()
            assert not cluster.nodes[0].runtime.hosting.cells

    run(main())


def test_a_node_of_which_others_told_and_that_never_comes_holds_up_no_name() -> None:
    async def main() -> None:
        async with SimCluster(3, 1) as cluster:
            for index in (0, 2):
                cluster.nodes[index].runtime.directory.names._shards.meet(b"a life of a past")
            cluster.crash(1)
            await cluster.settle(30)
            kept = [shard for node in cluster.alive for shard in node.runtime.directory.names.kept_shards]
            assert sorted(kept) == list(range(256))

    run(main())


def test_a_host_is_not_led_back_to_a_guardian_that_has_an_heir() -> None:
    """The order to make an actor comes twice: from the node that made it and from its heir, and the former is late."""

    async def main() -> None:
        async with SimCluster(4, 1) as cluster:

            async def make() -> None:
                named = Counter.options(name="moves", max_restarts=-1).remote()
                assert await named.add() == 1

            await cluster.run_on(1, make)
            leaver = cluster.nodes[1].runtime.life
            assert (await cluster.drain(1)).complete
            handle = await actorfw.get_actor("moves")
            assert await handle.add() == 1
            host = next(node for node in cluster.alive if node.runtime.hosting.cells)
            (cell,) = host.runtime.hosting.cells.values()
            assert cell.guardian != leaver
            assert cell.guardian == host.runtime.heirs.of(leaver)

    run(main())


def test_nobody_waits_for_what_was_asked_of_the_dead() -> None:
    async def main() -> None:
        async with SimCluster(3, 1) as cluster:
            node = cluster.nodes[0].runtime
            peer = node.peers.by_life[cluster.nodes[1].runtime.life]
            cluster.crash(1)
            while not peer.ended:
                await asyncio.sleep(0.1)
            with pytest.raises(errors.PeerUnreachableError, match="dead"):
                await asyncio.wait_for(node.asks.ask(peer, "members", None), 5)
            assert not node.asks._open

    run(main())


def test_calls_to_an_actor_that_never_left_survive_the_rebirth_of_their_node() -> None:
    async def main() -> None:
        async with SimCluster(3, 1) as cluster:
            async with cluster.on(2):
                mine = Notes.options(scheduling=at(cluster, 2), executor="process", max_restarts=1).remote()
                assert await mine.note(0) == [0]
                cluster.kill_worker(2)
                calls = [mine.note.remote(number) for number in (1, 2)]
            await reborn(cluster, 2)
            assert (await asyncio.gather(*calls))[-1] == [1, 2]

    run(main())


@pytest.mark.parametrize("executor", ["loop", "process"])
def test_an_actor_that_is_to_stop_when_its_node_is_reborn_stops(executor: str) -> None:
    async def main() -> None:
        async with SimCluster(3, 1) as cluster:
            node = cluster.nodes[2].runtime
            async with cluster.on(2):
                mine = Sleeper.options(scheduling=at(cluster, 2), executor=executor).remote()
                call = mine.sleep.remote(300.0)
                await cluster.settle()
                stopping = asyncio.ensure_future(actorfw.stop(mine))
                del mine
                await cluster.settle()
            await reborn(cluster, 2)
            assert not call.done()
            assert await call == "done"
            await asyncio.wait_for(stopping, 10)
            await cluster.settle(10)
            assert not node.guardians.actors
            assert not node.hosting.cells

    run(main())


class Heard:
    """What the watcher of a program passes on."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.restarted = asyncio.Event()

    def told(self, told: Any) -> None:
        if isinstance(told, actorfw.Restarted):
            self.restarted.set()
        else:
            self.ends.append(told.reason)


def test_a_program_that_waits_for_the_next_news_of_an_actor_does_not_keep_it_alive() -> None:
    async def main() -> None:
        async with SimCluster(2, 1) as cluster:
            made = Counter.options(scheduling=at(cluster, 1), executor="process", max_restarts=-1).remote()
            assert await made.add() == 1
            heard = Heard()
            program = Program("n0", 1, [], [])
            hears = asyncio.ensure_future(program._hears_all(actorfw.watch(made, restarts=True), heard))
            await cluster.settle()
            cluster.kill_worker(1)
            await asyncio.wait_for(heard.restarted.wait(), 10)
            del made
            await asyncio.wait_for(hears, 10)
            assert heard.ends == ["released"]

    run(main())


class Turns(actorfw.Actor):
    @actorfw.method
    async def numbers(self) -> AsyncIterator[int]:
        for number in range(100):
            yield number

    @actorfw.method
    async def hold(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("index", [0, 1])
def test_a_generator_that_waits_for_its_turn_has_run(index: int) -> None:
    """A call before its next step keeps the actor; its end says of both that they may have happened."""

    async def main() -> None:
        async with SimCluster(2, 1) as cluster:
            made = Turns.options(scheduling=at(cluster, index)).remote()
            stream = made.numbers.remote()
            assert await anext(stream) == 0
            held = made.hold.remote()
            cell = next(iter(cluster.nodes[index].runtime.hosting.cells.values()))
            numbers = iter(range(1, 200))
            await cluster.settle(0.1)
            while not any(isinstance(item, Step) for item in cell.box or ()):
                assert await asyncio.wait_for(anext(stream), 1) == next(numbers)
                await cluster.settle(0.1)  # until what was taken is known at the host
            actorfw.kill(made)
            with pytest.raises(actorfw.ActorDiedError) as caught:
                async for _ in stream:
                    pass
            assert caught.value.ran is None
            with pytest.raises(actorfw.ActorDiedError) as caught:
                await held
            assert caught.value.ran is None

    run(main())


def test_copies_of_a_shard_leave_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guardian of a new detached actor says at once where it places it: not before the copy of its creation."""
    came: dict[tuple[bytes, bytes, int, int], list[int]] = {}
    receive = Names._receive

    def seen(self: Names, peer: bytes, message: Any) -> None:
        if message[0] == "copy":
            came.setdefault((self.life, peer, message[1], message[2]), []).append(message[3])
        receive(self, peer, message)

    monkeypatch.setattr(Names, "_receive", seen)

    async def main() -> None:
        async with SimCluster(3, 1) as cluster:
            made = [Counter.options(name=f"n{number}", detached=True).remote() for number in range(12)]
            assert await asyncio.gather(*[one.add() for one in made]) == [1] * 12
            await cluster.settle()
            for one in made:
                await actorfw.stop(one)
            await cluster.settle()

    run(main())
    assert came
    assert all(numbers == sorted(numbers) for numbers in came.values()), came
