"""Names of actors: granted once, found from any node, and freed with their holder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

import actorfw

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[actorfw.LocalCluster]:
    async with actorfw.LocalCluster(nodes=2, num_cpus=1) as running:
        yield running


@actorfw.remote
class Store:
    def __init__(self, first: Any = None) -> None:
        self.values = [first]

    async def add(self, value: Any) -> list[Any]:
        self.values.append(value)
        return self.values


@actorfw.remote
async def from_elsewhere(name: str, value: Any) -> list[Any]:
    store = await actorfw.get_actor(name)
    return await store.add(value)  # type: ignore[no-any-return]


@actorfw.remote
def from_a_worker(name: str, value: Any) -> list[Any]:
    store = actorfw.get(actorfw.get_actor(name, Store))
    return actorfw.get(store.add(value))  # type: ignore[no-any-return]


async def add_for_ever(store: Any) -> None:
    while True:
        await store.add(2)


async def look_for_ever(name: str) -> None:
    while True:
        await actorfw.get_actor(name)


async def others() -> list[str]:
    return [row.id for row in await actorfw.nodes() if not row.here]


async def test_a_named_actor_is_found_from_every_node(cluster: actorfw.LocalCluster) -> None:
    made = Store.options(name="shared").remote(0)
    assert await (await actorfw.get_actor("shared")).add(1) == [0, 1]
    for at, node_id in enumerate(await others()):
        there = {"scheduling": actorfw.NodeAffinity(node_id)}
        await from_elsewhere.options(**there).remote("shared", ("loop", at))
        await from_a_worker.options(**there).remote("shared", ("worker", at))
    assert len(await made.add("last")) == 7
    await actorfw.stop(made)


async def test_a_name_is_a_handle(cluster: actorfw.LocalCluster) -> None:
    for i in range(20):  # names are kept on all nodes: those far away are granted later
        Store.options(name=f"kept {i}").remote(i)
    for i in range(20):
        found = await actorfw.get_actor(f"kept {i}")
        assert await found.add("x") == [i, "x"]
        await actorfw.stop(found)


async def test_handles_by_name_are_equal(cluster: actorfw.LocalCluster) -> None:
    made = Store.options(name="equal").remote()
    await made.add(1)
    found = await actorfw.get_actor("equal")
    assert found == made
    assert hash(found) == hash(made)
    await actorfw.stop(made)


async def test_a_taken_name_is_refused(cluster: actorfw.LocalCluster) -> None:
    first = Store.options(name="taken").remote(1)
    await first.add(0)
    second = Store.options(name="taken").remote(2)
    with pytest.raises(actorfw.ActorExistsError, match="'taken'") as caught:
        await second.add(0)
    assert isinstance(caught.value, ValueError)
    assert caught.value.ran is False
    assert (await first.add(1))[0] == 1
    await actorfw.stop(first)


async def test_a_name_is_free_when_its_actor_has_ended(cluster: actorfw.LocalCluster) -> None:
    for ending in ("stop", "kill"):
        first = Store.options(name="again").remote(ending)
        await first.add(1)
        if ending == "stop":
            await actorfw.stop(first)
        else:
            actorfw.kill(first)
        with pytest.raises(actorfw.ActorDiedError):
            await add_for_ever(first)
        second = Store.options(name="again").remote("new")
        assert (await second.add(1))[0] == "new"
        await actorfw.stop(second)


async def test_get_if_exists_is_one_step(cluster: actorfw.LocalCluster) -> None:
    made = [Store.options(name="one", get_if_exists=True).remote(i) for i in range(10)]
    answers = await asyncio.gather(*(store.add.remote("x") for store in made))
    assert max(map(len, answers)) == 11
    assert len({answer[0] for answer in answers}) == 1
    assert len(set(made)) == 1
    assert made[0] == made[1]
    assert (await actorfw.info(made[5])).name == "one"
    await actorfw.stop(made[3])
    with pytest.raises(actorfw.ActorDiedError):
        await made[0].add("y")


async def test_get_if_exists_from_many_nodes_at_once(cluster: actorfw.LocalCluster) -> None:
    @actorfw.remote
    async def race(number: int) -> Any:
        store = Store.options(name="raced", get_if_exists=True).remote(number)
        return await store.add("x"), store

    keeper = Store.options(name="raced", get_if_exists=True).remote("mine")
    nodes = [row.id for row in await actorfw.nodes()]
    refs = [race.options(scheduling=actorfw.NodeAffinity(nodes[i % 3])).remote(i) for i in range(12)]
    await keeper.add("x")
    results = await asyncio.gather(*refs)
    assert len({values[0] for values, _ in results}) == 1
    assert {store for _, store in results} == {keeper}
    await actorfw.stop(keeper)


async def test_kill_before_it_is_known_whose_name_it_is(cluster: actorfw.LocalCluster) -> None:
    first = Store.options(name="shortlived").remote()
    await first.add(1)
    actorfw.kill(Store.options(name="shortlived", get_if_exists=True).remote())
    with pytest.raises(actorfw.ActorDiedError) as caught:
        await add_for_ever(first)
    assert caught.value.reason == "killed"


async def test_an_unknown_name_lists_those_that_exist(cluster: actorfw.LocalCluster) -> None:
    a = Store.options(name="apple").remote()
    b = Store.options(name="berry").remote()
    await asyncio.gather(a.add.remote(1), b.add.remote(1))
    with pytest.raises(actorfw.ActorNotFoundError, match=r"'aple'.*'apple', 'berry'") as caught:
        await actorfw.get_actor("aple")
    assert isinstance(caught.value, LookupError)
    await actorfw.stop(a)
    await actorfw.stop(b)


async def test_namespaces_keep_names_apart(cluster: actorfw.LocalCluster) -> None:
    one = Store.options(name="same").remote(1)
    two = Store.options(name="same", namespace="other").remote(2)
    assert (await one.add(0))[0] == 1
    assert (await two.add(0))[0] == 2
    assert await actorfw.get_actor("same") == one
    assert await actorfw.get_actor("same", namespace="other") == two
    with pytest.raises(actorfw.ActorNotFoundError, match="'third'"):
        await actorfw.get_actor("same", namespace="third")
    assert (await actorfw.info(two)).namespace == "other"
    await actorfw.stop(one)
    await actorfw.stop(two)


async def test_a_name_given_elsewhere_ends_with_that_node(cluster: actorfw.LocalCluster) -> None:
    @actorfw.remote
    class Maker:
        async def make(self) -> None:
            Store.options(name="theirs").remote("from there")

    index = await cluster.add_node()
    rows = {row.id for row in await actorfw.nodes()}
    new = (rows - set(await others())) | {
        row.id for row in await actorfw.nodes() if row.address == cluster.addresses[-1]
    }
    node_id = next(row.id for row in await actorfw.nodes() if row.address == cluster.addresses[-1])
    assert node_id in new
    await Maker.options(scheduling=actorfw.NodeAffinity(node_id)).remote().make()
    found = await actorfw.get_actor("theirs")
    assert (await found.add(1))[0] == "from there"
    await cluster.kill(index if isinstance(index, int) else cluster.indices[-1])
    with pytest.raises(actorfw.ActorDiedError):
        await add_for_ever(found)
    with pytest.raises(actorfw.ActorNotFoundError):
        await look_for_ever("theirs")
