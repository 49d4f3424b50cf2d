"""One guardian takes over from another: what was under way then, what one of them could not know, and what a host does
about it. Found by random runs; each as small as it gets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorfw
from actorfw import errors
from actorfw.core.entries import shard_of
from actorfw.testing import SimCluster, SimNode, run
from actorfw.wire import messages as m


@actorfw.remote(num_cpus=0)
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.n = start

    async def add(self, k: int = 1) -> int:
        self.n += k
        return self.n


@actorfw.remote(num_cpus=0)
class Box:
    def __init__(self) -> None:
        self.kept: list[Any] = []

    async def keep(self, things: list[Any]) -> int:
        self.kept += things
        return len(self.kept)

    async def first(self, k: int) -> int:
        return int(await self.kept[0].add(k))

    async def hears(self) -> str:
        return (await actorfw.watch(self.kept[0])).reason

    async def calls(self) -> str:
        with pytest.raises(errors.ActorDiedError) as called:
            await self.kept[0].add()
        return f"{called.value.reason}, {called.value.__cause__!r}"


def at(cluster: SimCluster, index: int) -> actorfw.NodeAffinity:
    return actorfw.NodeAffinity(cluster.nodes[index].id)


def keeper(cluster: SimCluster, name: str) -> SimNode:
    """Who answers for a name."""
    shard = shard_of("default", name)
    return next(node for node in cluster.alive if shard in node.runtime.directory.names.kept_shards)


def kept_by(cluster: SimCluster, index: int) -> str:
    """A name for which this node answers."""
    return next(name for name in map("name {}".format, range(10_000)) if keeper(cluster, name).index == index)


def hosted(cluster: SimCluster) -> list[Any]:
    return [cell for node in cluster.alive for cell in node.runtime.hosting.cells.values()]


async def until(true: Any, limit: float = 10.0) -> None:
    async with asyncio.timeout(limit):
        while not true():
            await asyncio.sleep(0.0005)


async def ended(name: str) -> None:
    with pytest.raises(errors.ActorNotFoundError):
        await actorfw.get_actor(name)


# -- detached actors ---------------------------------------------------------------------------------------------------


def test_a_detached_actor_that_is_stopped_before_its_host_was_told_of_it_stops() -> None:
    """Its host is told when that is recorded at others too, which takes a while here."""

    async def main() -> None:
        async with SimCluster(3, 1) as cluster:
            name = kept_by(cluster, 1)
            async with cluster.on(1):
                cluster.stall(1, 0)
                cluster.stall(1, 2)
                made = Counter.options(name=name, detached=True, scheduling=at(cluster, 1)).remote()
                found = await actorfw.get_actor(name)
                stopping = asyncio.ensure_future(actorfw.stop(found))
                await asyncio.sleep(0.1)
                assert not hosted(cluster)
                cluster.heal()
                await asyncio.wait_for(stopping, 10)
                with pytest.raises(errors.ActorDiedError, match="stopped"):
                    await made.add()
            await cluster.settle()
            await ended(name)
            assert not hosted(cluster)

    run(main(), limit=300)


def test_a_host_that_its_guardian_wrongly_took_for_dead_ends_a_detached_actor_without_restarts() -> None:
    async def main() -> None:
        async with SimCluster(3, 1) as cluster:
            name = kept_by(cluster, 1)
            made = Counter.options(name=name, detached=True, scheduling=at(cluster, 2)).remote()
            assert await made.add() == 1
            cluster.nodes[1].runtime.guardians.peer_ended(cluster.nodes[2].runtime.life, "n2", "it seemed so")
            await cluster.settle(6)
            await ended(name)
            assert not hosted(cluster)

    run(main(), limit=300)


@pytest.mark.parametrize("host", [1, 2])
@pytest.mark.parametrize("how", ["ended", "elsewhere"])
def test_a_guardian_goes_on_from_the_later_state_when_another_one_was_there_too(host: int, how: str) -> None:
    """Two keepers of a shard, in two parts of a split cluster: one learns what the other has done meanwhile."""

    async def main() -> None:
        async with SimCluster(4, 1) as cluster:
            name = kept_by(cluster, 1)
            made = Counter.options(
                name=name,
                detached=True,
                max_restarts=5,
                scheduling=actorfw.NodeAffinity(cluster.nodes[host].id, soft=True),
            ).remote()
            assert await made.add() == 1
            shard = shard_of("default", name)
            directory = cluster.nodes[1].runtime.directory
            token = directory.names._shards.tokens[shard]
            entry = token.table["default", name]
            assert entry.record is not None
            if how == "ended":
                record = entry.record._replace(revision=9, state="ended", reason="node_died")
            else:
                there = cluster.nodes[3].runtime
                record = entry.record._replace(revision=9, host=there.life, address=there.address, state="starting")
            later = entry._replace(incarnation=3, record=record)
            peer = cluster.nodes[1].runtime.peers.by_life[cluster.nodes[0].runtime.life]
            row = ["default", name, [*later[:-1], list(record)]]
            directory.on_names(peer, [m.NAMES, ["token", shard, token.version, [row], [], False]])
            await cluster.settle(6)
            if how == "ended":
                await ended(name)
                assert not hosted(cluster)
            else:
                async with cluster.on(3):
                    found = await actorfw.get_actor(name)
                    assert await found.add() == 1
                (cell,) = hosted(cluster)
                assert cell.incarnation == 3
                assert cell.node.name == "n3"
                await cluster.run_on(3, actorfw.stop, found)
                await cluster.settle()
                assert not hosted(cluster)

    run(main(), limit=300)


# -- heirs -------------------------------------------------------------------------------------------------------------


def test_an_heir_is_given_an_actor_whose_host_is_dead() -> None:
    """The leaver does nothing about it any more, and the heir heard of that death before it had the actor."""

    async def main() -> None:
        async with SimCluster(3, 1) as cluster:

            async def make() -> None:
                assert await Counter.options(name="there", scheduling=at(cluster, 2)).remote().add() == 1

            await cluster.run_on(1, make)
            heir, leaver, host = (node.runtime for node in cluster.nodes)
            leaving = asyncio.ensure_future(cluster.drain(1))
            await until(lambda: leaver.closing)
            cluster.network.stall("n0", "n1")  # so that the leaver waits for consent
            heir.peers.bury(host.life, "somebody else said so")
            await asyncio.sleep(0.01)
            cluster.heal()
            assert (await leaving).heir == cluster.nodes[0].id
            with pytest.raises((errors.ActorNotFoundError, errors.ActorDiedError)):
                await asyncio.wait_for(actorfw.stop(await actorfw.get_actor("there")), 10)
            assert not heir.guardians.actors

    run(main(), limit=300)


def test_an_actor_that_its_guardian_could_not_end_before_it_left_ends() -> None:
    """Its host could not be reached. Later it hears of an heir, who has no such actor."""

    async def main() -> None:
        async with SimCluster(3, 1) as cluster:

            async def make() -> Any:
                named = Counter.options(name="inherited", scheduling=at(cluster, 0)).remote()
                assert await named.add() == 1
                own = Counter.options(scheduling=at(cluster, 2)).remote()
                assert await own.add() == 1
                return own

            own = await cluster.run_on(1, make)
            await cluster.settle()
            cluster.partition([1], [2])
            cluster.reset(1, 2)
            await asyncio.sleep(0.1)
            assert len(hosted(cluster)) == 2
            del own
            report = await cluster.drain(1, timeout=2.0)
            assert report.heir == cluster.nodes[0].id
            cluster.heal()
            await cluster.settle(10)
            (cell,) = hosted(cluster)
            assert cell.guardian in {node.runtime.life for node in cluster.alive}
            await actorfw.stop(await actorfw.get_actor("inherited"))

    run(main(), limit=300)


@pytest.mark.parametrize("how", ["killed", "crashed"])
@pytest.mark.parametrize("asks", ["hears", "calls"])
def test_how_an_actor_ended_is_handed_over(how: str, asks: str) -> None:
    """Whoever still has its handle asks the heir, who is to know it, and what calls get."""

    class NoLuckError(Exception):
        """Not to be imported, so that its definition travels too."""

    @actorfw.remote(num_cpus=0)
    class Unlucky:
        def __init__(self, error: Exception) -> None:
            raise error

        async def add(self) -> None:
            """Never."""

    async def main() -> None:
        async with SimCluster(3, 1) as cluster:
            boxes = [Box.options(name=f"box {i}", scheduling=at(cluster, i)).remote() for i in (0, 2)]
            assert [await box.keep([]) for box in boxes] == [0, 0]

            async def make() -> None:
                made = Counter.remote() if how == "killed" else Unlucky.remote(NoLuckError("!"))
                for box in [await actorfw.get_actor(f"box {i}") for i in (0, 2)]:
                    assert await box.keep([made]) == 1
                actorfw.kill(made)
                with pytest.raises(errors.ActorDiedError, match="killed" if how == "killed" else "NoLuck"):
                    await made.add()

            await cluster.run_on(1, make)
            (record,) = cluster.nodes[1].runtime.guardians.actors.values()
            assert record.state == "ended"
            await cluster.drain(1)
            for box in boxes:
                told = await asyncio.wait_for(getattr(box, asks)(), 10)
                if asks == "hears":
                    assert told == how
                else:
                    assert told == ("killed, None" if how == "killed" else "crashed, NoLuckError('!')")
                await actorfw.stop(box)
            del boxes, box
            await cluster.settle(20)
            for node in cluster.alive:
                assert not node.runtime.watching._watched
                assert not node.runtime.guardians.actors

    run(main(), limit=300)


async def pass_on_unnamed(cluster: SimCluster, name: str) -> actorfw.ActorHandle:
    """Node 1 makes an actor with a name, which it can't get yet, and passes its handle on; returns who has it."""
    box = Box.options(name="box", scheduling=at(cluster, 0)).remote()
    assert await box.keep([]) == 0
    async with cluster.on(1):
        other = await actorfw.get_actor("box")
        cluster.stall_between([1], [3])
        made = Counter.options(name=name, get_if_exists=True).remote(10)
        assert await other.keep([made]) == 1
    return box


