"""What a detached actor is called, and that its arguments depend on nobody: the same in a node and in its workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actorfw.core.entries import Key, key_of, shard_of
from actorfw.runtime.refs import ObjectRef
from actorfw.values.errors import UsageError
from actorfw.values.ids import RefId, detached_life, owned_ids, text_id
from actorfw.wire.payload import Packed

__all__ = ["check_by_value", "new_id"]


def new_id(token: bytes, namespace: str, name: str | None) -> tuple[RefId, Key]:
    """A new detached actor's id, and the key it stands under; `token` is 8 bytes that nobody used before."""
    life = detached_life(token)
    key = key_of(life) if name is None else (namespace, name)
    return (life, shard_of(*key)), key


def check_by_value(what: str, wire: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Look for refs among the arguments, of which `wire` is what travels.

    Raises:
        UsageError: there is one; names it.
    """
    named = [(f"argument {at + 1}", value) for at, value in enumerate(args)] + list(kwargs.items())
    for name, value in named:
        if isinstance(value, ObjectRef):
            raise UsageError(_refusal(what, f"{name} is ref {value.id}"))
    held = owned_ids(wire.refs) if type(wire) is Packed else []
    if held:
        raise UsageError(_refusal(what, f"there is a ref or handle inside, {text_id(held[0])}"))


def _refusal(what: str, found: str) -> str:
    return (
        f"the arguments of the detached actor {what} must be values, since it outlives whoever made them; {found}."
        " Await the ref first, or give it the name of an actor"
    )
