"""What one member knows of all, and how news of it travel: the half of the membership machine that judges nobody.

Responsible for: taking in rows, what this node says of itself, gossip, comparing views, and who the neighbours are.
Leaves to others: probes, evidence, suspicion and verdicts, which are `core.membership`'s. The hooks between the two are
at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random
from typing import Any, Final

from actorfw.core.instructions import Instruction, Neighbours, Send, StateChanged, ToldDead
from actorfw.core.records import Accusation, Brief, Phase, Record, read_row
from actorfw.core.ring import neighbours
from actorfw.core.view import View
from actorfw.values.ids import Life, Refutation
from actorfw.values.profiles import Profile

__all__ = ["Spreading"]

# Kinds of messages: the first field of each.
PING: Final = 0  # number, rows
ACK: Final = 1  # number, rows
HELP: Final = 2  # number, target, rows: ping it for me
HELPED: Final = 3  # number, target: it answered
NACK: Final = 4  # number, target: no answer yet
GOSSIP: Final = 5  # rows
SYNC: Final = 6  # fingerprint: is your view the same?
ROWS: Final = 7  # rows, fingerprint: no, and this is what I know
WANT: Final = 8  # lives: tell me all about them
VOUCH: Final = 9  # life, refutation: I hear it

PIGGYBACK: Final = 8
"""Rows that a probe carries at most: it has to stay small."""

ROUND: Final = 64
"""Rows of one round of gossip at most."""

MEMBERS: Final = 16_384
"""Of a cluster at most. Who comes after that is not taken note of, and so is nobody's peer for long."""

PHASES: Final = {
    Phase.JOINING: "joining",
    Phase.UP: "up",
    Phase.LEAVING: "leaving",
    Phase.LEAVING_WITH_HEIR: "leaving",
    Phase.LEFT: "left",
}


