"""What a simulated node's own program does: operations drawn from the seed, each reported to the recorder."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import actorfw
from actorfw import errors
from tests.sim.oracles import ANY, recorder

__all__ = ["SHARED", "Program"]

SHARED = ("red", "green", "blue")
"""Names that all programs fight for."""


def here() -> str:
    try:
        return str(actorfw.context().node_id)
    except errors.ActorFwError:
        return "a node that closes"


# -- tasks -------------------------------------------------------------------------------------------------------------


@actorfw.remote
def double(key: str, x: int, *rest: Any) -> int:
    recorder().started(key, here())
    return 2 * x


@actorfw.remote
def sluggish(key: str, x: int) -> int:
    recorder().started(key, here())
    return 2 * x


@actorfw.remote(executor="process", num_cpus=1)
async def nested(key: str, x: int, n: int) -> int:
    run = recorder().started(key, here())
    refs = []
    for i in range(n):
        part = f"{key}/{run}.{i}"
        recorder().allowed[part] = 3
        refs.append(double.options(max_retries=2).remote(part, x))
    return sum([await ref for ref in refs])


@actorfw.remote
async def patient(key: str, x: int, seconds: float) -> int:
    recorder().started(key, here())
    await asyncio.sleep(seconds)
    return 2 * x


@actorfw.remote
async def passes(key: str, boxes: list[Any]) -> list[Any]:
    recorder().started(key, here())
    return [*boxes, actorfw.put(key)]


@actorfw.remote
async def on_device(key: str, x: int) -> int:
    recorder().started(key, here())
    gpus = actorfw.context().gpus
    for gpu in gpus:
        recorder().device(here(), gpu, key)
    try:
        await asyncio.sleep(0.02)
        return 2 * x
    finally:
        for gpu in gpus:
            recorder().device_free(here(), gpu)


@actorfw.remote
def numbers(key: str, n: int) -> Iterator[int]:
    recorder().started(key, here())
    yield from range(n)


@actorfw.remote
def grow(key: str, size: int, *rest: Any) -> str:
    recorder().started(key, here())
    return "g" * size


@actorfw.remote(num_returns=3)
def split(key: str, size: int) -> tuple[str, int, str]:
    recorder().started(key, here())
    return "l" * size, size, "r" * size


@actorfw.remote
def weigh(key: str, *values: Any) -> int:
    recorder().started(key, here())
    return sum(map(len, values))


@actorfw.remote
async def wrap(key: str, size: int) -> list[Any]:
    recorder().started(key, here())
    return ["w" * size, actorfw.put("i" * size)]


# -- actors ------------------------------------------------------------------------------------------------------------


class Shelf:
    """An actor that counts and keeps refs. `label` is what the recorder calls it; `name` its name, or ""."""

    def __init__(self, label: str, name: str = "") -> None:
        self.label = label
        self.name = name
        self.kept: list[Any] = []
        self.incarnation = recorder().incarnation(label, actorfw.context().fencing_token)
        self._holds()

    def _holds(self) -> None:
        if self.name:
            recorder().holds(self.name, str(actorfw.context().actor_id))

    def _begin(self, key: str, caller: str, number: int) -> None:
        recorder().started(key, here(), self.incarnation)
        recorder().in_order(caller, self.label, self.incarnation, number)
        self._holds()

    async def add(self, key: str, caller: str, number: int, x: int, *rest: str) -> int:
        self._begin(key, caller, number)
        return 2 * x

    async def slowly(self, key: str, caller: str, number: int, x: int) -> int:
        self._begin(key, caller, number)
        await asyncio.sleep(0.05)
        return 2 * x

    async def keep(self, key: str, caller: str, number: int, box: list[Any]) -> int:
        self._begin(key, caller, number)
        self.kept += box
        del self.kept[:-3]
        return len(box)

    async def give(self, key: str, caller: str, number: int) -> list[Any]:
        self._begin(key, caller, number)
        return list(self.kept)

    async def stream(self, key: str, caller: str, number: int, n: int) -> AsyncIterator[int]:
        self._begin(key, caller, number)
        for i in range(n):
            yield i

    async def grow(self, key: str, caller: str, number: int, size: int) -> str:
        self._begin(key, caller, number)
        return "a" * size

    async def leave(self, key: str, caller: str, number: int) -> None:
        self._begin(key, caller, number)
        actorfw.exit_actor()


@actorfw.remote
class LoopShelf(Shelf):
    pass


@actorfw.remote(executor="process")
class ProcessShelf(Shelf):
    pass


# -- the program of a node ---------------------------------------------------------------------------------------------


class Shown:
    """An actor as a program knows it: the recorder's name for it, its handle, and what its calls may suffer."""

    def __init__(self, label: str, handle: Any, retries: int = 0) -> None:
        self.label = label
        self.handle = handle
        self.retries = retries


