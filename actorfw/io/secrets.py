"""Where a node's secret comes from, and that it is fit for its use.

An argument, `ACTORFW_SECRET` or the file that `ACTORFW_SECRET_FILE` names; each is one secret or, while rotating, the
new and the old. Otherwise a file of the user's own, made at first use, so that one user's processes on one machine
find each other and other users stay out. A secret never appears in a message, a repr or a log.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from actorfw.io.tcp import is_loopback, split_address
from actorfw.values.errors import UsageError

__all__ = ["MIN_SECRET_BYTES", "SecretArgument", "Secrets", "load_secrets", "make_secret", "secret_path"]

MIN_SECRET_BYTES: Final = 16
_MADE_BYTES: Final = 32
_MAX_SECRETS: Final = 8

SecretArgument: TypeAlias = str | bytes | Sequence[str | bytes] | None


class Secrets(tuple[bytes, ...]):
    """Secrets, the preferred one first, that don't show in a repr."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} secret{'s' if len(self) != 1 else ''}>"

    __str__ = __repr__


def load_secrets(
    argument: SecretArgument = None,
    *,
    listen: str = "127.0.0.1:0",
    environ: Mapping[str, str] | None = None,
    token: Callable[[int], bytes] = os.urandom,
) -> Secrets:
    """The secrets of a node.

    Args:
        argument: what the user gave: one, or (new, old); None asks the environment, then the user's own file.
        listen: the address that the node will listen at; beyond loopback the secret must be given.
        environ: the environment; None means the process's.
        token: makes random bytes.

    Raises:
        UsageError: a secret is too short, of the wrong type, can't be read, or is missing where it is needed.
    """
    env = os.environ if environ is None else environ
    if argument is not None:
        if not isinstance(argument, (str, bytes, Sequence)):  # pyright: ignore[reportUnnecessaryIsInstance]
            return _checked([argument], "secret=")
        return _checked([argument] if isinstance(argument, (str, bytes)) else list(argument), "secret=")
    if env.get("ACTORFW_SECRET"):
        return _checked(_split(env["ACTORFW_SECRET"]), "ACTORFW_SECRET")
    if env.get("ACTORFW_SECRET_FILE"):
        path = env["ACTORFW_SECRET_FILE"]
        try:
            with open(path, "rb") as file:
                text = file.read()
        except OSError as error:
            raise UsageError(f"the secret file {path} (ACTORFW_SECRET_FILE) can't be read: {error.strerror}") from error
        return _checked([line for line in text.splitlines() if line.strip()], f"the secret file {path}")
    if not is_loopback(split_address(listen)[0]):
        raise UsageError(
            f"listening at {listen}, beyond this machine, needs a secret: give secret=, ACTORFW_SECRET or "
            f"ACTORFW_SECRET_FILE, at least {MIN_SECRET_BYTES} random bytes, the same on every node"
        )
    return Secrets((_own(secret_path(env), token),))


def make_secret(token: Callable[[int], bytes] = os.urandom) -> str:
    """A new random secret, as text."""
    return token(_MADE_BYTES).hex()


def secret_path(environ: Mapping[str, str] | None = None) -> str:
    """The user's own secret file, whether or not it is there yet."""
    env = os.environ if environ is None else environ
    base = env.get("XDG_CONFIG_HOME")
    if not base or not os.path.isabs(base):
        base = os.path.join(env.get("HOME") or os.path.expanduser("~"), ".config")
    return os.path.join(base, "actorfw", "secret")


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _checked(parts: Sequence[object], where: str) -> Secrets:
    found: list[bytes] = []
    for part in parts:
        if isinstance(part, str):
            part = part.encode()
        if not isinstance(part, bytes):
            raise UsageError(f"{where} holds a {type(part).__name__}; a secret is text or bytes, or (new, old)")
        part = part.strip()
        if len(part) < MIN_SECRET_BYTES:
            raise UsageError(
                f"{where} holds a secret of {len(part)} bytes; it needs at least {MIN_SECRET_BYTES}, random ones"
            )
        found.append(part)
    if not 1 <= len(found) <= _MAX_SECRETS:
        raise UsageError(f"{where} holds {len(found)} secrets; give one, or (new, old) while rotating")
    return Secrets(found)


def _own(path: str, token: Callable[[int], bytes]) -> bytes:
    secret = _read_own(path)
    if secret is not None:
        return secret
    fresh = make_secret(token).encode()
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        _write_own(path, fresh, token)
    except OSError:
        return fresh  # no home to write to: good for this process and its children
    return _read_own(path) or fresh


def _write_own(path: str, secret: bytes, token: Callable[[int], bytes]) -> None:
    # Complete under another name first, then linked: of two first users one links, and the other reads what it did.
    draft = os.path.join(os.path.dirname(path), f".secret-{token(8).hex()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(secret + b"\n")
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
    finally:
        os.unlink(draft)


def _read_own(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        if not os.path.lexists(path):
            return None  # the folder is closed to us: as if we had no home
        raise _unfit(path, "it can't be read by you") from error
    except OSError as error:
        raise _unfit(path, error.strerror or "it can't be opened") from error
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _unfit(path, "it is not a plain file")
        if hasattr(os, "getuid") and status.st_uid != os.getuid():
            raise _unfit(path, "it belongs to another user")
        if os.name == "posix" and status.st_mode & 0o077:
            raise _unfit(path, "others may read or write it (its mode must be 0600)")
        secret = file.read(4096).strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise _unfit(path, f"it holds less than {MIN_SECRET_BYTES} bytes")
    return secret


def _unfit(path: str, why: str) -> UsageError:
    return UsageError(f"your secret file {path} can't be used: {why}. Remove it and a new one is made, or give secret=")
