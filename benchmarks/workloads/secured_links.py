"""What protecting a link costs: CPU time of both of its ends together, with seals and under TLS, beside neither."""

from __future__ import annotations

import asyncio
import functools
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from unittest import mock

import trustme

import actorfw
from actorfw.runtime import links
from actorfw.runtime.store.hostmates import HostMates
from benchmarks.harness import Claim, Contestant, Workload
from benchmarks.machine import Cores
from benchmarks.subjects import Echo

__all__ = ["WORKLOAD"]

_CALLS = 2_000
_CALLERS = 32
_LARGE_CALLS = 20
_LARGE = 1 << 20

_PLAIN = "a call over a plain link"
_SEALED = "a call over a sealed link"
_TLS = "a call over a link under TLS"
_LARGE_PLAIN = "1 MiB there and back over a plain link"
_LARGE_SEALED = "1 MiB there and back over a sealed link"
_LARGE_TLS = "1 MiB there and back under TLS"


def _certificates(folder: str) -> actorfw.TLS:
    authority = trustme.CA()
    made = authority.issue_cert("node")
    tls = actorfw.TLS(certificate=f"{folder}/node.pem", key=f"{folder}/node.key", authority=f"{folder}/authority.pem")
    authority.cert_pem.write_to_path(tls.authority)
    made.cert_chain_pems[0].write_to_path(tls.certificate)
    made.private_key_pem.write_to_path(tls.key)
    os.chmod(tls.key, 0o600)
    return tls


@asynccontextmanager
async def _links(cores: Cores) -> AsyncGenerator[Sequence[Contestant], None]:
    large = bytes(_LARGE)

    async def calls(node: actorfw.Node, call: Callable[[], Awaitable[object]], count: int, callers: int) -> float:
        async def caller() -> None:
            for _ in range(count // callers):
                await call()

        async with node_entered(node):
            before = time.process_time()
            await asyncio.gather(*[caller() for _ in range(callers)])
            return (time.process_time() - before) / (count // callers * callers) * 1e9

    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        contestants: list[Contestant] = []
        for names, tls, leaves in (
            ((_PLAIN, _LARGE_PLAIN), None, False),
            ((_SEALED, _LARGE_SEALED), None, True),
            ((_TLS, _LARGE_TLS), _certificates(folder), False),
        ):
            # As if the nodes were on two machines: they don't read each other's memory, and seal what leaves them.
            with (
                mock.patch.object(links, "leaves_the_machine", return_value=leaves),
                mock.patch.object(HostMates, "start"),
            ):
                far = await actorfw.Node(num_cpus=0, tls=tls).start()
                stack.push_async_callback(far.stop)
                near = await actorfw.Node(far.address, num_cpus=0, tls=tls).start()
                stack.push_async_callback(near.stop)
                async with node_entered(near):
                    actor = Echo.options(scheduling=actorfw.NodeAffinity(far.id)).remote()
                    await actor.echo(0)
            small = functools.partial(calls, near, functools.partial(actor.echo, 0), _CALLS, _CALLERS)
            heavy = functools.partial(calls, near, functools.partial(actor.echo, large), _LARGE_CALLS, 1)
            contestants += [Contestant(names[0], "ns", small), Contestant(names[1], "ns", heavy)]
        yield contestants


@asynccontextmanager
async def node_entered(node: actorfw.Node) -> AsyncGenerator[None, None]:
    """Its calls are this node's; it goes on after that."""
    from actorfw.runtime import current

    token = current.entered.set(node.runtime)
    try:
        yield
    finally:
        current.entered.reset(token)


WORKLOAD = Workload(
    name="secured-links",
    limits=(),
    subject=(_links,),
    claims=(
        Claim("CPU time of a call with seals", _SEALED, _PLAIN),
        Claim("CPU time of a call under TLS", _TLS, _PLAIN),
        Claim("CPU time of 1 MiB there and back with seals", _LARGE_SEALED, _LARGE_PLAIN),
        Claim("CPU time of 1 MiB there and back under TLS", _LARGE_TLS, _LARGE_PLAIN),
    ),
)
