"""SRV records: which hosts and ports a name of the form "_service._protocol.domain" stands for. Needs dnspython.

Addresses behind plain names are the system's affair (`io.tcp.resolve`); it has no call for this kind of record.
"""

from __future__ import annotations

import asyncio
import importlib
from functools import partial
from typing import Any

from actorfw.io.asking import in_thread
from actorfw.values.errors import UsageError

__all__ = ["check_services", "find_services", "is_service"]


def is_service(seed: str) -> bool:
    """Whether a seed is the name of a service: no host's name begins like that."""
    return seed.startswith("_") and ":" not in seed


def check_services(seed: str) -> None:
    """Make sure that names like this one can be looked up.

    Raises:
        UsageError: what is needed is not installed.
    """
    try:
        importlib.import_module("dns.resolver")  # few programs need it
    except ImportError as error:
        raise UsageError(
            f"the seed {seed!r} is the name of a service (SRV records), and to look that up needs dnspython:"
            " pip install 'actorfw[dns]'"
        ) from error


async def find_services(loop: asyncio.AbstractEventLoop, name: str) -> list[tuple[int, str, int]]:
    """The rows (priority, address, port) behind a name, sorted: every node gets the same list.

    Raises:
        OSError: it can't be resolved.
    """
    # In a thread, as names are: dnspython's own way of asyncio would need sockets of its own kind on uvloop.
    return await in_thread(loop, partial(_look_up, name), "actorfw-services")


def _look_up(name: str) -> list[tuple[int, str, int]]:
    import dns.exception
    import dns.resolver

    try:
        resolver = dns.resolver.Resolver()  # reads the system's configuration, as it is now
        rows: list[Any] = list(resolver.resolve(name, "SRV", search=True))
        found: set[tuple[int, str, int]] = set()
        failed: Exception | None = None
        for row in rows:
            try:
                addresses = list(resolver.resolve_name(str(row.target)).addresses())
            except dns.exception.DNSException as error:
                failed = error  # a host that is going away; the others count
            else:
                found.update((row.priority, address, row.port) for address in addresses)
    except dns.exception.DNSException as error:
        raise OSError(str(error)) from error
    if not found and failed is not None:
        raise OSError(str(failed)) from failed
    return sorted(found)
