"""Placement groups: resources set aside on several nodes together, all of them or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, cast, get_args

from actorfw.core.bundles import Strategy, shape_of
from actorfw.runtime import current
from actorfw.runtime.refs import Reply
from actorfw.values.errors import UsageError
from actorfw.values.scheduling import PlacementGroup

__all__ = ["placement_group", "remove_placement_group"]

_STRATEGIES: Final[tuple[str, ...]] = get_args(Strategy)


def placement_group(
    bundles: Sequence[Mapping[str, float]],
    strategy: Literal["pack", "spread", "strict_pack", "strict_spread"] = "pack",
    *,
    timeout: float | None = None,
) -> Reply[PlacementGroup]:
    """Set resources aside on one or several nodes, all of the bundles or none.

    The group belongs to the node on which this is called, and ends with it. Bundles whose node dies are placed anew.
    Tasks and actors run in it with `scheduling=group`, or `scheduling=group.bundle(i)`; what they ask for is taken from
    the bundle.

    Args:
        bundles: names of resources ("CPU", "GPU", "memory" in bytes, custom ones) and amounts; GPUs are whole.
        strategy: "pack": on few nodes; "spread": on many; "strict_pack": on one; "strict_spread": no two on one.
        timeout: seconds to find places for all; None waits without end, and says so in the log if no members could
            ever host it.

    Returns:
        The group, when all bundles have their place.

    Raises:
        UsageError: at once: a bundle or the strategy is none.
        UnschedulableError: there was no place within `timeout`.
    """
    given = cast("object", bundles)
    if isinstance(given, (str, Mapping)) or not isinstance(given, Sequence) or not given:
        raise UsageError(f"placement_group takes a list of bundles, such as [{{'CPU': 1}}], not {bundles!r}")
    for bundle in bundles:
        shape_of(bundle)
    if strategy not in _STRATEGIES:
        raise UsageError(f"strategy is {strategy!r}; it must be one of {', '.join(map(repr, _STRATEGIES))}")
    wait = cast("object", timeout)
    if wait is not None and (isinstance(wait, bool) or not isinstance(wait, (int, float)) or wait < 0):
        raise UsageError(f"timeout is {timeout!r}; it must be a number of seconds, 0 or above, or None")
    return current.home().ask("placement_group", [dict(bundle) for bundle in bundles], strategy, timeout)


def remove_placement_group(group: PlacementGroup) -> Reply[None]:
    """Give a group's resources back. Done when its owner has begun to.

    What runs in it goes on, and gives its part back when it ends. What waits for it fails with `UnschedulableError`.
    """
    if not isinstance(cast("object", group), PlacementGroup):
        raise UsageError(f"remove_placement_group takes a placement group, not {group!r}")
    return current.home().ask("remove_placement_group", group)
