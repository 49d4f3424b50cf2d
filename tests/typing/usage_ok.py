"""What mypy --strict and pyright strict must accept, and the types that they must see.

Checked by `test_typing.py`, never run.
"""

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal, assert_type

import actorfw
from actorfw import ActorHandle, CallContext, Node, NodeRow, ObjectRef, Reply, Stream


@actorfw.remote
def square(x: int) -> int:
    return x * x


@actorfw.remote
async def fetch(url: str, *, timeout: float = 1.0) -> bytes:
    return url.encode()[: int(timeout)]


@actorfw.remote(num_cpus=2, max_retries=5, retry_exceptions=[OSError], retry_delay=0.1, timeout=30)
def crunch(chunk: list[int], scale: float = 1.0) -> float:
    return sum(chunk) * scale


@actorfw.remote(
    num_gpus=1,
    memory=1e9,
    resources={"disk": 1},
    executor="thread",
    schedule_timeout=None,
    name="adding",
    scheduling=actorfw.Labels({"zone": ("a", "b")}),
)
def add(x: int, y: int) -> int:
    return x + y


@actorfw.remote
def four(a: int, b: str, c: float, d: bytes, e: bool = False) -> str:
    return f"{a}{b}{c}{d!r}{e}"


@actorfw.remote
def total(*xs: int) -> int:
    return sum(xs)


@actorfw.remote
def two() -> tuple[int, str]:
    return 1, "a"


@actorfw.remote
def three(n: int) -> tuple[int, str, bytes]:
    return n, "a", b""


@actorfw.remote
def halves(xs: list[int]) -> list[list[int]]:
    return [xs[::2], xs[1::2]]


@actorfw.remote(num_returns=2)
def pair(x: int) -> tuple[int, str]:
    return x, "a"


@actorfw.remote(num_returns=2)
async def async_pair(x: int) -> tuple[int, str]:
    return x, "a"


@actorfw.remote(num_returns=4)
def quarters(xs: list[int]) -> list[bytes]:
    return [bytes(xs)] * 4


@actorfw.remote
def numbers(n: int) -> Iterator[int]:
    yield from range(n)


@actorfw.remote(max_retries=0)
async def anumbers(n: int, step: int = 1) -> AsyncIterator[int]:
    for i in range(0, n, step):
        yield i


class Counter(actorfw.Actor):
    def __init__(self, start: int = 0, name: str = "") -> None:
        self.n = start
        self.name = name

    async def on_start(self) -> None: ...

    async def on_stop(self, reason: str) -> None: ...

    async def add(self, k: int = 1) -> int:
        self.n += k
        return self.n

    @actorfw.method
    async def bump(self, k: int = 1) -> int:
        self.n += k
        return self.n

    @actorfw.method
    def value(self) -> int:
        return self.n

    @actorfw.method(group="io", ordered=False, timeout=3)
    async def slow(self, a: int = 0, b: str = "", c: float = 0, d: bytes = b"") -> str:
        return f"{a}{b}{c}{d!r}"

    @actorfw.method(interleave=True)
    async def serve(self) -> None: ...

    async def lines(self) -> AsyncIterator[str]:
        yield "a"

    @actorfw.method
    def rows(self, n: int = 1) -> Iterator[int]:
        yield n

    @actorfw.method(group="io")
    async def arows(self) -> AsyncIterator[int]:
        yield 1

    @actorfw.method
    async def both(self) -> tuple[int, str]:
        return self.n, "a"

    @actorfw.method(num_returns=2)
    async def split(self, n: int) -> tuple[int, str]:
        return n, "a"


@actorfw.remote(
    name="scores",
    namespace="games",
    get_if_exists=True,
    max_concurrency=2,
    concurrency_groups={"io": 2},
    max_pending_calls=10,
    overflow="error",
    num_cpus=1,
    executor="process",
)
class Scores(Counter):
    async def top(self, n: int) -> list[int]:
        return [self.n] * n


@actorfw.remote
class Bare:
    def __init__(self, n: int) -> None:
        self.n = n


async def tasks() -> None:
    ref = square.remote(4)
    assert_type(ref, ObjectRef[int])
    assert_type(await ref, int)
    assert_type(ref.id, str)
    assert_type(ref.done(), bool)
    ref.add_done_callback(lambda done: print(done.id, done.result() + 1))
    assert_type(ref.future(), concurrent.futures.Future[int])
    assert_type(square(4), int)
    assert_type(await fetch("u"), bytes)
    assert_type(await fetch.remote("u", timeout=2), bytes)
    assert_type(await crunch.remote([1], scale=2), float)
    assert_type(list(numbers(3)), list[int])
    # options of a call
    assert_type(await square.options(executor="thread").remote(4), int)
    assert_type(await square.options(timeout=None, scheduling="spread").options(name="x").remote(4), int)
    assert_type(await square.options(scheduling=actorfw.NodeAffinity("0" * 16, soft=True)).remote(4), int)
    assert_type(await crunch.options(num_cpus=0.5, retry_exceptions=True).remote(chunk=[1]), float)
    assert_type(await square.options(num_returns=1).remote(4), int)


