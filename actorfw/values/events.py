"""What a node sees happen: the events that `actorfw.events()` yields.

Plain frozen values. `time` is seconds since 1970 by the clock of the node that published the event, and is filled in
then. Who publishes which, and to whom they travel, is `runtime.events`.
"""

from __future__ import annotations

from dataclasses import asdict

from actorfw.values.data import Data

__all__ = [
    "ActorEnded",
    "ActorEvent",
    "ActorRestarted",
    "Event",
    "EventsDropped",
    "NameConflict",
    "NodeDied",
    "NodeEvent",
    "NodeJoined",
    "NodeLeaving",
    "NodeLeft",
    "NodeResumed",
    "NodeStalled",
    "NodeSuspected",
    "NodeUp",
    "Reborn",
    "TellFailed",
]


class Event(Data):
    """Anything that `actorfw.events()` yields."""

    @property
    def kind(self) -> str:
        """The name of its class, such as "NodeUp"."""
        return type(self).__name__

    def as_dict(self) -> dict[str, object]:
        """The event for JSON, with its kind."""
        return {"kind": self.kind, **asdict(self)}


# -- members, as the node that is asked sees them ----------------------------------------------------------------------


class NodeEvent(Event):
    """Something about a member of the cluster, as this node sees it.

    Attributes:
        node_id: of the member, 16 hexadecimal digits.
        name: its name.
        address: where its peers dial it.
        detail: why, in words, or "".
        time: when this node saw it.
    """

    node_id: str
    name: str
    address: str
    detail: str = ""
    time: float = 0.0


class NodeJoined(NodeEvent):
    """A node asks to be a member; nothing is placed on it yet. Published when this node first hears of that life."""


class NodeUp(NodeEvent):
    """A member takes work from now on. Published once for each life, when it has been dialled back."""


class NodeStalled(NodeEvent):
    """A member's process does not answer while its machine does. It gets no new work; nothing has failed."""


class NodeResumed(NodeEvent):
    """A member that was stalled or suspected answers again."""


class NodeSuspected(NodeEvent):
    """A member can't be reached. It may refute that; else it is declared dead."""


class NodeLeaving(NodeEvent):
    """A member drains: it takes no new work and hands over what it has."""


class NodeLeft(NodeEvent):
    """A member has left in an orderly way."""


class NodeDied(NodeEvent):
    """A member was declared dead: final for that life. Published after its calls and watches here have ended."""


class Reborn(NodeEvent):
    """This node was declared dead while it lived, and goes on as a new life. Published when it has joined again."""


# -- actors, from the whole cluster ------------------------------------------------------------------------------------


class ActorEvent(Event):
    """Something about an actor, anywhere in the cluster."""


class ActorRestarted(ActorEvent):
    """An actor runs again, as a new incarnation. Published by its guardian when its new host has made it.

    Attributes:
        actor: its id, as in `actorfw.info(handle)`.
        name: in `options(name=)`, or the name of its class.
        incarnation: the number of the new one; the first is 1.
        node_id: of the node that hosts it now.
        reason: how the incarnation before ended.
        time: when.
    """

    actor: str
    name: str
    incarnation: int
    node_id: str
    reason: str
    time: float = 0.0


class ActorEnded(ActorEvent):
    """An actor has ended for good. Published by its guardian; by its host if the guardian is dead.

    Attributes:
        actor: its id, as in `actorfw.info(handle)`.
        name: in `options(name=)`, or the name of its class.
        reason: one of the words that `actorfw.watch` gives.
        node_id: of the node that hosted it last, or "".
        time: when.
    """

    actor: str
    name: str
    reason: str
    node_id: str
    time: float = 0.0


class NameConflict(ActorEvent):
    """Two parts of the cluster that had lost sight of each other had both given a name. Published by the name's keeper.

    Attributes:
        name: that both had.
        namespace: of the name.
        kept: the id of the older actor, which keeps it.
        stopped: the id of the other, which is stopped with the reason "name_conflict".
        time: when.
    """

    name: str
    namespace: str
    kept: str
    stopped: str
    time: float = 0.0


class TellFailed(ActorEvent):
    """A method that was called by `tell` raised. Published by the actor's node, which logs it too.

    Attributes:
        actor: its id, as in `actorfw.info(handle)`.
        method: that raised.
        error: the exception and its traceback as text.
        time: when.
    """

    actor: str
    method: str
    error: str
    time: float = 0.0


# -- the reader itself -------------------------------------------------------------------------------------------------


class EventsDropped(Event):
    """This reader was too slow: its oldest events are gone. Stands where they would have stood.

    Attributes:
        count: how many.
    """

    count: int
