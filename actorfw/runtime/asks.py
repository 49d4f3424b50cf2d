"""Control requests between nodes: a question with a verb, one answer. Nothing on the hot path goes through here."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.refs import Reply
from actorfw.values.errors import ActorFwError, OverloadedError, PeerLostError, PeerUnreachableError, UsageError
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["ASKS", "PATIENT", "Asks"]

PATIENT: Final = frozenset({"sync", "events", "pump", "hosted"})
"""Requests that have to arrive, however late: what follows from their answer must not come before."""

ASKS: Final = 65_536
"""Requests of one peer that wait for their answers. Whoever waits for a remote object asks one, so this is much."""


class Asks:
    """The questions that this node has asked and those that it can answer.

    `verbs` maps a verb to `fn(peer, payload)`, which returns what msgpack can carry, or a `Reply` of it.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.verbs: dict[str, Callable[[Peer, Any], Any]] = {"sync": lambda peer, payload: None}
        self._open: dict[int, tuple[Peer, str, Reply[Any]]] = {}
        self._numbers = itertools.count(1)
        self._open_for: dict[bytes, int] = {}  # questions of each peer that are still to be answered

    def ask(self, peer: Peer, verb: str, payload: Any) -> Reply[Any]:
        """Ask a peer. Who does not wait for the answer asks one that can't be reached just now as well."""
        reply: Reply[Any] = Reply(self.node)
        if peer.ended:  # nobody would say so a second time
            reply._fail(PeerUnreachableError(f"node {peer.name} was not asked: it is {peer.ended}"))
            return reply
        if peer.lost and verb not in PATIENT:
            reply._fail(PeerUnreachableError(f"node {peer.name} was not asked: it can't be reached now"))
            return reply
        number = next(self._numbers)
        self._open[number] = (peer, verb, reply)
        peer.send((m.ASK, number, verb, payload))
        return reply

    def on_ask(self, peer: Peer, msg: list[Any]) -> None:
        _, number, verb, payload = msg
        handler = self.verbs.get(verb)
        try:
            if handler is None:
                raise UsageError(f"node {self.node.name} knows no request {verb!r}")
            if self._open_for and self._open_for.get(peer.life, 0) >= ASKS:
                self.node.limits["asks_of_a_peer"].refused += 1
                raise OverloadedError(
                    f"node {self.node.name} has not answered {ASKS} requests of this node yet, and that is the limit: "
                    f"wait for some of them before you ask more"
                )
            answer = handler(peer, payload)
        except Exception as error:  # the payload is a peer's: whatever it breaks, the asker is told
            self._failed(peer, number, error, msg)
            return
        if isinstance(answer, Reply):
            self._open_for[peer.life] = self._open_for.get(peer.life, 0) + 1
            later: Reply[Any] = answer
            later.add_done_callback(lambda done: self._answer_later(peer, number, done))
        else:
            peer.send((m.ANSWER, number, True, answer))

    def most_open(self) -> int:
        """Questions of the peer that waits for most answers."""
        return max(self._open_for.values(), default=0)

    def _answer_later(self, peer: Peer, number: int, done: Reply[Any]) -> None:
        still = self._open_for[peer.life] - 1
        if still:
            self._open_for[peer.life] = still
        else:
            del self._open_for[peer.life]
        if peer.ended:
            return
        try:
            peer.send((m.ANSWER, number, True, done.result()))
        except Exception as error:  # the error that it ended with, or a value that can't travel
            self._failed(peer, number, error, [m.ASK])

    def _failed(self, peer: Peer, number: int, error: Exception, msg: list[Any]) -> None:
        if not isinstance(error, ActorFwError):
            self.node.peers.not_handled(peer, msg)
        out = pack_error(self.node.codec, error, where=self.node.name, infrastructure=True)
        peer.send((m.ANSWER, number, False, out))

    def on_answer(self, peer: Peer, msg: list[Any]) -> None:
        _, number, ok, payload = msg
        found = self._open.pop(number, None)
        if found is None:
            return
        if ok:
            found[2]._settle(payload)
        else:
            found[2]._fail(self.node.unpack_error(payload))

    def peer_lost(self, peer: Peer, why: str) -> None:
        """A peer can't be reached for now: who waits for its answer does not any more."""
        for number, (asked, verb, reply) in list(self._open.items()):
            if asked is peer and verb not in PATIENT:
                del self._open[number]
                reply._fail(PeerLostError(f"node {peer.name} did not answer: {why}"))

    def peer_ended(self, life: bytes, name: str, why: str) -> None:
        for number, (peer, _, reply) in list(self._open.items()):
            if peer.life == life:
                del self._open[number]
                reply._fail(PeerLostError(f"node {name} ended before it answered: {why}"))

    def close(self, error: Exception) -> None:
        for _, _, reply in self._open.values():
            reply._fail(error)
        self._open.clear()
