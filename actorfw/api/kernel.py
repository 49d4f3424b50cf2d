"""Where this code runs: on a loop of the user's, on one that a notebook runs its cells with, or at a prompt."""

from __future__ import annotations

import sys
import threading
from asyncio import events
from typing import Any

__all__ = ["interactive", "on_users_loop"]


def on_users_loop() -> bool:
    """Whether a loop runs in this thread that is the user's own.

    A notebook kernel's is not: it stands still while a cell computes, and cells may block. Nor is the one that
    IPython's terminal runs single cells with: between them it stands still.
    """
    running = events._get_running_loop()
    if running is None:
        return False
    shell = _shell()
    if shell is None:
        return True
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        its_loop = getattr(getattr(kernel, "io_loop", None), "asyncio_loop", None)
        if its_loop is not None:
            return running is not its_loop
        # Kernels that keep their loop to themselves run cells in the main thread.
        return threading.current_thread() is not threading.main_thread()
    helpers = sys.modules.get("IPython.core.async_helpers")
    return helpers is None or running is not helpers.get_asyncio_loop()


def interactive() -> bool:
    """Whether somebody types this: in a notebook, IPython, or at Python's own prompt."""
    return hasattr(sys, "ps1") or _shell() is not None


def _shell() -> Any:
    """IPython's shell, if this process is one."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
