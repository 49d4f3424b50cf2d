"""Identities: who a node is, which life of it, and what its objects and actors are called.

Three numbers that are easily taken for one another have types of their own:

* a `Life` is one run of a node, new at every start. Objects, calls, actors and sessions carry it, and a verdict
  of death is about it;
* a `Refutation` lives only in membership gossip, raised by a member to refute a suspicion of its same life;
* an `Incarnation` counts the times an actor has been placed, raised only by its guardian.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NewType, TypeAlias

__all__ = [
    "LIFE_BYTES",
    "NODE_ID_BYTES",
    "WORKER_SHIFT",
    "Incarnation",
    "Life",
    "Refutation",
    "RefId",
    "WireRef",
    "as_bytes",
    "checked_id",
    "detached_life",
    "owned_ids",
    "is_detached",
    "life_of",
    "node_id_of",
    "short",
    "text_id",
    "parse_text_id",
]

NODE_ID_BYTES: Final = 8
LIFE_BYTES: Final = 16

# A worker process numbers what it submits by itself, without asking its node: the upper bits say which worker.
WORKER_SHIFT: Final = 40

Life: TypeAlias = bytes
"""16 bytes: 8 of the node's id, then 8 random ones. Plain `bytes`, because it is a field of most messages."""

Refutation = NewType("Refutation", int)
Incarnation = NewType("Incarnation", int)

RefId: TypeAlias = tuple[bytes, int]
"""(life of the owner, number): the identity of an object or of an undetached actor."""

WireRef: TypeAlias = tuple[bytes, int, str]
"""A `RefId` with the owner's address, which is a hint only: the life is the identity."""


def life_of(node_id: bytes, chance: bytes) -> Life:
    """Join a node's id and eight random bytes to a new life.

    Raises:
        ValueError: if either part has the wrong length.
    """
    if len(node_id) != NODE_ID_BYTES or len(chance) != LIFE_BYTES - NODE_ID_BYTES:
        raise ValueError(f"a life is {NODE_ID_BYTES} + {LIFE_BYTES - NODE_ID_BYTES} bytes")
    return node_id + chance


_DETACHED: Final = b"detached"


def detached_life(token: bytes) -> Life:
    """What stands for a life in the id of a detached actor: no node's, so that it outlives them all.

    The number in such an id is a shard of the name directory; that one's keeper guards the actor.
    """
    if len(token) != LIFE_BYTES - len(_DETACHED):
        raise ValueError(f"the token of a detached actor is {LIFE_BYTES - len(_DETACHED)} bytes")
    return _DETACHED + token


def is_detached(life: Life) -> bool:
    """Whether an id with this life is a detached actor's: nobody owns it, and handles of it hold nothing."""
    return life.startswith(_DETACHED)


def owned_ids(refs: Iterable[Any]) -> list[RefId]:
    """The ids of these refs as they travel (life, number, address), but for those that nobody owns."""
    return [(bytes(ref[0]), ref[1]) for ref in refs if not bytes(ref[0]).startswith(_DETACHED)]


def node_id_of(life: Life) -> str:
    """The node's id as users see it (`node.id`): 16 hexadecimal digits, the same in all lives of a node."""
    return life[:NODE_ID_BYTES].hex()


def short(life: Life) -> str:
    """A life in eight hexadecimal digits, for messages and logs."""
    return life[NODE_ID_BYTES : NODE_ID_BYTES + 4].hex()


def checked_id(life: object, number: object) -> RefId:
    """An id from a message, before anything is kept under it.

    Raises:
        ValueError: it is none.
    """
    if type(life) is not bytes or len(life) != LIFE_BYTES or type(number) is not int or number < 0:
        raise ValueError(f"({life!r}, {number!r}) is no id")
    return life, number


def text_id(ref: RefId) -> str:
    """An id as users see it (`ref.id`): the owner's life and the number, in hexadecimal."""
    return f"{ref[0].hex()}-{ref[1]:x}"


def parse_text_id(text: str) -> RefId:
    """The inverse of `text_id`.

    Raises:
        ValueError: if the text is not an id.
    """
    life, _, number = text.partition("-")
    return bytes.fromhex(life), int(number, 16)


def as_bytes(value: Any) -> bytes:
    """The bytes that a message has where there should be some.

    Raises:
        TypeError: it has something else. (Of a number, `bytes` would make so many zeros.)
    """
    if type(value) is bytes:
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"bytes were expected, not {type(value).__name__}")
