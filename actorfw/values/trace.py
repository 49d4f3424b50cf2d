"""Trace context after the W3C recommendation: which headers are right, and what of them goes on.

A trace is the pair (traceparent, tracestate). Nothing here makes spans: what came in goes on as it came, so that
whoever records spans finds all that belongs to one request under one trace id.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, TypeAlias

__all__ = ["Trace", "trace_of"]

Trace: TypeAlias = tuple[str, str]
"""`traceparent`, and `tracestate` or ""."""

_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_KNOWN_FLAGS: Final = 0x03  # sampled, random

_KEY: Final = r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_MEMBER: Final = re.compile(rf"({_KEY})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_MOST_MEMBERS: Final = 32
_MOST_CHARACTERS: Final = 512  # what everybody has to pass on; more would go along with every call
_LARGE_MEMBER: Final = 128  # these are left out first


def trace_of(traceparent: str, tracestate: Sequence[str] = ()) -> Trace | None:
    """The trace that these headers name, or None if `traceparent` is not one: a bad header is as good as none.

    Args:
        traceparent: the header. Of a later version than 00, what 00 knows of it goes on.
        tracestate: all headers of that name. One that breaks the grammar drops them all, and nothing else.
    """
    found = _PARENT.fullmatch(traceparent.strip(" \t"))
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == "ff" or not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    if version == "00":
        if more is not None:
            return None
    else:
        flags = f"{int(flags, 16) & _KNOWN_FLAGS:02x}"
    return f"00-{trace_id}-{parent_id}-{flags}", _state(tracestate) if tracestate else ""


def _state(headers: Sequence[str]) -> str:
    members = [member for header in headers for part in header.split(",") if (member := part.strip(" \t"))]
    keys: set[str] = set()
    for member in members:
        found = _MEMBER.fullmatch(member)
        if found is None or found[1] in keys:
            return ""
        keys.add(found[1])
    if len(members) > _MOST_MEMBERS:
        return ""
    while sum(map(len, members)) + len(members) - 1 > _MOST_CHARACTERS:
        large = [at for at, member in enumerate(members) if len(member) > _LARGE_MEMBER]
        del members[large[-1] if large else -1]
    return ",".join(members)
