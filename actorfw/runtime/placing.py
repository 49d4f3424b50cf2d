"""Which node is to host an actor, and the actors that wait until one can.

Responsible for choosing, for what each member has been given, and for trying again when there may be room. Leaves to
others: the rules of the choice (`core.placement`), and what a host is told (`runtime.guardians`).
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.guardian import PLACING, Chosen, GaveUp
from actorfw.core.placement import Infeasible
from actorfw.values.errors import ActorDiedError, UnschedulableError

if TYPE_CHECKING:
    from actorfw.runtime.guarded import Guarded
    from actorfw.runtime.guardians import Guardians
    from actorfw.values.ids import RefId

__all__ = ["Placing"]

logger = logging.getLogger("actorfw.actors")

_ENDS: Final = {"node_died": "node_died", "drain": "drained"}  # by how the last incarnation ended

OFFERS: Final = 4  # actors of one kind that are offered to hosts at a time when some wait for room


class Placing:
    """The places of the actors that one node guards."""

    def __init__(self, guardians: Guardians) -> None:
        self.guardians = guardians
        self.node = guardians.node
        self._unplaced: list[Guarded] = []
        # Creations under way elsewhere: of which kind they are, and how many there are of each.
        self._trying: dict[RefId, tuple[Any, ...]] = {}
        self._tries: Counter[tuple[Any, ...]] = Counter()

    def place(self, actor: Guarded) -> None:
        """Choose a host, or wait for one."""
        node = self.node
        if node.closing:
            return
        scheduling = actor.options.get("scheduling", "default")
        choice = node.members.choose_for_actor(actor.recipe.shape, scheduling, actor.excluded)
        # A member that has just died is one for a moment still: then it waits for the next choice.
        if isinstance(choice, bytes) and (choice == node.life or node.members.peer(choice) is not None):
            actor.counted_at = choice
            if actor.limit is not None:
                actor.limit.cancel()
                actor.limit = None
            self.guardians.tell(actor, Chosen(choice))
            return
        if isinstance(choice, Infeasible) and choice.final:
            self._hopeless(actor, choice.text)
            return
        if isinstance(choice, Infeasible) and not actor.told_infeasible and not node.leaving.begun:
            actor.told_infeasible = True
            logger.warning("actor %s waits: %s", actor.recipe.name, choice.text)
        if actor not in self._unplaced:
            self._unplaced.append(actor)
            limit = actor.options.get("schedule_timeout")
            if limit is not None and actor.limit is None:
                actor.limit = node.env.call_later(limit, self._unschedulable, actor, choice)

    def _hopeless(self, actor: Guarded, why: str) -> None:
        if actor.before:
            reason = _ENDS.get(actor.before, "crashed")
            text = f"actor {actor.recipe.name} can't be started again ({reason}): {why}"
            self.guardians.tell(actor, GaveUp(reason), ActorDiedError(text, reason=reason, ran=False))
        else:
            text = f"actor {actor.recipe.name} can't be placed: {why}"
            self.guardians.tell(actor, GaveUp("crashed"), UnschedulableError(text))

    def _unschedulable(self, actor: Guarded, choice: Any) -> None:
        actor.limit = None
        if actor in self._unplaced:
            why = choice.text if isinstance(choice, Infeasible) else "all nodes that could host it were full"
            text = f"actor {actor.recipe.name} found no place within its schedule_timeout: {why}"
            self.guardians.tell(actor, GaveUp("crashed"), UnschedulableError(text))

    def trying(self, actor: Guarded) -> None:
        """Another node was told to make it."""
        self._trying[actor.id] = kind = _kind(actor)
        self._tries[kind] += 1

    def tried(self, actor: Guarded) -> None:
        """That is decided."""
        kind = self._trying.pop(actor.id, None)
        if kind is not None:
            self._tries[kind] -= 1

    def left(self, actor: Guarded) -> None:
        """It is part of no member's load any more, and wants no place."""
        self.tried(actor)
        if actor in self._unplaced:
            self._unplaced.remove(actor)
        if actor.limit is not None:
            actor.limit.cancel()
            actor.limit = None
        life, actor.counted_at = actor.counted_at, None
        if life is not None:
            self.node.members.actor_left(life)

    def found_room(self) -> None:
        """One that had to be placed is up: others of its kind may find room too."""
        if self._unplaced:
            self.node.env.call_soon(self.pump)

    def pump(self) -> None:
        """Room may have appeared, or a member: try those that have no place, a few of each kind.

        One that finds room brings the next few. All at once would cost a refusal each, whenever one slot gets free.
        """
        for id in self._trying:
            # The room may be where this one was refused before it went to try elsewhere.
            self.guardians.actors[id].excluded = None
        if not self._unplaced:
            return
        unplaced, self._unplaced = self._unplaced, []
        offered: Counter[tuple[Any, ...]] = Counter()
        for actor in unplaced:
            if actor.state != PLACING:
                continue
            kind = _kind(actor)
            offered[kind] += 1
            if offered[kind] > OFFERS or self._tries[kind] >= OFFERS:
                self._unplaced.append(actor)
            else:
                actor.excluded = None
                self.place(actor)

    def renamed(self, rename: Any) -> None:
        """The node has a new life: `rename(id)` is what an id is now."""
        self._trying = {rename(id): kind for id, kind in self._trying.items()}


def _kind(actor: Guarded) -> tuple[Any, ...]:
    """What decides where an actor fits: those of one kind fit alike."""
    return actor.recipe.shape, actor.options.get("scheduling", "default")
