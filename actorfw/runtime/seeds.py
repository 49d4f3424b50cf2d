"""What a node's seeds stand for at this moment, and whether they make it the founder of a cluster.

A seed is "host:port", the name of a service (SRV records), or "local:CLUSTER", this user's live nodes of that cluster
on this host. Names are looked up anew each time: behind them may be other addresses than a moment ago. Dialling them is
`runtime.joining`'s affair, and later `runtime.rebirth`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from actorfw.io.env import Env
from actorfw.io.rendezvous import Mate, Rendezvous
from actorfw.io.services import is_service
from actorfw.io.tcp import is_literal, is_wildcard, join_address, split_address
from actorfw.values.errors import PeerUnreachableError, UsageError

if TYPE_CHECKING:
    from actorfw.runtime.node import Node

__all__ = ["LOCAL", "Found", "OwnSeeds", "Seeds"]

logger = logging.getLogger("actorfw.members")

LOCAL: Final = "local:"


class Found(NamedTuple):
    """What seeds stand for.

    Attributes:
        addresses: in the order of the seeds, those of a name sorted.
        first: those of the first seed alone.
        unknown: seeds that stand for nothing now, and why.
    """

    addresses: list[str]
    first: list[str]
    unknown: dict[str, Exception]


class Seeds:
    """Some seeds, for whoever wants to dial them.

    Args:
        env: in whose world they stand for something.
        of: the seeds themselves.
    """

    def __init__(self, env: Env, of: Sequence[str]) -> None:
        self.env = env
        self.of = of
        cluster = next((seed.removeprefix(LOCAL) for seed in of if seed.startswith(LOCAL)), None)
        self._rendezvous: Rendezvous | None = None if cluster is None else env.rendezvous(cluster)

    async def look(self) -> Found:
        """The addresses behind the seeds."""
        addresses: dict[str, None] = {}
        unknown: dict[str, Exception] = {}
        first: list[str] = []
        for index, seed in enumerate(self.of):
            try:
                found = await self._behind(seed)
            except (PeerUnreachableError, UsageError) as error:
                unknown[seed] = error
                continue
            addresses.update(dict.fromkeys(found))
            if index == 0:
                first = found
        return Found(list(addresses), first, unknown)

    async def _behind(self, seed: str) -> list[str]:
        env = self.env
        if seed.startswith(LOCAL):
            return self._mates()
        name = seed if is_service(seed) else split_address(seed)[0]
        try:
            if name == seed:
                found = [join_address(address, port) for _, address, port in await env.services(seed)]
            else:
                port = split_address(seed)[1]
                hosts = [name] if is_literal(name) else sorted(await env.resolve(name))
                found = [join_address(host, port) for host in hosts]
        except OSError as error:
            raise PeerUnreachableError(f"the name {name!r} can't be resolved: {error.strerror or error}") from error
        if not found:
            raise PeerUnreachableError(f"the name {name!r} stands for no address")
        return found

    def _mates(self) -> list[str]:
        assert self._rendezvous is not None
        mates = self._rendezvous.mates()
        if not mates:
            raise PeerUnreachableError(
                f"no node of this user on this host is a member of that cluster (the folder {self._rendezvous.where}"
                " has their entries)"
            )
        return [mate.address for mate in mates]


class OwnSeeds(Seeds):
    """The seeds of a node, which others may find by them."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.env, node.options.seeds)
        if self._rendezvous is None and node.options.findable:
            self._rendezvous = node.env.rendezvous(node.options.cluster)
        self.node = node
        self._absent: set[str] = set()

    def absent(self, address: str) -> None:
        """Nobody listens there: if that is the address of an entry, its node is gone, whatever keeps the entry."""
        self._absent.add(address)

    def enter_alone(self) -> bool:
        """Whether this node is the first of its user on this host, by the first seed. Others find it from then on."""
        absent, self._absent = self._absent, set()
        if self._rendezvous is None or not self.of or not self.of[0].startswith(LOCAL):
            return False
        return self._rendezvous.enter_alone(self._me(), absent) is True

    def enter(self) -> None:
        """This node is a member: others of this user on this host may join by it."""
        if self._rendezvous is None or self.node.closing:
            return
        try:
            self._rendezvous.enter(self._me())
        except UsageError as error:
            logger.warning("other nodes of this host won't find node %s: %s", self.node.name, error)

    def leave(self) -> None:
        """Nobody is to join by this node any more."""
        if self._rendezvous is not None:
            self._rendezvous.leave()

    def descriptors(self) -> list[int]:
        """What a forked child must not hold."""
        return [] if self._rendezvous is None else self._rendezvous.descriptors()

    def _me(self) -> Mate:
        node = self.node
        host, port = split_address(node.listen_address)
        if is_wildcard(host):
            host = "::1" if ":" in host else "127.0.0.1"
        return Mate(join_address(host, port), node.address, node.env.pid)
