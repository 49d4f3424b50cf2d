"""Frames: how a batch of messages becomes bytes on a link, and bytes become batches again.

Knows the header, the seal (a keyed hash on links that leave the machine) and msgpack. What a frame's number means,
when it is resent and who may read it is `core.session`'s affair.

    header  4 bytes  length of the batch, and flags in the upper 8 bits
            8 bytes  n: the frame's number in its session; 0 carries nothing but its ack
            8 bytes  ack: the last frame of the other side that the writer has processed
    seal    16 bytes keyed BLAKE2b over header and batch, only on sealed links
    batch            a msgpack list of messages, each a list whose first element is its kind
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from struct import Struct
from typing import Any, Final, TypeAlias, cast

import msgpack

from actorfw.values.errors import ProtocolError
from actorfw.wire.payload import Buffer, Packed

__all__ = [
    "CHUNK",
    "HEADER_BYTES",
    "MAX_BATCH_BYTES",
    "MAX_DEPTH",
    "MAX_MESSAGE_BYTES",
    "SEAL_BYTES",
    "BatchPacker",
    "Frame",
    "FrameParser",
    "Piece",
    "Placed",
    "Sealer",
    "TooDeepError",
    "TooLargeError",
    "header",
    "piece_mark",
    "sealer",
    "unpack_batch",
]

MAX_BATCH_BYTES: Final = 256 * 1024
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 1024
"""Lists within lists that msgpack reads; it writes half as many."""
SEAL_BYTES: Final = 16

_HEADER: Final = Struct("<IQQ")
HEADER_BYTES: Final = _HEADER.size
_LENGTH_MASK: Final = 0xFFFFFF
# A message of the largest size is alone in its frame; its list needs five bytes at most.
_MAX_LENGTH: Final = MAX_MESSAGE_BYTES + 8
# Packed at once, so many small messages stay well below MAX_BATCH_BYTES; larger ones are then split one by one.
_AT_ONCE: Final = 1024

_LARGE: Final = 32 * 1024
"""Bytes of a batch from which on it is put together where it stays, instead of being joined and cut out."""

CHUNK: Final = 2
"""The kind of a piece of a large message: (CHUNK, number, bytes). Pieces are read without a copy."""

# What such a message, alone in its batch, begins with; then what follows msgpack's marks of numbers and of bytes.
_PIECE: Final = bytes([0x91, 0x93, CHUNK])
_UNSIGNED: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_BINARY: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4}


class Piece:
    """A batch that is one piece of a large message, whose bytes stay where they are until it is acknowledged."""

    __slots__ = ("body", "mark")

    def __init__(self, mark: bytes, body: memoryview) -> None:
        self.mark = mark
        self.body = body

    def __len__(self) -> int:
        return len(self.mark) + len(self.body)

    def joined(self) -> bytes:
        """The same in one place."""
        return self.mark + self.body


class Placed:
    """A batch that was one piece of a large message, whose bytes are where they belong already."""

    __slots__ = ("number", "size")

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size

    def __len__(self) -> int:
        return self.size


Frame: TypeAlias = tuple[int, int, bytes | bytearray | Placed]
"""(n, ack, batch): what a parser hands on. The batch is still packed: only the session knows whether it is wanted."""

Sealer: TypeAlias = Callable[[bytes, bytes | bytearray | memoryview], bytes]

header: Final[Callable[[int, int, int], bytes]] = _HEADER.pack
"""header(length of the batch, n, ack) -> 20 bytes."""

_unpack_header: Final = _HEADER.unpack_from
_unpackb: Final = msgpack.unpackb
_packb: Final = msgpack.packb


class TooLargeError(ProtocolError):
    """A message or frame is above its limit."""


class TooDeepError(ProtocolError):
    """A message is nested more deeply than is read."""


def sealer(key: bytes) -> Sealer:
    """A function (header, batch) -> 16 bytes, which only holders of the 32-byte `key` can make."""

    def seal(head: bytes, batch: bytes | bytearray | memoryview) -> bytes:
        digest = blake2b(head, digest_size=SEAL_BYTES, key=key)
        digest.update(batch)
        return digest.digest()

    return seal


def _to_wire(value: object) -> Any:
    if type(value) is Packed:
        return value.portable()
    raise TypeError(f"a {type(value).__qualname__} can't be in a message: the envelope is msgpack and Packed only")


def piece_mark(kind: int, number: int, size: int) -> bytes:
    """What stands before the bytes of a piece in a batch that is only that."""
    return b"\x91\x93" + _packb(kind) + _packb(number) + b"\xc6" + size.to_bytes(4, "big")


def unpack_batch(batch: bytes | bytearray | Placed) -> list[list[Any]]:
    """The messages of a frame. A piece of a large message that came in a frame of its own is a view of that.

    Raises:
        ProtocolError: the bytes are not a msgpack list.
    """
    if not isinstance(batch, bytes):
        if isinstance(batch, Placed):
            return [[CHUNK, batch.number, batch]]
        found = _piece(batch)
        if found is not None and found[1] + found[2] == len(batch):
            return [[CHUNK, found[0], memoryview(batch)[found[1] :]]]
    try:
        messages = _unpackb(batch)
    except msgpack.StackError as error:
        raise TooDeepError(f"a frame has lists within lists beyond the limit of {MAX_DEPTH}") from error
    except Exception as error:  # msgpack raises half a dozen unrelated types
        raise ProtocolError(f"a frame can't be decoded: {type(error).__name__}: {error}") from error
    if type(messages) is not list:
        raise ProtocolError(f"a frame holds a {type(messages).__name__} where a list of messages should be")
    return messages


def _piece(batch: Buffer, at: int = 0) -> tuple[int, int, int] | None:
    """(number, where its bytes begin, how many) of the piece that begins here; None: it is none, or not all is there
    to tell."""
    if batch[at : at + len(_PIECE)] != _PIECE:
        return None
    at += len(_PIECE)
    try:
        kind = batch[at]
        digits = 0 if kind < 0x80 else _UNSIGNED[kind]
        number = kind if not digits else int.from_bytes(batch[at + 1 : at + 1 + digits], "big")
        at += 1 + digits
        digits = _BINARY[batch[at]]
        if at + 1 + digits > len(batch):
            return None
        size = int.from_bytes(batch[at + 1 : at + 1 + digits], "big")
        at += 1 + digits
    except (KeyError, IndexError):
        return None
    return number, at, size


class BatchPacker:
    """Packs messages into batches, with one packer that keeps its buffer from batch to batch.

    Not thread-safe: a batch is packed on the loop that writes it.
    """

    __slots__ = ("pack",)

    pack: Callable[[Sequence[Any]], bytes]
    """One batch of all that is given, however large."""

    def __init__(self) -> None:
        self.pack = msgpack.Packer(default=_to_wire, autoreset=True).pack

    def pack_split(
        self, messages: Iterable[Any], refused: Callable[[Any, Exception], None]
    ) -> Iterable[tuple[bytes, int]]:
        """Pack any number of messages into batches of at most `MAX_BATCH_BYTES`.

        A single larger message has a batch of its own. One that can't be packed, or is above `MAX_MESSAGE_BYTES`, is
        given to `refused` and left out: the others travel.

        Yields:
            (batch, how many of the messages are done with it): those refused count with the batch after them, so the
            last batch may be empty (b"").
        """
        pack = self.pack
        pending = list(messages)
        for start in range(0, len(pending), _AT_ONCE):
            some = pending[start : start + _AT_ONCE]
            try:
                batch = pack(some)
            except Exception:  # msgpack raises many types: one of them is to blame, find it below
                batch = b""
            if batch and len(batch) <= MAX_BATCH_BYTES:
                yield batch, len(some)
            else:
                yield from self._one_by_one(some, refused)

    def _one_by_one(
        self, messages: list[Any], refused: Callable[[Any, Exception], None]
    ) -> Iterable[tuple[bytes, int]]:
        parts: list[bytes] = []
        size = done = 0
        for message in messages:
            try:
                part = self.pack(message)
                if len(part) > MAX_MESSAGE_BYTES:
                    raise TooLargeError(
                        f"a message of {len(part)} bytes is above the limit of {MAX_MESSAGE_BYTES}: send it as large"
                    )
            except Exception as error:  # this is the one to blame, whatever is wrong with it
                refused(message, error)
                done += 1
                continue
            if parts and size + len(part) > MAX_BATCH_BYTES - 8:
                yield _join(parts), done
                parts, size, done = [], 0, 0
            parts.append(part)
            size += len(part)
            done += 1
        if done:
            yield _join(parts), done


def _join(parts: list[bytes]) -> bytes:
    if not parts:
        return b""
    return msgpack.Packer().pack_array_header(len(parts)) + b"".join(parts)


class FrameParser:
    """Cuts a stream of bytes into frames. It never holds more than one frame and one read.

    Args:
        seal: made by `sealer` from the key of this direction; None on links without seals.
        place: says where the bytes of a piece of a large message belong, given the message's number, how many they are
            and whether all frames before have been handed on; None, as always if not: they are put together first.
    """

    __slots__ = (
        *("_filled", "_head", "_head_bytes", "_kept", "_kept_bytes", "_large", "_needed", "_place", "_placed", "_seal"),
    )

    def __init__(
        self, seal: Sealer | None = None, place: Callable[[int, int, bool], memoryview | None] | None = None
    ) -> None:
        self._seal = seal
        self._place = place if seal is None else None  # a seal is checked before anything is believed
        self._placed: Placed | None = None
        self._head_bytes = HEADER_BYTES if seal is None else HEADER_BYTES + SEAL_BYTES
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._needed = 0
        # A large frame that has begun, which is put together in one place: its head, its batch, and how much is there.
        self._head = b""
        self._large: bytearray | memoryview | None = None
        self._filled = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes of the stream; return the frames that are complete now.

        Raises:
            ProtocolError: the stream is not ours: a length beyond the limit, unknown flags or a wrong seal.
        """
        if not self._kept:
            have = len(data)
            if have >= HEADER_BYTES and self._seal is None:
                length, n, ack = _unpack_header(data)
                if length == have - HEADER_BYTES and length <= _MAX_LENGTH:
                    return [(n, ack, data[HEADER_BYTES:])]  # by far the most frequent: one read, one frame
            frames: list[Frame] = []
        elif self._large is not None:
            frames = []
            data = self._fill(self._large, data, frames)
            if not data:
                return frames
        else:
            self._kept.append(data)
            self._kept_bytes += len(data)
            if self._kept_bytes < self._needed:
                return []  # joining at each read would copy a large frame again and again
            data = b"".join(self._kept)
            self._kept = []
            frames = []
        at = 0
        have = len(data)
        head_bytes = self._head_bytes
        while have - at >= head_bytes:
            length, n, ack = _unpack_header(data, at)
            if length > _MAX_LENGTH:
                raise _refusal(length)
            start = at + head_bytes
            end = start + length
            if end > have:
                if length >= _LARGE:
                    self._begin(data, at, start, length, behind=bool(frames))
                    return frames
                self._needed = end - at
                break
            batch = data[start:end]
            if self._seal is not None:
                seal = self._seal(data[at : at + HEADER_BYTES], batch)
                if not hmac.compare_digest(seal, data[at + HEADER_BYTES : start]):
                    raise ProtocolError(_forged(n))
            frames.append((n, ack, batch))
            at = end
        else:
            self._needed = head_bytes
        if at < have:
            self._kept = [data[at:] if at else data]
            self._kept_bytes = have - at
        return frames

    @property
    def begun(self) -> bool:
        """Whether there is a part of a frame here."""
        return bool(self._kept)

    def room(self) -> memoryview | None:
        """Where the rest of the large frame that has begun is to be written; None: there is none. Then `filled`."""
        large = self._large
        return None if large is None else memoryview(large)[self._filled :]

    def filled(self, size: int) -> list[Frame]:
        """So many bytes were written to `room`; returns the frame that is complete with them, if it is.

        Raises:
            ProtocolError: its seal is wrong.
        """
        self._filled += size
        assert self._large is not None
        return [self._finish(self._large)] if self._filled == len(self._large) else []

    def _begin(self, data: bytes, at: int, start: int, length: int, *, behind: bool) -> None:
        self._head = data[at:start]
        self._kept = [b""]  # so that who looks only there sees that something has begun
        large: bytearray | memoryview | None = None
        if self._place is not None:
            found = _piece(data, start)
            if found is not None and found[1] + found[2] == start + length:
                number, begin, size = found
                large = self._place(number, size, not behind)
                if large is not None:
                    self._placed = Placed(number, size)
                    start = begin
        if large is None:
            large = bytearray(length)
        self._large = large
        self._filled = len(data) - start
        large[: self._filled] = memoryview(data)[start:]

    def _fill(self, batch: bytearray | memoryview, data: bytes, frames: list[Frame]) -> bytes:
        """Returns what is not part of the large frame."""
        at = self._filled
        part = memoryview(data)[: len(batch) - at]
        batch[at : at + len(part)] = part
        self._filled += len(part)
        if self._filled < len(batch):
            return b""
        frames.append(self._finish(batch))
        return data[len(part) :]

    def _finish(self, batch: bytearray | memoryview) -> Frame:
        placed, self._placed = self._placed, None
        self._large = None
        self._kept = []
        head = self._head
        if self._seal is not None:
            seal = self._seal(head[:HEADER_BYTES], batch)
            if not hmac.compare_digest(seal, head[HEADER_BYTES:]):
                raise ProtocolError(_forged(_unpack_header(head)[1]))
        _, n, ack = _unpack_header(head)
        return n, ack, cast("bytearray", batch) if placed is None else placed


def _forged(n: int) -> str:
    return f"the seal of frame {n} is wrong: its bytes were changed on the way"


def _refusal(length: int) -> ProtocolError:
    flags = length & ~_LENGTH_MASK
    if flags:
        return ProtocolError(f"a frame has unknown flags {flags >> 24:#04x}")
    return TooLargeError(f"a frame of {length} bytes is above the limit of {_MAX_LENGTH}")
