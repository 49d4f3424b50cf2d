"""Packing: folders, modules and archives as packages, which are what their content says and nothing else.

A package is a zip archive without compression: sorted names, one fixed time, no owners, and of the modes only whether a
file can be executed. So equal content gives equal bytes on every machine, and so one hash; and what is unpacked is
never larger than what was sent. Leaves to `packages`: where packages lie, and unpacking them.
"""

from __future__ import annotations

import filecmp
import fnmatch
import os
import stat
import sys
import zipfile
from collections.abc import Iterator
from itertools import islice
from typing import IO, Final

from actorfw.values.data import Data
from actorfw.values.errors import UsageError

__all__ = [
    "FOLDER",
    "IGNORE_FILE",
    "MODULE",
    "MOST_FILES",
    "Source",
    "module_name",
    "pack",
    "safe_name",
    "same_content",
    "signature",
    "source_of",
]

FOLDER: Final = "folder"  # its content
MODULE: Final = "module"  # the thing itself, under its own name

IGNORE_FILE: Final = ".actorfwignore"
MOST_FILES: Final = 100_000

_TIME: Final = (1980, 1, 1, 0, 0, 0)
_SKIPPED_FOLDERS: Final = frozenset(
    (
        "__pycache__",
        ".git",
        ".hg",
        ".svn",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".tox",
        ".nox",
        "node_modules",
    )
)
_SKIPPED_FILES: Final = ("*.pyc", "*.pyo", ".DS_Store", IGNORE_FILE)
_ARCHIVES: Final = (".zip", ".whl")
_NAMED_LARGEST: Final = 5


class Source(Data):
    """Something on disk that a package is made of.

    Attributes:
        kind: FOLDER or MODULE.
        path: absolute.
        option: how it was given, for messages.
    """

    kind: str
    path: str
    option: str


