"""Where spilled objects lie: files in a folder of this machine, or behind an fsspec URL.

Responsible for: one file per block with its length and checksum, free space, a folder per life of a node that only its
user can enter, and what nodes that died have left behind. Leaves to `runtime.store.spilling`: which blocks go and when.
Everything here blocks, so it is called in threads.

A file is a page with a header, the bytes, and their checksum. What was written is also remembered in memory
(`SpillFile`), so that a file that somebody shortened, changed or replaced is noticed when it is read.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
import struct
import sys
import tempfile
import threading
import zlib
from typing import Any, Final, Protocol, cast

from actorfw.values.data import Data
from actorfw.values.errors import UsageError

__all__ = [
    "HEADER",
    "FsspecFiles",
    "LocalFiles",
    "SpillFile",
    "SpillFileError",
    "SpillFiles",
    "open_files",
    "process_start",
]

PIECE: Final = 4 << 20
"""Bytes written, read and summed at a time: large enough to be fast, small enough for others to get their turn."""

HEADER: Final = 4096
"""The bytes of an object begin at a page, so that the file can be mapped."""

SHARE_KEPT_FREE: Final = 0.05
"""Of the file system: full disks break other programs, and the one that this node's logs go to."""

_MAGIC: Final = b"actorfw spill 1\n"
_HEAD: Final = struct.Struct("<16sQQ")
_SUM: Final = struct.Struct("<I")
_PREFIX: Final = "actorfw-spill-"
_NO_FOLLOW: Final = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)


class SpillFileError(Exception):
    """A spill file is not there any more, or is not what was written; the message names it and says why."""


class SpillFile(Data):
    """One object on disk.

    Attributes:
        name: its path or URL.
        nbytes: of the object.
        crc: of these bytes.
    """

    name: str
    nbytes: int
    crc: int


class SpillFiles(Protocol):
    """The files of one life of a node. Any thread, several at once.

    Attributes:
        where: the folder or URL, for people.
    """

    where: str

    def write(self, number: int, view: memoryview) -> SpillFile:
        """Write one object; raises OSError, and leaves nothing behind then. ENOSPC also if too little would stay free.

        `number` names the object, and no other object of this life has it.
        """
        ...

    def read(self, file: SpillFile, into: memoryview) -> None:
        """Fill `into` with an object; raises SpillFileError if the file is not what was written."""
        ...

    def is_there(self, file: SpillFile) -> bool:
        """Whether a file still has its name and length, as far as that can be told without reading it."""
        ...

    def make(self, number: int, nbytes: int) -> tuple[SpillFile, int]:
        """A file to be mapped and filled, for an object that memory has no room for: its descriptor has the only name.

        Its bytes begin after `HEADER`; nothing is known of them, so it can't be read with `read`.

        Raises:
            OSError: there is no room for it here either; or, with ENOTSUP, these files can't be mapped.
        """
        ...

    def open(self, file: SpillFile) -> int:
        """A descriptor of a file that was written, to be mapped. It loses its name: it can't be read once more.

        Raises:
            SpillFileError: it is not there any more, or these files can't be mapped.
        """
        ...

    def verify(self, file: SpillFile, view: memoryview) -> None:
        """Check what was mapped; raises SpillFileError if it is not what was written."""
        ...

    def remove(self, file: SpillFile) -> None:
        """The object is not needed any more; no error if its file is gone."""
        ...

    def room(self) -> int | None:
        """How many bytes may still be written; None if nobody knows."""
        ...

    def sweep(self) -> int:
        """Remove what nodes of this user have left here that are dead; returns how many there were."""
        ...

    def close(self) -> None:
        """Remove all that this life wrote."""
        ...


def open_files(folder: str | None, limit: int | None, life: bytes) -> SpillFiles:
    """The files of a node that `Config.spill_folder` and `Config.spill_limit` ask for.

    Raises:
        UsageError: the folder is a URL and fsspec, or the package for its protocol, is not installed.
    """
    if folder is not None and "://" in folder:
        return FsspecFiles(folder, limit, life.hex())
    return LocalFiles(_default_folder() if folder is None else folder, limit)


