"""Actors that wait for each other, in virtual time: what is found, what is left alone, and when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run


@actorfw.remote
class Node:
    """Knows the others, and calls along a path that its caller gives."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.others: dict[str, Any] = {}
        self.lock = asyncio.Lock()
        self.outcomes: list[BaseException | None] = []

    async def meet(self, others: dict[str, Any]) -> None:
        self.others = others

    async def ask(self, *path: str) -> str:
        if path:
            try:
                return self.name + await self.others[path[0]].ask(*path[1:])
            except BaseException as error:
                self.outcomes.append(error)
                raise
        return self.name

    async def pause_and_ask(self, seconds: float, *path: str) -> str:
        await asyncio.sleep(seconds)
        return await self.ask(*path)

    async def tell(self, *path: str) -> str:
        if path:
            self.others[path[0]].tell.remote(*path[1:])
        return self.name

    async def either(self, *path: str) -> str:
        """Waits for the path or for a moment."""
        ref = self.others[path[0]].ask.remote(*path[1:])
        done, _ = await asyncio.wait([ref, asyncio.ensure_future(asyncio.sleep(3))], return_when="FIRST_COMPLETED")
        return "waited" if ref not in done else self.name

    async def patient(self, how: str, *path: str) -> str:
        ref = self.others[path[0]].ask.remote(*path[1:])
        try:
            if how == "timeout":
                async with asyncio.timeout(3):
                    return await ref  # type: ignore[no-any-return]
            elif how == "wait_for":
                return await asyncio.wait_for(ref, 3)
            elif how == "shield":
                async with asyncio.timeout(3):
                    return await asyncio.shield(ref)
            elif how == "own":
                async with own_timeout():
                    return await ref  # type: ignore[no-any-return]
            elif how == "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._fail_later())
                    return await ref  # type: ignore[no-any-return]
            elif how == "gather":
                await asyncio.gather(ref, self._fail_later())
            elif how == "as_completed":
                for one in asyncio.as_completed([ref, self._wait()]):
                    return str(await one)
            elif how == "deadline":
                return await self.others[path[0]].ask.options(timeout=3).remote(*path[1:])
        except (TimeoutError, ZeroDivisionError, ExceptionGroup):
            return "gave up"
        return "ended"

    async def _fail_later(self) -> None:
        await asyncio.sleep(3)
        raise ZeroDivisionError

    async def _wait(self) -> str:
        await asyncio.sleep(3)
        return "waited"

    async def locked(self, *path: str) -> str:
        async with self.lock:
            return await self._deeper(*path)

    async def _deeper(self, *path: str) -> str:
        ref = self.others[path[0]].ask.remote(*path[1:])
        return await ref  # type: ignore[no-any-return]

    async def gathers(self, *paths: tuple[str, ...]) -> list[Any]:
        return await asyncio.gather(*(self.others[path[0]].ask.remote(*path[1:]) for path in paths))

    async def gathers_tasks(self, *paths: tuple[str, ...]) -> list[Any]:
        return await asyncio.gather(*(self._deeper(*path) for path in paths))

    async def seen(self) -> list[BaseException | None]:
        return self.outcomes


@asynccontextmanager
async def own_timeout() -> Any:
    async with asyncio.timeout(3):
        yield


@actorfw.remote(max_concurrency=2)
class Wide(Node):  # type: ignore[misc,valid-type]
    pass


@actorfw.remote
class Beside(Node):  # type: ignore[misc,valid-type]
    @actorfw.method(interleave=True)
    async def ask(self, *path: str) -> str:
        return await super().ask(*path)  # type: ignore[no-any-return]


def simulated(nodes: int, **options: Any) -> Callable[[Callable[[SimCluster], Coroutine[Any, Any, None]]], None]:
    def run_it(main: Callable[[SimCluster], Coroutine[Any, Any, None]]) -> None:
        async def inside() -> None:
            async with SimCluster(nodes, seed=5, **options) as cluster:
                await main(cluster)
            for node in cluster.nodes:
                assert not node.runtime.deadlocks._chases

        run(inside())

    return run_it


def is_deadlock(error: Any) -> bool:
    """Whether an outcome is a `DeadlockError`, or tells of one that a method did not handle."""
    if isinstance(error, actorfw.TaskError):
        return "DeadlockError" in str(error)
    return isinstance(error, actorfw.DeadlockError)


async def reports(made: dict[str, Any]) -> list[actorfw.DeadlockError]:
    """The errors that were raised where a circle was."""
    seen = await asyncio.gather(*(one.seen() for one in made.values()))
    return [error for errors in seen for error in errors if isinstance(error, actorfw.DeadlockError)]


async def fails(waiting: Any, seconds: float = 2) -> str:
    """Wait for a call that ends for a circle, in time; returns what the error says."""
    began = now()
    with pytest.raises((actorfw.TaskError, actorfw.DeadlockError)) as caught:
        await waiting
    assert is_deadlock(caught.value)
    assert now() - began < seconds
    return str(caught.value)


