"""What listings consist of: plain rows, the same for the API, the command line and, as JSON, for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal, TypeAlias

__all__ = ["ActorInfo", "ActorState", "Hosts", "NodeRow", "NodeState"]

NodeState: TypeAlias = Literal["joining", "up", "stalled", "suspect", "leaving"]
ActorState: TypeAlias = Literal["starting", "up", "ended"]
Hosts: TypeAlias = Literal["all", "own"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """One member of the cluster, as the asked node sees it.

    Attributes:
        id: of the node, 16 hexadecimal digits.
        name: unique among live members.
        address: "host:port", where its peers dial it.
        state: "joining", "up", "stalled", "suspect" or "leaving". The dead are not listed.
        resources: all that it has, by name.
        labels: as given to `init`.
        hosts: "all", or "own" if nothing of other nodes is placed there.
        pid: of its process.
        here: whether it is the asked node itself.
    """

    id: str
    name: str
    address: str
    state: NodeState
    resources: dict[str, float] = field(default_factory=dict[str, float])
    labels: dict[str, str] = field(default_factory=dict[str, str])
    hosts: Hosts = "all"
    pid: int = 0
    here: bool = False

    def as_dict(self) -> dict[str, object]:
        """The row for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorInfo:
    """What `actorfw.info(handle)` tells.

    Attributes:
        id: of the actor.
        name: its name, or None.
        namespace: of the name, or None.
        class_name: of its class.
        state: "starting", "up" or "ended".
        reason: how it ended, one word, or "".
        node_id: of the node that hosts it.
        node: that node's name.
    """

    id: str
    name: str | None
    namespace: str | None
    class_name: str
    state: ActorState
    reason: str
    node_id: str
    node: str

    def as_dict(self) -> dict[str, object]:
        """The row for JSON."""
        return asdict(self)