class Program:
    """What one node does: operations drawn from the seed, most of them at the same time.

    Args:
        name: of the node in the network, which no other has or had.
        seed: of its choices.
        ids: of the nodes that it may ask for.
        names: of the nodes whose named actors it may ask for.
        operations: how many.
        pace: by what the pauses between them are stretched.
    """

    def __init__(
        self, name: str, seed: int, ids: list[str], names: list[str], operations: int = 14, pace: float = 1.0
    ) -> None:
        self.name = name
        self.ids = ids
        self.names = names
        self.operations = operations
        self.pace = pace
        self.random = random.Random(f"program/{seed}/{name}")
        self.count = 0
        self.last = ""
        self.calls: dict[str, int] = {}
        self.watched: list[asyncio.Task[None]] = []
        self.refs: list[Any] = []
        self.shelves: list[Shown] = []

    def key(self, what: str, allowed: int = 1, **more: Any) -> str:
        self.count += 1
        key = f"{self.name}:{self.count}:{what}"
        recorder().submitted(key, self.name, allowed, **more)
        self.last = key
        return key

    def watch(self, key: str, wanted: Any, awaitable: Any) -> None:
        async def until_it_ends() -> None:
            try:
                value = await awaitable
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                recorder().failed(key, error)
            except Exception as error:
                recorder().failed(key, error)
            else:
                recorder().ended(key, value, value if wanted is ANY else wanted)

        self.watched.append(asyncio.ensure_future(until_it_ends()))

    async def run(self) -> None:
        """Everything, to its end."""
        for _ in range(self.random.randint(1, 2)):
            self.make_shelf()
        known: list[Callable[[], Any]] = [
            self.task, self.task, self.retried, self.retried, self.retried, self.nest, self.wait_long, self.pass_on,
            self.put, self.call, self.call, self.call_slowly, self.call_behind, self.keep, self.give, self.consume,
            self.consume_method, self.cancelled, self.due, self.tell, self.device, self.named, self.send_shelf,
            self.flood, self.watch_one, self.watch_one, self.watch_other, self.short_lived, self.short_lived,
            self.shared_name, self.shared_name, self.group, self.accepted, self.look_around,
            self.grow, self.grow, self.grow_in_actor, self.split, self.broadcast, self.broadcast, self.wrap,
        ]  # fmt: skip
        for _ in range(self.operations):
            try:
                operation = self.random.choice(known)()
                if operation is not None:
                    await operation
            except errors.ActorFwError:
                recorder().pending.pop(self.last, None)  # what fails at once is no call
            await asyncio.sleep(self.random.choice((0.0, 0.001, 0.02, 0.2)) * self.pace)
        await asyncio.gather(*self.watched)
        self.refs.clear()
        self.shelves.clear()
        self.watched.clear()

    # Where something goes to: nowhere in particular, or to a node that may be gone.

    def place(self) -> dict[str, Any]:
        if self.random.random() < 0.5:
            return {}
        return {"scheduling": actorfw.NodeAffinity(self.random.choice(self.ids)), "schedule_timeout": 5.0}

    def argument(self, x: int) -> Any:
        return actorfw.put(x) if self.random.random() < 0.3 else x

    def lasting(self) -> dict[str, Any]:
        """Restarts, for half of all actors."""
        if self.random.random() < 0.5:
            return {}
        return {"max_restarts": self.random.choice((1, 2, -1)), "max_task_retries": self.random.choice((0, 1, 3))}

    def make_shelf(self) -> None:
        kind: Any = self.random.choice((LoopShelf, LoopShelf, ProcessShelf))
        label = f"{self.name}/{len(self.shelves)}"
        options = self.place() | self.lasting()
        name = ""
        if self.random.random() < 0.5:
            name = label
            options["name"] = name
            options["get_if_exists"] = True
            recorder().names.add(name)
        if self.random.random() < 0.2:
            options["max_pending_calls"] = self.random.choice((4, 40))
            options["overflow"] = self.random.choice(("wait", "error"))
        handle = kind.options(**options).remote(label, name)
        self.shelves.append(Shown(label, handle, options.get("max_task_retries", 0)))

    def shelf(self) -> Shown:
        return self.random.choice(self.shelves)

    def number(self, shelf: str) -> int:
        self.calls[shelf] = self.calls.get(shelf, 0) + 1
        return self.calls[shelf]

    def calling(self, shelf: Shown, what: str, method: Any, wanted: Any, *args: Any, **more: Any) -> Any:
        """One call of an actor that is awaited."""
        key = self.key(what, 1 + shelf.retries, **more)
        ref = method.remote(key, self.name, self.number(shelf.label), *args)
        recorder().called(shelf.handle, key, ref)
        self.watch(key, wanted, ref)
        return ref

    # The operations.

    def task(self) -> None:
        x = self.random.randrange(100)
        key = self.key("task", 4)
        size = self.random.choice((0, 10, 5_000, 30_000, 100_000))
        ref = double.options(**self.place()).remote(key, self.argument(x), "x" * size)
        self.watch(key, 2 * x, ref)
        if self.random.random() < 0.5:
            self.refs.append(ref)

    def retried(self) -> None:
        retries = self.random.randrange(3)
        x = self.random.randrange(100)
        key = self.key("retried", 1 + retries)
        self.watch(key, 2 * x, sluggish.options(max_retries=retries, **self.place()).remote(key, x))

    def nest(self) -> None:
        key = self.key("nested", 4)
        n = self.random.randint(1, 3)
        self.watch(key, 2 * 3 * n, nested.options(**self.place()).remote(key, 3, n))

    def wait_long(self) -> None:
        key = self.key("patient", 4)
        seconds = self.random.choice((0.1, 1.0))
        self.watch(key, 2 * 3, patient.options(**self.place()).remote(key, 3, seconds))

    async def pass_on(self) -> None:
        key = self.key("passes", 4)
        boxes = [self.random.choice(self.refs)] if self.refs else []
        self.watch(key, ANY, self._passed_on(passes.options(**self.place()).remote(key, boxes)))

    async def _passed_on(self, ref: Awaitable[list[Any]]) -> int:
        refs = await ref
        await refs[-1]  # its owner may be gone, nothing else
        self.refs += refs[-1:]
        return len(refs)

    def put(self) -> None:
        self.refs.append(actorfw.put("y" * self.random.choice((3, 3_000, 90_000))))
        del self.refs[:-4]

    # Large values: they stay where they are made, and others pull them.

    def size(self) -> int:
        return self.random.choice((70_000, 100_000, 250_000))

    async def grow(self) -> None:
        key = self.key("grow", 4)
        size = self.size()
        ref = grow.options(**self.place()).remote(key, size)
        chance = self.random.random()
        if chance < 0.3:
            await actorfw.wait([ref], timeout=self.random.choice((0.01, 1.0)))
        if chance < 0.5:
            weighed = self.key("weigh", 4)
            self.watch(weighed, size, weigh.options(**self.place()).remote(weighed, ref))
        if chance < 0.7:
            self.refs.append(ref)
        self.watch(key, None, self._grown(ref, size, chance))

    async def _grown(self, ref: Any, size: int, chance: float) -> None:
        if 0.2 < chance < 0.4:
            try:
                await asyncio.wait_for(ref.coro(), 0.002)
            except TimeoutError:
                pass
        value = await ref
        assert len(value) == size, (len(value), size)

    def grow_in_actor(self) -> None:
        shelf = self.shelf()
        size = self.size()
        ref = self.calling(shelf, "grow in", shelf.handle.grow, "a" * size, size)
        if self.random.random() < 0.5:
            self.refs.append(ref)

    def split(self) -> None:
        key = self.key("split", 4)
        size = self.size()
        left, middle, right = split.options(**self.place()).remote(key, size)
        self.watch(key, size, middle)
        self.refs.append(right)
        weighed = self.key("weigh", 4)
        self.watch(weighed, 2 * size, weigh.options(**self.place()).remote(weighed, left, right))

    def broadcast(self) -> None:
        size = self.size()
        if self.random.random() < 0.5:
            value: Any = actorfw.put("b" * size)
        else:
            made = self.key("grow", 4)
            value = grow.options(**self.place()).remote(made, size)
            recorder().pending.pop(made, None)
        for _ in range(self.random.randint(2, 6)):
            key = self.key("weigh", 4)
            self.watch(key, size, weigh.options(**self.place()).remote(key, value))

    def wrap(self) -> None:
        key = self.key("wrap", 4)
        size = self.size()
        ref = wrap.options(**self.place()).remote(key, size)
        self.watch(key, 2 * size, self._unwrapped(ref))

    async def _unwrapped(self, ref: Any) -> int:
        outer, inner = await ref
        del ref
        await asyncio.sleep(self.random.choice((0.0, 1.0)))
        return len(outer) + len(await inner)

    def call(self) -> None:
        shelf = self.shelf()
        x = self.random.randrange(100)
        self.calling(shelf, "add", shelf.handle.add, 2 * x, self.argument(x))

    def call_behind(self) -> None:
        """A call whose argument is not there yet, and one behind it."""
        shelf = self.shelf()
        first = self.key("argument", 4)
        argument = double.options(max_retries=3).remote(first, 4)
        self.watch(first, 8, argument)
        for given in (argument, 8):
            self.calling(shelf, "behind", shelf.handle.add, 16, given)

    def flood(self) -> None:
        """More than a link's window takes."""
        shelf = self.shelf()
        for _ in range(24):
            self.calling(shelf, "flood", shelf.handle.add, 4, 2, "z" * 30_000)

    def call_slowly(self) -> None:
        for _ in range(self.random.randint(2, 5)):
            shelf = self.shelf()
            self.calling(shelf, "slowly", shelf.handle.slowly, 2, 1)

    def keep(self) -> None:
        shelf = self.shelf()
        box = [self.random.choice(self.refs)] if self.refs else [actorfw.put(1)]
        self.calling(shelf, "keep", shelf.handle.keep, 1, box)

    def give(self) -> None:
        shelf = self.shelf()
        key = self.key("give", 1 + shelf.retries)
        self.watch(key, ANY, self._read(shelf.handle.give.remote(key, self.name, self.number(shelf.label))))

    async def _read(self, kept: Awaitable[list[Any]]) -> int:
        found = await kept
        for ref in found:
            try:
                await ref
            except errors.ActorFwError as error:
                # A result that is an error stays one; an object that is gone is what O7 is about.
                if isinstance(error, errors.ObjectLostError):
                    raise
        return len(found)

    def consume(self) -> None:
        key = self.key("numbers", 4)
        n = self.random.choice((0, 3, 70))
        taken = n if self.random.random() < 0.7 else min(n, 2)
        self.watch(key, list(range(taken)), _consumed(numbers.options(**self.place()).remote(key, n), n, taken))

    def consume_method(self) -> None:
        shelf = self.shelf()
        key = self.key("stream", 1 + shelf.retries)
        n = self.random.choice((1, 70))
        stream = shelf.handle.stream(key, self.name, self.number(shelf.label), n)
        self.watch(key, list(range(n)), _consumed(stream, n, n))

    async def cancelled(self) -> None:
        key = self.key("cancelled", 4)
        make: Any = self.random.choice((double, patient))
        rest = (3.0,) if make is patient else ()
        ref = make.options(**self.place()).remote(key, 1, *rest)
        self.watch(key, 2, ref)
        shelf = self.shelf()
        call = self.calling(shelf, "cancelled call", shelf.handle.slowly, 2, 1)
        await asyncio.sleep(self.random.choice((0.0, 0.003, 0.05)) * self.pace)
        actorfw.cancel(ref, force=self.random.random() < 0.2)
        actorfw.cancel(call)

    def due(self) -> None:
        key = self.key("due", 4)
        timeout = self.random.choice((0.005, 0.05, 0.5))
        self.watch(key, 2, patient.options(timeout=timeout, **self.place()).remote(key, 1, 0.1))
        shelf = self.shelf()
        self.calling(shelf, "due call", shelf.handle.slowly.options(timeout=timeout), 2, 1)

    def tell(self) -> None:
        shelf = self.shelf()
        self.count += 1
        key = f"{self.name}:{self.count}:told"
        recorder().allowed[key] = 1
        shelf.handle.add.tell(key, self.name, self.number(shelf.label), 1)

    def device(self) -> None:
        place = self.place()
        for _ in range(3):
            key = self.key("device", 4)
            self.watch(key, 6, on_device.options(num_gpus=1, **place).remote(key, 3))

    async def named(self) -> None:
        label = f"{self.random.choice(self.names)}/0"
        try:
            found: Any = await asyncio.wait_for(actorfw.get_actor(label), 20)
        except (errors.ActorFwError, TimeoutError):
            return
        shelf = Shown(label, found, 3)
        self.calling(shelf, "named", found.add, 2, 1)

    def send_shelf(self) -> None:
        shelf, other = self.shelf(), self.shelf()
        if other is not shelf:  # a shelf that holds itself, or two each other, live for ever
            self.calling(shelf, "keep shelf", shelf.handle.keep, 1, [actorfw.put((shelf.label, self.name))])
        else:
            self.calling(shelf, "add", shelf.handle.add, 2, 1)

    # Ends, and who hears of them.

    def watch_one(self) -> None:
        self._watch(self.shelf())

    async def watch_other(self) -> None:
        label = self.random.choice([*SHARED, *(f"{name}/0" for name in self.names)])
        try:
            found: Any = await asyncio.wait_for(actorfw.get_actor(label), 20)
        except (errors.ActorFwError, TimeoutError):
            return
        self._watch(Shown(label, found, 3))

    def _watch(self, shelf: Shown, *, alias: bool = False) -> None:
        seen = recorder().watching(self.name, shelf.handle, alias=alias)
        # Neither what waits nor what iterates may have the handle: it would keep the actor alive.
        if self.random.random() < 0.5:
            hears = self._hears(shelf.label, actorfw.watch(shelf.handle), seen)
        else:
            hears = self._hears_all(actorfw.watch(shelf.handle, restarts=True), seen)
        recorder().watchers.append(asyncio.ensure_future(hears))

    async def _hears(self, label: str, watch: Any, seen: Any) -> None:
        try:
            told = await watch
        except errors.ActorFwError as error:
            seen.failed(error)
            return
        seen.told(told)
        if told.reason != "fenced":
            key = self.key("after its end", 0)
            try:
                await told.actor.add(key, self.name, self.number(label), 1)
            except errors.ActorFwError as error:
                recorder().failed(key, error)
            else:
                recorder().violated("O4", f"{label} answered {self.name} after {told.reason}")

    async def _hears_all(self, reading: Any, seen: Any) -> None:
        try:
            async for told in reading:
                seen.told(told)
                del told  # it has the handle, and the next one may never come
        except errors.ActorFwError as error:
            seen.failed(error)

    async def short_lived(self) -> None:
        """An actor that is ended from here, while others may be ending it too."""
        kind: Any = self.random.choice((LoopShelf, LoopShelf, ProcessShelf))
        self.count += 1
        label = f"{self.name}/s{self.count}"
        options = self.place() | self.lasting()
        shelf = Shown(label, kind.options(**options).remote(label), options.get("max_task_retries", 0))
        self._watch(shelf)
        for _ in range(self.random.randint(1, 3)):
            self.calling(shelf, "short", shelf.handle.slowly, 2, 1, ends=True)
        await asyncio.sleep(self.random.choice((0.0, 0.01, 0.1)) * self.pace)
        for how in self.random.sample(("stop", "kill", "leave", "drop"), self.random.randint(1, 2)):
            if how == "stop":
                key = self.key("stop", 0, ends=True)
                self.watch(key, None, actorfw.stop(shelf.handle, timeout=self.random.choice((None, 0.01))))
            elif how == "kill":
                actorfw.kill(shelf.handle)
            elif how == "leave":
                self.calling(shelf, "leave", shelf.handle.leave, None, ends=True)

    async def shared_name(self) -> None:
        """An actor under a name that all fight for, detached or not; or the end of the one that has it."""
        name = self.random.choice(SHARED)
        recorder().names.add(name)
        if self.random.random() < 0.3:
            try:
                found: Any = await asyncio.wait_for(actorfw.get_actor(name), 20)
                if self.random.random() < 0.5:
                    await asyncio.wait_for(actorfw.stop(found), 20)
                else:
                    actorfw.kill(found)
            except (errors.ActorFwError, TimeoutError):
                pass
            return
        kind: Any = self.random.choice((LoopShelf, LoopShelf, ProcessShelf))
        options = self.place() | self.lasting() | {"name": name, "get_if_exists": self.random.random() < 0.8}
        options["detached"] = self.random.random() < 0.5
        shelf = Shown(name, kind.options(**options).remote(name, name), 3)
        self.calling(shelf, "shared", shelf.handle.add, 2, 1, ends=True)
        await asyncio.sleep(0.1 * self.pace)
        self.calling(shelf, "shared", shelf.handle.add, 2, 1, ends=True)
        if self.random.random() < 0.3:
            self._watch(shelf, alias=True)

    async def look_around(self) -> None:
        """Questions to the whole cluster; what they say is as true as it can be, and they end."""
        key = self.key("nodes", 0)
        self.watch(key, ANY, actorfw.nodes())
        key = self.key("free", 0)
        self.watch(key, ANY, actorfw.available_resources())

    # Resources, and room.

    async def group(self) -> None:
        bundles = self.random.choice(([{"CPU": 1}], [{"CPU": 1}, {"CPU": 1}], [{"GPU": 1}, {"CPU": 1}]))
        strategy = self.random.choice(("pack", "spread", "strict_spread"))
        try:
            group = await actorfw.placement_group(bundles, strategy, timeout=self.random.choice((0.05, 2.0)))
        except errors.UnschedulableError:
            return
        keys = []
        for _ in range(2):
            key = self.key("grouped", 4, ends=True)
            keys.append(patient.options(num_cpus=1, scheduling=group).remote(key, 3, 0.05))
            self.watch(key, 6, keys[-1])
        if self.random.random() < 0.5:
            await asyncio.wait(keys, timeout=10)
        await actorfw.remove_placement_group(group)

    async def accepted(self) -> None:
        """Calls of which each waits for the one before it to be taken in."""
        shelf = self.shelf()
        for _ in range(4):
            ref = self.calling(shelf, "accepted", shelf.handle.add, 2, 1, "a" * 5_000)
            key = self.key("acceptance", 0)
            self.watch(key, ANY, ref.accepted())
            if self.random.random() < 0.5:
                await asyncio.wait([ref], timeout=1)


async def _consumed(stream: Any, n: int, taken: int) -> list[int]:
    got = []
    async for item in stream:
        got.append(item)
        if len(got) == taken and taken < n:
            await stream.aclose()
            break
    return got
