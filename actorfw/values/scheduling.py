"""What a task or an actor may ask about *where* it runs: the values of the option `scheduling`.

Leaves to others: what it needs to run (`core.ledger.Shape`) and the choice itself (`core.placement`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from actorfw.values.data import Data
from actorfw.values.errors import UsageError
from actorfw.values.ids import NODE_ID_BYTES, RefId, text_id

__all__ = ["Bundle", "Labels", "NodeAffinity", "PlacementGroup", "Scheduling", "check_scheduling"]

_NODE_ID = re.compile(f"[0-9a-f]{{{2 * NODE_ID_BYTES}}}")


@dataclass(frozen=True, slots=True)
class NodeAffinity:
    """Run on this node.

    Args:
        node_id: as in `node.id` and `nodes()`: 16 hexadecimal digits.
        soft: any other node will do while that one has no room, or is not there.

    Raises:
        UsageError: not the id of a node.
    """

    node_id: str
    soft: bool = False

    def __post_init__(self) -> None:
        # Users without a type checker pass anything: what the annotations promise is what has to be found out.
        node_id, soft = cast("tuple[object, object]", (self.node_id, self.soft))
        if not isinstance(node_id, str) or not _NODE_ID.fullmatch(node_id):
            raise UsageError(
                f"NodeAffinity's node_id is {node_id!r}; it must be a node's id, {2 * NODE_ID_BYTES} hexadecimal"
                " digits, as nodes() lists them"
            )
        if not isinstance(soft, bool):
            raise UsageError(f"NodeAffinity's soft is {soft!r}; it must be True or False")

    def __str__(self) -> str:
        return f"node {self.node_id}"


class Labels(Data):
    """Run only on nodes whose labels are these.

    Args:
        wanted: for each label its value, "!value" for any other (or none), or several of these, one of which must hold.

    Example:
        `Labels({"zone": ("eu-1", "eu-2"), "disk": "!spinning"})`

    Raises:
        UsageError: not a mapping of names to such values; the message names the label.
    """

    wanted: tuple[tuple[str, tuple[str, ...]], ...]

    def __init__(self, wanted: Mapping[str, str | Sequence[str]]) -> None:
        given: object = cast("object", wanted)
        if not isinstance(given, Mapping) or not given:
            raise UsageError(f"Labels takes a dict of at least one label and its value, not {given!r}")
        rows: list[tuple[str, tuple[str, ...]]] = []
        for name, value in cast("Mapping[object, object]", given).items():
            if not isinstance(name, str) or not name:
                raise UsageError(f"Labels has the label {name!r}; the name of a label must be a string")
            several = (value,) if isinstance(value, str) else value
            values = [v for v in several if isinstance(v, str)] if isinstance(several, (tuple, list)) else []
            if not values or len(values) != len(cast("Sequence[object]", several)) or not all(map(_names, values)):
                raise UsageError(
                    f'Labels has {name!r}: {value!r}; it must be a value, "!value", or a tuple or list of them'
                )
            rows.append((name, tuple(values)))
        # Sorted, so that two that ask the same are equal.
        object.__setattr__(self, "wanted", tuple(sorted(rows)))

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels will do."""
        return all(any(_holds(labels.get(name), v) for v in several) for name, several in self.wanted)

    def __str__(self) -> str:
        return ", ".join(f"{name}={' or '.join(several)}" for name, several in self.wanted)

    def __repr__(self) -> str:
        return f"Labels({ {name: several[0] if len(several) == 1 else several for name, several in self.wanted}!r})"


def _names(value: str) -> bool:
    return value not in ("", "!")


def _holds(actual: str | None, wanted: str) -> bool:
    return actual != wanted[1:] if wanted[0] == "!" else actual == wanted


class Bundle(Data):
    """One bundle of a placement group, as the option `scheduling`: run in there.

    Attributes:
        group: the group.
        index: which of its bundles, counted from 0.
    """

    group: PlacementGroup
    index: int

    def __str__(self) -> str:
        return f"bundle {self.index} of {self.group}"


class PlacementGroup(Data):
    """Resources that are set aside on several nodes together; made by `actorfw.placement_group`.

    As the option `scheduling`: run in any of its bundles. It is a plain value: it can be sent and stored, and keeps
    nothing alive.

    Attributes:
        owner: life of the node that made it: the group ends with it.
        number: its number there.
        address: where the owner can be dialled, a hint.
        bundles: what each sets aside, names and amounts.
        strategy: how the bundles lie.
    """

    owner: bytes
    number: int
    address: str
    bundles: tuple[tuple[tuple[str, float], ...], ...]
    strategy: Literal["pack", "spread", "strict_pack", "strict_spread"]

    @property
    def id(self) -> str:
        """The group's name for people."""
        return text_id(self.ref_id)

    @property
    def ref_id(self) -> RefId:
        """The owner's life and the number."""
        return self.owner, self.number

    def bundle(self, index: int) -> Bundle:
        """One of its bundles, for the option `scheduling`.

        Raises:
            UsageError: there is no bundle of that index.
        """
        given = cast("object", index)
        if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < len(self.bundles):
            raise UsageError(f"bundle({index!r}): the group has {len(self.bundles)} bundles, counted from 0")
        return Bundle(self, given)

    def __str__(self) -> str:
        return f"placement group {self.id[-20:]}"


Scheduling: TypeAlias = Literal["default", "spread"] | NodeAffinity | Labels | PlacementGroup | Bundle


def check_scheduling(value: object) -> Scheduling:
    """The value of the option `scheduling`, if it is one.

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, (NodeAffinity, Labels, PlacementGroup, Bundle)):
        return value
    if value == "default":
        return "default"
    if value == "spread":
        return "spread"
    raise UsageError(
        f'scheduling is {value!r}; it must be "default", "spread", NodeAffinity(node_id, soft=False), Labels({{...}}),'
        " a placement group or one of its bundles"
    )
