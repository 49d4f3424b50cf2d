"""What a child of `os.fork()` has to let go of: sockets of its parent's nodes.

The child gets a copy of every descriptor. As long as it has one, a connection stays open, and its listening address
takes connections, when the parent is dead: to its peers the node would stand still instead of being gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

__all__ = ["let_go"]


def let_go(descriptors: Iterable[int]) -> None:
    """Put /dev/null in the place of each, so that whoever closes one of these numbers later does no harm."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        for descriptor in descriptors:
            if descriptor >= 0:
                os.dup2(null, descriptor, inheritable=False)
    finally:
        os.close(null)
