"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from cyclopts import Parameter

from actorfw.io.secrets import load_secrets
from actorfw.values.errors import UsageError
from actorfw.values.tls import TLS

__all__ = ["Json", "Keys", "Where", "numbers", "pairs", "parse_size"]

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])?(i)?b?)", re.IGNORECASE)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Keys:
    """What proves that we belong to a cluster."""

    secret_file: Annotated[
        str | None,
        Parameter(help="File with the cluster's secret. [default: ACTORFW_SECRET, ACTORFW_SECRET_FILE, your own]"),
    ] = None
    tls_certificate: Annotated[
        str | None, Parameter(help="Own certificate, PEM; with --tls-key and --tls-authority. [default: ACTORFW_TLS_*]")
    ] = None
    tls_key: Annotated[str | None, Parameter(help="Its private key, PEM.")] = None
    tls_authority: Annotated[str | None, Parameter(help="Certificate of who must have signed the others', PEM.")] = None

    def given(self) -> dict[str, Any]:
        """These as arguments of `init`."""
        found: dict[str, Any] = {}
        if self.secret_file is not None:
            found["secret"] = list(load_secrets(environ={"ACTORFW_SECRET_FILE": self.secret_file}))
        parts = {"certificate": self.tls_certificate, "key": self.tls_key, "authority": self.tls_authority}
        tls = TLS.from_parts(parts, "the command line")
        if tls is not None:
            found["tls"] = tls
        return found


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Where(Keys):
    """Which cluster a command is about."""

    seeds: Annotated[
        list[str] | None,
        Parameter(
            name="--seed",
            negative=(),
            help="A live node, HOST:PORT, or a name of several; may be repeated. "
            "[default: ACTORFW_SEEDS, else your nodes on this machine]",
        ),
    ] = None
    cluster: Annotated[
        str | None,
        Parameter(help="Name of the cluster. [default: of a local: seed, else ACTORFW_CLUSTER, else default]"),
    ] = None


def pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """What KEY=VALUE, repeated, says."""
    found: dict[str, str] = {}
    for one in given or ():
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} is {one!r}; it must be KEY=VALUE")
        found[key] = value
    return found


def numbers(option: str, given: Mapping[str, str]) -> dict[str, float]:
    """The same with numbers for values."""
    found: dict[str, float] = {}
    for key, value in given.items():
        try:
            found[key] = float(value)
        except ValueError:
            raise UsageError(f"{option} is '{key}={value}'; the value must be a number") from None
    return found


def parse_size(option: str, text: str | None) -> int | None:
    """Bytes, from "512MiB", "2GB", "1.5g" or a plain number. k, M, G and T are powers of 1000, with an i of 1024."""
    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{option} is {text!r}; write bytes as 512MiB, 2GB or 1073741824")
    amount, unit, binary = found.groups()
    power = _POWERS[(unit or "").lower()]
    return round(float(amount) * math.pow(1024 if binary else 1000, power))
