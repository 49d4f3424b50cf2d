"""Somebody in the middle attacks two nodes that know the cluster's secret, which he does not.

He may read, hold back, change, repeat and invent what they say, and lead connections elsewhere. What he gets by it is
that they try again. Each test fails when the protection that it is about is taken away.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest

from actorfw.runtime.peers import OwnAddressError
from actorfw.testing.loop import run
from actorfw.testing.network import SimEnv
from actorfw.values.errors import AuthenticationError, PeerUnreachableError, ProtocolError, VersionMismatchError
from actorfw.wire.frames import HEADER_BYTES, SEAL_BYTES, header
from tests.sim.middle import Middle, Side, Tap, packet, unpacked
from tests.sim.peers_world import Node, World

FIELDS = ["kind", "protocol", "python", "cluster", "features", "life", "nonce", "ids", "mark", "address"]


class Attacked(World):
    """Node a reaches node b through his hands only; c reaches b through his hands too."""

    middle: Middle
    c: Node

    async def begin(self, *, sealed: bool = True) -> Attacked:
        await self.b.listen()
        self.c = self.node("c")
        env = SimEnv(self.loop, self.network, "m", self.seed)
        self.middle = await Middle(env, self.b.address, sealed=sealed).listen()
        self.b.peers.me.info["address"] = self.middle.address  # as by a translated address
        return self

    async def linked_by_him(self) -> Attacked:
        await self.begin()
        await self.a.peers.dial(self.middle.address)
        await asyncio.sleep(0.1)
        return self

    async def says(self, *values: Any) -> None:
        for value in values:
            self.a.sends(self.b, value)
            await asyncio.sleep(0.02)

    async def still_well(self) -> None:
        """What both say still arrives, once and in order, and nobody was buried."""
        await self.says("still", "well")
        self.b.sends(self.a, "too")
        await self.until(lambda: self.b.got[-2:] == ["still", "well"] and self.a.got[-1:] == ["too"])
        assert self.a.ended == self.b.ended == []

    @property
    def broken(self) -> int:
        return self.a.peers.counters["broken_frames"] + self.b.peers.counters["broken_frames"]


def world() -> Attacked:
    return Attacked(sealed=True)


# -- the handshake -----------------------------------------------------------------------------------------------------


def test_who_passes_on_everything_learns_and_changes_nothing() -> None:
    async def main() -> None:
        w = await world().linked_by_him()
        await w.says(1, 2)
        await w.still_well()
        assert w.b.got == [1, 2, "still", "well"]
        assert w.broken == 0

    run(main)


@pytest.mark.parametrize("field", FIELDS[1:])
@pytest.mark.parametrize("who", ["dialler", "acceptor"])
def test_no_field_of_the_greeting_can_be_changed(who: Side, field: str) -> None:
    """The features among them: to take the seals away, or to give them."""
    at = FIELDS.index(field) - (0 if who == "dialler" else 1)

    async def main() -> None:
        w = await world().begin()
        changed = 0

        def change(tap: Tap, side: Side, number: int, data: bytes) -> bytes:
            nonlocal changed
            if side != who or number != 1:
                return data
            changed += 1
            fields = unpacked(data)
            greeting = fields if who == "dialler" else msgpack.unpackb(fields[1])
            match greeting[at] if at < len(greeting) else None:
                case int(value):
                    greeting[at] = value ^ 1
                case bytes(value):
                    greeting[at] = bytes([value[0] ^ 1]) + value[1:] if value else b"x"
                case str(value):
                    greeting[at] = value[:-1] + ("x" if value[-1:] != "x" else "y")
                case list(value):
                    greeting[at] = [b"12345678", *value]
                case _:
                    return packet([2, b"", b""])
            return packet(greeting if who == "dialler" else [2, msgpack.packb(greeting), fields[2]])

        w.middle.on_packet = change
        with pytest.raises((AuthenticationError, VersionMismatchError, ProtocolError)):
            await w.a.peers.dial(w.middle.address)
        assert changed == 1
        assert not w.a.peers.by_life
        assert not w.b.peers.by_life
        w.middle.on_packet = lambda tap, side, number, data: data
        await w.a.peers.dial(w.middle.address)
        await w.still_well()

    run(main)


@pytest.mark.parametrize("who", ["dialler", "acceptor"])
def test_what_a_side_says_of_itself_can_t_be_changed(who: Side) -> None:
    """Its address, its name: in the proof and in the welcome."""

    async def main() -> None:
        w = await world().begin()
        changed: list[bytes] = []

        def change(tap: Tap, side: Side, number: int, data: bytes) -> bytes:
            if side != who or number != 2:
                return data
            kind, inner, tag = unpacked(data)
            said = msgpack.unpackb(inner)
            said[-1]["name"] = "his"
            changed.append(data)
            return packet([kind, msgpack.packb(said), tag])

        w.middle.on_packet = change
        with pytest.raises((AuthenticationError, PeerUnreachableError)):
            await w.a.peers.dial(w.middle.address)
        assert changed
        assert all(peer.name != "his" for node in (w.a, w.b) for peer in node.peers.by_life.values())
        w.middle.on_packet = lambda tap, side, number, data: data
        await w.a.peers.dial(w.middle.address)
        await w.still_well()

    run(main)


def test_a_handshake_can_t_be_repeated() -> None:
    """Neither to the acceptor, with all that followed, nor to the dialler."""

    async def main() -> None:
        w = await world().begin()
        heard: dict[Side, list[bytes]] = {"dialler": [], "acceptor": []}

        def note(tap: Tap, side: Side, number: int, data: bytes) -> bytes:
            heard[side].append(data)
            return data

        w.middle.on_packet = w.middle.on_frame = note
        await w.a.peers.dial(w.middle.address)
        await w.says("secretly")
        before = list(w.b.got)
        failed = w.b.peers.counters["failed_handshakes"]
        answer = await w.middle.say(w.b.address, b"".join(heard["dialler"]))
        assert unpacked(answer)[0] == 2, "it is challenged anew, which he can't answer"
        assert len(answer) < len(b"".join(heard["acceptor"][:2]))
        assert w.b.peers.counters["failed_handshakes"] == failed + 1
        assert w.b.got == before
        # To a newcomer, in b's stead.
        w.middle.on_packet = lambda tap, side, number, data: heard[side][number - 1]
        with pytest.raises(AuthenticationError):
            await w.c.peers.dial(w.middle.address)
        w.middle.on_packet = lambda tap, side, number, data: data
        await w.still_well()

    run(main)


def test_a_node_is_not_taken_for_another_by_what_it_says_itself() -> None:
    """Its own words come back: to a newcomer's dial, to a dial for a certain life, and beside a session."""

    async def main() -> None:
        w = await Attacked(sealed=True, judges=False).begin()
        await w.a.listen()
        own = w.a.address
        w.middle.target = own
        with pytest.raises(OwnAddressError):
            await w.a.peers.dial(w.middle.address)
        with pytest.raises(PeerUnreachableError, match="leads elsewhere"):
            await w.a.peers.dial(w.middle.address, expect=w.b.peers.me.life)
        assert not w.a.peers.by_life
        w.middle.target = w.b.address
        await w.a.peers.dial(w.middle.address)
        w.middle.target = own
        w.middle.taps[-1].close()
        await asyncio.sleep(1.0)
        assert {kind for kind, _ in w.a.evidences} <= {"eof", "unreachable"}
        w.middle.target = w.b.address
        await w.still_well()
        assert [*w.a.peers.by_life] == [w.b.peers.me.life]

    run(main)


