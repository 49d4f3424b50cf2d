"""Making bad input out of good: by bytes, and by the structure of msgpack, so that what is behind the first check is
reached as well. All from one source of chance; nothing here knows what the bytes are for.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgpack

__all__ = ["Mutator", "pack", "packet", "packets", "unpacked"]

NUMBERS = (0, 1, -1, 2, 7, 8, 15, 16, 127, 128, 255, 256, 511, 1023, 65_535, 1 << 16, 1 << 31, (1 << 32) - 1)
LARGE = (1 << 40, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1)
DEPTHS = (3, 100, 500, 1000, 1021)


def pack(value: object) -> bytes:
    """As msgpack, also what is nested more deeply than it writes."""
    try:
        return msgpack.packb(value)  # type: ignore[no-any-return]
    except (ValueError, OverflowError, TypeError):
        return b"\x91" * 1000 + b"\x90"


def unpacked(data: bytes) -> Any:
    """The value of these bytes, or None."""
    try:
        return msgpack.unpackb(data, strict_map_key=False)
    except Exception:  # half a dozen unrelated types
        return None


def packet(body: bytes) -> bytes:
    """A packet of a handshake."""
    return b"afw:" + len(body).to_bytes(4, "little") + body


def packets(stream: bytes) -> list[bytes]:
    """The bodies of the packets that a stream begins with."""
    found: list[bytes] = []
    while stream[:4] == b"afw:" and len(stream) >= 8:
        size = int.from_bytes(stream[4:8], "little")
        found.append(stream[8 : 8 + size])
        stream = stream[8 + size :]
    return found


class Mutator:
    """Changes what it is given, a little or a lot."""

    def __init__(self, seed: int | str) -> None:
        self.random = random.Random(seed)

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def bytes(self, data: bytes, most: int = 1 << 16) -> bytes:
        """Other bytes."""
        rng = self.random
        made = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
            at = rng.randrange(len(made) + 1)
            match rng.randrange(8):
                case 0 if made:
                    made[at % len(made)] ^= 1 << rng.randrange(8)
                case 1 if made:
                    made[at % len(made)] = rng.randrange(256)
                case 2:
                    made[at:at] = rng.randbytes(rng.choice((1, 2, 4, 30)))
                case 3:
                    del made[at : at + rng.choice((1, 2, 4, 30))]
                case 4:
                    del made[at:]
                case 5:
                    number = rng.choice(NUMBERS + LARGE).to_bytes(9, "little", signed=True)[:4]
                    made[at : at + 4] = rng.choice((number, number, b"\xff" * 4, b"\0" * 4, b"\x91" * 40, b"\xc1"))
                case 6:
                    size = rng.choice((4, 20, 100))
                    made[at:at] = made[at : at + size] * rng.choice((1, 2, 10))
                case _:
                    other = rng.randrange(len(made) + 1)
                    made[at:at] = made[other : other + 20]
        return bytes(made[:most])

    # -- structure -----------------------------------------------------------------------------------------------------

    def value(self, value: Any, others: Sequence[Any] = ()) -> Any:
        """Another value of nearly this shape; parts may come out of `others`."""
        rng = self.random
        if isinstance(value, (list, tuple)) and value and rng.random() < 0.85:
            made = list(value)
            for _ in range(rng.choice((1, 1, 2, 3))):
                if not made:
                    break
                at = rng.randrange(len(made))
                match rng.randrange(10):
                    case 0:
                        del made[at]
                    case 1:
                        made.insert(at, self.anything())
                    case 2:
                        made.insert(at, made[rng.randrange(len(made))])
                    case 3 if others:
                        made[at] = rng.choice(others)
                    case _:
                        made[at] = self.value(made[at], others)
            return made
        if isinstance(value, dict) and value and rng.random() < 0.85:
            changed = dict(value)
            key = rng.choice(list(changed))
            match rng.randrange(4):
                case 0:
                    del changed[key]
                case 1:
                    changed[rng.choice((0, "", "x", b"y", None))] = self.anything()
                case _:
                    changed[key] = self.value(changed[key], others)
            return changed
        if others and rng.random() < 0.2:
            return rng.choice(others)
        if isinstance(value, bool) or value is None or rng.random() < 0.2:
            return self.anything()
        if isinstance(value, int):
            return rng.choice((value + 1, value - 1, -value, *NUMBERS, *LARGE))
        if isinstance(value, float):
            return rng.choice((0.0, -1.0, 1e300, float("inf"), float("nan"), -value))
        if isinstance(value, bytes):
            return self.bytes(value)
        if isinstance(value, str):
            return rng.choice(("", value + "x", value[:-1], value * 3, "\0", "é" * 100, "\n" + value, "x" * 70_000))
        return self.anything()

    def anything(self) -> Any:
        """A value of any type that msgpack knows."""
        rng = self.random
        match rng.randrange(12):
            case 0:
                return None
            case 1:
                return rng.random() < 0.5
            case 2:
                return rng.choice(NUMBERS)
            case 3:
                return rng.choice(LARGE)
            case 4:
                return rng.choice((0.0, float("nan"), float("inf")))
            case 5:
                return rng.choice(("", "x", "nonsense", "\x1b[2J", "x" * 1000))
            case 6:
                return rng.randbytes(rng.choice((0, 1, 8, 16, 32, 1000)))
            case 7:
                return [self.anything() for _ in range(rng.randrange(4))]
            case 8:
                return {rng.choice(("a", 1, None)): self.anything()}
            case 9:
                return msgpack.ExtType(rng.randrange(128), b"x")
            case 10:
                nested: list[Any] = []
                for _ in range(rng.choice(DEPTHS)):
                    nested = [nested]
                return nested
            case _:
                return [0] * rng.choice((10, 1000, 20_000))