async def refs_as_arguments() -> None:
    i, s, f, b, flag = (
        actorfw.put(1),
        actorfw.put("a"),
        actorfw.put(1.0),
        actorfw.put(b""),
        actorfw.put(True),
    )
    assert_type(b, ObjectRef[bytes])
    assert_type(await add.remote(square.remote(2), square.remote(3)), int)
    assert_type(await add.remote(square.remote(2), 3), int)
    assert_type(await add.remote(2, square.remote(3)), int)
    assert_type(await square.options(num_cpus=2).remote(square.remote(3)), int)
    assert_type(await fetch.remote(s, timeout=3), bytes)
    assert_type(await crunch.remote(actorfw.put([1]), scale=2.0), float)
    assert_type(await four.remote(i, s, f, b), str)
    assert_type(await four.remote(1, "a", 1.0, b), str)
    assert_type(await four.remote(i, "a", f, b"", True), str)
    assert_type(await four.remote(i, s, f, b, actorfw.arg(flag)), str)
    # by keyword and beyond the fourth position: arg()
    assert_type(actorfw.arg(i), int)
    assert_type(await add.remote(x=1, y=actorfw.arg(square.remote(3))), int)
    refs = [square.remote(n) for n in range(4)]
    assert_type(await total.remote(1, 2, 3, 4, 5), int)
    assert_type(await total.remote(*map(actorfw.arg, refs)), int)
    # streams, parts, constructors, methods
    assert_type(numbers.remote(i), Stream[int])
    assert_type(anumbers.remote(i, i), Stream[int])
    n, _ = pair.remote(i)
    assert_type(n, ObjectRef[int])
    c = Counter.remote(i, s)
    assert_type(c, Counter)
    assert_type(Counter.options(name="x").remote(i, "a"), Counter)
    assert_type(await c.bump.remote(i), int)
    assert_type(await c.slow.remote(i, s, f, b), str)
    assert_type(await c.slow.options(timeout=1).remote(1, s), str)
    assert_type(c.rows.remote(i), Stream[int])
    await c.bump.tell(i)


async def parts() -> None:
    a, b = two.options(num_returns=2).remote()
    assert_type(a, ObjectRef[int])
    assert_type(b, ObjectRef[str])
    a, b, c = three.options(num_returns=3, num_cpus=0).remote(1)
    assert_type(c, ObjectRef[bytes])
    assert_type(halves.options(num_returns=2).remote([1]), tuple[ObjectRef[list[int]], ...])
    assert_type(pair.remote(1), tuple[ObjectRef[int], ObjectRef[str]])
    assert_type(async_pair.options(name="x").remote(1), tuple[ObjectRef[int], ObjectRef[str]])
    assert_type(quarters.remote([1]), tuple[ObjectRef[bytes], ...])
    assert_type(pair(1), tuple[int, str])
    counter = Counter.remote()
    assert_type(counter.both.options(num_returns=2).remote(), tuple[ObjectRef[int], ObjectRef[str]])
    assert_type(counter.split.remote(1), tuple[ObjectRef[int], ObjectRef[str]])
    assert_type(await Counter().split(1), tuple[int, str])


async def streams() -> None:
    stream = numbers.remote(10)
    assert_type(stream, Stream[int])
    async for v in stream:
        assert_type(v, int)
    async for w in anumbers.options(name="x").remote(10, step=2):
        assert_type(w, int)
    async for r in anumbers.remote(10).refs():
        assert_type(r, ObjectRef[int])
    await stream.aclose()
    c = Counter.remote()
    async for line in c.lines():
        assert_type(line, str)
    async for row in c.rows.remote():
        assert_type(row, int)
    async for row in c.arows.options(timeout=3).remote():
        assert_type(row, int)
    async for ref in c.rows.remote(3).refs():
        assert_type(ref, ObjectRef[int])


