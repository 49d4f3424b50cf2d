"""Back-pressure of actor calls, in virtual time: what waits where is counted at every step."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

import actorfw
from actorfw.core.windows import Mailbox, Window
from actorfw.runtime.cells import Cell
from actorfw.runtime.routes import CALL_BYTES
from actorfw.testing import SimCluster, run


@actorfw.remote
class Slow:
    """Each call takes a while, or waits until the door is opened."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.door = asyncio.Event()

    async def note(self, item: Any, seconds: float = 0) -> Any:
        self.seen.append(item)
        if seconds:
            await asyncio.sleep(seconds)
        return item

    async def size(self, data: bytes, seconds: float = 0) -> int:
        await asyncio.sleep(seconds)
        return len(data)

    async def give(self, size: int) -> bytes:
        return b"x" * size

    @actorfw.method(interleave=True)
    async def open(self) -> None:
        self.door.set()

    @actorfw.method(interleave=True)
    async def stay(self) -> None:
        await self.door.wait()

    @actorfw.method(interleave=True)
    async def all(self) -> list[Any]:
        return self.seen


@actorfw.remote
class Serial:
    """The same without anything beside, so that it is the kind of actor that costs least."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def note(self, item: Any, seconds: float = 0) -> Any:
        self.seen.append(item)
        if seconds:
            await asyncio.sleep(seconds)
        return item

    async def items(self) -> AsyncIterator[int]:
        yield 1
        yield 2
        yield 3

    async def all(self) -> list[Any]:
        return self.seen


def simulated(nodes: int, **options: Any) -> Callable[[Callable[[SimCluster], Coroutine[Any, Any, None]]], None]:
    """Run a coroutine inside a cluster of so many nodes."""

    def run_it(main: Callable[[SimCluster], Coroutine[Any, Any, None]]) -> None:
        async def inside() -> None:
            async with SimCluster(nodes, seed=3, **options) as cluster:
                await main(cluster)

        run(inside())

    return run_it


def on(cluster: SimCluster, index: int, cls: Any = Slow, **options: Any) -> Any:
    return cls.options(scheduling=actorfw.NodeAffinity(cluster.nodes[index].id), **options).remote()


def cell_of(cluster: SimCluster, index: int) -> Cell:
    (cell,) = cluster.nodes[index].runtime.hosting.cells.values()
    return cell


def queued(cluster: SimCluster) -> int:
    """Calls that wait at the driver."""
    return sum(len(route.queue or ()) for route in cluster.driver.runtime.calls.routes.values())


class Watcher:
    """Counts, at every step of the host's mailbox, what it holds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pending = 0
        self.door = 0
        accept, wait = Cell.accept, Cell.wait

        def accepting(cell: Cell, call: Any) -> None:
            accept(cell, call)
            self.pending = max(self.pending, cell.pending)

        def waiting(cell: Cell, item: Any) -> None:
            wait(cell, item)
            self.door = max(self.door, len(cell.door or ()))

        monkeypatch.setattr(Cell, "accept", accepting)
        monkeypatch.setattr(Cell, "wait", waiting)


# -- the mailbox -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("cls", [Slow, Serial])
def test_a_mailbox_accepts_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch, where: int, cls: Any) -> None:
    watch = Watcher(monkeypatch)

    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, where, cls, max_pending_calls=5)
        refs = [actor.note.remote(i, 0.01) for i in range(1000)]
        assert await asyncio.gather(*refs) == list(range(1000))
        assert await actor.all() == list(range(1000))
        assert 0 < watch.pending <= 5
        assert watch.door <= Window.CALLS
        cell = cell_of(cluster, where)
        assert (cell.pending, cell.door, cell.limit, queued(cluster)) == (0, None, 5, 0)
        assert cluster.driver.runtime.calls.queued_bytes == 0

    simulated(2)(main)


