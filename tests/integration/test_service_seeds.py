"""Seeds by the name of a service: SRV records of a DNS server that answers otherwise as time goes by."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest

import actorfw
from actorfw.io.services import find_services

pytestmark = pytest.mark.real

SERVICE = "_actorfw._tcp.example.test"


class NameServer(asyncio.DatagramProtocol):
    """Answers from a table that a test may change at any time; NXDOMAIN for what is not in it."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.asked: list[str] = []
        self.news = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name, kind = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
        self.asked.append(name)
        self.news.set()
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA
        found = self.records.get((name, kind), [])
        if found:
            answer.answer.append(dns.rrset.from_text(question.name, 5, "IN", kind, *found))
        elif not any(known == name for known, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(answer.to_wire(), addr)

    def serve(self, *rows: tuple[int, str, int]) -> None:
        """Let the service stand for these (priority, address, port)."""
        self.records.clear()
        for priority, address, port in rows:
            host = f"h{address.replace('.', '-').replace(':', '-')}.example.test"
            kind = "AAAA" if ":" in address else "A"
            self.records[host, kind] = [address]
            self.records.setdefault((SERVICE, "SRV"), []).append(f"{priority} 0 {port} {host}.")


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NameServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))

    class Resolver(dns.resolver.Resolver):
        def __init__(self) -> None:
            super().__init__(configure=False)
            self.nameservers = ["127.0.0.1"]
            self.port = transport.get_extra_info("sockname")[1]
            self.lifetime = 5

    monkeypatch.setattr(dns.resolver, "Resolver", Resolver)
    yield server
    transport.close()


async def test_the_rows_are_sorted_and_without_those_that_have_no_address(server: NameServer) -> None:
    server.serve((2, "127.0.0.1", 9), (1, "127.0.0.9", 7), (1, "127.0.0.3", 8), (1, "::1", 7))
    server.records[SERVICE, "SRV"].append("0 0 7 gone.example.test.")
    found = await find_services(asyncio.get_running_loop(), SERVICE)
    assert found == [(1, "127.0.0.3", 8), (1, "127.0.0.9", 7), (1, "::1", 7), (2, "127.0.0.1", 9)]


async def test_why_a_service_is_not_found(server: NameServer) -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(OSError, match=r"_actorfw\._tcp\.example\.test\. does not exist|query name does not exist"):
        await find_services(loop, SERVICE)
    server.records[SERVICE, "SRV"] = ["0 0 7 gone.example.test."]
    with pytest.raises(OSError, match=r"gone\.example\.test"):
        await find_services(loop, SERVICE)


async def test_a_node_asks_until_the_service_is_there_and_asks_again_for_those_that_come_later(
    server: NameServer,
) -> None:
    config = actorfw.Config(join_timeout=20)

    def node(address: str) -> actorfw.Node:
        return actorfw.Node(SERVICE, listen=address, num_cpus=0, config=config)

    with socket.socket() as one, socket.socket() as two:
        for sock in (one, two):
            sock.bind(("127.0.0.1", 0))
        ports = sorted(sock.getsockname()[1] for sock in (one, two))
    first = node(f"127.0.0.1:{ports[0]}")
    starting = asyncio.ensure_future(first.start())
    async with asyncio.timeout(20):
        while server.asked.count(SERVICE) < 2:
            server.news.clear()
            await server.news.wait()
    assert not starting.done()
    server.serve((0, "127.0.0.1", ports[0]))
    await starting
    server.serve(*((0, "127.0.0.1", port) for port in ports))
    async with node(f"127.0.0.1:{ports[1]}") as second:
        assert len(await second.runtime.ask("nodes")) == 2
    await first.stop()


async def test_a_service_that_never_comes_is_named(server: NameServer) -> None:
    config = actorfw.Config(join_timeout=0.3)
    with pytest.raises(actorfw.PeerUnreachableError, match=f"Tried {SERVICE}: the name '{SERVICE}' can't be resolved"):
        await actorfw.Node(SERVICE, num_cpus=0, config=config).start()


def test_without_dnspython_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns.resolver", None)
    with pytest.raises(actorfw.UsageError, match=r"pip install 'actorfw\[dns\]'"):
        actorfw.Node(SERVICE)
