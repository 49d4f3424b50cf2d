"""`SharedMemory`: memory that several processes of one host map, and the views of it.

It is a file without a name (memfd) that is mapped once, as a whole: address space costs nothing, and what lies in it
never moves. Pages come when they are written first, or by `populate`, and go by `discard`. Who may write where is the
affair of those who use it.

Views are made of ctypes arrays and not of `mmap`, for two reasons: a `mmap` object can't be closed while a view of it
lives, and it can't say when one has died. Such an array is the one thing that all that is made of a view keeps (slices,
numpy arrays and what they are made into): here it keeps its `keeper`, and through it the mapping.
"""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from actorfw.wire import copying

__all__ = ["SharedMemory", "available"]

_PROT_READ: Final = 1
_PROT_WRITE: Final = 2
_MAP_SHARED: Final = 1
_MAP_PRIVATE: Final = 2
_MAP_ANONYMOUS: Final = 0x20
_MAP_NORESERVE: Final = 0x4000
_MADV_DONTNEED: Final = 4
_MADV_REMOVE: Final = 9
_MADV_POPULATE_WRITE: Final = 23

# Under this, a copy by way of a memoryview is quicker than one without the interpreter lock.
_GIL_FREE: Final = 1 << 20
_PAGE: Final = 4096


def available() -> bool:
    """Whether this platform has such memory."""
    return hasattr(os, "memfd_create")


