"""The options of a node: their types, their checks, and what stands in for those that are not given."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, TypedDict, cast

from actorfw.api.environment import cluster_of
from actorfw.core.ledger import Shape
from actorfw.io.env import certificates, usual_store_memory
from actorfw.io.memory import MemoryMeter
from actorfw.io.rendezvous import rendezvous_folder
from actorfw.io.secrets import load_secrets
from actorfw.io.services import check_services, is_service
from actorfw.io.sharedmem import available
from actorfw.io.tcp import is_wildcard, split_address
from actorfw.runtime.nodeoptions import NodeOptions
from actorfw.runtime.seeds import LOCAL
from actorfw.values.config import Config
from actorfw.values.errors import UsageError
from actorfw.values.names import check_labels, check_name
from actorfw.values.tls import TLS

__all__ = [
    "DEFAULTS",
    "ClusterOptions",
    "MemberOptions",
    "NodeOptionsDict",
    "Secret",
    "check_options",
    "complete",
    "with_defaults",
]

LEAST_STORE: Final = 1 << 20
_MOST_STORE: Final = 1 << 46  # the address space of a process has no room for more

Secret: TypeAlias = str | bytes | Sequence[str | bytes]


class MemberOptions(TypedDict, total=False):
    """The options of `init` by which one child of a `LocalCluster` may differ from another."""

    name: str | None
    labels: Mapping[str, str] | None
    num_gpus: float
    memory: float | None
    resources: Mapping[str, float] | None
    object_store_memory: int | None
    hosts: Literal["all", "own"]


class ClusterOptions(MemberOptions, total=False):
    """The options of `init` that `LocalCluster` takes for this process's own node."""

    listen: str
    advertise: str | None
    secret: Secret | None
    tls: TLS | None
    dashboard: str | None
    namespace: str
    cluster: str | None
    log_to_driver: bool | None
    config: Config | None


class NodeOptionsDict(ClusterOptions, total=False):
    """The options of `init` that `Node` takes: all but `thread`."""

    num_cpus: float | None


def check_options(what: str, options: Mapping[str, object], known: frozenset[str]) -> None:
    """Refuse options that are not known."""
    for option in options:
        if option not in known:
            raise UsageError(f"{what} has no option {option!r}; its options are {', '.join(sorted(known))}")


def _default_name() -> str:
    return f"{socket.gethostname().split('.')[0]}-{os.getpid()}-{os.urandom(2).hex()}"


