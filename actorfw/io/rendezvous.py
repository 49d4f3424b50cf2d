"""Where one user's nodes on one host find each other by the name of their cluster: a folder with entries of live nodes.

An entry is a file that its node keeps locked (`flock`) as long as it lives, however it ends: who gets the lock knows
that the node is gone, and no process id has to be believed. The folder itself is locked while somebody looks whether
anybody is there and enters if not, so that of many that start at once one founds the cluster. What becomes of the
addresses that are found here is `runtime.seeds`' affair.

The folder belongs to the user alone, and nothing in it is followed that is no plain file of this user's. Entries are
told apart by cluster and by network: a node in another network namespace, or on another machine that sees the same
folder, can't be dialled by an address of this one, and so is not "on this host".
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

from actorfw.values.errors import UsageError

__all__ = ["FolderRendezvous", "Mate", "Rendezvous", "rendezvous_folder"]

_ENTRY: Final = re.compile(r"[0-9a-f]{16}\.[0-9a-f]{16}")
_LONGEST: Final = 4096
_TRIES: Final = 100


class Mate(NamedTuple):
    """A live node of the same user, cluster and host.

    Attributes:
        address: at which it can be dialled from this host.
        advertised: the address by which its cluster knows it.
        pid: of its process, for messages.
    """

    address: str
    advertised: str
    pid: int


class Rendezvous(Protocol):
    """One cluster's place in the folder, as one node uses it."""

    @property
    def where(self) -> str:
        """For messages."""
        ...

    def mates(self) -> list[Mate]:
        """The live nodes, the longest there first, without this one."""
        ...

    def enter(self, me: Mate) -> None:
        """Have an entry from now on. Does nothing if it is there already."""
        ...

    def enter_alone(self, me: Mate, gone: Collection[str] = ()) -> bool | None:
        """Enter if no other node is there, nor can come in between.

        Args:
            me: what to enter.
            gone: addresses of mates of which it is known that nobody listens there any more.

        Returns:
            Whether it has; None if another process is looking at this very moment.
        """
        ...

    def leave(self) -> None:
        """Take the entry away."""
        ...

    def descriptors(self) -> list[int]:
        """What a forked child must let go of, or this node would seem to live as long as the child."""
        ...


def rendezvous_folder(environ: Mapping[str, str] | None = None) -> str:
    """The user's folder, whether or not it is there yet."""
    env = os.environ if environ is None else environ
    base = env.get("XDG_RUNTIME_DIR")
    if base and os.path.isabs(base):
        try:
            mine = os.stat(base).st_uid == os.geteuid()
        except OSError:
            mine = False  # no login session, or that of the user before `sudo`
        if mine:
            return os.path.join(base, "actorfw")
    import tempfile  # as above: few need it

    return os.path.join(tempfile.gettempdir(), f"actorfw-{os.geteuid()}")


