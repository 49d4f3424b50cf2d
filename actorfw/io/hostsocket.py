"""`HostSocket`: messages and descriptors between processes of one host.

Over unix sockets in the abstract name space of Linux: no file is left behind. Messages are few and small (msgpack lists
behind their length); who may connect is for those to decide who get the first one. The other end is always a process of
the same user, though names in that space are anybody's to take, and any user's to connect to.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack

__all__ = ["MESSAGE_BYTES", "STRANGER_BYTES", "HostSocket", "connect", "listen", "receive_blocking", "same_user"]

_LENGTH: Final = struct.Struct("<I")
_CREDENTIALS: Final = struct.Struct("3i")  # pid, user, group: struct ucred of Linux
STRANGER_BYTES: Final = 1 << 10
"""Of a message of somebody who has not shown yet that he may speak."""
MESSAGE_BYTES: Final = 1 << 24
"""Of any other."""
_READ: Final = 1 << 16
_FDS: Final = 4  # that one message may have
_BACKLOG: Final = 128

Heard = Callable[["HostSocket", list[Any], list[int]], object]


class HostSocket:
    """One end of a connection, on a loop.

    Args:
        loop: reads and writes on it.
        sock: connected; this object's from now on.
        heard: called with each message and the descriptors that came with it, which are the callee's then.
        ended: called once, when the other end is gone or talks nonsense; not after `close`.

    Attributes:
        limit: bytes that a message may have.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        heard: Heard,
        ended: Callable[[HostSocket], object],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._heard = heard
        self._ended = ended
        self._in = b""
        self._fds: list[int] = []
        self._out: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self.open = True
        self.limit = MESSAGE_BYTES
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._readable)

    @property
    def fd(self) -> int:
        """Its descriptor; -1 when it is closed."""
        return self._sock.fileno()

    def send(self, message: Sequence[Any], fds: Sequence[int] = ()) -> None:
        """Send a message; the descriptors stay the caller's."""
        if not self.open:
            return
        body: bytes = msgpack.packb(message)
        self._out.append((_LENGTH.pack(len(body)) + body, tuple(map(os.dup, fds))))
        if len(self._out) == 1:
            self._write()

    def _write(self) -> None:
        while self._out:
            data, fds = self._out[0]
            try:
                sent = socket.send_fds(self._sock, [data], list(fds)) if fds else self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._sock.fileno(), self._write)
                return
            except OSError:
                break  # the reader hears of its end
            for fd in fds:
                os.close(fd)
            if sent < len(data):
                self._out[0] = (data[sent:], ())
            else:
                self._out.popleft()
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, _READ, _FDS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, fds = b"", []
        for fd in fds:
            os.set_inheritable(fd, False)
        self._fds += fds
        if not data or len(self._fds) > _FDS:
            self._end()
            return
        self._in += data
        while len(self._in) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._in)
            end = _LENGTH.size + length
            if length > self.limit:
                self._end()
                return
            if len(self._in) < end:
                return
            body, self._in = self._in[_LENGTH.size : end], self._in[end:]
            got, self._fds = self._fds, []
            try:
                message = msgpack.unpackb(body)
                if type(message) is not list or not message:
                    raise ValueError("no message")
            except Exception:  # msgpack raises half a dozen unrelated types
                _close_all(got)
                self._end()
                return
            self._heard(self, message, got)
            if not self.open:
                return

    def _end(self) -> None:
        if self.open:
            self.close()
            self._ended(self)

    def release(self) -> None:
        """Take it off the loop, and leave the connection open."""
        if self.open:
            self.open = False
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            while self._out:
                _close_all(self._out.popleft()[1])
            _close_all(self._fds)
            self._fds = []

    def close(self) -> None:
        """End the connection, whoever else has its descriptor. Any thread, once it was released."""
        self.release()
        if self._sock.fileno() >= 0:
            try:
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other end was faster
            self._sock.close()


def same_user(sock: socket.socket) -> bool:
    """Whether the process at the other end is this user's: the one that connected, or the one that listens."""
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except (OSError, AttributeError):  # no such thing on this platform, as there are no such names
        return False
    return bool(_CREDENTIALS.unpack(found)[1] == os.geteuid())


def listen(name: str) -> socket.socket:
    """A listening socket of this name.

    Raises:
        OSError: there are no such sockets here, or the name is taken.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(b"\0" + name.encode())
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def connect(name: str) -> socket.socket:
    """Connect, without waiting.

    Raises:
        OSError: nobody listens under this name, somebody else does, or many others are connecting.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(b"\0" + name.encode())
        _refuse_others(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _refuse_others(sock: socket.socket) -> None:
    if not same_user(sock):
        raise PermissionError(errno.EPERM, "another user listens under this name")


def receive_blocking(name: str, message: Sequence[Any], timeout: float) -> tuple[list[Any], list[int]]:
    """Connect, send one message and wait for one, with its descriptors.

    Raises:
        OSError: nobody answers.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(b"\0" + name.encode())
        _refuse_others(sock)
        body: bytes = msgpack.packb(message)
        sock.sendall(_LENGTH.pack(len(body)) + body)
        data = b""
        got: list[int] = []
        try:
            while len(data) < _LENGTH.size or len(data) < _LENGTH.size + _LENGTH.unpack_from(data)[0]:
                more, fds, _, _ = socket.recv_fds(sock, _READ, _FDS)
                got += fds
                if not more:
                    raise ConnectionResetError("the connection ended before there was an answer")
                data += more
            answer = msgpack.unpackb(data[_LENGTH.size :])
        except BaseException:
            _close_all(got)
            raise
    for fd in got:
        os.set_inheritable(fd, False)
    return answer, got


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