@pytest.mark.parametrize("taken", [False, True])
def test_an_actor_that_has_no_name_yet_is_handed_over(taken: bool) -> None:
    """It is its heir that gets the name, or finds out that another actor has it."""

    async def main() -> None:
        async with SimCluster(4, 1) as cluster:
            name = kept_by(cluster, 3)
            if taken:
                older = Counter.options(name=name, scheduling=at(cluster, 0)).remote(100)
                assert await older.add() == 101
            box = await pass_on_unnamed(cluster, name)
            await cluster.drain(1, timeout=1.0)
            cluster.heal()
            assert await asyncio.wait_for(box.first(1), 30) == (102 if taken else 11)
            found = await actorfw.get_actor(name)
            assert await found.add() == (103 if taken else 12)
            assert len(hosted(cluster)) == 2
            await actorfw.stop(found)
            await actorfw.stop(box)
            await cluster.settle(20)
            assert not hosted(cluster)

    run(main(), limit=300)


@pytest.mark.parametrize("detached", [False, True])
def test_a_handle_that_stands_for_an_older_actor_is_handed_over(detached: bool) -> None:
    """It was passed on before that was known, and so it leads over the node that made it."""

    async def main() -> None:
        async with SimCluster(4, 1) as cluster:
            name = kept_by(cluster, 3)
            older = Counter.options(name=name, scheduling=at(cluster, 0), detached=detached).remote(100)
            assert await older.add() == 101
            box = await pass_on_unnamed(cluster, name)
            cluster.heal()
            await cluster.settle(3)
            await cluster.drain(1, timeout=1.0)
            assert await asyncio.wait_for(box.first(1), 30) == 102
            assert len(hosted(cluster)) == 2
            await actorfw.stop(older)
            await actorfw.stop(box)
            await cluster.settle(20)
            assert not hosted(cluster)

    run(main(), limit=300)


