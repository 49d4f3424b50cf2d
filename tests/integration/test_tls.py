"""Links under mutual TLS 1.3: over real connections, on both loops, with right and wrong certificates."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from actorfw import TLS
from actorfw.core import handshake
from actorfw.io import doorstep
from actorfw.io.env import RealEnv
from actorfw.io.tcp import split_address
from actorfw.io.tls import TlsTransport
from actorfw.runtime import links
from actorfw.values.errors import ActorFwError, AuthenticationError, UsageError
from tests.integration.certificates import Authority
from tests.integration.test_peers_tcp import DATA, Node, Run, closed_by_the_other_side, on_loop
from tests.sim.middle import Middle, Side, Tap, packet, unpacked

__all__ = ["on_loop"]

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def authority(tmp_path: Path, shared: Authority) -> Authority:
    """With files of the test's own."""
    return shared.moved(tmp_path)


def test_messages_both_ways_and_a_broken_link(on_loop: Run, authority: Authority) -> None:
    async def main() -> None:
        async with Node("a", tls=authority.tls("a")) as a, Node("b", tls=authority.tls("b")) as b:
            one, two = await asyncio.gather(a.peers.dial(b.address), b.peers.dial(a.address))
            for i in range(1000):
                one.send((DATA, i))
                two.send((DATA, -i))
                if i % 500 == 250:
                    await a.until(lambda: one.connected)
                    assert one.link is not None
                    one.link.transport.abort()
            await a.until(lambda: len(a.got) == 1000)
            await b.until(lambda: len(b.got) == 1000)
            assert b.got == list(range(1000))
            assert a.got == [-i for i in range(1000)]
            assert a.ended == b.ended == []
            await a.until(lambda: one.link is not None and two.link is not None)
            assert one.link is not None
            assert isinstance(one.link.transport, TlsTransport)
            assert not one.link.sealed
            big = os.urandom(1 << 20) * 16
            one.send_large((DATA, "big"), [big])
            await b.until(lambda: bool(b.large))
            assert b.large == [[big]]

    on_loop(main)


def test_what_the_kernel_knows_of_a_link_is_known_under_tls(on_loop: Run, authority: Authority) -> None:
    async def main() -> None:
        async with Node("a", tls=authority.tls("a")) as a, Node("b", tls=authority.tls("b")) as b:
            peer = await a.peers.dial(b.address)
            peer.send((DATA, 1))
            await b.until(lambda: b.got == [1])
            assert peer.link is not None
            assert peer.link.kernel_answers(a.peers.env.time() - 1) is True
            assert peer.link.transport.get_extra_info("socket").fileno() in a.peers.descriptors()

    on_loop(main)


def test_a_full_buffer_pauses_and_goes_on(on_loop: Run, authority: Authority) -> None:
    async def main() -> None:
        async with Node("a", tls=authority.tls("a")) as a, Node("b", tls=authority.tls("b")) as b:
            peer = await a.peers.dial(b.address)
            await b.until(lambda: bool(b.peers.by_life))
            back = next(iter(b.peers.by_life.values()))
            assert back.link is not None
            assert peer.link is not None
            transport = back.link.transport
            transport.pause_reading()
            assert not transport.is_reading()
            for _ in range(40):
                peer.send((DATA, b"x" * 250_000))
            link = peer.link
            await a.until(lambda: link.paused)
            assert transport.get_write_buffer_size() == 0
            assert link.transport.get_write_buffer_size() > 0
            transport.resume_reading()
            await b.until(lambda: len(b.got) == 40)
            assert not link.paused

    on_loop(main)


