"""`NodeOptions`: what a node is started with. Where it comes from, and whether it is right, is the API's affair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actorfw.core.ledger import Shape
from actorfw.runtime.rows import Hosts
from actorfw.values.config import Config
from actorfw.values.tls import TLS

__all__ = ["NodeOptions"]


class NodeOptions:
    """What a node is started with, checked and completed (`actorfw.api.life` makes it from the arguments of `init`).

    Attributes:
        tls: of all links; None: they are sealed where they leave the machine.
        store_memory: bytes of shared memory for values; None: what the node's world thinks right.
        findable: this user's programs on this host find it as "local:CLUSTER", whatever its own seeds are.
    """

    def __init__(
        self,
        *,
        name: str,
        seeds: Sequence[str] = (),
        listen: tuple[str, int] = ("127.0.0.1", 0),
        advertise: str | None = None,
        labels: Mapping[str, str] | None = None,
        totals: Shape | None = None,
        namespace: str = "default",
        cluster: str = "default",
        hosts: Hosts = "all",
        secrets: tuple[bytes, ...] = (),
        show_output: bool = False,
        config: Config | None = None,
        warm: bool = True,
        store_memory: int | None = None,
        tls: TLS | None = None,
        findable: bool = False,
    ) -> None:
        self.name = name
        self.seeds = list(seeds)
        self.listen = listen
        self.advertise = advertise
        self.labels = dict(labels or {})
        self.totals = totals or Shape()
        self.namespace = namespace
        self.cluster = cluster
        self.hosts: Hosts = hosts
        self.secrets = secrets
        self.show_output = show_output
        self.config = config or Config()
        self.warm = warm
        self.store_memory = store_memory
        self.tls = tls
        self.findable = findable