class LocalFiles:
    """Files in an own folder below `parent`, which is made with the first of them.

    Args:
        parent: an existing folder, or one that can be made.
        limit: bytes that all of them together may have; None: what the disk has.
        kept_free: the share of the file system that is left to others.
    """

    def __init__(self, parent: str, limit: int | None = None, kept_free: float = SHARE_KEPT_FREE) -> None:
        self.parent = os.path.abspath(parent)
        self.where = self.parent
        self._limit = limit
        self._kept_free = kept_free
        self._lock = threading.Lock()
        self._folder: str | None = None
        self._guard = -1  # the descriptor whose lock says that this folder's node lives
        self._held = 0
        self._closed = False

    def write(self, number: int, view: memoryview) -> SpillFile:
        """See `SpillFiles.write`."""
        folder = self._own_folder()
        taken = view.nbytes + HEADER + _SUM.size
        self._take(taken)
        path = os.path.join(folder, f"{number}.object")
        try:
            # O_EXCL and O_NOFOLLOW: nobody else can have put something in its place.
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600)
            try:
                _write_all(fd, memoryview(_header(number, view.nbytes)))
                crc = 0
                for at in range(0, view.nbytes, PIECE):
                    if self._closed:
                        raise self._closed_error()
                    piece = view[at : at + PIECE]
                    crc = zlib.crc32(piece, crc)
                    _write_all(fd, piece)
                _write_all(fd, memoryview(_SUM.pack(crc)))
            except BaseException:
                os.unlink(path)
                raise
            finally:
                os.close(fd)
        except BaseException:
            with self._lock:
                self._held -= taken
            raise
        return SpillFile(path, view.nbytes, crc)

    def read(self, file: SpillFile, into: memoryview) -> None:
        """See `SpillFiles.read`."""
        try:
            fd = os.open(file.name, os.O_RDONLY | _NO_FOLLOW)
        except OSError as error:
            raise SpillFileError(f"the spill file {file.name} can't be opened: {error.strerror}") from error
        try:
            _read_object(_Descriptor(fd, file.name), file, into)
        except OSError as error:
            raise SpillFileError(f"the spill file {file.name} can't be read: {error.strerror}") from error
        finally:
            os.close(fd)

    def is_there(self, file: SpillFile) -> bool:
        """See `SpillFiles.is_there`."""
        return os.path.exists(file.name) and os.path.getsize(file.name) == HEADER + file.nbytes + _SUM.size

    def make(self, number: int, nbytes: int) -> tuple[SpillFile, int]:
        """See `SpillFiles.make`."""
        folder = self._own_folder()
        taken = nbytes + HEADER + _SUM.size
        self._take(taken)
        path = os.path.join(folder, f"{number}.object")
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600)
            try:
                # All of it now: a mapped page that finds the disk full later would end the process.
                _reserve(fd, taken)
                return SpillFile(path, nbytes, -1), fd
            except BaseException:
                os.close(fd)
                raise
            finally:
                # Nobody can shorten it now, which would end whoever reads it as memory; and if this process dies, its
                # room on the disk is free.
                os.unlink(path)
        except BaseException:
            with self._lock:
                self._held -= taken
            raise

    def open(self, file: SpillFile) -> int:
        """See `SpillFiles.open`."""
        try:
            fd = os.open(file.name, os.O_RDWR | _NO_FOLLOW)
        except OSError as error:
            raise SpillFileError(f"the spill file {file.name} can't be opened: {error.strerror}") from error
        try:
            os.unlink(file.name)  # as in `make`
        except OSError:
            pass  # the folder can't be written to any more
        if os.fstat(fd).st_size < HEADER + file.nbytes:  # to read past its end would end the process
            os.close(fd)
            raise SpillFileError(_cut_short(file))
        return fd

    def verify(self, file: SpillFile, view: memoryview) -> None:
        """See `SpillFiles.verify`."""
        crc = 0
        for at in range(0, file.nbytes, PIECE):
            crc = zlib.crc32(view[at : at + PIECE], crc)
        if crc != file.crc:
            raise SpillFileError(_changed(file))

    def remove(self, file: SpillFile) -> None:
        """See `SpillFiles.remove`."""
        with self._lock:
            self._held -= file.nbytes + HEADER + _SUM.size
        try:
            os.unlink(file.name)
        except OSError:
            pass  # somebody was faster, and it is gone; or the folder can't be written to any more

    def room(self) -> int | None:
        """See `SpillFiles.room`."""
        at = self._folder or self.parent
        while not os.path.exists(at):
            at = os.path.dirname(at)
        usage = shutil.disk_usage(at)
        room = max(0, usage.free - int(usage.total * self._kept_free))
        return room if self._limit is None else max(0, min(room, self._limit - self._held))

    def sweep(self) -> int:
        """See `SpillFiles.sweep`."""
        swept = 0
        try:
            entries = list(os.scandir(self.parent))
        except OSError:
            return 0
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.path != self._folder and _left_behind(entry):
                shutil.rmtree(entry.path, ignore_errors=True)
                swept += 1
        return swept

    def close(self) -> None:
        """See `SpillFiles.close`."""
        with self._lock:
            self._closed = True
            folder, self._folder = self._folder, None
            guard, self._guard = self._guard, -1
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(guard)

    def _closed_error(self) -> OSError:
        return OSError(errno.ESHUTDOWN, "the node that spills is closed", self.parent)

    def _own_folder(self) -> str:
        with self._lock:
            if self._closed:
                raise self._closed_error()
            if self._folder is not None and not _is_own(self._folder):  # somebody cleaned up here
                os.close(self._guard)
                self._folder, self._guard = None, -1
            if self._folder is None:
                os.makedirs(self.parent, exist_ok=True)
                pid = os.getpid()
                folder = os.path.join(self.parent, f"{_PREFIX}{pid}-{process_start(pid)}-{secrets.token_hex(4)}")
                os.mkdir(folder, 0o700)
                try:
                    self._guard = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o600)
                    _lock(self._guard)
                except BaseException:
                    if self._guard >= 0:
                        os.close(self._guard)
                        self._guard = -1
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
                self._folder = self.where = folder
            return self._folder

    def _take(self, nbytes: int) -> None:
        room = self.room()
        with self._lock:
            if room is not None and nbytes > room:
                if self._limit is not None and self._held + nbytes > self._limit:
                    why = f"Config.spill_limit is {self._limit:,} bytes, and {self._held:,} of them are in use"
                else:
                    why = f"{room:,} bytes are free there beside the {self._kept_free:.0%} that are left to others"
                raise OSError(errno.ENOSPC, f"no room for {nbytes:,} bytes: {why}", self.where)
            self._held += nbytes


