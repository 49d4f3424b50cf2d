"""The one copy that a large buffer gets when it is packed.

An argument is a value, so what was handed over must not change afterwards. The copy lets other threads run when it
is large: a node's own loop may be one of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

__all__ = ["copied", "move"]

# Under this, handing over the interpreter lock costs more than it gives.
_GIL_FREE: Final = 1 << 20


def copied(view: memoryview) -> bytes:
    """The bytes of a contiguous view; above 1 MiB copied with the interpreter lock released."""
    if view.nbytes <= _GIL_FREE:
        return bytes(view)
    try:
        return _copied_without_lock(view)
    except ImportError:  # a Python built without ctypes
        return bytes(view)


def _copied_without_lock(view: memoryview) -> bytes:
    tools = _tools()
    target = tools.new_bytes(None, view.nbytes)  # uninitialised, and nobody else has it until it is filled
    move(tools.address_of(target), view)
    return target


def move(address: int, view: memoryview) -> None:
    """Copy the bytes of a contiguous view to an address, with the interpreter lock released."""
    tools = _tools()
    source = tools.buffer()
    tools.get_buffer(view, tools.addressof(source), 0)
    try:
        tools.memmove(address, source.buf, view.nbytes)
    finally:
        tools.release_buffer(tools.addressof(source))


class _Tools(NamedTuple):
    buffer: Callable[[], Any]
    addressof: Callable[[Any], int]
    memmove: Callable[[int, int, int], Any]
    get_buffer: Callable[[memoryview, int, int], int]
    release_buffer: Callable[[int], None]
    new_bytes: Callable[[None, int], bytes]
    address_of: Callable[[bytes], int]


@functools.cache
def _tools() -> _Tools:
    import ctypes

    class PyBuffer(ctypes.Structure):
        # CPython's Py_buffer, part of its stable interface since 3.11: the only way to the address of a read-only one.
        _fields_ = (
            ("buf", ctypes.c_void_p),
            ("obj", ctypes.c_void_p),
            ("len", ctypes.c_ssize_t),
            ("itemsize", ctypes.c_ssize_t),
            ("readonly", ctypes.c_int),
            ("ndim", ctypes.c_int),
            ("format", ctypes.c_char_p),
            ("shape", ctypes.c_void_p),
            ("strides", ctypes.c_void_p),
            ("suboffsets", ctypes.c_void_p),
            ("internal", ctypes.c_void_p),
        )

    def function(name: str, result: Any, *arguments: Any) -> Any:
        # A prototype of our own, so that nobody else's settings of `ctypes.pythonapi` matter, nor ours to them.
        return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))

    return _Tools(
        PyBuffer,
        ctypes.addressof,
        ctypes.memmove,
        function("PyObject_GetBuffer", ctypes.c_int, ctypes.py_object, ctypes.c_void_p, ctypes.c_int),
        function("PyBuffer_Release", None, ctypes.c_void_p),
        function("PyBytes_FromStringAndSize", ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t),
        function("PyBytes_AsString", ctypes.c_void_p, ctypes.py_object),
    )
