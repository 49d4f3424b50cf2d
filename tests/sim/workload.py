"""A random program on each node of a simulated cluster, and random faults meanwhile: what the oracles look at."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import actorfw
from actorfw import errors
from actorfw.core.ledger import Shape
from actorfw.runtime import peer as peer_module
from actorfw.testing import SimCluster, run
from actorfw.values.config import Config
from tests.sim.oracles import Recorder, recorder

__all__ = ["run_seed", "seeds"]

WINDOW = 20_000  # bytes; a link's window in these runs, so that it is ever full
PATIENCE = 10.0
GRACE = 8.0
OPERATIONS = 14


def seeds(usual: int) -> range:
    """How many seeds to run: `ACTORFW_SIM_SEEDS` says, and `ACTORFW_SIM_SEED` names a single one."""
    one = os.environ.get("ACTORFW_SIM_SEED")
    return range(int(one), int(one) + 1) if one else range(int(os.environ.get("ACTORFW_SIM_SEEDS", usual)))


def here() -> str:
    return str(actorfw.context().node_id)


# -- what runs ---------------------------------------------------------------------------------------------------------


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
    recorder().started(key, here())
    refs = []
    for i in range(n):
        part = f"{key}.{i}"
        recorder().allowed[part] = 50  # its parent may run several times, and each time anew
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


class Shelf:
    """An actor that counts and keeps refs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kept: list[Any] = []

    def _begin(self, key: str, caller: str, number: int) -> None:
        context = actorfw.context()
        recorder().started(key, here())
        recorder().in_order(caller, self.name, str(context.actor_id), number)

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


@actorfw.remote
class LoopShelf(Shelf):
    pass


@actorfw.remote(executor="process")
class ProcessShelf(Shelf):
    pass


# -- the program of a node ---------------------------------------------------------------------------------------------


class Program:
    """What one node does: operations drawn from the seed, most of them at the same time."""

    def __init__(self, name: str, seed: int, ids: list[str]) -> None:
        self.name = name
        self.ids = ids
        self.random = random.Random(f"program/{seed}/{name}")
        self.count = 0
        self.last = ""
        self.calls: dict[str, int] = {}
        self.watched: list[asyncio.Task[None]] = []
        self.refs: list[Any] = []
        self.shelves: list[tuple[str, Any]] = []

    def key(self, what: str, allowed: int = 1) -> str:
        self.count += 1
        key = f"{self.name}:{self.count}:{what}"
        recorder().submitted(key, self.name, allowed)
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
        operations: list[Callable[[], Any]] = [
            self.task, self.task, self.retried, self.retried, self.retried, self.nest, self.wait_long, self.pass_on,
            self.put, self.call, self.call, self.call_slowly, self.call_behind, self.keep, self.give, self.consume,
            self.consume_method, self.cancelled, self.due, self.tell, self.device, self.named, self.send_shelf,
            self.flood,
        ]  # fmt: skip
        for _ in range(OPERATIONS):
            try:
                operation = self.random.choice(operations)()
                if operation is not None:
                    await operation
            except errors.ActorFwError:
                recorder().pending.pop(self.last, None)  # what fails at once is no call
            await asyncio.sleep(self.random.choice((0.0, 0.001, 0.02, 0.2)))
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

    def make_shelf(self) -> None:
        kind: Any = self.random.choice((LoopShelf, LoopShelf, ProcessShelf))
        name = f"{self.name}/{len(self.shelves)}"
        options = self.place()
        if self.random.random() < 0.5:
            options["name"] = name
            options["get_if_exists"] = True
        self.shelves.append((name, kind.options(**options).remote(name)))

    def shelf(self) -> tuple[str, Any]:
        return self.random.choice(self.shelves)

    def number(self, shelf: str) -> int:
        self.calls[shelf] = self.calls.get(shelf, 0) + 1
        return self.calls[shelf]

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

    def call(self) -> None:
        name, shelf = self.shelf()
        key = self.key("add")
        x = self.random.randrange(100)
        argument = self.argument(x)
        self.watch(key, 2 * x, shelf.add(key, self.name, self.number(name), argument))

    def call_behind(self) -> None:
        """A call whose argument is not there yet, and one behind it."""
        name, shelf = self.shelf()
        first = self.key("argument", 4)
        argument = double.options(max_retries=3).remote(first, 4)
        self.watch(first, 8, argument)
        for given in (argument, 8):
            key = self.key("behind")
            self.watch(key, 16, shelf.add(key, self.name, self.number(name), given))

    def flood(self) -> None:
        """More than a link's window takes."""
        name, shelf = self.shelf()
        for _ in range(24):
            key = self.key("flood")
            self.watch(key, 4, shelf.add(key, self.name, self.number(name), 2, "z" * 30_000))

    def call_slowly(self) -> None:
        for _ in range(self.random.randint(2, 5)):
            name, shelf = self.shelf()
            key = self.key("slowly")
            self.watch(key, 2, shelf.slowly(key, self.name, self.number(name), 1))

    def keep(self) -> None:
        name, shelf = self.shelf()
        box = [self.random.choice(self.refs)] if self.refs else [actorfw.put(1)]
        key = self.key("keep")
        self.watch(key, 1, shelf.keep(key, self.name, self.number(name), box))

    def give(self) -> None:
        name, shelf = self.shelf()
        key = self.key("give")
        self.watch(key, ANY, self._read(shelf.give(key, self.name, self.number(name))))

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
        name, shelf = self.shelf()
        key = self.key("stream")
        n = self.random.choice((1, 70))
        self.watch(key, list(range(n)), _consumed(shelf.stream(key, self.name, self.number(name), n), n, n))

    async def cancelled(self) -> None:
        key = self.key("cancelled", 4)
        make: Any = self.random.choice((double, patient))
        rest = (3.0,) if make is patient else ()
        ref = make.options(**self.place()).remote(key, 1, *rest)
        self.watch(key, 2, ref)
        await asyncio.sleep(self.random.choice((0.0, 0.003, 0.05)))
        actorfw.cancel(ref, force=self.random.random() < 0.2)

    def due(self) -> None:
        key = self.key("due", 4)
        timeout = self.random.choice((0.005, 0.05, 0.5))
        self.watch(key, 2, patient.options(timeout=timeout, **self.place()).remote(key, 1, 0.1))
        name, shelf = self.shelf()
        key = self.key("due call")
        call = shelf.slowly.options(timeout=timeout)(key, self.name, self.number(name), 1)
        self.watch(key, 2, call)

    def tell(self) -> None:
        name, shelf = self.shelf()
        shelf.add.tell("told", self.name, self.number(name), 1)
        recorder().allowed["told"] = 10_000

    def device(self) -> None:
        key = self.key("device", 4)
        self.watch(key, 6, on_device.options(num_gpus=1, **self.place()).remote(key, 3))

    async def named(self) -> None:
        other = self.random.choice(("n0", "n1", "n2"))
        try:
            shelf: Any = await asyncio.wait_for(actorfw.get_actor(f"{other}/0"), 20)
        except (errors.ActorFwError, TimeoutError):
            return
        key = self.key("named")
        self.watch(key, 2, shelf.add(key, self.name, self.number(f"{other}/0"), 1))

    def send_shelf(self) -> None:
        name, shelf = self.shelf()
        _, other = self.shelf()
        key = self.key("keep shelf")
        if other is not shelf:  # a shelf that holds itself, or two each other, live for ever
            key_of = (name, self.name)
            self.watch(key, 1, shelf.keep(key, self.name, self.number(name), [actorfw.put(key_of)]))
        else:
            self.watch(key, 2, shelf.add(key, self.name, self.number(name), 1))


