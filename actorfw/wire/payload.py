"""`Packed`: what a value is while it travels or is stored, and how large it is.

Knows the shapes only: how a value becomes one of them is `codec`'s affair, how they become bytes is `frames`'.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final, Protocol, TypeAlias, cast

from actorfw.values.errors import ObjectLostError
from actorfw.values.ids import WireRef, as_bytes

__all__ = [
    "SHARED_LEAST",
    "Allocator",
    "Buffer",
    "LostBuffer",
    "Packed",
    "Part",
    "Place",
    "SharedBuffer",
    "WireArgs",
    "WireValue",
    "WritableBuffer",
    "in_memory",
    "size_of",
]

Buffer: TypeAlias = bytes | bytearray | memoryview

Place: TypeAlias = tuple[bytes, int, int, int]
"""Where a shared buffer is, for other processes of the host: (the arena's token, the block's number, offset, bytes)."""

SHARED_LEAST: Final = 64 * 1024
"""Buffers from this size on go into shared memory, where there is any."""


class SharedBuffer(ABC):
    """A buffer in memory that other processes of the host can map: an element of `Packed.buffers`.

    Its memory stays as it is while this object, or any view of it, lives. What holds it in other processes is the
    affair of those who lend it.

    Attributes:
        nbytes: its size.
    """

    __slots__ = ("__weakref__", "nbytes")

    nbytes: int

    @property
    @abstractmethod
    def place(self) -> Place:
        """Where it is; what travels in its stead on one host."""

    @abstractmethod
    def view(self) -> memoryview:
        """Its bytes, read-only and without a copy. Whatever is made of the view keeps the memory."""


class LostBuffer(SharedBuffer):
    """In the place of a buffer that another process had and has lost: who reads it hears why."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.nbytes = 0
        self.why = why

    @property
    def place(self) -> Place:
        raise ObjectLostError(self.why)

    def view(self) -> memoryview:
        raise ObjectLostError(self.why)


class WritableBuffer(SharedBuffer):
    """A shared buffer that its maker fills, in any thread, before anybody else sees it."""

    __slots__ = ()

    @abstractmethod
    def fill(self, data: Buffer, at: int = 0) -> None:
        """Copy these bytes to `at`; what is large without the interpreter lock."""

    @abstractmethod
    def seal(self) -> None:
        """It is complete: from now on it is only read."""


class Allocator(Protocol):
    """Gives shared memory to a codec."""

    def allocate(self, nbytes: int, /) -> WritableBuffer | None:
        """A buffer to fill and seal, or None: the bytes are to be kept on the heap. Any thread."""
        ...


Part: TypeAlias = Buffer | SharedBuffer
"""What `Packed.buffers` has: whoever needs its bytes takes `in_memory` of it."""


def in_memory(buffer: Part) -> Buffer:
    """The bytes of any buffer, without a copy."""
    return buffer.view() if isinstance(buffer, SharedBuffer) else buffer


# What one scalar, one ref and one code hash count for: near what msgpack makes of them.
_SCALAR_BYTES: Final = 9
_REF_BYTES: Final = 48
_CODE_BYTES: Final = 18


class Packed:
    """A pickled value with what the pickle stream only points to.

    What holds a ref knows its id: should that change, because the node takes a new life, then so does `refs`.

    Attributes:
        data: the pickle stream.
        buffers: large buffers (pickle protocol 5), in the order in which the stream asks for them. Those in shared
            memory live as long as this object, if nobody else keeps them.
        refs: the ref-like objects inside the value, each as (owner's life, number, address hint).
        codes: the 16-byte hashes of the by-value definitions that the stream names; the receiver needs their blobs.
        hold: for each of the refs, in order, what keeps it alive as long as these bytes exist, and has its `id`. The
            runtime's own, not part of the value; or None.
    """

    __slots__ = ("_refs", "buffers", "codes", "data", "hold")

    def __init__(self, data: bytes, buffers: list[Part], refs: list[WireRef], codes: list[bytes]) -> None:
        self.data = data
        self.buffers = buffers
        self._refs = refs
        self.codes = codes
        self.hold: list[Any] | None = None

    @property
    def refs(self) -> list[WireRef]:
        refs = self._refs
        if self.hold is not None:
            for at, held in enumerate(self.hold):
                if held is not None and held.id[0] != refs[at][0]:
                    refs[at] = (*held.id, refs[at][2])
        return refs

    def to_wire(self) -> list[Any]:
        """The list of four that travels: [data, buffers, refs, codes]. Buffers in shared memory are still that."""
        return [self.data, self.buffers, self.refs, self.codes]

    def portable(self) -> list[Any]:
        """The same for those who don't see this host's memory: all buffers are bytes."""
        return [self.data, list(map(in_memory, self.buffers)), self.refs, self.codes]

    @classmethod
    def from_wire(cls, wire: list[Any]) -> Packed:
        """The inverse of `to_wire`; takes what msgpack read, so refs may be lists.

        Raises:
            ValueError: the list has not this shape. (A peer's bytes: the caller makes it a `ProtocolError`.)
        """
        try:
            data, buffers, refs, codes = wire
            ids = [(as_bytes(life), int(number), address) for life, number, address in refs]
            if (
                type(data) is not bytes
                or not all(type(address) is str for _, _, address in ids)
                or not all(type(code) is bytes for code in codes)
            ):
                raise ValueError("not bytes")
            return cls(data, list(buffers), ids, list(codes))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"a packed value is [data, buffers, refs, codes], not {_outline(wire)}") from error

    @property
    def size(self) -> int:
        """Bytes that this value holds, its buffers included."""
        total = len(self.data) + _REF_BYTES * len(self.refs) + _CODE_BYTES * len(self.codes)
        for buffer in self.buffers:
            total += len(buffer) if isinstance(buffer, (bytes, bytearray)) else buffer.nbytes
        return total

    def __repr__(self) -> str:
        return (
            f"Packed({len(self.data)} bytes, {len(self.buffers)} buffers, "
            f"{len(self.refs)} refs, {len(self.codes)} codes, {self.size} bytes in all)"
        )


WireValue: TypeAlias = bool | int | float | str | bytes | Packed | list[Any] | None
"""A packed value: scalars and ASCII str as they are, `bytes` for a bare pickle stream, else a `Packed` (or, as msgpack
read it, the list that `Packed.to_wire` makes). A list that does not begin with bytes is a list of scalar arguments."""

WireArgs: TypeAlias = bytes | Packed | list[Any]
"""Packed `(args, kwargs)`: a list of scalars when there is nothing else, else as a `WireValue`."""


def size_of(wire: WireValue) -> int:
    """Bytes that a packed value takes, its buffers included: for windows, outboxes and limits. Near, not exact."""
    kind = type(wire)
    if kind is bytes or kind is str:
        return len(cast("bytes | str", wire))
    if kind is Packed:
        return cast("Packed", wire).size
    if kind is list:
        items = cast("list[Any]", wire)
        if items and type(items[0]) is bytes:
            return Packed.from_wire(items).size
        return sum(map(size_of, items))
    return _SCALAR_BYTES


def _outline(wire: Any) -> str:
    if isinstance(wire, list):
        return "[" + ", ".join(type(part).__name__ for part in wire[:6]) + "]"
    return type(wire).__name__