@pytest.mark.parametrize("where", [0, 1])
def test_the_calls_of_all_callers_share_a_mailbox(monkeypatch: pytest.MonkeyPatch, where: int) -> None:
    watch = Watcher(monkeypatch)

    async def produce(name: int) -> None:
        actor = await actorfw.get_actor("shared")
        refs = [actor.note.remote((name, i), 0.001) for i in range(300)]
        assert await asyncio.gather(*refs) == [(name, i) for i in range(300)]

    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, where, max_pending_calls=7, name="shared")
        await actor.note(("driver", 0))
        await asyncio.gather(*(cluster.run_on(i, produce, i) for i in range(4)))
        seen = await actor.all()
        assert len(seen) == 1201
        for name in range(4):
            assert [i for who, i in seen if who == name] == list(range(300))
        # None waits for longer than the windows of the others take.
        assert {who for who, _ in seen[1:900]} == {0, 1, 2, 3}
        assert watch.pending <= 7
        assert 2 * Window.CALLS < watch.door <= 4 * Window.CALLS + 1

    simulated(4)(main)


@pytest.mark.parametrize("where", [0, 1])
def test_calls_and_tells_keep_their_order_at_a_full_mailbox(where: int) -> None:
    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, where, max_pending_calls=3)
        last: Any = None
        for i in range(1500):
            if i % 3:
                actor.note.tell(i, 0.001)
            else:
                last = actor.note.remote(i, 0.001)
        await last
        await asyncio.sleep(1)
        assert await actor.all() == list(range(1500))

    simulated(2)(main)


@pytest.mark.parametrize("where", [0, 1])
def test_bytes_fill_a_mailbox_too(monkeypatch: pytest.MonkeyPatch, where: int) -> None:
    monkeypatch.setattr(Mailbox, "BYTES", 1 << 20)
    most = 0
    weigh = Cell.weigh

    def weighing(cell: Cell, size: int) -> None:
        nonlocal most
        weigh(cell, size)
        most = max(most, cell.pending_bytes)

    monkeypatch.setattr(Cell, "weigh", weighing)

    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, where)
        refs = [actor.size.remote(b"x" * 50_000, 0.001) for i in range(200)]
        assert set(await asyncio.gather(*refs)) == {50_000}
        assert (1 << 20) - 51_000 < most < (1 << 20) + 51_000
        cell = cell_of(cluster, where)
        assert (cell.pending, cell.pending_bytes, cell.limit) == (0, 0, cell.most)

    simulated(2)(main)


@pytest.mark.parametrize("where", [0, 1])
def test_overflow_error_refuses_what_has_no_room(where: int, caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, where, Serial, max_pending_calls=10, overflow="error")
        await actor.note(0)
        running = actor.note.remote(1, 10)
        await asyncio.sleep(1)
        refs = [actor.note.remote(i) for i in range(100)]
        outcomes = await asyncio.gather(*refs, return_exceptions=True)
        assert outcomes[:10] == list(range(10))
        assert {type(one) for one in outcomes[10:]} == {actorfw.MailboxFullError}
        assert all(one.ran is False for one in outcomes[10:])  # type: ignore[union-attr]
        assert "max_pending_calls is 10" in str(outcomes[10])
        assert await running == 1
        assert await actor.note(2) == 2
        running = actor.note.remote(3, 10)
        await asyncio.sleep(1)
        for i in range(20):
            actor.note.tell(i)
        await running
        await asyncio.sleep(1)
        assert caplog.text.count("was dropped") == 10

    with caplog.at_level(logging.ERROR, "actorfw.actors"):
        simulated(2)(main)


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("kill", [True, False])
def test_the_end_of_an_actor_frees_what_waits_for_it(where: int, kill: bool) -> None:
    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, where, Serial, max_pending_calls=5)
        await actor.note(0)
        running = actor.note.remote(1, 10)
        await asyncio.sleep(1)
        refs = [actor.note.remote(i) for i in range(1000)]
        told = actor.note.tell(0)
        await asyncio.sleep(1)
        if kill:
            actorfw.kill(actor)
        else:
            await actorfw.stop(actor)
        outcomes = await asyncio.gather(running, *refs, return_exceptions=True)
        accepted = 0 if kill else 5
        assert outcomes[1 : accepted + 1] == list(range(accepted))
        assert {type(one) for one in outcomes[accepted + 1 :]} == {actorfw.ActorDiedError}
        assert all(one.ran is False for one in outcomes[accepted + 1 :])  # type: ignore[union-attr]
        await told
        assert cluster.driver.runtime.calls.queued_bytes == 0
        windows = cluster.nodes[where].runtime.windows
        assert not windows._at_door
        assert not windows._tellers

    simulated(2)(main)


