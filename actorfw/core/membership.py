"""Who is in the cluster and who is dead, as one member sees it: SWIM with Lifeguard, and verdicts that need grounds.

Responsible for: what evidence means, accusing, confirming, refuting, spreading, comparing views, and the verdict.
Leaves to others: links and sessions, what a death means for calls and actors, rebirth, and doing what it instructs.

Pure: every input names the time, and returns a list of `core.instructions`. The driver's duties:

* call `tick(now)` when `next_at()` comes, and `lagged(seconds, now)` when its own loop stood still;
* `met(record, now)` when a session begins (either side) with the record of the other's handshake, which is
  `Record.from_wire(row)` of what its `me.to_wire()` was;
* `evidence(life, kind, now)`: "eof" when a link ended without goodbye, "goodbye" when it ended with one,
  "linked" when a link of a known session is there again, "refused", "unreachable" or "another_life" when a dial
  ended so (asked for by `Dial`, or the session's own), "heard" when any frame came in (as often as it likes: it is a
  dict store; a few times per second suffice);
* `message(life, message, now)` for what a `Send` carried;
* `kernel(life, answer, now)` for `AskKernel`: True if the peer's kernel acknowledges what is sent (or takes a fresh
  connection without its process answering the handshake), False if it does not, None if it can't be asked or there is
  no link.

A view's states are "joining", "up", "stalled", "suspect", "leaving": `state(life)`.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any, Literal, TypeAlias

from actorfw.core.instructions import AskKernel, Dead, Dial, Instruction, Left, Unreachable, Verdict
from actorfw.core.probing import Prober
from actorfw.core.records import Accusation, Record
from actorfw.core.ring import MESH, neighbours
from actorfw.core.spreading import ACK, GOSSIP, HELP, HELPED, NACK, PING, SYNC, VOUCH, Spreading
from actorfw.core.suspicion import CONFIRMERS, Suspicion, accusers_wanted, refusals_wanted
from actorfw.values.errors import ProtocolError
from actorfw.values.ids import Life
from actorfw.values.profiles import Profile

__all__ = ["GOSSIP", "Evidence", "Membership"]

Evidence: TypeAlias = Literal["eof", "goodbye", "refused", "unreachable", "linked", "another_life", "heard"]


class Membership(Spreading):
    """The machine of one life of a node. A rebirth makes a new one.

    Args:
        me: this node's own record.
        profile: the timing.
        stall_limit: seconds that a member whose process stands still is waited for; None for ever. Who hosts nothing
            for others is always waited for.
        rng: for the order of probes, helpers and gossip.

    Attributes:
        me: this node's own record, as it is now.
        view: the members that are neither dead nor left, this one included.
        tombstones: the records of those that are, with the time at which that was learned.
        neighbours: whom this node probes and keeps links to.
    """

    def __init__(self, me: Record, profile: Profile, stall_limit: float | None, rng: Random) -> None:
        super().__init__(me, profile, rng)
        self.stall_limit = stall_limit
        self.prober = Prober(profile, rng)
        self.suspicions: dict[Life, Suspicion] = {}
        self._heard: dict[Life, float] = {}
        self._linked: set[Life] = set()
        self._dialling: set[Life] = set()
        self._lagged_at = float("-inf")
        self._probe_at = float("inf")
        self._refusals = False
        self._handlers |= {
            PING: self._on_ping,
            ACK: self._on_ack,
            HELP: self._on_help,
            HELPED: self._on_helped,
            NACK: self._on_nack,
            VOUCH: self._on_vouch,
        }

    # -- inputs --------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Instruction]:
        """Begin: all times are shifted by chance, so that members started together don't probe together."""
        profile = self.profile
        self._probe_at = now + self._rng.random() * profile.probe_interval
        self._gossip_at = now + self._rng.random() * profile.gossip_interval
        self._push_pull_at = now + self._rng.random() * profile.push_pull_interval
        return self._done(now)

    def next_at(self) -> float:
        """When `tick` has something to do; perhaps long ago, if there is news only now. It may be called earlier."""
        at = self._clocks_at()
        return min(at, self._gossip_at) if self._news else at

    def _clocks_at(self) -> float:
        """When the first of the clocks runs out that run anyway: being later than that is this node's own lag."""
        at = min(self._probe_at, self._push_pull_at, self.prober.next_at())
        for suspicion in self.suspicions.values():
            at = min(at, suspicion.deadline)
        return at

    def tick(self, now: float) -> list[Instruction]:
        """Do what is due."""
        late = now - self._clocks_at()
        if late > self.profile.lag_limit:
            self._lag(now)
        for life in [life for life, suspicion in self.suspicions.items() if suspicion.deadline <= now]:
            self._judge(life, now)
        self._probe_steps(now)
        if self._probe_at <= now:
            self._probe_at = now + self.prober.awareness.scale(self.profile.probe_interval)
            target = self.prober.next_target(self.neighbours)
            if target is not None:
                self._probe(target, now)
            strangers = self._strangers() if self._bereft() else ()
            if strangers:
                self._probe(self._rng.choice(strangers), now)
        self._spread(now)
        return self._done(now)

    def met(self, record: Record, now: float) -> list[Instruction]:
        """A session with a life began."""
        life = record.life
        new = life not in self.view
        self._dialling.discard(life)
        self._learn(record, life, now)
        if life in self.view:
            self._linked.add(life)
            self._hear(life, now)
        if new and life in self.view:
            self._send(life, [SYNC, self._fingerprint.to_wire()])
        for other in [other for other in self.view.values() if other.address == record.address]:
            if other.life not in (life, self.me.life):
                # Only who answers there decides: the newcomer may just have been told a wrong address to advertise.
                self._dial(other.life)
        return self._done(now)

    def message(self, frm: Life, message: list[Any], now: float) -> list[Instruction]:
        """What a `Send` of another carried.

        Raises:
            ProtocolError: it makes no sense. Nothing has changed then, except perhaps rows before the bad one.
        """
        self._hear(frm, now)
        try:
            self._handlers[message[0]](frm, message, now)
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise ProtocolError(f"a message about membership makes no sense: {error!r}") from error
        return self._done(now)

    def evidence(self, life: Life, kind: Evidence, now: float) -> list[Instruction]:
        """What was seen on a link or by dialling."""
        if kind == "heard":
            self._hear(life, now)
            return self._done(now)
        self._dialling.discard(life)
        if kind == "linked" and life in self.view:
            self._linked.add(life)
            self._hear(life, now)
            if life in self.suspicions:
                self._look(life, now)
        elif kind in ("eof", "goodbye"):
            self._linked.discard(life)
        record = self.view.get(life)
        if record is None or life == self.me.life:
            return self._done(now)
        if kind == "another_life":
            self._accept(record, (self.me.life,), "another life", now)
        elif life in self._linked:
            pass  # a dial that was overtaken by the link that there is
        elif kind == "eof":
            self._dial(life)
        elif kind == "refused" and self.profile.refused_proves:
            self._accuse(life, Accusation.REFUSED, now)
        elif kind in ("refused", "unreachable") and not self.prober.probing(life):
            self._probe(life, now)
        return self._done(now)

    def kernel(self, life: Life, answer: bool | None, now: float) -> list[Instruction]:
        """What the peer's kernel does with what is sent to it."""
        for _, probe in self.prober.kernel(life, answer):
            choice = self._helpers(life)
            self.prober.helped(probe, choice)
            for helper in choice:
                self._send(helper, [HELP, probe.number, life, self._rows(life)])
        return self._done(now)

    def lagged(self, seconds: float, now: float) -> list[Instruction]:
        """This node's own loop was late: what its timers would have said meanwhile is worth nothing."""
        if seconds > self.profile.lag_limit:
            self._lag(now)
        return self._done(now)

    # -- reading -------------------------------------------------------------------------------------------------------

    def heard_at(self, life: Life) -> float:
        """When something last came from there; minus infinity if never."""
        return self._heard.get(life, float("-inf"))

    # -- messages ------------------------------------------------------------------------------------------------------

    def _on_ping(self, frm: Life, message: list[Any], now: float) -> None:
        _, number, rows = message
        self._learn_rows(rows, frm, now)
        self._send(frm, [ACK, number, self._rows(frm)])

    def _on_ack(self, frm: Life, message: list[Any], now: float) -> None:
        _, number, rows = message
        _, relay = self.prober.answered(frm, number)
        if relay is not None:
            self._send(relay[0], [HELPED, relay[1], frm])
        self._learn_rows(rows, frm, now)

    def _on_help(self, frm: Life, message: list[Any], now: float) -> None:
        _, number, target, rows = message
        self._learn_rows(rows, frm, now)
        if target in self.view and target != self.me.life:
            mine = self.prober.relay(frm, number, target, now)
            self._send(target, [PING, mine, self._rows(target)])
            return
        if target in self.tombstones:
            self._send(frm, [GOSSIP, [self.tombstones[target][0].to_brief()]])
        self._send(frm, [NACK, number, target])

    def _on_helped(self, frm: Life, message: list[Any], now: float) -> None:
        _, number, target = message
        if self.prober.vouched(number, target) is not None and target in self.suspicions:
            self.suspicions[target].vouched = now

    def _on_nack(self, frm: Life, message: list[Any], now: float) -> None:
        self.prober.nacked(frm, message[1])

    def _on_vouch(self, frm: Life, message: list[Any], now: float) -> None:
        _, life, refutation = message
        suspicion = self.suspicions.get(life)
        if suspicion is not None and self.view[life].refutation <= refutation:
            suspicion.vouched = now

    # -- learning ------------------------------------------------------------------------------------------------------

    def _hear_verdict(self, known: Record, news: Record, frm: Life, now: float) -> None:
        """Another member holds a member for dead."""
        accusers = news.dead or ()
        life = known.life
        if news.proof == "another life":
            sure = True
        elif news.proof:
            sure = life not in self._linked
        else:
            hearing = self.heard_at(life) > now - self.profile.suspicion_min(len(self.view)) / 2
            enough = min(1 + CONFIRMERS, accusers_wanted(self.me.life, life, self.view))
            sure = len(accusers) >= enough and not hearing
        if sure:
            self._accept(known.merge(news), accusers, news.proof, now)
            return
        # It is heard here, or too few have seen it: to be looked at, like any accusation.
        record = known.merge(news.without_verdict())
        if record.refutation == news.refutation:
            # Who tells it will accuse nobody whom it has buried, and yet counts: more may be wanted now than were
            # when the verdict was passed, because there are more members.
            for by in dict.fromkeys((*accusers, frm)):
                if by != self.me.life:
                    record = record.accused(by, Accusation.SUSPECT)
        if record != known:
            self._replace(known, record, "", now)

    def _accused(self, known: Record | None, record: Record, now: float) -> None:
        """Start, shorten or stop the suspicion of a member after its record changed."""
        life = record.life
        if not record.accusers:
            self.suspicions.pop(life, None)
            return
        suspicion = self.suspicions.get(life)
        if suspicion is None or known is None or known.refutation != record.refutation:
            suspicion = self.suspicions[life] = Suspicion(now)
        suspicion.set(record, self.profile, len(self.view), self.stall_limit, now)
        if record.of(self.me.life) is None and self.heard_at(life) < suspicion.since:
            # See with own eyes whether to confirm or to answer with evidence.
            self._look(life, now)
        if record.seen(Accusation.REFUSED) and (known is None or record.accusers != known.accusers):
            self._urgent = self._refusals = True

    def _look(self, life: Life, now: float) -> None:
        if life not in self.neighbours and not self._bereft():
            return
        if self.view[life].seen(Accusation.REFUSED) and life not in self._linked:
            self._dial(life)
        if not self.prober.probing(life):
            self._probe(life, now)

    def _dial(self, life: Life) -> None:
        if life not in self._dialling:
            self._dialling.add(life)
            self._out.append(Dial(life, self.view[life].address))

    # -- probing and spreading -----------------------------------------------------------------------------------------

    def _probe(self, target: Life, now: float) -> None:
        probe = self.prober.start(target, now)
        self._send(target, [PING, probe.number, self._rows(target)])

    def _probe_steps(self, now: float) -> None:
        for step, probe in self.prober.due(now):
            if step == "kernel":
                self._out.append(AskKernel(probe.target, probe.started))
            elif self._heard.get(probe.target, float("-inf")) <= probe.started and probe.target in self.view:
                self.prober.failed(probe)
                self._accuse(probe.target, probe.what, now)
        for asker, number, target in self.prober.nacks_due(now):
            self._send(asker, [NACK, number, target])

    def _helpers(self, target: Life) -> list[Life]:
        """Who may know better. Above the mesh, the target's own neighbours: they have links to it."""
        near = neighbours(target, self.view) - {self.me.life}
        fit = sorted(life for life in near if not self.view[life].accusers)
        return self._rng.sample(fit, min(self.profile.helpers, len(fit)))

    def _hear(self, life: Life, now: float) -> None:
        if life not in self.view:
            return
        self._heard[life] = now
        suspicion = self.suspicions.get(life)
        if suspicion is None or now - suspicion.answered < self.profile.suspicion_min(len(self.view)) / 2:
            return
        suspicion.answered = now
        record = self.view[life]
        for by in record.seen(Accusation.SUSPECT):
            if by != self.me.life and by in self.view:
                self._send(by, [VOUCH, life, record.refutation])

    def _lag(self, now: float) -> None:
        if now - self._lagged_at < self.profile.lag_limit:
            return
        self._lagged_at = now
        self.prober.awareness.change(1)
        self.prober.restart(now)

    def _done(self, now: float) -> list[Instruction]:
        while self._refusals:
            self._refusals = False
            for life in list(self.suspicions):
                if life in self.view:
                    self._judge_refusals(self.view[life], now)
        return super()._done(now)

    def _neighbour(self, life: Life) -> None:
        self.prober.add(life)

    def _doubted(self) -> None:
        self.prober.awareness.change(1)

    # -- verdicts ------------------------------------------------------------------------------------------------------

    def _accuse(self, life: Life, what: Accusation, now: float) -> None:
        """This node has seen it itself."""
        record = self.view[life]
        accused = record.accused(self.me.life, what)
        if accused == record:
            return
        detail = {
            Accusation.STALLED: "its machine answers, its process does not",
            Accusation.SUSPECT: "it does not answer, by this way or any other",
            Accusation.REFUSED: "its link broke and its address refuses connections",
        }[what]
        self._replace(record, accused, detail, now)

    def _judge_refusals(self, record: Record, now: float) -> None:
        """Two were refused, or all that there are: no clock has to run."""
        refused = record.seen(Accusation.REFUSED)
        if not refused or not self.profile.refused_proves or record.life in self._linked:
            return
        if len(refused) >= refusals_wanted(self.me.life, record.life, self.view):
            self._accept(record, refused, "refused", now)

    def _judge(self, life: Life, now: float) -> None:
        """A suspicion's clock has run out."""
        suspicion = self.suspicions[life]
        record = self.view[life]
        profile = self.profile
        if suspicion.distrusted(now, self._lagged_at, profile.probe_interval):
            suspicion.rearm(2 * profile.probe_interval, now)
            self._look(life, now)
            return
        accusers = tuple(by for by, _ in record.accusers)
        mine = record.of(self.me.life)
        hearing = max(self.heard_at(life), suspicion.vouched) > suspicion.armed
        # Who has not seen it itself waits for the word of those who have.
        if mine is not None and not hearing:
            if self._grounds(record, len(accusers)) and self._hears(life, now):
                self._accept(record, accusers, "", now)
                return
            if not suspicion.told:
                suspicion.told = True
                text = f"{record.name} is not reached from here, and no other member confirms it"
                self._out.append(Unreachable(life, text))
        suspicion.rearm(profile.suspicion_min(len(self.view)), now)
        if mine is not None:
            self._news.add(life, full=False)
        self._look(life, now)

    def _hears(self, accused: Life, now: float) -> bool:
        """Whether this node hears anybody who could object: if not, what the accusers said may long be refuted."""
        if accusers_wanted(self.me.life, accused, self.view) == 1:
            return True
        recently = now - self.profile.suspicion_min(len(self.view))
        return any(at > recently for life, at in self._heard.items() if life != accused)

    def _grounds(self, record: Record, accusers: int) -> bool:
        return accusers >= accusers_wanted(self.me.life, record.life, self.view)

    def _bury(self, record: Record, now: float) -> None:
        """A member is dead or has left: final."""
        life = record.life
        names = self._names(record.dead or ())
        if self._all.bury(record, now) is not None:
            self.suspicions.pop(life, None)
            self.prober.forget(life)
            self._heard.pop(life, None)
            self._linked.discard(life)
            self._dialling.discard(life)
            if life in self.neighbours or len(self.view) == MESH:
                self._regroup = True
        self._urgent = True
        # With one member less, others may be judged by fewer, and what it alone had seen is gone.
        self._refusals = True
        for other, suspicion in self.suspicions.items():
            suspicion.set(self._present(self.view[other]), self.profile, len(self.view), self.stall_limit, now)
        if record.left:
            self._out.append(Left(life, record, record.heir))
            return
        text = {
            "refused": f"its links broke and its address refuses connections, as seen by {names}",
            "another life": "another life of its node, or at its address, has taken its place",
        }.get(record.proof, f"it is not reached by {names}")
        self._out.append(Dead(life, record, Verdict(record.dead or (), record.proof, text)))

    def _present(self, record: Record) -> Record:
        """Without what members have seen that are gone."""
        accusers = tuple((by, what) for by, what in record.accusers if by in self.view)
        return record if len(accusers) == len(record.accusers) else replace(record, accusers=accusers)
