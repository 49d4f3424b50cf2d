"""Every interleaving of sends, dials, deliveries and breaks between two sessions, in small bounds.

Two real `Session` objects, links as queues of packets. A link may break at any moment, with any prefix of what is on
its way still arriving, and only one side told at first. Checked in every state: what a side processed is a prefix of
what the other sent, and no gap ever appears. Checked in every final state: all was delivered, unless all dials are
used up.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import pytest

from actorfw.core.session import Adopt, CloseLink, Instruction, RefuseLink, Resend, Session, Welcome

LIVES = (b"a" * 16, b"b" * 16)
# What does not matter to delivery would only multiply states.
IGNORED = {"told", "untold_bytes", "_delay", "unacked_bytes", "me", "peer"}

Packet: TypeAlias = tuple[Any, ...]
Link: TypeAlias = tuple[tuple[Packet, ...], tuple[Packet, ...], bool, bool]
"""What side 0 wrote, what side 1 wrote, whether the end of side 0, of side 1 is open."""


class CarelessSession(Session):
    """The planted bug: the old link's unread bytes are processed as well."""

    __slots__ = ()

    def receive(self, link: object, n: int) -> bool | None:
        return super().receive(self.link, n)


SLOTS: tuple[str, ...] = tuple(Session.__slots__)
COMPARED = tuple(slot for slot in SLOTS if slot not in IGNORED)


def fork(session: Session) -> Session:
    twin = type(session).__new__(type(session))
    for slot in SLOTS:
        setattr(twin, slot, getattr(session, slot))
    twin.unacked = session.unacked.copy()
    return twin


def snapshot(session: Session) -> tuple[Any, ...]:
    return tuple(
        tuple(value) if isinstance(value, deque) else value for value in (getattr(session, s) for s in COMPARED)
    )


@dataclass(slots=True)
class World:
    """One state, and what can happen next."""

    sessions: list[Session]
    links: list[Link]
    delivered: list[tuple[bytes, ...]]
    breaks: int
    dials: list[int]
    careless: bool
    broken: str = ""

    def key(self) -> tuple[Any, ...]:
        return (
            snapshot(self.sessions[0]),
            snapshot(self.sessions[1]),
            tuple(self.links),
            tuple(self.delivered),
            self.breaks,
            tuple(self.dials),
        )

    def copy(self) -> World:
        return World(
            [fork(s) for s in self.sessions],
            self.links[:],
            self.delivered[:],
            self.breaks,
            self.dials[:],
            self.careless,
        )

    # What sides do to links.

    def write(self, link: int, side: int, packet: Packet) -> None:
        queues: list[Any] = list(self.links[link])
        if queues[2 + side]:
            queues[side] = (*queues[side], packet)
            self.links[link] = cast("Link", tuple(queues))

    def shut(self, link: int, side: int, *, unread: bool = False) -> None:
        """Side closes its end; what it has not read is discarded, unless it is careless."""
        queues: list[Any] = list(self.links[link])
        queues[2 + side] = False
        if not unread:
            queues[1 - side] = ()
        self.links[link] = cast("Link", tuple(queues))

    def do(self, side: int, instructions: list[Instruction]) -> None:
        session = self.sessions[side]
        for instruction in instructions:
            match instruction:
                case CloseLink(int(link)):
                    # The careless side goes on reading: its end stays open as far as the queue is concerned.
                    if not self.careless:
                        self.shut(link, side)
                case Welcome(int(link), seen):
                    self.write(link, side, ("welcome", seen))
                case RefuseLink(int(link), epoch):
                    self.write(link, side, ("refuse", epoch))
                    self.shut(link, side)
                case Resend(int(link), frames):
                    for n, batch in frames:
                        self.write(link, side, ("data", n, session.seen, batch))
                case Adopt(_):
                    pass
                case _:
                    pass  # dials are events of their own here

    # What can happen.

    def steps(self, messages: int) -> list[tuple[str, World]]:
        found: list[tuple[str, World]] = []
        for side in (0, 1):
            session = self.sessions[side]
            if session.next_out < messages and session.link is not None:
                found.append((f"{side} sends", self.send(side)))
            if session.may_dial() and self.dials[side]:
                found.append((f"{side} dials", self.dial(side)))
            for link, ends in enumerate(self.links):
                unread = ends[1] if side == 0 else ends[0]
                if ends[2 + side]:
                    if unread:
                        found.append((f"{side} reads {unread[0]} on {link}", self.read(side, link)))
                    elif not ends[3 - side]:
                        found.append((f"{side} sees the end of {link}", self.lose(side, link)))
        if self.breaks:
            for link, ends in enumerate(self.links):
                for told in (0, 1):
                    if ends[2 + told]:
                        for first in range(len(ends[0]) + 1):
                            for second in range(len(ends[1]) + 1):
                                label = f"{link} breaks, {told} knows, {first} and {second} packets still arrive"
                                found.append((label, self.break_link(link, told, first, second)))
        return found

    def send(self, side: int) -> World:
        after = self.copy()
        session = after.sessions[side]
        assert isinstance(session.link, int)
        batch = b"%d" % (session.next_out + 1)
        n = session.put(batch)
        after.write(session.link, side, ("data", n, session.seen, batch))
        return after

    def dial(self, side: int) -> World:
        after = self.copy()
        after.dials[side] -= 1
        after.links.append(((), (), True, True))
        link = len(after.links) - 1
        session = after.sessions[side]
        epoch = session.dialled(link)
        after.write(link, side, ("offer", epoch, session.seen))
        return after

    def read(self, side: int, link: int) -> World:
        after = self.copy()
        session = after.sessions[side]
        queues: list[Any] = list(after.links[link])
        packet, queues[1 - side] = queues[1 - side][0], queues[1 - side][1:]
        after.links[link] = cast("Link", tuple(queues))
        match packet:
            case ("offer", epoch, seen):
                after.do(side, session.offered(link, epoch, seen))
            case ("welcome", seen):
                after.do(side, session.welcomed(link, seen))
            case ("refuse", epoch):
                session.refused(link, epoch)
                after.shut(link, side)
            case ("data", n, ack, batch):
                if not session.acknowledge(ack):
                    after.broken = f"{side} gets an ack of what it never sent"
                wanted = session.receive(link, n)
                if wanted is None:
                    after.broken = f"{side} sees a gap before {n}"
                elif wanted:
                    session.processed(n, len(batch))
                    after.delivered[side] = (*after.delivered[side], batch)
                    if batch != b"%d" % len(after.delivered[side]):
                        after.broken = f"{side} processed {after.delivered[side]}"
            case _:
                raise AssertionError(packet)
        return after

    def lose(self, side: int, link: int) -> World:
        after = self.copy()
        after.shut(link, side)
        after.sessions[side].lost(link)
        return after

    def break_link(self, link: int, told: int, first: int, second: int) -> World:
        after = self.copy()
        after.breaks -= 1
        ends = after.links[link]
        after.links[link] = (ends[0][:first], ends[1][:second], ends[2], ends[3])
        after.shut(link, told)
        after.sessions[told].lost(link)
        return after


