"""What a name may be: of nodes, clusters, namespaces, actors, tasks, labels and resources.

Names travel in handshakes, gossip and errors, and are shown in terminals: so they are short, and free of characters
that do something there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from actorfw.values.errors import UsageError

__all__ = ["LABELS", "NAME_BYTES", "RESOURCES", "check_labels", "check_name", "name_problem", "shortened"]

NAME_BYTES: Final = 255
"""Of any name, in UTF-8."""
LABELS: Final = 64
"""Of a node."""
RESOURCES: Final = 64
"""Of a node, or in a request, beside CPUs, GPUs and memory."""


def name_problem(value: object) -> str | None:
    """What a name must be, if this one is not that."""
    if not isinstance(value, str) or not value:
        return "a string that is not empty"
    if not value.isprintable():
        # Space is printable; line ends, escapes, bidirectional controls and lone surrogates are not.
        return "free of control characters and others that can't be printed"
    if len(value) > NAME_BYTES or len(value.encode()) > NAME_BYTES:
        return f"at most {NAME_BYTES} bytes long in UTF-8"
    return None


def check_name(what: str, value: object) -> None:
    """Raises UsageError, which begins with `what`, unless this may be a name."""
    problem = name_problem(value)
    if problem is not None:
        raise UsageError(f"{what} is {shortened(value)}; it must be {problem}")


def check_labels(labels: Mapping[str, str]) -> None:
    """Raises UsageError unless a node may have these labels. A value may be empty."""
    if len(labels) > LABELS:
        raise UsageError(f"labels has {len(labels)} of them, and {LABELS} is the limit")
    for key, value in labels.items():
        check_name("a label", key)
        if value:
            check_name(f"the label {key!r}", value)


def shortened(value: object) -> str:
    """For a message: what was given, or its beginning and how long it is."""
    if isinstance(value, str) and len(value) > 2 * NAME_BYTES:
        return f"{value[:40]!r}… ({len(value)} characters)"
    return repr(value)
