"""Batches of messages between a node and a worker process of its own, as bytes on a socketpair.

A frame is `body length, number of attachments`, the attachments' sizes, the body (one msgpack list of messages) and
the attachments:
buffers above `LARGE`, which are neither copied into the body nor out of it. The receiver reads them into the memory
where they stay, so a value of any size costs each side one pass through the kernel, in slices, and nothing else
stands still meanwhile. What is in shared memory travels as its place, and is lent for each time that it does.

Responsible for bytes only: sockets, flow control and what messages mean are left to `runtime.channel` and
`runtime.worker`. There is no authentication and little suspicion here, since both ends are one program on one
machine.
"""

from __future__ import annotations

import mmap
import struct
import sys
import weakref
from functools import cache
from typing import Any, Final, Protocol, cast

import msgpack

from actorfw.values.errors import ObjectLostError, ProtocolError
from actorfw.wire.messages import (
    BLOB,
    CALL,
    CREATE,
    CREATED,
    ENDED,
    INVOKE,
    ITEM,
    KINDS,
    PUT,
    RESULT,
    SETTLED,
    SPAWN,
    SUBMIT,
    TASK,
)
from actorfw.wire.payload import LostBuffer, Packed, Place, SharedBuffer

__all__ = ["BATCH", "LARGE", "SLICE", "Decoder", "Encoder", "Lodging", "blank"]

LARGE: Final = 64 * 1024  # from here on a buffer travels beside the body
SLICE: Final = 256 * 1024  # how much of a buffer goes at a time
BATCH: Final = 128  # messages in one frame at most, so that the receiver starts while the rest is packed

_BODY_LIMIT: Final = 1 << 30
_ATTACHMENTS_LIMIT: Final = 1 << 20
_ATTACHMENT_CODE: Final = 1  # msgpack extension: the number of an attachment
_PLACE_CODE: Final = 2  # msgpack extension: where a shared buffer is
_LOST_CODE: Final = 3  # msgpack extension: why a shared buffer can't be had
_PLACE: Final = struct.Struct("<QQQ")  # number, offset and size; the arena's token follows
_HEADER: Final = struct.Struct("<II")
_HEADER_BYTES: Final = _HEADER.size

# Which field of a message may be large, by its kind; 0 (the kind itself) for all others. Looking at every field costs
# more than packing.
_VALUE_FIELDS: Final = {
    BLOB: 2,
    TASK: 3,
    RESULT: 3,
    ITEM: 3,
    CALL: 6,
    CREATE: 4,
    CREATED: 5,
    ENDED: 5,
    SETTLED: 4,
    SUBMIT: 3,
    INVOKE: 5,
    SPAWN: 3,
    PUT: 2,
}
_VALUE_AT: Final = tuple(_VALUE_FIELDS.get(kind, 0) for kind in range(KINDS))


class Lodging(Protocol):
    """One end of a connection whose other end can map shared memory."""

    def lend(self, buffer: SharedBuffer, /) -> Place | None:
        """The other end is about to be told of it, once more; None: it can't be, and gets its bytes."""
        ...

    def take_back(self, buffer: SharedBuffer, /) -> None:
        """It was not told after all."""
        ...

    def receive(self, place: Place, /) -> SharedBuffer:
        """The other end tells of a buffer, once more.

        Raises:
            Exception: there is none at this place; the connection is of no use any more.
        """
        ...