def test_a_caller_that_dies_frees_its_places_at_the_door() -> None:
    async def flood() -> None:
        actor = await actorfw.get_actor("flooded")
        await asyncio.gather(*(actor.note.remote(i, 10) for i in range(500)))

    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, 1, Serial, max_pending_calls=5, name="flooded")
        await actor.note("before")
        flooding = asyncio.create_task(cluster.run_on(2, flood))
        await asyncio.sleep(1)
        assert cell_of(cluster, 1).door
        cluster.crash(2)
        with pytest.raises(actorfw.NodeDiedError):
            await flooding
        assert await actor.note("after") == "after"
        await asyncio.sleep(1)
        assert len(await actor.all()) < 100
        assert not cluster.nodes[1].runtime.windows._at_door
        assert not cluster.nodes[1].runtime.hosting._calls

    simulated(3)(main)


# -- the window --------------------------------------------------------------------------------------------------------


def test_no_more_than_a_window_is_on_its_way() -> None:
    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, 1, Serial)
        await actor.note(0)
        running = actor.note.remote(0, 10)
        refs = [actor.note.remote(i) for i in range(5000)]
        await asyncio.sleep(1)
        assert cell_of(cluster, 1).pending == Window.CALLS - 1  # the one that runs has no answer yet
        assert queued(cluster) == 5000 + 1 - Window.CALLS
        assert cluster.driver.runtime.calls.queued_bytes == queued(cluster) * CALL_BYTES
        await running
        assert await asyncio.gather(*refs) == list(range(5000))

    simulated(2)(main)


def test_large_arguments_fill_the_window_by_bytes() -> None:
    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, 1)
        await actor.note(0)
        running = actor.note.remote(0, 10)
        refs = [actor.size.remote(b"x" * (1 << 20)) for i in range(20)]
        await asyncio.sleep(1)
        assert cell_of(cluster, 1).pending == 4
        await running
        assert set(await asyncio.gather(*refs)) == {1 << 20}

    simulated(2)(main)


def test_calls_that_run_for_long_give_their_places_back() -> None:
    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, 1)
        staying = [actor.stay.remote() for _ in range(1000)]
        await asyncio.sleep(1)
        assert queued(cluster) == 0
        (route,) = cluster.driver.runtime.calls.routes.values()
        assert route.out < 64
        assert await actor.note(1) == 1
        await actor.open()
        await asyncio.gather(*staying)
        assert route.out == 0

    simulated(2)(main)


def test_open_streams_give_their_places_back() -> None:
    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, 1, Serial)
        streams = [actor.items.remote() for _ in range(600)]
        for stream in streams:
            assert await anext(stream) == 1
        assert await actor.note(1) == 1
        for stream in streams:
            assert [item async for item in stream] == [2, 3]

    simulated(2)(main)


def test_what_is_cancelled_gives_its_place_back() -> None:
    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, 1, Serial, max_pending_calls=20)
        await actor.note(0)
        running = actor.note.remote(0, 100)
        for _ in range(20):
            waiting = [asyncio.ensure_future(actor.note(-1)) for _ in range(100)]
            await asyncio.sleep(0.1)
            for one in waiting:
                one.cancel()
            await asyncio.wait(waiting)
            cell = cell_of(cluster, 1)
            assert cell.pending <= 20
            assert len(cell.door or ()) <= Window.CALLS
            assert queued(cluster) <= 100
        await running
        assert await actor.note(1) == 1
        assert -1 not in await actor.all()
        (route,) = cluster.driver.runtime.calls.routes.values()
        assert (route.out, queued(cluster)) == (0, 0)
        assert not cluster.driver.runtime.windows._withdrawn
        assert cluster.driver.runtime.calls.queued_bytes == 0

    simulated(2)(main)