def test_two_handshakes_at_a_time_can_t_be_mixed() -> None:
    """Of the same two nodes, and of two diallers with one acceptor: challenges, then proofs, change places."""

    async def main() -> None:
        for same, who in ((True, "acceptor"), (False, "acceptor"), (False, "dialler")):
            w = await world().begin()
            waiting: list[Tap] = []
            said: list[bytes] = []

            def swap(tap: Tap, side: Side, number: int, data: bytes) -> bytes | None:
                if side != who or number != (1 if who == "acceptor" else 2):  # noqa: B023
                    return data
                waiting.append(tap)  # noqa: B023
                said.append(data)  # noqa: B023
                if len(waiting) == 2:  # noqa: B023
                    waiting[0].tell(side, said[1])  # noqa: B023
                    waiting[1].tell(side, said[0])  # noqa: B023
                return None

            w.middle.on_packet = swap
            nodes = (w.a, w.a if same else w.c)
            found = await asyncio.gather(*(attempt(node, w, who) for node in nodes), return_exceptions=True)
            assert all(isinstance(error, (AuthenticationError, PeerUnreachableError)) for error in found), found
            assert len(waiting) == 2
            assert not w.b.peers.by_life

    async def attempt(node: Node, w: Attacked, who: str) -> None:
        if who == "acceptor":
            await node.peers.probe(w.middle.address, w.b.peers.me.life)
        else:
            await node.peers.dial(w.middle.address)

    run(main)