def complete(
    seeds: str | Sequence[str] | None,
    *,
    listen: str,
    advertise: str | None,
    name: str | None,
    labels: Mapping[str, str] | None,
    num_cpus: float | None,
    num_gpus: float,
    memory: float | None,
    resources: Mapping[str, float] | None,
    object_store_memory: int | None,
    secret: Secret | None,
    tls: TLS | None,
    dashboard: str | None,
    namespace: str,
    cluster: str | None,
    hosts: Literal["all", "own"],
    log_to_driver: bool | None,
    config: Config | None,
    environ: Mapping[str, str] | None = None,
) -> NodeOptions:
    """Check the arguments of `init`, and complete them; `environ` says where the cluster is, None means the process's.

    Raises:
        UsageError: one is wrong; it is named.
    """
    for option, value, when in (("dashboard", dashboard, "the dashboard"),):
        if value is not None:
            raise UsageError(f"init({option}=...) is not there yet: it comes with {when}")
    if hosts not in ("all", "own"):
        raise UsageError(f"hosts is {hosts!r}; it must be 'all' or 'own'")
    for option, text in cast("tuple[tuple[str, object], ...]", (("namespace", namespace), ("cluster", cluster))):
        if text is not None or option == "namespace":
            check_name(option, text)
    if name is not None:
        check_name("name", name)
    given = cast("object", {} if labels is None else labels)
    if not isinstance(given, Mapping) or not all(
        isinstance(part, str) for row in cast("Mapping[object, object]", given).items() for part in row
    ):
        raise UsageError(f"labels is {labels!r}; it must be a dict of strings")
    check_labels(cast("Mapping[str, str]", given))
    if config is not None and not isinstance(cast("object", config), Config):
        raise UsageError(f"config is a {type(config).__name__}; it must be an actorfw.Config")
    if isinstance(seeds, str):
        seeds = [seeds]
    elif seeds is not None and (not isinstance(cast("object", seeds), Sequence) or isinstance(seeds, bytes)):
        raise UsageError(f'seeds is {seeds!r}; it must be a list of strings "host:port"')
    for seed in seeds or ():
        if not isinstance(cast("object", seed), str):
            raise UsageError(f'a seed is {seed!r}; it must be a string "host:port"')
    seeds, cluster = cluster_of(seeds, cluster, environ)
    folder = rendezvous_folder() if any(seed.startswith(LOCAL) for seed in seeds) else None
    for seed in seeds:
        if is_service(seed):
            check_services(seed)
        elif not seed.startswith(LOCAL):
            split_address(seed)
    for option, address in (("listen", listen), ("advertise", advertise)):
        if not isinstance(address, str) and (address is not None or option == "listen"):
            raise UsageError(f'{option} is {address!r}; it must be a string "host:port"')
    host, port = split_address(listen)
    if advertise is None and is_wildcard(host):
        raise UsageError(
            f'listen="{listen}" accepts at every address of this machine, and peers need one to dial:'
            f' give advertise="host:{port}"'
        )
    if advertise is not None:
        split_address(advertise)
    _check_store_memory(object_store_memory)
    settings = config or Config.from_environment()
    totals = Shape.of(
        num_cpus=float(os.cpu_count() or 1) if num_cpus is None else num_cpus,
        num_gpus=num_gpus,
        memory=_memory(object_store_memory) if memory is None else memory,
        resources=resources,
    )
    return NodeOptions(
        name=name or _default_name(),
        seeds=seeds,
        listen=(host, port),
        advertise=advertise,
        labels=labels,
        totals=totals,
        namespace=namespace,
        cluster=cluster,
        hosts=hosts,
        secrets=load_secrets(secret, listen=listen, folder=folder),
        tls=_tls(cast("object", tls), settings),
        show_output=bool(log_to_driver),
        store_memory=object_store_memory,
        config=settings,
    )


def _tls(given: object, config: Config) -> TLS | None:
    """As given, of the environment or of the configuration file; None: links are not TLS."""
    if given is not None and not isinstance(given, TLS):
        raise UsageError(f"tls is a {type(given).__name__}; it must be an actorfw.TLS")
    parts = ("certificate", "key", "authority")
    tls = (
        given
        or TLS.from_parts({part: os.environ.get(f"ACTORFW_TLS_{part.upper()}") for part in parts}, "the environment")
        or TLS.from_parts({part: getattr(config, f"tls_{part}") for part in parts}, "the configuration")
    )
    certificates(tls)  # what is wrong with them is said now
    return tls


def _check_store_memory(given: object) -> None:
    if given is None:
        return
    if isinstance(given, bool) or not isinstance(given, int) or not LEAST_STORE <= given <= _MOST_STORE:
        raise UsageError(
            f"object_store_memory is {given!r}; it must be a number of bytes from {LEAST_STORE} (1 MiB) on, or None for"
            f" 30 % of the memory that there is"
        )


def _memory(store: int | None) -> float:
    """What tasks and actors may share out: what there is, less what their values have."""
    there = MemoryMeter().limit()
    if available():
        there -= usual_store_memory() if store is None else store
    return float(max(0, there))


DEFAULTS: Final[dict[str, Any]] = {
    "listen": "127.0.0.1:0",
    "advertise": None,
    "name": None,
    "labels": None,
    "num_cpus": None,
    "num_gpus": 0,
    "memory": None,
    "resources": None,
    "object_store_memory": None,
    "secret": None,
    "tls": None,
    "dashboard": None,
    "namespace": "default",
    "cluster": None,
    "hosts": "all",
    "log_to_driver": False,
    "config": None,
}


def with_defaults(options: Mapping[str, object]) -> dict[str, Any]:
    """The arguments of `complete`: what was given, and the defaults."""
    return {**DEFAULTS, **{option: value for option, value in options.items() if value is not None}}
