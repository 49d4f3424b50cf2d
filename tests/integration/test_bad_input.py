"""Bad input to a node's life: one clear error for the one concerned, and nothing else stops, hangs or leaks."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

import actorfw
from actorfw.io.env import RealEnv
from actorfw.runtime.node import Node as RuntimeNode

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seeds": 7700}, "seeds is 7700"),
        ({"seeds": [7700]}, "a seed is 7700"),
        ({"seeds": b"127.0.0.1:1"}, "seeds is b'127.0.0.1:1'"),
        ({"seeds": "nonsense"}, "'nonsense' is not an address"),
        ({"seeds": "127.0.0.1:70000"}, "is not an address"),
        ({"listen": "127.0.0.1"}, "is not an address"),
        ({"listen": "0.0.0.0:0"}, "advertise="),
        ({"listen": "[::]:0"}, "advertise="),
        ({"listen": "10.0.0.5:0"}, "needs a secret"),
        ({"advertise": 5}, "advertise is 5"),
        ({"name": ""}, "name is ''"),
        ({"name": 3}, "name is 3"),
        ({"labels": ["a"]}, "labels is ['a']"),
        ({"labels": {"a": 1}}, "labels is {'a': 1}"),
        ({"num_cpus": -1}, "num_cpus is -1"),
        ({"num_cpus": "2"}, "num_cpus is '2'"),
        ({"num_cpus": float("nan")}, "num_cpus is nan"),
        ({"num_gpus": 1.5}, "num_gpus is 1.5"),
        ({"memory": True}, "memory is True"),
        ({"resources": {"CPU": 1}}, "num_cpus"),
        ({"resources": 3}, "resources is 3"),
        ({"secret": "short"}, "16"),
        ({"secret": 5}, "secret"),
        ({"hosts": "some"}, "'all' or 'own'"),
        ({"namespace": ""}, "namespace is ''"),
        ({"config": {}}, "actorfw.Config"),
        ({"tls": True}, "tls is a bool; it must be an actorfw.TLS"),
        ({"dashboard": "127.0.0.1:0"}, "is not there yet"),
        ({"object_store_memory": 1}, "object_store_memory is 1"),
        ({"object_store_memory": 2.5e9}, "object_store_memory is 2500000000.0"),
        ({"thread": "yes"}, "thread is 'yes'"),
        ({"log_to_driver": 1}, "log_to_driver is 1"),
    ],
)
def test_wrong_arguments_fail_at_once_and_start_nothing(
    options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACTORFW_SECRET", "ACTORFW_SECRET_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(actorfw.UsageError) as raised:
        actorfw.init(**{"num_cpus": 0, **options})
    assert said in str(raised.value)
    with pytest.raises(actorfw.NotInitializedError):
        actorfw.nodes()


def test_unknown_options_are_named() -> None:
    with pytest.raises(TypeError, match="num_cpu"):
        actorfw.init(num_cpu=1)  # type: ignore[call-arg]
    with pytest.raises(
        actorfw.UsageError, match=r"Node has no option 'num_cpu'; its options are advertise, cluster, .*num_cpus"
    ):
        actorfw.Node(num_cpu=1)  # type: ignore[call-arg]


def test_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACTORFW_SEEDS", "127.0.0.1")
    with pytest.raises(actorfw.UsageError, match="is not an address"):
        actorfw.init(num_cpus=0)
    monkeypatch.setenv("ACTORFW_SEEDS", "")
    config = tmp_path / "config.toml"
    config.write_text("join_timeuot = 3\n")
    monkeypatch.setenv("ACTORFW_CONFIG", str(config))
    with pytest.raises(actorfw.UsageError, match="join_timeuot"):
        actorfw.init(num_cpus=0)
    monkeypatch.delenv("ACTORFW_CONFIG")
    monkeypatch.setenv("ACTORFW_SECRET_FILE", str(tmp_path / "none"))
    with pytest.raises(actorfw.UsageError, match="can't be read"):
        actorfw.init(num_cpus=0)


async def test_a_port_that_is_taken() -> None:
    async with actorfw.Node(num_cpus=0) as first:
        with pytest.raises(actorfw.UsageError, match=f"can't listen on {first.address}: "):
            await actorfw.Node(num_cpus=0, listen=first.address).start()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 4096,
        b"\xff" * 70_000,
        b"",
    ],
    ids=["http", "tls", "zeros", "ones", "nothing"],
)
async def test_garbage_on_the_port_harms_nobody(garbage: bytes) -> None:
    async with actorfw.Node(num_cpus=0) as node, actorfw.Node(seeds=node.address, num_cpus=0):
        host, _, port = node.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(garbage)
        if not garbage:
            writer.write_eof()
        try:
            await asyncio.wait_for(reader.read(), 30)  # the node hangs up
        except ConnectionError:
            pass
        writer.close()
        assert len(await node.runtime.ask("nodes")) == 2
        async with actorfw.Node(seeds=node.address, num_cpus=0):
            assert len(await actorfw.nodes()) == 3


async def test_random_garbage_harms_nobody() -> None:
    async with actorfw.Node(num_cpus=0) as node:
        host, _, port = node.address.rpartition(":")
        for size in (1, 7, 64, 1000, 5000):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(os.urandom(size))
            writer.transport.abort()
        async with actorfw.Node(seeds=node.address, num_cpus=0):
            assert len(await actorfw.nodes()) == 2


async def test_a_seed_that_is_something_else() -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(http, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(actorfw.ActorFwError) as raised:
        await actorfw.Node(seeds=address, num_cpus=0, config=actorfw.Config(join_timeout=0.3)).start()
    assert isinstance(raised.value, actorfw.ProtocolError | actorfw.PeerUnreachableError)
    assert address in str(raised.value)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(("field", "value"), [("protocol", 99), ("python", "3.99")])
async def test_another_version_is_refused_at_once(field: str, value: object) -> None:
    async with actorfw.Node(num_cpus=0) as node:
        patient = actorfw.Config(join_timeout=60)
        other = RuntimeNode(RealEnv(), actorfw.Node(seeds=node.address, num_cpus=0, config=patient)._made)
        setattr(other.identity, field, value)
        with pytest.raises(actorfw.VersionMismatchError) as raised:
            await other.start()
        assert node.address in str(raised.value)
        assert str(value) in str(raised.value)
        async with actorfw.Node(seeds=node.address, num_cpus=0):
            assert len(await actorfw.nodes()) == 2


async def test_a_dead_seed_that_swallows_everything() -> None:
    # Bound and full: connections are neither taken nor refused.
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        address = f"127.0.0.1:{hole.getsockname()[1]}"
        with pytest.raises(actorfw.PeerUnreachableError, match=f"{address}: "):
            await actorfw.Node(seeds=address, num_cpus=0, config=actorfw.Config(join_timeout=0.3)).start()
