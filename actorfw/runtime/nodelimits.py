"""The limits that one node shows beside those of its entrance: what its parts hold, each read where it is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actorfw.core.limits import Limit
from actorfw.core.session import WINDOW_BYTES
from actorfw.core.spreading import MEMBERS
from actorfw.runtime.asks import ASKS
from actorfw.runtime.store.hostmates import STRANGERS
from actorfw.runtime.tombstones import TOMBSTONES

if TYPE_CHECKING:
    from actorfw.core.limits import Limits
    from actorfw.runtime.node import Node

__all__ = ["limits_of"]


def limits_of(node: Node) -> Limits:
    """All limits of a node."""
    limits = node.peers.entrance.limits
    peers = node.peers.by_life

    def unacked() -> int:
        return max((peer.unacked_bytes for peer in list(peers.values())), default=0)

    limits.add("unacked_bytes_of_a_link", Limit(WINDOW_BYTES, reading=unacked))
    limits.add("asks_of_a_peer", Limit(ASKS, reading=node.asks.most_open))
    limits.add("mates_half_open", Limit(STRANGERS, reading=node.hostmates.strangers))
    limits.add("outbox_bytes", node.tasks.outbox.limit)
    limits.add("workers", Limit(node.config.max_workers, reading=lambda: len(node.pool.workers)))
    limits.add("pending_calls", Limit(None, measured=False))
    members = Limit(MEMBERS, reading=lambda: counted())

    def counted() -> int:
        machine = getattr(node.failure, "machine", None)  # there is none before the node has introduced itself
        members.refused = machine.refused if machine is not None else 0
        return len(node.members.facts)

    limits.add("members", members)
    limits.add("tombstones", Limit(TOMBSTONES, reading=lambda: len(node.peers.tombstones)))
    return limits
