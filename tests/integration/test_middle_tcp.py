"""Somebody between two nodes of one machine, over real TCP. More attacks: `tests/sim/test_middle.py`."""

from __future__ import annotations

import msgpack
import pytest

from actorfw.io.env import RealEnv
from actorfw.wire.frames import SEAL_BYTES, header
from tests.integration.test_peers_tcp import DATA, Node, Run, on_loop
from tests.sim.middle import Middle, Side, Tap

__all__ = ["on_loop"]

pytestmark = pytest.mark.real


@pytest.mark.parametrize("forged_seal", [b"", b"\0" * SEAL_BYTES])
def test_a_relay_gets_no_word_of_its_own_in(on_loop: Run, forged_seal: bytes) -> None:
    """He has a port where a node was, or is thought to be, and passes on to one that lives: perhaps of another user."""

    async def main() -> None:
        async with Node("a") as a, Node("b") as b, Node("c") as c:
            middle = await Middle(RealEnv(), b.address).listen()
            try:
                direct = await c.peers.dial(b.address)
                assert direct.link is not None
                assert not direct.link.sealed
                peer = await a.peers.dial(middle.address)
                assert peer.link is not None
                assert peer.link.sealed
                peer.send((DATA, "of a"))
                await b.until(lambda: b.got == ["of a"])
                his = msgpack.packb([[DATA, "his"]])
                middle.taps[0].tell("dialler", header(len(his), 2, 0) + forged_seal + his + b"\0" * 100)
                await b.until(lambda: b.peers.counters["broken_frames"] == 1)
                peer.send((DATA, "still of a"))
                await b.until(lambda: b.got == ["of a", "still of a"])
                assert not a.ended
                assert not b.ended
            finally:
                middle.close()

    on_loop(main)


def test_what_he_changes_arrives_as_it_was(on_loop: Run) -> None:
    async def main() -> None:
        async with Node("a") as a, Node("b") as b:
            middle = await Middle(RealEnv(), b.address).listen()
            changed: list[bytes] = []

            def change(tap: Tap, side: Side, number: int, data: bytes) -> bytes:
                if b"pay 10" not in data or changed:
                    return data
                changed.append(data)
                return data.replace(b"pay 10", b"pay 99")

            middle.on_frame = change
            try:
                peer = await a.peers.dial(middle.address)
                for value in ("first", "pay 10", "last"):
                    peer.send((DATA, value))
                await b.until(lambda: len(b.got) == 3)
                assert b.got == ["first", "pay 10", "last"]
                assert changed
                assert b.peers.counters["broken_frames"] == 1
            finally:
                middle.close()

    on_loop(main)
