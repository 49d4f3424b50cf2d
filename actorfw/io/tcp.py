"""TCP as links want it: small writes leave at once, and a machine that vanished is noticed by the kernel in seconds.

Also reading and writing "host:port". Who speaks what over a connection is not known here.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Callable
from typing import Final, cast

from actorfw.core.door import Door
from actorfw.io.asking import in_thread
from actorfw.io.doorstep import Doorstep
from actorfw.values.errors import UsageError

__all__ = [
    "TcpListener",
    "dial",
    "is_literal",
    "is_loopback",
    "is_refusal",
    "is_wildcard",
    "join_address",
    "kernel_answers",
    "leaves_the_machine",
    "listen",
    "resolve",
    "route",
    "split_address",
    "tune",
]

# Idle links stay open: after 10 s without a byte the kernel asks, and gives up after three silent answers.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3}
_BACKLOG: Final = 1024

_WORDS: Final = struct.Struct("=13I")
_TCP_INFO_BYTES: Final = 8 + _WORDS.size
_PROBES: Final = 2  # one may be on its way


def split_address(address: str) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port".

    Raises:
        UsageError: it is not of that form.
    """
    # A peer may have said it, and so it may be anything.
    host, colon, port = address.rpartition(":") if isinstance(cast("object", address), str) else ("", "", "")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f'{address!r} is not an address: write it as "host:port", such as "10.0.0.5:7700"')
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """The inverse of `split_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether what is sent to or bound at this host stays on this machine. Names other than localhost don't count."""
    if host == "localhost":
        return True
    if not is_literal(host):
        return False  # 127.example.org is a name like any other
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def is_literal(host: str) -> bool:
    """Whether this is an address and no name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_wildcard(host: str) -> bool:
    """Whether listening at it means every address of the machine: nothing that others could dial."""
    return is_literal(host) and ipaddress.ip_address(host.partition("%")[0]).is_unspecified


async def resolve(loop: asyncio.AbstractEventLoop, host: str) -> list[str]:
    """The addresses behind a name.

    Raises:
        OSError: it can't be resolved.
    """

    def look_up() -> list[str]:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise OSError(str(error)) from error
        return list(dict.fromkeys(str(row[4][0]) for row in found))

    return await in_thread(loop, look_up, "actorfw-resolve")


def leaves_the_machine(transport: asyncio.BaseTransport) -> bool:
    """Whether what is written to a connection can be read or changed by others on its way, for all that is known."""
    within = transport.get_extra_info("within_machine")  # transports that are not sockets
    if within is not None:
        return not within
    names = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
    return not all(isinstance(name, tuple) and is_loopback(str(name[0])) for name in names)


def route(transport: asyncio.BaseTransport, *, dialled: bool) -> bytes:
    """What both ends of a connection know and the ends of two others don't: where it begins and where it ends.

    Only where no address is translated on the way, which is to say, on loopback.
    """
    names = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
    if not all(isinstance(name, tuple) for name in names):
        return b""
    ends = [join_address(str(name[0]).removeprefix("::ffff:"), name[1]) for name in names]
    return " ".join(ends if dialled else reversed(ends)).encode()


def is_refusal(error: OSError) -> bool:
    """Whether a dial failed because nobody listens there."""
    if error.errno == errno.ECONNREFUSED or isinstance(error, ConnectionRefusedError):
        return True
    # A name with several addresses: asyncio joins the texts of their errors into one.
    causes = str(error).partition("Multiple exceptions: ")[2].split(", [")
    return causes != [""] and all(f"Errno {errno.ECONNREFUSED}]" in cause for cause in causes)


def tune(transport: asyncio.BaseTransport) -> None:
    """Set the options of a fresh TCP connection."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    except OSError:
        pass  # closed already: its protocol will hear of it


def kernel_answers(transport: asyncio.BaseTransport, age: float) -> bool | None:
    """Whether the machine at the other end has acknowledged what was written to a connection `age` seconds ago.

    That a process is stopped or its loop held up does not keep its kernel from acknowledging. None where the kernel
    can't be asked, which is everywhere but on Linux.
    """
    simulated = transport.get_extra_info("acknowledges")  # transports that are not sockets
    if simulated is not None:
        return bool(simulated)
    sock = transport.get_extra_info("socket")
    if sock is None or not hasattr(socket, "TCP_INFO") or sys.platform != "linux":
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return None  # not TCP, or closed meanwhile
    if len(info) < _TCP_INFO_BYTES:
        return None
    # struct tcp_info of linux/tcp.h: eight bytes, of which the fourth counts probes of a closed window without answer,
    # then words.
    probes: int = info[3]
    words = _WORDS.unpack_from(info, 8)
    unacked: int = words[4]
    since_ack: float = words[12] / 1000
    if unacked:
        return since_ack < age
    return probes < _PROBES


async def dial(
    loop: asyncio.AbstractEventLoop, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
    """Connect to `host`:`port`.

    Raises:
        OSError: it could not.
    """
    last: OSError | None = None
    for one in [host] if is_literal(host) else await resolve(loop, host):
        try:
            return await loop.create_connection(protocol_factory, one, port)
        except OSError as error:
            last = error
    raise last or OSError(f"the name {host!r} has no address")


class TcpListener:
    """A listening socket. `address` is what is bound, as "host:port"."""

    def __init__(self, sock: socket.socket, doorstep: Doorstep) -> None:
        self._doorstep = doorstep
        name = sock.getsockname()
        self.address = join_address(name[0], name[1])

    def close(self) -> None:
        """Listen no more. Connections whose handshake has begun stay."""
        self._doorstep.close()

    def descriptors(self) -> list[int]:
        """Of its sockets."""
        return self._doorstep.descriptors()


async def listen(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: str,
    port: int,
    door: Door,
    *,
    tls: bool = False,
    refused: Callable[[str, Exception], object] = lambda where, error: None,
) -> TcpListener:
    """Accept connections at `host`:`port`; port 0 takes any free one.

    Args:
        loop: where.
        protocol_factory: makes the protocol of a connection whose first packet is there.
        host: an address of this machine, or a name of one.
        port: of it.
        door: who may wait until then.
        tls: whether the protocols of the factory speak TLS.
        refused: told (where from, why) of connections that are closed for what they said.

    Raises:
        OSError: the address is taken or not ours.
    """
    if not is_literal(host):
        found = await resolve(loop, host)
        if is_loopback(host):  # whoever wrote localhost has not asked for more, whatever this machine calls so
            found = [one for one in found if is_loopback(one)]
        if not found:
            raise OSError(errno.EADDRNOTAVAIL, f"the name {host!r} has no address for that")
        host = next((one for one in found if ":" not in one), found[0])  # one address, hence one port
    # Bound here: uvloop would look the address up in a thread pool that makes a forked child crash when it ends.
    sock = socket.create_server(
        (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG
    )
    return TcpListener(sock, Doorstep(loop, sock, protocol_factory, door, tls, refused))
