"""Targets of what comes after the handshake, taken by themselves: frames, batches, and packed values."""

from __future__ import annotations

import random
import resource
import sys
from pathlib import Path
from typing import Any

import msgpack

from actorfw.values.errors import ProtocolError, SerializationError
from actorfw.wire import frames
from actorfw.wire.code import CodeTable
from actorfw.wire.codec import Codec
from actorfw.wire.frames import FrameParser, header, sealer, unpack_batch
from actorfw.wire.payload import Packed
from tests.fuzz.handshakes import Found
from tests.fuzz.mutating import Mutator, pack, unpacked

__all__ = ["TARGETS"]

KEY = b"k" * 32
MORE = 1 << 30


class Frames:
    """A stream of frames, with seals and without, in pieces of any size."""

    def seeds(self) -> list[bytes]:
        made = []
        seal = sealer(KEY)
        for sealed in (0, 1):
            for batches in ([[]], [[[9, 1]], [[10, b"x" * 40], [11]]], [[[2, 7, b"y" * 40_000]]]):
                stream = bytes([sealed])
                for n, messages in enumerate(batches, 1):
                    batch = msgpack.packb(messages)
                    head = header(len(batch), n, 0)
                    stream += head + (seal(head, batch) if sealed else b"") + batch
                made.append(stream)
        return made

    def mutated(self, seed: bytes, mutator: Mutator) -> bytes:
        if mutator.random.random() < 0.3:
            size = mutator.random.choice((0, 5, 0xFFFFFF, 0x400008, 0x400009, 0x1000005))
            return seed[:1] + header(size, mutator.random.choice((0, 1, 1 << 60)), 0) + seed[21:]
        return seed[:1] + mutator.bytes(seed[1:], 1 << 17)

    def one(self, data: bytes) -> None:
        sealed = bool(data[:1] and data[0] & 1)
        stream = data[1:]
        whole, why = self.parse(stream, sealed, len(stream) or 1)
        rng = random.Random(len(stream))
        parts, why_parts = self.parse(stream, sealed, rng.choice((1, 7, 100)) if len(stream) < 500 else 4_000)
        if (why is None) != (why_parts is None):
            raise Found(f"in one piece: {why}; in many: {why_parts}")
        if why is None and [(n, ack, bytes(batch)) for n, ack, batch in whole] != [
            (n, ack, bytes(batch)) for n, ack, batch in parts
        ]:
            raise Found("the same bytes are other frames when they come in pieces")
        for _, _, batch in parts:
            try:
                messages = unpack_batch(batch)
            except ProtocolError:
                continue
            if type(messages) is not list:
                raise Found(f"a batch is a {type(messages)}")

    def parse(self, stream: bytes, sealed: bool, size: int) -> tuple[list[Any], Exception | None]:
        parser = FrameParser(sealer(KEY) if sealed else None)
        found: list[Any] = []
        for at in range(0, len(stream), size):
            try:
                found += parser.feed(stream[at : at + size])
            except ProtocolError as error:
                return found, error
            held = sum(map(len, parser._kept)) + len(parser._large or b"")
            if held > frames.MAX_MESSAGE_BYTES + 1024 + size:
                raise Found(f"a parser holds {held} bytes")
        for _, _, batch in found:
            if sealed and not any(bytes(batch) in seed for seed in self.seeds()[3:]):
                raise Found("a sealed frame was taken that nobody with the key has made")
        return found, None

    def over(self) -> str:
        return ""


class Values:
    """Packed values whose envelope or bytes are damaged: whoever unpacks them gets an error of its own, or a value."""

    growth = MORE + (100 << 20)

    def __init__(self) -> None:
        # What a bad pickle asks for it gets, as far as memory goes: a peer that is let in may do worse. (A single
        # opcode has CPython's unpickler make a table of up to 64 GiB.) So there must be an end to memory here.
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        self.before = soft, hard
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE, hard))
        self.codec = Codec(CodeTable("here"))
        self.codec.register(Thing, lambda thing: ((b"l" * 16, 7, "a:1"), None), lambda ref, extra: Thing())
        self.recursion = sys.getrecursionlimit()
        self.active = False
        sys.addaudithook(self.audit)

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        # A damaged pickle may name anything. What it would do is not what is looked at here.
        if event == "pickle.find_class" and self.active and args[0] not in ("actorfw.wire.codec", "tests.fuzz.streams"):
            raise ValueError("not in this test")

    def seeds(self) -> list[bytes]:
        values: list[Any] = [
            [1, 2.5, "text", b"bytes"],
            {"a": [Thing(), (1, 2)], "b": {3, 4}},
            b"x" * 70_000,
            "é" * 10,
            [bytearray(100), memoryview(b"abc" * 10)],
            [[[[[1]]]]],
        ]
        made = []
        for value in values:
            packed = self.codec.pack(value)
            made.append(pack(packed.portable() if type(packed) is Packed else packed))
        return made

    def mutated(self, seed: bytes, mutator: Mutator) -> bytes:
        value = unpacked(seed)
        if isinstance(value, bytes):
            return pack(mutator.bytes(value))
        if isinstance(value, list) and value and isinstance(value[0], bytes) and mutator.random.random() < 0.4:
            value[0] = mutator.bytes(value[0])
            return pack(value)
        return pack(mutator.value(value)) if mutator.random.random() < 0.8 else mutator.bytes(seed)

    def one(self, data: bytes) -> None:
        wire = unpacked(data)
        self.active = True
        try:
            self.codec.unpack(wire)
        except SerializationError:
            pass
        finally:
            self.active = False
        if sys.getrecursionlimit() != self.recursion:
            raise Found("the recursion limit has changed")

    def over(self) -> str:
        resource.setrlimit(resource.RLIMIT_AS, self.before)
        return ""


class Thing:
    """It travels as a ref."""


TARGETS = {"frames": Frames, "values": Values}