def test_forged_refusals_cost_a_retry_and_nobody_s_life() -> None:
    """With every code there is, in the place of the challenge and in that of the welcome."""
    codes = ["protocol", "python", "cluster", "secret", "tls", "full", "epoch", "closing", "self"]
    codes += ["dead", "reborn", "later", "over", "left", "none such"]

    async def main() -> None:
        for number in (1, 2):
            for code in codes:
                w = await Attacked(sealed=True, judges=False).linked_by_him()
                forged = 0

                def forge(tap: Tap, side: Side, at: int, data: bytes) -> bytes:
                    nonlocal forged
                    if side != "acceptor" or at != number or forged == 3:  # noqa: B023
                        return data
                    forged += 1
                    return packet([5, code, "\x1b[31mgo away\n" * 50, 2**40, b"\0" * 32])  # noqa: B023

                w.middle.on_packet = forge
                told: list[Any] = []
                w.a.peers.tombstones.told = lambda *why, told=told: told.append(why)  # type: ignore[misc]
                w.middle.taps[-1].close()
                await w.still_well()
                assert forged == 3
                assert told == []
                assert {kind for kind, _ in w.a.evidences} <= {"eof", "unreachable"}
                assert not any("\x1b" in detail or "\n" in detail for _, detail in w.a.evidences)

    run(main)


def test_a_connection_that_is_led_to_another_node_proves_nobody_s_death() -> None:
    async def main() -> None:
        w = await Attacked(sealed=True, judges=False).linked_by_him()
        await w.c.listen()
        w.middle.target = w.c.address
        w.middle.taps[-1].close()
        await asyncio.sleep(1.0)
        assert w.a.evidences
        assert {kind for kind, _ in w.a.evidences} <= {"eof", "unreachable"}
        w.middle.target = w.b.address
        await w.still_well()

    run(main)


def test_who_really_has_the_address_now_is_proof() -> None:
    async def main() -> None:
        w = await Attacked(sealed=True, judges=False).linked_by_him()
        await w.c.listen()
        w.c.peers.me.info["address"] = w.middle.address
        w.middle.target = w.c.address
        w.middle.taps[-1].close()
        await w.until(lambda: any(kind == "another_life" for kind, _ in w.a.evidences))

    run(main)


def test_secrets_of_two_handshakes_can_t_be_told_to_be_the_same() -> None:
    """Nor be looked up in a list that was made before."""

    async def main() -> None:
        w = await world().begin()
        ids: list[bytes] = []

        def note(tap: Tap, side: Side, number: int, data: bytes) -> bytes:
            if side == "dialler" and number == 1:
                ids.extend(unpacked(data)[FIELDS.index("ids")])
            return data

        w.middle.on_packet = note
        for _ in range(5):
            await w.a.peers.probe(w.middle.address, w.b.peers.me.life)
        assert len(set(ids)) == 5

    run(main)


# -- frames ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["changed", "left out", "twice", "late", "cut short", "longer", "its seal taken away"])
@pytest.mark.parametrize("who", ["dialler", "acceptor"])
def test_frames_arrive_once_in_order_or_the_link_is_closed(who: Side, how: str) -> None:
    async def main() -> None:
        w = await world().linked_by_him()
        held: list[bytes] = []
        done: list[int] = []

        def attack(tap: Tap, side: Side, number: int, data: bytes) -> bytes | None:
            if side != who or len(data) == HEADER_BYTES + SEAL_BYTES or tap is not w.middle.taps[0]:
                return data
            if held:
                return data + held.pop()
            if done:
                return data
            done.append(number)
            match how:
                case "changed":
                    return data[:-1] + bytes([data[-1] ^ 1])
                case "left out":
                    return None
                case "twice":
                    return data + data
                case "late":
                    held.append(data)
                    return None
                case "cut short":
                    return data[:-1]
                case "longer":
                    return (len(data) - HEADER_BYTES - SEAL_BYTES + 1).to_bytes(4, "little") + data[4:] + b"\0"
                case _:
                    return data[:HEADER_BYTES] + data[HEADER_BYTES + SEAL_BYTES :]

        w.middle.on_frame = attack
        sender, other = (w.a, w.b) if who == "dialler" else (w.b, w.a)
        for value in range(6):
            sender.sends(other, value)
            await asyncio.sleep(0.02)
        await w.until(lambda: len(other.got) == 6)
        assert other.got == [*range(6)]
        assert done
        assert bool(w.broken) is (how != "twice")
        assert len(w.middle.taps) == (1 if how == "twice" else 2)
        await w.still_well()

    run(main)