@actorfw.remote(concurrency_groups={"io": 1})
class Grouped:
    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.io: list[Any] = []
        self.door = asyncio.Event()

    async def note(self, item: Any) -> Any:
        self.seen.append(item)
        return item

    @actorfw.method(group="io")
    async def read(self, item: Any) -> Any:
        self.io.append(item)
        await self.door.wait()
        return item

    @actorfw.method(interleave=True)
    async def open(self) -> None:
        self.door.set()

    @actorfw.method(interleave=True)
    async def all(self) -> tuple[list[Any], list[Any]]:
        return self.seen, self.io


@pytest.mark.parametrize("known", [False, True])
def test_each_group_has_a_window_and_an_order_of_its_own(known: bool) -> None:
    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, 1, Grouped)
        if known:  # else all of them queue for a way first
            await actor.note("first")
        read: list[Any] = []
        noted: list[Any] = []
        for i in range(400):
            read.append(actor.read.remote(i))
            noted.append(actor.note.remote(i))
            actor.read.tell(1000 + i)
        assert await asyncio.gather(*noted) == list(range(400))
        calls = cluster.driver.runtime.calls
        (lane,) = [lane for route in calls.routes.values() for lane in route.lanes if lane.group == "io"]
        assert (lane.out, len(lane.queue or ())) == (Window.CALLS, 800 - Window.CALLS)
        for ref in read[300:]:
            actorfw.cancel(ref)
        assert lane.dropped == 100
        await actor.open()
        assert await asyncio.gather(*read[:300]) == list(range(300))
        while len((await actor.all())[1]) < 700:
            await asyncio.sleep(0.1)
        expected: list[int] = []
        for i in range(400):
            expected += [i, 1000 + i] if i < 300 else [1000 + i]
        seen, io = await actor.all()
        assert [item for item in seen if item != "first"] == list(range(400))
        assert io == expected
        assert (lane.queue, calls.queued_bytes) == (None, 0)

    simulated(2)(main)


def test_answers_that_nobody_reads_are_bounded_by_the_window() -> None:
    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, 1)
        await actor.note(0)
        cluster.stall(1, 0)
        result = b"x" * 60_000
        refs = [actor.give.remote(len(result)) for _ in range(3000)]
        host = cluster.nodes[1].runtime
        most = 0
        for _ in range(50):
            await asyncio.sleep(0.05)
            for peer in host.peers.by_life.values():
                most = max(most, peer.queued_bytes + peer.unacked_bytes)
        assert 100 * len(result) < most < (Window.CALLS + 2) * (len(result) + 500)
        cluster.heal()
        assert set(map(len, await asyncio.gather(*refs))) == {len(result)}

    simulated(2)(main)


# -- producers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0, 1])
def test_who_awaits_accepted_stays_flat(where: int) -> None:
    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, where, Serial, max_pending_calls=50)
        await actor.note(0)
        refs: list[Any] = []
        for i in range(2000):
            ref = actor.note.remote(i, 0.001)
            await ref.accepted()
            refs.append(ref)
            assert cell_of(cluster, where).pending <= 50
            assert queued(cluster) <= 1
            assert cluster.driver.runtime.calls.queued_bytes <= CALL_BYTES
        assert await asyncio.gather(*refs) == list(range(2000))

    simulated(2)(main)