class FolderRendezvous:
    """A `Rendezvous` in a folder of the file system.

    Args:
        folder: its path; made if it is not there.
        cluster: the cluster's name.
    """

    def __init__(self, folder: str, cluster: str) -> None:
        self.where = folder
        self._cluster = cluster
        self._prefix = _key(cluster) + "."
        self._entry: tuple[str, int] | None = None  # its name, and the descriptor that has the lock

    def mates(self) -> list[Mate]:
        """See `Rendezvous.mates`.

        Raises:
            UsageError: the folder can't be used.
        """
        with self._opened() as folder:
            return [mate for mate in self._mates(folder) if mate.address]

    def enter(self, me: Mate) -> None:
        """See `Rendezvous.enter`. An entry that somebody has cleaned away is made again.

        Raises:
            UsageError: the folder can't be used.
        """
        with self._opened() as folder:
            if not self._is_there(folder):
                self._drop(folder)
                self._write(folder, me)

    def enter_alone(self, me: Mate, gone: Collection[str] = ()) -> bool | None:
        """See `Rendezvous.enter_alone`.

        Raises:
            UsageError: the folder can't be used.
        """
        with self._opened() as folder, _locked(folder) as held:
            if not held or not self._is_current(folder):
                return None
            if any(mate.address not in gone for mate in self._mates(folder)):
                return False
            self._drop(folder)
            self._write(folder, me)
            return True

    def leave(self) -> None:
        """See `Rendezvous.leave`."""
        if self._entry is None:
            return
        try:
            with self._opened() as folder:
                self._drop(folder)
        except UsageError:  # the folder is gone, or another one: what counts is the lock
            self._drop(None)

    def descriptors(self) -> list[int]:
        """See `Rendezvous.descriptors`."""
        return [] if self._entry is None else [self._entry[1]]

    # -- the folder ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _opened(self) -> Generator[int]:
        """A descriptor of the folder, made if need be. All else goes by this descriptor: nobody can put another there.

        An OSError that is raised within says which folder it is about.
        """
        try:
            folder = self._open()
            try:
                yield folder
            finally:
                os.close(folder)
        except OSError as error:
            raise self._unfit(error.strerror or str(error)) from error

    def _open(self) -> int:
        try:
            os.mkdir(self.where, 0o700)
        except FileExistsError:
            pass
        folder = os.open(self.where, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        status = os.fstat(folder)
        why = ""
        if status.st_uid != os.geteuid():
            why = "it belongs to another user"
        elif status.st_mode & 0o077:
            why = "others may look or write into it (its mode must be 0700)"
        if why:
            os.close(folder)
            raise self._unfit(why)
        return folder

    def _unfit(self, why: str) -> UsageError:
        return UsageError(
            f'the folder {self.where}, where the seed "local:{self._cluster}" looks for nodes, can\'t be used: {why}.'
            " Remove it and a new one is made, or set XDG_RUNTIME_DIR to a folder of your own"
        )

    def _is_current(self, folder: int) -> bool:
        """Whether the folder still is what others find under its path."""
        try:
            return os.path.samestat(os.fstat(folder), os.stat(self.where, follow_symlinks=False))
        except FileNotFoundError:
            return False

    # -- entries -------------------------------------------------------------------------------------------------------

    def _mates(self, folder: int) -> list[Mate]:
        """Those of this cluster; without an address who is about to enter. The dead are removed, of all clusters."""
        found: list[tuple[int, str, Mate]] = []
        own = self._entry[0] if self._entry is not None else None
        for name in os.listdir(folder):
            if name == own or not _ENTRY.fullmatch(name):
                continue
            read = _read(folder, name)
            if read is not None and name.startswith(self._prefix):
                found.append((read[0], name, read[1]))
        return [mate for _, _, mate in sorted(found)]

    def _is_there(self, folder: int) -> bool:
        if self._entry is None:
            return False
        name, fd = self._entry
        try:
            return os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=folder, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def _write(self, folder: int, me: Mate) -> None:
        text = "\n".join([me.address, me.advertised, str(me.pid), self._cluster])
        for _ in range(_TRIES):
            name = self._prefix + os.urandom(8).hex()
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=folder)
            self._entry = name, fd
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.write(fd, text.encode())
                if os.fstat(fd).st_nlink:
                    return
            except BlockingIOError:
                pass  # somebody looks at it, before it was locked, and removes it as that of a dead node
            except BaseException:
                self._drop(folder)
                raise
            self._drop(folder)
        raise OSError("its entries are removed as fast as they are made")

    def _drop(self, folder: int | None) -> None:
        if self._entry is None:
            return
        (name, fd), self._entry = self._entry, None
        try:
            if folder is not None:
                os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)  # a child that was forked meanwhile may have it, too
            os.close(fd)


@contextmanager
def _locked(folder: int) -> Generator[bool]:
    """Whether this process has the folder's lock. Not waited for: who has it may be stopped."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)


def _read(folder: int, name: str) -> tuple[int, Mate] | None:
    """Since when the entry is there, and what it says; None if it is nobody's, and then it is removed."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None  # gone meanwhile, or nothing that a node makes
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # its node lives
        else:
            try:
                os.unlink(name, dir_fd=folder)
            except FileNotFoundError:
                pass
            return None
        return status.st_mtime_ns, _mate(os.read(fd, _LONGEST))
    finally:
        os.close(fd)


def _mate(text: bytes) -> Mate:
    try:
        address, advertised, pid, _ = text.decode().split("\n", 3)
        return Mate(address, advertised, int(pid))
    except ValueError:
        return Mate("", "", 0)  # it is about to be written


def _key(cluster: str) -> str:
    """Of the cluster in this network."""
    parts = [cluster, "", ""]
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            parts[1] = file.read().strip()
        parts[2] = str(os.stat("/proc/self/ns/net").st_ino)
    except OSError:
        pass  # not Linux
    return blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()
