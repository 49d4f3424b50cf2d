"""Whole clusters: secrets that are rotated and never show, links under TLS, nobody beyond the machine without one."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import actorfw
from actorfw.aiohttp import setup
from actorfw.io.tls import TlsTransport
from actorfw.runtime.store.hostmates import HostMates
from tests.integration.certificates import Authority
from tests.integration.shell import command, new_folder

pytestmark = pytest.mark.real

OLD = "the old secret, 0123456789"
NEW = "the new secret, abcdefghij"
MARKER = "Marker7Secret3That9Must1Not5Show"


# -- rotation ----------------------------------------------------------------------------------------------------------


@actorfw.remote(num_cpus=0)
async def who() -> str:
    return actorfw.context().node_id


async def linked(nodes: list[actorfw.Node]) -> None:
    """Every node reaches every other."""
    for one in nodes:
        async with asyncio.timeout(10):
            while not {node.address for node in nodes} <= {*one.runtime.members.addresses_up(), one.address}:
                await asyncio.sleep(0.01)
        for other in nodes:
            if one is not other:
                await one.runtime.peers.dial(other.address)


async def test_a_secret_is_rotated_by_restarting_one_node_after_the_other_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """First each with (new, old), then each with the new one alone: nobody is ever refused."""
    caplog.set_level(logging.WARNING, "actorfw")
    nodes: list[actorfw.Node] = []

    async def start(name: str, secret: Any) -> actorfw.Node:
        node = actorfw.Node([node.address for node in nodes], name=name, num_cpus=0, secret=secret)
        return await node.start()

    try:
        for number in range(3):
            nodes.append(await start(f"n{number}", OLD))
        for secret in ((NEW, OLD), NEW):
            for _ in range(3):
                oldest = nodes.pop(0)
                await oldest.stop()
                nodes.append(await start(oldest.name, secret))
                await linked(nodes)
        for node in nodes:
            assert not {"refused_handshakes", "failed_handshakes"} & set(node.runtime.peers.counters)
        assert "closed" not in caplog.text
        with pytest.raises(actorfw.AuthenticationError):
            await start("late", OLD)
    finally:
        for node in nodes:
            await node.stop()


# -- secrets don't show ------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, logging, os, subprocess, sys, time, traceback
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
import actorfw, cloudpickle, pickle

@actorfw.remote
def dump():
    print(dict(os.environ))
    return [*os.environ.items()], open("/proc/self/environ").read(), sys.argv

@actorfw.remote(num_cpus=0)
class Holder(actorfw.Actor):
    async def nothing(self):
        return repr(actorfw.context())

def shown(error):
    "All but this program's own variables, which hold what it has put there."
    found = traceback.TracebackException.from_exception(error, capture_locals=True)
    found.stack = traceback.StackSummary.from_list([frame for frame in found.stack if frame.filename != __file__])
    return "".join(found.format())

def deep(thing, seen, depth=0):
    "The repr of everything that can be reached."
    if id(thing) in seen or depth > 6:
        return
    seen[id(thing)] = thing
    print(repr(thing)[:100_000])
    parts = [getattr(thing, name, None) for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    if type(thing).__module__.startswith("actorfw"):
        parts += vars(thing).values() if hasattr(thing, "__dict__") else []
    if isinstance(thing, dict) and len(thing) < 1000:
        parts += thing.values()
    if isinstance(thing, (list, tuple)) and len(thing) < 1000:
        parts += thing
    for part in parts:
        if not isinstance(part, (str, int, float, type(None), type, type(os))) and part is not os.environ:
            deep(part, seen, depth + 1)

async def main():
    async with actorfw.LocalCluster(nodes=1, num_cpus=1, log_to_driver=True) as cluster:
        print(await dump.remote())
        print(await Holder.remote().nothing())
        for rows in (await actorfw.nodes(), await actorfw.objects(), actorfw.Config(), cluster.node, cluster):
            print(repr(rows))
        runtime = cluster.node.runtime
        deep(runtime, {})
        deep(runtime.options, {})
        for thing in (runtime, runtime.options, runtime.peers, runtime.options.secrets, cluster.node):
            for dumps in (pickle.dumps, cloudpickle.dumps):
                try:
                    sys.stdout.buffer.write(dumps(thing))
                except Exception as error:
                    print(shown(error))
        right = os.environ["ACTORFW_SECRET"]
        for wrong in ("short", "another secret, quite long enough", ("x" * 16,), (right, "short"), [right] * 9):
            try:
                await actorfw.Node(cluster.node.address, secret=wrong, num_cpus=0).start()
            except actorfw.ActorFwError as error:
                print(shown(error))
        async def nonsense():
            reader, writer = await asyncio.open_connection(*cluster.node.address.rsplit(":", 1))
            writer.write(b"afw:" + bytes(100))
            await reader.read()
            writer.close()
        await nonsense()
        print("ready", cluster.node.address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

asyncio.run(main())
"""


