"""Watching as a model: every order in which one actor's ends, its nodes' ends and its watcher can meet, within bounds.

One actor, two hosts it may live on, its guardian, and a watcher on a fourth node; messages in one order for each pair
of nodes and none between pairs. Nodes are buried rightly or wrongly: each node hears of it in its own time, and one
that was buried while it lives goes on until it hears so itself. All that can happen is tried in all orders. In each
state in which nothing more can happen, whoever watched knows what is true.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from typing import Any

import pytest

from actorfw.core.watch import ORDERED, Ask, Done, Fact, Fates, Listen, Next, Unlisten, Watch, Watchers

FULL = os.environ.get("ACTORFW_MODEL") == "full"
FAULTS = 3 if FULL else 2

W, G, H1, H2 = b"watcher", b"guardian", b"host 1", b"host 2"
HOSTS = (H1, H2)
ACTOR = (G, 1)
EVENTS = ("crash", "exit", "kill", "bury host 1", "bury host 2", "bury guardian", "data", "cancel")


class Violation(AssertionError):
    """The model found a state that must not exist."""


class Rules:
    """What the machines do where a mutant may do otherwise."""

    watch: type[Watch] = Watch
    ended_behind_data = True  # the host reports an end behind what the incarnation had to say
    answers_the_late = True  # the host tells who listens too late that the incarnation has ended
    follows_twice = False  # the guardian answers with the incarnation that the watcher knows already


class World:
    """One state."""

    __slots__ = (
        "buried",
        "ends",
        "fates",
        "guardian",
        "heard",
        "left",
        "lives",
        "restarts",
        "rules",
        "told",
        "watch",
        "watchers",
        "watching",
        "wires",
    )

    def __init__(self, rules: type[Rules], restarts: int) -> None:
        self.rules = rules
        self.wires: dict[tuple[bytes, bytes], tuple[Any, ...]] = {}
        self.buried: frozenset[bytes] = frozenset()
        self.heard: frozenset[tuple[bytes, bytes]] = frozenset()  # (who has heard, of whose end)
        self.left: tuple[str, ...] = ()  # events that are still to come, in any order
        self.restarts = restarts
        # The guardian: (state, incarnation, host, reason)
        self.guardian: tuple[str, int, bytes | None, str] = ("placing", 0, None, "")
        self.lives: dict[bytes, int] = {}  # by host: the incarnation that lives there
        self.ends: dict[tuple[bytes, int], str] = {}  # what hosts remember
        self.watching = "not yet"
        self.watch: Watch | None = None
        self.watchers: dict[bytes, Watchers[bytes]] = {host: Watchers() for host in HOSTS}
        self.fates: Fates[bytes] = Fates()
        self.told: tuple[str, ...] = ()  # what the user has seen

    def clone(self) -> World:
        new = copy(self)
        for name in ("wires", "lives", "ends"):
            setattr(new, name, dict(getattr(self, name)))
        new.watch = copy(self.watch)
        new.watchers = {}
        for host, known in self.watchers.items():
            new.watchers[host] = Watchers()
            new.watchers[host].of = {id: dict(who) for id, who in known.of.items()}
        new.fates = Fates()
        new.fates.open = {id: list(asked) for id, asked in self.fates.open.items()}
        return new

    def key(self) -> Any:
        watch = self.watch
        return (
            frozenset((k, v) for k, v in self.wires.items() if v),
            self.buried,
            self.heard,
            self.left,
            self.restarts,
            self.guardian,
            frozenset(self.lives.items()),
            frozenset(self.ends.items()),
            self.watching,
            watch and tuple(getattr(watch, name) for name in Watch.__slots__),
            tuple(tuple(known.of.get(ACTOR, {}).items()) for known in self.watchers.values()),
            tuple(self.fates.open.get(ACTOR, ())),
            self.told,
        )

    # -- the network ---------------------------------------------------------------------------------------------------

    def knows_gone(self, who: bytes, life: bytes) -> bool:
        return (who, life) in self.heard

    def send(self, source: bytes, target: bytes, *msg: Any) -> None:
        if not self.knows_gone(source, target) and not self.knows_gone(target, source):
            self.wires[(source, target)] = (*self.wires.get((source, target), ()), msg)

    # -- what can happen -----------------------------------------------------------------------------------------------

    def moves(self) -> Iterator[tuple[str, Callable[[World], None]]]:
        for (source, target), queue in self.wires.items():
            if queue:
                yield f"{source!r} -> {target!r}: {queue[0]}", partial(World.deliver, source=source, target=target)
        for life in sorted(self.buried):
            for who in (W, G, life) if life in HOSTS else (W, G, *HOSTS):  # what hosts know of hosts changes nothing
                if not self.knows_gone(who, life) and not self.knows_gone(who, who):
                    yield f"{who!r} hears that {life!r} is gone", partial(World.hear, who=who, life=life)
        for event in sorted(set(self.left)):
            if self.possible(event):
                yield event, partial(World.happen, event=event)
        if self.watching == "not yet":
            yield "watch", World.begin
        if self.guardian[0] == "placing" and self.places():
            yield "the guardian places it", World.place

    def possible(self, event: str) -> bool:
        if event in ("crash", "exit"):
            return bool(self.lives)
        if event == "data":
            return any(host in self.lives for host in HOSTS)
        if event == "kill":
            return not self.knows_gone(G, G) and self.guardian[0] != "ended"
        if event == "cancel":
            return self.watching == "yes"
        return True

    def happen(self, event: str) -> None:
        left = list(self.left)
        left.remove(event)
        self.left = tuple(left)
        if event in ("crash", "exit"):
            self.end_here(min(self.lives), "crashed" if event == "crash" else "exited")
        elif event == "data":
            for at, incarnation in self.lives.items():
                self.send(at, W, "data", incarnation)
        elif event == "kill":
            _, incarnation, host, _ = self.guardian
            self.decide(("ended", incarnation, host, "killed"))
            if host is not None:
                self.send(G, host, "end", incarnation, "killed")
        elif event == "cancel":
            assert self.watch is not None
            self.watching = "cancelled"
            self.carry_out(self.watch.leave())
            self.watch = None
        else:
            self.buried |= {{"guardian": G, "host 1": H1, "host 2": H2}[event.removeprefix("bury ")]}

    def hear(self, who: bytes, life: bytes) -> None:
        self.heard |= {(who, life)}
        self.wires[(life, who)] = ()
        self.wires[(who, life)] = ()
        if who == life:
            # It hears of its own end: all that it had is over. Nobody hears anything of it any more.
            self.lives.pop(who, None)
            for other in (W, G, *HOSTS):
                self.wires[(who, other)] = ()
            if who == G:
                self.guardian = ("ended", *self.guardian[1:3], "fenced")
                self.fates = Fates()
            else:
                self.watchers[who] = Watchers()
            return
        if who in HOSTS:
            if life == G and who in self.lives:
                self.end_here(who, "owner_died")
        elif who == G:
            state, incarnation, host, _ = self.guardian
            if host == life and state in ("starting", "up"):
                self.lost_one(incarnation, "node_died")
        elif self.watch is not None:
            if life == G:
                self.carry_out(self.watch.guardian_lost(""))
            else:
                self.carry_out(self.watch.node_gone(life, ""))

    # -- the guardian --------------------------------------------------------------------------------------------------

    def fact(self) -> Fact:
        state, incarnation, host, reason = self.guardian
        if self.rules.follows_twice and state in ("up", "starting"):
            return Fact(incarnation + 1, host)
        return Fact(incarnation, host if state == "up" else None, reason)

    def answer(self, asker: bytes) -> None:
        state, incarnation, host, reason = self.guardian
        if state == "ended":
            self.send(G, asker, "judged", reason)
        else:
            self.send(G, asker, "found", incarnation, host)

    def decide(self, now: tuple[str, int, bytes | None, str]) -> None:
        self.guardian = now
        for asker in self.fates.changed(ACTOR, self.fact()):
            self.answer(asker)

    def lost_one(self, incarnation: int, reason: str) -> None:
        if reason != "exited" and self.restarts:
            self.restarts -= 1
            self.guardian = ("placing", incarnation, None, "")
        else:
            self.decide(("ended", incarnation, None, reason))

    def places(self) -> list[bytes]:
        if self.knows_gone(G, G):
            return []
        return [host for host in HOSTS if not self.knows_gone(G, host)]

    def place(self) -> None:
        host = self.places()[0]
        incarnation = self.guardian[1] + 1
        self.guardian = ("starting", incarnation, host, "")
        self.send(G, host, "create", incarnation)

    # -- the host ------------------------------------------------------------------------------------------------------

    def end_here(self, host: bytes, reason: str) -> None:
        incarnation = self.lives.pop(host)
        self.ends[(host, incarnation)] = reason
        last = ("data", incarnation)
        if self.rules.ended_behind_data:
            self.send(host, W, *last)
        for watcher in self.watchers[host].ended(ACTOR, incarnation):
            self.send(host, watcher, "said", incarnation, reason)
        if not self.rules.ended_behind_data:
            self.send(host, W, *last)
        self.send(host, G, "ended", incarnation, reason)

    # -- messages ------------------------------------------------------------------------------------------------------

    def deliver(self, source: bytes, target: bytes) -> None:
        first, *rest = self.wires[(source, target)]
        self.wires[(source, target)] = tuple(rest)
        kind, *msg = first
        if self.knows_gone(target, target):
            return
        getattr(self, f"on_{kind}")(source, target, *msg)

    def on_create(self, source: bytes, host: bytes, incarnation: int) -> None:
        if self.knows_gone(host, G):
            return
        self.lives[host] = incarnation
        self.send(host, G, "created", incarnation)

    def on_created(self, host: bytes, _: bytes, incarnation: int) -> None:
        if self.guardian[:3] == ("starting", incarnation, host):
            self.decide(("up", incarnation, host, ""))

    def on_end(self, source: bytes, host: bytes, incarnation: int, how: str) -> None:
        if self.lives.get(host) == incarnation:
            self.end_here(host, how)

    def on_ended(self, host: bytes, _: bytes, incarnation: int, reason: str) -> None:
        if self.guardian[0] in ("starting", "up") and self.guardian[1:3] == (incarnation, host):
            self.lost_one(incarnation, reason)

    def on_ask(self, asker: bytes, _: bytes, after: int) -> None:
        if self.fates.ask(ACTOR, after, asker, self.fact()):
            self.answer(asker)

    def on_listen(self, watcher: bytes, host: bytes, incarnation: int) -> None:
        listens = self.watchers[host].add(ACTOR, watcher, incarnation, self.lives.get(host))
        if not listens and self.rules.answers_the_late:
            self.send(host, watcher, "said", incarnation, self.ends.get((host, incarnation), "unknown"))

    def on_unlisten(self, watcher: bytes, host: bytes) -> None:
        self.watchers[host].remove(ACTOR, watcher)

    def on_found(self, _: bytes, __: bytes, incarnation: int, host: bytes) -> None:
        if self.watch is not None:
            self.carry_out(self.watch.found(incarnation, host))

    def on_judged(self, _: bytes, __: bytes, reason: str) -> None:
        if self.watch is not None:
            self.carry_out(self.watch.judged(reason, ""))

    def on_said(self, host: bytes, _: bytes, incarnation: int, reason: str) -> None:
        watch = self.watch
        if watch is not None:
            heard = (watch.host, watch.incarnation) == (host, incarnation)
            if heard and ("data", incarnation) in self.wires[(host, W)]:
                raise Violation("the end of an incarnation came before its last message")
            self.carry_out(watch.host_says(host, incarnation, reason, ""))

    def on_data(self, host: bytes, _: bytes, incarnation: int) -> None:
        """A message of the actor: whoever saw its end has no calls open that it could answer."""

    # -- the watcher ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self.watching = "yes"
        self.watch = self.rules.watch()
        if self.knows_gone(W, G):
            self.carry_out(self.watch.guardian_lost(""))
        self.carry_out(self.watch.begin())

    def carry_out(self, instructions: list[Any]) -> None:
        for do in instructions:
            match do:
                case Ask(after):
                    self.send(W, G, "ask", after)
                case Listen(host, incarnation):
                    if self.knows_gone(W, host):
                        assert self.watch is not None
                        self.carry_out(self.watch.node_gone(host, ""))
                    else:
                        self.send(W, host, "listen", incarnation)
                case Unlisten(host):
                    self.send(W, host, "unlisten")
                case Next(incarnation):
                    self.told = (*self.told, f"restarted {incarnation}")
                case Done(reason, _):
                    self.told = (*self.told, f"terminated {reason}")
                case _:
                    raise AssertionError(do)

    # -- what must hold ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """In every state."""
        ends = [said for said in self.told if said.startswith("terminated")]
        if len(ends) > 1:
            raise Violation(f"ended twice: {self.told}")
        if ends and self.told[-1] != ends[0]:
            raise Violation(f"something after the end: {self.told}")
        restarts = [int(said.split()[1]) for said in self.told if said.startswith("restarted")]
        if restarts != sorted(set(restarts)) or 1 in restarts:
            raise Violation(f"restarts out of order: {self.told}")

    def check_final(self) -> None:
        """Where nothing more can happen."""
        lives = {host: i for host, i in self.lives.items() if not self.knows_gone(host, host)}
        ended = any(said.startswith("terminated") for said in self.told)
        if lives and ended:
            raise Violation(f"{self.told}, and it lives: {lives}")
        if self.watching == "cancelled":
            if any(known.of for known in self.watchers.values()):
                raise Violation("nobody watches, and a host would tell")
            return
        waits_for_room = self.guardian[0] == "placing" and not self.places()
        if not lives and not ended and self.watching == "yes" and not waits_for_room:
            raise Violation(f"it has ended, and whoever watches does not hear it: {self.guardian}")
        if lives:
            (host, incarnation), *more = lives.items()
            if more or self.watchers[host].of != {ACTOR: {W: incarnation}}:
                raise Violation(f"it lives at {lives}, and its host would not tell: {self.watchers[host].of}")


def explore(rules: type[Rules], restarts: int, events: tuple[str, ...]) -> int:
    """All states that follow; returns how many. Raises a `Violation` with the way that leads to it."""
    start = World(rules, restarts)
    start.left = events
    seen = {start.key()}
    open: list[tuple[World, Any]] = [(start, None)]
    while open:
        world, trail = open.pop()
        quiet = True
        for name, move in list(world.moves()):
            quiet = False
            then = world.clone()
            try:
                move(then)
                then.check()
            except Violation as error:
                raise Violation(f"{error}\n{_way((name, trail))}") from None
            key = then.key()
            if key not in seen:
                seen.add(key)
                open.append((then, (name, trail)))
        if quiet:
            try:
                world.check_final()
            except Violation as error:
                raise Violation(f"{error}\n{_way(trail)}") from None
    return len(seen)


def _way(trail: Any) -> str:
    steps: list[str] = []
    while trail is not None:
        name, trail = trail
        steps.append(name)
    return "\n".join(reversed(steps))


def _draws() -> list[tuple[int, tuple[str, ...]]]:
    """Each choice of so many events, with as many restarts as make a difference."""
    chosen: set[tuple[str, ...]] = {()}
    for _ in range(FAULTS):
        more = [(*some, one) for some in chosen for one in EVENTS if one == "crash" or one not in some]
        chosen |= {tuple(sorted(events)) for events in more}
    return [(restarts, events) for events in sorted(chosen) for restarts in range(FAULTS) if restarts <= len(events)]


@pytest.mark.timeout(1800 if FULL else 60)
def test_everybody_who_watches_hears_the_truth_once() -> None:
    states = sum(explore(Rules, restarts, events) for restarts, events in _draws())
    assert states > 10_000, "the model has shrunk"


class BelievesHosts(Rules):
    """Takes an actor's own exit from its host for final, as if no host could be taken for dead elsewhere."""

    class watch(Watch):
        __slots__ = ()

        def host_says(self, host: bytes, incarnation: int, reason: str, detail: str) -> list[Any]:
            if self.asking or host != self.host or incarnation != self.incarnation:
                return []
            if reason in (*ORDERED, "exited", "owner_died"):
                return self.end(reason, detail)
            return super().host_says(host, incarnation, reason, detail)


