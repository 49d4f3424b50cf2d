"""`MemoryPackages`: the packages of a simulated node, which has a disk of its own for them, as full as a test says."""

from __future__ import annotations

import errno
import io
import os
from hashlib import blake2b
from typing import IO

from actorfw.io.packages import DIGEST_BYTES, DamagedPackageError, Held, OwnFolder, Part

__all__ = ["MemoryPackages"]


class MemoryPackages:
    """Packages that are no files.

    Attributes:
        content: by hash: a test may take one away, or change it.
        full: whether nothing more can be written.
        uses: how many of each are held.
    """

    def __init__(self) -> None:
        self.content: dict[bytes, bytes] = {}
        self.full = False
        self.uses: dict[bytes, int] = {}

    def find(self, digest: bytes) -> Held | None:
        """See `PackageFiles.find`."""
        return _Held(self, digest) if digest in self.content else None

    def part(self) -> Part:
        """See `PackageFiles.part`."""
        self.check()
        return _Part(self)

    def own_folder(self) -> OwnFolder:
        """See `PackageFiles.own_folder`."""
        self.check()
        return _NoFolder()

    def check(self) -> None:
        """Raises OSError if nothing can be written."""
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _Held:
    def __init__(self, packages: MemoryPackages, digest: bytes) -> None:
        self.digest = digest
        self.size = len(packages.content[digest])
        self._packages: MemoryPackages | None = packages
        packages.uses[digest] = packages.uses.get(digest, 0) + 1

    def read(self, at: int, count: int) -> bytes:
        assert self._packages is not None
        return self._packages.content[self.digest][at : at + count]

    def tree(self) -> str:
        return ""

    def copy(self, folder: str) -> None:
        pass

    def release(self) -> None:
        packages, self._packages = self._packages, None
        if packages is not None:
            packages.uses[self.digest] -= 1


class _Part:
    def __init__(self, packages: MemoryPackages) -> None:
        self._packages = packages
        self.file: IO[bytes] = io.BytesIO()

    def keep(self, digest: bytes | None = None) -> Held:
        self._packages.check()
        self.file.seek(0)
        content = self.file.read()
        found = blake2b(content, digest_size=DIGEST_BYTES).digest()
        if digest is not None and found != digest:
            raise DamagedPackageError("what came is not what was asked for: its hash is another one")
        self._packages.content[found] = content
        return _Held(self._packages, found)

    def drop(self) -> None:
        pass


class _NoFolder:
    path = ""

    def remove(self) -> None:
        pass