class FsspecFiles:
    """Files behind a URL such as "s3://bucket/folder", by whatever fsspec knows. Each thread has its own: few take two.

    What dead nodes left there is removed by nodes of the same host and user: nobody else can tell that they are dead.
    """

    def __init__(self, url: str, limit: int | None, life: str) -> None:
        try:
            from fsspec.core import url_to_fs  # type: ignore[import-not-found, import-untyped, unused-ignore]
        except ImportError as error:
            raise UsageError(
                f"Config.spill_folder={url!r} is a URL, and fsspec is not installed: pip install 'actorfw[fsspec]'"
            ) from error
        try:
            found: Any = url_to_fs(url)
        except (ImportError, ValueError) as error:  # a protocol whose package is missing, or that nobody knows
            raise UsageError(f"Config.spill_folder={url!r} can't be used: {error}") from error
        self._files: Any = lambda: url_to_fs(url)[0]  # pyright: ignore[reportUnknownLambdaType]
        self._parent: str = str(found[1]).rstrip("/")
        self._host = f"{_PREFIX}{socket.gethostname()}-{_user()}-"
        self._folder = f"{self._parent}/{self._host}{os.getpid()}-{process_start(os.getpid())}-{life[-8:]}"
        self.where = url
        self._limit = limit
        self._lock = threading.Lock()
        self._held = 0
        self._made = False

    def write(self, number: int, view: memoryview) -> SpillFile:
        """See `SpillFiles.write`."""
        with self._lock:
            if self._limit is not None and self._held + view.nbytes > self._limit:
                why = f"Config.spill_limit is {self._limit:,} bytes, and {self._held:,} of them are in use"
                raise OSError(errno.ENOSPC, f"no room for {view.nbytes:,} bytes: {why}", self.where)
            if not self._made:
                self._files().makedirs(self._folder, exist_ok=True)
                self._made = True
            self._held += view.nbytes
        path = f"{self._folder}/{number}.object"
        try:
            crc = 0
            with self._files().open(path, "wb") as out:
                out.write(_header(number, view.nbytes))
                for at in range(0, view.nbytes, PIECE):
                    piece = view[at : at + PIECE]
                    crc = zlib.crc32(piece, crc)
                    out.write(piece)
                out.write(_SUM.pack(crc))
        except BaseException as error:
            with self._lock:
                self._held -= view.nbytes
            self._forget(path)
            if isinstance(error, OSError) or not isinstance(error, Exception):
                raise
            raise OSError(errno.EIO, f"{type(error).__name__}: {error}", path) from error
        return SpillFile(path, view.nbytes, crc)

    def read(self, file: SpillFile, into: memoryview) -> None:
        """See `SpillFiles.read`."""
        try:
            self._files().invalidate_cache()  # another thread's has written it
            with self._files().open(file.name, "rb") as stream:
                _read_object(stream, file, into)
        except SpillFileError:
            raise
        except Exception as error:  # each protocol has errors of its own
            raise SpillFileError(f"the spill file {file.name} can't be read: {error!r}") from error

    def is_there(self, file: SpillFile) -> bool:
        """See `SpillFiles.is_there`. Asking would take as long as writing it again: reading tells."""
        return True

    def make(self, number: int, nbytes: int) -> tuple[SpillFile, int]:
        """See `SpillFiles.make`."""
        raise OSError(errno.ENOTSUP, "files behind a URL can't be mapped", self.where)

    def open(self, file: SpillFile) -> int:
        """See `SpillFiles.open`."""
        raise SpillFileError(f"the spill file {file.name} can't be mapped")

    def verify(self, file: SpillFile, view: memoryview) -> None:
        """See `SpillFiles.verify`."""
        raise SpillFileError(f"the spill file {file.name} can't be mapped")

    def remove(self, file: SpillFile) -> None:
        """See `SpillFiles.remove`."""
        with self._lock:
            self._held -= file.nbytes
        self._forget(file.name)

    def room(self) -> int | None:
        """See `SpillFiles.room`."""
        return None if self._limit is None else max(0, self._limit - self._held)

    def sweep(self) -> int:
        """See `SpillFiles.sweep`."""
        swept = 0
        try:
            names: list[str] = self._files().ls(self._parent, detail=False)
        except Exception:  # nothing is there yet, or it can't be listed: then nothing is to be done either
            return 0
        for name in names:
            last = name.rstrip("/").rsplit("/", 1)[-1]
            if last.startswith(self._host):
                pid, start, *_ = last[len(self._host) :].split("-")
                if pid.isdigit() and process_start(int(pid)) != start:
                    self._forget(name, recursive=True)
                    swept += 1
        return swept

    def close(self) -> None:
        """See `SpillFiles.close`."""
        if self._made:
            self._forget(self._folder, recursive=True)

    def _forget(self, path: str, *, recursive: bool = False) -> None:
        try:
            self._files().invalidate_cache()
            self._files().rm(path, recursive=recursive)
        except Exception:  # it is gone, or stays: nobody reads it any more
            pass


