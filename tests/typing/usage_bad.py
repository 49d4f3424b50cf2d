"""What mypy --strict and pyright strict must reject: an error on each line marked `# E`, and on no other.

Checked by `test_typing.py`, never run. `(limit)` marks what would work at run time and can't be typed.
"""

import asyncio
from collections.abc import Iterator

import actorfw


@actorfw.remote
def add(x: int, y: int) -> int:
    return x + y


@actorfw.remote
async def fetch(url: str) -> bytes:
    return url.encode()


@actorfw.remote
def four(a: int, b: str, c: float, d: bytes, e: bool = False) -> str:
    return f"{a}{b}{c}{d!r}{e}"


@actorfw.remote
def two() -> tuple[int, str]:
    return 1, "a"


@actorfw.remote
def numbers(n: int) -> Iterator[int]:
    yield from range(n)


@actorfw.remote(num_cpu=1)  # E: no such option
def misspelt() -> None: ...


@actorfw.remote(max_retries="3")  # E: an integer
def mistyped() -> None: ...


class Counter(actorfw.Actor):
    def __init__(self, start: int = 0, name: str = "") -> None: ...

    async def add(self, k: int = 1) -> int:
        return k

    @actorfw.method
    async def bump(self, k: int = 1) -> int:
        return k

    @actorfw.method
    async def slow(self, a: int, b: str, c: float, d: bytes) -> str:
        return f"{a}{b}{c}{d!r}"

    def value(self) -> int:
        return 1

    @actorfw.method
    def plain(self) -> int:
        return 1

    @actorfw.method
    def rows(self, n: int) -> Iterator[int]:
        yield n

    @actorfw.method(grupp="io")  # E: no such option
    async def misspelt(self) -> None: ...


@actorfw.remote
class Bare:
    def m(self) -> int:
        return 1


async def tasks() -> None:
    add.remote("a", 2)  # E
    add.remote(1)  # E
    add.remote(1, z=2)  # E
    add.remote(1, 2, 3)  # E
    add("a", 2)  # E
    x: str = await add.remote(1, 2)  # E
    numbers.remote("a")  # E
    async for v in numbers.remote(3):
        w: str = v  # E
        print(w)
    await numbers.remote(1)  # E: a stream is iterated over
    for r in add.remote(1, 2):  # E: a ref is awaited
        print(r)
    print(x)
    add.options(num_cpu=1)  # E: no such option
    add.options(executor="procss")  # E
    add.options(timeout="3")  # E
    add.options(scheduling="spred")  # E
    add.options(num_cpus=1).remote("a", 2)  # E
    add.options(num_returns=2)  # E: not a tuple
    numbers.options(num_returns=2)  # E: streams
    two.options(num_returns=2).remote(1)  # E
    add.options(detached=True)  # E: an actor's


async def refs() -> None:
    url, i = fetch.remote("u"), actorfw.put(1)
    add.remote(url, 2)  # E: ObjectRef[bytes] for an int
    add.remote(1, url)  # E
    four.remote(1, "a", url, b"")  # E
    four.remote(1, "a", 1.0, i)  # E
    four.remote(1, "a", 1.0, b"", actorfw.put(True))  # E: (limit) the fifth position needs arg()
    add.remote(1, y=i)  # E: (limit) so do keywords
    add.remote(x=1, y=actorfw.arg(url))  # E
    numbers.remote(url)  # E
    Counter.remote(url)  # E
    Counter.remote(1, i)  # E
    Counter.options(name="x").remote(url)  # E
    url.add_done_callback(lambda done: print(done.result() + 1))  # E: bytes
    await Counter.remote().add(i)  # E: (limit) an undecorated method takes values only
    await asyncio.create_task(i)  # E: takes coroutines
    async with asyncio.TaskGroup() as group:
        group.create_task(i)  # E


async def actors() -> None:
    Counter.remote("x")  # E
    Counter.remote(strt=1)  # E
    Counter.options(nam="x")  # E
    Counter.options(max_restarts="3")  # E
    Counter.options(restart_backoff="1")  # E
    Counter.options(max_retries=3)  # E: a task's
    Counter.options(name="x").remote("x")  # E
    c = Counter.remote(1)
    await c.add("x")  # E
    await c.nope()  # E
    await c.bump("x")  # E
    await c.bump.remote("x")  # E
    await c.bump.remote(fetch.remote("u"))  # E
    await c.bump.tell("x")  # E
    c.bump.options(timout=1)  # E
    c.bump.options(timeout=1).remote("x")  # E
    c.slow.remote(1, "a", 1.0, "d")  # E
    c.rows.remote("x")  # E
    await c.rows.remote(1)  # E: a stream
    await c.value()  # E: (limit) a `def` method needs @method and .remote()
    await c.plain()  # E: (limit) as this one has
    await c.add.remote(1)  # E: (limit) .remote of an undecorated method
    Bare.remote()  # E: (limit) a bare @remote class is untyped
    s: str = await c.bump()  # E
    h = await actorfw.get_actor("scores", Counter)
    await h.add("x")  # E
    ended = await actorfw.watch(h)
    await ended.actor.add("x")  # E
    n: int = ended.reason  # E
    await actorfw.watch(h, restarts=True)  # E: an iterator
    actorfw.watch(h, restart=True)  # E
    for event in actorfw.events():
        event.name  # E: not every event has one
    print(n)
    takes(Bare())  # E
    print(s)


def takes(c: actorfw.ActorHandle[Counter]) -> None: ...


async def verbs() -> None:
    ref = add.remote(1, 2)
    s: str = actorfw.get(ref)  # E
    actorfw.get(3)  # E
    actorfw.get(ref, timeout="3")  # E
    await actorfw.wait([1, 2])  # E
    await actorfw.wait([ref], num_return=1)  # E
    await actorfw.gather([1])  # E
    actorfw.as_completed([1])  # E
    actorfw.cancel(3)  # E
    actorfw.cancel(actorfw.nodes())  # E: a Reply is no call
    for row in await actorfw.nodes():
        print(row.nam, s)  # E
        if row.state == "upp":  # E
            break


async def life() -> None:
    await actorfw.init(num_cpu=1)  # E
    async with actorfw.init(num_cpus=1) as node:
        print(node.adress)  # E
    await actorfw.init(hosts="mine")  # E
    await actorfw.init(seeds=[1])  # E
    await actorfw.init(config=actorfw.Config(profile="moon"))  # E
    actorfw.Config(3)  # E
    actorfw.Node(num_cpu=1)  # E
    actorfw.LocalCluster(nodes="3")  # E
    actorfw.LocalCluster(nodes=3, label={"a": "b"})  # E
    actorfw.NodeAffinity(3)  # E
    actorfw.Labels({"zone": 1})  # E
    actorfw.run(3)  # E