async def make(cluster: SimCluster, names: str, spread: bool = True, cls: Any = Node) -> dict[str, Any]:
    """One actor of each name, each on a node of its own if `spread`, all knowing each other."""
    made = {}
    for at, name in enumerate(names):
        index = at % len(cluster.nodes) if spread else 0
        where = actorfw.NodeAffinity(cluster.nodes[index].id)
        made[name] = cls.options(scheduling=where).remote(name)
    for one in made.values():
        await one.meet(made)
    return made


def now() -> float:
    return asyncio.get_running_loop().time()


# -- found -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_chain_that_comes_back_fails_in_one_place(spread: bool, size: int) -> None:
    async def main(cluster: SimCluster) -> None:
        names = "abcde"[:size]
        made = await make(cluster, names, spread)
        await fails(made["a"].ask(*names[1:], "a"))
        # The call back to the first actor is the one that waits; the error goes up through all the others.
        (error,) = await reports(made)
        assert error.ran is False
        assert f"circle: Node.ask → {' → '.join(['Node.ask'] * size)};" in str(error)
        # All of them go on.
        assert await asyncio.gather(*(one.ask() for one in made.values())) == list(names)

    simulated(3)(main)


@pytest.mark.parametrize("spread", [False, True])
def test_two_chains_that_block_each_other(spread: bool) -> None:
    async def main(cluster: SimCluster) -> None:
        made = await make(cluster, "ab", spread)
        began = now()
        outcomes = await asyncio.gather(
            made["a"].pause_and_ask(0.1, "b"), made["b"].pause_and_ask(0.1, "a"), return_exceptions=True
        )
        assert now() - began < 2.2
        assert sorted(map(is_deadlock, outcomes)) == [False, True]
        assert len(await reports(made)) == 1

    simulated(2)(main)


@pytest.mark.parametrize("method", ["ask", "locked", "gathers", "gathers_tasks"])
def test_an_actor_that_waits_for_itself_hears_so_at_once(method: str) -> None:
    async def main(cluster: SimCluster) -> None:
        made = await make(cluster, "a")
        waiting = getattr(made["a"], method)(("a",) if method.startswith("gathers") else "a")
        assert "its own actor" in await fails(waiting, 0.1)

    simulated(1)(main)


def test_waits_under_a_lock_and_in_gather_are_found() -> None:
    async def main(cluster: SimCluster) -> None:
        made = await make(cluster, "abc")
        for method in ("locked", "gathers_tasks", "gathers"):
            path: Any = [("b", "a")] if method.startswith("gathers") else ("b", "a")
            await fails(getattr(made["a"], method)(*path))
        # One of several is in a circle, and the others have ended.
        await fails(made["a"].gathers(("b",), ("c", "a")))
        await fails(made["a"].gathers(("b", "a"), ("c", "a")))

    simulated(3)(main)


def test_an_actor_with_concurrency_is_stuck_when_all_its_turns_are() -> None:
    async def main(cluster: SimCluster) -> None:
        made = await make(cluster, "ab", cls=Wide)
        assert await made["a"].ask("b", "b") == "abb"
        await fails(made["a"].ask("b", "b", "b"))  # the third of b waits for the two before it
        await fails(made["a"].ask("b", "a", "b", "a"))

    simulated(2)(main)


def test_a_caller_that_waits_for_a_circle_is_not_part_of_it() -> None:
    async def main(cluster: SimCluster) -> None:
        made = await make(cluster, "abcd")
        circle = asyncio.gather(
            made["a"].pause_and_ask(0.1, "b"), made["b"].pause_and_ask(0.1, "a"), return_exceptions=True
        )
        await asyncio.sleep(0.05)
        behind = [made["c"].ask.remote("a"), made["d"].ask.remote("c", "b"), made["c"].ask.remote("d")]
        outcomes = await circle
        assert sorted(map(is_deadlock, outcomes)) == [False, True]
        assert await behind[0] == "ca"
        later = await asyncio.gather(*behind[1:], return_exceptions=True)
        # d waits for c, whose next turn waits for d: another circle, another error.
        assert sorted(map(is_deadlock, later)) == [False, True]

    simulated(4)(main)


def test_a_full_mailbox_hides_no_circle() -> None:
    async def main(cluster: SimCluster) -> None:
        made = {
            name: Node.options(max_pending_calls=1, scheduling=actorfw.NodeAffinity(cluster.nodes[at].id)).remote(name)
            for at, name in enumerate("ab")
        }
        for one in made.values():
            await one.meet(made)
        first = made["a"].pause_and_ask.remote(0.1, "b", "a")
        await asyncio.sleep(0.05)
        others = [made["a"].ask.remote() for _ in range(300)]
        await fails(first)
        assert set(await asyncio.gather(*others)) == {"a"}

    simulated(2)(main)


# -- left alone --------------------------------------------------------------------------------------------------------


