"""The zygote: a process that has imported the runtime and nothing else, and turns into a worker by fork within a
millisecond.

It never runs a loop, a thread or user code, so a fork of it is clean. It is the parent of all workers: it alone knows
for sure when one has ended and how, and it sends them their signals, so that none ever reaches a stranger with a
recycled process id. It ends when its node closes the control socket, and takes its workers with it; if the node is
killed, the kernel does that (Linux) or the closed sockets do.

On the control socket: first the settings of the workers, (length, msgpack map). Then requests of `REQUEST.size` bytes
from the node, (FORK, slot, index) with two descriptors (the worker's socket, the pipe for its raw output), and (SIGNAL,
number, index); a slot is a place in `runtime.marks`. Back come reports of `REPORT.size` bytes: (READY, 0, pid, 0),
(FORKED, index, pid, 0), (FAILED, index, 0, errno), (EXITED, index, pid, wait status).
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import mmap
import os
import select
import signal
import socket
import struct
import sys
from functools import cache
from types import FrameType
from typing import Any, Final, NoReturn

import msgpack

from actorfw.core.ledger import Shape
from actorfw.io.sharedmem import SharedMemory
from actorfw.runtime.definitions import Interface, MethodInfo, Recipe
from actorfw.runtime.marks import words_of_slot
from actorfw.runtime.worker import child
from actorfw.values.data import finish

__all__ = ["EXITED", "FAILED", "FORK", "FORKED", "LENGTH", "READY", "REPORT", "REQUEST", "SIGNAL", "main"]

REQUEST: Final = struct.Struct("<cxHI")  # verb, slot or signal number, index
REPORT: Final = struct.Struct("<cxxxIii")  # verb, index, pid, errno or wait status
LENGTH: Final = struct.Struct("<I")

FORK: Final = b"F"
SIGNAL: Final = b"S"

READY: Final = b"R"
FORKED: Final = b"f"
FAILED: Final = b"e"
EXITED: Final = b"x"

_PR_SET_PDEATHSIG: Final = 1


def main(control_fd: int, parent: int) -> None:
    """Serve the node at the other end of `control_fd`; `parent` is its process id."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, who then tells us
    _die_with(parent)
    with socket.socket(fileno=control_fd) as control:
        control.setblocking(True)
        settings = _settings(control)
        if settings is not None:
            _Zygote(control, settings).serve()


class _Zygote:
    def __init__(self, control: socket.socket, settings: dict[str, Any]) -> None:
        self._control = control
        self._settings = settings
        self._page = _page(settings.pop("marks"))
        self._memory = _memory(settings.pop("memory"))
        self._pid = os.getpid()
        self._pids: dict[int, int] = {}  # index -> pid of those not yet reaped
        self._wake, self._waker = os.pipe()
        for fd in (self._wake, self._waker):
            os.set_blocking(fd, False)

    def serve(self) -> None:
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _noted)  # only to be woken: by default it would be ignored
        # What workers need once they run code: imported here once, instead of for some milliseconds in each.
        for module in ("actorfw.wire.byvalue", "ctypes", "importlib.util"):
            importlib.import_module(module)
        finish(Recipe, Interface, MethodInfo, Shape)  # what each of them reads when it gets something to run
        gc.collect()
        gc.freeze()  # else the first collection in each child copies every page that it shares with us
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        try:
            self._report(READY, 0, self._pid, 0)
            while True:
                ready = dict(poll.poll())
                if self._wake in ready:
                    self._drain()
                    self._reap()
                if self._control.fileno() in ready and not self._request():
                    break
        except (BrokenPipeError, ConnectionResetError):
            pass  # the node went away in the middle of a report
        self._end()

    def _request(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._control, REQUEST.size, 2)
        if len(data) < REQUEST.size:
            return False
        verb, number, index = REQUEST.unpack(data)
        if verb == SIGNAL:
            pid = self._pids.get(index)
            if pid is not None:
                os.kill(pid, number)
            return True
        try:
            pid = os.fork()
        except OSError as error:
            for fd in fds:
                os.close(fd)
            self._report(FAILED, index, 0, error.errno or 0)
            return True
        if pid == 0:
            self._become_worker(index, number, *fds)
        for fd in fds:
            os.close(fd)
        self._pids[index] = pid
        self._report(FORKED, index, pid, 0)
        return True

    def _become_worker(self, index: int, slot: int, channel_fd: int, output_fd: int) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _die_with(self._pid)
            os.dup2(output_fd, 1)
            os.dup2(output_fd, 2)
            for fd in (output_fd, self._wake, self._waker):
                os.close(fd)
            self._control.close()
            os.set_inheritable(channel_fd, False)
            faulthandler.enable(2)
            channel = socket.socket(fileno=channel_fd)
            channel.setblocking(True)
            marks = None if self._page is None else words_of_slot(self._page, slot)
            child.main(channel, index, self._settings, marks, self._memory)
            status = 0
        except BaseException:  # the status of the process says that it failed, and this why
            import traceback  # nothing of it is needed unless the runtime itself is at fault

            os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
        finally:
            # Never back into the zygote's loop, and without its exit handlers.
            os._exit(status)

    def _drain(self) -> None:
        try:
            while os.read(self._wake, 4096):
                pass
        except BlockingIOError:
            pass

    def _reap(self) -> None:
        indices = {pid: index for index, pid in self._pids.items()}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            index = indices.get(pid)
            if index is not None:
                del self._pids[index]
                self._report(EXITED, index, pid, status)

    def _report(self, verb: bytes, index: int, pid: int, status: int) -> None:
        self._control.sendall(REPORT.pack(verb, index, pid, status))

    def _end(self) -> None:
        for pid in self._pids.values():
            os.kill(pid, signal.SIGKILL)
        for pid in self._pids.values():
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass  # reaped in between
        if os.getpgrp() == self._pid:
            # What workers started and left behind, in our group; ourselves with it, and nothing is lost by that.
            os.killpg(self._pid, signal.SIGKILL)


def _noted(number: int, frame: FrameType | None) -> None:
    pass


def _page(fd: int) -> mmap.mmap | None:
    if fd < 0:
        return None
    page = mmap.mmap(fd, 0)
    os.close(fd)
    return page


def _memory(fd: int) -> SharedMemory | None:
    if fd < 0:
        return None
    # Mapped here, so that all workers have it from birth; as a whole, so that they see it grow.
    memory = SharedMemory.attach(fd, readonly=False)
    try:
        memory.hand_over()
    except OSError:  # a limit on address space: values go through the sockets
        memory.close()
        return None
    return memory


def _settings(control: socket.socket) -> dict[str, Any] | None:
    # Exactly these bytes and no more: descriptors travel with what follows.
    head = _exactly(control, LENGTH.size)
    if head is None:
        return None
    body = _exactly(control, LENGTH.unpack(head)[0])
    return None if body is None else msgpack.unpackb(body)


def _exactly(control: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        more = control.recv(size - len(data))
        if not more:
            return None
        data += more
    return data


@cache
def _libc() -> Any:
    # Made once, before the forks.
    import ctypes

    return ctypes.CDLL(None)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, where the kernel can."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it died before we asked
