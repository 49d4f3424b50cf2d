"""Sockets of one host, and processes of another user."""

from __future__ import annotations

import os
import signal
import socket
import sys

import pytest

from actorfw.io import hostsocket


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can be another user for a moment")
@pytest.mark.parametrize("who", ["listens", "connects"])
def test_another_user_is_not_talked_to(who: str) -> None:
    """A name is free again when its node is gone, and everybody can read in /proc which there are."""
    name = f"actorfw-test-{os.urandom(8).hex()}"
    ours = hostsocket.listen(name) if who == "connects" else None
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(65534)
            theirs = hostsocket.listen(name) if ours is None else None
            os.write(write, b".")
            if theirs is None:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(b"\0" + name.encode())
                    sock.recv(1)
            else:
                theirs.setblocking(True)
                for _ in range(2):
                    with theirs.accept()[0] as accepted:
                        accepted.recv(1)
        finally:
            os._exit(0)
    try:
        os.read(read, 1)
        if ours is None:
            for connect in (hostsocket.connect, lambda name: hostsocket.receive_blocking(name, [1], 5.0)):
                with pytest.raises(PermissionError, match="another user"):
                    connect(name)
        else:
            ours.setblocking(True)
            with ours, ours.accept()[0] as accepted:
                assert not hostsocket.same_user(accepted)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)


@pytest.mark.skipif(sys.platform != "linux", reason="such names are Linux's")
def test_this_user_is_talked_to() -> None:
    name = f"actorfw-test-{os.urandom(8).hex()}"
    with hostsocket.listen(name) as listener, hostsocket.connect(name):
        listener.setblocking(True)
        with listener.accept()[0] as accepted:
            assert hostsocket.same_user(accepted)
