"""The session of two lives: every frame delivered exactly once, in order, over any number of links.

A pure machine: no sockets, no clock, no chance. Whoever drives it hands in what happened and does what it answers.

Rules
    Frames are numbered from 1 per direction and kept until acknowledged. `seen` is the last frame of the other side
    that was processed; it travels as `ack` in whatever goes back, else alone (`ack_due`).
    A link belongs to an epoch. Either side may dial, with a higher epoch than any that it knows; the other side takes
    the new link if its epoch is above the current one's and its own dial, if any, does not win: the higher epoch wins,
    of two equal ones that of the lower life. Taking a link abandons the own dial, closes the current link, whose
    unread bytes are **discarded**, and resends what the other side has not seen.
    Data is taken from the current link only. A number seen before is dropped, a gap closes the link.
    The session ends by death or leaving only, never because a link broke, and dials again until then. What breaks and
    what answers instead of the other side is evidence; judging it is left to others.
    A link that nobody needs may be closed by agreement, when nothing is unacknowledged either way: the session rests,
    and dials when there is something to send.

Theory of operation
    Discarding the old link's unread bytes is what makes resending safe: the new link starts from `seen` as told in
    its greeting, and what the old one still held would come twice or, worse, after a gap.

A link is any object; the machine compares and returns it, nothing else.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal, Protocol, TypeAlias

from actorfw.values.data import Data

__all__ = [
    "ACK_BYTES",
    "ACK_DELAY",
    "ACK_FRAMES",
    "WINDOW_BYTES",
    "Adopt",
    "Batch",
    "CloseLink",
    "DialAgain",
    "DialFailure",
    "EndReason",
    "Evidence",
    "EvidenceKind",
    "Instruction",
    "RefuseLink",
    "Resend",
    "Session",
    "Welcome",
]

ACK_DELAY: Final = 0.020
"""Seconds after which what was processed is acknowledged even if nothing else goes back."""
ACK_FRAMES: Final = 64
ACK_BYTES: Final = 768 * 1024
WINDOW_BYTES: Final = 8 * 1024 * 1024
"""Bytes that may be unacknowledged; beyond, messages wait unpacked."""

_FIRST_DELAY: Final = 0.010
_LAST_DELAY: Final = 1.0
_UNDECODABLE_LIMIT: Final = 3
_GARBLED_LIMIT: Final = 10


class Batch(Protocol):
    """What a frame carries, packed: any bytes, of which the session knows how many they are."""

    def __len__(self) -> int: ...


EndReason: TypeAlias = Literal["dead", "left"]
EvidenceKind: TypeAlias = Literal["eof", "refused", "unreachable", "another_life"]
DialFailure: TypeAlias = Literal["refused", "another life", "unreachable", "epoch"]

_SPEAKS_FOR: Final[dict[DialFailure, EvidenceKind]] = {
    "refused": "refused",
    "another life": "another_life",
    "unreachable": "unreachable",
}


class CloseLink(Data):
    """Close this link and discard what it has not yet handed over."""

    link: object


class Welcome(Data):
    """Answer the dialler of this link that it is taken, and that we have processed up to `seen`."""

    link: object
    seen: int


class RefuseLink(Data):
    """Answer the dialler of this link that it must try a higher epoch than `epoch_max`, and close it."""

    link: object
    epoch_max: int


class Adopt(Data):
    """From now on data travels on this link."""

    link: object


class Resend(Data):
    """Write these frames, (n, batch), to the current link before anything new."""

    link: object
    frames: tuple[tuple[int, Batch], ...]


class DialAgain(Data):
    """Dial after `delay` seconds."""

    delay: float


class Evidence(Data):
    """Something that speaks for the other life's end: a link that broke, or what was found at its address.

    Args:
        kind: "eof" (a link ended without goodbye), "refused" (nobody listens), "unreachable" (nobody answers),
            "another_life" (somebody else has proven itself there).
        detail: for people.
    """

    kind: EvidenceKind
    detail: str


Instruction: TypeAlias = CloseLink | Welcome | RefuseLink | Adopt | Resend | DialAgain | Evidence


class Session:
    """One side of a session.

    Args:
        me: this node's life.
        peer: the other side's life.

    Attributes:
        link: the current link, or None while the session has none.
        resting: the last link was closed by agreement: none is needed until there is something to send.
        seen: the last frame of the other side that was processed.
        acked: the last frame of ours that the other side has processed.
        told: the last `seen` that was written to the current link.
        unacked: our frames that are kept for resending, (n, batch).
    """

    __slots__ = (
        "_delay",
        "_garbled",
        "_garbled_at",
        "_strikes",
        "_striking",
        "acked",
        "dial_epoch",
        "dial_link",
        "ended",
        "epoch",
        "epoch_max",
        "held",
        "link",
        "me",
        "next_out",
        "peer",
        "resting",
        "seen",
        "told",
        "unacked",
        "unacked_bytes",
        "untold_bytes",
    )

    def __init__(self, me: bytes, peer: bytes) -> None:
        self.me = me
        self.peer = peer
        self.link: object | None = None
        self.epoch = 0
        self.epoch_max = 0
        self.dial_link: object | None = None
        self.dial_epoch = 0
        self.next_out = 0
        self.acked = 0
        self.seen = 0
        self.told = 0
        self.untold_bytes = 0
        self.unacked: deque[tuple[int, Batch]] = deque()
        self.unacked_bytes = 0
        self.ended: EndReason | None = None
        self.held = False
        self.resting = False
        self._delay = 0.0
        self._garbled = 0
        self._garbled_at = 0
        self._striking = 0
        self._strikes = 0

    # Data plane: short, plain, called per frame. `runtime.links` reads the attributes directly.

    def put(self, batch: Batch) -> int:
        """Number a batch that is about to be written to the current link, and keep it. It carries our ack."""
        n = self.next_out = self.next_out + 1
        self.unacked.append((n, batch))
        self.unacked_bytes += len(batch)
        self.told = self.seen
        self.untold_bytes = 0
        return n

    def acknowledge(self, ack: int) -> bool:
        """Take the other side's ack. False: it acknowledges what was never sent, the link is to be closed."""
        if ack > self.next_out:
            return False
        unacked = self.unacked
        while unacked and unacked[0][0] <= ack:
            self.unacked_bytes -= len(unacked.popleft()[1])
        if ack > self.acked:
            self.acked = ack
        return True

    def receive(self, link: object, n: int) -> bool | None:
        """Whether to process frame `n` of `link`: True, False (seen before, or not our link), None (a gap: close it).

        The caller processes it whole and says so with `processed`, before it asks for the next.
        """
        if link is not self.link or n <= self.seen:
            return False
        return True if n == self.seen + 1 else None

    def processed(self, n: int, size: int) -> None:
        """Frame `n`, of `size` bytes, has been decoded and is being processed."""
        self.seen = n
        self.untold_bytes += size

    @property
    def ack_due(self) -> bool:
        """Whether an ack must go out now, without waiting for `ACK_DELAY` or for company."""
        return self.seen - self.told >= ACK_FRAMES or self.untold_bytes >= ACK_BYTES

    def ack_written(self) -> None:
        """A frame without number took our ack along."""
        self.told = self.seen
        self.untold_bytes = 0

    # Links.

    def undecodable(self, n: int) -> list[Instruction]:
        """Frame `n` could not be decoded: not acknowledged, so it comes again on the next link.

        After three times the other side is taken to speak nonsense: the session is held down until it ends.
        """
        self._strikes = self._strikes + 1 if self._striking == n else 1
        self._striking = n
        if self._strikes >= _UNDECODABLE_LIMIT:
            self.held = True
        return self._close_and_dial()

    def garbled(self, *, foreign: bool = False, chance: float = 0.0) -> list[Instruction]:
        """What comes over the current link is no frames: it is closed.

        A single link may break so. When ten do, with next to nothing read in between, the other side is taken to speak
        nonsense, as above. Not if it was somebody on the way who did it (`foreign`): that says nothing of the other
        side, so it is dialled again for as long as it lives, but not at once each time. `chance`: as `dial_failed`.
        """
        again = self._garbled > 0 and self.seen < self._garbled_at + ACK_FRAMES
        self._garbled = self._garbled + 1 if again else 1
        self._garbled_at = self.seen
        if foreign:
            wait = 0.0 if self._garbled == 1 else min(_LAST_DELAY, _FIRST_DELAY * 2 ** min(self._garbled, 10))
            return self._close_and_dial(wait * chance)
        if self._garbled >= _GARBLED_LIMIT:
            self.held = True
        return self._close_and_dial()

    def _close_and_dial(self, delay: float = 0.0) -> list[Instruction]:
        link, self.link = self.link, None
        answer: list[Instruction] = [] if link is None else [CloseLink(link)]
        self._delay = 0.0
        return [*answer, DialAgain(delay)] if self.may_dial() else answer

    def may_dial(self) -> bool:
        """Whether there is neither a link nor a dial, and the session may have one."""
        return self.link is None and self.dial_link is None and self.ended is None and not self.held

    def dialled(self, link: object) -> int:
        """A connection of ours reached the other side and is to offer itself: the epoch to offer."""
        self.epoch_max += 1
        self.dial_link = link
        self.dial_epoch = self.epoch_max
        return self.epoch_max

    def offered(self, link: object, epoch: int, peer_seen: int) -> list[Instruction]:
        """The other side offers a link of `epoch`, having processed ours up to `peer_seen`."""
        mine = self.dial_epoch if self.dial_link is not None else 0
        wins = mine < epoch or (mine == epoch and self.peer < self.me)
        take = epoch > self.epoch and wins and self.ended is None and not self.held and self._plausible(peer_seen)
        self.epoch_max = max(self.epoch_max, epoch)
        if not take:
            return [RefuseLink(link, self.epoch_max)]
        answer: list[Instruction] = []
        if self.dial_link is not None:
            answer.append(CloseLink(self.dial_link))
            self.dial_link = None
        return answer + self._adopt(link, epoch, peer_seen, [Welcome(link, self.seen)])

    def welcomed(self, link: object, peer_seen: int) -> list[Instruction]:
        """The other side takes the link that we offered, having processed ours up to `peer_seen`."""
        if link is not self.dial_link or not self._plausible(peer_seen):
            return [CloseLink(link)]
        self.dial_link = None
        return self._adopt(link, self.dial_epoch, peer_seen, [])

    def refused(self, link: object, epoch_max: int) -> None:
        """The other side wants a higher epoch than `epoch_max`: the dial is over."""
        self.epoch_max = max(self.epoch_max, epoch_max)
        if link is self.dial_link:
            self.dial_link = None

    def lost(self, link: object, eof: str = "") -> list[Instruction]:
        """The connection of `link` is gone, without goodbye. `eof` says how, if it was not this side that cut it."""
        if link is self.dial_link:
            self.dial_link = None
        answer: list[Instruction] = []
        if link is self.link:
            self.link = None
            self._delay = 0.0
            if eof:
                answer.append(Evidence("eof", eof))
            if self.may_dial():
                answer.append(DialAgain(0.0))
        return answer

    def quiet(self) -> bool:
        """Whether nothing is unacknowledged either way."""
        return self.seen == self.told and not self.unacked

    def rest(self) -> None:
        """The link was closed by agreement."""
        self.link = None
        self.resting = True

    def needed(self) -> list[Instruction]:
        """There is something to send, and perhaps no link."""
        self.resting = False
        return [DialAgain(0.0)] if self.may_dial() else []

    def dial_failed(self, how: DialFailure, detail: str, chance: float) -> list[Instruction]:
        """A dial did not lead to a link. `chance` in [0, 1) spreads those who try at the same time.

        Args:
            how: "refused" (nobody listens there), "another life" (someone else does), "epoch" (the other side knows
                a higher epoch, or is dialling us), "unreachable" (anything else).
            detail: the error's text.
            chance: a random number in [0, 1).
        """
        if self.ended is not None or self.link is not None:
            return []
        kind = _SPEAKS_FOR.get(how)
        answer: list[Instruction] = [] if kind is None else [Evidence(kind, detail)]
        if self.may_dial():
            self._delay = min(_LAST_DELAY, self._delay * 2 or _FIRST_DELAY)
            answer.append(DialAgain(self._delay * chance))
        return answer

    def end(self, reason: EndReason) -> list[Instruction]:
        """The other life is dead or has left: nothing of it is taken any more."""
        if self.ended is not None:
            return []
        self.ended = reason
        closing: list[Instruction] = [CloseLink(link) for link in (self.dial_link, self.link) if link is not None]
        self.dial_link = self.link = None
        self.unacked.clear()
        self.unacked_bytes = 0
        return closing

    def _plausible(self, peer_seen: int) -> bool:
        # Below `acked` the frames to resend are gone; above `next_out` they never were.
        return self.acked <= peer_seen <= self.next_out

    def _adopt(self, link: object, epoch: int, peer_seen: int, first: list[Instruction]) -> list[Instruction]:
        answer: list[Instruction] = []
        if self.link is not None:
            answer.append(CloseLink(self.link))
        self.link = link
        self.epoch = epoch
        self.resting = False
        self._delay = 0.0
        self.told = self.seen
        self.untold_bytes = 0
        self.acknowledge(peer_seen)
        answer += first
        answer.append(Adopt(link))
        if self.unacked:
            answer.append(Resend(link, tuple(self.unacked)))
        return answer