ANY = object()


async def _consumed(stream: Any, n: int, taken: int) -> list[int]:
    got = []
    async for item in stream:
        got.append(item)
        if len(got) == taken and taken < n:
            await stream.aclose()
            break
    return got


# -- the faults --------------------------------------------------------------------------------------------------------


class Faults:
    """Drawn with swarm testing: each seed has a random subset of them."""

    def __init__(self, cluster: SimCluster, seed: int) -> None:
        self.cluster = cluster
        self.random = random.Random(f"faults/{seed}")
        known = [
            self.cut,
            self.cut_at_byte,
            self.half_open,
            self.stall,
            self.freeze,
            self.slow,
            self.worker,
            self.stall_worker,
        ]
        if self.random.random() < 0.4:
            known.append(self.crash)
        self.known = [fault for fault in known if self.random.random() < 0.5]
        self.joins = self.random.random() < 0.3
        self.leaves = self.random.random() < 0.3

    def two(self) -> tuple[int, int] | None:
        up = [node.index for node in self.cluster.alive]
        return tuple(self.random.sample(up, 2)) if len(up) > 1 else None  # type: ignore[return-value]

    def one(self) -> int:
        return self.random.choice([node.index for node in self.cluster.alive])

    async def run(self) -> None:
        """A few seconds of them."""
        for step in range(8):
            await asyncio.sleep(self.random.uniform(0.01, 0.4))
            if self.known:
                done = self.random.choice(self.known)()
                if done is not None:
                    await done
            if step == 3 and self.joins:
                await self.cluster.add_node()
            if step == 5 and self.leaves and len(self.cluster.alive) > 2:
                await self.cluster.stop(self.cluster.alive[-1].index)

    def cut(self) -> None:
        if pair := self.two():
            self.cluster.cut(*pair)

    def cut_at_byte(self) -> None:
        if pair := self.two():
            self.cluster.cut_after(*pair, self.random.randrange(3_000))

    def half_open(self) -> None:
        if pair := self.two():
            self.cluster.half_open(*pair)

    async def stall(self) -> None:
        if pair := self.two():
            self.cluster.stall(*pair)
            await asyncio.sleep(self.random.uniform(0.1, 1.5))
            self.cluster.heal()

    async def freeze(self) -> None:
        index = self.one()
        self.cluster.freeze(index)
        await asyncio.sleep(self.random.uniform(0.1, 1.5))
        self.cluster.thaw(index)

    async def slow(self) -> None:
        index = self.one()
        self.cluster.slow(index, 0.002)
        await asyncio.sleep(self.random.uniform(0.1, 0.5))
        self.cluster.slow(index, 0)

    async def worker(self) -> None:
        actors = self.random.random() < 0.2
        for _ in range(50):  # until one is busy
            workers = [worker for node in self.cluster.alive for worker in node.workers.values()]
            busy = [worker for worker in workers if worker.label and worker.label.startswith("actor ") == actors]
            if busy:
                victim = next((worker for worker in busy if worker.label == "sluggish"), busy[0])
                # Before or after what it runs has had its effect.
                await asyncio.sleep(self.random.uniform(0, 0.15))
                victim.crash()
                return
            await asyncio.sleep(0.01)

    async def stall_worker(self) -> None:
        workers = self.cluster.nodes[self.one()].workers
        if workers:
            worker = self.random.choice(list(workers.values()))
            worker.stall()
            await asyncio.sleep(self.random.uniform(0.05, 0.5))
            worker.resume()

    def crash(self) -> None:
        if len(self.cluster.alive) > 2:
            index = self.random.choice([node.index for node in self.cluster.alive if node.index])
            self.cluster.crash(index, silent=False)


