"""Chaos: nodes are killed and started all the time, under load, and every call is accounted for.

    python -m tests.soak.chaos --seconds 120

Five nodes beside the driver. Every two seconds one of four is killed with SIGKILL, and another one started. What every
call of the load came to is compared with the marks that it left where it started: a value needs a mark, an error that
says `ran=False` must have none, and what may run once at most has one at most. After a third of the time, and at the
end, the load rests, all nodes have to forget everything, and what the driver and the one node that is never killed hold
is measured. Exits with status 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import tempfile
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import actorfw
from tests.integration.quiet import all_quiet
from tests.soak import work

NODES: Final = 5
EVERY: Final = 2.0
HANGS: Final = 60.0
GROWTH_KIB: Final = 24 * 1024
SOME: Final = 8  # tasks, descriptors or threads that may be there beside


class Call(NamedTuple):
    """One call of the load that did not give its value.

    Attributes:
        what: it was.
        end: what it came to: the error's name and its `ran`.
        error: its text; its traceback would hold what the load has let go.
    """

    number: int
    what: str
    end: str
    ran: bool | None = None
    error: str = ""


class Rules(NamedTuple):
    """What may become of a kind of call.

    Attributes:
        once: it may start once at most.
        must: it has to give its value, whatever happens.
    """

    what: str
    once: bool
    must: bool


@dataclass
class Report:
    """What came out.

    Attributes:
        ends: how many calls of each kind came to what.
        examples: an error's text for each.
        wrong: what must not be.
        held: of each node measured, before and after.
    """

    seconds: float = 0.0
    kills: int = 0
    starts: int = 0
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    held: dict[str, list[dict[str, int]]] = field(default_factory=dict)
    slowest: float = 0.0
    slowest_was: str = ""

    def __str__(self) -> str:
        lines = [f"{self.seconds:.0f} s, {self.kills} nodes killed, {self.starts} started"]
        for (what, end), count in sorted(self.ends.items()):
            example = self.examples.get((what, end), "")
            lines.append(f"  {what}: {end}: {count}" + (f", as {example[:300]}" if example else ""))
        lines.append(f"  slowest call: {self.slowest:.2f} s, {self.slowest_was}")
        for who, (before, after) in self.held.items():
            lines.append(f"  {who}: " + ", ".join(f"{key} {before[key]} -> {after[key]}" for key in before))
        lines += [f"WRONG: {text}" for text in self.wrong]
        return "\n".join(lines)


class Chaos:
    """The load, the killer and the accounts."""

    def __init__(self, cluster: actorfw.LocalCluster, folder: str, seed: int) -> None:
        self.cluster = cluster
        self.folder = folder
        self.rng = random.Random(seed)
        self.report = Report()
        self.begun = 0
        self.failed: dict[int, Call] = {}
        # A few bytes per call, not an object: the driver's memory is watched.
        self.calls: dict[Rules, array[int]] = defaultdict(lambda: array("I"))
        self.over = False
        self.round = 0

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def call(
        self,
        what: str,
        begin: Callable[[int], Awaitable[Any]],
        value: Any = None,
        once: bool = False,
        must: bool = False,
    ) -> Call | None:
        """Make a call and note what it comes to; `begin(number)` starts it, and may raise instead.

        The value expected is `value`, or twice the number of the call. Gives the call if that is not what came.
        """
        number = self.begun
        self.begun += 1
        self.calls[Rules(what, once, must)].append(number)
        start = time.monotonic()
        failed: Call | None = None
        try:
            got = await asyncio.wait_for(begin(number), HANGS)
        except TimeoutError:
            failed = Call(number, what, "HANGS")
        except actorfw.ActorFwError as error:
            said = f"{type(error).__name__}: {error}"
            failed = Call(number, what, f"{type(error).__name__} ran={error.ran}", error.ran, said)
        else:
            if got != (2 * number if value is None else value):
                failed = Call(number, what, f"WRONG VALUE {got!r}")
        took = time.monotonic() - start
        if took > self.report.slowest:
            self.report.slowest, self.report.slowest_was = took, f"{what}: {failed.end if failed else 'value'}"
        if failed is not None:
            self.failed[number] = failed
        return failed

    def next_number(self) -> int:
        return self.begun

    async def tasks(self, kind: Any, name: str, retries: int) -> None:
        task = kind.options(max_retries=retries)
        while not self.over:
            await self.call(
                f"{name}, max_retries={retries}",
                lambda number: task.remote(self.folder, number),
                once=retries == 0,
                must=retries > 0,
            )
            await asyncio.sleep(0.005)

    async def actor(self, who: str, retries: int) -> None:
        """An actor that is restarted for ever; its calls are sent in bursts."""
        who = f"{who}r{self.round}"
        lasting = work.Account.options(max_restarts=-1, max_task_retries=retries, scheduling=await self.mortal())
        account: Any = lasting.remote(self.folder, who)
        while not self.over:
            burst = [
                self.call(
                    f"actor, max_task_retries={retries}",
                    lambda number: account.add.remote(number),
                    once=retries == 0,
                    must=retries != 0,
                )
                for _ in range(5)
            ]
            await asyncio.gather(*burst)
            await asyncio.sleep(0.01)

    async def detached(self, who: str) -> None:
        """A detached actor by its name, from time to time killed and made anew."""
        turn = 0
        while not self.over:
            place = await self.mortal()
            made = work.Account.options(name=who, get_if_exists=True, detached=True, max_restarts=-1, scheduling=place)
            account: Any = made.remote(self.folder, who)
            for _ in range(50):
                turn += 1
                handle = account
                await self.call("detached", lambda number, handle=handle: handle.add.remote(number), once=True)
                if self.over:
                    return
                if turn % 5 == 0:
                    try:
                        account = await asyncio.wait_for(actorfw.get_actor(who, work.Account), HANGS)
                    except (actorfw.ActorFwError, TimeoutError) as error:
                        self.report.wrong.append(f"{who} lives and was not found: {error!r}")
                await asyncio.sleep(0.01)
            actorfw.kill(account)
            await asyncio.wait_for(actorfw.watch(account), HANGS)  # until then the name is its own
            self.report.ends["detached", "killed, to be made anew"] += 1

    async def short(self) -> None:
        """Actors without restarts that come and go, on any node."""
        while not self.over:
            account: Any = work.Account.options(scheduling=await self.mortal()).remote(self.folder, "short")
            for _ in range(3):
                await self.call(
                    "short-lived actor", lambda number, account=account: account.add.remote(number), once=True
                )
            del account
            await asyncio.sleep(0.01)

    async def refs(self) -> None:
        """Values put on one node, whose refs go through the driver to another."""
        while not self.over:
            got: list[Any] = []

            async def begin(number: int, got: list[Any] = got) -> bool:
                got += await work.nested.options(scheduling="spread", max_retries=3).remote(self.folder, number)
                return True

            start = self.next_number()
            made = await self.call("refs made", begin, True)
            if made is None:
                total = sum(range(start, start + 2000)) + start
                task = work.sum_of.options(scheduling="spread", max_retries=3)
                await self.call(
                    "refs used", lambda number, task=task, got=got: task.remote(self.folder, number, got), total
                )
            del got, begin
            await asyncio.sleep(0.01)

    async def mortal(self) -> actorfw.NodeAffinity:
        """One of the nodes that are killed, or any if that is what has happened to it."""
        pids = {self.cluster.pid(index) for index in self.cluster.indices[1:]}
        rows = [row for row in await actorfw.nodes() if row.pid in pids]
        return actorfw.NodeAffinity(self.rng.choice(rows).id, soft=True)

    # -- faults --------------------------------------------------------------------------------------------------------

    async def kills(self) -> None:
        adding: set[asyncio.Task[Any]] = set()
        while not self.over:
            await asyncio.sleep(EVERY)
            mortal = self.cluster.indices[1:]
            if len(mortal) < 3 or self.over:
                continue  # those that were started are not there yet
            victim = self.rng.choice(mortal)
            killing = self.cluster.kill(victim)
            self.report.kills += 1
            adding.add(asyncio.ensure_future(self._add()))
            await killing
        await asyncio.gather(*adding)

    async def _add(self) -> None:
        await self.cluster.add_node()
        self.report.starts += 1

    # -- the whole -----------------------------------------------------------------------------------------------------

    async def run(self, seconds: float) -> None:
        """Load and faults for so long; returns when every call has ended."""
        self.over = False
        self.round += 1
        load = [
            *(self.tasks(work.sync_task, "task in a process", 20) for _ in range(2)),
            *(self.tasks(work.async_task, "task on a loop", 20) for _ in range(2)),
            self.tasks(work.sync_task, "task in a process", 0),
            self.tasks(work.async_task, "task on a loop", 0),
            *(self.actor(f"a{number}", 0) for number in range(2)),
            *(self.actor(f"b{number}", -1) for number in range(2)),
            *(self.detached(f"d{number}") for number in range(2)),
            *(self.short() for _ in range(2)),
            *(self.refs() for _ in range(2)),
            self.kills(),
        ]
        running = [asyncio.create_task(part) for part in load]
        await asyncio.wait(running, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        self.over = True
        await asyncio.gather(*running)
        self.report.seconds += seconds

    async def rest(self) -> None:
        """Have everything end, and measure what is left."""
        for who in ("d0", "d1"):
            try:
                actorfw.kill(await actorfw.get_actor(who))
            except (actorfw.ActorFwError, LookupError):
                pass
        await all_quiet()
        gc.collect()
        survivor = next(row for row in await actorfw.nodes() if row.pid == self.cluster.pid(0))
        there = await work.stats.options(scheduling=actorfw.NodeAffinity(survivor.id)).remote()
        self.report.held.setdefault("driver", []).append(work.stats_here())
        self.report.held.setdefault("survivor", []).append(there)

    def balance(self) -> Report:
        """Compare what calls came to with the marks that they left."""
        report = self.report
        marks = work.marks(self.folder)
        for rules, numbers in self.calls.items():
            for number in numbers:
                ran = marks[number]
                failed = self.failed.get(number)
                if failed is None:
                    report.ends[rules.what, "value"] += 1
                    wrong = not ran
                else:
                    report.ends[rules.what, failed.end] += 1
                    report.examples[rules.what, failed.end] = failed.error
                    wrong = rules.must or not failed.error
                    wrong = wrong or (failed.ran is False and ran > 0) or (failed.ran is True and not ran)
                if wrong or (rules.once and ran > 1):
                    report.wrong.append(f"{rules.what}, call {number}: started {ran} times, and came to {failed}")
        for who in {call_file.name.partition(".")[0] for call_file in work.files(self.folder)}:
            for order in work.orders(self.folder, who):
                if who[0] == "a" and order != sorted(order):
                    report.wrong.append(f"calls of actor {who} started out of order: {order[:20]}")
        for who, (before, after) in report.held.items():
            for key in before:
                most = GROWTH_KIB if key == "KiB" else SOME
                if after[key] - before[key] > most:
                    report.wrong.append(f"{who} has more {key}: {before[key]}, then {after[key]}")
        return report


async def soak(seconds: float, seed: int = 1) -> Report:
    """Chaos for so long."""
    with tempfile.TemporaryDirectory(prefix="actorfw-soak-") as folder:
        async with actorfw.LocalCluster(nodes=NODES, num_cpus=1, driver_cpus=0) as cluster:
            chaos = Chaos(cluster, folder, seed)
            await chaos.run(seconds / 3)
            await chaos.rest()
            await chaos.run(seconds * 2 / 3)
            await chaos.rest()
        work.close()
        return chaos.balance()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    report = asyncio.run(soak(given.seconds, given.seed))
    print(report)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
