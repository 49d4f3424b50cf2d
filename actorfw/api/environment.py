"""What the environment says where an argument was not given: `ACTORFW_LISTEN` and so on.

Arguments win. Who a node is (`VARIABLES`) is told to `init()` and `actorfw start` only: of nodes that are made with
`Node(...)` or in a `LocalCluster` a process may have many, and the environment can name one. Where the cluster is
(`ACTORFW_SEEDS`, `ACTORFW_CLUSTER`) is for every node that is not told otherwise, those of the command line's listings
included. Secrets are read by `io.secrets`, and `ACTORFW_CONFIG` by `Config`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from actorfw.io.tcp import split_address
from actorfw.runtime.seeds import LOCAL
from actorfw.values.errors import UsageError

__all__ = ["VARIABLES", "cluster_of", "completed", "split_list"]


def split_list(text: str) -> list[str]:
    """The parts of a list, between commas or white space."""
    return text.replace(",", " ").split()


def _address(text: str) -> str:
    split_address(text)
    return text


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError("it must be a number") from None


def _bytes(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError("it must be a number of bytes") from None


def _pairs(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in split_list(text):
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise UsageError("it must be pairs KEY=VALUE, between commas")
        found[key] = value
    return found


def _amounts(text: str) -> dict[str, float]:
    return {key: _number(value) for key, value in _pairs(text).items()}


def _hosts(text: str) -> str:
    if text not in ("all", "own"):
        raise UsageError("it must be 'all' or 'own'")
    return text


VARIABLES: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "ACTORFW_LISTEN": ("listen", _address),
    "ACTORFW_ADVERTISE": ("advertise", _address),
    "ACTORFW_NAME": ("name", str),
    "ACTORFW_LABELS": ("labels", _pairs),
    "ACTORFW_NUM_CPUS": ("num_cpus", _number),
    "ACTORFW_NUM_GPUS": ("num_gpus", _number),
    "ACTORFW_MEMORY": ("memory", _number),
    "ACTORFW_RESOURCES": ("resources", _amounts),
    "ACTORFW_OBJECT_STORE_MEMORY": ("object_store_memory", _bytes),
    "ACTORFW_NAMESPACE": ("namespace", str),
    "ACTORFW_HOSTS": ("hosts", _hosts),
}
"""Which argument of `init` each stands in for, and how it is read."""


def completed(arguments: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """The arguments, those that are None from the environment.

    Raises:
        UsageError: a variable can't be read; it is named.
    """
    found = dict(arguments)
    for variable, (argument, read) in VARIABLES.items():
        text = environ.get(variable, "").strip()
        if text and found.get(argument) is None:
            try:
                found[argument] = read(text)
            except UsageError as error:
                raise UsageError(f"{variable} is {text!r}: {error}") from None
    return found


def cluster_of(
    seeds: Sequence[str] | None, cluster: str | None, environ: Mapping[str, str] | None = None
) -> tuple[list[str], str]:
    """The seeds of a node and the name of its cluster: as given, else of the environment, else those of a new cluster.

    Raises:
        UsageError: the name and the seeds are of different clusters.
    """
    env = os.environ if environ is None else environ
    source = "seeds"
    if seeds is None:
        source = "ACTORFW_SEEDS"
        seeds = split_list(env.get(source, ""))
    local = {seed.removeprefix(LOCAL): seed for seed in seeds if seed.startswith(LOCAL)}
    if "" in local:
        raise UsageError(f'{source} has "{LOCAL}", which names no cluster: write it as "{LOCAL}NAME"')
    where = "cluster="
    if cluster is None and (source == "ACTORFW_SEEDS" or not local):
        where = "ACTORFW_CLUSTER"
        cluster = env.get(where, "").strip() or None
    if cluster is None:
        cluster = next(iter(local), None) or "default"
        where = f'the seed "{local.get(cluster)}"'
    for name, seed in local.items():
        if name != cluster:
            raise UsageError(
                f'{source} has "{seed}", and {where} says that the cluster is {cluster!r}: a node is a member of one'
            )
    return list(seeds), cluster
