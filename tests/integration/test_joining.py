"""Joining: by any live seed, founding by the rule, and every way to be refused."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

import actorfw

pytestmark = pytest.mark.real

BRIEF = actorfw.Config(join_timeout=0.4)
SECRET = "0123456789abcdef"
OTHER = "fedcba9876543210"


def node(*seeds: str, config: actorfw.Config = BRIEF, **options: object) -> actorfw.Node:
    return actorfw.Node(list(seeds), num_cpus=0, config=config, **options)  # type: ignore[arg-type]


@pytest.fixture
async def founder() -> AsyncIterator[actorfw.Node]:
    async with node(name="founder") as first:
        yield first


async def names(of: actorfw.Node) -> list[str]:
    """The members as one node sees them, sorted."""
    return sorted(row.name for row in await of.runtime.ask("nodes"))


async def test_any_live_member_is_a_seed(founder: actorfw.Node) -> None:
    async with node(founder.address, name="a") as a, node(a.address, name="b") as b:
        for member in (founder, a, b):
            assert await names(member) == ["a", "b", "founder"]
        rows = {row.name: row for row in await actorfw.nodes()}
        assert rows["a"].state == "up"
        assert rows["a"].address == a.address
        assert [row.here for row in await actorfw.nodes()] == [True, False, False]


async def test_a_dead_seed_beside_a_live_one_does_no_harm(founder: actorfw.Node, free_port: int) -> None:
    async with node(f"127.0.0.1:{free_port}", founder.address) as second:
        assert len(await names(second)) == 2


async def test_the_founder_may_leave(founder: actorfw.Node) -> None:
    async with node(founder.address, name="a") as a:
        await founder.stop()
        assert await names(a) == ["a"]
        async with node(a.address, name="b") as b:
            assert await names(b) == ["a", "b"]


async def test_seeds_of_the_environment(founder: actorfw.Node, monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setenv("ACTORFW_SEEDS", f"127.0.0.1:{free_port}, {founder.address}")
    async with actorfw.init(num_cpus=0):
        assert len(await actorfw.nodes()) == 2


async def test_a_seed_by_its_name(founder: actorfw.Node) -> None:
    port = founder.address.rpartition(":")[2]
    async with node(f"localhost:{port}") as second:
        assert len(await names(second)) == 2


async def test_a_dead_seed_is_named_with_the_reason(free_port: int) -> None:
    with pytest.raises(actorfw.PeerUnreachableError) as raised:
        await node(f"127.0.0.1:{free_port}", "no-such-host.invalid:7700").start()
    text = str(raised.value)
    assert "within 0.4 s (join_timeout)" in text
    assert f"127.0.0.1:{free_port}: " in text
    assert "connection refused, nobody listens there" in text
    assert "no-such-host.invalid:7700: the name 'no-such-host.invalid' can't be resolved" in text


async def test_a_node_whose_own_address_is_the_first_seed_founds(free_port: int) -> None:
    own = f"127.0.0.1:{free_port}"
    async with node(own, "127.0.0.1:1", listen=own) as first:
        assert len(await names(first)) == 1
        async with node(own, first.address) as second:
            assert len(await names(second)) == 2


async def test_its_own_address_by_name_founds_too(free_port: int) -> None:
    async with node(f"localhost:{free_port}", listen=f"127.0.0.1:{free_port}") as first:
        assert len(await names(first)) == 1


async def test_its_own_address_further_back_does_not_found(free_port: int) -> None:
    own = f"127.0.0.1:{free_port}"
    with pytest.raises(actorfw.PeerUnreachableError, match=r"Tried 127\.0\.0\.1:1: "):
        await node("127.0.0.1:1", own, listen=own).start()


async def test_two_newcomers_that_wait_for_each_other_found_nothing() -> None:
    with socket.socket() as one, socket.socket() as other:
        for sock in (one, other):
            sock.bind(("127.0.0.1", 0))
        a, b = (f"127.0.0.1:{sock.getsockname()[1]}" for sock in (one, other))
    outcomes = await asyncio.gather(node(b, listen=a).start(), node(a, listen=b).start(), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [actorfw.PeerUnreachableError] * 2
    assert any("has no cluster itself yet" in str(outcome) for outcome in outcomes)


async def test_the_same_list_of_seeds_on_all_nodes_makes_one_cluster(free_port: int) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        other = f"127.0.0.1:{sock.getsockname()[1]}"
    own = f"127.0.0.1:{free_port}"
    patient = actorfw.Config(join_timeout=10)
    later = node(own, other, listen=other, config=patient)
    starting = asyncio.ensure_future(later.start())
    await asyncio.sleep(0)
    async with node(own, other, listen=own, config=patient) as first:
        await starting
        assert len(await names(first)) == len(await names(later)) == 2
        await later.stop()


async def test_a_wrong_secret_is_refused_at_once() -> None:
    async with node(secret=SECRET) as first:
        patient = actorfw.Config(join_timeout=60)
        with pytest.raises(actorfw.AuthenticationError, match=f"{first.address} refused: the secrets differ"):
            await node(first.address, secret=OTHER, config=patient).start()
        async with node(first.address, secret=(OTHER, SECRET)) as rotating:
            assert len(await names(rotating)) == 2
        assert len(await names(first)) == 1


async def test_another_cluster_is_refused_at_once() -> None:
    async with node(cluster="red") as first:
        patient = actorfw.Config(join_timeout=60)
        with pytest.raises(actorfw.ProtocolError, match=f"{first.address} refused: this is cluster 'red', not 'blue'"):
            await node(first.address, cluster="blue", config=patient).start()


async def test_a_seed_that_refuses_does_not_hide_one_that_does_not(founder: actorfw.Node) -> None:
    async with node(cluster="red") as red, node(red.address, founder.address) as second:
        assert await names(second) == sorted(["founder", second.name])


async def test_a_name_is_taken_while_its_member_lives(founder: actorfw.Node) -> None:
    with pytest.raises(actorfw.UsageError, match=f"a member named 'founder' already, at {founder.address}"):
        await node(founder.address, name="founder").start()
    async with node(founder.address, name="second"):
        pass
    async with node(founder.address, name="second"):
        pass


async def test_of_two_newcomers_with_one_name_one_gets_it(founder: actorfw.Node) -> None:
    twins = [node(founder.address, name="twin") for _ in range(2)]
    outcomes = await asyncio.gather(*(twin.start() for twin in twins), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Node", "UsageError"]
    assert await names(founder) == ["founder", "twin"]
    await asyncio.gather(*(twin.stop() for twin in twins))


async def test_many_join_at_once(founder: actorfw.Node) -> None:
    crowd = [node(founder.address, config=actorfw.Config()) for _ in range(12)]
    await asyncio.gather(*(one.start() for one in crowd))
    expected = sorted([founder.name, *(one.name for one in crowd)])
    assert [await names(one) for one in crowd] == [expected] * 12
    await asyncio.gather(*(one.stop() for one in crowd))


async def test_a_node_that_can_not_be_dialled_back_is_no_member(founder: actorfw.Node, free_port: int) -> None:
    with pytest.raises(actorfw.PeerUnreachableError) as raised:
        await node(founder.address, advertise=f"127.0.0.1:{free_port}").start()
    assert f"can't dial this node back: node founder could not reach 127.0.0.1:{free_port}" in str(raised.value)
    assert "`advertise`" in str(raised.value)
    assert await names(founder) == ["founder"]


async def test_advertise_takes_the_bound_port() -> None:
    async with node(advertise="localhost:0") as first:
        host, _, port = first.address.rpartition(":")
        assert host == "localhost"
        assert int(port) > 0
        async with node(first.address) as second:
            assert len(await names(second)) == 2


async def test_a_seed_that_takes_the_connection_and_says_nothing() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(actorfw.PeerUnreachableError, match="did not answer in time"):
        await node(address).start()
    server.close()
    await server.wait_closed()


async def test_names_and_work_reach_all_members(founder: actorfw.Node) -> None:
    async with node(founder.address, name="a") as a:
        await a.runtime.ask("nodes")
        counter = Counter.options(name="counter").remote()
        assert await counter.add(2) == 2
        async with founder:
            found = await actorfw.get_actor("counter", Counter)
            assert await found.add(3) == 5


class Counter(actorfw.Actor):
    def __init__(self) -> None:
        self.n = 0

    @actorfw.method
    async def add(self, k: int) -> int:
        self.n += k
        return self.n