def test_nothing_can_be_read_on_the_way(authority: Authority) -> None:
    """A relay that leaves the bytes as they are is no harm; without TLS it reads them."""

    async def main(tls: Callable[[str], TLS | None]) -> bool:
        seen = b""
        async with Node("a", tls=tls("a")) as a, Node("b", tls=tls("b")) as b:

            async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                nonlocal seen
                far_reader, far_writer = await asyncio.open_connection(*split_address(b.address))

                async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                    nonlocal seen
                    while data := await source.read(65536):
                        seen += data
                        sink.write(data)
                    sink.close()

                await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)

            server = await asyncio.start_server(relay, "127.0.0.1", 0)
            async with server:
                peer = await a.peers.dial(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
                peer.send((DATA, b"marker of this test"))
                await b.until(lambda: len(b.got) == 1)
                await a.peers.close()
        assert seen
        return b"marker of this test" in seen

    assert asyncio.run(main(lambda name: None)) is True
    assert asyncio.run(main(authority.tls)) is False


@pytest.mark.parametrize(
    ("dialler", "acceptor", "at_dialler", "at_acceptor"),
    [
        ("none", "good", "links are TLS here: give tls=", "it dials without TLS"),
        (
            "good",
            "none",
            "links are not TLS here: leave tls= out",
            "it speaks TLS, which this node was started without",
        ),
        ("foreign", "good", "certificate", "certificate"),
        ("good", "foreign", "does not hold here", "does not take the certificate of this node: unknown ca"),
        ("expired", "good", "does not take the certificate of this node: certificate expired", "expired"),
        ("good", "expired", "has expired", "certificate expired"),
    ],
)
def test_who_does_not_fit_hears_why_on_both_sides(
    on_loop: Run,
    authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    dialler: str,
    acceptor: str,
    at_dialler: str,
    at_acceptor: str,
) -> None:
    other = Authority(tmp_path, "other")
    kinds: dict[str, Callable[[str], TLS | None]] = {
        "none": lambda name: None,
        "good": authority.tls,
        "foreign": other.tls,
        "expired": lambda name: authority.tls(name, days=-1),
    }

    async def main() -> None:
        async with Node("a", tls=kinds[dialler]("a")) as a, Node("b", tls=kinds[acceptor]("b")) as b:
            started = time.monotonic()
            with caplog.at_level(logging.WARNING), pytest.raises(AuthenticationError, match=at_dialler) as caught:
                await a.peers.dial(b.address)
            assert b.address in str(caught.value)
            assert time.monotonic() - started < 5
            await b.until(lambda: b.peers.counters["failed_handshakes"] == 1)
            assert not a.peers.by_life
            assert not b.peers.by_life
            await b.until(lambda: not b.peers.connections)

    on_loop(main)
    assert [record for record in caplog.records if at_acceptor in record.getMessage()]


@pytest.mark.parametrize("how", ["no certificate", "TLS 1.2", "half a hello", "nothing", "not TLS at all"])
def test_strangers_are_turned_away(
    on_loop: Run, authority: Authority, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    for module in (links, doorstep):
        monkeypatch.setattr(module, "HELLO_SECONDS", 0.3)
    monkeypatch.setattr(links.AcceptGreeting, "patience", 0.3)

    async def main() -> None:
        async with Node("b", tls=authority.tls("b")) as b:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            if how == "TLS 1.2":
                context.maximum_version = ssl.TLSVersion.TLSv1_2
            if how in ("no certificate", "TLS 1.2"):
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    reader, writer = await asyncio.open_connection(*split_address(b.address), ssl=context)
                    try:
                        if not await reader.read(100):
                            raise ConnectionError("closed")
                    finally:
                        writer.close()
            else:
                said = {
                    "half a hello": b"\x16\x03\x01\x02\x00\x01",
                    "nothing": b"",
                    "not TLS at all": b"GET / HTTP/1.1",
                }
                await closed_by_the_other_side(b.address, said[how])
            await b.until(lambda: not b.peers.connections)
            counters = b.peers.counters
            counted = counters["failed_handshakes"] + counters["slow_handshakes"]
            assert counted == 1
            async with Node("a", tls=authority.tls("a")) as a:
                await a.peers.dial(b.address)

    on_loop(main)


def test_renewed_certificates_are_used_without_a_restart(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with Node("a", tls=authority.tls("a", days=-1)) as a, Node("b", tls=authority.tls("b")) as b:
            with pytest.raises(AuthenticationError, match="expired"):
                await a.peers.dial(b.address)
            authority.tls("a")
            peer = await a.peers.dial(b.address)
            # Of another authority now: the link that there is goes on, a new one needs the other side to follow.
            other = Authority(tmp_path, "other")
            (tmp_path / "authority.pem").write_bytes(other.path.read_bytes())
            peer.send((DATA, 1))
            await b.until(lambda: b.got == [1])
            async with Node("c", tls=authority.tls("c")) as c:
                with pytest.raises(AuthenticationError, match="same authority"):
                    await c.peers.dial(b.address)
            for name in ("a", "b"):
                other.tls(name)
            assert peer.link is not None
            peer.link.transport.abort()
            peer.send((DATA, 2))
            await b.until(lambda: b.got == [1, 2])
            # A file that is not complete yet: what there was stays in use.
            (tmp_path / "b.key").write_bytes(b"half a k")
            async with Node("d", tls=TLS(**{**vars_of(other.tls("d")), "authority": str(authority.path)})) as d:
                with caplog.at_level(logging.WARNING):
                    await d.peers.dial(b.address)
            assert "stay in use" in caplog.text

    asyncio.run(main())


def vars_of(tls: TLS) -> dict[str, str]:
    return {"certificate": tls.certificate, "key": tls.key, "authority": tls.authority}


# -- somebody in the middle who has a certificate of the same authority, and not the secret ----------------------------


@pytest.mark.parametrize("how", ["passes on", "changes the mark", "hides the TLS of one side"])
def test_who_has_a_certificate_and_no_secret_can_t_stand_between(authority: Authority, how: str) -> None:
    """He ends the TLS of both, reads all, and passes on: so he would read the frames, and could add his own."""

    async def main() -> None:
        plain = how == "hides the TLS of one side"
        async with (
            Node("a", tls=authority.tls("a")) as a,
            Node("b", tls=None if plain else authority.tls("b")) as b,
        ):
            tls = authority.tls("m")
            middle = Middle(_Ending(RealEnv(tls=tls), RealEnv() if plain else RealEnv(tls=tls)), b.address)

            later: list[asyncio.Future[None]] = []

            async def change_mark(tap: Tap, fields: list[Any]) -> None:
                while (leg := tap.legs["acceptor"].transport) is None:
                    await asyncio.sleep(0.001)
                fields[8] = leg.get_extra_info("tls").mark
                tap.tell("dialler", packet(fields))

            def change(tap: Tap, side: Side, number: int, data: bytes) -> bytes | None:
                if side == "dialler" and number == 1 and how != "passes on":
                    fields = unpacked(data)
                    assert fields[4] & handshake.TLS
                    if plain:
                        fields[4] ^= handshake.TLS
                    else:
                        later.append(asyncio.ensure_future(change_mark(tap, fields)))
                        return None
                    return packet(fields)
                if side == "acceptor" and number == 1 and plain:
                    kind, inner, tag = unpacked(data)
                    greeting: list[Any] = msgpack.unpackb(inner)
                    assert not greeting[3] & handshake.TLS
                    greeting[3] |= handshake.TLS
                    return packet([kind, msgpack.packb(greeting), tag])
                return data

            middle.on_packet = change
            await middle.listen()
            try:
                with pytest.raises(ActorFwError) as caught:
                    await a.peers.dial(middle.address)
            finally:
                middle.close()
            assert isinstance(caught.value, AuthenticationError), caught.value
            assert bool(later) is (how == "changes the mark")
            if how == "passes on":
                assert "reads along" in str(caught.value)
            assert not a.peers.by_life
            assert not b.peers.by_life

    asyncio.run(main())


def test_a_side_without_tls_is_noticed_though_he_passes_all_on(authority: Authority) -> None:
    """The dialler's TLS ends at him; the acceptor, which has none, says so in a way that he can't change."""

    async def main() -> None:
        async with Node("a", tls=authority.tls("a")) as a, Node("b") as b:
            middle = Middle(_Ending(RealEnv(tls=authority.tls("m")), RealEnv()), b.address)
            await middle.listen()
            try:
                with pytest.raises(AuthenticationError, match="links are not TLS here"):
                    await a.peers.dial(middle.address)
            finally:
                middle.close()
            assert not b.peers.by_life

    asyncio.run(main())


class _Ending:
    """The world of one who listens in one world and dials in another."""

    def __init__(self, listens: RealEnv, dials: RealEnv) -> None:
        self.listens = listens
        self.dials = dials

    async def listen(self, factory: Any, *rest: Any) -> Any:
        return await self.listens.listen(lambda: _Secured(factory()), *rest)

    async def dial(self, factory: Any, *rest: Any) -> Any:
        return await self.dials.dial(lambda: _Secured(factory()), *rest)


class _Secured(asyncio.Protocol):
    """Tells a protocol of its connection once it may write."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        tls = transport.get_extra_info("tls")
        if tls is None:
            self._made(transport)
        else:
            tls.when_secured(lambda: self._made(transport))

    def _made(self, transport: asyncio.Transport) -> None:
        transport.set_protocol(self.protocol)
        self.protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.protocol.connection_lost(exc)


# -- files -------------------------------------------------------------------------------------------------------------


def test_files_that_can_t_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    good = vars_of(authority.tls("a"))
    other = vars_of(authority.tls("b"))
    junk = tmp_path / "junk"
    junk.write_text("no PEM at all")
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(_encrypted(Path(good["key"])))
    for change, text in (
        ({"key": "/nowhere/key"}, "/nowhere/key can't be read"),
        ({"certificate": "/nowhere/pem"}, "/nowhere/pem can't be read"),
        ({"authority": "/nowhere/ca"}, "/nowhere/ca can't be read"),
        ({"key": other["key"]}, "not that of the certificate"),
        ({"certificate": str(junk)}, "junk"),
        ({"authority": str(junk)}, "junk"),
        ({"key": str(encrypted)}, "without one"),
    ):

        async def make(change: dict[str, str] = change) -> None:
            RealEnv(tls=TLS(**{**good, **change}))

        with pytest.raises(UsageError, match=text):
            asyncio.run(make())


def _encrypted(path: Path) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(path.read_bytes(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase"))


def test_a_key_that_others_can_read_is_warned_of(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    tls = authority.tls("a")
    os.chmod(tls.key, 0o644)

    async def make() -> None:
        RealEnv(tls=tls)

    with caplog.at_level(logging.WARNING):
        asyncio.run(make())
    assert "a.key can be read by all users of this machine" in caplog.text
