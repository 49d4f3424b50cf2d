"""Which error a call or a task ends with, and what it says about having run: one row for each moment and each fault.

`unsent` never left its caller's node, `sent` waits at its host, `started` runs there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import actorfw
from actorfw.testing import SimCluster, run

PATIENCE = 3.0
CONFIG = actorfw.Config(link_patience=PATIENCE)
RUN = 40.0  # seconds that a method takes which is to be running when something happens

ran: list[str] = []


class _Work:
    async def go(self, key: str, seconds: float = 0.0) -> str:
        ran.append(key)
        await asyncio.sleep(seconds)
        return key


@actorfw.remote
class OnLoop(_Work):
    pass


@actorfw.remote(executor="process")
class InProcess(_Work):
    pass


@actorfw.remote(num_cpus=1, max_retries=0)
async def job(key: str, seconds: float = 0.0) -> str:
    ran.append(key)
    await asyncio.sleep(seconds)
    return key


@actorfw.remote(num_cpus=1, max_retries=0)
def heavy(key: str) -> str:
    ran.append(key)
    return key


def split(cluster: SimCluster) -> None:
    """Nodes 0 and 1 lose sight of each other, and of nobody else."""
    cluster.partition([0], [1])
    cluster.reset(0, 1)


# What happens to node 1, or to what runs there.


async def link_lost(cluster: SimCluster, actor: Any) -> None:
    split(cluster)


async def host_dead(cluster: SimCluster, actor: Any) -> None:
    cluster.crash(1)


async def host_stopped(cluster: SimCluster, actor: Any) -> None:
    await cluster.stop(1)


async def process_dead(cluster: SimCluster, actor: Any) -> None:
    assert cluster.kill_worker(1)


async def actor_killed(cluster: SimCluster, actor: Any) -> None:
    actorfw.kill(actor)


async def node_closing(cluster: SimCluster, actor: Any) -> None:
    await cluster.stop(0)


Fault = Callable[[SimCluster, Any], Awaitable[None]]


async def outcome(ref: Any) -> tuple[str, Any]:
    try:
        return "value", await ref
    except actorfw.ActorFwError as error:
        return type(error).__name__, error.ran


ACTOR_CALLS: list[tuple[Any, int, Fault, str, tuple[str, Any]]] = [
    # class, max_restarts, what happens, when, and how the call ends
    (OnLoop, 0, link_lost, "unsent", ("PeerUnreachableError", False)),
    (OnLoop, 0, link_lost, "sent", ("PeerLostError", None)),
    (OnLoop, 0, link_lost, "started", ("PeerLostError", None)),
    (OnLoop, 1, link_lost, "unsent", ("PeerUnreachableError", False)),
    (OnLoop, 1, link_lost, "started", ("PeerLostError", None)),
    (OnLoop, 0, host_dead, "unsent", ("ActorDiedError", False)),
    (OnLoop, 0, host_dead, "sent", ("ActorDiedError", None)),
    (OnLoop, 0, host_dead, "started", ("ActorDiedError", None)),
    (OnLoop, 1, host_dead, "unsent", ("value", "call")),
    (OnLoop, 1, host_dead, "sent", ("ActorUnavailableError", None)),
    (OnLoop, 1, host_dead, "started", ("ActorUnavailableError", None)),
    (OnLoop, 0, host_stopped, "sent", ("ActorDiedError", False)),
    (OnLoop, 0, host_stopped, "started", ("ActorDiedError", None)),
    (OnLoop, 1, host_stopped, "sent", ("value", "call")),
    (OnLoop, 1, host_stopped, "started", ("ActorUnavailableError", None)),
    (InProcess, 0, process_dead, "unsent", ("ActorDiedError", False)),
    # A process says which of the calls that it has have started only where another incarnation would follow.
    (InProcess, 0, process_dead, "sent", ("ActorDiedError", None)),
    (InProcess, 0, process_dead, "started", ("ActorDiedError", None)),
    (InProcess, 1, process_dead, "unsent", ("value", "call")),
    (InProcess, 1, process_dead, "sent", ("value", "call")),
    (InProcess, 1, process_dead, "started", ("ActorUnavailableError", None)),
    (OnLoop, 0, actor_killed, "unsent", ("ActorDiedError", False)),
    (OnLoop, 0, actor_killed, "sent", ("ActorDiedError", False)),
    (OnLoop, 0, actor_killed, "started", ("ActorDiedError", None)),
    # It may have started one more before the signal reached it.
    (InProcess, 1, actor_killed, "sent", ("ActorDiedError", None)),
    (InProcess, 1, actor_killed, "started", ("ActorDiedError", None)),
    (OnLoop, 0, node_closing, "unsent", ("NodeClosedError", False)),
    (OnLoop, 0, node_closing, "sent", ("NodeClosedError", None)),
    (OnLoop, 0, node_closing, "started", ("NodeClosedError", None)),
]


def label(value: Any) -> str | None:
    name = getattr(value, "__name__", None) or getattr(getattr(value, "cls", None), "__name__", None)
    return name if isinstance(name, str) else None


@pytest.mark.parametrize(("kind", "restarts", "fault", "moment", "expected"), ACTOR_CALLS, ids=label)
def test_a_call_of_an_actor(kind: Any, restarts: int, fault: Fault, moment: str, expected: tuple[str, Any]) -> None:
    ran.clear()

    async def main() -> None:
        async with SimCluster(3, seed=1, config=CONFIG) as cluster:
            there = actorfw.NodeAffinity(cluster.nodes[1].id, soft=True)
            actor = kind.options(scheduling=there, max_restarts=restarts).remote()
            await actor.go("first")
            if moment == "sent":
                busy = actor.go.remote("busy", RUN)
                await asyncio.sleep(0.1)
            early = moment == "unsent" and fault in (actor_killed, process_dead)  # then the call is made behind it
            if early:
                await fault(cluster, actor)
                await asyncio.sleep(0.05)
            elif moment == "unsent" and fault is node_closing:
                actor = kind.options(num_cpus=99).remote()  # there is no place for it
            elif moment == "unsent":
                split(cluster)
                await asyncio.sleep(0.1)
            ref = actor.go.remote("call", RUN if moment == "started" else 0.0)
            if moment != "unsent":
                await asyncio.sleep(0.1)
                assert ("call" in ran) == (moment == "started")
            if not early:
                await fault(cluster, actor)
            assert await asyncio.wait_for(outcome(ref), 30) == expected
            if fault is link_lost:
                cluster.heal()
                await asyncio.sleep(5)
            await asyncio.sleep(1)
            # What says that it never ran has not run, not even later.
            assert ran.count("call") == (0 if expected[1] is False else ran.count("call"))
            assert ran.count("call") <= 1
            if moment == "sent":
                await outcome(busy)

    run(main())


TASKS: list[tuple[Any, Fault, str, tuple[str, Any]]] = [
    (job, link_lost, "unsent", ("value", "call")),  # goes elsewhere
    (job, link_lost, "sent", ("PeerLostError", None)),
    (job, link_lost, "started", ("PeerLostError", None)),
    (job, host_dead, "unsent", ("value", "call")),
    (job, host_dead, "sent", ("NodeDiedError", None)),
    (job, host_dead, "started", ("NodeDiedError", None)),
    (heavy, host_dead, "started", ("NodeDiedError", None)),
    (heavy, process_dead, "sent", ("value", "call")),
    (heavy, process_dead, "started", ("WorkerDiedError", None)),
    (job, node_closing, "unsent", ("NodeClosedError", False)),
    (job, node_closing, "sent", ("NodeClosedError", None)),
    (job, node_closing, "started", ("NodeClosedError", None)),
]


@pytest.mark.parametrize(("kind", "fault", "moment", "expected"), TASKS, ids=label)
def test_a_task(kind: Any, fault: Fault, moment: str, expected: tuple[str, Any]) -> None:
    ran.clear()

    async def main() -> None:
        durations = {"heavy": RUN}
        async with SimCluster(3, seed=1, config=CONFIG, duration=lambda name: durations.get(name, 0.001)) as cluster:
            there = actorfw.NodeAffinity(cluster.nodes[1].id, soft=True)
            key = ("call",)
            busy = []
            if moment != "started":
                first = heavy if kind is heavy else job
                busy = [first.options(scheduling=there).remote("busy", *(() if kind is heavy else (RUN,)))]
                await asyncio.sleep(0.3)
                assert cluster.nodes[1].runtime.ledger._free["CPU"] == 0
            if moment == "unsent" and fault is not node_closing:
                split(cluster)
                await asyncio.sleep(0.1)
            arguments = (*key, RUN) if kind is job and moment == "started" else key
            cpus = 99 if moment == "unsent" and fault is node_closing else 1  # for so many there is no place
            ref = kind.options(scheduling=there, num_cpus=cpus).remote(*arguments)
            await asyncio.sleep(0.3)
            if not (moment == "unsent" and fault is link_lost):
                await fault(cluster, None)
            durations["heavy"] = 0.001
            assert await asyncio.wait_for(outcome(ref), 30) == expected
            if fault is link_lost:
                cluster.heal()
            await asyncio.sleep(5)
            assert ran.count("call") == (0 if expected[1] is False else ran.count("call"))
            assert ran.count("call") <= 1
            for other in busy:
                await outcome(other)

    run(main())
