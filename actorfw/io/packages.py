"""Where packages lie on this machine: one folder per user, which all nodes of that user share.

Responsible for: files named after the hash of their content, that only this user can read or change; locks that tell
which are in use; unpacking, within a folder and within bounds; removing what was used longest ago, and what processes
that died have left. Leaves to others: what is packed (`packing`), and getting packages from other nodes.
Everything here blocks, so it is called in threads.

A file `HASH.package` is complete from the moment it has that name. Who uses it has it open with a shared lock, which
the kernel drops with the process. `HASH.tree` is the same unpacked, for importing; it goes when the package goes.
`part-*` and `own-*` are what is being written, and the private copies of workers: each belongs to whoever has a lock on
the file of that name.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
import weakref
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import IO, Final, Protocol

from actorfw.io.packing import MOST_FILES, safe_name
from actorfw.values.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows: packages are never removed there while they may be in use
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "DIGEST_BYTES",
    "DamagedPackageError",
    "Held",
    "LocalPackages",
    "OwnFolder",
    "PackageFiles",
    "Part",
    "cache_folder",
]

DIGEST_BYTES: Final = 32

_PIECE: Final = 1 << 20
_NO_FOLLOW: Final = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
_PACKAGE: Final = ".package"
_TREE: Final = ".tree"
_LOCKED: Final = ("part-", "own-")


class DamagedPackageError(Exception):
    """A package is not what it is named after, or can't be unpacked; the message says why."""


class Held(Protocol):
    """A package in use: nobody removes it until `release`.

    Attributes:
        digest: the hash of its content.
        size: bytes.
    """

    digest: bytes
    size: int

    def read(self, at: int, count: int) -> bytes:
        """A part of it."""
        ...

    def tree(self) -> str:
        """A folder with its content, which others read too: not to be changed."""
        ...

    def copy(self, folder: str) -> None:
        """Unpack it into an empty folder."""
        ...

    def release(self) -> None:
        """It is not used any more, by whoever got this."""
        ...


class Part(Protocol):
    """A package that is being written.

    Attributes:
        file: what to write it to.
    """

    file: IO[bytes]

    def keep(self, digest: bytes | None = None) -> Held:
        """It is complete. Raises DamagedPackageError if it does not have this hash."""
        ...

    def drop(self) -> None:
        """It is not wanted any more."""
        ...


class OwnFolder(Protocol):
    """A folder for one worker; `path` is where it is."""

    path: str

    def remove(self) -> None:
        """With all that is in it."""
        ...


class PackageFiles(Protocol):
    """The packages of one user on one machine. Any thread."""

    def find(self, digest: bytes) -> Held | None:
        """A package, if it is here."""
        ...

    def part(self) -> Part:
        """Begin to write one; raises OSError."""
        ...

    def own_folder(self) -> OwnFolder:
        """A new empty folder; raises OSError."""
        ...


def cache_folder(environ: Mapping[str, str] | None = None) -> str:
    """Where this user's packages lie if nobody says."""
    env = os.environ if environ is None else environ
    base = env.get("XDG_CACHE_HOME")
    if not base or not os.path.isabs(base):
        home = env.get("HOME") or os.path.expanduser("~")
        base = os.path.join(home, ".cache")
        above = home if not os.path.isdir(base) else base
        if not os.path.isdir(above) or not os.access(above, os.W_OK):
            user = os.getuid() if hasattr(os, "getuid") else "own"
            return os.path.join(tempfile.gettempdir(), f"actorfw-{user}", "packages")
    return os.path.join(base, "actorfw", "packages")