class Encoder:
    """Makes frames. One per sender: it reuses its packer, so it is not thread-safe.

    Args:
        lodging: lends what is in shared memory; None: bytes are all that can travel.
    """

    __slots__ = ("__weakref__", "_attachments", "_lent", "_lodging", "_pack")

    def __init__(self, lodging: Lodging | None = None) -> None:
        self._lodging = lodging
        self._lent: list[SharedBuffer] = []  # in the frame that is being made
        self._attachments: list[memoryview] = []
        # The collector does not look into a packer: with a method of this object it would be a circle for ever, and all
        # that the lodging leads to in it.
        me = weakref.ref(self)

        def default(value: Any) -> Any:
            encoder = me()
            assert encoder is not None
            return encoder._default(value)

        self._pack = msgpack.Packer(default=default, autoreset=True).pack

    def encode(self, messages: list[Any]) -> tuple[bytes, list[memoryview]]:
        """One frame: its head (header and body), and the attachments that follow it. Buffers are not copied: leave
        them alone.

        Raises:
            TypeError, ValueError, OverflowError: a message holds what msgpack can't carry; nothing of the batch is
            sent.
        """
        try:
            for at, message in enumerate(messages):
                value = message[_VALUE_AT[message[0]]]
                kind = type(value)
                if kind is bytes:
                    if len(value) <= LARGE:
                        continue
                elif kind is not list or (message[0] != RESULT and not (value and type(value[0]) is bytes)):
                    continue
                light = [self._lighten(field) for field in message]
                if any(a is not b for a, b in zip(light, message, strict=True)):
                    messages = [*messages[:at], light, *messages[at + 1 :]]
            body = self._pack(messages)
        except BaseException:  # half of its attachments are not to go with the next
            self._attachments = []
            while self._lent:
                assert self._lodging is not None
                self._lodging.take_back(self._lent.pop())
            raise
        if self._lent:
            self._lent.clear()
        attachments = self._attachments
        if not attachments:
            return _HEADER.pack(len(body), 0) + body, attachments
        self._attachments = []
        sizes = struct.pack(f"<{len(attachments)}Q", *[view.nbytes for view in attachments])
        return b"".join((_HEADER.pack(len(body), len(attachments)), sizes, body)), attachments

    def _lighten(self, value: Any) -> Any:
        """The value itself, or a copy in which large buffers are replaced by the numbers of attachments."""
        kind = type(value)
        if kind is list:
            light: list[Any] | None = None
            for at, item in enumerate(cast("list[Any]", value)):
                kind = type(item)
                if kind is bytes or kind is list or kind is memoryview or kind is bytearray:
                    changed = self._lighten(item)
                    if changed is not item:
                        if light is None:
                            light = list(cast("list[Any]", value))
                        light[at] = changed
            return value if light is None else light
        if kind is bytes or kind is memoryview or kind is bytearray:
            view = memoryview(value)
            if view.nbytes <= LARGE:
                return value
            self._attachments.append(view if view.format == "B" and view.ndim == 1 else view.cast("B"))
            return msgpack.ExtType(_ATTACHMENT_CODE, (len(self._attachments) - 1).to_bytes(4, "little"))
        return value

    def _default(self, value: Any) -> Any:
        if type(value) is Packed:
            return self._lighten(value.to_wire())
        if isinstance(value, SharedBuffer):
            try:
                place = None if self._lodging is None else self._lodging.lend(value)
                if place is None:
                    return self._lighten(value.view())
            except ObjectLostError as error:  # whoever reads it is to hear so, and nobody else
                return msgpack.ExtType(_LOST_CODE, str(error).encode())
            self._lent.append(value)
            token, *numbers = place
            return msgpack.ExtType(_PLACE_CODE, _PLACE.pack(*numbers) + token)
        raise TypeError(f"a message can't hold {type(value).__name__}: only scalars, bytes, lists and Packed travel")


