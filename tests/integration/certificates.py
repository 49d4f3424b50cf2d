"""Certificates for tests: of one authority or several, valid or not."""

from __future__ import annotations

import copy
import datetime
import os
import shutil
from pathlib import Path

import trustme

from actorfw import TLS

__all__ = ["Authority"]


class Authority:
    """Signs certificates, and keeps its files in a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self.path = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.path))

    def moved(self, folder: Path) -> Authority:
        """The same authority with files in another folder."""
        other = copy.copy(self)
        other._folder = folder
        other.path = folder / self.path.name
        self._ca.cert_pem.write_to_path(str(other.path))
        return other

    def tls(self, name: str, *, days: float = 1) -> TLS:
        """The TLS of a node that has such a certificate; negative: it has expired."""
        now = datetime.datetime.now(datetime.UTC)
        made = self._ca.issue_cert(
            name, not_before=now - datetime.timedelta(days=7), not_after=now + datetime.timedelta(days=days)
        )
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        # Renewed as programs do that renew: the new file takes the place of the old one.
        for path, blobs in ((certificate, made.cert_chain_pems), (key, [made.private_key_pem])):
            fresh = path.with_suffix(".new")
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(b"".join(blob.bytes() for blob in blobs))
            shutil.move(fresh, path)
        return TLS(certificate=str(certificate), key=str(key), authority=str(self.path))
