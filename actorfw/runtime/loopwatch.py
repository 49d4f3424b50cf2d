"""`LoopWatch`: says in the log where an event loop hangs, once per stall, and how long it was when it is over.

A timer on the loop notes that the loop turns; a thread looks whether it still does. The thread sleeps until the note
would be too old, so a loop that turns costs four timers and little more than one wake-up of the thread in the span
that is asked for. A process that stood still as a whole (stopped, swapped out, a laptop's lid) blames nobody's line.
"""

from __future__ import annotations

import asyncio
import linecache
import logging
import os
import sys
import threading
import time
from types import FrameType
from typing import Final

__all__ = ["LoopWatch", "place_in_loop"]

logger = logging.getLogger("actorfw.loop")

_BEATS: Final = 4  # in the span; the start of a stall is known to that fraction of it
_LOOK: Final = 0.95  # of the span: a stall of just that span is not over then, whenever its first beat was due
_LOOK_AGAIN: Final = 4  # spans; a loop that was closed or stopped in a stall has no last word

_OURS: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARY: Final = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_INSTALLED: Final = tuple(os.path.join(_LIBRARY, folder) + os.sep for folder in ("site-packages", "dist-packages"))
_ASYNCIO: Final = os.path.dirname(os.path.abspath(asyncio.__file__)) + os.sep


class LoopWatch:
    """Watches the running loop from `start` to `stop`.

    Args:
        after: seconds without a turn from which on it is a stall.
        title: whose loop it is, for the log.
    """

    def __init__(self, after: float, title: str) -> None:
        self.after = after
        self.title = title
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None
        self._of_thread = 0
        self._outside = 0  # the frame that runs the loop: what it has called beneath is what hangs
        self._beaten = 0.0
        self._stalled = False
        self._stopped = False
        self._news = threading.Event()

    def start(self) -> None:
        """Begin, with the loop that runs in this thread."""
        self._loop = asyncio.get_running_loop()
        self._of_thread = threading.get_ident()
        self._beaten = time.monotonic()
        self._timer = self._loop.call_soon(self._beat)  # type: ignore[assignment]
        self._thread = threading.Thread(target=self._look, name="actorfw-loop-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it; the thread is gone when this returns. On the loop."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._news.set()
        if self._thread is not None:
            self._thread.join()

    def _beat(self) -> None:
        self._beaten = time.monotonic()
        self._outside = _outside(sys._getframe(1))
        if self._stalled:
            self._stalled = False
            self._news.set()
        loop = self._loop
        assert loop is not None
        self._timer = loop.call_later(self.after / _BEATS, self._beat)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        after = self.after * _LOOK
        excused = 0.0
        pause = after
        while not self._stopped:
            began, worked = time.monotonic(), time.process_time()
            self._news.wait(pause)
            now = time.monotonic()
            late = now - began - pause
            if late > self.after / 2 and time.process_time() - worked < late / 2:
                excused = now  # nothing of this process ran
            since = max(self._beaten, excused)
            if self._stopped:
                return
            if now - since < after:
                pause = since + after - now
                continue
            frames = self._frames()
            if not frames or not self._turns():
                excused = now  # it waits for something to do, and nobody wakes it, or it is not run at all
                pause = after
                continue
            self._tell(since, now, place_in_loop(frames))
            pause = after

    def _frames(self) -> list[FrameType]:
        """What runs in the loop now, from the innermost on; nothing if that is the loop alone."""
        frames: list[FrameType] = []
        frame = sys._current_frames().get(self._of_thread)
        while frame is not None and id(frame) != self._outside:
            frames.append(frame)
            frame = frame.f_back
        own = (_ASYNCIO, "selectors.py")
        if all(
            each.f_code.co_filename.startswith(own[0]) or each.f_code.co_filename.endswith(own[1]) for each in frames
        ):
            return []
        return frames

    def _turns(self) -> bool:
        loop = self._loop
        return loop is not None and not loop.is_closed() and loop.is_running()

    def _tell(self, since: float, now: float, where: str) -> None:
        logger.warning("the event loop of %s has not turned for %.2g s%s", self.title, now - since, where)
        self._news.clear()
        self._stalled = True
        while self._beaten <= since and not self._stopped and self._turns():
            self._news.wait(self.after * _LOOK_AGAIN)
        self._stalled = False
        self._news.clear()
        if self._beaten > since:
            length = self._beaten - since - self.after / _BEATS / 2  # it turned on after its last beat, for half of one
            text = "the event loop of %s turns again after about %.2g s%s"
            logger.warning(text, self.title, length, where)


def _outside(frame: FrameType | None) -> int:
    while frame is not None and frame.f_code.co_filename.startswith(_ASYNCIO):
        frame = frame.f_back
    return id(frame)


def place_in_loop(frames: list[FrameType]) -> str:
    """Where these frames are, given from the innermost on.

    That is the line that is neither the standard library's nor this package's, and if that one is an installed
    package's, the line that led to it.
    """
    theirs = [frame for frame in frames if not _is_foundation(frame.f_code.co_filename)]
    if not theirs:
        theirs = frames[:1]
    if not theirs:
        return ""
    where = f" at {_line(theirs[0])}"
    if theirs[0].f_code.co_filename.startswith(_INSTALLED):
        caller = next((frame for frame in theirs if not frame.f_code.co_filename.startswith(_INSTALLED)), None)
        if caller is not None:
            where += f", called from {_line(caller)}"
    return where


def _is_foundation(file: str) -> bool:
    if file.startswith(("<frozen ", _OURS)):
        return True
    return file.startswith(_LIBRARY) and not file.startswith(_INSTALLED)


def _line(frame: FrameType) -> str:
    code, number = frame.f_code, frame.f_lineno
    text = linecache.getline(code.co_filename, number).strip()
    return f"{code.co_filename}:{number} in {code.co_name}" + (f": {text}" if text else "")
