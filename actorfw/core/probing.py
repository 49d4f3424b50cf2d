"""Probes of one member: whose turn it is, what became of each probe, and how well this node itself is.

Responsible for: the order of probes, the steps and times of each, helping others with theirs, and local health.
Leaves to others: what a failed probe means (`core.membership`).

A probe, with the times of the profile, from its ping on:

    probe_timeout     no answer: ask the peer's kernel
                      it acknowledges: wait until `stall_after`, then the member is stalled
                      it does not: `helpers` others are asked to ping it; each answers with its answer, or says in time
                      that it has none yet, which shows that this node hears at least them
    the interval      times (health + 1): no answer by any way: the member is suspect

Members are probed in a shuffled order, each once before any is probed again: the longest time between two probes of
one member by another is 2n - 1 intervals.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import field
from random import Random
from typing import Literal, TypeAlias

from actorfw.core.records import Accusation
from actorfw.values.data import Data
from actorfw.values.ids import Life
from actorfw.values.profiles import Profile

__all__ = ["Awareness", "Probe", "Prober", "Step"]

FIRST, SECOND, STALLING = range(3)

Step: TypeAlias = tuple[Literal["kernel", "helpers", "failed"], "Probe"]


class Awareness:
    """Local health (Lifeguard's local health multiplier): 0 is well; the higher, the less this node trusts itself."""

    __slots__ = ("_most", "score")

    def __init__(self, most: int) -> None:
        self.score = 0
        self._most = most - 1

    def change(self, by: int) -> None:
        self.score = max(0, min(self._most, self.score + by))

    def scale(self, span: float) -> float:
        return span * (self.score + 1)


class Probe(Data, frozen=False):
    """One probe on its way.

    Attributes:
        target: who is probed.
        number: of the ping.
        started: when it was sent, or when this node's own clock stood still last.
        next: when the next step is due.
        ends: when it has failed.
        step: of the three.
        helpers: who was asked to help and has not said that it hears nothing yet.
        asked: how many they were.
        what: what the member is accused of if it fails.
    """

    target: Life
    number: int
    started: float
    next: float
    ends: float
    step: int = FIRST
    helpers: set[Life] = field(default_factory=set[Life])
    asked: int = 0
    what: Accusation = Accusation.SUSPECT


class _Relay(Data, frozen=False):
    asker: Life
    asker_number: int
    target: Life
    nack_at: float
    ends: float
    nacked: bool = False


class Prober:
    """All probes of one member."""

    def __init__(self, profile: Profile, rng: Random) -> None:
        self.profile = profile
        self.awareness = Awareness(profile.awareness_max)
        self.probes: dict[int, Probe] = {}
        self._relays: dict[int, _Relay] = {}
        self._rng = rng
        self._order: list[Life] = []
        self._number = 0

    def next_target(self, neighbours: Collection[Life]) -> Life | None:
        """Whose turn it is."""
        while True:
            if not self._order:
                self._order = sorted(neighbours)
                self._rng.shuffle(self._order)
                if not self._order:
                    return None
            target = self._order.pop()
            if target in neighbours:
                return target

    def add(self, life: Life) -> None:
        """A new neighbour: somewhere in this round, so that all do not probe it at once."""
        self._order.insert(self._rng.randrange(len(self._order) + 1), life)

    def start(self, target: Life, now: float) -> Probe:
        """A ping is sent. Members that are suspected are probed beside the order."""
        self._number += 1
        ends = now + self.awareness.scale(self.profile.probe_interval)
        probe = Probe(target, self._number, now, now + self.profile.probe_timeout, ends)
        self.probes[self._number] = probe
        return probe

    def probing(self, target: Life) -> bool:
        return any(probe.target == target for probe in self.probes.values())

    def next_at(self) -> float:
        times = [probe.next for probe in self.probes.values()]
        times += [relay.ends if relay.nacked else relay.nack_at for relay in self._relays.values()]
        return min(times, default=float("inf"))

    def due(self, now: float) -> list[Step]:
        """What has to be done about probes now. "kernel" is to be answered by `kernel`, "helpers" by `helped`."""
        steps: list[Step] = []
        for probe in [probe for probe in self.probes.values() if probe.next <= now]:
            if probe.step == FIRST:
                probe.step = SECOND
                probe.next = probe.ends
                steps.append(("kernel", probe))
            else:
                del self.probes[probe.number]
                steps.append(("failed", probe))
        return steps

    def kernel(self, target: Life, answer: bool | None) -> list[Step]:
        """What the target's kernel does, for all probes that wait for this."""
        steps: list[Step] = []
        for probe in self.probes.values():
            if probe.target != target or probe.step != SECOND or probe.asked:
                continue
            if answer:
                probe.step = STALLING
                probe.what = Accusation.STALLED
                probe.next = probe.ends = max(probe.ends, probe.started + self.profile.stall_after)
            else:
                steps.append(("helpers", probe))
        return steps

    def helped(self, probe: Probe, helpers: Collection[Life]) -> None:
        """These were asked."""
        probe.helpers = set(helpers)
        probe.asked = len(helpers)

    def answered(self, frm: Life, number: int) -> tuple[Probe | None, tuple[Life, int] | None]:
        """A ping was answered: (the probe that succeeded, if it was one; who is to be told, if it was for another)."""
        probe = self.probes.get(number)
        if probe is not None and probe.target == frm:
            self._succeeded(probe)
            return probe, None
        relay = self._relays.get(number)
        if relay is not None and relay.target == frm:
            del self._relays[number]
            return None, (relay.asker, relay.asker_number)
        return None, None

    def vouched(self, number: int, target: Life) -> Probe | None:
        """A helper got an answer."""
        probe = self.probes.get(number)
        if probe is None or probe.target != target:
            return None
        self._succeeded(probe)
        return probe

    def nacked(self, frm: Life, number: int) -> None:
        """A helper has none yet."""
        probe = self.probes.get(number)
        if probe is not None:
            probe.helpers.discard(frm)

    def _succeeded(self, probe: Probe) -> None:
        del self.probes[probe.number]
        self.awareness.change(-1)

    def failed(self, probe: Probe) -> None:
        """Judge this node by a probe that failed: who hears neither target nor helpers may be deaf itself.

        That the peer's kernel answered shows that this node is not.
        """
        if probe.what is Accusation.SUSPECT:
            self.awareness.change(len(probe.helpers) if probe.asked else 1)

    def relay(self, asker: Life, asker_number: int, target: Life, now: float) -> int:
        """Another asks for help: the number of the ping to send to the target."""
        profile = self.profile
        self._number += 1
        rest = profile.probe_interval - profile.probe_timeout
        self._relays[self._number] = _Relay(
            asker, asker_number, target, now + profile.nack_share * rest, now + profile.probe_interval
        )
        return self._number

    def nacks_due(self, now: float) -> list[tuple[Life, int, Life]]:
        """Whom to tell that there is no answer yet: (asker, its number, target)."""
        due: list[tuple[Life, int, Life]] = []
        for number, relay in list(self._relays.items()):
            if not relay.nacked and relay.nack_at <= now:
                relay.nacked = True
                due.append((relay.asker, relay.asker_number, relay.target))
            if relay.nacked and relay.ends <= now:
                del self._relays[number]
        return due

    def forget(self, life: Life) -> None:
        """It is no member any more."""
        for number in [number for number, probe in self.probes.items() if probe.target == life]:
            del self.probes[number]
        for number in [n for n, relay in self._relays.items() if life in (relay.asker, relay.target)]:
            del self._relays[number]

    def restart(self, now: float) -> None:
        """This node's clock stood still: no probe has failed because of that."""
        for probe in self.probes.values():
            probe.started = now
            probe.step = FIRST
            probe.helpers = set()
            probe.asked = 0
            probe.what = Accusation.SUSPECT
            probe.next = now + self.profile.probe_timeout
            probe.ends = now + self.awareness.scale(self.profile.probe_interval)
