"""`Holds`: until when the actors with names that one node hosts may begin calls, where voters decide about names.

A host asks the keeper of the name (`core.keeping`), again after a third of the time that an answer is good for. That
time is counted from *sending* the question, and ends two tenths before the keeper lets anybody else begin: so between
the last call that one holder of a name begins and the first of the next there is time for a clock that runs up to a
tenth too slow or too fast. Without an answer in time the actor begins no call until there is one.

Sans-IO: instructions are `("ask", number, key, id, incarnation)`, `("let_go", key, id, incarnation)`, and
`("begin", id)`: it may begin calls and could not before. Leaves to others: who may hold a name, and what a call is.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from actorfw.core.entries import Key
from actorfw.core.leases import LEASE_SHARE
from actorfw.core.voters import TTL
from actorfw.values.ids import RefId

__all__ = ["Holder", "Holds"]

_ASK_AGAIN: Final = 0.5  # after a "no", or when nobody could be asked

Instruction: TypeAlias = tuple[Any, ...]


class Holder:
    """One incarnation here of an actor that has a name.

    Attributes:
        until: it may begin calls before then.
    """

    __slots__ = ("asked", "due", "granted", "id", "incarnation", "key", "sent", "until", "waits")

    def __init__(self, key: Key, id: RefId, incarnation: int) -> None:
        self.key = key
        self.id = id
        self.incarnation = incarnation
        self.until = 0.0
        self.due = 0.0  # when to ask next
        self.sent = 0.0
        self.asked = 0  # the question that is not answered
        self.granted = False
        self.waits = True  # it is to be told when it may begin


class Holds:
    """The machine of one node that hosts actors with names.

    Args:
        ttl: how long a lease lasts, the same at all nodes.
    """

    def __init__(self, *, ttl: float = TTL) -> None:
        self.ttl = ttl
        self.holders: dict[RefId, Holder] = {}
        self._questions = 0
        self._asked: dict[int, Holder] = {}

    def __repr__(self) -> str:
        return f"<Holds of {len(self.holders)} actors>"

    def add(self, key: Key, id: RefId, incarnation: int, now: float) -> tuple[Holder, list[Instruction]]:
        """An incarnation is made here; in place of the one before it, if that was here too."""
        out = self.drop(id)
        holder = self.holders[id] = Holder(key, id, incarnation)
        return holder, [*out, self._ask(holder, now)]

    def drop(self, id: RefId, incarnation: int | None = None) -> list[Instruction]:
        """An incarnation here has ended, or nothing that comes for it is begun any more."""
        holder = self.holders.get(id)
        if holder is None or incarnation not in (None, holder.incarnation):
            return []
        del self.holders[id]
        self._asked.pop(holder.asked, None)
        holder.until = 0.0
        # One that never began must not speak for the one before it, which the keeper may still wait for.
        return [("let_go", holder.key, id, holder.incarnation)] if holder.granted else []

    def answered(self, number: int, granted: bool | None, now: float) -> list[Instruction]:
        """The keeper says whether the actor may go on; None: it could not be asked."""
        holder = self._asked.pop(number, None)
        if holder is None:
            return []
        holder.asked = 0
        if granted is None:
            holder.due = now + _ASK_AGAIN
            return []
        if not granted:
            holder.until = 0.0
            holder.waits = True
            holder.due = now + _ASK_AGAIN
            return []
        holder.granted = True
        holder.until = self._end_of(holder.sent, now)
        holder.due = holder.sent + self.ttl / 3
        if now < holder.until and holder.waits:
            holder.waits = False
            return [("begin", holder.id)]
        return [self._ask(holder, now)] if now >= holder.due else []

    def _end_of(self, sent: float, _now: float) -> float:
        return sent + self.ttl * LEASE_SHARE

    def tick(self, now: float) -> list[Instruction]:
        """Time has passed. To be called every quarter of a second or so."""
        out: list[Instruction] = []
        for holder in list(self.holders.values()):
            if now >= holder.until:
                holder.waits = True
            if not holder.asked and now >= holder.due:
                out.append(self._ask(holder, now))
        return out

    def _ask(self, holder: Holder, now: float) -> Instruction:
        self._questions += 1
        holder.asked = self._questions
        holder.sent = now
        self._asked[self._questions] = holder
        return ("ask", self._questions, holder.key, holder.id, holder.incarnation)
