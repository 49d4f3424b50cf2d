"""Who has the memory of a full store: the sentence that `ObjectStoreFullError` ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.pressure import in_bytes
from actorfw.runtime.store.blocks import Block
from actorfw.runtime.store.listing import refs_of
from actorfw.values.ids import RefId, text_id
from actorfw.wire.payload import Packed

if TYPE_CHECKING:
    from actorfw.core.spilling import Spilling
    from actorfw.runtime.node import Node
    from actorfw.runtime.refs import ObjectRef

__all__ = ["largest"]

_SHOWN: Final = 5


def largest(node: Node, policy: Spilling) -> str:
    """The largest objects in memory, what they are and who has them."""
    arena = node.store.arena
    found = [(arena.find(number), nbytes) for number, nbytes in policy.biggest(_SHOWN)] if arena is not None else []
    blocks = {block.number: (block, nbytes) for block, nbytes in found if block is not None}
    if not blocks:
        return ""
    names = _names(node, set(blocks))
    said = [
        f"{in_bytes(nbytes)}: {names.get(number, 'arguments or results on their way')}{_users(block)}"
        for number, (block, nbytes) in blocks.items()
    ]
    return f"The largest in memory are {'; '.join(said)}. "


def _users(block: Block) -> str:
    users: list[str] = []
    if block.viewed:
        users.append("a view in this process")
    for key in list(block.lends or ()):
        users.append(f"worker {key[1]}" if isinstance(key, tuple) and len(key) == 2 else "another process")
    return f" (in use by {', '.join(users)})" if users else ""


def _names(node: Node, wanted: set[int]) -> dict[int, str]:
    """What these blocks are: the objects of this node that have them, where they were made, and who holds them."""
    names: dict[int, str] = {}
    kept = list(node.objects._exported.items())
    refs = {ref._number: ref for ref in refs_of(node)}
    outcomes: list[tuple[int, Any]] = [(number, outcome[1]) for number, outcome in kept if outcome is not None]
    outcomes += [(ref._number, getattr(ref, "_out", None)) for ref in refs.values()]
    for number, out in outcomes:
        if type(out) is Packed:
            for part in out.buffers:
                if type(part) is Block and part.number in wanted and part.number not in names:
                    names[part.number] = _described(node, (node.life, number), refs.get(number))
    return names


def _described(node: Node, id: RefId, ref: ObjectRef[Any] | None) -> str:
    text = f"object {text_id(id)}"
    line = node.objectlist._line(ref, id[1])
    if line:
        text += f", made by {line}"
    try:
        holders, borrowers = node.objectlist._holders(id, ref)
    except RuntimeError:  # this is another thread than theirs, and they have just changed
        return text
    everybody = [*holders, *(f"node {key}" for key in borrowers)]
    return f"{text}, held by {', '.join(everybody)}" if everybody else text
