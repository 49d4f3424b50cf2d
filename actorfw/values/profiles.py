"""The timing of membership for three kinds of network, each number with its reason.

Responsible for: the parameters and the formulas that follow from them. Leaves to others: what happens at those times.

The protocol is SWIM (Das, Gupta, Motivala 2002) with Lifeguard (Dadgar, Phillips, Currey 2017), after its wide-spread
implementation, HashiCorp's memberlist; "memberlist" below means the defaults of its `DefaultLANConfig`,
`DefaultWANConfig` and `DefaultLocalConfig`.
"""

from __future__ import annotations

from math import ceil, log, log2, log10
from typing import Final

from actorfw.values.data import Data

__all__ = ["LAN", "LOCAL", "PROFILES", "WAN", "Profile"]


class Profile(Data, kw_only=True):
    """The parameters of one kind of network. Spans in seconds.

    Attributes:
        name: as in `Config.profile`.
        probe_interval: one member is probed per interval, times (local health + 1). SWIM: a silent member is first
            probed after e/(e-1) = 1.58 intervals on average, whatever the number of members. memberlist: 1; with it,
            mult 4 and max 6, not all of ten members know of a cut-off one within 7 s in 8 of 100 simulated cases. Half
            of it keeps the shortest suspicion at 3 s and the 99th percentile below 7 s.
        probe_timeout: after this long without an answer the peer's kernel and other members are asked. Not
            stretched by local health (memberlist: a longer wait does not make a lost answer come). Several round
            trips of the network in question, and less than `probe_interval`.
        helpers: members that are asked to probe in this one's stead. SWIM's k. Of three paths that each fail in one
            of three cases, one is open in 96 of 100.
        nack_share: a helper says "no answer yet" after this share of the time that is left, so that who asked can
            tell a dead target from a deaf self. memberlist: 0.8.
        suspicion_mult: `suspicion_min(n) = suspicion_mult * max(1, log10(n)) * probe_interval`, the time a well
            confirmed suspicion waits for a refutation; it grows like the time that gossip needs. memberlist: 4 (LAN).
        suspicion_max_mult: an unconfirmed suspicion waits `suspicion_max_mult * suspicion_min(n)`: long enough for a
            refutation to reach even a slow observer. memberlist: 6.
        retransmit_mult: news are passed on `retransmit_mult * ceil(log10(n + 1))` times by each member. memberlist: 4.
        gossip_interval, gossip_fanout: while there is news, so many members are told so often. memberlist: 0.2 and 3.
        push_pull_interval: how often one other member is asked whether its view is the same; see
            `push_pull_every`. memberlist: 30 (LAN), 60 (WAN).
        awareness_max: local health goes from 0 (well) up to this minus 1. memberlist: 8.
        stall_after: a member whose kernel acknowledges is called stalled when it has not answered for this long:
            two probe intervals, so that a garbage collection or a long loop turn is no news.
        lag_limit: this node's own loop being late by more than this makes its timers worthless: they start again.
            Half of the smallest probe interval in earnest use, and far above the lag of a loop that is merely busy.
        refused_proves: whether a broken link and then a refused connection, seen by two members, is a death. Within
            one network only a machine without the process refuses; across networks, a firewall may.
        dial_timeout: the first probe of a closed link may take this long: three round trips of a handshake, and one
            lost SYN, which is sent again after 1 s.
        tombstone_keep: how long the dead are remembered. Longer than a partition that anybody waits for to heal; 24 h
            as in Akka's `prune-gossip-tombstones-after`.
    """

    name: str
    probe_interval: float
    probe_timeout: float
    helpers: int = 3
    nack_share: float = 0.8
    suspicion_mult: int
    suspicion_max_mult: int
    retransmit_mult: int = 4
    gossip_interval: float
    gossip_fanout: int = 3
    push_pull_interval: float
    awareness_max: int = 8
    stall_after: float
    lag_limit: float
    refused_proves: bool = True
    dial_timeout: float
    tombstone_keep: float = 86_400.0

    def suspicion_min(self, members: int) -> float:
        """How long a suspicion waits that enough others share: `suspicion_mult * max(1, log10(n)) * interval`."""
        return self.suspicion_mult * max(1.0, log10(max(1, members))) * self.probe_interval

    def confirmations_wanted(self, members: int) -> int:
        """How many others bring a suspicion down to its shortest: `suspicion_mult - 2`, and none if there are too few.

        memberlist's rule: with fewer than that besides accuser and accused, the first accuser's word has to do.
        """
        wanted = self.suspicion_mult - 2
        return wanted if members - 2 >= wanted else 0

    def suspicion(self, members: int, confirmations: int) -> float:
        """How long a suspicion waits with so many confirmations by others than the first accuser.

        Lifeguard's formula, `max - (max - min) * log(c + 1) / log(k + 1)`: each further confirmation tells less.
        """
        least = self.suspicion_min(members)
        wanted = self.confirmations_wanted(members)
        if wanted < 1:
            return least
        most = least * self.suspicion_max_mult
        return max(least, most - (most - least) * log(confirmations + 1) / log(wanted + 1))

    def transmissions(self, members: int) -> int:
        """How often each member passes news on: `retransmit_mult * ceil(log10(n + 1))`."""
        return self.retransmit_mult * ceil(log10(members + 1))

    def push_pull_every(self, members: int) -> float:
        """`push_pull_interval`, times one more for each doubling above 32 members (memberlist's scale)."""
        if members <= 32:
            return self.push_pull_interval
        return self.push_pull_interval * (ceil(log2(members) - log2(32)) + 1)


LAN: Final = Profile(
    name="lan",
    probe_interval=0.5,
    probe_timeout=0.25,
    suspicion_mult=6,
    suspicion_max_mult=4,
    gossip_interval=0.2,
    push_pull_interval=30.0,
    stall_after=1.0,
    lag_limit=0.25,
    dial_timeout=2.0,
)
"""One data centre or one machine: round trips below some 20 ms, and loops that other code shares."""

LOCAL: Final = Profile(
    name="local",
    probe_interval=0.2,
    probe_timeout=0.1,
    suspicion_mult=3,
    suspicion_max_mult=4,
    gossip_interval=0.1,
    push_pull_interval=5.0,
    stall_after=0.4,
    lag_limit=0.1,
    dial_timeout=1.0,
)
"""For tests: all members in one process or on one idle machine. Too nervous for anything else: a member is dead after
a second of silence, and a busy machine keeps a process waiting that long."""

WAN: Final = Profile(
    name="wan",
    probe_interval=5.0,
    probe_timeout=3.0,
    suspicion_mult=6,
    suspicion_max_mult=6,
    gossip_interval=0.5,
    gossip_fanout=4,
    push_pull_interval=60.0,
    stall_after=10.0,
    lag_limit=1.0,
    refused_proves=False,
    dial_timeout=6.0,
)
"""Across networks: memberlist's `DefaultWANConfig`. A refused connection proves nothing here."""

PROFILES: Final = {profile.name: profile for profile in (LAN, LOCAL, WAN)}