async def asyncio_takes_refs() -> None:
    ref = square.remote(4)
    refs = [square.remote(i) for i in range(4)]
    assert asyncio.isfuture(ref)
    assert_type(await asyncio.gather(square.remote(1), fetch.remote("u")), tuple[int, bytes])
    assert_type(await asyncio.gather(*refs), list[int])
    assert_type(await asyncio.gather(ref, Counter.remote().add(1)), tuple[int, int])
    done, pending = await asyncio.wait(refs, timeout=1, return_when=asyncio.FIRST_COMPLETED)
    assert_type(done, set[ObjectRef[int]])
    assert_type(pending, set[ObjectRef[int]])
    assert_type(await asyncio.wait_for(ref, 1), int)
    assert_type(await asyncio.shield(ref), int)
    async with asyncio.timeout(1):
        assert_type(await ref, int)
    for fut in asyncio.as_completed(refs):
        assert_type(await fut, int)
    assert_type(await asyncio.create_task(ref.coro()), int)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ref.coro())
        other = group.create_task(Counter.remote().add(1))
    assert_type(task.result(), int)
    assert_type(other.result(), int)
    # a Reply is as good as a ref here
    listing, resources = await asyncio.gather(actorfw.nodes(), actorfw.cluster_resources())
    assert_type(listing, list[NodeRow])
    assert_type(resources, dict[str, float])
    assert_type(await asyncio.wait_for(actorfw.nodes(), 1), list[NodeRow])


async def verbs() -> None:
    refs = [square.remote(i) for i in range(4)]
    ready, rest = await actorfw.wait(refs, num_returns=2, timeout=1)
    assert_type(ready, list[ObjectRef[int]])
    assert_type(rest, list[ObjectRef[int]])
    async for r in actorfw.as_completed(refs):
        assert_type(r, ObjectRef[int])
        assert_type(await r, int)
    assert_type(await actorfw.gather(refs), list[int])
    assert_type(await actorfw.gather(square.remote(i) for i in range(3)), list[int])
    actorfw.cancel(refs[0], force=True, recursive=False)
    actorfw.cancel(numbers.remote(3))
    assert refs[1].cancel()
    assert_type(len({refs[0], refs[1]}), int)
    try:
        await refs[0]
    except actorfw.TaskCancelledError as error:
        assert_type(error.ran, bool | None)
    except actorfw.ActorDiedError as error:
        assert_type(error.reason, str)
    except actorfw.errors.SerializationError as error:
        assert_type(error.path, str)


async def actors() -> None:
    c = Counter.remote(10)
    assert_type(c, Counter)
    assert_type(await c.add(5), int)
    assert_type(await c.bump(5), int)
    assert_type(await c.bump.remote(5), int)
    assert_type(c.bump.remote(5), ObjectRef[int])
    assert_type(await c.bump.options(timeout=1).remote(k=5), int)
    assert_type(await c.bump.options(timeout=None).options(num_returns=1)(5), int)
    assert_type(await c.value.remote(), int)
    assert_type(await c.slow.remote(), str)
    assert_type(c.bump.tell(1), Reply[None])
    await c.bump.tell(1)
    async with asyncio.TaskGroup() as tg:
        t = tg.create_task(c.add(1))
        u = tg.create_task(c.bump(1))
    assert_type(t.result(), int)
    assert_type(u.result(), int)
    assert_type(await c.bump.options(max_task_retries=2).remote(5), int)
    e = Counter.options(max_restarts=-1, restart_backoff=0.5, max_task_retries=1).remote()
    assert_type(await e.add(), int)
    d = Counter.options(name="x", get_if_exists=True, detached=True).options(num_cpus=1).remote(start=3)
    assert_type(await d.add(), int)
    s = Scores.remote(1)
    assert_type(s, Scores)
    assert_type(await s.add(1), int)
    assert_type(await s.top(1), list[int])
    h = await actorfw.get_actor("scores", Counter)
    assert_type(h, Counter)
    assert_type(await h.add(1), int)
    untyped = await actorfw.get_actor("scores", namespace="games")
    assert_type(untyped, Any)
    takes(c)
    assert len({c, d}) == 2
    local = Counter(3)
    assert_type(await local.bump(2), int)
    assert_type(local.n, int)
    assert_type(Bare(3).n, int)
    assert issubclass(Scores, Counter)
    assert_type((await actorfw.info(c)).state, Literal["starting", "up", "restarting", "ended"])
    assert_type(await actorfw.stop(c), None)
    await actorfw.stop(d, timeout=3)
    ended = await actorfw.watch(c)
    assert_type(ended, actorfw.Terminated[Counter])
    assert_type(ended.actor, Counter)
    assert_type(ended.reason, str)
    assert_type(actorfw.watch(c, restarts=False), Reply[actorfw.Terminated[Counter]])
    async for told in actorfw.watch(c, restarts=True):
        assert_type(told, actorfw.Restarted[Counter] | actorfw.Terminated[Counter])
        match told:
            case actorfw.Restarted(actor, incarnation):
                assert_type(incarnation, int)
                assert_type(await actor.add(1), int)
            case actorfw.Terminated(_, reason):
                assert_type(reason, str)
    assert_type(actorfw.get(actorfw.watch(c)).reason, str)
    await asyncio.wait_for(actorfw.watch(c), 1)
    async for event in actorfw.events():
        assert_type(event, actorfw.Event)
        if isinstance(event, actorfw.NodeEvent):
            assert_type(event.address, str)
        match event:
            case actorfw.ActorEnded(name=name, reason=why):
                assert_type((name, why), tuple[str, str])
            case _:
                pass
    for event in actorfw.events():
        assert_type(event.kind, str)
    actorfw.kill(s)


