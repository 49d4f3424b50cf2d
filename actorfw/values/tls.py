"""`TLS`: where the certificates of a node's links are. Reading and using them is `io.tls`'s affair."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from actorfw.values.data import Data
from actorfw.values.errors import UsageError

__all__ = ["TLS"]

_NAMES: Final = ("certificate", "key", "authority")


class TLS(Data, kw_only=True):
    """Mutual TLS 1.3 for all links of a node: files in PEM, which may be renewed while the node runs.

    Args:
        certificate: path of this node's certificate, with the intermediate ones behind it if there are any.
        key: path of its private key, without a passphrase.
        authority: path of the certificates by which those of other nodes must be signed.
    """

    certificate: str
    key: str
    authority: str

    def __post_init__(self) -> None:
        for name in _NAMES:
            value = getattr(self, name)
            if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
                raise UsageError(f"TLS.{name} is {value!r}; it must be the path of a file in PEM")
            # Paths of any kind, as text; and absolute, since children of a LocalCluster may start elsewhere.
            object.__setattr__(self, name, os.path.abspath(os.fspath(value)))

    @classmethod
    def from_parts(cls, parts: Mapping[str, str | None], where: str) -> TLS | None:
        """Of the three paths by name, which come from `where`; None if there is none of them.

        Raises:
            UsageError: some are missing.
        """
        given = {name: path for name in _NAMES if (path := parts.get(name))}
        if not given:
            return None
        missing = [name for name in _NAMES if name not in given]
        if missing:
            raise UsageError(f"TLS needs certificate, key and authority; {where} gives no {' and no '.join(missing)}")
        return cls(**given)
