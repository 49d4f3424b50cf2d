"""Calls that wait long behind another one: after what time, where the other one hangs, and what the log says of it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from types import FrameType
from typing import Any, Final

from actorfw.runtime.driving import inner

__all__ = ["HELD_UP", "SUSPECT", "frames_of_task", "frames_of_thread", "place", "say"]

logger = logging.getLogger("actorfw.actors")

SUSPECT: Final = 0.5  # seconds behind one call after which it is asked what that one waits for, and between looks
HELD_UP: Final = 5.0  # seconds behind one call after which the log says where it hangs

_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OURS: Final = tuple(os.path.join(_PACKAGE, floor) + os.sep for floor in ("runtime", "api", "wire", "testing"))
_LIBRARY: Final = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_INSTALLED: Final = tuple(os.path.join(_LIBRARY, folder) for folder in ("site-packages", "dist-packages"))


def say(title: str, waiting: int, method: str, where: str) -> None:
    """Say in the log that calls wait behind one that is suspended; `where`: the place at which it hangs, if known."""
    logger.warning(
        "actor %s: %d %s waited %g s behind %s%s; "
        "@actorfw.method(interleave=True) lets a long-lived method run beside the others",
        title,
        waiting,
        "call has" if waiting == 1 else "calls have",
        HELD_UP,
        method,
        f", which hangs at {where}" if where else "",
    )


def place(frames: list[FrameType]) -> str:
    """Where these frames are, from a method's own on; empty if there are none."""
    if not frames:
        return ""
    first, last = frames[0], frames[-1]
    where = f"{first.f_code.co_filename}:{first.f_lineno}"
    if last is not first:
        where += f" in {last.f_code.co_name} ({last.f_code.co_filename}:{last.f_lineno})"
    return where


def frames_of_task(task: asyncio.Task[Any], thread: int | None = None) -> list[FrameType]:
    """The frames of user code in which a task is suspended, from the one that this package has called.

    Args:
        task: it runs the code.
        thread: where the task's loop runs, if not in this thread: then it may run now, and not be suspended.
    """
    if thread is not None and asyncio.current_task(task.get_loop()) is task:
        return frames_of_thread(thread)
    frames: list[FrameType] = []
    coro: Any = task.get_coro()
    while coro is not None:
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "ag_frame", None)
        if frame is not None and (frames or not frame.f_code.co_filename.startswith(_OURS)):
            frames.append(frame)
        coro = inner(coro)
    return frames


def frames_of_thread(thread: int) -> list[FrameType]:
    """The frames of user code in which a thread is, from the one that this package has called; none if it is in none.

    What that code has called of this package, to wait for a value say, is left out.
    """
    frame = sys._current_frames().get(thread)
    theirs: list[FrameType] = []
    run: list[FrameType] = []  # of frames that are not this package's, from the innermost on
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_OURS):
            run.append(frame)
        elif run:
            if not _is_library(run[-1].f_code.co_filename):  # what this package itself called of it is no place
                theirs = run
            run = []
        frame = frame.f_back
    return theirs[::-1]


def _is_library(file: str) -> bool:
    return file.startswith(_LIBRARY) and not file.startswith(_INSTALLED)
