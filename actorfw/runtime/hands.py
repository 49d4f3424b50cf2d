"""`Hands`: a few threads for short work beside a loop, which end when there is none left.

An executor would keep its threads until somebody closes it, and the default one of a loop belongs to whoever runs that
loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Final, TypeVar

__all__ = ["Hands"]

T = TypeVar("T")

_NAME: Final = "actorfw hand"


class Hands:
    """Does things one after the other, in at most so many threads. Any loop may give it something to do.

    Args:
        most: threads at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._jobs: deque[Callable[[], None]] = deque()
        self._running = 0

    async def do(self, fn: Callable[[], T]) -> T:
        """What `fn()` gives or raises, called in a thread and in this context; not at all if this is cancelled before.

        Raises:
            RuntimeError: no thread can be had.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        context = copy_context()

        def settle(value: Any, error: Exception | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(value)
            else:
                done.set_exception(error)

        def job() -> None:
            if done.cancelled():
                return
            value: Any = None
            failure: Exception | None = None
            try:
                value = context.run(fn)
            except Exception as error:  # the waiter's, whatever it is
                failure = error
            try:
                loop.call_soon_threadsafe(settle, value, failure)
            except RuntimeError:
                pass  # that loop is closed: nobody waits any more

        with self._lock:
            if self._running < self._most:
                threading.Thread(target=self._run, name=_NAME, daemon=True).start()
                self._running += 1
            self._jobs.append(job)
        del job
        return await done

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._running -= 1
                    return
                job = self._jobs.popleft()
            job()
            del job  # and with it all that it had
