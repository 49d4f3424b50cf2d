"""What tasks and actors print in the loop or threads of a process that is nothing but a peer: sent to their submitters.

Worker processes have an output of their own. In a user's process `sys.stdout` is the user's, and stays as it is.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Final, TextIO

from actorfw.runtime.context import CallContext, running_call

if TYPE_CHECKING:
    from actorfw.runtime.node import Node

__all__ = ["send_prints"]

_LONG_LINE: Final = 64 * 1024


@contextlib.contextmanager
def send_prints(node: Node) -> Generator[None]:
    """While entered, `sys.stdout` and `sys.stderr` find the call that prints, and send its lines to its submitter."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Prints(node, "stdout", before[0]), _Prints(node, "stderr", before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Prints(io.TextIOBase):
    """A text stream: lines of calls go to their submitters, all else to where it went before."""

    def __init__(self, node: Node, name: str, beneath: TextIO) -> None:
        super().__init__()
        self._node = node
        self._name = name
        self._beneath = beneath
        self._unfinished: dict[tuple[bytes, str], str] = {}

    def write(self, text: str, /) -> int:
        call = running_call.get()
        if call is None or not call.name:  # no call, but perhaps a request
            return self._beneath.write(text)
        who = (_submitter(call), call.name)
        whole, newline, rest = (self._unfinished.pop(who, "") + text).rpartition("\n")
        if not newline and len(rest) > _LONG_LINE:
            whole, rest = rest, ""
        if rest:
            self._unfinished[who] = rest
        if whole or newline:
            # A lone surrogate can be printed, and not be packed.
            line = (whole + newline).encode("utf-8", "backslashreplace").decode()
            self._node.post(self._node.output.of_call, who[0], who[1], self._name, line)
        return len(text)

    def flush(self) -> None:
        self._beneath.flush()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._beneath.fileno()

    def isatty(self) -> bool:
        return self._beneath.isatty()

    @property
    def buffer(self) -> object:
        """What is written in bytes names no call: it goes where it went before."""
        return getattr(self._beneath, "buffer", None)


def _submitter(call: CallContext) -> bytes:
    """The life of the node that submitted a call; a constructor's or a tell's is that of the actor's guardian."""
    return call.call[0] if call.call is not None else call.guardian
