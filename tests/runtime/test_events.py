"""`actorfw.events()` on whole nodes: who hears what, slow readers, and readers that go away."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

import actorfw
from actorfw.runtime.events import QUEUE
from actorfw.testing import SimCluster, run
from actorfw.values import events as values


@actorfw.remote(num_cpus=0)
class Subject(actorfw.Actor):
    async def ping(self) -> str:
        return "pong"

    async def fails(self) -> None:
        raise ValueError("no luck")


@actorfw.remote(num_cpus=0, executor="process")
class Process(actorfw.Actor):
    def fails(self) -> None:
        raise ValueError("no luck there")


@actorfw.remote(num_cpus=0, executor="thread")
class Thread(actorfw.Actor):
    def fails(self) -> None:
        raise ValueError("no luck either")


def on(cluster: SimCluster, index: int) -> Any:
    return actorfw.NodeAffinity(cluster.nodes[index].id)


async def until(events: AsyncIterator[actorfw.Event], *kinds: type[Any]) -> list[Any]:
    """The events of these kinds, one of each, in that order."""
    found: list[Any] = []
    async with asyncio.timeout(120):
        for kind in kinds:
            async for event in events:
                if isinstance(event, kind):
                    found.append(event)
                    break
    return found


def readers(cluster: SimCluster) -> list[Any]:
    """What is left of readers, on all nodes."""
    left: list[Any] = []
    for node in cluster.alive:
        events = node.runtime.events
        left += [*events._readers, *events._askers, *events._asked, *node.runtime.readings._open]
        assert events.wanted == bool(events._readers or events._askers)
    return left


def test_members_come_and_go() -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            events = actorfw.events()
            added = await cluster.add_node(name="late")
            joined, up = await until(events, actorfw.NodeJoined, actorfw.NodeUp)
            assert joined.name == up.name == "late"
            assert up.node_id == added.id
            assert up.address == added.address
            cluster.crash(1)
            (died,) = await until(events, actorfw.NodeDied)
            assert died.name == "n1"
            assert died.time >= up.time > 0
            await cluster.stop(2)
            (left,) = await until(events, actorfw.NodeLeft)
            assert left.name == "n2"

    run(main())


def test_the_ends_of_actors_are_heard_everywhere() -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:
            first = Subject.options(scheduling=on(cluster, 1), name="one").remote()
            await first.ping()
            async with cluster.on(2):
                events = actorfw.events()
                await asyncio.sleep(0.1)
                actorfw.kill(first)
                (ended,) = await until(events, actorfw.ActorEnded)
            assert ended.name == "one"
            assert ended.reason == "killed"
            assert ended.node_id == cluster.nodes[1].id
            assert ended.actor == (await actorfw.info(first)).id
            assert ended.time > 0

    run(main())


def test_a_newcomers_events_are_heard_too() -> None:
    async def main() -> None:
        async with SimCluster(2) as cluster:
            events = actorfw.events()
            added = await cluster.add_node()
            await until(events, actorfw.NodeUp)
            await asyncio.sleep(0.1)

            async def make_and_end() -> None:
                handle = Subject.options(scheduling=on(cluster, 0)).remote()
                await actorfw.stop(handle)

            await cluster.run_on(added.index, make_and_end)
            (ended,) = await until(events, actorfw.ActorEnded)
            assert ended.reason == "stopped"

    run(main())


def test_a_tell_that_raises_is_an_event_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with SimCluster(2) as cluster:
            kinds: list[Any] = [Subject, Process, Thread]
            for index in (0, 1):
                for kind in kinds:
                    events = actorfw.events()
                    await asyncio.sleep(0.1)
                    handle = kind.options(scheduling=on(cluster, index)).remote()
                    handle.fails.tell()
                    (failed,) = await until(events, actorfw.TellFailed)
                    assert failed.method == "fails"
                    assert "ValueError: no luck" in failed.error
                    assert failed.actor == (await actorfw.info(handle)).id
            assert caplog.text.count("a tell of fails to actor") == 6

    run(main())


def test_a_slow_reader_loses_the_oldest_and_is_told() -> None:
    async def main() -> None:
        async with SimCluster(1) as cluster:
            events = actorfw.events()
            publish = cluster.nodes[0].runtime.events.publish
            for number in range(QUEUE + 10):
                publish(actorfw.TellFailed(str(number), "m", ""))
            first = await anext(events)
            assert first == actorfw.EventsDropped(10)
            seen = [await anext(events) for _ in range(QUEUE)]
            assert [event.actor for event in seen if isinstance(event, actorfw.TellFailed)] == [
                str(number) for number in range(10, QUEUE + 10)
            ]

    run(main())


def test_a_cancelled_wait_loses_nothing() -> None:
    async def main() -> None:
        async with SimCluster(1) as cluster:
            events = actorfw.events()
            publish = cluster.nodes[0].runtime.events.publish
            for number in range(20):
                waiting = asyncio.ensure_future(anext(events))
                await asyncio.sleep(0.01)
                publish(actorfw.TellFailed(str(number), "m", ""))
                waiting.cancel()  # in the same moment as the event
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                found = await anext(events)
                assert isinstance(found, actorfw.TellFailed)
                assert found.actor == str(number)

    run(main())


def test_readers_that_go_away_leave_nothing() -> None:
    async def main() -> None:
        async with SimCluster(3) as cluster:

            async def reads_one() -> None:
                async for _ in actorfw.events():
                    break

            for _ in range(3):
                reading = asyncio.create_task(reads_one())
                await asyncio.sleep(0.1)
                assert readers(cluster) != []
                actorfw.kill(Subject.remote())
                await reading
            await asyncio.sleep(0.1)
            assert readers(cluster) == []
            cancelled = asyncio.create_task(reads_one())
            await asyncio.sleep(0.1)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
            del cancelled  # its error has the frame in which the events were read
            await asyncio.sleep(0.1)
            assert readers(cluster) == []
            closed = actorfw.events()
            await closed.aclose()
            assert [event async for event in closed] == []
            await asyncio.sleep(0.1)
            assert readers(cluster) == []

    run(main())


def test_reading_ends_with_the_node() -> None:
    async def main() -> None:
        async with SimCluster(2) as cluster:
            seen: list[Any] = []

            async def read() -> None:
                async for event in actorfw.events():
                    seen.append(event)

            async def begin() -> asyncio.Task[None]:
                return asyncio.ensure_future(read())

            async with cluster.on(1):
                reading = asyncio.ensure_future(read())
                await asyncio.sleep(0.1)
            await cluster.stop(1)
            await asyncio.wait_for(reading, 10)

    run(main())


def test_each_has_its_own_reader() -> None:
    async def main() -> None:
        async with SimCluster(1) as cluster:
            one, two = actorfw.events(), actorfw.events()
            cluster.nodes[0].runtime.events.publish(actorfw.TellFailed("a", "m", ""))
            assert await anext(one) == await anext(two)
            waiting = asyncio.ensure_future(anext(one))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="one reader at a time"):
                await anext(one)
            waiting.cancel()

    run(main())


@pytest.mark.parametrize("kind", [kind for kind in vars(values).values() if isinstance(kind, type)])
def test_events_are_plain_values(kind: type[Any]) -> None:
    if not issubclass(kind, values.Event):
        return
    fields = [field.name for field in dataclasses.fields(kind)]
    event = kind(*range(len(fields)))
    assert event == kind(*range(len(fields)))
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
        setattr(event, (*fields, "kind")[0], 1)
    assert json.loads(json.dumps(event.as_dict())) == {
        "kind": kind.__name__,
        **{name: number for number, name in enumerate(fields)},
    }
