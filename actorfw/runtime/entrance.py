"""The entrance of a node: what connections may cost that nobody knows yet, and the node's limits with their figures.

Composes `core.door` and `core.limits` for one node, listens, and says in the log what strangers do, but not each time.
The handshake itself is `runtime.links`' affair.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.door import Door
from actorfw.core.handshake import HELLO_BYTES, PROOF_BYTES, PacketTooLargeError
from actorfw.core.limits import Bucket, Limit, Limits
from actorfw.io.doorstep import group_of
from actorfw.runtime.links import AcceptGreeting, logger
from actorfw.values.errors import ActorFwError, ProtocolError
from actorfw.wire.frames import MAX_DEPTH, MAX_MESSAGE_BYTES, TooDeepError, TooLargeError

if TYPE_CHECKING:
    from actorfw.io.env import Env, Listener
    from actorfw.runtime.peer import Peer
    from actorfw.runtime.peers import Peers
    from actorfw.values.config import Config

__all__ = ["HALF_OPEN", "Entrance"]

HALF_OPEN: Final = 1024
"""Connections without a finished handshake; fewer where the process may have few descriptors."""

_SHARE: Final = 4  # of the process's descriptors, one in so many is for them
_LEAST: Final = 16
_WARNINGS: Final = (1.0, 10)  # in the log, of what strangers say


class Entrance:
    """Of one node.

    Attributes:
        limits: all limits of the node; parts of it add their own.
        door: the connections that nobody knows yet.
        counters: what was refused or broke, by kind.
        on_unread: called with (peer, message, why) for a message that could not be handled.
    """

    def __init__(self, env: Env, config: Config) -> None:
        self.env = env
        self.limits = Limits()
        half_open = max(_LEAST, min(HALF_OPEN, env.descriptor_limit // _SHARE))
        self.door = Door(half_open, config.max_connections, self.limits)
        self.counters: Counter[str] = Counter()
        self._packets = {
            HELLO_BYTES: self.limits.add("hello_bytes", Limit(HELLO_BYTES, measured=False)),
            PROOF_BYTES: self.limits.add("proof_bytes", Limit(PROOF_BYTES, measured=False)),
        }
        self.message_bytes = self.limits.add("message_bytes", Limit(MAX_MESSAGE_BYTES, measured=False))
        self.large_bytes = self.limits.add("large_message_bytes", Limit(env.memory.read().limit // 2, measured=False))
        self.message_depth = self.limits.add("message_depth", Limit(MAX_DEPTH, measured=False))
        self.on_unread: Callable[[Peer, list[Any], str], None] | None = None
        self._warnings = Bucket(*_WARNINGS)
        self._unsaid = 0

    async def listen(self, peers: Peers, host: str, port: int) -> Listener:
        """Accept links for `peers`. Raises OSError as `Env.listen`."""
        return await self.env.listen(lambda: AcceptGreeting(peers, ""), host, port, self.door, self.refused)

    def refused(self, where: str, error: Exception) -> None:
        """A connection is closed because of what it said, or did not say in time."""
        if isinstance(error, TimeoutError):
            self.counters["slow_handshakes"] += 1
            return  # a check whether the port is open is such a connection, and no news
        if isinstance(error, PacketTooLargeError) and error.limit in self._packets:
            self._packets[error.limit].refused += 1
        if isinstance(error, ActorFwError):
            self.counters["failed_handshakes"] += 1
        if self._warnings.take(self.env.time()):
            more = f"; {self._unsaid} more were closed meanwhile" if self._unsaid else ""
            self._unsaid = 0
            logger.warning("a connection from %s is closed: %s%s", where, error, more)
        else:
            self._unsaid += 1

    def broken(self, error: Exception, what: str = "unsendable_messages") -> None:
        """A frame or message was refused that a peer sent, or this node wanted to send."""
        self.counters[what] += 1
        if isinstance(error, TooLargeError):
            self.message_bytes.refused += 1
        elif isinstance(error, TooDeepError):
            self.message_depth.refused += 1

    def unread(self, peer: Peer, message: list[Any]) -> None:
        """A message could not be handled: to be called where its exception is."""
        if self.on_unread is not None:
            try:
                self.on_unread(peer, message, repr(sys.exception()))
            except Exception:  # nothing of that message makes sense, then
                logger.debug("nobody can be told about a message of node %s", peer.name, exc_info=True)

    def check_large(self, sizes: list[int]) -> None:
        """Raises ProtocolError if these are more bytes than a message may have, large ones included."""
        if min(sizes, default=0) < 0 or sum(sizes) > (self.large_bytes.limit or 0):
            self.large_bytes.refused += 1
            raise ProtocolError(f"a large message has {sum(sizes)} bytes, and {self.large_bytes.limit} is the limit")

    def no_room(self) -> str:
        """Why no further link can be taken now; "" if one can."""
        connections = self.door.connections
        if connections.limit is None or connections.now <= connections.limit:
            return ""
        connections.refused += 1
        return f"it has {connections.limit} connections, its limit: raise Config.max_connections there"

    def group(self, greeting: AcceptGreeting) -> str:
        """What the connections of one origin have in common."""
        name = greeting.transport.get_extra_info("peername")
        return group_of(str(name[0])) if isinstance(name, tuple) and name else "here"
