"""What the oracles find by looking into the nodes: bounds at any moment, and what is left when all is quiet."""

from __future__ import annotations

import asyncio
from typing import Any

import actorfw
from actorfw import errors
from actorfw.core.ledger import UNIT
from actorfw.core.windows import Window
from actorfw.runtime.node import Node
from actorfw.runtime.peers import Peer
from actorfw.runtime.store.pulls import DEPTH
from actorfw.testing import SimCluster, SimNode
from actorfw.values.ids import is_detached
from tests.sim.oracles import Recorder, same_in_each_life

__all__ = ["agreed", "drained", "let_go", "look", "names_agree", "quiet"]

LARGEST = 256 << 10
"""Bytes: what is not full yet takes one message more."""


# -- at any moment -----------------------------------------------------------------------------------------------------


def look(seen: Recorder, cluster: SimCluster) -> None:
    """O9 and O10: what holds always."""
    for node in cluster.alive:
        runtime = node.runtime
        ledger = runtime.ledger
        free = ledger._free
        for name, units in free.items():
            # Those who waited in a worker and go on may exceed the totals.
            least = -UNIT * len(runtime.pool.workers) if name == "CPU" else 0
            if units < least or units > ledger.totals.units(name):
                seen.violated("O9", f"{node.name} has {units} units of {name} left of {ledger.totals}")
        if any(not 0 <= share <= UNIT for share in ledger._devices):
            seen.violated("O9", f"{node.name} has the devices {ledger._devices}")
        for peer in runtime.peers.by_life.values():
            _look_at(seen, node, peer)
        for route in runtime.calls.routes.values():
            if route.out > Window.CALLS + 1 or route.out_bytes > Window.BYTES + LARGEST:
                seen.violated("O10", f"{node.name} has sent {route.out} calls, {route.out_bytes} bytes, on {route.id}")
        for id, entry in runtime.locations._by_id.items():
            try:
                entry.validate()
            except AssertionError as error:
                seen.violated("O7", f"{node.name} has the directory of {id} wrong: {error}")
        for pull in runtime.pulls._open.values():
            if any(len(ranges) > DEPTH for ranges in pull.ranges.values()):
                seen.violated("O10", f"{node.name} asks for too much of {pull.id} at once: {pull.ranges}")
        for cell in runtime.hosting.cells.values():
            door = len(cell.door or ())
            if cell.pending > cell.most + 1 or door > (Window.CALLS + 1) * len(cluster.nodes):
                seen.violated("O10", f"{cell.id} on {node.name} has {cell.pending} calls, and {door} at its door")


def _look_at(seen: Recorder, node: SimNode, peer: Peer) -> None:
    if peer.unacked_bytes > seen.window + LARGEST + 4096:
        seen.violated("O10", f"{node.name} keeps {peer.unacked_bytes} bytes unacknowledged for {peer.name}")
    if peer.queued_bytes > node.runtime.config.max_outbox + LARGEST:
        seen.violated("O10", f"{node.name} keeps {peer.queued_bytes} bytes waiting for {peer.name}")


def drained(seen: Recorder, cluster: SimCluster, life: bytes) -> None:
    """O11: a node has left in time; what the living hold of it is owned by one of them."""
    living = {node.runtime.life for node in cluster.alive}
    for node in cluster.alive:
        runtime = node.runtime
        ownership = runtime.objects.ownership
        for id, record in ownership._records.items():
            owner = runtime.heirs.of(id[0])
            if id[0] == life and owner not in living:
                seen.violated("O11", f"{node.name} holds {id}, {record}, which nobody owns who lives: {owner.hex()}")


# -- when all is quiet -------------------------------------------------------------------------------------------------


def quiet(seen: Recorder, cluster: SimCluster) -> None:
    """O1, O4, O8: the faults are over since long."""
    for key, place in seen.pending.items():
        if seen.is_alive(place):
            seen.violated("O1", f"{key} of {place} is pending for ever; it started at {seen.starts.get(key)}")
    for node in cluster.alive:
        runtime = node.runtime
        tables: dict[str, Any] = {
            "tasks": runtime.tasks.open,
            "calls": runtime.calls.open,
            "executions": runtime.execution.by_serial,
            "foreign executions": runtime.execution._foreign,
            "calls served": runtime.hosting._calls,
            "questions": runtime.asks._open,
            "fetches": runtime.fetches.asked,
            "pulls": runtime.pulls._open,
            "waits for pulls": runtime.pulls._after,
            "streams": runtime.streams,
            "relays": runtime.workercalls.relays,
        }
        _empty(seen, "O1", node, tables)
    _members(seen, cluster)
    _ends(seen, cluster)


def agreed(cluster: SimCluster) -> bool:
    """Whether all who are up see each other, and nobody else."""
    living = {node.runtime.life for node in cluster.alive}
    return all(
        set(node.runtime.members.facts) == living
        and all(fact.state == "up" for fact in node.runtime.members.facts.values())
        for node in cluster.alive
    )