class ForgetsTheGuardian(Rules):
    """Does not remember that the guardian is gone when the host goes later."""

    class watch(Watch):
        __slots__ = ()

        def guardian_lost(self, detail: str) -> list[Any]:
            told = super().guardian_lost(detail)
            self.guardian_gone = False
            return told


class SpeaksTooEarly(Rules):
    """The host tells of an end while something of the incarnation is still to be sent."""

    ended_behind_data = False


class MissesTheLate(Rules):
    """The host says nothing to who listens to an incarnation that has ended."""

    answers_the_late = False


class AnswersTheSame(Rules):
    """The guardian answers with an incarnation of which it does not know yet whether it is up."""

    follows_twice = True


class HostIsFinal(Rules):
    """Takes a host's death for the end."""

    class watch(Watch):
        __slots__ = ()

        def node_gone(self, life: bytes, detail: str) -> list[Any]:
            return self.end("node_died", detail) if life == self.host else []


@pytest.mark.parametrize(
    ("rules", "restarts", "events"),
    [
        (BelievesHosts, 1, ("bury host 1", "exit")),
        (ForgetsTheGuardian, 0, ("bury guardian", "bury host 1")),
        (SpeaksTooEarly, 0, ("crash",)),
        (MissesTheLate, 0, ("crash",)),
        (AnswersTheSame, 0, ("crash",)),
        (HostIsFinal, 1, ("bury host 1",)),
    ],
)
def test_the_model_catches(rules: type[Rules], restarts: int, events: tuple[str, ...]) -> None:
    explore(Rules, restarts, events)
    with pytest.raises(Violation):
        explore(rules, restarts, events)
