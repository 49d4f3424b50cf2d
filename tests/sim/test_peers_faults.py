"""Two `Peers` over a network that breaks in every way TCP can: messages arrive exactly once, in order, or the peer is
known to be dead."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from actorfw.core.pace import LEAST, MOST
from actorfw.core.session import WINDOW_BYTES, Instruction, Resend, Session
from actorfw.runtime.bulk import CHUNK
from actorfw.runtime.peers import OwnAddressError, Peer
from actorfw.testing.loop import run
from actorfw.values.config import Config
from actorfw.values.errors import AuthenticationError, PeerUnreachableError, ProtocolError, VersionMismatchError
from actorfw.wire.frames import header
from tests.sim.peers_world import DATA, FAULTY, World, passed, talk


def bytes_of_a_talk() -> tuple[int, int]:
    async def main() -> tuple[int, int]:
        world = await World().linked()
        before = passed(world, "a"), passed(world, "b")
        await talk(world)
        return passed(world, "a") - before[0], passed(world, "b") - before[1]

    return run(main)


@pytest.mark.parametrize("src", ["a", "b"])
def test_a_link_cut_after_every_single_byte(src: str) -> None:
    """Every frame boundary and every place inside a frame, before and after the other side has processed it."""
    size = bytes_of_a_talk()[0 if src == "a" else 1]
    assert size > 60

    async def main() -> None:
        for at in range(1, size + 1):
            world = await World(at).linked()
            world.network.cut_after(src, "b" if src == "a" else "a", at)
            await talk(world)
            assert world.network.between("a", "b")

    run(main)


@pytest.mark.parametrize("src", ["a", "b"])
def test_a_link_cut_anywhere_in_its_handshake(src: str) -> None:
    async def main() -> None:
        for at in range(1, 700, 7):
            world = await World(at).listen()
            world.network.cut_next(src, "b" if src == "a" else "a", at)
            while True:
                try:
                    await world.a.peers.dial(world.b.address)
                except PeerUnreachableError:
                    continue
                break
            await world.until(lambda w=world: len(w.b.peers.by_life) == 1)  # type: ignore[misc]
            await talk(world)
            assert world.a.ups == world.b.ups == 1

    run(main)


@pytest.mark.parametrize("deliver", ["all", "none", "some"])
def test_a_link_cut_with_frames_on_their_way(deliver: Any) -> None:
    async def main() -> None:
        for seed in range(20):
            world = await World(seed, fragment=True).linked()
            world.a.sends(world.b, *range(100))
            world.b.sends(world.a, *range(100))
            await asyncio.sleep(0)
            await asyncio.sleep(seed * 0.0003)
            world.network.cut("a", "b", deliver=deliver)
            world.a.sends(world.b, *range(100, 200))
            await world.until(lambda w=world: len(w.b.got) >= 200 and len(w.a.got) >= 100)  # type: ignore[misc]
            await asyncio.sleep(1)
            assert world.b.got == list(range(200))
            assert world.a.got == list(range(100))

    run(main)


def test_both_sides_dial_at_once() -> None:
    async def main() -> None:
        for seed in range(50):
            world = await World(seed).listen()
            a, b = world.a, world.b
            got = await asyncio.gather(a.peers.dial(b.address), b.peers.dial(a.address), a.peers.dial(b.address))
            assert [peer.life for peer in got] == [b.peers.me.life, a.peers.me.life, b.peers.me.life]
            await talk(world)
            assert a.ups == b.ups == 1
            assert len(world.network.between("a", "b")) == 1

    run(main)


@pytest.mark.parametrize("told", ["a", "b"])
def test_the_old_link_still_half_open(told: str) -> None:
    """One side knows that the link broke and dials; the other believes in the old one until then."""

    async def main() -> None:
        for seed in range(20):
            world = await World(seed).linked()
            world.a.sends(world.b, *range(10))
            world.b.sends(world.a, *range(10))
            await asyncio.sleep(seed * 0.0005)
            world.network.cut("a", "b", notice=told)
            world.a.sends(world.b, *range(10, 20))
            world.b.sends(world.a, *range(10, 20))
            await world.until(lambda w=world: len(w.b.got) >= 20 and len(w.a.got) >= 20)  # type: ignore[misc]
            assert world.a.got == world.b.got == list(range(20))

    run(main)


def test_a_stalled_direction_delays_and_loses_nothing() -> None:
    async def main() -> None:
        world = await World().linked()
        world.network.stall("a", "b")
        world.a.sends(world.b, 1)
        world.b.sends(world.a, 2)
        await asyncio.sleep(60)
        assert world.a.got == [2]
        assert world.b.got == []
        world.network.heal()
        await world.until(lambda: world.b.got == [1])
        assert world.a.ended == world.b.ended == []

    run(main)


def test_what_waits_is_bounded_by_the_window_and_the_rest_is_counted() -> None:
    async def main() -> None:
        world = await World().linked()
        world.network.stall("a", "b")
        peer = world.a.peer(world.b)
        for i in range(300):
            peer.send((DATA, i, b"x" * 100_000))
        await asyncio.sleep(5)
        assert peer.unacked_bytes < WINDOW_BYTES + 300_000
        assert peer.unacked_bytes + peer.queued_bytes > 30_000_000
        world.network.heal()
        await world.until(lambda: len(world.b.got) == 300)
        assert world.b.got == list(range(300))
        await asyncio.sleep(1)
        assert peer.unacked_bytes == peer.queued_bytes == 0

    run(main)


def test_everything_is_acknowledged_soon_after_silence() -> None:
    async def main() -> None:
        world = await World().linked()
        world.a.sends(world.b, 1, 2, 3)
        await asyncio.sleep(0.05)
        assert world.a.peer(world.b).unacked_bytes == 0
        before = world.network.delivered
        await asyncio.sleep(3600)
        assert world.network.delivered == before  # and then the link is silent

    run(main)


def test_a_killed_process_is_dead_at_once_and_hands_back_what_was_never_sent() -> None:
    async def main() -> None:
        world = await World().linked()
        peer = world.a.peer(world.b)
        world.a.sends(world.b, "sent")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        before = world.loop.time()
        world.network.crash("b")
        await world.until(lambda: not peer.connected)
        peer.send((DATA, "unsent"))
        peer.send_large((DATA, "large"), [b"x" * 1_000_000])
        await world.until(lambda: bool(world.a.ended))
        assert world.loop.time() - before < 0.1
        [(reason, detail, unsent)] = world.a.ended
        assert reason == peer.ended == "dead"
        assert "refused" in detail
        assert unsent == [(DATA, "unsent"), (DATA, "large")]
        peer.send((DATA, "after the end"))
        assert world.a.peers.by_life == {}

    run(main)


def test_a_peer_without_a_link_is_lost_when_patience_ends_and_its_session_is_not() -> None:
    async def main() -> None:
        world = await World(config=Config(link_patience=5)).linked()
        world.network.crash("b", silent=True)
        await asyncio.sleep(60)
        assert world.a.lost == []  # nothing broke: whether it answers is asked by the membership protocol
        world.network.cut("a", "b")
        await asyncio.sleep(0.01)
        world.a.sends(world.b, "unsent")
        await asyncio.sleep(4.9)
        assert world.a.lost == []
        await asyncio.sleep(0.2)
        [(detail, unsent)] = world.a.lost
        assert "5 s" in detail
        assert unsent == [(DATA, "unsent")]
        assert world.a.evidences[0][0] == "eof"
        peer = world.a.peer(world.b)
        assert peer.lost
        await asyncio.sleep(600)
        assert world.a.ended == []
        assert len(world.a.lost) == 1
        assert {kind for kind, _ in world.a.evidences} == {"eof", "unreachable"}

    run(main)


def test_a_partition_longer_than_patience_delays_and_loses_nothing() -> None:
    async def main() -> None:
        world = await World(config=Config(link_patience=2)).linked()
        world.network.partition(["a"], ["b"])
        world.network.cut("a", "b", deliver="none")
        world.a.sends(world.b, 1)
        await asyncio.sleep(60)
        assert len(world.a.lost) == len(world.b.lost) == 1
        world.a.peer(world.b).rewrite_unsent(lambda message: (DATA, -1) if message[1] == 2 else message)
        world.a.sends(world.b, 2)
        world.a.peer(world.b).rewrite_unsent(lambda message: (DATA, -2) if message[1] == 2 else message)
        world.network.heal()
        await world.until(lambda: world.b.got == [1, -2])
        assert world.a.backs == world.b.backs == 1
        assert not world.a.peer(world.b).lost
        await talk_on(world)

    run(main)


def test_evidence_alone_ends_nothing() -> None:
    """Refused dials, broken links: the session goes on for as long as nobody buries its peer."""

    async def main() -> None:
        world = await World(judges=False).linked()
        world.network.refuse("b")
        world.network.cut("a", "b")
        world.a.sends(world.b, "late")
        await asyncio.sleep(300)
        assert {"eof", "refused"} <= {kind for kind, _ in world.a.evidences}
        assert world.a.ended == []
        world.network.heal()
        await world.until(lambda: world.b.got == ["late"])

    run(main)


def test_a_life_that_never_was_a_peer_is_buried_like_one() -> None:
    async def main() -> None:
        world = await World().listen()
        life = world.b.peers.me.life
        world.a.peers.bury(life, "for the test", "b")
        world.a.peers.bury(life, "again", "b")
        assert world.a.ended == [("dead", "for the test", [])]
        with pytest.raises(PeerUnreachableError, match="dead"):
            await world.a.peers.dial(world.b.address)

    run(main)


async def talk_on(world: World) -> None:
    before = len(world.b.got)
    world.a.sends(world.b, "more")
    await world.until(lambda: world.b.got[before:] == ["more"])


# Links that nobody needs.


def test_an_opened_session_is_dialled_by_what_is_sent_first() -> None:
    async def main() -> None:
        world = await World().listen()
        peer = world.a.peers.open(world.b.peers.me.life, world.b.address, "b")
        assert world.a.peers.open(world.b.peers.me.life, world.b.address, "b") is peer
        assert world.a.ups == 1
        await asyncio.sleep(60)
        assert world.network.connections == []
        world.a.sends(world.b, 1, 2)
        await world.until(lambda: world.b.got == [1, 2])
        assert world.a.ups == world.b.ups == 1

    run(main)


def test_an_opened_session_that_can_t_be_dialled_is_lost_when_patience_ends() -> None:
    async def main() -> None:
        world = await World(judges=False, config=Config(link_patience=3)).listen()
        peer = world.a.peers.open(world.b.peers.me.life, world.b.address, "b")
        world.network.refuse("b")
        world.a.sends(world.b, 1)
        await asyncio.sleep(3.1)
        assert peer.lost
        assert world.a.lost[0][1] == [(DATA, 1)]
        world.network.heal()
        await world.until(lambda: world.b.got == [1])
        assert not peer.lost

    run(main)


def test_a_link_that_nobody_needs_is_closed_by_agreement_and_made_again_on_demand() -> None:
    async def main() -> None:
        for seed in range(20):
            world = await World(seed).linked()
            await talk(world)
            x, y = (world.a, world.b) if seed % 2 else (world.b, world.a)
            assert x.peers.rest(x.peer(y))
            await asyncio.sleep(0.1)
            assert world.network.connections == []
            await asyncio.sleep(60)
            assert world.network.connections == []
            assert world.a.evidences == world.b.evidences == []
            assert world.a.lost == world.b.lost == []
            world.a.sends(world.b, "again")
            world.b.sends(world.a, "again")
            await world.until(lambda w=world: w.a.got[-1] == w.b.got[-1] == "again")  # type: ignore[misc]
            assert world.a.ups == world.b.ups == 1

    run(main)


def test_a_link_in_use_is_not_closed() -> None:
    """A proposal to close crosses messages of either side: they arrive, once, and nobody takes it for a death."""

    async def main() -> None:
        for seed in range(60):
            chance = random.Random(seed)
            world = await World(seed, fragment=seed % 2 == 1).linked()
            a, b = world.a, world.b
            sent: dict[str, list[int]] = {"a": [], "b": []}
            for step in range(20):
                for x, y in ((a, b), (b, a)):
                    if chance.random() < 0.2:
                        x.peers.rest(x.peer(y))
                    if chance.random() < 0.3:
                        sent[x.name].append(step)
                        x.sends(y, step)
                await asyncio.sleep(chance.choice([0.0, 0.002, 0.005, 0.03]))
            await world.until(lambda: b.got == sent["a"] and a.got == sent["b"])  # noqa: B023
            await asyncio.sleep(1)
            assert b.got == sent["a"]
            assert a.got == sent["b"]
            assert a.evidences == b.evidences == []
            assert a.ended == b.ended == []

    run(main)


def test_a_link_with_something_unacknowledged_can_t_be_closed() -> None:
    async def main() -> None:
        world = await World().linked()
        peer = world.a.peer(world.b)
        world.a.sends(world.b, 1)
        assert not world.a.peers.rest(peer)
        await asyncio.sleep(0.1)
        peer.send_large((DATA, "large"), [bytes(3_000_000)])
        await asyncio.sleep(0.01)
        assert not world.a.peers.rest(peer)
        assert not world.b.peers.rest(world.b.peer(world.a))
        await world.until(lambda: len(world.b.large) == 1)

    run(main)


def test_a_kernel_answers_for_a_process_that_does_not_run() -> None:
    async def main() -> None:
        world = await World().linked()
        peer = world.a.peer(world.b)

        async def asked() -> bool | None:
            assert peer.link is not None
            since = world.loop.time()
            world.a.sends(world.b, "are you there?")
            await asyncio.sleep(0.2)
            return peer.link.kernel_answers(since)

        assert await asked() is True
        world.loop.freeze("b")
        assert await asked() is True
        world.loop.thaw("b")
        for src, dst in (("a", "b"), ("b", "a")):
            world.network.stall(src, dst)
            assert await asked() is False
            world.network.heal()
            await asyncio.sleep(0.1)
            assert await asked() is True
        world.network.crash("b", silent=True)
        assert await asked() is False

    run(main)


def test_a_life_judged_dead_is_refused_and_hears_by_whom() -> None:
    async def main() -> None:
        world = await World().linked()
        world.a.sends(world.b, 1)
        await world.until(lambda: world.b.got == [1])
        world.b.peers.bury(world.a.peers.me.life, "for the test")
        assert world.b.ended[0][:2] == ("dead", "for the test")
        await world.until(lambda: bool(world.a.ended))
        reason, detail, _ = world.a.ended[0]
        assert reason == "dead"
        assert "declared dead by node b" in detail
        assert "for the test" in detail
        with pytest.raises(PeerUnreachableError):
            await world.a.peers.dial(world.b.address)
        # And the buried one's dialler finds out the other way round.
        with pytest.raises(PeerUnreachableError):
            await world.b.peers.dial(world.a.address)

    run(main)


def test_who_left_is_known_to_have_left_after_its_last_message() -> None:
    async def main() -> None:
        world = await World().linked()
        world.b.sends(world.a, *range(50))
        await world.b.peers.close()
        assert world.a.got == list(range(50))
        assert [ended[:2] for ended in world.a.ended] == [("left", "it said goodbye")]
        assert world.b.ended == []
        assert world.network.between("a", "b") == []
        with pytest.raises(PeerUnreachableError, match="refused"):
            await world.a.peers.dial(world.b.address)

    run(main)


def test_both_leave_at_once() -> None:
    async def main() -> None:
        world = await World().linked()
        before = world.loop.time()
        await asyncio.gather(world.a.peers.close(), world.b.peers.close())
        assert world.loop.time() - before < 0.5
        await asyncio.sleep(1)
        assert world.network.connections == []
        assert len(asyncio.all_tasks()) == 1

    run(main)


def test_closing_while_the_other_side_is_frozen_takes_two_seconds() -> None:
    async def main() -> None:
        world = await World().linked()
        world.loop.freeze("b")
        before = world.loop.time()
        await world.a.peers.close()
        assert world.loop.time() - before <= 2.1
        world.loop.thaw("b")
        await world.until(lambda: bool(world.b.ended))
        assert world.b.ended[0][0] == "left"

    run(main)


def test_a_new_life_at_the_same_address_proves_the_old_one_dead() -> None:
    async def main() -> None:
        world = await World().linked()
        port = int(world.b.address.rpartition(":")[2])
        world.network.crash("b")
        again = await world.node("b2").listen(port)  # before a has noticed anything
        await world.until(lambda: bool(world.a.ended))
        reason, detail, _ = world.a.ended[0]
        assert reason == "dead"
        assert "another life" in detail
        await world.a.peers.dial(again.address)
        world.a.sends(again, 7)
        await world.until(lambda: again.got == [7])

    run(main)


def test_a_new_life_that_dials_proves_the_old_one_dead_even_behind_a_half_open_link() -> None:
    async def main() -> None:
        world = await World().linked()
        port = int(world.b.address.rpartition(":")[2])
        world.network.crash("b", silent=True)
        for key in [*world.network._listeners]:
            if key[1] == port:
                del world.network._listeners[key]
        again = await world.node("b2").listen(port)
        await again.peers.dial(world.a.address)
        await world.until(lambda: bool(world.a.ended))
        assert world.a.ended[0][0] == "dead"
        assert [*world.a.peers.by_life] == [again.peers.me.life]

    run(main)


def test_expecting_another_life() -> None:
    async def main() -> None:
        world = await World().listen()
        with pytest.raises(PeerUnreachableError, match="another life"):
            await world.a.peers.dial(world.b.address, expect=b"x" * 16)
        with pytest.raises(PeerUnreachableError, match="another life"):
            await world.a.peers.probe(world.b.address, b"x" * 16)
        await world.a.peers.probe(world.b.address, world.b.peers.me.life)
        await asyncio.sleep(1)
        assert world.network.connections == []
        assert not world.b.peers.counters
        with pytest.raises(OwnAddressError):
            await world.a.peers.dial(world.a.address)

    run(main)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"secrets": (b"o" * 32,)}, AuthenticationError),
        ({"cluster": "other"}, ProtocolError),
        ({"python": "3.12"}, VersionMismatchError),
        ({"protocol": 99}, VersionMismatchError),
    ],
)
def test_who_does_not_belong_hears_why_and_leaves_the_others_alone(
    options: dict[str, Any], error: type[Exception]
) -> None:
    async def main() -> None:
        world = await World().linked()
        stranger = await world.node("stranger", **options).listen()
        with pytest.raises(error) as caught:
            await stranger.peers.dial(world.b.address)
        assert type(caught.value) is error
        assert world.b.address in str(caught.value)
        with pytest.raises(error):
            await world.b.peers.dial(stranger.address)
        assert world.b.peers.counters["refused_handshakes"] == 1
        await talk(world)

    run(main)


def test_a_handler_that_raises_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = await World().linked()
        peer = world.a.peer(world.b)
        for message in ((DATA, 1), (FAULTY, 0), (DATA, 2), (99, 0), 5, (DATA, 3)):
            peer.send(message)  # type: ignore[arg-type]
        await world.until(lambda: world.b.got == [1, 2, 3])
        assert len(world.network.connections) == 1

    run(main)
    assert "a handler's mistake" in caplog.text


def test_what_can_t_be_sent_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = await World().linked()
        world.a.sends(world.b, 1, object(), 2, b"x" * 5_000_000, 3)
        await world.until(lambda: world.b.got == [1, 2, 3])

    run(main)
    assert "can't be sent" in caplog.text


def test_frames_that_can_t_be_decoded_three_times_hold_the_session_down() -> None:
    async def main() -> None:
        world = await World(config=Config(link_patience=3)).linked()
        peer = world.a.peer(world.b)
        n = peer.session.put(b"\xc1")
        assert peer.link is not None
        peer.link.write(n, b"\xc1")
        await asyncio.sleep(1)
        assert world.b.peers.counters["undecodable_frames"] == 3
        assert world.b.lost == []
        await asyncio.sleep(3)
        assert "3 s" in world.b.lost[0][0]
        await asyncio.sleep(60)
        assert world.b.peers.counters["undecodable_frames"] == 3  # held down: it would come again on every link
        assert world.b.ended == world.a.ended == []

    run(main)


def test_large_messages_let_small_ones_pass_and_survive_cuts() -> None:
    async def main() -> None:
        for seed in range(4):
            world = await World(seed, fragment=seed % 2 == 1, sealed=seed >= 2).linked()
            big = [bytes([i]) * size for i, size in enumerate((3_000_000, 0, 1, 262_144))]
            world.a.peer(world.b).send_large((DATA, "first"), big)
            world.a.peer(world.b).send_large((DATA, "second"), [b"", b"y" * 700_000])
            world.a.peer(world.b).send_large((DATA, "empty"), [])
            world.a.sends(world.b, "small")
            for _ in range(5):
                await asyncio.sleep(0.01)
                world.network.cut("a", "b")
            await world.until(lambda w=world: len(w.b.large) == 3)  # type: ignore[misc]
            assert world.b.got == ["first", "second", "empty", "small"]
            assert {head[1]: buffers for head, buffers in world.b.large} == {
                "first": big,
                "second": [b"", b"y" * 700_000],
                "empty": [],
            }
            await asyncio.sleep(1)
            assert world.a.peer(world.b).queued_bytes == 0

    run(main)


def test_a_small_message_never_waits_behind_more_than_the_window() -> None:
    async def main() -> None:
        world = await World().linked()
        peer = world.a.peer(world.b)
        handlers = world.b.peers.handlers
        take_chunk = handlers[CHUNK]
        taken = 0
        waited: list[int] = []

        def on_chunk(sender: Peer, message: list[Any]) -> None:
            nonlocal taken
            taken += len(message[2])
            take_chunk(sender, message)

        handlers[CHUNK] = on_chunk
        handlers[DATA] = lambda _, message: waited.append(taken - message[1])
        peer.send_large((DATA, "large"), [bytes(50_000_000)])
        for _ in range(50):
            await asyncio.sleep(0.003)
            peer.send((DATA, taken))
        await world.until(lambda: len(waited) == 50)
        assert LEAST // 2 < max(waited) <= MOST
        assert not world.b.large

    run(main)


def test_a_changed_byte_on_a_sealed_link_costs_the_link_and_nothing_else() -> None:
    async def main() -> None:
        world = await World(sealed=True).linked()
        await talk(world)
        peer = world.a.peer(world.b)
        assert peer.link is not None
        pipe = world.network.between("a", "b")[0].pipe("a")
        put = pipe.put
        pipe.put = lambda data: put(data[:-1] + bytes([data[-1] ^ 1]))  # type: ignore[method-assign]
        world.a.sends(world.b, "precious")
        await world.until(lambda: world.b.got[-1] == "precious")
        assert world.b.peers.counters["broken_frames"] == 1
        assert world.b.got == [0, 1, 2, "precious"]

    run(main)


def test_garbage_on_a_link_costs_the_link_and_nothing_else() -> None:
    async def main() -> None:
        world = await World().linked()
        await talk(world)
        peer = world.a.peer(world.b)
        for garbage in (b"\xff" * 100, header(5_000_000, 4, 0), header(1, 9, 0) + b"\x90", header(1, 4, 99) + b"\x90"):
            await world.until(lambda: peer.connected)
            assert peer.link is not None
            peer.link.transport.write(garbage)
            world.a.sends(world.b, garbage)
            await world.until(lambda garbage=garbage: world.b.got[-1] == garbage)  # type: ignore[misc]
        assert world.b.peers.counters["broken_frames"] == 4
        assert len(world.b.got) == 7

    run(main)


def chaos(seed: int) -> str:
    """A few virtual seconds of everything at once; returns the trace."""

    async def main() -> str:
        chance = random.Random(seed)
        world = World(seed, fragment=chance.random() < 0.5, sealed=chance.random() < 0.2)
        await world.listen()
        a, b = world.a, world.b
        await asyncio.gather(
            *[x.peers.dial(y.address) for x, y in ((a, b), (b, a)) if chance.random() < 0.7]
            or [a.peers.dial(b.address)]
        )
        await world.until(lambda: bool(a.peers.by_life and b.peers.by_life))
        sent: dict[str, list[int]] = {"a": [], "b": []}
        faults: list[Callable[[], None]] = [
            lambda: world.network.cut("a", "b"),
            lambda: world.network.cut("a", "b", notice=chance.choice("ab")),
            lambda: world.network.stall(*chance.choice([("a", "b"), ("b", "a")])),
            world.network.heal,
            lambda: world.loop.freeze("a"),
            lambda: world.loop.thaw("a"),
            lambda: world.loop.slow("b", 0.001),
            lambda: world.loop.slow("b", 0),
            lambda: world.loop.skew("a", chance.choice([0.5, 1.0, 2.0])),
        ]
        faults = chance.sample(faults, chance.randint(1, len(faults)))
        for step in range(40):
            for x, y in ((a, b), (b, a)):
                if chance.random() < 0.6:
                    sent[x.name].append(step)
                    x.sends(y, step)
            if chance.random() < 0.3:
                chance.choice(faults)()
            await asyncio.sleep(chance.choice([0.0, 0.001, 0.01, 0.1]))
        world.loop.thaw("a")
        world.loop.slow("b", 0)
        world.network.heal()
        await world.until(lambda: b.got == sent["a"] and a.got == sent["b"])
        await asyncio.sleep(2)
        assert b.got == sent["a"]
        assert a.got == sent["b"]
        assert a.ended == b.ended == []
        await asyncio.gather(a.peers.close(), b.peers.close())
        return world.network.trace

    return run(main)


@pytest.mark.parametrize("block", range(10))
def test_chaos(block: int) -> None:
    for seed in range(block * 10, block * 10 + 10):
        try:
            chaos(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_chaos_notices_frames_that_are_not_resent(monkeypatch: pytest.MonkeyPatch) -> None:
    adopt = Session._adopt

    def forgetful(session: Session, *args: Any) -> list[Instruction]:
        return [i for i in adopt(session, *args) if not isinstance(i, Resend)]

    monkeypatch.setattr(Session, "_adopt", forgetful)
    with pytest.raises(AssertionError):
        any(chaos(seed) == "" for seed in range(100))


def test_the_same_seed_gives_the_same_trace() -> None:
    traces = [chaos(seed) for seed in (1, 2, 3)]
    assert [chaos(seed) for seed in (1, 2, 3)] == traces
    assert len(set(traces)) == 3