# -- one seed ----------------------------------------------------------------------------------------------------------


def run_seed(seed: int, *, faults: bool = True) -> str:
    """Everything for one seed; returns its trace.

    Raises:
        Violation: an oracle found something; a note says how to run the seed again.
    """
    seen = Recorder.current = Recorder(WINDOW)
    window: int = vars(peer_module)["WINDOW_BYTES"]
    set_window(WINDOW)
    log = logging.getLogger("actorfw")
    level = log.level
    log.addHandler(seen.logged)
    log.setLevel(logging.ERROR)
    try:
        return run(_seed(seed, seen, faults))
    except BaseException as error:
        for text in seen.violations[:3]:
            if text not in str(error):
                error.add_note(f"before that: {text}")
        error.add_note(
            f"seed {seed}; again: ACTORFW_SIM_SEED={seed} pytest tests/sim/test_cluster_faults.py -k objects"
        )
        raise
    finally:
        log.removeHandler(seen.logged)
        log.setLevel(level)
        set_window(window)
        Recorder.current = None


def set_window(size: int) -> None:
    """Of every link."""
    vars(peer_module)["WINDOW_BYTES"] = size


async def _seed(seed: int, seen: Recorder, faults: bool) -> str:
    chance = random.Random(f"shape/{seed}")
    config = Config(link_patience=PATIENCE, borrow_grace=GRACE, max_outbox=2 << 20)
    count = chance.choice((2, 3, 3))
    async with SimCluster(
        count,
        seed,
        config=config,
        fragment=chance.random() < 0.3,
        totals=Shape.of(num_cpus=chance.choice((1, 2)), num_gpus=2),
        duration=lambda name: 0.15 if name == "sluggish" else chance.uniform(0.001, 0.01),
    ) as cluster:
        ids = [node.id for node in cluster.nodes]
        programs = [
            asyncio.ensure_future(cluster.run_on(node.index, Program(node.name, seed, ids).run))
            for node in cluster.nodes
        ]
        watching = asyncio.ensure_future(_look(cluster, seen))
        if faults:
            await Faults(cluster, seed).run()
            cluster.heal()
        await asyncio.wait(programs, timeout=60)
        await cluster.settle(30)
        seen.quiet(cluster)
        for program in programs:
            program.cancel()
        for outcome in await asyncio.gather(*programs, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, errors.ActorFwError):
                raise outcome
        del programs
        for node in cluster.alive:
            await asyncio.wait_for(cluster.run_on(node.index, _end_named, node.name), 60)
        await cluster.settle(GRACE + 2)
        await cluster.settle(2)
        seen.let_go(cluster)
        watching.cancel()
        seen.verdict()
        return cluster.trace


async def _end_named(node: str) -> None:
    """A name holds its actor as a handle does."""
    for name in (f"{node}/0", f"{node}/1"):
        try:
            await actorfw.stop(await actorfw.get_actor(name))
        except errors.ActorFwError:
            pass  # it has none, or has ended


async def _look(cluster: SimCluster, seen: Recorder) -> None:
    while True:
        seen.look(cluster)
        await asyncio.sleep(0.02)
