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
from typing import Any, Final, TypeAlias

import msgpack

from actorfw.values.errors import ProtocolError
from actorfw.wire.payload import Packed

__all__ = [
    "HEADER_BYTES",
    "MAX_BATCH_BYTES",
    "MAX_MESSAGE_BYTES",
    "SEAL_BYTES",
    "BatchPacker",
    "Frame",
    "FrameParser",
    "Sealer",
    "header",
    "sealer",
    "unpack_batch",
]

MAX_BATCH_BYTES: Final = 256 * 1024
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
SEAL_BYTES: Final = 16

_HEADER: Final = Struct("<IQQ")
HEADER_BYTES: Final = _HEADER.size
_LENGTH_MASK: Final = 0xFFFFFF
# A message of the largest size is alone in its frame; its list needs five bytes at most.
_MAX_LENGTH: Final = MAX_MESSAGE_BYTES + 8
# Packed at once, so many small messages stay well below MAX_BATCH_BYTES; larger ones are then split one by one.
_AT_ONCE: Final = 1024

Frame: TypeAlias = tuple[int, int, bytes]
"""(n, ack, batch): what a parser hands on. The batch is still packed: only the session knows whether it is wanted."""

Sealer: TypeAlias = Callable[[bytes, bytes], bytes]

header: Final[Callable[[int, int, int], bytes]] = _HEADER.pack
"""header(length of the batch, n, ack) -> 20 bytes."""

_unpack_header: Final = _HEADER.unpack_from
_unpackb: Final = msgpack.unpackb


def sealer(key: bytes) -> Sealer:
    """A function (header, batch) -> 16 bytes, which only holders of the 32-byte `key` can make."""

    def seal(head: bytes, batch: bytes) -> bytes:
        digest = blake2b(head, digest_size=SEAL_BYTES, key=key)
        digest.update(batch)
        return digest.digest()

    return seal


def _to_wire(value: object) -> Any:
    if type(value) is Packed:
        return [value.data, value.buffers, value.refs, value.codes]
    raise TypeError(f"a {type(value).__qualname__} can't be in a message: the envelope is msgpack and Packed only")


def unpack_batch(batch: bytes) -> list[list[Any]]:
    """The messages of a frame.

    Raises:
        ProtocolError: the bytes are not a msgpack list.
    """
    try:
        messages = _unpackb(batch)
    except Exception as error:  # msgpack raises half a dozen unrelated types
        raise ProtocolError(f"a frame can't be decoded: {type(error).__name__}: {error}") from error
    if type(messages) is not list:
        raise ProtocolError(f"a frame holds a {type(messages).__name__} where a list of messages should be")
    return messages


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
            except Exception:
                batch = b""  # one of them is to blame: find it below
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
                    raise ProtocolError(
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
    """

    __slots__ = ("_head_bytes", "_kept", "_kept_bytes", "_needed", "_seal")

    def __init__(self, seal: Sealer | None = None) -> None:
        self._seal = seal
        self._head_bytes = HEADER_BYTES if seal is None else HEADER_BYTES + SEAL_BYTES
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._needed = 0

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
        else:
            self._kept.append(data)
            self._kept_bytes += len(data)
            if self._kept_bytes < self._needed:
                return []  # joining at each read would copy a large frame again and again
            data = b"".join(self._kept)
            self._kept = []
        frames: list[Frame] = []
        at = 0
        have = len(data)
        head_bytes = self._head_bytes
        while have - at >= head_bytes:
            length, n, ack = _unpack_header(data, at)
            if length > _MAX_LENGTH:
                raise ProtocolError(_why_refused(length))
            start = at + head_bytes
            end = start + length
            if end > have:
                self._needed = end - at
                break
            batch = data[start:end]
            if self._seal is not None:
                seal = self._seal(data[at : at + HEADER_BYTES], batch)
                if not hmac.compare_digest(seal, data[at + HEADER_BYTES : start]):
                    raise ProtocolError(f"the seal of frame {n} is wrong: its bytes were changed on the way")
            frames.append((n, ack, batch))
            at = end
        else:
            self._needed = head_bytes
        if at < have:
            self._kept = [data[at:] if at else data]
            self._kept_bytes = have - at
        return frames


def _why_refused(length: int) -> str:
    flags = length & ~_LENGTH_MASK
    if flags:
        return f"a frame has unknown flags {flags >> 24:#04x}"
    return f"a frame of {length} bytes is above the limit of {_MAX_LENGTH}"
