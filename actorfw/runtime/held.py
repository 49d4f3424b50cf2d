"""What a process holds by id, when its node takes a new life: the same for a node and for its workers.

The rule is `core.renaming`'s; what else keeps ids is the business of `runtime.renaming` and of the worker's parts.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from actorfw.values.ids import RefId

if TYPE_CHECKING:
    from actorfw.core.renaming import Renaming
    from actorfw.runtime.handles import ActorHandle
    from actorfw.runtime.refs import Grip, ObjectRef

__all__ = ["rename_held"]


def rename_held(
    renaming: Renaming,
    grips: MutableMapping[RefId, Grip],
    refs: MutableMapping[RefId, ObjectRef[Any]],
    handles: MutableMapping[RefId, ActorHandle],
) -> None:
    """Give these, and the tables that they are in, their new ids. Under the lock of the tables."""
    for id, grip in [*grips.items()]:
        del grips[id]
        grip.id = renaming.id(id)
        grips[grip.id] = grip
    for id, ref in [*refs.items()]:
        del refs[id]
        ref._owner = renaming.life(id[0])
        refs[ref._owner, id[1]] = ref
    for id, handle in [*handles.items()]:
        del handles[id]
        handle._guardian = renaming.life(id[0])
        handles[handle._guardian, id[1]] = handle