class Spreading:
    """See `core.membership.Membership`, which says what the arguments and attributes are."""

    def __init__(self, me: Record, profile: Profile, rng: Random) -> None:
        self.me = me
        self.profile = profile
        self._all = View(me, profile)
        self.view = self._all.records
        self.tombstones = self._all.tombstones
        self.neighbours: set[Life] = set()
        self._rng = rng
        self._news = self._all.news
        self._fingerprint = self._all.fingerprint
        self._wanted: dict[Life, set[Life]] = {}  # by whom to ask
        self._gossip_at = self._push_pull_at = float("inf")
        self._urgent = self._regroup = self._told_dead = False
        self.refused = 0  # newcomers, because there were too many members
        self._out: list[Instruction] = []
        self._handlers: dict[int, Callable[[Life, list[Any], float], None]] = {
            GOSSIP: self._on_gossip,
            SYNC: self._on_sync,
            ROWS: self._on_rows,
            WANT: self._on_want,
        }

    # -- this node -----------------------------------------------------------------------------------------------------

    def set_phase(self, phase: Phase, heir: Life, now: float) -> list[Instruction]:
        """This node is up, leaving, leaving with an heir, or has left. Phases only rise."""
        if phase > self.me.phase:
            self._speak(replace(self.me, phase=phase, heir=heir), now)
        if phase is Phase.LEFT:
            for life in sorted(self.neighbours):
                self._send(life, [GOSSIP, [self.me.to_wire()]])
        return self._done(now)

    def update(
        self, now: float, *, totals: tuple[tuple[str, int], ...] | None = None, labels: dict[str, str] | None = None
    ) -> list[Instruction]:
        """This node has other totals or labels."""
        me = self.me
        if totals is not None:
            me = replace(me, totals=totals)
        if labels is not None:
            me = replace(me, labels=tuple(sorted(labels.items())))
        if me != self.me:
            self._speak(me, now)
        return self._done(now)

    def _speak(self, me: Record, now: float) -> None:
        """Say something new of this node, or the old anew: either wipes away what it is accused of."""
        me = replace(me, refutation=Refutation(me.refutation + 1), accusers=())
        self._replace(self.me, me, "", now)
        self._urgent = True

    def _about_me(self, news: Record | Brief, frm: Life, now: float) -> None:
        me = self.me
        if news.dead is not None:
            if not self._told_dead and me.phase is not Phase.LEFT:
                self._told_dead = True
                by = self.view.get(frm)
                grounds = news.proof or f"{len(news.dead)} members did not reach it"
                text = f"node {by.name if by else 'of a former member'} holds this life for dead: {grounds}"
                self._out.append(ToldDead(frm, text))
            return
        if news.refutation > me.refutation or (news.refutation == me.refutation and news.accusers):
            if any(what is not Accusation.STALLED for _, what in news.accusers):
                self._doubted()
            self._speak(replace(me, refutation=news.refutation), now)

    def seed(self, records: Iterable[Record], now: float) -> list[Instruction]:
        """Enter members that all know already, so that they are no news: a view that is taken over whole."""
        for record in records:
            if record.life != self.me.life:
                self._all.put(record, news=False)
                self._regroup = True
        return self._done(now)

    # -- reading -------------------------------------------------------------------------------------------------------

    def state(self, life: Life) -> str | None:
        """As shown to people and used for placement; None if it is not in the view."""
        record = self.view.get(life)
        return None if record is None else self._state(record)

    def fingerprint(self) -> bytes:
        """Equal in two members exactly if their views are."""
        return self._fingerprint.to_wire()

    def _state(self, record: Record) -> str:
        if not record.accusers:
            return PHASES[record.phase]
        return "stalled" if record.stalled else "suspect"

    def _names(self, lives: Iterable[Life]) -> str:
        known = (self.view.get(life) for life in lives)
        return ", ".join(record.name if record else "a former member" for record in known)

    # -- taking in -----------------------------------------------------------------------------------------------------

    def _learn_rows(self, rows: list[Any], frm: Life, now: float) -> None:
        for row in rows:
            self._learn(read_row(row), frm, now)

    def _learn(self, news: Record | Brief, frm: Life, now: float) -> None:
        life = news.life
        if life == self.me.life:
            self._about_me(news, frm, now)
            return
        if life in self.tombstones:
            self._about_the_dead(news, frm)
            return
        known = self.view.get(life)
        if isinstance(news, Brief):
            if known is None and news.dead is None:
                self._wanted.setdefault(frm, set()).add(life)
                return
            if known is not None and news.refutation > known.refutation:
                self._wanted.setdefault(frm, set()).add(life)
            news = news.upon(known or Record(life, "", ""))
        if known is None:
            self._learn_unknown(news, now)
        elif news.left:
            self._bury(known.merge(news), now)
        elif news.dead is not None:
            self._hear_verdict(known, news, frm, now)
        else:
            merged = known.merge(news)
            if merged is not known:
                self._replace(known, merged, "", now)

    def _learn_unknown(self, record: Record, now: float) -> None:
        if record.left or record.proof == "another life":
            # It was never a member here. But something of it may be here: what it owned, what it passed on.
            self._bury(record, now)
            return
        if record.dead is not None:
            # Somebody's verdict, from before this node met either. After a split both sides tell a newcomer that the
            # other is dead: taking that over would have it bury those who are to stay.
            return
        other = self._all.other_life(record.life)
        if other is not None and other.lived > record.lived:
            self._bury(replace(record, dead=(self.me.life,), proof="another life"), now)
            return
        if len(self.view) >= MEMBERS and not (other is not None and other.life != self.me.life):
            self.refused += 1
            return
        self._replace(None, record, "", now)
        if other is not None and other.life != self.me.life:
            # Of two lives of one node the older is over: a node has one at a time.
            self._accept(other, (self.me.life,), "another life", now)

    def _about_the_dead(self, news: Record | Brief, frm: Life) -> None:
        record, at = self.tombstones[news.life]
        if isinstance(news, Record) and news.final:
            self.tombstones[news.life] = (record.merge(news), at)
        elif news.dead is None:
            # The sender, or the dead member itself, has not heard of it.
            self._send(frm, [GOSSIP, [record.to_brief()]])

    def _replace(self, known: Record | None, record: Record, detail: str, now: float) -> None:
        """The only place where a record of the view changes."""
        life = record.life
        before = None if known is None else self._state(known)
        self._all.put(record)
        if known is None:
            self._regroup = True
        state = self._state(record)
        if life == self.me.life:
            self.me = record
        else:
            self._accused(known, record, now)
            if not detail and record.accusers:
                detail = f"seen by {self._names(by for by, _ in record.accusers)}"
        spoke = known is None or (record.refutation > known.refutation and record.words != known.words)
        if state != before or spoke:
            self._out.append(StateChanged(record, state, before, detail))

    def _accept(self, record: Record, accusers: tuple[Life, ...], proof: str, now: float) -> None:
        self._bury(replace(record, dead=tuple(sorted(accusers)), proof=proof), now)

    # -- passing on ----------------------------------------------------------------------------------------------------

    def _spread(self, now: float) -> None:
        """What is due by the clock."""
        if self._news and self._gossip_at <= now:
            self._gossip(now)
        if self._push_pull_at <= now:
            self._push_pull_at = now + self.profile.push_pull_every(len(self.view))
            near = self._listeners()
            if near:
                self._send(self._rng.choice(near), [SYNC, self._fingerprint.to_wire()])
            self._all.expire(now)

    def _gossip(self, now: float) -> None:
        self._gossip_at = now + self.profile.gossip_interval
        near = self._listeners()
        for life in self._rng.sample(near, min(self.profile.gossip_fanout, len(near))):
            rows = self._all.take_news(ROUND)
            if rows:
                self._send(life, [GOSSIP, rows])

    def _bereft(self) -> bool:
        """Whether most neighbours are accused: then it is for others to hear the news, and to confirm them."""
        near = self.neighbours
        accused = sum(1 for life in near if life not in self.view or self.view[life].accusers)
        return len(near) < len(self.view) - 1 and 2 * accused > len(near)

    def _listeners(self) -> list[Life]:
        """To whom news go: the neighbours. When most of them are accused, those that are not, and some others."""
        near = sorted(self.neighbours)
        if not self._bereft():
            return near
        fit = [life for life in near if life in self.view and not self.view[life].accusers]
        others = self._strangers()
        return fit + self._rng.sample(others, min(self.profile.gossip_fanout, len(others))) or near

    def _strangers(self) -> list[Life]:
        """The members that are no neighbours, and not accused."""
        others = self.view.keys() - self.neighbours - {self.me.life}
        return sorted(life for life in others if not self.view[life].accusers)

    def _rows(self, to: Life) -> list[list[Any]]:
        """News to go with a probe or its answer; first of all what the other is accused of, so that it can refute."""
        rows = self._all.take_news(PIGGYBACK)
        record = self._all.find(to)
        if record is not None and (record.accusers or record.final) and all(row[0] != to for row in rows):
            rows.append(record.to_brief())
        return rows

    def _on_gossip(self, frm: Life, message: list[Any], now: float) -> None:
        self._learn_rows(message[1], frm, now)

    def _on_sync(self, frm: Life, message: list[Any], now: float) -> None:
        buckets = self._fingerprint.differing(message[1])
        if buckets:
            self._send(frm, [ROWS, self._all.rows_in(buckets), self._fingerprint.to_wire()])

    def _on_rows(self, frm: Life, message: list[Any], now: float) -> None:
        _, rows, theirs = message
        mine = self._all.rows_in(self._fingerprint.differing(theirs))
        self._learn_rows(rows, frm, now)
        self._send(frm, [GOSSIP, mine])

    def _on_want(self, frm: Life, message: list[Any], now: float) -> None:
        records = [self.view[life] for life in message[1] if life in self.view]
        if records:
            self._send(frm, [GOSSIP, [record.to_wire() for record in records]])

    def _send(self, life: Life, message: list[Any]) -> None:
        self._out.append(Send(life, message))

    def _regrouped(self) -> None:
        """The view has changed: other neighbours, perhaps."""
        near = neighbours(self.me.life, self.view)
        added = sorted(near - self.neighbours)
        removed = sorted(self.neighbours - near)
        self.neighbours = near
        for life in added:
            self._neighbour(life)
        if added or removed:
            self._out.append(Neighbours(tuple(added), tuple(life for life in removed if life in self.view)))

    def _done(self, now: float) -> list[Instruction]:
        """End of every input: what has to be done once however much has changed."""
        if self._regroup:
            self._regroup = False
            self._regrouped()
        if self._urgent:
            self._urgent = False
            self._gossip(now)
        for frm, lives in self._wanted.items():
            self._send(frm, [WANT, sorted(lives)])
        self._wanted.clear()
        out, self._out = self._out, []
        return out

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def _accused(self, known: Record | None, record: Record, now: float) -> None:
        """A record has changed, and what its member is accused of, perhaps."""
        raise NotImplementedError

    def _hear_verdict(self, known: Record, news: Record, frm: Life, now: float) -> None:
        """Another member holds a member for dead."""
        raise NotImplementedError

    def _bury(self, record: Record, now: float) -> None:
        """A member is dead or has left: final."""
        raise NotImplementedError

    def _neighbour(self, life: Life) -> None:
        """There is a new neighbour."""
        raise NotImplementedError

    def _doubted(self) -> None:
        """Others did not hear this node, which is here."""
        raise NotImplementedError
