"""Actors as a program meets them: making, calling and sharing, on this node, on another, and in processes."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

import actorfw

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


class Place:
    """A node on which a test puts its actors."""

    def __init__(self, node_id: str, executor: str | None) -> None:
        self.options: dict[str, Any] = {"scheduling": actorfw.NodeAffinity(node_id)}
        if executor is not None:
            self.options["executor"] = executor

    def make(self, actor_class: Any, *args: Any, **options: Any) -> Any:
        return actor_class.options(**{**self.options, **options}).remote(*args)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[actorfw.LocalCluster]:
    async with actorfw.LocalCluster(nodes=2, num_cpus=2) as running:
        yield running


@pytest_asyncio.fixture(
    loop_scope="module", params=["here", "there", "thread here", "thread there", "process here", "process there"]
)
async def place(cluster: actorfw.LocalCluster, request: pytest.FixtureRequest) -> Place:
    executor, _, where = request.param.rpartition(" ")
    return Place(await node_id(where), executor or None)


async def node_id(where: str) -> str:
    rows = await actorfw.nodes()
    return next(row.id for row in rows if row.here == (where == "here"))


@actorfw.remote
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.n = start

    async def add(self, k: int = 1) -> int:
        self.n += k
        return self.n

    def value(self) -> int:
        return self.n

    async def echo(self, value: Any) -> Any:
        return value

    async def fail(self, text: str) -> None:
        raise KeyError(text)

    async def pair(self) -> tuple[int, str]:
        return 1, "two"

    async def keep(self, thing: Any) -> None:
        self.kept = thing

    async def kept_one(self) -> Any:
        return self.kept

    async def through(self, k: int) -> int:
        return await self.kept.add.remote(k)

    async def myself(self) -> Any:
        return actorfw.context().handle

    async def lines(self, count: int) -> AsyncIterator[int]:
        for i in range(count):
            self.n += 1
            yield i

    def plain_lines(self, count: int) -> Iterator[int]:
        for i in range(count):
            self.n += 1
            yield i

    async def several(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs


class Typed(actorfw.Actor):
    def __init__(self, start: int) -> None:
        self.start = start

    async def get(self) -> int:
        return self.start


# -- making and calling ------------------------------------------------------------------------------------------------


async def test_a_call_gives_the_result(place: Place) -> None:
    c = place.make(Counter, 10)
    assert await c.add(5) == 15
    assert await c.add.remote(5) == 20
    assert await c.value.remote() == 20
    assert await c.value() == 20


async def test_tells_arrive_in_order_with_calls(place: Place) -> None:
    c = place.make(Counter)
    for _ in range(10):
        assert await c.add.tell(2) is None
    assert await c.add(0) == 20


async def test_an_exception_is_the_callers_and_the_actor_lives_on(place: Place) -> None:
    c = place.make(Counter)
    await c.add(1)
    with pytest.raises(KeyError, match="no such") as caught:
        await c.fail("no such")
    assert not isinstance(caught.value, actorfw.ActorFwError)
    assert await c.add(1) == 2


async def test_a_failing_tell_ends_nothing(place: Place) -> None:
    c = place.make(Counter)
    await c.fail.tell("only in the log")
    assert await c.add(1) == 1


async def test_num_returns_splits_a_result(place: Place) -> None:
    c = place.make(Counter)
    one, two = c.pair.options(num_returns=2).remote()
    assert (await one, await two) == (1, "two")
    assert isinstance(one, actorfw.ObjectRef)


async def test_generator_methods_stream(place: Place) -> None:
    c = place.make(Counter)
    assert [i async for i in c.lines.remote(100)] == list(range(100))
    assert [i async for i in c.plain_lines.remote(100)] == list(range(100))
    assert await c.add(0) == 200


async def test_arguments_and_results_are_copies(place: Place) -> None:
    c = place.make(Counter)
    given = [1, [2]]
    sent = c.keep.remote(given)
    given.append(3)
    await sent
    back = await c.kept_one()
    assert back == [1, [2]]
    back.append(4)
    assert await c.kept_one() == [1, [2]]
    ref = c.kept_one.remote()
    assert await ref is not await ref


async def test_what_cannot_be_sent_names_the_path(place: Place) -> None:
    import threading

    c = place.make(Counter)
    with pytest.raises(actorfw.SerializationError, match=r"args\[0\]") as caught:
        c.echo({"a": threading.Lock()})
    assert caught.value.ran is False
    assert await c.add(1) == 1


async def test_refs_as_arguments_are_resolved_and_those_inside_stay(place: Place) -> None:
    c = place.make(Counter)
    ref = actorfw.put(7)
    args, kwargs = await c.several(ref, [ref], key=ref, other={"a": ref})
    assert args[0] == 7
    assert kwargs["key"] == 7
    assert isinstance(args[1][0], actorfw.ObjectRef)
    assert args[1][0] == ref
    assert await args[1][0] == 7
    assert await kwargs["other"]["a"] == 7


async def test_a_failed_argument_fails_the_call(place: Place) -> None:
    c = place.make(Counter)
    with pytest.raises(KeyError):
        await c.echo(c.fail.remote("first"))
    assert await c.add(1) == 1


async def test_constructor_takes_refs(place: Place) -> None:
    c = place.make(Counter, actorfw.put(40))
    assert await c.add(2) == 42


async def test_class_based_actor_is_the_same(place: Place) -> None:
    t = place.make(Typed, 3)
    assert await t.get() == 3
    assert Typed(4).start == 4


async def test_large_arguments_and_results(place: Place) -> None:
    c = place.make(Counter)
    big = {"data": b"x" * 3_000_000}
    assert await c.echo(big) == big
    await c.keep.tell(big)
    assert await c.kept_one() == big


# -- coroutines and refs -----------------------------------------------------------------------------------------------


async def test_a_call_is_a_coroutine_to_asyncio(cluster: actorfw.LocalCluster) -> None:
    c = Counter.remote()
    task = asyncio.create_task(c.add(1))
    assert await task == 1
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(c.add(1)) for _ in range(3)]
    assert sorted(t.result() for t in tasks) == [2, 3, 4]
    assert await asyncio.gather(c.add(1), c.add(1)) == [5, 6]
    assert await asyncio.wait_for(c.add(1), 10) == 7


async def test_a_call_is_sent_at_once_awaited_or_not(cluster: actorfw.LocalCluster) -> None:
    c = Counter.remote()
    c.add(5)
    assert await c.value() == 5


async def test_refs_of_calls_work_with_asyncio_and_pass_on(cluster: actorfw.LocalCluster) -> None:
    c = Counter.remote()
    first = c.add.remote(1)
    assert asyncio.isfuture(first)
    assert not isinstance(first, asyncio.Future)
    assert await c.add.remote(first) == 2
    done, _ = await asyncio.wait([c.add.remote(0) for _ in range(3)])
    assert {d.result() for d in done} == {2}
    with pytest.raises(TypeError):
        await asyncio.create_task(first)  # type: ignore[arg-type]
    assert await asyncio.create_task(first.coro()) == 1


# -- handles -----------------------------------------------------------------------------------------------------------


async def test_handles_travel_and_are_equal(place: Place) -> None:
    inner = Counter.remote(100)
    outer = place.make(Counter)
    await outer.keep(inner)
    assert await outer.through(1) == 101
    back = await outer.kept_one()
    assert back == inner
    assert hash(back) == hash(inner)
    assert await back.add(1) == 102
    assert await outer.myself() == outer
    assert outer != inner
    assert len({inner, back, outer}) == 2
    listed = await outer.echo({"list": [inner, outer]})
    assert listed == {"list": [inner, outer]}


async def test_a_handle_survives_plain_pickle(cluster: actorfw.LocalCluster) -> None:
    c = Counter.remote(1)
    again = pickle.loads(pickle.dumps(c))
    assert again == c
    assert await again.add(1) == 2


async def test_unknown_names_raise_at_once(cluster: actorfw.LocalCluster) -> None:
    c = Counter.remote()
    with pytest.raises(AttributeError, match=r"Counter has no method 'ad'.*add"):
        c.ad
    with pytest.raises(AttributeError):
        c.n
    with pytest.raises(AttributeError):
        c._hidden


async def test_a_handle_has_no_public_attributes_of_its_own(cluster: actorfw.LocalCluster) -> None:
    @actorfw.remote
    class Crowded:
        async def id(self) -> str:
            return "id"

        async def name(self) -> str:
            return "name"

        async def tell(self) -> str:
            return "tell"

        async def stop(self) -> str:
            return "stop"

    c = Crowded.remote()
    assert [name for name in dir(c) if not name.startswith("_")] == ["id", "name", "stop", "tell"]
    assert [await c.id(), await c.name(), await c.tell(), await c.stop()] == ["id", "name", "tell", "stop"]


@pytest.mark.parametrize("name", ["remote", "options", "at"])
async def test_names_of_ours_are_refused_when_decorated(name: str) -> None:
    with pytest.raises(actorfw.UsageError, match=name):
        actorfw.remote(type("Taken", (), {name: lambda self: None}))
    with pytest.raises(actorfw.UsageError, match=name):
        type("Taken", (actorfw.Actor,), {name: lambda self: None})


async def test_an_actor_class_stays_an_ordinary_class(cluster: actorfw.LocalCluster) -> None:
    class More(Counter):  # type: ignore[misc,valid-type]
        async def twice(self, k: int) -> int:
            await self.add(k)  # a plain call: it takes no turn
            return await self.add(k)

    assert await More(1).add() == 2
    c = More.remote(5)
    assert await c.twice(2) == 9
    assert (await actorfw.info(c)).class_name.endswith("More")


async def test_static_and_inherited_methods_are_callable(cluster: actorfw.LocalCluster) -> None:
    class Base:
        @staticmethod
        def double(x: int) -> int:
            return 2 * x

        @classmethod
        def title(cls) -> str:
            return cls.__name__

    @actorfw.remote
    class Child(Base):
        async def own(self) -> int:
            return 1

    c = Child.remote()
    assert [await c.double(4), await c.title(), await c.own()] == [8, "Child", 1]


# -- wrong use ---------------------------------------------------------------------------------------------------------


async def test_unknown_options_are_refused_with_a_list() -> None:
    with pytest.raises(actorfw.UsageError, match=r"'max_concurency'.*max_concurrency"):
        Counter.options(max_concurency=2)
    with pytest.raises(actorfw.UsageError, match=r"max_concurrency.*integer"):
        Counter.options(max_concurrency="2")
    with pytest.raises(actorfw.UsageError, match="executor"):
        Counter.options(executor="gpu")
    with pytest.raises(actorfw.UsageError, match="needs a name"):
        Counter.options(get_if_exists=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("durable", True),
    ],
)
async def test_options_of_later_say_so(name: str, value: Any) -> None:
    with pytest.raises(actorfw.UsageError, match=f"{name}.*not there yet"):
        Counter.options(**{name: value})


async def test_options_of_a_call_are_checked(cluster: actorfw.LocalCluster) -> None:
    c = Counter.remote()
    with pytest.raises(actorfw.UsageError, match="no option of a call"):
        c.add.options(name="x")
    with pytest.raises(actorfw.UsageError, match="timeout"):
        c.add.options(timeout="1")
    with pytest.raises(actorfw.UsageError, match="max_task_retries"):
        c.add.options(max_task_retries=-2)
    with pytest.raises(actorfw.UsageError, match="stream"):
        c.lines.options(num_returns=2)


async def test_options_of_a_method_are_checked() -> None:
    with pytest.raises(actorfw.UsageError, match="no option of a method"):
        actorfw.method(retries=1)  # type: ignore[call-overload]
    with pytest.raises(actorfw.UsageError, match="interleave"):
        actorfw.method(interleave="yes")  # type: ignore[call-overload]


async def test_wrong_arguments_fail_the_call_only(place: Place) -> None:
    c = place.make(Counter)
    with pytest.raises(TypeError):
        await c.add(1, 2, 3)
    assert await c.add(1) == 1


async def test_an_unsendable_result_fails_the_call_only(cluster: actorfw.LocalCluster) -> None:
    @actorfw.remote
    class Keeper:
        async def lock(self) -> Any:
            import threading

            return [threading.Lock()]

    c = Keeper.remote()
    with pytest.raises(actorfw.SerializationError) as caught:
        await c.lock()
    assert caught.value.ran is True


# -- info --------------------------------------------------------------------------------------------------------------


async def test_info_tells_id_name_node_and_state(place: Place, cluster: actorfw.LocalCluster) -> None:
    c = place.make(Counter, name="informed")
    await c.add()
    told = await actorfw.info(c)
    assert told.name == "informed"
    assert told.namespace == "default"
    assert told.state == "up"
    assert told.class_name == "Counter"
    assert told.node_id == place.options["scheduling"].node_id
    assert told.id
    await actorfw.stop(c)
    told = await actorfw.info(c)
    assert (told.state, told.reason) == ("ended", "stopped")
