"""All the ways in which a program shares an object: each a small program that holds it so, and lets go in the end.

`PATTERNS` by name. Each runs on the driver of a `SimCluster` of three nodes. While it runs, a node or worker may be
killed: a pattern that fails with an error of actorfw has let go of what it held, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster

__all__ = ["PATTERNS", "SIZE", "Pattern"]

SIZE = 100_000  # above what goes into shared memory, and above what travels in a small message

Pattern = Callable[[SimCluster], Awaitable[None]]
PATTERNS: dict[str, Pattern] = {}


def pattern(fn: Pattern) -> Pattern:
    PATTERNS[fn.__name__] = fn
    return fn


def data(fill: int = 7) -> bytearray:
    return bytearray([fill]) * SIZE


def on(cluster: SimCluster, index: int) -> actorfw.NodeAffinity:
    return actorfw.NodeAffinity(cluster.nodes[index].id, soft=True)  # it may be killed


@actorfw.remote
def length(value: Any) -> int:
    return len(value)


@actorfw.remote
def make(fill: int) -> bytearray:
    return data(fill)


@actorfw.remote
def make_two(fill: int) -> tuple[bytearray, bytearray]:
    return data(fill), data(fill + 1)


@actorfw.remote
def put_there(fill: int) -> list[actorfw.ObjectRef[bytearray]]:
    return [actorfw.put(data(fill))]


@actorfw.remote
def nested_there(depth: int) -> Any:
    inner = nested_there.remote(depth - 1) if depth else actorfw.put(data(depth))
    return [inner]


@actorfw.remote
def fails(value: Any) -> None:
    raise ValueError(len(value))


@actorfw.remote(executor="process", num_cpus=1)
async def length_inside(refs: list[Any]) -> int:
    return len(await refs[0])


@actorfw.remote
def items(count: int) -> Iterator[bytearray]:
    for number in range(count):
        yield data(number)


@actorfw.remote
async def ref_items(count: int) -> AsyncIterator[list[Any]]:
    for number in range(count):
        yield [actorfw.put(data(number))]


@actorfw.remote
class Keeper(actorfw.Actor):
    """Keeps what it is given; on a loop."""

    def __init__(self, first: Any = None) -> None:
        self.kept: list[Any] = [first]

    @actorfw.method
    async def keep(self, given: Any) -> int:
        self.kept.append(given)
        return len(self.kept)

    @actorfw.method
    async def read(self) -> int:
        return sum([len(await ref) for kept in self.kept if kept for ref in kept])

    @actorfw.method
    async def give(self) -> Any:
        return self.kept[-1]

    @actorfw.method
    async def pass_on(self, other: Any) -> int:
        return await other.keep(self.kept[-1])

    @actorfw.method
    async def make(self, fill: int) -> list[Any]:
        ref = actorfw.put(data(fill))
        self.kept.append([ref])
        return [ref]

    @actorfw.method
    async def value(self, fill: int) -> bytearray:
        return data(fill)

    @actorfw.method
    async def stuck(self, given: Any) -> None:
        await asyncio.Event().wait()

    @actorfw.method
    async def forget(self) -> None:
        self.kept.clear()

    @actorfw.method
    async def stream(self, count: int) -> AsyncIterator[bytearray]:
        for number in range(count):
            yield data(number)


@actorfw.remote(executor="process")
class WorkerKeeper(actorfw.Actor):
    """The same, in a worker process."""

    def __init__(self, first: Any = None) -> None:
        self.kept: list[Any] = [first]

    @actorfw.method
    def keep(self, given: Any) -> int:
        self.kept.append(given)
        return len(self.kept)

    @actorfw.method
    async def read(self) -> int:
        return sum([len(await ref) for kept in self.kept if kept for ref in kept])

    @actorfw.method
    def give(self) -> Any:
        return self.kept[-1]

    @actorfw.method
    def make(self, fill: int) -> list[Any]:
        ref = actorfw.put(data(fill))
        self.kept.append([ref])
        return [ref]

    @actorfw.method
    def value(self, fill: int) -> bytearray:
        return data(fill)


KEEPERS: list[Any] = [Keeper, WorkerKeeper]


@pattern
async def in_a_variable(cluster: SimCluster) -> None:
    ref = actorfw.put(data())
    assert len(await ref) == SIZE


@pattern
async def as_a_view(cluster: SimCluster) -> None:
    ref = actorfw.put(data())
    value = await ref
    del ref
    await asyncio.sleep(0.5)
    assert value[-1] == 7


@pattern
async def inside_another_object(cluster: SimCluster) -> None:
    outer = actorfw.put({"inner": actorfw.put(data())})
    found = await outer
    del outer
    assert len(await found["inner"]) == SIZE


@pattern
async def refs_in_refs_in_refs(cluster: SimCluster) -> None:
    ref: Any = actorfw.put(data())
    for _ in range(4):
        ref = actorfw.put([ref])
    keeper = Keeper.options(scheduling=on(cluster, 1)).remote()
    await keeper.keep([ref])
    (ref,) = await keeper.give()
    for _ in range(4):
        (ref,) = await ref
    assert len(await ref) == SIZE


@pattern
async def made_in_tasks_of_tasks(cluster: SimCluster) -> None:
    ref = nested_there.options(scheduling=on(cluster, 1)).remote(3)
    for _ in range(4):
        (ref,) = await ref
    assert len(await ref) == SIZE


@pattern
async def as_an_argument(cluster: SimCluster) -> None:
    ref = actorfw.put(data())
    lengths = [length.options(scheduling=on(cluster, index)).remote(ref) for index in range(3)]
    del ref
    assert await actorfw.gather(lengths) == [SIZE] * 3


@pattern
async def as_an_argument_that_was_never_put(cluster: SimCluster) -> None:
    lengths = [length.options(scheduling=on(cluster, index)).remote(data()) for index in range(3)]
    assert await actorfw.gather(lengths) == [SIZE] * 3


@pattern
async def in_a_container_as_an_argument(cluster: SimCluster) -> None:
    ref = actorfw.put(data())
    lengths = [length_inside.options(scheduling=on(cluster, index)).remote([ref]) for index in range(3)]
    del ref
    assert await actorfw.gather(lengths) == [SIZE] * 3


@pattern
async def in_arguments_of_what_fails(cluster: SimCluster) -> None:
    ref = actorfw.put(data())
    for index in range(3):
        with pytest.raises(ValueError, match=str(SIZE)):
            await fails.options(scheduling=on(cluster, index)).remote(ref)


@pattern
async def in_arguments_of_a_cancelled_call(cluster: SimCluster) -> None:
    keeper = Keeper.options(scheduling=on(cluster, 1)).remote()
    await keeper.keep(None)
    call = keeper.stuck.remote([actorfw.put(data())])
    await asyncio.sleep(0.1)
    actorfw.cancel(call)
    try:
        await call
    except actorfw.TaskCancelledError:
        pass


@pattern
async def in_the_state_of_actors(cluster: SimCluster) -> None:
    ref = actorfw.put(data())
    for kind in KEEPERS:
        for index in range(3):
            keeper = kind.options(scheduling=on(cluster, index)).remote()
            await keeper.keep([ref])
            assert await keeper.read() == SIZE
    del keeper, ref


@pattern
async def in_the_state_of_an_actor_that_forgets(cluster: SimCluster) -> None:
    keeper = Keeper.options(scheduling=on(cluster, 1)).remote()
    await keeper.keep([actorfw.put(data())])
    assert await keeper.read() == SIZE
    await keeper.forget()
    await cluster.settle(1.0)
    assert cluster.nodes[0].runtime.store.used == 0


@pattern
async def in_arguments_of_a_constructor(cluster: SimCluster) -> None:
    ref = actorfw.put(data())
    keepers = [kind.options(scheduling=on(cluster, 1)).remote([ref]) for kind in KEEPERS]
    del ref
    assert [await keeper.read() for keeper in keepers] == [SIZE] * len(keepers)


@pattern
async def in_the_state_of_an_actor_that_is_killed(cluster: SimCluster) -> None:
    for kind in KEEPERS:
        keeper = kind.options(scheduling=on(cluster, 1)).remote()
        await keeper.keep([actorfw.put(data())])
        actorfw.kill(keeper)


@pattern
async def in_a_closure(cluster: SimCluster) -> None:
    ref = actorfw.put(data())

    async def captured() -> int:
        return len(await ref)

    task = actorfw.remote(captured)
    for index in range(3):
        for executor in ("loop", "process"):
            assert await task.options(executor=executor, scheduling=on(cluster, index)).remote() == SIZE


@pattern
async def as_items_of_a_stream(cluster: SimCluster) -> None:
    for index in range(3):
        stream = items.options(scheduling=on(cluster, index)).remote(5)
        assert [value[0] async for value in stream] == [0, 1, 2, 3, 4]


@pattern
async def as_refs_of_items(cluster: SimCluster) -> None:
    refs = [ref async for ref in items.options(scheduling=on(cluster, 1)).remote(4).refs()]
    assert [len(value) for value in await actorfw.gather(refs)] == [SIZE] * 4


@pattern
async def inside_items_of_a_stream(cluster: SimCluster) -> None:
    stream = ref_items.options(scheduling=on(cluster, 2)).remote(4)
    assert [len(await ref) async for (ref,) in stream] == [SIZE] * 4


@pattern
async def in_a_stream_that_nobody_reads_on(cluster: SimCluster) -> None:
    keeper = Keeper.options(scheduling=on(cluster, 1)).remote()
    async for value in keeper.stream.remote(20):
        assert value[0] == 0
        break


@pattern
async def borrowed_of_a_borrower(cluster: SimCluster) -> None:
    first, second = (Keeper.options(scheduling=on(cluster, index)).remote() for index in (1, 2))
    await first.keep([actorfw.put(data())])
    await first.pass_on(second)
    del first
    await cluster.settle(0.5)
    assert await second.read() == SIZE


@pattern
async def returned_by_actors(cluster: SimCluster) -> None:
    for kind in KEEPERS:
        keeper = kind.options(scheduling=on(cluster, 1)).remote()
        (ref,) = await keeper.make(3)
        (same,) = await keeper.give()
        assert ref == same
        assert len(await ref) == SIZE


@pattern
async def results_of_tasks_elsewhere(cluster: SimCluster) -> None:
    refs = [make.options(scheduling=on(cluster, index)).remote(index) for index in range(3)]
    lengths = [length.options(scheduling=on(cluster, 2 - index)).remote(ref) for index, ref in enumerate(refs)]
    assert await actorfw.gather(lengths) == [SIZE] * 3
    assert [len(value) for value in await actorfw.gather(refs)] == [SIZE] * 3


@pattern
async def results_elsewhere_that_are_gathered_before_they_are_there(cluster: SimCluster) -> None:
    refs = [make.options(scheduling=on(cluster, index)).remote(index) for index in range(3)]
    assert [value[0] for value in await actorfw.gather(refs)] == [0, 1, 2]


@pattern
async def results_that_nobody_wants(cluster: SimCluster) -> None:
    for index in range(3):
        make.options(scheduling=on(cluster, index)).remote(index)
        for kind in KEEPERS:
            kind.options(scheduling=on(cluster, index)).remote().value.remote(1)


@pattern
async def results_of_actors_elsewhere(cluster: SimCluster) -> None:
    for kind in KEEPERS:
        refs = [kind.options(scheduling=on(cluster, index)).remote().value.remote(index) for index in range(3)]
        assert await actorfw.gather([length.remote(ref) for ref in refs]) == [SIZE] * 3


@pattern
async def several_results(cluster: SimCluster) -> None:
    first, second = make_two.options(num_returns=2, scheduling=on(cluster, 1)).remote(1)
    assert len(await first) == SIZE
    del first
    assert await length.options(scheduling=on(cluster, 2)).remote(second) == SIZE


@pattern
async def put_by_workers(cluster: SimCluster) -> None:
    for index in range(3):
        (ref,) = await put_there.options(scheduling=on(cluster, index)).remote(index)
        assert len(await ref) == SIZE


@pattern
async def read_by_many_at_once(cluster: SimCluster) -> None:
    ref = make.options(scheduling=on(cluster, 1)).remote(1)
    lengths = [length.options(scheduling=on(cluster, index % 3)).remote(ref) for index in range(9)]
    assert await actorfw.gather(lengths) == [SIZE] * 9


@pattern
async def handles_as_refs(cluster: SimCluster) -> None:
    inner = Keeper.options(scheduling=on(cluster, 2)).remote()
    await inner.keep([actorfw.put(data())])
    outer = Keeper.options(scheduling=on(cluster, 1)).remote()
    await outer.keep(inner)
    boxed = actorfw.put([inner, outer])
    del inner, outer
    await cluster.settle(0.5)
    inner, outer = await boxed
    assert await inner.read() == SIZE
    assert await (await outer.give()).read() == SIZE


@pattern
async def waited_for_by_all_verbs(cluster: SimCluster) -> None:
    refs = [make.options(scheduling=on(cluster, index)).remote(index) for index in range(3)]
    ready, _ = await actorfw.wait(refs, num_returns=3)
    assert ready == refs
    assert [len(await ref) async for ref in actorfw.as_completed(refs)] == [SIZE] * 3