def forms(secret: str) -> list[bytes]:
    """How it might be written down."""
    raw = secret.encode()
    found = [raw, raw.hex().encode(), raw.hex().upper().encode(), secret.encode("utf-16-le")]
    found += [hashlib.sha256(raw).digest(), hashlib.sha256(raw).hexdigest().encode()]
    for skipped in range(3):  # base64 begins anew with every third byte
        found.append(base64.b64encode(raw[skipped : skipped + (len(raw) - skipped) // 3 * 3]))
    return found


def shows(data: bytes) -> bool:
    return any(form in data for form in forms(MARKER))


def test_a_secret_shows_nowhere(tmp_path: Path) -> None:
    """Not in what is printed and logged, not in a repr, a pickle or a traceback with its variables, not in the
    arguments or the environment of any process but the one whose user has put it there."""
    assert shows(base64.b64encode(b"x" + MARKER.encode()))
    assert shows(f"...{MARKER.encode().hex()}...".encode())
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    folder = new_folder()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ACTORFW_")}
    environment |= {"XDG_RUNTIME_DIR": folder, "ACTORFW_SECRET": MARKER, "PYTHONUNBUFFERED": "1"}
    outputs = [tmp_path / "out", tmp_path / "err"]
    with outputs[0].open("wb") as out, outputs[1].open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=out, stderr=err, env=environment
        )
        try:
            deadline = time.monotonic() + 40
            while b"\nready " not in outputs[0].read_bytes():
                assert process.poll() is None, outputs[1].read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            address = outputs[0].read_bytes().rpartition(b"\nready ")[2].split()[0].decode()
            others = psutil.Process(process.pid).children(recursive=True)
            assert len(others) >= 3  # a child node, and the processes that workers are forked from
            seen: list[bytes] = [" ".join(psutil.Process(process.pid).cmdline()).encode()]
            for other in others:
                seen.append(Path(f"/proc/{other.pid}/environ").read_bytes())
                seen.append(Path(f"/proc/{other.pid}/cmdline").read_bytes())
            for verb in ("status", "nodes", "actors", "objects"):
                listed = command(folder, verb, "--json", "--seed", address, ACTORFW_SECRET=MARKER)
                assert listed.returncode == 0, listed.stderr
                seen += [listed.stdout.encode(), listed.stderr.encode()]
        finally:
            process.communicate(b"\n", timeout=30)
            os.rmdir(folder) if not os.listdir(folder) else None
    assert process.returncode == 0, outputs[1].read_text()
    seen += [path.read_bytes() for path in outputs]
    for data in seen:
        assert not shows(data)
    text = outputs[0].read_bytes()
    assert b"<2 secrets>" in text or b"<1 secret>" in text, "or nothing was looked at"
    assert b"secret" in outputs[1].read_bytes()


# -- beyond the machine ------------------------------------------------------------------------------------------------


@pytest.fixture
def no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACTORFW_SECRET", "ACTORFW_SECRET_FILE"):
        monkeypatch.delenv(name, raising=False)


WITHOUT = "needs a secret"


@pytest.mark.parametrize(
    ("listen", "advertise"),
    [
        ("0.0.0.0:0", "10.0.0.5:7700"),
        ("[::]:0", "10.0.0.5:7700"),
        ("192.0.2.1:0", None),
        ("127.example.org:0", None),
        ("some-host:0", None),
    ],
)
@pytest.mark.usefixtures("no_secret")
async def test_nobody_listens_beyond_the_machine_without_a_secret(
    monkeypatch: pytest.MonkeyPatch, listen: str, advertise: str | None
) -> None:
    with pytest.raises(actorfw.UsageError, match=WITHOUT):
        actorfw.Node(listen=listen, advertise=advertise)
    with pytest.raises(actorfw.UsageError, match=WITHOUT):
        actorfw.init(listen=listen, advertise=advertise)
    with pytest.raises(actorfw.UsageError, match=WITHOUT):
        async with actorfw.LocalCluster(nodes=1, listen=listen, advertise=advertise or "10.0.0.5:7700"):
            pass
    app = web.Application()
    setup(app, listen=listen, advertise=advertise)
    server = TestServer(app)
    with pytest.raises(actorfw.UsageError, match=WITHOUT):
        await server.start_server()
    await server.close()
    monkeypatch.setenv("ACTORFW_LISTEN", listen)
    if advertise is not None:
        monkeypatch.setenv("ACTORFW_ADVERTISE", advertise)
    with pytest.raises(actorfw.UsageError, match=WITHOUT):
        actorfw.init()


def test_the_command_line_does_not_either() -> None:
    folder = new_folder()
    found = command(folder, "start", "--listen", "0.0.0.0:0", "--advertise", "10.0.0.5:7700", ACTORFW_SECRET="")
    assert found.returncode == 2
    assert WITHOUT in found.stderr
    assert "actorfw secret" in found.stderr
    os.rmdir(folder)


async def test_localhost_is_this_machine_whatever_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's hosts file may say otherwise; the user's own secret file is not for that."""

    async def resolve(loop: object, host: str) -> list[str]:
        return ["0.0.0.0"]

    monkeypatch.setattr("actorfw.io.tcp.resolve", resolve)
    node = actorfw.Node(listen="localhost:0", num_cpus=0)
    try:
        with pytest.raises(actorfw.UsageError, match="localhost"):
            await node.start()
    finally:
        await node.stop()


# -- TLS ---------------------------------------------------------------------------------------------------------------


@actorfw.remote
class Counter:
    def __init__(self) -> None:
        self.n = 0

    def add(self, n: int) -> int:
        self.n += n
        return self.n


@actorfw.remote
def size_of(data: Any) -> tuple[int, str]:
    return len(data), actorfw.context().node_id


async def test_a_cluster_under_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls, actors, an object of 128 MiB over the link, a node that is killed and one that leaves."""
    np = pytest.importorskip("numpy")
    monkeypatch.setattr(HostMates, "start", lambda self: None)  # else it would be read where it lies
    tls = Authority(tmp_path).tls("node")
    async with actorfw.LocalCluster(nodes=2, num_cpus=1, driver_cpus=0, tls=tls) as cluster:
        runtime = cluster.node.runtime
        for peer in runtime.peers.by_life.values():
            assert peer.link is not None
            assert isinstance(peer.link.transport, TlsTransport)
        here = [row for row in await actorfw.nodes() if not row.here]
        assert len(here) == 2
        counters = [Counter.options(scheduling=actorfw.NodeAffinity(row.id)).remote() for row in here]
        assert await actorfw.gather([counter.add.remote(2) for counter in counters]) == [2, 2]
        data = np.ones(128 << 20, dtype=np.uint8)
        away = actorfw.NodeAffinity(here[0].id)
        kept = actorfw.put(data)
        assert await size_of.options(scheduling=away, num_cpus=0).remote(kept) == (128 << 20, here[0].id)
        started = time.monotonic()
        gone = [row.pid for row in here].index(cluster.pid(0))
        await cluster.kill(0)
        with pytest.raises(actorfw.ActorDiedError):
            await counters[gone].add.remote(1)
        assert time.monotonic() - started < 10
        assert await counters[1 - gone].add.remote(1) == 3
        counters.clear()
        await cluster.stop(1, timeout=2)
        assert [row.state for row in await actorfw.nodes() if row.id == here[1 - gone].id] in ([], ["left"])


def test_tls_of_the_environment_and_of_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    first, second = authority.tls("a"), authority.tls("b")
    parts = ("certificate", "key", "authority")
    settings = actorfw.Config(**{f"tls_{part}": getattr(first, part) for part in parts})
    assert actorfw.Node(config=settings)._made.tls == first
    file = tmp_path / "config.toml"
    file.write_text("".join(f'tls_{part} = "{getattr(first, part)}"\n' for part in parts))
    assert actorfw.Node(config=actorfw.Config.from_file(file))._made.tls == first
    for part in parts:
        monkeypatch.setenv(f"ACTORFW_TLS_{part.upper()}", getattr(second, part))
    assert actorfw.Node(config=settings)._made.tls == second
    assert actorfw.Node(config=settings, tls=first)._made.tls == first
    monkeypatch.delenv("ACTORFW_TLS_KEY")
    with pytest.raises(actorfw.UsageError, match="the environment gives no key"):
        actorfw.Node()
    with pytest.raises(actorfw.UsageError, match=r"actorfw\.TLS"):
        actorfw.Node(tls=True)  # type: ignore[arg-type]
    with pytest.raises(actorfw.UsageError, match="path"):
        actorfw.TLS(certificate="", key="k", authority="a")
    with pytest.raises(actorfw.UsageError, match="/nowhere"):
        actorfw.Node(tls=actorfw.TLS(certificate="/nowhere/a", key="/nowhere/b", authority=str(authority.path)))
