"""`Visitor`: somebody who asks a cluster and is no part of it: the command line.

It dials one member, authenticates itself as any node does, and asks; that member answers for all (`runtime.visits`).
It listens nowhere and is dialled by nobody, so one open port, a tunnel or a port forward is enough; and whatever
becomes of it, the cluster does not notice.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Final

from actorfw.io.env import Env
from actorfw.runtime.canvass import unpack_answer
from actorfw.runtime.nodeoptions import NodeOptions
from actorfw.runtime.peers import Identity, Peer, Peers
from actorfw.runtime.seeds import Seeds
from actorfw.runtime.visits import VISITOR
from actorfw.values.errors import (
    ActorFwError,
    AuthenticationError,
    PeerUnreachableError,
    ProtocolError,
)
from actorfw.values.ids import life_of
from actorfw.wire import messages as m
from actorfw.wire.code import CodeTable
from actorfw.wire.codec import Codec
from actorfw.wire.failures import unpack_error

__all__ = ["Visitor"]

_NEXT_SEED: Final = 0.3  # seconds that one seed may take before the next one is dialled as well
_ANSWER_SECONDS: Final = 6.0


class Visitor:
    """A visit, as an async context manager.

    Args:
        env: the visitor's world.
        options: as those of a node; seeds, cluster, secrets and config are used.
        patience: seconds until somebody must have answered.

    Attributes:
        asked: the name of the member that is asked.
        address: at which it was dialled.
        also: addresses of further members, to be tried when those of the seeds are not there any more.
    """

    def __init__(self, env: Env, options: NodeOptions, *, patience: float = 5.0) -> None:
        self.env = env
        self.options = options
        self.asked = ""
        self.address = ""
        self.also: list[str] = []
        self._patience = patience
        self._codec = Codec(CodeTable(env.host_id))
        self._numbers = itertools.count(1)
        self._open: dict[int, asyncio.Future[Any]] = {}
        self._peer: Peer | None = None
        name = f"visitor-{env.pid}"
        life = life_of(env.token(8), env.token(8))
        info = {VISITOR: True, "name": name, "address": ""}
        handlers: list[Any] = [self._ignore] * m.KINDS
        handlers[m.ANSWER] = self._on_answer
        self._peers = Peers(
            env,
            Identity(life, name, options.cluster, info),
            options.config,
            options.secrets,
            events=self,
            handlers=handlers,
        )

    # -- the visit -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Visitor:
        try:
            self._peer = await self._arrive()
        except BaseException:  # cancelled or refused: what was dialled is to be closed
            await self._peers.close()
            raise
        self.asked = self._peer.name
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Say goodbye; without, if the member that was asked does not answer any more."""
        if self._peer is not None and (self._peer.ended is not None or self._open):
            self._peers.abort()
        await self._peers.close()

    async def ask(self, what: str, patience: float | None = _ANSWER_SECONDS, **arguments: Any) -> dict[str, Any]:
        """The answer to a question.

        Args:
            what: a question that `Visits` knows.
            patience: seconds; None: for ever.
            **arguments: to the question.

        Raises:
            PeerUnreachableError: the member has ended, or does not answer in time.
            ActorFwError: what was asked for has failed; as the member tells it.
        """
        answer: dict[str, Any] = unpack_answer(await self._ask("visit", [what, arguments], patience))
        return answer

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """What happens, as the member sees it, from the first item on; that one is empty, and says that it begins."""
        seen = 0
        asking = asyncio.ensure_future(self._ask("visit_events", seen, None))
        try:
            yield {}
            while True:
                first, events = await asking
                if first > seen:
                    yield {"kind": "EventsDropped", "count": first - seen}
                for event in events[max(0, seen - first) :]:
                    yield event
                seen = max(seen, first + len(events))
                asking = asyncio.ensure_future(self._ask("visit_events", seen, None))
        finally:
            asking.cancel()

    async def _ask(self, verb: str, payload: Any, patience: float | None) -> Any:
        peer = self._peer
        assert peer is not None
        self._check(peer)
        number = next(self._numbers)
        answer = self._open[number] = self.env.create_future()
        peer.send((m.ASK, number, verb, payload))
        try:
            async with asyncio.timeout(patience):
                return await answer
        except TimeoutError:
            raise PeerUnreachableError(
                f"node {peer.name} at {self.address} did not answer within {patience:g} s: ask another one, with --seed"
            ) from None

    def _check(self, peer: Peer) -> None:
        if peer.ended is not None:
            raise self._gone(peer)

    def _gone(self, peer: Peer) -> PeerUnreachableError:
        why = peer.last_failure or "it left"
        return PeerUnreachableError(f"node {peer.name}, which was asked, is gone ({why}): ask another one, with --seed")

    # -- arriving ------------------------------------------------------------------------------------------------------

    async def _arrive(self) -> Peer:
        """Dial one address after the other, without waiting long for any, until one has taken us in."""
        dials: dict[asyncio.Task[Peer], str] = {}
        found = await Seeds(self.env, self.options.seeds).look()
        failed: dict[str, Exception] = dict(found.unknown)
        waiting = list(dict.fromkeys([*found.addresses, *self.also]))
        until = self.env.time() + self._patience
        try:
            while waiting or dials:
                if waiting:
                    address = waiting.pop(0)
                    dials[asyncio.ensure_future(self._peers.dial(address))] = address
                left = until - self.env.time()
                done, _ = await asyncio.wait(
                    dials,
                    timeout=max(0.0, min(left, _NEXT_SEED) if waiting else left),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for dial in done:
                    address = dials.pop(dial)
                    error = dial.exception()
                    if error is None:
                        self.address = address
                        return dial.result()
                    if not isinstance(error, ActorFwError):
                        raise error
                    failed[address] = error
                if self.env.time() >= until:
                    for address in dials.values():
                        failed[address] = PeerUnreachableError(f"no answer within {self._patience:g} s")
                    break
        finally:
            for dial in dials:
                dial.cancel()
            await asyncio.gather(*dials, return_exceptions=True)
        raise self._refused(failed)

    def _refused(self, failed: dict[str, Exception]) -> Exception:
        """One error of all: that of who answered and refused, if anybody did."""
        for kind in (AuthenticationError, ProtocolError):
            for address, error in failed.items():
                if isinstance(error, kind):
                    return error if address in str(error) else _like(error, f"{address}: {error}")
        tried = "; ".join(
            str(error) if address in str(error) else f"{address}: {error}" for address, error in failed.items()
        )
        return PeerUnreachableError(f"no node of cluster {self.options.cluster!r} could be reached. Tried {tried}")

    # -- what peers report ---------------------------------------------------------------------------------------------

    def _on_answer(self, peer: Peer, msg: list[Any]) -> None:
        _, number, ok, payload = msg
        answer = self._open.pop(number, None)
        if answer is None or answer.done():
            return
        if ok:
            answer.set_result(payload)
        else:
            answer.set_exception(unpack_error(self._codec, payload))

    def _ignore(self, peer: Peer, msg: list[Any]) -> None:
        """What members tell each other."""

    def _over(self, peer: Peer) -> None:
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(self._gone(peer))
        self._open.clear()

    def peer_up(self, peer: Peer) -> None:
        """See `PeerEvents`."""

    def linked(self, peer: Peer) -> None:
        """See `PeerEvents`."""

    def rested(self, peer: Peer) -> None:
        """See `PeerEvents`."""

    def evidence(self, peer: Peer, kind: str, detail: str) -> None:
        """See `PeerEvents`. A visit does not outlive its link: another member can tell the same."""
        peer.last_failure = detail
        self._peers.bury(peer.life, detail)

    def peer_lost(self, peer: Peer, detail: str, unsent: list[Sequence[Any]]) -> None:
        """See `PeerEvents`."""
        self._peers.bury(peer.life, detail)

    def peer_back(self, peer: Peer) -> None:
        """See `PeerEvents`."""

    def peer_ended(self, peer: Peer, reason: str, detail: str, unsent: list[Sequence[Any]]) -> None:
        """See `PeerEvents`."""
        peer.last_failure = peer.last_failure or detail
        if peer is self._peer:
            self._over(peer)

    def on_large_head(self, peer: Peer, head: list[Any], sizes: list[int]) -> None:
        """See `PeerEvents`: nobody sends a visitor values."""

    def on_large(self, peer: Peer, head: list[Any], buffers: list[memoryview]) -> None:
        """See `PeerEvents`."""


def _like(error: ActorFwError, text: str) -> ActorFwError:
    made = type(error)(text)
    made.__cause__ = error
    return made
