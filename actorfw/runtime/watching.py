"""Watching actors: whoever awaits an actor's end on this node, and what this node tells of the actors it hosts and
guards.

The rules are `core.watch`'s; here they meet sessions, calls and futures. Other parts say what happens:

    Hosting     `incarnation_ended`   an incarnation is over here, and all that it had to say is sent
    Guardians   `decided`             an actor is up somewhere, or has ended for good
    the node    `peer_ended`, `reborn`

When an actor has ended, the calls that are open to it fail first, then those who watch hear it, and from then on its
handles are dead on this node, whatever becomes of the actor.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.watch import Ask, Done, Fact, Fates, Instruction, Listen, Next, Unlisten, Watch, Watchers
from actorfw.runtime.readings import Reader
from actorfw.runtime.refs import CANCELLED, FAILED, READY, Reply
from actorfw.values.errors import ActorDiedError, ActorFwError, PeerUnreachableError
from actorfw.values.events import ActorEnded, ActorRestarted
from actorfw.values.ids import RefId, as_bytes, is_detached, node_id_of, text_id
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.runtime.cells import Cell
    from actorfw.runtime.guarded import Guarded
    from actorfw.runtime.handles import ActorHandle
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Watching"]

AGAIN: Final = 1.0  # seconds after which a member that could not be reached is asked again
REMEMBERED: Final = 100_000  # actors that have ended for this node

RESTARTED: Final = "restarted"
TERMINATED: Final = "terminated"


class _Watched:
    """An actor that somebody watches here."""

    __slots__ = ("address", "asked", "host_address", "id", "into", "machine", "readers", "replies", "turn")

    def __init__(self, id: RefId, address: str) -> None:
        self.id = id
        self.address = address  # of the node that made it
        self.asked: bytes | None = None  # who was asked last what follows
        self.host_address = ""
        self.into: _Watched | None = None  # the older actor that it turned out to be
        self.machine = Watch("node_died" if is_detached(id[0]) else "owner_died")
        self.replies: dict[Reply[Any], None] = {}
        self.readers: dict[int, Reader] = {}
        self.turn = 0  # of questions to its guardian; an answer to an older one is void


class Watching:
    """The watches of one node, and those of others that it answers."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.ended: OrderedDict[RefId, tuple[str, str]] = OrderedDict()
        """Actors that have ended as far as this node is concerned: how, and the text of the error."""
        self._watched: dict[RefId, _Watched] = {}
        self._watchers: Watchers[bytes] = Watchers()
        self._fates: Fates[Reply[Any]] = Fates()
        node.asks.verbs["fate"] = self._on_fate

    # -- hooks of other parts ------------------------------------------------------------------------------------------

    def incarnation_ended(self, cell: Cell, reason: str) -> None:
        """An incarnation has ended on this node. To be called behind its last answer, by Hosting.

        Args:
            cell: that has ended; `Hosting.end_words` knows how.
            reason: one word; "drain" if the actor moves.
        """
        node = self.node
        listening = self._watchers.ended(cell.id, cell.incarnation)
        detail = node.hosting.end_words(cell.id)[1] if listening else ""
        for life in listening:
            if life == node.life:
                self._host_says(cell.id, life, cell.incarnation, reason, detail)
            else:
                peer = node.peers.by_life.get(life)
                if peer is not None:
                    peer.send((m.WATCHED, *cell.id, cell.incarnation, reason, detail))
        if reason == "owner_died" and node.events.wanted:
            # Its guardian can't say so any more.
            node.events.publish(ActorEnded(text_id(cell.id), cell.recipe.name, reason, node.id))

    def decided(self, actor: Guarded, before: str = "") -> None:
        """A guarded actor is up, or has ended for good, or is another's by `get_if_exists`. To be called by Guardians
        at each of these, after its record says so.

        Args:
            actor: the record.
            before: how the incarnation before it ended, if this one is a restart.
        """
        node = self.node
        waiting = self._fates.changed(actor.id, self._fact(actor.id))
        if waiting:
            answer = self._answer(actor.id)
            for reply in waiting:
                reply._settle(answer)
        if not node.events.wanted or actor.state not in ("up", "ended"):
            return
        name = str(actor.options.get("name") or actor.recipe.name)
        host = node.id if actor.host is None else node_id_of(actor.host.life)
        if actor.state == "ended":
            node.events.publish(ActorEnded(text_id(actor.id), name, actor.reason, host if actor.incarnation else ""))
        elif actor.incarnation > 1:
            node.events.publish(ActorRestarted(text_id(actor.id), name, actor.incarnation, host, before))

    def peer_ended(self, life: bytes, why: str) -> None:
        """A node is dead or has left. To be called after its calls have ended and guardians have heard of it."""
        self._watchers.gone(life)
        for watched in list(self._watched.values()):
            self._carry_out(watched, watched.machine.node_gone(life, why))
            if self.node.guardian_of(watched.id) == life:
                self._guardian_gone(watched, why)
            elif watched.asked == life:
                self._ask_another(watched)

    def moved(self, heir: bytes) -> None:
        """Guardians have an heir: what the former ones were asked, and may not have answered, it is asked now."""
        for watched in list(self._watched.values()):
            if watched.asked != heir and self.node.guardian_of(watched.id) == heir:
                self._ask_another(watched)

    def given_up(self, id: RefId) -> None:
        """Another node guards an actor from now on, and this one stays: who waits for its answer is to ask again."""
        for reply in self._fates.take(id):
            reply._settle(["moved"])

    def _ask_another(self, watched: _Watched) -> None:
        self._carry_out(watched, watched.machine.guardian_moved())

    def reborn(self, old: bytes, new: bytes, why: str) -> None:
        """This node begins a new life: what others had is lost to it, what never left goes on under its new name."""
        self.ended.clear()
        self._watchers = Watchers()
        self._fates = Fates()
        for watched in list(self._watched.values()):
            renamed = (new, watched.id[1])
            if watched.id[0] == old and renamed in self.node.guardians.actors:
                del self._watched[watched.id]
                watched.id = renamed
                self._watched[renamed] = watched
                machine = watched.machine
                if machine.host == old:
                    machine.host = new
                    self._carry_out(watched, [Listen(new, machine.incarnation)])
                elif machine.asking:
                    self._ask_another(watched)
                elif machine.host is not None:
                    self._carry_out(watched, machine.node_gone(machine.host, why))
            else:
                self._carry_out(watched, watched.machine.end("fenced", why))
        self.ended.clear()  # to the new life they are unknown, and may be met anew

    def close(self, error: Exception) -> None:
        """The node closes."""
        watched, self._watched = self._watched, {}
        for one in watched.values():
            one.machine.done = Done("", "")
            for reply in list(one.replies):
                reply._fail(error)
            for reader in one.readers.values():
                reader.end(error)

    # -- watching from here --------------------------------------------------------------------------------------------

    def watch(self, reply: Reply[Any], handle: ActorHandle) -> None:
        """Settle with ("terminated", life, number, reason, detail) when the actor has ended for good."""
        id = (handle._guardian, handle._number)
        end = self.ended.get(id)
        if end is not None:
            reply._settle((TERMINATED, *id, *end))
            return
        watched = self._entry(id, handle._address)
        watched.replies[reply] = None
        reply.add_done_callback(lambda reply: self._reply_done(watched, reply))

    def read(self, handle: ActorHandle) -> int:
        """A reading of its restarts, as ("restarted", life, number, incarnation), and its end."""
        id = (handle._guardian, handle._number)
        readings = self.node.readings
        end = self.ended.get(id)
        if end is not None:
            reader = Reader(0, lambda: None)
            reader.put((TERMINATED, *id, *end))
            reader.end()
            return readings.enter(reader)
        watched = self._entry(id, handle._address)
        reader = Reader(0, lambda: self._reader_left(watched, number))
        number = readings.enter(reader)
        watched.readers[number] = reader
        return number

    def _entry(self, id: RefId, address: str) -> _Watched:
        watched = self._watched.get(id)
        if watched is None:
            watched = self._watched[id] = _Watched(id, address)
            self._carry_out(watched, watched.machine.begin())
        return watched

    def _reply_done(self, watched: _Watched, reply: Reply[Any]) -> None:
        if reply._state == CANCELLED:
            watched = watched.into or watched
            watched.replies.pop(reply, None)
            self._leave(watched)

    def _reader_left(self, watched: _Watched, number: int) -> None:
        watched = watched.into or watched
        if watched.readers.pop(number, None) is not None:
            self._leave(watched)

    def _leave(self, watched: _Watched) -> None:
        # While the guardian is being asked the entry stays: whoever comes and goes must not leave a question each.
        if watched.replies or watched.readers or watched.machine.asking:
            return
        if self._watched.pop(watched.id, None) is not None:
            self._carry_out(watched, watched.machine.leave())

    # -- the machine's instructions ------------------------------------------------------------------------------------

    def _carry_out(self, watched: _Watched, instructions: list[Instruction]) -> None:
        for do in instructions:
            if type(do) is Ask:
                self._ask(watched, do.after)
            elif type(do) is Listen:
                if not watched.replies and not watched.readers:
                    self._watched.pop(watched.id, None)  # whoever watched has gone meanwhile
                    return
                self._listen(watched, do)
            elif type(do) is Unlisten:
                self._unlisten(watched.id, do.host)
            elif type(do) is Next:
                for reader in watched.readers.values():
                    reader.put((RESTARTED, *watched.id, do.incarnation))
            elif type(do) is Done:
                self._done(watched, do)

    def _done(self, watched: _Watched, end: Done) -> None:
        node = self.node
        id = watched.id
        self._watched.pop(id, None)
        self.ended[id] = (end.reason, end.detail)
        if len(self.ended) > REMEMBERED:
            self.ended.popitem(last=False)
        node.calls.actor_ended(id, self.error_of(id))
        for reply in list(watched.replies):
            reply._settle((TERMINATED, *id, end.reason, end.detail))
        watched.replies.clear()
        for reader in watched.readers.values():
            reader.put((TERMINATED, *id, end.reason, end.detail))
            reader.end()
        watched.readers.clear()

    def error_of(self, id: RefId) -> ActorDiedError:
        """What calls get to an actor that has ended as far as this node is concerned."""
        reason, detail = self.ended[id]
        text = detail or f"actor {text_id(id)[-20:]} has ended: {reason}"
        return ActorDiedError(text, reason=reason, ran=False)

    # -- asking the guardian -------------------------------------------------------------------------------------------

    def _ask(self, watched: _Watched, after: int) -> None:
        watched.turn += 1
        turn = watched.turn
        id = watched.id
        node = self.node
        guardian = watched.asked = node.guardian_of(id)
        if id in node.guardians.actors or guardian == node.life:
            reply = self._fate(id, after)
            reply.add_done_callback(lambda reply: self._told(watched, turn, None, reply))
            return

        if is_detached(guardian):
            answer = node.detached.ask(id, "fate", after)
            answer.add_done_callback(lambda reply: self._told_of_detached(watched, turn, reply))
            return

        def reached(found: Peer | PeerUnreachableError) -> None:
            if turn != watched.turn:
                return
            if isinstance(found, Exception):
                self._unreachable(watched, turn, guardian, str(found))
            else:
                reply = node.asks.ask(found, "fate", [*id, after])
                reply.add_done_callback(lambda reply: self._told(watched, turn, found, reply))

        node.reach(guardian, node.heirs.where(id[0], watched.address)[1], reached)

    def _unreachable(self, watched: _Watched, turn: int, life: bytes, why: str) -> None:
        """A node did not answer. One that is a member still may yet; any other is gone."""
        if life in self.node.members.facts:
            self.node.env.call_later(AGAIN, self._ask_again, watched, turn)
        else:
            self._guardian_gone(watched, why)

    def _ask_again(self, watched: _Watched, turn: int) -> None:
        if turn == watched.turn and watched.machine.asking and not self.node.closing:
            self._ask(watched, watched.machine.incarnation)

    def _guardian_gone(self, watched: _Watched, why: str) -> None:
        watched.turn += 1
        self._carry_out(watched, watched.machine.guardian_lost(why))

    def _told(self, watched: _Watched, turn: int, peer: Peer | None, reply: Reply[Any]) -> None:
        """The guardian answers."""
        if turn != watched.turn or self.node.closing:
            return
        if reply._state != READY:
            if peer is not None and peer.ended is None and reply._state == FAILED:
                self.node.env.call_later(AGAIN, self._ask_again, watched, turn)
            return  # else `peer_ended` sees to it
        what, *more = reply.result()
        machine = watched.machine
        if what == "up":
            incarnation, host, address = more
            watched.host_address = address
            self._carry_out(watched, machine.found(incarnation, as_bytes(host)))
        elif what == "moved":
            self.node.env.call_later(AGAIN / 10, self._ask_again, watched, turn)
        elif what == "alias":
            self._retarget(watched, (as_bytes(more[0]), more[1]), more[2])
        else:
            self._carry_out(watched, machine.judged(*more))

    def _told_of_detached(self, watched: _Watched, turn: int, reply: Reply[Any]) -> None:
        """The guardian answers, or there is none that knows the actor."""
        if turn != watched.turn or self.node.closing:
            return
        if reply._state != READY:
            self.node.env.call_later(AGAIN, self._ask_again, watched, turn)
        elif reply.result() is None:
            self._carry_out(watched, watched.machine.judged("unknown", "it has ended, and is forgotten"))
        else:
            self._told(watched, turn, None, reply)

    def _retarget(self, watched: _Watched, id: RefId, address: str) -> None:
        """The handle turned out to mean an older actor."""
        self._watched.pop(watched.id, None)
        watched.turn += 1
        if not watched.replies and not watched.readers:
            return
        end = self.ended.get(id)
        if end is not None:
            watched.id = id
            self._done(watched, Done(*end))
            return
        older = self._entry(id, address)
        older.replies.update(watched.replies)
        older.readers.update(watched.readers)
        watched.into = older

    # -- listening to the host -----------------------------------------------------------------------------------------

    def _listen(self, watched: _Watched, listen: Listen) -> None:
        node = self.node
        id = watched.id
        if listen.host == node.life:
            if not self._watchers.add(id, node.life, listen.incarnation, self._incarnation_here(id)):
                reason, detail = node.hosting.end_words(id)
                self._carry_out(watched, watched.machine.host_says(node.life, listen.incarnation, reason, detail))
            return

        def reached(found: Peer | PeerUnreachableError) -> None:
            machine = watched.machine
            if machine.host != listen.host or machine.incarnation != listen.incarnation or machine.done is not None:
                return
            if self._watched.get(watched.id) is not watched:
                return
            if not isinstance(found, Exception):
                found.send((m.WATCH, *watched.id, listen.incarnation))
            elif listen.host in node.members.facts:
                node.env.call_later(AGAIN, reach)
            else:
                self._carry_out(watched, machine.node_gone(listen.host, str(found)))

        def reach() -> None:
            if not node.closing:
                node.reach(listen.host, watched.host_address, reached)

        reach()

    def _unlisten(self, id: RefId, host: bytes) -> None:
        if host == self.node.life:
            self._watchers.remove(id, host)
        else:
            peer = self.node.peers.by_life.get(host)
            if peer is not None:
                peer.send((m.UNWATCH, *id))

    def on_watched(self, peer: Peer, msg: list[Any]) -> None:
        """A host: an incarnation has ended. What it sent before may still be coming in pieces, and is being pulled."""
        _, life, number, incarnation, reason, detail = msg

        def pieces_are_here() -> None:
            self.node.pulls.when_complete(peer.life, answers_are_here)

        def answers_are_here() -> None:
            self._host_says((life, number), peer.life, incarnation, reason, detail)

        peer.bulk.when_complete(pieces_are_here)

    def _host_says(self, id: RefId, host: bytes, incarnation: int, reason: str, detail: str) -> None:
        watched = self._watched.get(id)
        if watched is not None:
            self._carry_out(watched, watched.machine.host_says(host, incarnation, reason, detail))

    # -- what others want to know: as host -----------------------------------------------------------------------------

    def _incarnation_here(self, id: RefId) -> int | None:
        cell = self.node.hosting.cells.get(id)
        return cell.incarnation if cell is not None else None

    def on_watch(self, peer: Peer, msg: list[Any]) -> None:
        """Another node listens to an incarnation here."""
        _, life, number, incarnation = msg
        id = (life, number)
        if not self._watchers.add(id, peer.life, incarnation, self._incarnation_here(id)):
            peer.send((m.WATCHED, life, number, incarnation, *self.node.hosting.end_words(id)))

    def on_unwatch(self, peer: Peer, msg: list[Any]) -> None:
        """It does not any more."""
        self._watchers.remove((msg[1], msg[2]), peer.life)

    # -- what others want to know: as guardian -------------------------------------------------------------------------

    def _on_fate(self, peer: Peer, payload: list[Any]) -> Reply[Any]:
        life, number, after = payload
        return self._fate((as_bytes(life), number), after)

    def _fate(self, id: RefId, after: int) -> Reply[Any]:
        """What follows an incarnation; settles when that is decided."""
        reply: Reply[Any] = Reply(self.node)
        if id not in self.node.guardians.actors and self.node.leaving.now_guards(id) is not None:
            reply._settle(["moved"])  # its heir knows
        elif self._fates.ask(id, after, reply, self._fact(id)):
            reply._settle(self._answer(id))
        return reply

    def _fact(self, id: RefId) -> Fact:
        actor = self.node.guardians.actors.get(id)
        if actor is None:
            return Fact(0, None, "unknown")
        if actor.state == "ended":
            return Fact(actor.incarnation, None, actor.reason)
        if actor.state == "alias":
            return Fact(0, None, "alias" if actor.out is not None else "")
        if actor.state == "up":
            return Fact(actor.incarnation, actor.host.life if actor.host is not None else self.node.life)
        return Fact(actor.incarnation, None)

    def _answer(self, id: RefId) -> list[Any]:
        """The fact about an actor, as it travels."""
        node = self.node
        actor = node.guardians.actors.get(id)
        if actor is None:
            return ["ended", "unknown", f"actor {text_id(id)[-20:]} has ended, and its guardian has forgotten how"]
        if actor.state == "ended":
            error = node.unpack_error(actor.out)
            return ["ended", actor.reason, str(error) if isinstance(error, ActorFwError) else repr(error)]
        if actor.state == "alias":
            older: ActorHandle = actor.out
            return ["alias", older._guardian, older._number, older._address]
        host, address = (node.life, node.address)
        if actor.host is not None:
            host, address = actor.host.life, actor.host.address
        return ["up", actor.incarnation, host, address]
