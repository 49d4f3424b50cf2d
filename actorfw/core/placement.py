"""Where a task or an actor goes: the choice a submitter makes from what it knows of the members.

Responsible for: who may run it at all, which of those is best, and saying in words why nobody can.
Leaves to others: asking, windows, queues, and the last word, which is the executing node's ledger.

Rules, in this order:

1. Only members that are up, host for others (or are this node), have what is asked for in their totals, and carry the
   labels that are asked for.
2. A member that sent this one back, or to which as much of ours is on the way as its window lets in, is left out. There
   is a window for each shape, or a large one would never be sent while there are small ones. If that leaves nobody, the
   task waits here. If there was nobody to begin with, no waiting helps unless members change.
3. `NodeAffinity`: that member; nobody ever if that one is gone; if soft, only while it seems to have room. `spread`:
   who has the fewest of ours.
4. In a placement group: where its bundles lie, and nowhere else.
5. Else who holds the most bytes of the arguments, if that is more than `LARGE` and it is not over-full; else this node
   while it has room; else of two members at random the one that is less loaded.

The load that is known of a member is old. All who hear that somebody is idle go there at once, unless each counts what
it has sent since, and unless chance keeps them apart: the best of all by old news is much worse than a blind choice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import field
from random import Random
from typing import Final, Literal, TypeAlias

from actorfw.core.ledger import Shape
from actorfw.values.data import Data
from actorfw.values.ids import Life
from actorfw.values.scheduling import Labels, NodeAffinity, Scheduling

__all__ = ["LARGE", "WAIT", "Choice", "Infeasible", "Member", "Wait", "choose", "choose_in_group", "window"]

LARGE: Final = 1 << 20
"""Bytes of arguments that are worth going to."""

_TOLD: Final = 10
"""Members that an `Infeasible` lists: a text, not a table."""

# Stalled and suspect members may come back, so nothing is infeasible for their sake, but no new work goes there.
_MAY_COME: Final = frozenset({"up", "joining", "stalled", "suspect"})


class Member(Data, frozen=False):
    """What a submitter knows of a member.

    Attributes:
        life: of the member.
        node_id: as users see it.
        totals: all that it has.
        labels: its labels.
        hosts: whether it runs what others submit.
        state: as in `nodes()`.
        load: tasks running and queued there, when it last said so.
        since: what this node has sent there since it said so.
        own: what of this node is there or on its way, not yet answered.
        alike: how much of that is of the shape that is being placed.
        name: for texts.
    """

    life: Life
    node_id: str
    totals: Shape
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    hosts: Literal["all", "own"] = "all"
    state: str = "up"
    load: float = 0.0
    since: int = 0
    own: int = 0
    alike: int = 0
    name: str = ""


class Wait(Data):
    """It fits somewhere, but nobody takes it now."""


class Infeasible(Data):
    """No member could ever run it.

    Attributes:
        text: what is asked for, and what there is, for the log and for `UnschedulableError`.
        final: no change of members can help, so that waiting makes no sense.
    """

    text: str
    final: bool = False


WAIT: Final = Wait()

Choice: TypeAlias = Life | Wait | Infeasible


def window(slots: int) -> int:
    """How much one submitter may have at a host for so many slots: all busy, as much again on the way, and one."""
    return 2 * slots + 1


def choose(
    shape: Shape,
    scheduling: Scheduling,
    *,
    me: Life,
    room: bool,
    members: Sequence[Member],
    rng: Random,
    bytes_at: Mapping[Life, int] | None = None,
    exclude: Collection[Life] = (),
    lasting: bool = False,
    gone: Collection[str] = (),
) -> Choice:
    """Choose who runs something.

    Args:
        shape: what it needs.
        scheduling: the option.
        me: this node's life.
        room: whether this node can start it now: it is up and its ledger has room.
        members: all that are known, this node among them if it can host anything.
        rng: chance.
        bytes_at: where the arguments' large parts lie.
        exclude: who sent this one back.
        lasting: it is an actor. What stays where it is says nothing about how much is on the way, so there is no
            window: a host without room sends it back, and says when there is some.
        gone: ids of nodes that are dead or have left, and have not been seen in another life since.

    Returns:
        The life of the chosen one, `WAIT`, or why nobody can.
    """
    if room and scheduling == "default" and not bytes_at and me not in exclude:
        return me  # the usual case needs no look at the members
    able = [m for m in members if m.state == "up" and _able(m, shape, scheduling, me)]
    if not able and not any(m.state in _MAY_COME and _able(m, shape, scheduling, me) for m in members):
        return _infeasible(shape, scheduling, me, members, gone)
    # Slots are needed twice for each, and counting them is the dearest part of a choice.
    ready: list[tuple[Member, int]] = []
    for member in able:
        slots = shape.slots(member.totals)
        if member.life in exclude:
            continue
        # What asks for nothing finds room anywhere: a window would only slow down who waits for the network.
        if room if member.life == me else lasting or not shape.amounts or member.alike < window(slots):
            ready.append((member, slots))

    if isinstance(scheduling, NodeAffinity):
        if not scheduling.soft:
            return ready[0][0].life if ready else WAIT
        for member, slots in ready:
            if member.node_id == scheduling.node_id and (member.life == me or member.load + member.since < slots):
                return member.life
        return choose(
            shape,
            "default",
            me=me,
            room=room,
            members=members,
            rng=rng,
            bytes_at=bytes_at,
            exclude=exclude,
            lasting=lasting,
        )
    if not ready:
        return WAIT
    if scheduling == "spread":
        fewest = min(member.own for member, _ in ready)
        return rng.choice([member.life for member, _ in ready if member.own == fewest])
    if bytes_at:
        near = _nearest(ready, bytes_at, me)
        if near is not None:
            return near
    if room and any(member.life == me for member, _ in ready):
        return me
    if len(ready) == 1:
        return ready[0][0].life
    one, other = rng.sample(ready, 2)
    return (one if _fullness(one) <= _fullness(other) else other)[0].life


def choose_in_group(
    shape: Shape,
    places: Sequence[tuple[Life | None, Shape]],
    *,
    me: Life,
    room: bool,
    members: Sequence[Member],
    rng: Random,
    exclude: Collection[Life] = (),
    lasting: bool = False,
) -> Choice:
    """Choose where in a placement group something runs.

    Args:
        shape: what it needs.
        places: where the bundles that it may run in lie, None while one has no place, and what each holds in all.
        me: this node's life.
        room: whether a bundle here has room now.
        members: all that are known.
        rng: chance.
        exclude: who sent this one back.
        lasting: as in `choose`.

    Returns:
        The life of the chosen one, `WAIT`, or why no bundle of the group can ever run it.
    """
    fits = [(life, bundle) for life, bundle in places if shape.within(bundle)]
    if not fits:
        has = "; ".join(str(bundle) for _, bundle in places) or "none that are left"
        return Infeasible(f"no bundle of its placement group can run this: it asks for {shape}; the bundles are {has}")
    known = {member.life: member for member in members if member.state == "up"}
    slots: dict[Life, int] = {}
    for life, bundle in fits:
        if life is not None and life in known and life not in exclude:
            slots[life] = slots.get(life, 0) + shape.slots(bundle)
    ready = [
        life
        for life, count in slots.items()
        if (room if life == me else lasting or not shape.amounts or known[life].alike < window(count))
    ]
    if not ready:
        return WAIT
    fewest = min(known[life].own / slots[life] for life in ready)
    return rng.choice([life for life in ready if known[life].own / slots[life] == fewest])


def _fullness(candidate: tuple[Member, int]) -> float:
    member, slots = candidate
    return (member.load + member.since) / slots


def _nearest(ready: Sequence[tuple[Member, int]], bytes_at: Mapping[Life, int], me: Life) -> Life | None:
    most, best = LARGE, None
    for member, slots in ready:
        amount = bytes_at.get(member.life, 0)
        if amount > most and (member.life == me or member.load + member.since < window(slots)):
            most, best = amount, member.life
    return best


def _able(member: Member, shape: Shape, scheduling: Scheduling, me: Life) -> bool:
    """Whether it could run this at all, its state aside."""
    if member.hosts == "own" and member.life != me:
        return False
    if isinstance(scheduling, Labels) and not scheduling.matches(member.labels):
        return False
    if isinstance(scheduling, NodeAffinity) and not scheduling.soft and member.node_id != scheduling.node_id:
        return False
    return shape.within(member.totals)


def _infeasible(
    shape: Shape, scheduling: Scheduling, me: Life, members: Sequence[Member], gone: Collection[str]
) -> Infeasible:
    if isinstance(scheduling, NodeAffinity) and scheduling.node_id in gone:
        # It was there, so nobody is about to start it for the first time: waiting is for what may yet come.
        lost = f"{scheduling} is dead or has left, and NodeAffinity without soft=True lets nobody else run this"
        return Infeasible(lost, final=True)
    return Infeasible(_explain(shape, scheduling, me, members))


def _explain(shape: Shape, scheduling: Scheduling, me: Life, members: Sequence[Member]) -> str:
    asked = str(shape)
    if isinstance(scheduling, Labels):
        asked += f", labels {scheduling}"
    elif isinstance(scheduling, NodeAffinity):
        asked += f", {scheduling}"
        if all(member.node_id != scheduling.node_id for member in members):
            return f"no member can run this: it asks for {asked}, and no member has that id"
    if not members:
        return f"no member can run this: it asks for {asked}, and there are no members"
    rows = [_describe(member, shape, scheduling, me) for member in members[:_TOLD]]
    if len(members) > _TOLD:
        rows.append(f"and {len(members) - _TOLD} more")
    return f"no member can run this: it asks for {asked}; there are {'; '.join(rows)}"


def _describe(member: Member, shape: Shape, scheduling: Scheduling, me: Life) -> str:
    why: list[str] = []
    if member.state not in _MAY_COME:
        why.append(f"is {member.state}")
    if member.hosts == "own" and member.life != me:
        why.append('runs only its own work (hosts="own")')
    lacking = shape.lacking(member.totals)
    if lacking:
        why.append(f"too little {' and '.join(lacking)}")
    if isinstance(scheduling, Labels) and not scheduling.matches(member.labels):
        labels = ", ".join(f"{name}={value}" for name, value in sorted(member.labels.items()))
        why.append(f"labels {labels}" if labels else "no labels")
    if isinstance(scheduling, NodeAffinity) and member.node_id != scheduling.node_id:
        why.append("another node")
    return f"{member.name or member.node_id} with {member.totals} ({', '.join(why)})"