def source_of(kind: str, path: str, option: str) -> Source:
    """Look whether there is something that can be packed.

    Raises:
        UsageError: there is not; says why.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise UsageError(f"{option} is {path!r}, which can't be read: {error.strerror}") from error
    if stat.S_ISREG(mode) and path.endswith(_ARCHIVES):
        if path.endswith(".whl") and not path.endswith("-none-any.whl"):
            raise UsageError(f"{option} is {path!r}: a wheel with compiled parts is for one platform; install it there")
    elif kind == FOLDER and not stat.S_ISDIR(mode):
        raise UsageError(f"{option} is {path!r}; it must be a folder or a .zip file")
    elif kind == MODULE:
        name = module_name(path)
        if not name.isidentifier() or not (stat.S_ISDIR(mode) or os.path.splitext(path)[1] in (".py", ".so", ".pyd")):
            raise UsageError(
                f"{option} has {path!r}; it must be a package's folder, a .py file, a .zip or a pure wheel, or a module"
            )
        if name in sys.stdlib_module_names or name in ("actorfw", "msgpack", "cloudpickle"):
            raise UsageError(f"{option} has {path!r}: {name} is imported in every worker already, and would stay so")
    return Source(kind, path, option)


def module_name(path: str) -> str:
    """What a module's file or a package's folder is imported as."""
    return os.path.basename(path).partition(".")[0]


def signature(source: Source) -> object:
    """Changes when a file of it does, as far as names, sizes and times tell."""
    if os.path.isdir(source.path):
        files = islice(_walk(source), MOST_FILES + 1)
        entries = [(name, s.st_mtime_ns, s.st_size, s.st_mode, s.st_ino) for name, _, s in files]
        return hash(tuple(sorted(entries)))
    found = os.stat(source.path)
    return hash((found.st_mtime_ns, found.st_size, found.st_ino))


def same_content(path: str, other: str) -> bool:
    """Whether two modules' files, or packages' folders, would be packed alike; raises OSError."""
    if os.path.basename(path) != os.path.basename(other):
        return False
    some = {name: at for name, at, _ in _walk(Source(MODULE, path, path))}
    others = {name: at for name, at, _ in _walk(Source(MODULE, other, other))}
    return some.keys() == others.keys() and all(filecmp.cmp(some[name], others[name], shallow=False) for name in some)


def pack(source: Source, file: IO[bytes], limit: int) -> None:
    """Write the package of `source`; blocks.

    Raises:
        UsageError: it is larger than `limit` bytes, or a file of it can't be read; names the files.
        OSError: the package can't be written.
    """
    if os.path.isfile(source.path) and source.path.endswith(_ARCHIVES):
        _repack(source, file, limit)
        return
    found = sorted(islice(_walk(source), MOST_FILES + 1))  # somebody may give his home folder, or the root
    total = sum(status.st_size for _, _, status in found)
    if total > limit or len(found) > MOST_FILES:
        raise _too_large(source, [(status.st_size, name) for name, _, status in found], limit)
    left = limit
    with zipfile.ZipFile(file, "w") as archive:
        for name, path, status in found:
            try:
                # Some files of the system's own would wait for something to read.
                with open(path, "rb", opener=_without_waiting) as opened:
                    content = opened.read(left + 1)
            except FileNotFoundError:
                continue  # somebody removed it meanwhile
            except OSError as error:
                raise UsageError(f"{source.option}: {path} can't be read: {error.strerror}") from error
            left -= len(content)
            if left < 0:  # it has grown
                raise _too_large(source, [(len(content), name)], limit)
            _add(archive, name, content, bool(status.st_mode & 0o100))


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _add(archive: zipfile.ZipFile, name: str, content: bytes, executable: bool) -> None:
    info = zipfile.ZipInfo(name, _TIME)
    info.create_system = 3  # so that the mode means something, whatever this machine is
    info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
    info.compress_type = zipfile.ZIP_STORED
    archive.writestr(info, content)


def _repack(source: Source, file: IO[bytes], limit: int) -> None:
    try:
        with zipfile.ZipFile(source.path) as given:
            entries = sorted((info for info in given.infolist() if not info.is_dir()), key=lambda info: info.filename)
            if sum(info.file_size for info in entries) > limit or len(entries) > MOST_FILES:
                raise _too_large(source, [(info.file_size, info.filename) for info in entries], limit)
            left = limit
            with zipfile.ZipFile(file, "w") as archive:
                for info in entries:
                    if not safe_name(info.filename) or not _is_plain(info):
                        raise UsageError(
                            f"{source.option}: {source.path} has {info.filename!r}, which is no plain file below it"
                        )
                    with given.open(info) as opened:
                        content = opened.read(left + 1)  # what an entry says of its size need not be true
                    left -= len(content)
                    if left < 0:
                        raise _too_large(source, [(len(content), info.filename)], limit)
                    _add(archive, info.filename, content, bool(info.external_attr >> 16 & 0o100))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise UsageError(f"{source.option}: {source.path} is no archive that can be read: {error}") from error


def _is_plain(info: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(info.external_attr >> 16)
    return kind in (0, stat.S_IFREG)


def safe_name(name: str) -> bool:
    """Whether a name in an archive stays below the folder that it is unpacked in, on any platform."""
    if not name or name.startswith("/") or "\\" in name or "\0" in name or ":" in name.partition("/")[0]:
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def _walk(source: Source) -> Iterator[tuple[str, str, os.stat_result]]:
    """(name in the package, path, status) of all files."""
    if not os.path.isdir(source.path):
        yield os.path.basename(source.path), source.path, os.stat(source.path)
        return
    prefix = f"{os.path.basename(source.path)}/" if source.kind == MODULE else ""
    yield from _walk_folder(source, source.path, prefix, "", _patterns(source.path), (os.path.realpath(source.path),))


def _walk_folder(
    source: Source, folder: str, prefix: str, inside: str, patterns: list[str], above: tuple[str, ...]
) -> Iterator[tuple[str, str, os.stat_result]]:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise UsageError(f"{source.option}: the folder {folder} can't be read: {error.strerror}") from error
    for entry in entries:
        below = inside + entry.name
        try:
            status = entry.stat()
        except OSError:
            continue  # a link that leads nowhere, or somebody removed it meanwhile
        if stat.S_ISDIR(status.st_mode):
            real = os.path.realpath(entry.path)
            skipped = entry.name in _SKIPPED_FOLDERS or os.path.exists(os.path.join(entry.path, "pyvenv.cfg"))
            if skipped or real in above or _ignored(below + "/", patterns):  # above: a link that leads back
                continue
            yield from _walk_folder(source, entry.path, prefix, below + "/", patterns, (*above, real))
        elif stat.S_ISREG(status.st_mode):
            skipped = any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in _SKIPPED_FILES)
            if not skipped and not _ignored(below, patterns):
                if not safe_name(prefix + below):
                    raise UsageError(f"{source.option}: the name {entry.path!r} can't be packed")
                yield prefix + below, entry.path, status


def _patterns(folder: str) -> list[str]:
    try:
        with open(os.path.join(folder, IGNORE_FILE), encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{os.path.join(folder, IGNORE_FILE)} can't be read: {error}") from error
    return [line for line in lines if line and not line.startswith("#")]


def _ignored(name: str, patterns: list[str]) -> bool:
    # With a slash inside it is a path from the top, else the name of a file or folder anywhere.
    is_folder = name.endswith("/")
    name = name.rstrip("/")
    for pattern in patterns:
        if pattern.endswith("/"):
            if not is_folder:
                continue
            pattern = pattern.rstrip("/")
        subject = name if "/" in pattern else name.rpartition("/")[2]
        if fnmatch.fnmatchcase(subject, pattern.lstrip("/")):
            return True
    return False


def _too_large(source: Source, sizes: list[tuple[int, str]], limit: int) -> UsageError:
    largest = ", ".join(f"{name} ({_size(size)})" for size, name in sorted(sizes, reverse=True)[:_NAMED_LARGEST])
    total = sum(size for size, _ in sizes)
    count = len(sizes) if len(sizes) <= MOST_FILES else f"more than {MOST_FILES}"
    return UsageError(
        f"{source.option}: {source.path} has {count} files of {_size(total)}, more than Config.package_limit "
        f"({_size(limit)}, {MOST_FILES} files). The largest are {largest}. Leave out what is not needed, in a file "
        f"{IGNORE_FILE} there, and give data as arguments or with actorfw.put()"
    )


def _size(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB" if size >= 1 << 20 else f"{size} bytes"