class SharedMemory:
    """One such memory, as this process sees it.

    It is mapped when it is used first. `close` gives the descriptor back; the mapping goes when it is closed and
    nothing that was made of it lives any more.

    Attributes:
        fd: of the file behind it, to be handed to other processes; -1: there is none.
        size: bytes of address space.
    """

    def __init__(self, fd: int, size: int, *, readonly: bool = False) -> None:
        self.fd = fd
        self.size = size
        self.readonly = readonly
        self._mapping: _Mapping | None = None
        self._left: Callable[[], _Mapping | None] | None = None  # the same after `close`, while somebody keeps it

    @classmethod
    def create(cls, size: int, name: str = "actorfw") -> SharedMemory:
        """New memory, of which nothing is taken yet.

        Raises:
            OSError: there is none here.
        """
        if not available():
            raise OSError(errno.ENOSYS, "this platform has no memfd")
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
        except OSError:
            os.close(fd)
            raise
        return cls(fd, size)

    @classmethod
    def attach(cls, fd: int, *, readonly: bool) -> SharedMemory:
        """The memory of another process, by its descriptor, which is this object's from now on."""
        return cls(fd, os.fstat(fd).st_size, readonly=readonly)

    @classmethod
    def anonymous(cls, size: int) -> SharedMemory:
        """Memory of the same kind that no other process can map."""
        return cls(-1, size)

    def hold(self) -> object:
        """What keeps the mapping, and with it all that is read of it after `close`. Maps it if it is not yet.

        Raises:
            OSError: there is no address space for it, or it is closed.
        """
        return self._mapping or self._mapped()

    def _mapped(self) -> _Mapping:
        mapping = self._mapping
        if mapping is not None:
            return mapping
        if self._left is None:
            mapping = self._mapping = _Mapping(self.fd, self.size, self.readonly)
        else:
            mapping = self._left()
            if mapping is None:
                raise OSError(errno.EBADF, "this shared memory was closed")
        return mapping

    def hand_over(self) -> None:
        """Give the descriptor back and keep the mapping: for processes that hand it to nobody."""
        self._mapped()
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def mapped(self) -> bool:
        """Whether this object keeps a mapping."""
        return self._mapping is not None

    def copy_in(self, offset: int, data: memoryview) -> None:
        """Copy the bytes of a contiguous view to `offset`; above 1 MiB without the interpreter lock."""
        size = data.nbytes
        mapping = self._mapping or self._mapped()
        if size > self.size - offset or offset < 0:
            raise ValueError(f"{size} bytes at {offset} don't fit into {self.size}")
        if size > _GIL_FREE:
            copying.move(mapping.address + offset, data)
        else:
            mapping.window[offset : offset + size] = data

    def array(self, offset: int, keeper: object = None) -> Any:
        """What views of the memory from `offset` on are made of (`memoryview(array).cast("B")[:size]`): a ctypes array
        of unlimited length. `keeper` lives as long as this array and all that is made of it; a weak reference to the
        array says whether anything is.
        """
        mapping = self._mapping or self._mapped()
        array = mapping.whole.from_address(mapping.address + offset)
        array.keeper = (keeper, mapping)
        return array

    def view(self, offset: int, size: int, keeper: object = None) -> memoryview:
        """These bytes, read-only. `keeper` lives as long as anything that was made of the view."""
        return memoryview(self.array(offset, keeper)).cast("B")[:size].toreadonly()

    def room(self, offset: int, size: int, keeper: object = None) -> memoryview:
        """The same, to be written to."""
        return memoryview(self.array(offset, keeper)).cast("B")[:size]

    def populate(self, offset: int, size: int) -> bool:
        """Have the pages of this range, as far as they are not there; leaves their contents. Without the interpreter
        lock.

        Returns:
            False if the kernel can't (before 5.14).

        Raises:
            OSError: there is no memory.
        """
        mapping = self._mapping or self._mapped()
        return mapping.advise(offset, size, _MADV_POPULATE_WRITE)

    def touch(self, offset: int, size: int) -> None:
        """The same by writing to each page, for a range whose contents are of no use."""
        mapping = self._mapping or self._mapped()
        for at in range(offset, offset + size, _PAGE):
            mapping.window[at] = 0

    def discard(self, offset: int, size: int) -> None:
        """Give the pages of this range back: its contents are lost, for all processes. Without the interpreter lock."""
        mapping = self._mapping or (self._left() if self._left is not None else None)
        if mapping is not None:
            mapping.advise(offset, size, _MADV_REMOVE if mapping.shared else _MADV_DONTNEED)

    def close(self) -> None:
        """Hand no descriptor out any more, and unmap it as soon as nothing of it is used."""
        if self._left is None:
            self._left = weakref.ref(self._mapping) if self._mapping is not None else lambda: None
        self._mapping = None
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class _Mapping:
    """Address space. It is unmapped with the last reference to this."""

    __slots__ = ("__weakref__", "_errno", "_libc", "_size", "address", "shared", "whole", "window")

    def __init__(self, fd: int, size: int, readonly: bool) -> None:
        self._size = 0
        try:
            import ctypes  # not before there is a block: it takes milliseconds
        except ImportError as error:  # a Python built without
            raise OSError(errno.ENOSYS, f"there is no ctypes: {error}") from error

        self._libc = libc = _libc()
        self.shared = fd >= 0
        flags = (_MAP_SHARED if fd >= 0 else _MAP_PRIVATE | _MAP_ANONYMOUS) | _MAP_NORESERVE
        protection = _PROT_READ if readonly else _PROT_READ | _PROT_WRITE
        address = libc.mmap(None, size, protection, flags, fd, 0)
        if address is None or address == ctypes.c_void_p(-1).value:
            code = ctypes.get_errno()
            raise OSError(code, f"{size} bytes can't be mapped: {os.strerror(code)}")
        self._errno = ctypes.get_errno  # at the interpreter's end, when the last view goes, nothing can be imported
        self._size = size
        self.address: int = address
        # One type for all views: ctypes keeps each length as a type of its own, which only the collector frees. What
        # it says about the length is too much, and nobody sees it.
        self.whole: Any = ctypes.c_ubyte * size
        self.window = memoryview(self.whole.from_address(address)).cast("B")

    def advise(self, offset: int, size: int, advice: int) -> bool:
        """Returns False if the kernel does not know this advice."""
        while self._libc.madvise(self.address + offset, size, advice):
            code = self._errno()
            if code == errno.EINVAL:
                return False
            if code != errno.EINTR:
                raise OSError(code, f"madvise({advice}) of {size} bytes: {os.strerror(code)}")
        return True

    def __del__(self) -> None:
        if self._size:
            self._libc.munmap(self.address, self._size)


@cache
def _libc() -> Any:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)  # an object of our own: the prototypes set here are nobody else's
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_ssize_t,
    )
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc
