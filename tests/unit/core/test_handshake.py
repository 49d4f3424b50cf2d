"""The handshake: who gets in, who learns what, and that no byte of it can be changed unnoticed."""

from __future__ import annotations

import msgpack
import pytest

from actorfw.core.handshake import Accepting, Dialling, Offer, PacketReader, Refused, SpeaksTlsError, Welcomed
from actorfw.values.errors import AuthenticationError, ProtocolError, VersionMismatchError

SECRET = b"s" * 16
OTHER = b"o" * 16
DIALLER = b"d" * 16
ACCEPTOR = b"a" * 16
INFO = {"name": "n", "address": "127.0.0.1:1"}
SIDE = [3, 12.5, None]  # as `core.rebirth` makes it; the handshake only carries it


def sides(
    dialler: tuple[bytes, ...] = (SECRET,),
    acceptor: tuple[bytes, ...] = (SECRET,),
    offer: Offer | None = None,
    seal: bool = False,
) -> tuple[Dialling, Accepting]:
    mine = offer or Offer(DIALLER, "c", "3.11", seal=seal)
    return (
        Dialling(mine, dialler, b"1" * 32, "the node at x:1"),
        Accepting(Offer(ACCEPTOR, "c", "3.11"), acceptor, b"2" * 32, "y:2"),
    )


def body(packet: bytes) -> bytes:
    found = PacketReader().feed(packet)
    assert found is not None
    return found


def challenge(dialling: Dialling, accepting: Accepting) -> bytes:
    return body(accepting.greeted(body(dialling.hello()))[0])


@pytest.mark.parametrize("seal", [False, True])
def test_both_sides_in(seal: bool) -> None:
    dialling, accepting = sides(seal=seal)
    assert dialling.challenged(challenge(dialling, accepting)) == ACCEPTOR
    proof = accepting.proven(body(dialling.prove(3, 17, SIDE, INFO)))
    assert not isinstance(proof, Refused)
    assert (proof.life, proof.epoch, proof.seen, proof.side, proof.info) == (DIALLER, 3, 17, SIDE, INFO)
    assert dialling.answered(body(accepting.welcome(5, INFO))) == Welcomed(5, INFO)
    assert dialling.write_key == accepting.read_key
    assert dialling.read_key == accepting.write_key
    assert bool(dialling.write_key) is seal
    assert dialling.write_key != dialling.read_key or not seal


def test_keys_differ_from_link_to_link() -> None:
    keys: set[bytes] = set()
    for nonce in (b"1" * 32, b"3" * 32):
        dialling = Dialling(Offer(DIALLER, "c", "3.11", seal=True), (SECRET,), nonce, "x")
        accepting = Accepting(Offer(ACCEPTOR, "c", "3.11"), (SECRET,), b"2" * 32, "y")
        dialling.challenged(challenge(dialling, accepting))
        accepting.proven(body(dialling.prove(1, 0, SIDE, INFO)))
        dialling.answered(body(accepting.welcome(0, INFO)))
        keys |= {dialling.write_key, dialling.read_key}
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("dialler", "acceptor"),
    [
        ((SECRET, OTHER), (OTHER,)),
        ((SECRET,), (OTHER, SECRET)),
        ((SECRET, OTHER), (OTHER, SECRET)),
    ],
)
def test_secrets_can_be_rotated(dialler: tuple[bytes, ...], acceptor: tuple[bytes, ...]) -> None:
    dialling, accepting = sides(dialler, acceptor)
    dialling.challenged(challenge(dialling, accepting))
    assert not isinstance(accepting.proven(body(dialling.prove(1, 0, SIDE, INFO))), Refused)


def test_another_secret_is_refused_with_a_reason_and_without_the_secret() -> None:
    dialling, accepting = sides((SECRET,), (OTHER,))
    answer, error = accepting.greeted(body(dialling.hello()))
    assert isinstance(error, AuthenticationError)
    with pytest.raises(AuthenticationError, match="the secrets differ") as caught:
        dialling.challenged(body(answer))
    text = f"{error} {caught.value} {dialling!r} {vars(dialling)} {vars(accepting)}"
    assert SECRET.decode() not in text
    assert OTHER.decode() not in text


@pytest.mark.parametrize(
    ("offer", "expected", "text"),
    [
        (Offer(DIALLER, "c", "3.11", protocol=2), VersionMismatchError, "protocol version 1"),
        (Offer(DIALLER, "c", "3.12"), VersionMismatchError, "Python 3.11"),
        (Offer(DIALLER, "d", "3.11"), ProtocolError, "cluster 'c'"),
    ],
)
def test_who_can_t_work_together_hears_why(offer: Offer, expected: type[Exception], text: str) -> None:
    dialling, accepting = sides(offer=offer)
    answer, error = accepting.greeted(body(dialling.hello()))
    assert type(error) is expected
    with pytest.raises(expected, match=text) as caught:
        dialling.challenged(body(answer))
    assert type(caught.value) is expected