@pytest.mark.parametrize("where", ["the other direction", "another node's link", "a later link"])
def test_a_frame_of_one_link_is_worth_nothing_on_another(where: str) -> None:
    """Though its number is the one that is expected there."""

    async def main() -> None:
        w = await world().linked_by_him()
        heard: list[bytes] = []
        placed: list[Tap] = []

        def note(tap: Tap, side: Side, number: int, data: bytes) -> bytes | None:
            if len(data) == HEADER_BYTES + SEAL_BYTES:
                return data
            if side == "dialler" and tap is w.middle.taps[0] and not heard:
                heard.append(data)
                return None if where == "a later link" else data
            target: tuple[Tap, Side] = {
                "the other direction": (w.middle.taps[0], "acceptor"),
                "another node's link": (w.middle.taps[-1], "dialler"),
                "a later link": (w.middle.taps[-1], "dialler"),
            }[where]  # type: ignore[assignment]
            if heard and not placed and (tap, side) == target and (where != "a later link" or len(w.middle.taps) > 1):
                placed.append(tap)
                return heard[0]
            return data

        w.middle.on_frame = note
        if where == "another node's link":
            await w.c.peers.dial(w.middle.address)
            await asyncio.sleep(0.1)
        await w.says("of a")
        if where == "the other direction":
            w.b.sends(w.a, "of b")
            await w.until(lambda: w.a.got == ["of b"])
        elif where == "another node's link":
            w.c.sends(w.b, "of c")
            await w.until(lambda: "of c" in w.b.got)
        else:
            w.middle.taps[0].close()
        await w.until(lambda: "of a" in w.b.got)
        assert placed
        assert w.broken == 1
        assert sorted(w.b.got) == (["of a", "of c"] if where == "another node's link" else ["of a"])
        await w.still_well()

    run(main)


def test_a_connection_that_is_taken_over_carries_nothing() -> None:
    """He breaks it off, and goes on in its stead: on a connection of his own, and on the one that stands."""

    async def main() -> None:
        w = await world().linked_by_him()
        await w.says("mine")
        command = msgpack.packb([[8, "his"]])
        forged = [header(len(command), 2, 0) + seal + command for seal in (b"", b"\0" * SEAL_BYTES)]
        for frame in forged:
            assert await w.middle.say(w.b.address, frame) == b""
            broken = w.broken
            w.middle.taps[-1].tell("dialler", frame + b"\0" * 100)
            await w.until(lambda broken=broken: w.broken > broken)  # type: ignore[misc]
            await w.still_well()
        assert "his" not in w.b.got

    run(main)


def test_who_breaks_link_after_link_does_not_part_two_nodes_for_good() -> None:
    """What is forged says nothing of the node in whose name it comes."""

    async def main() -> None:
        w = await world().linked_by_him()
        broken = 0

        def spoil(tap: Tap, side: Side, number: int, data: bytes) -> bytes:
            nonlocal broken
            broken += 1
            return data[:-1] + bytes([data[-1] ^ 1])

        w.middle.on_frame = spoil
        await w.says("patience")
        await w.until(lambda: len(w.middle.taps) > 25)
        assert w.b.got == []
        w.middle.on_frame = lambda tap, side, number, data: data
        await w.until(lambda: w.b.got == ["patience"])
        assert not w.a.peer(w.b).session.held
        assert not w.b.peer(w.a).session.held
        await w.still_well()

    run(main)


def test_what_leaves_the_machine_is_sealed_from_one_node_to_the_other() -> None:
    async def main() -> None:
        w = await World(sealed=True).linked()
        for one, other in ((w.a, w.b), (w.b, w.a)):
            link = one.peer(other).link
            assert link is not None
            assert link.sealed

    run(main)


# -- on one machine ----------------------------------------------------------------------------------------------------


def test_on_one_machine_frames_have_no_seals_unless_somebody_is_between() -> None:
    """A process of another user may have the port where a node was, and pass on what it gets to one that lives."""

    async def main() -> None:
        w = await Attacked().begin(sealed=True)
        direct = await w.c.peers.dial(w.b.address)
        assert direct.link is not None
        assert not direct.link.sealed
        peer = await w.a.peers.dial(w.middle.address)
        assert peer.link is not None
        assert peer.link.sealed
        await w.says("mine")
        command = msgpack.packb([[8, "his"]])
        w.middle.taps[-1].tell("dialler", header(len(command), 2, 0) + command)
        await w.still_well()
        assert "his" not in w.b.got
        assert w.broken == 1

    run(main)


def test_who_is_between_can_t_say_that_he_is_not() -> None:
    async def main() -> None:
        w = await Attacked().begin()

        def lie(tap: Tap, side: Side, number: int, data: bytes) -> bytes:
            if side == "dialler" and number == 1:
                fields = unpacked(data)
                fields[FIELDS.index("mark")] = f"127.0.0.1:0 {w.b.address}".encode()
                return packet(fields)
            return data

        w.middle.on_packet = lie
        with pytest.raises(AuthenticationError):
            await w.a.peers.dial(w.middle.address)
        assert not w.b.peers.by_life

    run(main)