def takes(c: ActorHandle[Counter]) -> None:
    assert_type(c, Counter)


class Leaver(actorfw.Actor):
    async def leave(self) -> None:
        me: ActorHandle[Leaver] = actorfw.context().handle
        await me.other(self.key)
        actorfw.exit_actor()

    async def other(self, key: str) -> None: ...

    @property
    def key(self) -> str:
        return actorfw.context().key


async def cluster() -> None:
    for row in await actorfw.nodes():
        assert_type(row, NodeRow)
        assert_type(row.id, str)
        assert_type(row.name, str)
        assert_type(row.address, str)
        assert_type(row.state, Literal["joining", "up", "stalled", "suspect", "leaving"])
        assert_type(row.resources, dict[str, float])
        assert_type(row.labels, dict[str, str])
    assert_type(await actorfw.cluster_resources(), dict[str, float])
    assert_type(await actorfw.available_resources(), dict[str, float])
    here = actorfw.context()
    assert_type(here, CallContext)
    assert_type(here.node_id, str)
    assert_type(here.task_id, str)
    assert_type(here.actor_id, str)
    assert_type(here.attempt, int)
    assert_type(here.deadline, float | None)
    assert_type(here.gpus, tuple[int, ...])
    assert_type(here.fencing_token, int)


def script() -> None:
    with actorfw.init(num_cpus=1) as node:
        assert_type(node, Node)
        assert_type(node.address, str)
        assert_type(node.dashboard_url, str | None)
        assert_type(actorfw.get(square.remote(4)), int)
        assert_type(actorfw.get(square.remote(4), timeout=3), int)
        assert_type(actorfw.get([square.remote(4)]), list[int])
        assert_type(actorfw.get((square.remote(4), square.remote(5)), timeout=1), list[int])
        assert_type(actorfw.get(Counter.remote(1).add(2)), int)
        assert_type(actorfw.get(actorfw.nodes()), list[NodeRow])
        ready, _ = actorfw.get(actorfw.wait([square.remote(1)]))
        assert_type(ready, list[ObjectRef[int]])
        for v in numbers.remote(3):
            assert_type(v, int)
        for r in numbers.remote(3).refs():
            assert_type(r, ObjectRef[int])
        for r in actorfw.as_completed([square.remote(4)]):
            assert_type(r, ObjectRef[int])
    context = actorfw.init()
    assert_type(context.address, str)
    actorfw.shutdown()
    actorfw.init("10.0.0.5:7700", listen="0.0.0.0:7700", secret=("new" * 9, b"old" * 9), hosts="own", thread=True)
    actorfw.shutdown()
    with actorfw.LocalCluster(2, num_cpus=1) as started:
        assert_type(started.addresses, list[str])


async def life() -> str:
    async with actorfw.init() as node:
        assert_type(node, Node)
        assert_type(node.id, str)
        assert_type(node.name, str)
    node = await actorfw.init(
        seeds=["10.0.0.5:7700"],
        advertise="example.org:7700",
        name="a",
        labels={"zone": "eu"},
        num_cpus=2,
        num_gpus=1,
        memory=1e9,
        resources={"disk": 2},
        namespace="games",
        cluster="blue",
        log_to_driver=True,
        config=actorfw.Config(profile="wan", voters=("a", "b"), join_timeout=3),
    )
    await actorfw.shutdown()
    async with actorfw.Node(["10.0.0.5:7700"], name="second", num_cpus=0, labels={"a": "b"}) as second:
        assert_type(second, Node)
    async with actorfw.LocalCluster(nodes=3, num_cpus=1, namespace="games") as started:
        assert_type(started.node, Node)
        assert_type(started.addresses, list[str])
        assert_type(await started.add_node(labels={"disk": "fast"}), int)
        await started.kill(0)
        await started.stop(1)
    return node.name


assert_type(actorfw.run(life()), str)