def test_fire_and_forget_round_a_circle_is_no_error() -> None:
    async def main(cluster: SimCluster) -> None:
        made = await make(cluster, "abc")
        assert await made["a"].tell("b", "c", "a", "b", "a", "a") == "a"
        await asyncio.sleep(5)
        assert all([await one.seen() == [] for one in made.values()])

    simulated(3)(main)


@pytest.mark.parametrize("how", ["timeout", "wait_for", "shield", "own", "group", "gather", "as_completed", "deadline"])
@pytest.mark.parametrize("spread", [False, True])
def test_what_has_another_way_out_takes_it(how: str, spread: bool) -> None:
    async def main(cluster: SimCluster) -> None:
        made = await make(cluster, "ab", spread)
        began = now()
        outcome = await made["a"].patient(how, "b", "a")
        assert outcome in ("gave up", "waited", "ended")
        assert 2.9 < now() - began < 3.2
        await asyncio.sleep(1)
        assert not await reports(made)

    simulated(2)(main)


def test_wait_with_another_end_takes_that() -> None:
    async def main(cluster: SimCluster) -> None:
        made = await make(cluster, "ab")
        assert await made["a"].either("b", "a") == "waited"

    simulated(2)(main)


def test_a_slow_actor_in_the_chain_is_no_error() -> None:
    async def main(cluster: SimCluster) -> None:
        made = await make(cluster, "abc")
        slow = made["c"].pause_and_ask.remote(30)
        await asyncio.sleep(0.01)
        behind = [made["a"].ask.remote("b", "c"), made["a"].ask.remote(), made["b"].ask.remote("c")]
        assert await asyncio.gather(slow, *behind) == ["c", "abc", "a", "bc"]

    simulated(3)(main)


def test_methods_that_interleave_may_wait_in_a_circle() -> None:
    async def main(cluster: SimCluster) -> None:
        made = await make(cluster, "ab", cls=Beside)
        assert await made["a"].ask("b", "a", "a", "b") == "abaab"

    simulated(2)(main)


# -- at random ---------------------------------------------------------------------------------------------------------


@actorfw.remote
class Walker:
    """Follows a plan: a tree of calls, each awaited, gathered or only sent."""

    def __init__(self, name: int) -> None:
        self.name = name
        self.others: list[Any] = []

    async def meet(self, others: list[Any]) -> None:
        self.others = others

    async def walk(self, plan: Any) -> int:
        """Returns how many calls were made."""
        made = 1
        for how, pause, steps in plan:
            if pause:
                await asyncio.sleep(pause)
            refs = [self.others[to].walk.remote(below) for to, below in steps]
            if how == "all":
                made += sum(await asyncio.gather(*refs))
            elif how == "each":
                for ref in refs:
                    made += await ref
        return made


def plan(chance: random.Random, actors: int, depth: int, forward: int | None) -> Any:
    """A random tree of calls. `forward`: only to actors of a higher number, which can't make a circle."""
    steps = []
    for _ in range(chance.choice((0, 1, 1, 2))):
        calls = []
        for _ in range(chance.choice((1, 1, 2))):
            if forward is not None and forward + 1 >= actors:
                continue
            to = chance.randrange(actors) if forward is None else chance.randrange(forward + 1, actors)
            calls.append((to, plan(chance, actors, depth - 1, None if forward is None else to) if depth else []))
        how = chance.choice(("all", "each", "none"))
        steps.append((how, chance.choice((0, 0, 0.001, 0.7)), calls))
    return steps


@pytest.mark.parametrize("seed", range(8))
def test_random_calls_without_circles_are_never_reported(seed: int) -> None:
    chance = random.Random(seed)

    async def main(cluster: SimCluster) -> None:
        walkers = await walk_with(cluster, 5)
        trees = [(at, plan(chance, 5, 4, at)) for at in (chance.randrange(3) for _ in range(12))]
        assert all(await asyncio.gather(*(walkers[at].walk.remote(tree) for at, tree in trees)))

    simulated(3)(main)


@pytest.mark.parametrize("seed", range(8))
def test_random_calls_all_end_and_no_actor_stays_stuck(seed: int) -> None:
    chance = random.Random(seed)

    async def main(cluster: SimCluster) -> None:
        walkers = await walk_with(cluster, 4)
        trees = [(chance.randrange(4), plan(chance, 4, 3, None)) for _ in range(12)]
        outcomes = await asyncio.wait_for(
            asyncio.gather(*(walkers[at].walk.remote(tree) for at, tree in trees), return_exceptions=True), 300
        )
        assert all(isinstance(one, int) or is_deadlock(one) for one in outcomes)
        await asyncio.wait_for(asyncio.gather(*(one.walk.remote([]) for one in walkers)), 60)

    simulated(3)(main)


async def walk_with(cluster: SimCluster, actors: int) -> list[Any]:
    walkers = [
        Walker.options(scheduling=actorfw.NodeAffinity(cluster.nodes[at % len(cluster.nodes)].id)).remote(at)
        for at in range(actors)
    ]
    for one in walkers:
        await one.meet(walkers)
    return walkers
