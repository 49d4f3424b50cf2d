"""Where simulated nodes find each other by the name of their cluster, as those of one user on one host do.

All nodes of a simulation are of one host. The entry of a node that crashes is gone at once, as that of a process that
is killed; one that is frozen keeps its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from actorfw.io.rendezvous import Mate

__all__ = ["MemoryRendezvous"]


class MemoryRendezvous:
    """A `Rendezvous` in memory.

    Args:
        entries: of the cluster, by node; shared by its nodes.
        node: whose it is.
        is_crashed: tells of a node that it has crashed.
    """

    where = "of the simulation"

    def __init__(self, entries: dict[str, Mate], node: str, is_crashed: Callable[[str], bool]) -> None:
        self._entries = entries
        self._node = node
        self._is_crashed = is_crashed

    def mates(self) -> list[Mate]:
        """See `Rendezvous.mates`."""
        return [mate for node, mate in self._entries.items() if node != self._node and not self._is_crashed(node)]

    def enter(self, me: Mate) -> None:
        """See `Rendezvous.enter`."""
        self._entries.setdefault(self._node, me)

    def enter_alone(self, me: Mate, gone: Collection[str] = ()) -> bool | None:
        """See `Rendezvous.enter_alone`."""
        if any(mate.address not in gone for mate in self.mates()):
            return False
        self.enter(me)
        return True

    def leave(self) -> None:
        """See `Rendezvous.leave`."""
        self._entries.pop(self._node, None)

    def descriptors(self) -> list[int]:
        """See `Rendezvous.descriptors`."""
        return []