def _members(seen: Recorder, cluster: SimCluster) -> None:
    living = {node.runtime.life for node in cluster.alive}
    for node in cluster.alive:
        runtime = node.runtime
        known = {life: fact.state for life, fact in runtime.members.facts.items()}
        if set(known) != living or any(state != "up" for state in known.values()):
            shown = {runtime.members.facts[life].name: state for life, state in known.items()}
            seen.violated("O8", f"{node.name} sees {shown}; there are {[other.name for other in cluster.alive]}")
        for other in cluster.alive:
            if other.runtime.life in runtime.peers.tombstones:
                seen.violated("O8", f"{node.name} holds {other.name} for dead")
    prints = {node.runtime.failure.machine._fingerprint.to_wire() for node in cluster.alive}
    if len(prints) > 1:
        seen.violated("O8", f"there are {len(prints)} different views")


def _ends(seen: Recorder, cluster: SimCluster) -> None:
    cells = {same_in_each_life(id) for node in cluster.alive for id in node.runtime.hosting.cells}
    for watcher in seen.told:
        if not seen.is_alive(watcher.node) or watcher.alias:
            continue
        # Of what it was told in a former life, or as the last thing of that, it may now see the opposite.
        former = watcher.life != watcher.simulated.runtime.life or watcher.end == "fenced"
        if watcher.end and watcher.id in cells and not former:
            seen.violated("O4", f"{watcher} was told {watcher.end}, and the actor lives")
        if not watcher.end and not watcher.error and watcher.id not in cells and not _waits(cluster, watcher.id):
            seen.violated("O4", f"{watcher} was told nothing, and the actor has ended")


def _waits(cluster: SimCluster, id: tuple[bytes, int]) -> bool:
    """An actor that has no host yet, for want of room or of the node that it asks for."""
    found = [
        actor
        for node in cluster.alive
        for known, actor in node.runtime.guardians.actors.items()
        if same_in_each_life(known) == id
    ]
    return any(actor.state != "ended" for actor in found)


async def names_agree(seen: Recorder, cluster: SimCluster) -> None:
    """O6: wherever one asks, a name stands for the same actor, and it answers."""
    for name in sorted(seen.names):
        answers: dict[str, str] = {}
        for node in cluster.alive[:3]:
            answers[node.name] = await cluster.run_on(node.index, _whose, name)
        if len(set(answers.values())) > 1:
            seen.violated("O6", f"the name {name} stands for different actors: {answers}")


async def _whose(name: str) -> str:
    try:
        return str((await asyncio.wait_for(actorfw.info(await actorfw.get_actor(name)), 30)).id)
    except TimeoutError:
        return "no answer"
    except (errors.ActorNotFoundError, errors.ActorDiedError):
        return "nobody"


def let_go(seen: Recorder, cluster: SimCluster) -> None:
    """O7 and O9: nobody holds anything any more, and the grace is over."""
    for node in cluster.alive:
        runtime = node.runtime
        names = ("records", "calls", "answering", "orphans", "stored")
        held: Any = runtime.objects.ownership.snapshot()[0]
        _empty(seen, "O7", node, {f"ownership {name}": table for name, table in zip(names, held, strict=True)})
        tables: dict[str, Any] = {
            "exported objects": runtime.objects._exported,
            "actors guarded": {
                id: (actor.state, actor.options)
                for id, actor in runtime.guardians.actors.items()
                # How a detached actor ended is remembered for a minute.
                if not (is_detached(id[0]) and actor.state == "ended")
            },
            "actors hosted": runtime.hosting.cells,
            "pinned things": runtime.objects._pinned,
            "inherited things": runtime.objects._inherited,
            "copies": runtime.copies.by_id,
            "locations": runtime.locations._by_id,
            "watched actors": runtime.watching._watched,
        }
        _empty(seen, "O7", node, tables)
        _empty(seen, "O9", node, {"groups": runtime.bundles._owned, "bundles": runtime.bundles.hosted._held})
        _resources(seen, runtime)


def _resources(seen: Recorder, runtime: Node) -> None:
    ledger = runtime.ledger
    if dict(ledger._free) != dict(ledger.totals.amounts) or any(share != UNIT for share in ledger._devices):
        seen.violated("O9", f"{runtime.name} got back {ledger._free} {ledger._devices} of {ledger.totals}")


def _empty(seen: Recorder, oracle: str, node: SimNode, tables: dict[str, Any]) -> None:
    for what, table in tables.items():
        if table:
            shown = list(table.items() if isinstance(table, dict) else table)
            some = ", ".join(repr(one)[:300] for one in shown[:3])
            seen.violated(oracle, f"{node.name} still has {what}: {len(shown)}, such as {some}")
