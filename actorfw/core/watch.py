"""Watching actors: who tells a node that an actor has ended, and when that is final.

Two nodes know two halves of it. The *host* knows which message of an incarnation was its last: it says so behind that
message, on the same session, so nothing of the incarnation comes after. The *guardian* knows whether another
incarnation follows. A watcher therefore listens to the host, and asks the guardian what comes next whenever the host
did not end the actor by the guardian's own order, or is dead.

Three machines without input or output, one for each role: `Watch` (the watcher's node, one for each actor),
`Watchers` (the host: who listens to what) and `Fates` (the guardian: questions that it can't answer yet). Sending,
futures and the calls that fail with the end are `runtime.watching`'s.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from actorfw.values.data import Data
from actorfw.values.ids import RefId

__all__ = ["ORDERED", "Ask", "Done", "Fact", "Fates", "Listen", "Next", "Unlisten", "Watch", "Watchers"]

W = TypeVar("W", bound=Hashable)

# Ends that only a guardian orders: once a host reports one, no incarnation follows. All others are for the guardian to
# judge; a host that is taken for dead elsewhere does not know that the actor goes on without it.
ORDERED: Final = frozenset(("stopped", "killed", "released", "name_conflict"))

# -- instructions of `Watch` -------------------------------------------------------------------------------------------


class Ask(Data):
    """Ask the guardian what follows this incarnation (0: which is the first to be)."""

    after: int


class Listen(Data):
    """Have this host say when this incarnation has ended."""

    host: bytes
    incarnation: int


class Unlisten(Data):
    """Nobody here wants to hear it any more."""

    host: bytes


class Next(Data):
    """A new incarnation follows one that this node knew."""

    incarnation: int


class Done(Data):
    """The actor has ended for good, as far as this node is concerned."""

    reason: str
    detail: str


Instruction: TypeAlias = Ask | Listen | Unlisten | Next | Done


class Watch:
    """What the node of the watchers knows about one actor.

    Args:
        lost: the reason to give when its guardian is gone, and nobody can say what follows.
    """

    __slots__ = ("asking", "done", "guardian_gone", "host", "incarnation", "last", "lost")

    def __init__(self, lost: str = "owner_died") -> None:
        self.lost = lost
        self.host: bytes | None = None
        self.incarnation = 0
        self.asking = False
        self.done: Done | None = None
        self.guardian_gone = False
        self.last = ("", "")  # how the incarnation ended of which it is asked what follows

    def begin(self) -> list[Instruction]:
        """Somebody watches."""
        return self._ask()

    def found(self, incarnation: int, host: bytes) -> list[Instruction]:
        """The guardian: this incarnation is up, there."""
        if self.done is not None or not self.asking or incarnation <= self.incarnation:
            return []
        self.asking = False
        first = self.incarnation == 0
        self.incarnation = incarnation
        self.host = host
        listen = Listen(host, incarnation)
        return [listen] if first else [Next(incarnation), listen]

    def judged(self, reason: str, detail: str) -> list[Instruction]:
        """The guardian: it has ended for good. "unknown": so long ago that the guardian has forgotten it."""
        if not self.asking:
            return []
        if reason == "unknown" and self.last[0]:
            reason, detail = self.last
        return self.end(reason, detail)

    def host_says(self, host: bytes, incarnation: int, reason: str, detail: str) -> list[Instruction]:
        """The host: this incarnation has ended."""
        if self.asking or host != self.host or incarnation != self.incarnation:
            return []
        if reason in ORDERED:
            return self.end(reason, detail)
        self.last = (reason, detail)
        return self._ask()

    def node_gone(self, life: bytes, detail: str) -> list[Instruction]:
        """A node is dead, or has left: what was on its way from there does not come any more."""
        if self.done is not None or self.asking or life != self.host:
            return []
        self.last = ("node_died", detail)
        return self._ask()

    def guardian_lost(self, detail: str) -> list[Instruction]:
        """The guardian is gone and nobody has taken its place. If the host lives it ends the actor, and says so."""
        self.guardian_gone = True
        return self.end(self.lost, detail) if self.asking else []

    def guardian_moved(self) -> list[Instruction]:
        """Another node has taken the guardian's place: what it was asked, it did not hear."""
        return [Ask(self.incarnation)] if self.asking and self.done is None else []

    def end(self, reason: str, detail: str) -> list[Instruction]:
        """It has ended for good; also when this node itself begins a new life."""
        if self.done is not None:
            return []
        self.done = Done(reason, detail)
        self.asking = False
        return [self.done]

    def leave(self) -> list[Instruction]:
        """The last watcher went away."""
        listening = self.done is None and not self.asking and self.host is not None
        return [Unlisten(self.host)] if listening and self.host is not None else []

    def _ask(self) -> list[Instruction]:
        if self.done is not None:
            return []
        if self.guardian_gone:
            return self.end(self.lost, self.last[1])
        self.asking = True
        self.host = None
        return [Ask(self.incarnation)]


# -- the host's side ---------------------------------------------------------------------------------------------------


class Watchers(Generic[W]):
    """Who listens at a host to which incarnations."""

    def __init__(self) -> None:
        self.of: dict[RefId, dict[W, int]] = {}

    def add(self, id: RefId, watcher: W, incarnation: int, here: int | None) -> bool:
        """Somebody listens. `here`: the incarnation that lives here; False: the one asked for does not, say so."""
        if here != incarnation:
            return False
        self.of.setdefault(id, {})[watcher] = incarnation
        return True

    def remove(self, id: RefId, watcher: W) -> None:
        """It does not listen any more."""
        listening = self.of.get(id)
        if listening is not None and listening.pop(watcher, None) is not None and not listening:
            del self.of[id]

    def ended(self, id: RefId, incarnation: int) -> list[W]:
        """An incarnation has ended, and all that it had to say is said: who is to hear it."""
        return [watcher for watcher, known in self.of.pop(id, {}).items() if known == incarnation]

    def gone(self, watcher: W) -> None:
        """A watcher's node has ended."""
        for id in [id for id, listening in self.of.items() if watcher in listening]:
            self.remove(id, watcher)


# -- the guardian's side -----------------------------------------------------------------------------------------------


class Fact(NamedTuple):
    """What a guardian knows about an actor now.

    `incarnation` with `host` when it is up; `reason` when it has ended for good; neither while that is open.
    """

    incarnation: int
    host: bytes | None
    reason: str = ""
    detail: str = ""

    def follows(self, after: int) -> bool:
        """Whether it answers what follows an incarnation."""
        return bool(self.reason) or (self.host is not None and self.incarnation > after)


class Fates(Generic[W]):
    """Questions to a guardian about what follows; those that are open wait here for its decision."""

    def __init__(self) -> None:
        self.open: dict[RefId, list[tuple[W, int]]] = {}

    def ask(self, id: RefId, after: int, asker: W, fact: Fact) -> bool:
        """Somebody asks what follows an incarnation. True: this fact is the answer; else it comes later."""
        if fact.follows(after):
            return True
        self.open.setdefault(id, []).append((asker, after))
        return False

    def take(self, id: RefId) -> list[W]:
        """Somebody else decides about the actor now: who waits for it here."""
        return [asker for asker, _ in self.open.pop(id, ())]

    def changed(self, id: RefId, fact: Fact) -> list[W]:
        """The guardian has placed or ended the actor: whom this fact answers."""
        waiting = self.open.pop(id, None)
        if not waiting:
            return []
        left = [(asker, after) for asker, after in waiting if not fact.follows(after)]
        if left:
            self.open[id] = left
        return [asker for asker, after in waiting if fact.follows(after)]
