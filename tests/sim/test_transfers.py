"""Large values between nodes: where they stay, from whom they are pulled, and what becomes of it when nodes go."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

import actorfw
from actorfw import NodeAffinity, errors
from actorfw.core.session import Session
from actorfw.core.sources import limit
from actorfw.runtime.store import locations, pull, pulls
from actorfw.testing import SimCluster, SimNode, run
from actorfw.testing.faults import MemoryFiles
from tests.sim.leftovers import leftovers

GRACE = 2.0
CONFIG = actorfw.Config(borrow_grace=GRACE)
SIZE = 3_000_000


@actorfw.remote
def make(size: int = SIZE, mark: int = 0) -> bytes:
    return bytes([mark]) * size


@actorfw.remote(num_returns=3)
def parts(size: int = SIZE) -> tuple[bytes, int, bytes]:
    return b"a" * size, 7, b"c" * size


@actorfw.remote(num_cpus=0)
async def slow() -> bytes:
    await asyncio.sleep(1)
    return b"."


@actorfw.remote
def longer(value: bytes) -> bytes:
    return value + b"."


@actorfw.remote
def count(value: Any) -> int:
    return len(value)


@actorfw.remote
async def fetch(box: list[Any]) -> int:
    return len(await box[0])


@actorfw.remote
async def nest(size: int) -> dict[str, Any]:
    return {"inner": actorfw.put(b"i" * size), "bytes": b"o" * size}


@actorfw.remote
class Holder:
    def __init__(self) -> None:
        self.kept: Any = None

    def make(self, size: int = SIZE) -> bytes:
        return b"h" * size

    def keep(self, box: Any) -> None:
        self.kept = box

    def give(self) -> Any:
        return self.kept

    async def look(self) -> int:
        return len(await self.kept[0])

    def halves(self, size: int) -> tuple[bytes, bytes]:
        return b"1" * size, b"2" * size


def on(node: SimNode) -> Any:
    return NodeAffinity(node.id)


def kept(cluster: SimCluster) -> dict[str, int]:
    """Bytes of copies on each node."""
    return {node.name: node.runtime.copies.bytes for node in cluster.alive if node.runtime.copies.bytes}


def nothing_left(cluster: SimCluster) -> None:
    said = leftovers(cluster)
    assert not said, said
    for node in cluster.alive:
        objects = node.runtime.objects
        objects.sweep()
        assert not any(objects.ownership.snapshot()[0]), node.name  # type: ignore[arg-type]
        assert not objects._exported, node.name
        assert not objects._inherited, node.name


def simulate(nodes: int, seed: int = 0, **options: Any) -> Callable[[Callable[[SimCluster], Awaitable[None]]], Any]:
    """The test is the program of node 0; afterwards no node may have anything left."""

    def decorate(fn: Callable[[SimCluster], Awaitable[None]]) -> Callable[[], None]:
        def test() -> None:
            async def main() -> None:
                options.setdefault("config", CONFIG)
                async with SimCluster(nodes, seed, **options) as cluster:
                    await cluster.run_on(0, fn, cluster)
                    await cluster.settle(GRACE + 3)
                    nothing_left(cluster)

            run(main())

        test.__name__ = fn.__name__
        test.__doc__ = fn.__doc__
        return test

    return decorate


@pytest.fixture
def sent() -> Iterator[Counter[bytes]]:
    """Bytes that each life has put into frames."""
    counter: Counter[bytes] = Counter()
    put = Session.put

    def counted(self: Session, batch: bytes) -> int:
        counter[self.me] += len(batch)
        return put(self, batch)

    Session.put = counted  # type: ignore[method-assign]
    yield counter
    Session.put = put  # type: ignore[method-assign]


# -- where values stay -------------------------------------------------------------------------------------------------


@simulate(3)
async def test_a_large_result_stays_until_it_is_wanted(cluster: SimCluster) -> None:
    ref = make.options(scheduling=on(cluster.nodes[1])).remote()
    ready, _ = await actorfw.wait([ref], timeout=5)
    assert ready == [ref]
    await asyncio.sleep(1)
    assert kept(cluster).keys() == {"n1"}
    assert not ref.done(), "its value is not here"
    assert len(await ref) == SIZE
    assert ref.done()
    assert len(ref.result()) == SIZE
    await asyncio.sleep(0.1)
    assert not kept(cluster), "its owner has it: nobody else needs it"


@simulate(3)
async def test_another_node_gets_it_without_its_owner(cluster: SimCluster) -> None:
    ref = make.options(scheduling=on(cluster.nodes[1])).remote()
    assert await count.options(scheduling=on(cluster.nodes[2])).remote(ref) == SIZE
    assert kept(cluster).keys() == {"n1", "n2"}
    assert not ref.done()


@simulate(2)
async def test_a_dropped_ref_frees_what_is_elsewhere(cluster: SimCluster) -> None:
    ref = make.options(scheduling=on(cluster.nodes[1])).remote()
    await actorfw.wait([ref])
    assert kept(cluster)
    del ref
    await asyncio.sleep(0.2)
    assert not kept(cluster)


@simulate(2)
async def test_a_result_that_nobody_waits_for_is_freed(cluster: SimCluster) -> None:
    make.options(scheduling=on(cluster.nodes[1])).remote()
    await asyncio.sleep(2)
    assert not kept(cluster)


@simulate(3)
async def test_each_part_of_a_result_is_an_object_of_its_own(cluster: SimCluster) -> None:
    a, b, c = parts.options(scheduling=on(cluster.nodes[1])).remote()
    assert await b == 7
    assert sum(kept(cluster).values()) > 2 * SIZE
    assert await count.options(scheduling=on(cluster.nodes[2])).remote(c) == SIZE
    del c
    await asyncio.sleep(0.5)
    assert SIZE <= sum(kept(cluster).values()) < 1.1 * SIZE
    assert (await a)[:1] == b"a"


@simulate(3)
async def test_results_of_actors_stay_too(cluster: SimCluster) -> None:
    holder = Holder.options(scheduling=on(cluster.nodes[1])).remote()
    ref = holder.make.remote()
    first, second = holder.halves.options(num_returns=2).remote(SIZE)
    assert await count.options(scheduling=on(cluster.nodes[2])).remote(ref) == SIZE
    assert not ref.done()
    assert (await second)[:1] == b"2"
    assert len(await first) == SIZE
    assert len(await ref) == SIZE
    del holder


@simulate(3)
async def test_the_end_of_an_actor_leaves_its_results(cluster: SimCluster) -> None:
    holder = Holder.options(scheduling=on(cluster.nodes[1])).remote()
    ref = holder.make.remote()
    await actorfw.wait([ref])
    await actorfw.stop(holder)
    assert len(await ref) == SIZE


@simulate(3)
async def test_as_completed_and_callbacks_and_gather(cluster: SimCluster) -> None:
    refs = [make.options(scheduling=on(cluster.nodes[1 + i % 2])).remote(SIZE, i) for i in range(4)]
    seen = [ref async for ref in actorfw.as_completed(refs)]
    assert set(seen) == set(refs)
    assert not any(ref.done() for ref in refs)
    told = asyncio.Event()
    refs[0].add_done_callback(lambda _: told.set())
    await asyncio.wait_for(told.wait(), 5)
    assert refs[0].result()[0] == 0
    assert [value[0] for value in await actorfw.gather(refs)] == [0, 1, 2, 3]
    done, _ = await asyncio.wait([make.remote(SIZE, 9)])
    assert done.pop().result()[0] == 9


@simulate(3)
async def test_refs_inside_a_value_that_stays_elsewhere_live(cluster: SimCluster) -> None:
    ref = nest.options(scheduling=on(cluster.nodes[1])).remote(SIZE)
    await actorfw.wait([ref])
    await asyncio.sleep(2 * GRACE)
    outer = await ref
    del ref
    await asyncio.sleep(2 * GRACE)
    assert len(outer["bytes"]) == SIZE
    assert len(await outer["inner"]) == SIZE


@simulate(4)
async def test_a_borrower_of_a_borrower_pulls_it(cluster: SimCluster) -> None:
    ref = make.options(scheduling=on(cluster.nodes[1])).remote()
    holder = Holder.options(scheduling=on(cluster.nodes[2])).remote()
    await holder.keep.remote([ref])
    del ref
    await asyncio.sleep(2 * GRACE)
    assert await holder.look.remote() == SIZE
    assert await fetch.options(scheduling=on(cluster.nodes[3])).remote(await holder.give.remote()) == SIZE


# -- one pull per node, several sources --------------------------------------------------------------------------------


def test_one_pull_however_many_ask(sent: Counter[bytes]) -> None:
    @simulate(2, num_cpus=8)
    async def program(cluster: SimCluster) -> None:
        ref = actorfw.put(b"x" * SIZE)
        there = on(cluster.nodes[1])
        sent.clear()
        sizes = [count.options(scheduling=there).remote(ref) for _ in range(5)]
        sizes += [fetch.options(scheduling=there).remote([ref]) for _ in range(3)]
        assert await actorfw.gather(sizes) == [SIZE] * 8
        assert await count.options(scheduling=there).remote(ref) == SIZE
        assert sum(sent.values()) < 1.1 * SIZE

    program()


@pytest.mark.parametrize("nodes", [2, 5, 9, 33])
def test_a_broadcast_costs_its_owner_few_copies(nodes: int, sent: Counter[bytes]) -> None:
    async def main() -> None:
        async with SimCluster(nodes, 3, config=CONFIG) as cluster:

            async def program() -> None:
                size = 1_000_000
                ref = actorfw.put(b"x" * size)
                owner = cluster.nodes[0].runtime.life
                sent.clear()
                others = cluster.nodes[1:]
                assert await actorfw.gather([count.options(scheduling=on(one)).remote(ref) for one in others]) == [
                    size
                ] * len(others)
                assert len(kept(cluster)) == len(others)
                assert sent[owner] <= (limit(len(others)) + 0.5) * size
                assert sum(sent.values()) <= (len(others) + 1) * size * 1.1

            await cluster.run_on(0, program)
            await cluster.settle(GRACE + 3)
            nothing_left(cluster)

    run(main())


def test_several_sources_share_the_work(sent: Counter[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pull, pulls, locations):
        monkeypatch.setattr(module, "STRIPE", 200_000)

    @simulate(5)
    async def program(cluster: SimCluster) -> None:
        ref = make.options(scheduling=on(cluster.nodes[1])).remote()
        for node in cluster.nodes[2:4]:
            assert await count.options(scheduling=on(node)).remote(ref) == SIZE
        sent.clear()
        assert await count.options(scheduling=on(cluster.nodes[4])).remote(ref) == SIZE
        shares = [sent[node.runtime.life] for node in cluster.nodes[1:4]]
        assert all(share > SIZE / 10 for share in shares)
        assert sum(shares) < 1.2 * SIZE

    program()


def test_it_goes_on_from_another_source_where_the_first_stopped(
    sent: Counter[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actorfw.core.sources.STRIPES", 1)

    @simulate(5)
    async def program(cluster: SimCluster) -> None:
        size = 12_000_000
        ref = make.options(scheduling=on(cluster.nodes[1])).remote(size)
        assert await count.options(scheduling=on(cluster.nodes[2])).remote(ref) == size
        sent.clear()
        got = count.options(scheduling=on(cluster.nodes[4])).remote(ref)
        lives = {node.runtime.life: node for node in cluster.nodes}
        while sum(sent.values()) < size / 2:
            await asyncio.sleep(0.001)
        first = max(sent, key=sent.__getitem__)
        assert lives[first].name in ("n1", "n2")
        cluster.crash(lives[first].index)
        assert await got == size
        assert sum(sent.values()) < 1.4 * size, "what had come was not sent again"

    program()


# -- nodes that go -----------------------------------------------------------------------------------------------------


@simulate(3)
async def test_a_lost_result_is_made_again(cluster: SimCluster) -> None:
    ref = make.options(scheduling=NodeAffinity(cluster.nodes[1].id, soft=True)).remote(SIZE, 5)
    await actorfw.wait([ref])
    cluster.crash(1)
    assert (await ref)[:2] == bytes([5, 5])


@simulate(3)
async def test_a_lost_result_of_an_actor_is_lost(cluster: SimCluster) -> None:
    holder = Holder.options(scheduling=on(cluster.nodes[1])).remote()
    ref = holder.make.remote()
    await actorfw.wait([ref])
    cluster.crash(1)
    with pytest.raises(errors.ObjectLostError) as caught:
        await ref
    assert not isinstance(caught.value, errors.OwnerDiedError)
    with pytest.raises(errors.ObjectLostError):
        await count.options(scheduling=on(cluster.nodes[2])).remote(ref)


@simulate(4)
async def test_a_copy_somewhere_else_is_as_good_as_the_first(cluster: SimCluster) -> None:
    holder = Holder.options(scheduling=on(cluster.nodes[1])).remote()
    ref = holder.make.remote()
    assert await count.options(scheduling=on(cluster.nodes[2])).remote(ref) == SIZE
    cluster.crash(1)
    await cluster.settle(10)
    assert await count.options(scheduling=on(cluster.nodes[3])).remote(ref) == SIZE
    assert len(await ref) == SIZE


def test_the_owner_s_death_frees_the_copies() -> None:
    async def main() -> None:
        async with SimCluster(4, config=CONFIG) as cluster:

            async def program() -> None:
                ref = make.options(scheduling=on(cluster.nodes[1])).remote()
                await count.options(scheduling=on(cluster.nodes[2])).remote(ref)
                assert kept(cluster).keys() == {"n1", "n2"}
                await asyncio.sleep(1000)

            task = asyncio.ensure_future(cluster.run_on(0, program))
            await cluster.settle(3)
            assert kept(cluster)
            cluster.crash(0)
            task.cancel()
            await cluster.settle(20)
            assert not kept(cluster)

    run(main())


@simulate(4)
async def test_a_node_that_leaves_gives_back_what_it_has_alone(cluster: SimCluster) -> None:
    holder = Holder.options(scheduling=on(cluster.nodes[1])).remote()
    refs = [holder.make.remote() for _ in range(3)]
    await actorfw.wait(refs, num_returns=3)
    assert await count.options(scheduling=on(cluster.nodes[2])).remote(refs[0]) == SIZE
    await actorfw.stop(holder)
    report = await cluster.drain(1)
    assert report.complete, report
    assert len(await refs[0]) == len(await refs[1]) == len(await refs[2]) == SIZE


@simulate(4)
async def test_an_heir_knows_where_things_are(cluster: SimCluster) -> None:
    class Maker:
        async def make(self, there: str) -> list[Any]:
            ref = make.options(scheduling=NodeAffinity(there)).remote(SIZE, 3)
            await actorfw.wait([ref])
            return [ref]

    maker = actorfw.remote(Maker).options(scheduling=on(cluster.nodes[1])).remote()
    [ref] = await maker.make.remote(cluster.nodes[2].id)
    await actorfw.stop(maker)
    del maker
    await cluster.settle(1)
    assert kept(cluster).keys() == {"n2"}
    report = await cluster.drain(1)
    assert report.complete, report
    await cluster.settle(2)
    assert kept(cluster).keys() == {"n2"}
    assert await count.options(scheduling=on(cluster.nodes[3])).remote(ref) == SIZE
    assert (await ref)[:1] == b"\x03"


@simulate(4)
async def test_copies_of_what_only_the_leaver_held_end_with_it(cluster: SimCluster) -> None:
    held: list[Any] = []
    holder = Holder.options(name="holder", scheduling=on(cluster.nodes[0])).remote()
    await actorfw.info(holder)

    async def program() -> None:
        await (await actorfw.get_actor("holder")).keep.remote([actorfw.put(b"inherited")])
        held.append(actorfw.put(b"p" * SIZE))
        everywhere = [count.options(scheduling=on(node)).remote(held[0]) for node in cluster.nodes]
        assert await asyncio.gather(*everywhere) == [SIZE] * 4

    await cluster.run_on(1, program)
    assert kept(cluster).keys() == {"n0", "n2", "n3"}
    report = await cluster.drain(1)
    assert report.complete, report
    await cluster.settle(2)
    assert not kept(cluster)  # neither at the heir nor at the others
    held.clear()
    await actorfw.stop(holder)


@simulate(3)
async def test_a_reborn_node_gives_up_what_it_has_for_others(cluster: SimCluster) -> None:
    ref = make.options(scheduling=NodeAffinity(cluster.nodes[1].id, soft=True)).remote(SIZE, 4)
    await actorfw.wait([ref])
    cluster.nodes[1].runtime.rebirth.begin("the test says so")
    await cluster.settle(30)
    assert not kept(cluster)
    assert (await ref)[:1] == b"\x04", "its task has run again"


@simulate(3)
async def test_a_cut_link_only_delays(cluster: SimCluster) -> None:
    ref = make.options(scheduling=on(cluster.nodes[1])).remote(9_000_000)
    await actorfw.wait([ref])
    waiting = asyncio.ensure_future(ref.coro())
    for _ in range(3):
        await asyncio.sleep(0.003)
        cluster.cut(0, 1)
    assert len(await asyncio.wait_for(waiting, 30)) == 9_000_000


# -- waits that end ----------------------------------------------------------------------------------------------------


@simulate(2)
async def test_a_cancelled_wait_leaves_the_value(cluster: SimCluster) -> None:
    ref = make.options(scheduling=on(cluster.nodes[1])).remote(9_000_000)
    await actorfw.wait([ref])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ref, 0.002)
    assert not ref.done()
    assert len(await ref) == 9_000_000


def come(node: Any) -> int:
    """Bytes that have come of what is being pulled."""
    return sum(pull.size - pull.left for pull in node.pulls._open.values() if pull.opened)


async def until(done: Callable[[], bool], seconds: float = 5.0) -> None:
    loop = asyncio.get_running_loop()
    since = loop.time()
    while not done():
        assert loop.time() - since < seconds
        await asyncio.sleep(0.001)


def test_what_nobody_waits_for_any_more_is_not_sent(sent: Counter[bytes]) -> None:
    @simulate(3)
    async def program(cluster: SimCluster) -> None:
        size = 60_000_000
        ref = make.options(scheduling=on(cluster.nodes[1])).remote(size)
        await actorfw.wait([ref])
        mine = cluster.nodes[0].runtime
        sent.clear()
        first, second = (asyncio.ensure_future(ref.coro()) for _ in range(2))
        await until(lambda: sum(sent.values()) > size / 10)
        first.cancel()
        await until(lambda: sum(sent.values()) > size / 5)  # somebody else waits for it
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await asyncio.sleep(1)
        then = sum(sent.values())
        assert then < size / 2, "only what was on its way has come"
        again = asyncio.ensure_future(ref.coro())
        await until(lambda: sum(sent.values()) > then + size / 10)
        again.cancel()
        await asyncio.sleep(5)
        assert len(mine.pulls) == 1
        assert len(await ref) == size
        assert sum(sent.values()) < 1.1 * size, "what had come was kept for the next"
        assert not mine.pulls

    program()


@simulate(3)
async def test_what_has_come_for_nobody_goes_after_a_while(cluster: SimCluster) -> None:
    mine = cluster.nodes[0].runtime
    size = 60_000_000
    ref = make.options(scheduling=on(cluster.nodes[1])).remote(size)
    await actorfw.wait([ref])
    waiting = asyncio.ensure_future(ref.coro())
    await until(lambda: come(mine) > 0)
    waiting.cancel()
    await asyncio.sleep(pulls.KEPT + 1)
    assert not mine.pulls
    assert not mine.fetches.asked
    assert len(await ref) == size
    # Whoever lets go of it at once frees it at once.
    ref = make.options(scheduling=on(cluster.nodes[1])).remote(size)
    await actorfw.wait([ref])
    waiting = asyncio.ensure_future(ref.coro())
    await until(lambda: come(mine) > 0)
    waiting.cancel()
    del ref, waiting
    await cluster.settle()
    await asyncio.sleep(1)
    assert not mine.pulls
    assert not mine.objects._exported
    assert not kept(cluster)


@simulate(3)
async def test_a_borrower_that_stops_waiting_stops_the_pull(cluster: SimCluster) -> None:
    there = cluster.nodes[1].runtime

    @actorfw.remote
    class Reader(actorfw.Actor):
        async def read(self, box: list[Any], seconds: float) -> int:
            self.box = box
            return len(await asyncio.wait_for(box[0], seconds))

    size = 60_000_000
    box = [actorfw.put(b"x" * size)]
    for executor in ("loop", "process"):
        reader: Any = Reader.options(executor=executor, scheduling=on(cluster.nodes[1])).remote()
        with pytest.raises(TimeoutError):
            await reader.read.remote(box, 0.02)
        (pull,) = there.pulls._open.values()
        assert pull.paused is not None
        had = come(there)
        await asyncio.sleep(3)
        assert come(there) <= had + 2 * pulls.DEPTH * pulls.STRIPE < size
        assert await reader.read.remote(box, 60) == size
        del box[0]
        box.append(actorfw.put(b"x" * size))


def test_a_node_that_needs_a_value_gets_it_whoever_stops_waiting() -> None:
    @simulate(3)
    async def program(cluster: SimCluster) -> None:
        size = 60_000_000
        ref = make.options(scheduling=on(cluster.nodes[1])).remote(size)
        await actorfw.wait([ref])
        mine = cluster.nodes[0].runtime
        waiting = asyncio.ensure_future(ref.coro())
        await until(lambda: come(mine) > 0)
        draining = asyncio.ensure_future(cluster.drain(1))
        await asyncio.sleep(0.02)
        waiting.cancel()
        assert (await draining).complete
        assert ref.done() or len(await asyncio.wait_for(ref, 1)) == size

    program()


# -- more than there is room for ---------------------------------------------------------------------------------------


@actorfw.remote
def total(*values: bytes) -> int:
    return sum(map(len, values))


@pytest.mark.parametrize("disk", [True, False])
def test_many_large_arguments_are_pulled_as_there_is_room(disk: bool) -> None:
    # Fifty tasks, each with two values of two other nodes; all of them together are six times the store.
    async def main() -> None:
        size, store = 2_000_000, 32 << 20
        options: dict[str, Any] = {"disk": MemoryFiles} if disk else {}
        async with SimCluster(4, 3, config=CONFIG, store_memory=store, num_cpus=4, **options) as cluster:
            small = cluster.nodes[0].runtime

            async def program() -> None:
                sources = cluster.nodes[1:]
                made = [make.options(scheduling=on(sources[n % 3])).remote(size, n) for n in range(50)]
                await actorfw.wait(made, num_returns=50)
                here = on(cluster.nodes[0])
                most = 0
                calls = [total.options(scheduling=here).remote(made[n], made[(n + 7) % 50]) for n in range(50)]
                del made
                while calls:
                    ready, calls = await actorfw.wait(calls, timeout=0.001)
                    for call in ready:
                        assert await call == 2 * size
                    under_way = sum(pull.size for pull in small.pulls._open.values() if pull.opened)
                    most = max(most, under_way)
                    assert under_way <= small.store.limit / 2 + size
                    assert small.store.used <= store
                assert most > size

            await asyncio.wait_for(cluster.run_on(0, program), 300)
            await cluster.settle(GRACE + 3)
            nothing_left(cluster)
            assert not small.pulls.large
            assert not small.pulls.large.bytes
            assert not small.pulls.small.bytes

    run(main())


def test_a_rebuild_does_not_wait_behind_what_waits_for_it() -> None:
    # Whoever pulls the lost value has the only turn, and making it again takes an argument that has to be pulled.
    async def main() -> None:
        size = 10_000_000
        options = {"config": CONFIG, "store_memory": 24 << 20, "labels": {"runs": "it"}}
        async with SimCluster(2, 3, **options) as cluster:
            third = await cluster.add_node(labels={})

            async def program() -> None:
                argument = make.options(scheduling=on(third)).remote(size)
                busy = slow.options(num_cpus=1, scheduling=on(cluster.nodes[0])).remote()
                lost = longer.options(scheduling=actorfw.Labels({"runs": "it"})).remote(argument)
                await actorfw.wait([lost])
                await busy
                mine = cluster.nodes[0].runtime
                waiting = asyncio.ensure_future(lost.coro())
                await until(lambda: come(mine) > 0)
                cluster.crash(1)
                assert len(await asyncio.wait_for(waiting, 120)) == size + 1

            await asyncio.wait_for(cluster.run_on(0, program), 300)

    run(main())


@simulate(2)
async def test_a_cancelled_task_leaves_nothing_behind(cluster: SimCluster) -> None:
    refs = [make.options(scheduling=on(cluster.nodes[1])).remote() for _ in range(4)]
    for ref in refs:
        actorfw.cancel(ref)
    await asyncio.sleep(3)
    assert not kept(cluster)
    for ref in refs:
        with pytest.raises(errors.TaskCancelledError):
            await ref


@simulate(2, duration=lambda name: 0.5)
async def test_a_task_that_is_over_before_it_starts_holds_no_argument(cluster: SimCluster) -> None:
    ref = actorfw.put(b"x" * SIZE)
    there = on(cluster.nodes[1])
    tasks = [count.options(scheduling=there, timeout=0.3 + 0.1 * i, max_retries=0).remote(ref) for i in range(4)]
    tasks.append(count.options(scheduling=there).remote(ref))
    await asyncio.sleep(0.1)
    actorfw.cancel(tasks[-1])
    for task in tasks:
        with pytest.raises((errors.DeadlineExceededError, errors.TaskCancelledError)):
            await task


# -- placement ---------------------------------------------------------------------------------------------------------


@actorfw.remote
def where(value: bytes) -> str:
    return str(actorfw.context().node_id)


@simulate(4)
async def test_a_task_goes_to_its_bytes(cluster: SimCluster) -> None:
    ref = make.options(scheduling=on(cluster.nodes[2])).remote()
    assert await where.remote(ref) == cluster.nodes[2].id
    small = make.options(scheduling=on(cluster.nodes[2])).remote(100_000)
    assert await where.remote(small) == cluster.nodes[0].id, "that is not worth going for"