def process_start(pid: int) -> str:
    """What tells a process from a later one with the same number; "" if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        if os.path.exists("/proc/self/stat"):
            return ""
    import psutil  # where there is no /proc

    try:
        return str(int(psutil.Process(pid).create_time()))
    except psutil.Error:
        return ""


class _Descriptor:
    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name

    def readinto(self, into: memoryview) -> int:
        return os.readv(self.fd, [into])


def _read_object(stream: Any, file: SpillFile, into: memoryview) -> None:
    head = bytearray(HEADER)
    _fill(stream, memoryview(head), file)
    magic, _, nbytes = _HEAD.unpack_from(head)
    if magic != _MAGIC or nbytes != file.nbytes:
        raise SpillFileError(f"the spill file {file.name} is not what was written: its header is another one")
    crc = 0
    for at in range(0, file.nbytes, PIECE):
        piece = into[at : at + PIECE]
        _fill(stream, piece, file)
        crc = zlib.crc32(piece, crc)
    if crc != file.crc:
        raise SpillFileError(_changed(file))


def _fill(stream: Any, into: memoryview, file: SpillFile) -> None:
    at = 0
    while at < into.nbytes:
        read = cast("int", stream.readinto(into[at:]))
        if not read:
            raise SpillFileError(_cut_short(file))
        at += read


def _cut_short(file: SpillFile) -> str:
    return f"the spill file {file.name} was cut short: {file.nbytes:,} bytes had been written"


def _changed(file: SpillFile) -> str:
    return f"the spill file {file.name} was changed: its checksum is not that of what was written"


def _write_all(fd: int, view: memoryview) -> None:
    while view.nbytes:
        view = view[os.write(fd, view) :]


def _reserve(fd: int, nbytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, nbytes)
    else:
        for _ in range(0, nbytes, PIECE):
            _write_all(fd, memoryview(bytes(PIECE)))
        os.ftruncate(fd, nbytes)
        os.lseek(fd, 0, os.SEEK_SET)


def _header(number: int, nbytes: int) -> bytes:
    return _HEAD.pack(_MAGIC, number, nbytes).ljust(HEADER, b"\0")


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _is_own(folder: str) -> bool:
    return os.path.isdir(folder) and not os.path.islink(folder) and os.lstat(folder).st_uid == _user()


def _lock(fd: int) -> None:
    """Take a file's lock, which ends with this process at the latest; raises OSError if somebody has it."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _left_behind(entry: os.DirEntry[str]) -> bool:
    """Whether a folder is one of this user whose node is dead.

    Its process number and start say so, and so does the lock in it: in a container that shares the folder, numbers
    mean something else.
    """
    pid, _, rest = entry.name[len(_PREFIX) :].partition("-")
    try:
        found = entry.stat(follow_symlinks=False)
        if found.st_uid != _user() or not entry.is_dir(follow_symlinks=False) or not pid.isdigit():
            return False
        if process_start(int(pid)) == rest.partition("-")[0]:
            return False
        guard = os.open(os.path.join(entry.path, "lock"), os.O_RDWR | _NO_FOLLOW)
    except FileNotFoundError:
        return True  # its node died before it had made its lock
    except OSError:
        return False
    try:
        _lock(guard)
    except OSError:
        return False
    finally:
        os.close(guard)
    return True


def _default_folder() -> str:
    folder = tempfile.gettempdir()
    return "/var/tmp" if _in_memory(folder) and os.access("/var/tmp", os.W_OK) else folder


def _in_memory(folder: str) -> bool:
    """Whether a folder's files take memory, as those of a tmpfs do: spilling there would gain nothing."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            rows = [line.split() for line in mounts]
    except OSError:
        return False
    path = os.path.realpath(folder)
    best, kind = "", ""
    for row in rows:
        at = row[4]
        if (path == at or path.startswith(at.rstrip("/") + "/")) and len(at) >= len(best):
            best, kind = at, row[row.index("-") + 1]
    return kind in ("tmpfs", "ramfs")
