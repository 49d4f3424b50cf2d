"""How a worker process ended, in a sentence for whoever waited for it."""

from __future__ import annotations

import os
import signal
from typing import Final

from actorfw.runtime.worker.line import CHANNEL_LOST

__all__ = ["sentence"]

_FAULT: Final = b"Fatal Python error"  # how faulthandler begins


def sentence(pid: int | None, status: int, running: str, killed_because: str, last_words: bytes) -> str:
    """Say how a process ended.

    Args:
        pid: of the process.
        status: as `os.waitpid` gives it.
        running: what it was running, or "".
        killed_because: why its node killed it, or "" if it did not.
        last_words: the end of what it wrote past Python.
    """
    doing = f" while it ran {running}" if running else ""
    who = f"worker process {pid}"
    code = os.waitstatus_to_exitcode(status)
    if code == CHANNEL_LOST:
        return f"{who} ended{doing}: its code closed the connection to the node"
    if code >= 0:
        if killed_because:
            return f"{who} ended{doing}: {killed_because}"
        return f"{who} exited with status {code}{doing}, by os._exit() or a library's call of exit()"
    number = -code
    if killed_because and number == signal.SIGKILL:
        return f"{who} was killed{doing}: {killed_because}"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"number {number}"
    words = signal.strsignal(number) or "unknown"
    hint = "; often that is the system's answer to too much memory in use" if number == signal.SIGKILL else ""
    said = f"{who} was killed by signal {name} ({words}){doing}{hint}"
    at = last_words.rfind(_FAULT)
    if at >= 0:
        said += "\n" + last_words[at:].decode("utf-8", "backslashreplace").rstrip()
    return said
