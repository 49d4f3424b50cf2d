"""Values that are on disk, as those see them who want to read: whether to wait, and what to wait for.

A value whose file is lost counts as one whose only copy is: it is made again, or its ref fails and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from actorfw.runtime.store.blocks import LOST, SEALED, Block
from actorfw.values.errors import ObjectLostError
from actorfw.values.ids import RefId
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error
from actorfw.wire.payload import Packed, size_of

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.refs import ObjectRef, Reply

__all__ = ["all_here", "away", "bring", "brought_back", "lost"]

# The states of a ref, as in `runtime.refs`, which imports this module.
PENDING: Final = 0
READY: Final = 1
FAILED: Final = 2


def away(out: Any) -> bool:
    """Whether a wire value can't be read without waiting for a disk, or not at all."""
    if type(out) is Packed:
        for part in out.buffers:
            if type(part) is Block and part.state != SEALED:
                return True
    return False


def lost(out: Any) -> str:
    """Why a wire value can't be read any more; empty if it can."""
    if type(out) is Packed:
        for part in out.buffers:
            if type(part) is Block and part.state == LOST:
                return part.why or "its file is lost"
    return ""


def brought_back(ref: Any) -> Reply[None]:
    """Done when the value of a ref, which is `away`, was brought back, or its ref has been told that it is lost.

    It may be on disk again when it is read: then that takes as long as it takes. Any thread.
    """
    from actorfw.runtime.refs import Reply  # which imports this module

    node = cast("Node", ref._home)  # only a node has blocks
    reply: Reply[None] = Reply(node)
    node.post(bring, node, [ref], partial(reply._settle, None))
    return reply


def all_here(refs: Sequence[ObjectRef[Any]]) -> bool:
    """Whether all of these are done, and none is on disk."""
    return all(ref.done() and not away(ref._out if ref._state == READY else None) for ref in refs)


def bring(node: Node, refs: Sequence[ObjectRef[Any]], then: Callable[[], object]) -> None:
    """Call `then()` when the values of these refs are in memory, and stay there until it returns, or can't be had."""
    gone = [ref for ref in refs if ref._state == READY and lost(ref._out)]
    for ref in gone:
        _value_lost(node, ref, lost(ref._out))
    remade = [ref for ref in gone if not ref.done()]
    if remade:
        node.objects.resolve(remade, lambda: bring(node, refs, then))
        return
    blocks = [
        part
        for ref in refs
        if ref._state == READY and type(ref._out) is Packed
        for part in ref._out.buffers
        if type(part) is Block and part.state != SEALED
    ]
    spiller = node.store.spiller
    if not blocks or spiller is None:
        then()
        return

    def back(error: Exception | None) -> None:
        if error is not None and any(lost(ref._out) for ref in refs if ref._state == READY):
            bring(node, refs, then)
        else:
            then()  # with another error, whoever reads it meets the same and says so

    spiller.resident_later(blocks, back)


def _value_lost(node: Node, ref: ObjectRef[Any], why: str) -> None:
    """The file with the value of a ref is gone: what was settled is to come again, or failed."""
    objects = node.objects
    wire, _, _ = objects.export_ref(ref)  # so that it is found when the value comes
    id = (wire[0], wire[1])
    size = size_of(ref._out)
    ref._state = PENDING
    del ref._out
    if objects.ownership.owner(id) != node.life:
        node.copies.lacks(id)
        ref._lazy = True  # its owner has it, or knows who has
        return
    if id[0] == node.life:
        objects._exported[id[1]] = (m.STORED, size)
    else:
        objects._inherited[id] = (m.STORED, size)
    node.locations.lost_here(id, size)
    _say_why(node, id, ref, why)


def _say_why(node: Node, id: RefId, ref: ObjectRef[Any], why: str) -> None:
    if ref._state == FAILED:
        error = ObjectLostError(f"{node.unpack_error(ref._out)}; {why}")
        node.fetches.failed(id, pack_error(node.codec, error, where=node.name, infrastructure=True))
        ref._out = pack_error(node.codec, error, where=node.name, infrastructure=True)