# -- a node that closes ------------------------------------------------------------------------------------------------


def test_a_node_that_closes_hands_no_names_to_the_dead() -> None:
    async def main() -> None:
        async with SimCluster(3, 1) as cluster:
            leaver, dead = cluster.nodes[1].runtime, cluster.nodes[2].runtime
            cluster.network.stall("n2", "n1")  # it never says that it has taken them
            stopping = asyncio.ensure_future(cluster.stop(1))
            await until(lambda: leaver.closing)
            began = cluster.loop.time()
            leaver.peers.bury(dead.life, "somebody said so")
            assert dead.life not in leaver.members.facts
            await until(lambda: leaver.directory._closed)
            assert cluster.loop.time() - began < 0.5
            await stopping

    run(main(), limit=300)


def test_what_is_sent_to_a_life_that_is_over_goes_nowhere() -> None:
    async def main() -> None:
        async with SimCluster(2, 1) as cluster:
            node = cluster.nodes[0].runtime
            life, address = cluster.nodes[1].runtime.life, cluster.nodes[1].address
            cluster.crash(1)
            node.peers.bury(life, "it crashed")
            peer = node.peers.open(life, address, "n1")
            assert peer.ended == "dead"
            with pytest.raises(errors.PeerUnreachableError, match="dead"):
                await node.asks.ask(peer, "available", None)

    run(main(), limit=300)


def test_who_has_handed_an_actor_over_says_so_to_those_who_ask_what_became_of_it() -> None:
    """Not that it knows of no such actor: they would take it for ended."""

    async def main() -> None:
        async with SimCluster(3, 1) as cluster:
            box = Box.options(scheduling=at(cluster, 0)).remote()

            async def make() -> None:
                made = Counter.options(name="moves", max_restarts=1, scheduling=at(cluster, 2)).remote()
                assert await made.add() == 1

            await cluster.run_on(1, make)
            handle = await actorfw.get_actor("moves")
            assert await box.keep([handle]) == 1
            leaver = cluster.nodes[1].runtime
            (id,) = leaver.guardians.actors
            leaving = asyncio.create_task(cluster.drain(1))
            while id in leaver.guardians.actors or leaver.leaving.now_guards(id) is None:
                assert not leaving.done()
                await asyncio.sleep(0.0001)
            assert leaver.watching._fate(id, 0).result() == ["moved"]
            assert leaver.watching._fate(id, 1).result() == ["moved"]
            await leaving
            assert await box.first(1) == 2
            await actorfw.stop(handle)
            await actorfw.stop(box)

    run(main(), limit=100)