@pytest.mark.parametrize("where", [0, 1])
def test_who_awaits_nothing_is_refused_and_nothing_else_suffers(where: int) -> None:
    limit = 2 << 20

    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, where, Serial, max_pending_calls=100)
        other = on(cluster, where, Serial)
        await actor.note(0)
        await other.note(0)
        actor.note.tell(0, 1000)
        refs: list[Any] = []

        def flood() -> None:
            for i in range(100_000):
                refs.append(actor.note.remote(i))

        with pytest.raises(actorfw.MailboxFullError, match="max_outbox") as caught:
            flood()
        assert caught.value.ran is False
        for _ in range(3):
            await asyncio.sleep(1)
            # Of calls with scalars only each 64th is looked at.
            assert cluster.driver.runtime.calls.queued_bytes <= limit + 64 * CALL_BYTES
            before = asyncio.get_running_loop().time()
            ref = other.note.remote(1)  # an idle actor's calls go on
            assert await ref == 1
            assert asyncio.get_running_loop().time() - before < 1
        assert await asyncio.gather(*refs) == list(range(len(refs)))

    simulated(2, config=actorfw.Config(max_outbox=limit))(main)


@pytest.mark.parametrize("where", [0, 1])
def test_who_awaits_tells_stays_flat(where: int) -> None:
    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, where, Serial, max_pending_calls=5000)
        await actor.note(-1)
        for i in range(3000):
            await actor.note.tell(i, 0.001)
            assert cell_of(cluster, where).pending <= Window.CALLS
            assert queued(cluster) <= 1
        await asyncio.sleep(10)
        assert await actor.all() == list(range(-1, 3000))

    simulated(2)(main)


# -- accepted() --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0, 1])
def test_accepted_says_when_a_call_is_in_the_mailbox(where: int) -> None:
    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, where, Serial, max_pending_calls=2)
        await actor.note(0)
        clock = asyncio.get_running_loop().time
        began = clock()
        refs = [actor.note.remote(i, 10) for i in range(5)]
        times: list[int] = []
        for ref in refs:
            await ref.accepted()
            times.append(round(clock() - began))
        # One runs, two wait; each end lets one more in.
        assert times == [0, 0, 0, 10, 20]
        assert await asyncio.gather(*refs) == list(range(5))
        await refs[0].accepted()

    simulated(2)(main)


@pytest.mark.parametrize("where", [0, 1])
def test_accepted_fails_as_the_call_does_that_never_got_there(where: int) -> None:
    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, where, Serial, max_pending_calls=1, overflow="error")
        await actor.note(0)
        running = actor.note.remote(0, 10)
        await asyncio.sleep(1)
        waiting = actor.note.remote(0)
        refused = actor.note.remote(0)
        with pytest.raises(actorfw.MailboxFullError):
            await refused.accepted()
        with pytest.raises(actorfw.MailboxFullError):
            await refused
        await waiting.accepted()
        await running
        failing = actor.note.remote(1, "no number")
        await failing.accepted()  # it ran, and what it raised is the caller's affair
        with pytest.raises(TypeError):
            await failing
        await failing.accepted()

    simulated(2)(main)


def test_accepted_of_what_is_no_call_says_so() -> None:
    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, 1, Serial)

        @actorfw.remote
        async def never() -> None:
            await asyncio.Event().wait()

        task = never.remote()
        with pytest.raises(actorfw.UsageError, match="accepted"):
            await task.accepted()
        actorfw.cancel(task)
        await actorfw.put(1).accepted()  # it is there
        parts = actor.note.options(num_returns=2).remote((1, 2))
        await parts[1].accepted()
        assert await asyncio.gather(*parts) == [1, 2]

    simulated(2)(main)


def test_accepted_over_a_link_that_breaks_and_a_host_that_dies() -> None:
    async def main(cluster: SimCluster) -> None:
        actor = on(cluster, 1, Serial)
        await actor.note(0)
        running = actor.note.remote(0, 50)
        for i in range(20):
            ref = actor.note.remote(i)
            cluster.cut(0, 1)
            await ref.accepted()
        waiting = [actor.note.remote(i) for i in range(500)]
        accepted = waiting[-1].accepted()
        await asyncio.sleep(1)
        assert not accepted.done()
        cluster.crash(1)
        with pytest.raises(actorfw.ActorFwError):
            await accepted
        outcomes = await asyncio.gather(running, *waiting, return_exceptions=True)
        assert all(isinstance(one, actorfw.ActorFwError) for one in outcomes)
        assert not cluster.driver.runtime.windows._accepting

    simulated(2)(main)
