"""What the membership machine wants done: one small frozen class per kind of instruction.

Responsible for: naming them. Leaves to others: deciding (`core.membership`) and doing (`runtime.failure`).
"""

from __future__ import annotations

from typing import Any, TypeAlias

from actorfw.core.records import Record
from actorfw.values.data import Data
from actorfw.values.ids import Life

__all__ = [
    "AskKernel",
    "Dead",
    "Dial",
    "Instruction",
    "Left",
    "Neighbours",
    "Send",
    "StateChanged",
    "ToldDead",
    "Unreachable",
    "Verdict",
]


class Send(Data):
    """Send a membership message. It may be lost: when there is no link, drop it or dial first, but do not let such
    messages pile up for a link that is down.

    Attributes:
        life: to whom. Mostly a neighbour; for indirect probes perhaps a member without a session, to be dialled.
        message: a list that msgpack can pack; `Membership.message` of the other side takes it.
    """

    life: Life
    message: list[Any]


class AskKernel(Data):
    """Find out whether the peer's kernel has acknowledged what was sent to it; answer with `Membership.kernel`.

    Attributes:
        since: bytes sent at or after this time are what the question is about (a ping is among them).
    """

    life: Life
    since: float


class Dial(Data):
    """Try to reach the member now; answer with `Membership.evidence` ("linked", "refused", "unreachable" or
    "another_life"). Asked again only after an answer or at the next reason."""

    life: Life
    address: str


class StateChanged(Data):
    """What this node holds of a member has changed: it is new, or its phase, state, totals or labels are others.

    Attributes:
        record: as it is now.
        state: "joining", "up", "stalled", "suspect" or "leaving".
        before: the state until now; None if the member is new here.
        detail: why, in words; "" if the member itself said so.
    """

    record: Record
    state: str
    before: str | None
    detail: str


class Verdict(Data):
    """On what grounds a member is held dead.

    Attributes:
        accusers: the members that each saw it themselves.
        proof: "" or what proves it without a count: "refused" or "another life".
        text: both in words, for people.
    """

    accusers: tuple[Life, ...]
    proof: str
    text: str


class Dead(Data):
    """The member is dead: final. It is out of the view and a tombstone is kept."""

    life: Life
    record: Record
    verdict: Verdict


class Left(Data):
    """The member has left and named an heir (b"" if it had nothing to hand over): final."""

    life: Life
    record: Record
    heir: Life


class Unreachable(Data):
    """This node alone does not reach the member; nobody confirms. Not final: authorises nothing but failing or
    re-routing calls. Ends with a `StateChanged` back to "up", or with `Dead` or `Left`."""

    life: Life
    detail: str


class ToldDead(Data):
    """Somebody holds this node's life for dead, which is final there: this node has to be born again."""

    by: Life
    text: str


class Neighbours(Data):
    """The members to keep links to have changed. Up to `ring.MESH` members, these are all of them.

    Attributes:
        added: dial these unless they are linked; `Membership.evidence` hears how it went.
        removed: links to these may be closed with a goodbye when they are idle.
    """

    added: tuple[Life, ...]
    removed: tuple[Life, ...]


Instruction: TypeAlias = Send | AskKernel | Dial | StateChanged | Dead | Left | Unreachable | ToldDead | Neighbours
