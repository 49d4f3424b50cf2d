"""What listings consist of: plain rows, the same for the API, the command line and, as JSON, for programs."""

from __future__ import annotations

from dataclasses import asdict, field
from typing import Final, Literal, TypeAlias, get_args

from actorfw.values.data import Data

__all__ = [
    "ActorInfo",
    "ActorRow",
    "ActorState",
    "DrainReport",
    "Hosts",
    "NodeRow",
    "NodeState",
    "ObjectRow",
    "ObjectState",
    "TASK_STATES",
    "TaskRow",
    "TaskState",
]

NodeState: TypeAlias = Literal["joining", "up", "stalled", "suspect", "leaving"]
ActorState: TypeAlias = Literal["starting", "up", "restarting", "ended"]
ObjectState: TypeAlias = Literal["pending", "failed", "here", "pinned", "spilled", "elsewhere"]
TaskState: TypeAlias = Literal["running", "starting", "sent", "queued", "retrying", "waiting_for_arguments"]
TASK_STATES: Final[tuple[TaskState, ...]] = get_args(TaskState)
"""In the order of listings: those that are nearest to their end first. Tasks that are done are not listed."""
Hosts: TypeAlias = Literal["all", "own"]


class NodeRow(Data, kw_only=True):
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


class ActorInfo(Data, kw_only=True):
    """What `actorfw.info(handle)` tells.

    Attributes:
        id: of the actor.
        name: its name, or None.
        namespace: of the name, or None.
        class_name: of its class.
        state: "starting", "up", "restarting" or "ended".
        incarnation: which one it is or will be; the first is 1.
        reason: how it ended, or its last incarnation while it is restarting: one word, or "".
        node_id: of the node that hosts it.
        node: that node's name.
    """

    id: str
    name: str | None
    namespace: str | None
    class_name: str
    state: ActorState
    incarnation: int
    reason: str
    node_id: str
    node: str

    def as_dict(self) -> dict[str, object]:
        """The row for JSON."""
        return asdict(self)


class ActorRow(Data, kw_only=True):
    """One actor of the cluster, as its guardian sees it.

    Attributes:
        id: of the actor.
        name: its name, or None.
        namespace: of the name, or None.
        class_name: of its class.
        state: "starting", "up" or "restarting".
        node: name of the node that hosts it.
        node_id: of that node.
        restarts: how often it was started again.
        detached: whether it outlives its creator.
    """

    id: str
    name: str | None
    namespace: str | None
    class_name: str
    state: ActorState
    node: str
    node_id: str
    restarts: int
    detached: bool

    def as_dict(self) -> dict[str, object]:
        """The row for JSON."""
        return asdict(self)


class ObjectRow(Data, kw_only=True):
    """One object of the cluster, as its owner sees it.

    Attributes:
        id: of the object: what `ref.id` says.
        size: bytes of its value, packed; 0 while it is pending.
        state: "pending": there is no value yet. "failed": an error, or a cancelled call. "here": at its owner.
            "pinned": at its owner, and somebody reads its memory now, so that it can't be spilled. "spilled": in a file
            of its owner's. "elsewhere": at other nodes only.
        owner: name of the node that owns it.
        owner_id: id of that node.
        holders: who holds it: "NODE" where there are refs in that node's process, "NODE worker PID", "NODE (in ID)"
            where it is part of another object, "NODE (in a value)" of an item, of arguments that wait or of an actor's
            recipe, "NODE (argument)" of calls under way, "NODE (pickled)" where a ref was pickled outside a message,
            "NODE (dead)" until the grace is over.
        nodes: names of the nodes that have its value.
        created_at: when its ref was made, in seconds since 1970, to about a second; None if its owner does not know.
        line: the line that made it, "file:number in function"; "" if that is not known.
        suspect: why it may be a leak, in words; "" for most.
    """

    id: str
    size: int
    state: ObjectState
    owner: str
    owner_id: str
    holders: tuple[str, ...]
    nodes: tuple[str, ...]
    created_at: float | None
    line: str
    suspect: str

    def as_dict(self) -> dict[str, object]:
        """The row for JSON."""
        return asdict(self)


class TaskRow(Data, kw_only=True):
    """One task of the cluster that is not done, as its submitter and the node that has it see it.

    Attributes:
        id: of the task: what `ref.id` says of its first result.
        name: of its function, or as `options(name=...)` says.
        state: "waiting_for_arguments": refs among its arguments have no value yet. "queued": it waits for room, at its
            submitter, at a node, or in a worker behind others. "sent": it is on its way to a node, or that one does not
            say. "starting": it has room, and its worker or its arguments are on their way. "running". "retrying": an
            attempt has failed, and the next one comes after a pause.
        node: name of the node that has it; "" if none has.
        node_id: of that node.
        submitter: name of the node that submitted it.
        submitter_id: of that node.
        attempt: which one this is; the first is 1.
        executor: "process", "thread" or "loop".
        pid: of the process that has it, where one has.
        created_at: when it was submitted, in seconds since 1970, to about a second; None if that is not known.
        since: when it began to wait for room or to run, where that is known.
        parent: id of the task that submitted it; "" if none did, or that one is done.
        detail: why it waits, if no node can run it as things are; else "".
    """

    id: str
    name: str
    state: TaskState
    node: str = ""
    node_id: str = ""
    submitter: str = ""
    submitter_id: str = ""
    attempt: int = 1
    executor: str = ""
    pid: int | None = None
    created_at: float | None = None
    since: float | None = None
    parent: str = ""
    detail: str = ""

    def as_dict(self) -> dict[str, object]:
        """The row for JSON."""
        return asdict(self)


class DrainReport(Data, kw_only=True):
    """What `actorfw.drain` tells: who took over, and what was given up when the time was over.

    Attributes:
        node: name of the node that left.
        heir: id of the node that owns now what others held of it; None if nobody held anything, or nobody took it.
        seconds: that it took.
        tasks: that it ran for others, or had submitted, and that were not done.
        calls: of its own program that were not answered.
        actors: that ended with it, though somebody had handles.
        objects: and actors made there that others held, and that nobody took over.
    """

    node: str
    heir: str | None
    seconds: float
    tasks: int = 0
    calls: int = 0
    actors: int = 0
    objects: int = 0

    @property
    def complete(self) -> bool:
        """Whether nothing was given up."""
        return not (self.tasks or self.calls or self.actors or self.objects)

    def as_dict(self) -> dict[str, object]:
        """The report for JSON."""
        return asdict(self)
