"""`Pulls`: getting values from the nodes that have them, one pull for each however many here wait for it.

A value is pulled in ranges, a few under way from each of its sources, so that several sources share the work as fast as
each can, and whatever one did not send before it went is asked of another. The bytes come through the bulk windows of
the sessions (`runtime.bulk`), and so never stand in the way of small messages; they are written to where they stay as
they come.

The first range brings what the value consists of, and gives this node the refs in it.

What is being pulled takes memory that can't go to disk before it is complete. So only as much is pulled at a time as
leaves half of the store to what is there, and the rest waits for its turn. A pull that has no source gives its turn
back: to get one a task may have to run again, whose arguments have to come first.

Leaves to others: whose turn it is (`core.admission`), which sources (`core.sources`, at the owner), and serving
(`runtime.store.copies`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.admission import Admission
from actorfw.runtime.refs import FAILED, READY
from actorfw.runtime.store.elsewhere import ANY_VERSION, DECLINED, HERE
from actorfw.runtime.store.pull import STRIPE, Pull, Range
from actorfw.values.errors import PeerUnreachableError, ProtocolError
from actorfw.values.ids import RefId, as_bytes, owned_ids
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.store.blocks import Block

__all__ = ["DEPTH", "STRIPE", "Pulls"]

logger = logging.getLogger("actorfw.objects")

DEPTH: Final = 2
"""Ranges that one source is asked for at a time: it always knows what is next."""
AGAIN: Final = 1.0
"""Seconds after which sources that could not be reached are tried again."""
SMALL: Final = 1 << 20
"""Bytes of a value that has a line of its own: it does not wait behind large ones."""
HEAP: Final = 512 << 20
"""Bytes that a node without shared memory is taken to have for values."""
KEPT: Final = 10.0
"""Seconds for which what has come of a value that nobody waits for any more is kept for somebody who does."""


class Pulls:
    """What one node is pulling."""

    def __init__(self, node: Node) -> None:
        self.node = node
        most = node.store.limit or HEAP
        self.large: Admission[Pull] = Admission(most // 2)
        self.small: Admission[Pull] = Admission(most // 16)
        self._open: dict[RefId, Pull] = {}
        self._needed: set[RefId] = set()
        self._after: list[tuple[set[Pull], Callable[[], object]]] = []

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, id: RefId) -> bool:
        return id in self._open

    @property
    def crowded(self) -> bool:
        """Whether a large value that came unasked would not have its turn."""
        return bool(self.large) or 2 * self.large.bytes > self.large.most

    # -- beginning -----------------------------------------------------------------------------------------------------

    def start(
        self, id: RefId, version: int, size: int, sources: list[tuple[bytes, str]], *, begun: bool = False
    ) -> None:
        """The owner says from where to pull a value that is wanted here. `begun`: the first sends already, unasked."""
        node = self.node
        if sources and sources[0][0] == node.life:
            copy = node.copies.found(id, version)
            if copy is not None:
                self.complete(id, version, copy.out)
            else:
                self.ask_again(id, (), (node.life,))
            return
        pull = self._open.get(id)
        if pull is not None and pull.version != version:
            self._abandon(pull)
            pull = None
        if pull is None:
            pull = self._open[id] = Pull(self, id, version, size)
        pull.asking = False
        for life, _ in sources:
            if life not in pull.ranges:
                pull.ranges[life] = []
                if begun and life == sources[0][0] and not pull.opened and not any(pull.ranges.values()):
                    pull.ranges[life].append(Range(pull, life, 0, STRIPE, True))
                    self._line_up(pull, at_once=True)
        self._line_up(pull)
        for life, address in sources:
            self._connect(pull, life, address)

    # -- whose turn it is ----------------------------------------------------------------------------------------------

    def _line_up(self, pull: Pull, *, at_once: bool = False) -> None:
        if pull.turn or pull.paused is not None or not pull.ranges:
            return
        if any(map(self.node.hostmates.reads, pull.ranges)):
            pull.turn = True  # it takes no memory here
            return
        if pull.line is None:
            pull.line = self.small if pull.size <= SMALL else self.large
        pull.turn = pull.line.enter(pull, pull.size, at_once=at_once)

    def _give_turn(self, pull: Pull) -> None:
        line, pull.line = pull.line, None
        pull.turn = False
        if line is not None:
            for other in line.leave(pull):
                other.turn = True
                self._request_all(other)

    def keep(self, id: RefId) -> None:
        """This node needs a value itself, whoever waits for it."""
        self._needed.add(id)

    def pause(self, id: RefId) -> None:
        """Nobody waits for it any more: ask for nothing more, and keep what has come for a while."""
        pull = self._open.get(id)
        if pull is not None and pull.paused is None and id not in self._needed:
            pull.paused = self.node.env.call_later(KEPT, self._nobody_came, pull)
            self._give_turn(pull)
            if not pull.ranges:
                self._nobody_came(pull)

    def resume(self, id: RefId) -> None:
        """Somebody waits for it again."""
        pull = self._open.get(id)
        if pull is not None and pull.paused is not None:
            pull.paused.cancel()
            pull.paused = None
            self._line_up(pull)
            self._request_all(pull)

    def _nobody_came(self, pull: Pull) -> None:
        if self._open.get(pull.id) is not pull:
            return
        node = self.node
        self.unwanted(pull.id)
        if pull.id in node.locations:
            node.locations.gave_up(pull.id)

    def _connect(self, pull: Pull, life: bytes, address: str) -> None:
        peer = self.node.peers.by_life.get(life)
        if peer is not None:
            self._request(pull, peer)
            return

        def reached(found: Peer | PeerUnreachableError) -> None:
            if self._open.get(pull.id) is not pull:
                return
            if isinstance(found, PeerUnreachableError):
                self._without(pull, life, lacking=False)
            else:
                self._request(pull, found)

        self.node.reach(life, address, reached)

    def _request(self, pull: Pull, peer: Peer) -> None:
        under_way = pull.ranges.get(peer.life)
        if under_way is None or peer.ended is not None or pull.waits or not pull.turn:
            return
        if not pull.opened:
            if not any(pull.ranges.values()):
                under_way.append(Range(pull, peer.life, 0, STRIPE, True))
                peer.send((m.PULL, *pull.id, pull.version, 0, STRIPE, True))
            return
        while len(under_way) < DEPTH:
            found = pull.next_range()
            if found is None:
                return
            under_way.append(Range(pull, peer.life, *found, False))
            peer.send((m.PULL, *pull.id, pull.version, *found, False))

    def _request_all(self, pull: Pull) -> None:
        for life in list(pull.ranges):
            peer = self.node.peers.by_life.get(life)
            if peer is not None:
                self._request(pull, peer)

    # -- what comes ----------------------------------------------------------------------------------------------------

    def on_head(self, peer: Peer, head: list[Any], sizes: list[int]) -> Range:
        """A range begins: what takes its bytes. Its refs are counted now, in order with other messages."""
        _, life, number, version, offset, meta, (refs, codes) = head
        node = self.node
        held = owned_ids(refs) if refs else None
        given = node.objects.ownership.took(peer.life, held) if held else None
        length = sum(sizes)
        pull = self._open.get((as_bytes(life), number))
        found = self._range(pull, peer.life, version, offset)
        if pull is None or found is None or (found.first and meta is None):
            node.objects.settle_taken(given)
            return Range(None, peer.life, offset, length, False)
        if found.first and not pull.opened:
            form, parts = meta
            if length != min(STRIPE, sum(parts)) or min(parts) < 0:
                raise ProtocolError("the first part of an object is not what its sizes say")
            if not self._has_room(pull, peer, found, parts):
                node.objects.settle_taken(given)
                return Range(None, peer.life, offset, length, False)
            pull.open(form, parts, refs, codes)
            pull.given, given = given, None
            pull.next = length
            found.length = length
            self._request_all(pull)
        node.objects.settle_taken(given)
        if length != found.length:
            raise ProtocolError("a part of an object is not as long as what was asked for")
        return found

    def _has_room(self, pull: Pull, peer: Peer, found: Range, parts: list[int]) -> bool:
        """Whether it can come now. Else room is made while the loop goes on, and its source is asked once more then."""
        store = self.node.store
        size = parts[1] if len(parts) == 2 else sum(parts)  # of one buffer the room will be its own
        if pull.waits is False or store.has_room(size):
            return True
        pull.waits = True
        pull.ranges[peer.life].remove(found)
        store.allocate_later(size, partial(self._room_made, pull))
        return False

    def _room_made(self, pull: Pull, found: Block | Exception | None) -> None:
        if self._open.get(pull.id) is not pull:
            return
        if pull.paused is not None:
            pull.waits = None
            return
        pull.waits = False
        if not isinstance(found, Exception):
            pull.reserved = found
            self._request_all(pull)
            return
        error = found
        self.unwanted(pull.id)
        node = self.node
        out = pack_error(node.codec, error, where=node.name, infrastructure=True)
        node.fetches.arrived(pull.id, FAILED, out)

    def _range(self, pull: Pull | None, life: bytes, version: int, offset: int) -> Range | None:
        if pull is None or pull.version != version:
            return None
        for one in pull.ranges.get(life, ()):
            if one.offset == offset and one.at == 0:
                return one
        return None

    def _done(self, pull: Pull, part: Range) -> None:
        pull.left -= part.length
        under_way = pull.ranges.get(part.source)
        if under_way is not None:
            under_way.remove(part)
        if pull.left == 0:
            del self._open[pull.id]
            self._complete(pull)
            self._over(pull)
            return
        peer = self.node.peers.by_life.get(part.source)
        if peer is not None:
            self._request(pull, peer)

    def _complete(self, pull: Pull) -> None:
        objects = self.node.objects
        out = objects.keep(pull.value())
        self.complete(pull.id, pull.version, out)
        objects.settle_taken(pull.given)

    def complete(self, id: RefId, version: int, out: Any) -> None:
        """A value is here: its owner is told, and those who wait for it get it."""
        node = self.node
        pull = self._open.get(id)
        if pull is not None:
            self._abandon(pull)
        if id in node.locations:
            node.fetches.here(id, out)
            node.locations.is_here(id, version)
            return
        if node.copies.found(id, version) is None:
            node.copies.pulled(id, version, out)
        self.tell_owner(id, version, HERE)
        node.fetches.arrived(id, READY, out)

    def tell_owner(self, id: RefId, version: int, what: int) -> None:
        """Tell an owner something about a copy."""
        node = self.node
        owner, address = node.heirs.where(id[0], "")
        peer = node.peers.by_life.get(owner)
        if peer is not None:
            peer.send((m.HAS, *id, version, what))
        elif owner != node.life:
            node.reach(
                owner,
                address,
                lambda found: (
                    None if isinstance(found, PeerUnreachableError) else found.send((m.HAS, *id, version, what))
                ),
            )

    def lent(self, id: RefId, version: int, out: Any) -> None:
        """A source on this host lends its copy."""
        pull = self._open.get(id)
        if pull is not None and pull.version == version:
            self.complete(id, version, out)

    # -- what does not come --------------------------------------------------------------------------------------------

    def on_lacking(self, peer: Peer, msg: list[Any]) -> None:
        """A source has it no more."""
        _, life, number, version, offset = msg
        pull = self._open.get((as_bytes(life), number))
        if pull is not None and self._range(pull, peer.life, version, offset) is not None:
            self._without(pull, peer.life, lacking=True)

    def not_lent(self, life: bytes, id: RefId, version: int) -> None:
        """A source meant to lend its copy, and can't."""
        pull = self._open.get(id)
        if pull is not None and pull.version == version and life in pull.ranges:
            self._without(pull, life, lacking=False)

    def peer_ended(self, life: bytes) -> None:
        """A node is gone, with what was under way from it."""
        for pull in list(self._open.values()):
            if life in pull.ranges:
                self._without(pull, life, lacking=True)

    def peer_lost(self, life: bytes) -> None:
        """A node can't be reached for now: others may have what it has."""
        for pull in list(self._open.values()):
            if life in pull.ranges:
                self._without(pull, life, lacking=False)

    def _without(self, pull: Pull, life: bytes, *, lacking: bool) -> None:
        """Go on from where this source came to."""
        for part in pull.ranges.pop(life):
            part.pull = None
            if pull.opened:
                pull.left -= part.at
                pull.back.append((part.offset + part.at, part.length - part.at))
        if pull.ranges:
            self._request_all(pull)
            return
        self._give_turn(pull)
        if pull.paused is not None:
            self._nobody_came(pull)
        elif lacking:
            self.ask_again(pull.id, (), (life,))
        else:
            self.ask_again(pull.id, (life,), ())

    def ask_again(self, id: RefId, away: tuple[bytes, ...], lacking: tuple[bytes, ...]) -> None:
        """Ask the owner for other sources; a while later if it is only that one can't be reached."""
        pull = self._open.get(id)
        if pull is not None:
            if pull.asking:
                return
            pull.asking = True
        if away:
            self.node.env.call_later(AGAIN, self._ask, id, pull, away, lacking)
        else:
            self._ask(id, pull, away, lacking)

    def _ask(self, id: RefId, pull: Pull | None, away: tuple[bytes, ...], lacking: tuple[bytes, ...]) -> None:
        node = self.node
        if self._open.get(id) is not pull:
            return
        if id in node.locations:
            node.locations.ask(id, node.life, away, lacking)
        elif node.fetches.waits_for(id):
            node.fetches.ask_owner(id, away, lacking)
        else:
            self.unwanted(id)

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _abandon(self, pull: Pull) -> None:
        self._open.pop(pull.id, None)
        for parts in pull.ranges.values():
            for part in parts:
                part.pull = None
        given, pull.given = pull.given, None
        self.node.objects.settle_taken(given)
        self._over(pull)

    def _over(self, pull: Pull) -> None:
        if pull.paused is not None:
            pull.paused.cancel()
            pull.paused = None
        pull.reserved = None
        self._needed.discard(pull.id)
        self.node.fetches.forget(pull.id)
        self._give_turn(pull)
        if self._after:
            after, self._after = self._after, []
            for pulls, then in after:
                pulls.discard(pull)
                if pulls:
                    self._after.append((pulls, then))
                else:
                    then()

    def when_complete(self, life: bytes, then: Callable[[], object]) -> None:
        """Call `then` when all that is being pulled from a node now has come, or can't; at once if that is nothing."""
        pulls = {pull for pull in self._open.values() if life in pull.ranges}
        if pulls:
            self._after.append((pulls, then))
        else:
            then()

    def unwanted(self, id: RefId) -> None:
        """Nobody here wants it any more."""
        pull = self._open.get(id)
        if pull is not None:
            self._abandon(pull)
            if id not in self.node.locations:
                self.tell_owner(id, pull.version, DECLINED)

    def freed(self, id: RefId, version: int) -> None:
        """The owner has freed it, or this making of it is of no use any more."""
        pull = self._open.get(id)
        if pull is not None and version in (pull.version, ANY_VERSION):
            self._abandon(pull)
        if version == ANY_VERSION:
            self.node.fetches.gone(id)
        elif pull is not None and version == pull.version:
            self._ask(id, None, (), ())

    def owner_died(self, life: bytes) -> None:
        """A node is gone, and what it owned with it."""
        owner = self.node.objects.ownership.owner
        for id in [id for id in self._open if owner(id) == life]:
            self._abandon(self._open[id])

    def clear(self) -> None:
        """The node closes, or takes a new life."""
        for pull in list(self._open.values()):
            self._abandon(pull)