class LocalPackages:
    """Packages in a folder.

    Args:
        folder: made when it is first needed.
        limit: bytes that those may take together that nobody uses.
    """

    def __init__(self, folder: str, limit: int) -> None:
        self.folder = os.path.abspath(folder)
        self.limit = limit
        self._looked = False

    def find(self, digest: bytes) -> Held | None:
        """See `PackageFiles.find`. Its hash is computed anew."""
        held = self._open(digest)
        if held is None:
            return None
        if _digest_of(held.fd) == digest:
            with suppress(OSError):
                os.utime(held.fd)  # used last now
            return held
        held.release()
        with suppress(OSError):
            os.unlink(self._path(digest))  # somebody or something has changed it
        return None

    def part(self) -> Part:
        """See `PackageFiles.part`."""
        self._own()
        return _Part(self, *_locked_file(self.folder, "part-"))

    def own_folder(self) -> OwnFolder:
        """See `PackageFiles.own_folder`."""
        self._own()
        fd, path = _locked_file(self.folder, "own-")
        try:
            os.mkdir(path + ".d", 0o700)
        except OSError:
            os.close(fd)
            os.unlink(path)
            raise
        return _OwnFolder(fd, path)

    def trim(self) -> int:
        """Remove what was used longest ago and is not in use, until the rest keeps to the limit.

        Returns:
            How many packages were removed.
        """
        entries = list(os.scandir(self.folder))
        self._sweep(entries)
        found: list[tuple[float, int, str]] = []
        for entry in entries:
            if entry.name.endswith(_PACKAGE):
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    unpacked = os.path.isdir(entry.path.removesuffix(_PACKAGE) + _TREE)
                    found.append((status.st_mtime, status.st_size * (2 if unpacked else 1), entry.path))
        total = sum(size for _, size, _ in found)
        removed = 0
        for _, size, path in sorted(found):
            if total <= self.limit:
                break
            if self._remove(path):
                total -= size
                removed += 1
        return removed

    def _remove(self, path: str) -> bool:
        try:
            fd = os.open(path, os.O_RDONLY | _NO_FOLLOW)
        except OSError:
            return False
        try:
            if not _lock(fd, exclusive=True) or not os.path.samestat(os.lstat(path), os.fstat(fd)):
                return False
            # Under the lock, the tree first: who finds the package unpacks it anew.
            _remove_tree(path.removesuffix(_PACKAGE) + _TREE, self.folder)
            os.unlink(path)
            return True
        except OSError:
            return False
        finally:
            os.close(fd)

    def _sweep(self, entries: list[os.DirEntry[str]]) -> None:
        """What processes that died were about to write."""
        for entry in entries:
            if not entry.name.startswith(_LOCKED):
                continue
            path = entry.path.removesuffix(".d")
            try:
                fd = os.open(path, os.O_RDONLY | _NO_FOLLOW)
            except FileNotFoundError:
                _remove_tree(path + ".d", self.folder)
                continue
            except OSError:
                continue
            try:
                if _lock(fd, exclusive=True):
                    _remove_tree(path + ".d", self.folder)
                    with suppress(OSError):
                        os.unlink(path)
            finally:
                os.close(fd)

    def _own(self) -> None:
        """Make the folder, and see to it that it is this user's alone.

        Raises:
            UsageError: it is somebody else's, or others may write there.
            OSError: it can't be made.
        """
        os.makedirs(os.path.dirname(self.folder), mode=0o700, exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(self.folder, 0o700)
        for folder in (self.folder, os.path.dirname(self.folder)):
            status = os.lstat(folder)
            strange = hasattr(os, "getuid") and status.st_uid != os.getuid()
            if not stat.S_ISDIR(status.st_mode) or strange or (os.name == "posix" and status.st_mode & 0o022):
                raise UsageError(
                    f"packages can't be kept in {self.folder}: {folder} must be a folder of yours (no link) that nobody"
                    " else may write to, since code is run from there. Remove it, or set XDG_CACHE_HOME"
                )
        if not self._looked:
            self._looked = True
            self._sweep(list(os.scandir(self.folder)))

    def _path(self, digest: bytes) -> str:
        return os.path.join(self.folder, digest.hex() + _PACKAGE)

    def _open(self, digest: bytes) -> _Held | None:
        path = self._path(digest)
        while True:
            try:
                fd = os.open(path, os.O_RDONLY | _NO_FOLLOW)
            except OSError:
                return None
            status = os.fstat(fd)
            owned = not hasattr(os, "getuid") or status.st_uid == os.getuid()
            if not stat.S_ISREG(status.st_mode) or not owned:
                os.close(fd)
                return None
            if not _lock(fd, exclusive=False):  # this file system has no locks
                return _Held(self, digest, fd, status.st_size)
            with suppress(OSError):
                if os.path.samestat(os.lstat(path), status):
                    return _Held(self, digest, fd, status.st_size)
            os.close(fd)  # it was being removed just then

    def keep(self, part: _Part, digest: bytes) -> Held:
        """A part is complete: it gets its name, unless the package is here already."""
        path = self._path(digest)
        _lock(part.file.fileno(), exclusive=False)  # else it could not be opened for use
        while True:
            with suppress(FileExistsError):
                os.link(part.path, path)
            held = self._open(digest)
            if held is not None:
                self.trim()
                return held


class _Held:
    def __init__(self, files: LocalPackages, digest: bytes, fd: int, size: int) -> None:
        self.digest = digest
        self.size = size
        self.fd = fd
        self._files = files

    def read(self, at: int, count: int) -> bytes:
        """See `Held.read`."""
        return os.pread(self.fd, count, at)

    def tree(self) -> str:
        """See `Held.tree`."""
        path = os.path.join(self._files.folder, self.digest.hex() + _TREE)
        if os.path.isdir(path):
            return path
        made = self._files.own_folder()
        try:
            self.copy(made.path)
            with suppress(FileExistsError, OSError):
                os.rename(made.path, path)
        finally:
            made.remove()
        if not os.path.isdir(path):
            raise OSError(f"the package can't be unpacked at {path}")
        return path

    def copy(self, folder: str) -> None:
        """See `Held.copy`."""
        with os.fdopen(os.dup(self.fd), "rb") as file:
            unpack(file, self.size, folder)

    def release(self) -> None:
        """See `Held.release`."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class _Part:
    def __init__(self, files: LocalPackages, fd: int, path: str) -> None:
        self._files = files
        self.path = path
        self.file: IO[bytes] = os.fdopen(fd, "r+b")

    def keep(self, digest: bytes | None = None) -> Held:
        """See `Part.keep`."""
        try:
            self.file.flush()
            found = _digest_of(self.file.fileno())
            if digest is not None and found != digest:
                raise DamagedPackageError("what came is not what was asked for: its hash is another one")
            return self._files.keep(self, found)
        finally:
            self.drop()

    def drop(self) -> None:
        """See `Part.drop`."""
        with suppress(OSError):
            os.unlink(self.path)
        with suppress(OSError):  # what could not be written before can't be written now
            self.file.close()


class _OwnFolder:
    def __init__(self, fd: int, path: str) -> None:
        self.path = path + ".d"
        # Also when the program ends and nobody has closed the node.
        self._finalizer = weakref.finalize(self, _remove_own, fd, path, os.getpid())

    def remove(self) -> None:
        """See `OwnFolder.remove`."""
        self._finalizer()


def _remove_own(fd: int, path: str, pid: int) -> None:
    if os.getpid() == pid:  # else in a child that was forked, whose copy of all this means nothing
        _remove_all(path + ".d")
        with suppress(OSError):
            os.unlink(path)
    os.close(fd)


def unpack(file: IO[bytes], size: int, folder: str) -> None:
    """Write what a package of `size` bytes has into an empty folder that is nobody else's.

    Raises:
        DamagedPackageError: a name leads out of the folder, something is no plain file, or it is more than the package.
        OSError: it can't be written.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if len(entries) > MOST_FILES or sum(info.file_size for info in entries) > size:
                raise DamagedPackageError("there is more in it than it can have")
            for info in entries:
                mode = info.external_attr >> 16
                if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or stat.S_IFMT(mode) != stat.S_IFREG:
                    raise DamagedPackageError(f"{info.filename!r} in it is no plain file")
                if not safe_name(info.filename):
                    raise DamagedPackageError(f"the name {info.filename!r} in it leads out of its folder")
                path = os.path.join(folder, *info.filename.split("/"))
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                content = archive.read(info)
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o700 if mode & 0o100 else 0o600)
                with os.fdopen(fd, "wb") as out:
                    out.write(content)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, FileExistsError) as error:
        raise DamagedPackageError(f"it is no package: {error}") from error


