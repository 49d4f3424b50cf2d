"""Lost objects are made again by their tasks: how often, from what, and what is said of those that can't be."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from random import Random
from typing import Any

import pytest

import actorfw
from actorfw.runtime.node import Node
from actorfw.testing import SimCluster, run

SIZE = 200_000

runs: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _clean() -> None:
    runs.clear()


def noted(name: str) -> None:
    runs[name] += 1


@actorfw.remote
def make(name: str, size: int = SIZE) -> bytes:
    noted(name)
    return f"{name}{runs[name]}".encode().ljust(size, b".")


@actorfw.remote
def longer(name: str, before: bytes) -> bytes:
    noted(name)
    return before + name.encode()


@actorfw.remote
async def longer_inside(name: str, before: list[Any]) -> bytes:
    noted(name)
    value: bytes = await before[0]
    return value + name.encode()


@actorfw.remote(num_returns=2)
def pair(name: str) -> tuple[bytes, bytes]:
    noted(name)
    return (b"a%d" % runs[name]).ljust(SIZE), (b"b%d" % runs[name]).ljust(SIZE)


@actorfw.remote
def items(name: str, count: int = 6) -> Iterator[bytes]:
    noted(name)
    for index in range(count if runs[name] == 1 else count - 1):
        yield (b"%d of run %d" % (index, runs[name])).ljust(SIZE)


class Maker(actorfw.Actor):
    async def make(self) -> bytes:
        return b"x" * SIZE

    async def put(self) -> list[actorfw.ObjectRef[bytes]]:
        return [actorfw.put(b"y" * SIZE)]


async def ready(*refs: Any) -> None:
    await actorfw.wait(list(refs), num_returns=len(refs))


def on(cluster: SimCluster, index: int) -> Any:
    return actorfw.NodeAffinity(cluster.nodes[index].id, soft=True)


def driver(cluster: SimCluster) -> Node:
    node = cluster.driver.runtime
    assert isinstance(node, Node)
    return node


Test = Callable[[SimCluster], Awaitable[None]]


def simulated(nodes: int = 3, **options: Any) -> Callable[[Test], Callable[[], None]]:
    def decorate(test: Test) -> Callable[[], None]:
        def plain() -> None:
            async def main() -> None:
                async with SimCluster(nodes, seed=3, **options) as cluster:
                    await test(cluster)
                    lineage = driver(cluster).lineage
                    lineage.machine.validate()

            run(main())

        return plain

    return decorate


async def gone(cluster: SimCluster, index: int) -> None:
    cluster.crash(index)
    await cluster.settle(30.0)


def nothing_kept(cluster: SimCluster) -> bool:
    gc.collect()
    driver(cluster).objects.sweep()
    lineage = driver(cluster).lineage
    return not (len(lineage.machine) or lineage.machine.size or lineage._tasks or lineage._items or lineage._of_task)


# -- made again --------------------------------------------------------------------------------------------------------


@simulated()
async def test_a_lost_result_is_made_again(cluster: SimCluster) -> None:
    ref = make.options(scheduling=on(cluster, 1)).remote("one")
    await ready(ref)
    assert runs["one"] == 1
    await gone(cluster, 1)
    assert runs["one"] == 1  # nobody has asked
    assert (await ref)[:4] == b"one2"
    assert runs["one"] == 2
    assert driver(cluster).lineage.rebuilt == 1
    del ref
    await cluster.settle()
    assert nothing_kept(cluster)


@simulated()
async def test_asks_coalesce(cluster: SimCluster) -> None:
    ref = make.options(scheduling=on(cluster, 1)).remote("one")
    await ready(ref)
    await gone(cluster, 1)
    there = [longer.options(scheduling=on(cluster, 2)).remote(str(n), ref) for n in range(3)]
    found = await asyncio.gather(ref, ref, *there)
    assert {value[:4] for value in found} == {b"one2"}
    assert runs["one"] == 2


@simulated()
async def test_what_is_lost_among_the_arguments_is_made_first(cluster: SimCluster) -> None:
    first = make.options(scheduling=on(cluster, 1)).remote("first")
    second = longer.options(scheduling=on(cluster, 1)).remote("second", first)
    await ready(first, second)
    await gone(cluster, 1)
    assert (await second)[-6:] == b"second"
    assert (runs["first"], runs["second"]) == (2, 2)
    assert (await first)[:6] == b"first2"
    assert runs["first"] == 2


@pytest.mark.parametrize("task", [longer, longer_inside])
def test_what_was_freed_among_the_arguments_is_made_first(task: Any) -> None:
    @simulated()
    async def check(cluster: SimCluster) -> None:
        last: Any = make.options(scheduling=on(cluster, 1)).remote("0")
        for n in range(1, 6):
            given = last if task is longer else [last]
            last = task.options(scheduling=on(cluster, 1)).remote(str(n), given)
            del given
            await ready(last)
        await cluster.settle()
        exported = driver(cluster).objects._exported
        assert len(exported) == 1, "the values in between are not kept"
        await gone(cluster, 1)
        assert (await last).rstrip(b".")[-5:] == b"12345"
        assert runs == {str(n): 2 for n in range(6)}
        await cluster.settle()
        assert len(exported) == 1
        del last
        await cluster.settle()
        assert nothing_kept(cluster)

    check()


@simulated()
async def test_an_argument_that_is_there_is_not_made_again(cluster: SimCluster) -> None:
    first = make.options(scheduling=on(cluster, 2)).remote("first")
    second = longer.options(scheduling=on(cluster, 1)).remote("second", first)
    await ready(second)
    await gone(cluster, 1)
    await second
    assert runs == {"first": 1, "second": 2}


@simulated()
async def test_what_was_put_is_held_for_the_task_that_had_it_as_an_argument(cluster: SimCluster) -> None:
    ref = longer.options(scheduling=on(cluster, 1)).remote("one", actorfw.put(b"z" * SIZE))
    await ready(ref)
    await gone(cluster, 1)
    assert len(await ref) == SIZE + 3
    del ref
    await cluster.settle()
    assert nothing_kept(cluster)
    assert not driver(cluster).objects._exported


@simulated()
async def test_values_of_the_same_task_that_are_still_there_are_kept(cluster: SimCluster) -> None:
    a, b = pair.options(scheduling=on(cluster, 1)).remote("both")
    copy = longer.options(scheduling=on(cluster, 2)).remote("more", a)
    await ready(copy)  # node 2 has a copy of the first
    await gone(cluster, 1)
    assert (await b)[:2] == b"b2"
    assert (await a)[:2] == b"a1"
    assert runs["both"] == 2
    # What the second run made of the first was declined.
    assert sum(len(node.runtime.copies.by_id) for node in cluster.alive) <= 4


@simulated()
async def test_both_parts_come_of_one_run(cluster: SimCluster) -> None:
    a, b = pair.options(scheduling=on(cluster, 1)).remote("both")
    await ready(a, b)
    await gone(cluster, 1)
    assert [value[:2] for value in await asyncio.gather(a, b)] == [b"a2", b"b2"]
    assert runs["both"] == 2


@simulated()
async def test_a_worker_s_tasks_are_rebuilt_too(cluster: SimCluster) -> None:
    there = cluster.nodes[1].id

    @actorfw.remote(executor="process")
    async def outer() -> list[Any]:
        affinity = actorfw.NodeAffinity(there, soft=True)
        inner = make.options(scheduling=affinity).remote("inner")
        await ready(inner)
        return [inner]

    here = actorfw.NodeAffinity(cluster.driver.id)
    (inner,) = await outer.options(scheduling=here).remote()
    await gone(cluster, 1)
    assert (await inner)[:6] == b"inner2"


@simulated(4)
async def test_a_borrower_s_question_has_it_made_again(cluster: SimCluster) -> None:
    @actorfw.remote
    async def outer(where: str) -> list[Any]:
        inner = make.options(scheduling=actorfw.NodeAffinity(where, soft=True)).remote("inner")
        await ready(inner)
        return [inner]

    (inner,) = await outer.options(scheduling=on(cluster, 1)).remote(cluster.nodes[2].id)
    await gone(cluster, 2)
    assert (await inner)[:6] == b"inner2"


@actorfw.remote(executor="process", num_cpus=1)
async def slow_again() -> bytes:
    noted("one")
    await asyncio.sleep(1000.0 if runs["one"] == 2 else 0)
    return b"x" * SIZE


@simulated(2)
async def test_a_worker_that_dies_while_it_makes_it_again_costs_a_run(cluster: SimCluster) -> None:
    ref = slow_again.options(scheduling=on(cluster, 1), max_retries=2).remote()
    await ready(ref)
    await gone(cluster, 1)
    waiting = asyncio.ensure_future(ref.coro())
    while runs["one"] < 2:
        await asyncio.sleep(0.1)
    assert cluster.kill_worker(0)
    assert len(await waiting) == SIZE
    assert runs["one"] == 3
    assert driver(cluster).lineage.rebuilt == 1


@simulated(2, num_cpus=1)
async def test_a_task_does_not_keep_the_cpu_that_its_lost_argument_is_made_with(cluster: SimCluster) -> None:
    first = make.options(scheduling=on(cluster, 1)).remote("first")
    await ready(first)
    await gone(cluster, 1)
    assert len(await asyncio.wait_for(longer.remote("second", first).coro(), 100.0)) == SIZE + 6


@simulated(3)
async def test_what_was_elsewhere_when_its_owner_was_reborn_is_made_again(cluster: SimCluster) -> None:
    async with cluster.on(2) as there:
        node = there.runtime
        first = make.options(scheduling=on(cluster, 1)).remote("first")
        second = longer.options(scheduling=on(cluster, 1)).remote("second", first)
        await ready(second)
        del first
        await cluster.settle()
        life = node.life
        others = [cluster.nodes[0].runtime, cluster.nodes[1].runtime]
        cluster.partition({2})
        while any(life in one.members.facts for one in others):
            await asyncio.sleep(1.0)
        cluster.heal()
        while node.life == life or len(node.members.facts) < 3:
            await asyncio.sleep(1.0)
        assert (await second)[-6:] == b"second"
        assert runs == {"first": 2, "second": 2}
        node.lineage.machine.validate()


@simulated(3)
async def test_what_its_owner_waits_for_when_it_is_reborn_is_made_again(cluster: SimCluster) -> None:
    """In the new life, and not while the node has no name yet under which it could choose a place for that."""
    async with cluster.on(2) as there:
        node = there.runtime
        made = make.options(scheduling=on(cluster, 1)).remote("made")
        await ready(made)
        await cluster.settle()
        life = node.life
        cluster.stall(1, 2)
        waiting = asyncio.ensure_future(made.coro())
        await asyncio.sleep(0.01)
        assert node.fetches.asked
        for index in (0, 1):
            cluster.nodes[index].runtime.peers.bury(life, "somebody said so")
        while node.life == life:
            await asyncio.sleep(0.01)
        assert not waiting.done()
        cluster.heal()
        assert (await asyncio.wait_for(waiting, 60.0))[:5] == b"made2"
        assert runs == {"made": 2}


# -- items -------------------------------------------------------------------------------------------------------------


@simulated()
async def test_one_run_makes_all_lost_items_that_are_held_and_sends_no_others(cluster: SimCluster) -> None:
    stream = items.options(scheduling=on(cluster, 1)).remote("gen")
    refs = [ref async for ref in stream.refs()]
    assert len(refs) == 6
    there = longer.options(scheduling=on(cluster, 2)).remote("x", refs[4])
    await ready(there)  # that one is at node 2 as well
    del refs[5], refs[:2]
    await gone(cluster, 1)
    assert [(await ref)[:10] for ref in refs] == [b"2 of run 2", b"3 of run 2", b"4 of run 1"]
    assert runs["gen"] == 2
    del there
    await cluster.settle()
    assert sum(len(node.runtime.copies.by_id) for node in cluster.alive if node is not cluster.driver) <= 3
    refs.clear()
    await cluster.settle()
    assert nothing_kept(cluster)


@simulated()
async def test_a_run_that_ends_before_the_item_loses_it(cluster: SimCluster) -> None:
    stream = items.options(scheduling=on(cluster, 1)).remote("gen")
    refs = [ref async for ref in stream.refs()]
    await gone(cluster, 1)
    with pytest.raises(actorfw.ObjectLostError, match=r"test_rebuilding.py:\d+ in .*ended before this item"):
        await refs[5]
    assert (await refs[4])[:10] == b"4 of run 2"
    assert runs["gen"] == 2


@simulated()
async def test_a_stream_goes_on_after_its_node_died_and_what_waited_there_comes_again(cluster: SimCluster) -> None:
    @actorfw.remote
    async def slowly(count: int) -> AsyncIterator[bytes]:
        for index in range(count):
            yield (b"%d" % index).ljust(SIZE)
            await asyncio.sleep(1.0)

    stream = slowly.options(scheduling=on(cluster, 1)).remote(12)
    taken = [(await anext(stream)).strip() for _ in range(3)]
    held = stream.refs()
    ref = await anext(held)
    await asyncio.sleep(4.5)  # some have come, and stay where they were made
    await gone(cluster, 1)
    taken += [(await item).strip() async for item in held]
    assert taken == [b"%d" % index for index in (0, 1, 2, *range(4, 12))]
    assert (await ref).strip() == b"3"


@simulated()
async def test_items_that_are_not_consumed_are_freed(cluster: SimCluster) -> None:
    stream = items.options(scheduling=on(cluster, 1)).remote("gen")
    first = await anext(stream.refs())
    await cluster.settle()
    copies = cluster.nodes[1].runtime.copies
    assert len(copies.by_id) == 6
    await stream.aclose()
    await cluster.settle()
    assert len(copies.by_id) == 1
    assert (await first)[:10] == b"0 of run 1"
    del first
    await cluster.settle()
    assert not copies.by_id
    del stream
    await cluster.settle()
    assert nothing_kept(cluster)


@simulated()
async def test_items_survive_their_stream_as_refs(cluster: SimCluster) -> None:
    refs = [ref async for ref in items.options(scheduling=on(cluster, 1)).remote("gen").refs()]
    await cluster.settle(10.0)
    found = await asyncio.gather(*(longer.options(scheduling=on(cluster, 2)).remote("x", ref) for ref in refs))
    assert [value[:1] for value in found] == [b"%d" % index for index in range(6)]
    assert runs["gen"] == 1


# -- not made again ----------------------------------------------------------------------------------------------------


async def why_lost(ref: Any) -> str:
    with pytest.raises(actorfw.ObjectLostError) as lost:
        await ref
    text = str(lost.value)
    assert "test_rebuilding.py:" in text, text  # the line that made it
    return text


@simulated()
async def test_a_task_that_runs_at_most_once_is_not_run_again(cluster: SimCluster) -> None:
    ref = make.options(scheduling=on(cluster, 1), max_retries=0).remote("one")
    await ready(ref)
    await gone(cluster, 1)
    assert "max_retries=0" in await why_lost(ref)
    assert runs["one"] == 1


@simulated(1)
async def test_runs_are_counted_over_all_losses(cluster: SimCluster) -> None:
    for _ in range(3):
        await cluster.add_node(labels={"kind": "work"})
    ref = make.options(scheduling=actorfw.Labels({"kind": "work"}), max_retries=1).remote("one")
    await ready(ref)
    for expected in (2, None):
        (there,) = [node for node in cluster.alive if node.runtime.copies.by_id]
        await gone(cluster, there.index)
        if expected:
            again = longer.options(scheduling=actorfw.Labels({"kind": "work"})).remote("x", ref)
            await ready(again)  # it asks for the value, beside which it runs
            assert runs["one"] == expected
            del again
            await cluster.settle()
    assert "as often as its max_retries allow" in await why_lost(ref)
    assert runs["one"] == 2


@simulated()
async def test_the_result_of_a_method_is_not_made_again(cluster: SimCluster) -> None:
    maker = Maker.options(scheduling=on(cluster, 1)).remote()
    ref = maker.make.remote()  # type: ignore[attr-defined]
    await ready(ref)
    await gone(cluster, 1)
    assert "a method of an actor made it" in await why_lost(ref)


@simulated(config=actorfw.Config(max_lineage=3 * 1024))
async def test_past_the_bound_the_oldest_is_forgotten(cluster: SimCluster) -> None:
    refs: list[Any] = []
    for n in range(5):
        refs.append(make.options(scheduling=on(cluster, 1)).remote(str(n)))
        await ready(refs[-1])
    await gone(cluster, 1)
    assert "Config.max_lineage" in await why_lost(refs[0])
    assert (await refs[4])[:2] == b"42"


@simulated(config=actorfw.Config(max_lineage=100_000))
async def test_arguments_larger_than_the_bound_are_not_kept(cluster: SimCluster) -> None:
    ref = longer.options(scheduling=on(cluster, 1)).remote("one", b"z" * SIZE)
    await ready(ref)
    await gone(cluster, 1)
    assert "more than Config.max_lineage, 100,000 bytes" in await why_lost(ref)


@simulated()
async def test_an_argument_that_can_not_be_had_is_named(cluster: SimCluster) -> None:
    first = make.options(scheduling=on(cluster, 1), max_retries=0).remote("first")
    second = longer.options(scheduling=on(cluster, 1)).remote("second", first)
    await ready(second)
    await gone(cluster, 1)
    text = await why_lost(second)
    assert "max_retries=0" in text
    assert first.id in text
    assert runs == {"first": 1, "second": 1}


@simulated()
async def test_an_argument_that_another_node_owned_and_freed_is_named(cluster: SimCluster) -> None:
    maker = Maker.options(scheduling=on(cluster, 2)).remote()
    (theirs,) = await maker.put()
    id = theirs.id
    ref = longer.options(scheduling=on(cluster, 1)).remote("one", theirs)
    await ready(ref)
    del theirs
    await cluster.settle(20.0)
    await gone(cluster, 1)
    text = await why_lost(ref)
    assert id in text
    assert "freed" in text


@actorfw.remote
def once() -> bytes:
    noted("once")
    if runs["once"] > 1:
        raise ValueError("only once")
    return b"x" * SIZE


@simulated()
async def test_a_task_that_fails_when_it_runs_again(cluster: SimCluster) -> None:
    ref = once.options(scheduling=on(cluster, 1)).remote()
    await ready(ref)
    await gone(cluster, 1)
    with pytest.raises(actorfw.ObjectLostError, match="run again, failed: only once") as lost:
        await ref
    assert isinstance(lost.value.__cause__, ValueError)


@simulated()
async def test_a_task_that_is_bound_to_a_node_that_is_gone_does_not_run_again(cluster: SimCluster) -> None:
    bound = actorfw.NodeAffinity(cluster.nodes[1].id)
    ref = make.options(scheduling=bound).remote("one")
    await ready(ref)
    await gone(cluster, 1)
    with pytest.raises(actorfw.ObjectLostError, match="is dead or has left") as lost:
        await ref
    assert isinstance(lost.value.__cause__, actorfw.UnschedulableError)
    del lost
    assert runs["one"] == 1


@simulated()
async def test_a_kept_task_does_not_keep_an_actor(cluster: SimCluster) -> None:
    @actorfw.remote
    async def ask(maker: Maker) -> bytes:
        return await maker.make()

    maker = Maker.options(scheduling=on(cluster, 2)).remote()
    ref = ask.options(scheduling=on(cluster, 1)).remote(maker)
    await ready(ref)
    del maker
    gc.collect()
    await cluster.settle(5.0)
    assert not cluster.nodes[2].runtime.hosting.cells
    assert len(await ref) == SIZE


@simulated()
async def test_small_results_are_not_remembered(cluster: SimCluster) -> None:
    refs = [make.options(scheduling=on(cluster, n % 3)).remote(str(n), 100) for n in range(30)]
    await asyncio.gather(*refs)
    assert nothing_kept(cluster)


@simulated()
async def test_a_cancelled_wait_does_not_end_the_making(cluster: SimCluster) -> None:
    ref = make.options(scheduling=on(cluster, 1)).remote("one")
    await ready(ref)
    await gone(cluster, 1)
    waiting = asyncio.ensure_future(ref.coro())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    assert (await ref)[:4] == b"one2"


# -- by chance ---------------------------------------------------------------------------------------------------------


@actorfw.remote(max_retries=4, retry_delay=0.1)
async def join(name: str, pause: float, some: list[Any], *more: bytes) -> bytes:
    noted(name)
    await asyncio.sleep(pause)
    parts = [*[await ref for ref in some], *more]
    return name.encode() + b"(" + b",".join(part.rstrip(b".") for part in parts) + b")" + b"." * 70_000


@pytest.mark.parametrize("seed", range(12))
def test_whatever_dies_what_is_held_can_be_had(seed: int) -> None:
    """Tasks that need each other, refs that are dropped, and nodes that die and come: each value is as it should be."""
    chance = Random(seed)

    async def main() -> None:
        async with SimCluster(4, seed=seed) as cluster:
            expected: dict[str, bytes] = {}
            held: dict[str, Any] = {}
            crashes = 0
            for step in range(30):
                name = f"t{step}"
                given = chance.sample(sorted(held), min(len(held), chance.randrange(4)))
                inside = [one for one in given if chance.random() < 0.4]
                direct = [one for one in given if one not in inside]
                where = on(cluster, chance.choice([node.index for node in cluster.alive]))
                expected[name] = f"{name}(".encode() + b",".join(expected[one] for one in (*inside, *direct)) + b")"
                held[name] = join.options(scheduling=where).remote(
                    name, chance.choice([0, 0.01, 1.0]), [held[one] for one in inside], *[held[one] for one in direct]
                )
                if chance.random() < 0.5:
                    await cluster.settle(chance.choice([0.1, 3.0]))
                if chance.random() < 0.4 and len(held) > 2:
                    del held[chance.choice(sorted(held))]
                if chance.random() < 0.15 and crashes < 3:
                    crashes += 1
                    others = [node for node in cluster.alive if node is not cluster.driver]
                    cluster.crash(chance.choice(others).index, silent=chance.random() < 0.5)
                    await cluster.add_node()
                if chance.random() < 0.2 and held:
                    one = chance.choice(sorted(held))
                    assert (await held[one]).rstrip(b".") == expected[one]
                driver(cluster).lineage.machine.validate()
            for name, ref in held.items():
                assert (await ref).rstrip(b".") == expected[name], name
            assert max(runs.values()) <= 5
            held.clear()
            del ref
            await cluster.settle(30.0)
            assert nothing_kept(cluster)
            assert not driver(cluster).objects._exported
            assert sum(node.runtime.copies.bytes for node in cluster.alive) == 0

    run(main())
