"""How soon is a member whose network is gone known to be dead to all others: on real kernels, again and again.

    python -m tests.soak.cut_off --nodes 10 --runs 100

Each run pulls one machine's cable, waits until all others have declared it dead, puts the cable back, and waits until
the machine has joined again as a new life. Exits with status 1 if fewer than 99 of 100 are known dead to all in 7 s.
Run `--member` is what happens on each machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final, NamedTuple

import actorfw
from actorfw.values.profiles import LAN
from tests.soak.machines import Switch, switch, why_not

PORT: Final = 7700
SECRET: Final = "a secret of sixteen or more"
LIMIT: Final = 7.0
LOOK: Final = 0.05
SHARE: Final = 0.99
PATIENCE: Final = 60.0


async def member(listen: str, seed: str, name: str) -> None:
    """One node, which writes what it sees of others to stdout, a line of JSON each. Ends with its standard input."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def said() -> None:
        if not sys.stdin.buffer.read1(1) and not over.done():
            over.set_result(None)

    node = actorfw.Node(seed, listen=listen, secret=SECRET, name=name, num_cpus=0)
    loop.add_reader(sys.stdin.fileno(), said)
    async with node:
        events = actorfw.events()

        async def tell() -> None:
            print(json.dumps([time.monotonic(), "Up", name]), flush=True)
            async for event in events:
                who = getattr(event, "name", "")
                print(json.dumps([time.monotonic(), type(event).__name__, who]), flush=True)

        async def tell_of_lag() -> None:
            while True:
                before = time.monotonic()
                await asyncio.sleep(LOOK)
                late = time.monotonic() - before - LOOK
                if late > LAN.lag_limit:
                    print(json.dumps([time.monotonic(), "Late", f"{late:.2f}"]), flush=True)

        telling = [asyncio.create_task(tell()), asyncio.create_task(tell_of_lag())]
        await over
        for task in telling:
            task.cancel()


@dataclass
class Machine:
    """A process on one machine, as seen from outside.

    Attributes:
        lines: what it has said: (time, event, name).
    """

    number: int
    process: asyncio.subprocess.Process
    lines: list[tuple[float, str, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"m{self.number}"

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            at, kind, who = json.loads(line)
            self.lines.append((at, kind, who))

    def heard(self, kind: str, who: str, since: float) -> float | None:
        """When it first said so, after a time."""
        return next((at for at, what, about in self.lines if at >= since and (what, about) == (kind, who)), None)


async def _until(what: str, done: Any, seconds: float = PATIENCE) -> None:
    start = time.monotonic()
    while not done():
        if time.monotonic() - start > seconds:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.02)


@asynccontextmanager
async def members(net: Switch, count: int) -> AsyncIterator[list[Machine]]:
    """A node on each machine, all up."""
    machines: list[Machine] = []
    listening: list[asyncio.Task[None]] = []
    try:
        for number in range(count):
            seed = f"{net.address(0)}:{PORT}"
            listen = f"{net.address(number)}:{PORT}"
            command = (sys.executable, "-m", "tests.soak.cut_off", "--member", listen, seed, f"m{number}")
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(*net.within(number, *command), stdin=pipe, stdout=pipe)
            machine = Machine(number, process)
            machines.append(machine)
            listening.append(asyncio.create_task(machine.listen()))
            if not number:
                await _until("the first is up", lambda: machines[0].lines)
        names = {machine.name for machine in machines}
        for machine in machines:
            others = names - {machine.name}

            def met(machine: Machine = machine, others: set[str] = others) -> bool:
                known = {who for _, kind, who in machine.lines if kind in ("NodeUp", "Up")}
                return bool(machine.lines) and (others <= known or machine.number > 0)

            await _until(f"{machine.name} knows all", met)
        yield machines
    finally:
        for machine in machines:
            assert machine.process.stdin is not None
            machine.process.stdin.close()
        for machine in machines:
            try:
                async with asyncio.timeout(20):
                    await machine.process.wait()
            except TimeoutError:
                machine.process.kill()
                await machine.process.wait()
        await asyncio.gather(*listening)


class Run(NamedTuple):
    """What came of one.

    Attributes:
        dead: seconds until all others have declared the machine dead.
        back: seconds from the cable's return until the machine is up again to all.
        late: how often a loop of the others was late by more than `lag_limit` meanwhile: this machine was too busy for
            its nodes, which start their timers anew then.
    """

    dead: float
    back: float
    late: int


async def one_run(net: Switch, machines: list[Machine], victim: int) -> Run:
    """Pull a cable and put it back."""
    name = machines[victim].name
    others = [machine for machine in machines if machine.number != victim]
    start = time.monotonic()
    net.pull(victim)
    try:
        await _until("all hold it for dead", lambda: all(m.heard("NodeDied", name, start) for m in others))
    finally:
        back = time.monotonic()
        net.plug(victim)
    died = max(machine.heard("NodeDied", name, start) or start for machine in others)
    await _until("it is up again to all", lambda: all(m.heard("NodeUp", name, back) for m in others))
    wrongly = {who for m in others for at, kind, who in m.lines if at >= start and kind == "NodeDied"} - {name}
    if wrongly:
        raise AssertionError(f"declared dead though nothing had happened to them: {sorted(wrongly)}")
    late = sum(start <= at <= died and kind == "Late" for m in others for at, kind, _ in m.lines)
    return Run(died - start, time.monotonic() - back, late)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


async def measure(nodes: int, runs: int, seed: int) -> bool:
    """All runs on one cluster; prints each, and the distribution. Whether the promise was kept."""
    rng = random.Random(seed)
    done: list[Run] = []
    with switch(nodes) as net:
        async with members(net, nodes) as machines:
            for run in range(runs):
                await asyncio.sleep(1 + rng.random())  # anywhere in the probes' rhythm
                victim = rng.randrange(nodes)
                one = await one_run(net, machines, victim)
                done.append(one)
                print(
                    f"run {run}: m{victim} known dead to all after {one.dead:.2f} s, back in {one.back:.2f} s"
                    + (f", loops were late {one.late} times" if one.late else ""),
                    flush=True,
                )
    kept = summary(f"{nodes} nodes", done)
    calm = [run for run in done if not run.late]
    if calm and len(calm) < len(done):
        return summary("  of these, where no loop was late", calm)
    return kept


def summary(what: str, runs: list[Run]) -> bool:
    """Print how long it took. Whether the promise was kept."""
    dead = [run.dead for run in runs]
    within = sum(one <= LIMIT for one in dead)
    print(
        f"{what}, {len(dead)} runs: median {percentile(dead, 0.5):.2f} s, 90 % {percentile(dead, 0.9):.2f} s, "
        f"99 % {percentile(dead, 0.99):.2f} s, longest {max(dead):.2f} s; {within} within {LIMIT:g} s"
    )
    return within >= int(SHARE * len(dead))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--member", nargs=3, metavar=("LISTEN", "SEED", "NAME"))
    given = parser.parse_args()
    if given.member:
        asyncio.run(member(*given.member))
        return 0
    reason = why_not()
    if reason:
        print(f"skipped: {reason}")
        return 0
    return 0 if asyncio.run(measure(given.nodes, given.runs, given.seed)) else 1


if __name__ == "__main__":
    sys.exit(main())
