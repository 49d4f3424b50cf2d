"""What a thing that a test has left behind is, in words: its name, where it stands, and where it was made.

The last is known where somebody noted it: `tracemalloc`, or for tasks asyncio's debug mode.
"""

from __future__ import annotations

import asyncio
import gc
import io
import os
import socket
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any, Final

import psutil

__all__ = ["advice", "command_of", "is_own_thread", "of_child", "of_descriptor", "of_task", "of_thread"]

_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STDLIB: Final = os.path.dirname(threading.__file__) + os.sep
_LINES: Final = 6
_RUNNERS: Final = [f"{os.sep}{name}{os.sep}" for name in ("asyncio", "pytest_asyncio", "_pytest", "pluggy")]


def of_task(task: asyncio.Task[Any]) -> str:
    coro: Any = task.get_coro()
    frames = task.get_stack(limit=1)
    at = f", waits at {_place(frames[-1].f_code, frames[-1].f_lineno)}" if frames else ""
    made = getattr(task, "_source_traceback", None)  # in asyncio's debug mode
    where = "".join(f"\n      {line}" for line in _ours(f"{f.filename}:{f.lineno} in {f.name}" for f in made or ()))
    name = getattr(coro, "__qualname__", repr(coro))
    return f"task {task.get_name()!r} of {name}{at}" + (f", made at{where}" if where else _made(task))


def of_thread(thread: threading.Thread) -> str:
    target: Any = getattr(thread, "_target", None)
    target = getattr(target, "__func__", target)
    code = getattr(target, "__code__", None)
    runs = f", runs {target.__qualname__} ({_place(code, code.co_firstlineno)})" if code is not None else ""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_back is not None and frame.f_code.co_filename.startswith(_STDLIB):
        frame = frame.f_back  # what is waited for says less than who waits
    at = f", is at {_place(frame.f_code, frame.f_lineno)}" if frame is not None else ""
    return f"thread {thread.name!r}{runs}{at}{_made(thread)}"


def is_own_thread(thread: threading.Thread) -> bool:
    target: Any = getattr(thread, "_target", None)
    code = getattr(getattr(target, "__func__", target), "__code__", None)
    return code is not None and code.co_filename.startswith(_PACKAGE)


def of_child(pid: int, line: str) -> str:
    def runs_it(popen: Any) -> bool:
        return bool(popen.pid == pid)

    popen = _found(subprocess.Popen, runs_it)
    return f"child process {pid}: {line}{_made(popen)}"


def command_of(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return "it has ended, and nobody waited for it"
        return " ".join(process.cmdline())[:200]
    except psutil.Error:
        return "gone meanwhile"


def of_descriptor(fd: int, what: str) -> str:
    def has_it(owner: Any) -> bool:
        return bool(owner.fileno() == fd)

    owner = _found(socket.socket, has_it) or _found(io.FileIO, has_it)
    return f"descriptor {fd}: {_address(fd) if what.startswith('socket:') else what}{_made(owner)}"


def _address(fd: int) -> str:
    with socket.socket(fileno=os.dup(fd)) as sock:
        try:
            here: object = sock.getsockname()
        except OSError:
            here = ""
        try:
            there: object = sock.getpeername()
        except OSError:
            there = ""
        kind = "TCP" if sock.type == socket.SOCK_STREAM and sock.family != socket.AF_UNIX else sock.family.name
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return f"{kind} socket that listens at {_written(here)}"
        return f"{kind} socket, {_written(here)} to {_written(there)}"


def _written(address: object) -> str:
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    name = address.decode(errors="replace") if isinstance(address, bytes) else str(address)
    return name.replace("\0", "@") or "nobody"


def _found(kind: type[Any], matches: Callable[[Any], bool]) -> object:
    for it in gc.get_objects():
        if isinstance(it, kind):
            try:
                if matches(it):
                    return it
            except (ValueError, AttributeError):
                pass  # it is half made, half gone, or closed
    return None


def _made(it: object) -> str:
    """Where an object was made, if that was noted."""
    trace = tracemalloc.get_object_traceback(it) if it is not None else None
    lines = _ours(f"{frame.filename}:{frame.lineno}" for frame in trace or ())
    return f", made at{''.join(f'{chr(10)}      {line}' for line in lines)}" if lines else ""


def _ours(lines: Iterable[str]) -> list[str]:
    """The last few lines that lead there, those of the runners left out."""
    return [line for line in lines if not line.startswith("<frozen") and not any(part in line for part in _RUNNERS)][
        -_LINES:
    ]


def _place(code: CodeType, line: int) -> str:
    return f"{code.co_filename}:{line}"


def advice() -> str:
    said = (
        "\nIf that is meant to be, mark the test with @pytest.mark.actorfw(leaks=False),"
        " or name in leaks='...' what counts."
    )
    if not tracemalloc.is_tracing():
        said += "\nWhere each was made is said under `python -X tracemalloc=25 -m pytest ...`."
    return said
