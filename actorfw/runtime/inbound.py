"""Messages on their way in: which part of the node takes which kind, from peers and from worker processes.

Refs in a message are counted before anything else is done with it, since both ends count alike (`core.ownership`);
large values are counted by their heads, in order with other messages, and go on as if they had come in one piece. A
call or task that can't be taken apart is answered with its error, so that its caller does not wait and nobody else
notices.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from actorfw.runtime.outbound import PACKED, PICKLED, TEXT
from actorfw.runtime.peers import Peer, no_handler
from actorfw.runtime.store.arrivals import arrival_of
from actorfw.values.errors import ActorFwError, SerializationError
from actorfw.values.ids import as_bytes, owned_ids
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error
from actorfw.wire.payload import Packed

if TYPE_CHECKING:
    from actorfw.runtime.bulk import Sink
    from actorfw.runtime.channel import WorkerProcess
    from actorfw.runtime.node import Node

__all__ = ["Inbound"]

logger = logging.getLogger("actorfw.node")


class Inbound:
    """The tables of handlers of one node, and what belongs to no part alone."""

    def __init__(self, node: Node) -> None:
        self.node = node

    # -- large values --------------------------------------------------------------------------------------------------

    def on_large_head(self, peer: Peer, head: list[Any], sizes: list[int]) -> Sink | None:
        """The head of a large value: its refs are counted now, in order with other messages.

        So is what the answer of a call says of those that its host keeps: they may be returned before the value is
        complete.
        """
        node = self.node
        if head[0] == m.PULLED:
            return node.pulls.on_head(peer, head, sizes)
        refs = head[-1][0]
        held = owned_ids(refs) if refs else None
        given = node.objects.ownership.took(peer.life, held) if held else None
        head.append(given)
        if head[0] == m.RESULT:
            _, no, _, kept, attempt, *_ = head
            key = (no, attempt, peer.life) if attempt else (no, peer.life)
            node.objects.carry_out(node.objects.ownership.call_ended(key, [(as_bytes(k[0]), k[1]) for k in kept or ()]))
        if head[-3] != PACKED:
            return None
        return arrival_of(node.codec.shared, sizes, lambda buffers: self.on_large(peer, head, buffers))

    def on_large(self, peer: Peer, head: list[Any], buffers: Sequence[Any]) -> None:
        """A large value is complete: go on as if it had come in one piece."""
        node = self.node
        if head[0] == m.PULLED:
            return  # it was refused
        given = head.pop()
        refs, codes = head.pop()
        form = head.pop()
        data, *rest = buffers
        out: Any
        if form == PICKLED:
            out = bytes(data)
        elif form == TEXT:
            out = str(data, "utf-8")
        else:
            out = Packed(bytes(data), list(rest), [(as_bytes(r[0]), r[1], r[2]) for r in refs], list(codes))
            node.objects.keep(out)
        self._large_out(peer, head, out)
        if given is not None:
            node.objects.carry_out(node.objects.ownership.settle(given))

    def _large_out(self, peer: Peer, head: list[Any], out: Any) -> None:
        node = self.node
        kind = head[0]
        if kind == m.RESULT:
            _, no, state, *more = head
            node.tasks.on_result(peer, [kind, no, state, out, *more])
        else:
            node.peers.handlers[kind](peer, [*head, out])

    def unsendable(self, peer: Peer, msg: Sequence[Any], error: Exception) -> None:
        """A message can't be put into a frame: whoever waits for what it would bring hears so."""
        node = self.node
        why = SerializationError(f"a message to node {peer.name} can't be sent: {error}", ran=False)
        out = pack_error(node.codec, why, where=node.name, infrastructure=True)
        kind = msg[0]
        if kind == m.TASK:
            task = node.tasks.open.get(msg[1])
            if task is not None:
                node.tasks.answered(task, m.ERROR, out)
        elif kind == m.CALL:
            node.calls.answered(msg[1], m.ERROR, out)
        elif kind == m.RESULT:
            peer.send((m.RESULT, msg[1], m.ERROR, out, msg[4], msg[5]))
        elif kind == m.SETTLED:
            peer.send((m.SETTLED, msg[1], msg[2], m.ERROR, out))
        else:
            logger.error("a message of kind %s to node %s can't be sent: %s", kind, peer.name, error)

    def unread(self, peer: Peer, msg: list[Any], why: str) -> None:
        """A peer's message could not be handled: if it is an answer, whoever waits for it hears so."""
        if msg[0] == m.RESULT:
            node = self.node
            error = SerializationError(f"the answer of node {peer.name} can't be read: {why}")
            out = pack_error(node.codec, error, where=node.name, infrastructure=True)
            node.tasks.on_result(peer, [m.RESULT, msg[1], m.ERROR, out, None, msg[5]])

    # -- messages ------------------------------------------------------------------------------------------------------

    def of_peers(self) -> list[Callable[[Peer, list[Any]], None]]:
        node = self.node
        table: list[Callable[[Peer, list[Any]], None]] = [no_handler] * m.KINDS
        objects = node.objects
        table[m.BLOB] = self._on_blob
        table[m.TASK] = self._on_task
        table[m.RESULT] = node.tasks.on_result
        table[m.ITEM] = node.items.on_item
        table[m.CREDIT] = node.execution.on_credit
        table[m.CANCEL] = node.execution.on_cancel
        table[m.BOUNCE] = node.tasks.on_bounce
        table[m.CALL] = node.hosting.on_call
        table[m.NOT_HERE] = node.calls.locating.on_not_here
        table[m.LOST] = node.calls.locating.on_lost
        table[m.RETURNED] = node.calls.locating.on_returned
        table[m.BEGUN] = node.windows.on_begun
        table[m.ACCEPT] = node.windows.on_accept
        table[m.ACCEPTED] = node.windows.on_accepted
        table[m.CREATE] = node.hosting.on_create
        table[m.CREATED] = node.guardians.on_created
        table[m.END] = self._on_end
        table[m.ENDED] = node.guardians.on_ended
        table[m.LOCATE] = node.guardians.on_locate
        table[m.LOCATED] = node.calls.locating.on_located
        table[m.FETCH] = node.fetches.on_fetch
        table[m.SETTLED] = self._on_settled
        table[m.PULL] = node.copies.on_pull
        table[m.LENT] = node.hostmates.on_lent
        table[m.LACKING] = node.pulls.on_lacking
        table[m.HAS] = node.locations.on_has
        table[m.FREE] = node.copies.on_free
        table[m.BORROW] = objects.on_borrow
        table[m.GRANT] = objects.on_grant
        table[m.GONE] = objects.on_gone
        table[m.RETURN] = objects.on_return
        table[m.INHERIT] = node.heirs.on_inherit
        table[m.MOVED] = node.heirs.on_moved
        table[m.VOTES] = node.directory.on_votes
        table[m.INHERITED] = node.heirs.on_inherited
        table[m.RELAY] = node.heirs.on_relay
        table[m.OUTPUT] = node.output.on_output
        table[m.ASK] = node.asks.on_ask
        table[m.ANSWER] = node.asks.on_answer
        table[m.MEMBERSHIP] = node.failure.on_message
        table[m.NAMES] = node.directory.on_names
        table[m.BUNDLES] = node.bundles.on_bundles
        table[m.WATCH] = node.watching.on_watch
        table[m.UNWATCH] = node.watching.on_unwatch
        table[m.WATCHED] = node.watching.on_watched
        table[m.EVENT] = node.events.on_event
        return table

    def of_workers(self) -> list[Callable[[WorkerProcess, list[Any]], None]]:
        node = self.node
        table: list[Callable[[WorkerProcess, list[Any]], None]] = [_unknown] * m.KINDS
        desk = node.workercalls
        pool = node.pool
        table[m.BLOB] = self._on_blob
        table[m.RESULT] = pool.on_result
        table[m.ITEM] = pool.on_item
        table[m.CREDIT] = desk.on_credit
        table[m.CANCEL] = desk.on_cancel
        table[m.CREATED] = node.hosting.on_created
        table[m.ENDED] = node.hosting.on_worker_ended
        table[m.FETCH] = desk.on_fetch
        table[m.OUTPUT] = pool.on_output
        table[m.ASK] = desk.on_ask
        table[m.BLOCKED] = pool.on_blocked
        table[m.AWAITS] = node.deadlocks.on_awaits
        table[m.UNBLOCKED] = pool.on_unblocked
        table[m.HANDED_BACK] = pool.on_handed_back
        table[m.SUBMIT] = desk.on_submit
        table[m.INVOKE] = desk.on_invoke
        table[m.SPAWN] = desk.on_spawn
        table[m.PUT] = desk.on_put
        table[m.REBORN] = node.workerlives.on_reborn
        table[m.RELEASE] = node.objects.on_release
        table[m.ALLOC] = node.workerblocks.on_alloc
        table[m.LET_GO] = node.workerblocks.on_let_go
        table[m.STARTED] = node.hosting.on_started
        table[m.HANGS] = node.hosting.on_hangs
        return table

    def _on_blob(self, sender: Peer | WorkerProcess, msg: list[Any]) -> None:
        node = self.node
        node.codes.add(msg[2])

    def _on_task(self, peer: Peer, msg: list[Any]) -> None:
        node = self.node
        # What can't be taken apart is answered with its error, so that its caller does not wait, and nobody else
        # notices.
        try:
            node.execution.on_task(peer, msg)
        except Exception as error:  # the message is a peer's
            peer.send((m.RESULT, msg[1], m.ERROR, self._bad_message(peer, msg, error), None, msg[6]))

    def refuse_call(self, peer: Peer, msg: list[Any], error: Exception) -> None:
        """A call of an actor's method can't be taken apart."""
        if msg[1]:
            peer.send((m.RESULT, msg[1], m.ERROR, self._bad_message(peer, msg, error), None, 0))

    def _bad_message(self, peer: Peer, msg: list[Any], error: Exception) -> Any:
        node = self.node
        node.peers.not_handled(peer, msg)
        ours = isinstance(error, ActorFwError)
        why = error if ours else SerializationError(f"the call can't be read: {error!r}", ran=False)
        return pack_error(node.codec, why, where=node.name, infrastructure=True)

    def _on_settled(self, peer: Peer, msg: list[Any]) -> None:
        node = self.node
        given = node.objects.taken(peer, msg[4])
        out = node.objects.keep(msg[4])
        node.fetches.on_settled(peer, [*msg[:4], out])
        node.objects.settle_taken(given)

    def _on_end(self, peer: Peer, msg: list[Any]) -> None:
        node = self.node
        _, life, number, how, incarnation = msg
        id = (life, number)
        if not incarnation:
            heir = node.leaving.now_guards(id)
            if heir is None:
                node.guardians.end(id, how)
            else:
                heir.send(tuple(msg))
        else:
            node.hosting.end(id, incarnation, how, peer.life)


def _unknown(sender: object, msg: list[Any]) -> None:
    logger.error("a message of unknown kind %r from %r", msg[:1], sender)
