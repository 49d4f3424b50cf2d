"""The demo's job on a cluster: map tasks on all peers, reducing actors on all but one, and that one killed half-way.

A task runs at least once, so one that a dead peer had runs again elsewhere. Its result still comes out once, at the ref
that this process holds, and only from there it goes to the reducers: nothing is counted twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import actorfw
from actorfw.demo.corpus import Chunk, Counts, Tally, count, part_of

__all__ = ["Outcome", "Peer", "count_on_cluster"]

Share = list[tuple[int, Counts]]
"""What one reducer gets of one chunk: the counts of its words, by file."""


@actorfw.remote
def count_chunk(chunk: Chunk, parts: int) -> tuple[Any, ...]:
    """Count the words of some files; returns a share for each reducer, and where and as which attempt this ran."""
    shares: list[Share] = [[] for _ in range(parts)]
    for number, path in chunk.files:
        split: list[Counts] = [Counter() for _ in range(parts)]
        for word, n in count(path).items():
            split[part_of(word, parts)][word] = n
        for share, counts in zip(shares, split, strict=True):
            share.append((number, counts))
    context = actorfw.context()
    return *shares, (context.node_id, context.attempt)


class Reducer(actorfw.Actor):
    """Adds up its share of all words, in a process of its own."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.chunks: list[int] = []

    @actorfw.method
    def add(self, chunk: int, share: Share) -> None:
        """Enter the share of a chunk."""
        self.chunks.append(chunk)
        for file, counts in share:
            self.tally.add(file, counts)

    @actorfw.method
    def result(self) -> tuple[Tally, list[int]]:
        """What it has added up, and which chunks, in the order of their coming."""
        return self.tally.in_order(), self.chunks


@dataclass(slots=True)
class Peer:
    """A peer of the demo's cluster.

    Attributes:
        tasks: how many map tasks were finished by it.
        reduces: whether a reducing actor lives there.
        killed: whether it was killed half-way.
    """

    name: str
    id: str
    address: str
    index: int
    tasks: int = 0
    reduces: bool = False
    killed: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of the job.

    Attributes:
        tally: the totals and the index.
        peers: all that there were.
        chunks: for each reducer, the chunks that it was given.
        ran_again: runs of tasks beyond the first of each.
        left: names of the peers that were members at the end.
    """

    tally: Tally = field(default_factory=Tally)
    peers: list[Peer] = field(default_factory=list[Peer])
    chunks: list[list[int]] = field(default_factory=list[list[int]])
    ran_again: int = 0
    left: list[str] = field(default_factory=list[str])


async def count_on_cluster(cluster: actorfw.LocalCluster, chunks: list[Chunk], done: Callable[[str], None]) -> Outcome:
    """Do the job.

    Args:
        cluster: with one peer at least. If it has more, the last one is killed.
        chunks: of the files.
        done: called after each chunk, with what is to be said.
    """
    outcome = Outcome(peers=await _peers(cluster))
    victim = outcome.peers[-1] if len(outcome.peers) > 1 else None
    reducers: list[Reducer] = []
    for peer in outcome.peers:
        if peer is not victim:
            peer.reduces = True
            place = actorfw.NodeAffinity(peer.id)
            reducers.append(Reducer.options(scheduling=place, num_cpus=0).remote())
    by_id = {peer.id: peer for peer in outcome.peers}
    reduced = 0

    async def one(chunk: Chunk) -> None:
        nonlocal reduced
        options = count_chunk.options(num_returns=len(reducers) + 1, scheduling="spread", name="count_chunk")
        *shares, about = options.remote(chunk, len(reducers))
        node_id, attempt = await about
        await asyncio.gather(
            *(reducer.add.remote(chunk.number, share) for reducer, share in zip(reducers, shares, strict=True))
        )
        by_id[node_id].tasks += 1
        outcome.ran_again += attempt - 1
        reduced += 1
        half_way = reduced * 2 >= len(chunks) and (victim is None or victim.tasks > 0 or reduced == len(chunks))
        if victim is not None and half_way and not victim.killed:
            victim.killed = True
            if victim.index in cluster.indices:  # somebody else may have killed it already
                await cluster.kill(victim.index)
        done(f"{victim.name} was killed" if victim is not None and victim.killed else "")

    await _all([one(chunk) for chunk in chunks])
    for tally, chunks_added in await actorfw.gather([reducer.result.remote() for reducer in reducers]):
        outcome.tally.merge(tally)
        outcome.chunks.append(chunks_added)
    outcome.left = [row.name for row in await actorfw.nodes() if not row.here]
    return outcome


async def _peers(cluster: actorfw.LocalCluster) -> list[Peer]:
    rows = {row.address: row for row in await actorfw.nodes()}
    found = zip(cluster.indices, cluster.addresses, strict=True)
    return [Peer(rows[address].name, rows[address].id, address, index) for index, address in found]


async def _all(work: list[Coroutine[Any, Any, None]]) -> None:
    """Do all of it; the first failure ends the rest, and comes out as it is."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