def _untouched(size: int) -> bytearray | mmap.mmap:
    """Zeros that take memory as they are written: few workers are ever sent so much at a time, and each would pay for
    it when it starts.
    """
    if sys.platform == "win32":
        return bytearray(size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Decoder:
    """Takes bytes in any portions and gives messages.

    The caller receives into `space()` and says how many bytes came with `received(n)`. That way what belongs to an
    attachment goes straight to its place. Attachments arrive as `bytes`, what is in shared memory as a `SharedBuffer`.

    Args:
        lodging: knows what is in shared memory; None: the other end tells of nothing there.
    """

    __slots__ = ("_attachments", "_blanks", "_body", "_buffer", "_end", "_filled", "_lodging", "_target", "_view")

    def __init__(self, lodging: Lodging | None = None) -> None:
        self._lodging = lodging
        self._buffer: bytearray | mmap.mmap = _untouched(SLICE)
        self._view = memoryview(self._buffer)
        self._end = 0
        # What is being filled past the buffer: a large body (body is None then), or the first of `blanks`.
        self._target: memoryview | None = None
        self._filled = 0
        self._body: bytes | bytearray | None = None
        self._blanks: list[memoryview] = []
        self._attachments: list[bytes] = []

    def space(self) -> memoryview:
        """Where the next bytes go; never empty."""
        if self._target is not None:
            return self._target[self._filled : self._filled + SLICE]
        return self._view[self._end :] if self._end else self._view

    def received(self, n: int) -> list[Any]:
        """The messages that are complete now that `n` bytes more are there, in order.

        Raises:
            ProtocolError: this is no frame; the connection is of no use any more.
        """
        messages: list[Any] = []
        if self._target is not None:
            self._filled += n
            if self._filled < len(self._target):
                return messages
            self._filled_up(messages)
            return messages
        end = self._end + n
        start = 0
        buffer = self._buffer
        while end - start >= _HEADER_BYTES:
            length, count = _HEADER.unpack_from(buffer, start)
            if count:
                used = self._attached(start, end, length, count, messages)
                if used == 0:
                    break
                start += used
                continue
            stop = start + _HEADER_BYTES + length
            if stop > end:
                if _HEADER_BYTES + length > SLICE:
                    start = self._large_body(start, end, length)
                break
            batch = self._unpack(self._view[start + _HEADER_BYTES : stop])
            messages = messages + batch if messages else batch
            start = stop
        if start < end:
            if start:
                buffer[: end - start] = buffer[start:end]
            self._end = end - start
        else:
            self._end = 0
        return messages

    def _large_body(self, start: int, end: int, length: int) -> int:
        if length > _BODY_LIMIT:
            raise ProtocolError(f"a frame says that it has {length} bytes of messages; the limit is {_BODY_LIMIT}")
        body = bytearray(length)
        begun = end - start - _HEADER_BYTES
        body[:begun] = self._buffer[start + _HEADER_BYTES : end]
        self._target = memoryview(body)
        self._filled = begun
        self._body = None
        return end

    def _attached(self, start: int, end: int, length: int, count: int, messages: list[Any]) -> int:
        """Take a frame with attachments as far as it is here; returns the bytes used, 0 if its head is not complete."""
        if count > _ATTACHMENTS_LIMIT or length > _BODY_LIMIT:
            raise ProtocolError(f"a frame says that it has {count} attachments behind {length} bytes: that is no frame")
        sizes_end = start + _HEADER_BYTES + 8 * count
        head_end = sizes_end + length
        if head_end > end:
            if head_end - start > len(self._buffer):
                self._grow(head_end - start)
            return 0
        sizes = struct.unpack_from(f"<{count}Q", self._buffer, start + _HEADER_BYTES)
        self._body = bytes(self._view[sizes_end:head_end])
        for size in sizes:
            made, view = blank(size)
            self._attachments.append(made)
            self._blanks.append(view)
        at = head_end
        while self._blanks:
            blank_view = self._blanks[0]
            here = min(len(blank_view), end - at)
            blank_view[:here] = self._view[at : at + here]
            at += here
            if here < len(blank_view):
                self._target, self._filled = blank_view, here
                return at - start
            del self._blanks[0]
        messages += self._whole()
        return at - start

    def _grow(self, size: int) -> None:
        # Rare: a head with very many attachments. The buffer stays that large.
        grown = bytearray(size + SLICE)
        grown[: len(self._buffer)] = self._buffer
        self._buffer = grown
        self._view = memoryview(grown)

    def _filled_up(self, messages: list[Any]) -> None:
        target = self._target
        assert target is not None
        self._target = None
        self._filled = 0
        if not self._blanks:  # it was a large body
            messages += self._unpack(target)
            return
        del self._blanks[0]
        while self._blanks and not len(self._blanks[0]):
            del self._blanks[0]
        if self._blanks:
            self._target = self._blanks[0]
        else:
            messages += self._whole()

    def _whole(self) -> list[Any]:
        body = self._body
        self._body = None
        assert body is not None
        batch = self._unpack(body)
        self._attachments = []
        return batch

    def _unpack(self, body: memoryview | bytes | bytearray) -> list[Any]:
        try:
            batch = msgpack.unpackb(body, strict_map_key=False, ext_hook=self._outside)
        except Exception as error:  # msgpack raises half a dozen unrelated types
            raise ProtocolError(f"a frame between a node and its worker can't be read: {error!r}") from error
        if type(batch) is not list:
            raise ProtocolError(
                f"a frame between a node and its worker holds {type(batch).__name__}, not a list of messages"
            )
        return batch

    def _outside(self, code: int, data: bytes) -> bytes | SharedBuffer:
        """What the body has only a sign of."""
        if code == _ATTACHMENT_CODE:
            return self._attachments[int.from_bytes(data, "little")]
        if code == _PLACE_CODE and self._lodging is not None:
            return self._lodging.receive((data[_PLACE.size :], *_PLACE.unpack_from(data)))
        if code == _LOST_CODE:
            return LostBuffer(data.decode())
        raise ValueError(f"extension {code}")


def blank(size: int) -> tuple[bytes, memoryview]:
    """New `bytes`, and a view through which they are filled before anybody else sees them.

    A `bytearray` would be cleared first, which touches every page once more, and could not pass for `bytes` later
    without a copy.
    """
    if not size:
        return b"", memoryview(bytearray())
    make, address_of, cell = _bytes_functions()
    made: bytes = make(None, size)
    view = memoryview((cell * size).from_address(address_of(made))).cast("B")
    return made, view


@cache
def _bytes_functions() -> tuple[Any, Any, Any]:
    import ctypes  # not before the first attachment: it takes milliseconds

    # A library object of our own, so that the prototypes set here are nobody else's.
    api = ctypes.PyDLL(None)
    make = api.PyBytes_FromStringAndSize
    make.restype = ctypes.py_object
    make.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t]
    address_of = api.PyBytes_AsString
    address_of.restype = ctypes.c_void_p
    address_of.argtypes = [ctypes.py_object]
    return make, address_of, ctypes.c_ubyte