def explore(kind: type[Session], messages: int, breaks: int, dials: int, limit: int) -> tuple[str, int, list[str]]:
    """Breadth first: (what is wrong or "", states seen, the shortest way there)."""
    me, peer = LIVES
    start = World([kind(me, peer), kind(peer, me)], [], [(), ()], breaks, [dials, dials], kind is CarelessSession)
    came_from: dict[tuple[Any, ...], tuple[tuple[Any, ...], str] | None] = {start.key(): None}
    waiting = deque([(start, start.key())])

    def way_to(key: tuple[Any, ...]) -> list[str]:
        labels: list[str] = []
        step = came_from[key]
        while step is not None:
            key, label = step
            labels.append(label)
            step = came_from[key]
        return labels[::-1]

    while waiting and len(came_from) < limit:
        world, key = waiting.popleft()
        steps = world.steps(messages)
        for label, after in steps:
            if after.broken:
                return after.broken, len(came_from), [*way_to(key), label]
            next_key = after.key()
            if next_key not in came_from:
                came_from[next_key] = (key, label)
                waiting.append((after, next_key))
        if not steps and any(len(got) < messages for got in world.delivered):
            if any(session.link is not None for session in world.sessions):
                return "stuck with a link", len(came_from), way_to(key)
            if any(world.dials):
                return "stuck with dials left", len(came_from), way_to(key)
    return "", len(came_from), []


def test_one_message_each_way_two_dials_and_a_break() -> None:
    wrong, states, way = explore(Session, messages=1, breaks=1, dials=2, limit=2_000_000)
    assert not wrong, (wrong, way)
    assert 1_000 < states < 2_000_000


@pytest.mark.slow
def test_two_messages_each_way_two_dials_and_a_break() -> None:
    wrong, states, way = explore(Session, messages=2, breaks=1, dials=2, limit=2_000_000)
    assert not wrong, (wrong, way)
    assert 10_000 < states < 2_000_000


def test_reading_on_from_the_old_link_is_noticed() -> None:
    wrong, _, way = explore(CarelessSession, messages=1, breaks=1, dials=2, limit=100_000)
    assert wrong
    assert way