def _remove_tree(path: str, folder: str) -> None:
    # Away from its name first, so that nobody finds half of it.
    away = os.path.join(folder, f"part-{secrets.token_hex(8)}.d")
    with suppress(OSError):
        os.rename(path, away)
        _remove_all(away)


def _remove_all(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if not os.path.lexists(path):
        return
    # Folders that a task has made read-only: what is in them can't be removed before that is undone.
    with suppress(OSError):
        os.chmod(path, 0o700)
    for folder, names, _ in os.walk(path):
        for name in names:
            with suppress(OSError):
                if not os.path.islink(os.path.join(folder, name)):
                    os.chmod(os.path.join(folder, name), 0o700)
    shutil.rmtree(path, ignore_errors=True)


def _locked_file(folder: str, prefix: str) -> tuple[int, str]:
    while True:
        path = os.path.join(folder, prefix + secrets.token_hex(8))
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600)
        if _lock(fd, exclusive=True) and os.path.exists(path):
            return fd, path
        os.close(fd)  # somebody took it for what a dead process had left, before it was locked


def _lock(fd: int, *, exclusive: bool) -> bool:
    """Exclusive: if that is possible now. Shared: when whoever removes the file is through with that."""
    if fcntl is None:
        return not exclusive
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
    except OSError:
        return False
    return True


def _digest_of(fd: int) -> bytes:
    made = blake2b(digest_size=DIGEST_BYTES)
    at = 0
    while data := os.pread(fd, _PIECE, at):
        made.update(data)
        at += len(data)
    return made.digest()
