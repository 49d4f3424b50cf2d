"""Asking the system what may take long, from a loop: in a thread that lives as long as the question.

A loop's own way would make the default executor of a host that may have none yet. What is asked is others' affair.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

__all__ = ["in_thread"]

T = TypeVar("T")


async def in_thread(loop: asyncio.AbstractEventLoop, ask: Callable[[], T], name: str) -> T:
    """What `ask` returns. It goes on, unheard, if the await is cancelled or the loop closed.

    Raises:
        OSError: as `ask` does. It may raise nothing else.
    """
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        settle: Callable[[], None]
        try:
            settle = partial(_settle, done.set_result, ask())
        except OSError as error:
            settle = partial(_settle, done.set_exception, error)
        try:
            loop.call_soon_threadsafe(settle)
        except RuntimeError:
            pass  # that loop is closed: nobody waits

    def _settle(put: Callable[[Any], None], outcome: object) -> None:
        if not done.done():
            put(outcome)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done