def test_the_dialler_checks_too() -> None:
    dialling, _ = sides()
    other = Accepting(Offer(ACCEPTOR, "c", "3.11"), (SECRET,), b"2" * 32, "y")
    packet = challenge(dialling, other)
    picky = Dialling(Offer(DIALLER, "c", "3.12"), (SECRET,), b"1" * 32, "the node at x:1")
    picky.hello()
    with pytest.raises(VersionMismatchError):
        picky.challenged(packet)


def flip(packet: bytes, at: int) -> bytes:
    changed = bytearray(packet)
    changed[at] ^= 0x01
    return bytes(changed)


def test_no_byte_of_the_challenge_can_be_changed() -> None:
    size = len(challenge(*sides()))
    for at in range(size):
        dialling, accepting = sides()
        with pytest.raises((ProtocolError, AuthenticationError)):
            dialling.challenged(flip(challenge(dialling, accepting), at))


def test_no_byte_of_the_hello_can_be_changed() -> None:
    dialling, _ = sides()
    size = len(body(dialling.hello()))
    for at in range(size):
        dialling, accepting = sides()
        try:
            answer, error = accepting.greeted(flip(body(dialling.hello()), at))
        except ProtocolError:
            continue
        if error is None:
            with pytest.raises((ProtocolError, AuthenticationError)):
                dialling.challenged(body(answer))


def test_no_byte_of_proof_or_welcome_can_be_changed() -> None:
    def until_proof() -> tuple[Dialling, Accepting, bytes]:
        dialling, accepting = sides(seal=True)
        dialling.challenged(challenge(dialling, accepting))
        return dialling, accepting, body(dialling.prove(1, 0, SIDE, INFO))

    for at in range(len(until_proof()[2])):
        _, accepting, proof = until_proof()
        with pytest.raises((ProtocolError, AuthenticationError)):
            accepting.proven(flip(proof, at))
    dialling, accepting, proof = until_proof()
    accepting.proven(proof)
    welcome = body(accepting.welcome(0, INFO))
    for at in range(len(welcome)):
        with pytest.raises((ProtocolError, AuthenticationError)):
            dialling.answered(flip(welcome, at))
    assert dialling.answered(welcome) == Welcomed(0, INFO)


def test_a_reflected_packet_proves_nothing() -> None:
    """Who has no secret and sends back what it got, or what it got elsewhere, stays out."""
    dialling, accepting = sides()
    with pytest.raises(ProtocolError):
        dialling.challenged(body(dialling.hello()))
    first = challenge(dialling, accepting)
    other = Dialling(Offer(DIALLER, "c", "3.11"), (SECRET,), b"9" * 32, "the node at x:1")
    other.hello()
    with pytest.raises(AuthenticationError):
        other.challenged(first)


def test_refusals_after_the_proof_are_authentic() -> None:
    dialling, accepting = sides()
    dialling.challenged(challenge(dialling, accepting))
    accepting.proven(body(dialling.prove(1, 0, SIDE, INFO)))
    packet = body(accepting.refuse("epoch", "later", 4))
    assert dialling.answered(packet) == Refused("epoch", "later", 4)
    forged = msgpack.packb([5, "dead", "you are dead", 0, b"\0" * 32])
    with pytest.raises(AuthenticationError):
        dialling.answered(forged)


def test_a_dialler_can_tell_the_buried() -> None:
    dialling, accepting = sides()
    dialling.challenged(challenge(dialling, accepting))
    assert accepting.proven(body(dialling.refuse("dead", "you are dead"))) == Refused("dead", "you are dead", 0)


def test_tls_is_known_by_its_first_bytes() -> None:
    with pytest.raises(SpeaksTlsError, match="tls="):
        PacketReader().feed(b"\x16\x03\x01\x02")


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"\x16\x02\x01\x02", b"afw?", b"\0" * 64])
def test_other_protocols_are_noticed_by_their_first_bytes(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a handshake"):
        PacketReader().feed(data)


def test_an_announced_giant_is_refused_before_it_comes() -> None:
    reader = PacketReader()
    with pytest.raises(ProtocolError, match="above the limit"):
        reader.feed(b"afw:" + (5000).to_bytes(4, "little"))


@pytest.mark.parametrize(
    "fields", [[], {}, 1, ["x"], [1], [1, 1, "3.11"], [2, b"", b""], [1, 1, "3.11", "c", 0, b"", b"", []]]
)
def test_misshapen_hellos(fields: object) -> None:
    _, accepting = sides()
    with pytest.raises(ProtocolError):
        accepting.greeted(msgpack.packb(fields))


def test_packets_split_anywhere() -> None:
    dialling, _ = sides()
    packet = dialling.hello()
    for cut in range(len(packet)):
        reader = PacketReader()
        assert reader.feed(packet[:cut]) is None
        assert reader.feed(packet[cut:] + b"rest") == body(packet)
        assert reader.rest == b"rest"
