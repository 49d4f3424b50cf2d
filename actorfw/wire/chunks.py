"""Batches of messages between a node and a worker process of its own, as bytes on a socketpair.

A frame is `body length, number of attachments`, the attachments' sizes, the body (one msgpack list of messages) and
the attachments:
buffers above `LARGE`, which are neither copied into the body nor out of it. The receiver reads them into the memory
where they stay, so a value of any size costs each side one pass through the kernel, in slices, and nothing else
stands still meanwhile.

Responsible for bytes only: sockets, flow control and what messages mean are left to `runtime.channel` and
`runtime.worker`. There is no authentication and little suspicion here, since both ends are one program on one
machine.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any, Final, cast

import msgpack

from actorfw.values.errors import ProtocolError
from actorfw.wire.messages import (
    BLOB,
    CALL,
    CREATE,
    CREATED,
    ENDED,
    INVOKE,
    ITEM,
    PUT,
    RESULT,
    SETTLED,
    SPAWN,
    SUBMIT,
    TASK,
)
from actorfw.wire.payload import Packed

__all__ = ["BATCH", "LARGE", "SLICE", "Decoder", "Encoder", "blank"]

LARGE: Final = 64 * 1024  # from here on a buffer travels beside the body
SLICE: Final = 256 * 1024  # how much of a buffer goes at a time
BATCH: Final = 128  # messages in one frame at most, so that the receiver starts while the rest is packed

_BODY_LIMIT: Final = 1 << 30
_ATTACHMENTS_LIMIT: Final = 1 << 20
_ATTACHMENT_CODE: Final = 1  # msgpack extension: the number of an attachment
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
_VALUE_AT: Final = tuple(_VALUE_FIELDS.get(kind, 0) for kind in range(64))


class Encoder:
    """Makes frames. One per sender: it reuses its packer, so it is not thread-safe."""

    __slots__ = ("_attachments", "_pack")

    def __init__(self) -> None:
        self._attachments: list[memoryview] = []
        self._pack = msgpack.Packer(default=self._default, autoreset=True).pack

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
            raise
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
        raise TypeError(f"a message can't hold {type(value).__name__}: only scalars, bytes, lists and Packed travel")


class Decoder:
    """Takes bytes in any portions and gives messages.

    The caller receives into `space()` and says how many bytes came with `received(n)`. That way what belongs to an
    attachment goes straight to its place. Attachments arrive as `bytes`.
    """

    __slots__ = ("_attachments", "_blanks", "_body", "_buffer", "_end", "_filled", "_target", "_view")

    def __init__(self) -> None:
        self._buffer = bytearray(SLICE)
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
            batch = _unpack(self._view[start + _HEADER_BYTES : stop], None)
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
            messages += _unpack(target, None)
            return
        del self._blanks[0]
        while self._blanks and not len(self._blanks[0]):
            del self._blanks[0]
        if self._blanks:
            self._target = self._blanks[0]
        else:
            messages += self._whole()

    def _whole(self) -> list[Any]:
        body, attachments = self._body, self._attachments
        self._body, self._attachments = None, []
        assert body is not None
        return _unpack(body, attachments)


def _unpack(body: memoryview | bytes | bytearray, attachments: list[bytes] | None) -> list[Any]:
    def attachment(code: int, data: bytes) -> bytes:
        if code != _ATTACHMENT_CODE or attachments is None:
            raise ValueError(f"extension {code}")
        return attachments[int.from_bytes(data, "little")]

    try:
        if attachments is None:
            batch = msgpack.unpackb(body, strict_map_key=False)
        else:
            batch = msgpack.unpackb(body, strict_map_key=False, ext_hook=attachment)
    except Exception as error:  # msgpack raises half a dozen unrelated types
        raise ProtocolError(f"a frame between a node and its worker can't be read: {error!r}") from error
    if type(batch) is not list:
        raise ProtocolError(
            f"a frame between a node and its worker holds {type(batch).__name__}, not a list of messages"
        )
    return batch


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
